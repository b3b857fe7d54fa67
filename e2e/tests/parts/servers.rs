//! The tests' own tools: what a test of the operator relies on, shown without the operator.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::certs::Ca;
use e2e::etcd::{Etcd, Restore};
use e2e::http;
use e2e::kubernetes::Kubernetes;
use e2e::ports;
use e2e::process::{Launch, Signal, scratch};
use e2e::proxy::{Fault, FaultProxy, On, Reply};
use e2e::s3::S3;
use e2e::shared::Shared;
use e2e::site::{Site, unique};
use e2e::{snapshots, tools, wait};
use kube::api::{ListParams, PostParams};

async fn bucket() -> Result<e2e::s3::Bucket> {
    Shared::get()?.s3.bucket(&format!("bucket-{}", unique())).await
}

/// The same bucket through a proxy.
fn through(bucket: &e2e::s3::Bucket, proxy: &FaultProxy) -> Result<e2e::s3::Bucket> {
    let mut access = Shared::get()?.s3.clone();
    access.port = proxy.port();
    Ok(access.existing(&bucket.name))
}

#[tokio::test]
async fn the_crd_is_served_and_takes_a_record() -> Result<()> {
    let kubernetes = Shared::get()?.api.kubernetes().await?;
    let node = format!("node-{}", unique());
    let record = serde_json::from_value(serde_json::json!({
        "apiVersion": "k3s.cattle.io/v1", "kind": "ETCDSnapshotFile", "metadata": { "name": format!("local-{node}") },
        "spec": { "snapshotName": "a", "nodeName": node, "location": "file:///a" },
    }))?;
    kubernetes.records().create(&PostParams::default(), &record).await?;
    ensure!(kubernetes.local_records(&node).await?.len() == 1);
    kubernetes.delete_record(&format!("local-{node}")).await?;
    ensure!(kubernetes.local_records(&node).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn kubectl_and_the_client_see_the_same_cluster() -> Result<()> {
    let api = &Shared::get()?.api;
    let id = api.kubernetes().await?.cluster_id().await?;
    let said = api.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]).await?;
    ensure!(said == id, "kubectl says {said}, the client {id}");
    Ok(())
}

#[tokio::test]
async fn another_user_may_do_nothing_that_was_not_granted() -> Result<()> {
    let dir = scratch()?;
    let stranger = Kubernetes::connect(&Shared::get()?.api.kubeconfig_as("stranger", dir.path())?).await?;
    let refused = stranger.records().list(&ListParams::default()).await.err().context("a stranger may list")?;
    ensure!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    Ok(())
}

