//! Path normalisation.

use std::hint::black_box;

use criterion::Criterion;
use tidegate::route::normalise::{Slashes, normalise};

/// Nearly all paths are normal already: that case must stay one pass without an allocation.
pub(crate) fn bench(criterion: &mut Criterion) {
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
