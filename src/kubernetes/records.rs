//! The records, listed once: for who looks and goes. Agents keep a [`super::Cache`].

use kube::api::{Api, ListParams};

use super::cache::RECORDS;
use super::error::{Cause, Doing, Error, call};
use crate::record::ETCDSnapshotFile;

const PAGE: u32 = 500;

/// All records. A list that is too old to go on begins anew, once.
pub async fn records(client: &kube::Client) -> Result<Vec<ETCDSnapshotFile>, Error> {
    match all(client).await {
        Err(Error { cause: Cause::Expired, .. }) => all(client).await,
        other => other,
    }
}

async fn all(client: &kube::Client) -> Result<Vec<ETCDSnapshotFile>, Error> {
    let api: Api<ETCDSnapshotFile> = Api::all(client.clone());
    let (mut found, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let list = call(Doing::new("list", RECORDS, ""), None, || api.list(&page)).await?;
        found.extend(list.items);
        page.continue_token = list.metadata.continue_.filter(|token| !token.is_empty());
        if page.continue_token.is_none() {
            return Ok(found);
        }
    }
}
