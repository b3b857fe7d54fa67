//! Whose a snapshot file is: ours, another history's, another cluster's, or unknown (docs/design.md 7).
//!
//! A restore starts a new history: etcd's raft index falls, while its cluster id stays if URLs and token stay. A file is
//! of another history when something surely newer has another etcd cluster id or a lower raft index. Only what is ours
//! is ever counted or deleted. The word of a file that is dated ahead of the clock is doubtful: it may be that clock which
//! was wrong, and all that was saved after it was set back looks older. So what only such a file speaks against goes up
//! like ours, and is kept like another history.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::file::{Listing, SnapshotFile, Storage};
use super::manifest::History;
use super::name::{ClusterId, FileName, NodeName};

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Our node.
    pub node: NodeName,
    /// Our cluster; None until the API server or the state has told it.
    pub cluster: Option<ClusterId>,
    /// What our member has said of its history.
    pub member: Member,
}

/// What our etcd member has said of its history, since this process started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// It has not answered yet. What was remembered from before is no answer: a restore may lie in between.
    Silent,
    /// Its last answer, asked after the listing and behind a linearizable read; of an earlier pass while it is away.
    At(History),
}

/// Whose a snapshot file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// Our cluster's and of its present history.
    Ours,
    /// Ours, but for the word of files that are dated ahead: it goes up and is a copy, takes no place and is never deleted.
    Doubtful,
    /// Our cluster's, from before a restore: it keeps its record, is not counted and never deleted.
    AnotherHistory,
    /// It has no record here, is not counted and never deleted.
    AnotherCluster,
    /// Nothing proves whose it is: it has a record, is not counted and never deleted.
    Unknown,
}

impl Owner {
    /// As the record's annotation and the metric's label say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Doubtful => "doubtful",
            Self::AnotherHistory => "another-history",
            Self::AnotherCluster => "another-cluster",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it may go up, and is a copy of what we have now.
    pub fn is_ours_as_it_seems(self) -> bool {
        matches!(self, Self::Ours | Self::Doubtful)
    }

    /// Whether removing it takes somebody who has looked: `--take-over`.
    pub fn may_be_from_before_a_restore(self) -> bool {
        matches!(self, Self::AnotherHistory | Self::Doubtful)
    }
}

/// How much newer a manifest must be, by name and by change, before it speaks about an older one: skew and lag make no history.
const SURELY_NEWER: SignedDuration = SignedDuration::from_mins(5);

/// Whether a file's name is of a time that is surely yet to come: it is kept, and never the newest.
pub fn is_dated_ahead(file: &SnapshotFile, now: Timestamp) -> bool {
    surely_newer(file.name.created_at(file.modified), now)
}

/// Whose each file of a listing is. Files not looked into are [`Owner::Unknown`].
pub fn owners(storage: &Storage, us: &Identity, listing: &Listing, now: Timestamp) -> BTreeMap<FileName, Owner> {
    let ahead = |file: &SnapshotFile| is_dated_ahead(file, now);
    let newer = told_by_newer(storage, us, listing, |file| !ahead(file));
    let newer_or_ahead = if listing.values().any(ahead) { told_by_newer(storage, us, listing, |_| true) } else { BTreeMap::new() };
    let breaks = |told: &BTreeMap<&FileName, Together>, file: &SnapshotFile, history: &History| {
        told.get(&file.name).is_some_and(|newer| newer.breaks(history))
    };
    let of_another_history = |file: &SnapshotFile, history: &History| {
        matches!(&us.member, Member::At(member) if history.is_broken_by(member)) || breaks(&newer, file, history)
    };
    let mut found: BTreeMap<FileName, Owner> = listing
        .values()
        .map(|file| {
            let owner = match (cluster(storage, us, file), file.known.as_ref().and_then(|known| known.manifest.history.as_ref())) {
                (Cluster::Another, _) => Owner::AnotherCluster,
                (Cluster::Unknown, _) => Owner::Unknown,
                (Cluster::Ours, Some(history)) if of_another_history(file, history) => Owner::AnotherHistory,
                (Cluster::Ours, Some(history)) if breaks(&newer_or_ahead, file, history) => Owner::Doubtful,
                (Cluster::Ours, _) => Owner::Ours,
            };
            (file.name.clone(), owner)
        })
        .collect();
    if found.values().any(|owner| owner.may_be_from_before_a_restore()) {
        // Beside another history, a file that does not tell its own may be of either.
        for (name, owner) in &mut found {
            let tells = listing[name].known.as_ref().is_some_and(|known| known.manifest.history.is_some());
            if *owner == Owner::Ours && !tells {
                *owner = Owner::Unknown;
            }
        }
    }
    found
}

