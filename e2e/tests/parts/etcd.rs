//! The edge to the etcd member: what it says of real members, and of everything that may stand between.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::certs::{Ca, Identity};
use e2e::etcd::{DEFAULT_SET, Etcd, Restore, without_fsync};
use e2e::process::{Launch, Process, Signal, scratch, with_free_ports};
use e2e::proxy::FaultProxy;
use e2e::{http, ports, tools, wait};
use etcd_snapshot_operator::etcd::{Alarm, AlarmKind, EtcdAccess, EtcdError, EtcdSettings, Member, Part};
use etcd_snapshot_operator::snapshot::History;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const STALL: Duration = Duration::from_secs(30);

/// Members of one cluster, with whatever flags a test wants.
pub struct Cluster {
    set: String,
    dir: TempDir,
    scheme: &'static str,
    flags: Vec<String>,
    pub members: Vec<Server>,
}

pub struct Server {
    pub client: u16,
    peer: u16,
    metrics: u16,
    process: Option<Process>,
}

impl Server {
    pub fn new() -> Self {
        Self { client: ports::free(), peer: ports::free(), metrics: ports::free(), process: None }
    }

    pub fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    fn metrics(&self) -> SocketAddr {
        ports::loopback(self.metrics)
    }
}

impl Cluster {
    /// Plain members.
    pub async fn start(size: usize, flags: &[&str]) -> Result<Self> {
        Self::start_version(DEFAULT_SET, size, flags).await
    }

    /// Plain members of the version that this set of tools holds.
    pub async fn start_version(set: &str, size: usize, flags: &[&str]) -> Result<Self> {
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        with_free_ports(async || Self::begin(set, scratch()?, "http", size, flags.clone()).await).await
    }

    /// One member with this certificate; it asks for client certificates of the authority.
    async fn start_tls(ca: &Ca, server: &Identity) -> Result<Self> {
        with_free_ports(async || {
            let dir = scratch()?;
            let path = |name: &str| dir.path().join(name).display().to_string();
            for (name, content) in [("ca", &ca.cert_pem), ("server", &server.cert_pem), ("server-key", &server.key_pem)] {
                std::fs::write(path(name), content)?;
            }
            let flags =
                ["--client-cert-auth", "--trusted-ca-file", &path("ca"), "--cert-file", &path("server"), "--key-file", &path("server-key")];
            let flags = flags.iter().map(ToString::to_string).collect();
            Self::begin(DEFAULT_SET, dir, "https", 1, flags).await
        })
        .await
    }

    async fn begin(set: &str, dir: TempDir, scheme: &'static str, size: usize, flags: Vec<String>) -> Result<Self> {
        let mut cluster = Self { set: set.to_owned(), dir, scheme, flags, members: (0..size).map(|_| Server::new()).collect() };
        for at in 0..size {
            cluster.launch(at, "new")?;
        }
        for at in 0..size {
            cluster.healthy(at).await?;
        }
        Ok(cluster)
    }

    /// Starts a member; `state` is `new`, or `existing` for one that joins.
    pub fn launch(&mut self, at: usize, state: &str) -> Result<()> {
        let initial: Vec<String> = self.members.iter().enumerate().map(|(at, member)| format!("m{at}={}", member.peer_url())).collect();
        let client = self.endpoint(at);
        let member = &mut self.members[at];
        let launch = Launch::new(format!("etcd-{at}"), tools::tool(&self.set, "etcd")?, self.dir.path())
            .flag("--name", format!("m{at}"))
            .flag("--data-dir", self.dir.path().join(format!("data-{at}")))
            .flag("--listen-client-urls", &client)
            .flag("--advertise-client-urls", &client)
            .flag("--listen-peer-urls", member.peer_url())
            .flag("--initial-advertise-peer-urls", member.peer_url())
            .flag("--initial-cluster", initial.join(","))
            .flag("--initial-cluster-state", state)
            .flag("--listen-metrics-urls", format!("http://{}", member.metrics()))
            .flag("--log-level", "warn")
            .args(without_fsync(&self.set))
            .args(&self.flags);
        member.process = Some(launch.start()?);
        Ok(())
    }

