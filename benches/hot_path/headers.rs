//! What is done to the heads of requests and responses. Each round pays for a new head too; `request_head` and
//! `response_head` say how much that is.

use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use pingora_http::{RequestHeader, ResponseHeader};
use tidegate::{
    policy::{Chain, Headers, HeadersPreset, Kind, PolicyContext, RawHeaders, ResponseHead},
    proxy::bench::{Hop, new_request_id},
    types::{KeyPath, Problems},
};

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("headers");
    group.bench_function("request_id", |bencher| bencher.iter(new_request_id));

    let plain = request(&[]);
    group.bench_function("request_head", |bencher| bencher.iter(|| black_box(&plain).clone()));
    let proxied = request(&[
        ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=203.0.113.9;proto=https"),
    ]);
    for (case, request, peer) in [
        ("forwarding/plain", plain, "192.0.2.1"),
        ("forwarding/trusted_proxy", proxied, "10.0.0.1"),
    ] {
        let hop = Hop::new(peer.parse().unwrap(), &["10.0.0.0/8".parse().unwrap()], "a.example");
        group.bench_function(case, |bencher| {
            bencher.iter_batched_ref(
                || request.clone(),
                |request| hop.forward(black_box(request)),
                BatchSize::SmallInput,
            );
        });
    }

    let response = response();
    group.bench_function("response_head", |bencher| bencher.iter(|| black_box(&response).clone()));
    let chain = strict();
    let context = PolicyContext::new(None, true);
    group.bench_function("strict", |bencher| {
        bencher.iter_batched_ref(
            || response.clone(),
            |response| chain.on_response(&mut ResponseHead(black_box(response)), &context),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// What a browser sends, and more.
fn request(more: &[(&'static str, &'static str)]) -> RequestHeader {
    let mut head = RequestHeader::build("GET", b"/api/v1/customers/4711", None).unwrap();
    let usual = [
        ("Host", "a.example"),
        ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("Accept-Language", "en-GB,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Cookie", "session=0123456789abcdef0123456789abcdef"),
    ];
    for (name, value) in usual.iter().chain(more) {
        head.append_header(*name, *value).unwrap();
    }
    head
}

fn response() -> ResponseHeader {
    let mut head = ResponseHeader::build(200, None).unwrap();
    for (name, value) in [
        ("Server", "origin"),
        ("Date", "Sat, 21 Nov 2026 09:00:00 GMT"),
        ("Content-Type", "application/json"),
        ("Content-Length", "628"),
    ] {
        head.append_header(name, value).unwrap();
    }
    head
}

fn strict() -> Chain {
    let mut problems = Problems::new();
    let raw = RawHeaders { preset: Some(HeadersPreset::Strict), ..RawHeaders::default() };
    let config = raw.parse(&KeyPath::root(), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    Chain::new(vec![(Kind::Headers, std::sync::Arc::new(Headers::new(config)))])
}
