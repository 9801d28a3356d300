//! The rounds of a series: every contestant once, then all again, so that what disturbs the machine meets all of them.
//! The median of the rounds counts; the report shows the spread too.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    certificate::Certificate,
    contestants::{Contestant, Running},
    cores::Cores,
    load::{Handshake, Load, Outcome, Pace, Protocol},
    measure::Meter,
    options::{Options, Series},
    origin::Origin,
    scenario::{self, Phase},
};

/// Part of what a proxy can do at which the added latency is measured.
const QUIET_SHARE: f64 = 0.3;
/// Part of what the slowest proxy can do that all get in the open loop.
const COMMON_SHARE: f64 = 0.5;
/// Requests a second over the endpoints of which one is slow.
const SLOW_RATE: f64 = 2_000.0;
/// Their delays.
const SLOW_DELAYS: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(1), Duration::from_millis(1)];

/// What all series share.
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) cores: Cores,
    folder: PathBuf,
    certificate: Certificate,
}

#[derive(Debug, Serialize)]
pub(crate) struct SeriesResult {
    pub(crate) series: Series,
    pub(crate) unit: &'static str,
    pub(crate) contestants: Vec<ContestantResult>,
    /// Of a scenario.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) phases: Vec<Phase>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ContestantResult {
    pub(crate) contestant: Contestant,
    /// Closed loop: as many as it can.
    pub(crate) full: Option<Full>,
    /// Open loop: the same rate for all.
    pub(crate) fixed: Option<Fixed>,
    /// Open loop: a small part of what it can do, and what it adds to the direct way then.
    pub(crate) quiet: Option<Quiet>,
    pub(crate) failed: u64,
    pub(crate) failures: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Full {
    pub(crate) per_second: Spread,
    pub(crate) cpu_seconds_per_10k: Spread,
    /// Cores that the proxy used: near 1 it was the bottleneck, as it should be.
    pub(crate) proxy_cores: Spread,
    pub(crate) load_core_busy: Spread,
    pub(crate) disturbed: Spread,
    pub(crate) memory_mib: Spread,
}

#[derive(Debug, Serialize)]
pub(crate) struct Fixed {
    pub(crate) rate: f64,
    pub(crate) p50_ms: Spread,
    pub(crate) p95_ms: Spread,
    pub(crate) p99_ms: Spread,
    pub(crate) cpu_seconds_per_10k: Spread,
    pub(crate) disturbed: Spread,
    pub(crate) memory_mib: Spread,
}

#[derive(Debug, Serialize)]
pub(crate) struct Quiet {
    pub(crate) rate: f64,
    pub(crate) p95_ms: Spread,
    pub(crate) direct_p95_ms: Spread,
    pub(crate) added_p95_ms: Spread,
    pub(crate) disturbed: Spread,
}

impl ContestantResult {
    /// The worst of what disturbed it, as a part of the time.
    pub(crate) fn disturbed(&self) -> f64 {
        let full = self.full.as_ref().map(|full| full.disturbed.median);
        let fixed = self.fixed.as_ref().map(|fixed| fixed.disturbed.median);
        let quiet = self.quiet.as_ref().map(|quiet| quiet.disturbed.median);
        [full, fixed, quiet].into_iter().flatten().fold(0.0, f64::max)
    }
}

/// Over the rounds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(&least), Some(&most)) = (values.first(), values.last()) else {
            return Self::default();
        };
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => f64::midpoint(values[middle - 1], values[middle]),
            _ => values[middle],
        };
        Self { median, least, most }
    }
}

/// One contestant of a running series, with the outcomes of its rounds.
struct Lane {
    running: Running,
    meter: Meter,
    full: Vec<Outcome>,
    fixed: Vec<Outcome>,
    quiet: Vec<(Outcome, Outcome)>,
}

impl<'a> Bench<'a> {
    /// Chooses cores and makes the certificate.
    pub(crate) fn new(options: &'a Options) -> Result<Self> {
        let folder = options.output.join("run");
        fs::create_dir_all(&folder)?;
        // The contestants run in it.
        let folder = folder.canonicalize()?;
        let certificate = Certificate::make(&folder)?;
        Ok(Self { options, cores: Cores::take(options.proxy_core)?, folder, certificate })
    }

    pub(crate) fn folder(&self) -> impl std::fmt::Display {
        self.folder.display()
    }

