//! Writes one record: POST, or one merge patch of what a GET just now showed; and deletes one, if it is still the same.
//!
//! In: the record that is wanted, or the one that must go, and until when the writer may act. Out: what became of it. A
//! record that somebody else changed meanwhile is left alone: [`Written::Stale`] means look again. What an answer shows
//! enters the cache at once.

use kube::Resource as _;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use serde_json::json;
use tokio::time::Instant;

use super::OPERATOR;
use super::cache::{Cache, RECORDS, Writing};
use super::error::{Cause, Doing, Error, call};
use crate::record::{ETCDSnapshotFile, Record, Wanted, patch};

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is there now.
    Created,
    /// It is as wanted now.
    Changed,
    /// It is gone.
    Deleted,
    /// It was as wanted already; nothing was sent.
    Unchanged,
    /// A finalizer holds it; it counts as absent, and there is nothing to do but to wait.
    Waiting,
    /// It is not what it was when the write was decided on: look again.
    Stale,
    /// The time to act was over. Nothing was sent, or what was sent got no answer in time.
    Abandoned,
}

/// Brings the record to what is wanted. Creates it where there is none, unless the metadata that it should have was not
/// read. Nothing is sent after `until`.
pub async fn write(cache: &Cache, wanted: &Wanted, until: Option<Instant>) -> Result<Written, Error> {
    let writing = cache.begin_write(&wanted.name());
    outcome(write_it(cache, &writing, wanted, until).await)
}

/// Deletes the record if it is still this one, in this state. Nothing is sent after `until`.
pub async fn forget(cache: &Cache, record: &Record, until: Option<Instant>) -> Result<Written, Error> {
    let writing = cache.begin_write(&record.name);
    outcome(forget_it(cache, &writing, record, until).await)
}

fn outcome(result: Result<Written, Error>) -> Result<Written, Error> {
    match result {
        Err(Error { cause: Cause::Deadline, .. }) => Ok(Written::Abandoned),
        Err(Error { cause: Cause::NotFound(_) | Cause::Conflict(_), .. }) => Ok(Written::Stale),
        other => other,
    }
}

async fn write_it(cache: &Cache, writing: &Writing<'_>, wanted: &Wanted, until: Option<Instant>) -> Result<Written, Error> {
    let (name, program) = (wanted.name(), cache.0.program);
    let doing = |verb| Doing::new(verb, RECORDS, name.as_str());
    // A record that the cache does not know is not there, as a rule; where it is, the POST says so.
    let is = match cache.get(&name) {
        Some(_) => call(doing("get"), until, || cache.0.api.get_opt(name.as_str())).await?,
        None => None,
    };
    let Some(is) = is else {
        let Some(object) = patch::create(wanted, program) else { return Ok(Written::Stale) };
        let created = call(doing("create"), until, || create(cache, &object)).await?;
        writing.written(&created);
        return Ok(Written::Created);
    };
    writing.answered(&is);
    if is.metadata.deletion_timestamp.is_some() {
        return Ok(Written::Waiting);
    }
    let Some(change) = patch::patch(&is, wanted, program).map(Patch::Merge) else { return Ok(Written::Unchanged) };
    let params = PatchParams { field_manager: Some(OPERATOR.into()), ..PatchParams::default() };
    let changed = call(doing("patch"), until, || cache.0.api.patch(name.as_str(), &params, &change)).await?;
    writing.written(&changed);
    Ok(Written::Changed)
}

/// The types have no `apiVersion` and `kind`, without which the server takes nothing.
async fn create(cache: &Cache, object: &ETCDSnapshotFile) -> kube::Result<ETCDSnapshotFile> {
    let mut body = json!(object);
    body["apiVersion"] = json!(ETCDSnapshotFile::api_version(&()));
    body["kind"] = json!(ETCDSnapshotFile::kind(&()));
    let params = PostParams { field_manager: Some(OPERATOR.into()), ..PostParams::default() };
    let request = Request::new(ETCDSnapshotFile::url_path(&(), None)).create(&params, body.to_string().into_bytes());
    cache.0.client.request(request.map_err(kube::Error::BuildRequest)?).await
}

async fn forget_it(cache: &Cache, writing: &Writing<'_>, record: &Record, until: Option<Instant>) -> Result<Written, Error> {
    let exactly = Preconditions { uid: Some(record.uid.clone()), resource_version: Some(record.resource_version.clone()) };
    let params = DeleteParams { preconditions: Some(exactly), ..DeleteParams::default() };
    let name = record.name.as_str();
    let answer = call(Doing::new("delete", RECORDS, name), until, || cache.0.api.delete(name, &params)).await?;
    Ok(match answer.left() {
        Some(held)
            if held.metadata.deletion_timestamp.is_some() && held.metadata.finalizers.as_ref().is_some_and(|all| !all.is_empty()) =>
        {
            writing.answered(&held);
            Written::Waiting
        }
        _ => {
            writing.answered_deleted(&record.uid);
            Written::Deleted
        }
    })
}
