//! Which way a request goes: directly, or through which proxy.
//!
//! In: the setting, or the environment as Go reads it, since K3s does. Out: for each address the proxy to use, if any.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// The rule that says which proxy serves an address.
#[derive(Debug)]
pub struct Route {
    proxies: Matcher,
    never_local: bool,
}

impl Route {
    /// Everything goes directly.
    pub fn direct() -> Self {
        Self { proxies: Matcher::builder().build(), never_local: false }
    }

    /// Everything goes through the proxy of this URL (`http`, `https`, `socks5`, `socks5h`), which may hold a user and a password.
    pub fn through(url: &str) -> Self {
        Self { proxies: Matcher::builder().all(url).build(), never_local: false }
    }

    /// As `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say, in upper or in lower case; never for this machine itself, nor for
    /// link-local addresses, where clouds hand out credentials.
    pub fn environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |upper: &str, lower: &str| {
            [upper, lower].into_iter().find_map(|name| variable(name).filter(|value| !value.is_empty())).unwrap_or_default()
        };
        let proxies = Matcher::builder()
            .http(either("HTTP_PROXY", "http_proxy"))
            .https(either("HTTPS_PROXY", "https_proxy"))
            .no(either("NO_PROXY", "no_proxy"))
            .build();
        Self { proxies, never_local: true }
    }

    /// The proxy for this address.
    pub fn via(&self, address: &Uri) -> Option<Intercept> {
        let local = self.never_local && address.host().is_some_and(is_local);
        self.proxies.intercept(address).filter(|_| !local)
    }
}

fn is_local(host: &str) -> bool {
    match host.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_link_local(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.is_unicast_link_local(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Route {
        Route::environment(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string()))
    }

    fn via(route: &Route, address: &str) -> Option<String> {
        route.via(&address.parse().unwrap()).map(|proxy| proxy.uri().to_string())
    }

    #[test]
    fn the_environment_is_read_as_go_reads_it() {
        let route = environment(&[
            ("HTTPS_PROXY", "http://secure:1"),
            ("http_proxy", "plain:2"),
            ("NO_PROXY", "corp.example,10.0.0.0/8"),
            ("ALL_PROXY", "http://all:3"),
        ]);
        assert_eq!(via(&route, "https://s3.example").as_deref(), Some("http://secure:1/"));
        assert_eq!(via(&route, "http://s3.example").as_deref(), Some("http://plain:2/"));
        for direct in ["https://s3.corp.example", "https://10.1.2.3:9000", "https://localhost:1", "http://127.0.0.1", "http://[::1]:80"] {
            assert_eq!(via(&route, direct), None, "{direct}");
        }
        assert_eq!(via(&route, "http://169.254.169.254/latest"), None);
        assert_eq!(via(&environment(&[("ALL_PROXY", "http://all:3")]), "https://s3.example"), None);
    }

    #[test]
    fn a_proxy_of_the_settings_serves_every_address_and_its_password_is_not_shown() {
        let route = Route::through("http://me:hunter2@proxy:3128");
        assert_eq!(via(&route, "http://127.0.0.1:1").as_deref(), Some("http://proxy:3128/"));
        assert!(!format!("{route:?}").contains("hunter2"));
        assert_eq!(via(&Route::direct(), "https://s3.example"), None);
    }
}
