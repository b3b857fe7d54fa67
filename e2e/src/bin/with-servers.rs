//! Runs a command with real servers around it: `with-servers COMMAND [ARGUMENT…]`.
//!
//! Starts one API server and one S3 server, names their coordinates in `E2E_SERVERS`, runs the command, and ends with its exit
//! code. The servers end with this process, however it ends.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use e2e::process::scratch;
use e2e::shared::{SERVERS, Servers};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match Box::pin(run()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("with-servers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().context("name the command to run")?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let dir = scratch()?;
    let (_servers, coordinates) = tokio::select! {
        started = Servers::start(dir.path()) => started?,
        _ = interrupted.recv() => return Ok(ExitCode::from(130)),
        _ = terminated.recv() => return Ok(ExitCode::from(143)),
    };
    // The folder of temporary files is ours as well: what a killed test leaves goes with it.
    let mut command = Command::new(&program);
    command.args(words).env(SERVERS, coordinates).env("TMPDIR", dir.path()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    let ended = tokio::select! {
        ended = child.wait() => ended?,
        // The terminal has told the command too: it is given the time to end by itself.
        _ = interrupted.recv() => child.wait().await?,
        _ = terminated.recv() => return Ok(ExitCode::from(143)),
    };
    Ok(ended.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
