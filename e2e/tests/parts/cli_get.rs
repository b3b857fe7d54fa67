//! `get` by hand: what arrives is whole and can be restored, and whatever goes wrong leaves no snapshot that is none.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e::hand::Hand;
use e2e::process::Signal;
use e2e::proxy::{Fault, On};
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::{snapshots, tools, wait};
use etcd_snapshot_operator::snapshot::Digest;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::common::SmallDisk;

/// A site whose bucket is all that there is: `get` needs no node and no API server.
struct There {
    site: Site,
    to: PathBuf,
}

impl There {
    async fn new() -> Result<Self> {
        let site = Site::new().await?;
        let to = site.scratch().join("to");
        std::fs::create_dir(&to)?;
        Ok(Self { site, to })
    }

    fn get(&self) -> Result<Hand> {
        Ok(Hand::new("get")?.with_bucket(&self.site).flag("--to", &self.to))
    }

    /// Puts an object with the digest of its bytes and a manifest, as our agents do.
    async fn put(&self, name: &str, bytes: &[u8], cluster: &str, more: Value) -> Result<()> {
        let sha256 = sha256(bytes);
        let mut manifest = json!({
            "etcd-snapshot-operator.dev/file-sha256": sha256,
            "etcd-snapshot-operator.dev/file-size": bytes.len().to_string(),
        });
        manifest.as_object_mut().context("an object")?.extend(more.as_object().context("an object")?.clone());
        let metadata = [("k3s-cluster-id", cluster), ("k3s-node-name", &*self.site.node), ("etcd-snapshot-sha256", &*sha256)];
        self.site.bucket.put_with(&self.site.key(name), bytes, &metadata).await?;
        self.site.bucket.put_with(&self.site.key(&format!(".metadata/{name}")), manifest.to_string(), &metadata).await
    }

    /// The names in the target directory, hidden ones as well.
    fn here(&self) -> Result<BTreeSet<String>> {
        names(&self.to)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        std::fs::read(self.to.join(name)).with_context(|| format!("read {name}"))
    }
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Digest(sha2::Sha256::digest(bytes).into()).to_string()
}

fn only<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_latest_good_one_arrives_and_the_printed_line_restores_it() -> Result<()> {
    let there = There::new().await?;
    let real = Shared::get()?.real_snapshot()?;
    let cluster = there.site.kubernetes.cluster_id().await?;
    let [old, latest, doubtful, foreign] = [1, 2, 3, 4].map(|number| there.site.name(1_700_000_000 + number));
    let version = json!({ "etcd-snapshot-operator.dev/etcd-version": "3.6.16", "provisioning-cluster-spec": "spec" });
    there.put(&old, &snapshots::tiny(1), &cluster, version.clone()).await?;
    there.put(&latest, &real, &cluster, version.clone()).await?;
    there.site.put_ours(&doubtful, snapshots::tiny(3)).await?;
    there.put(&foreign, &snapshots::tiny(4), "another", version).await?;

    let got = there.get()?.arg("--latest").with_kubernetes(&there.site).run().await?.with(0)?;
    let got = got.says(&format!("{doubtful} is newer, and nobody has verified it"))?;
    let path = there.to.join(&latest);
    ensure!(got.value("File")? == path.to_string_lossy() && got.value("SHA-256")? == sha256(&real), "{}", got.out);
    ensure!(there.here()? == only([".metadata", &latest]) && there.read(&latest)? == real, "{:?}", there.here()?);
    ensure!(std::fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600);
    let sidecar: Value = serde_json::from_slice(&there.read(&format!(".metadata/{latest}"))?)?;
    ensure!(
        sidecar["provisioning-cluster-spec"] == "spec" && sidecar["etcd-snapshot-operator.dev/file-sha256"] == sha256(&real),
        "{sidecar}"
    );

    let line = got.out.lines().find(|line| line.trim().starts_with("etcdutl snapshot restore ")).context("no line restores it")?;
    ensure!(line.ends_with(" --bump-revision 1000000000 --mark-compacted"), "{line}");
    let data = there.site.scratch().join("restored");
    let line = line.trim().replace("/var/lib/etcd-restored", &data.to_string_lossy());
    let words: Vec<&str> = line.split(' ').collect();
    tools::run(&tools::tool("etcd-3.6", words[0])?, &words[1..]).await?;
    ensure!(data.join("member/snap/db").exists());

    // The same command again finds it here; another file in its place is left alone.
    let again = there.get()?.arg("--latest").with_kubernetes(&there.site).run().await?.with(0)?;
    ensure!(again.out.contains("was here already and is whole"), "{}", again.out);
    std::fs::write(&path, snapshots::tiny(9))?;
    there.get()?.arg(&latest).run().await?.with(4)?.says("is there already and is not replaced")?;
    ensure!(there.read(&latest)? == snapshots::tiny(9));
    Ok(())
}

