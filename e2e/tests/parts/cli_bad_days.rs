//! Verbs by hand on bad days: each says in one sentence what is wrong, with the exit code of that, and does what can be done all the same.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::slice;

use anyhow::{Result, ensure};
use e2e::hand::{Ended, Hand};
use e2e::process::scratch;
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::site::Site;
use e2e::{snapshots, wait};

use crate::cli_save::{save, saved};
use crate::common::RECORDS;
use crate::invariants::{Left, as_found, invariants_by_hand};
use crate::schedule::{Saver, is_whole, names_in, temporaries};

/// Each verb, with what it cannot do without.
const VERBS: [&[&str]; 6] = [&["save"], &["ls"], &["get", "a-n-1"], &["delete", "a-n-1"], &["prune"], &["upload", "--missing"]];

fn typed(words: &[&str]) -> Result<Hand> {
    Ok(words[1..].iter().fold(Hand::new(words[0])?, |hand, word| hand.arg(*word)))
}

/// One complaint, and no log besides.
fn one_sentence(ended: &Ended) -> Result<()> {
    let log = ["WARN", "INFO", "ERROR", "panicked"].iter().any(|word| ended.err.contains(word));
    ensure!(!log && ended.err.matches("error: ").count() <= 1, "{}", ended.err);
    Ok(())
}

/// On a machine on which nothing is set, and of which nothing is touched.
fn nowhere(hand: Hand) -> Hand {
    hand.through([
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs tmpfs /var/lib && \"$@\"; code=$?; ls -A /var/lib >&2; exit $code",
        "sh",
    ])
}

#[tokio::test]
async fn with_no_settings_at_all_each_verb_says_what_it_lacks_and_makes_nothing() -> Result<()> {
    let default = "/var/lib/rancher/k3s/server/db/snapshots";
    for (words, code, says) in [
        (VERBS[0], 1, "https://127.0.0.1:2379"),
        (VERBS[1], 2, "there is nothing to list: no directory"),
        (VERBS[2], 2, "etcd-s3-bucket is not set; give it with flag --etcd-s3-bucket"),
        (VERBS[3], 2, "name a directory with --dir, or a bucket with --s3 and --s3-bucket"),
        (VERBS[4], 2, "name a directory with --dir, or a bucket with --s3 and --s3-bucket"),
        (VERBS[5], 2, "etcd-s3-bucket is not set"),
    ] {
        let ended = nowhere(typed(words)?).run().await?.with(code)?.says(says)?;
        one_sentence(&ended)?;
        // Where it saves, K3s's directory is made, as K3s makes it.
        ensure!(ended.out.is_empty() && ended.err.ends_with("rancher\n") == (words[0] == "save"), "{words:?} {}", ended.err);
        ensure!(words[0] == "save" || words[0] == "get" || words[0] == "upload" || ended.err.contains(default), "{}", ended.err);
    }
    let upload = nowhere(typed(VERBS[5])?.flag("--s3-bucket", "etcd")).run().await?.with(2)?;
    upload.says(&format!("there is no directory {default}: name one with --dir"))?;
    Ok(())
}

#[tokio::test]
async fn half_of_s3_is_a_wrong_usage_for_each_verb() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    for words in VERBS {
        let hand = || anyhow::Ok(typed(words)?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).arg("--s3"));
        let ended = hand()?.run().await?.with(2)?.says("etcd-s3-bucket is not set; give it")?;
        one_sentence(&ended)?;
        let half = hand()?.flag("--s3-bucket", "etcd").env("AWS_ACCESS_KEY_ID", "half").run().await?.with(2)?;
        one_sentence(&half.says("etcd-s3-secret-key is not set where the access key is")?)?;
    }
    ensure!(saver.files()?.is_empty());
    Ok(())
}

