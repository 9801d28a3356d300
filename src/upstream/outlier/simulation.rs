//! Seeded runs of an upstream with clients of several networks, with the invariants checked after each step.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::{Ejection, Judgement, Observed, OutlierConfig, Outliers, Seen, has_room, worse};
use crate::{
    telemetry::metrics::{EjectionReason, Fault},
    types::ClientNetwork,
};

/// How requests find their endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    RoundRobin,
    Random,
    /// All requests of a URL go to one endpoint.
    ByUrl,
}

/// An upstream as `set/ejecting.rs` and `endpoint.rs` play it, without sockets.
struct World {
    settings: OutlierConfig,
    upstream: Outliers,
    endpoints: Vec<(Observed, Ejection)>,
    window_began: Instant,
    now: Instant,
    turn: usize,
    random: fastrand::Rng,
    ejections: Vec<(usize, EjectionReason)>,
    lengths: HashMap<usize, Duration>,
    /// Passed by what is probed.
    is_well: Vec<bool>,
}

impl World {
    fn new(seed: u64, endpoints: usize, settings: OutlierConfig) -> Self {
        let upstream = Outliers::default();
        upstream.configure(Some(&settings));
        let start = Instant::now();
        Self {
            settings,
            upstream,
            endpoints: (0..endpoints).map(|_| Default::default()).collect(),
            window_began: start,
            now: start,
            turn: 0,
            random: fastrand::Rng::with_seed(seed),
            ejections: Vec::new(),
            lengths: HashMap::new(),
            is_well: vec![true; endpoints],
        }
    }

    fn pick(&mut self, way: Way, url: usize) -> usize {
        let serving: Vec<usize> = (0..self.endpoints.len())
            .filter(|index| self.endpoints[*index].1.out().is_none())
            .collect();
        self.turn += 1;
        let place = match way {
            Way::RoundRobin => self.turn,
            Way::Random => self.random.usize(..),
            Way::ByUrl => url,
        };
        serving[place % serving.len()]
    }

    /// A try at an endpoint. Time passes.
    fn tried(&mut self, index: usize, outcome: Result<(), Fault>, network: ClientNetwork) {
        self.now += Duration::from_millis(self.random.u64(1..20));
        let (observed, ejection) = &self.endpoints[index];
        let is_in = ejection.out().is_none();
        let judgement = || observed.judge(&self.upstream, outcome, Some(network));
        if is_in && judgement() == Judgement::Fails {
            self.eject(index, EjectionReason::ConsecutiveFailures);
        }
        self.tick();
        self.check();
    }

    fn tick(&mut self) {
        let (now, settings) = (self.now, self.settings.clone());
        for (index, (observed, ejection)) in self.endpoints.iter_mut().enumerate() {
            if let Some(number) = ejection.begin_probe(false, now) {
                let out = ejection.out().unwrap();
                assert!(now >= out.until, "a probe before the time was over");
                if ejection.probed(number, self.is_well[index], Duration::from_secs(5), now) {
                    observed.forget();
                }
            }
        }
        if now - self.window_began < settings.interval {
            return;
        }
        let window = self.upstream.window();
        let serving: Vec<usize> = (0..self.endpoints.len())
            .filter(|index| self.endpoints[*index].1.out().is_none())
            .collect();
        let seen: Vec<Seen> =
            serving.iter().map(|index| self.endpoints[*index].0.seen(window)).collect();
        let found = worse(&seen, &settings, self.upstream.networks());
        self.upstream.turn();
        self.window_began = now;
        for (place, reason) in found {
            self.eject(serving[place], reason);
        }
    }

    fn out(&self) -> usize {
        self.endpoints.iter().filter(|(_, ejection)| ejection.out().is_some()).count()
    }

    fn eject(&mut self, index: usize, reason: EjectionReason) {
        let (total, out) = (self.endpoints.len(), self.out());
        if !has_room(total, out, total - out - 1, self.settings.max_ejected) {
            return;
        }
        let length = self.endpoints[index].1.eject(reason, &self.settings, self.now);
        if let Some(before) = self.lengths.insert(index, length) {
            // It doubles, or has been forgiven in part.
            assert!(length <= before * 2, "{length:?} after {before:?}");
        }
        assert!(length >= self.settings.ejection && length <= self.settings.max_ejection);
        self.ejections.push((index, reason));
    }

    fn check(&self) {
        let (total, out) = (self.endpoints.len(), self.out());
        // The default share is a half.
        let most = (total / 2).max(usize::from(total > 1));
        assert!(out <= most && out < total, "{out} of {total}");
    }
}