#[tokio::test]
async fn a_compressed_one_is_unpacked_unless_its_archive_is_wanted() -> Result<()> {
    let there = There::new().await?;
    let real = Shared::get()?.real_snapshot()?;
    let plain = there.site.name(7);
    let name = format!("{plain}.zip");
    let archive = snapshots::zipped(&plain, &real)?;
    let more = json!({ "etcd-snapshot-operator.dev/compression": "zip", "x": "y" });
    there.put(&name, &archive, "us", more).await?;
    let got = there.get()?.arg(&name).run().await?.with(0)?;
    ensure!(there.here()? == only([".metadata", &plain]) && there.read(&plain)? == real, "{}", got.out);
    let sidecar: Value = serde_json::from_slice(&there.read(&format!(".metadata/{plain}"))?)?;
    let expected = json!({
        "etcd-snapshot-operator.dev/file-sha256": sha256(&real),
        "etcd-snapshot-operator.dev/file-size": real.len().to_string(),
        "x": "y",
    });
    ensure!(sidecar == expected, "{sidecar}");
    there.get()?.arg(&name).arg("--keep-zip").run().await?.with(0)?;
    ensure!(there.read(&name)? == archive);

    // Written by K3s itself: no digest, no sidecar, and its own way to restore.
    let bare = format!("{}.zip", there.site.name(8));
    there.site.put_ours(&bare, archive).await?;
    let got = there.get()?.arg(&bare).run().await?.with(0)?;
    let (by_k3s, by_etcd) =
        (got.out.find("k3s server --cluster-reset --cluster-reset-restore-path="), got.out.find("etcdutl snapshot restore"));
    ensure!(by_k3s.is_some() && by_k3s < by_etcd, "{}", got.out);
    Ok(())
}

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_where_it_broke() -> Result<()> {
    let there = There::new().await?;
    let (name, bytes) = (there.site.name(1), snapshots::sized(1, 3_000_000));
    there.put(&name, &bytes, "us", json!({})).await?;
    let proxy = there.site.s3.proxied()?;
    let object = || On::get().path(&format!("*/{}", there.site.key(&name)));
    let rule = proxy.when(object().times(3), Fault::CutBody(700_000));
    let hand = Hand::new("get")?.with_bucket_at(&there.site, proxy.endpoint()).flag("--to", &there.to).arg(&name);
    hand.run().await?.with(0)?;
    ensure!(rule.hits() == 3 && there.read(&name)? == bytes);
    let ranges: Vec<_> =
        proxy.requests().iter().filter(|seen| object().is_like(seen)).map(|seen| seen.header("range").map(str::to_owned)).collect();
    ensure!(ranges.len() == 4 && ranges[0].is_none() && ranges[1..].iter().all(Option::is_some), "{ranges:?}");
    let begun = |range: &Option<String>| range.as_ref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let begun: Vec<u64> = ranges.iter().filter_map(begun).collect();
    ensure!(begun.len() == 3 && begun.is_sorted() && begun[0] > 0, "{begun:?}");
    Ok(())
}

/// Waits until so many bytes of a download are here.
async fn until_begun(there: &There) -> Result<PathBuf> {
    wait::until("a part of the download", async || {
        let hidden = there.here()?.into_iter().find(|name| name.starts_with(".etcd-snapshot-operator-get-") && !name.ends_with(".json"));
        let path = there.to.join(hidden.context("nothing has begun")?);
        ensure!(std::fs::metadata(&path)?.len() > 0, "it is empty");
        Ok(path)
    })
    .await
}

