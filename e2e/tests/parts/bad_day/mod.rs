//! The page for a bad day, walked through: the commands that it shows, in its order and as they stand there, with a bucket to begin
//! with and a running etcd in the end; and, with kubeadm, an API server on it.

mod kubeadm;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e::etcd::{DEFAULT_SET, Etcd};
use e2e::hand::Hand;
use e2e::process::{Launch, Process};
use e2e::site::{FOLDER, Site};
use e2e::{http, ports, tools};
use serde_json::Value;

/// The page.
const PAGE: &str = "docs/restoring.md";
/// How a fenced block begins that is walked by everybody.
const WALKED: &str = "```sh walk";
/// And how one begins of a bare etcd.
const BARE: &str = "```sh walk bare";

/// The lines of all fenced blocks that begin like one of these, in their order.
fn blocks(page: &str, fences: &[&str]) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while lines.any(|line| fences.contains(&line)) {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n") + "\n");
    }
    blocks
}

/// The variables that a block of the page exports.
fn exported(block: &str) -> Vec<String> {
    let exports = block.lines().filter_map(|line| line.strip_prefix("export "));
    let words = exports.flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    let mut names: Vec<String> = words.filter_map(|word| Some(word.split_once('=')?.0.to_owned())).collect();
    names.sort();
    names
}

/// What is typed, where somebody would have said where things are.
struct Walk {
    variables: Vec<(&'static str, String)>,
    client: u16,
    dir: PathBuf,
}

impl Walk {
    fn new(site: &Site) -> Self {
        Self::at(site, ports::free(), ports::free(), "http")
    }

