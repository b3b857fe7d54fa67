//! The one write that brings a record to what it should be.
//!
//! In: the record as a GET just now showed it, and the record that is wanted. Out: nothing, or one JSON merge patch with
//! the resourceVersion; nulls for what must go. Labels and annotations of others stay.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::api::ETCDSnapshotFile;
use super::content::{annotation, canonical, digest, print};
use super::wanted::Wanted;
use crate::snapshot::Program;
use crate::snapshot::manifest::PREFIX;

/// The object to create where there is none. None when the metadata it should have was not read.
pub fn create(wanted: &Wanted, program: Program) -> Option<ETCDSnapshotFile> {
    (!wanted.metadata_in_record).then(|| sealed(wanted.object.clone(), program))
}

/// What has to change in `is`; None when it is as wanted.
pub fn patch(is: &ETCDSnapshotFile, wanted: &Wanted, program: Program) -> Option<Value> {
    let mut object = wanted.object.clone();
    if wanted.metadata_in_record {
        object.spec.metadata.clone_from(&is.spec.metadata);
    }
    let object = sealed(object, program);
    let mut before = is.clone();
    if let Some(size) = before.status.as_mut().and_then(|status| status.size.as_mut()) {
        *size = canonical(size);
    }
    let ours = |all: &Option<BTreeMap<String, String>>, also: &Option<BTreeMap<String, String>>| -> Value {
        let wanted = also.as_ref();
        json!(
            all.iter()
                .flatten()
                .filter(|(key, _)| key.starts_with(PREFIX) || wanted.is_some_and(|wanted| wanted.contains_key(*key)))
                .collect::<BTreeMap<_, _>>()
        )
    };
    let mut change = Map::new();
    for (part, from, to) in [
        ("labels", ours(&is.metadata.labels, &object.metadata.labels), json!(object.metadata.labels)),
        ("annotations", ours(&is.metadata.annotations, &object.metadata.annotations), json!(object.metadata.annotations)),
    ] {
        if let Some(difference) = difference(&from, &to) {
            change.insert(part.into(), difference);
        }
    }
    let mut patch = Map::new();
    for (part, from, to) in [("spec", json!(before.spec), json!(object.spec)), ("status", json!(before.status), json!(object.status))] {
        if let Some(difference) = difference(&from, &to) {
            patch.insert(part.into(), difference);
        }
    }
    if change.is_empty() && patch.is_empty() {
        return None;
    }
    change.insert("resourceVersion".into(), json!(is.metadata.resource_version));
    patch.insert("metadata".into(), change.into());
    Some(patch.into())
}

fn sealed(mut object: ETCDSnapshotFile, program: Program) -> ETCDSnapshotFile {
    let digest = print(digest(&object, program));
    object.metadata.annotations.get_or_insert_default().insert(annotation::DIGEST.into(), digest);
    object
}

