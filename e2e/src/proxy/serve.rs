//! The connections of a proxy: each is one client, one connection to the server, and requests one after the other.

use std::io::Result;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf, copy_bidirectional, split,
};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::age::{age_head, age_listing};
use super::rules::{Fault, Reply, Rules};
use super::wire::{Body, Head, collect, relay};
use super::{Line, Setup, State};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

struct Peer {
    read: BufReader<ReadHalf<Box<dyn Stream>>>,
    write: WriteHalf<Box<dyn Stream>>,
}

impl Peer {
    fn new(stream: Box<dyn Stream>) -> Self {
        let (read, write) = split(stream);
        Self { read: BufReader::new(read), write }
    }
}

/// Takes connections for as long as it is polled.
pub(super) async fn accept(listener: std::net::TcpListener, setup: Arc<Setup>, rules: Arc<Mutex<Rules>>, line: watch::Receiver<Line>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("inside a runtime");
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (setup, rules, line) = (Arc::clone(&setup), Arc::clone(&rules), line.clone());
        tokio::spawn(async move { connection(client, &setup, &rules, line).await });
    }
}

/// Serves one connection while the line is up, keeps it silent in a black hole, ends it when the line is cut.
async fn connection(client: TcpStream, setup: &Setup, rules: &Mutex<Rules>, mut line: watch::Receiver<Line>) {
    let born = line.borrow().epoch;
    let mut serve = pin!(serve(client, setup, rules));
    loop {
        let now = *line.borrow_and_update();
        if now.epoch != born || now.state == State::Cut {
            return;
        }
        tokio::select! {
            // A connection that ends in an error is closed, which is all that either side is to see of it.
            _ = &mut serve, if now.state == State::Up => return,
            changed = line.changed() => if changed.is_err() { return },
        }
    }
}

