use std::time::Duration;

use super::*;

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn sample(endpoint: &str, healthy: bool) -> EndpointSample {
    EndpointSample {
        upstream: "web".parse().unwrap(),
        endpoint: endpoint.parse().unwrap(),
        healthy,
        in_flight: 2,
        requests: 7,
        faults: vec![(Fault::Reset, 3)],
        is_ejected: true,
        ejections: vec![(EjectionReason::FailureRate, 1)],
    }
}

#[test]
fn every_metric_can_be_registered() {
    let metrics = Metrics::new();
    let route = metrics.route("shop", "rest", Some("web"));
    route.finished(200, Duration::from_millis(3), Some(Duration::from_millis(2)), 1, 2);
    route.fell_back();
    let _listener = metrics.listener("https");
    let _upstream = metrics.upstream("web");
    let _tunnel = metrics.tunnel("pg", None, "web");
    let _webhook = metrics.webhook("ops");
    let certificate = CertificateSample {
        site: "shop".parse().unwrap(),
        not_after: 9,
        issued: Some(1),
        next_renewal: Some(2),
        failures: Some(3),
        is_standing_in: Some(false),
    };
    let upstream = UpstreamSample {
        upstream: "web".parse().unwrap(),
        is_panicking: Some(true),
        is_below_stable_min: Some(false),
        requests: Some((1, 2)),
        waiting: 3,
        connections: 4,
        breaker: Some((2, [0, 0, 1])),
    };
    route.limited(Limited::UpstreamFull);
    route.shed(0);
    route.waited(Duration::from_millis(1));
    let rollout = RolloutSample {
        rollout: "shop".parse().unwrap(),
        phase: "step",
        file_differs: false,
        doubt: Some(0.5),
        sides: vec![RolloutSideSample {
            side: "candidate",
            upstream: "web".parse().unwrap(),
            share: 0.1,
            requests: 10,
            failures: 1,
        }],
        events: vec![("step", 1)],
        mirror: Some(MirrorSample {
            sent: 1,
            skipped: vec![("method".to_owned(), 1)],
            differing: vec![("status".to_owned(), 1)],
        }),
    };
    let variant = metrics.variant("new", "on");
    variant.exposed(DealtBy::Share);
    let text = metrics.render(&Samples {
        rollouts: vec![rollout],
        upstreams: vec![upstream],
        endpoints: vec![sample("10.0.0.1:80", true)],
        certificates: vec![certificate],
        experiments: vec![ExperimentSample {
            experiment: "new".parse().unwrap(),
            is_on: true,
            file_differs: false,
        }],
        edge: EdgeSample { in_flight: 1, memory: Some(2), is_shedding: false },
    });
    for (_, definitions) in names::SECTIONS {
        for definition in *definitions {
            let kind = format!("# TYPE {} {}\n", definition.name, definition.kind.word());
            assert!(text.contains(&kind), "{} is not in:\n{text}", definition.name);
            assert!(definition.name.starts_with("tidegate_"), "{}", definition.name);
            let counts = definition.name.ends_with("_total");
            assert_eq!(counts, definition.kind == names::Kind::Counter, "{}", definition.name);
        }
    }
    let families = text.lines().filter(|line| line.starts_with("# TYPE")).count();
    let defined: usize = names::SECTIONS.iter().map(|(_, list)| list.len()).sum();
    assert_eq!(families, defined, "a family is missing in names::SECTIONS");
}

#[test]
fn a_request_is_counted_by_class_time_and_bytes() {
    let metrics = Metrics::new();
    let route = metrics.route("shop", "rest", Some("web"));
    let in_flight = route.started();
    let labels = r#"{route="rest",site="shop",upstream="web"}"#;
    let series = format!("tidegate_requests_in_flight{labels}");
    assert_eq!(value(&metrics.render(&Samples::default()), &series), Some(1.0));
    route.finished(503, Duration::from_millis(30), Some(Duration::from_millis(20)), 5, 11);
    route.finished(0, Duration::from_millis(1), None, 0, 0);
    drop(in_flight);

    let text = metrics.render(&Samples::default());
    let requests = |class: &str| {
        let series = format!(
            r#"tidegate_requests_total{{route="rest",site="shop",status="{class}",upstream="web"}}"#
        );
        value(&text, &series)
    };
    assert_eq!(requests("5xx"), Some(1.0));
    assert_eq!(requests("none"), Some(1.0));
    assert_eq!(requests("2xx"), Some(0.0));
    let at = |name: &str| value(&text, &format!("{name}{labels}"));
    assert_eq!(at("tidegate_requests_in_flight"), Some(0.0));
    assert_eq!(at("tidegate_request_duration_seconds_count"), Some(2.0));
    assert_eq!(at("tidegate_upstream_duration_seconds_count"), Some(1.0));
    assert_eq!(at("tidegate_own_duration_seconds_count"), Some(2.0));
    let own = at("tidegate_own_duration_seconds_sum").unwrap();
    assert!((own - 0.011).abs() < 1e-9, "{own}");
    assert_eq!(at("tidegate_request_body_bytes_total"), Some(5.0));
    assert_eq!(at("tidegate_response_body_bytes_total"), Some(11.0));

    let stats = metrics.routes();
    assert_eq!(stats.len(), 1);
    assert_eq!((stats[0].requests, stats[0].server_errors, stats[0].in_flight), (2, 1, 0));
}