/// The merge patch from one value to another: RFC 7396, null for a member that must go.
fn difference(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        _ if from == to => None,
        (Value::Object(from), Value::Object(to)) => {
            let gone = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null));
            let changed = to.iter().filter_map(|(key, to)| Some((key.clone(), difference(from.get(key).unwrap_or(&Value::Null), to)?)));
            Some(gone.chain(changed).collect::<Map<_, _>>().into())
        }
        _ => Some(to.clone()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::super::api::{Error, Status};
    use super::super::cached::cached;
    use super::super::quantity::Quantity;
    use super::super::wanted::{Place, Shape, wanted};
    use super::*;
    use crate::snapshot::{ClusterId, FileName, Known, Manifest, Metadata, NodeName, Owner, SnapshotFile, Verdict, Version};

    const SHAPE: Shape = Shape { program: Program::K3s, bucket_lookup: true };

    fn file(verdict: Option<Verdict>, extra: &[(&str, &str)]) -> SnapshotFile {
        let extra = extra.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        SnapshotFile {
            name: FileName::new("etcd-snapshot-cp1-1752319252").unwrap(),
            size: 13_140_000,
            modified: Timestamp::new(1_752_319_300, 5).unwrap(),
            version: Version::remembered("1.2.3/-"),
            at_rest: true,
            known: verdict.map(|verdict| Known {
                verdict,
                manifest: Manifest { file_size: Some(13_140_000), cluster: ClusterId::new("uid"), ..Manifest::default() },
                cluster: None,
                node: None,
                token_hash: None,
                metadata: Metadata::Read(extra),
            }),
        }
    }

    fn place() -> Place {
        Place::Local { dir: "/snapshots".into(), node: NodeName::new("cp1").unwrap(), has_node_object: true }
    }

    fn want(file: &SnapshotFile) -> Wanted {
        wanted(file, Owner::Ours, &place(), SHAPE, None, None).unwrap()
    }

    /// What the API server makes of a merge patch.
    fn merged(mut into: Value, patch: &Value) -> Value {
        fn merge(into: &mut Value, patch: &Value) {
            let Some(patch) = patch.as_object() else { return *into = patch.clone() };
            if !into.is_object() {
                *into = json!({});
            }
            for (key, value) in patch {
                let map = into.as_object_mut().unwrap();
                if value.is_null() {
                    map.remove(key);
                } else {
                    merge(map.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        merge(&mut into, patch);
        into
    }

    fn apply(is: &ETCDSnapshotFile, patch: &Value) -> ETCDSnapshotFile {
        serde_json::from_value(merged(json!(is), patch)).unwrap()
    }

    #[test]
    fn a_record_as_wanted_needs_no_write() {
        let want = want(&file(Some(Verdict::Whole), &[("a", "b")]));
        let is = create(&want, Program::K3s).unwrap();
        assert_eq!(patch(&is, &want, Program::K3s), None);
        let mut other_spelling = is.clone();
        other_spelling.status.as_mut().unwrap().size = Some(Quantity("13140000".into()));
        assert_eq!(patch(&other_spelling, &want, Program::K3s), None);
        assert_eq!(cached(&other_spelling, Program::K3s).digest, cached(&is, Program::K3s).digest);
    }

    #[test]
    fn a_failed_record_of_k3s_is_healed_in_one_write_and_keeps_what_is_not_ours() {
        let want = want(&file(Some(Verdict::Whole), &[]));
        let mut is = ETCDSnapshotFile::default();
        is.metadata.resource_version = Some("7".into());
        is.metadata.labels = Some(BTreeMap::from([("team".to_string(), "x".to_string())]));
        is.metadata.annotations = Some(BTreeMap::from([("note".to_string(), "y".to_string()), (format!("{PREFIX}old"), "z".to_string())]));
        is.spec.metadata = Some(BTreeMap::from([("foreign".to_string(), "1".to_string())]));
        is.status = Some(Status {
            error: Some(Error { message: Some("boom".into()), time: None }),
            ready_to_use: Some(false),
            ..Status::default()
        });
        let change = patch(&is, &want, Program::K3s).unwrap();
        assert_eq!(change["metadata"]["resourceVersion"], "7");
        assert_eq!(change["status"]["error"], Value::Null);
        let now = apply(&is, &change);
        assert_eq!(patch(&now, &want, Program::K3s), None, "no second write");
        assert_eq!((&now.status.as_ref().unwrap().error, now.spec.metadata.as_ref()), (&None, None));
        assert_eq!(now.metadata.labels.as_ref().unwrap()["team"], "x");
        assert_eq!(now.metadata.annotations.as_ref().unwrap()["note"], "y");
        assert!(!now.metadata.annotations.as_ref().unwrap().contains_key(&format!("{PREFIX}old")));
        assert!(cached(&now, Program::K3s).known.is_some());
    }

    #[test]
    fn metadata_that_was_not_read_again_stays_and_is_never_lost_by_a_create() {
        let read = want(&file(Some(Verdict::Whole), &[("a", "b")]));
        let is = create(&read, Program::K3s).unwrap();
        let mut again = file(Some(Verdict::Whole), &[]);
        again.known.as_mut().unwrap().metadata = Metadata::InRecord(None);
        let again = want(&again);
        assert_eq!(patch(&is, &again, Program::K3s), None);
        assert_eq!(create(&again, Program::K3s), None);
        let mut damaged = again.clone();
        damaged.object.status.as_mut().unwrap().ready_to_use = Some(false);
        let now = apply(&is, &patch(&is, &damaged, Program::K3s).unwrap());
        assert_eq!(now.spec.metadata, is.spec.metadata);
        assert!(cached(&now, Program::K3s).known.is_some());
    }

    #[test]
    fn an_edited_record_is_not_believed() {
        let is = create(&want(&file(Some(Verdict::Damaged("cut".into())), &[("a", "b")])), Program::K3s).unwrap();
        assert!(cached(&is, Program::K3s).known.is_some());
        for edit in [
            |object: &mut ETCDSnapshotFile| object.status.as_mut().unwrap().ready_to_use = Some(true),
            |object: &mut ETCDSnapshotFile| object.spec.metadata = None,
            |object: &mut ETCDSnapshotFile| object.spec.location = "file:///elsewhere".into(),
            |object: &mut ETCDSnapshotFile| {
                object.metadata.annotations.as_mut().unwrap().insert(annotation::VERDICT.into(), "whole".into());
            },
        ] {
            let mut edited = is.clone();
            edit(&mut edited);
            assert_eq!(cached(&edited, Program::K3s).known, None);
        }
    }

    #[test]
    fn what_is_known_survives_the_way_through_the_record() {
        for verdict in [Verdict::Whole, Verdict::Damaged("its bytes do not match".into())] {
            let file = file(Some(verdict), &[]);
            let record = cached(&create(&want(&file), Program::K3s).unwrap(), Program::K3s);
            let (known, told) = (file.known.unwrap(), record.known.unwrap());
            assert_eq!((&known.verdict, &known.manifest), (&told.verdict, &told.manifest));
            assert_eq!(record.version, Some(file.version));
        }
        let unverified = cached(&create(&want(&file(None, &[])), Program::K3s).unwrap(), Program::K3s);
        assert_eq!((unverified.known, unverified.error_at), (None, None));
    }

    #[test]
    fn too_much_metadata_stays_in_the_sidecar_and_the_record_says_so() {
        let long = "x".repeat(17 * 1024);
        let is = create(&want(&file(Some(Verdict::Whole), &[("spec", &long)])), Program::K3s).unwrap();
        assert_eq!(is.spec.metadata, None);
        assert_eq!(is.metadata.annotations.unwrap()[annotation::METADATA_OMITTED], (17 * 1024 + 4).to_string());
    }

    #[test]
    fn an_old_crd_without_bucket_lookup_is_not_asked_for_it() {
        let s3 = super::super::api::S3 { bucket: "b".into(), bucket_lookup: "path".into(), prefix: "f".into(), ..Default::default() };
        let mut object = file(Some(Verdict::Plausible), &[]);
        object.known.as_mut().unwrap().node = NodeName::new("cp2").ok();
        for served in [true, false] {
            let shape = Shape { bucket_lookup: served, ..SHAPE };
            let wanted = wanted(&object, Owner::Ours, &Place::S3(s3.clone()), shape, None, None).unwrap().object;
            assert_eq!(wanted.spec.s3.unwrap().bucket_lookup.is_empty(), !served);
            assert_eq!(wanted.spec.location, "s3://b/f/etcd-snapshot-cp1-1752319252");
            assert_eq!((wanted.spec.node_name.as_str(), wanted.status.unwrap().ready_to_use), ("cp2", Some(true)));
        }
    }

    proptest! {
        /// From any record, one patch leads to the wanted one, and then there is nothing to write.
        #[test]
        fn one_write_is_enough(
            ready in any::<Option<bool>>(), size in "[0-9]{1,6}[kM]?", error in any::<bool>(), extra in any::<bool>(), verdict in 0..4, here in any::<bool>()
        ) {
            let verdict = match verdict { 0 => None, 1 => Some(Verdict::Whole), 2 => Some(Verdict::Plausible), _ => Some(Verdict::Damaged("d".into())) };
            let want = want(&file(verdict, if extra { &[("k", "v")] } else { &[] }));
            let mut is = if here { create(&want, Program::K3s).unwrap() } else { ETCDSnapshotFile::default() };
            let status = is.status.get_or_insert_default();
            status.ready_to_use = ready;
            status.size = Some(Quantity(size));
            if error { status.error = Some(Error { time: None, message: Some("m".into()) }); }
            let now = match patch(&is, &want, Program::K3s) { Some(change) => apply(&is, &change), None => is };
            prop_assert_eq!(patch(&now, &want, Program::K3s), None);
            prop_assert_eq!(cached(&now, Program::K3s).digest, super::digest(&want.object, Program::K3s));
        }
    }
}
