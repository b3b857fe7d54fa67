//! Rows as JSON and YAML: a `v1 List` of `ETCDSnapshotFile`, as K3s prints it. Pure.
//!
//! The name in an item's metadata is not the record's but K3s's older key: file name and kind of storage (docs/k3s.md 1.6).

use serde_json::{Value, json};

use super::row::Row;
use crate::record::ETCDSnapshotFile;

/// The list.
pub fn list(rows: &[Row]) -> Value {
    let items: Vec<Value> = rows.iter().map(|row| item(&row.object)).collect();
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
}

/// Indented JSON with a line's end.
pub fn json(rows: &[Row]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&list(rows)).map(|text| text + "\n")
}

/// YAML.
pub fn yaml(rows: &[Row]) -> Result<String, serde_saphyr::ser_error::Error> {
    serde_saphyr::to_string(&list(rows))
}

fn item(object: &ETCDSnapshotFile) -> Value {
    let mut object = object.clone();
    object.metadata.name = Some(key(&object));
    let mut item = json!(object);
    item["apiVersion"] = json!("k3s.cattle.io/v1");
    item["kind"] = json!("ETCDSnapshotFile");
    item
}

fn key(object: &ETCDSnapshotFile) -> String {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = object.spec.snapshot_name.chars().map(|c| if is_fine(c) { c } else { '_' }).collect();
    format!("{}-{name}", if object.spec.s3.is_some() { "s3" } else { "local" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::api::{S3, Spec};

    #[test]
    fn the_key_is_k3s_one() {
        let object = |name: &str, s3| ETCDSnapshotFile {
            spec: Spec { snapshot_name: name.into(), s3, ..Spec::default() },
            ..ETCDSnapshotFile::default()
        };
        assert_eq!(key(&object("on-demand-cp_1.x-7.zip", None)), "local-on-demand-cp_1.x-7.zip");
        assert_eq!(key(&object("a b+ä", Some(S3::default()))), "s3-a_b__");
        let item = item(&object("x-1", None));
        assert_eq!((&item["kind"], &item["apiVersion"]), (&json!("ETCDSnapshotFile"), &json!("k3s.cattle.io/v1")));
        assert_eq!(item["metadata"]["name"], "local-x-1");
    }
}