#[tokio::test]
async fn what_is_typed_with_nothing_in_it_is_no_default() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let name = site.name(1_700_000_000);
    snapshots::age(&site.place(&name, &snapshots::tiny(1))?, 86_400)?;
    site.put_ours(&name, snapshots::tiny(1)).await?;
    let hand = |verb: &str| anyhow::Ok(Hand::new(verb)?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).with_bucket(site));
    for (hand, says) in [
        (hand("delete")?.arg(&name).flag("--cluster-id", ""), "--cluster-id"),
        (hand("ls")?.arg("--cluster-id="), "--cluster-id"),
        (hand("get")?.arg("--latest").flag("--cluster-id", " "), "--cluster-id"),
        (hand("delete")?.arg(""), "delete takes names of snapshots"),
        (nowhere(hand("delete")?.arg(&name).flag("--dir", "")), "flag --etcd-snapshot-dir is empty; give it a value, or leave it out"),
        (hand("prune")?.flag("--snapshot-retention", ""), "flag --etcd-snapshot-retention is empty"),
        (hand("prune")?.flag("--name", ""), "--name should be the beginning of a file's name"),
        (hand("save")?.flag("--name", ""), "--name should be the beginning of a file's name"),
        (hand("save")?.flag("--s3-bucket", ""), "flag --etcd-s3-bucket is empty"),
        (hand("get")?.arg(&name).flag("--to", ""), "--to"),
        (hand("ls")?.flag("--context", ""), "--context"),
        (hand("ls")?.flag("--kubeconfig", ""), "--kubeconfig"),
        (Hand::plugin("save")?.flag("--dir", ""), "flag --etcd-snapshot-dir is empty"),
        (Hand::plugin("save")?.flag("--node", ""), "flag --node-name is empty"),
    ] {
        let ended = hand.run().await?.with(2)?.says(says)?;
        ensure!(ended.out.is_empty(), "{}", ended.out);
    }
    ensure!(saver.files()? == [name] && site.bucket.keys().await?.len() == 1);
    // Where nothing is a value too, and where the environment has nothing.
    let hand = hand("ls")?.flag("--s3-session-token", "").flag("--s3-region", "").env("ETCD_SNAPSHOT_DIR", "").env("ETCD_HOST", "");
    ensure!(hand.run().await?.with(0)?.rows().len() == 2);
    Ok(())
}

#[tokio::test]
async fn without_kubernetes_nobody_is_told_of_it_and_the_agents_log_level_is_not_ours() -> Result<()> {
    let saver = Saver::new().await?;
    let hand = |verb: &str| {
        let hand = Hand::new(verb)?.on(&saver.site).flag("--etcd-endpoint", saver.etcd.endpoint());
        anyhow::Ok(hand.env("RUST_LOG", "debug,no=such=filter"))
    };
    let ended = hand("save")?.run().await?.with(0)?;
    let name = saved(&ended.out)?;
    ensure!(ended.err.is_empty() && ended.out.lines().count() == 5, "{ended:?}");
    let ended = hand("ls")?.run().await?.with(0)?;
    ensure!(ended.err.is_empty() && ended.rows().len() == 1, "{ended:?}");
    let ended = hand("prune")?.run().await?.with(0)?;
    ensure!(ended.err == "note: there is nothing to delete of on-demand\n" && ended.out.is_empty(), "{ended:?}");
    let ended = hand("delete")?.arg(&name).run().await?.with(0)?;
    ensure!(ended.err.is_empty() && ended.out.lines().count() == 1, "{ended:?}");
    // Who wants more asks for it.
    let ended = hand("save")?.arg("-v").run().await?.with(0)?;
    ensure!(ended.err.contains("no API server is named") && ended.err.contains("a snapshot is saved"), "{}", ended.err);
    ensure!(hand("save")?.arg("-vv").run().await?.with(0)?.err.contains(" INFO "));
    let files = saver.files()?;
    invariants_by_hand(&saver, &Left::new(&files, &files)).await
}

/// An API server behind a proxy.
fn api(site: &Site) -> Result<(FaultProxy, std::path::PathBuf)> {
    site.api.proxied(site.scratch())
}

