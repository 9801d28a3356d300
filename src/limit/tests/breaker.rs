use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fastrand::Rng;

use crate::{
    limit::{Breaker, BreakerConfig, BreakerState, Failed, Pass, Probe},
    types::ClientNetwork,
};

const CONFIG: fn() -> BreakerConfig = || BreakerConfig {
    failure_rate: "50%".parse().unwrap(),
    min_requests: 20,
    window: Duration::from_secs(10),
    open: Duration::from_secs(5),
    half_open_requests: 3,
    client_share: "25%".parse().unwrap(),
};

/// A client whose network is not known.
const UNKNOWN: u32 = u32::MAX;

fn network(n: u32) -> Option<ClientNetwork> {
    (n != UNKNOWN).then(|| ClientNetwork::of(IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0000 + n))))
}

/// A breaker, a clock, and what it has told.
struct Bench {
    breaker: Arc<Breaker>,
    now: Instant,
    told: Arc<Mutex<Vec<BreakerState>>>,
}

impl Bench {
    fn new(config: BreakerConfig) -> Self {
        let (told, now) = (Arc::default(), Instant::now());
        let hears = Arc::clone(&told);
        let watcher = Box::new(move |state| {
            let told: &Mutex<Vec<_>> = &hears;
            told.lock().unwrap().push(state);
        });
        Self { breaker: Breaker::new(config, now, watcher), now, told }
    }

