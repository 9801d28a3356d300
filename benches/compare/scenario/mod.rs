//! What a proxy makes of endpoints that fail, and of more work than they can do.
//!
//! Each phase starts the proxy and its endpoints anew, so that none inherits what the one before has learned.

mod endpoint;

use std::{path::Path, time::Duration};

use anyhow::Result;
use serde::Serialize;

use self::endpoint::{Endpoint, Mode};
use crate::{
    contestants::Contestant,
    load::{Load, Outcome, Pace, Protocol},
    measure::Meter,
    options::Series,
    series::Bench,
};

/// Requests a second over endpoints that fail.
const FAILURES_RATE: f64 = 200.0;
/// After this, nothing may fail any more.
const EARLY: Duration = Duration::from_secs(2);
/// What an endpoint of the overload can do: 4 hands, 4 ms a request.
const CAPACITY: f64 = 1_000.0;
const HANDS: usize = 4;
const WORK: Duration = Duration::from_millis(4);
/// Connections that bring the overload.
const CROWD: u32 = 256;

/// What happens to the endpoints, of which there are five.
#[derive(Clone, Copy, Debug)]
enum Blow {
    None,
    Killed,
    Hung,
    Resetting,
    KilledAndHung,
}

impl Blow {
    const ALL: [Self; 5] =
        [Self::None, Self::Killed, Self::Hung, Self::Resetting, Self::KilledAndHung];

    fn title(self) -> &'static str {
        match self {
            Self::None => "all five good",
            Self::Killed => "one killed",
            Self::Hung => "one hung",
            Self::Resetting => "one resets",
            Self::KilledAndHung => "one killed, one hung",
        }
    }

    fn fall_on(self, endpoints: &mut [Endpoint]) {
        match self {
            Self::None => {}
            Self::Killed => endpoints[0].kill(),
            Self::Hung => endpoints[0].set(Mode::Hung),
            Self::Resetting => endpoints[0].set(Mode::Resetting),
            Self::KilledAndHung => {
                endpoints[0].kill();
                endpoints[1].set(Mode::Hung);
            }
        }
    }
}

/// One phase of one contestant.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) title: String,
    pub(crate) contestant: Contestant,
    pub(crate) offered_per_second: f64,
    pub(crate) answered_per_second: f64,
    /// In the first two seconds.
    pub(crate) failed_early: u64,
    pub(crate) failed_later: u64,
    /// Of the answers that came.
    pub(crate) p95_ms: f64,
    /// Requests that reached an endpoint, in parts of those that were sent.
    pub(crate) amplification: f64,
    pub(crate) memory_mib: f64,
    pub(crate) failure: Option<String>,
}

/// Runs a scenario for all contestants.
pub(crate) async fn run(bench: &Bench<'_>, series: Series, folder: &Path) -> Result<Vec<Phase>> {
    let mut phases = Vec::new();
    match series {
        Series::Failures => {
            for blow in Blow::ALL {
                for contestant in bench.options.contestants(series) {
                    phases.push(failures(bench, contestant, blow, folder).await?);
                }
            }
        }
        Series::Overload => {
            for times in [0.8, 3.0] {
                for contestant in bench.options.contestants(series) {
                    phases.push(overload(bench, contestant, times, folder).await?);
                }
            }
        }
        _ => {}
    }
    Ok(phases)
}

async fn failures(
    bench: &Bench<'_>,
    contestant: Contestant,
    blow: Blow,
    folder: &Path,
) -> Result<Phase> {
    let mut endpoints = (0..5)
        .map(|_| Endpoint::start(64, Duration::from_millis(1), bench.body_bytes()))
        .collect::<Result<Vec<_>>>()?;
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    let running = bench.start(contestant, Series::Failures, folder, &addresses).await?;
    let meter = Meter::new(running.process(), bench.cores);
    let load = |window: Duration| Load {
        window,
        ..paced(running.address, FAILURES_RATE, bench.options.concurrency)
    };
    // It learns that all are well, and its pools fill.
    load(Duration::from_secs(2)).run(&meter).await?;
    let asked = |endpoints: &[Endpoint]| endpoints.iter().map(Endpoint::asked).sum::<u64>();
    let before = asked(&endpoints);
    blow.fall_on(&mut endpoints);
    let early = load(EARLY).run(&meter).await?;
    let later = load(bench.options.window().max(EARLY)).run(&meter).await?;
    let sent = early.answered + early.failed + later.answered + later.failed;
    let phase = Phase {
        amplification: (asked(&endpoints) - before) as f64 / (sent as f64).max(1.0),
        failed_early: early.failed,
        ..Phase::of(blow.title().to_owned(), contestant, FAILURES_RATE, &later)
    };
    phase.progress(Series::Failures);
    Ok(phase)
}

async fn overload(
    bench: &Bench<'_>,
    contestant: Contestant,
    times: f64,
    folder: &Path,
) -> Result<Phase> {
    let endpoint = Endpoint::start(HANDS, WORK, bench.body_bytes())?;
    let running = bench.start(contestant, Series::Overload, folder, &[endpoint.address]).await?;
    let meter = Meter::new(running.process(), bench.cores);
    let load = Load {
        warm_up: Duration::from_secs(2),
        window: bench.options.window().max(Duration::from_secs(4)),
        ..paced(running.address, CAPACITY * times, CROWD)
    };
    let before = endpoint.asked();
    let outcome = load.run(&meter).await?;
    let sent = CAPACITY * times * (load.warm_up + load.window).as_secs_f64();
    let phase = Phase {
        amplification: (endpoint.asked() - before) as f64 / sent,
        ..Phase::of(
            format!("{:.0} % of what it can do", times * 100.0),
            contestant,
            CAPACITY * times,
            &outcome,
        )
    };
    phase.progress(Series::Overload);
    Ok(phase)
}

fn paced(target: std::net::SocketAddr, per_second: f64, concurrency: u32) -> Load {
    Load {
        target,
        protocol: Protocol::Http1,
        trusted: None,
        pace: Pace::Open { per_second },
        concurrency,
        warm_up: Duration::ZERO,
        window: Duration::ZERO,
    }
}

impl Phase {
    fn of(title: String, contestant: Contestant, offered: f64, outcome: &Outcome) -> Self {
        Self {
            title,
            contestant,
            offered_per_second: offered,
            answered_per_second: outcome.answered as f64 / outcome.seconds,
            failed_early: 0,
            failed_later: outcome.failed,
            p95_ms: outcome.latency.value_at_quantile(0.95) as f64 / 1e6,
            amplification: 0.0,
            memory_mib: outcome.memory_mib,
            failure: outcome.failure.clone(),
        }
    }

    fn progress(&self, series: Series) {
        eprintln!(
            "{series:<10} {:<24} {:<8}  {:.0}/s, {} + {} failed, p95 {:.1} ms",
            self.title,
            self.contestant,
            self.answered_per_second,
            self.failed_early,
            self.failed_later,
            self.p95_ms
        );
    }
}