#[tokio::test]
async fn what_was_interrupted_or_killed_goes_on_from_there_unless_the_object_is_another() -> Result<()> {
    let there = There::new().await?;
    let (name, bytes) = (there.site.name(1), snapshots::sized(1, 3_000_000));
    there.put(&name, &bytes, "us", json!({})).await?;
    let proxy = there.site.s3.proxied()?;
    let object = || On::get().path(&format!("*/{}", there.site.key(&name)));
    let hand = || anyhow::Ok(Hand::new("get")?.with_bucket_at(&there.site, proxy.endpoint()).flag("--to", &there.to).arg(&name));
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::KILL, -9)] {
        proxy.clear();
        // Each begins, and then waits for an answer that does not come.
        let _cut = proxy.when(object().times(1), Fault::CutBody(500_000));
        let held = proxy.when(object(), Fault::Hold);
        let running = hand()?.start()?;
        let path = until_begun(&there).await?;
        let before = std::fs::metadata(&path)?.len();
        wait::until("the download to wait", async || {
            ensure!(held.hits() > 0, "it does not");
            Ok(())
        })
        .await?;
        running.signal(signal)?;
        let ended = running.ended().await?.with(code)?;
        ensure!(signal == Signal::KILL || ended.err.contains("the same command again goes on from here"), "{}", ended.err);
        ensure!(!there.to.join(&name).exists() && std::fs::metadata(&path)?.len() >= before, "{signal:?}");
    }
    proxy.clear();
    proxy.forget();
    hand()?.run().await?.with(0)?;
    let resumed =
        proxy.requests().iter().any(|seen| object().is_like(seen) && seen.header("range").is_some_and(|range| range != "bytes=0-"));
    ensure!(resumed && there.read(&name)? == bytes && there.here()? == only([".metadata", &name]), "{:?}", there.here()?);

    // Another object of the same name and length: nothing of the first may be in it.
    std::fs::remove_file(there.to.join(&name))?;
    let _cut = proxy.when(object().times(1), Fault::CutBody(500_000));
    let _held = proxy.when(object(), Fault::Hold);
    let running = hand()?.start()?;
    until_begun(&there).await?;
    running.signal(Signal::KILL)?;
    running.ended().await?;
    proxy.clear();
    let other = snapshots::sized(2, 3_000_000);
    there.put(&name, &other, "us", json!({})).await?;
    hand()?.run().await?.with(0)?;
    ensure!(there.read(&name)? == other && there.here()? == only([".metadata", &name]), "{:?}", there.here()?);
    Ok(())
}

#[tokio::test]
async fn an_object_that_changes_while_it_is_downloaded_is_downloaded_anew() -> Result<()> {
    let there = There::new().await?;
    let (name, bytes, other) = (there.site.name(1), snapshots::sized(1, 2_000_000), snapshots::sized(2, 2_000_000));
    there.put(&name, &bytes, "us", json!({})).await?;
    let proxy = there.site.s3.proxied()?;
    let object = || On::get().path(&format!("*/{}", there.site.key(&name)));
    let _cut = proxy.when(object().times(1), Fault::CutBody(500_000));
    let held = proxy.when(object().times(1), Fault::Hold);
    let running = Hand::new("get")?.with_bucket_at(&there.site, proxy.endpoint()).flag("--to", &there.to).arg(&name).start()?;
    wait::until("the download to wait", async || {
        ensure!(held.hits() > 0, "it does not");
        Ok(())
    })
    .await?;
    there.put(&name, &other, "us", json!({})).await?;
    held.release();
    running.ended().await?.with(0)?;
    ensure!(there.read(&name)? == other && there.here()? == only([".metadata", &name]), "{:?}", there.here()?);
    Ok(())
}

