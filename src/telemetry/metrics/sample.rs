//! What the edge has at the moment of a scrape: upstreams, endpoints, certificates. One that is gone leaves no series.

use prometheus::Registry;

use super::{
    counters,
    experiment::ExperimentSample,
    gauges,
    limits::EdgeSample,
    names::{self, EjectionReason, Fault},
    register,
    rollouts::RolloutSample,
};
use crate::types::{EndpointAddress, Name};

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Upstreams.
    pub upstreams: Vec<UpstreamSample>,
    /// Their endpoints.
    pub endpoints: Vec<EndpointSample>,
    /// Certificates.
    pub certificates: Vec<CertificateSample>,
    /// Rollouts.
    pub rollouts: Vec<RolloutSample>,
    /// Experiments.
    pub experiments: Vec<ExperimentSample>,
    /// The edge as a whole.
    pub edge: EdgeSample,
}

/// An upstream at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct UpstreamSample {
    /// Its name.
    pub upstream: Name,
    /// All its endpoints are used, because too few are healthy. `None` without a panic threshold.
    pub is_panicking: Option<bool>,
    /// It has fewer endpoints than it should have. `None` where no number is stated.
    pub is_below_stable_min: Option<bool>,
    /// Requests at it and how many there may be, where they have a limit.
    pub requests: Option<(u32, u32)>,
    /// Requests that wait.
    pub waiting: u32,
    /// Connections that are counted.
    pub connections: u32,
    /// The breaker's state (0 closed, 1 half-open, 2 open), and how often it has come into each.
    pub breaker: Option<(u8, [u64; 3])>,
}

/// An endpoint at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct EndpointSample {
    /// Its upstream.
    pub upstream: Name,
    /// Its address.
    pub endpoint: EndpointAddress,
    /// It takes requests.
    pub healthy: bool,
    /// Requests that it is serving.
    pub in_flight: u64,
    /// Tries sent to it so far.
    pub requests: u64,
    /// Those that it failed, by how.
    pub faults: Vec<(Fault, u64)>,
    /// Outlier detection keeps it out.
    pub is_ejected: bool,
    /// Ejections so far, by reason.
    pub ejections: Vec<(EjectionReason, u64)>,
}

/// A certificate at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct CertificateSample {
    /// The site that it is for.
    pub site: Name,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
    /// When it was issued by ACME.
    pub issued: Option<i64>,
    /// When it is ordered anew.
    pub next_renewal: Option<i64>,
    /// Failed orders.
    pub failures: Option<u64>,
    /// The internal authority's stands in for one by ACME.
    pub is_standing_in: Option<bool>,
}

/// The families whose series are as many as there are samples.
pub(super) fn families(samples: &Samples) -> Vec<prometheus::proto::MetricFamily> {
    let scrape = Registry::new();
    let healthy = register(&scrape, gauges(&names::ENDPOINT_HEALTHY));
    let in_flight = register(&scrape, gauges(&names::ENDPOINT_IN_FLIGHT));
    let requests = register(&scrape, counters(&names::ENDPOINT_REQUESTS));
    let faults = register(&scrape, counters(&names::ENDPOINT_FAULTS));
    let ejected = register(&scrape, gauges(&names::ENDPOINT_EJECTED));
    let ejections = register(&scrape, counters(&names::ENDPOINT_EJECTIONS));
    let panic = register(&scrape, gauges(&names::UPSTREAM_PANIC));
    let below_stable_min = register(&scrape, gauges(&names::UPSTREAM_BELOW_STABLE_MIN));
    let not_after = register(&scrape, gauges(&names::CERTIFICATE_NOT_AFTER));
    for sample in &samples.upstreams {
        let upstream = [&*sample.upstream];
        for (gauge, is_so) in
            [(&panic, sample.is_panicking), (&below_stable_min, sample.is_below_stable_min)]
        {
            if let Some(is_so) = is_so {
                gauge.with_label_values(&upstream).set(i64::from(is_so));
            }
        }
    }
    for sample in &samples.endpoints {
        let address = sample.endpoint.to_string();
        let upstream: &str = &sample.upstream;
        let labels = [upstream, &address];
        healthy.with_label_values(&labels).set(i64::from(sample.healthy));
        in_flight
            .with_label_values(&labels)
            .set(i64::try_from(sample.in_flight).unwrap_or(i64::MAX));
        // Two samples of one endpoint would be a mistake of the caller; adding keeps the counter honest.
        requests.with_label_values(&labels).inc_by(sample.requests);
        for (fault, count) in &sample.faults {
            faults.with_label_values(&[upstream, &address, fault.label()]).inc_by(*count);
        }
        ejected.with_label_values(&labels).set(i64::from(sample.is_ejected));
        for (reason, count) in &sample.ejections {
            ejections.with_label_values(&[upstream, &address, reason.label()]).inc_by(*count);
        }
    }
    let issued = register(&scrape, gauges(&names::CERTIFICATE_ISSUED));
    let next_renewal = register(&scrape, gauges(&names::CERTIFICATE_NEXT_RENEWAL));
    let failures = register(&scrape, counters(&names::CERTIFICATE_RENEWAL_FAILURES));
    let standing_in = register(&scrape, gauges(&names::CERTIFICATE_STANDING_IN));
    for sample in &samples.certificates {
        let site = [&*sample.site];
        let gauge = not_after.with_label_values(&site);
        let known = gauge.get();
        gauge.set(if known == 0 { sample.not_after } else { known.min(sample.not_after) });
        let times = [(&issued, sample.issued), (&next_renewal, sample.next_renewal)];
        for (gauge, time) in times {
            if let Some(time) = time {
                gauge.with_label_values(&site).set(time);
            }
        }
        if let Some(count) = sample.failures {
            failures.with_label_values(&site).inc_by(count);
        }
        if let Some(is_standing_in) = sample.is_standing_in {
            standing_in.with_label_values(&site).set(i64::from(is_standing_in));
        }
    }
    scrape.gather()
}
