//! The one member: a connection that is made when it is first needed, and the questions asked over it.
//!
//! In: an [`EtcdAccess`]. Out: typed answers. Every question has a deadline. Nothing is written to etcd, and nothing decided.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, GetOptions};
use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::access::{AccessError, EtcdAccess};
use super::connect::Connector;
use super::error::{EtcdError, is_stale, is_without_users};
use super::status::Status;
use super::stream::{Seen, SnapshotStream};
use super::tls::{Contents, Fingerprint};
use crate::snapshot::History;

/// How long an answer is waited for that the member can give by itself.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a linearizable read may take: longer than an election, shorter than anybody waits for.
const READ: Duration = Duration::from_secs(3);
/// Between two tries of a read that a member without a leader refuses at once.
const BETWEEN_READS: Duration = Duration::from_millis(100);
/// etcd closes connections that ping more often than every five seconds.
const PING: Duration = Duration::from_secs(10);
/// The key that etcdctl reads for `endpoint health`. Nobody needs it to exist.
const HEALTH: &str = "health";

/// One member of an etcd cluster.
pub struct Member {
    access: Arc<EtcdAccess>,
    link: Mutex<Link>,
}

/// How we are connected, and by what.
#[derive(Default)]
struct Link {
    means: Option<Means>,
    client: Option<Client>,
    stale: Option<AccessError>,
}

/// What the files held when they were last whole. No Debug: there is a password in it.
#[derive(Clone)]
struct Means {
    fingerprint: Fingerprint,
    tls: Option<Arc<ClientConfig>>,
    password: Option<String>,
}

impl Member {
    /// Connects to nothing yet.
    pub fn new(access: EtcdAccess) -> Self {
        Self { access: Arc::new(access), link: Mutex::default() }
    }

    /// How it is reached.
    pub fn access(&self) -> &EtcdAccess {
        &self.access
    }

    /// Why the files of the settings are not in use as they are now: the connection still goes by what they held before.
    pub async fn stale(&self) -> Option<AccessError> {
        self.link.lock().await.stale.clone()
    }

    /// What the member says of itself, whether it has a quorum or not.
    pub async fn status(&self) -> Result<Status, EtcdError> {
        let answer =
            self.ask("the question for its status", ANSWER, |client| async move { client.maintenance_client().status().await }).await;
        if matches!(answer, Err(EtcdError::Timeout { .. })) {
            // It may be the connection that is dead: the next question goes over a new one.
            self.link.lock().await.client = None;
        }
        let headless = || EtcdError::Answered {
            endpoint: self.access.endpoint.clone(),
            code: tonic::Code::Ok,
            message: "its status names no member".into(),
        };
        Status::read(&answer?).ok_or_else(headless)
    }

