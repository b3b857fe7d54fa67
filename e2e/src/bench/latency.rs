//! What the clients of a member feel: small puts, one after the other, each on a connection of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::member::post;

/// Between two puts: they are to feel the load, not to make it.
const PAUSE: Duration = Duration::from_millis(2);

/// How long each put took that ended while `work` went on.
pub async fn during<T>(member: SocketAddr, work: impl Future<Output = Result<T>>) -> Result<Vec<Duration>> {
    let mut all = Vec::new();
    let putting = async {
        loop {
            let begun = Instant::now();
            post(member, "kv/put", &json!({ "key": "felt", "value": "A".repeat(256) })).await?;
            all.push(begun.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        failed = putting => return failed,
        done = work => done?,
    };
    Ok(all)
}
