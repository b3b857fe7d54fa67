//! The command that restores a snapshot. Pure.
//!
//! In: where the snapshot is, and what is known of the etcd that it is from. Out: command lines, each with what it is for.

use std::path::Path;

use crate::snapshot::{Known, Program};

/// More revisions than any cluster makes between a snapshot and its restore. Watchers that have seen more than the snapshot holds would
/// otherwise wait for revisions that come a second time (etcd.io, *recovery*).
const BUMP: &str = " --bump-revision 1000000000 --mark-compacted";

/// One way to restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restore {
    /// When this is the way.
    pub when: String,
    /// What to type.
    pub command: String,
}

/// The ways to restore a snapshot, the likeliest first. `program` is whose words its user metadata has: K3s and RKE2 write their own, and
/// we write K3s's unless told otherwise, so only without a manifest do they tell whose etcd it is.
pub fn restore(file: &Path, known: Option<&Known>, program: Option<Program>) -> Vec<Restore> {
    let version = known.and_then(|known| known.manifest.rest.get("etcd-version")).map(String::as_str);
    let of_etcd = by_etcd(file, version);
    match (program, version) {
        (Some(program @ Program::Rke2), _) | (Some(program), None) => vec![by_program(file, program), of_etcd],
        (Some(program), Some(_)) => vec![of_etcd, by_program(file, program)],
        (None, _) => vec![of_etcd],
    }
}

fn by_etcd(file: &Path, version: Option<&str>) -> Restore {
    let numbers = version.and_then(numbers);
    // The first releases that have the flags: 3.4.27, 3.5.10, 3.6.0.
    let (tool, bump) = match numbers {
        Some((3, minor, patch)) if minor <= 4 => ("etcdctl", minor == 4 && patch >= 27),
        Some((3, 5, patch)) => ("etcdutl", patch >= 10),
        _ => ("etcdutl", true),
    };
    let when = match version.filter(|_| numbers.is_some()) {
        Some(version) => format!("etcd {version}"),
        None => "etcd of 3.5.10 or later; its version is not known".into(),
    };
    let command = format!(
        "{tool} snapshot restore {} --data-dir /var/lib/etcd-restored{}",
        quoted(file),
        if bump { BUMP } else { Default::default() }
    );
    Restore { when, command }
}

fn by_program(file: &Path, program: Program) -> Restore {
    let name = match program {
        Program::K3s => "K3s",
        Program::Rke2 => "RKE2",
    };
    Restore { when: name.into(), command: format!("{program} server --cluster-reset --cluster-reset-restore-path={}", quoted(file)) }
}

fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::snapshot::{Manifest, Metadata, Verdict};

    fn ways(version: Option<&str>, program: Option<Program>) -> Vec<String> {
        let rest = version.map(|version| BTreeMap::from([("etcd-version".to_string(), version.to_string())]));
        let known = Known {
            verdict: Verdict::Whole,
            manifest: Manifest { rest: rest.unwrap_or_default(), ..Manifest::default() },
            cluster: None,
            node: None,
            token_hash: None,
            metadata: Metadata::Read(BTreeMap::new()),
        };
        restore(Path::new("/tmp/s"), Some(&known), program).into_iter().map(|way| way.command).collect()
    }

    #[test]
    fn each_minor_has_the_tool_and_the_flags_that_it_has() {
        let begin = |tool: &str| format!("{tool} snapshot restore /tmp/s --data-dir /var/lib/etcd-restored");
        for (version, tool, bump) in [
            ("3.4.26", "etcdctl", false),
            ("3.4.27", "etcdctl", true),
            ("3.5.9", "etcdutl", false),
            ("3.5.10", "etcdutl", true),
            ("3.6.0", "etcdutl", true),
            ("3.7.3-rc.1", "etcdutl", true),
        ] {
            assert_eq!(ways(Some(version), None), [format!("{}{}", begin(tool), if bump { BUMP } else { "" })], "{version}");
        }
        assert_eq!(ways(None, None), [format!("{}{BUMP}", begin("etcdutl"))]);
    }

    #[test]
    fn a_snapshot_of_k3s_is_restored_by_k3s() {
        let k3s = "k3s server --cluster-reset --cluster-reset-restore-path=/tmp/s";
        assert_eq!(ways(None, Some(Program::K3s))[0], k3s);
        assert_eq!(ways(Some("3.6.1"), Some(Program::K3s))[1], k3s);
        assert_eq!(ways(Some("3.6.1"), Some(Program::Rke2))[0], k3s.replace("k3s", "rke2"));
    }

    #[test]
    fn a_path_stays_one_word() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
        assert_eq!(quoted(Path::new("/a/b-1")), "/a/b-1");
    }
}
