//! A number in a cookie that the edge alone can have written: eight bytes of it, and a tag that proves it is ours.
//!
//! On the request path. A client can't choose the number, a cookie of one scope is worth nothing in another, and a replica with the
//! same secret reads it. What the number means is the scope's affair.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use super::EdgeSecret;

const NUMBER_BYTES: usize = 8;
/// 128 bits of the tag are kept (RFC 2104, section 5).
const TAG_BYTES: usize = 16;
const BYTES: usize = NUMBER_BYTES + TAG_BYTES;

/// What signs the numbers of one purpose.
#[derive(Clone)]
pub struct NumberKey(hmac::Key);

impl std::fmt::Debug for NumberKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NumberKey(…)")
    }
}

impl NumberKey {
    /// Derived from the edge's secret for this purpose.
    pub fn of(secret: &EdgeSecret, purpose: &'static str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.derive(purpose).expose()))
    }

    /// What signs and reads the numbers of one scope: the words that tell it from others.
    pub fn signer(&self, scope: &[&str]) -> NumberSigner {
        let mut begun = hmac::Context::with_key(&self.0);
        for word in scope {
            // With their lengths, so that no two scopes read the same.
            begun.update(&(word.len() as u64).to_be_bytes());
            begun.update(word.as_bytes());
        }
        NumberSigner(begun)
    }
}

/// Signs and reads the numbers of one scope.
#[derive(Debug)]
pub struct NumberSigner(hmac::Context);

impl NumberSigner {
    /// The cookie's value for a number: 32 characters.
    pub fn sign(&self, number: u64) -> String {
        let mut bytes = [0; BYTES];
        let (head, tail) = bytes.split_at_mut(NUMBER_BYTES);
        head.copy_from_slice(&number.to_be_bytes());
        tail.copy_from_slice(&self.tag(number));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The number in a value; none where the value is not ours, or of another scope. In constant time for values of its length.
    pub fn read(&self, value: &str) -> Option<u64> {
        let mut bytes = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        let (head, tail) = bytes.split_first_chunk::<NUMBER_BYTES>().filter(|_| length == BYTES)?;
        let number = u64::from_be_bytes(*head);
        bool::from(self.tag(number).ct_eq(tail)).then_some(number)
    }

    fn tag(&self, number: u64) -> [u8; TAG_BYTES] {
        let mut context = self.0.clone();
        context.update(&number.to_be_bytes());
        context.sign().as_ref().first_chunk().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    const NUMBER: u64 = 0x0123_4567_89ab_cdef;

    fn signer(secret: &str, purpose: &'static str, scope: &[&str]) -> NumberSigner {
        let secret = EdgeSecret::shared(Secret::new(secret.as_bytes().to_vec()));
        NumberKey::of(&secret, purpose).signer(scope)
    }

    #[test]
    fn a_number_comes_back_in_its_own_scope_on_every_replica_and_nowhere_else() {
        let here = || signer("a secret that is long enough", "test", &["shop", "1"]);
        let value = here().sign(NUMBER);
        assert_eq!(value.len(), 32);
        assert_eq!(here().read(&value), Some(NUMBER));
        for (secret, purpose, scope) in [
            ("another secret, as long as it", "test", &["shop", "1"][..]),
            ("a secret that is long enough", "other", &["shop", "1"]),
            ("a secret that is long enough", "test", &["shop", "2"]),
            ("a secret that is long enough", "test", &["shop", ""]),
            ("a secret that is long enough", "test", &["shop1", ""]),
            ("a secret that is long enough", "test", &["", "shop1"]),
            ("a secret that is long enough", "test", &["shop1"]),
            ("a secret that is long enough", "test", &["web", "1"]),
        ] {
            assert_eq!(signer(secret, purpose, scope).read(&value), None, "{purpose} {scope:?}");
        }
    }

    #[test]
    fn nothing_but_what_was_signed_is_taken() {
        let here = signer("a secret that is long enough", "test", &["shop", "1"]);
        let value = here.sign(NUMBER);
        let bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        for bit in 0..8 * BYTES {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(here.read(&URL_SAFE_NO_PAD.encode(forged)), None, "bit {bit}");
        }
        let longer = [format!("{value}A"), format!("{value}AAAA"), format!("{value}=")];
        for text in ["", "x", "a b", "💥", &value[1..], &longer[0], &longer[1], &longer[2]] {
            assert_eq!(here.read(text), None, "{text}");
        }
    }
}
