//! The parts tier: the operator's binary and this package's own library against real servers. One module a topic; one binary,
//! so that all tests share its threads.

mod counts;
mod etcd;
mod kubernetes;
mod servers;
