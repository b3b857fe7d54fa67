//! HTTP/1.1 as far as a proxy needs it: where a head ends, where a body ends, and the bytes in between untouched.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::rules::{Reply, Seen};

const LONGEST_LINE: u64 = 64 * 1024;

/// The first line and headers of a message, as they came; the space before a value is part of it.
pub(super) struct Head {
    pub(super) first: String,
    pub(super) headers: Vec<(String, String)>,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Head {
    /// None: the peer closed the connection before a message began.
    pub(super) async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Self>> {
        let Some(first) = line(from).await? else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            let header = line(from).await?.ok_or(ErrorKind::UnexpectedEof)?;
            if header.is_empty() {
                return Ok(Some(Self { first, headers }));
            }
            let (name, value) = header.split_once(':').ok_or_else(|| Error::new(ErrorKind::InvalidData, "a header without a colon"))?;
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let headers = self.headers.iter().map(|(name, value)| format!("{name}:{value}\r\n"));
        format!("{}\r\n{}\r\n", self.first, headers.collect::<String>()).into_bytes()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    pub(super) fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) || self.first.contains("HTTP/1.0")
    }

    fn words(&self) -> (&str, &str) {
        let mut words = self.first.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    /// A request to an HTTP proxy names the server in its first line: the server itself wants only the path.
    pub(super) fn strip_authority(&mut self) {
        let (_, target) = self.words();
        if let Some((authority, _)) = target.strip_prefix("http://").map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
            let named = format!("http://{authority}");
            self.first = self.first.replacen(&named, "", 1);
        }
    }

    /// Adds a query parameter, which needs no encoding.
    pub(super) fn ask(&mut self, name: &str, value: &str) {
        let (method, target) = self.words();
        let sign = if target.contains('?') { '&' } else { '?' };
        self.first = format!("{method} {target}{sign}{name}={value} HTTP/1.1");
    }

    pub(super) fn seen(&self) -> Seen {
        let (method, target) = self.words();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query =
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(name, value)| (decode(name), decode(value))).collect();
        let headers = self.headers.iter().map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        Seen { method: method.to_owned(), path: path.to_owned(), query, headers }
    }

    pub(super) fn request_body(&self) -> Body {
        self.stated_body().unwrap_or(Body::Length(0))
    }

    pub(super) fn status(&self) -> u16 {
        self.words().1.parse().unwrap_or(0)
    }

    pub(super) fn response_body(&self, method: &str) -> Body {
        if method == "HEAD" || matches!(self.status(), 100..=199 | 204 | 304) {
            return Body::Length(0);
        }
        self.stated_body().unwrap_or(Body::UntilClose)
    }

    fn stated_body(&self) -> Option<Body> {
        if self.header("transfer-encoding").is_some_and(|value| value.to_lowercase().contains("chunked")) {
            return Some(Body::Chunked);
        }
        self.header("content-length").and_then(|length| length.parse().ok()).map(Body::Length)
    }
}

