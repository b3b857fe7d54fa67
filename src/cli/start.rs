//! How a verb begins that acts like an agent.

use tokio_util::sync::CancellationToken;

use super::trouble::Trouble;
use crate::config::RunSettings;
use crate::controller::agent::StartError;
use crate::controller::by_hand::ByHand;
use crate::decide::Asked;
use crate::snapshot::BaseName;

/// Puts the parts together and looks around once.
pub async fn start(settings: RunSettings, asked: Asked, stop: &CancellationToken) -> Result<ByHand, Trouble> {
    let started = Box::pin(ByHand::new(settings, asked, stop)).await;
    match started {
        Ok(Some(hand)) => Ok(hand),
        Ok(None) => Err(Trouble::failed("interrupted")),
        Err(error @ StartError::Directory(_)) => Err(Trouble::usage(error.to_string()).because_of(&error)),
        Err(error) => Err(Trouble::failed(error.to_string()).because_of(&error)),
    }
}

/// The base name of `--name`.
pub fn base(name: &str) -> Result<BaseName, Trouble> {
    BaseName::new(name)
        .map_err(|error| Trouble::usage("--name should be the beginning of a file's name, like on-demand").because_of(&error))
}
