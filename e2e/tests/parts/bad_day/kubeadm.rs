//! The same page for a control plane of kubeadm: its commands, with the folder of kubeadm and the port of etcd put elsewhere. What
//! kubelet does with the manifests of static pods is done here: it runs what is there, and ends what is not.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::certs::{Ca, Identity};
use e2e::wait;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use serde_json::json;

use super::*;

/// How a fenced block begins that is of kubeadm.
const KUBEADM: &str = "```sh walk kubeadm";
const TOKEN: &str = "admin-of-the-bad-day";
/// What is in kubeadm's folder of static pods.
const PODS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// A control plane node as kubeadm makes one.
struct Node {
    /// In place of `/etc/kubernetes`.
    etc: PathBuf,
    set: &'static str,
    etcd: u16,
    api: u16,
    running: BTreeMap<&'static str, Process>,
}

impl Node {
    fn new(etc: PathBuf, set: &'static str, walk: &Walk) -> Result<Self> {
        for folder in ["manifests", "pki/etcd"] {
            std::fs::create_dir_all(etc.join(folder))?;
        }
        let node = Self { etc, set, etcd: walk.client, api: ports::free(), running: BTreeMap::new() };
        node.certificates()?;
        let url = format!("https://127.0.0.1:{}", node.api);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "admin",
            "clusters": [{ "name": "kubernetes", "cluster": { "server": url, "certificate-authority": node.etc.join("pki/ca.crt") } }],
            "users": [{ "name": "admin", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "admin", "context": { "cluster": "kubernetes", "user": "admin" } }],
        });
        std::fs::write(node.etc.join("admin.conf"), config.to_string())?;
        std::fs::write(node.etc.join("pki/tokens.csv"), format!("{TOKEN},admin,admin,system:masters\n"))?;
        node.manifests(walk)?;
        Ok(node)
    }

    fn pki(&self, name: &str) -> String {
        self.etc.join("pki").join(name).display().to_string()
    }

    fn put(&self, name: &str, identity: &Identity) -> Result<()> {
        std::fs::write(self.pki(&format!("{name}.crt")), &identity.cert_pem)?;
        Ok(std::fs::write(self.pki(&format!("{name}.key")), &identity.key_pem)?)
    }

    fn certificates(&self) -> Result<()> {
        let (ca, of_etcd) = (Ca::new("kubernetes")?, Ca::new("etcd-ca")?);
        std::fs::write(self.pki("ca.crt"), &ca.cert_pem)?;
        std::fs::write(self.pki("etcd/ca.crt"), &of_etcd.cert_pem)?;
        self.put("apiserver", &ca.server(&["kubernetes.default.svc"])?)?;
        let accounts = rcgen::KeyPair::generate()?;
        std::fs::write(self.pki("sa.key"), accounts.serialize_pem())?;
        std::fs::write(self.pki("sa.pub"), accounts.public_key_pem())?;
        self.put("apiserver-etcd-client", &of_etcd.client("kube-apiserver-etcd-client")?)?;
        self.put("etcd/healthcheck-client", &of_etcd.client("kube-etcd-healthcheck-client")?)?;
        // etcd asks itself as a client, too.
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.put("etcd/server", &of_etcd.sign(&params)?)?;
        self.put("etcd/peer", &of_etcd.sign(&params)?)
    }

    /// The static pods with the flags of kubeadm's that matter here. JSON is YAML.
    fn manifests(&self, walk: &Walk) -> Result<()> {
        let client = format!("https://127.0.0.1:{}", self.etcd);
        let (name, peer, data) = (walk.variable("NAME"), walk.variable("PEER_URL"), walk.variable("DATA"));
        let etcd = vec![
            "etcd".to_owned(),
            format!("--name={name}"),
            format!("--data-dir={data}"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={name}={peer}"),
            "--client-cert-auth=true".to_owned(),
            format!("--cert-file={}", self.pki("etcd/server.crt")),
            format!("--key-file={}", self.pki("etcd/server.key")),
            format!("--trusted-ca-file={}", self.pki("etcd/ca.crt")),
            "--peer-client-cert-auth=true".to_owned(),
            format!("--peer-cert-file={}", self.pki("etcd/peer.crt")),
            format!("--peer-key-file={}", self.pki("etcd/peer.key")),
            format!("--peer-trusted-ca-file={}", self.pki("etcd/ca.crt")),
        ];
        let api = vec![
            "kube-apiserver".to_owned(),
            format!("--etcd-servers={client}"),
            format!("--etcd-cafile={}", self.pki("etcd/ca.crt")),
            format!("--etcd-certfile={}", self.pki("apiserver-etcd-client.crt")),
            format!("--etcd-keyfile={}", self.pki("apiserver-etcd-client.key")),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.api),
            format!("--tls-cert-file={}", self.pki("apiserver.crt")),
            format!("--tls-private-key-file={}", self.pki("apiserver.key")),
            format!("--token-auth-file={}", self.pki("tokens.csv")),
            format!("--service-account-key-file={}", self.pki("sa.pub")),
            format!("--service-account-signing-key-file={}", self.pki("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
        ];
        for (pod, command) in PODS.into_iter().zip([etcd, api, Vec::new(), Vec::new()]) {
            let containers = json!([{ "name": pod, "command": command }]);
            let manifest = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": pod }, "spec": { "containers": containers } });
            std::fs::write(self.manifest(pod), manifest.to_string())?;
        }
        Ok(())
    }

    fn manifest(&self, pod: &str) -> PathBuf {
        self.etc.join("manifests").join(format!("{pod}.yaml"))
    }

    /// What kubelet does when it looks: scheduler and controller manager have no part in this and are not run.
    async fn sync(&mut self) -> Result<()> {
        for pod in ["etcd", "kube-apiserver"] {
            let Ok(manifest) = std::fs::read(self.manifest(pod)) else {
                if let Some(mut process) = self.running.remove(pod) {
                    process.stop(Duration::from_secs(2)).await;
                }
                continue;
            };
            if self.running.get_mut(pod).is_none_or(|process| process.ended().is_some()) {
                let manifest: Value = serde_json::from_slice(&manifest)?;
                let command: Vec<String> = serde_json::from_value(manifest["spec"]["containers"][0]["command"].clone())?;
                let set = if pod == "etcd" { self.set } else { "kubernetes" };
                let launch = Launch::new(pod, tools::tool(set, &command[0])?, &self.etc).args(&command[1..]);
                self.running.insert(pod, launch.start()?);
            }
        }
        let seen = self.seen();
        if self.running.is_empty() { std::fs::remove_file(seen).or(Ok(())) } else { Ok(std::fs::write(seen, "")?) }
    }

    /// Is there while a pod runs, as `crictl ps` shows it.
    fn seen(&self) -> PathBuf {
        self.etc.join("pods")
    }

    /// Looks again and again.
    async fn kubelet(&mut self) -> Result<()> {
        loop {
            self.sync().await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let config = self.etc.join("admin.conf").display().to_string();
        tools::run(&tools::tool("kubernetes", "kubectl")?, [&["--kubeconfig", &config], args].concat()).await
    }

    /// Runs the pods until the API server is ready.
    async fn ready(&mut self) -> Result<()> {
        wait::until("the API server of the node", async || {
            self.sync().await?;
            self.kubectl(&["get", "--raw", "/readyz"]).await?;
            self.kubectl(&["get", "namespace", "default", "kube-system"]).await
        })
        .await?;
        Ok(())
    }
}

async fn a_control_plane_is_restored(set: &'static str) -> Result<()> {
    let page = std::fs::read_to_string(tools::repository(PAGE))?;
    let commands = blocks(&page, &[WALKED, KUBEADM]);
    ensure!(commands.len() == 7, "{PAGE} has lost its commands: {commands:?}");
    let site = Site::new().await?;
    let walk = Walk::at(&site, ports::free(), ports::free(), "https");
    walk.is_as_asked(&page)?;
    std::fs::create_dir_all(&walk.dir)?;
    let mut node = Node::new(walk.dir.join("kubernetes"), set, &walk)?;
    node.ready().await?;
    node.kubectl(&["create", "configmap", "kept", "--from-literal", "word=kept"]).await?;
    let save = Hand::new("save")?.on(&site).with_bucket(&site).flag("--etcd-endpoint", walk.variable("CLIENT_URL"));
    let save = save.flag("--etcd-cacert", node.pki("etcd/ca.crt")).flag("--etcd-cert", node.pki("etcd/healthcheck-client.crt"));
    let save = save.flag("--etcd-key", node.pki("etcd/healthcheck-client.key")).env("KUBECONFIG", node.etc.join("admin.conf"));
    save.run().await?.with(0)?;
    ensure!(!site.bucket.keys().await?.is_empty(), "it is not in the bucket");
    // What comes after the snapshot is lost; and somebody has seen a number that comes a second time.
    node.kubectl(&["create", "configmap", "lost"]).await?;
    let seen = node.kubectl(&["get", "configmap", "lost", "--output", "jsonpath={.metadata.resourceVersion}"]).await?;
    let seen: u64 = seen.parse()?;

    let put_elsewhere = |commands: &String| {
        let commands = commands.replace("/etc/kubernetes", &node.etc.display().to_string());
        commands.replace("https://127.0.0.1:2379", &walk.variable("CLIENT_URL"))
    };
    let mut commands: Vec<String> = commands.iter().map(put_elsewhere).collect();
    // The page says to look with crictl until the pods are gone.
    ensure!(commands[2].contains("stopped"), "{commands:?}");
    commands.insert(3, format!("while [ -e {} ]; do sleep 0.1; done\n", node.seen().display()));
    let mut bash = walk.begin(&commands, set)?;
    tokio::select! {
        arrived = arrives(&mut bash, &walk) => arrived?,
        failed = node.kubelet() => failed?,
    }
    for pod in PODS {
        ensure!(node.manifest(pod).is_file(), "{pod} was not given back to kubelet");
    }
    ensure!(node.kubectl(&["get", "configmap", "kept", "--output", "jsonpath={.data.word}"]).await? == "kept");
    let lost = node.kubectl(&["get", "configmap", "lost"]).await;
    ensure!(lost.as_ref().is_err_and(|error| error.to_string().contains("NotFound")), "it was made after the snapshot: {lost:?}");
    node.kubectl(&["create", "configmap", "new"]).await?;
    let new = node.kubectl(&["get", "configmap", "new", "--output", "jsonpath={.metadata.resourceVersion}"]).await?;
    ensure!(new.parse::<u64>()? > seen + 900_000_000, "{new} after {seen}");
    // Who watches on from before the restore is told to list anew.
    let watch = format!("/api/v1/configmaps?watch=1&timeoutSeconds=5&resourceVersion={seen}");
    let told = node.kubectl(&["get", "--raw", &watch]).await;
    let told = told.unwrap_or_else(|error| error.to_string());
    ensure!(told.contains("too old resource version") || told.contains("\"code\":410") || told.contains("compacted"), "{told}");
    Ok(())
}

#[tokio::test]
async fn the_page_leads_a_control_plane_of_kubeadm_with_etcd_3_5_back_to_its_snapshot() -> Result<()> {
    a_control_plane_is_restored("etcd-3.5").await
}

#[tokio::test]
async fn the_page_leads_a_control_plane_of_kubeadm_with_etcd_3_6_back_to_its_snapshot() -> Result<()> {
    a_control_plane_is_restored("etcd-3.6").await
}
