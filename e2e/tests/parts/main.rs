//! The parts tier: the operator's binary and this package's own library against real servers. One module a topic; one binary,
//! so that all tests share its threads.

mod agents;
mod alerts;
mod api_away;
mod boltdb;
mod bucket;
mod bucket_faults;
mod cli_get;
mod cli_ls;
mod common;
mod counts;
mod dashboard;
mod directory;
mod directory_faults;
mod etcd;
mod histories;
mod invariants;
mod kubernetes;
mod leases;
mod look;
mod many_agents;
mod orphans;
mod probes;
mod records;
mod restore;
mod retention;
mod save;
mod servers;
mod settings;
mod stopping;
mod upload_faults;
mod uploads;
