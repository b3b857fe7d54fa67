//! A relay between us and etcd that knows HTTP/2 frames, so that it can spoil a snapshot and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use e2e::ports;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Bytes of a frame's head.
const HEAD: usize = 9;
/// The type of a frame with data.
const DATA: u8 = 0;

/// What becomes of the data of the server's frames; false takes the frame away.
pub type Spoil = dyn Fn(&mut [u8]) -> bool + Send + Sync;

/// Relays until it is dropped.
pub struct Relay {
    port: u16,
    accepting: JoinHandle<()>,
}

impl Relay {
    pub async fn start(server: SocketAddr, spoil: Arc<Spoil>) -> Result<Self> {
        let listener = TcpListener::bind(ports::loopback(ports::free())).await?;
        let port = listener.local_addr()?.port();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let spoil = Arc::clone(&spoil);
                tokio::spawn(async move { relay(client, server, &*spoil).await });
            }
        });
        Ok(Self { port, accepting })
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(client: TcpStream, server: SocketAddr, spoil: &Spoil) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    loop {
        let mut head = [0; HEAD];
        from_server.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
        from_server.read_exact(&mut data).await?;
        if head[3] != DATA || spoil(&mut data) {
            to_client.write_all(&[&head[..], &data].concat()).await?;
        }
    }
}
