//! `ls` by hand: with everything there, and with each of directory, bucket and records missing or failing.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use e2e::apiserver::ApiAccess;
use e2e::etcd::Restore;
use e2e::hand::{Ended, Hand};
use e2e::proxy::{Fault, On};
use e2e::site::Site;
use e2e::snapshots;
use serde_json::Value;

use crate::cli_save::{save, saved};
use crate::common::{RECORDS, all_ready, local_record, name};
use crate::schedule::Saver;

/// Name, location, state, owner and record of each row.
fn rows(ended: &Ended) -> BTreeSet<[String; 5]> {
    ended.rows().iter().map(|row| [0, 1, 4, 5, 6].map(|column| row[column].to_owned())).collect()
}

fn wanted<const N: usize>(rows: [[&str; 5]; N]) -> BTreeSet<[String; 5]> {
    rows.into_iter().map(|row| row.map(str::to_owned)).collect()
}

fn location(site: &Site, name: &str) -> String {
    format!("file://{}/{name}", site.snapshots().display())
}

fn object(site: &Site, name: &str) -> String {
    format!("s3://{}/{}", site.bucket.name, site.key(name))
}

fn ls(site: &Site) -> Result<Hand> {
    Ok(Hand::new("ls")?.on(site))
}

/// Everything below a directory, with sizes and times: equal when nothing was written.
fn tree(dir: &Path) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        all.insert(format!("{} {:?} {}", path.display(), metadata.modified()?, metadata.len()));
        if metadata.is_dir() {
            all.extend(tree(&path)?);
        }
    }
    Ok(all)
}

#[tokio::test]
async fn directory_bucket_and_records_are_shown_with_what_differs() -> Result<()> {
    let site = Site::new().await?;
    let [gone, replaced, good, unrecorded] = [1, 2, 3, 4].map(|number| site.name(1_700_000_000 + number));
    for (number, file) in (1..).zip([&gone, &replaced, &good, &unrecorded]) {
        site.place(file, &snapshots::tiny(number))?;
    }
    let (in_bucket, foreign, silent) = (site.name(1_700_000_010), site.name(1_700_000_011), site.name(1_700_000_012));
    site.put_ours(&in_bucket, snapshots::tiny(1)).await?;
    site.bucket.put_with(&site.key(&foreign), snapshots::tiny(2), &[("k3s-cluster-id", "another")]).await?;
    site.bucket.put(&site.key(&silent), snapshots::tiny(3)).await?;
    let mut operator = site.operator_with_bucket().start().await?;
    let local = [&gone, &replaced, &good, &unrecorded].map(String::clone);
    all_ready(&mut operator, &site, &local, &[in_bucket.clone(), silent.clone()]).await?;
    operator.stop().await;
    std::fs::remove_file(site.snapshots().join(&gone))?;
    site.place(&replaced, &snapshots::bit_flipped(&snapshots::tiny(9)))?;
    let record = local_record(&site, &unrecorded).await?;
    site.kubernetes.delete_record(name(&record)).await?;

    let before = tree(site.scratch())?;
    let listed = ls(&site)?.with_bucket(&site).with_kubernetes(&site).run().await?.with(0)?;
    ensure!(tree(site.scratch())? == before, "listing wrote something");
    let headings: Vec<&str> = listed.out.lines().next().context("nothing")?.split_whitespace().collect();
    ensure!(headings[..4] == ["Name", "Location", "Size", "Created"], "{headings:?}");
    let [at_replaced, at_good, at_unrecorded] = [&replaced, &good, &unrecorded].map(|name| location(&site, name));
    let [at_bucket, at_silent] = [&in_bucket, &silent].map(|name| object(&site, name));
    // The operator has brought the four there.
    let [up_gone, up_replaced, up_good, up_unrecorded] = [&gone, &replaced, &good, &unrecorded].map(|name| object(&site, name));
    let seen = rows(&listed);
    let expected = wanted([
        [&gone, &up_gone, "good", "ours", "ready"],
        [&replaced, &up_replaced, "good", "ours", "ready"],
        [&good, &up_good, "good", "ours", "ready"],
        [&unrecorded, &up_unrecorded, "good", "ours", "ready"],
        [&good, &at_good, "good", "ours", "ready"],
        [&unrecorded, &at_unrecorded, "good", "ours", "none"],
        [&in_bucket, &at_bucket, "plausible", "ours", "ready"],
        [&silent, &at_silent, "plausible", "unknown", "ready"],
    ]);
    ensure!(expected.is_subset(&seen) && seen.len() == 9, "{}{}", listed.out, listed.err);
    let row = listed.rows().into_iter().find(|row| row[1] == at_replaced).context("the replaced file")?;
    ensure!(matches!(row[4], "unverified" | "writing") && row[6] == "differs", "{row:?}");
    let names: Vec<&str> = listed.rows().iter().map(|row| row[0]).collect();
    ensure!(names.is_sorted(), "{names:?}");
    let listed = listed.says(&format!("stands for {gone}, which is not in the directory of node {}", site.node))?;
    let listed = listed.says(&format!("is of another version of {replaced} than the one that is there"))?;
    let listed = listed.says("the bucket also holds 1 snapshot of another cluster")?;
    ensure!(!listed.out.contains(&foreign), "{}", listed.out);

    let all = ls(&site)?.with_bucket(&site).with_kubernetes(&site).arg("--all-clusters").run().await?.with(0)?;
    ensure!(all.out.contains("of cluster another: 1 snapshot") && all.out.contains(&foreign), "{}", all.out);
    Ok(())
}