#[tokio::test]
async fn what_does_not_verify_leaves_nothing() -> Result<()> {
    let there = There::new().await?;
    let whole = snapshots::sized(1, 100_000);
    let zip = snapshots::zipped("x", &snapshots::bit_flipped(&whole))?;
    for (number, (bytes, ending, words)) in (1..).zip([
        (snapshots::bit_flipped(&whole), "", "its bytes do not match its SHA-256 trailer"),
        (snapshots::truncated(&whole), "", "cannot be a snapshot"),
        (b"no zip".to_vec(), ".zip", "it is not a zip archive"),
        (zip, ".zip", "its bytes do not match its SHA-256 trailer"),
    ]) {
        let name = format!("{}{ending}", there.site.name(number));
        there.site.put_ours(&name, bytes).await?;
        let refused = there.get()?.arg(&name).run().await?.with(1)?.says(words)?.says("nothing was left here")?;
        ensure!(there.here()?.is_empty() && refused.out.is_empty(), "{words}: {:?}", there.here()?);
    }
    // Whole by itself, and not what was uploaded: somebody put other bytes there.
    let name = there.site.name(9);
    let uploaded = sha256(&whole);
    let metadata = [("k3s-cluster-id", "us"), ("etcd-snapshot-sha256", &*uploaded)];
    there.site.bucket.put_with(&there.site.key(&name), snapshots::sized(2, 100_000), &metadata).await?;
    there.get()?.arg(&name).run().await?.with(1)?.says(&format!("and {uploaded} was uploaded"))?;
    ensure!(there.here()?.is_empty(), "{:?}", there.here()?);
    Ok(())
}

#[tokio::test]
async fn whose_snapshot_is_meant_is_known_or_asked_for() -> Result<()> {
    let there = There::new().await?;
    let [first, second, later] = [1, 2, 3].map(|number| there.site.name(number));
    there.put(&first, &snapshots::tiny(1), "first", json!({})).await?;
    // One cluster in the bucket: there is nothing to ask.
    there.get()?.arg("--latest").run().await?.with(0)?;
    ensure!(there.read(&first)? == snapshots::tiny(1));
    there.put(&second, &snapshots::tiny(2), "second", json!({})).await?;
    let refused = there.get()?.arg("--latest").run().await?.with(4)?.says("holds snapshots of 2 clusters")?;
    refused.says("first: 1 snapshot, the newest of 1970-01-01T00:00:01Z")?.says("second: 1 snapshot")?;
    // The API server's cluster has none.
    let refused = there.get()?.arg("--latest").with_kubernetes(&there.site).run().await?.with(4)?;
    refused.says("holds no snapshot of cluster ")?.says("second: 1 snapshot")?;
    there.get()?.arg("--latest").flag("--cluster-id", "third").run().await?.with(4)?;
    there.get()?.arg(&second).flag("--cluster-id", "first").run().await?.with(4)?.says("is of cluster second, and not of first")?;
    ensure!(there.here()? == only([".metadata", &first]), "{:?}", there.here()?);
    there.get()?.arg("--latest").flag("--cluster-id", "second").run().await?.with(0)?;
    ensure!(there.read(&second)? == snapshots::tiny(2));

    // Nothing good is known of it, and it is good.
    there.site.bucket.put_with(&there.site.key(&later), snapshots::tiny(3), &[("rke2-cluster-id", "third")]).await?;
    let got = there.get()?.arg("--latest").flag("--cluster-id", "third").run().await?.with(0)?.says("none is known to be good")?;
    ensure!(there.read(&later)? == snapshots::tiny(3) && got.out.contains("rke2 server --cluster-reset"), "{}", got.out);
    Ok(())
}

