//! What `delete` and `prune` have in common: the plan is shown, somebody may say no, and then it is done and told.
//!
//! In: passes of the directory and of the bucket. Out: a line a file, and the exit code.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::hand::{interrupted, unless_stopped};
use super::terminal::{self, note, print};
use super::trouble::Trouble;
use super::{DONE, FAILED, PARTLY, REFUSED};
use crate::controller::by_hand::ByHand;
use crate::controller::outcome::Outcome;
use crate::controller::pass::Passed;
use crate::decide::{Action, Step, Veto};
use crate::snapshot::FileName;

/// How a removal is done.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct How {
    /// Only say what would be deleted.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before deleting. Without a terminal nobody is asked anyway.
    #[arg(long, short)]
    pub yes: bool,
}

/// One pass over each storage. What could not be reached is said, and costs the others nothing.
struct Looked {
    passed: Vec<Passed>,
    unreached: bool,
}

/// What became of it.
pub struct Removed {
    /// The exit code.
    pub code: u8,
    /// The snapshots that were to go, whether or not they did.
    pub planned: BTreeSet<FileName>,
    /// Every storage was seen, so that what is not planned is not there.
    pub saw_all: bool,
}

/// Shows what would go, asks, and removes it.
pub async fn remove(hand: &mut ByHand, how: How, stop: &CancellationToken) -> Result<Removed, Trouble> {
    let asks = !how.yes && io::stdin().is_terminal() && io::stderr().is_terminal();
    if how.dry_run || asks {
        hand.observe(true);
        let looked = look(hand).await;
        let lines = would_go(&looked.passed);
        if lines.is_empty() || how.dry_run {
            print(&lines)?;
            let refused = refusals(&looked.passed);
            let code = if looked.unreached {
                PARTLY
            } else if refused {
                REFUSED
            } else {
                DONE
            };
            return Ok(looked.removed(code));
        }
        terminal::say(lines.trim_end());
        // What was typed has no line's end, and what is said next begins one.
        if !unless_stopped(stop, confirmed()).await.inspect_err(|_| terminal::say(""))? {
            note("nothing is deleted");
            return Ok(looked.removed(DONE));
        }
        hand.observe(false);
    }
    if stop.is_cancelled() {
        return Err(interrupted());
    }
    let looked = look(hand).await;
    let mut done = String::new();
    let mut failed = 0;
    for (step, outcome, what) in looked.passed.iter().flat_map(steps) {
        match outcome {
            Outcome::Done => {
                let _ = writeln!(done, "Snapshot {} deleted. ({what}, {})", step.action.subject(), step.reason.word());
            }
            Outcome::Failed(failure) => {
                failed += 1;
                terminal::complain(&Trouble::failed(format!("{} is not deleted", step.action.subject())).because(failure.to_string()));
            }
            Outcome::Stale => {
                failed += 1;
                let sentence = format!("{} is not deleted: it changed since it was looked at; look again", step.action.subject());
                terminal::complain(&Trouble::failed(sentence));
            }
            _ => {}
        }
    }
    let refused = refusals(&looked.passed);
    let some = !done.is_empty();
    print(&done)?;
    let code = match (some, failed > 0 || looked.unreached, refused) {
        (_, false, false) => DONE,
        (true, ..) => PARTLY,
        (false, _, true) => REFUSED,
        (false, true, false) => FAILED,
    };
    Ok(looked.removed(code))
}

impl Looked {
    fn removed(&self, code: u8) -> Removed {
        let file = |step: &Step| match &step.action {
            Action::Prune(file, _) => Some(file.name.clone()),
            _ => None,
        };
        let planned = self.passed.iter().flat_map(steps).filter_map(|(step, ..)| file(step)).collect();
        Removed { code, planned, saw_all: !self.unreached }
    }
}

async fn look(hand: &mut ByHand) -> Looked {
    let mut looked = Looked { passed: Vec::new(), unreached: false };
    if hand.has_directory() {
        let local = hand.directory().await;
        if let Some(failure) = &local.incomplete {
            looked.unreached = true;
            terminal::complain(&Trouble::failed("nothing is deleted in the directory").because(failure.to_string()));
        }
        looked.passed.push(local);
    }
    match hand.bucket().await {
        Ok(None) => {}
        Ok(Some(passed)) => {
            if let Some(failure) = &passed.incomplete {
                looked.unreached = true;
                terminal::complain(&Trouble::failed("nothing is deleted in the bucket").because(failure.to_string()));
            }
            looked.passed.push(passed);
        }
        Err(failure) => {
            looked.unreached = true;
            terminal::complain(&Trouble::failed("nothing is deleted in the bucket").because(failure.to_string()));
        }
    }
    looked
}

fn steps(passed: &Passed) -> impl Iterator<Item = (&Step, &Outcome, &'static str)> {
    let what = passed.storage.kind();
    let prunes = passed.plan.steps().iter().zip(&passed.outcomes).filter(|(step, _)| matches!(step.action, Action::Prune(..)));
    prunes.map(move |(step, outcome)| (step, outcome, what))
}

fn would_go(passed: &[Passed]) -> String {
    let goes = |(step, _, what): (&Step, &Outcome, &str)| {
        (step.veto == Some(Veto::Observing))
            .then(|| format!("{} would be deleted. ({}, {})\n", step.action.subject(), what, step.reason.word()))
    };
    passed.iter().flat_map(steps).filter_map(goes).collect()
}

/// Says which steps must not be taken. Whether there are any.
fn refusals(passed: &[Passed]) -> bool {
    let mut any = false;
    for (step, _, what) in passed.iter().flat_map(steps) {
        let why = match step.veto {
            None | Some(Veto::Observing) => continue,
            Some(Veto::K3sAtWork) => "K3s is at work there and manages its own snapshots",
            Some(Veto::NotOurs) => "it is not proven to be this cluster's, or it is of another history: see ls, and --take-over",
            Some(veto) => veto.word(),
        };
        any = true;
        terminal::complain(&Trouble::refused(format!("{} is not deleted ({what}): {why}", step.action.subject())));
    }
    any
}

/// Asks. Whoever reads the answer blocks, and is left alone when a signal comes first.
pub async fn confirmed() -> Result<bool, Trouble> {
    let answered = spawn_blocking(|| {
        let mut out = io::stderr().lock();
        out.write_all(b"Delete? [y/N] ").and_then(|()| out.flush())?;
        drop(out);
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answered.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let answer = answer.map_err(|error| Trouble::failed("the answer cannot be read").because_of(&error))?;
    if !answer.ends_with('\n') {
        terminal::say("");
    }
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
