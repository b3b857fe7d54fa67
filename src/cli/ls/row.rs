//! One line of a listing: a snapshot file, what it is worth, whose it is, and whether its record agrees. Pure.
//!
//! In: what a storage showed, and the records. Out: rows in the order in which they are shown, and sentences about what differs.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::cli::terminal::harmless;
use crate::record::cached::cached;
use crate::record::wanted::wanted;
use crate::record::{ETCDSnapshotFile, Place, Record, Shape};
use crate::snapshot::{ClusterId, Listing, Owner, Program, SnapshotFile, Storage, Verdict};

/// What a snapshot is worth, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Whole, and nothing known against its member.
    Good,
    /// Whole, and taken without a quorum or from a member with a CORRUPT alarm.
    Suspect,
    /// An object whose size can be a snapshot's.
    Plausible,
    /// It cannot be restored.
    Damaged,
    /// Nobody has read it yet.
    Unverified,
    /// Somebody may still be writing it.
    Writing,
}

impl State {
    /// The word in the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Suspect => "suspect",
            Self::Plausible => "plausible",
            Self::Damaged => "damaged",
            Self::Unverified => "unverified",
            Self::Writing => "writing",
        }
    }

    fn of(file: &SnapshotFile) -> Self {
        match file.known.as_ref().map(|known| &known.verdict) {
            Some(Verdict::Whole) if file.is_good() => Self::Good,
            Some(Verdict::Whole) => Self::Suspect,
            Some(Verdict::Plausible) => Self::Plausible,
            Some(Verdict::Damaged(_)) => Self::Damaged,
            None if file.at_rest => Self::Unverified,
            None => Self::Writing,
        }
    }
}

/// How it stands with the record, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The records are not known, or nobody keeps one for it.
    Unknown,
    /// There is none.
    None,
    /// It agrees, and says that the snapshot can be restored.
    Ready,
    /// It agrees, and says that it cannot, or not yet.
    NotReady,
    /// It says something else than what was seen.
    Differs,
}

impl Recorded {
    /// The word in the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "-",
            Self::None => "none",
            Self::Ready => "ready",
            Self::NotReady => "not-ready",
            Self::Differs => "differs",
        }
    }
}

/// One snapshot in one storage.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The record as it should be, which is what JSON and YAML show.
    pub object: ETCDSnapshotFile,
    /// Its name.
    pub name: String,
    /// `file://…` or `s3://…`.
    pub location: String,
    /// Bytes.
    pub size: u64,
    /// When it was taken.
    pub created: Timestamp,
    /// What it is worth.
    pub state: State,
    /// Why it is damaged, or suspect.
    pub why: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// The cluster that it names.
    pub cluster: Option<ClusterId>,
    /// How it stands with its record.
    pub record: Recorded,
}

/// The records of this moment, and how they are written.
#[derive(Debug, Default)]
pub struct Records {
    objects: Vec<ETCDSnapshotFile>,
    records: Vec<Record>,
}

impl Records {
    /// With what is known from each.
    pub fn new(objects: Vec<ETCDSnapshotFile>, program: Program) -> Self {
        let records = objects.iter().map(|object| cached(object, program)).collect();
        Self { objects, records }
    }

    fn all(&self) -> impl Iterator<Item = (&Record, &ETCDSnapshotFile)> {
        self.records.iter().zip(&self.objects)
    }

    fn of(&self, storage: &Storage) -> impl Iterator<Item = (&Record, &ETCDSnapshotFile)> {
        self.all().filter(move |(record, _)| record.storage.as_ref() == Some(storage))
    }

    /// The rows of records whose storages were not looked at.
    pub fn elsewhere(&self, seen: &[&Storage]) -> Vec<Row> {
        let is_elsewhere = |record: &Record| !record.storage.as_ref().is_some_and(|storage| seen.contains(&storage));
        self.all().filter(|(record, _)| is_elsewhere(record)).map(|(record, object)| row_of(record, object)).collect()
    }
}

/// What one storage showed.
#[derive(Debug)]
pub struct Looked<'a> {
    /// Which one.
    pub storage: &'a Storage,
    /// Where it is, as records say it.
    pub place: &'a Place,
    /// What is there.
    pub listing: &'a Listing,
    /// Everything was seen.
    pub complete: bool,
    /// Whose each is.
    pub owners: &'a BTreeMap<crate::snapshot::FileName, Owner>,
}

