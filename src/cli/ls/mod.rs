//! `ls`: what is in the directory, in the bucket and in the records, and where they differ.
//!
//! Each of the three may be missing or fail, and the others are shown all the same. Nothing is written, noted or verified, unless `--verify`
//! says so; what that shows is remembered nowhere.

mod list;
mod look;
mod row;
mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Args, ValueEnum};

use self::look::{Asked, Seen, look};
use self::row::{Row, State, sort};
use super::hand::{Hand, by_hand, cluster, unless_stopped};
use super::terminal::{self, Paint, harmless, note, print};
use super::trouble::Trouble;
use super::{DONE, FAILED, PARTLY};
use crate::snapshot::{ClusterId, Owner};

/// At the end of `ls --help`.
pub const EXAMPLES: &str = "\
Examples:
  The snapshots of this node:
    etcd-snapshot-operator ls

  With those in the bucket; the keys come from the environment:
    AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... etcd-snapshot-operator ls --s3 --s3-bucket etcd --s3-folder prod

  The name of the newest good one:
    etcd-snapshot-operator ls | awk '$5 == \"good\" { name = $1 } END { print name }'

Columns: Name, Location, Size and Created are K3s's. State is good, suspect (taken without a quorum or from a corrupt member), plausible (an
object of which only the size is known to be right), damaged, unverified, or writing. Owner is ours, another-history (from before a restore;
where --etcd-endpoint or --etcd-host is given, the member is asked), doubtful (perhaps ours: only a file whose name is in the future speaks
against it), another-cluster, or unknown. Record is ready, not-ready, none, differs, or - where none is kept or the records are not known.";

/// List the snapshots in the directory and in the bucket, what they are worth, and where their records differ.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Ls {
    /// Form of the list: table, json or yaml.
    #[arg(long, short, value_enum, default_value_t = Form::Table, ignore_case = true, help_heading = "Output")]
    output: Form,
    /// Also show the snapshots of other clusters in the bucket, by cluster.
    #[arg(long)]
    all_clusters: bool,
    /// Also show what the records tell of the directories of other nodes.
    #[arg(long)]
    all_nodes: bool,
    /// Read every snapshot of the directory that nobody has verified yet; that takes as long as the disk takes.
    #[arg(long)]
    verify: bool,
    /// Which cluster is ours: the UID of its namespace kube-system.
    ///
    /// Without it: what the API server says, else what the agent of this node remembered.
    #[arg(long, value_name = "ID", value_parser = cluster)]
    cluster_id: Option<ClusterId>,
    #[command(flatten)]
    hand: Hand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Table,
    Json,
    Yaml,
}

/// Lists them.
pub fn ls(arguments: &Ls) -> u8 {
    let asked = Asked { cluster: arguments.cluster_id.clone(), verify: arguments.verify, all_nodes: arguments.all_nodes };
    by_hand(&arguments.hand, async |settings, stop| {
        let seen = Box::pin(unless_stopped(&stop, look(&settings, &asked, &stop))).await?;
        show(seen, arguments)
    })
}

/// Prints the rows, says the rest, and how far that is everything.
fn show(mut seen: Seen, arguments: &Ls) -> Result<u8, Trouble> {
    sort(&mut seen.rows);
    // Without knowing whose cluster this is, nobody can leave others out.
    let all_clusters = arguments.all_clusters || seen.cluster.is_none();
    let (hidden, rows): (Vec<Row>, Vec<Row>) =
        std::mem::take(&mut seen.rows).into_iter().partition(|row| !all_clusters && row.owner == Owner::AnotherCluster);
    let text = match arguments.output {
        Form::Json => list::json(&rows).map_err(|error| Trouble::failed("the list cannot be written as JSON").because_of(&error))?,
        Form::Yaml => list::yaml(&rows).map_err(|error| Trouble::failed("the list cannot be written as YAML").because_of(&error))?,
        Form::Table if arguments.all_clusters => grouped(&rows, seen.cluster.as_ref()),
        Form::Table => table::table(&rows, terminal::width(), Paint::of_stdout()),
    };
    print(&text)?;
    for row in rows.iter().filter(|row| matches!(row.state, State::Damaged | State::Suspect)) {
        note(format_args!("{} is {}: {}", row.location, row.state.word(), row.why.as_deref().unwrap_or("nobody says why")));
    }
    seen.notes.extend(about(&rows, &hidden, arguments));
    seen.notes.iter().for_each(note);
    for failure in &seen.failures {
        terminal::complain(failure);
    }
    Ok(match (seen.failures.is_empty(), seen.showed_something) {
        (true, _) => DONE,
        (false, true) => PARTLY,
        (false, false) => FAILED,
    })
}

/// What the rows as a whole tell.
fn about(rows: &[Row], hidden: &[Row], arguments: &Ls) -> Vec<String> {
    let mut notes = Vec::new();
    let unverified = rows.iter().filter(|row| row.state == State::Unverified && row.location.starts_with("file:")).count();
    if unverified > 0 && !arguments.verify {
        notes.push(format!("nobody has verified {} in the directory: --verify reads what is unverified now", counted(unverified)));
    }
    if !hidden.is_empty() {
        let clusters: std::collections::BTreeSet<_> = hidden.iter().map(|row| &row.cluster).collect();
        let of = if clusters.len() == 1 { "another cluster".into() } else { format!("{} other clusters", clusters.len()) };
        let ours = rows.iter().any(|row| row.object.spec.s3.is_some() && row.owner != Owner::Unknown);
        let holds = if ours { "the bucket also holds" } else { "the bucket holds none of this cluster, and" };
        notes.push(format!("{holds} {} of {of}: --all-clusters shows what is of others", counted(hidden.len())));
    }
    notes
}

/// The directory's table, then one for each cluster in the bucket, ours first.
fn grouped(rows: &[Row], ours: Option<&ClusterId>) -> String {
    let mut groups: BTreeMap<(u8, Option<&ClusterId>), Vec<Row>> = BTreeMap::new();
    for row in rows {
        let cluster = row.cluster.as_ref();
        let group = match cluster {
            _ if row.object.spec.s3.is_none() => (0, None),
            Some(_) if cluster == ours => (1, cluster),
            Some(_) => (2, cluster),
            None => (3, None),
        };
        groups.entry(group).or_default().push(row.clone());
    }
    let paint = Paint::of_stdout();
    let mut text = String::new();
    for ((kind, cluster), rows) in groups {
        if !text.is_empty() {
            text.push('\n');
        }
        let name = cluster.map(|cluster| harmless(cluster.as_str())).unwrap_or_default();
        let heading = match kind {
            0 => "In the directory".into(),
            1 => format!("In the bucket, of cluster {name}, ours"),
            2 => format!("In the bucket, of cluster {name}"),
            _ => "In the bucket, of no cluster named".into(),
        };
        let _ = writeln!(text, "{}", paint.bold(format_args!("{heading}: {}", counted(rows.len()))));
        text += &table::table(&rows, terminal::width(), paint);
    }
    text
}

fn counted(count: usize) -> String {
    if count == 1 { "1 snapshot".into() } else { format!("{count} snapshots") }
}
