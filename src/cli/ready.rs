//! `ready`: asks an agent whether it is ready, and shows what it says: its `/readyz`, for an image and a node that have nothing else to ask
//! with.
//!
//! In: where the agent listens. Out: its words, and whether they were yes. It needs no settings and changes nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, sleep, timeout};

use super::hand::{ended, listen};
use super::terminal::print;
use super::trouble::Trouble;
use super::{DONE, FAILED};
use crate::config::Environment;
use crate::config::table::setting;
use crate::duration::positive_duration;

/// At the end of `ready --help`.
const EXAMPLES: &str = "\
Examples:
  kubectl exec -n etcd-snapshots POD -- etcd-snapshot-operator ready
  etcd-snapshot-operator ready --wait 2m cp-1.example.com";

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// Far more than an agent has to say.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// Ask an agent whether it is ready, as its /readyz says it: with a line for each thing that it waits for, and each that is ill.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ready {
    /// Where it listens: a name or an address, with a port or with that of HTTP_LISTEN, else 9469.
    #[arg(default_value = "127.0.0.1")]
    address: String,
    /// Ask again until it is ready, for this long at most, like 2m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    positive_duration(text).map_err(|_| "write it like 2m or 90s")
}

/// Asks it.
pub fn ready(arguments: &Ready) -> u8 {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(Trouble::failed("the runtime cannot be started").because_of(&error))),
    };
    runtime.block_on(async {
        let mut signals = match listen() {
            Ok(signals) => signals,
            Err(error) => return ended(Err(Trouble::failed("signals cannot be listened to").because_of(&error))),
        };
        tokio::select! {
            done = until_ready(arguments) => ended(done),
            number = signals.next() => 128 + number,
        }
    })
}

async fn until_ready(arguments: &Ready) -> Result<u8, Trouble> {
    let environment = Environment::new(std::env::vars_os())?;
    let listens = setting("http-listen").and_then(|setting| environment.get(setting).or(setting.default));
    let port = listens.and_then(|text| text.parse().ok()).map_or(9469, |address: SocketAddr| address.port());
    let at = authority(&arguments.address, port);
    let end = Instant::now() + arguments.wait.unwrap_or_default();
    loop {
        let asked = ask(&at).await;
        if matches!(asked, Ok((true, _))) || Instant::now() + PAUSE > end {
            let (is_ready, words) = asked?;
            print(&words)?;
            return Ok(if is_ready { DONE } else { FAILED });
        }
        sleep(PAUSE).await;
    }
}

async fn ask(at: &str) -> Result<(bool, String), Trouble> {
    let failed = || Trouble::failed(format!("the agent at {at} cannot be asked"));
    let url = format!("http://{at}/readyz").parse().map_err(|error: http::uri::InvalidUri| failed().because_of(&error))?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let exchange = async {
        let answer = client.get(url).await.map_err(|error: Error| failed().because_of(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|error| failed().because_of(error.as_ref()))?;
        Ok::<_, Trouble>((head.status.as_u16(), String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    };
    match timeout(PATIENCE, exchange).await.map_err(|_| failed().because("it had no answer in time"))?? {
        (200, words) if words.starts_with("ready") => Ok((true, words)),
        (503, words) if words.starts_with("not ready") => Ok((false, words)),
        (status, _) => Err(failed().because(format!("what listens there is no agent: it answers with {status} and other words"))),
    }
}

/// With a port, and an address of version 6 in brackets.
fn authority(address: &str, port: u16) -> String {
    match address.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Err(_) if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => address.into(),
        _ => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_completed_with_the_port_that_agents_have() {
        let of = |address| authority(address, 9469);
        assert_eq!([of("cp-1"), of("10.0.0.1"), of("cp-1:80")], ["cp-1:9469", "10.0.0.1:9469", "cp-1:80"]);
        assert_eq!([of("fd00::1"), of("[fd00::1]"), of("[::1]:80")], ["[fd00::1]:9469", "[fd00::1]:9469", "[::1]:80"]);
    }
}
