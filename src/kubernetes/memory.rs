//! What the cache holds, and which change wakes whom. No request, no clock.
//!
//! In: lists, watch events, answers to our own writes, in any order. Out: for each name the newest of them, and the storages
//! of the records that somebody else changed. Newer is what has the higher resourceVersion: Kubernetes lets one compare them
//! as numbers. Our own writes wake nothing, whether their event comes before their answer or after it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::record::{Record, RecordName};
use crate::snapshot::Storage;

/// Whose loops have something to look at.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    /// These storages'.
    pub(super) storages: BTreeSet<Storage>,
    /// Those of buckets: what became of uploads is shown otherwise than before.
    pub(super) uploads: bool,
    /// Everybody's: records came that tell no storage, or all of them are new.
    pub(super) everything: bool,
}

impl Changed {
    fn add(&mut self, record: &Record) {
        match &record.storage {
            Some(storage) => _ = self.storages.insert(storage.clone()),
            None => self.everything = true,
        }
    }

    /// One record instead of another.
    fn add_change(&mut self, old: Option<&Record>, new: &Record) {
        self.add(new);
        self.uploads |= old.map_or(!new.uploads.is_empty(), |old| old.uploads != new.uploads);
        if let Some(old) = old {
            self.add(old);
        }
    }

    fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }
}

/// What became of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Committed {
    /// It is what the cache holds now.
    Held(Changed, Past),
    /// The cache was thrown away while it came in.
    Discarded,
}

/// Whether the API is where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// It has gone forward.
    Gone,
    /// It has travelled back: a list is older than what was seen before it was asked for, see these versions.
    Travelled(u128, u128),
    /// Its store has travelled back, for a write got an older version than was seen before; and its lists have not.
    Hidden,
}

/// What was when a list began: no later list is older.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    generation: u64,
    highest: Option<u128>,
}

/// A write of ours that has no answer yet, and what came about its record meanwhile.
#[derive(Debug, Default)]
struct Open {
    count: usize,
    highest: Option<u128>,
    seen: Vec<Event>,
}

#[derive(Debug)]
enum Event {
    Applied(Arc<Record>),
    Deleted(Arc<Record>),
}

/// An answer to a write of ours.
#[derive(Debug, Clone)]
enum Answer {
    Applied(Arc<Record>),
    Deleted(RecordName, String),
}

/// What became of a state of a record.
enum Held {
    /// It is older than what is held, or nothing can be held now.
    Ignored,
    New,
    InsteadOf(Arc<Record>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// None: nothing is known.
    records: Option<BTreeMap<RecordName, Arc<Record>>>,
    /// The highest resourceVersion seen.
    highest: Option<u128>,
    /// Counts how often everything was thrown away.
    generation: u64,
    open: BTreeMap<RecordName, Open>,
    /// UIDs that we deleted and whose events are still to come.
    deleted: HashSet<String>,
    /// A write got an older version than was seen before it.
    write_was_older: bool,
    /// What we wrote while a list comes in: the list may be older.
    while_listing: Option<Vec<Answer>>,
}

/// A resourceVersion as a number. None for what is no number: then there is nothing to compare.
pub(super) fn number(resource_version: &str) -> Option<u128> {
    resource_version.parse().ok()
}

impl Memory {
    /// Everything that is held, by name.
    pub(super) fn records(&self) -> Option<Vec<Arc<Record>>> {
        self.records.as_ref().map(|records| records.values().cloned().collect())
    }

    pub(super) fn get(&self, name: &RecordName) -> Option<Arc<Record>> {
        self.records.as_ref()?.get(name).cloned()
    }

    pub(super) fn is_synced(&self) -> bool {
        self.records.is_some()
    }

    pub(super) fn highest(&self) -> Option<u128> {
        self.highest
    }

    /// A resourceVersion was seen: of a list, an event, a bookmark, an answer.
    pub(super) fn saw(&mut self, resource_version: &str) {
        self.highest = self.highest.max(number(resource_version));
    }

    /// Forgets everything, the highest version too.
    pub(super) fn throw_away(&mut self) {
        self.generation += 1;
        self.records = None;
        self.highest = None;
        self.deleted.clear();
        self.write_was_older = false;
    }

