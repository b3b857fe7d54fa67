//! How it ends: asked to, urged to, and killed.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::operator::{Operator, OperatorSetup};
use e2e::process::Signal;
use e2e::proxy::FaultProxy;
use e2e::site::Site;
use e2e::snapshots;
use sha2::{Digest as _, Sha256};

use crate::common::{all_ready, complaints, local_beats, local_record, ready, rises, said};
use crate::leases::held_by;

/// A site whose operator leads its bucket, with proxies in front of both servers.
struct Behind {
    site: Site,
    api: FaultProxy,
    s3: FaultProxy,
    setup: OperatorSetup,
}

async fn behind_proxies() -> Result<Behind> {
    let site = Site::new().await?;
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    let s3 = site.s3.proxied()?;
    let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint()).env("KUBECONFIG", kubeconfig);
    Ok(Behind { site, api, s3, setup })
}

async fn leading(setup: &OperatorSetup) -> Result<Operator> {
    let mut operator = setup.start().await?;
    operator.ready().await?;
    rises(&mut operator, "etcd_snapshot_leader", &[], 0.0).await?;
    operator.beats(1).await?;
    Ok(operator)
}

fn ended_well(operator: &Operator, status: ExitStatus) -> Result<()> {
    ensure!(status.code() == Some(0), "{status}: {}", operator.log());
    ensure!(said(operator, &["INFO"], "told to stop").len() == 1 && complaints(operator, "panicked").is_empty());
    Ok(())
}

#[tokio::test]
async fn it_ends_well_when_told_to_and_gives_its_lease_back() -> Result<()> {
    let behind = behind_proxies().await?;
    for signal in [Signal::TERM, Signal::INT] {
        let mut operator = leading(&behind.setup).await?;
        ensure!(held_by(&behind.site).await?.len() == 1);
        operator.signal(signal)?;
        let status = operator.until_ended().await?;
        ended_well(&operator, status)?;
        ensure!(held_by(&behind.site).await?.is_empty(), "the Lease was not given back");
        ensure!(complaints(&operator, "").is_empty(), "{:?}", complaints(&operator, ""));
    }
    Ok(())
}

#[tokio::test]
async fn it_ends_well_while_the_bucket_is_a_black_hole() -> Result<()> {
    let behind = behind_proxies().await?;
    let mut operator = leading(&behind.setup).await?;
    behind.s3.black_hole();
    local_beats(&mut operator, 3).await?;
    let status = operator.terminate().await?;
    ended_well(&operator, status)?;
    ensure!(held_by(&behind.site).await?.is_empty(), "the Lease was not given back");
    Ok(())
}

#[tokio::test]
async fn it_ends_well_while_the_api_server_is_a_black_hole() -> Result<()> {
    let behind = behind_proxies().await?;
    let mut operator = leading(&behind.setup).await?;
    behind.api.black_hole();
    // Something to write, so that a write hangs as well; and an Event.
    behind.site.place(&behind.site.name(1_700_000_000), &snapshots::tiny(0))?;
    rises(&mut operator, "etcd_snapshot_actions_total", &[("action", "verify"), ("outcome", "done")], 0.0).await?;
    let status = operator.terminate().await?;
    ended_well(&operator, status)?;
    let mut next = behind.setup.start().await?;
    behind.api.restore();
    all_ready(&mut next, &behind.site, &[behind.site.name(1_700_000_000)], &[]).await
}

#[tokio::test]
async fn it_ends_well_while_everything_is_a_black_hole_from_the_start() -> Result<()> {
    let behind = behind_proxies().await?;
    behind.api.black_hole();
    behind.s3.black_hole();
    let mut operator = behind.setup.start().await?;
    let status = operator.terminate().await?;
    ended_well(&operator, status)
}

