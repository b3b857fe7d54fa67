//! `upload` by hand: what the bucket lost comes back, each once, and nothing there is replaced.

use std::collections::BTreeMap;
use std::slice;

use anyhow::{Result, ensure};
use e2e::hand::Hand;
use e2e::process::Signal;
use e2e::proxy::{Fault, FaultProxy, On};
use e2e::site::Site;

use crate::cli_save::{save, saved};
use crate::common::{all_ready, complaints};
use crate::invariants::{Left, invariants, invariants_by_hand};
use crate::look::bucket_becomes;
use crate::schedule::Saver;

fn upload(saver: &Saver) -> Result<Hand> {
    Ok(Hand::new("upload")?
        .on(&saver.site)
        .flag("--etcd-endpoint", saver.etcd.endpoint())
        .with_bucket(&saver.site)
        .with_kubernetes(&saver.site))
}

fn puts(s3: &FaultProxy, site: &Site, name: &str) -> usize {
    let path = format!("/{}/{}", site.bucket.name, site.key(name));
    s3.count(&On::method("PUT").path(&path))
}

#[tokio::test]
async fn an_object_that_somebody_deleted_comes_back_by_upload_only() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let s3 = site.s3.proxied()?;
    let through = format!("http://{}", s3.endpoint());
    let setup = saver.idle().flag("--etcd-s3-proxy", &through);
    let mut operator = setup.start().await?;
    operator.ready().await?;
    let name = saved(&save(&saver)?.with_bucket(site).with_kubernetes(site).flag("--name", "etcd-snapshot").run().await?.with(0)?.out)?;
    let one = slice::from_ref(&name);
    all_ready(&mut operator, site, one, one).await?;
    upload(&saver)?.arg("--missing").run().await?.with(0)?.says("lacks nothing")?;
    upload(&saver)?.arg(&name).run().await?.with(3)?.says("there already")?;

    site.bucket.delete(&site.key(&name)).await?;
    bucket_becomes(&mut operator, site, &BTreeMap::new()).await?;
    operator.beats(3).await?;
    bucket_becomes(&mut operator, site, &BTreeMap::new()).await?;
    let before = puts(&s3, site, &name);
    let hand = upload(&saver)?.flag("--s3-proxy", &through).arg("--missing");
    let ended = hand.run().await?.with(0)?;
    ensure!(ended.out == format!("Snapshot {name} uploaded.\n"), "{}{}", ended.out, ended.err);
    all_ready(&mut operator, site, one, one).await?;
    operator.beats(2).await?;
    all_ready(&mut operator, site, one, one).await?;
    ensure!(puts(&s3, site, &name) == before + 1, "{:?}", s3.requests());
    ensure!(complaints(&operator, "panicked").is_empty());
    invariants(operator, &setup, site, &Left::new(one, one)).await
}

#[tokio::test]
async fn without_an_agent_each_goes_up_once_and_the_run_ends() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(saved(&save(&saver)?.with_kubernetes(site).flag("--name", "etcd-snapshot").run().await?.with(0)?.out)?);
    }
    let s3 = site.s3.proxied()?;
    let through = format!("http://{}", s3.endpoint());
    let one = upload(&saver)?.flag("--s3-proxy", &through).arg(&all[1]).run().await?.with(0)?;
    ensure!(one.out == format!("Snapshot {} uploaded.\n", all[1]), "{}", one.out);
    let rest = upload(&saver)?.flag("--s3-proxy", &through).arg("--missing").run().await?.with(0)?;
    ensure!(rest.out.lines().count() >= 2, "{}", rest.out);
    for name in &all {
        ensure!(puts(&s3, site, name) == 1, "{name}: {:?}", s3.requests());
        ensure!(site.bucket.get(&site.key(name)).await? == std::fs::read(site.snapshots().join(name))?);
    }
    upload(&saver)?.arg("absent").run().await?.with(3)?.says("does not go up")?;
    upload(&saver)?.run().await?.with(2)?;
    upload(&saver)?.arg("a/b").run().await?.with(2)?;
    invariants_by_hand(&saver, &Left::new(&all, &all)).await
}

#[tokio::test]
async fn what_is_refused_or_interrupted_is_said_and_goes_on_the_next_time() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let name = saved(&save(&saver)?.with_kubernetes(site).flag("--name", "etcd-snapshot").run().await?.with(0)?.out)?;
    let s3 = site.s3.proxied()?;
    let hand = || anyhow::Ok(upload(&saver)?.flag("--s3-proxy", format!("http://{}", s3.endpoint())).arg("--missing"));
    let refusing = s3.when(On::writes(), Fault::s3(403, "AccessDenied"));
    hand()?.run().await?.with(1)?.says(&format!("{name} is not uploaded"))?;
    refusing.remove();
    let hole = s3.when(On::method("PUT"), Fault::BlackHole);
    let running = hand()?.start()?;
    e2e::wait::until("the upload to begin", async || {
        ensure!(hole.hits() > 0);
        Ok(())
    })
    .await?;
    running.signal(Signal::INT)?;
    running.ended().await?.with(130)?;
    ensure!(site.bucket.keys().await?.iter().all(|key| *key != site.key(&name)));
    hole.remove();
    // Nobody reads what it says: it is there all the same.
    hand()?.run_unread().await?.with(0)?;
    ensure!(site.bucket.get(&site.key(&name)).await? == std::fs::read(site.snapshots().join(&name))?);
    let one = slice::from_ref(&name);
    invariants_by_hand(&saver, &Left::new(one, one)).await
}
