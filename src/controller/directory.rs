//! The directory's loop: every agent runs it over its own node's directory, always.

use std::sync::Arc;

use super::parts::{Hands, Parts};
use super::pass::{Passed, pass};
use super::permit::Permit;
use super::run::BeatPart;
use super::shared::Shared;
use crate::health::Loop;
use crate::record::Place;
use crate::snapshot::NodeName;
use crate::storage::local::Directory;

/// The directory, and who works on its files.
pub struct DirectoryLoop {
    shared: Arc<Shared>,
    hands: Hands,
    shared_with: Vec<NodeName>,
}

impl DirectoryLoop {
    /// Nothing is looked at yet.
    pub fn new(shared: Arc<Shared>, hands: Hands) -> Self {
        Self { shared, hands, shared_with: Vec::new() }
    }

    /// One pass of the loop.
    pub async fn pass(&mut self) -> BeatPart {
        let passed = self.passed().await;
        let directory = &self.hands.directory;
        let path = directory.path().display();
        let replaced = || format!("{path} is another directory than at the start: only a restart sees the new one");
        self.shared.health.directory_replaced(directory.was_replaced().then(replaced));
        let cluster = self.shared.surroundings().cluster;
        let noted = directory.note_beat(self.shared.now(), self.shared.settings.interval, cluster.as_ref()).await;
        self.shared.voice.hear("noting the beat in the state", noted.as_ref().err());
        self.say_who_else_is_here();
        Some(passed.end)
    }

    /// One pass.
    pub async fn passed(&self) -> Passed {
        let _running = self.shared.health.pass(Loop::Directory);
        let directory = &self.hands.directory;
        let parts = Parts {
            shared: &self.shared,
            store: directory,
            storage: directory.storage(),
            place: place(directory, &self.shared),
            hands: Some(&self.hands),
            permit: Permit::Always,
            abandoned: Vec::new(),
        };
        pass(&parts).await
    }

    fn say_who_else_is_here(&mut self) {
        let others = self.hands.directory.shared_with();
        if others != self.shared_with {
            let names: Vec<_> = others.iter().map(ToString::to_string).collect();
            let directory = self.hands.directory.path().display();
            if names.is_empty() {
                tracing::info!(%directory, "no other node's agent is at work on the directory any more");
            } else {
                tracing::warn!(%directory, others = names.join(", "), "other nodes' agents are at work on the same directory: only files that name this node are ours");
            }
            self.shared_with = others;
        }
    }
}

/// Where the files of a directory are, as records say it.
pub fn place(directory: &Directory, shared: &Shared) -> Place {
    Place::Local { dir: directory.path().display().to_string(), node: shared.settings.node.clone(), has_node_object: true }
}

/// The last cluster id that the state remembers; what cannot be read is said and is none.
pub fn remembered_cluster(directory: &Directory, shared: &Shared) {
    match directory.remembered_cluster() {
        Ok(cluster) => shared.around().cluster = cluster,
        Err(failure) => _ = shared.voice.hear("reading the state", Some(&failure)),
    }
}