    /// A list begins.
    pub(super) fn begin_list(&mut self) -> Begun {
        self.while_listing = Some(Vec::new());
        Begun { generation: self.generation, highest: self.highest }
    }

    /// A list has come to its end.
    pub(super) fn commit(&mut self, begun: Begun, resource_version: &str, listed: Vec<Arc<Record>>) -> Committed {
        let answers = self.while_listing.take().unwrap_or_default();
        if begun.generation != self.generation {
            return Committed::Discarded;
        }
        let past = match begun.highest.zip(number(resource_version)) {
            Some((before, now)) if now < before => Past::Travelled(before, now),
            _ if self.write_was_older => Past::Hidden,
            _ => Past::Gone,
        };
        if matches!(past, Past::Travelled(..)) {
            self.highest = None;
            self.write_was_older = false;
        }
        self.saw(resource_version);
        let old = self.records.replace(listed.into_iter().map(|record| (record.name.clone(), record)).collect());
        self.deleted.clear();
        for answer in answers {
            if let Answer::Deleted(_, uid) = &answer {
                self.deleted.insert(uid.clone());
            }
            self.settle(answer);
        }
        let changed = match (old, &self.records) {
            (Some(old), Some(new)) => difference(&old, new),
            _ => Changed::everything(),
        };
        Committed::Held(changed, past)
    }

    /// The watch shows a record that was created or changed.
    pub(super) fn applied(&mut self, record: Record) -> Changed {
        self.saw(&record.resource_version);
        let record = Arc::new(record);
        let mut changed = Changed::default();
        if self.deleted.contains(&record.uid) {
            return changed;
        }
        let old = match self.hold(&record) {
            Held::Ignored => return changed,
            Held::InsteadOf(old) if is_same(&old, &record) => return changed,
            Held::InsteadOf(old) => Some(old),
            Held::New => None,
        };
        if let Some(open) = self.open.get_mut(&record.name) {
            open.seen.push(Event::Applied(record));
            return changed;
        }
        changed.add_change(old.as_deref(), &record);
        changed
    }

    /// The watch shows that a record is gone.
    pub(super) fn deleted(&mut self, record: &Record) -> Changed {
        self.saw(&record.resource_version);
        let mut changed = Changed::default();
        if self.deleted.remove(&record.uid) {
            return changed;
        }
        let Some(old) = self.remove(&record.name, &record.uid) else { return changed };
        if let Some(open) = self.open.get_mut(&old.name) {
            open.seen.push(Event::Deleted(old));
            return changed;
        }
        changed.add(&old);
        changed
    }

    /// A write of ours to this record begins: what the watch shows of it now may be its effect.
    pub(super) fn begin_write(&mut self, name: &RecordName) {
        let highest = self.highest;
        let open = self.open.entry(name.clone()).or_default();
        open.count += 1;
        // Of several at a time the first one's: the others began later and can only have seen more.
        open.highest = open.highest.or(highest);
    }

    /// The record as an answer to our request shows it.
    pub(super) fn answered(&mut self, record: Record) {
        self.saw(&record.resource_version);
        let record = Arc::new(record);
        if let Some(open) = self.open.get_mut(&record.name) {
            open.seen.retain(|event| !matches!(event, Event::Applied(seen) if seen.resource_version == record.resource_version));
        }
        self.note(Answer::Applied(record));
    }

    /// The record as the answer to our write shows it. True when that is the first write whose version is older than what
    /// was seen before it: no store that only goes forward answers so.
    pub(super) fn written(&mut self, record: Record) -> bool {
        let before = self.open.get(&record.name).and_then(|open| open.highest);
        let is_older = before.zip(number(&record.resource_version)).is_some_and(|(before, now)| now < before);
        self.answered(record);
        is_older && !std::mem::replace(&mut self.write_was_older, true)
    }

    /// The answer to our delete: it is gone.
    pub(super) fn answered_deleted(&mut self, name: &RecordName, uid: &str) {
        let before = self.open.get(name).map_or(0, |open| open.seen.len());
        if let Some(open) = self.open.get_mut(name) {
            open.seen.retain(|event| !matches!(event, Event::Deleted(seen) if seen.uid == uid));
        }
        let came_already = self.open.get(name).map_or(0, |open| open.seen.len()) < before;
        if !came_already {
            self.deleted.insert(uid.into());
        }
        self.note(Answer::Deleted(name.clone(), uid.into()));
    }

