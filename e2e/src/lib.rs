//! Real servers for the tests, and faults between them and the operator.
//!
//! In: the folder of built tools (`E2E_TOOLS`, made by `e2e/tools/build`) and, for tests that share servers, their
//! coordinates (`E2E_SERVERS`, made by `with-servers`). Out: child processes on loopback ports that are chosen when they
//! start, and that die with the test however it ends. Nothing here pretends to be a server; [`proxy::FaultProxy`] only
//! stands in front of a real one.
//!
//! | a test wants | it takes |
//! | --- | --- |
//! | a node with its directory and bucket on the shared servers, and an operator on it | [`site::Site`] |
//! | an API server, etcd or S3 server that it may stop or restore | [`apiserver::ApiServer`], [`etcd::Etcd`], [`s3::S3`] |
//! | another S3 server than that one | [`minio::Minio`] |
//! | snapshots, whole and damaged | [`snapshots`] |
//! | requests counted, delayed, dropped, answered wrongly | [`proxy::FaultProxy`] |
//! | what an operator does once an hour or once a day | [`clock::Clock`] |
//! | a Prometheus that scrapes operators, and the chart's alerts and dashboards | [`prometheus::Prometheus`], [`monitoring`] |
//! | to wait | [`wait::until`] |
//!
//! [`bench`] measures with the same servers what the tests only count.

// Where a name says it all, a sentence would only repeat it; and a builder that a test forgets to use fails that test.
#![allow(missing_docs, clippy::return_self_not_must_use)]

pub mod apiserver;
pub mod bench;
pub mod certs;
pub mod clock;
pub mod etcd;
pub mod hand;
pub mod http;
pub mod kubernetes;
pub mod metrics;
pub mod minio;
pub mod monitoring;
pub mod operator;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod s3;
pub mod shared;
pub mod site;
pub mod snapshots;
pub mod tools;
pub mod wait;