#[tokio::test]
async fn what_nobody_has_verified_is_verified_when_asked_for() -> Result<()> {
    let site = Site::new().await?;
    let (whole, cut, empty_zip) = (site.name(1), site.name(2), format!("{}.zip", site.name(3)));
    for (name, bytes) in [(&whole, snapshots::tiny(1)), (&cut, snapshots::truncated(&snapshots::tiny(2))), (&empty_zip, b"PK".to_vec())] {
        let path = site.place(name, &bytes)?;
        std::fs::File::options().write(true).open(path)?.set_modified(std::time::UNIX_EPOCH)?;
    }
    let state = |ended: &Ended| ended.rows().iter().map(|row| (row[0].to_owned(), row[4].to_owned())).collect::<Vec<_>>();
    let listed = ls(&site)?.run().await?.with(0)?.says("nobody has verified 3 snapshots in the directory: --verify")?;
    ensure!(state(&listed).iter().all(|(_, state)| state == "unverified"), "{}", listed.out);
    let listed = ls(&site)?.arg("--verify").run().await?.with(0)?;
    let expected = [(whole, "good"), (cut, "damaged"), (empty_zip, "damaged")].map(|(name, state)| (name, state.to_owned()));
    ensure!(state(&listed) == expected, "{}", listed.out);
    listed.says("is damaged: 272 bytes cannot be a snapshot")?;
    ensure!(!site.scratch().join("db/.metadata").exists(), "looking leaves nothing behind");
    Ok(())
}

#[tokio::test]
async fn each_of_the_three_may_be_missing_and_none_keeps_the_others_from_being_seen() -> Result<()> {
    let site = Site::new().await?;
    let (local, in_bucket) = (site.name(1), site.name(2));
    site.place(&local, &snapshots::tiny(1))?;
    site.put_ours(&in_bucket, snapshots::tiny(2)).await?;
    let names = |ended: &Ended| ended.rows().iter().map(|row| row[0].to_owned()).collect::<Vec<_>>();

    // Without Kubernetes, and without having been here before.
    let listed = ls(&site)?.with_bucket(&site).run().await?.with(0)?;
    ensure!(names(&listed) == [local.clone(), in_bucket.clone()], "{}", listed.out);
    ensure!(listed.rows().iter().all(|row| row[6] == "-"), "{}", listed.out);
    // The agent remembers whose cluster this is, and what is verified.
    let mut operator = site.operator().start().await?;
    all_ready(&mut operator, &site, std::slice::from_ref(&local), &[]).await?;
    operator.beats(1).await?;
    operator.stop().await;
    let listed = ls(&site)?.with_bucket(&site).run().await?.with(0)?;
    let owners: Vec<_> = listed.rows().iter().map(|row| (row[4], row[5])).collect();
    ensure!(owners == [("good", "ours"), ("plausible", "ours")], "{}", listed.out);

    // Neither directory nor bucket: the records tell.
    let listed = Hand::new("ls")?.with_kubernetes(&site).run().await?.with(0)?;
    ensure!(names(&listed).contains(&local), "{}", listed.out);
    // Only the bucket.
    let listed = Hand::new("ls")?.with_bucket(&site).run().await?.with(0)?;
    ensure!(names(&listed) == [in_bucket.clone()], "{}", listed.out);
    // Nothing at all.
    Hand::new("ls")?.run().await?.with(2)?.says("there is nothing to list")?.says("name a directory with --dir")?;
    // A directory that somebody named has to be there, and is not made.
    let absent = site.scratch().join("absent");
    Hand::new("ls")?.flag("--dir", &absent).run().await?.with(1)?.says("there is no directory")?;
    ensure!(!absent.exists());
    Ok(())
}

