//! Micro-benchmarks of what every request pays for. `make bench` runs them; `make bench ARGS=normalise` a part.
//!
//! One file a subject, one binary (linking takes minutes). The names are `subject/case`, so that runs can be compared by
//! name. The allocator is the one of the `tidegate` command.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench asserts by panicking and its data has a known shape"
)]

mod framing;
mod headers;
mod look_up;
mod paths;
mod picks;
mod records;
mod rollouts;

use criterion::Criterion;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    paths::bench(&mut criterion);
    look_up::bench(&mut criterion);
    picks::bench(&mut criterion);
    headers::bench(&mut criterion);
    framing::bench(&mut criterion);
    records::bench(&mut criterion);
    rollouts::bench(&mut criterion);
    criterion.final_summary();
}
