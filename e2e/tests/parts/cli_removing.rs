//! `delete` and `prune` by hand: what goes, what does not, and why.

use std::slice;

use anyhow::{Result, ensure};
use e2e::etcd::Restore;
use e2e::hand::Hand;
use e2e::operator::Operator;
use e2e::proxy::{Fault, On};
use e2e::site::Site;
use e2e::snapshots;

use crate::cli_save::{save, saved};
use crate::common::{all_ready, complaints, file};
use crate::invariants::{Left, as_found, invariants, invariants_by_hand};
use crate::schedule::{Saver, names_in};

fn hand(verb: &str, saver: &Saver) -> Result<Hand> {
    Ok(Hand::new(verb)?.on(&saver.site).flag("--etcd-endpoint", saver.etcd.endpoint()))
}

fn with_all(verb: &str, saver: &Saver) -> Result<Hand> {
    Ok(hand(verb, saver)?.with_bucket(&saver.site).with_kubernetes(&saver.site))
}

/// An agent that does not save.
async fn agent(saver: &Saver) -> Result<Operator> {
    saver.idle().start().await
}

fn sidecars(site: &Site) -> Result<Vec<String>> {
    let mut names = names_in(&site.snapshots().with_file_name(".metadata"))?;
    names.retain(|name| !name.starts_with('.'));
    Ok(names)
}

#[tokio::test]
async fn a_named_snapshot_goes_here_and_in_the_bucket_with_sidecars_and_records() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let goes = saved(&save(&saver)?.with_bucket(site).with_kubernetes(site).run().await?.with(0)?.out)?;
    let stays = saved(&save(&saver)?.with_bucket(site).with_kubernetes(site).run().await?.with(0)?.out)?;
    let both = [goes.clone(), stays.clone()];
    let mut operator = agent(&saver).await?;
    all_ready(&mut operator, site, &both, &both).await?;

    let dry = with_all("delete", &saver)?.arg(&goes).arg("--dry-run").run().await?.with(0)?;
    ensure!(dry.out.matches("would be deleted").count() == 2, "{}", dry.out);
    all_ready(&mut operator, site, &both, &both).await?;

    let ended = with_all("delete", &saver)?.arg(&goes).run().await?.with(0)?;
    ensure!(ended.out.matches(&format!("Snapshot {goes} deleted.")).count() == 2, "{}", ended.out);
    ensure!(saver.files()? == [stays.clone()] && sidecars(site)? == [stays.clone()], "{:?}", sidecars(site)?);
    let left = [site.key(&format!(".metadata/{stays}")), site.key(&stays)];
    ensure!(site.bucket.keys().await? == left, "{:?}", site.bucket.keys().await?);
    // The records went with it, and not by the agent's next beat.
    let records: Vec<_> = [site.local_records().await?, site.bucket_records().await?].concat();
    ensure!(records.iter().all(|record| file(record) == stays), "records of {goes} are left");
    operator.beats(3).await?;
    let stays = slice::from_ref(&stays);
    all_ready(&mut operator, site, stays, stays).await?;
    let vanished = operator.metrics().await?.sum("etcd_snapshot_vanished_total", &[]).unwrap_or(0.0);
    ensure!(vanished < 0.5 && complaints(&operator, "panicked").is_empty(), "{vanished} {:?}", complaints(&operator, ""));

    with_all("delete", &saver)?.arg(&goes).run().await?.with(1)?.says(&format!("Snapshot {goes} not found"))?;
    with_all("delete", &saver)?.arg("../etc/passwd").run().await?.with(2)?;
    with_all("delete", &saver)?.run().await?.with(2)?;
    // Nobody reads what is said: it is deleted all the same.
    with_all("delete", &saver)?.arg(&stays[0]).run_unread().await?.with(0)?;
    ensure!(saver.files()?.is_empty() && site.bucket.keys().await?.is_empty());
    all_ready(&mut operator, site, &[], &[]).await?;
    invariants(operator, &saver.idle(), site, &Left::default()).await
}

