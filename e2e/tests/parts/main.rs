//! The parts tier: the operator's binary and this package's own library against real servers. One module a topic; one binary,
//! so that all tests share its threads.

mod boltdb;
mod bucket;
mod bucket_faults;
mod counts;
mod directory;
mod directory_faults;
mod etcd;
mod kubernetes;
mod look;
mod servers;
mod settings;
