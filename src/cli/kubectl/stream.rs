//! What runs in a pod, with its streams tied to ours.
//!
//! In: an agent and a command line. Out: its output as it comes, and how it ended. Whoever stops reading does not stop what runs there.

use std::io;
use std::os::fd::AsFd;

use futures::channel::mpsc::Sender;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachedProcess, TerminalSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;

use crate::kubernetes::error::Error;
use crate::kubernetes::pods::{Agent, exec};
use crate::snapshot::Failure;

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// It was not started, and why.
    NotRun(String),
    /// Nobody knows: the connection did, before.
    Lost(String),
}

/// One of our own streams.
pub fn ours(stream: impl AsFd) -> io::Result<File> {
    Ok(File::from_std(stream.as_fd().try_clone_to_owned()?.into()))
}

/// Runs it, with nothing to read. Its output goes nowhere where there is nobody to take it.
pub async fn run(
    client: &kube::Client,
    agent: &Agent,
    line: &[String],
    out: &mut (impl AsyncWrite + Unpin),
    err: &mut (impl AsyncWrite + Unpin),
) -> Result<Ended, Error> {
    let mut process = exec(client, agent, line, false).await?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let ended = wait(process);
    Ok(Box::pin(with_output(async { _ = tokio::join!(forward(stdout, out), forward(stderr, err)) }, ended)).await)
}

/// Runs it with our terminal as its own, Ctrl-C included.
pub async fn run_on_terminal(
    client: &kube::Client,
    agent: &Agent,
    line: &[String],
    out: &mut (impl AsyncWrite + Unpin),
) -> Result<Ended, Error> {
    let mut process = exec(client, agent, line, true).await?;
    // A terminal that cannot be switched shows what is typed twice, and no more.
    let _raw = Raw::new().ok();
    let (stdin, stdout) = (process.stdin(), process.stdout());
    let _resized = process.terminal_size().map(|sizes| AbortOnDropHandle::new(tokio::spawn(tell_size(sizes))));
    let _typed = stdin.zip(ours(io::stdin()).ok()).map(|(mut stdin, mut ours)| {
        let typed = async move { tokio::io::copy(&mut ours, &mut stdin).await.ok() };
        AbortOnDropHandle::new(tokio::spawn(typed))
    });
    let ended = wait(process);
    Ok(Box::pin(with_output(forward(stdout, out), ended)).await)
}

/// Waits for the end, and for the output before it. The streams of a connection that is lost never end: what has come until then is all.
async fn with_output(output: impl Future<Output = ()>, ended: impl Future<Output = Ended>) -> Ended {
    tokio::pin!(output, ended);
    tokio::select! {
        () = &mut output => ended.await,
        how = &mut ended => {
            if !matches!(how, Ended::Lost(_)) {
                output.await;
            }
            how
        }
    }
}

async fn wait(mut process: AttachedProcess) -> Ended {
    let status = match process.take_status() {
        Some(status) => status.await,
        None => None,
    };
    if let Some(status) = status {
        return ended(status);
    }
    let why = process.join().await.err().map(|error| Failure::of("", &error).message);
    Ended::Lost(why.unwrap_or_else(|| "it was closed without a word".into()))
}

fn ended(status: Status) -> Ended {
    if status.status.as_deref() == Some("Success") {
        return Ended::Code(0);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.into_iter().find(|cause| cause.reason.as_deref() == Some("ExitCode")).and_then(|cause| cause.message?.parse().ok());
    code.map_or_else(|| Ended::NotRun(status.message.unwrap_or_else(|| "nobody says why".into())), Ended::Code)
}

/// Reads to the end, also when nobody takes it any more: what runs there would wait for its output to be read.
async fn forward(from: Option<impl AsyncRead + Unpin>, to: &mut (impl AsyncWrite + Unpin)) {
    let Some(mut from) = from else { return };
    let (mut buffer, mut wanted) = ([0; 8192], true);
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if wanted {
            wanted = to.write_all(&buffer[..count]).await.is_ok() && to.flush().await.is_ok();
        }
    }
}

async fn tell_size(mut sizes: Sender<TerminalSize>) {
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = tcgetwinsize(io::stdout()) {
            // One that has no room is followed by another.
            let _ = sizes.try_send(TerminalSize { width: size.ws_col, height: size.ws_row });
        }
        changed.recv().await;
    }
}

/// Our terminal, passing on what is typed as it is; as it was once this is dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_exit_code_there_is_ours() {
        let of = |status| ended(serde_json::from_value(status).unwrap());
        assert_eq!(of(json!({"status": "Success"})), Ended::Code(0));
        let code = |code: &str| {
            json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "command terminated with non-zero exit code",
                "details": {"causes": [{"reason": "ExitCode", "message": code}]}})
        };
        assert_eq!((of(code("4")), of(code("137"))), (Ended::Code(4), Ended::Code(137)));
        let not_run = json!({"status": "Failure", "reason": "InternalError", "message": "executable file not found"});
        assert_eq!(of(not_run), Ended::NotRun("executable file not found".into()));
    }

    #[tokio::test]
    async fn nobody_waits_for_the_output_of_a_connection_that_is_lost() {
        let lost = || Ended::Lost("reset".into());
        assert_eq!(with_output(std::future::pending(), async { lost() }).await, lost());
        let mut seen = false;
        let output = async {
            tokio::task::yield_now().await;
            seen = true;
        };
        assert_eq!(with_output(output, async { Ended::Code(0) }).await, Ended::Code(0));
        assert!(seen, "what was said before the end is waited for");
    }

    #[tokio::test]
    async fn what_nobody_takes_is_read_to_its_end_all_the_same() {
        let (mut here, there) = tokio::io::duplex(16);
        let writing = tokio::spawn(async move { here.write_all(&vec![b'x'; 100_000]).await });
        let (mut to, read) = tokio::io::duplex(16);
        drop(read);
        forward(Some(there), &mut to).await;
        writing.await.unwrap().unwrap();
    }
}
