//! The share of the requests that the candidate gets: one atomic, written by the controller, read by every request; and the
//! numbers that requests are dealt by.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use crate::types::Percent;

/// Requests are counted and dealt in so many parts, so that threads do not wait for each other.
pub(super) const SHARDS: usize = 16;

/// One of the two upstreams of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The one that serves.
    Stable,
    /// The one with the new version.
    Candidate,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Stable => Self::Candidate,
            Self::Candidate => Self::Stable,
        }
    }

    /// Its word in metrics and in the access log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
        }
    }
}

/// What the dial says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The candidate's share in millionths.
    pub share: u32,
    /// The number of the step. Whenever the share changes it grows.
    pub step: u32,
    /// Whether the candidate may get any request: also those that always get it, and those that the stable can't serve.
    pub is_in_play: bool,
    /// Whether copies of requests go to the candidate.
    pub is_mirrored: bool,
}

const SHARE_BITS: u32 = 20;
const STEP_BITS: u32 = 32;
const IN_PLAY: u64 = 1 << (SHARE_BITS + STEP_BITS);
const MIRRORED: u64 = IN_PLAY << 1;

/// The dial.
#[derive(Debug, Default)]
pub(super) struct Dial(AtomicU64);

impl Dial {
    pub(super) fn read(&self) -> Reading {
        let word = self.0.load(Ordering::Acquire);
        Reading {
            share: (word & ((1 << SHARE_BITS) - 1)) as u32,
            step: (word >> SHARE_BITS) as u32,
            is_in_play: word & IN_PLAY != 0,
            is_mirrored: word & MIRRORED != 0,
        }
    }

    /// The candidate gets copies, and nothing else.
    pub(super) fn mirror(&self, step: u32) {
        self.0.store(u64::from(step) << SHARE_BITS | MIRRORED, Ordering::Release);
    }

    pub(super) fn set(&self, share: Percent, step: u32, is_in_play: bool) {
        let flag = if is_in_play { IN_PLAY } else { 0 };
        let word = u64::from(share.millionths()) | u64::from(step) << SHARE_BITS | flag;
        self.0.store(word, Ordering::Release);
    }
}

thread_local! {
    static SHARD: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The part that this thread counts in.
pub(super) fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.with(|shard| {
        shard.get().unwrap_or_else(|| {
            let mine = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
            shard.set(Some(mine));
            mine
        })
    })
}

/// 2^64 divided by the golden ratio: multiples of it are spread as evenly as any sequence's (Weyl; Knuth, TAOCP 3, 6.4).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// After so many turns the sequence begins elsewhere, so that nobody learns who is next.
const RUN: u64 = 4_096;

/// Numbers to deal requests by: each stretch of them is spread evenly, so that a share of 10 % is 1,000 of 10,000 requests but
/// for a few, and where a stretch begins is left to chance. Nothing that a request is like has a part in it.
#[derive(Debug)]
pub(super) struct Turns {
    seed: u64,
    turns: [Padded; SHARDS],
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded(AtomicU64);

impl Turns {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, turns: std::array::from_fn(|_| Padded::default()) }
    }

    /// The next number; all 64 bits are used.
    pub(super) fn next(&self) -> u64 {
        let shard = shard();
        let Some(Padded(turns)) = self.turns.get(shard) else { return 0 };
        let turn = turns.fetch_add(1, Ordering::Relaxed);
        let start = mix(self.seed ^ ((turn / RUN) << 8) ^ shard as u64);
        start.wrapping_add(turn.wrapping_mul(GOLDEN))
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014).
pub(super) fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_add(GOLDEN);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Whether a number belongs to the candidate. The same number stays with the candidate while the share grows.
pub(super) fn is_candidates(number: u64, share: u32) -> bool {
    let millionth = (u128::from(number) * u128::from(Percent::ALL.millionths())) >> 64;
    (millionth as u32) < share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read() {
        let dial = Dial::default();
        assert_eq!(dial.read(), Reading::default());
        for (share, step, is_in_play) in
            [(0, 1, true), (1_000_000, u32::MAX, true), (5_000, 7, false)]
        {
            let percent = format!("{}%", f64::from(share) / 1e4).parse().unwrap();
            dial.set(percent, step, is_in_play);
            let expected = Reading { share, step, is_in_play, is_mirrored: false };
            assert_eq!(dial.read(), expected);
        }
        dial.mirror(u32::MAX);
        let expected = Reading { step: u32::MAX, is_mirrored: true, ..Reading::default() };
        assert_eq!(dial.read(), expected);
    }

    #[test]
    fn shares_are_exact_over_any_stretch() {
        for seed in 0..20 {
            let turns = Turns::new(seed);
            let numbers: Vec<u64> = (0..40_000).map(|_| turns.next()).collect();
            for share in [1_000, 10_000, 100_000, 333_333, 500_000, 990_000] {
                for stretch in numbers.chunks(10_000) {
                    let n = stretch.iter().filter(|n| is_candidates(**n, share)).count();
                    let off = (n as f64 / 10_000.0 - f64::from(share) / 1e6).abs();
                    assert!(off < 0.002, "seed {seed}, {share}: {n}");
                }
            }
        }
    }

    #[test]
    fn nobody_and_everybody() {
        for number in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!is_candidates(number, 0) && is_candidates(number, 1_000_000), "{number}");
        }
    }

    #[test]
    fn who_has_the_candidate_keeps_it_while_the_share_grows() {
        for number in (0..1_000).map(mix) {
            let first =
                (0..=1_000_000).step_by(1_000).position(|share| is_candidates(number, share));
            let has = (0..=1_000_000).step_by(1_000).skip(first.unwrap());
            assert!(has.into_iter().all(|share| is_candidates(number, share)));
        }
    }
}
