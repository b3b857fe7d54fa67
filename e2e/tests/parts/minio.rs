//! What the other tests show with one S3 server, with another one: what goes up and how, what is never overwritten, what goes.

use anyhow::{Result, ensure};
use e2e::minio::Minio;
use e2e::proxy::{Fault, On};
use e2e::s3::Bucket;
use e2e::shared::Shared;
use e2e::site::Site;
use e2e::snapshots;

use crate::invariants::{Left, as_found, hears, invariants};
use crate::look::{bucket_becomes, expected, falls_ill, is_well};
use crate::uploads::{LARGE, Uploading};
use crate::{retention, upload_faults, uploads};

/// A server of the test's own, and a site that uploads there.
async fn uploading() -> Result<(Minio, Uploading)> {
    let server = Minio::start().await?;
    let up = Uploading::on(Site::on(&Shared::get()?.api, server.access()).await?)?;
    Ok((server, up))
}

#[tokio::test]
async fn minio_takes_files_and_sidecars_as_k3s_would_have_them() -> Result<()> {
    let (_server, up) = uploading().await?;
    uploads::goes_up_as_k3s_would_have_it(up).await
}

#[tokio::test]
async fn minio_takes_a_large_file_in_parts() -> Result<()> {
    let (_server, up) = uploading().await?;
    uploads::goes_up_in_parts(up).await
}

#[tokio::test]
async fn minio_loses_nothing_that_is_under_the_key_already() -> Result<()> {
    let (_server, up) = uploading().await?;
    uploads::overwrites_nothing(up).await
}

#[tokio::test]
async fn minio_goes_on_with_an_upload_that_was_cut() -> Result<()> {
    let (_server, up) = uploading().await?;
    upload_faults::goes_on_where_it_was_cut(up, 3).await
}

#[tokio::test]
async fn minio_loses_only_what_retention_lets_go() -> Result<()> {
    let (_server, up) = uploading().await?;
    retention::keeps_the_newest_and_touches_nothing_foreign(up).await
}

/// Ids of the uploads in parts of exactly this key: under a prefix MinIO shows none.
async fn uploads_of(bucket: &Bucket, key: &str) -> Result<Vec<String>> {
    let listed = bucket.client.list_multipart_uploads().bucket(&bucket.name).prefix(key).send().await?;
    Ok(listed.uploads().iter().filter_map(|upload| upload.upload_id().map(str::to_owned)).collect())
}

#[tokio::test]
async fn what_comes_after_the_last_question_minio_refuses_to_overwrite() -> Result<()> {
    let (_server, up) = uploading().await?;
    let site = &up.site;
    let (small, large) = (site.name(1_700_000_000), site.name(1_700_000_001));
    let held = [up.s3.when(up.object("PUT", &small), Fault::Hold), up.s3.when(up.object("POST", &large).query("uploadId"), Fault::Hold)];
    site.place(&small, &snapshots::tiny(1))?;
    site.place(&large, &snapshots::sized(2, LARGE))?;
    let mut operator = up.setup.start().await?;
    operator
        .until("both to be about to appear", async |_| {
            ensure!(held.iter().all(|held| held.hits() == 1));
            Ok(())
        })
        .await?;
    ensure!(uploads_of(&site.bucket, &site.key(&large)).await?.len() == 1);
    let keys = [site.key(&small), site.key(&large)];
    for key in &keys {
        site.bucket.put(key, snapshots::tiny(9)).await?;
    }
    let foreign = as_found(&site.bucket, keys.clone()).await?;
    for held in held {
        held.release();
        held.remove();
    }
    hears(&mut operator, site, "ETCDSnapshotUploadConflict", 2).await?;
    falls_ill(&mut operator, "uploads", "there is another object under this key").await?;
    ensure!(as_found(&site.bucket, keys.clone()).await? == foreign, "it was overwritten");
    ensure!(uploads_of(&site.bucket, &keys[1]).await?.is_empty(), "its parts are left");
    invariants(operator, &up.setup, site, &Left::new(&[small, large], &[]).foreign(foreign).in_vain()).await
}

#[tokio::test]
async fn minio_gives_up_the_parts_of_a_file_that_is_gone() -> Result<()> {
    let (_server, up) = uploading().await?;
    let site = &up.site;
    let large = site.name(1_700_000_000);
    site.place(&large, &snapshots::sized(1, LARGE))?;
    let rule = up.s3.when(up.object("PUT", &large).query_is("partNumber", "4"), Fault::CutRequest(1000));
    let mut operator = up.setup.start().await?;
    falls_ill(&mut operator, "uploads", "uploading a part of").await?;
    ensure!(uploads_of(&site.bucket, &site.key(&large)).await?.len() == 1);
    std::fs::remove_file(site.snapshots().join(&large))?;
    operator
        .until("the parts to be given up", async |_| {
            let left = uploads_of(&site.bucket, &site.key(&large)).await?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
        .await?;
    rule.remove();
    is_well(&mut operator).await?;
    invariants(operator, &up.setup, site, &Left::default()).await
}

#[tokio::test]
async fn what_minio_lists_in_pages_is_seen_as_a_whole() -> Result<()> {
    let (_server, up) = uploading().await?;
    let site = &up.site;
    let cluster = site.kubernetes.cluster_id().await?;
    let ours = [("k3s-cluster-id", cluster.as_str()), ("k3s-node-name", site.node.as_str())];
    // With the folder of sidecars one more than a page.
    let objects: Vec<String> = (0..1_000).map(|number| site.name(1_700_000_000 + number)).collect();
    site.bucket.put_many(objects.iter().map(|name| (site.key(name), snapshots::tiny(1))), &ours).await?;
    site.bucket.put_with(&site.key(&format!(".metadata/{}", objects[0])), "{}", &ours).await?;
    let mut operator = up.setup.start().await?;
    bucket_becomes(&mut operator, site, &expected(objects.iter().map(|name| (name, "plausible")))).await?;
    is_well(&mut operator).await?;
    up.s3.forget();
    operator
        .until("two whole listings", async |_| {
            ensure!(up.s3.count(&On::list_objects().query("continuation-token")) >= 2, "{:?}", up.s3.requests());
            Ok(())
        })
        .await?;
    ensure!(up.s3.count(&On::list_objects()) == up.s3.requests().len(), "{:?}", up.s3.requests());
    Ok(())
}
