//! `ready`: what an agent says of itself, for whoever has nothing else to ask it with.

use anyhow::{Result, ensure};
use e2e::hand::Hand;
use e2e::ports;
use e2e::site::Site;

#[tokio::test]
async fn an_agent_is_asked_how_it_is() -> Result<()> {
    let site = Site::new().await?;
    let (api, kubeconfig) = site.api.proxied(site.scratch())?;
    api.cut();
    let mut operator = site.operator().env("KUBECONFIG", kubeconfig).start().await?;
    let at = operator.http();
    let ended = Hand::new("ready")?.arg(&at).run().await?.with(1)?;
    ensure!(ended.out.starts_with("not ready\nwaiting for: ") && ended.err.is_empty(), "{ended:?}");

    // As in its own pod, where the address is in the environment.
    let waiting = Hand::new("ready")?.env("HTTP_LISTEN", at.replace("127.0.0.1", "0.0.0.0")).flag("--wait", "3m").start()?;
    api.restore();
    ensure!(waiting.ended().await?.with(0)?.out.starts_with("ready\n"));
    operator.stop().await;
    let ended = Hand::new("ready")?.arg(&at).run().await?.with(1)?;
    ensure!(ended.out.is_empty(), "{ended:?}");
    ended.says(&format!("the agent at {at} cannot be asked"))?.says("Connection refused")?;
    Ok(())
}

#[tokio::test]
async fn what_is_no_agent_is_not_taken_for_one() -> Result<()> {
    let site = Site::new().await?;
    Hand::new("ready")?.arg(site.s3.endpoint()).run().await?.with(1)?.says("what listens there is no agent")?;
    Hand::new("ready")?
        .arg("::1")
        .env("HTTP_LISTEN", format!("[::]:{}", ports::free()))
        .run()
        .await?
        .with(1)?
        .says("the agent at [::1]:")?;
    Hand::new("ready")?.flag("--wait", "soon").run().await?.with(2)?.says("write it like 2m or 90s")?;
    Ok(())
}
