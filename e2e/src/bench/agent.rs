//! An operator with nothing to do: how soon it begins, and what it holds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use super::process::resident;
use super::report::{Section, Spread, mebibytes};
use super::world::{World, until, value};

/// The section.
pub async fn measure(world: &World) -> Result<Section> {
    let mut section = Section::new("agent");
    let mut starts = Vec::new();
    for _ in 0..world.scale.starts {
        starts.push(start(world).await?);
    }
    section.row("process started → first beat begun", Spread::new(starts));

    let mut operator = world.operator_with_bucket("1s").start().await?;
    operator.ready().await?;
    operator.beats(5).await?;
    let memory = resident(operator.id()).context("the operator has ended")?;
    section.row("resident memory, empty directory and bucket, after five beats", mebibytes(memory.now));
    operator.stop().await;
    Ok(section)
}

async fn start(world: &World) -> Result<Duration> {
    let setup = world.operator_with_bucket("10m");
    let begun = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut operator = setup.start().await?;
    let beat = until(&mut operator, "the first beat", async |operator| {
        let beat = value(&operator.metrics().await?, "last_beat_timestamp_seconds", &[]);
        ensure!(beat > 0.0);
        Ok(Duration::from_secs_f64(beat))
    });
    let took = beat.await?.saturating_sub(begun);
    operator.stop().await;
    Ok(took)
}
