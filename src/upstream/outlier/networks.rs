//! How many client networks an upstream has served of late: a bitmap, since only small numbers matter.

use std::sync::atomic::{AtomicU64, Ordering};

/// Of the bitmap. Two networks share a bit by a chance of 1 in 2,048: then they count as one.
const WORDS: usize = 32;

/// Networks that are told apart where what each of them sees is kept.
pub(super) const SLOTS: usize = 64;

/// Where what a network sees is kept. By other bits than those of the bitmap.
pub(super) fn slot_of(hash: u64) -> usize {
    (hash >> 32) as usize % SLOTS
}

/// The networks of this window and of the one before it.
#[derive(Debug, Default)]
pub(super) struct Networks {
    present: [AtomicU64; WORDS],
    previous: [AtomicU64; WORDS],
}

impl Networks {
    /// One load where the network is known.
    pub(super) fn see(&self, hash: u64) {
        let bit = 1 << (hash & 63);
        let Some(word) = self.present.get((hash >> 6) as usize % WORDS) else { return };
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self) -> u32 {
        let both = self.present.iter().zip(&self.previous);
        both.map(|(a, b)| (a.load(Ordering::Relaxed) | b.load(Ordering::Relaxed)).count_ones())
            .sum()
    }

    /// A new window begins.
    pub(super) fn turn(&self) {
        for (present, previous) in self.present.iter().zip(&self.previous) {
            previous.store(present.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClientNetwork;

    #[test]
    fn networks_are_counted_over_two_windows() {
        let networks = Networks::default();
        let of =
            |last: u8| ClientNetwork::spread(Some(ClientNetwork::of([192, 0, 2, last].into())));
        assert_eq!(networks.count(), 0);
        for _ in 0..3 {
            networks.see(ClientNetwork::spread(None));
            networks.see(of(1));
        }
        assert!((1..=2).contains(&networks.count()));
        networks.turn();
        (0..200).for_each(|last| networks.see(of(last)));
        assert!((170..=201).contains(&networks.count()), "{}", networks.count());
        networks.turn();
        networks.turn();
        assert_eq!(networks.count(), 0);
    }
}
