//! A cluster that changes its leader while it is saved from: by order, and because the leader is killed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;
use e2e::{tools, wait};
use etcd_snapshot_operator::etcd::EtcdError;
use etcd_snapshot_operator::snapshot::History;
use tokio::sync::Notify;

use super::*;
use crate::etcd::Cluster;

/// Three members, a directory for the snapshots of each, and somebody who writes.
struct Three {
    set: &'static str,
    cluster: Arc<Mutex<Cluster>>,
    endpoints: Vec<String>,
    members: Vec<Member>,
    places: Vec<Place>,
}

impl Three {
    async fn start(set: &'static str) -> Result<Self> {
        let cluster = Cluster::start_version(set, 3, &["--heartbeat-interval", "50", "--election-timeout", "500"]).await?;
        let members = (0..3).map(|at| cluster.member(at)).collect::<Result<_>>()?;
        let endpoints = (0..3).map(|at| cluster.endpoint(at)).collect();
        let places = (0..3).map(|_| Place::new()).collect::<Result<_>>()?;
        Ok(Self { set, cluster: Arc::new(Mutex::new(cluster)), endpoints, members, places })
    }

    /// Who leads, once all three agree on it.
    async fn leader(&self) -> Result<usize> {
        wait::until("three members that agree on their leader", async || {
            let mut told = Vec::new();
            for member in &self.members {
                told.push(member.status().await?);
            }
            let leader = told[0].leader.context("no leader")?;
            ensure!(told.iter().all(|status| status.leader == Some(leader)), "{told:?}");
            told.iter().position(|status| status.member == leader).context("the leader is none of them")
        })
        .await
    }

    async fn move_leader(&self, to: usize) -> Result<()> {
        let id = self.members[to].status().await?.member.to_string();
        let etcdctl = tools::tool(self.set, "etcdctl")?;
        tools::run(&etcdctl, ["--endpoints", &self.endpoints.join(","), "move-leader", &id]).await?;
        Ok(())
    }

    fn kill(&self, at: usize) {
        self.cluster.lock().unwrap().kill(at);
    }

    /// Saves once from each at the same time. `middle` is called when the stream of the leader has come to its second MiB.
    async fn save(&self, leader: usize, middle: impl Fn() + Send + Sync + 'static) -> Result<[Result<Saved, SaveError>; 3]> {
        let directories = self.places.iter().map(Place::open).collect::<Result<Vec<_>>>()?;
        let save = |at: usize| Save::of(&self.members[at], &directories[at]);
        let done = AtomicBool::new(false);
        let of_leader = save(leader).at(move |step, progress| {
            let is_middle = step == Step::Stream && matches!(progress, Progress::Bytes(bytes) if bytes > 1 << 20);
            if is_middle && !done.swap(true, Ordering::Relaxed) {
                middle();
            }
        });
        let [next, last] = [(leader + 1) % 3, (leader + 2) % 3];
        let (one, two, three) = tokio::join!(of_leader.run(), save(next).run(), save(last).run());
        let mut all = [(leader, one), (next, two), (last, three)];
        all.sort_by_key(|(at, _)| *at);
        Ok(all.map(|(_, saved)| saved))
    }
}

/// Writes to whichever member takes it, until it is dropped.
fn writer(endpoints: &[String]) -> Result<tokio::task::AbortHandle> {
    let addresses = endpoints.iter().map(|endpoint| Ok(endpoint.trim_start_matches("http://").parse()?)).collect::<Result<Vec<_>>>()?;
    let writing = tokio::spawn(async move {
        for number in 0_usize.. {
            let put = json!({ "key": format!("k{:07}", number % 300), "value": format!("{number:08}").repeat(40) });
            let _ = post(addresses[number % 3], "kv/put", &put).await;
        }
    });
    Ok(writing.abort_handle())
}