#[tokio::test]
async fn what_lies_on_another_node_too_is_named_and_stays_there() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let name = site.name(1_700_000_000);
    site.place(&name, &snapshots::tiny(1))?;
    let mut operator = agent(&saver).await?;
    all_ready(&mut operator, site, slice::from_ref(&name), &[]).await?;
    // Another node, whose person has the bucket and no such file.
    let another = || anyhow::Ok(Hand::new("delete")?.flag("--node-name", "another").with_bucket(site).with_kubernetes(site).arg(&name));
    let ended = another()?.run().await?.with(3)?.says(&format!("lies on node {}", site.node))?;
    ensure!(ended.out == format!("Snapshot {name} deleted. (s3, asked)\n"), "{}", ended.out);
    another()?.run().await?.with(1)?.says(&format!("lies on node {}", site.node))?;
    ensure!(saver.files()? == slice::from_ref(&name));
    let here = with_all("delete", &saver)?.arg(&name).run().await?.with(0)?;
    ensure!(!here.err.contains("lies on node"), "{}", here.err);
    invariants(operator, &saver.idle(), site, &Left::default()).await
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_the_bucket_needs_a_cluster() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let (foreign, ours, silent) = (site.name(1_700_000_000), site.name(1_700_000_001), site.name(1_700_000_002));
    site.bucket.put_with(&site.key(&foreign), snapshots::tiny(1), &[("k3s-cluster-id", "another")]).await?;
    site.bucket.put(&site.key(&silent), snapshots::tiny(1)).await?;
    site.put_ours(&ours, snapshots::tiny(2)).await?;
    let nobodys = as_found(&site.bucket, [site.key(&foreign), site.key(&silent)]).await?;
    for name in [&foreign, &silent] {
        with_all("delete", &saver)?.arg(name).run().await?.with(4)?.says("not proven")?;
    }
    let without = hand("delete", &saver)?.with_bucket(site).arg(&ours).run().await?;
    ensure!(without.code != Some(0) && without.err.contains("--cluster-id"), "{without:?}");
    ensure!(site.bucket.keys().await?.len() == 3);
    hand("delete", &saver)?.with_bucket(site).flag("--cluster-id", "yet-another").arg(&ours).run().await?.with(4)?;
    ensure!(site.bucket.keys().await?.len() == 3);
    let cluster = site.kubernetes.cluster_id().await?;
    let ended = hand("delete", &saver)?.with_bucket(site).flag("--cluster-id", cluster).arg(&ours).run().await?.with(0)?;
    ensure!(ended.out.contains(&format!("Snapshot {ours} deleted.")), "{}", ended.out);
    ensure!(site.bucket.keys().await? == [site.key(&foreign), site.key(&silent)]);
    invariants_by_hand(&saver, &Left::default().foreign(nobodys)).await
}

#[tokio::test]
async fn a_bucket_that_is_away_costs_the_directory_nothing() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let [first, second] = [site.name(1_700_000_000), site.name(1_700_000_001)];
    for name in [&first, &second] {
        site.place(name, &snapshots::tiny(1))?;
        site.put_ours(name, snapshots::tiny(1)).await?;
    }
    let s3 = site.s3.proxied()?;
    let through = || anyhow::Ok(with_all("delete", &saver)?.flag("--s3-proxy", format!("http://{}", s3.endpoint())));
    s3.when(On::method("DELETE"), Fault::s3(403, "AccessDenied"));
    through()?.arg(&first).run().await?.with(3)?.says("is not deleted")?;
    s3.cut();
    through()?.arg(&second).run().await?.with(3)?.says("nothing is deleted in the bucket")?;
    ensure!(saver.files()?.is_empty() && site.bucket.keys().await?.len() == 2);
    invariants_by_hand(&saver, &Left::new(&[], &[first, second])).await
}