fn network(number: u32) -> ClientNetwork {
    ClientNetwork::of(Ipv4Addr::from_bits(0x0a00_0000 + number).into())
}

const FAULTS: [Fault; 4] = [Fault::Reset, Fault::Timeout, Fault::CutAnswer, Fault::ServerError];
const WAYS: [Way; 3] = [Way::RoundRobin, Way::Random, Way::ByUrl];

/// Quick, so that runs are short.
fn settings() -> OutlierConfig {
    OutlierConfig { interval: Duration::from_secs(2), min_requests: 20, ..OutlierConfig::default() }
}

/// A bot asks one URL that always fails, in the same way. `others` networks ask for what works; of ten requests `share`
/// are the bot's.
fn bot_run(seed: u64, others: u32, share: f64, way: Way, fault: Fault) -> World {
    let mut world = World::new(seed, 2 + (seed % 5) as usize, settings());
    let bot = network(0);
    for _ in 0..1_500 {
        let is_bot = others == 0 || world.random.f64() < share;
        if is_bot {
            let index = world.pick(way, 7);
            world.tried(index, Err(fault), bot);
        } else {
            let (who, url) = (world.random.u32(1..=others), world.random.usize(..100));
            let index = world.pick(way, url);
            world.tried(index, Ok(()), network(who));
        }
    }
    world
}

#[test]
fn a_bot_ejects_nothing_alone_or_among_others() {
    for seed in 0..1_000 {
        let way = WAYS[seed as usize % 3];
        let fault = FAULTS[(seed / 3) as usize % 4];
        let others = [0, 1, 2, 5, 40][(seed / 12) as usize % 5];
        let share = [0.02, 0.3, 0.9][(seed / 60) as usize % 3];
        let world = bot_run(seed, others, share, way, fault);
        assert_eq!(world.ejections, [], "seed {seed}: {way:?} {fault:?} {others} {share}");
    }
}

#[test]
fn an_endpoint_that_fails_each_try_is_ejected_soon_and_stays_out_until_a_probe_passes() {
    for seed in 0..1_000 {
        let way = WAYS[seed as usize % 3];
        let fault = [Fault::Connect, Fault::Reset, Fault::Timeout, Fault::CutAnswer]
            [(seed / 3) as usize % 4];
        let clients = [1, 2, 10][(seed / 12) as usize % 3];
        let mut world = World::new(seed, 3 + (seed % 4) as usize, settings());
        let mut failures = 0;
        for step in 0.. {
            assert!(step < 3_000, "seed {seed}: never ejected");
            let (who, url) = (world.random.u32(0..clients), world.random.usize(..100));
            let index = world.pick(way, url);
            let is_sick = index == 1 && step > 100;
            let outcome = if is_sick { Err(fault) } else { Ok(()) };
            failures += usize::from(is_sick);
            world.tried(index, outcome, network(who));
            if !world.ejections.is_empty() {
                break;
            }
        }
        assert_eq!(world.ejections, [(1, EjectionReason::ConsecutiveFailures)], "seed {seed}");
        // Four where endpoints take turns. Else the same client may come, or the same endpoint be taken, several times in
        // a row by chance; until somebody else has been answered nothing speaks against this endpoint.
        let most = if way == Way::RoundRobin && clients == 1 { 4 } else { 12 };
        assert!(failures <= most, "seed {seed}: {failures} by {clients} {way:?}");
        world.is_well[1] = false;
        for _ in 0..2_000 {
            let index = world.pick(way, 3);
            assert_ne!(index, 1, "no probe has passed");
            world.tried(index, Ok(()), network(0));
        }
        world.is_well[1] = true;
        let back = (0..3_000).any(|_| {
            let index = world.pick(Way::RoundRobin, 0);
            world.tried(index, Ok(()), network(0));
            index == 1
        });
        assert!(back, "seed {seed}");
    }
}

#[test]
fn statuses_eject_by_comparison_only_and_only_who_is_worse() {
    for seed in 0..200 {
        let clients = [1, 3, 20][seed as usize % 3];
        let mut world = World::new(seed, 4, settings());
        for _ in 0..2_000 {
            let index = world.pick(Way::RoundRobin, 0);
            let rate = if index == 2 { 0.6 } else { 0.1 };
            let is_bad = world.random.f64() < rate;
            let outcome = if is_bad { Err(Fault::ServerError) } else { Ok(()) };
            let who = network(world.random.u32(0..clients));
            world.tried(index, outcome, who);
        }
        assert_eq!(world.ejections.first(), Some(&(2, EjectionReason::FailureRate)), "{seed}");
        assert!(world.ejections.iter().all(|(index, _)| *index == 2), "{seed}");
    }
}

