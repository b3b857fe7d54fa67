//! etcd is restored from an older snapshot under a running agent: records travel back in time, files and objects do not.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use e2e::apiserver::ApiServer;
use e2e::etcd::Restore;
use e2e::operator::Operator;
use e2e::proxy::FaultProxy;
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::snapshots;

use crate::common::{all_ready, complaints, writes};

/// A cluster with an agent whose etcd was saved when there were other snapshots than now: one is gone since and one is new,
/// in the directory and in the bucket. And one that was there then and is there now.
struct Story {
    server: ApiServer,
    site: Site,
    saved: PathBuf,
    proxy: FaultProxy,
    operator: Operator,
    files: [String; 2],
    objects: [String; 2],
}

impl Story {
    /// `member`: the agent's etcd member answers it, so that it hears of the restore there as well.
    async fn begin(member: bool) -> Result<Self> {
        let server = ApiServer::start().await?;
        server.kubernetes().await?.apply_crd().await?;
        let site = Site::on(server.access(), &Shared::get()?.s3).await?;
        let name = |number: i64| site.name(1_700_000_000 + number);
        let (stays, goes, comes) = ([name(0), name(10)], [name(1), name(11)], [name(2), name(12)]);
        for [file, object] in [&stays, &goes] {
            site.place(file, &snapshots::tiny(0))?;
            site.put_ours(object, snapshots::tiny(0)).await?;
        }
        let (proxy, kubeconfig) = server.proxied(site.scratch())?;
        let setup = site.operator_with_bucket().env("KUBECONFIG", kubeconfig);
        let setup = if member { setup } else { setup.flag("--etcd-endpoint", "http://127.0.0.1:9") };
        let mut operator = setup.start().await?;
        all_ready(&mut operator, &site, &[stays[0].clone(), goes[0].clone()], &[stays[1].clone(), goes[1].clone()]).await?;
        operator.beats(1).await?;
        let saved = site.scratch().join("saved");
        server.etcd.save(&saved).await?;

        std::fs::remove_file(site.snapshots().join(&goes[0]))?;
        site.bucket.delete(&site.key(&goes[1])).await?;
        site.place(&comes[0], &snapshots::tiny(2))?;
        site.put_ours(&comes[1], snapshots::tiny(2)).await?;
        let ([stays_local, stays_s3], [comes_local, comes_s3]) = (stays, comes);
        let (files, objects) = ([stays_local, comes_local], [stays_s3, comes_s3]);
        all_ready(&mut operator, &site, &files, &objects).await?;
        operator.beats(1).await?;
        Ok(Self { server, site, saved, proxy, operator, files, objects })
    }

    async fn restore(&mut self, how: Restore) -> Result<()> {
        self.server.etcd.restore(&self.saved, how).await
    }

    /// Records say what is, and go on saying it; files and objects are as they were.
    async fn ends_well(&mut self) -> Result<()> {
        all_ready(&mut self.operator, &self.site, &self.files, &self.objects).await?;
        self.operator.beats(2).await?;
        all_ready(&mut self.operator, &self.site, &self.files, &self.objects).await?;
        self.proxy.forget();
        self.operator.beats(2).await?;
        ensure!(writes(&self.proxy) == 0, "{:?}", self.proxy.requests());
        for file in &self.files {
            ensure!(self.site.snapshots().join(file).exists());
        }
        let gone_up: Vec<String> = self.site.bucket.gone_up().iter().cloned().collect();
        ensure!(gone_up.len() == 3, "{gone_up:?}");
        let mut keys: Vec<String> = self.objects.iter().chain(&gone_up).map(|object| self.site.key(object)).collect();
        keys.extend(gone_up.iter().map(|object| self.site.key(&format!(".metadata/{object}"))));
        keys.sort();
        ensure!(self.site.bucket.keys().await? == keys, "{:?}", self.site.bucket.keys().await?);
        ensure!(complaints(&self.operator, "panicked").is_empty());
        let vetoes = self.operator.metrics().await?;
        let mistakes =
            ["incomplete", "not-ours", "not-good", "newest-good"].map(|kind| vetoes.sum("etcd_snapshot_vetoes_total", &[("kind", kind)]));
        ensure!(mistakes == [Some(0.0); 4], "{mistakes:?}");
        // What changes from now on is seen as ever.
        let gone = self.site.local_records().await?.remove(0);
        self.site.kubernetes.delete_record(crate::common::name(&gone)).await?;
        all_ready(&mut self.operator, &self.site, &self.files, &self.objects).await
    }
}

#[tokio::test]
async fn after_a_restore_as_the_file_says_records_are_right_again() -> Result<()> {
    let mut story = Story::begin(false).await?;
    story.server.stop();
    story.restore(Restore::default()).await?;
    story.server.launch().await?;
    story.ends_well().await?;
    ensure!(complaints(&story.operator, "travelled back in time").len() == 1, "{:#?}", complaints(&story.operator, ""));

    // And once more, while its watch is cut off and the revisions pass what was seen before the API answers it again.
    story.proxy.cut();
    let before = story.server.etcd.revision().await?;
    story.server.stop();
    story.restore(Restore::default()).await?;
    while story.server.etcd.revision().await? <= before + 100 {
        story.server.etcd.etcdctl(["put", "/elsewhere", "x"]).await?;
    }
    story.server.launch().await?;
    story.proxy.restore();
    story.ends_well().await
}

#[tokio::test]
async fn after_a_restore_with_bumped_revisions_records_are_right_again() -> Result<()> {
    let mut story = Story::begin(true).await?;
    let bumped = Restore { bump_revision: Some(1_000_000) };
    story.server.stop();
    story.restore(bumped).await?;
    story.server.launch().await?;
    story.ends_well().await?;
    // The same under an API server that runs on: its watches learn that what they had seen is compacted.
    story.restore(Restore { bump_revision: Some(2_000_000) }).await?;
    story.ends_well().await
}

#[tokio::test]
async fn an_api_server_that_runs_on_over_a_restore_makes_nobody_delete_anything() -> Result<()> {
    let mut story = Story::begin(true).await?;
    story.restore(Restore::default()).await?;
    story.operator.beats(3).await?;
    for file in &story.files {
        ensure!(story.site.snapshots().join(file).exists());
    }
    // What it shows may be the past or the present; once it is restarted it is what the store holds, and that is put right.
    story.server.restart().await?;
    story.ends_well().await
}