/// The same with `etcd-s3-adopt-unlabelled`: an object that shows no cluster id counts as one that shows ours.
pub fn owners_adopting(storage: &Storage, us: &Identity, listing: &Listing, now: Timestamp) -> BTreeMap<FileName, Owner> {
    let mut adopted = listing.clone();
    for known in adopted.values_mut().filter_map(|file| file.known.as_mut()) {
        if known.cluster.is_none() && (known.manifest.cluster.is_none() || known.manifest.cluster == us.cluster) {
            known.cluster.clone_from(&us.cluster);
        }
    }
    owners(storage, us, &adopted, now)
}

/// Whether one file alone tells that another, which it is surely newer than, is of another history.
pub fn tells_of_another_history(newer: &SnapshotFile, older: &SnapshotFile) -> bool {
    let history = |file: &'_ SnapshotFile| file.known.as_ref().and_then(|known| known.manifest.history.clone());
    newer.is_good()
        && surely_newer(newer.name.created_at(newer.modified), older.name.created_at(older.modified))
        && surely_newer(newer.modified, older.modified)
        && matches!((history(older), history(newer)), (Some(older), Some(newer)) if older.is_broken_by(&newer))
}

#[derive(PartialEq)]
enum Cluster {
    Ours,
    Another,
    Unknown,
}

fn cluster(storage: &Storage, us: &Identity, file: &SnapshotFile) -> Cluster {
    let Some(known) = &file.known else {
        return Cluster::Unknown;
    };
    let claimed = match storage {
        // Only a HEAD of this very object proves it; a sidecar is another object.
        Storage::S3 { .. } => known.cluster.as_ref(),
        Storage::Local { .. } => known.manifest.cluster.as_ref(),
    };
    match (claimed, &us.cluster, storage) {
        (Some(claimed), Some(ours), _) if claimed == ours => Cluster::Ours,
        (Some(_), Some(_), _) => Cluster::Another,
        (None, _, Storage::Local { node }) if file.name.names_node(node) => Cluster::Ours,
        _ => Cluster::Unknown,
    }
}

impl History {
    /// Whether something newer tells of another history than this one: another etcd cluster, or a raft index that fell.
    pub fn is_broken_by(&self, newer: &Self) -> bool {
        self.etcd_cluster != newer.etcd_cluster || newer.raft_index < self.raft_index
    }
}

/// What a set of good manifests says together about anything older than all of them.
#[derive(Clone)]
enum Together {
    OneCluster { id: String, lowest_index: u64 },
    SeveralClusters,
}

impl Together {
    fn breaks(&self, older: &History) -> bool {
        match self {
            Self::OneCluster { id, lowest_index } => *id != older.etcd_cluster || *lowest_index < older.raft_index,
            // At least one of several has not the older one's cluster id.
            Self::SeveralClusters => true,
        }
    }

    fn and(self, history: &History) -> Self {
        match self {
            Self::OneCluster { id, lowest_index } if id == history.etcd_cluster => {
                Self::OneCluster { id, lowest_index: lowest_index.min(history.raft_index) }
            }
            _ => Self::SeveralClusters,
        }
    }

