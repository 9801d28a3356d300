//! The families of routes at the moment of a scrape.
//!
//! A route has series from its first request on: of ten thousand routes most are quiet, and their zeros would be most of
//! what is scraped.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::{
    RouteKey,
    names::{self, CRITICALITIES, Definition, Kind, Limited, STATUS_CLASSES},
    route::{Durations, RouteMetrics, Times},
};

/// The families of all routes that have had a request, sorted by their labels.
pub(super) fn of_routes(mut routes: Vec<(RouteKey, Arc<RouteMetrics>)>) -> Vec<MetricFamily> {
    routes.sort_unstable_by(|(one, _), (other, _)| one.labels().cmp(&other.labels()));
    let used: Vec<Used<'_>> = routes
        .iter()
        .filter_map(|(key, counts)| Some(Used { key, counts, times: counts.times()? }))
        .collect();
    let requests = used.iter().flat_map(|route| {
        let classes = STATUS_CLASSES.iter().zip(&route.counts.requests);
        classes.map(|(class, count)| counter(route.labels(Some(class)), count))
    });
    let histogram_of = |times: fn(&Times) -> &Durations| {
        used.iter().map(move |route| histogram(route.labels(None), times(route.times))).collect()
    };
    let upstream = used
        .iter()
        .filter(|route| route.key.upstream.is_some())
        .map(|route| histogram(route.labels(None), &route.times.upstream));
    let counter_of = |count: fn(&RouteMetrics) -> &AtomicU64| {
        used.iter().map(move |route| counter(route.labels(None), count(route.counts))).collect()
    };
    // Few routes have one: a zero in the others' name would only be scraped.
    let fallbacks = used
        .iter()
        .filter(|route| route.counts.fallbacks.load(Ordering::Relaxed) > 0)
        .map(|route| counter(route.labels(None), &route.counts.fallbacks));
    let in_flight = used.iter().map(|route| {
        let mut gauge = Gauge::default();
        gauge.set_value(route.counts.in_flight.load(Ordering::Relaxed) as f64);
        let mut metric = Metric::from_label(route.labels(None));
        metric.set_gauge(gauge);
        metric
    });
    let of_limits = || used.iter().filter_map(|route| Some((route, route.counts.limits()?)));
    let happened = |count: &&AtomicU64| count.load(Ordering::Relaxed) > 0;
    let limited = of_limits().flat_map(|(route, limits)| {
        let reasons = Limited::ALL.iter().zip(&limits.limited);
        let some = reasons.filter(move |(_, count)| happened(count));
        some.map(|(reason, count)| counter(route.with("reason", reason.label()), count))
    });
    let shed = of_limits().flat_map(|(route, limits)| {
        let words = CRITICALITIES.iter().zip(&limits.shed);
        let some = words.filter(move |(_, count)| happened(count));
        some.map(|(word, count)| counter(route.with("criticality", word), count))
    });
    let queues = of_limits()
        .filter(|(_, limits)| limits.queue.cumulative().last().is_some_and(|count| *count > 0))
        .map(|(route, limits)| histogram(route.labels(None), &limits.queue));
    vec![
        family(&names::REQUESTS, requests.collect()),
        family(&names::REQUEST_DURATION, histogram_of(|times| &times.total)),
        family(&names::UPSTREAM_DURATION, upstream.collect()),
        family(&names::OWN_DURATION, histogram_of(|times| &times.own)),
        family(&names::REQUESTS_IN_FLIGHT, in_flight.collect()),
        family(&names::REQUEST_BYTES, counter_of(|counts| &counts.bytes_in)),
        family(&names::RESPONSE_BYTES, counter_of(|counts| &counts.bytes_out)),
        family(&names::FALLBACKS, fallbacks.collect()),
        family(&names::LIMITED, limited.collect()),
        family(&names::SHED, shed.collect()),
        family(&names::QUEUE_DURATION, queues.collect()),
    ]
}

/// A route that has had a request.
struct Used<'a> {
    key: &'a RouteKey,
    counts: &'a RouteMetrics,
    times: &'a Times,
}

impl Used<'_> {
    /// Its labels and another one, by name.
    fn with(&self, name: &str, value: &str) -> Vec<LabelPair> {
        let mut labels = self.labels(None);
        labels.push(label(name, value));
        labels.sort_by(|one, other| one.name().cmp(other.name()));
        labels
    }

    /// By name, as the encoder of other families has them.
    fn labels(&self, status: Option<&str>) -> Vec<LabelPair> {
        let [site, route, upstream] = self.key.labels();
        let labels = [
            ("route", Some(route)),
            ("site", Some(site)),
            ("status", status),
            ("upstream", Some(upstream)),
        ];
        labels.into_iter().filter_map(|(name, value)| Some(label(name, value?))).collect()
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn counter(labels: Vec<LabelPair>, count: &AtomicU64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(count.load(Ordering::Relaxed) as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn histogram(labels: Vec<LabelPair>, durations: &Durations) -> Metric {
    let counts = durations.cumulative();
    let buckets = durations.bounds.iter().zip(&counts).map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*count);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.last().copied().unwrap_or(0));
    histogram.set_sample_sum(durations.sum());
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

fn family(definition: &Definition, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(definition.name.to_owned());
    family.set_help(definition.help.to_owned());
    family.set_field_type(match definition.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(metrics);
    family
}
