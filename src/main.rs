//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    etcd_snapshot_operator::cli::main()
}