    async fn healthy(&mut self, at: usize) -> Result<()> {
        let address = self.members[at].metrics();
        let process = self.members[at].process.as_mut().context("it is stopped")?;
        process.until("etcd to be healthy", async || http::get(address, "/health").await?.ok()).await?;
        Ok(())
    }

    pub fn kill(&mut self, at: usize) {
        self.members[at].process = None;
    }

    fn signal(&mut self, at: usize, signal: Signal) -> Result<()> {
        self.members[at].process.as_mut().context("it is stopped")?.signal(signal)
    }

    pub fn endpoint(&self, at: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.members[at].client)
    }

    pub fn member(&self, at: usize) -> Result<Member> {
        member(&self.endpoint(at), |_| ())
    }

    pub async fn etcdctl(&self, args: &[&str]) -> Result<String> {
        tools::run(&tools::tool(&self.set, "etcdctl")?, [&["--endpoints", &self.endpoint(0)], args].concat()).await
    }
}

pub fn member(endpoint: &str, change: impl FnOnce(&mut EtcdSettings)) -> Result<Member> {
    let mut settings = EtcdSettings { endpoint: endpoint.to_owned(), ..EtcdSettings::default() };
    change(&mut settings);
    Ok(Member::new(EtcdAccess::new(&settings)?))
}

/// The error of a question that has to fail.
async fn refused(member: &Member) -> Result<EtcdError> {
    match member.status().await {
        Ok(status) => bail!("it answered: {status:?}"),
        Err(error) => Ok(error),
    }
}

/// What a client keeps in files.
struct Files(TempDir);