#[tokio::test]
async fn it_ends_well_in_the_middle_of_a_long_verification() -> Result<()> {
    let site = Site::new().await?;
    let (long, short) = (site.name(1_700_000_000), site.name(1_600_000_000));
    // Holes read like zeros: a terabyte to read and nothing on the disk.
    let path = site.snapshots().join(".long");
    std::fs::write(&path, &snapshots::tiny(0)[..512])?;
    std::fs::File::options().write(true).open(&path)?.set_len((1 << 40) + 32)?;
    std::fs::rename(path, site.snapshots().join(&long))?;
    site.place(&short, &snapshots::tiny(1))?;
    let mut operator = site.operator().start().await?;
    operator
        .until("the short one to be whole", async |_| {
            ensure!(ready(&local_record(&site, &short).await?));
            Ok(())
        })
        .await?;
    // The long one is under way, and holds up neither the beat nor the end.
    operator.beats(2).await?;
    ensure!(local_record(&site, &long).await?.data["status"].get("error").is_none());
    let status = operator.terminate().await?;
    ended_well(&operator, status)?;
    let record = local_record(&site, &long).await?;
    ensure!(
        !ready(&record) && record.data["status"].get("error").is_none(),
        "a verification that was cut short is no verdict: {:?}",
        record.data
    );
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() -> Result<()> {
    for (first, second, code) in [(Signal::TERM, Signal::TERM, 143), (Signal::INT, Signal::INT, 130), (Signal::TERM, Signal::INT, 130)] {
        let behind = behind_proxies().await?;
        let mut operator = leading(&behind.setup).await?;
        // The first one alone would take its time.
        behind.s3.black_hole();
        local_beats(&mut operator, 2).await?;
        operator.signal(first)?;
        operator
            .until("the first signal to be heard", async |operator| {
                ensure!(said(operator, &["INFO"], "told to stop").len() == 1);
                Ok(())
            })
            .await?;
        operator.signal(second)?;
        let status = operator.until_ended().await?;
        ensure!(status.code() == Some(code), "{status}");
    }
    Ok(())
}

/// All files below a folder, which need not be there.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.exists() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files_below(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn temporaries(site: &Site) -> Result<Vec<PathBuf>> {
    let mut found = files_below(site.snapshots().parent().unwrap_or(Path::new("/")))?;
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".etcd-snapshot-operator-")));
    Ok(found)
}

#[tokio::test]
async fn killed_at_any_moment_it_leaves_nothing_half_written() -> Result<()> {
    let site = Site::new().await?;
    let mut files = Vec::new();
    let mut operator = site.operator().start().await?;
    operator.beats(1).await?;
    operator.kill();
    for life in 0..8_u32 {
        let mut operator = site.operator().start().await?;
        for more in 0..10 {
            let file = site.name(1_700_000_000 + i64::from(life * 10 + more));
            site.place(&file, &snapshots::tiny(u64::from(life * 10 + more)))?;
            files.push(file);
        }
        // Later and later into verifying, remembering and recording.
        tokio::time::sleep(Duration::from_millis(u64::from(life) * 40)).await;
        operator.kill();
        ensure!(operator.ended().is_some_and(|status| status.signal() == Some(9)));
        for path in files_below(&site.snapshots().join("../.metadata"))? {
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = std::fs::read_to_string(&path)?;
                ensure!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "half written: {}: {text}", path.display());
            }
        }
    }
    // What a kill between two instructions leaves, for certain; and another node's, which may be at work.
    let temporary = |node: &str| {
        let hex10 = Sha256::digest(node).iter().take(5).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        format!(".etcd-snapshot-operator-{hex10}-left")
    };
    let state = files_below(&site.snapshots().join("../.metadata/.state"))?;
    let state = state.iter().find(|path| path.ends_with("self.json")).and_then(|path| path.parent()).map(Path::to_path_buf);
    let state = state.ok_or_else(|| anyhow::anyhow!("no self.json"))?;
    let others = site.snapshots().join(temporary("another-node"));
    for path in [site.snapshots().join(temporary(&site.node)), state.join(temporary(&site.node)), others.clone()] {
        std::fs::write(path, "half")?;
    }
    let mut operator = site.operator().start().await?;
    all_ready(&mut operator, &site, &files, &[]).await?;
    ensure!(temporaries(&site)? == [others], "{:?}", temporaries(&site)?);
    ensure!(complaints(&operator, "").is_empty(), "{:?}", complaints(&operator, ""));
    Ok(())
}
