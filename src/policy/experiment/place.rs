//! A client's place among the shares of an experiment: hashed from its key, or drawn once and kept in a signed cookie.
//!
//! The value of the cookie is the place (8 bytes) and the first 16 bytes of an HMAC-SHA-256 of the experiment's name, its salt and
//! the place: nobody else can make one, one of another experiment or of another salt is worth nothing, and a replica with the same
//! secret knows it.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{policy::hash_key::first_bits, state::EdgeSecret};

/// Bytes of a place.
const PLACE_BYTES: usize = 8;
/// Bytes of its signature that are kept.
const TAG_BYTES: usize = 16;
/// Bytes of a cookie's value.
const BYTES: usize = PLACE_BYTES + TAG_BYTES;

/// What signs the cookies of all experiments.
#[derive(Clone)]
pub struct ExperimentKey(hmac::Key);

impl std::fmt::Debug for ExperimentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExperimentKey(…)")
    }
}

impl ExperimentKey {
    /// Derived from the edge's secret.
    pub fn of(secret: &EdgeSecret) -> Self {
        let key = secret.derive("experiment cookies, version 1");
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose()))
    }
}

/// Makes places of keys for one experiment.
#[derive(Debug)]
pub(super) struct Places(Sha256);

impl Places {
    pub(super) fn new(experiment: &str, salt: &str) -> Self {
        let mut begun = Sha256::new();
        each_part(experiment, salt, |part| begun.update(part));
        Self(begun)
    }

    /// The place of a client with this key: the same wherever name and salt are.
    pub(super) fn of(&self, key: &[u8]) -> u64 {
        first_bits(self.0.clone().chain_update(key).finalize())
    }
}

/// Signs and reads the cookies of one experiment.
#[derive(Debug)]
pub(super) struct Signer(hmac::Context);

impl Signer {
    pub(super) fn new(key: &ExperimentKey, experiment: &str, salt: &str) -> Self {
        let mut begun = hmac::Context::with_key(&key.0);
        each_part(experiment, salt, |part| begun.update(part));
        Self(begun)
    }

    /// The value of the cookie of a place.
    pub(super) fn sign(&self, place: u64) -> String {
        let mut value = [0; BYTES];
        let bytes = place.to_be_bytes().into_iter().chain(self.tag(place));
        for (to, byte) in value.iter_mut().zip(bytes) {
            *to = byte;
        }
        URL_SAFE_NO_PAD.encode(value)
    }

    /// The place in a cookie's value, if we have signed it for this experiment.
    pub(super) fn read(&self, value: &str) -> Option<u64> {
        let mut bytes = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        let (place, tag) = bytes.split_first_chunk::<PLACE_BYTES>().filter(|_| length == BYTES)?;
        let place = u64::from_be_bytes(*place);
        bool::from(tag.ct_eq(&self.tag(place))).then_some(place)
    }

    fn tag(&self, place: u64) -> [u8; TAG_BYTES] {
        let mut context = self.0.clone();
        context.update(&place.to_be_bytes());
        context.sign().as_ref().first_chunk().copied().unwrap_or_default()
    }
}

/// Name and salt, so that no two pairs of them read the same.
fn each_part(experiment: &str, salt: &str, mut part: impl FnMut(&[u8])) {
    // A name has no such byte.
    part(experiment.as_bytes());
    part(&[0]);
    part(&(salt.len() as u64).to_be_bytes());
    part(salt.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    fn signer(secret: &str, experiment: &str, salt: &str) -> Signer {
        let secret = EdgeSecret::shared(Secret::new(secret.as_bytes().to_vec()));
        Signer::new(&ExperimentKey::of(&secret), experiment, salt)
    }

    #[test]
    fn a_cookie_is_read_by_its_own_experiment_on_every_replica_and_by_nothing_else() {
        let here = signer("a secret that is long enough", "new", "a");
        let place = 0x0123_4567_89ab_cdef;
        let value = here.sign(place);
        assert_eq!(value.len(), 32);
        assert_eq!(here.read(&value), Some(place));
        assert_eq!(signer("a secret that is long enough", "new", "a").read(&value), Some(place));
        for (secret, experiment, salt) in [
            ("another secret, as long", "new", "a"),
            ("a secret that is long enough", "old", "a"),
            ("a secret that is long enough", "new", "b"),
            ("a secret that is long enough", "new", ""),
            ("a secret that is long enough", "newa", ""),
        ] {
            assert_eq!(signer(secret, experiment, salt).read(&value), None, "{experiment} {salt}");
        }
        for other in ["", "x", &value[1..], &format!("{value}A"), &format!("{value}="), "a b", "💥"]
        {
            assert_eq!(here.read(other), None, "{other}");
        }
        let bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        for bit in 0..8 * BYTES {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(here.read(&URL_SAFE_NO_PAD.encode(forged)), None, "bit {bit}");
        }
    }

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
