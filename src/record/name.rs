//! A record's name: K3s's rule (docs/k3s.md 1.5), and the same rule made safe where K3s's gives a name or a label that
//! Kubernetes refuses.

use std::fmt;

use jiff::Timestamp;

use crate::snapshot::file::short_hex;

/// The name of one record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordName(String);

impl RecordName {
    /// The name of a record that exists.
    pub fn existing(name: &str) -> Self {
        Self(name.into())
    }

    /// The name in Kubernetes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kubernetes' longest name.
const LONGEST_NAME: usize = 253;
/// `local-`, `-` and the digest: what K3s leaves room for.
const AROUND: usize = 13;

/// What a name is made of.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The file's base name.
    pub file: &'a str,
    /// The node that took the snapshot; `s3` for an object that does not tell.
    pub node: &'a str,
    /// Whether it is an object in a bucket.
    pub in_bucket: bool,
    /// The record's `spec.location`.
    pub location: &'a str,
    /// When the snapshot was taken.
    pub created_at: Timestamp,
}

/// The record's name.
pub fn record_name(of: Parts<'_>) -> RecordName {
    let prefix = if of.in_bucket { "s3" } else { "local" };
    let digest = short_hex(&format!("{}{}", of.node, of.location), 6);
    let plain = of.file.to_lowercase();
    let zip = if of.file.ends_with(".zip") { ".zip" } else { "" };
    let node = of.node.split('.').next().unwrap_or_default();
    let fallback = |node: &str| format!("etcd-snapshot-{node}-{}{zip}", of.created_at.as_second());

    let middle = if is_subdomain(&plain) && plain.len() + AROUND <= LONGEST_NAME { plain } else { fallback(node) };
    let by_rule = format!("{prefix}-{middle}-{digest}");
    if is_subdomain(&by_rule) {
        return RecordName(by_rule);
    }
    let mut safe: String = node.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let room = LONGEST_NAME - (AROUND + fallback("").len());
    safe.truncate(room);
    RecordName(format!("{prefix}-{}-{digest}", fallback(&safe)))
}

/// Kubernetes' rule for names: DNS-1123 subdomains.
fn is_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= LONGEST_NAME && name.split('.').all(is_label)
}

/// Kubernetes' longest label value.
const LONGEST_LABEL: usize = 63;

/// The value of the storage-node label: the node's name; where Kubernetes would refuse it as a label, cut to 54
/// characters with a digest behind, so that two long names stay two.
pub fn node_label(node: &str) -> String {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends_fine =
        |text: &str| text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    if node.len() <= LONGEST_LABEL && node.chars().all(is_fine) && ends_fine(node) {
        return node.into();
    }
    let digest = short_hex(node, 8);
    let safe: String = node.chars().take(54).map(|c| if is_fine(c) { c } else { '-' }).collect();
    let safe = safe.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    if safe.is_empty() { digest } else { format!("{safe}-{digest}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn names_are_those_that_k3s_gives_and_safe_where_k3s_fails() {
        let cases: Value = serde_json::from_str(include_str!("vectors/names.json")).unwrap();
        let (mut as_k3s, mut made_safe) = (0, BTreeSet::new());
        for case in cases.as_array().unwrap() {
            let text = |key: &str| case[key].as_str().unwrap();
            let node = if text("nodeSource").is_empty() { text("nodeName") } else { text("nodeSource") };
            let created_at = Timestamp::from_second(case["createdAt"].as_i64().unwrap()).unwrap();
            let name = record_name(Parts {
                file: text("file"),
                node,
                in_bucket: text("nodeName") == "s3",
                location: text("location"),
                created_at,
            });
            if case["valid"].as_bool().unwrap() {
                assert_eq!(name.as_str(), text("k3s"));
                as_k3s += 1;
            } else {
                assert!(is_subdomain(name.as_str()), "{name}");
                assert_eq!(name.as_str()[name.as_str().len() - 7..], text("k3s")[text("k3s").len() - 7..], "the digest is kept");
                assert!(made_safe.insert(name), "two files, one name");
            }
        }
        assert!(as_k3s > 100 && made_safe.len() > 20);
    }

    #[test]
    fn the_golden_names_of_public_threads() {
        let dir = "file:///var/lib/rancher/k3s/server/db/snapshots/";
        for (node, location, name) in [
            ("ip-10-11-0-14", &*format!("{dir}on-demand-ip-10-11-0-14-1753969041"), "local-on-demand-ip-10-11-0-14-1753969041-9e8c6d"),
            (
                "k3s-server-001.example.com",
                &format!("{dir}etcd-snapshot-k3s-server-001.example.com-1783543141"),
                "local-etcd-snapshot-k3s-server-001.example.com-1783543141-c777d8",
            ),
            ("server-0", "s3://test-bucket/test-folder/etcd-snapshot-server-0-1754906881", "s3-etcd-snapshot-server-0-1754906881-e1e196"),
            (
                "s3",
                "s3://justin-snapshot-buckets/needed/on-demand-rke2-just-racing-pool1-7v2s4-5hbmj-1728511251",
                "s3-on-demand-rke2-just-racing-pool1-7v2s4-5hbmj-1728511251-98681c",
            ),
        ] {
            let file = location.rsplit('/').next().unwrap();
            let parts = Parts { file, node, in_bucket: location.starts_with("s3:"), location, created_at: Timestamp::UNIX_EPOCH };
            assert_eq!(record_name(parts).as_str(), name);
        }
    }

    #[test]
    fn a_node_name_that_is_no_label_becomes_one_and_stays_its_own() {
        assert_eq!(node_label("CP-1.example_com"), "CP-1.example_com");
        let long = format!("{}x", "n".repeat(63));
        let longer = format!("{}y", "n".repeat(63));
        assert_eq!(node_label(&long).len(), 63);
        assert!(node_label(&long).starts_with(&"n".repeat(54)));
        assert_ne!(node_label(&long), node_label(&longer));
        for odd in ["-x", "x-", "a b", "ä", "…"] {
            let label = node_label(odd);
            assert!(label.len() <= 63 && label.starts_with(|c: char| c.is_ascii_alphanumeric()), "{odd} {label}");
        }
    }
}