    fn joined(self, other: &Self) -> Self {
        match other {
            Self::OneCluster { id, lowest_index } => self.and(&History { etcd_cluster: id.clone(), raft_index: *lowest_index }),
            Self::SeveralClusters => Self::SeveralClusters,
        }
    }
}

/// What the good manifests of our cluster, as far as they may speak, say together about each file that they are surely
/// newer than, both by name and by change. Files are asked in the order of falling name time, over a Fenwick tree of the
/// change times, so that ten thousand files cost no square.
fn told_by_newer<'a>(
    storage: &Storage,
    us: &Identity,
    listing: &'a Listing,
    may_speak: impl Fn(&SnapshotFile) -> bool,
) -> BTreeMap<&'a FileName, Together> {
    let times = |file: &SnapshotFile| (file.name.created_at(file.modified), file.modified);
    let mut good: Vec<_> = listing
        .values()
        .filter(|file| file.is_good() && may_speak(file) && cluster(storage, us, file) == Cluster::Ours)
        .filter_map(|file| Some((times(file), file.known.as_ref()?.manifest.history.as_ref()?)))
        .collect();
    if good.is_empty() {
        return BTreeMap::new();
    }
    good.sort_by_key(|(times, _)| std::cmp::Reverse(*times));
    let mut changes: Vec<Timestamp> = good.iter().map(|((_, change), _)| *change).collect();
    changes.sort_by_key(|change| std::cmp::Reverse(*change));
    let mut asked: Vec<&SnapshotFile> = listing.values().collect();
    asked.sort_by_key(|file| std::cmp::Reverse(times(file)));

    let mut tree: Vec<Option<Together>> = vec![None; changes.len() + 1];
    let mut answers = BTreeMap::new();
    let mut entered = good.into_iter().peekable();
    for file in asked {
        let (name_time, change) = times(file);
        while let Some(((_, newer_change), history)) = entered.next_if(|((newer_name, _), _)| surely_newer(*newer_name, name_time)) {
            let mut at = changes.partition_point(|other| *other > newer_change) + 1;
            while at < tree.len() {
                tree[at] = Some(match tree[at].take() {
                    None => Together::OneCluster { id: history.etcd_cluster.clone(), lowest_index: history.raft_index },
                    Some(together) => together.and(history),
                });
                at += at & at.wrapping_neg();
            }
        }
        let mut upto = changes.partition_point(|other| surely_newer(*other, change));
        let mut answer: Option<Together> = None;
        while upto > 0 {
            if let Some(part) = &tree[upto] {
                answer = Some(answer.map_or_else(|| part.clone(), |sum| sum.joined(part)));
            }
            upto -= upto & upto.wrapping_neg();
        }
        if let Some(answer) = answer {
            answers.insert(&file.name, answer);
        }
    }
    answers
}

