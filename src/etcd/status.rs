//! What a member says of itself.

use std::fmt;

use etcd_client::StatusResponse;

use crate::snapshot::History;

/// An id of raft's, shown in hexadecimal as etcdctl shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The answer of `Maintenance.Status`. A member without quorum gives it, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// etcd's version, such as `3.6.16`.
    pub version: String,
    /// Raft's own cluster id.
    pub etcd_cluster: Id,
    /// The member that answered.
    pub member: Id,
    /// The leader it knows.
    pub leader: Option<Id>,
    /// Whether it is a learner: it has the data and no vote.
    pub learner: bool,
    /// Bytes of the database file.
    pub db_size: u64,
    /// Bytes of it that are in use.
    pub db_in_use: u64,
    /// Raft's term.
    pub raft_term: u64,
    /// The last entry that it knows to be committed.
    pub raft_index: u64,
    /// The last entry that is in its database.
    pub raft_applied_index: u64,
    /// The version of the database's layout; etcd says it from 3.6 on.
    pub storage_version: Option<String>,
    /// The alarms of the whole cluster.
    pub alarms: Vec<Alarm>,
}

/// An alarm that is raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Which.
    pub kind: AlarmKind,
    /// The member it is raised for; 0 where etcd does not know.
    pub member: Id,
}

/// Which alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlarmKind {
    /// The database is as big as it may be: etcd takes no writes.
    NoSpace,
    /// Members differ in what they hold.
    Corrupt,
    /// One that this version does not know, in etcd's words.
    Other(String),
}

impl fmt::Display for AlarmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
            Self::Other(words) => words,
        })
    }
}

impl Status {
    /// None for an answer without a header, which etcd never gives.
    pub(super) fn read(answer: &StatusResponse) -> Option<Self> {
        let header = answer.header()?;
        Some(Self {
            version: answer.version().to_owned(),
            etcd_cluster: Id(header.cluster_id()),
            member: Id(header.member_id()),
            leader: Some(Id(answer.leader())).filter(|leader| leader.0 != 0),
            learner: answer.is_learner(),
            db_size: u64::try_from(answer.db_size()).unwrap_or(0),
            db_in_use: u64::try_from(answer.raft_used_db_size()).unwrap_or(0),
            raft_term: answer.raft_term(),
            raft_index: answer.raft_index(),
            raft_applied_index: answer.raft_applied_index(),
            storage_version: Some(answer.storage_version().to_owned()).filter(|version| !version.is_empty()),
            alarms: answer.errors().iter().filter_map(|words| Alarm::read(words)).collect(),
        })
    }

    /// Whether an alarm of this kind is raised for any member.
    pub fn has(&self, kind: &AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == *kind)
    }

    /// Where this member is in etcd's life, to be compared with the `consistent_index` of snapshots.
    ///
    /// `consistent_index` is the last entry that was applied to the database of the snapshot, so the last applied entry is its
    /// like; the committed one (`raft_index`) may run ahead of every database. The answer has to come after a linearizable read:
    /// only then has this member applied all that any member had applied before. Without it, one that lags is behind a snapshot
    /// of another, and looks as if its history had been restored.
    pub(super) fn history(&self) -> History {
        History { etcd_cluster: self.etcd_cluster.to_string(), raft_index: self.raft_applied_index }
    }
}

impl Alarm {
    /// Reads `memberID:123 alarm:NOSPACE`, in whichever spacing. None for what is no alarm: that there is no leader is told
    /// by the leader's id.
    fn read(words: &str) -> Option<Self> {
        if words == "etcdserver: no leader" {
            return None;
        }
        let mut fields = words.split_whitespace().filter_map(|field| field.split_once(':'));
        let member = fields.clone().find(|(key, _)| *key == "memberID").and_then(|(_, id)| id.parse().ok());
        let kind = match fields.find(|(key, _)| *key == "alarm").map(|(_, kind)| kind) {
            Some("NOSPACE") => AlarmKind::NoSpace,
            Some("CORRUPT") => AlarmKind::Corrupt,
            _ => AlarmKind::Other(words.to_owned()),
        };
        Some(Self { kind, member: Id(member.unwrap_or(0)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_read_and_what_is_unknown_is_kept() {
        let alarm = |kind, member| Some(Alarm { kind, member: Id(member) });
        for (words, read) in [
            ("memberID:10276657743932975437 alarm:NOSPACE ", alarm(AlarmKind::NoSpace, 10_276_657_743_932_975_437)),
            ("memberID:1  alarm:CORRUPT", alarm(AlarmKind::Corrupt, 1)),
            ("alarm:CORRUPT", alarm(AlarmKind::Corrupt, 0)),
            ("memberID:1 alarm:7", alarm(AlarmKind::Other("memberID:1 alarm:7".into()), 1)),
            ("the moon is full", alarm(AlarmKind::Other("the moon is full".into()), 0)),
            ("etcdserver: no leader", None),
        ] {
            assert_eq!(Alarm::read(words), read, "{words}");
        }
    }

    #[test]
    fn ids_are_shown_as_etcdctl_shows_them() {
        assert_eq!(Id(0x0df8_1819_4e3a_8c32).to_string(), "df818194e3a8c32");
    }
}