#[test]
fn counters_go_on_over_a_reload_and_their_series_end_ten_minutes_after_the_last() {
    let metrics = Metrics::new();
    let first = metrics.route("shop", "rest", Some("web"));
    first.finished(200, Duration::ZERO, None, 0, 0);
    let listener = metrics.listener("https");
    let open = listener.accepted();
    let again = metrics.route("shop", "rest", Some("web"));
    assert!(Arc::ptr_eq(&first, &again));

    // A moment without a holder (a rollback) loses nothing.
    drop((first, again));
    let start = Instant::now();
    metrics.sweep(start);
    let back = metrics.route("shop", "rest", Some("web"));
    back.finished(200, Duration::ZERO, None, 0, 0);
    assert_eq!(metrics.routes()[0].requests, 2);

    drop((back, listener));
    metrics.sweep(start);
    metrics.sweep(start + Duration::from_mins(11));
    let text = metrics.render(&Samples::default());
    assert!(!text.contains("site=\"shop\""), "{text}");
    assert!(text.contains("listener=\"https\""), "an open connection holds its listener");
    drop(open);
    metrics.sweep(start + Duration::from_mins(12));
    metrics.sweep(start + Duration::from_mins(23));
    assert!(!metrics.render(&Samples::default()).contains("listener=\"https\""));
}

#[test]
fn listeners_count_connections_and_failures_by_reason() {
    let metrics = Metrics::new();
    let listener = metrics.listener("https");
    let open = listener.accepted();
    drop(listener.accepted());
    listener.refused(ConnectionRefused::ClientLimit);
    listener.handshake(TlsVersion::Tls13);
    listener.handshake_failed(HandshakeFailure::UnknownHost);
    listener.head_refused(HeadRefused::UriTooLong);
    let text = metrics.render(&Samples::default());
    for (series, expected) in [
        (r#"tidegate_connections{listener="https"}"#, 1.0),
        (r#"tidegate_connections_total{listener="https"}"#, 2.0),
        (r#"tidegate_connections_refused_total{listener="https",reason="client_limit"}"#, 1.0),
        (r#"tidegate_tls_handshakes_total{listener="https",version="TLSv1.3"}"#, 1.0),
        (r#"tidegate_tls_handshakes_total{listener="https",version="TLSv1.2"}"#, 0.0),
        (r#"tidegate_tls_handshake_failures_total{listener="https",reason="unknown_host"}"#, 1.0),
        (r#"tidegate_heads_refused_total{listener="https",reason="uri_too_long"}"#, 1.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}");
    }
    assert_eq!(
        metrics.listeners(),
        [ListenerStats { listener: "https".into(), connections: 1, accepted: 2 }]
    );
    drop(open);
}

#[test]
fn the_configuration_and_its_reloads_are_told() {
    let metrics = Metrics::new();
    metrics.generation(3);
    metrics.config_in_sync(false);
    metrics.reloaded(ReloadResult::Refused, UNIX_EPOCH + Duration::from_secs(77));
    metrics.refused(RequestRefused::UnknownHost);
    metrics.upstream("web").retried();
    let snapshot = metrics.snapshot();
    let text = metrics.render(&Samples::default());
    for (series, expected) in [
        ("tidegate_config_generation", 3.0),
        ("tidegate_config_in_sync", 0.0),
        ("tidegate_config_last_reload_timestamp_seconds", 77.0),
        ("tidegate_config_last_reload_successful", 0.0),
        (r#"tidegate_config_reloads_total{result="refused"}"#, 1.0),
        ("tidegate_config_snapshots", 1.0),
        (r#"tidegate_requests_refused_total{reason="unknown_host"}"#, 1.0),
        (r#"tidegate_upstream_retries_total{upstream="web"}"#, 1.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series}");
    }
    drop(snapshot);
    assert_eq!(value(&metrics.render(&Samples::default()), "tidegate_config_snapshots"), Some(0.0));
}

#[test]
fn endpoints_and_certificates_leave_no_series_behind() {
    let metrics = Metrics::new();
    let certificate = |not_after| CertificateSample {
        site: "shop".parse().unwrap(),
        not_after,
        issued: None,
        next_renewal: None,
        failures: None,
        is_standing_in: None,
    };
    let text = metrics.render(&Samples {
        rollouts: Vec::new(),
        upstreams: Vec::new(),
        endpoints: vec![sample("10.0.0.1:80", true), sample("unix:/run/a\"b.sock", false)],
        certificates: vec![certificate(50), certificate(40)],
        experiments: Vec::new(),
        edge: EdgeSample::default(),
    });
    for (series, expected) in [
        (r#"tidegate_endpoint_healthy{endpoint="10.0.0.1:80",upstream="web"}"#, 1.0),
        (r#"tidegate_endpoint_healthy{endpoint="unix:/run/a\"b.sock",upstream="web"}"#, 0.0),
        (r#"tidegate_endpoint_requests_total{endpoint="10.0.0.1:80",upstream="web"}"#, 7.0),
        (
            r#"tidegate_endpoint_faults_total{endpoint="10.0.0.1:80",fault="reset",upstream="web"}"#,
            3.0,
        ),
        (r#"tidegate_certificate_not_after_seconds{site="shop"}"#, 40.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in:\n{text}");
    }
    assert!(!metrics.render(&Samples::default()).contains("tidegate_endpoint_healthy"));
}

#[test]
fn two_edges_in_one_process_do_not_share_counters() {
    let (one, other) = (Metrics::new(), Metrics::new());
    one.refused(RequestRefused::NoRoute);
    let series = r#"tidegate_requests_refused_total{reason="no_route"}"#;
    assert_eq!(value(&one.render(&Samples::default()), series), Some(1.0));
    assert_eq!(value(&other.render(&Samples::default()), series), Some(0.0));
}

#[test]
fn the_pinned_version_of_pingora_is_the_one_that_is_told() {
    let pinned = format!("pingora-proxy = {{ version = \"={PINGORA_VERSION}\"");
    assert!(include_str!("../../../Cargo.toml").contains(&pinned));
}
