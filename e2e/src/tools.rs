//! Where the built tools are: `E2E_TOOLS/<set>/<command>`, and the operator beside the running test.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;

/// The variable with the folder that `e2e/tools/build` printed.
pub const TOOLS: &str = "E2E_TOOLS";

/// A command of one of the sets in `e2e/tools`.
pub fn tool(set: &str, command: &str) -> Result<PathBuf> {
    let Some(tools) = std::env::var_os(TOOLS) else {
        bail!("these tests need real servers, and {TOOLS} does not say where they are: run them with e2e/test");
    };
    let path = Path::new(&tools).join(set).join(command);
    ensure!(path.is_file(), "there is no {}: run the tests with e2e/test, which builds it", path.display());
    Ok(path)
}

/// The operator's binary, built by the same cargo into the same folder as this test.
pub fn operator() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("E2E_OPERATOR") {
        return Ok(path.into());
    }
    beside("etcd-snapshot-operator")
}

/// A binary of this workspace, built by the same cargo into the same folder as this test.
pub fn beside(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("where this test runs from")?;
    let beside = me.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.with_context(|| format!("{name} is not built: run cargo build --locked --workspace --bins, or the tests with e2e/test"))
}

/// A path in the repository, such as `crds/…`.
pub fn repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e/ is in the repository").join(path)
}

/// Runs a command to its end and returns what it printed; fails with what it said when it fails.
pub async fn run<S: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    output(command).await
}

/// [`run`] for a command with an environment of its own.
pub async fn output(mut command: Command) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let done = tokio::time::timeout(crate::wait::PATIENCE, command.output());
    let done = done.await.with_context(|| format!("{shown} did not end"))?.with_context(|| format!("{shown} did not start"))?;
    if !done.status.success() {
        bail!("{shown} failed ({}): {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
