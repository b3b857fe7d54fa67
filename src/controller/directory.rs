//! The directory's loop: every agent runs it over its own node's directory, always.

use std::sync::Arc;

use super::parts::Parts;
use super::pass::pass;
use super::permit::Permit;
use super::run::BeatPart;
use super::shared::Shared;
use super::verify::Verifier;
use crate::health::Loop;
use crate::record::Place;
use crate::snapshot::NodeName;
use crate::storage::local::Directory;

/// The directory, and who reads its files.
pub struct DirectoryLoop {
    shared: Arc<Shared>,
    directory: Directory,
    verifier: Verifier,
    shared_with: Vec<NodeName>,
}

impl DirectoryLoop {
    /// Nothing is looked at yet.
    pub fn new(shared: Arc<Shared>, directory: Directory, verifier: Verifier) -> Self {
        Self { shared, directory, verifier, shared_with: Vec::new() }
    }

    /// One pass.
    pub async fn pass(&mut self) -> BeatPart {
        let shared = self.shared.clone();
        let _running = shared.health.pass(Loop::Directory);
        let node = self.shared.settings.node.clone();
        let parts = Parts {
            shared: &self.shared,
            store: &self.directory,
            storage: self.directory.storage(),
            place: Place::Local { dir: self.directory.path().display().to_string(), node, has_node_object: true },
            verifier: Some(&self.verifier),
            permit: Permit::Always,
        };
        let end = pass(&parts).await;
        self.say_who_else_is_here();
        let path = self.directory.path().display();
        let replaced = || format!("{path} is another directory than at the start: only a restart sees the new one");
        self.shared.health.directory_replaced(self.directory.was_replaced().then(replaced));
        let cluster = self.shared.surroundings().cluster;
        let noted = self.directory.note_beat(self.shared.now(), self.shared.settings.interval, cluster.as_ref()).await;
        self.shared.voice.hear("noting the beat in the state", noted.as_ref().err());
        Some(end)
    }

    fn say_who_else_is_here(&mut self) {
        let others = self.directory.shared_with();
        if others != self.shared_with {
            let names: Vec<_> = others.iter().map(ToString::to_string).collect();
            let directory = self.directory.path().display();
            if names.is_empty() {
                tracing::info!(%directory, "no other node's agent is at work on the directory any more");
            } else {
                tracing::warn!(%directory, others = names.join(", "), "other nodes' agents are at work on the same directory: only files that name this node are ours");
            }
            self.shared_with = others;
        }
    }
}

/// The last cluster id that the state remembers; what cannot be read is said and is none.
pub fn remembered_cluster(directory: &Directory, shared: &Shared) {
    match directory.remembered_cluster() {
        Ok(cluster) => shared.around().cluster = cluster,
        Err(failure) => _ = shared.voice.hear("reading the state", Some(&failure)),
    }
}
