//! Loopback ports for servers that must be told theirs.
//!
//! They are taken from below the range that the kernel gives to outgoing connections. A port from `bind(0)` would come from
//! that range, and while its server is stopped any client on the machine might be given it: the server could not come back.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

const LOWEST: u16 = 10_000;

/// A port that nobody listens on now and that this process has not given out before. Another process may still take it in
/// between: whoever starts a server on it looks for "address already in use" and tries another ([`crate::process::is_port_taken`]).
pub fn free() -> u16 {
    let end = first_ephemeral().max(LOWEST + 1_000);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let random = RandomState::new().hash_one(given.len());
        let span = u64::from(end - LOWEST);
        let port = LOWEST + u16::try_from(random % span).expect("a remainder of a u16 span");
        if !given.contains(&port) && TcpListener::bind(loopback(port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}

/// `127.0.0.1:port`.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn first_ephemeral() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: HashSet<u16> = (0..200).map(|_| free()).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| *port < first_ephemeral()));
    }
}
