//! A proxy in front of a real server that counts requests and, where a test says so, spoils them.
//!
//! In: connections of the operator (HTTP/1.1 with or without TLS, or bytes of any protocol). Out: the same bytes to the
//! server, and back. Without a rule nothing is changed, not even the `Host` that an S3 request signs. It runs on a thread of
//! its own, so it goes on when a test blocks, and ends when it is dropped.

mod age;
mod rules;
mod serve;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::sync::{oneshot, watch};

pub use rules::{Fault, On, Reply, Seen};

use rules::{Rule, Rules};

/// What stands behind a proxy, and how either side speaks.
pub struct Setup {
    /// The real server.
    pub upstream: SocketAddr,
    /// Speak TLS to clients.
    pub serve_tls: Option<Arc<rustls::ServerConfig>>,
    /// Speak TLS to the server, as `localhost`.
    pub dial_tls: Option<Arc<rustls::ClientConfig>>,
    /// Pass bytes without looking for requests in them: rules then never match, only the whole line can be spoiled.
    pub raw: bool,
}

/// A running proxy.
pub struct FaultProxy {
    port: u16,
    rules: Arc<Mutex<Rules>>,
    line: watch::Sender<Line>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    state: State,
    /// Connections of an earlier one are closed.
    epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Up,
    Cut,
    BlackHole,
}

impl FaultProxy {
    /// A proxy for plain HTTP.
    pub fn http(upstream: SocketAddr) -> Result<Self> {
        Self::start(Setup { upstream, serve_tls: None, dial_tls: None, raw: false })
    }

    /// A proxy for any protocol over TCP.
    pub fn tcp(upstream: SocketAddr) -> Result<Self> {
        Self::start(Setup { upstream, serve_tls: None, dial_tls: None, raw: true })
    }

    pub fn start(setup: Setup) -> Result<Self> {
        let listener = std::net::TcpListener::bind(crate::ports::loopback(crate::ports::free())).context("bind a proxy")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let rules = Arc::new(Mutex::new(Rules::default()));
        let (line, line_seen) = watch::channel(Line { state: State::Up, epoch: 0 });
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let seen = Arc::clone(&rules);
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve::accept(listener, Arc::new(setup), seen, line_seen) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { port, rules, line, _stop: stop })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on, does this to requests like that. The oldest rule that matches and is not used up decides.
    pub fn when(&self, on: On, fault: Fault) -> Handle {
        let (held, end_of_hold) = watch::channel(true);
        let mut rules = self.rules();
        let id = rules.add(Rule::new(on, fault, end_of_hold));
        Handle { id, rules: Arc::clone(&self.rules), held }
    }

    /// Forgets all rules. A request that is held stays so until its handle is released or dropped.
    pub fn clear(&self) {
        self.rules().clear();
    }

    /// Every request so far, oldest first, those that a rule spoiled included.
    pub fn requests(&self) -> Vec<Seen> {
        self.rules().seen.clone()
    }

    /// How many requests so far were like this.
    pub fn count(&self, on: &On) -> usize {
        self.rules().seen.iter().filter(|seen| on.is_like(seen)).count()
    }

    /// Starts counting anew.
    pub fn forget(&self) {
        self.rules().seen.clear();
    }

    /// Closes every connection now; new ones are served.
    pub fn drop_connections(&self) {
        self.line.send_modify(|line| line.epoch += 1);
    }

    /// Closes every connection now and each new one at once, until [`Self::restore`].
    pub fn cut(&self) {
        self.line.send_modify(|line| *line = Line { state: State::Cut, epoch: line.epoch + 1 });
    }

    /// Takes connections and never answers, until [`Self::restore`]; those that are open fall silent and then go on.
    pub fn black_hole(&self) {
        self.line.send_modify(|line| line.state = State::BlackHole);
    }

    pub fn restore(&self) {
        self.line.send_modify(|line| line.state = State::Up);
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A rule that was given to a proxy. Dropping the handle leaves the rule, but ends a [`Fault::Hold`].
pub struct Handle {
    id: u64,
    rules: Arc<Mutex<Rules>>,
    held: watch::Sender<bool>,
}

impl Handle {
    /// How many requests the rule has spoiled.
    pub fn hits(&self) -> usize {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).hits(self.id)
    }

    /// Lets requests that [`Fault::Hold`] holds go on, and holds no more.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// Takes the rule away.
    pub fn remove(self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).remove(self.id);
    }
}
