//! One save in a process of its own, for tests that kill it or look at its memory: `saver ENDPOINT DIRECTORY NODE raw|zip`.
//!
//! Prints `begun STEP` when a step begins, `saved NAME` at the end, and the most memory it ever had, in KiB.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etcd_snapshot_operator::etcd::{EtcdAccess, EtcdSettings, Member};
use etcd_snapshot_operator::save::{Progress, Saving, Step, Tell, save};
use etcd_snapshot_operator::snapshot::{BaseName, NodeName};
use etcd_snapshot_operator::storage::local::Directory;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("saver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, directory, node, how] = &words[..] else { anyhow::bail!("saver ENDPOINT DIRECTORY NODE raw|zip") };
    ensure!(["raw", "zip"].contains(&how.as_str()), "raw or zip, not {how}");
    let member = Member::new(EtcdAccess::new(&EtcdSettings { endpoint: endpoint.clone(), ..EtcdSettings::default() })?);
    let directory = Directory::open(directory.into(), NodeName::new(node)?)?;
    let saving = Saving {
        member: &member,
        directory: &directory,
        base: BaseName::default(),
        compress: how == "zip",
        cluster: None,
        extra: [("from".to_owned(), "the test".to_owned())].into(),
        token_hash: None,
        stall: Duration::from_mins(1),
    };
    let tell: Tell = Arc::new(|step: Step, progress| {
        if progress == Progress::Begun {
            say(&format!("begun {step}"));
        }
    });
    let saved = save(&saving, &tell, &CancellationToken::new(), Timestamp::now).await?;
    say(&format!("saved {}", saved.file));
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    say(&format!("peak {}", peak.trim().trim_end_matches(" kB")));
    Ok(())
}

/// A line that is out before anything else happens.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
