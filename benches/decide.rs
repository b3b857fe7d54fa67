//! The pure parts at the size of a large cluster: one decision over ten thousand unchanged files, and reading a snapshot
//! against its trailer next to nothing but hashing the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use etcd_snapshot_operator::decide::{Around, Asked, Keep, Mode, Observed, Policy, check, decide};
use etcd_snapshot_operator::record::cached::cached;
use etcd_snapshot_operator::record::patch::create;
use etcd_snapshot_operator::record::wanted::wanted;
use etcd_snapshot_operator::record::{Place, Record, Shape};
use etcd_snapshot_operator::snapshot::owner::owners;
use etcd_snapshot_operator::snapshot::verify::verify;
use etcd_snapshot_operator::snapshot::{
    ClusterId, Complete, FileName, Identity, Inventory, Known, Listing, Manifest, Member, Metadata, NodeName, Owner, Program, SnapshotFile,
    Storage, Verdict, Version,
};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

const FILES: i64 = 10_000;
const SHAPE: Shape = Shape { program: Program::K3s, bucket_lookup: true };
const DATABASE: usize = 64 << 20;

fn main() {
    divan::main();
}

fn file(number: i64) -> SnapshotFile {
    let seconds = 1_700_000_000 + number * 60;
    SnapshotFile {
        name: FileName::new(&format!("etcd-snapshot-cp1-{seconds}")).expect("a name"),
        size: 20_971_552,
        modified: Timestamp::from_second(seconds).expect("a time"),
        version: Version::remembered(&format!("{number}.20971552.{seconds}/-")),
        at_rest: true,
        known: Some(Known {
            verdict: Verdict::Whole,
            manifest: Manifest { file_size: Some(20_971_552), ..Manifest::default() },
            cluster: None,
            node: None,
            token_hash: None,
            metadata: Metadata::Read(BTreeMap::new()),
        }),
    }
}

/// A directory of which every record is as it should be.
fn unchanged() -> Observed {
    let node = NodeName::new("cp1").expect("a name");
    let storage = Storage::Local { node: node.clone() };
    let place = Place::Local { dir: "/var/lib/snapshots".into(), node: node.clone(), has_node_object: true };
    let listing: Listing = (0..FILES).map(file).map(|file| (file.name.clone(), file)).collect();
    let record = |file: &SnapshotFile| -> Arc<Record> {
        let wanted = wanted(file, Owner::Ours, &place, SHAPE, None, None).expect("a record");
        Arc::new(cached(&create(&wanted, Program::K3s).expect("its metadata was read"), Program::K3s))
    };
    let us = Identity { node, cluster: ClusterId::new("uid"), member: Member::Silent };
    Observed {
        owners: owners(&storage, &us, &listing, Timestamp::UNIX_EPOCH),
        records: Some(listing.values().map(record).collect()),
        inventory: Inventory::Complete(Complete::vouch(listing)),
        shape: SHAPE,
        running: BTreeSet::new(),
        k3s_at_work: Some(false),
        around: Around::default(),
        us,
        storage,
        place,
    }
}

#[divan::bench]
fn decide_over_ten_thousand_unchanged_files(bencher: Bencher) {
    let seen = unchanged();
    let policy = Policy { mode: Mode::Manage, interval: Duration::from_mins(10), keep: Keep::default(), asked: Asked::Nothing };
    bencher.counter(ItemsCount::new(seen.inventory.seen().len())).bench(|| {
        let now = Timestamp::UNIX_EPOCH;
        let plan = check(decide(&seen, &policy, now), &seen, &policy, now);
        assert!(plan.steps().is_empty());
    });
}

fn snapshot() -> Vec<u8> {
    let mut bytes = vec![7; DATABASE];
    bytes[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    bytes
}

#[divan::bench]
fn verify_a_snapshot(bencher: Bencher) {
    let bytes = snapshot();
    bencher.counter(BytesCount::new(bytes.len())).bench(|| {
        let verified = verify(&bytes[..], bytes.len() as u64, || true).expect("memory can be read");
        assert_eq!(verified.verdict, Verdict::Whole);
    });
}

#[divan::bench]
fn only_hash_the_same_bytes(bencher: Bencher) {
    let bytes = snapshot();
    bencher.counter(BytesCount::new(bytes.len())).bench(|| Sha256::digest(&bytes));
}