    /// The write has ended, whatever became of it. What the watch showed meanwhile and no answer explained is somebody else's.
    pub(super) fn end_write(&mut self, name: &RecordName) -> Changed {
        let mut changed = Changed::default();
        let Some(open) = self.open.get_mut(name) else { return changed };
        open.count -= 1;
        if open.count == 0 {
            for event in self.open.remove(name).into_iter().flat_map(|open| open.seen) {
                match event {
                    // What it was before is not known any more.
                    Event::Applied(record) => changed.add_change(None, &record),
                    Event::Deleted(record) => changed.add(&record),
                }
            }
        }
        changed
    }

    fn note(&mut self, answer: Answer) {
        if let Some(answers) = &mut self.while_listing {
            answers.push(answer.clone());
        }
        self.settle(answer);
    }

    fn settle(&mut self, answer: Answer) {
        match answer {
            Answer::Applied(record) => {
                self.saw(&record.resource_version);
                self.hold(&record);
            }
            Answer::Deleted(name, uid) => {
                self.remove(&name, &uid);
            }
        }
    }

    /// Holds the record if it is newer than what is held.
    fn hold(&mut self, record: &Arc<Record>) -> Held {
        let Some(records) = &mut self.records else { return Held::Ignored };
        let held = records.get(&record.name).map(|held| number(&held.resource_version));
        if let (Some(Some(held)), Some(new)) = (held, number(&record.resource_version))
            && new <= held
        {
            return Held::Ignored;
        }
        records.insert(record.name.clone(), record.clone()).map_or(Held::New, Held::InsteadOf)
    }

