//! One member of each version: what is saved is what that version's own tools see and restore.

use e2e::etcd::Restore;
use e2e::hand::Hand;
use e2e::site::Site;
use etcd_snapshot_operator::boltdb::Facts;
use etcd_snapshot_operator::save::Compressed;
use etcd_snapshot_operator::snapshot::{Digest, FileName, Manifest, Verdict};
use etcd_snapshot_operator::storage::{Memory, Store as _};
use sha2::{Digest as _, Sha256};

use super::*;

/// A life of a database: keys that were changed, deleted, bound to leases, compacted away, of one byte and of a mebibyte.
async fn live(etcd: &Etcd) -> Result<()> {
    let address = address(etcd)?;
    let lease = post(address, "lease/grant", &json!({ "TTL": 36_000 })).await?["ID"].clone();
    let key = |number: usize| format!("k{number:07}");
    for first in (0..600).step_by(60) {
        let puts: Vec<Value> = (first..first + 60).map(|at| json!({ "requestPut": { "key": key(at), "value": key(at / 7) } })).collect();
        post(address, "kv/txn", &json!({ "success": puts })).await?;
    }
    for at in 0..20 {
        post(address, "kv/put", &json!({ "key": key(at), "value": key(at + 1), "lease": lease })).await?;
        post(address, "kv/deleterange", &json!({ "key": key(at + 30) })).await?;
    }
    let revision = etcd.revision().await? - 10;
    post(address, "kv/compaction", &json!({ "revision": revision.to_string(), "physical": true })).await?;
    post(address, "kv/put", &json!({ "key": key(7), "value": "abcd".repeat(300_000) })).await?;
    post(address, "kv/put", &json!({ "key": key(33), "value": "" })).await?;
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    Ok(Digest(Sha256::digest(std::fs::read(path)?).into()).to_string())
}

/// Everything that the sidecar says, against what etcd's own tool and the member say.
pub async fn same_as_told(set: &str, etcd: &Etcd, place: &Place, saved: &Saved, raw: &Path) -> Result<()> {
    let path = place.path().join(saved.file.as_str());
    let mut sidecar = place.sidecar(saved.file.as_str())?;
    ensure!(sidecar.remove("provisioning-cluster-spec").as_deref() == Some("{}"));
    let keys: BTreeMap<String, String> =
        sidecar.iter().map(|(key, value)| (key.strip_prefix(PREFIX).unwrap_or("?").to_owned(), value.clone())).collect();
    ensure!(Manifest::from_keys(keys.clone()) == saved.manifest, "{keys:?} {saved:?}");
    let says = |key: &str| keys.get(key).map_or("", String::as_str).to_owned();

    ensure!(says("file-sha256") == sha256(&path)? && says("file-size") == std::fs::metadata(&path)?.len().to_string(), "{keys:?}");
    let bytes = std::fs::read(raw)?;
    let (database, trailer) = bytes.split_at(bytes.len() - 32);
    ensure!(Sha256::digest(database).as_slice() == trailer);
    ensure!(says("db-sha256") == Digest(trailer.try_into()?).to_string());
    ensure!(says("db-size") == database.len().to_string());
    let number = |key: &str| anyhow::Ok(Some(says(key).parse::<i64>().with_context(|| format!("{key} in {keys:?}"))?));

    let tool = |words: &[&str], file: &Path| {
        let mut args: Vec<std::ffi::OsString> = words.iter().map(Into::into).collect();
        args.extend([file.into(), "-w".into(), "json".into()]);
        async move { anyhow::Ok(serde_json::from_str::<Value>(&tools::run(&offline_tool(set)?, args).await?)?) }
    };
    let told = tool(&["snapshot", "status"], raw).await?;
    ensure!(told["revision"] == saved.facts.revision && number("revision")? == told["revision"].as_i64(), "{told} {keys:?}");
    ensure!(says("hash") == format!("{:x}", told["hash"].as_u64().context("a hash")?), "{told} {keys:?}");
    let counted = if set < "etcd-3.6" { "total-keys" } else { "live-keys" };
    ensure!(number(counted)? == told["totalKey"].as_i64(), "{told} {keys:?}");
    ensure!(set < "etcd-3.6" || told["version"] == says("storage-version").as_str(), "{told} {keys:?}");

    // Nobody writes: the member's own answers are those of the snapshot.
    let hash: Value = serde_json::from_str(&etcd.etcdctl(["endpoint", "hashkv", "-w", "json"]).await?)?;
    ensure!(number("hash-kv")? == hash[0]["HashKV"]["hash"].as_i64(), "{hash} {keys:?}");
    ensure!(number("compact-revision")? == hash[0]["HashKV"]["compact_revision"].as_i64(), "{hash} {keys:?}");
    // That of 3.6 panics over a key with a lease; the member's own answer is above.
    if set >= "etcd-3.7" {
        let copy = raw.with_extension("copy");
        std::fs::copy(raw, &copy)?;
        let told = tool(&["hashkv"], &copy).await?;
        ensure!(number("hash-kv")? == told["hash"].as_i64() && number("compact-revision")? == told["compactRevision"].as_i64(), "{told}");
    }
    let status: Value = serde_json::from_str(&etcd.etcdctl(["endpoint", "status", "-w", "json"]).await?)?;
    let status = &status[0]["Status"];
    let hex = |id: &Value| format!("{:x}", id.as_u64().unwrap_or_default());
    ensure!(says("etcd-cluster-id") == hex(&status["header"]["cluster_id"]) && says("member-id") == hex(&status["header"]["member_id"]));
    ensure!(says("etcd-version") == status["version"].as_str().unwrap_or_default() && !says("etcd-version").is_empty());
    ensure!(number("raft-term")? == status["raftTerm"].as_i64(), "{status} {keys:?}");
    let (index, applied) = (says("raft-index").parse::<u64>()?, status["raftAppliedIndex"].as_u64().context("an index")?);
    // 3.4 does not note compactions, and writes nothing else here.
    ensure!(index <= applied && (index == applied || (set == "etcd-3.4" && index + 2 > applied)), "{index} {status}");
    let history = saved.manifest.history.clone().context("a history")?;
    ensure!(history.raft_index == index && history.etcd_cluster == says("etcd-cluster-id"), "{history:?}");

    ensure!(says("quorum") == "true" && says("alarms").is_empty() && saved.is_good(), "{keys:?}");
    ensure!(says("node") == NODE && says("cluster-id") == "uid-of-kube-system" && says("token-hash") == "9f86d081884c", "{keys:?}");
    ensure!(says("compression") == if saved.file.is_compressed() { "zip" } else { "none" }, "{keys:?}");
    let time: Timestamp = says("time").parse()?;
    let named = saved.file.time().context("a time")?;
    ensure!((0..30).contains(&(named.as_second() - time.as_second())), "{time} {named}");
    Ok(())
}

