//! Rows as a table: K3s's columns first, as K3s prints them, ours after. Pure.
//!
//! In: rows, and how wide the terminal is. Out: text. In a pipe every column is whole and none is ever empty, so that `awk` and `cut` find
//! what they look for. On a terminal that is too narrow the location goes first, then each snapshot has two lines.

use std::fmt::Write as _;

use crate::cli::terminal::Paint;

use super::row::{Row, State};

const HEADINGS: [&str; 7] = ["Name", "Location", "Size", "Created", "State", "Owner", "Record"];
const LOCATION: usize = 1;
const STATE: usize = 4;

type Cells = [String; HEADINGS.len()];

/// The table. `width` is that of the terminal; None in a pipe.
pub fn table(rows: &[Row], width: Option<usize>, paint: Paint) -> String {
    let mut all: Vec<Cells> = rows.iter().map(cells).collect();
    let fits = |all: &[Cells]| width.is_none_or(|width| widths(all).iter().sum::<usize>() + HEADINGS.len() - 1 <= width);
    if !fits(&all) {
        // The end of a location is the name, which stands in front of it.
        for (cells, row) in all.iter_mut().zip(rows) {
            cells[LOCATION] = row.location.strip_suffix(&row.name).map_or(row.location.clone(), |place| format!("{place}…"));
        }
    }
    if !fits(&all) {
        for (cells, row) in all.iter_mut().zip(rows) {
            cells[LOCATION] =
                row.location.split_once("://").map_or("-", |(scheme, _)| if scheme == "file" { "local" } else { scheme }).into();
        }
    }
    if fits(&all) { lines(&all, rows, paint) } else { pairs(&all, rows, paint) }
}

fn cells(row: &Row) -> Cells {
    let name = if row.name.is_empty() { "-".into() } else { row.name.clone() };
    [
        name,
        row.location.clone(),
        row.size.to_string(),
        format!("{:.0}", row.created),
        row.state.word().into(),
        row.owner.word().into(),
        row.record.word().into(),
    ]
}

fn widths(all: &[Cells]) -> [usize; HEADINGS.len()] {
    let mut widths = HEADINGS.map(str::len);
    for cells in all {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

fn lines(all: &[Cells], rows: &[Row], paint: Paint) -> String {
    let widths = widths(all);
    let line = |cells: &[String]| {
        let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join(" ").trim_end().to_string()
    };
    let mut text = paint.bold(line(&HEADINGS.map(String::from))) + "\n";
    for (cells, row) in all.iter().zip(rows) {
        let mut cells = cells.clone();
        // Colour takes no room, so the cell is filled up before.
        cells[STATE] = coloured(row, &format!("{:<width$}", cells[STATE], width = widths[STATE]), paint);
        text += &(line(&cells) + "\n");
    }
    text
}

/// Two lines for each snapshot: its name, and the rest.
fn pairs(all: &[Cells], rows: &[Row], paint: Paint) -> String {
    let mut text = String::new();
    for (cells, row) in all.iter().zip(rows) {
        let [name, location, size, created, state, owner, record] = cells;
        let state = coloured(row, state, paint);
        let record = if record == "-" { String::new() } else { format!(", record {record}") };
        let _ = writeln!(text, "{}\n  {created} {size} {location}, {state} {owner}{record}", paint.bold(name));
    }
    text
}

fn coloured(row: &Row, text: &str, paint: Paint) -> String {
    match row.state {
        State::Good if row.owner.is_ours_as_it_seems() => paint.green(text),
        State::Damaged => paint.red(text),
        State::Suspect => paint.yellow(text),
        State::Good | State::Plausible | State::Unverified | State::Writing => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::row::Recorded;
    use super::*;
    use crate::record::ETCDSnapshotFile;
    use crate::snapshot::Owner;
    use jiff::Timestamp;

    fn row(name: &str, state: State, owner: Owner) -> Row {
        Row {
            object: ETCDSnapshotFile::default(),
            name: name.into(),
            location: format!("file:///var/lib/rancher/k3s/server/db/snapshots/{name}"),
            size: 4128,
            created: Timestamp::from_second(1_752_319_252).unwrap(),
            state,
            why: None,
            owner,
            cluster: None,
            record: Recorded::Unknown,
        }
    }

    fn two() -> Vec<Row> {
        vec![row("etcd-snapshot-cp-1-1752319252", State::Good, Owner::Ours), row("x-1", State::Damaged, Owner::AnotherHistory)]
    }

    #[test]
    fn a_pipe_has_k3s_columns_first_and_none_is_empty() {
        let text = table(&two(), None, Paint::PLAIN);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0], HEADINGS);
        let dir = "file:///var/lib/rancher/k3s/server/db/snapshots";
        let name = "etcd-snapshot-cp-1-1752319252";
        assert_eq!(words[1], [name, &format!("{dir}/{name}"), "4128", "2025-07-12T11:20:52Z", "good", "ours", "-"]);
        assert_eq!(words[2], ["x-1", &format!("{dir}/x-1"), "4128", "2025-07-12T11:20:52Z", "damaged", "another-history", "-"]);
        let at = text.lines().next().unwrap().find("Size").unwrap();
        assert!(text.lines().skip(1).all(|line| line[at..].starts_with("4128 ")), "columns are aligned\n{text}");
    }

    #[test]
    fn a_terminal_is_never_overrun() {
        for width in 60..260 {
            let text = table(&two(), Some(width), Paint::PLAIN);
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width.max(73), "{width}: {longest}\n{text}");
            for word in ["etcd-snapshot-cp-1-1752319252", "damaged", "another-history", "4128"] {
                assert!(text.contains(word), "{width}: {word}\n{text}");
            }
        }
        assert!(table(&two(), Some(200), Paint::PLAIN).contains("snapshots/x-1 "));
        assert!(table(&two(), Some(150), Paint::PLAIN).contains("snapshots/… "));
        assert!(table(&two(), Some(110), Paint::PLAIN).contains(" local "));
        assert!(
            table(&two(), Some(80), Paint::PLAIN)
                .starts_with("etcd-snapshot-cp-1-1752319252\n  2025-07-12T11:20:52Z 4128 local, good ours\n")
        );
    }
}