#[tokio::test]
async fn what_fails_is_said_and_the_rest_is_shown() -> Result<()> {
    let site = Site::new().await?;
    let local = site.name(1);
    site.place(&local, &snapshots::tiny(1))?;
    let shows = |ended: &Ended| ended.out.contains(&local);

    let listed = ls(&site)?.with_bucket(&site).env("AWS_SECRET_ACCESS_KEY", "wrong-and-unseen").run().await?.with(3)?;
    ensure!(shows(&listed) && !listed.err.contains("wrong-and-unseen"), "{listed:?}");
    listed.says("the secret key does not belong to the access key")?;
    let proxy = site.s3.proxied()?;
    proxy.cut();
    let listed = ls(&site)?.with_bucket_at(&site, proxy.endpoint()).run().await?.with(3)?.says("was not seen\n  listing s3://")?;
    ensure!(shows(&listed));
    // Nothing but a bucket that cannot be seen.
    Hand::new("ls")?.with_bucket_at(&site, proxy.endpoint()).run().await?.with(1)?;

    // The API server is away; then it answers without serving the records.
    let (api, kubeconfig) = ApiAccess::proxied(&site.api, site.scratch())?;
    api.cut();
    let listed = ls(&site)?.env("KUBECONFIG", &kubeconfig).run().await?.with(3)?.says("the records are not known")?;
    ensure!(shows(&listed));
    api.restore();
    api.when(On::get().path(RECORDS), Fault::kubernetes(404, "NotFound"));
    let listed = ls(&site)?.env("KUBECONFIG", &kubeconfig).run().await?.with(0)?;
    ensure!(shows(&listed));
    listed.says("there are no records: the CRD is not installed")?;
    api.clear();
    api.when(On::get().path(RECORDS), Fault::kubernetes(403, "Forbidden"));
    ls(&site)?.env("KUBECONFIG", &kubeconfig).run().await?.with(3)?.says("its role needs verb list on etcdsnapshotfiles")?;

    // Nobody reads any more: no failure.
    let unread = ls(&site)?.run_unread().await?.with(0)?;
    ensure!(!unread.err.contains("error"), "{}", unread.err);
    Ok(())
}