/// The rows of one storage, and what its records say that it does not. `records` is None when they are not known.
pub fn rows(looked: &Looked<'_>, records: Option<&Records>, shape: Shape) -> (Vec<Row>, Vec<String>) {
    let mut notes = Vec::new();
    let mut rows = Vec::new();
    let told = || records.into_iter().flat_map(|records| records.of(looked.storage));
    let of_storage: BTreeMap<_, _> = told().filter_map(|(record, object)| Some((record.file.as_ref()?, (record, object)))).collect();
    for file in looked.listing.values() {
        let owner = looked.owners.get(&file.name).copied().unwrap_or(Owner::Unknown);
        let Some(wanted) = wanted(file, owner, looked.place, shape, Some("s3"), None) else { continue };
        let kept = owner != Owner::AnotherCluster && records.is_some();
        let (record, differs) = match of_storage.get(&file.name) {
            Some((record, object)) => compared(file, record, is_ready(object)),
            None if kept => (Recorded::None, None),
            None => (Recorded::Unknown, None),
        };
        if let Some(differs) = differs {
            notes.push(format!("record {} {differs}", of_storage[&file.name].0.name));
        }
        let state = State::of(file);
        let why = match file.known.as_ref().map(|known| &known.verdict) {
            Some(Verdict::Damaged(why)) => Some(why.clone()),
            Some(Verdict::Whole) if state == State::Suspect => {
                Some("it was taken without a quorum, or from a member with a CORRUPT alarm".into())
            }
            _ => None,
        };
        let known = file.known.as_ref();
        let cluster = known.and_then(|known| known.cluster.clone().or_else(|| known.manifest.cluster.clone()));
        rows.push(Row {
            name: file.name.to_string(),
            location: wanted.object.spec.location.clone(),
            size: file.size,
            created: file.name.created_at(file.modified),
            state,
            why,
            owner,
            cluster,
            record,
            object: wanted.object,
        });
    }
    if looked.complete {
        let there: BTreeSet<_> = looked.listing.keys().collect();
        for (record, _) in told() {
            let file = record.file.as_ref().filter(|_| !record.terminating && !record.is_failure());
            if let Some(file) = file.filter(|file| !there.contains(file)) {
                notes.push(format!("record {} stands for {file}, which is not in {}", record.name, the(looked.storage)));
            }
        }
    }
    (rows, notes)
}

/// The row of a record whose storage was not looked at.
fn row_of(record: &Record, object: &ETCDSnapshotFile) -> Row {
    let status = object.status.clone().unwrap_or_default();
    let ready = is_ready(object);
    let why = status.error.and_then(|error| error.message).map(|why| harmless(&why));
    let state = match record.known.as_deref().map(|known| &known.verdict) {
        Some(Verdict::Damaged(_)) => State::Damaged,
        Some(Verdict::Whole) => State::Good,
        _ if why.is_some() => State::Damaged,
        _ if ready => State::Plausible,
        _ => State::Unverified,
    };
    let known = record.known.as_deref();
    Row {
        name: harmless(&object.spec.snapshot_name),
        location: if object.spec.location.is_empty() { "-".into() } else { harmless(&object.spec.location) },
        size: status.size.and_then(|size| size.bytes()).unwrap_or(0),
        created: status.creation_time.unwrap_or(Timestamp::UNIX_EPOCH),
        state,
        why,
        owner: owner_of(object),
        cluster: known.and_then(|known| known.cluster.clone().or_else(|| known.manifest.cluster.clone())),
        record: if ready { Recorded::Ready } else { Recorded::NotReady },
        object: object.clone(),
    }
}

fn owner_of(object: &ETCDSnapshotFile) -> Owner {
    let annotations = object.metadata.annotations.as_ref();
    let word = annotations.and_then(|all| all.get(crate::record::content::annotation::OWNER)).map(String::as_str);
    [Owner::Ours, Owner::Doubtful, Owner::AnotherHistory].into_iter().find(|owner| word == Some(owner.word())).unwrap_or(Owner::Unknown)
}

fn is_ready(object: &ETCDSnapshotFile) -> bool {
    object.status.as_ref().is_some_and(|status| status.ready_to_use == Some(true))
}

/// How a file and its record agree, and the end of the sentence that says how not.
fn compared(file: &SnapshotFile, record: &Record, ready: bool) -> (Recorded, Option<String>) {
    let damaged = matches!(file.known.as_ref().map(|known| &known.verdict), Some(Verdict::Damaged(_)));
    let says_damaged = record.error_at.is_some();
    let other = record.version.as_ref().is_some_and(|version| version.of_content() != file.version.of_content());
    if record.terminating {
        (Recorded::Differs, Some(format!("of {} is being deleted", file.name)))
    } else if other {
        (Recorded::Differs, Some(format!("is of another version of {} than the one that is there", file.name)))
    } else if damaged && !says_damaged {
        (Recorded::Differs, Some(format!("does not say that {} is damaged", file.name)))
    } else {
        (if ready { Recorded::Ready } else { Recorded::NotReady }, None)
    }
}

/// A storage in the middle of a sentence.
pub fn the(storage: &Storage) -> String {
    match storage {
        Storage::Local { .. } => format!("the {storage}"),
        Storage::S3 { .. } => format!("the bucket {storage}"),
    }
}

