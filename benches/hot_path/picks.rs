//! The choice of an endpoint, and what Pingora needs to connect to it. Figures of two threads are those of one of them.

use std::{
    fmt::Write as _,
    hint::black_box,
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use criterion::Criterion;
use tidegate::{
    telemetry::metrics::Metrics,
    types::{KeyPath, Problems},
    upstream::{Live, RawUpstream, Timeouts, Upstream, Wish, compile},
};
use tokio::runtime::{Handle, Runtime};

pub(crate) fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("pick");
    for balance in ["round-robin", "least-conn", "peak-ewma", "random-two", "consistent-hash"] {
        for endpoints in [3, 10, 16, 100] {
            let upstream = upstream(runtime.handle(), balance, endpoints);
            group.bench_function(format!("{balance}/{endpoints}"), |bencher| {
                bencher.iter(|| upstream.pick(black_box(&a_wish())).unwrap());
            });
            group.bench_function(format!("{balance}/{endpoints}/2_threads"), |bencher| {
                bencher.iter_custom(|picks| on_two_threads(&upstream, picks));
            });
        }
    }
    let upstream = upstream(runtime.handle(), "round-robin", 3);
    let picked = upstream.pick(&Wish::default()).unwrap();
    let timeouts = Timeouts::default();
    group.bench_function("peer", |bencher| {
        bencher.iter(|| picked.peer(black_box(&timeouts), false));
    });
    group.finish();
}

/// A request with a key, which only consistent hashing looks at.
fn a_wish() -> Wish {
    Wish { hash: Some(fastrand::u64(..)), ..Wish::default() }
}

/// How long both threads took for `picks` each.
fn on_two_threads(upstream: &Upstream, picks: u64) -> Duration {
    let barrier = Barrier::new(2);
    let run = || {
        barrier.wait();
        let start = Instant::now();
        for _ in 0..picks {
            black_box(upstream.pick(&a_wish()).unwrap());
        }
        start.elapsed()
    };
    thread::scope(|scope| {
        let other = scope.spawn(run);
        run().max(other.join().unwrap())
    })
}

fn upstream(handle: &Handle, balance: &str, endpoints: usize) -> Arc<Upstream> {
    let mut text = format!("balance = \"{balance}\"\n");
    if balance == "consistent-hash" {
        text.push_str("hash = { path = true }\n");
    }
    text.push_str("endpoints = [");
    for i in 0..endpoints {
        write!(text, "\"192.0.2.{}:80\",", i + 1).unwrap();
    }
    text.push(']');
    let raw: RawUpstream = toml::from_str(&text).unwrap();
    let mut problems = Problems::new();
    let path = KeyPath::of(&["upstreams", "web"]);
    let config = raw.parse(&"web".parse().unwrap(), &path, &mut problems);
    let blueprint = compile(&Arc::new(config), &mut problems).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    Live::new(handle.clone(), Metrics::new()).attach(blueprint)
}
