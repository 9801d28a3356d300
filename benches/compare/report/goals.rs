//! What the project wants the figures to be, and whether they are.

use serde::Serialize;

use crate::{
    contestants::Contestant,
    options::Series,
    series::{ContestantResult, SeriesResult},
};

/// CPU of a request, in parts of nginx's.
const CPU_TO_NGINX: f64 = 1.6;
/// CPU of a request, in parts of the bare proxy's.
const CPU_TO_BARE: f64 = 1.15;
/// CPU of a handshake, in parts of nginx's.
const HANDSHAKE_TO_NGINX: f64 = 0.95;
/// Milliseconds that are added to p95 at 30 % load.
const ADDED_P95_MS: f64 = 1.0;
/// p95 over a slow endpoint, in parts of that without it.
const SLOW_TO_EVEN: f64 = 1.3;
/// p95 over a slow endpoint, in parts of another proxy's; so much is noise.
const LEVEL: f64 = 1.1;

#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) at_most: f64,
    pub(crate) is_met: bool,
}

/// Those for which the series and contestants ran.
pub(crate) fn verdicts(series: &[SeriesResult]) -> Vec<Verdict> {
    let of = |wanted: Series, contestant: Contestant| -> Option<&ContestantResult> {
        let found = series.iter().find(|result| result.series == wanted)?;
        found.contestants.iter().find(|result| result.contestant == contestant)
    };
    let cpu_of = |series, contestant| {
        Some(of(series, contestant)?.full.as_ref()?.cpu_seconds_per_10k.median)
    };
    let cpu = |contestant| cpu_of(Series::Plain, contestant);
    let ratio = |value: Option<f64>, to: Option<f64>| Some(value? / to?);
    let p95 = |series, contestant| Some(of(series, contestant)?.fixed.as_ref()?.p95_ms.median);
    let slow_p95 = |contestant| p95(Series::Slow, contestant);
    let to_even = |contestant| ratio(slow_p95(contestant), p95(Series::Even, contestant));
    let added = of(Series::Plain, Contestant::Tidegate)
        .and_then(|result| Some(result.quiet.as_ref()?.added_p95_ms.median));
    let own_cpu = cpu(Contestant::Tidegate);
    let own_p95 = slow_p95(Contestant::Tidegate);
    let handshake =
        |series| ratio(cpu_of(series, Contestant::Tidegate), cpu_of(series, Contestant::Nginx));
    [
        ("CPU of a plain request / nginx's", ratio(own_cpu, cpu(Contestant::Nginx)), CPU_TO_NGINX),
        (
            "CPU of a plain request / the bare proxy's",
            ratio(own_cpu, cpu(Contestant::Bare)),
            CPU_TO_BARE,
        ),
        ("CPU of a full handshake / nginx's", handshake(Series::Handshakes), HANDSHAKE_TO_NGINX),
        ("CPU of a resumed handshake / nginx's", handshake(Series::Resumed), HANDSHAKE_TO_NGINX),
        ("p95 added at 30 % load, ms", added, ADDED_P95_MS),
        ("p95 with a slow endpoint / nginx's", ratio(own_p95, slow_p95(Contestant::Nginx)), LEVEL),
        (
            "p95 with a slow endpoint / HAProxy's",
            ratio(own_p95, slow_p95(Contestant::Haproxy)),
            LEVEL,
        ),
        (
            "p95 with a slow endpoint, peak-ewma / nginx's",
            ratio(slow_p95(Contestant::Ewma), slow_p95(Contestant::Nginx)),
            LEVEL,
        ),
        (
            "p95 with a slow endpoint, peak-ewma / HAProxy's",
            ratio(slow_p95(Contestant::Ewma), slow_p95(Contestant::Haproxy)),
            LEVEL,
        ),
        (
            "p95 with a slow endpoint / without it, least-conn",
            to_even(Contestant::Tidegate),
            SLOW_TO_EVEN,
        ),
        (
            "p95 with a slow endpoint / without it, peak-ewma",
            to_even(Contestant::Ewma),
            SLOW_TO_EVEN,
        ),
    ]
    .into_iter()
    .filter_map(|(what, measured, at_most)| {
        let measured = measured.filter(|number| number.is_finite())?;
        Some(Verdict { what: what.to_owned(), measured, at_most, is_met: measured <= at_most })
    })
    .collect()
}
