//! The clock of timers of one operator, which a test puts forward: what is done once an hour or once a day comes at once.
//!
//! In: a folder of the test's own. Out: a setup whose operator reads that clock, and a hand to turn it. Timers that wait then are over,
//! requests under way run out of time, and a Lease has to be renewed before anything is written: as for a process that was stopped
//! for so long.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::operator::OperatorSetup;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock.c");

/// A clock that goes right until it is put forward.
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    ahead: File,
    seconds: u64,
}

impl Clock {
    /// Its files are in this folder. It is compiled by the `cc` that links Rust.
    pub fn new(dir: &Path) -> Result<Self> {
        let (library, path) = (dir.join("clock.so"), dir.join("clock.ahead"));
        let cc = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(SOURCE).stdin(Stdio::null()).output();
        let done = cc.context("start cc")?;
        ensure!(done.status.success(), "cc failed: {}", String::from_utf8_lossy(&done.stderr));
        let ahead = OpenOptions::new().create_new(true).write(true).open(&path).context("make a clock")?;
        let clock = Self { library, path, ahead, seconds: 0 };
        clock.show()?;
        Ok(clock)
    }

    /// Starts operators that read it.
    pub fn read_by(&self, setup: OperatorSetup) -> OperatorSetup {
        setup.env("LD_PRELOAD", &self.library).env("CLOCK_AHEAD", &self.path)
    }

    /// Puts it forward.
    pub fn advance(&mut self, by: Duration) -> Result<()> {
        self.seconds += by.as_secs();
        self.show()
    }

    fn show(&self) -> Result<()> {
        self.ahead.write_all_at(&self.seconds.to_ne_bytes(), 0).context("turn a clock")
    }
}
