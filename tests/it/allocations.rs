//! What the hot path must not do: allocate at each pick.

use std::{fmt::Write as _, sync::Arc};

use tidegate::{
    telemetry::metrics::Metrics,
    types::{KeyPath, Problems},
    upstream::{Live, RawUpstream, Upstream, Wish, compile},
};
use tokio::runtime::{Handle, Runtime};

/// An upstream of so many endpoints, with different weights.
fn upstream(handle: &Handle, settings: &str, endpoints: u32) -> Arc<Upstream> {
    let mut text = format!("{settings}\nendpoints = [");
    for i in 1..=endpoints {
        let weight = i % 3 + 1;
        write!(text, "{{ address = \"192.0.2.{i}:80\", weight = {weight} }},").unwrap();
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

#[test]
fn a_pick_allocates_nothing() {
    let runtime = Runtime::new().unwrap();
    for settings in [
        "balance = \"round-robin\"",
        "balance = \"least-conn\"",
        "balance = \"peak-ewma\"",
        "balance = \"random-two\"",
        "balance = \"consistent-hash\"\nhash = { path = true }",
    ] {
        for endpoints in [1, 3, 16, 100] {
            let upstream = upstream(runtime.handle(), settings, endpoints);
            let pick = |hash: u64| {
                let mut wish = Wish { hash: Some(hash), ..Wish::default() };
                let first = upstream.pick(&wish).unwrap();
                wish.tried.add(first.endpoint());
                // A retry goes elsewhere, beside the first.
                let second = upstream.pick(&wish).unwrap();
                assert!(endpoints == 1 || !Arc::ptr_eq(first.endpoint(), second.endpoint()));
            };
            // What is made once: the generator of this thread, clocks.
            pick(1);
            let counted = allocation_counter::measure(|| {
                for turn in 0..2_000_u64 {
                    pick(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                }
            });
            assert_eq!(counted.count_total, 0, "{settings} of {endpoints}");
        }
    }
    // It does count.
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8])));
    assert_eq!(counted.count_total, 1);
}
