//! The agent's own HTTP server: `/metrics`, `/healthz`, `/readyz`.
//!
//! In: connections of whoever reaches the port. Out: texts that were made before the first byte is sent, so a slow reader
//! holds nothing but its connection. Each connection carries one request, has a deadline, and takes one of a fixed number
//! of places.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::health::{Answer, Health};
use crate::metrics::{self, Metrics};

/// How long a connection lives: probes and scrapes give up after ten seconds by default.
const DEADLINE: Duration = Duration::from_secs(15);
/// Connections at once; more wait to be accepted, no longer than the deadline.
const CONNECTIONS: usize = 128;
/// How long a stop waits for answers that are on their way.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// After a failed accept, which is most often a lack of file descriptors.
const BREATH: Duration = Duration::from_millis(200);

/// Why the address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("--http-listen {address}: {}", hint(.source))]
pub struct ListenError {
    /// As the setting has it.
    pub address: SocketAddr,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; choose another port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; choose one of its own, or 0.0.0.0 or [::] for all of them",
        io::ErrorKind::PermissionDenied => "this port is reserved for root; choose one above 1023",
        _ => "cannot listen there",
    }
}

/// Takes the address; nobody is answered before [`serve`].
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError { address, source })
}

/// Answers until `stop` is cancelled, then lets answers on their way end, for two seconds at most.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, health: Arc<Health>, stop: CancellationToken) {
    serve_within(listener, router(metrics, health), stop, DEADLINE, CONNECTIONS).await;
}

async fn serve_within(listener: TcpListener, router: Router, stop: CancellationToken, deadline: Duration, connections: usize) {
    let places = Arc::new(Semaphore::new(connections));
    let mut open = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            stream = accept(&listener, &places) => stream,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
        };
        let Some((stream, place)) = stream else { continue };
        let (router, stop) = (router.clone(), stop.clone());
        open.spawn(async move {
            let _place = place;
            // Past the deadline, or when the other end breaks off, there is nobody left to tell.
            let _ = timeout(deadline, answer(stream, router, stop)).await;
        });
    }
    drop(listener);
    let _ = timeout(LAST_ANSWERS, async { while open.join_next().await.is_some() {} }).await;
}

type Place = tokio::sync::OwnedSemaphorePermit;

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<(TcpStream, Place)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::debug!(%error, "a connection could not be accepted");
            sleep(BREATH).await;
            None
        }
    }
}

