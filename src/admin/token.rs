//! The bearer token of the admin listener.
//!
//! A token in a file is read again for each request, so that a changed file counts at once. A file that is gone or
//! empty lets nobody in.

use std::{error::Error, path::PathBuf};

use crate::{
    state::{SecretError, read_secret},
    types::{Secret, SecretSource},
};

/// Why there is no token.
#[derive(Debug)]
pub struct TokenError(SecretError);

impl std::fmt::Display for TokenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there is no admin token: {}", self.0)
    }
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // What it is itself stands in its words already.
        self.0.source()
    }
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
        let secret = read_secret(source).map_err(TokenError)?;
        Ok(Self(match source {
            SecretSource::File(path) => Kind::File(path.clone()),
            SecretSource::Env(_) => Kind::Fixed(secret),
        }))
    }

    /// The token as it is now. Reads at most 4 KiB of a local file; blocks that long.
    pub fn current(&self) -> Result<Secret, TokenError> {
        match &self.0 {
            Kind::Fixed(secret) => Ok(secret.clone()),
            Kind::File(path) => read_secret(&SecretSource::File(path.clone())).map_err(TokenError),
        }
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
        assert!(matches!(Token::open(&source), Err(TokenError(SecretError::Read { .. }))));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Token::open(&source), Err(TokenError(SecretError::Empty(_)))));
        std::fs::write(&path, "x".repeat(4097)).unwrap();
        assert!(matches!(Token::open(&source), Err(TokenError(SecretError::TooLong(_)))));
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
        assert!(matches!(Token::open(&source), Err(TokenError(SecretError::NotSet(_)))));
    }
}