    fn later(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn ask(&self, client: u32, outcome: Result<(), Failed>) {
        match self.breaker.pass(network(client), self.now).unwrap() {
            Pass::Free(spell) => self.breaker.record(outcome, spell, self.now),
            Pass::Probe(probe) => probe.ended(outcome, self.now),
        }
    }

    fn fails_for(&self, client: u32) {
        self.ask(client, Err(Failed::For(network(client))));
    }

    fn probe(&self, client: u32) -> Option<Probe> {
        match self.breaker.pass(network(client), self.now) {
            Ok(Pass::Probe(probe)) => Some(probe),
            Ok(Pass::Free(_)) => panic!("it is closed"),
            Err(_) => None,
        }
    }

    fn open(config: BreakerConfig) -> Self {
        let bench = Self::new(config);
        for _ in 0..20 {
            if bench.breaker.state() == BreakerState::Closed {
                bench.ask(0, Err(Failed::ForAnybody));
            }
        }
        assert_eq!(bench.breaker.state(), BreakerState::Open);
        bench
    }

    fn half_open() -> Self {
        let mut bench = Self::open(CONFIG());
        bench.later(5_000);
        bench
    }
}

#[test]
fn it_opens_at_the_rate_and_not_before_enough_requests() {
    let bench = Bench::new(CONFIG());
    for client in 0..19 {
        bench.fails_for(client);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed, "19 say nothing");
    bench.fails_for(19);
    assert_eq!(bench.breaker.state(), BreakerState::Open);
    assert_eq!(*bench.told.lock().unwrap(), [BreakerState::Open]);

    let mut bench = Bench::new(CONFIG());
    for client in 0..200 {
        bench.ask(client, Ok(()));
        bench.ask(client, Ok(()));
        bench.fails_for(client);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed, "a third fails");
    // The window goes on: what was good is forgotten.
    bench.later(10_000);
    for client in 0..20 {
        bench.fails_for(client);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Open);
}

#[test]
fn open_it_says_how_long_and_then_lets_few_through() {
    let mut bench = Bench::open(CONFIG());
    bench.later(1_000);
    let remaining = bench.breaker.pass(network(1), bench.now).unwrap_err().remaining;
    assert_eq!(remaining, Duration::from_secs(4));
    bench.later(4_000);
    let probes: Vec<_> = (1..10).filter_map(|client| bench.probe(client)).collect();
    assert_eq!(probes.len(), 3);
    for probe in probes {
        assert_eq!(bench.breaker.state(), BreakerState::HalfOpen);
        probe.ended(Ok(()), bench.now);
    }
    let told = [BreakerState::Open, BreakerState::HalfOpen, BreakerState::Closed];
    assert_eq!(*bench.told.lock().unwrap(), told);
    assert_eq!(told.map(|state| bench.breaker.entered(state)), [1; 3]);
    // What failed before is forgotten.
    bench.fails_for(1);
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
}

#[test]
fn a_probe_that_is_lost_gives_its_place_back() {
    let bench = Bench::half_open();
    for first in [1, 11, 21] {
        let probes: Vec<_> = (first..first + 10).filter_map(|client| bench.probe(client)).collect();
        assert_eq!(probes.len(), 3);
    }
    assert_eq!(bench.breaker.state(), BreakerState::HalfOpen);
    // Who left does not take the place again and again, but has it in the next round.
    assert!(bench.probe(1).is_none());
    let mut bench = bench;
    bench.later(5_000);
    assert!(bench.probe(1).is_some());
}

#[test]
fn probes_that_hang_do_not_keep_it_half_open() {
    let mut bench = Bench::half_open();
    let hanging: Vec<_> = (1..4).map(|client| bench.probe(client).unwrap()).collect();
    assert!(bench.probe(4).is_none());
    bench.later(5_000);
    for client in 4..7 {
        bench.probe(client).unwrap().ended(Ok(()), bench.now);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
    for probe in hanging {
        probe.ended(Err(Failed::ForAnybody), bench.now);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed, "they are of an old spell");
}

#[test]
fn one_slow_probe_a_round_does_not_keep_it_half_open() {
    let mut bench = Bench::half_open();
    let slow = bench.probe(7).unwrap();
    for client in 1..3 {
        bench.probe(client).unwrap().ended(Ok(()), bench.now);
    }
    assert!(bench.probe(3).is_none(), "the last place is taken");
    bench.later(5_000);
    assert!(bench.probe(7).is_none(), "it has one that hangs");
    bench.probe(3).unwrap().ended(Ok(()), bench.now);
    assert_eq!(bench.breaker.state(), BreakerState::Closed, "two of the round before count");
    drop(slow);

    // Answers that take longer than a round are as good.
    let mut bench = Bench::half_open();
    for client in 0..3 {
        let slow = bench.probe(client).unwrap();
        bench.later(6_000);
        // The round is over, and the next begins.
        drop(bench.probe(100 + client).unwrap());
        slow.ended(Ok(()), bench.now);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
}

#[test]
fn a_client_network_has_one_place_in_a_round() {
    let bench = Bench::half_open();
    let first = bench.probe(7).unwrap();
    assert!(bench.probe(7).is_none());
    let second = bench.probe(8).unwrap();
    // One alone must be able to close it.
    first.ended(Ok(()), bench.now);
    bench.probe(7).unwrap().ended(Ok(()), bench.now);
    second.ended(Ok(()), bench.now);
    assert_eq!(bench.breaker.state(), BreakerState::Closed);

    let mut trusting =
        Bench::open(BreakerConfig { client_share: "100%".parse().unwrap(), ..CONFIG() });
    trusting.later(5_000);
    let probes: Vec<_> = (0..5).filter_map(|_| trusting.probe(7)).collect();
    assert_eq!(probes.len(), 3);
}

#[test]
fn fewer_half_open_requests_than_went_well_still_let_one_ask() {
    let bench = Bench::half_open();
    for client in 1..3 {
        bench.probe(client).unwrap().ended(Ok(()), bench.now);
    }
    bench.breaker.configure(BreakerConfig { half_open_requests: 1, ..CONFIG() });
    bench.probe(3).unwrap().ended(Ok(()), bench.now);
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
}

#[test]
fn what_began_before_it_opened_says_nothing_when_it_has_closed() {
    let mut bench = Bench::new(CONFIG());
    let before = bench.breaker.spell();
    for _ in 0..20 {
        bench.ask(0, Err(Failed::ForAnybody));
    }
    assert_eq!(bench.breaker.state(), BreakerState::Open);
    let while_open = bench.breaker.spell();
    bench.later(5_000);
    for client in 1..4 {
        bench.probe(client).unwrap().ended(Ok(()), bench.now);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
    for spell in [before, while_open] {
        for _ in 0..50 {
            bench.breaker.record(Err(Failed::ForAnybody), spell, bench.now);
        }
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed, "all of it was slow to fail");
    for _ in 0..20 {
        bench.ask(0, Err(Failed::ForAnybody));
    }
    assert_eq!(bench.breaker.state(), BreakerState::Open);
}

#[test]
fn one_client_network_opens_nothing_by_what_fails_for_it() {
    let mut bench = Bench::new(CONFIG());
    for _ in 0..2_000 {
        bench.fails_for(7);
        bench.later(10);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed, "by night, alone");
    for client in 100..2_000 {
        bench.ask(client, Ok(()));
        for _ in 0..20 {
            bench.fails_for(7);
        }
        bench.later(10);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed, "by day, among others");
    // Failures that no request is the cause of are another matter.
    bench.later(10_000);
    for _ in 0..20 {
        bench.ask(7, Err(Failed::ForAnybody));
    }
    assert_eq!(bench.breaker.state(), BreakerState::Open);
}

#[test]
fn the_cap_of_a_client_network_holds_over_every_window() {
    // Twice half of ten would be enough.
    let config = BreakerConfig { client_share: "50%".parse().unwrap(), ..CONFIG() };
    for offset in 0..20 {
        let mut bench = Bench::new(config);
        bench.later(offset * 500);
        for _ in 0..6 {
            for _ in 0..20 {
                bench.fails_for(7);
            }
            bench.later(1_500);
        }
        assert_eq!(bench.breaker.state(), BreakerState::Closed, "at {offset}");
        // Its part is all that it has: another's failures open it.
        bench.later(10_000);
        for client in [7, 8] {
            for _ in 0..20 {
                if bench.breaker.state() == BreakerState::Closed {
                    bench.fails_for(client);
                }
            }
        }
        assert_eq!(bench.breaker.state(), BreakerState::Open, "at {offset}");
    }
}

#[test]
fn the_part_of_a_client_network_shrinks_with_what_goes_well() {
    let mut bench = Bench::new(CONFIG());
    for client in 100..1_100 {
        bench.ask(client, Ok(()));
    }
    bench.later(9_000);
    for _ in 0..1_000 {
        bench.fails_for(7);
    }
    // The good ones leave the window, and 250 failures are more than half of what is in it.
    bench.later(2_000);
    bench.fails_for(7);
    bench.fails_for(8);
    assert_eq!(bench.breaker.state(), BreakerState::Closed);
    for client in 9..20 {
        if bench.breaker.state() == BreakerState::Closed {
            bench.fails_for(client);
        }
    }
    assert_eq!(bench.breaker.state(), BreakerState::Open, "several are another matter");
}

#[test]
fn no_client_network_alone_ever_opens_it() {
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let config = BreakerConfig {
            failure_rate: format!("{}%", rng.u32(5..=100)).parse().unwrap(),
            client_share: format!("{}%", rng.u32(1..=90)).parse().unwrap(),
            // A part of one is none.
            min_requests: rng.u32(50..100),
            window: Duration::from_millis(rng.u64(1_000..20_000)),
            ..CONFIG()
        };
        let mut bench = Bench::new(config);
        let (mut others, mut pace) = (0, 50);
        for _ in 0..5_000 {
            if rng.u32(..200) == 0 {
                others = rng.u32(..5);
                pace = rng.u64(1..400);
            }
            bench.later(rng.u64(..pace));
            for _ in 0..others {
                bench.ask(rng.u32(100..1_000), Ok(()));
            }
            bench.fails_for(7);
            assert_eq!(bench.breaker.state(), BreakerState::Closed, "seed {seed}: {config:?}");
        }
    }
}

#[test]
fn one_client_network_does_not_keep_it_open() {
    let bench = Bench::half_open();
    bench.probe(7).unwrap().ended(Err(Failed::For(network(7))), bench.now);
    assert_eq!(bench.breaker.state(), BreakerState::HalfOpen);
    assert!(bench.probe(7).is_none(), "it has had its try");
    for client in 1..4 {
        bench.probe(client).unwrap().ended(Ok(()), bench.now);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Closed);

    let bench = Bench::half_open();
    for client in [7, 8] {
        bench.probe(client).unwrap().ended(Err(Failed::For(network(client))), bench.now);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Open, "two are no accident");
}

#[test]
fn without_a_cap_one_client_is_enough() {
    let bench = Bench::new(BreakerConfig { client_share: "100%".parse().unwrap(), ..CONFIG() });
    for _ in 0..20 {
        bench.fails_for(7);
    }
    assert_eq!(bench.breaker.state(), BreakerState::Open);
}

#[test]
fn a_long_run_keeps_to_its_states() {
    use BreakerState::{Closed, HalfOpen, Open};
    let mut seen = [0_u64; 3];
    for seed in 0..100 {
        let mut rng = Rng::with_seed(seed);
        let config = BreakerConfig {
            min_requests: rng.u32(1..40),
            half_open_requests: rng.u32(1..6),
            open: Duration::from_millis(rng.u64(100..3_000)),
            ..CONFIG()
        };
        let mut bench = Bench::new(config);
        let mut under_way: Vec<Pass> = Vec::new();
        let mut is_down = false;
        let mut opened_at = bench.now;
        for _ in 0..4_000 {
            bench.later(rng.u64(..20));
            is_down ^= rng.u32(..300) == 0;
            let before = bench.breaker.state();
            let client = rng.u32(..30);
            if let Ok(pass) = bench.breaker.pass(network(client), bench.now) {
                assert!(
                    before != Open || bench.now >= opened_at + config.open,
                    "a request passed an open breaker"
                );
                under_way.push(pass);
            }
            while !under_way.is_empty() && rng.bool() {
                let pass = under_way.swap_remove(rng.usize(..under_way.len()));
                let failed =
                    if rng.bool() { Failed::ForAnybody } else { Failed::For(network(client)) };
                let outcome = if is_down && rng.u32(..10) > 0 { Err(failed) } else { Ok(()) };
                match pass {
                    _ if rng.u32(..10) == 0 => {}
                    Pass::Free(spell) => bench.breaker.record(outcome, spell, bench.now),
                    Pass::Probe(probe) => probe.ended(outcome, bench.now),
                }
            }
            let mut told = bench.told.lock().unwrap();
            let mut from = before;
            for to in told.drain(..) {
                assert!(
                    matches!(
                        (from, to),
                        (Closed | HalfOpen, Open) | (Open, HalfOpen) | (HalfOpen, Closed)
                    ),
                    "{from:?} to {to:?}"
                );
                seen[to as usize] += 1;
                if to == Open {
                    opened_at = bench.now;
                }
                from = to;
            }
            assert_eq!(bench.breaker.state(), from, "what is told is what holds");
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}
