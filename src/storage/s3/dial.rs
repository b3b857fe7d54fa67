//! One connection to the server: through a proxy or not, with TLS or not.
//!
//! In: an address. Out: a stream ready for HTTP/1.1, or a [`DialError`] that says which part of the way failed.

use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use rustls::ClientConfig;
use tower_service::Service;

use super::proxy::Route;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Which part of the way to the server failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing was ready in time.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The proxy cannot be reached, or does not let us through.
    #[error("proxy {proxy} did not let the connection through")]
    Proxy {
        /// `host:port`, without user and password.
        proxy: String,
        /// What it said.
        source: BoxError,
    },
    /// The server cannot be reached.
    #[error("no connection")]
    Server(#[source] BoxError),
    /// It can, and TLS with it failed.
    #[error("TLS failed")]
    Tls(#[source] BoxError),
}

/// Makes connections.
#[derive(Clone)]
pub struct Dial {
    tcp: HttpConnector,
    tls: Arc<ClientConfig>,
    route: Arc<Route>,
    timeout: Duration,
}

impl Dial {
    /// `timeout` bounds everything until the first byte of HTTP can be sent.
    pub fn new(tls: ClientConfig, route: Route, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        Self { tcp, tls: Arc::new(tls), route: Arc::new(route), timeout }
    }

    /// The proxy for requests to this address that have to show it who we are: those that it sees, which are not TLS.
    pub fn proxy_authorization(&self, address: &Uri) -> Option<http::HeaderValue> {
        let seen = self.route.via(address).filter(|_| address.scheme_str() == Some("http"))?;
        seen.basic_auth().cloned()
    }

    async fn dial(mut self, address: Uri) -> Result<Stream, DialError> {
        let is_tls = address.scheme_str() == Some("https");
        let (stream, through_proxy) = match self.route.via(&address) {
            None => (self.connect(&address).await.map_err(DialError::Server)?, false),
            Some(proxy) => {
                let failed =
                    |source| DialError::Proxy { proxy: proxy.uri().authority().map(ToString::to_string).unwrap_or_default(), source };
                self.pass(&proxy, &address, is_tls).await.map_err(failed)?
            }
        };
        let stream = if is_tls { self.secure(stream, address).await.map_err(DialError::Tls)? } else { stream };
        Ok(Stream { through_proxy, ..stream })
    }

    /// A stream to the server by way of the proxy, and whether the proxy wants whole URLs in the requests on it.
    async fn pass(&mut self, proxy: &Intercept, address: &Uri, is_tls: bool) -> Result<(Stream, bool), BoxError> {
        let stream = self.connect(proxy.uri()).await?;
        match proxy.uri().scheme_str() {
            Some(scheme @ ("socks5" | "socks5h")) => {
                let mut socks = SocksV5::new(proxy.uri().clone(), Given(Some(stream))).local_dns(scheme == "socks5");
                if let Some((user, password)) = proxy.raw_auth() {
                    socks = socks.with_auth(user.into(), password.into());
                }
                Ok((socks.call(address.clone()).await?, false))
            }
            Some(scheme @ ("http" | "https")) => {
                let stream = if scheme == "https" { self.secure(stream, proxy.uri().clone()).await? } else { stream };
                if !is_tls {
                    return Ok((stream, true));
                }
                let mut tunnel = Tunnel::new(proxy.uri().clone(), Given(Some(stream)));
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                Ok((tunnel.call(address.clone()).await?, false))
            }
            _ => Err("only http, https, socks5 and socks5h are spoken to a proxy".into()),
        }
    }

    async fn connect(&mut self, address: &Uri) -> Result<Stream, BoxError> {
        Ok(Stream { io: Box::new(self.tcp.call(with_port(address)?).await?), through_proxy: false })
    }

    async fn secure(&self, stream: Stream, name: Uri) -> Result<Stream, BoxError> {
        let mut tls = HttpsConnector::from((Given(Some(stream)), Arc::clone(&self.tls)));
        Ok(Stream { io: Box::new(tls.call(name).await?), through_proxy: false })
    }
}

/// The TCP connector knows the ports of `http` and `https` only.
fn with_port(address: &Uri) -> Result<Uri, BoxError> {
    let socks = address.scheme_str().is_some_and(|scheme| scheme.starts_with("socks"));
    match (socks, address.port(), address.host()) {
        (true, None, Some(host)) => Ok(format!("socks5://{host}:1080").parse()?),
        _ => Ok(address.clone()),
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("route", &self.route).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Service<Uri> for Dial {
    type Response = Stream;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Stream, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let (dial, timeout) = (self.clone(), self.timeout);
        async move { tokio::time::timeout(timeout, dial.dial(address)).await.unwrap_or(Err(DialError::Timeout(timeout))) }.boxed()
    }
}

/// A connector whose connection is there already.
struct Given(Option<Stream>);

impl Service<Uri> for Given {
    type Response = Stream;
    type Error = io::Error;
    type Future = Ready<io::Result<Stream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or_else(|| io::Error::other("a connection is given once")))
    }
}

trait Io: Read + Write + Connection + Send + Unpin {}
impl<T: Read + Write + Connection + Send + Unpin> Io for T {}

/// A connection, whatever it is made of.
pub struct Stream {
    io: Box<dyn Io>,
    through_proxy: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.through_proxy)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}
