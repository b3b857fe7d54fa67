//! The parts tier: the operator's binary and this package's own library against real servers. One module a topic; one binary,
//! so that all tests share its threads.

mod agents;
mod alerts;
mod api_away;
mod bad_day;
mod boltdb;
mod bucket;
mod bucket_faults;
mod cli_get;
mod cli_kubectl;
mod cli_ls;
mod cli_removing;
mod cli_save;
mod cli_upload;
mod common;
mod counts;
mod dashboard;
mod directory;
mod directory_faults;
mod etcd;
mod invariants;
mod kubernetes;
mod leases;
mod look;
mod probes;
mod records;
mod restore;
mod retention;
mod save;
mod schedule;
mod servers;
mod settings;
mod stopping;
mod upload_faults;
mod uploads;
