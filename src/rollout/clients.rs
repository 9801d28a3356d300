//! How often one client network's failures count: so that one broken client can't take a release back.
//!
//! The limit is one for both sides together: whichever side the first failures of a network fall on is left to how its
//! requests were dealt, so that the limit by itself speaks for neither. What is over it is left out, as if it had not been
//! tried. Only failures come here.
//!
//! Bounded: [`SLOTS`] networks a minute. Of more, some share a slot and count as one, which only makes the analysis slower.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::types::ClientNetwork;

const SLOTS: usize = 4_096;
/// Places in which a network is looked for.
const LOOKS: usize = 4;
const MINUTE: Duration = Duration::from_mins(1);

/// Failures by client network in the present minute. A slot: 32 bits that tell networks apart, 16 of the minute, 16 of the
/// count.
#[derive(Debug)]
pub(super) struct ClientFailures {
    began: Instant,
    slots: Box<[AtomicU64]>,
}

impl ClientFailures {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether one more failure of this network counts, of `most` in a minute.
    pub(super) fn takes(&self, network: Option<ClientNetwork>, most: u32, now: Instant) -> bool {
        let minutes = now.saturating_duration_since(self.began).as_secs() / MINUTE.as_secs();
        // 0 is a slot that nobody has had.
        let minute = minutes % 0xffff + 1;
        let hash = ClientNetwork::spread(network);
        let tag = (hash & !0xffff_ffff) | minute << 16;
        let is_mine = |slot: u64| slot & !0xffff == tag;
        let is_old = |slot: u64| (slot >> 16) & 0xffff != minute;
        let places = (0..LOOKS).map(|look| (hash as usize).wrapping_add(look) % SLOTS);
        let mut slots = places.filter_map(|place| self.slots.get(place));
        let Some(first) = slots.next() else { return false };
        let found = std::iter::once(first).chain(slots).find(|slot| {
            let word = slot.load(Ordering::Relaxed);
            is_mine(word) || is_old(word)
        });
        let counted =
            found.unwrap_or(first).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                let word = if is_old(word) { tag } else { word };
                (word & 0xffff < u64::from(most.min(0xffff))).then_some(word + 1)
            });
        counted.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(number: u32) -> ClientNetwork {
        ClientNetwork::of(std::net::Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn each_network_has_its_own_few_a_minute() {
        let began = Instant::now();
        let clients = ClientFailures::new(began);
        let taken = |n, now| (0..10).filter(|_| clients.takes(Some(network(n)), 3, now)).count();
        assert_eq!([taken(1, began), taken(1, began), taken(2, began)], [3, 0, 3]);
        assert_eq!(taken(1, began + MINUTE), 3, "the next minute");
        assert_eq!((0..10).filter(|_| clients.takes(None, 3, began)).count(), 3);
        // After 45 days the numbers of minutes begin again.
        assert_eq!(taken(1, began + MINUTE * 0xffff * 2), 3);
    }

    #[test]
    fn many_networks_are_told_apart_and_more_count_as_fewer() {
        let began = Instant::now();
        let clients = ClientFailures::new(began);
        let taken = |range: std::ops::Range<u32>| {
            range.filter(|n| clients.takes(Some(network(*n)), 1, began)).count()
        };
        assert!(taken(0..1_000) > 950);
        let rest = taken(1_000..100_000);
        assert!(rest <= SLOTS && rest > SLOTS / 2, "{rest}");
    }
}
