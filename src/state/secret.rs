//! Reading a secret from where the configuration says it is. Blocks for a moment on a local file.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::ffi::OsStringExt,
};

use crate::types::{Secret, SecretSource};

/// The longest secret, in bytes.
const MAX_LENGTH: usize = 4096;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error("the {from} can't be read")]
    Read {
        /// Where it should be.
        from: SecretSource,
        /// Why not.
        source: io::Error,
    },
    /// The variable is not set.
    #[error("the {0} is not set")]
    NotSet(SecretSource),
    /// Nothing but a line end is in it.
    #[error("the {0} is empty")]
    Empty(SecretSource),
    /// More than 4 KiB.
    #[error("the {0} is longer than 4 KiB")]
    TooLong(SecretSource),
}

/// Reads a secret as it is now; a line end after it is dropped.
///
/// # Errors
/// It is not there, empty, or longer than 4 KiB. The error never has it.
pub fn read_secret(source: &SecretSource) -> Result<Secret, SecretError> {
    let mut bytes = match source {
        SecretSource::Env(name) => {
            std::env::var_os(name).ok_or_else(|| SecretError::NotSet(source.clone()))?.into_vec()
        }
        SecretSource::File(path) => {
            let failed = |error| SecretError::Read { from: source.clone(), source: error };
            let file = File::open(path).map_err(failed)?;
            // A buffer that never grows leaves no copy of the secret behind.
            let mut bytes = Vec::with_capacity(MAX_LENGTH + 3);
            file.take(MAX_LENGTH as u64 + 3).read_to_end(&mut bytes).map_err(failed)?;
            bytes
        }
    };
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    let secret = Secret::new(bytes);
    match secret.expose().len() {
        0 => Err(SecretError::Empty(source.clone())),
        length if length > MAX_LENGTH => Err(SecretError::TooLong(source.clone())),
        _ => Ok(secret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_without_its_line_end_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_secret(&SecretSource::File(path.clone()))
        };
        for (text, secret) in [("a b", "a b"), ("ab\n", "ab"), ("ab\r\n", "ab"), ("ab\n\n", "ab\n")]
        {
            assert_eq!(read(text).unwrap().expose(), secret.as_bytes());
        }
        assert!(matches!(read("\n"), Err(SecretError::Empty(_))));
        assert!(read(&"x".repeat(MAX_LENGTH)).is_ok());
        assert!(matches!(read(&"x".repeat(MAX_LENGTH + 1)), Err(SecretError::TooLong(_))));
        std::fs::remove_file(&path).unwrap();
        let missing = read_secret(&SecretSource::File(path.clone()));
        assert!(matches!(missing, Err(SecretError::Read { .. })));
        let unset = read_secret(&SecretSource::Env("TIDEGATE_NO_SUCH_VARIABLE".to_owned()));
        assert!(matches!(unset, Err(SecretError::NotSet(_))));
    }
}
