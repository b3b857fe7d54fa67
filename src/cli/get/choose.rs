//! Which snapshot of a bucket `--latest` means. Pure.
//!
//! In: a listing that saw everything, and whose snapshots are wanted, if that is known. Out: the newest good one, with what somebody
//! should know about the choice; or why there is none.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::cli::terminal::harmless;
use crate::cli::trouble::Trouble;
use crate::snapshot::owner::{is_dated_ahead, owners};
use crate::snapshot::{ClusterId, Identity, Listing, Member, NodeName, Owner, SnapshotFile, Storage, Verdict};

/// The choice.
#[derive(Debug, PartialEq, Eq)]
pub struct Latest<'a> {
    /// The snapshot.
    pub file: &'a SnapshotFile,
    /// What somebody should know about it.
    pub notes: Vec<String>,
}

/// Whose snapshots there are, how many each has, and when the newest was taken. None stands for those that do not tell.
pub fn clusters(listing: &Listing) -> BTreeMap<Option<&ClusterId>, (usize, Timestamp)> {
    let mut found = BTreeMap::new();
    for (known, file) in listing.values().filter_map(|file| Some((file.known.as_ref()?, file))) {
        let created = file.name.created_at(file.modified);
        let (count, newest) = found.entry(known.cluster.as_ref()).or_insert((0, created));
        *count += 1;
        *newest = created.max(*newest);
    }
    found
}

/// Chooses. `cluster` is whose snapshots are wanted; without it the bucket must not hold several clusters'.
pub fn latest<'a>(
    storage: &Storage,
    listing: &'a Listing,
    cluster: Option<&ClusterId>,
    node: &NodeName,
    now: Timestamp,
) -> Result<Latest<'a>, Trouble> {
    let there = clusters(listing);
    let named: Vec<&ClusterId> = there.keys().copied().flatten().collect();
    let cluster = match (cluster, &named[..]) {
        (Some(cluster), _) => Some(cluster),
        (None, [only]) => Some(*only),
        (None, []) => None,
        (None, _) => {
            let refusal =
                Trouble::refused(format!("{storage} holds snapshots of {} clusters, and which one is meant is not known", named.len()));
            return Err(tell(refusal.because("give --cluster-id with one of these:"), &there));
        }
    };
    let us = Identity { node: node.clone(), cluster: cluster.cloned(), member: Member::Silent };
    let is_wanted = |owner: &Owner| if cluster.is_some() { owner.is_ours_as_it_seems() } else { *owner == Owner::Unknown };
    let owners = owners(storage, &us, listing, now);
    let mut ours: Vec<&SnapshotFile> =
        listing.values().filter(|file| file.known.is_some() && owners.get(&file.name).is_some_and(is_wanted)).collect();
    if ours.is_empty() {
        return Err(none_of(storage, cluster, &there));
    }
    let created = |file: &SnapshotFile| file.name.created_at(file.modified);
    let mut notes = Vec::new();
    let all = ours.len();
    ours.retain(|file| !is_dated_ahead(file, now));
    if ours.len() < all {
        notes.push(format!("{} with a time in the future are left out: get them by name", counted(all - ours.len())));
    }
    ours.sort_by_key(|file| (created(file), &file.name));
    let is_plausible = |file: &&&SnapshotFile| file.known.as_ref().is_some_and(|known| known.verdict == Verdict::Plausible);
    let good = ours.iter().rev().find(|file| file.is_good());
    let file = match (good, ours.iter().rev().find(is_plausible)) {
        (Some(good), newer) => {
            if let Some(newer) = newer.filter(|newer| created(newer) > created(good)) {
                notes.push(format!("{} is newer, and nobody has verified it: get it by name", newer.name));
            }
            good
        }
        (None, Some(plausible)) => {
            notes.push("none is known to be good, so this is the newest that can be: it is verified here".into());
            plausible
        }
        (None, None) => {
            return Err(Trouble::failed(format!("none of the {} in {storage} can be restored", counted(ours.len()))).because("ls says why"));
        }
    };
    if let Some(newer) = ours.iter().rev().find(|other| created(other) > created(file) && !other.is_good() && !is_plausible(other)) {
        notes.push(format!("{} is newer and not good: ls says why", newer.name));
    }
    Ok(Latest { file, notes })
}

fn none_of(storage: &Storage, cluster: Option<&ClusterId>, there: &BTreeMap<Option<&ClusterId>, (usize, Timestamp)>) -> Trouble {
    match cluster {
        Some(cluster) if !there.is_empty() => {
            let refusal = Trouble::refused(format!("{storage} holds no snapshot of cluster {}", harmless(cluster.as_str())));
            tell(refusal.because("whose it holds, to be named with --cluster-id, or got by their names:"), there)
        }
        _ => Trouble::failed(format!("{storage} holds no snapshot")),
    }
}

