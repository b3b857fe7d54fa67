//! The requests of a first import and nothing else: as many at once as the operator sends, and no thought in between.

use std::time::{Duration, Instant};

use anyhow::Result;
use aws_sdk_s3::Client;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kube::api::{Api, DynamicObject, PostParams};

use crate::site::FOLDER;

/// As the operator's looks and writes.
const LOOKS: usize = 32;
const WRITES: usize = 16;

/// HEAD of each object, and GET of its sidecar.
pub async fn looks(client: &Client, bucket: &str, names: &[String]) -> Result<Duration> {
    let begun = Instant::now();
    stream::iter(names)
        .map(|name| async move {
            client.head_object().bucket(bucket).key(format!("{FOLDER}/{name}")).send().await?;
            let answer = client.get_object().bucket(bucket).key(format!("{FOLDER}/.metadata/{name}")).send().await?;
            answer.body.collect().await?;
            anyhow::Ok(())
        })
        .buffer_unordered(LOOKS)
        .try_collect::<()>()
        .await?;
    Ok(begun.elapsed())
}

/// POST of each record.
pub async fn creates(api: &Api<DynamicObject>, records: &[DynamicObject]) -> Result<Duration> {
    let begun = Instant::now();
    stream::iter(records)
        .map(|record| async move { api.create(&PostParams::default(), record).await.map(drop) })
        .buffer_unordered(WRITES)
        .try_collect::<()>()
        .await?;
    Ok(begun.elapsed())
}

/// A record as it was before the API server knew it, under another name.
pub fn anew(record: &DynamicObject, name: String) -> DynamicObject {
    let mut record = record.clone();
    let was = std::mem::take(&mut record.metadata);
    record.metadata.name = Some(name);
    record.metadata.labels = was.labels;
    record.metadata.annotations = was.annotations;
    record
}