/// In even rounds the leader hands over, in odd ones it is killed.
async fn whole_and_later_in_one_history(set: &'static str, rounds: usize) -> Result<()> {
    let three = Three::start(set).await?;
    let value = "abcdefgh".repeat(160_000);
    let first = three.endpoints[0].trim_start_matches("http://").parse()?;
    for number in 0..8 {
        post(first, "kv/put", &json!({ "key": format!("big{number}"), "value": value })).await?;
    }
    let writing = writer(&three.endpoints)?;
    let mut saved: [Vec<Saved>; 3] = Default::default();
    let mut terms = Vec::new();
    for round in 0..rounds {
        let before = three.leader().await?;
        let changed = if round % 2 == 0 {
            // While its stream goes on the leader hands over; nothing of that shows in the snapshots.
            let middle = Arc::new(Notify::new());
            let reached = Arc::clone(&middle);
            let moving = async {
                tokio::time::timeout(wait::PATIENCE, middle.notified()).await.context("the stream never came to its second MiB")?;
                three.move_leader((before + 1) % 3).await
            };
            let (all, moved) = tokio::join!(three.save(before, move || reached.notify_one()), moving);
            moved?;
            all?.map(|saved| saved.map_err(anyhow::Error::from))
        } else {
            let cluster = Arc::clone(&three.cluster);
            let all = three.save(before, move || cluster.lock().unwrap().kill(before)).await?;
            three.kill(before);
            let files = three.places[before].files()?;
            ensure!(!files.iter().any(|name| name.starts_with('.')), "left of a stream that was cut: {files:?}");
            match &all[before] {
                Err(SaveError::Stream(EtcdError::Lost { .. } | EtcdError::Unreachable { .. } | EtcdError::Unavailable { .. })) => {}
                other => bail!("the leader was killed in the middle of its stream, and its save is {other:?}"),
            }
            three.cluster.lock().unwrap().launch(before, "existing")?;
            all.map(|saved| saved.map_err(anyhow::Error::from))
        };
        for (at, one) in changed.into_iter().enumerate() {
            match one {
                Ok(one) => saved[at].push(one),
                Err(error) => ensure!(at == before && round % 2 == 1, "member {at} in round {round}: {error:?}"),
            }
        }
        let after = three.leader().await?;
        // A machine that is slow makes elections of its own.
        wait::until("a good one of each, since all three are well", async || {
            let mut good = Vec::new();
            for (at, one) in three.save(after, || ()).await?.into_iter().enumerate() {
                if let Ok(one) = &one {
                    saved[at].push(one.clone());
                }
                good.push(one.map(|one| one.is_good()));
            }
            ensure!(good.iter().all(|good| matches!(good, Ok(true))), "{good:?}");
            Ok(())
        })
        .await?;
        terms.push(three.members[after].status().await?.raft_term);
    }
    writing.abort();
    ensure!(terms.is_sorted_by(|a, b| a < b), "not every round had an election: {terms:?}");

    for (place, saved) in three.places.iter().zip(&saved) {
        // All that was told of and nothing else: what was cut has left nothing.
        let names: Vec<String> = saved.iter().map(|saved| saved.file.to_string()).collect();
        ensure!(place.files()? == names && place.sidecars()? == names, "{:?} {:?} {names:?}", place.files()?, place.sidecars()?);
        let histories = saved.iter().map(|saved| saved.manifest.history.clone().context("a history")).collect::<Result<Vec<History>>>()?;
        let later = |a: &History, b: &History| a.etcd_cluster == b.etcd_cluster && a.raft_index <= b.raft_index;
        ensure!(histories.is_sorted_by(later) && saved.is_sorted_by_key(|saved| saved.facts.revision), "{histories:?}");
        for one in saved {
            ensure!(one.is_good() == one.quorum, "{one:?}");
            let told = restores(set, &std::fs::read(place.path().join(one.file.as_str()))?).await.with_context(|| one.file.to_string())?;
            ensure!(told["revision"] == one.facts.revision, "{told} {:?}", one.facts);
        }
    }
    Ok(())
}

#[tokio::test]
async fn through_changes_of_the_leader_every_snapshot_of_etcd_3_4_is_whole_and_later_in_one_history() -> Result<()> {
    Box::pin(whole_and_later_in_one_history("etcd-3.4", 2)).await
}

#[tokio::test]
async fn through_changes_of_the_leader_every_snapshot_of_etcd_3_5_is_whole_and_later_in_one_history() -> Result<()> {
    Box::pin(whole_and_later_in_one_history("etcd-3.5", 2)).await
}

#[tokio::test]
async fn through_changes_of_the_leader_every_snapshot_of_etcd_3_6_is_whole_and_later_in_one_history() -> Result<()> {
    Box::pin(whole_and_later_in_one_history("etcd-3.6", 4)).await
}

#[tokio::test]
async fn through_changes_of_the_leader_every_snapshot_of_etcd_3_7_is_whole_and_later_in_one_history() -> Result<()> {
    Box::pin(whole_and_later_in_one_history("etcd-3.7", 2)).await
}