impl Files {
    fn new(ca: &Ca, client: &Identity) -> Result<Self> {
        let files = Self(scratch()?);
        files.put("ca", &ca.cert_pem)?;
        files.put("cert", &client.cert_pem)?;
        files.put("key", &client.key_pem)?;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes in place.
    fn put(&self, name: &str, content: &str) -> Result<()> {
        Ok(std::fs::write(self.path(name), content)?)
    }

    /// Writes beside it and renames.
    fn replace(&self, name: &str, content: &str) -> Result<()> {
        std::fs::write(self.path("new"), content)?;
        Ok(std::fs::rename(self.path("new"), self.path(name))?)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn settings(&self, settings: &mut EtcdSettings) {
        (settings.cacert, settings.cert, settings.key) = (self.text("ca"), self.text("cert"), self.text("key"));
    }
}

/// The `consistent_index` in a snapshot: in a page of bbolt a value stands right behind its key. Pages that are no longer in
/// use hold older ones.
fn consistent_index(snapshot: &Path) -> Result<u64> {
    const KEY: &[u8] = b"consistent_index";
    let bytes = std::fs::read(snapshot)?;
    let behind = bytes.windows(KEY.len() + 8).filter_map(|window| window.strip_prefix(KEY));
    behind.map(|value| u64::from_be_bytes(value.try_into().expect("eight bytes"))).max().context("no consistent_index")
}

async fn history(member: &Member) -> Result<History> {
    member.history().await?.context("a member with a quorum has a history")
}

#[tokio::test]
async fn a_member_says_what_etcdctl_says() -> Result<()> {
    let etcd = Etcd::start().await?;
    etcd.etcdctl(["put", "key", "value"]).await?;
    let member = member(&etcd.endpoint(), |_| ())?;
    // A member that has just begun still writes by itself: the two are asked until nothing moves in between.
    let status = wait::until("two answers of one moment", async || {
        let shown = etcd.etcdctl(["endpoint", "status", "--write-out", "json"]).await?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let status = member.status().await?;
        let says = |path: &str| shown.pointer(&format!("/0/Status/{path}")).cloned().unwrap_or_default();
        ensure!(says("header/cluster_id") == status.etcd_cluster.0, "{shown} {status:?}");
        ensure!(says("header/member_id") == status.member.0, "{shown} {status:?}");
        ensure!(says("leader") == status.member.0 && status.leader == Some(status.member), "{shown} {status:?}");
        ensure!(says("version") == status.version.as_str(), "{shown} {status:?}");
        ensure!(says("storageVersion") == status.storage_version.clone().context("3.6 has one")?.as_str(), "{shown} {status:?}");
        ensure!(says("dbSize") == status.db_size && says("dbSizeInUse") == status.db_in_use, "{shown} {status:?}");
        ensure!(says("raftTerm") == status.raft_term && says("raftIndex") == status.raft_index, "{shown} {status:?}");
        ensure!(says("raftAppliedIndex") == status.raft_applied_index, "{shown} {status:?}");
        Ok(status)
    })
    .await?;
    ensure!(status.db_in_use > 0 && !status.learner && status.alarms.is_empty(), "{status:?}");
    // As etcdctl shows ids to people.
    let fields = etcd.etcdctl(["endpoint", "status", "--write-out", "table"]).await?;
    ensure!(fields.contains(&status.member.to_string()), "{} in {fields}", status.member);
    ensure!(member.linearizable().await?);
    ensure!(history(&member).await?.etcd_cluster == format!("{:x}", status.etcd_cluster.0));
    Ok(())
}

#[tokio::test]
async fn a_history_is_compared_with_the_consistent_index_of_snapshots_and_falls_with_a_restore() -> Result<()> {
    let dir = scratch()?;
    let mut etcd = Etcd::start().await?;
    let member = member(&etcd.endpoint(), |_| ())?;
    for _ in 0..3 {
        etcd.etcdctl(["put", "key", "value"]).await?;
    }
    let saved = dir.path().join("saved");
    let before = history(&member).await?;
    etcd.save(&saved).await?;
    let after = history(&member).await?;
    let index = consistent_index(&saved)?;
    ensure!(before.raft_index <= index && index <= after.raft_index, "{index} is not between {before:?} and {after:?}");
    etcd.etcdctl(["put", "key", "later"]).await?;
    ensure!(history(&member).await?.raft_index > after.raft_index);
    // The same member object, over the restart.
    etcd.restore(&saved, Restore::default()).await?;
    let restored = history(&member).await?;
    ensure!(restored.etcd_cluster == after.etcd_cluster, "{restored:?} {after:?}");
    ensure!(restored.raft_index < index, "{restored:?} is not before {index}");
    Ok(())
}

#[tokio::test]
async fn nobody_at_the_address_is_told_with_the_address() -> Result<()> {
    let port = ports::free();
    let error = refused(&member(&format!("http://localhost:{port}"), |_| ())?).await?;
    ensure!(matches!(error, EtcdError::Unreachable { .. }), "{error:?}");
    let said = error.to_string();
    ensure!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("etcd-endpoint"), "{said}");
    Ok(())
}

#[tokio::test]
async fn tls_lets_in_whom_it_should() -> Result<()> {
    let ca = Ca::new("etcd's authority")?;
    let etcd = Cluster::start_tls(&ca, &ca.server(&[])?).await?;
    let files = Files::new(&ca, &ca.client("operator")?)?;
    let member = member(&etcd.endpoint(0), |settings| files.settings(settings))?;
    ensure!(!member.status().await?.learner);
    ensure!(member.linearizable().await?);
    Ok(())
}

#[tokio::test]
async fn tls_that_fails_says_which_setting_to_change() -> Result<()> {
    let (ca, other) = (Ca::new("etcd's authority")?, Ca::new("another authority")?);
    let namesake = Ca::new("etcd's authority")?;
    let etcd = Cluster::start_tls(&ca, &ca.server(&[])?).await?;
    let endpoint = etcd.endpoint(0);
    let files = Files::new(&ca, &ca.client("operator")?)?;

    for wrong in [&other, &namesake] {
        files.put("wrong", &wrong.cert_pem)?;
        let error = refused(&member(&endpoint, |s| (files.settings(s), s.cacert = files.text("wrong")).0)?).await?;
        ensure!(matches!(&error, EtcdError::Untrusted { authorities, .. } if *authorities == files.text("wrong")), "{error:?}");
        ensure!(error.to_string().contains("etcd-cacert") && error.category() == "tls", "{error}");
    }

    let none = refused(&member(&endpoint, |s| s.cacert = files.text("ca"))?).await?;
    ensure!(matches!(none, EtcdError::ClientCertificate { given: None, .. }), "{none:?}");
    ensure!(none.to_string().contains("set etcd-cert and etcd-key"), "{none}");

    let stranger = Files::new(&ca, &other.client("operator")?)?;
    let error = refused(&member(&endpoint, |s| stranger.settings(s))?).await?;
    ensure!(matches!(&error, EtcdError::ClientCertificate { given: Some(path), .. } if *path == stranger.path("cert")), "{error:?}");

    let plain = refused(&member(&endpoint.replace("https", "http"), |_| ())?).await?;
    ensure!(plain.to_string().contains("let etcd-endpoint begin with https://"), "{plain:?}");

    let without_tls = Etcd::start().await?;
    let error = refused(&member(&without_tls.endpoint().replace("http", "https"), |s| files.settings(s))?).await?;
    ensure!(matches!(error, EtcdError::HungUp { .. }) && error.to_string().contains("http://"), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_certificate_for_other_names_is_told_with_its_names() -> Result<()> {
    let ca = Ca::new("etcd's authority")?;
    let mut params = CertificateParams::new(vec!["etcd.example".to_owned(), "10.1.2.3".to_owned()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let etcd = Cluster::start_tls(&ca, &ca.sign(&params)?).await?;
    let files = Files::new(&ca, &ca.client("operator")?)?;
    let error = refused(&member(&etcd.endpoint(0), |s| files.settings(s))?).await?;
    let EtcdError::WrongName { asked, names, .. } = &error else { bail!("{error:?}") };
    ensure!(asked == "127.0.0.1" && names == &["etcd.example", "10.1.2.3"], "{error:?}");
    ensure!(error.to_string().contains("for etcd.example, 10.1.2.3, not for 127.0.0.1"), "{error}");
    let named = member(&etcd.endpoint(0), |s| (files.settings(s), s.server_name = "etcd.example".into()).0)?;
    named.status().await?;

    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = Cluster::start_tls(&ca, &ca.sign(&params)?).await?;
    let error = refused(&member(&expired.endpoint(0), |s| files.settings(s))?).await?;
    ensure!(matches!(error, EtcdError::OutOfDate { .. }), "{error:?}");
    Ok(())
}

#[tokio::test]
async fn certificates_are_read_again_when_they_change() -> Result<()> {
    type Write = fn(&Files, &str, &str) -> Result<()>;
    let (ca, other) = (Ca::new("etcd's authority")?, Ca::new("another authority")?);
    let etcd = Cluster::start_tls(&ca, &ca.server(&[])?).await?;
    let files = Files::new(&ca, &ca.client("operator")?)?;
    let member = member(&etcd.endpoint(0), |s| files.settings(s))?;
    member.status().await?;

    // Half written: the connection goes by what was there before, and says so.
    files.put("ca", &ca.cert_pem[..ca.cert_pem.len() / 2])?;
    member.status().await?;
    let said = member.stale().await.context("it says so")?.to_string();
    ensure!(said == format!("etcd-cacert: {} is not whole PEM", files.text("ca")), "{said}");
    files.put("ca", &ca.cert_pem)?;
    member.status().await?;
    ensure!(member.stale().await.is_none());

    // A pair that is changed one after the other.
    let second = ca.client("operator, later")?;
    files.replace("cert", &second.cert_pem)?;
    member.status().await?;
    ensure!(member.stale().await.context("it says so")?.to_string().contains("does not fit the certificate"));
    files.replace("key", &second.key_pem)?;
    member.status().await?;
    ensure!(member.stale().await.is_none());

    // What is whole counts from its first use on, renamed or in place; seen by what etcd makes of it.
    let stranger = other.client("a stranger")?;
    for write in [Files::put as Write, Files::replace as Write] {
        write(&files, "ca", &other.cert_pem)?;
        let error = refused(&member).await?;
        ensure!(matches!(error, EtcdError::Untrusted { .. }), "{error:?}");
        write(&files, "ca", &ca.cert_pem)?;
        member.status().await?;
        write(&files, "cert", &stranger.cert_pem)?;
        write(&files, "key", &stranger.key_pem)?;
        let error = refused(&member).await?;
        ensure!(matches!(error, EtcdError::ClientCertificate { .. }), "{error:?}");
        write(&files, "cert", &second.cert_pem)?;
        write(&files, "key", &second.key_pem)?;
        member.status().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_user_is_needed_where_etcd_has_users() -> Result<()> {
    let mut etcd = Cluster::start(1, &[]).await?;
    let endpoint = etcd.endpoint(0);
    let user = |name: &str, password: &str| member(&endpoint, |s| (s.user, s.password) = (name.into(), password.into()));
    let (root, nobody) = (user("root", "hunter2")?, member(&endpoint, |_| ())?);
    // A password too many does no harm, and is used as soon as there are users.
    root.status().await?;
    nobody.status().await?;
    etcd.etcdctl(&["user", "add", "root:hunter2"]).await?;
    etcd.etcdctl(&["user", "add", "reader:hunter3"]).await?;
    etcd.etcdctl(&["auth", "enable"]).await?;
    root.status().await?;
    ensure!(root.linearizable().await?);

    let error = refused(&nobody).await?;
    ensure!(matches!(error, EtcdError::UserWanted { .. }) && error.category() == "auth", "{error:?}");
    ensure!(error.to_string().contains("etcd-user") && error.to_string().contains("root"), "{error}");
    let error = refused(&user("root", "wrong password")?).await?;
    ensure!(matches!(&error, EtcdError::UserRefused { user, .. } if user == "root"), "{error:?}");
    ensure!(!format!("{error:?} {error}").contains("wrong password"), "{error:?}");

    let reader = user("reader", "hunter3")?;
    reader.status().await?;
    ensure!(reader.linearizable().await?);
    let error = reader.snapshot(STALL).await.err().context("a snapshot needs the role root")?;
    ensure!(error.to_string().contains("\"reader\"; a snapshot needs the role root"), "{error}");

    // The password is read again like the certificates.
    let dir = scratch()?;
    let path = dir.path().join("password");
    std::fs::write(&path, "wrong\n")?;
    let by_file = member(&endpoint, |s| (s.user, s.password_file) = ("root".into(), path.display().to_string()))?;
    ensure!(matches!(refused(&by_file).await?, EtcdError::UserRefused { .. }));
    std::fs::write(&path, "hunter2\n")?;
    by_file.status().await?;

    // etcd forgets its tokens when it ends.
    etcd.kill(0);
    etcd.launch(0, "new")?;
    etcd.healthy(0).await?;
    root.status().await?;
    ensure!(root.linearizable().await?);
    Ok(())
}

#[tokio::test]
async fn a_learner_is_told_as_one() -> Result<()> {
    let mut etcd = Cluster::start(1, &[]).await?;
    etcd.members.push(Server::new());
    let peer = etcd.members[1].peer_url();
    etcd.etcdctl(&["member", "add", "m1", "--learner", "--peer-urls", &peer]).await?;
    etcd.launch(1, "existing")?;
    let learner = etcd.member(1)?;
    let status = wait::until("the learner to know its leader", async || {
        let status = learner.status().await?;
        if status.leader.is_some() { Ok(status) } else { bail!("{status:?}") }
    });
    ensure!(status.await?.learner);
    let error = learner.linearizable().await.err().context("it has no vote")?;
    ensure!(matches!(error, EtcdError::Learner { .. }) && error.category() == "learner", "{error:?}");
    ensure!(learner.history().await?.is_none());
    ensure!(!etcd.member(0)?.status().await?.learner);
    Ok(())
}

#[tokio::test]
async fn a_member_without_quorum_answers_for_itself_alone() -> Result<()> {
    let mut etcd = Cluster::start(3, &[]).await?;
    let last = etcd.member(0)?;
    let quorum = async || wait::until("a quorum", async || if last.linearizable().await? { Ok(()) } else { bail!("none") }).await;
    quorum().await?;
    // Each of the three is at the same place behind a linearizable read.
    let known = history(&last).await?;
    for at in 1..3 {
        let other = history(&etcd.member(at)?).await?;
        ensure!(other.etcd_cluster == known.etcd_cluster && other.raft_index >= known.raft_index, "{other:?} {known:?}");
    }
    etcd.kill(1);
    // Two of three are one.
    quorum().await?;
    etcd.kill(2);
    ensure!(!last.linearizable().await?);
    ensure!(last.history().await?.is_none());
    wait::until("the leader to be given up", async || match last.status().await?.leader {
        None => Ok(()),
        Some(leader) => bail!("its leader is {leader}"),
    })
    .await?;
    // A snapshot is still to be had.
    let mut snapshot = last.snapshot(STALL).await?;
    let mut trailer = None;
    while let Some(part) = snapshot.next().await? {
        trailer = if let Part::Trailer(digest) = part { Some(digest) } else { None };
    }
    ensure!(trailer.is_some());
    etcd.launch(1, "new")?;
    quorum().await
}

#[tokio::test]
async fn a_password_cannot_be_checked_without_quorum_but_one_that_was_stays_good() -> Result<()> {
    let mut etcd = Cluster::start(2, &[]).await?;
    etcd.etcdctl(&["user", "add", "root:hunter2"]).await?;
    etcd.etcdctl(&["auth", "enable"]).await?;
    let user = || member(&etcd.endpoint(0), |s| (s.user, s.password) = ("root".into(), "hunter2".into()));
    let (before, after) = (user()?, user()?);
    before.status().await?;
    etcd.kill(1);
    ensure!(!before.linearizable().await?);
    ensure!(before.history().await?.is_none());
    let error = refused(&after).await?;
    ensure!(matches!(error, EtcdError::UserUnchecked { .. }) && error.category() == "auth", "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_member_that_hangs_is_neither_answered_for_nor_waited_for() -> Result<()> {
    let mut etcd = Cluster::start(1, &[]).await?;
    let member = etcd.member(0)?;
    member.status().await?;
    etcd.signal(0, Signal::STOP)?;
    // Its threads stop one by one.
    let error = wait::until("etcd to stand still", async || refused(&member).await).await?;
    ensure!(matches!(error, EtcdError::Timeout { .. }) && error.category() == "timeout", "{error:?}");
    let error = member.linearizable().await.err().context("nothing is known of its quorum")?;
    ensure!(matches!(error, EtcdError::Timeout { .. }), "{error:?}");
    etcd.signal(0, Signal::CONT)?;
    member.status().await?;
    ensure!(member.linearizable().await?);
    Ok(())
}

#[tokio::test]
async fn alarms_are_told_by_kind_and_member() -> Result<()> {
    let etcd = Cluster::start(1, &["--quota-backend-bytes", "200000"]).await?;
    let member = etcd.member(0)?;
    let id = member.status().await?.member;
    let value = "x".repeat(100_000);
    wait::until("the database to be full", async || match etcd.etcdctl(&["put", "key", &value]).await {
        Ok(_) => bail!("it took one more"),
        Err(error) if format!("{error:#}").contains("database space exceeded") => Ok(()),
        Err(error) => Err(error),
    })
    .await?;
    ensure!(member.status().await?.alarms == [Alarm { kind: AlarmKind::NoSpace, member: id }]);
    ensure!(member.linearizable().await?);

    let mut stream = tokio::net::TcpStream::connect(ports::loopback(etcd.members[0].client)).await?;
    let body = format!("{{\"action\":\"ACTIVATE\",\"memberID\":\"{}\",\"alarm\":\"CORRUPT\"}}", id.0);
    let request = format!("POST /v3/maintenance/alarm HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = member.status().await?;
    ensure!(status.has(&AlarmKind::Corrupt) && status.has(&AlarmKind::NoSpace), "{status:?} after {answer}");
    Ok(())
}

#[tokio::test]
async fn a_snapshot_is_streamed_with_its_trailer_kept_apart() -> Result<()> {
    let dir = scratch()?;
    let etcd = Etcd::start().await?;
    etcd.etcdctl(["put", "key", &"value".repeat(10_000)]).await?;
    let mut snapshot = member(&etcd.endpoint(), |_| ())?.snapshot(STALL).await?;
    let (mut data, mut trailer) = (Vec::new(), None);
    while let Some(part) = snapshot.next().await? {
        match part {
            Part::Data(bytes) => data.extend(bytes),
            Part::Trailer(digest) => trailer = Some(digest),
        }
    }
    let trailer = trailer.context("a trailer")?;
    ensure!(snapshot.size() == Some(data.len() as u64) && data.len() % 4096 == 0, "{} bytes", data.len());
    ensure!(trailer.0 == *Sha256::digest(&data));
    // As a file it is what etcd's own tool restores, hash check and all.
    data.extend(trailer.0);
    let (file, restored) = (dir.path().join("snapshot"), dir.path().join("restored"));
    std::fs::write(&file, data)?;
    let args = ["snapshot".into(), "restore".into(), file.into_os_string(), "--data-dir".into(), restored.into_os_string()];
    tools::run(&tools::tool(DEFAULT_SET, "etcdutl")?, args).await?;
    Ok(())
}

#[tokio::test]
async fn a_snapshot_that_is_cut_or_stalls_is_an_error() -> Result<()> {
    let etcd = Etcd::start().await?;
    // More than the windows of a connection hold, so that most of it is still to come.
    for at in 0..40 {
        etcd.etcdctl(["put", &format!("key-{at}"), &"value".repeat(20_000)]).await?;
    }
    let server = etcd.endpoint().trim_start_matches("http://").parse()?;
    let proxy = FaultProxy::tcp(server)?;
    let member = member(&format!("http://127.0.0.1:{}", proxy.port()), |_| ())?;
    let drain = async |snapshot: &mut etcd_snapshot_operator::etcd::SnapshotStream| loop {
        match snapshot.next().await {
            Ok(Some(Part::Data(_))) => {}
            Ok(end) => bail!("it came to {end:?}"),
            Err(error) => return Ok(error),
        }
    };
    let mut snapshot = member.snapshot(STALL).await?;
    snapshot.next().await?;
    proxy.cut();
    let error = drain(&mut snapshot).await?;
    ensure!(matches!(error, EtcdError::Lost { .. }), "{error:?}");
    proxy.restore();
    let mut snapshot = member.snapshot(Duration::from_secs(1)).await?;
    snapshot.next().await?;
    proxy.black_hole();
    let error = drain(&mut snapshot).await?;
    ensure!(error.to_string().contains("stalled: nothing came for 1 s, after "), "{error:?}");
    proxy.restore();
    member.status().await?;
    Ok(())
}
