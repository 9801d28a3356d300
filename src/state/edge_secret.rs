//! The edge's own secret, and keys derived from it: one for each purpose.
//!
//! Off the request path; blocks. It is `server.shared_secret` where that is set, so that replicas derive the same keys; else it is
//! made once and kept in the state directory. Who knows one derived key knows neither the secret nor another key (HKDF, RFC 5869).

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Salt},
    rand,
};
use zeroize::Zeroizing;

use super::store::{Mode, StoreError, write_atomically};
use crate::types::Secret;

/// The file in the state directory.
const FILE: &str = "edge-secret";

/// Bytes of a secret that is made here, and of every key.
const KEY_BYTES: usize = 32;

/// The shortest secret that is taken from elsewhere, in bytes.
pub const MIN_SHARED_SECRET: usize = 16;

/// Why there is no secret of the edge's own.
#[derive(Debug, thiserror::Error)]
pub enum EdgeSecretError {
    /// Its file can't be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its folder or file can't be read.
    #[error("{FILE} can't be read in the state directory")]
    Read(#[source] io::Error),
    /// The file is not what was written.
    #[error("{FILE} in the state directory is damaged; put it back, or delete it for a new one")]
    Damaged,
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What keys are derived from.
#[derive(Clone, Debug)]
pub struct EdgeSecret(Secret);

impl EdgeSecret {
    /// That which replicas share.
    pub fn shared(secret: Secret) -> Self {
        Self(secret)
    }

    /// That which is kept in the state directory; made (mode 0600) where there is none. Two processes that look at once find the
    /// same.
    ///
    /// # Errors
    /// The file can't be read or written, or holds something else.
    pub fn kept_in(state_dir: &Path) -> Result<Self, EdgeSecretError> {
        std::fs::create_dir_all(state_dir).map_err(EdgeSecretError::Read)?;
        let folder = File::open(state_dir).map_err(EdgeSecretError::Read)?;
        folder.lock().map_err(EdgeSecretError::Read)?;
        let path = state_dir.join(FILE);
        let mut secret = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        match File::open(&path) {
            Ok(file) => {
                let longest = KEY_BYTES as u64 + 1;
                file.take(longest).read_to_end(&mut secret).map_err(EdgeSecretError::Read)?;
                if secret.len() != KEY_BYTES {
                    return Err(EdgeSecretError::Damaged);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                secret.resize(KEY_BYTES, 0);
                rand::fill(&mut secret).map_err(|_| EdgeSecretError::Random)?;
                write_atomically(&path, &secret, Mode::Private)?;
            }
            Err(error) => return Err(EdgeSecretError::Read(error)),
        }
        drop(folder);
        Ok(Self(Secret::new(secret.to_vec())))
    }

    /// One that dies with the process.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn of_this_process() -> Result<Self, EdgeSecretError> {
        let mut secret = vec![0; KEY_BYTES];
        rand::fill(&mut secret).map_err(|_| EdgeSecretError::Random)?;
        Ok(Self(Secret::new(secret)))
    }

    /// The key for a purpose: HKDF with SHA-256, the purpose as its info.
    pub fn derive(&self, purpose: &'static str) -> Secret {
        /// As many bytes as the key has.
        struct Length;
        impl KeyType for Length {
            fn len(&self) -> usize {
                KEY_BYTES
            }
        }
        let mut key = vec![0; KEY_BYTES];
        let secret = Salt::new(HKDF_SHA256, b"tidegate").extract(self.0.expose());
        let filled =
            secret.expand(&[purpose.as_bytes()], Length).and_then(|out| out.fill(&mut key));
        // 32 bytes are far below the 8,160 that HKDF gives.
        debug_assert!(filled.is_ok());
        Secret::new(key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_once_private_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("state");
        let keys: Vec<Secret> = std::thread::scope(|scope| {
            let open = || EdgeSecret::kept_in(&state_dir).unwrap().derive("a");
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| key.matches(keys[0].expose())));
        let path = state_dir.join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&state_dir).unwrap().count(), 1, "no leftover");
        for damaged in [&b"short"[..], &[7; 33]] {
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(EdgeSecret::kept_in(&state_dir), Err(EdgeSecretError::Damaged)));
        }
        std::fs::remove_file(&path).unwrap();
        let other = EdgeSecret::kept_in(&state_dir).unwrap().derive("a");
        assert!(!other.matches(keys[0].expose()));
    }

    #[test]
    fn each_purpose_has_a_key_of_its_own() {
        let shared = |text: &str| EdgeSecret::shared(Secret::new(text.as_bytes().to_vec()));
        let key = shared("correct horse battery staple").derive("a");
        assert!(key.matches(shared("correct horse battery staple").derive("a").expose()));
        assert!(!key.matches(shared("correct horse battery staple").derive("b").expose()));
        assert!(!key.matches(shared("correct horse battery stable").derive("a").expose()));
        assert!(key.expose().iter().any(|byte| *byte != 0));
        let one = EdgeSecret::of_this_process().unwrap().derive("a");
        assert!(!one.matches(EdgeSecret::of_this_process().unwrap().derive("a").expose()));
    }
}
