//! Who holds which Lease, as anybody sees it.

use anyhow::Result;
use e2e::site::Site;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams};

/// All Leases of operators in these tests.
pub async fn leases(site: &Site) -> Result<Vec<Lease>> {
    let leases: Api<Lease> = Api::namespaced(site.kubernetes.client.clone(), "default");
    Ok(leases.list(&ListParams::default()).await?.items)
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// The names of the Leases that agents of this node hold.
pub async fn held_by(site: &Site) -> Result<Vec<String>> {
    let ours = format!("{}_", site.node);
    let held = leases(site).await?.into_iter().filter(|lease| holder(lease).starts_with(&ours));
    Ok(held.filter_map(|lease| lease.metadata.name).collect())
}
