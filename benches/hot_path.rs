//! Micro-benchmarks of what every request pays for. `make bench` runs them; `make bench ARGS=normalise` a part.
//!
//! Each subject has a function of its own; the names are `subject/case`, so that runs can be compared by name.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench asserts by panicking and its data has a known shape"
)]

use std::hint::black_box;

use criterion::Criterion;
use tidegate::route::normalise::{Slashes, normalise};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    path_normalisation(&mut criterion);
    // To come with their modules: `route_look_up/{10,1000,10000}` (host and path to a route; must not grow with the
    // number of routes), `pick/{round_robin,least_conn}/{endpoints}`, `headers/strict`.
    criterion.final_summary();
}

/// Nearly all paths are normal already: that case must stay one pass without an allocation.
fn path_normalisation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("normalise");
    for (case, path) in [
        ("normal", "/api/v1/customers/4711/orders"),
        ("escaped", "/caf%c3%a9/men%75"),
        ("dot_segments", "/a/./b/../c//d"),
    ] {
        assert!(normalise(path, Slashes::Merge).is_ok(), "{case}");
        group.bench_function(case, |bencher| {
            bencher.iter(|| normalise(black_box(path), Slashes::Merge).is_ok());
        });
    }
    group.finish();
}