    /// Whether the member agrees with a quorum on what is the newest: a linearizable read, within three seconds. `false` is
    /// said only of a member that still answers for itself.
    pub async fn linearizable(&self) -> Result<bool, EtcdError> {
        // Connecting has deadlines of its own, and one that fails says nothing of a quorum.
        self.client().await?;
        let end = Instant::now() + READ;
        loop {
            let rest = end.saturating_duration_since(Instant::now());
            let read = self.ask("a linearizable read", rest, |client| async move {
                client.kv_client().get(HEALTH, Some(GetOptions::new().with_keys_only())).await
            });
            match read.await {
                // Whether the key may be read is looked at once the quorum has agreed.
                Ok(_) | Err(EtcdError::Denied { .. }) => return Ok(true),
                Err(EtcdError::Unavailable { .. }) if Instant::now() + BETWEEN_READS < end => sleep(BETWEEN_READS).await,
                Err(EtcdError::Unavailable { .. } | EtcdError::Timeout { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        self.status().await.map(|_| false)
    }

    /// Where the member is in etcd's life; None where it cannot know: without a quorum, or as a learner.
    pub async fn history(&self) -> Result<Option<History>, EtcdError> {
        match self.linearizable().await {
            // In this order: what the read has agreed on is in the status.
            Ok(true) => self.status().await.map(|status| Some(status.history())),
            Ok(false) | Err(EtcdError::Learner { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins the stream of a snapshot. It needs no quorum, and may take as long as it takes while no part keeps us waiting
    /// longer than `stall`.
    pub async fn snapshot(&self, stall: Duration) -> Result<SnapshotStream, EtcdError> {
        let begin = self.ask("the request for a snapshot", stall, |client| async move { client.maintenance_client().snapshot().await });
        Ok(SnapshotStream { messages: begin.await?, access: self.access.clone(), stall, seen: Seen::default() })
    }

    /// Asks once; a second time when etcd wants a new token, which it does after a restart and after a change of its users.
    async fn ask<T, F>(&self, what: &'static str, within: Duration, question: impl Fn(Client) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let late = |_| EtcdError::Timeout { endpoint: self.access.endpoint.clone(), what, after: within };
        let mut answer = timeout(within, question(self.client().await?)).await.map_err(late)?;
        if self.access.user.is_some() && answer.as_ref().is_err_and(is_stale) {
            self.link.lock().await.client = None;
            answer = timeout(within, question(self.client().await?)).await.map_err(late)?;
        }
        answer.map_err(|error| EtcdError::of_request(&error, &self.access))
    }

    /// A client by what the files hold now; where they are not whole, by what they held before.
    async fn client(&self) -> Result<Client, EtcdError> {
        let mut link = self.link.lock().await;
        match self.means(link.means.as_ref()).await {
            Ok(means) => {
                if link.means.as_ref().is_none_or(|before| before.fingerprint != means.fingerprint) {
                    link.client = None;
                    link.means = Some(means);
                }
                link.stale = None;
            }
            Err(problem) if link.means.is_some() => {
                if link.stale.as_ref() != Some(&problem) {
                    warn!(%problem, "the certificates or the password of etcd have changed and cannot be used; what they were before stays in use");
                    link.stale = Some(problem);
                }
            }
            Err(problem) => return Err(problem.into()),
        }
        if let (None, Some(means)) = (&link.client, &link.means) {
            // The making of a connection is large and rare: every question's future would carry it.
            let client = Box::pin(self.connect(means)).await?;
            link.client = Some(client);
        }
        Ok(link.client.clone().expect("connected just now"))
    }

    async fn means(&self, before: Option<&Means>) -> Result<Means, AccessError> {
        let contents = Contents::read(&self.access).await?;
        if let Some(same) = before.filter(|before| before.fingerprint == contents.fingerprint) {
            return Ok(same.clone());
        }
        let tls = if self.access.endpoint.is_https() { Some(contents.tls(&self.access)?) } else { None };
        Ok(Means { fingerprint: contents.fingerprint, tls, password: contents.password })
    }

    async fn connect(&self, means: &Means) -> Result<Client, EtcdError> {
        let access = &self.access;
        let connector = Connector { access: access.clone(), tls: means.tls.clone() };
        let uri = access.endpoint.to_string();
        let channel = tonic::transport::Endpoint::from_shared(uri).expect("an endpoint is a URI").http2_keep_alive_interval(PING);
        let channel = channel.connect_with_connector(connector).await.map_err(|error| EtcdError::of_channel(&error, access))?;
        let client = |options| Client::from_channel(Channel::Tonic(channel.clone()), options);
        let of_request = |error| EtcdError::of_request(&error, access);
        let (Some(user), Some(password)) = (&access.user, &means.password) else {
            return client(None).await.map_err(of_request);
        };
        let options = ConnectOptions::new().with_user(&user.name, password);
        match timeout(ANSWER, client(Some(options))).await {
            Ok(Err(error)) if is_without_users(&error) => client(None).await.map_err(of_request),
            Ok(done) => done.map_err(of_request),
            Err(_) => Err(EtcdError::UserUnchecked { endpoint: access.endpoint.clone(), user: user.name.clone(), after: ANSWER }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::EtcdSettings;
    use super::*;

    /// A loop runs in a task of its own, so its questions have to be able to move between threads.
    #[test]
    fn questions_can_be_asked_from_any_thread() {
        fn sendable(_: impl Send) {}
        let member = Member::new(EtcdAccess::new(&EtcdSettings::default()).unwrap());
        sendable(member.status());
        sendable(member.history());
    }
}
