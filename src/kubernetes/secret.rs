//! The values of one Secret and of one ConfigMap. They enter no log line and no error, whatever goes wrong.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Resource;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;

use super::error::{Doing, Error, call};

/// Values by key. Its debug output has the keys only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Values(pub BTreeMap<String, Vec<u8>>);

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binary {
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mixed {
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
    #[serde(default)]
    binary_data: Option<BTreeMap<String, ByteString>>,
}

/// The data of a Secret. [`super::error::Cause::NotFound`] when there is none of this name.
pub async fn secret(client: &kube::Client, namespace: &str, name: &str) -> Result<Values, Error> {
    let read: Binary = get::<Secret, _>(client, Doing::new("get", "secrets", format!("{namespace}/{name}")), namespace, name).await?;
    Ok(Values(binary(read.data).collect()))
}

/// The data and binary data of a ConfigMap. [`super::error::Cause::NotFound`] when there is none of this name.
pub async fn config_map(client: &kube::Client, namespace: &str, name: &str) -> Result<Values, Error> {
    let read: Mixed = get::<ConfigMap, _>(client, Doing::new("get", "configmaps", format!("{namespace}/{name}")), namespace, name).await?;
    let text = read.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    Ok(Values(text.chain(binary(read.binary_data)).collect()))
}

fn binary(data: Option<BTreeMap<String, ByteString>>) -> impl Iterator<Item = (String, Vec<u8>)> {
    data.into_iter().flatten().map(|(key, value)| (key, value.0))
}

/// The client's own way to parse an answer logs what it cannot parse.
async fn get<K, T>(client: &kube::Client, doing: Doing, namespace: &str, name: &str) -> Result<T, Error>
where
    K: Resource<DynamicType = ()>,
    T: for<'de> Deserialize<'de>,
{
    let request = || async {
        let request = Request::new(K::url_path(&(), Some(namespace))).get(name, &GetParams::default());
        let text = client.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
        serde_json::from_str(&text).map_err(kube::Error::SerdeError)
    };
    call(doing, None, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_shown() {
        let values = Values(BTreeMap::from([("etcd-s3-secret-key".to_string(), b"hush".to_vec())]));
        assert_eq!(format!("{values:?}"), r#"{"etcd-s3-secret-key"}"#);
    }

    #[test]
    fn an_answer_that_cannot_be_parsed_is_not_repeated() {
        let error = serde_json::from_str::<Binary>(r#"{"data": {"k": "hush!"}}"#).map(|_| ()).unwrap_err();
        let error = Error::from_kube(Doing::new("get", "secrets", "a/b"), kube::Error::SerdeError(error));
        let failure = error.failure();
        assert_eq!(failure.category, "unreadable");
        assert!(!failure.message.contains("hush"), "{failure}");
    }
}
