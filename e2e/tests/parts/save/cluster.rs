//! Several members: which of them a snapshot is taken of, and what is noted of their state.

use anyhow::bail;
use e2e::etcd::Restore;
use e2e::wait;
use etcd_snapshot_operator::etcd::AlarmKind;
use etcd_snapshot_operator::snapshot::Failure;
use etcd_snapshot_operator::storage::{Memory, Store as _};

use super::*;
use crate::etcd::{Cluster, Server};

/// The versions of etcd.
const VERSIONS: [&str; 4] = ["etcd-3.4", "etcd-3.5", "etcd-3.6", "etcd-3.7"];

/// Waits until the member's cluster has a leader that a quorum follows.
async fn has_quorum(member: &Member) -> Result<()> {
    wait::until("a quorum", async || if member.linearizable().await? { Ok(()) } else { bail!("none") }).await
}

#[tokio::test]
async fn a_member_without_quorum_is_saved_and_the_snapshot_is_not_good() -> Result<()> {
    for set in VERSIONS {
        Box::pin(without_quorum_it_is_not_good(set)).await.context(set)?;
    }
    Ok(())
}

async fn without_quorum_it_is_not_good(set: &str) -> Result<()> {
    let place = Place::new()?;
    let mut cluster = Cluster::start_version(set, 3, &[]).await?;
    cluster.etcdctl(&["put", "key", "value"]).await?;
    let directory = place.open()?;
    for at in 0..3 {
        has_quorum(&cluster.member(at)?).await?;
        let saved = Save::of(&cluster.member(at)?, &directory).run().await?;
        ensure!(saved.quorum && saved.is_good(), "member {at}: {saved:?}");
    }
    cluster.kill(1);
    let last = cluster.member(0)?;
    has_quorum(&last).await?;
    ensure!(Save::of(&last, &directory).run().await?.quorum, "two of three are a quorum");
    cluster.kill(2);
    let saved = Save::of(&last, &directory).zip().run().await?;
    ensure!(!saved.quorum && !saved.is_good() && saved.manifest.quorum == Some(false), "{saved:?}");
    let listed = place.open()?.list(&Memory::new()).await;
    let listed = listed.inventory.seen();
    ensure!(listed.len() == 5 && listed.values().filter(|file| file.is_good()).count() == 4, "{listed:?}");

    let raw = Save::of(&last, &directory).run().await?;
    let mut restored = Etcd::restored(set, &place.path().join(raw.file.as_str())).await?;
    ensure!(restored.etcdctl(["get", "key", "--print-value-only"]).await?.trim() == "value");
    restored.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_snapshot_of_a_restored_cluster_is_of_another_history() -> Result<()> {
    let place = Place::new()?;
    let mut etcd = Etcd::start().await?;
    for _ in 0..5 {
        etcd.etcdctl(["put", "key", "value"]).await?;
    }
    let (source, directory) = (at(&etcd)?, place.open()?);
    let before = Save::of(&source, &directory).run().await?;
    etcd.restore(&place.path().join(before.file.as_str()), Restore::default()).await?;
    let after = Save::of(&source, &directory).run().await?;
    let (before, after) = (before.manifest.history.context("known")?, after.manifest.history.context("known")?);
    ensure!(before.etcd_cluster == after.etcd_cluster && after.raft_index < before.raft_index, "{before:?} {after:?}");
    Ok(())
}

#[tokio::test]
async fn a_learner_is_refused_and_nothing_is_written() -> Result<()> {
    for set in VERSIONS {
        Box::pin(a_learner_is_refused(set)).await.context(set)?;
    }
    Ok(())
}

async fn a_learner_is_refused(set: &str) -> Result<()> {
    let place = Place::new()?;
    let mut cluster = Cluster::start_version(set, 1, &[]).await?;
    cluster.members.push(Server::new());
    let peer = cluster.members[1].peer_url();
    cluster.etcdctl(&["member", "add", "m1", "--learner", "--peer-urls", &peer]).await?;
    cluster.launch(1, "existing")?;
    let learner = cluster.member(1)?;
    wait::until("the learner to answer", async || if learner.status().await?.learner { Ok(()) } else { bail!("not yet") }).await?;
    let error = Save::of(&learner, &place.open()?).run().await.err().context("it is a learner")?;
    ensure!(matches!(error, SaveError::Learner(_)) && error.is_skip() && error.category() == "learner", "{error:?}");
    ensure!(error.to_string().contains(&cluster.endpoint(1)) && error.to_string().contains("etcd-endpoint"), "{error}");
    place.is_empty()
}

#[tokio::test]
async fn alarms_are_noted_and_with_corrupt_it_is_saved_and_not_good() -> Result<()> {
    for set in VERSIONS {
        Box::pin(with_corrupt_it_is_not_good(set)).await.context(set)?;
    }
    Ok(())
}

async fn with_corrupt_it_is_not_good(set: &str) -> Result<()> {
    let place = Place::new()?;
    let etcd = Etcd::start_version(set).await?;
    etcd.etcdctl(["put", "key", "value"]).await?;
    let (source, directory) = (at(&etcd)?, place.open()?);
    let id = source.status().await?.member.0.to_string();
    for alarm in ["NOSPACE", "CORRUPT"] {
        post(address(&etcd)?, "maintenance/alarm", &json!({ "action": "ACTIVATE", "memberID": id, "alarm": alarm })).await?;
        let saved = Save::of(&source, &directory).run().await?;
        ensure!(saved.is_good() == (alarm == "NOSPACE") && saved.manifest.corrupt == (alarm == "CORRUPT"), "{saved:?}");
        let noted = &place.sidecar(saved.file.as_str())?[&format!("{PREFIX}alarms")];
        ensure!(noted == if alarm == "NOSPACE" { "NOSPACE" } else { "CORRUPT,NOSPACE" }, "{noted}");
        ensure!(saved.alarms.iter().any(|raised| raised.kind == AlarmKind::NoSpace));
    }
    Ok(())
}

#[tokio::test]
async fn a_user_without_the_role_root_saves_nothing_and_is_told_why() -> Result<()> {
    let place = Place::new()?;
    let cluster = Cluster::start(1, &[]).await?;
    for words in [&["user", "add", "root:hunter2"][..], &["user", "add", "reader:hunter3"], &["auth", "enable"]] {
        cluster.etcdctl(words).await?;
    }
    let as_user = |name: &str, password: &str| member(&cluster.endpoint(0), |s| (s.user, s.password) = (name.into(), password.into()));
    let directory = place.open()?;
    let error = Save::of(&as_user("reader", "hunter3")?, &directory).run().await.err().context("it is no root")?;
    let failure = Failure::from(&error);
    ensure!(failure.message.contains("\"reader\"; a snapshot needs the role root") && failure.category == "auth", "{failure:?}");
    ensure!(!format!("{error:?} {failure:?}").contains("hunter3"));
    place.is_empty()?;
    let error = Save::of(&as_user("reader", "wrong")?, &directory).run().await.err().context("a wrong password")?;
    ensure!(matches!(error, SaveError::Status(_)) && error.step() == Some(Step::Status), "{error:?}");
    place.is_empty()?;
    ensure!(Save::of(&as_user("root", "hunter2")?, &directory).run().await?.is_good());
    Ok(())
}
