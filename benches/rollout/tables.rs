//! The tables of `docs/rollout-analysis.md`, as Markdown.

use tidegate::rollout::analysis::Settings;

use super::{
    detection::{Change, Found, found, found_by_windows, information_limit},
    healthy::{LENGTH, Scenario, taken_back},
    traffic::{Latency, pool},
};

/// One row: what happens, its name, the goal.
type Row<'a> = (&'a str, Change<'a>, &'a str);

const CHANGE: Change = Change {
    tolerance: 0.0,
    base: 0.001,
    candidate: 0.05,
    share: 0.1,
    healthy: 0,
    strata: 1,
    only: None,
    latency: None,
};
const DEFAULT_TOLERANCE: f64 = 0.005;

pub(crate) fn detection(runs: u64, seed: u64) {
    println!("\n### Requests of the candidate until a change is found ({runs} runs a row)\n");
    println!("| change | tolerance | median | p90 | goal | limit | fixed threshold |");
    println!("|---|---|---|---|---|---|---|");
    let of = |candidate, healthy| Change { candidate, healthy, ..CHANGE };
    let tolerant = |change| Change { tolerance: DEFAULT_TOLERANCE, ..change };
    let routes = |change| Change { strata: 8, ..change };
    let one_route = |change| Change { only: Some(5), ..routes(change) };
    let at = |share, change| Change { share, ..change };
    let rows: [Row; 24] = [
        ("5 % fail, from the start", of(0.05, 0), "150"),
        ("50 % fail, from the start", of(0.5, 0), "14"),
        ("1 % fail, from the start", of(0.01, 0), "1,400"),
        ("5 % fail, from the start", tolerant(of(0.05, 0)), "260"),
        ("50 % fail, from the start", tolerant(of(0.5, 0)), ""),
        ("1 % fail, from the start", tolerant(of(0.01, 0)), ""),
        ("5 % fail, after 2,400 healthy", of(0.05, 2_400), "200; p90 340"),
        ("all fail, after 2,400 healthy", of(1.0, 2_400), "16"),
        ("5 % fail, after 20,000 healthy", of(0.05, 20_000), "280"),
        ("all fail, after 20,000 healthy", of(1.0, 20_000), "22"),
        ("5 % fail, after 2,400 healthy", tolerant(of(0.05, 2_400)), ""),
        ("all fail, after 2,400 healthy", tolerant(of(1.0, 2_400)), ""),
        ("5 % fail, after 6,000 healthy", tolerant(of(0.05, 6_000)), ""),
        ("5 % fail, after 20,000 healthy", tolerant(of(0.05, 20_000)), ""),
        ("all fail, after 20,000 healthy", tolerant(of(1.0, 20_000)), ""),
        (
            "6 % fail, stable 2 %, from the start",
            Change { base: 0.02, ..tolerant(of(0.06, 0)) },
            "",
        ),
        ("5 % fail, after 200 healthy, 1 % of the traffic", at(0.01, of(0.05, 200)), ""),
        ("5 % fail, after 2,400 healthy, half of the traffic", at(0.5, of(0.05, 2_400)), ""),
        ("all fail, after 2,400 healthy, half of the traffic", at(0.5, of(1.0, 2_400)), ""),
        (
            "all fail, after 2,400 healthy, half of the traffic",
            at(0.5, tolerant(of(1.0, 2_400))),
            "",
        ),
        ("5 % fail on all of 8 routes, after 2,400 healthy", routes(of(0.05, 2_400)), ""),
        ("all fail on all of 8 routes, after 2,400 healthy", routes(of(1.0, 2_400)), ""),
        ("40 % fail on one of 8 routes, after 2,400 healthy", one_route(of(0.4, 2_400)), ""),
        ("all fail on one of 8 routes, after 2,400 healthy", one_route(of(1.0, 2_400)), ""),
    ];
    for (name, change, goal) in rows {
        let found = found(change, runs, seed);
        // Of a change on one route alone the other routes' requests say nothing, and all of them dilute the rate.
        let (routes, dilution) = match change.only {
            Some(_) => (change.strata as f64, 1.0 / change.strata as f64),
            None => (1.0, 1.0),
        };
        let limit = routes * information_limit(change.candidate, change.base + change.tolerance);
        let diluted = change.base + (change.candidate - change.base) * dilution;
        let windows = found_by_windows(diluted, change.share, runs, seed);
        row(name, &format!("{} %", 100.0 * change.tolerance), found, goal, limit, windows.0);
    }
    latency(runs, seed);
}