async fn answer(stream: TcpStream, router: Router, stop: CancellationToken) -> hyper::Result<()> {
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = &mut connection => return ended,
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

fn router(metrics: Arc<Metrics>, health: Arc<Health>) -> Router {
    let ready = Arc::clone(&health);
    Router::new()
        .route("/", get(async || "etcd-snapshot-operator: /metrics, /healthz, /readyz\n"))
        .route("/metrics", get(async move || ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.encode())))
        .route("/healthz", get(async move || health.healthy()))
        .route("/readyz", get(async move || ready.ready()))
        .fallback(async || (StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"))
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = if self.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, self.text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::decide::Mode;
    use crate::metrics::Leadership;

    struct Server {
        address: SocketAddr,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    async fn start(router: Router, deadline: Duration, connections: usize) -> Server {
        let listener = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let task = tokio::spawn(serve_within(listener, router, stop.clone(), deadline, connections));
        Server { address, stop, task }
    }

    async fn connect(server: &Server, send: &str) -> TcpStream {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(send.as_bytes()).await.unwrap();
        stream
    }

    /// What hangs fails instead.
    async fn within<T>(work: impl Future<Output = T>) -> T {
        timeout(Duration::from_mins(1), work).await.expect("it hangs")
    }

    /// Status line, head and body. It reads to the end, so the server has to close.
    async fn ask(server: &Server, path: &str) -> (String, String, String) {
        let mut stream = connect(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let (status, head) = head.split_once("\r\n").unwrap();
        (status.into(), head.to_lowercase(), body.into())
    }

    #[tokio::test]
    async fn a_scrape_is_the_metrics_as_they_are() {
        let (metrics, health) = (Arc::new(Metrics::new(Some("k3s_"))), Arc::new(Health::new(Mode::Manage, DEADLINE, DEADLINE)));
        let server = start(router(Arc::clone(&metrics), health), DEADLINE, CONNECTIONS).await;
        metrics.leads(Leadership::Leader);
        let (status, head, body) = ask(&server, "/metrics").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("\netcd_snapshot_leader 1\n"), "{body}");
        assert!(body.contains("\nk3s_etcd_snapshot_save_s3_duration_seconds_count{status=\"error\"} 0\n"), "{body}");
        metrics.leads(Leadership::Follower);
        assert!(ask(&server, "/metrics").await.2.contains("\netcd_snapshot_leader 0\n"));
    }

    #[tokio::test]
    async fn probes_are_answered_with_a_status_and_the_reason() {
        let (metrics, health) = (Arc::new(Metrics::new(None)), Arc::new(Health::new(Mode::Manage, DEADLINE, DEADLINE)));
        let server = start(router(metrics, Arc::clone(&health)), DEADLINE, CONNECTIONS).await;
        let (status, _, body) = ask(&server, "/readyz").await;
        assert_eq!((status.as_str(), body), ("HTTP/1.1 503 Service Unavailable", health.ready().text));
        assert_eq!(ask(&server, "/healthz").await.0, "HTTP/1.1 200 OK");
        health.crd(true);
        health.records_synced();
        health.directory_listed();
        let (status, _, body) = ask(&server, "/readyz").await;
        assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ready\n"));
        health.directory_replaced(Some("its inode was 5 and is 9".into()));
        let (status, _, body) = ask(&server, "/healthz").await;
        assert_eq!((status.as_str(), body), ("HTTP/1.1 503 Service Unavailable", health.healthy().text));
        assert!(ask(&server, "/").await.2.contains("/metrics, /healthz, /readyz"));
        assert_eq!(ask(&server, "/else").await.0, "HTTP/1.1 404 Not Found");
    }

    #[tokio::test]
    async fn neither_the_silent_nor_the_slow_keep_others_out() {
        let large = Router::new().route("/large", get(async || vec![b'x'; 64 << 20])).route("/", get(async || "here\n"));
        let server = start(large, Duration::from_millis(300), 3).await;
        let _silent = connect(&server, "").await;
        let _begun = connect(&server, "GET / HTTP/1.1\r\nHos").await;
        let _slow = connect(&server, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(ask(&server, "/").await.2, "here\n");
    }

    #[tokio::test]
    async fn it_ends_when_told_although_somebody_is_still_connected() {
        let server = start(Router::new().route("/", get(async || "here\n")), Duration::from_hours(1), 10).await;
        let mut silent = connect(&server, "").await;
        let mut begun = connect(&server, "GET / HTTP/1.1\r\nHos").await;
        assert_eq!(ask(&server, "/").await.2, "here\n");
        server.stop.cancel();
        within(server.task).await.unwrap();
        let mut rest = Vec::new();
        for stream in [&mut silent, &mut begun] {
            let _ = stream.read_to_end(&mut rest).await;
        }
        assert!(rest.is_empty());
        assert!(TcpStream::connect(server.address).await.is_err());
    }

    #[tokio::test]
    async fn an_answer_on_its_way_is_finished_before_the_end() {
        let (asked, answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (here, go) = (Arc::clone(&asked), Arc::clone(&answer));
        let waits = async move || {
            here.add_permits(1);
            go.acquire().await.unwrap().forget();
            "finished\n"
        };
        let server = start(Router::new().route("/", get(waits)), DEADLINE, 10).await;
        let mut stream = connect(&server, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        asked.acquire().await.unwrap().forget();
        server.stop.cancel();
        within(async { while TcpStream::connect(server.address).await.is_ok() {} }).await;
        answer.add_permits(1);
        let mut text = String::new();
        within(stream.read_to_string(&mut text)).await.unwrap();
        assert!(text.ends_with("finished\n"), "{text}");
        within(server.task).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_had_is_one_sentence() {
        let taken = listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen(address).await.unwrap_err();
        assert_eq!(error.to_string(), format!("--http-listen {address}: another process listens there; choose another port"));
        let error = listen("192.0.2.1:9469".parse().unwrap()).await.unwrap_err();
        assert!(error.to_string().starts_with("--http-listen 192.0.2.1:9469: this machine has no such address"), "{error}");
    }
}
