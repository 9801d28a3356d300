//! What the hot path must not do: allocate at each pick, or to deal a client.

use std::{fmt::Write as _, path::Path, sync::Arc};

use pingora_http::RequestHeader;
use tidegate::{
    policy::{
        Chain, Experiment, Headers, Kind, Place, Policy, PolicyContext, RawPolicy, RequestHead,
    },
    telemetry::metrics::Metrics,
    types::{KeyPath, Name, Problems},
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

#[test]
fn an_experiment_by_hash_allocates_what_its_header_takes() {
    let live = tidegate::policy::Live::new(Path::new("/nowhere"), Metrics::new());
    let (site, route): (Name, Name) = ("a".parse().unwrap(), "b".parse().unwrap());
    let place = Place { site: &site, route: &route };
    let chain = |text: &str| {
        let raw: RawPolicy = toml::from_str(text).unwrap();
        let config = raw.parse(&site, &KeyPath::root(), &mut Problems::new());
        let policies = [
            config.experiment.map(|experiment| {
                let policy: Arc<dyn Policy> = Arc::new(Experiment::new(site.clone(), experiment));
                (Kind::Experiment, policy)
            }),
            config.headers.map(|headers| {
                let policy: Arc<dyn Policy> = Arc::new(Headers::new(headers));
                (Kind::Headers, policy)
            }),
        ];
        Chain::new(policies.into_iter().flatten().collect()).attached(&place, &live)
    };
    let plain = chain("headers = { request = { set = { x-new = 'a' } } }");
    let segment =
        "{ variant = 'b', headers = { x-staff = true }, client_address = ['10.0.0.0/8'] }";
    for key in ["{ header = 'x-user' }", "{ client_address = true }"] {
        let experiment = chain(&format!(
            "[experiment]\nheader = 'x-new'\nkey = {key}\nsegments = [{segment}]\n\
             variants = {{ a = '50%', b = '50%' }}"
        ));
        let allocations = |chain: &Chain| {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.insert_header("x-user", "ada").unwrap();
            let mut context = PolicyContext::new("10.0.0.1".parse().ok(), false);
            let counted = allocation_counter::measure(|| {
                let mut head = RequestHead(&mut request);
                let flow = chain.on_request(&mut head, &mut context);
                assert!(
                    futures_util::FutureExt::now_or_never(flow).is_some_and(|flow| flow.is_ok())
                );
            });
            assert!(request.headers.contains_key("x-new"));
            counted.count_total
        };
        // What is made once.
        allocations(&plain);
        allocations(&experiment);
        assert_eq!(allocations(&experiment), allocations(&plain), "{key}");
    }
}