    fn at(site: &Site, client: u16, peer: u16, scheme: &str) -> Self {
        let dir = site.scratch().join("bad-day");
        let at = |name: &str| dir.join(name).display().to_string();
        let url = |port: u16| format!("{scheme}://127.0.0.1:{port}");
        let variables = vec![
            ("AWS_ACCESS_KEY_ID", site.s3.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", site.s3.secret_key.clone()),
            ("CLIENT_URL", url(client)),
            ("DATA", at("data")),
            ("ETCD_S3_BUCKET", site.bucket.name.clone()),
            ("ETCD_S3_ENDPOINT", site.s3.endpoint()),
            ("ETCD_S3_FOLDER", FOLDER.to_owned()),
            ("NAME", "cp-1".to_owned()),
            ("PEER_URL", url(peer)),
            ("TO", at("to")),
        ];
        Self { variables, client, dir }
    }

    fn variable(&self, name: &str) -> String {
        self.variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// Everything that the page tells to say first, and nothing else, has been said.
    fn is_as_asked(&self, page: &str) -> Result<()> {
        let asked: Vec<&str> = self.variables.iter().map(|(name, _)| *name).collect();
        let settings = blocks(page, &["```sh"]).into_iter().next().context("the block that says where things are")?;
        ensure!(exported(&settings) == asked, "the page asks for other settings than it is walked with: {:?}", exported(&settings));
        Ok(())
    }

    /// Types the commands with the tools of this set, and stays until etcd ends.
    fn begin(&self, commands: &[String], set: &str) -> Result<Process> {
        // The member that the page starts ends with the shell, however that ends.
        let begin = "set -euo pipefail\netcd() { exec setpriv --pdeathsig KILL etcd \"$@\"; }\n";
        let script = format!("{begin}{}echo arrived\nwait\n", commands.concat());
        let folder = |path: &Path| path.parent().unwrap_or(Path::new("/")).display().to_string();
        let (operator, etcd) = (folder(&tools::operator()?), folder(&tools::tool(set, "etcd")?));
        let kubernetes = folder(&tools::tool("kubernetes", "kubectl")?);
        let path = format!("{operator}:{etcd}:{kubernetes}:{}", std::env::var("PATH").unwrap_or_default());
        let mut bash = Launch::new("bad-day", "bash", &self.dir).flag("-c", script).env("PATH", path);
        // The server of the tests speaks no TLS, and no domain leads to it.
        bash = bash.env("ETCD_S3_INSECURE", "true").env("ETCD_S3_BUCKET_LOOKUP_TYPE", "path");
        for (name, value) in &self.variables {
            bash = bash.env(name, value);
        }
        bash.start()
    }
}

/// Waits until the last command of the page has ended well.
async fn arrives(bash: &mut Process, walk: &Walk) -> Result<()> {
    bash.until("the last command of the page", async || {
        let log = std::fs::read_to_string(walk.dir.join("bad-day.log"))?;
        ensure!(log.lines().any(|line| line == "arrived"), "not yet");
        Ok(())
    })
    .await
}

async fn keys(endpoint: &str) -> Result<Value> {
    let args = ["--endpoints", endpoint, "get", "", "--prefix", "--write-out", "json"];
    let all: Value = serde_json::from_str(&tools::run(&tools::tool(DEFAULT_SET, "etcdctl")?, args).await?)?;
    ensure!(all["kvs"].as_array().is_some_and(|kvs| kvs.len() > 1), "hardly anything there: {all}");
    Ok(all["kvs"].clone())
}

#[tokio::test]
async fn the_page_leads_from_a_bucket_to_a_running_etcd_with_the_same_keys() -> Result<()> {
    let page = std::fs::read_to_string(tools::repository(PAGE))?;
    let commands = blocks(&page, &[WALKED, BARE]);
    ensure!(commands.len() == 6, "{PAGE} has lost its commands: {commands:?}");

    let site = Site::new().await?;
    let source = Etcd::start().await?;
    for number in 0..20 {
        source.etcdctl(["put", &format!("/registry/things/{number}"), &format!("value {number}")]).await?;
    }
    source.etcdctl(["del", "/registry/things/7"]).await?;
    let save = Hand::new("save")?.on(&site).with_bucket(&site).with_kubernetes(&site).flag("--etcd-endpoint", source.endpoint());
    let done = save.arg("--etcd-snapshot-compress").run().await?.with(0)?;
    ensure!(done.err.is_empty() && !site.bucket.keys().await?.is_empty(), "it is not in the bucket: {done:?}");
    let (revision, saved) = (source.revision().await?, keys(&source.endpoint()).await?);
    // What comes after the snapshot is lost.
    source.etcdctl(["put", "/registry/things/late", "lost"]).await?;

    let walk = Walk::new(&site);
    walk.is_as_asked(&page)?;
    // What a member left behind is kept.
    std::fs::create_dir_all(walk.dir.join("data/member"))?;
    let mut bash = walk.begin(&commands, DEFAULT_SET)?;
    arrives(&mut bash, &walk).await?;

    http::get(ports::loopback(walk.client), "/health").await?.ok()?;
    let endpoint = format!("http://127.0.0.1:{}", walk.client);
    let restored = keys(&endpoint).await?;
    ensure!(restored == saved, "{restored} restored of {saved}");
    let etcdctl = tools::tool(DEFAULT_SET, "etcdctl")?;
    let status: Value =
        serde_json::from_str(&tools::run(&etcdctl, ["--endpoints", &endpoint, "endpoint", "status", "--write-out", "json"]).await?)?;
    let bumped = status[0]["Status"]["header"]["revision"].as_u64().context("a revision")?;
    ensure!(bumped >= revision + 1_000_000_000, "{bumped} after {revision}");
    let old = tools::run(&etcdctl, ["--endpoints", &endpoint, "get", "/registry/things/1", "--rev", &revision.to_string()]).await;
    ensure!(old.as_ref().is_err_and(|error| error.to_string().contains("compacted")), "a watch from before is not told: {old:?}");
    let before = std::fs::read_dir(&walk.dir)?.filter_map(Result::ok).map(|entry| entry.file_name());
    ensure!(before.into_iter().any(|name| name.to_string_lossy().starts_with("data-before-")), "the old data is gone");
    Ok(())
}
