//! What tests ask of and do to an API server, through a client of their own.

use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::{tools, wait};

/// The CRD of this repository, as `etcd-snapshot-operator crd` prints it.
pub const CRD_FILE: &str = "crds/k3s.cattle.io_etcdsnapshotfiles.yaml";
const CRD_NAME: &str = "etcdsnapshotfiles.k3s.cattle.io";

/// A client that sees everything.
#[derive(Clone)]
pub struct Kubernetes {
    pub client: kube::Client,
}

impl Kubernetes {
    pub async fn connect(kubeconfig: &Path) -> Result<Self> {
        let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Ok(Self { client: kube::Client::try_from(config)? })
    }

    /// The records, as the API server shows them to anybody: not through the operator's own types.
    pub fn records(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("k3s.cattle.io", "v1", "ETCDSnapshotFile");
        Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&kind, "etcdsnapshotfiles"))
    }

    /// The records whose spec this picks, sorted by name.
    pub async fn records_where(&self, pick: impl Fn(&Value) -> bool) -> Result<Vec<DynamicObject>> {
        let mut records = self.records().list(&ListParams::default()).await?.items;
        records.retain(|record| pick(&record.data["spec"]));
        records.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(records)
    }

    /// The records of a node's local directory.
    pub async fn local_records(&self, node: &str) -> Result<Vec<DynamicObject>> {
        self.records_where(|spec| spec["nodeName"] == node && spec["s3"].is_null()).await
    }

    /// The records of a bucket.
    pub async fn bucket_records(&self, bucket: &str) -> Result<Vec<DynamicObject>> {
        self.records_where(|spec| spec["s3"]["bucket"] == bucket).await
    }

    pub async fn delete_record(&self, name: &str) -> Result<()> {
        self.records().delete(name, &DeleteParams::default()).await.with_context(|| format!("delete record {name}"))?;
        Ok(())
    }

    /// Installs this repository's CRD and waits until it is served.
    pub async fn apply_crd(&self) -> Result<()> {
        self.apply_this_crd(&own_crd()?).await
    }

    /// Installs a CRD in place of the one that is there, and waits until it is served.
    pub async fn apply_this_crd(&self, crd: &Value) -> Result<()> {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let force = PatchParams::apply("tests").force();
        crds.patch(CRD_NAME, &force, &Patch::Apply(crd)).await.context("apply the CRD")?;
        wait::until("the CRD to be served", async || {
            self.records().list(&ListParams::default().limit(1)).await?;
            Ok(())
        })
        .await
    }

    /// Removes the CRD, and all records with it.
    pub async fn remove_crd(&self) -> Result<()> {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        crds.delete(CRD_NAME, &DeleteParams::default()).await?;
        wait::until("the CRD to be gone", async || match crds.get_opt(CRD_NAME).await? {
            None => Ok(()),
            Some(_) => anyhow::bail!("still there"),
        })
        .await
    }

    /// UID of namespace `kube-system`: the cluster id.
    pub async fn cluster_id(&self) -> Result<String> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.get("kube-system").await?.metadata.uid.context("kube-system has no UID")
    }

    /// Creates a Node object; an API server alone has none.
    pub async fn create_node(&self, name: &str) -> Result<Node> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = Node { metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() }, ..Default::default() };
        Ok(nodes.create(&kube::api::PostParams::default(), &node).await?)
    }

    /// All Events about the object of this name.
    pub async fn events_about(&self, name: &str) -> Result<Vec<Event>> {
        let events: Api<Event> = Api::all(self.client.clone());
        let mut events = events.list(&ListParams::default()).await?.items;
        events.retain(|event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(name));
        Ok(events)
    }
}

/// This repository's CRD as JSON, to change before it is applied.
pub fn own_crd() -> Result<Value> {
    let path = tools::repository(CRD_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_saphyr::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// The CRD as older K3s releases serve it, without `spec.s3.bucketLookup`.
pub fn crd_without_bucket_lookup() -> Result<Value> {
    let mut crd = own_crd()?;
    let s3 = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/s3/properties";
    let s3 = crd.pointer_mut(s3).and_then(Value::as_object_mut).context("the CRD has no spec.s3")?;
    s3.remove("bucketLookup").context("the CRD has no bucketLookup")?;
    Ok(crd)
}
