//! What a rollout adds to a request: dealing it to a side, and counting what became of it. Figures of two threads are those of one
//! of them.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use criterion::Criterion;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tidegate::{
    policy::RequestView,
    rollout::{AnswerKind, Assignment, Attempt, AttemptKey, Client, RawRollout, Trial},
    state::{EdgeSecret, NumberKey},
    types::{ClientNetwork, KeyPath, Percent, Problems, Secret},
};

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rollout");
    let plain = assignment("");
    group.bench_function("split", |bencher| {
        bencher.iter(|| plain.deal(black_box(&request(&HeaderMap::new())), None));
    });
    group.bench_function("split/2_threads", |bencher| {
        bencher.iter_custom(|n| {
            let headers = HeaderMap::new();
            on_two_threads(n, || drop(black_box(plain.deal(&request(&headers), None))))
        });
    });
    let by_address = assignment("sticky = \"client-address\"");
    group.bench_function("split/sticky_address", |bencher| {
        bencher.iter(|| by_address.deal(black_box(&request(&HeaderMap::new())), None));
    });
    let by_cookie = assignment("sticky = \"cookie\"");
    let cookie = by_cookie.deal(&request(&HeaderMap::new()), None).cookie.unwrap();
    group.bench_function("split/sticky_cookie", |bencher| {
        bencher.iter(|| by_cookie.deal(black_box(&request(&HeaderMap::new())), Some(&cookie)));
    });
    let forced = assignment("always = [{ headers = { X-Canary = \"yes\" } }]");
    let headers = HeaderMap::from_iter([(
        http::HeaderName::from_static("accept"),
        HeaderValue::from_static("*/*"),
    )]);
    group.bench_function("split/always_by_header", |bencher| {
        bencher.iter(|| forced.deal(black_box(&request(&headers)), None));
    });
    group.bench_function("outcome", |bencher| {
        bencher.iter_custom(|n| count(&plain, n));
    });
    group.bench_function("outcome/2_threads", |bencher| {
        bencher.iter_custom(|n| {
            let barrier = Barrier::new(2);
            let run = || {
                barrier.wait();
                count(&plain, n)
            };
            thread::scope(|scope| {
                let other = scope.spawn(run);
                run().max(other.join().unwrap())
            })
        });
    });
    group.finish();
}

/// How long it takes to count the outcomes of `n` tries. What makes them is not part of it.
fn count(assignment: &Arc<Assignment>, n: u64) -> Duration {
    let dealt = assignment.deal(&request(&HeaderMap::new()), None);
    let now = Instant::now();
    let mut took = Duration::ZERO;
    let mut left = n;
    while left > 0 {
        let batch = left.min(1_000);
        let mut trials: Vec<Trial> = (0..batch)
            .map(|i| {
                let network = ClientNetwork::of(Ipv4Addr::from_bits(i as u32).into());
                Trial::new(assignment.clone(), &dealt, Client::Of(Some(network)))
            })
            .collect();
        let start = Instant::now();
        for trial in &mut trials {
            let after = Duration::from_micros(black_box(1_500));
            trial.answered(StatusCode::OK, after, AnswerKind::Plain, now);
            trial.ended(now);
        }
        took += start.elapsed();
        left -= batch;
    }
    took
}

/// How long both threads took for `n` each.
fn on_two_threads(n: u64, one: impl Fn() + Sync) -> Duration {
    let barrier = Barrier::new(2);
    let run = || {
        barrier.wait();
        let start = Instant::now();
        (0..n).for_each(|_| one());
        start.elapsed()
    };
    thread::scope(|scope| {
        let other = scope.spawn(run);
        run().max(other.join().unwrap())
    })
}

fn request(headers: &HeaderMap) -> RequestView<'_> {
    RequestView {
        method: &Method::GET,
        path: "/items",
        query: None,
        headers,
        client: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    }
}

/// A rollout that has begun: a tenth of the requests go to the candidate.
fn assignment(more: &str) -> Arc<Assignment> {
    let text =
        format!("stable = \"v1\"\ncandidate = \"v2\"\nrevision = \"r1\"\ncanary = {{}}\n{more}");
    let raw: RawRollout = toml::from_str(&text).unwrap();
    let mut problems = Problems::new();
    let path = KeyPath::of(&["rollouts", "shop"]);
    let plan = raw.parse(&"shop".parse().unwrap(), &path, &mut problems).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let key = AttemptKey {
        rollout: plan.name.clone(),
        revision: plan.revision.clone(),
        stable: plan.stable.clone(),
        candidate: plan.candidate.clone().unwrap(),
    };
    let secret = EdgeSecret::shared(Secret::new(b"a secret that is long enough".to_vec()));
    let signer = NumberKey::of(&secret, "bench").signer(&["shop", "r1"]);
    let attempt = Attempt::new(key, Instant::now());
    attempt.set(Percent::whole(10), 1, true);
    Arc::new(Assignment::new(Arc::new(attempt), Arc::new(plan), 0, Some(signer)))
}