    pub(crate) async fn run(&self, series: Series) -> Result<SeriesResult> {
        let folder = self.folder.join(series.to_string());
        fs::create_dir_all(&folder)?;
        if series.is_scenario() {
            let phases = scenario::run(self, series, &folder).await?;
            return Ok(SeriesResult { series, unit: series.unit(), contestants: vec![], phases });
        }
        let origins = self.origins(series, &folder).await?;
        let mut lanes = self.lanes(series, &origins, &folder).await?;
        let rounds = self.options.rounds();
        let mut fixed_rate = SLOW_RATE;

        if !matches!(series, Series::Slow | Series::Even) {
            for round in 1..=rounds {
                for lane in &mut lanes {
                    let load = self.load(series, &lane.running, Pace::Closed);
                    let outcome = load.run(&lane.meter).await?;
                    let per_second = outcome.answered as f64 / outcome.seconds;
                    self.progress(series, "full", round, lane, &format!("{per_second:.0}/s"));
                    lane.full.push(outcome);
                }
            }
            let proxies = lanes.iter().filter(|lane| lane.running.contestant != Contestant::Direct);
            let slowest = proxies.map(Lane::capacity).fold(f64::INFINITY, f64::min);
            fixed_rate = (slowest * COMMON_SHARE / 100.0).floor().max(1.0) * 100.0;
        }
        if let Some(rate) = self.options.rate {
            fixed_rate = f64::from(rate);
        }

        let has_fixed = !series.is_handshakes() && series != Series::Logged;
        if has_fixed && fixed_rate.is_finite() {
            for round in 1..=rounds {
                for lane in &mut lanes {
                    let pace = Pace::Open { per_second: fixed_rate };
                    let outcome = self.load(series, &lane.running, pace).run(&lane.meter).await?;
                    let p95 = millis(&outcome.latency, 0.95);
                    let note = format!("{fixed_rate:.0}/s, p95 {p95:.3} ms");
                    self.progress(series, "fixed", round, lane, &note);
                    lane.fixed.push(outcome);
                }
            }
        }
        if series == Series::Plain {
            self.quiet_rounds(series, &mut lanes).await?;
        }
        let contestants = lanes.into_iter().map(|lane| lane.result(fixed_rate)).collect();
        Ok(SeriesResult { series, unit: series.unit(), contestants, phases: Vec::new() })
    }

    /// Each proxy at a part of what it can do, and right after it the direct way at the same rate.
    async fn quiet_rounds(&self, series: Series, lanes: &mut [Lane]) -> Result<()> {
        let Some(direct) =
            lanes.iter().position(|lane| lane.running.contestant == Contestant::Direct)
        else {
            return Ok(());
        };
        for round in 1..=self.options.rounds() {
            for at in (0..lanes.len()).filter(|at| *at != direct) {
                let pace = Pace::Open { per_second: lanes[at].quiet_rate() };
                let mut pair = Vec::new();
                for lane in [&lanes[at], &lanes[direct]] {
                    pair.push(self.load(series, &lane.running, pace).run(&lane.meter).await?);
                }
                let (direct, proxied) = (pair.pop(), pair.pop());
                let (proxied, direct) = proxied.zip(direct).context("two loads ran")?;
                let added = added_p95(&proxied, &direct);
                self.progress(
                    series,
                    "30 %",
                    round,
                    &lanes[at],
                    &format!("adds {added:.3} ms to p95"),
                );
                lanes[at].quiet.push((proxied, direct));
            }
        }
        Ok(())
    }

    async fn origins(&self, series: Series, folder: &Path) -> Result<Vec<Origin>> {
        let delays: &[Duration] = match series {
            Series::Slow => &SLOW_DELAYS,
            Series::Even => &SLOW_DELAYS[1..],
            _ => &[Duration::ZERO],
        };
        let mut origins = Vec::new();
        for (number, delay) in delays.iter().enumerate() {
            let name = format!("origin{number}");
            let bytes = self.options.body_bytes;
            origins.push(Origin::start(&name, self.cores.origin, folder, bytes, *delay).await?);
        }
        Ok(origins)
    }

    async fn lanes(&self, series: Series, origins: &[Origin], folder: &Path) -> Result<Vec<Lane>> {
        let endpoints: Vec<_> = origins.iter().map(|origin| origin.address).collect();
        let mut lanes = Vec::new();
        for contestant in self.options.contestants(series) {
            let running = self.start(contestant, series, folder, &endpoints).await?;
            let meter = Meter::new(running.process(), self.cores);
            lanes.push(Lane { running, meter, full: vec![], fixed: vec![], quiet: vec![] });
        }
        anyhow::ensure!(!lanes.is_empty(), "none of the contestants takes part in it");
        Ok(lanes)
    }

    /// Starts a contestant for a series.
    pub(crate) async fn start(
        &self,
        contestant: Contestant,
        series: Series,
        folder: &Path,
        endpoints: &[SocketAddr],
    ) -> Result<Running> {
        let certificate = series.is_tls().then_some(&self.certificate);
        contestant
            .start(folder, endpoints, certificate, series, self.cores.proxy)
            .await
            .with_context(|| format!("{contestant} does not start"))
    }

