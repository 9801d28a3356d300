//! What is counted by variant of an experiment, and whether an experiment is on at the moment of a scrape.

use prometheus::{IntCounterVec, Registry, proto::MetricFamily};

use super::{
    gauges,
    listener::CounterBy,
    names::{self, DealtBy},
    register,
};
use crate::types::Name;

/// What is counted by variant.
#[derive(Debug)]
pub struct VariantMetrics {
    exposures: CounterBy<DealtBy>,
}

impl VariantMetrics {
    pub(super) fn new(exposures: &IntCounterVec, [experiment, variant]: [&str; 2]) -> Self {
        Self { exposures: CounterBy::new(exposures, &[experiment, variant]) }
    }

    pub(super) fn remove(exposures: &IntCounterVec, [experiment, variant]: [&str; 2]) {
        CounterBy::<DealtBy>::remove(exposures, &[experiment, variant]);
    }

    /// Counts a request that endpoints are told the variant of.
    pub fn exposed(&self, by: DealtBy) {
        self.exposures.inc(by);
    }

    /// How many there were.
    pub fn exposures(&self) -> u64 {
        self.exposures.sum()
    }
}

/// An experiment at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct ExperimentSample {
    /// Its name.
    pub experiment: Name,
    /// It is on.
    pub is_on: bool,
    /// Somebody has switched it, and the file says otherwise.
    pub file_differs: bool,
}

/// The families whose series are as many as there are samples.
pub(super) fn families(samples: &[ExperimentSample]) -> Vec<MetricFamily> {
    let scrape = Registry::new();
    let on = register(&scrape, gauges(&names::EXPERIMENT_ON));
    let differs = register(&scrape, gauges(&names::EXPERIMENT_FILE_DIFFERS));
    for sample in samples {
        let labels: [&str; 1] = [&sample.experiment];
        on.with_label_values(&labels).set(i64::from(sample.is_on));
        differs.with_label_values(&labels).set(i64::from(sample.file_differs));
    }
    scrape.gather()
}