#[tokio::test]
async fn json_and_yaml_are_a_list_of_records_as_k3s_prints_it() -> Result<()> {
    let site = Site::new().await?;
    let (local, in_bucket) = (site.name(1_700_000_000), site.name(1_600_000_000));
    site.place(&local, &snapshots::tiny(1))?;
    site.put_ours(&in_bucket, snapshots::tiny(2)).await?;
    let json = ls(&site)?.with_bucket(&site).flag("-o", "json").run().await?.with(0)?;
    let list: Value = serde_json::from_str(&json.out)?;
    ensure!((&list["apiVersion"], &list["kind"]) == (&"v1".into(), &"List".into()), "{list}");
    let items = list["items"].as_array().context("items")?;
    let part = |pointer: &str| items.iter().map(|item| item.pointer(pointer).cloned().unwrap_or_default()).collect::<Vec<Value>>();
    ensure!(part("/kind") == ["ETCDSnapshotFile", "ETCDSnapshotFile"] && part("/apiVersion") == ["k3s.cattle.io/v1"; 2], "{list}");
    ensure!(part("/metadata/name") == [format!("s3-{in_bucket}"), format!("local-{local}")], "{list}");
    ensure!(part("/spec/location") == [object(&site, &in_bucket), location(&site, &local)], "{list}");
    ensure!(part("/spec/nodeName") == [site.node.as_str(), &site.node] && part("/status/size") == ["544", "544"], "{list}");
    ensure!(part("/status/creationTime") == ["2020-09-13T12:26:40Z", "2023-11-14T22:13:20Z"], "{list}");
    let yaml = ls(&site)?.with_bucket(&site).flag("--output", "YAML").run().await?.with(0)?;
    let as_yaml: Value = serde_saphyr::from_str(&yaml.out)?;
    ensure!(as_yaml == list, "{}", yaml.out);
    let none = Hand::new("ls")?.flag("--dir", site.scratch().join("db")).flag("-o", "json").run().await?.with(0)?;
    ensure!(serde_json::from_str::<Value>(&none.out)?["items"] == Value::Array(Vec::new()), "{}", none.out);
    Ok(())
}

#[tokio::test]
async fn a_cluster_without_snapshots_there_hears_whose_there_are() -> Result<()> {
    let site = Site::new().await?;
    for (number, cluster) in [(1, "first"), (2, "first"), (3, "second")] {
        site.bucket.put_with(&site.key(&site.name(number)), snapshots::tiny(1), &[("rke2-cluster-id", cluster)]).await?;
    }
    let bare = || anyhow::Ok(Hand::new("ls")?.with_bucket(&site));
    let listed = bare()?.with_kubernetes(&site).run().await?.with(0)?;
    ensure!(!listed.out.contains(&site.name(1)), "{}", listed.out);
    listed.says("the bucket holds none of this cluster, and 3 snapshots of 2 other clusters: --all-clusters")?;
    let listed = bare()?.flag("--cluster-id", "first").run().await?.with(0)?;
    ensure!(listed.rows().iter().all(|row| row[5] == "ours") && listed.rows().len() == 2, "{}", listed.out);
    let grouped = bare()?.flag("--cluster-id", "second").arg("--all-clusters").run().await?.with(0)?;
    let at = |text: &str| grouped.out.find(text).with_context(|| format!("{text}\n{}", grouped.out));
    ensure!(at("cluster second, ours: 1 snapshot")? < at("cluster first: 2 snapshots")?, "{}", grouped.out);
    Ok(())
}

#[tokio::test]
async fn what_somebody_types_for_k3s_is_understood_or_explained() -> Result<()> {
    let site = Site::new().await?;
    let local = site.name(1);
    site.place(&local, &snapshots::tiny(1))?;
    for verb in ["ls", "list", "l"] {
        let listed = Hand::new(verb)?.on(&site).run().await?.with(0)?;
        ensure!(listed.rows()[0][0] == local, "{}", listed.out);
    }
    let config = site.scratch().join("config.yaml");
    std::fs::write(&config, format!("etcd-snapshot-dir: {}\ntls-san: [a, b]\ntoken: unseen\n", site.snapshots().display()))?;
    let listed = Hand::new("ls")?.flag("-c", &config).run().await?.with(0)?;
    ensure!(listed.out.contains(&local) && listed.err.is_empty(), "{listed:?}");
    let with_token = ls(&site)?.flag("-t", "unseen").flag("-s", "https://127.0.0.1:6443").flag("-l", "/log").arg("--debug").run().await?;
    let with_token =
        with_token.with(0)?.says("--etcd-token and --etcd-server do nothing here")?.says("--log and --alsologtostderr do nothing here")?;
    ensure!(!with_token.err.contains("unseen") && with_token.out.contains(&local), "{}", with_token.err);

    for (wrong, words) in [
        (ls(&site)?.arg("--s3"), "etcd-s3-bucket is not set"),
        (
            ls(&site)?.arg("--s3").flag("--s3-bucket", "etcd").flag("--s3-access-key", "a"),
            "etcd-s3-secret-key is not set where the access key is",
        ),
        (ls(&site)?.flag("--s3-endpoint", "https://h"), "has a scheme; write h"),
        (ls(&site)?.flag("-o", "xml"), "[possible values: table, json, yaml]"),
        (ls(&site)?.arg("--etcd-snapshot-name=x"), "by hand the base name is given with --name"),
        (Hand::new("ls")?.flag("--dir", "snapshots"), "is not an absolute path"),
        (Hand::new("ls")?.flag("-c", "/no/such/config.yaml"), "config file /no/such/config.yaml cannot be read"),
    ] {
        wrong.run().await?.with(2)?.says(words)?;
    }
    let help = Hand::new("ls")?.arg("--help").run().await?.with(0)?;
    ensure!(
        help.out.contains("--s3-bucket") && help.out.contains("Exit codes: 0 done;") && !help.out.contains("--etcd-snapshot-retention"),
        "{}",
        help.out
    );
    Ok(())
}

