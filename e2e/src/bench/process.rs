//! A command from its start to its end: how long it took, and the most memory it ever held.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// Memory is looked at this often. What it held last is what it held most, so only the very end can be missed.
const LOOK: Duration = Duration::from_millis(3);

/// What a command took.
pub struct Ran {
    pub time: Duration,
    /// KiB resident at most.
    pub peak: u64,
    pub output: String,
}

/// Runs a program that prints little.
pub async fn run(program: &Path, args: &[OsString]) -> Result<Ran> {
    let mut command = Command::new(program);
    command.args(args);
    run_command(command).await
}

/// The same for one with more than arguments.
pub async fn run_command(mut command: Command) -> Result<Ran> {
    let shown = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
    let id = child.id().context("it has just been started")?;
    let mut peak = 0;
    let ended = loop {
        tokio::select! {
            biased;
            ended = child.wait() => break ended?,
            () = tokio::time::sleep(LOOK) => peak = resident(id).map_or(peak, |memory| memory.most.max(peak)),
        }
    };
    let time = begun.elapsed();
    let (mut output, mut said) = (String::new(), String::new());
    child.stdout.take().context("piped")?.read_to_string(&mut output).await?;
    child.stderr.take().context("piped")?.read_to_string(&mut said).await?;
    if !ended.success() {
        bail!("{shown} failed ({ended}): {}", said.trim());
    }
    Ok(Ran { time, peak, output })
}

/// KiB that a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub now: u64,
    pub most: u64,
}

/// What a process holds; None when it has ended.
pub fn resident(id: u32) -> Option<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok());
    Some(Memory { now: field("VmRSS:")?, most: field("VmHWM:")? })
}
