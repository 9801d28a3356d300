//! Rollouts at the moment of a scrape.

use prometheus::{Gauge, GaugeVec, Opts, Registry, proto::MetricFamily};

use super::{counters, gauges, names, names::Definition, register};
use crate::types::Name;

/// A rollout at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct RolloutSample {
    /// Its name.
    pub rollout: Name,
    /// The word of its phase.
    pub phase: &'static str,
    /// What is live is not what the file says.
    pub file_differs: bool,
    /// See `tidegate_rollout_healthy_probability_ratio`.
    pub doubt: Option<f64>,
    /// Its sides.
    pub sides: Vec<RolloutSideSample>,
    /// Events so far, by their words.
    pub events: Vec<(&'static str, u64)>,
    /// Its copies, where it has a mirror.
    pub mirror: Option<MirrorSample>,
}

/// The copies of a mirror at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct MirrorSample {
    /// Those that were sent.
    pub sent: u64,
    /// Those that were not made, by reason.
    pub skipped: Vec<(String, u64)>,
    /// Those whose answers differ, by what.
    pub differing: Vec<(String, u64)>,
}

/// A side of a rollout at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct RolloutSideSample {
    /// `stable` or `candidate`.
    pub side: &'static str,
    /// Its upstream.
    pub upstream: Name,
    /// Its share, from 0 to 1.
    pub share: f64,
    /// Tries that were compared.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
}

/// The families whose series are as many as there are samples.
pub(super) fn families(samples: &[RolloutSample]) -> Vec<MetricFamily> {
    if samples.is_empty() {
        return Vec::new();
    }
    let scrape = Registry::new();
    let ratios = |definition: &Definition| {
        let options = Opts::new(definition.name, definition.help);
        register(&scrape, GaugeVec::new(options, definition.labels))
    };
    let (share, doubt) = (ratios(&names::ROLLOUT_SHARE), ratios(&names::ROLLOUT_DOUBT));
    let phase = register(&scrape, gauges(&names::ROLLOUT_PHASE));
    let differs = register(&scrape, gauges(&names::ROLLOUT_FILE_DIFFERS));
    let requests = register(&scrape, counters(&names::ROLLOUT_REQUESTS));
    let failures = register(&scrape, counters(&names::ROLLOUT_FAILURES));
    let events = register(&scrape, counters(&names::ROLLOUT_EVENTS));
    let copies = register(&scrape, counters(&names::ROLLOUT_MIRROR_COPIES));
    let skipped = register(&scrape, counters(&names::ROLLOUT_MIRROR_SKIPPED));
    let differences = register(&scrape, counters(&names::ROLLOUT_MIRROR_DIFFERENCES));
    for sample in samples {
        let rollout: &str = &sample.rollout;
        phase.with_label_values(&[rollout, sample.phase]).set(1);
        differs.with_label_values(&[rollout]).set(i64::from(sample.file_differs));
        if let Some(probability) = sample.doubt {
            let gauge: Gauge = doubt.with_label_values(&[rollout]);
            gauge.set(probability);
        }
        for side in &sample.sides {
            share.with_label_values(&[rollout, side.side, &side.upstream]).set(side.share);
            requests.with_label_values(&[rollout, side.side]).inc_by(side.requests);
            failures.with_label_values(&[rollout, side.side]).inc_by(side.failures);
        }
        for (event, count) in &sample.events {
            events.with_label_values(&[rollout, event]).inc_by(*count);
        }
        if let Some(mirror) = &sample.mirror {
            copies.with_label_values(&[rollout]).inc_by(mirror.sent);
            for (reason, count) in &mirror.skipped {
                skipped.with_label_values(&[rollout, reason]).inc_by(*count);
            }
            for (what, count) in &mirror.differing {
                differences.with_label_values(&[rollout, what]).inc_by(*count);
            }
        }
    }
    scrape.gather()
}