/// Says whose snapshots there are.
fn tell(mut trouble: Trouble, there: &BTreeMap<Option<&ClusterId>, (usize, Timestamp)>) -> Trouble {
    for (cluster, (count, newest)) in there {
        let cluster = cluster.map_or("no cluster named".into(), |cluster| harmless(cluster.as_str()));
        trouble = trouble.because(format!("  {cluster}: {}, the newest of {newest:.0}", counted(*count)));
    }
    trouble
}

fn counted(count: usize) -> String {
    if count == 1 { "1 snapshot".into() } else { format!("{count} snapshots") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{FileName, Known, Manifest, Metadata, Version};

    fn object(seconds: i64, cluster: &str, verdict: Verdict) -> SnapshotFile {
        SnapshotFile {
            name: FileName::new(&format!("etcd-snapshot-cp1-{seconds}")).unwrap(),
            size: 544,
            modified: Timestamp::from_second(seconds).unwrap(),
            version: Version::remembered("v"),
            at_rest: true,
            known: Some(Known {
                verdict,
                manifest: Manifest::default(),
                cluster: ClusterId::new(cluster),
                node: None,
                token_hash: None,
                metadata: Metadata::Read(BTreeMap::new()),
            }),
        }
    }

    fn listing(files: Vec<SnapshotFile>) -> Listing {
        files.into_iter().map(|file| (file.name.clone(), file)).collect()
    }

    fn chosen(files: Vec<SnapshotFile>, cluster: &str) -> Result<(i64, Vec<String>), Trouble> {
        let node = NodeName::new("cp1").unwrap();
        let listing = listing(files);
        let now = Timestamp::from_second(1000).unwrap();
        let latest = latest(&Storage::s3("h", true, "b", "f"), &listing, ClusterId::new(cluster).as_ref(), &node, now)?;
        Ok((latest.file.modified.as_second(), latest.notes))
    }

    fn damaged() -> Verdict {
        Verdict::Damaged("cut off".into())
    }

    #[test]
    fn the_latest_is_the_newest_good_one_of_the_cluster() {
        let files = vec![
            object(100, "us", Verdict::Whole),
            object(200, "us", Verdict::Whole),
            object(300, "them", Verdict::Whole),
            object(400, "us", Verdict::Plausible),
            object(500, "us", damaged()),
        ];
        let (seconds, notes) = chosen(files, "us").unwrap();
        assert_eq!(seconds, 200);
        let said = notes.join("\n");
        assert!(said.contains("cp1-400 is newer, and nobody has verified it") && said.contains("cp1-500 is newer and not good"), "{said}");
    }

    #[test]
    fn without_a_good_one_the_newest_plausible_is_taken_and_damaged_ones_never() {
        let (seconds, notes) = chosen(vec![object(1, "us", Verdict::Plausible), object(2, "us", damaged())], "us").unwrap();
        assert_eq!((seconds, notes.len()), (1, 2));
        let trouble = chosen(vec![object(2, "us", damaged())], "us").unwrap_err();
        assert_eq!((trouble.code, trouble.sentence.as_str()), (1, "none of the 1 snapshot in s3://b/f at h can be restored"));
    }

    #[test]
    fn one_cluster_in_the_bucket_needs_no_name_and_several_are_refused() {
        assert_eq!(chosen(vec![object(1, "us", Verdict::Whole), object(2, "", Verdict::Whole)], "").unwrap().0, 1);
        assert_eq!(chosen(vec![object(2, "", Verdict::Plausible)], "").unwrap().0, 2);
        let trouble = chosen(vec![object(1, "us", Verdict::Whole), object(2, "them", Verdict::Whole)], "").unwrap_err();
        assert_eq!(trouble.code, 4);
        let said = trouble.shown();
        assert!(said.contains("us: 1 snapshot, the newest of 1970-01-01T00:00:01Z") && said.contains("them: "), "{said}");
    }

    #[test]
    fn a_cluster_without_snapshots_there_is_refused_with_those_that_have_some() {
        let trouble = chosen(vec![object(1, "them", Verdict::Whole)], "us").unwrap_err();
        assert!(trouble.code == 4 && trouble.shown().contains("them: 1 snapshot"), "{}", trouble.shown());
        assert_eq!(chosen(Vec::new(), "us").unwrap_err().code, 1);
        assert_eq!(chosen(Vec::new(), "").unwrap_err().code, 1);
    }

    #[test]
    fn a_name_in_the_future_is_never_the_newest() {
        let (seconds, notes) = chosen(vec![object(900, "us", Verdict::Whole), object(9000, "us", Verdict::Whole)], "us").unwrap();
        assert_eq!(seconds, 900);
        assert!(notes[0].contains("1 snapshot with a time in the future"), "{notes:?}");
    }
}