/// What the next process knows of a snapshot without reading it.
async fn is_known(place: &Place, name: &FileName, facts: &Facts) -> Result<()> {
    let listed = place.open()?.list(&Memory::new()).await;
    let file = listed.inventory.seen().get(name).context("it is listed")?;
    let known = file.known.as_ref().context("it need not be read again")?;
    ensure!(known.verdict == Verdict::Whole && file.is_good() && known.token_hash.as_deref() == Some("9f86d081884c"), "{known:?}");
    ensure!(known.manifest.rest.get("revision") == Some(&facts.revision.to_string()), "{known:?}");
    Ok(())
}

async fn saved_raw_and_zipped_it_restores_to_the_same(set: &str) -> Result<()> {
    let (place, unzipped) = (Place::new()?, scratch()?);
    let etcd = Etcd::start_version(set).await?;
    live(&etcd).await?;
    let (source, directory) = (at(&etcd)?, place.open()?);

    let steps = Arc::default();
    let raw = Save { seen: Arc::clone(&steps), ..Save::of(&source, &directory) }.run().await?;
    ensure!(raw.compressed == Compressed::NotAsked, "{raw:?}");
    let begun = |steps: &Mutex<Vec<(Step, Progress)>>| -> Vec<Step> {
        let steps = steps.lock().unwrap();
        steps.iter().filter(|(_, progress)| *progress == Progress::Begun).map(|(step, _)| *step).collect()
    };
    ensure!(begun(&steps) == [Step::Status, Step::Stream, Step::Verify, Step::Inspect, Step::Rename], "{steps:?}");
    let steps = Arc::default();
    let zip = Save { seen: Arc::clone(&steps), ..Save::of(&source, &directory).zip() }.run().await?;
    ensure!(zip.compressed == Compressed::Done && zip.size < raw.size / 2, "{zip:?}");
    ensure!(begun(&steps) == Step::ALL, "{steps:?}");
    ensure!(steps.lock().unwrap().iter().filter(|(_, seen)| matches!(seen, Progress::Ended { ok: true, .. })).count() == 6);

    let both = [raw.file.to_string(), zip.file.to_string()];
    ensure!(place.files()? == both && place.sidecars()? == both, "{:?} {:?}", place.files()?, place.sidecars()?);
    for name in &both {
        ensure!(mode(&place.path().join(name))? == 0o600);
    }
    let raw_path = place.path().join(raw.file.as_str());
    let zip_path = place.path().join(zip.file.as_str());
    let unzipped = unzip(&zip_path, unzipped.path()).await?;

    same_as_told(set, &etcd, &place, &raw, &raw_path).await?;
    same_as_told(set, &etcd, &place, &zip, &unzipped).await?;
    is_known(&place, &raw.file, &raw.facts).await?;
    is_known(&place, &zip.file, &zip.facts).await?;

    let revision = u64::try_from(raw.facts.revision)?;
    ensure!(revision == etcd.revision().await?);
    // etcdctl's own of the same revision has other bytes, each being a new transaction, and the same content.
    let theirs = place.0.path().join("of-etcdctl");
    etcd.save(&theirs).await?;
    for file in [&raw_path, &unzipped, &theirs] {
        restores_to_the_same(set, file, &etcd, revision).await.with_context(|| file.display().to_string())?;
    }
    from_the_bucket(set, &etcd, revision).await
}