#[tokio::test]
async fn an_api_server_that_is_away_is_one_note_and_the_rest_is_done() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let (proxy, kubeconfig) = api(site)?;
    proxy.cut();
    let hand =
        |verb: &str| anyhow::Ok(Hand::new(verb)?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).env("KUBECONFIG", &kubeconfig));
    let ended = hand("save")?.run().await?.with(0)?.says("note: the API server could not be asked: ")?;
    one_sentence(&ended)?;
    ensure!(ended.err.matches("API server").count() == 2, "{}", ended.err);
    let name = saved(&ended.out)?;
    is_whole(&site.snapshots().join(&name))?;
    let listed = hand("ls")?.run().await?.with(3)?.says("error: the records are not known\n")?;
    ensure!(listed.rows().len() == 1 && listed.rows()[0][6] == "-", "{}", listed.out);
    // Whose bucket it is nobody says: the directory's goes, the bucket's stays.
    site.put_ours(&name, snapshots::tiny(1)).await?;
    let ended = hand("delete")?.with_bucket(site).arg(&name).run().await?.with(3)?.says("nothing is deleted in the bucket")?;
    ensure!(ended.err.contains("--cluster-id says whose objects they are"), "{}", ended.err);
    ensure!(saver.files()?.is_empty() && site.bucket.keys().await?.len() == 1);
    let ended = hand("prune")?.with_bucket(site).run().await?;
    ensure!(matches!(ended.code, Some(1 | 3)) && ended.err.contains("nothing is deleted in the bucket"), "{ended:?}");
    hand("get")?.with_bucket(site).flag("--to", site.scratch()).arg(&name).run().await?.with(0)?;
    invariants_by_hand(&saver, &Left::new(&[], &[name])).await
}

#[tokio::test]
async fn without_the_crd_what_needs_no_records_is_done() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let (proxy, kubeconfig) = api(site)?;
    // What an API server says of a path that it does not know.
    proxy.when(On::any().path(RECORDS), Fault::status(404));
    let hand = |verb: &str| {
        let hand = Hand::new(verb)?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).env("KUBECONFIG", &kubeconfig);
        anyhow::Ok(hand.with_bucket(site))
    };
    let name = saved(&hand("save")?.run().await?.with(0)?.out)?;
    ensure!(site.bucket.keys().await?.contains(&site.key(&name)), "{:?}", site.bucket.keys().await?);
    let listed = hand("ls")?.run().await?.with(0)?.says("note: there are no records: the CRD is not installed")?;
    ensure!(listed.rows().len() == 2 && listed.rows().iter().all(|row| row[6] == "-"), "{}", listed.out);
    let pruned = hand("prune")?.run().await?;
    ensure!(matches!(pruned.code, Some(1 | 3)), "{pruned:?}");
    one_sentence(&pruned.says("its CRD is not installed")?)?;
    hand("delete")?.arg(&name).run().await?.with(0)?;
    ensure!(saver.files()?.is_empty() && site.bucket.keys().await?.is_empty(), "{:?}", site.bucket.keys().await?);
    invariants_by_hand(&saver, &Left::default()).await
}

#[tokio::test]
async fn a_directory_of_another_user_is_said_and_left_alone() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let name = site.name(1_700_000_000);
    snapshots::age(&site.place(&name, &snapshots::tiny(1))?, 86_400)?;
    chown(site.snapshots(), Some(12_345), Some(12_345))?;
    std::fs::set_permissions(site.snapshots(), std::fs::Permissions::from_mode(0o700))?;
    let path = site.snapshots().display().to_string();
    for (words, codes) in [
        (&["save"][..], [1, 2]),
        (&["ls"], [1, 1]),
        (&["delete", &name], [1, 1]),
        (&["prune", "--name", "etcd-snapshot", "--snapshot-retention", "1"], [1, 1]),
    ] {
        let ended = typed(words)?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).bound_by_modes().run().await?;
        ensure!(ended.code.is_some_and(|code| codes.contains(&code)), "{words:?} {ended:?}");
        ensure!(ended.err.contains("Permission denied") && ended.err.contains(&path), "{words:?} {}", ended.err);
        one_sentence(&ended)?;
    }
    ensure!(saver.files()? == [name] && temporaries(site)?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_is_full_is_said_with_what_would_help() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let s3 = site.s3.proxied()?;
    let full = s3.when(On::method("PUT"), Fault::s3(507, "XMinioStorageFull"));
    let through = format!("http://{}", s3.endpoint());
    let hand = |hand: Hand| hand.with_bucket(site).with_kubernetes(site).flag("--s3-proxy", &through);
    let ended = hand(save(&saver)?).run().await?.with(3)?.says("the bucket is full; make room there")?;
    one_sentence(&ended)?;
    let name = saved(&ended.out)?;
    is_whole(&site.snapshots().join(&name))?;
    let upload = || anyhow::Ok(hand(Hand::new("upload")?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).arg(&name)));
    one_sentence(&upload()?.run().await?.with(1)?.says("the bucket is full; make room there")?)?;
    full.remove();
    upload()?.run().await?.with(0)?;
    ensure!(site.bucket.get(&site.key(&name)).await? == std::fs::read(site.snapshots().join(&name))?);
    let one = slice::from_ref(&name);
    invariants_by_hand(&saver, &Left::new(one, one)).await
}

