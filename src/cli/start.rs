//! How a verb begins that acts like an agent.

use std::io::ErrorKind;

use tokio_util::sync::CancellationToken;

use super::terminal::{harmless, note};
use super::trouble::Trouble;
use super::{around, hand};
use crate::config::{HandSettings, RunSettings};
use crate::controller::agent::StartError;
use crate::controller::by_hand::{ByHand, There};
use crate::decide::Asked;
use crate::kubernetes::client::ClientError;
use crate::snapshot::{BaseName, ClusterId};

/// Whether a verb needs a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// It puts something there, and makes it.
    Made,
    /// It works on what is there.
    There,
    /// It works on what is there, or on the bucket alone.
    Nothing,
    /// It works on records, wherever the files are.
    Records,
}

/// Puts the parts together and looks around once.
pub async fn start(
    settings: &HandSettings,
    base: &BaseName,
    (asked, needs): (Asked, Needs),
    stop: &CancellationToken,
) -> Result<ByHand, Trouble> {
    let run = settings.run(around::node(settings)?, base)?;
    let api = match around::source(settings) {
        Ok(source) => Some(source),
        Err(ClientError::Nothing) => None,
        Err(error) => return Err(trouble(&error.into())),
    };
    let started = hand::unless_stopped(stop, async {
        let there = There { api, directory: needs == Needs::Made || (needs != Needs::Records && is_there(settings, &run, needs).await?) };
        Box::pin(ByHand::new(run, there, asked, stop)).await.map_err(|error| trouble(&error))
    });
    let by_hand = Box::pin(started).await?.ok_or_else(hand::interrupted)?;
    if let Some(failure) = by_hand.unasked() {
        note(format_args!("the API server could not be asked: {failure}"));
    }
    Ok(by_hand)
}

/// Who takes away, or takes elsewhere, makes no directory.
async fn is_there(settings: &HandSettings, run: &RunSettings, needs: Needs) -> Result<bool, Trouble> {
    let path = run.snapshot_dir.display();
    match tokio::fs::symlink_metadata(&run.snapshot_dir).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // What else is wrong with it is told by whoever lists it.
        _ => return Ok(true),
    }
    // One that was there once, as on a volume that is not mounted, is missed.
    if tokio::fs::try_exists(run.snapshot_dir.with_file_name(".metadata")).await.unwrap_or(true) {
        return Ok(true);
    }
    if settings.names_a_directory() {
        return Err(Trouble::failed(format!("there is no directory {path}")));
    }
    if needs == Needs::There {
        return Err(Trouble::usage(format!("there is no directory {path}: name one with --dir")));
    }
    if run.s3.is_on() {
        return Ok(false);
    }
    let sentence = format!("there is no directory {path}, and no bucket");
    Err(Trouble::usage(sentence).because("name a directory with --dir, or a bucket with --s3 and --s3-bucket"))
}

fn trouble(error: &StartError) -> Trouble {
    let sentence = error.to_string();
    match error {
        StartError::Directory(_) => Trouble::usage(sentence).because_of(error),
        _ => Trouble::failed(sentence).because_of(error),
    }
}

/// Takes a person's word for whose the objects are, where no API server has said it; and no other word where one has.
pub fn believe(hand: &ByHand, said: Option<&ClusterId>) -> Result<(), Trouble> {
    let Some(said) = said else { return Ok(()) };
    if let Some(told) = hand.shared().surroundings().cluster_of_records().filter(|told| *told != said) {
        let (told, said) = (harmless(told.as_str()), harmless(said.as_str()));
        return Err(Trouble::refused(format!("the API server says that this is cluster {told}, and not {said}"))
            .because("leave --cluster-id out, or name the API server of that cluster"));
    }
    hand.believe(said.clone());
    Ok(())
}

/// Says how somebody can say whose the objects are, where nobody has.
pub fn say_whose(hand: &ByHand, is_known: bool) {
    if hand.shared().settings.s3.is_on() && !is_known {
        note("where no API server says it, --cluster-id says whose objects they are");
    }
}

/// The base name of `--name`.
pub fn base(name: &str) -> Result<BaseName, Trouble> {
    BaseName::new(name)
        .map_err(|error| Trouble::usage("--name should be the beginning of a file's name, like on-demand").because_of(&error))
}
