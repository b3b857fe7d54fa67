//! The file of the servers' token, of which only the hash is kept.

use std::io;
use std::path::{Path, PathBuf};

use crate::snapshot::{TokenError, token_hash};
use crate::storage::local::bounded;

/// More than a token has.
const LARGEST: u64 = 64 * 1024;

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file.
    #[error("token-file: {} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is in it.
    #[error("token-file: {} is not the token of a server", .path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: TokenError,
    },
}

/// The hash of the token in a file (docs/k3s.md 7.4); None for an empty one. Blocks.
pub fn read_token_hash(path: &Path) -> Result<Option<String>, TokenFileError> {
    let failed = |source| TokenFileError::Read { path: path.into(), source };
    let bytes = bounded(path, LARGEST).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "it is not text")))?;
    token_hash(&text).map_err(|source| TokenFileError::Token { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_token_file_is_as_k3s_has_it_and_the_token_shows_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "test\n").unwrap();
        assert_eq!(read_token_hash(&path).unwrap().as_deref(), Some("9f86d081884c"));
        std::fs::write(&path, "K10hunter2").unwrap();
        let error = read_token_hash(&path).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2") && error.to_string().contains("token-file"), "{error:?}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read_token_hash(&path), Err(TokenFileError::Read { .. })));
    }
}
