//! What K3s's page about its command line shows (docs.k3s.io/cli/etcd-snapshot), typed here: `k3s etcd-snapshot` is the program's name, and
//! the rest stays as it is.

use anyhow::{Context as _, Result, ensure};
use e2e::hand::{Ended, Hand};
use e2e::site::FOLDER;
use e2e::snapshots;

use crate::cli_save::saved;
use crate::invariants::{Left, invariants_by_hand};
use crate::schedule::{Saver, names_in};

/// A line of the page, with the names of a test in it. What K3s knows of its server, and we of ours, is in the config file.
async fn type_it(saver: &Saver, line: &str) -> Result<Ended> {
    let site = &saver.site;
    let config = site.scratch().join("config.yaml");
    let settings = [
        format!("node-name: {}", site.node),
        format!("etcd-snapshot-dir: {}", site.snapshots().display()),
        format!("etcd-endpoint: {}", saver.etcd.endpoint()),
        format!("etcd-s3-endpoint: {}", site.s3.endpoint()),
        format!("etcd-s3-folder: {FOLDER}"),
        "etcd-s3-insecure: true\netcd-s3-bucket-lookup-type: path\ncluster-init: true\ntoken: unseen".to_owned(),
    ];
    std::fs::write(&config, settings.join("\n"))?;
    let line = line
        .replace("test-bucket", &site.bucket.name)
        .replace("--s3-access-key=test", &format!("--s3-access-key={}", site.s3.access_key))
        .replace("--s3-secret-key=secret", &format!("--s3-secret-key={}", site.s3.secret_key));
    let mut words = line.split_whitespace();
    let mut hand = Hand::new(words.next().context("a word")?)?.with_kubernetes(site);
    for word in words {
        hand = hand.arg(word);
    }
    let ended = hand.flag("--config", config).run().await?;
    ensure!(!ended.err.contains("unseen") && !ended.err.contains(&site.s3.secret_key), "{}", ended.err);
    Ok(ended)
}

const WITH_S3: &str = "--s3 --s3-bucket=test-bucket --s3-access-key=test --s3-secret-key=secret";

#[tokio::test]
async fn the_story_of_the_page_goes_as_it_does_there() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let name = saved(&type_it(&saver, &format!("{WITH_S3} save")).await?.with(0)?.out)?;
    ensure!(name.starts_with(&format!("on-demand-{}-", site.node)), "{name}");
    let listed = type_it(&saver, &format!("{WITH_S3} ls")).await?.with(0)?;
    ensure!(listed.out.starts_with("Name ") && listed.rows().len() == 2, "{}", listed.out);
    let locations: Vec<&str> = listed.rows().iter().map(|row| row[1]).collect();
    let local = format!("file://{}/{name}", site.snapshots().display());
    ensure!(locations.contains(&&*local) && locations.contains(&&*format!("s3://{}/{FOLDER}/{name}", site.bucket.name)), "{locations:?}");
    let ended = type_it(&saver, &format!("{WITH_S3} delete {name}")).await?.with(0)?;
    ensure!(ended.out.contains(&format!("Snapshot {name} deleted.")), "{}", ended.out);
    let listed = type_it(&saver, &format!("{WITH_S3} ls")).await?.with(0)?;
    ensure!(listed.rows().is_empty() && listed.out.starts_with("Name "), "{}", listed.out);
    ensure!(saver.files()?.is_empty() && site.bucket.keys().await?.is_empty());
    invariants_by_hand(&saver, &Left::default()).await
}

#[tokio::test]
async fn each_line_of_the_page_does_what_it_says_there() -> Result<()> {
    let saver = Saver::new().await?;
    let site = &saver.site;
    let day = jiff::Timestamp::now().as_second() - 86_400;
    let place = |base: &str, number: i64| {
        let name = format!("{base}-{}-{}", site.node, day + number);
        snapshots::age(&site.place(&name, &snapshots::tiny(u64::try_from(number)?))?, 80_000 - u64::try_from(number)?)?;
        anyhow::Ok(name)
    };
    let on_demand: Vec<String> = (0..5).map(|number| place("on-demand", number)).collect::<Result<_>>()?;
    let scheduled: Vec<String> = (0..5).map(|number| place("etcd-snapshot", number)).collect::<Result<_>>()?;
    for alias in ["ls", "list", "l"] {
        ensure!(type_it(&saver, alias).await?.with(0)?.rows().len() == 10);
    }
    let json = type_it(&saver, "ls -o json").await?.with(0)?;
    let list: serde_json::Value = serde_json::from_str(&json.out)?;
    ensure!(list["items"].as_array().is_some_and(|items| items.len() == 10), "{list}");
    // Prune "on-demand" and "scheduled" down to a smaller amount: each leaves the other alone.
    type_it(&saver, "prune --snapshot-retention 4").await?.with(0)?;
    let mut left = [&on_demand[1..], &scheduled[..]].concat();
    left.sort();
    ensure!(saver.files()? == left, "{:?}", saver.files()?);
    type_it(&saver, "prune --name etcd-snapshot --etcd-snapshot-retention 3").await?.with(0)?;
    let mut left = [&on_demand[1..], &scheduled[2..]].concat();
    left.sort();
    ensure!(saver.files()? == left, "{:?}", saver.files()?);
    type_it(&saver, &format!("delete {} {}", on_demand[1], scheduled[2])).await?.with(0)?;
    ensure!(saver.files()?.len() == 5);
    type_it(&saver, &format!("delete {}", on_demand[1])).await?.with(1)?.says(&format!("Snapshot {} not found.", on_demand[1]))?;
    let compressed = saved(&type_it(&saver, "save --name before-upgrade --etcd-snapshot-compress").await?.with(0)?.out)?;
    ensure!(compressed.starts_with("before-upgrade-") && compressed.ends_with(".zip"), "{compressed}");
    let elsewhere = site.scratch().join("elsewhere/snapshots");
    std::fs::create_dir_all(&elsewhere)?;
    let name = saved(&type_it(&saver, &format!("save --etcd-snapshot-dir {}", elsewhere.display())).await?.with(0)?.out)?;
    ensure!(names_in(&elsewhere)? == [name], "{:?}", names_in(&elsewhere)?);
    // The one that is K3s's server's, and the bare command.
    type_it(&saver, "save --etcd-snapshot-name x").await?.with(2)?.says("by hand the base name is given with --name")?;
    let bare = Hand::new("--s3")?.run().await?.with(2)?;
    ensure!(bare.err.contains("requires a subcommand") || bare.err.contains("Usage:"), "{}", bare.err);
    let files = saver.files()?;
    invariants_by_hand(&saver, &Left::new(&files, &files)).await
}