    /// Bytes of an origin's answer.
    pub(crate) fn body_bytes(&self) -> usize {
        self.options.body_bytes as usize
    }

    fn load(&self, series: Series, running: &Running, pace: Pace) -> Load {
        Load {
            target: running.address,
            protocol: match series {
                Series::Plain
                | Series::Logged
                | Series::Slow
                | Series::Even
                | Series::Failures
                | Series::Overload => Protocol::Http1,
                Series::Tls => Protocol::Http1Tls,
                Series::Http2 => Protocol::Http2,
                Series::Handshakes => Protocol::Handshake(Handshake::Full),
                Series::Resumed => Protocol::Handshake(Handshake::Resumed),
                Series::Hybrid => Protocol::Handshake(Handshake::Hybrid),
            },
            trusted: series.is_tls().then(|| self.certificate.der.clone()),
            pace,
            concurrency: self.options.concurrency,
            warm_up: self.options.warm_up(),
            window: self.options.window(),
        }
    }

    fn progress(&self, series: Series, what: &str, round: u32, lane: &Lane, note: &str) {
        let (rounds, name) = (self.options.rounds(), lane.running.contestant);
        eprintln!("{series:<10} {what:<5} round {round}/{rounds}  {name:<8}  {note}");
    }
}

impl Lane {
    /// Requests a second of the closed loop.
    fn capacity(&self) -> f64 {
        Spread::of(self.full.iter().map(|outcome| outcome.answered as f64 / outcome.seconds)).median
    }

    fn quiet_rate(&self) -> f64 {
        (self.capacity() * QUIET_SHARE / 10.0).floor().max(1.0) * 10.0
    }

    fn result(self, fixed_rate: f64) -> ContestantResult {
        let quiet_rate = self.quiet_rate();
        let Self { running, full, fixed, quiet, .. } = self;
        let all = || full.iter().chain(&fixed).chain(quiet.iter().map(|(proxied, _)| proxied));
        let failed = all().map(|outcome| outcome.failed).sum();
        let mut failures: Vec<String> =
            all().filter_map(|outcome| outcome.failure.clone()).collect();
        failures.sort_unstable();
        failures.dedup();
        let over = |outcomes: &[Outcome], value: &dyn Fn(&Outcome) -> f64| {
            Spread::of(outcomes.iter().map(value))
        };
        let cpu = |outcome: &Outcome| {
            outcome.usage.proxy_cpu_seconds / (outcome.answered as f64).max(1.0) * 10_000.0
        };
        let at = |quantile| move |outcome: &Outcome| millis(&outcome.latency, quantile);
        ContestantResult {
            contestant: running.contestant,
            full: (!full.is_empty()).then(|| Full {
                per_second: over(&full, &|outcome| outcome.answered as f64 / outcome.seconds),
                cpu_seconds_per_10k: over(&full, &cpu),
                proxy_cores: over(&full, &|outcome| {
                    outcome.usage.proxy_cpu_seconds / outcome.seconds
                }),
                load_core_busy: over(&full, &|outcome| outcome.usage.load_core_busy),
                disturbed: over(&full, &|outcome| outcome.usage.disturbed),
                memory_mib: over(&full, &|outcome| outcome.memory_mib),
            }),
            fixed: (!fixed.is_empty()).then(|| Fixed {
                rate: fixed_rate,
                p50_ms: over(&fixed, &at(0.5)),
                p95_ms: over(&fixed, &at(0.95)),
                p99_ms: over(&fixed, &at(0.99)),
                cpu_seconds_per_10k: over(&fixed, &cpu),
                disturbed: over(&fixed, &|outcome| outcome.usage.disturbed),
                memory_mib: over(&fixed, &|outcome| outcome.memory_mib),
            }),
            quiet: (!quiet.is_empty()).then(|| Quiet {
                rate: quiet_rate,
                p95_ms: Spread::of(quiet.iter().map(|(proxied, _)| millis(&proxied.latency, 0.95))),
                direct_p95_ms: Spread::of(
                    quiet.iter().map(|(_, direct)| millis(&direct.latency, 0.95)),
                ),
                added_p95_ms: Spread::of(
                    quiet.iter().map(|(proxied, direct)| added_p95(proxied, direct)),
                ),
                disturbed: Spread::of(quiet.iter().map(|(proxied, _)| proxied.usage.disturbed)),
            }),
            failed,
            failures,
        }
    }
}

fn millis(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64 / 1e6
}

fn added_p95(proxied: &Outcome, direct: &Outcome) -> f64 {
    millis(&proxied.latency, 0.95) - millis(&direct.latency, 0.95)
}