impl Reply {
    pub(super) fn bytes(&self, method: &str) -> Vec<u8> {
        let mut headers: Vec<(String, String)> = self.headers.iter().map(|(name, value)| (name.clone(), format!(" {value}"))).collect();
        headers.push(("Content-Length".to_owned(), format!(" {}", self.body.len())));
        let mut bytes = Head { first: format!("HTTP/1.1 {} By The Test", self.status), headers }.bytes();
        if method != "HEAD" {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// Passes a body on as it comes. With a limit, stops after that many bytes of it and says so with an error.
pub(super) async fn relay(
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    body: Body,
    limit: Option<u64>,
) -> Result<()> {
    let mut left = limit.unwrap_or(u64::MAX);
    match body {
        Body::Length(length) => copy(from, to, length, &mut left).await,
        Body::UntilClose => match copy(from, to, u64::MAX, &mut left).await {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            done => done,
        },
        Body::Chunked => loop {
            let size = line(from).await?.ok_or(ErrorKind::UnexpectedEof)?;
            to.write_all(format!("{size}\r\n").as_bytes()).await?;
            let length = chunk_length(&size)?;
            if length == 0 {
                loop {
                    let trailer = line(from).await?.ok_or(ErrorKind::UnexpectedEof)?;
                    to.write_all(format!("{trailer}\r\n").as_bytes()).await?;
                    if trailer.is_empty() {
                        return to.flush().await;
                    }
                }
            }
            copy(from, to, length, &mut left).await?;
            let end = line(from).await?.ok_or(ErrorKind::UnexpectedEof)?;
            to.write_all(format!("{end}\r\n").as_bytes()).await?;
            to.flush().await?;
        },
    }
}

/// The whole of a body, without its chunks.
pub(super) async fn collect(from: &mut (impl AsyncBufRead + Unpin), body: Body) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    match body {
        Body::Length(length) => copy(from, &mut all, length, &mut u64::MAX.clone()).await?,
        Body::UntilClose => {
            from.read_to_end(&mut all).await?;
        }
        Body::Chunked => loop {
            let length = chunk_length(&line(from).await?.ok_or(ErrorKind::UnexpectedEof)?)?;
            if length == 0 {
                while line(from).await?.is_some_and(|trailer| !trailer.is_empty()) {}
                break;
            }
            copy(from, &mut all, length, &mut u64::MAX.clone()).await?;
            line(from).await?;
        },
    }
    Ok(all)
}

async fn copy(from: &mut (impl AsyncBufRead + Unpin), to: &mut (impl AsyncWrite + Unpin), mut length: u64, left: &mut u64) -> Result<()> {
    while length > 0 {
        let bytes = from.fill_buf().await?;
        if bytes.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let take = usize::try_from(length.min(*left)).unwrap_or(usize::MAX).min(bytes.len());
        to.write_all(&bytes[..take]).await?;
        to.flush().await?;
        from.consume(take);
        length -= take as u64;
        *left -= take as u64;
        if *left == 0 && length > 0 {
            return Err(Error::other("cut by a rule"));
        }
    }
    Ok(())
}

fn chunk_length(line: &str) -> Result<u64> {
    let digits = line.split(';').next().unwrap_or_default().trim();
    u64::from_str_radix(digits, 16).map_err(|_| Error::new(ErrorKind::InvalidData, "a chunk without a length"))
}

/// One line without its end; None at the end of the stream.
async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = from.take(LONGEST_LINE).read_until(b'\n', &mut bytes).await?;
    if read == 0 {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    bytes.pop_if(|last| *last == b'\r');
    String::from_utf8(bytes).map(Some).map_err(|error| Error::new(ErrorKind::InvalidData, error))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (other, _) => {
                bytes.push(*other);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn head(text: &str) -> Head {
        Head::read(&mut text.as_bytes()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_request_is_seen_decoded_and_passed_on_as_it_came() {
        let text = "GET /b/a%20b?list-type=2&prefix=f%2Fx+y&flag HTTP/1.1\r\nHost: h:1\r\nX-Amz-Date: 2026\r\n\r\n";
        let head = head(text).await;
        assert_eq!(String::from_utf8(head.bytes()).unwrap(), text);
        let seen = head.seen();
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("GET", "/b/a%20b"));
        assert_eq!((seen.query("prefix"), seen.query("flag"), seen.header("x-amz-date")), (Some("f/x y"), Some(""), Some("2026")));
    }

    #[tokio::test]
    async fn a_request_to_an_http_proxy_loses_the_server_from_its_first_line() {
        let mut head = head("GET http://bucket.s3.test/key?x=1 HTTP/1.1\r\nHost: bucket.s3.test\r\n\r\n").await;
        head.strip_authority();
        assert_eq!(head.first, "GET /key?x=1 HTTP/1.1");
    }

    #[tokio::test]
    async fn a_parameter_more_goes_to_the_end_of_the_query() {
        for (before, after) in
            [("GET /b?list-type=2 HTTP/1.1", "GET /b?list-type=2&max-keys=3 HTTP/1.1"), ("GET /b HTTP/1.1", "GET /b?max-keys=3 HTTP/1.1")]
        {
            let mut head = head(&format!("{before}\r\n\r\n")).await;
            head.ask("max-keys", "3");
            assert_eq!(head.first, after);
        }
    }

    #[tokio::test]
    async fn bodies_end_where_their_heads_say() {
        let chunked = head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        assert_eq!(chunked.response_body("GET"), Body::Chunked);
        assert_eq!(chunked.response_body("HEAD"), Body::Length(0));
        assert_eq!(head("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n").await.response_body("GET"), Body::Length(7));
        assert_eq!(head("HTTP/1.1 204 No Content\r\n\r\n").await.response_body("GET"), Body::Length(0));
        assert_eq!(head("HTTP/1.1 200 OK\r\n\r\n").await.response_body("GET"), Body::UntilClose);
        assert_eq!(head("GET / HTTP/1.1\r\n\r\n").await.request_body(), Body::Length(0));
    }

    #[tokio::test]
    async fn chunks_pass_unchanged_and_collect_to_their_content() {
        let chunks = "3;x=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n";
        let mut passed = Vec::new();
        relay(&mut chunks.as_bytes(), &mut passed, Body::Chunked, None).await.unwrap();
        assert_eq!(String::from_utf8(passed).unwrap(), chunks);
        assert_eq!(collect(&mut chunks.as_bytes(), Body::Chunked).await.unwrap(), b"abc0123456789");
    }

    #[tokio::test]
    async fn a_limit_cuts_a_body_after_so_many_bytes() {
        let mut passed = Vec::new();
        assert!(relay(&mut b"0123456789".as_slice(), &mut passed, Body::Length(10), Some(4)).await.is_err());
        assert_eq!(passed, b"0123");
    }
}
