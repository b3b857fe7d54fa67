//! The member that is saved, and what is in it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use k8s_openapi::ByteString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::etcd::Etcd;

/// Lines of a value, and random bytes in each; and how many values are put at once.
const LINES: usize = 32;
const RANDOM: usize = 16;
const AT_ONCE: usize = 128;

/// Where its clients find it.
pub fn address(etcd: &Etcd) -> Result<SocketAddr> {
    Ok(etcd.endpoint().trim_start_matches("http://").parse()?)
}

/// Values of 3 KiB until the database has so many MiB. They compress about as objects of Kubernetes do: a third is random hexadecimal
/// digits, the rest alike in all.
pub async fn fill(etcd: &Etcd, mebibytes: usize) -> Result<()> {
    let address = address(etcd)?;
    let mut random = File::open("/dev/urandom")?;
    let size = value(&mut random)?.len();
    for batch in 0..(mebibytes << 20).div_ceil(AT_ONCE * size) {
        let mut puts = Vec::new();
        for number in 0..AT_ONCE {
            let key = ByteString(format!("/registry/objects/{batch:08}-{number:03}").into_bytes());
            puts.push(json!({ "requestPut": { "key": key, "value": ByteString(value(&mut random)?) } }));
        }
        post(address, "kv/txn", &json!({ "success": puts })).await?;
    }
    Ok(())
}

fn value(random: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = [0; RANDOM * LINES];
    random.read_exact(&mut bytes)?;
    let mut text = String::new();
    for (line, digits) in bytes.chunks(RANDOM).enumerate() {
        write!(text, "  annotations.example.com/property-{line:02}-of-this-one-object-is: ")?;
        for byte in digits {
            write!(text, "{byte:02x}")?;
        }
        text.push('\n');
    }
    Ok(text.into_bytes())
}

/// A request to the member's JSON gateway.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Result<()> {
    let body = body.to_string();
    let mut request = String::new();
    write!(request, "POST /v3/{path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    Ok(())
}