fn latency(runs: u64, seed: u64) {
    let (half, one) = (pool(0.5, 0.0), pool(1.0, 0.0));
    for (sigma, pool, goal) in [("0.5", &half, "60"), ("1", &one, "800")] {
        // Exceedances of the exact p95 after doubling, as the limit's rate.
        let mut sorted = pool.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let p95 = sorted[sorted.len() * 95 / 100];
        let above =
            sorted.iter().filter(|time| 2.0 * **time > p95).count() as f64 / sorted.len() as f64;
        for healthy in [0, 2_400] {
            let latency = Some(Latency { pool, median: 50_000.0, candidate: 2.0 });
            let change = Change { candidate: 0.001, healthy, latency, ..CHANGE };
            let found = found(Change { tolerance: DEFAULT_TOLERANCE, ..change }, runs, seed);
            let name = if healthy == 0 {
                format!("times doubled, sigma {sigma}, from the start")
            } else {
                format!("times doubled, sigma {sigma}, after 2,400 healthy")
            };
            let goal = if healthy == 0 { goal } else { "" };
            row(&name, "5 points", found, goal, information_limit(above, 0.1), None);
        }
    }
}

fn row(name: &str, tolerance: &str, found: Found, goal: &str, limit: f64, windows: Option<u64>) {
    let shown = |count: Option<u64>| count.map_or_else(|| "–".into(), |count| count.to_string());
    let (median, p90, windows) = (shown(found.0), shown(found.1), shown(windows));
    println!("| {name} | {tolerance} | {median} | {p90} | {goal} | {limit:.0} | {windows} |");
}

/// Nothing is tolerated: the candidate is at the border of the null hypothesis.
pub(crate) fn strict(runs: u64, seed: u64) {
    healthy_head("tolerance 0 for failures and for latency");
    let strict = Settings::new(0.999, 0.0, 0.0, 1).unwrap();
    for scenario in COMMON {
        healthy_row(scenario, "0", &strict, runs, seed);
    }
}

/// The default tolerances, up to the border.
pub(crate) fn tolerant(runs: u64, seed: u64) {
    healthy_head("the default tolerances");
    for scenario in COMMON {
        healthy_row(scenario, "default", &Settings::default(), runs, seed);
    }
    // Here most are to be expected: twice as many make the bound narrow enough.
    for scenario in [0.0, 0.001, 0.02, 0.3].map(Scenario::Border) {
        healthy_row(scenario, "default", &Settings::default(), 2 * runs, seed);
    }
}

const COMMON: [Scenario; 6] = [
    Scenario::Rate(0.0),
    Scenario::Rate(0.001),
    Scenario::Rate(0.02),
    Scenario::Outage,
    Scenario::Bursts,
    Scenario::Drift,
];

fn healthy_head(what: &str) {
    println!("\n### Healthy rollouts that were taken back: {what}\n");
    println!("{LENGTH} requests of the candidate each.\n");
    println!("| scenario | tolerance | rollouts | taken back | 95 % bound | by fixed threshold |");
    println!("|---|---|---|---|---|---|");
}

/// What happens where requests are not dealt to sides one by one.
pub(crate) fn assumptions(runs: u64, seed: u64) {
    println!("\n### Outside the assumptions\n");
    println!("| scenario | tolerance | rollouts | taken back | 95 % bound | by fixed threshold |");
    println!("|---|---|---|---|---|---|");
    let strict = Settings::new(0.999, 0.0, 0.05, 1).unwrap();
    healthy_row(Scenario::Clusters, "0", &strict, runs, seed);
    healthy_row(Scenario::Clusters, "default", &Settings::default(), runs, seed);
}

fn healthy_row(scenario: Scenario, tolerance: &str, settings: &Settings, runs: u64, seed: u64) {
    let (ours, fixed) = taken_back(scenario, settings, runs, seed);
    let (name, bound) = (scenario.name(), 100.0 * upper_bound(ours, runs));
    let fixed = 100.0 * fixed as f64 / runs as f64;
    println!("| {name} | {tolerance} | {runs} | {ours} | {bound:.3} % | {fixed:.0} % |");
}

/// The exact (Clopper-Pearson) 95 % upper bound of a rate: the one at which so few would be seen in 5 % of all cases.
pub(crate) fn upper_bound(events: u64, trials: u64) -> f64 {
    let seen = |rate: f64| {
        let mut part = (1.0 - rate).powf(trials as f64);
        let mut sum = part;
        for k in 0..events {
            part *= (trials - k) as f64 / (k + 1) as f64 * rate / (1.0 - rate);
            sum += part;
        }
        sum
    };
    let (mut low, mut high) = (events as f64 / trials as f64, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        *(if seen(middle) > 0.05 { &mut low } else { &mut high }) = middle;
    }
    high
}