fn surely_newer(newer: Timestamp, older: Timestamp) -> bool {
    newer.duration_since(older) > SURELY_NEWER
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::{Known, Manifest, Metadata, Verdict, Version};

    fn bucket() -> Storage {
        Storage::s3("h", true, "b", "f")
    }

    fn us() -> Identity {
        Identity { node: NodeName::new("cp1").unwrap(), cluster: ClusterId::new("uid"), member: Member::Silent }
    }

    fn object(seconds: i64, modified: i64, history: Option<(&str, u64)>) -> SnapshotFile {
        let history = history.map(|(id, raft_index)| History { etcd_cluster: id.into(), raft_index });
        SnapshotFile {
            name: FileName::new(&format!("etcd-snapshot-cp1-{seconds}")).unwrap(),
            size: 1,
            modified: Timestamp::from_second(modified).unwrap(),
            version: Version::remembered("v"),
            at_rest: true,
            known: Some(Known {
                verdict: Verdict::Whole,
                manifest: Manifest { history, ..Manifest::default() },
                cluster: ClusterId::new("uid"),
                node: None,
                token_hash: None,
                metadata: Metadata::InRecord(None),
            }),
        }
    }

    fn listing(files: Vec<SnapshotFile>) -> Listing {
        files.into_iter().map(|file| (file.name.clone(), file)).collect()
    }

    /// Later than all of them.
    const NOW: Timestamp = Timestamp::constant(1_000_000, 0);

    fn words(storage: &Storage, files: Vec<SnapshotFile>) -> Vec<&'static str> {
        owners(storage, &us(), &listing(files), NOW).into_values().map(Owner::word).collect()
    }

    #[test]
    fn a_fallen_raft_index_makes_what_is_older_another_history() {
        let files = vec![object(1000, 1000, Some(("c", 50))), object(2000, 2000, Some(("c", 90))), object(3000, 3000, Some(("c", 60)))];
        assert_eq!(words(&bucket(), files), ["ours", "another-history", "ours"]);
    }

    #[test]
    fn another_etcd_cluster_id_makes_what_is_older_another_history_and_the_silent_unknown() {
        let files = vec![object(1000, 1000, Some(("old", 5))), object(2000, 2000, None), object(3000, 3000, Some(("new", 60)))];
        assert_eq!(words(&bucket(), files), ["another-history", "unknown", "ours"]);
    }

    #[test]
    fn lag_skew_or_one_clock_jump_make_no_history() {
        // Newer by name alone, by change alone, or by less than five minutes.
        for (seconds, modified) in [(9000, 1100), (1100, 9000), (1200, 1200), (1300, 1300)] {
            let files = vec![object(1000, 1000, Some(("c", 90))), object(seconds, modified, Some(("c", 10)))];
            assert_eq!(words(&bucket(), files), ["ours", "ours"], "{seconds} {modified}");
        }
    }

    #[test]
    fn a_bad_manifest_makes_no_history() {
        let mut newer = object(9000, 9000, Some(("c", 10)));
        newer.known.as_mut().unwrap().manifest.quorum = Some(false);
        assert_eq!(words(&bucket(), vec![object(1000, 1000, Some(("c", 90))), newer]), ["ours", "ours"]);
    }

    #[test]
    fn an_object_is_ours_only_by_its_own_metadata_and_a_local_file_by_its_name() {
        let mut stranger = object(1000, 1000, None);
        stranger.known.as_mut().unwrap().cluster = ClusterId::new("another");
        let mut silent = object(2000, 2000, None);
        silent.known.as_mut().unwrap().cluster = None;
        silent.known.as_mut().unwrap().manifest.cluster = ClusterId::new("uid");
        let mut unseen = object(3000, 3000, None);
        unseen.known = None;
        assert_eq!(words(&bucket(), vec![stranger, silent, unseen]), ["another-cluster", "unknown", "unknown"]);

        let local = Storage::Local { node: us().node };
        let mut file = object(1000, 1000, None);
        let mut foreign = object(2000, 2000, None);
        foreign.known.as_mut().unwrap().manifest.cluster = ClusterId::new("another");
        let mut other_node = object(3000, 3000, None);
        other_node.name = FileName::new("etcd-snapshot-cp2-3000").unwrap();
        file.known.as_mut().unwrap().cluster = None;
        assert_eq!(words(&local, vec![file, foreign, other_node]), ["ours", "another-cluster", "unknown"]);
    }

    #[test]
    fn what_shows_no_cluster_id_is_adopted_only_when_asked_for_and_nothing_contradicts() {
        let unlabelled = |seconds, claimed: &str| {
            let mut file = object(seconds, seconds, Some(("c", 5)));
            let known = file.known.as_mut().unwrap();
            (known.cluster, known.manifest.cluster) = (None, ClusterId::new(claimed));
            file
        };
        let mut stranger = unlabelled(4000, "");
        stranger.known.as_mut().unwrap().cluster = ClusterId::new("another");
        let all = listing(vec![unlabelled(1000, ""), unlabelled(2000, "uid"), unlabelled(3000, "another"), stranger]);
        let words = |owners: BTreeMap<FileName, Owner>| owners.into_values().map(Owner::word).collect::<Vec<_>>();
        assert_eq!(words(owners_adopting(&bucket(), &us(), &all, NOW)), ["ours", "ours", "unknown", "another-cluster"]);
        assert_eq!(words(owners(&bucket(), &us(), &all, NOW)), ["unknown", "unknown", "unknown", "another-cluster"]);
    }

    #[test]
    fn our_member_tells_of_another_history_and_its_silence_tells_nothing() {
        let all = listing(vec![object(1000, 1000, Some(("c", 90)))]);
        for (member, word) in [
            (Member::Silent, "ours"),
            (Member::At(History { etcd_cluster: "c".into(), raft_index: 90 }), "ours"),
            (Member::At(History { etcd_cluster: "c".into(), raft_index: 89 }), "another-history"),
            (Member::At(History { etcd_cluster: "d".into(), raft_index: 99 }), "another-history"),
        ] {
            let us = Identity { member: member.clone(), ..us() };
            assert_eq!(owners(&bucket(), &us, &all, NOW).into_values().map(Owner::word).collect::<Vec<_>>(), [word], "{member:?}");
        }
    }

    #[test]
    fn a_file_that_is_dated_ahead_speaks_of_doubt_only() {
        // Saved in this order: the second while the clock ran ahead.
        let files =
            || vec![object(1000, 1000, Some(("c", 50))), object(90_000, 90_000, Some(("c", 60))), object(2000, 2000, Some(("c", 70)))];
        let at = |now| owners(&bucket(), &us(), &listing(files()), Timestamp::from_second(now).unwrap()).into_values();
        assert_eq!(at(2100).map(Owner::word).collect::<Vec<_>>(), ["ours", "doubtful", "ours"]);
        // Its own date has come: nothing tells it from a restore any more.
        assert_eq!(at(90_000).map(Owner::word).collect::<Vec<_>>(), ["ours", "another-history", "ours"]);

        let mut of_k3s = files();
        of_k3s.push(object(2500, 2500, None));
        // By an honest file or by the member it is known.
        let mut restored = files();
        restored.push(object(2900, 2900, Some(("c", 65))));
        let now = Timestamp::from_second(3000).unwrap();
        let words = |files| owners(&bucket(), &us(), &listing(files), now).into_values().map(Owner::word).collect::<Vec<_>>();
        assert_eq!(words(of_k3s), ["ours", "doubtful", "unknown", "ours"]);
        assert_eq!(words(restored), ["ours", "another-history", "doubtful", "ours"]);
    }

    proptest! {
        /// The tree answers what comparing every pair answers.
        #[test]
        fn the_fast_answer_is_the_plain_one(
            files in proptest::collection::vec((0..20_i64, 0..20_i64, 0..3_usize, 0..5_u64), 0..40),
            now in 0..25_i64,
        ) {
            let now = Timestamp::from_second(now * 100).unwrap();
            let all = listing(files.iter().map(|(name, change, id, index)| {
                object(name * 100, change * 100, (*id > 0).then(|| (["", "a", "b"][*id], *index)))
            }).collect());
            let fast = owners(&bucket(), &us(), &all, now);
            let history = |file: &SnapshotFile| file.known.as_ref().unwrap().manifest.history.clone();
            let time = |file: &SnapshotFile| file.name.time().unwrap();
            for file in all.values() {
                let Some(mine) = history(file) else { continue };
                let speaks = |other: &&SnapshotFile| {
                    surely_newer(time(other), time(file)) && surely_newer(other.modified, file.modified)
                        && history(other).is_some_and(|newer| mine.is_broken_by(&newer))
                };
                let plain = all.values().any(|other| speaks(&other));
                let honest = all.values().filter(|other| !surely_newer(time(other), now)).any(|other| speaks(&other));
                prop_assert_eq!(plain, all.values().any(|other| tells_of_another_history(other, file)));
                prop_assert_eq!(fast[&file.name] == Owner::AnotherHistory, honest);
                prop_assert_eq!(fast[&file.name] == Owner::Doubtful, plain && !honest);
            }
        }
    }
}