#[tokio::test]
async fn what_cannot_work_is_said_in_one_sentence() -> Result<()> {
    let there = There::new().await?;
    let name = there.site.name(1);
    there.site.put_ours(&name, snapshots::tiny(1)).await?;
    for (hand, code, words) in [
        (there.get()?.arg("absent-1"), 1, "there is no absent-1 in s3://"),
        (there.get()?.arg("../absent-1"), 2, "get takes the name of a snapshot, as ls shows it"),
        (there.get()?.arg("x/../../etc/passwd"), 2, "has a slash"),
        (there.get()?.arg(".hidden"), 2, "temporary or hidden file"),
        (there.get()?, 2, "required arguments were not provided"),
        (there.get()?.arg("--latest").arg(&name), 2, "cannot be used with"),
        (Hand::new("get")?.with_bucket(&there.site).arg(&name).flag("--to", there.to.join("absent")), 1, "there is no directory"),
        (Hand::new("get")?.arg(&name), 2, "etcd-s3-bucket is not set; give it with flag --etcd-s3-bucket"),
        (there.get()?.arg(&name).env("AWS_SECRET_ACCESS_KEY", "unseen"), 1, "was refused (403)"),
        (
            Hand::new("get")?.flag("--s3-bucket", "etcd").flag("--s3-config-secret", "s").arg(&name),
            1,
            "no API server is named: set KUBECONFIG",
        ),
    ] {
        let ended = hand.run().await?.with(code)?.says(words)?;
        ensure!(ended.out.is_empty() && !ended.err.contains("unseen") && !ended.err.contains("panicked"), "{ended:?}");
    }
    ensure!(there.here()?.is_empty(), "{:?}", there.here()?);
    Ok(())
}

#[tokio::test]
async fn the_settings_may_be_in_a_secret_and_in_a_file_of_k3s() -> Result<()> {
    let there = There::new().await?;
    let (by_secret, by_file) = (there.site.name(1), there.site.name(2));
    for name in [&by_secret, &by_file] {
        there.site.put_ours(name, snapshots::tiny(1)).await?;
    }
    let bucket = &there.site.bucket.name;
    let values = [
        ("etcd-s3-endpoint", there.site.s3.endpoint()),
        ("etcd-s3-insecure", "true".into()),
        ("etcd-s3-bucket", bucket.clone()),
        ("etcd-s3-folder", "folder".into()),
        ("etcd-s3-access-key", there.site.s3.access_key.clone()),
        ("etcd-s3-secret-key", there.site.s3.secret_key.clone()),
    ];
    let get = || anyhow::Ok(Hand::new("get")?.flag("--to", &there.to));
    let named = || anyhow::Ok(get()?.arg(&by_secret).flag("--s3-config-secret", bucket).flag("--config-namespace", "default"));
    named()?.with_kubernetes(&there.site).run().await?.with(1)?.says(&format!("Secret default/{bucket}, and that cannot be read"))?;
    let secret = Secret {
        metadata: ObjectMeta { name: Some(bucket.clone()), ..ObjectMeta::default() },
        string_data: Some(values.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()),
        ..Secret::default()
    };
    let secrets: Api<Secret> = Api::namespaced(there.site.kubernetes.client.clone(), "default");
    secrets.create(&PostParams::default(), &secret).await?;
    named()?.with_kubernetes(&there.site).run().await?.with(0)?;

    let config = there.site.scratch().join("config.yaml");
    let text: Vec<String> = values.iter().map(|(key, value)| format!("{key}: {value:?}")).collect();
    let text = text.join("\n");
    std::fs::write(&config, format!("etcd-s3: false\nkube-apiserver-arg+: [x]\n{text}"))?;
    get()?.arg(&by_file).flag("--config", &config).run().await?.with(0)?;
    ensure!(there.here()? == only([&*by_secret, &by_file]), "{:?}", there.here()?);
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_said_before_or_when_it_happens() -> Result<()> {
    let there = There::new().await?;
    let (large, plain) = (there.site.name(1), there.site.name(2));
    let bytes = snapshots::sized(1, 3_000_000);
    there.put(&large, &bytes, "us", json!({})).await?;
    let zipped = format!("{plain}.zip");
    there.site.put_ours(&zipped, snapshots::zipped(&plain, &bytes)?).await?;
    let small = SmallDisk::mount(there.site.scratch().join("small"), "1m")?;
    let get = || anyhow::Ok(Hand::new("get")?.with_bucket(&there.site).flag("--to", &small.0));
    get()?.arg(&large).run().await?.with(1)?.says("and 2.8 MiB are needed")?;
    // Only unpacking shows how large it is.
    get()?.arg(&zipped).run().await?.with(1)?.says("No space left on device")?;
    let left = names(&small.0)?;
    ensure!(left.iter().all(|name| name.starts_with(".etcd-snapshot-operator-get-") && !name.ends_with("-unpacked")), "{left:?}");
    Ok(())
}