#[tokio::test]
async fn three_saves_are_pruned_to_two_as_k3s_does_it() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let mut operator = agent(&saver).await?;
    operator.ready().await?;
    let mut all = Vec::new();
    for _ in 0..3 {
        let hand = save(&saver)?.with_bucket(site).with_kubernetes(site).flag("--name", "PRUNE_TEST");
        all.push(saved(&hand.run().await?.with(0)?.out)?);
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    all_ready(&mut operator, site, &all, &all).await?;
    let prune = || anyhow::Ok(with_all("prune", &saver)?.flag("--snapshot-retention", "2").flag("--s3-retention", "2"));
    // Another base name is none of its business.
    prune()?.flag("--name", "another").run().await?.with(0)?.says("nothing to delete of another")?;
    let ended = prune()?.flag("--name", "PRUNE_TEST").run().await?.with(0)?;
    ensure!(ended.out.matches(&format!("Snapshot {} deleted.", all[0])).count() == 2, "{} {}", ended.out, ended.err);
    ensure!(saver.files()? == all[1..] && sidecars(site)? == all[1..]);
    all_ready(&mut operator, site, &all[1..], &all[1..]).await?;
    operator.beats(3).await?;
    all_ready(&mut operator, site, &all[1..], &all[1..]).await?;
    invariants(operator, &saver.idle(), site, &Left::new(&all[1..], &all[1..])).await
}

#[tokio::test]
async fn prune_is_the_way_out_of_the_brake_and_says_first_what_it_would_do() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let day = jiff::Timestamp::now().as_second() - 86_400;
    let all: Vec<String> = (0..60).map(|number| site.name(day + number)).collect();
    for (number, name) in (0..).zip(&all) {
        let path = site.place(name, &snapshots::tiny(number))?;
        let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(day)? + number);
        std::fs::File::options().write(true).open(path)?.set_modified(at)?;
    }
    let setup = site.operator().flag("--etcd-endpoint", saver.etcd.endpoint()).flag("--etcd-snapshot-retention", "5");
    let mut operator = setup.start().await?;
    all_ready(&mut operator, site, &all, &[]).await?;
    crate::common::complains(&mut operator, "runs etcd-snapshot-operator prune").await?;
    ensure!(saver.files()?.len() == 60);

    let prune = || anyhow::Ok(hand("prune", &saver)?.with_kubernetes(site).flag("--name", "etcd-snapshot"));
    let dry = prune()?.arg("--dry-run").run().await?.with(0)?;
    ensure!(dry.out.matches("would be deleted. (local, beyond-retention)").count() == 55, "{}", dry.out);
    ensure!(saver.files()?.len() == 60);
    let ended = prune()?.run().await?.with(0)?;
    ensure!(ended.out.matches(" deleted. ").count() == 55, "{}", ended.out);
    ensure!(saver.files()? == all[55..]);
    all_ready(&mut operator, site, &all[55..], &[]).await?;
    prune()?.run().await?.with(0)?.says("nothing to delete")?;
    invariants(operator, &setup, site, &Left::new(&all[55..], &[])).await
}