#[tokio::test]
async fn an_object_that_is_not_what_was_uploaded_is_shown_as_damaged_and_never_left_here() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let with = |verb: &str| anyhow::Ok(Hand::new(verb)?.with_bucket(site).with_kubernetes(site));
    let name = saved(&save(&saver)?.with_bucket(site).with_kubernetes(site).run().await?.with(0)?.out)?;
    let (key, whole) = (site.key(&name), site.bucket.get(&site.key(&name)).await?);
    let head = site.bucket.client.head_object().bucket(&site.bucket.name).key(&key).send().await?;
    let metadata: Vec<(String, String)> = head.metadata.unwrap_or_default().into_iter().collect();
    let metadata: Vec<(&str, &str)> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let to = site.scratch().join("to");
    std::fs::create_dir(&to)?;
    for spoiled in [snapshots::bit_flipped(&whole), snapshots::truncated(&whole)] {
        site.bucket.put_with(&key, spoiled, &metadata).await?;
        let ended = with("get")?.arg(&name).flag("--to", &to).run().await?.with(1)?.says("is damaged")?;
        one_sentence(&ended)?;
        ensure!(names_in(&to)?.is_empty(), "{:?}", names_in(&to)?);
    }
    // Another size is seen without reading it.
    let listed = with("ls")?.run().await?.with(0)?.says("is damaged: ")?;
    ensure!(listed.rows().iter().any(|row| row[0] == name && row[4] == "damaged"), "{}", listed.out);
    with("get")?.arg("--latest").flag("--to", &to).run().await?.with(1)?.says("can be restored")?;
    Ok(())
}

