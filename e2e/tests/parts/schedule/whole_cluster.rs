//! One save for the whole cluster: several agents, one of them saves.

use super::*;

#[tokio::test]
async fn of_three_agents_one_saves_each_slot_and_while_the_api_is_away_each_saves_for_itself() -> Result<()> {
    let etcd = Etcd::start().await?;
    let mut sites = Vec::new();
    let mut operators = Vec::new();
    let namespace = Site::new().await?.node;
    for _ in 0..3 {
        let site = Site::new().await?;
        let (api, kubeconfig) = site.api.proxied(site.scratch())?;
        if sites.is_empty() {
            let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
            let made = Namespace { metadata, ..Namespace::default() };
            Api::<Namespace>::all(site.kubernetes.client.clone()).create(&PostParams::default(), &made).await?;
        }
        let setup = site
            .operator()
            .env("KUBECONFIG", kubeconfig)
            .flag("--namespace", &namespace)
            .flag("--etcd-endpoint", etcd.endpoint())
            .saving("* * * * *")
            .flag("--etcd-snapshot-jitter", "0s")
            .flag("--schedule-scope", "cluster");
        operators.push(setup.start().await?);
        sites.push((site, api));
    }
    let files = || -> Result<Vec<usize>> { sites.iter().map(|(site, _)| Ok(snapshots_in(&site.snapshots())?.len())).collect() };
    let minute = |text: &String| text.rsplit('-').next().and_then(|seconds| Some(seconds.parse::<i64>().ok()? / 60));
    wait::until("a save of a slot, of which everybody knows", async || {
        let known = sites.iter().filter(|(site, _)| attempt(site).is_some()).count();
        ensure!(files()?.iter().sum::<usize>() > 0 && known == 3, "{:?} and {known}", files()?);
        Ok(())
    })
    .await?;
    // Once more, and then no two of one minute.
    let before = files()?.iter().sum::<usize>();
    wait::until("the next slot", async || {
        ensure!(files()?.iter().sum::<usize>() > before, "{:?}", files()?);
        Ok(())
    })
    .await?;
    let mut minutes = Vec::new();
    for (site, _) in &sites {
        minutes.extend(snapshots_in(&site.snapshots())?.iter().filter_map(minute));
    }
    minutes.sort_unstable();
    let count = minutes.len();
    minutes.dedup();
    ensure!(minutes.len() == count, "two saves of one slot: {:?}", files()?);

    let before = files()?;
    for (_, api) in &sites {
        api.cut();
    }
    wait::until("a save of each", async || {
        let now = files()?;
        ensure!(now.iter().zip(&before).all(|(now, before)| now > before), "{before:?} {now:?}");
        Ok(())
    })
    .await
}

/// What the state remembers of the last attempt.
fn attempt(site: &Site) -> Option<Value> {
    let state = site.snapshots().with_file_name(".metadata").join(".state");
    let here = std::fs::read_dir(state).ok()?.next()?.ok()?.path().join(&site.node).join("schedule.json");
    let noted: Value = serde_json::from_slice(&std::fs::read(here).ok()?).ok()?;
    Some(noted).filter(|noted| !noted["slot"].is_null() || !noted["attempt"].is_null())
}