/// After a time in which all is well, a share of all tries fails, everywhere, in one way.
fn common_trouble(seed: u64, share: f64, clients: u32, way: Way, fault: Fault) -> World {
    let mut world = World::new(seed, 2 + (seed % 4) as usize, settings());
    for step in 0..2_000 {
        let url = world.random.usize(..100);
        let index = world.pick(way, url);
        let is_bad = step >= 300 && world.random.f64() < share;
        let outcome = if is_bad { Err(fault) } else { Ok(()) };
        let who = network(world.random.u32(0..clients));
        world.tried(index, outcome, who);
    }
    world
}

#[test]
fn where_all_fail_alike_nobody_is_worse() {
    let mut ejections = Vec::new();
    let runs = 600;
    for seed in 0..runs {
        let way = WAYS[seed as usize % 3];
        let fault = Fault::ALL[(seed / 3) as usize % Fault::COUNT];
        let clients = [1, 2, 5, 40][(seed / 18) as usize % 4];
        let share = [0.2, 0.5, 0.9][(seed / 72) as usize % 3];
        let world = common_trouble(seed, share, clients, way, fault);
        ejections.extend(world.ejections.iter().map(|it| (seed, share, clients, way, fault, *it)));
    }
    // When the trouble begins one endpoint may have had only failures while, by chance, the others had none.
    // After that nothing happens, however long it takes.
    assert!(ejections.len() as u64 * 8 <= runs, "{} of {runs}: {ejections:?}", ejections.len());
}

/// Chaos: endpoints fall ill and recover, probes pass or fail, clients come and go. The limits hold after each step.
#[test]
fn limits_hold_whatever_happens() {
    for seed in 0..200 {
        let mut settings = settings();
        settings.ejection = Duration::from_millis(100 * (1 + seed % 20));
        let mut world = World::new(seed, 1 + (seed % 8) as usize, settings);
        let mut is_sick = vec![false; world.endpoints.len()];
        for _ in 0..3_000 {
            if world.random.u32(0..50) == 0 {
                let index = world.random.usize(..is_sick.len());
                is_sick[index] = !is_sick[index];
                world.is_well[index] = !is_sick[index] || world.random.bool();
            }
            let way = WAYS[world.random.usize(0..3)];
            let url = world.random.usize(0..10);
            let index = world.pick(way, url);
            let outcome = if is_sick[index] {
                Err(Fault::ALL[world.random.usize(..Fault::COUNT)])
            } else {
                Ok(())
            };
            let who = network(world.random.u32(0..4));
            world.tried(index, outcome, who);
        }
    }
}

#[test]
fn a_slow_endpoint_is_found_by_its_median_and_not_by_one_client() {
    let mut settings = settings();
    settings.latency_factor = Some(3.0);
    for (clients, is_everybody, is_ejected) in
        [(1_u32, true, true), (10, true, true), (10, false, false), (2, true, false)]
    {
        let mut world = World::new(5, 3, settings.clone());
        for _ in 0..2_000 {
            let index = world.pick(Way::RoundRobin, 0);
            // One client asks more often than all others together.
            let who = if world.random.bool() { 0 } else { world.random.u32(0..clients) };
            let is_slow = index == 1 && (is_everybody || who == 0);
            let millis = if is_slow { 200 } else { 10 };
            let (observed, _) = &world.endpoints[index];
            let after = Duration::from_millis(millis);
            observed.answered_after(&world.upstream, after, Some(network(who)));
            world.tried(index, Ok(()), network(who));
        }
        let found = world.ejections.first().copied();
        let expected = is_ejected.then_some((1, EjectionReason::Latency));
        assert_eq!(found, expected, "{clients} {is_everybody}");
    }
}

#[test]
fn what_an_endpoint_took_long_ago_says_nothing_of_now() {
    let upstream = Outliers::default();
    upstream.configure(Some(&OutlierConfig { latency_factor: Some(3.0), ..settings() }));
    let observed = Observed::default();
    let answered_after = |millis: u64| {
        observed.answered_after(&upstream, Duration::from_millis(millis), Some(network(1)));
        observed.judge(&upstream, Ok(()), Some(network(1)));
        observed.seen(upstream.window()).median_micros().to_vec()
    };
    assert_eq!(answered_after(200), [200_000]);
    upstream.turn();
    assert_eq!(answered_after(1), [187_500], "its median goes on, a sixteenth of the way");
    upstream.turn();
    upstream.turn();
    assert_eq!(answered_after(1), [1_000]);
}
