//! Saves, checks and keeps the snapshots of an etcd, in a directory and in a bucket, each with a true `ETCDSnapshotFile` record.
//!
//! In the order in which data flows: [`snapshot`] says what a snapshot is, [`record`] how Kubernetes shows it, and
//! `decide` what is to be done and [`schedule`] when; `storage`, [`etcd`] and `kubernetes` are the edges, [`save`] brings a
//! snapshot from the member into the directory, and `controller` is the loop through them.

pub mod boltdb;
pub mod cli;
pub mod config;
pub mod controller;
pub mod deadline;
pub mod decide;
mod duration;
pub mod etcd;
pub mod health;
pub mod http;
pub mod kubernetes;
pub mod log;
pub mod metrics;
pub mod record;
pub mod save;
pub mod schedule;
pub mod snapshot;
pub mod storage;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    /// What a pure module must not name: clients, files, clocks, and whatever waits.
    const IMPURE: [&str; 9] =
        ["tokio", "kube::", "std::fs", "Timestamp::now", "SystemTime", "Instant::now", "aws_sdk", "etcd_client", ".await"];

    fn sources(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn what_decides_knows_no_client_no_file_and_no_clock() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files: Vec<_> = ["snapshot", "record", "decide"].iter().flat_map(|module| sources(&root.join(module))).collect();
        assert!(files.len() > 15, "{files:?}");
        for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "rs")) {
            let text = fs::read_to_string(file).unwrap();
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                let named: Vec<_> = IMPURE.iter().filter(|word| line.contains(**word)).collect();
                assert!(named.is_empty(), "{}:{} names {named:?}", file.display(), number + 1);
            }
        }
    }
}