#[tokio::test]
async fn two_hands_and_an_agent_at_once_do_each_thing_once() -> Result<()> {
    let mut saver = Saver::new().await?;
    let site = &saver.site;
    let name = saved(&save(&saver)?.with_kubernetes(site).run().await?.with(0)?.out)?;
    let s3 = site.s3.proxied()?;
    let through = format!("http://{}", s3.endpoint());
    let hand = |verb: &str| {
        let hand = Hand::new(verb)?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).with_bucket(site).with_kubernetes(site);
        anyhow::Ok(hand.flag("--s3-proxy", &through))
    };
    let puts = || s3.count(&On::method("PUT").path(&format!("*/{}", site.key(&name))));
    let held = s3.when(On::method("PUT"), Fault::Hold);
    let first = hand("upload")?.arg(&name).start()?;
    wait::until("the first upload", async || {
        ensure!(puts() > 0);
        Ok(())
    })
    .await?;
    let second = hand("upload")?.arg(&name).start()?;
    // It has the time to send it a second time, if it would.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    held.release();
    first.ended().await?.with(0)?;
    let second = second.ended().await?;
    ensure!(matches!(second.code, Some(0 | 3)), "{second:?}");
    ensure!(puts() == 1 && site.bucket.get(&site.key(&name)).await? == std::fs::read(site.snapshots().join(&name))?, "{} puts", puts());

    let (one, other) = (hand("delete")?.arg(&name).start()?, hand("delete")?.arg(&name).start()?);
    let (one, other) = (one.ended().await?, other.ended().await?);
    let done = [&one, &other].map(|ended| ended.out.matches(&format!("Snapshot {name} deleted.")).count());
    ensure!(done.iter().sum::<usize>() >= 2 && !format!("{one:?}{other:?}").contains("panicked"), "{one:?} {other:?}");
    ensure!(saver.files()?.is_empty() && site.bucket.keys().await?.is_empty());

    // An agent that is saving has the directory; it keeps nobody from looking.
    saver.etcd.pause()?;
    let mut operator = saver.operator().flag("--etcd-snapshot-schedule-cron", "@every 1s").start().await?;
    let state = saver.site.snapshots().with_file_name(".metadata").join(".state");
    operator
        .until("the agent to have the directory", async |_| {
            let locks = std::fs::read_dir(&state)?.filter_map(|entry| std::fs::metadata(entry.ok()?.path().join("save.lock")).ok());
            ensure!(locks.map(|lock| lock.len()).sum::<u64>() > 0, "not yet");
            Ok(())
        })
        .await?;
    save(&saver)?.run().await?.with(4)?.says("error: no snapshot is saved\n")?.says("another")?;
    Hand::new("ls")?.on(&saver.site).run().await?.with(0)?;
    saver.etcd.resume()?;
    operator
        .until("the agent's snapshot", async |_| {
            ensure!(!saver.files()?.is_empty());
            Ok(())
        })
        .await?;
    operator.terminate().await?;
    let files = saver.files()?;
    invariants_by_hand(&saver, &Left::new(&files, &files)).await
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let all: Vec<String> = (0..3).map(|number| site.name(1_700_000_000 + number)).collect();
    for name in &all {
        snapshots::age(&site.place(name, &snapshots::tiny(1))?, 86_400)?;
    }
    site.put_ours(&all[0], snapshots::tiny(1)).await?;
    let hand = |verb: &str| anyhow::Ok(Hand::new(verb)?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()));
    for form in ["table", "json", "yaml"] {
        hand("ls")?.flag("-o", form).run_unread().await?.with(0)?;
    }
    hand("prune")?.flag("--name", "etcd-snapshot").flag("--snapshot-retention", "2").arg("--dry-run").run_unread().await?.with(0)?;
    hand("prune")?.flag("--name", "etcd-snapshot").flag("--snapshot-retention", "2").run_unread().await?.with(0)?;
    ensure!(saver.files()? == all[1..]);
    let to = site.scratch().join("to");
    std::fs::create_dir(&to)?;
    Hand::new("get")?.with_bucket(site).arg(&all[0]).flag("--to", &to).run_unread().await?.with(0)?;
    ensure!(Path::new(&to).join(&all[0]).exists());
    Hand::new("crd")?.run_unread().await?.with(0)?;
    invariants_by_hand(&saver, &Left::new(&all[1..], &all)).await
}

#[tokio::test]
async fn on_a_laptop_there_is_the_bucket_alone_and_no_directory_is_made() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let [first, second, foreign] = [1, 2, 3].map(|number| site.name(1_700_000_000 + number));
    site.put_ours(&first, snapshots::tiny(1)).await?;
    site.put_ours(&second, snapshots::tiny(1)).await?;
    site.bucket.put_with(&site.key(&foreign), snapshots::tiny(1), &[("k3s-cluster-id", "another")]).await?;
    let nobodys = as_found(&site.bucket, [site.key(&foreign)]).await?;
    let cluster = site.kubernetes.cluster_id().await?;
    let laptop = |name: &str| anyhow::Ok(nowhere(Hand::new("delete")?.with_bucket(site).arg(name)));
    let refused = laptop(&first)?.run().await?.with(1)?.says("where no API server says it, --cluster-id says whose objects they are")?;
    ensure!(!refused.err.ends_with("rancher\n"), "{}", refused.err);
    laptop(&first)?.flag("--cluster-id", "wrong").run().await?.with(4)?.says("not proven")?;
    let ended = laptop(&first)?.flag("--cluster-id", &cluster).run().await?.with(0)?;
    ensure!(ended.out.contains(&format!("Snapshot {first} deleted. (s3")) && ended.err.is_empty(), "{ended:?}");
    let other = laptop(&second)?.with_kubernetes(site).flag("--cluster-id", "wrong").run().await?.with(4)?;
    other.says(&format!("the API server says that this is cluster {cluster}, and not wrong"))?;
    // One that is not there is said, and the other one goes.
    let ended = laptop(&second)?.arg("absent-1").with_kubernetes(site).run().await?.with(3)?.says("Snapshot absent-1 not found.")?;
    ensure!(ended.out.contains(&format!("Snapshot {second} deleted. (s3")), "{}", ended.out);
    ensure!(site.bucket.keys().await? == [site.key(&foreign)]);
    // A directory that somebody names has to be there.
    let absent = scratch()?.path().join("absent");
    for words in [&["delete", "a-n-1"][..], &["prune"], &["upload", "--missing"]] {
        let hand = typed(words)?.with_bucket(site).flag("--dir", &absent);
        hand.run().await?.with(1)?.says(&format!("there is no directory {}", absent.display()))?;
    }
    ensure!(!absent.exists());
    invariants_by_hand(&saver, &Left::default().foreign(nobodys)).await
}

