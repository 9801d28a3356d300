//! Which endpoint a sticky cookie names, and what the cookie of an endpoint is.
//!
//! On the request path: one look in a table, made when the candidates change. The value of an endpoint's cookie is the HMAC-SHA-256 of its
//! upstream's name and its address, so that it names neither, is the same after a restart and on every replica with the same secret, and
//! can't be made by anybody else. Its first 8 bytes find the endpoint; the other 24 prove that the cookie is ours, and are
//! compared in constant time.

use std::collections::HashMap;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use foldhash::fast::RandomState;
use subtle::ConstantTimeEq;

use super::member::Candidate;
use crate::{state::EdgeSecret, types::Name};

/// Bytes of a value.
const BYTES: usize = 32;

/// Bytes of it that find the endpoint.
const HANDLE_BYTES: usize = 8;

/// The value of a sticky cookie; that of a request may be anybody's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StickyValue([u8; BYTES]);

impl StickyValue {
    /// Reads the value of a cookie; what has another form is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (length == BYTES).then_some(Self(bytes))
    }

    /// As a cookie has it: 43 characters.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    fn handle(&self) -> [u8; HANDLE_BYTES] {
        self.0.first_chunk().copied().unwrap_or_default()
    }
}

/// What signs the values of all upstreams.
#[derive(Clone)]
pub struct StickyKey(hmac::Key);

impl std::fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StickyKey(…)")
    }
}

impl StickyKey {
    /// Derived from the edge's secret.
    pub fn of(secret: &EdgeSecret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.derive("sticky cookies, version 1").expose()))
    }

    /// The value of an endpoint.
    fn value(&self, upstream: &Name, address: &str) -> StickyValue {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(upstream.as_bytes());
        // No name has such a byte: where it ends is clear.
        context.update(&[0]);
        context.update(address.as_bytes());
        let mut value = [0; BYTES];
        for (byte, tag) in value.iter_mut().zip(context.sign().as_ref()) {
            *byte = *tag;
        }
        StickyValue(value)
    }
}

/// The values of all candidates.
#[derive(Debug, Default)]
pub(super) struct StickyTable {
    places: HashMap<[u8; HANDLE_BYTES], u32, RandomState>,
    /// In the order of the candidates.
    values: Box<[StickyValue]>,
}

impl StickyTable {
    /// The values of candidates that will stand in this order.
    pub(super) fn new(key: &StickyKey, upstream: &Name, candidates: &[Candidate]) -> Self {
        let labels = candidates.iter().map(|candidate| candidate.member.endpoint.label());
        Self::of_labels(key, upstream, labels)
    }

    fn of_labels<'a>(
        key: &StickyKey,
        upstream: &Name,
        labels: impl Iterator<Item = &'a str>,
    ) -> Self {
        let values: Box<[StickyValue]> = labels.map(|label| key.value(upstream, label)).collect();
        let places = (0_u32..).zip(&values).map(|(place, value)| (value.handle(), place)).collect();
        Self { places, values }
    }

    /// The candidate of a cookie's value, if it is ours and the candidate is still there.
    pub(super) fn find(&self, value: &StickyValue) -> Option<usize> {
        let place = *self.places.get(&value.handle())? as usize;
        let known = self.values.get(place)?;
        bool::from(known.0.ct_eq(&value.0)).then_some(place)
    }

    /// The value of a candidate.
    pub(super) fn value(&self, place: usize) -> Option<StickyValue> {
        self.values.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Secret;

    fn key(secret: &str) -> StickyKey {
        StickyKey::of(&EdgeSecret::shared(Secret::new(secret.as_bytes().to_vec())))
    }

    fn table(key: &StickyKey, upstream: &str, addresses: &[&str]) -> StickyTable {
        StickyTable::of_labels(key, &upstream.parse().unwrap(), addresses.iter().copied())
    }

    #[test]
    fn a_value_finds_its_endpoint_wherever_it_stands_and_nothing_else_does() {
        let key = key("a secret that is long enough");
        let here = table(&key, "web", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
        let value = here.value(1).unwrap();
        assert_eq!(here.find(&value), Some(1));
        let replica = table(&key, "web", &["10.0.0.9:80", "10.0.0.8:80", "10.0.0.2:80"]);
        assert_eq!(replica.find(&value), Some(2));
        assert_eq!(table(&key, "web", &["10.0.0.1:80"]).find(&value), None, "it is gone");
        assert_eq!(table(&key, "api", &["10.0.0.2:80"]).find(&value), None, "another upstream");
        let foreign = table(&self::key("another secret, as long"), "web", &["10.0.0.2:80"]);
        assert_eq!(foreign.find(&value), None);
        for bit in 0..8 * BYTES {
            let mut forged = value;
            forged.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(here.find(&forged), None, "bit {bit}");
        }
        assert_eq!(here.value(3), None);
    }

    #[test]
    fn values_read_back_and_name_nothing() {
        let value = table(&key("a secret that is long enough"), "web", &["10.0.0.1:80"]).value(0);
        let value = value.unwrap();
        let text = value.encode();
        assert_eq!(text.len(), 43);
        assert_eq!(StickyValue::parse(&text), Some(value));
        let is_shown = |part: &str| value.0.windows(part.len()).any(|at| at == part.as_bytes());
        assert!(!is_shown("web") && !is_shown("10.0"));
        for other in ["", "x", &text[1..], &format!("{text}A"), &format!("{text}="), "a b", "💥"]
        {
            assert_eq!(StickyValue::parse(other), None, "{other}");
        }
    }
}