#[tokio::test]
async fn what_is_from_before_a_restore_goes_only_when_somebody_takes_it_over() -> Result<()> {
    let mut saver = Saver::new().await?;
    let mut old = Vec::new();
    for _ in 0..3 {
        for _ in 0..10 {
            saver.etcd.etcdctl(["put", "key", "more"]).await?;
        }
        old.push(saved(&save(&saver)?.with_kubernetes(&saver.site).run().await?.with(0)?.out)?);
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    saver.etcd.restore(&saver.site.snapshots().join(&old[0]), Restore::default()).await?;
    let new = saved(&save(&saver)?.with_kubernetes(&saver.site).run().await?.with(0)?.out)?;
    let prune = |saver: &Saver| anyhow::Ok(hand("prune", saver)?.with_kubernetes(&saver.site).flag("--snapshot-retention", "1"));
    prune(&saver)?.run().await?.with(0)?.says("nothing to delete")?;
    hand("delete", &saver)?.with_kubernetes(&saver.site).arg(&old[2]).run().await?.with(4)?.says("--take-over")?;
    ensure!(saver.files()?.len() == 4);
    let ended = prune(&saver)?.arg("--take-over").run().await?.with(0)?;
    let left = saver.files()?;
    ensure!(left.contains(&new) && left.len() < 4, "{} {left:?}", ended.out);
    // What is left of before the restore stays here, and does not go up.
    invariants_by_hand(&saver, &Left::new(&left, &[new])).await
}

#[tokio::test]
async fn prune_without_what_it_needs_says_so_and_deletes_nothing_there() -> Result<()> {
    let mut saver = Saver::new().await?;
    let all: Vec<String> = (0..3).map(|number| saver.site.name(1_700_000_000 + number)).collect();
    for name in &all {
        saver.site.place(name, &snapshots::tiny(1))?;
        saver.site.put_ours(name, snapshots::tiny(1)).await?;
    }
    let prune = |saver: &Saver| anyhow::Ok(hand("prune", saver)?.flag("--name", "etcd-snapshot").flag("--snapshot-retention", "1"));
    saver.etcd.kill();
    let ended = prune(&saver)?.run().await?;
    ensure!(ended.code != Some(0) && ended.err.contains(&saver.etcd.endpoint()), "{ended:?}");
    ensure!(saver.files()? == all);
    saver.etcd.launch().await?;
    // Without the records objects would go and leave them behind; the directory is pruned all the same.
    let ended = prune(&saver)?.with_bucket(&saver.site).run().await?;
    ensure!(ended.code != Some(0) && ended.err.contains("bucket"), "{ended:?}");
    ensure!(saver.files()? == all[2..] && saver.site.bucket.keys().await?.len() == 3);
    invariants_by_hand(&saver, &Left::new(&all[2..], &all)).await
}

#[tokio::test]
async fn the_records_of_a_bucket_that_nobody_is_configured_for_are_forgotten_and_no_object_is_touched() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let (here, there) = (site.name(1_700_000_000), site.name(1_700_000_001));
    site.place(&here, &snapshots::tiny(1))?;
    site.put_ours(&there, snapshots::tiny(2)).await?;
    let mut operator = agent(&saver).await?;
    let both = [here.clone(), there.clone()];
    all_ready(&mut operator, site, slice::from_ref(&here), &both).await?;
    let objects = site.bucket.keys().await?;
    let bucket = format!("s3://{}/{}", site.bucket.name, e2e::site::FOLDER);

    let with_it = with_all("prune", &saver)?.flag("--forget-storage", &bucket);
    with_it.run().await?.with(4)?.says("is the bucket of the settings in force")?;
    operator.stop().await;
    let prune = |of: &str| anyhow::Ok(hand("prune", &saver)?.with_kubernetes(site).flag("--forget-storage", of));
    prune("s3://another/folder")?.run().await?.with(1)?.says(&bucket)?;
    prune("")?.run().await?.with(2)?;
    prune(&bucket)?.flag("--name", "x").run().await?.with(2)?;
    let dry = prune(&bucket)?.arg("--dry-run").run().await?.with(0)?;
    ensure!(dry.out.starts_with(&format!("2 records of {bucket} at ")), "{}", dry.out);
    ensure!(site.bucket_records().await?.len() == 2);

    let ended = prune(&bucket)?.run().await?.with(0)?;
    ensure!(ended.out.starts_with(&format!("2 records of {bucket} at ")) && ended.out.ends_with(" forgotten.\n"), "{}", ended.out);
    ensure!(site.bucket_records().await?.is_empty() && site.local_records().await?.len() == 1);
    ensure!(site.bucket.keys().await? == objects && saver.files()? == slice::from_ref(&here));
    prune(&bucket)?.run().await?.with(1)?.says("there are no records of")?;
    invariants_by_hand(&saver, &Left::new(&[here], &both)).await
}
