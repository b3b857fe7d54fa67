//! The names that make up an S3 storage: server, bucket, folder; and the proxy before it.

use std::fmt;
use std::net::Ipv6Addr;

use super::values::Problem;

/// An S3 server as it was written: `host` or `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    host_length: usize,
    port: Option<u16>,
}

impl Endpoint {
    /// The host; an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        &self.text[..self.host_length]
    }

    /// The port, if one was written.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// `host` or `host:port`, as it was written. K3s shows it in `spec.s3.endpoint` like this.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How to reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// As `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
    Environment,
    /// Directly, whatever the environment says.
    None,
    /// Through this one.
    Url(ProxyUrl),
}

/// The URL of a proxy: `http`, `https`, `socks5` or `socks5h`, a host, perhaps a port, perhaps user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    /// The whole URL. It may hold a password: not for logs, records or errors.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Without user and password.
impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&super::error::shown(&self.0))
    }
}

pub(super) fn endpoint(text: &str) -> Result<Endpoint, Problem> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.rsplit('@').next().unwrap_or(rest);
        let host = rest.split('/').next().filter(|host| !host.is_empty()).unwrap_or("the host alone");
        let plain = if scheme.eq_ignore_ascii_case("http") { ", and etcd-s3-insecure: true for plain HTTP" } else { "" };
        return Err(format!("has a scheme; write {host}{plain}").into());
    }
    if text.contains('/') {
        return Err("has a path; write host or host:port, and the folder in etcd-s3-folder".into());
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("is an IPv6 address without brackets; write [{text}]").into());
    }
    let host_length = text.strip_prefix('[').map_or_else(|| text.find(':'), |_| text.find(']').map(|end| end + 1)).unwrap_or(text.len());
    let (host, rest) = text.split_at(host_length);
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    if !is_host || !(rest.is_empty() || rest.starts_with(':')) {
        return Err("is not a server; write it like minio.example.com or minio.example.com:9000".into());
    }
    let port = match rest.strip_prefix(':').map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("has a port that is none; write it like minio.example.com:9000".into()),
    };
    Ok(Endpoint { text: text.into(), host_length, port })
}

pub(super) fn bucket(text: &str) -> Result<String, Problem> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    let outer = |c: char| c.is_ascii_alphanumeric();
    let fits = (3..=63).contains(&text.len()) && text.bytes().all(inner) && text.starts_with(outer) && text.ends_with(outer);
    if fits && !text.contains("..") {
        Ok(text.into())
    } else {
        Err("is not the name of a bucket; those have 3 to 63 letters, digits, dots and dashes; the folder goes into etcd-s3-folder".into())
    }
}

/// Without outer slashes and without parts that mean nothing, since keys are made as a path is joined.
pub(super) fn folder(text: &str) -> Result<String, Problem> {
    if text.chars().any(char::is_control) || text.split('/').any(|part| part == "..") {
        return Err("has .. or a control character in it; write the folder without".into());
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    Ok(parts.join("/"))
}

pub(super) fn region(text: &str) -> Result<String, Problem> {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        Ok(text.into())
    } else {
        Err("is not the name of a region; write it like us-east-1".into())
    }
}

pub(super) fn proxy(text: &str) -> Result<Proxy, Problem> {
    if text == "none" {
        return Ok(Proxy::None);
    }
    let schemes = ["http", "https", "socks5", "socks5h"];
    let url: Option<http::Uri> = text.parse().ok();
    match url {
        Some(url)
            if url.host().is_some_and(|host| !host.is_empty()) && url.scheme_str().is_some_and(|scheme| schemes.contains(&scheme)) =>
        {
            Ok(Proxy::Url(ProxyUrl(text.into())))
        }
        _ => Err("is not the URL of a proxy; write it like http://proxy.example.com:3128, or none".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_perhaps_port() {
        for (text, host, port) in [
            ("s3.amazonaws.com", "s3.amazonaws.com", None),
            ("MinIO.example:9000", "MinIO.example", Some(9000)),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
            ("seaweed_fs", "seaweed_fs", None),
            ("[::1]", "[::1]", None),
            ("[fd00::2]:443", "[fd00::2]", Some(443)),
        ] {
            let endpoint = endpoint(text).unwrap();
            assert_eq!((endpoint.host(), endpoint.port(), endpoint.as_str()), (host, port, text));
        }
    }

    #[test]
    fn other_endpoints_are_refused_with_what_to_write() {
        let not_a_server = "is not a server; write it like minio.example.com or minio.example.com:9000";
        let no_port = "has a port that is none; write it like minio.example.com:9000";
        for (text, problem) in [
            ("https://minio:9000", "has a scheme; write minio:9000"),
            ("https://minio:9000/bucket", "has a scheme; write minio:9000"),
            ("HTTP://minio", "has a scheme; write minio, and etcd-s3-insecure: true for plain HTTP"),
            ("https://me:hunter2@minio", "has a scheme; write minio"),
            ("s3://", "has a scheme; write the host alone"),
            ("minio/bucket", "has a path; write host or host:port, and the folder in etcd-s3-folder"),
            ("::1", "is an IPv6 address without brackets; write [::1]"),
            ("[::1", not_a_server),
            ("[minio]", not_a_server),
            ("[::1]9000", not_a_server),
            ("[::1]x:9000", not_a_server),
            ("me@minio", not_a_server),
            ("mini o", not_a_server),
            (":9000", not_a_server),
            ("a:b:1", no_port),
            ("minio:", no_port),
            ("minio:0", no_port),
            ("minio:65536", no_port),
            ("minio:http", no_port),
        ] {
            assert_eq!(endpoint(text), Err(problem.into()), "{text}");
        }
    }

    #[test]
    fn folders_have_one_spelling() {
        for (text, one) in [("/a/b/", "a/b"), ("a//./b", "a/b"), ("/", ""), ("..a/b..", "..a/b.."), ("a b", "a b")] {
            assert_eq!(folder(text).as_deref(), Ok(one), "{text}");
        }
        for text in ["..", "a/../b", "a/..", "a\nb"] {
            assert!(folder(text).is_err(), "{text}");
        }
    }

    #[test]
    fn proxies_have_scheme_and_host_and_hide_their_password() {
        assert_eq!(proxy("none"), Ok(Proxy::None));
        for text in ["http://proxy:3128", "https://proxy", "socks5://[::1]:1080", "http://me:hunter2@proxy:3128/"] {
            let Ok(Proxy::Url(url)) = proxy(text) else { panic!("{text}") };
            assert_eq!(url.expose(), text);
            assert!(!format!("{url:?}").contains("hunter2"));
        }
        for text in ["proxy:3128", "proxy", "http://", "http://:3128", "ftp://proxy", "//proxy", "None", "http://pro xy"] {
            assert!(proxy(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bucket_names_are_those_of_s3() {
        for text in ["etcd", "a.b-c", "Old_Bucket", "123"] {
            assert!(bucket(text).is_ok(), "{text}");
        }
        for text in ["ab", "a/b", "bucket/", "-ab", "ab-", "a..b", "a b c", "bücket", &"b".repeat(64)] {
            assert!(bucket(text).is_err(), "{text}");
        }
    }
}
