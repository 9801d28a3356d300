//! What is left of a request: its line in the access log, and its counters.

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use criterion::Criterion;
use tidegate::{
    telemetry::{AccessLogFormat, Entry, RawAccessLog, bench::Line, metrics::Metrics},
    types::EndpointAddress,
};

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("access_log");
    let endpoint: EndpointAddress = "192.0.2.7:8080".parse().unwrap();
    let header = |name: &str| match name {
        "user-agent" => Some(&b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0"[..]),
        "referer" => Some(&b"https://a.example/start?page=2"[..]),
        _ => None,
    };
    for (case, format, query) in [
        ("json", AccessLogFormat::Json, None),
        ("json_with_query", AccessLogFormat::Json, Some(&b"page=2&token=secret&sort=name"[..])),
        ("combined", AccessLogFormat::Combined, None),
    ] {
        let config = RawAccessLog { format: Some(format), ..RawAccessLog::default() }.parse();
        let form = Line::new(&config);
        let entry = Entry {
            time: SystemTime::now(),
            request_id: "0123456789abcdef0123456789abcdef",
            trace_id: None,
            client: Some("198.51.100.7".parse().unwrap()),
            method: "GET",
            host: b"a.example",
            path: b"/api/v1/customers/4711",
            query,
            protocol: "HTTP/1.1",
            tls_version: Some("TLSv1.3"),
            status: 200,
            bytes_in: 0,
            bytes_out: 628,
            duration: Duration::from_micros(1_234),
            upstream_duration: Some(Duration::from_micros(1_111)),
            listener: None,
            site: Some("shop"),
            route: Some("rest"),
            upstream: Some("web"),
            endpoint: Some(&endpoint),
            tries: 1,
            error: None,
            header: &header,
        };
        assert!(form.format(&entry).ends_with(b"\n"), "{case}");
        group.bench_function(case, |bencher| bencher.iter(|| form.format(black_box(&entry))));
    }
    group.finish();

    let metrics = Metrics::new();
    let route = metrics.route("shop", "rest", Some("web"));
    let mut group = criterion.benchmark_group("metrics");
    group.bench_function("started_and_finished", |bencher| {
        let (total, upstream) = (Duration::from_micros(1_234), Duration::from_micros(1_111));
        bencher.iter(|| {
            let in_flight = route.started();
            route.finished(black_box(200), total, Some(upstream), 0, 628);
            drop(in_flight);
        });
    });
    group.finish();
}
