//! `crd`: prints the CustomResourceDefinition.

use std::io::{ErrorKind, Write as _};

use super::{DONE, FAILED};
use crate::record::crd;

/// Prints it; a reader that has seen enough is no failure.
pub fn crd() -> u8 {
    match std::io::stdout().lock().write_all(crd::yaml().as_bytes()) {
        Ok(()) => DONE,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => DONE,
        Err(error) => {
            eprintln!("etcd-snapshot-operator: printing the CRD failed: {error}");
            FAILED
        }
    }
}
