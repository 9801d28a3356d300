//! Healthy rollouts: how often is a candidate that is as good as the stable taken back?

use std::f64::consts::TAU;

use fastrand::Rng;
use tidegate::rollout::analysis::{Outcomes, Settings, Sides};

use super::{
    traffic::{Latency, Moment, Traffic, binomial, pool},
    windows::FixedThreshold,
};

/// Requests of the candidate in one healthy rollout.
pub(crate) const LENGTH: u64 = 20_000;

/// What both sides have to go through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scenario {
    /// Both fail at one rate, all the time.
    Rate(f64),
    /// The candidate fails more often than this rate by half a percentage point, which is tolerated: the border of the
    /// null hypothesis.
    Border(f64),
    /// Weight steps of 1 %, 10 % and 50 %; around the beginning of the third, half of all requests fail for 20 s.
    Outage,
    /// Bursts of half a second, one in ten seconds, in which 30 % of all requests fail.
    Bursts,
    /// Times with a heavy tail, whose median goes up and down fourfold.
    Drift,
    /// Not what the analysis assumes: failures come in threes, from clients that stay on one side.
    Clusters,
}

impl Scenario {
    /// How it is called in the tables.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Rate(rate) => format!("both fail {} %", 100.0 * rate),
            Self::Border(rate) => {
                format!("stable {} %, candidate {} %", 100.0 * rate, 100.0 * rate + 0.5)
            }
            Self::Outage => "common outage over a weight step".into(),
            Self::Bursts => "correlated failures: common bursts".into(),
            Self::Drift => "heavy-tailed latency that drifts".into(),
            Self::Clusters => "failures in threes from sticky clients".into(),
        }
    }
}

/// How many of the rollouts were taken back: by the analysis, and by a fixed threshold.
pub(crate) fn taken_back(
    scenario: Scenario,
    settings: &Settings,
    runs: u64,
    seed: u64,
) -> (u64, u64) {
    let pool = if scenario == Scenario::Drift { pool(1.0, 0.05) } else { Vec::new() };
    let (mut ours, mut fixed) = (0, 0);
    for run in 0..runs {
        let (by_us, by_threshold) = run_once(scenario, settings, &pool, seed + run);
        ours += u64::from(by_us);
        fixed += u64::from(by_threshold);
    }
    (ours, fixed)
}

fn run_once(scenario: Scenario, settings: &Settings, pool: &[f64], seed: u64) -> (bool, bool) {
    let mut traffic = Traffic::new(settings, seed);
    let mut fixed = FixedThreshold::default();
    let mut dice = Rng::with_seed(!seed);
    let latency = |part: f64| {
        let median = 20_000.0 * f64::powf(2.0, (part * TAU).sin());
        Latency { pool, median, candidate: 1.0 }
    };
    if scenario == Scenario::Drift {
        traffic.warm_up(latency(0.0), 2_000);
    }
    let mut burst = 0_u32;
    while traffic.candidate_requests < LENGTH {
        match scenario {
            Scenario::Rate(rate) => traffic.batch(Moment::healthy(rate)),
            Scenario::Border(rate) => {
                traffic.batch(Moment { candidate: rate + 0.005, ..Moment::healthy(rate) });
            }
            Scenario::Outage => {
                let (step, share) = match traffic.candidate_requests {
                    0..200 => (1, 0.01),
                    200..4_200 => (2, 0.1),
                    _ => (3, 0.5),
                };
                let is_out = (4_100..9_000).contains(&traffic.candidate_requests);
                let rate = if is_out { 0.5 } else { 0.001 };
                traffic.batch(Moment { share, step, ..Moment::healthy(rate) });
            }
            Scenario::Bursts => {
                burst = if burst > 0 { burst - 1 } else { 10 * u32::from(dice.f64() < 0.005) };
                traffic.batch(Moment::healthy(if burst > 0 { 0.3 } else { 0.001 }));
            }
            Scenario::Drift => {
                let part = traffic.candidate_requests as f64 / LENGTH as f64;
                let latency = Some(latency(part));
                traffic.batch(Moment { latency, ..Moment::healthy(0.001) });
            }
            Scenario::Clusters => {
                traffic.observe(1, 0, clusters(&mut dice));
                traffic.tick();
            }
        }
        fixed.look(traffic.analysis.totals());
    }
    (traffic.is_bad(), fixed.is_bad())
}

/// 0.1 % of the requests fail, but three at a time: a client on one side asks three times in one interval.
fn clusters(dice: &mut Rng) -> Sides {
    let candidate = binomial(dice, 8, 0.1);
    let mut side = |clients: u32| {
        let failed = binomial(dice, clients, 0.001);
        Outcomes {
            successes: u64::from(3 * (clients - failed)),
            failures: u64::from(3 * failed),
            ..Outcomes::default()
        }
    };
    Sides { candidate: side(candidate), stable: side(8 - candidate) }
}
