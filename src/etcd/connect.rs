//! One connection to the member: TCP, and TLS where the endpoint has it.
//!
//! In: an access and a TLS configuration. Out: a connection, or what exactly kept us from having one. TLS is done here and not
//! by the gRPC library, because that hides which address was tried, which names a certificate has, and which alert came.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::access::EtcdAccess;
use super::error::EtcdError;
use super::tls::HTTP2;

/// How long the name has to be resolved, one address to take a connection, and the member to shake hands.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the first word of a member after the handshake is waited for. With TLS 1.3 a refused client certificate comes
/// only then, and what we had written before would make it a broken connection. Some proxies wait for our word instead.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// Makes the connections of a channel. Whatever URI the channel asks for, it leads to the member.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) access: Arc<EtcdAccess>,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// What a channel needs of a connection.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Connection = TokioIo<Box<dyn Duplex>>;

impl tower_service::Service<http::Uri> for Connector {
    type Response = Connection;
    type Error = EtcdError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, EtcdError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), EtcdError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(TokioIo::new(connector.connect().await?)) })
    }
}

impl Connector {
    async fn connect(&self) -> Result<Box<dyn Duplex>, EtcdError> {
        let tcp = self.reach().await?;
        match &self.tls {
            Some(tls) => Ok(Box::new(self.shake_hands(tls, tcp).await?)),
            None => Ok(Box::new(tcp)),
        }
    }

    /// Tries every address of the host.
    async fn reach(&self) -> Result<TcpStream, EtcdError> {
        let endpoint = &self.access.endpoint;
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT.as_secs()));
        let unresolved = |source| EtcdError::Unresolved { endpoint: endpoint.clone(), source: Arc::new(source) };
        let resolved = timeout(CONNECT, tokio::net::lookup_host((endpoint.host(), endpoint.port()))).await;
        let addresses: Vec<SocketAddr> = resolved.unwrap_or_else(|_| Err(late())).map_err(unresolved)?.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in &addresses {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // A request is small and waits for its answer.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = late(),
            }
        }
        let tried: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Err(EtcdError::Unreachable { endpoint: endpoint.clone(), tried: tried.join(", "), source: Arc::new(last) })
    }

    async fn shake_hands(&self, tls: &Arc<ClientConfig>, tcp: TcpStream) -> Result<impl Duplex + 'static, EtcdError> {
        let failed = |error| EtcdError::of_handshake(error, &self.access);
        let handshake = TlsConnector::from(tls.clone()).connect(self.access.server_name(), tcp);
        let late = |_| EtcdError::Timeout { endpoint: self.access.endpoint.clone(), what: "the TLS handshake", after: CONNECT };
        let broken = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                EtcdError::HungUp { endpoint: self.access.endpoint.clone(), source: Arc::new(error) }
            }
            _ => failed(error),
        };
        let stream = timeout(CONNECT, handshake).await.map_err(late)?.map_err(broken)?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(EtcdError::NotEtcd { endpoint: self.access.endpoint.clone() });
        }
        let mut stream = BufReader::new(stream);
        match timeout(FIRST_WORD, stream.fill_buf()).await {
            Ok(Err(error)) => Err(failed(error)),
            Ok(Ok([])) => Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed after it"))),
            Ok(Ok(_)) | Err(_) => Ok(stream),
        }
    }
}
