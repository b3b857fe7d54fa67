//! A save that goes up to a bucket, raw and compressed, beside etcd's own client, zip and the client of AWS, one after the other.
//!
//! Ours is what a person types: `save` by hand, from the start of the process to its end. Theirs is what a CronJob does. Each goes to
//! two servers: all of them share two processors here, and what a server does with what it is given counts for both alike.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::process::run_command;
use super::report::{Section, Spread, mebibytes, times};
use super::world::World;
use crate::etcd::{DEFAULT_SET, Etcd};
use crate::hand::Hand;
use crate::minio::Minio;
use crate::site::{FOLDER, Site};
use crate::tools;

/// Where the client of AWS is installed, with what it needs.
const AWS: &str = "E2E_AWS";

/// How the snapshot goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Raw,
    Zip,
}

/// What it took.
#[derive(Debug, Default)]
struct Taken {
    time: Duration,
    /// KiB resident at most, of whichever process had the most.
    peak: u64,
    /// Bytes of the object.
    size: u64,
}

/// Adds the rows of one member.
pub async fn measure(section: &mut Section, world: &World, etcd: &Etcd, mebibytes: u32, pairs: u32) -> Result<()> {
    let minio = Minio::start().await?;
    for (how, server, s3) in [
        (How::Raw, "SeaweedFS", &world.site.s3),
        (How::Raw, "MinIO", minio.access()),
        (How::Zip, "SeaweedFS", &world.site.s3),
        (How::Zip, "MinIO", minio.access()),
    ] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for pair in 0..pairs {
            // Of their own each time: what a server keeps of deleted objects would fill a disk.
            let site = Site::on(world.api.access(), s3).await?;
            if pair.is_multiple_of(2) {
                ours.push(our_way(&site, etcd, how).await?);
                theirs.push(their_way(&site, etcd, how).await?);
            } else {
                theirs.push(their_way(&site, etcd, how).await?);
                ours.push(our_way(&site, etcd, how).await?);
            }
            for key in site.bucket.keys().await? {
                site.bucket.delete(&key).await?;
            }
            site.bucket.client.delete_bucket().bucket(&site.bucket.name).send().await.context("delete the bucket")?;
        }
        rows(section, (how, server), mebibytes, &ours, &theirs);
    }
    Ok(())
}

fn rows(section: &mut Section, (how, server): (How, &str), size: u32, ours: &[Taken], theirs: &[Taken]) {
    let spread = |all: &[Taken]| Spread::new(all.iter().map(|one| one.time).collect());
    let shown = |all: &[Taken]| {
        let peak = all.iter().map(|one| one.peak).max().unwrap_or_default();
        format!("{}, {} resident", spread(all), mebibytes(peak))
    };
    let (what, peer) = match how {
        How::Raw => ("upload", "`etcdctl snapshot save && aws s3 cp`"),
        How::Zip => ("compress and upload", "`etcdctl snapshot save && zip -6 && aws s3 cp`"),
    };
    section.row(format!("save {size} MiB, {what} to {server}, by hand, with its sidecar"), shown(ours));
    section.row(format!("– {peer}"), shown(theirs));
    section.row("– theirs in ours", times(spread(theirs).median(), spread(ours).median()));
    if how == How::Zip {
        let middle = |all: &[Taken]| {
            let mut sizes: Vec<u64> = all.iter().map(|one| one.size).collect();
            sizes.sort_unstable();
            sizes.get(sizes.len() / 2).copied().unwrap_or_default()
        };
        let (ours, theirs) = (middle(ours), middle(theirs));
        let percent = (ours * 1000).checked_div(theirs).unwrap_or_default();
        let sizes = format!("{} beside {}: {}.{} %", mebibytes(ours / 1024), mebibytes(theirs / 1024), percent / 10, percent % 10);
        section.row("– size of the archive, ours beside theirs", sizes);
    }
}

async fn our_way(site: &Site, etcd: &Etcd, how: How) -> Result<Taken> {
    let hand = Hand::new("save")?.on(site).with_bucket(site).with_kubernetes(site).flag("--etcd-endpoint", etcd.endpoint());
    let hand = if how == How::Zip { hand.arg("--snapshot-compress") } else { hand };
    let ran = run_command(hand.command()).await?;
    let taken = Taken { time: ran.time, peak: ran.peak, size: size_of_object(site, "on-demand").await? };
    ensure!(taken.size > 0, "nothing went up: {}", ran.output);
    Ok(taken)
}

async fn their_way(site: &Site, etcd: &Etcd, how: How) -> Result<Taken> {
    let raw = site.scratch().join("theirs");
    let mut save = Command::new(tools::tool(DEFAULT_SET, "etcdctl")?);
    save.args(["--endpoints", &etcd.endpoint(), "snapshot", "save"]).arg(&raw);
    let mut taken = Taken::default();
    taken.add(save).await?;
    let file = match how {
        How::Raw => raw,
        How::Zip => {
            let archive = site.scratch().join("theirs.zip");
            let mut zip = Command::new("zip");
            zip.args(["-6", "--quiet", "--junk-paths"]).arg(&archive).arg(&raw);
            taken.add(zip).await?;
            archive
        }
    };
    taken.add(aws(site, &file)?).await?;
    taken.size = size_of_object(site, "theirs").await?;
    ensure!(taken.size == std::fs::metadata(&file)?.len(), "{} went up with {} bytes", file.display(), taken.size);
    Ok(taken)
}

/// `aws s3 cp` of a file into the folder of the bucket, as it comes.
fn aws(site: &Site, file: &Path) -> Result<Command> {
    let libraries = std::env::var_os(AWS).with_context(|| format!("{AWS} does not say where the client of AWS is: run e2e/bench"))?;
    let mut aws = Command::new("python3");
    aws.args(["-m", "awscli", "--endpoint-url", &format!("http://{}", site.s3.endpoint()), "s3", "cp", "--only-show-errors"]);
    aws.arg(file).arg(format!("s3://{}/{FOLDER}/", site.bucket.name));
    aws.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", site.scratch()).env("PYTHONPATH", libraries);
    aws.env("AWS_ACCESS_KEY_ID", &site.s3.access_key).env("AWS_SECRET_ACCESS_KEY", &site.s3.secret_key);
    aws.env("AWS_DEFAULT_REGION", "us-east-1");
    Ok(aws)
}

impl Taken {
    /// One more command, after those before.
    async fn add(&mut self, command: Command) -> Result<()> {
        let ran = run_command(command).await?;
        self.time += ran.time;
        self.peak = self.peak.max(ran.peak);
        Ok(())
    }
}

/// Bytes of the one object whose name begins so; 0 where there is none.
async fn size_of_object(site: &Site, begins: &str) -> Result<u64> {
    let listed = site.bucket.client.list_objects_v2().bucket(&site.bucket.name).prefix(format!("{FOLDER}/{begins}")).send().await?;
    let sizes = listed.contents().iter().filter_map(aws_sdk_s3::types::Object::size).map(u64::try_from);
    Ok(sizes.sum::<Result<u64, _>>()?)
}