#[tokio::test]
async fn servers_die_with_the_run_that_started_them_however_it_ends() -> Result<()> {
    for signal in [Signal::KILL, Signal::TERM] {
        let dir = scratch()?;
        let show = "cp $E2E_SERVERS servers.json; exec sleep 30";
        let launch = Launch::new("with-servers", env!("CARGO_BIN_EXE_with-servers"), dir.path()).args(["sh", "-c", show]);
        let mut run = launch.env(tools::TOOLS, std::env::var_os(tools::TOOLS).unwrap_or_default()).start()?;
        let shared = run.until("the servers", async || Ok(std::fs::read_to_string(dir.path().join("servers.json"))?)).await?;
        let shared: Shared = serde_json::from_str(&shared)?;
        let kubernetes = shared.api.kubernetes().await?;
        kubernetes.cluster_id().await?;
        run.signal(signal)?;
        run.wait().await?;
        wait::until("the servers to be gone", async || {
            ensure!(kubernetes.cluster_id().await.is_err(), "the API server answers");
            ensure!(http::get(ports::loopback(shared.s3.port), "/healthz").await.is_err(), "the S3 server answers");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_bucket_keeps_objects_with_their_metadata() -> Result<()> {
    let bucket = bucket().await?;
    bucket.put_with("folder/a", "one", &[("k3s-node-name", "n")]).await?;
    bucket.put_many((0..40).map(|n| (format!("many/{n}"), vec![0; 10])), &[]).await?;
    ensure!(bucket.keys().await?.len() == 41);
    let head = bucket.client.head_object().bucket(&bucket.name).key("folder/a").send().await?;
    ensure!(head.metadata().and_then(|metadata| metadata.get("k3s-node-name")).map(String::as_str) == Some("n"));
    bucket.delete("folder/a").await?;
    ensure!(bucket.keys().await?.len() == 40);
    Ok(())
}

#[tokio::test]
async fn an_s3_server_comes_back_on_its_port_with_its_objects() -> Result<()> {
    let mut s3 = S3::start().await?;
    let bucket = s3.bucket("bucket").await?;
    bucket.put("a", "one").await?;
    s3.stop();
    ensure!(bucket.get("a").await.is_err());
    s3.launch().await?;
    ensure!(wait::until("the object", async || bucket.get("a").await).await? == b"one");
    Ok(())
}

#[tokio::test]
async fn an_etcd_is_restored_from_its_own_snapshot() -> Result<()> {
    let dir = scratch()?;
    let mut etcd = Etcd::start().await?;
    etcd.etcdctl(["put", "key", "before"]).await?;
    let saved = dir.path().join("saved");
    etcd.save(&saved).await?;
    let revision = etcd.revision().await?;
    for how in [Restore::default(), Restore { bump_revision: Some(1_000_000) }] {
        etcd.etcdctl(["put", "key", "after"]).await?;
        etcd.restore(&saved, how).await?;
        ensure!(etcd.etcdctl(["get", "--print-value-only", "key"]).await?.trim() == "before");
        let now = etcd.revision().await?;
        ensure!(now == revision + how.bump_revision.unwrap_or(0), "{how:?}: revision {revision} became {now}");
    }
    Ok(())
}

#[tokio::test]
async fn an_api_server_goes_back_in_time_with_its_etcd() -> Result<()> {
    let dir = scratch()?;
    let mut api = e2e::apiserver::ApiServer::start().await?;
    let kubernetes = api.kubernetes().await?;
    api.etcd.save(&dir.path().join("saved")).await?;
    kubernetes.create_node("later").await?;
    api.stop();
    api.etcd.restore(&dir.path().join("saved"), Restore::default()).await?;
    api.launch().await?;
    let names = api.kubectl(&["get", "nodes", "-o", "name"]).await?;
    ensure!(names.trim().is_empty(), "{names}");
    Ok(())
}

#[tokio::test]
async fn a_proxy_counts_what_passes_and_changes_nothing() -> Result<()> {
    let bucket = bucket().await?;
    let proxy = Shared::get()?.s3.proxied()?;
    let through = through(&bucket, &proxy)?;
    let big = vec![7; 3 * 1024 * 1024];
    through.put("a b/ü", big.clone()).await?;
    ensure!(through.get("a b/ü").await? == big);
    ensure!(through.keys().await? == ["a b/ü"]);
    let counts = [On::method("PUT"), On::get(), On::list_objects(), On::any()].map(|on| proxy.count(&on));
    ensure!(counts == [1, 2, 1, 3], "{counts:?}: {:?}", proxy.requests());
    Ok(())
}

#[tokio::test]
async fn a_proxy_answers_for_the_server_as_often_as_it_is_told() -> Result<()> {
    let bucket = bucket().await?;
    bucket.put("a", "one").await?;
    let proxy = Shared::get()?.s3.proxied()?;
    let through = through(&bucket, &proxy)?;
    let rule = proxy.when(On::method("HEAD").path("*/a").skip(1).times(1), Fault::status(403));
    let mut heads = Vec::new();
    for _ in 0..3 {
        heads.push(through.client.head_object().bucket(&through.name).key("a").send().await.is_ok());
    }
    ensure!(heads == [true, false, true], "{heads:?}");
    ensure!((rule.hits(), proxy.count(&On::method("HEAD"))) == (1, 3));
    proxy.when(On::list_objects(), Fault::s3(400, "NoSuchThing"));
    let refused = format!("{:#}", through.keys().await.err().context("a listing that must fail")?);
    proxy.clear();
    ensure!(through.keys().await?.len() == 1, "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_proxy_rewrites_and_cuts_what_a_server_answers() -> Result<()> {
    let bucket = bucket().await?;
    bucket.put("first", "0123456789").await?;
    let proxy = Shared::get()?.s3.proxied()?;
    let through = through(&bucket, &proxy)?;
    proxy.when(On::list_objects(), Fault::rewrite(|body| body.replace("<Key>first</Key>", "<Key>second</Key>")));
    ensure!(through.keys().await? == ["second"]);
    proxy.when(On::get().path("*/first"), Fault::CutBody(4));
    ensure!(through.get("first").await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_proxy_loses_an_answer_that_the_server_gave() -> Result<()> {
    let bucket = bucket().await?;
    let proxy = Shared::get()?.s3.proxied()?;
    let through = through(&bucket, &proxy)?;
    proxy.when(On::method("PUT").path("*/lost"), Fault::LoseAnswer);
    proxy.when(On::method("PUT").path("*/dropped"), Fault::Drop);
    ensure!(through.put("lost", "one").await.is_err());
    ensure!(through.put("dropped", "one").await.is_err());
    ensure!(bucket.keys().await? == ["lost"]);
    Ok(())
}

#[tokio::test]
async fn a_held_request_waits_for_the_test() -> Result<()> {
    let bucket = bucket().await?;
    bucket.put("a", "one").await?;
    let proxy = Arc::new(Shared::get()?.s3.proxied()?);
    let through = through(&bucket, &proxy)?;
    let held = proxy.when(On::get().path("*/a"), Fault::Hold);
    let getting = tokio::spawn(async move { through.get("a").await });
    wait::until("the request", async || if held.hits() == 1 { Ok(()) } else { bail!("not yet") }).await?;
    bucket.put("a", "two").await?;
    held.release();
    ensure!(getting.await?? == b"two");
    Ok(())
}

#[tokio::test]
async fn a_black_hole_takes_connections_and_gives_nothing_until_it_ends() -> Result<()> {
    let etcd = Etcd::start().await?;
    let server = etcd.endpoint().trim_start_matches("http://").parse()?;
    for proxy in [FaultProxy::http(server)?, FaultProxy::tcp(server)?] {
        let by_proxy = ports::loopback(proxy.port());
        http::get(by_proxy, "/health").await?.ok()?;
        proxy.black_hole();
        let asked = tokio::spawn(async move { http::get(by_proxy, "/health").await });
        let silent = tokio::time::timeout(Duration::from_millis(500), http::get(by_proxy, "/health")).await;
        ensure!(silent.is_err(), "{silent:?}");
        proxy.restore();
        asked.await??.ok()?;
        proxy.cut();
        ensure!(http::get(by_proxy, "/health").await.is_err());
        proxy.restore();
        http::get(by_proxy, "/health").await?.ok()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_proxy_spoils_requests_to_an_api_server() -> Result<()> {
    let api = &Shared::get()?.api;
    let dir = scratch()?;
    let (proxy, kubeconfig) = api.proxied(dir.path())?;
    let kubernetes = Kubernetes::connect(&kubeconfig).await?;
    let id = kubernetes.cluster_id().await?;
    ensure!(id == api.kubernetes().await?.cluster_id().await?);
    ensure!(proxy.count(&On::get().path("/api/v1/namespaces/kube-system")) == 1, "{:?}", proxy.requests());
    proxy.when(On::get().path("/api/v1/namespaces/*"), Fault::kubernetes(409, "Conflict"));
    let refused = kubernetes.cluster_id().await.err().context("the request must fail")?;
    ensure!(format!("{refused:#}").contains("Conflict"), "{refused:#}");
    Ok(())
}

#[tokio::test]
async fn a_proxy_ends_the_tls_of_s3_clients() -> Result<()> {
    let bucket = bucket().await?;
    bucket.put("a", "one").await?;
    let ca = Ca::new("authority of a bucket")?;
    let proxy = Shared::get()?.s3.proxied_with_tls(&ca)?;
    proxy.when(
        On::get().path("/hello"),
        Fault::answer(|seen| Reply::status(200).body(format!("hello {}", seen.header("host").unwrap_or("?")))),
    );
    let stream = tokio::net::TcpStream::connect(ports::loopback(proxy.port())).await?;
    let name = rustls::pki_types::ServerName::try_from("localhost")?;
    let stream = tokio_rustls::TlsConnector::from(ca.trusting_client()?).connect(name, stream).await?;
    ensure!(http::get_over(stream, "/hello", "").await?.ok()? == "hello localhost");
    let other = Ca::new("another authority")?.trusting_client()?;
    let stream = tokio::net::TcpStream::connect(ports::loopback(proxy.port())).await?;
    let name = rustls::pki_types::ServerName::try_from("localhost")?;
    ensure!(tokio_rustls::TlsConnector::from(other).connect(name, stream).await.is_err());
    Ok(())
}

#[tokio::test]
async fn an_operator_serves_a_site_and_ends_when_told() -> Result<()> {
    let site = Site::new().await?;
    site.place(&site.name(1_700_000_000), &snapshots::tiny(1))?;
    site.put_ours(&site.name(1_700_000_001), snapshots::tiny(2)).await?;
    let mut operator = site.operator_with_bucket().start().await?;
    operator.ready().await?;
    operator
        .until("a ready record of each", async |_| {
            // The file goes up.
            let (local, bucket) = (site.local_records().await?, site.bucket_records().await?);
            ensure!((local.len(), bucket.len()) == (1, 2), "{local:?} {bucket:?}");
            ensure!(local.iter().chain(&bucket).all(|record| record.data["status"]["readyToUse"] == true), "{local:?} {bucket:?}");
            Ok(())
        })
        .await?;
    operator.beats(1).await?;
    ensure!(operator.metrics().await?.get("etcd_snapshot_files", &[("kind", "good")])? >= 1.0);
    ensure!(operator.terminate().await?.success(), "{}", operator.log());
    Ok(())
}

#[tokio::test]
async fn a_refused_setting_ends_the_operator_with_a_sentence() -> Result<()> {
    let said = Site::new().await?.operator().flag("--etcd-snapshot-reconcile-interval", "soon").refuse().await?;
    ensure!(said.contains("etcd-snapshot-reconcile-interval") && said.contains("soon"), "{said}");
    Ok(())
}
