use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use fastrand::Rng;

use crate::limit::{Adaptive, AdaptiveConfig};

const CONFIG: AdaptiveConfig = AdaptiveConfig {
    least: 4,
    most: 1_000,
    window: Duration::from_millis(250),
    tolerance: 0.25,
    probe_every: Duration::from_secs(30),
};

/// An origin that serves so many at once, each for `base` seconds on an average; the others wait there.
struct Origin {
    places: usize,
    base: f64,
}

/// What came of a run, its first part left out.
#[derive(Debug)]
struct Outcome {
    /// Of the origin's capacity.
    goodput: f64,
    /// Of what came.
    refused: f64,
    /// The limit at the end, and at its highest and lowest.
    limit: u32,
    limits: (u32, u32),
    /// The mean time of an answer, in parts of the base.
    slowdown: f64,
}

/// Requests come at random, `load` times the origin's capacity; `change` may alter the origin halfway.
fn run(seed: u64, origin: Origin, load: f64, change: impl Fn(&mut Origin)) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let mut origin = origin;
    let start = Instant::now();
    let adaptive = Adaptive::new(CONFIG, start);
    let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
    let (length, settled) = (120.0, 40.0);
    let mut limit = adaptive.limit();
    // When each place at the origin is free; when each request came and ends, in nanoseconds.
    let mut free: BinaryHeap<Reverse<u64>> = (0..origin.places).map(|_| Reverse(0)).collect();
    let mut ends: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
    let (mut came, mut refused, mut served, mut slowness) = (0_u64, 0_u64, 0_u64, 0.0);
    let (mut low, mut high) = (u32::MAX, 0);
    let mut now = 0.0;
    let mut has_changed = false;
    while now < length {
        let capacity = origin.places as f64 / origin.base;
        now += -(1.0 - rng.f64()).ln() / (capacity * load);
        if now > length / 2.0 && !has_changed {
            has_changed = true;
            change(&mut origin);
        }
        while let Some(Reverse((end, began))) =
            ends.peek().copied().filter(|e| e.0.0 as f64 / 1e9 <= now)
        {
            let in_flight = ends.len() as u32;
            ends.pop();
            let took = (end - began) as f64 / 1e9;
            if end as f64 / 1e9 > settled {
                served += 1;
                slowness += took / origin.base;
            }
            if let Some(new) =
                adaptive.observe(Duration::from_secs_f64(took), in_flight, at(end as f64 / 1e9))
            {
                assert!((CONFIG.least..=CONFIG.most).contains(&new));
                limit = new;
                if now > settled {
                    (low, high) = (low.min(limit), high.max(limit));
                }
            }
        }
        came += u64::from(now > settled);
        if ends.len() as u32 >= limit {
            refused += u64::from(now > settled);
            continue;
        }
        let service = origin.base * (0.5 + rng.f64());
        let place = free.pop().unwrap().0;
        let begin = (place as f64 / 1e9).max(now);
        let end = nanos(begin + service);
        free.push(Reverse(end));
        ends.push(Reverse((end, nanos(now))));
    }
    let capacity = origin.places as f64 / origin.base * (length - settled);
    Outcome {
        goodput: served as f64 / capacity,
        refused: refused as f64 / came as f64,
        limit,
        limits: (low, high),
        slowdown: slowness / served as f64,
    }
}

#[expect(clippy::cast_sign_loss, reason = "time goes on from 0")]
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[test]
fn at_three_times_the_load_the_limit_settles_near_capacity_and_goodput_stays() {
    for (places, base) in [(10, 0.02), (40, 0.05), (200, 0.1), (8, 1.0)] {
        for seed in 0..4 {
            let outcome = run(seed, Origin { places, base }, 3.0, |_| {});
            let capacity = places as f64;
            assert!(outcome.goodput > 0.9, "{places} × {base}: {outcome:?}");
            let limit = f64::from(outcome.limits.1);
            let most = 1.5 * capacity + 4.0 * capacity.sqrt();
            assert!(limit > capacity && limit < most, "{places} × {base}: {outcome:?}");
            assert!(outcome.slowdown < 2.2, "{places} × {base}: {outcome:?}");
        }
    }
}

#[test]
fn without_overload_nobody_is_refused() {
    for (places, base) in [(10, 0.02), (40, 0.05), (200, 0.1)] {
        for seed in 0..4 {
            let outcome = run(seed, Origin { places, base }, 0.6, |_| {});
            assert!(outcome.refused < 0.005, "{places} × {base}: {outcome:?}");
        }
    }
}

#[test]
fn an_origin_that_gets_slower_keeps_its_work() {
    // Twice the time for each, and so half the requests: the same number in flight.
    let slower = |origin: &mut Origin| origin.base *= 2.0;
    for seed in 0..4 {
        let outcome = run(seed, Origin { places: 40, base: 0.05 }, 3.0, slower);
        assert!(f64::from(outcome.limit) > 40.0, "{outcome:?}");
        // A third of the measured time at full speed, the rest at half of it, in units of the latter.
        assert!(outcome.goodput > 1.1, "{outcome:?}");
    }
}

#[test]
fn a_look_ends_by_answers_and_not_by_time_alone() {
    let start = Instant::now();
    let adaptive = Adaptive::new(CONFIG, start);
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let answers = |n: usize, in_flight: u32, now: Instant| -> Vec<u32> {
        let one = |_| adaptive.observe(Duration::from_secs(2), in_flight, now);
        (0..n).filter_map(one).collect()
    };
    assert_eq!(adaptive.limit(), 20);
    assert_eq!(answers(20, 20, at(2)), [5], "the limit is reached: it is looked");
    // Those who were in flight before go first, however long that takes; then answers of the lowered limit are looked at.
    assert!(answers(19, 20, at(60)).is_empty());
    assert_eq!(answers(1, 5, at(61)), [5]);
    assert!(answers(9, 5, at(120)).is_empty());
    assert_eq!(answers(1, 5, at(121)), [20]);
}