#[tokio::test]
async fn where_there_is_no_kubernetes_a_person_says_whose_the_snapshots_are() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let says = "where no API server says it, --cluster-id says whose objects they are";
    let name = saved(&save(&saver)?.with_bucket(site).run().await?.with(3)?.says(says)?.out)?;
    let upload = || anyhow::Ok(Hand::new("upload")?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).with_bucket(site).arg(&name));
    upload()?.run().await?.with(1)?.says(says)?;
    ensure!(site.bucket.keys().await?.is_empty());
    upload()?.flag("--cluster-id", "a-bare-etcd").run().await?.with(0)?;
    let second = save(&saver)?.with_bucket(site).flag("--cluster-id", "a-bare-etcd").run().await?.with(0)?;
    ensure!(second.err.is_empty(), "{}", second.err);
    for name in [&name, &saved(&second.out)?] {
        let head = site.bucket.client.head_object().bucket(&site.bucket.name).key(site.key(name)).send().await?;
        let metadata = head.metadata.unwrap_or_default();
        ensure!(metadata.get("k3s-cluster-id").is_some_and(|cluster| cluster == "a-bare-etcd"), "{name}: {metadata:?}");
    }
    let to = site.scratch().join("to");
    std::fs::create_dir(&to)?;
    Hand::new("get")?.with_bucket(site).arg("--latest").flag("--cluster-id", "a-bare-etcd").flag("--to", &to).run().await?.with(0)?;
    // To an agent of a cluster with another id they are another cluster's.
    let (files, theirs) = (saver.files()?, as_found(&site.bucket, site.bucket.keys().await?).await?);
    invariants_by_hand(&saver, &Left::new(&files, &[]).foreign(theirs).in_vain()).await
}

#[tokio::test]
async fn what_nobody_has_verified_is_read_before_it_counts_for_retention_or_goes_up() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let day = jiff::Timestamp::now().as_second() - 86_400;
    let all: Vec<String> = (0..4).map(|number| site.name(day + number)).collect();
    for (number, name) in (0..).zip(&all) {
        let bytes = if number == 3 { snapshots::bit_flipped(&snapshots::tiny(3)) } else { snapshots::tiny(number) };
        snapshots::age(&site.place(name, &bytes)?, 86_400 - number)?;
    }
    let hand = |verb: &str| anyhow::Ok(Hand::new(verb)?.on(site).flag("--etcd-endpoint", saver.etcd.endpoint()).with_kubernetes(site));
    hand("upload")?.with_bucket(site).arg("--missing").run().await?.with(0)?;
    let up: Vec<String> = all[..3].iter().map(|name| site.key(name)).collect();
    let keys = site.bucket.keys().await?;
    ensure!(up.iter().all(|key| keys.contains(key)) && !keys.contains(&site.key(&all[3])), "{keys:?}");
    let ended = hand("prune")?.flag("--name", "etcd-snapshot").flag("--snapshot-retention", "1").run().await?.with(0)?;
    // The newest good one stays, and of damaged ones two may.
    ensure!(saver.files()? == all[2..], "{:?} {}", saver.files()?, ended.out);
    invariants_by_hand(&saver, &Left::new(&all[2..], &all[..3])).await
}
