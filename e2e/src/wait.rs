//! Waiting, always with an end. A test never asserts how long something took; it waits until it is so.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// How long anything may take before a test gives up: far more than it needs, since other tests share the machine.
pub const PATIENCE: Duration = Duration::from_mins(3);

const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Looks again and again until `look` succeeds. What it last failed with is the reason given when patience ends.
pub async fn until<T>(what: impl Display, look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    until_within(PATIENCE, what, look).await
}

/// [`until`] with a patience of its own, for what is expected never to come or to take very long.
pub async fn until_within<T>(within: Duration, what: impl Display, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + within;
    let mut last = anyhow!("the first look did not return");
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(reason)) => last = reason,
            Err(_) => return Err(last).with_context(|| gave_up(within, &what)),
        }
        if Instant::now() + BETWEEN_LOOKS > end {
            return Err(last).with_context(|| gave_up(within, &what));
        }
        sleep(BETWEEN_LOOKS).await;
    }
}

fn gave_up(within: Duration, what: &impl Display) -> String {
    format!("waited {} s in vain for {what}", within.as_secs())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_what_was_waited_for_and_what_was_seen_last() {
        let waited = until_within(Duration::from_millis(120), "rain", async || -> Result<()> { bail!("it is dry") });
        let said = format!("{:#}", waited.await.unwrap_err());
        assert_eq!(said, "waited 0 s in vain for rain: it is dry");
    }

    #[tokio::test]
    async fn a_look_that_hangs_does_not_hang_the_wait() {
        let waited = until_within(Duration::from_millis(50), "an answer", async || std::future::pending::<Result<()>>().await);
        assert!(format!("{:#}", waited.await.unwrap_err()).contains("an answer"));
    }
}
