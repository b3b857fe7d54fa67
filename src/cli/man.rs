//! `man`: writes the manual pages, one for the program and one for each verb.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_mangen::Man as Page;

use super::terminal::complain;
use super::trouble::Trouble;
use super::{DONE, command};

/// Write the manual pages into a directory, which has to be there.
#[derive(Debug, Args)]
pub struct Man {
    /// The directory, like /usr/local/share/man/man1.
    directory: PathBuf,
}

/// Writes them.
pub fn man(arguments: &Man) -> u8 {
    match write(&arguments.directory) {
        Ok(()) => DONE,
        Err(error) => {
            let trouble = Trouble::failed(format!("the manual pages cannot be written into {}", arguments.directory.display()));
            let trouble = trouble.because_of(&error);
            complain(&trouble);
            trouble.code
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let mut command = command().disable_help_subcommand(true);
    command.build();
    let name = command.get_name().to_string();
    let pages = command.get_subcommands().map(|verb| (format!("{name}-{}", verb.get_name()), verb.clone()));
    for (name, command) in [(name.clone(), command.clone())].into_iter().chain(pages) {
        let mut page = Vec::new();
        Page::new(command.display_name(&name)).title(&name).render(&mut page)?;
        fs::write(directory.join(format!("{name}.1")), page)?;
    }
    Ok(())
}
