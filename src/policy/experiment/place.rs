//! A client's place among the shares of an experiment, hashed from its key. Places in cookies are signed numbers
//! ([`crate::state::NumberSigner`]).

use sha2::{Digest, Sha256};

use crate::policy::hash_key::first_bits;

/// Makes places of keys for one experiment.
#[derive(Debug)]
pub(super) struct Places(Sha256);

impl Places {
    pub(super) fn new(experiment: &str, salt: &str) -> Self {
        // A name has no such byte, and the salt its length before it: no two pairs read the same.
        let begun = Sha256::new().chain_update(experiment).chain_update([0]);
        Self(begun.chain_update((salt.len() as u64).to_be_bytes()).chain_update(salt))
    }

    /// The place of a client with this key: the same wherever name and salt are.
    pub(super) fn of(&self, key: &[u8]) -> u64 {
        first_bits(self.0.clone().chain_update(key).finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_keys_are_the_same_for_ever_and_differ_by_name_salt_and_key() {
        let place = |name, salt, key: &str| Places::new(name, salt).of(key.as_bytes());
        // SHA-256 of "new", a zero, the salt's length in eight bytes, "s", "ada": what other programs have to compute too.
        let written = b"new\0\0\0\0\0\0\0\0\x01sada";
        assert_eq!(place("new", "s", "ada"), first_bits(Sha256::digest(written)));
        let all = [
            place("new", "s", "ada"),
            place("old", "s", "ada"),
            place("new", "t", "ada"),
            place("new", "s", "bob"),
            place("new", "sa", "da"),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|other| other != one));
        }
    }
}
