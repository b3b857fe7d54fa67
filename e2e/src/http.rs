//! The one question the tests ask over plain HTTP: GET, once, on a connection of its own.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body of a 200, an error with status and body for anything else.
    pub fn ok(self) -> Result<String> {
        ensure!(self.status == 200, "answered {}: {}", self.status, self.body.trim());
        Ok(self.body)
    }
}

/// GET of a path, in HTTP/1.0 so that the answer ends with the connection.
pub async fn get(server: SocketAddr, path: &str) -> Result<Answer> {
    let stream = TcpStream::connect(server).await.with_context(|| format!("connect to {server}"))?;
    get_over(stream, path, "").await
}

/// [`get`] over a connection that is there already; `headers` are whole lines, each with its CRLF.
pub async fn get_over(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, headers: &str) -> Result<Answer> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").as_bytes()).await?;
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no whole answer ({read:?}): {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status in the answer")?;
    Ok(Answer { status, body: body.to_owned() })
}
