//! Settings: what a user can say, where, and what wins.
//!
//! In: the command line, the environment, config files; later, at each beat, the S3 Secret and the ConfigMap that it names, which are
//! fetched elsewhere. Out: [`RunSettings`] for the run and an [`S3Access`] for the beat. Each setting is defined once, in [`table`]; each
//! kind of value has one parser, in `values`; the order of precedence is in [`sources`]. Nothing but [`load`], [`file::read`] and
//! [`read_certificates`] looks outside. No key, token or password is in any error, warning or `Debug` output.

mod ca;
#[cfg(test)]
mod documented;
mod endpoint;
mod error;
pub mod file;
mod flags;
mod hand;
mod nearest;
mod run;
mod s3;
pub mod sources;
pub mod table;
#[cfg(test)]
mod tests;
mod values;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

pub use ca::CaBundles;
pub use endpoint::{Endpoint, Proxy, ProxyUrl};
pub use error::{ConfigError, Origin, Warning};
pub use flags::{Flags, HandFlags};
pub use hand::{ApiServer, HandSettings};
pub use run::RunSettings;
pub use s3::{Keys, Lookup, S3Access, S3Layer, Secret, ca_config_map, resolve_s3};
pub use sources::{Environment, Sourced};

/// The settings of this process: `flags`, its environment, and the config files that `--config` names. Certificates are looked at as well:
/// what is wrong with them now will hardly be right at the first beat.
pub fn load(flags: &Flags) -> Result<(RunSettings, Vec<Warning>), ConfigError> {
    let environment = Environment::new(std::env::vars_os())?.in_zone(TimeZone::system());
    let files = match flags.get("config").filter(|path| !path.is_empty()) {
        Some(path) => file::read(Path::new(path))?,
        None => Vec::new(),
    };
    let (settings, warnings) = RunSettings::new(flags, &environment, &files)?;
    settings.s3.check_certificates(&read_certificates)?;
    Ok((settings, warnings))
}

/// The same for a verb by hand. Without `--config` the file that K3s or RKE2 read is read, where there is one that we may read.
pub fn load_by_hand(flags: &Flags) -> Result<(HandSettings, Vec<Warning>), ConfigError> {
    let environment = Environment::new(std::env::vars_os())?;
    let mut warnings = Vec::new();
    let named = flags.get("config").filter(|path| !path.is_empty());
    let path = named.map_or_else(|| hand::default_config(flags, &environment), PathBuf::from);
    let files = match file::read(&path) {
        Err(ConfigError::FileUnreadable { path, source }) if named.is_none() => {
            if source.kind() != io::ErrorKind::NotFound {
                warnings.push(format!("the settings of {} are not used: it cannot be read ({source})", path.display()));
            }
            Vec::new()
        }
        read => read?,
    };
    let (settings, more) = HandSettings::new(flags, &environment, &files)?;
    warnings.extend(more);
    Ok((settings, warnings))
}

/// Reads a file of certificates for [`resolve_s3`].
pub fn read_certificates(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}
