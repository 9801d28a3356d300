//! The cookie that keeps a client with its version: a number that the client was dealt by, and a tag that proves it is ours.
//!
//! A client can't choose a version by it: the number was drawn by the edge, and what it means is decided by the share of the
//! moment. It says nothing of the rollout. Another revision has other tags: everybody is dealt anew.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use super::attempt::AttemptKey;
use crate::state::EdgeSecret;

const NUMBER_BYTES: usize = 8;
/// 128 bits of the tag are kept (RFC 2104, section 5).
const TAG_BYTES: usize = 16;
const BYTES: usize = NUMBER_BYTES + TAG_BYTES;

/// What signs the cookies of all rollouts.
#[derive(Clone)]
pub struct CookieKey(hmac::Key);

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKey(…)")
    }
}

impl CookieKey {
    /// Derived from the edge's secret.
    pub fn of(secret: &EdgeSecret) -> Self {
        let derived = secret.derive("rollout cookies, version 1");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.expose()))
    }

    /// The value for a number.
    pub(super) fn encode(&self, attempt: &AttemptKey, number: u64) -> String {
        let mut bytes = [0; BYTES];
        let (head, tail) = bytes.split_at_mut(NUMBER_BYTES);
        head.copy_from_slice(&number.to_be_bytes());
        tail.copy_from_slice(&self.tag(attempt, number));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The number in a value; none where the value is not ours, or of another attempt.
    pub(super) fn decode(&self, attempt: &AttemptKey, text: &str) -> Option<u64> {
        let mut bytes = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (head, tail) = bytes.split_first_chunk::<NUMBER_BYTES>()?;
        let number = u64::from_be_bytes(*head);
        let is_ours = length == BYTES && bool::from(self.tag(attempt, number).ct_eq(tail));
        is_ours.then_some(number)
    }

    fn tag(&self, attempt: &AttemptKey, number: u64) -> [u8; TAG_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(attempt.rollout.as_bytes());
        // No name has such a byte: where it ends is clear.
        context.update(&[0]);
        context.update(attempt.revision.as_deref().unwrap_or_default().as_bytes());
        context.update(&[0]);
        context.update(&number.to_be_bytes());
        context.sign().as_ref().first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    fn key(secret: &str) -> CookieKey {
        CookieKey::of(&EdgeSecret::shared(Secret::new(secret.as_bytes().to_vec())))
    }

    fn attempt(rollout: &str, revision: Option<&str>) -> AttemptKey {
        AttemptKey {
            rollout: rollout.parse().unwrap(),
            revision: revision.map(|revision| revision.parse().unwrap()),
            stable: "a".parse().unwrap(),
            candidate: "b".parse().unwrap(),
        }
    }

    #[test]
    fn a_number_comes_back_and_nothing_else_is_taken() {
        let (key, here) = (key("a secret that is long enough"), attempt("shop", Some("1")));
        let value = key.encode(&here, 0x0123_4567_89ab_cdef);
        assert_eq!(key.decode(&here, &value), Some(0x0123_4567_89ab_cdef));
        for other in [
            attempt("shop", Some("2")),
            attempt("shop", None),
            attempt("shop1", None),
            attempt("web", Some("1")),
        ] {
            assert_eq!(key.decode(&other, &value), None, "{other:?}");
        }
        let foreign = self::key("another secret, as long as it");
        assert_eq!(foreign.decode(&here, &value), None);
        let bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        for bit in 0..8 * BYTES {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.decode(&here, &URL_SAFE_NO_PAD.encode(forged)), None, "bit {bit}");
        }
        for text in ["", "x", &value[1..], &format!("{value}A"), &format!("{value}AAAA"), "💥"] {
            assert_eq!(key.decode(&here, text), None, "{text}");
        }
    }
}