#[tokio::test]
async fn the_program_brings_its_completions_and_manual_pages() -> Result<()> {
    for (shell, words) in
        [("bash", "complete -F"), ("zsh", "#compdef etcd-snapshot-operator"), ("fish", "complete -c etcd-snapshot-operator")]
    {
        let script = Hand::new("completion")?.arg(shell).run().await?.with(0)?;
        ensure!(script.out.contains(words) && script.out.contains("all-clusters"), "{shell}: {}", script.out);
    }
    Hand::new("completion")?.arg("bash").run_unread().await?.with(0)?;
    let dir = e2e::process::scratch()?;
    Hand::new("man")?.arg(dir.path()).run().await?.with(0)?;
    let page = std::fs::read_to_string(dir.path().join("etcd-snapshot-operator-get.1"))?;
    ensure!(page.contains(".SH NAME") && page.contains("keep\\-zip"), "{page}");
    ensure!(dir.path().join("etcd-snapshot-operator.1").exists());
    Hand::new("man")?.arg(dir.path().join("absent")).run().await?.with(1)?.says("cannot be written into")?;
    Ok(())
}

#[tokio::test]
async fn where_the_member_can_be_asked_what_is_from_before_a_restore_is_told_from_what_is_ours() -> Result<()> {
    let mut saver = Saver::new().await?;
    let first = saved(&save(&saver)?.run().await?.with(0)?.out)?;
    for number in 0..20 {
        saver.etcd.etcdctl(["put", "key", &number.to_string()]).await?;
    }
    let second = saved(&save(&saver)?.flag("--name", "later").run().await?.with(0)?.out)?;
    let owners = |ended: &Ended| ended.rows().iter().map(|row| (row[0].to_owned(), row[5].to_owned())).collect::<BTreeSet<_>>();
    let of = |names: [(&String, &str); 2]| names.map(|(name, owner)| (name.clone(), owner.to_owned())).into_iter().collect::<BTreeSet<_>>();
    let asking = |saver: &Saver| anyhow::Ok(ls(&saver.site)?.flag("--etcd-endpoint", saver.etcd.endpoint()));
    let before = asking(&saver)?.run().await?.with(0)?;
    ensure!(owners(&before) == of([(&first, "ours"), (&second, "ours")]) && before.err.is_empty(), "{before:?}");
    saver.etcd.restore(&saver.site.snapshots().join(&first), Restore::default()).await?;
    let after = asking(&saver)?.run().await?.with(0)?;
    ensure!(owners(&after).contains(&(second.clone(), "another-history".to_owned())), "{}", after.out);
    // Nobody says where etcd is: that is told, and the list is shown.
    saver.etcd.kill();
    let unasked =
        asking(&saver)?.run().await?.with(0)?.says("note: ours may be from before a restore, for nobody says where etcd is now: ")?;
    ensure!(owners(&unasked) == of([(&first, "ours"), (&second, "ours")]), "{}", unasked.out);
    ensure!(ls(&saver.site)?.run().await?.with(0)?.err.is_empty(), "who names no etcd hears nothing of it");
    Ok(())
}