/// Unpacks by another reader of zip files than ours.
async fn unzip(archive: &Path, to: &Path) -> Result<PathBuf> {
    tools::run(Path::new("python3"), ["-m".as_ref(), "zipfile".as_ref(), "-e".as_ref(), archive.as_os_str(), to.as_os_str()]).await?;
    let stem = archive.file_stem().context("a name")?;
    ensure!(names(to)? == [stem.to_string_lossy()], "{:?}", names(to)?);
    Ok(to.join(stem))
}

/// Restored with its version's own tool and started, it is what the source was: every key, value and lease, at each revision.
async fn restores_to_the_same(set: &str, file: &Path, source: &Etcd, revision: u64) -> Result<()> {
    let restored = Etcd::restored(set, file).await?;
    ensure!(restored.revision().await? == revision, "{} {revision}", restored.revision().await?);
    for revision in [revision, revision - 1, revision - 5] {
        let (ours, theirs) = (content(&restored, revision).await?, content(source, revision).await?);
        ensure!(ours == theirs, "at {revision}: {ours} restored of {theirs}");
    }
    Ok(())
}

/// Saved by hand, plain and in an archive, what is in the bucket restores to the same.
async fn from_the_bucket(set: &str, etcd: &Etcd, revision: u64) -> Result<()> {
    let site = Site::new().await?;
    for compress in [false, true] {
        let hand = Hand::new("save")?.on(&site).with_bucket(&site).with_kubernetes(&site).flag("--etcd-endpoint", etcd.endpoint());
        let hand = hand.flag("--name", if compress { "zipped" } else { "plain" });
        let hand = if compress { hand.arg("--snapshot-compress") } else { hand };
        let name = crate::cli_save::saved(&hand.run().await?.with(0)?.out)?;
        ensure!(name.ends_with(".zip") == compress, "{name}");
        std::fs::remove_file(site.snapshots().join(&name))?;
        let there = scratch()?;
        let path = there.path().join(&name);
        std::fs::write(&path, site.bucket.get(&site.key(&name)).await?)?;
        let unpacked = scratch()?;
        let path = if compress { unzip(&path, unpacked.path()).await? } else { path };
        restores_to_the_same(set, &path, etcd, revision).await.with_context(|| format!("{name} from the bucket"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_snapshot_of_etcd_3_4_is_restored_by_its_own_tool_to_the_same() -> Result<()> {
    saved_raw_and_zipped_it_restores_to_the_same("etcd-3.4").await
}

#[tokio::test]
async fn a_snapshot_of_etcd_3_5_is_restored_by_its_own_tool_to_the_same() -> Result<()> {
    saved_raw_and_zipped_it_restores_to_the_same("etcd-3.5").await
}

#[tokio::test]
async fn a_snapshot_of_etcd_3_6_is_restored_by_its_own_tool_to_the_same() -> Result<()> {
    saved_raw_and_zipped_it_restores_to_the_same("etcd-3.6").await
}

#[tokio::test]
async fn a_snapshot_of_etcd_3_7_is_restored_by_its_own_tool_to_the_same() -> Result<()> {
    saved_raw_and_zipped_it_restores_to_the_same("etcd-3.7").await
}

#[tokio::test]
async fn a_member_that_was_never_written_to_is_saved_with_its_history() -> Result<()> {
    for set in ["etcd-3.4", "etcd-3.7"] {
        let place = Place::new()?;
        let etcd = Etcd::start_version(set).await?;
        let saved = Save::of(&at(&etcd)?, &place.open()?).run().await?;
        ensure!(saved.facts.live_keys == 0 && saved.manifest.history.is_some_and(|history| history.raft_index > 0), "{set}");
        let mut etcd = etcd;
        etcd.restore(&place.path().join(saved.file.as_str()), Restore::default()).await?;
        etcd.etcdctl(["put", "key", "value"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_snapshot_taken_while_the_member_is_written_to_is_of_one_revision() -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start().await?;
    fill(&etcd, 8).await?;
    let address = address(&etcd)?;
    let writer = tokio::spawn(async move {
        for number in 0.. {
            let put = json!({ "key": format!("k{:07}", number % 300), "value": format!("{number:08}").repeat(40) });
            post(address, "kv/put", &put).await?;
        }
        anyhow::Ok(())
    });
    let (source, directory) = (at(&etcd)?, place.open()?);
    let before = etcd.revision().await?;
    let saved = Save::of(&source, &directory).run().await?;
    let after = etcd.revision().await?;
    writer.abort();
    let revision = u64::try_from(saved.facts.revision)?;
    ensure!(before <= revision && revision <= after && before < after, "{before} {revision} {after}");
    let restored = Etcd::restored("etcd-3.6", &place.path().join(saved.file.as_str())).await?;
    let (ours, theirs) = (content(&restored, revision).await?, content(&etcd, revision).await?);
    ensure!(ours == theirs && restored.revision().await? == revision, "not the same at {revision}");
    Ok(())
}
