//! `run`: the agent, until a signal ends it.

use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{DONE, FAILED, USAGE};
use crate::config::{Flags, RunSettings, load};
use crate::controller::agent::{agent, sentence};
use crate::log;

/// At the end of `run --help`.
pub const EXAMPLES: &str = "\
Examples:
  Save every six hours, keep ten, and write records, with the API server of KUBECONFIG:
    etcd-snapshot-operator run --node-name cp-1 --etcd-snapshot-dir /var/lib/etcd-backup/snapshots \\
      --etcd-cacert ca.crt --etcd-cert client.crt --etcd-key client.key \\
      --etcd-snapshot-schedule-cron '0 */6 * * *' --etcd-snapshot-retention 10

  The same with a bucket; the keys come from the environment:
    AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... etcd-snapshot-operator run --node-name cp-1 \\
      --etcd-s3 --etcd-s3-endpoint minio.example.com --etcd-s3-bucket etcd --etcd-s3-folder prod

  Only look, and say what would be done:
    etcd-snapshot-operator run --node-name cp-1 --etcd-snapshot-dir /var/lib/etcd-backup/snapshots --mode observe

  With the settings that K3s has:
    etcd-snapshot-operator run --node-name cp-1 --config /etc/rancher/k3s/config.yaml";

/// Runs the agent.
pub fn run(flags: &Flags) -> u8 {
    let (settings, warnings) = match load(flags) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("etcd-snapshot-operator: {}", log::chain(&error));
            return USAGE;
        }
    };
    if let Err(error) = log::init(settings.log_format) {
        eprintln!("etcd-snapshot-operator: {}", log::chain(&error));
        return USAGE;
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("the runtime cannot be started: {error}");
            return FAILED;
        }
    };
    let code = runtime.block_on(until_signalled(settings));
    // A reader in a blocking call of a dead disk is not waited for.
    runtime.shutdown_background();
    code
}

async fn until_signalled(settings: RunSettings) -> u8 {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %settings.node,
        directory = %settings.snapshot_dir.display(),
        interval = ?settings.interval,
        mode = ?settings.mode,
        s3 = settings.s3.is_on(),
        "starting"
    );
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!("signals cannot be listened to: {error}");
            return FAILED;
        }
    };
    let stopped = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => 15,
                _ = interrupt.recv() => 2,
            }
        };
        next().await;
        tracing::info!("told to stop; once more ends it at once");
        stopped.cancel();
        let number = next().await;
        process::exit(128 + number);
    });
    match Box::pin(agent(settings, stop)).await {
        Ok(()) => DONE,
        Err(error) => {
            tracing::error!("{}", sentence(&error));
            FAILED
        }
    }
}
