//! The CustomResourceDefinition, made from the types: what `etcd-snapshot-operator crd` prints and `crds/` holds.
//!
//! It is K3s's own (group, names, scope, one version, no status subresource), with descriptions and a READY column.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::api::{Spec, Status};

/// The CRD as JSON.
pub fn crd() -> Value {
    let mut spec = schema_of::<Spec>(
        "Where the snapshot is, and what was noted when it was taken. It is written by etcd-snapshot-operator from what it finds in the directory and \
         the bucket: editing it changes nothing there, and deleting the record deletes nothing, it comes back.",
    );
    // The types read a record without them, too; Kubernetes, like K3s's CRD, admits none. An empty text is present.
    spec["required"] = json!(["snapshotName", "nodeName", "location"]);
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "etcdsnapshotfiles.k3s.cattle.io"},
        "spec": {
            "group": "k3s.cattle.io",
            "names": {
                "kind": "ETCDSnapshotFile",
                "listKind": "ETCDSnapshotFileList",
                "plural": "etcdsnapshotfiles",
                "singular": "etcdsnapshotfile",
            },
            "scope": "Cluster",
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [
                    column("SnapshotName", "string", ".spec.snapshotName"),
                    column("Node", "string", ".spec.nodeName"),
                    column("Location", "string", ".spec.location"),
                    column("Size", "string", ".status.size"),
                    column("CreationTime", "date", ".status.creationTime"),
                    column("Ready", "boolean", ".status.readyToUse"),
                    wide(column("Error", "string", ".status.error.message")),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "description": "One etcd snapshot in one storage: a file in the snapshot directory of a node, or an object in an S3 bucket. \
                        The record says what is there and whether it was checked. \
                        Deleting a record does nothing to the file or object; it comes back at the next look.",
                    "properties": {
                        "apiVersion": {"type": "string", "description": "Version of this representation of the object."},
                        "kind": {"type": "string", "description": "Kind of the object."},
                        "metadata": {"type": "object"},
                        "spec": spec,
                        "status": schema_of::<Status>("What is known of the snapshot."),
                    },
                }},
            }],
        },
    })
}

/// The CRD as YAML, under a line that says where it comes from.
pub fn yaml() -> String {
    let body = serde_saphyr::to_string(&crd()).unwrap_or_default();
    format!("# Printed by `etcd-snapshot-operator crd`.\n{body}")
}

/// Whether a served CRD has `spec.s3.bucketLookup` in its schema. `version` is one entry of its `spec.versions`.
pub fn has_bucket_lookup(version: &Value) -> bool {
    version.pointer("/schema/openAPIV3Schema/properties/spec/properties/s3/properties/bucketLookup").is_some()
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

/// Shown with `-o wide` only.
fn wide(mut column: Value) -> Value {
    column["priority"] = json!(1);
    column
}

fn schema_of<T: JsonSchema>(description: &str) -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema: Schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    schema.insert("description".into(), description.into());
    let mut schema = schema.to_value();
    tidy(&mut schema);
    schema
}

/// A structural schema knows neither defaults that mean "absent" nor `nullable` where K3s has none.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.contains_key("type") || map.contains_key("anyOf") {
                map.remove("default");
                map.remove("nullable");
            }
            if let Some(Value::Array(choices)) = map.get("anyOf").cloned() {
                // An optional object: `anyOf` of itself and null.
                if let [only] = choices.as_slice() {
                    let description = map.remove("description");
                    if let Value::Object(only) = only {
                        map.remove("anyOf");
                        map.extend(only.clone());
                    }
                    map.extend(description.map(|text| ("description".to_string(), text)));
                }
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_crd_is_the_printed_one() {
        let committed = include_str!("../../crds/k3s.cattle.io_etcdsnapshotfiles.yaml");
        assert_eq!(committed, yaml(), "run: just crd");
    }

    fn all_explained(value: &Value) {
        for (name, property) in value["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{name}");
            if property["properties"].is_object() {
                all_explained(property);
            }
        }
    }

    #[test]
    fn the_schema_has_k3s_fields_and_every_one_is_explained() {
        let crd = crd();
        let version = &crd["spec"]["versions"][0];
        assert!(has_bucket_lookup(version));
        let properties = &version["schema"]["openAPIV3Schema"]["properties"];
        let names = |value: &Value| value["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&properties["spec"]), "location metadata nodeName s3 snapshotName");
        assert_eq!(
            names(&properties["spec"]["properties"]["s3"]),
            "bucket bucketLookup endpoint endpointCA insecure prefix region skipSSLVerify"
        );
        assert_eq!(names(&properties["status"]), "creationTime error readyToUse size");
        assert_eq!(properties["spec"]["required"], json!(["snapshotName", "nodeName", "location"]));
        assert_eq!(properties["status"]["properties"]["size"]["x-kubernetes-int-or-string"], true);
        assert!(version.get("subresources").is_none());
        all_explained(&properties["spec"]);
        all_explained(&properties["status"]);
    }
}
