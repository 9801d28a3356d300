//! The bearer token of the admin listener.
//!
//! A token in a file is read again for each request, so that a changed file counts at once. A file that is gone or
//! empty lets nobody in.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::types::{Secret, SecretSource};

/// The longest token, in bytes.
const MAX_LENGTH: usize = 4096;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can't be read.
    #[error("the admin token in {path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The variable is not set.
    #[error("the environment variable {0} of the admin token is not set")]
    NotSet(String),
    /// Nothing but a line end is in it.
    #[error("the admin token from {0} is empty")]
    Empty(SecretSource),
    /// More than 4 KiB.
    #[error("the admin token from {0} is longer than 4 KiB")]
    TooLong(SecretSource),
}

/// The token that requests must carry.
#[derive(Clone, Debug)]
pub struct Token(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Fixed(Secret),
    File(PathBuf),
}

impl Token {
    /// Reads the token once, so that a missing one is known at start.
    ///
    /// # Errors
    /// [`TokenError`] when it can't be read, or is empty.
    pub fn open(source: &SecretSource) -> Result<Self, TokenError> {
        match source {
            SecretSource::File(path) => {
                read_file(path)?;
                Ok(Self(Kind::File(path.clone())))
            }
            SecretSource::Env(name) => {
                use std::os::unix::ffi::OsStringExt;
                let value =
                    std::env::var_os(name).ok_or_else(|| TokenError::NotSet(name.clone()))?;
                secret(value.into_vec(), source).map(|token| Self(Kind::Fixed(token)))
            }
        }
    }

    /// The token as it is now. Reads at most 4 KiB of a local file; blocks that long.
    pub fn current(&self) -> Result<Secret, TokenError> {
        match &self.0 {
            Kind::Fixed(secret) => Ok(secret.clone()),
            Kind::File(path) => read_file(path),
        }
    }
}

/// Reads a token from a file; a line end after it is dropped.
fn read_file(path: &Path) -> Result<Secret, TokenError> {
    let error = |source| TokenError::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(error)?;
    // A buffer that never grows leaves no copy of the secret behind.
    let mut bytes = Vec::with_capacity(MAX_LENGTH + 3);
    file.take(MAX_LENGTH as u64 + 3).read_to_end(&mut bytes).map_err(error)?;
    secret(bytes, &SecretSource::File(path.to_owned()))
}

fn secret(mut bytes: Vec<u8>, source: &SecretSource) -> Result<Secret, TokenError> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    let (is_empty, is_long) = (bytes.is_empty(), bytes.len() > MAX_LENGTH);
    let secret = Secret::new(bytes);
    if is_empty {
        Err(TokenError::Empty(source.clone()))
    } else if is_long {
        Err(TokenError::TooLong(source.clone()))
    } else {
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_a_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let source = SecretSource::File(path.clone());
        assert!(matches!(Token::open(&source), Err(TokenError::Read { .. })));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Token::open(&source), Err(TokenError::Empty(_))));
        std::fs::write(&path, "x".repeat(MAX_LENGTH + 1)).unwrap();
        assert!(matches!(Token::open(&source), Err(TokenError::TooLong(_))));
        std::fs::write(&path, "one\r\n").unwrap();
        let token = Token::open(&source).unwrap();
        assert!(token.current().unwrap().matches(b"one"));
        std::fs::write(&path, "two").unwrap();
        assert!(token.current().unwrap().matches(b"two"));
        std::fs::write(&path, "").unwrap();
        assert!(token.current().is_err());
    }

    #[test]
    fn a_variable_that_is_not_set_is_an_error() {
        let source = SecretSource::Env("TIDEGATE_TEST_NO_SUCH_VARIABLE".into());
        assert!(matches!(Token::open(&source), Err(TokenError::NotSet(_))));
    }
}
