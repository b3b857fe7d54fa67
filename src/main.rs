//! Arguments in, exit code out.
fn main() {
    print!("{}", etcd_snapshot_operator::record::crd::yaml());
}