    fn remove(&mut self, name: &RecordName, uid: &str) -> Option<Arc<Record>> {
        let records = self.records.as_mut()?;
        records.get(name).filter(|held| held.uid == uid)?;
        records.remove(name)
    }
}

/// Whether two states of one record say the same.
fn is_same(old: &Record, new: &Record) -> bool {
    Record { resource_version: new.resource_version.clone(), ..old.clone() } == *new
}

fn difference(old: &BTreeMap<RecordName, Arc<Record>>, new: &BTreeMap<RecordName, Arc<Record>>) -> Changed {
    let mut changed = Changed::default();
    for (name, record) in new {
        let before = old.get(name);
        if !before.is_some_and(|before| is_same(before, record)) {
            changed.add_change(before.map(|before| &**before), record);
        }
    }
    for record in old.iter().filter(|(name, _)| !new.contains_key(*name)).map(|(_, record)| record) {
        changed.add(record);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::ETCDSnapshotFile;
    use crate::record::cached::cached;
    use crate::snapshot::Program;

    /// A record called `name` of node `cp1`, saying `says`.
    fn record(name: &str, uid: &str, version: u32, says: &str) -> Record {
        let mut object = ETCDSnapshotFile::default();
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.to_string());
        object.spec.node_name = "cp1".into();
        object.spec.location = says.into();
        cached(&object, Program::K3s)
    }

    fn name(name: &str) -> RecordName {
        RecordName::existing(name)
    }

    fn listed(memory: &mut Memory, version: &str, records: &[Record]) -> Committed {
        let begun = memory.begin_list();
        memory.commit(begun, version, records.iter().cloned().map(Arc::new).collect())
    }

    fn held(memory: &Memory) -> Option<Vec<String>> {
        memory.records().map(|all| all.iter().map(|record| format!("{} {} {}", record.name, record.uid, record.resource_version)).collect())
    }

    fn wakes(changed: &Changed) -> bool {
        *changed != Changed::default()
    }

    fn synced(records: &[Record]) -> Memory {
        let mut memory = Memory::default();
        assert_eq!(listed(&mut memory, "10", records), Committed::Held(Changed::everything(), Past::Gone));
        memory
    }

    #[test]
    fn nothing_is_known_before_the_first_list_is_complete_and_after_it_was_thrown_away() {
        let mut memory = Memory::default();
        memory.begin_list();
        assert_eq!((held(&memory), wakes(&memory.applied(record("a", "1", 5, "x")))), (None, false));
        let mut memory = synced(&[]);
        assert_eq!(held(&memory), Some(vec![]));
        memory.throw_away();
        assert_eq!((held(&memory), memory.highest()), (None, None));
    }

    #[test]
    fn somebody_elses_change_wakes_the_storage_before_and_after_it() {
        let mut memory = synced(&[record("a", "1", 5, "x")]);
        let mut moved = record("a", "1", 11, "x");
        moved.storage = Some(Storage::s3("h", true, "b", "f"));
        let changed = memory.applied(moved);
        assert_eq!(changed.storages.iter().map(Storage::kind).collect::<Vec<_>>(), ["local", "s3"]);
        assert!(wakes(&memory.deleted(&record("a", "1", 12, "x"))));
        let mut nowhere = record("b", "2", 13, "x");
        nowhere.storage = None;
        assert_eq!(memory.applied(nowhere), Changed::everything());
        assert_eq!(held(&memory), Some(vec!["b 2 13".into()]));
    }

    #[test]
    fn a_change_that_says_nothing_new_wakes_nobody_and_is_held() {
        let mut memory = synced(&[record("a", "1", 5, "x")]);
        assert!(!wakes(&memory.applied(record("a", "1", 11, "x"))));
        assert_eq!(held(&memory), Some(vec!["a 1 11".into()]));
    }

    #[test]
    fn what_is_older_than_what_is_held_is_ignored() {
        let mut memory = synced(&[record("a", "2", 100, "x")]);
        for version in [9, 99, 100] {
            assert!(!wakes(&memory.applied(record("a", "1", version, "old"))));
        }
        // 1000 is more than 100 and 99 as a number only.
        assert!(!wakes(&memory.deleted(&record("a", "1", 1000, "old"))), "the end of its predecessor");
        assert_eq!(held(&memory), Some(vec!["a 2 100".into()]));
    }

    #[test]
    fn our_own_write_wakes_nobody_whether_its_event_or_its_answer_comes_first() {
        for event_first in [true, false] {
            let mut memory = synced(&[record("a", "1", 5, "x")]);
            let written = record("a", "1", 11, "y");
            memory.begin_write(&name("a"));
            if event_first {
                assert!(!wakes(&memory.applied(written.clone())));
            }
            memory.answered(written.clone());
            assert!(!wakes(&memory.end_write(&name("a"))));
            assert!(!wakes(&memory.applied(written)));
            assert_eq!(held(&memory), Some(vec!["a 1 11".into()]));
            assert!(wakes(&memory.applied(record("a", "1", 12, "z"))), "and then somebody else's does");
        }
    }

    #[test]
    fn somebody_elses_change_during_our_write_wakes_when_the_write_ends() {
        for answer in [Some(11), Some(13), None] {
            let mut memory = synced(&[record("a", "1", 5, "x")]);
            memory.begin_write(&name("a"));
            assert!(!wakes(&memory.applied(record("a", "1", 12, "edited"))));
            if let Some(version) = answer {
                memory.answered(record("a", "1", version, "y"));
            }
            assert!(wakes(&memory.end_write(&name("a"))), "{answer:?}");
        }
        let mut memory = synced(&[record("a", "1", 5, "x")]);
        memory.begin_write(&name("a"));
        assert!(!wakes(&memory.deleted(&record("a", "1", 12, "x"))));
        assert!(wakes(&memory.end_write(&name("a"))));
    }

    #[test]
    fn our_own_delete_wakes_nobody_and_nothing_brings_the_record_back() {
        for event_first in [true, false] {
            let mut memory = synced(&[record("a", "1", 5, "x")]);
            memory.begin_write(&name("a"));
            if event_first {
                assert!(!wakes(&memory.deleted(&record("a", "1", 11, "x"))));
            }
            memory.answered_deleted(&name("a"), "1");
            assert!(!wakes(&memory.end_write(&name("a"))));
            if !event_first {
                assert!(!wakes(&memory.applied(record("a", "1", 10, "late"))));
                assert!(!wakes(&memory.deleted(&record("a", "1", 11, "x"))));
            }
            assert_eq!((held(&memory), memory.deleted.len()), (Some(vec![]), 0));
            assert!(wakes(&memory.applied(record("a", "2", 12, "x"))), "another of that name is another record");
        }
    }

    #[test]
    fn what_was_written_while_a_list_came_in_is_newer_than_the_list() {
        let mut memory = synced(&[record("a", "1", 5, "x"), record("b", "2", 6, "x"), record("c", "3", 7, "x")]);
        let begun = memory.begin_list();
        for changed in ["a", "b", "d"] {
            memory.begin_write(&name(changed));
        }
        memory.answered(record("a", "1", 21, "y"));
        memory.answered_deleted(&name("b"), "2");
        memory.answered(record("d", "4", 23, "y"));
        for changed in ["a", "b", "d"] {
            assert!(!wakes(&memory.end_write(&name(changed))));
        }
        let list = [record("a", "1", 5, "x"), record("b", "2", 6, "x"), record("c", "3", 7, "x")].map(Arc::new);
        assert_eq!(memory.commit(begun, "20", list.into()), Committed::Held(Changed::default(), Past::Gone));
        assert_eq!(held(&memory), Some(vec!["a 1 21".into(), "c 3 7".into(), "d 4 23".into()]));
        assert!(!wakes(&memory.deleted(&record("b", "2", 22, "x"))), "its event still comes");
    }

    #[test]
    fn a_list_wakes_the_storages_of_what_is_different() {
        let mut memory = synced(&[record("a", "1", 5, "x"), record("b", "2", 6, "x")]);
        let same = [record("a", "1", 12, "x"), record("b", "2", 6, "x")];
        assert_eq!(listed(&mut memory, "20", &same), Committed::Held(Changed::default(), Past::Gone));
        for list in [&same[..1], &[record("a", "9", 21, "x"), same[1].clone()], &[]] {
            let Committed::Held(changed, Past::Gone) = listed(&mut memory, "30", list) else { panic!() };
            assert_eq!(changed.storages.len(), 1);
        }
    }

    #[test]
    fn a_list_that_is_older_than_what_was_seen_is_believed_and_said() {
        let mut memory = synced(&[record("a", "1", 5, "x")]);
        memory.saw("300");
        let Committed::Held(changed, past) = listed(&mut memory, "200", &[record("a", "1", 4, "w")]) else { panic!() };
        assert_eq!((wakes(&changed), past, memory.highest()), (true, Past::Travelled(300, 200), Some(200)));
        assert_eq!(held(&memory), Some(vec!["a 1 4".into()]));
        memory.saw("not a number");
        assert_eq!(memory.highest(), Some(200));
    }

    #[test]
    fn a_write_that_is_older_than_what_was_seen_asks_for_a_list_once() {
        let mut memory = synced(&[record("a", "1", 300, "x")]);
        memory.saw("300");
        for (turn, is_news) in [(0, true), (1, false)] {
            memory.begin_write(&name("a"));
            assert_eq!(memory.written(record("a", "9", 200 + turn, "y")), is_news);
            memory.end_write(&name("a"));
        }
        let Committed::Held(_, past) = listed(&mut memory, "300", &[record("a", "1", 300, "x")]) else { panic!() };
        assert_eq!(past, Past::Hidden, "the server still shows what was");
        let Committed::Held(_, past) = listed(&mut memory, "210", &[record("a", "9", 201, "y")]) else { panic!() };
        assert_eq!(past, Past::Travelled(300, 210), "it was restarted");
        let Committed::Held(_, past) = listed(&mut memory, "220", &[record("a", "9", 201, "y")]) else { panic!() };
        assert_eq!(past, Past::Gone);
        memory.begin_write(&name("a"));
        memory.saw("500");
        assert!(!memory.written(record("a", "9", 400, "z")), "seen after it began");
    }

    #[test]
    fn a_list_that_began_before_everything_was_thrown_away_is_not_believed() {
        let mut memory = synced(&[]);
        let begun = memory.begin_list();
        memory.throw_away();
        assert_eq!(memory.commit(begun, "20", vec![Arc::new(record("a", "1", 5, "x"))]), Committed::Discarded);
        assert_eq!(held(&memory), None);
    }
}
