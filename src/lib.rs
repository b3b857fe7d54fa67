//! Keeps `ETCDSnapshotFile` records true to a directory and a bucket of etcd snapshots.
//!
//! In the order in which data flows: [`snapshot`] says what a snapshot is, [`record`] how Kubernetes shows it, and
//! `decide` what is to be done; `storage`, [`etcd`] and `kubernetes` are the edges, and `controller` is the loop through them.

pub mod boltdb;
pub mod cli;
pub mod config;
pub mod controller;
pub mod decide;
pub mod etcd;
pub mod health;
pub mod http;
pub mod kubernetes;
pub mod log;
pub mod metrics;
pub mod record;
pub mod snapshot;
pub mod storage;
