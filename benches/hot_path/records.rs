//! What is left of a request: its line in the access log, and its counters.

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use criterion::Criterion;
use tidegate::{
    telemetry::{
        AccessLogField, AccessLogFormat, Entry, RawAccessLog, Try, bench::Line, metrics::Metrics,
    },
    types::{KeyPath, Problems},
};

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("access_log");
    let tried = [Try {
        endpoint: "192.0.2.7:8080",
        connect: None,
        first_byte: Some(Duration::from_micros(1_002)),
        duration: Duration::from_micros(1_111),
        outcome: "ok",
    }];
    let few = [AccessLogField::Time, AccessLogField::Path, AccessLogField::Status];
    let header = |name: &str| match name {
        "user-agent" => Some(&b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0"[..]),
        "referer" => Some(&b"https://a.example/start?page=2"[..]),
        _ => None,
    };
    for (case, format, fields, query) in [
        ("json", AccessLogFormat::Json, None, None),
        (
            "json_with_query",
            AccessLogFormat::Json,
            None,
            Some(&b"page=2&token=secret&sort=name"[..]),
        ),
        ("json_three_fields", AccessLogFormat::Json, Some(few.to_vec()), None),
        ("combined", AccessLogFormat::Combined, None, None),
    ] {
        let raw = RawAccessLog { format: Some(format), fields, ..RawAccessLog::default() };
        let config = raw.parse(&KeyPath::root(), &mut Problems::new());
        let form = Line::new(&config);
        let entry = Entry {
            request_id: Some("0123456789abcdef0123456789abcdef"),
            client: Some("198.51.100.7".parse().unwrap()),
            listener: Some("https"),
            method: Some("GET"),
            host: Some(b"a.example"),
            path: Some(b"/api/v1/customers/4711"),
            query,
            protocol: Some("HTTP/1.1"),
            tls_version: Some("TLSv1.3"),
            status: 200,
            bytes_out: 628,
            duration: Duration::from_micros(1_234),
            upstream_duration: Some(Duration::from_micros(1_111)),
            site: Some("shop"),
            route: Some("rest"),
            upstream: Some("web"),
            endpoint: Some("192.0.2.7:8080"),
            tries: 1,
            tried: &tried,
            header: &header,
            ..Entry::at(SystemTime::now())
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