/// K3s's order: by creation time, then by name; where both are equal, by location.
pub fn sort(rows: &mut [Row]) {
    rows.sort_by(|a, b| (a.created, &a.name, &a.location).cmp(&(b.created, &b.name, &b.location)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::api::Error;
    use crate::snapshot::{FileName, Known, Manifest, Metadata, NodeName, Version};

    const SHAPE: Shape = Shape { program: Program::K3s, bucket_lookup: true };

    fn node() -> NodeName {
        NodeName::new("cp1").unwrap()
    }

    fn place() -> Place {
        Place::Local { dir: "/snapshots".into(), node: node(), has_node_object: true }
    }

    fn file(seconds: i64, verdict: Option<Verdict>) -> SnapshotFile {
        let known = |verdict| Known {
            verdict,
            manifest: Manifest::default(),
            cluster: None,
            node: None,
            token_hash: None,
            metadata: Metadata::Read(BTreeMap::new()),
        };
        SnapshotFile {
            name: FileName::new(&format!("s-cp1-{seconds}")).unwrap(),
            size: 544,
            modified: Timestamp::from_second(seconds).unwrap(),
            version: Version::remembered("1.2.3/-"),
            at_rest: true,
            known: verdict.map(known),
        }
    }

    fn recorded(file: &SnapshotFile) -> ETCDSnapshotFile {
        wanted(file, Owner::Ours, &place(), SHAPE, None, None).unwrap().object
    }

    fn shown(files: Vec<SnapshotFile>, records: Vec<ETCDSnapshotFile>, complete: bool) -> (Vec<(State, Recorded)>, Vec<String>) {
        let listing: Listing = files.into_iter().map(|file| (file.name.clone(), file)).collect();
        let owners = listing.keys().map(|name| (name.clone(), Owner::Ours)).collect();
        let storage = Storage::Local { node: node() };
        let looked = Looked { storage: &storage, place: &place(), listing: &listing, complete, owners: &owners };
        let records = Records::new(records, Program::K3s);
        let (rows, notes) = rows(&looked, Some(&records), SHAPE);
        (rows.iter().map(|row| (row.state, row.record)).collect(), notes)
    }

    fn damaged() -> Verdict {
        Verdict::Damaged("cut off".into())
    }

    #[test]
    fn a_record_agrees_with_the_file_that_it_was_written_for() {
        let (whole, cut, unread) = (file(1, Some(Verdict::Whole)), file(2, Some(damaged())), file(3, None));
        let records = [&whole, &cut, &unread].map(recorded).to_vec();
        let (rows, notes) = shown(vec![whole, cut, unread], records, true);
        let expected = [(State::Good, Recorded::Ready), (State::Damaged, Recorded::NotReady), (State::Unverified, Recorded::NotReady)];
        assert_eq!((rows.as_slice(), notes.len()), (&expected[..], 0));
    }

    #[test]
    fn what_a_record_says_otherwise_is_told() {
        let (mut other, was_whole, alone) = (file(1, None), file(2, Some(Verdict::Whole)), file(3, None));
        let records = vec![recorded(&file(1, Some(Verdict::Whole))), recorded(&was_whole)];
        other.version = Version::remembered("7.8.9/-");
        let (rows, notes) = shown(vec![other, file(2, Some(damaged())), alone], records, true);
        let expected = [(State::Unverified, Recorded::Differs), (State::Damaged, Recorded::Differs), (State::Unverified, Recorded::None)];
        assert_eq!(rows, expected);
        assert!(
            notes[0].contains("is of another version of s-cp1-1") && notes[1].contains("does not say that s-cp1-2 is damaged"),
            "{notes:?}"
        );
    }

    #[test]
    fn a_record_of_what_is_gone_is_told_of_only_by_who_saw_everything() {
        let mut failure = recorded(&file(2, None));
        failure.metadata.annotations = None;
        failure.status.as_mut().unwrap().error = Some(Error::default());
        let records = vec![recorded(&file(1, Some(Verdict::Whole))), failure];
        let (rows, notes) = shown(Vec::new(), records.clone(), true);
        assert!(
            rows.is_empty() && notes.len() == 1 && notes[0].ends_with("stands for s-cp1-1, which is not in the directory of node cp1"),
            "{notes:?}"
        );
        assert_eq!(shown(Vec::new(), records, false).1, Vec::<String>::new());
    }

    #[test]
    fn a_record_of_elsewhere_is_a_row_of_its_own() {
        let storage = Storage::Local { node: NodeName::new("cp2").unwrap() };
        let records = Records::new(vec![recorded(&file(1, Some(Verdict::Whole))), recorded(&file(2, Some(damaged())))], Program::K3s);
        let told: Vec<_> = records.elsewhere(&[&storage]).into_iter().map(|row| (row.name, row.size, row.record, row.why)).collect();
        assert_eq!(told.len(), 2);
        assert_eq!(told[0], ("s-cp1-1".into(), 544, Recorded::Ready, None));
        assert_eq!((told[1].2, told[1].3.as_deref()), (Recorded::NotReady, Some("cut off")));
        assert!(records.elsewhere(&[&Storage::Local { node: node() }]).is_empty());
    }
}