async fn serve(client: TcpStream, setup: &Setup, rules: &Mutex<Rules>) -> Result<()> {
    client.set_nodelay(true)?;
    let mut client: Box<dyn Stream> = match &setup.serve_tls {
        Some(config) => Box::new(TlsAcceptor::from(Arc::clone(config)).accept(client).await?),
        None => Box::new(client),
    };
    let server = TcpStream::connect(setup.upstream).await?;
    server.set_nodelay(true)?;
    let mut server: Box<dyn Stream> = match &setup.dial_tls {
        Some(config) => {
            let name = ServerName::try_from("localhost").expect("a name");
            Box::new(TlsConnector::from(Arc::clone(config)).connect(name, server).await?)
        }
        None => Box::new(server),
    };
    if setup.raw {
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let (mut client, mut server) = (Peer::new(client), Peer::new(server));
    while exchange(&mut client, &mut server, rules).await? {}
    client.write.shutdown().await
}

/// One request and its answer. False: the connection ends here.
async fn exchange(client: &mut Peer, server: &mut Peer, rules: &Mutex<Rules>) -> Result<bool> {
    tokio::select! {
        ready = client.read.fill_buf() => if ready?.is_empty() { return Ok(false) },
        // A server that closes an idle connection closes it for the client too.
        _ = server.read.fill_buf() => return Ok(false),
    }
    let Some(mut request) = Head::read(&mut client.read).await? else { return Ok(false) };
    request.strip_authority();
    let seen = request.seen();
    let method = seen.method.clone();
    let taken = rules.lock().unwrap_or_else(PoisonError::into_inner).take(seen.clone());
    match &taken {
        Some((Fault::Delay(time), _)) => tokio::time::sleep(*time).await,
        Some((Fault::Hold, held)) => {
            // An error means that the rule is gone, and with it the hold.
            let _ = held.clone().wait_for(|held| !held).await;
        }
        Some((Fault::Drop, _)) => return Ok(false),
        Some((Fault::BlackHole, _)) => std::future::pending().await,
        Some((Fault::Reply(reply), _)) => return answer(client, &request, &method, reply).await,
        Some((Fault::Answer(make), _)) => return answer(client, &request, &method, &make(&seen)).await,
        Some((Fault::Unheard(header), _)) => request.remove(header),
        Some((Fault::Asking(name, value), _)) => request.ask(name, value),
        Some((
            Fault::CutRequest(_)
            | Fault::LoseAnswer
            | Fault::HoldAnswer
            | Fault::CutBody(_)
            | Fault::Rewrite(_)
            | Fault::Header(..)
            | Fault::Trickle(..)
            | Fault::Older(_),
            _,
        ))
        | None => {}
    }
    if method == "CONNECT" {
        client.write.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
        tunnel(client, server).await;
        return Ok(false);
    }

    server.write.write_all(&request.bytes()).await?;
    server.write.flush().await?;
    if let Some((Fault::CutRequest(bytes), _)) = &taken {
        relay(&mut client.read, &mut server.write, request.request_body(), Some(*bytes)).await?;
        return Ok(false);
    }
    // Both at once: a server may answer, or ask to go on, before the whole request is there.
    let mut sent = false;
    let keep = {
        let slow = match &taken {
            Some((Fault::Trickle(a_second, most), held)) => Some((*a_second, *most, held.clone())),
            _ => None,
        };
        let mut forwarding = pin!(forward(&mut client.read, &mut server.write, request.request_body(), slow));
        let mut answering = pin!(response(&mut server.read, &mut client.write, &method, taken));
        loop {
            tokio::select! {
                // Sending first: whether all was sent decides if the connection can go on.
                biased;
                done = &mut forwarding, if !sent => { done?; sent = true; }
                keep = &mut answering => break keep?,
            }
        }
    };
    match keep {
        After::Upgraded => {
            tunnel(client, server).await;
            Ok(false)
        }
        After::Keep => Ok(sent && !request.closes()),
        After::Close => Ok(false),
    }
}

/// Passes a request's body on, slowly if asked: so many bytes a second, and no more than so many while it is held.
async fn forward(
    from: &mut BufReader<ReadHalf<Box<dyn Stream>>>,
    to: &mut WriteHalf<Box<dyn Stream>>,
    body: Body,
    slow: Option<(u64, u64, watch::Receiver<bool>)>,
) -> Result<()> {
    let (Some((a_second, most, mut held)), Body::Length(length)) = (slow, body) else { return relay(from, to, body, None).await };
    let mut sent = 0;
    while sent < length && *held.borrow() {
        let next = (a_second / 10).max(1).min(most - sent).min(length - sent);
        if next == 0 {
            let _ = held.wait_for(|held| !held).await;
            break;
        }
        relay(from, to, Body::Length(next), None).await?;
        sent += next;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    relay(from, to, Body::Length(length - sent), None).await
}

enum After {
    Keep,
    Close,
    Upgraded,
}

async fn response(
    server: &mut BufReader<ReadHalf<Box<dyn Stream>>>,
    client: &mut WriteHalf<Box<dyn Stream>>,
    method: &str,
    taken: Option<(Fault, watch::Receiver<bool>)>,
) -> Result<After> {
    let (fault, released) = taken.unzip();
    loop {
        let Some(mut head) = Head::read(server).await? else { return Ok(After::Close) };
        let status = head.status();
        if status < 200 {
            client.write_all(&head.bytes()).await?;
            client.flush().await?;
            if status == 101 {
                return Ok(After::Upgraded);
            }
            continue;
        }
        let body = head.response_body(method);
        if let (Some(Fault::HoldAnswer), Some(released)) = (&fault, &released) {
            let _ = released.clone().wait_for(|held| !held).await;
        }
        let limit = match &fault {
            Some(Fault::LoseAnswer) => {
                collect(server, body).await?;
                return Ok(After::Close);
            }
            Some(Fault::Rewrite(rewrite)) => {
                let was = collect(server, body).await?;
                let is = rewrite(&String::from_utf8_lossy(&was)).into_bytes();
                return replace(client, head, &is).await;
            }
            Some(Fault::Older(by)) if method == "GET" && head.header("content-type").is_some_and(|kind| kind.contains("xml")) => {
                let was = collect(server, body).await?;
                let is = age_listing(&String::from_utf8_lossy(&was), *by).into_bytes();
                return replace(client, head, &is).await;
            }
            Some(Fault::Older(by)) => {
                age_head(&mut head, *by);
                None
            }
            Some(Fault::Header(name, value)) => {
                head.remove(name);
                head.headers.push(((*name).to_owned(), format!(" {value}")));
                None
            }
            Some(Fault::CutBody(bytes)) => Some(*bytes),
            _ => None,
        };
        client.write_all(&head.bytes()).await?;
        client.flush().await?;
        relay(server, client, body, limit).await?;
        return Ok(if head.closes() || body == Body::UntilClose { After::Close } else { After::Keep });
    }
}

/// The answer with another body.
async fn replace(client: &mut WriteHalf<Box<dyn Stream>>, mut head: Head, body: &[u8]) -> Result<After> {
    head.remove("content-length");
    head.remove("transfer-encoding");
    head.headers.push(("Content-Length".to_owned(), format!(" {}", body.len())));
    client.write_all(&head.bytes()).await?;
    client.write_all(body).await?;
    client.flush().await?;
    Ok(if head.closes() { After::Close } else { After::Keep })
}

async fn answer(client: &mut Peer, request: &Head, method: &str, reply: &Reply) -> Result<bool> {
    // Who waits for "100 Continue" has not sent the body and takes this answer instead.
    let waits = request.header("expect").is_some();
    if !waits {
        relay(&mut client.read, &mut tokio::io::sink(), request.request_body(), None).await?;
    }
    client.write.write_all(&reply.bytes(method)).await?;
    client.write.flush().await?;
    Ok(!waits && !request.closes())
}

/// Bytes of another protocol, both ways, until either side ends.
async fn tunnel(client: &mut Peer, server: &mut Peer) {
    tokio::select! {
        _ = tokio::io::copy_buf(&mut client.read, &mut server.write) => {}
        _ = tokio::io::copy_buf(&mut server.read, &mut client.write) => {}
    }
}
