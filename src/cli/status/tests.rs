use std::sync::Arc;

use clap::{Args as _, FromArgMatches as _};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::{
    AdminServer, CertificateOrigin, CertificateStatus, ConfigurationStatus, Control,
    EndpointStatus, ExperimentsStatus, LimitsStatus, ListenerStatus, OverloadStatus, ReloadOutcome,
    ReloadStatus, RouteStatus, SiteStatus, Token, UpstreamStatus,
};
use crate::telemetry::{LogLevelStatus, audit::AdminPeer};

fn sample() -> Status {
    let endpoint = |address: &str, health, last_error: Option<&str>| EndpointStatus {
        address: address.into(),
        weight: 1,
        priority: 0,
        zone: None,
        ejected: None,
        slow_start: None,
        health,
        since: Some("2026-11-21T07:30:00.000Z".into()),
        last_error: last_error.map(Into::into),
        in_flight: 2,
        streams: 0,
        latency_ms: None,
        faults: std::collections::BTreeMap::new(),
        requests: 31,
    };
    Status {
        version: "0.1.0".into(),
        state: Readiness::Ready,
        started: "2026-11-21T05:30:00.000Z".into(),
        uptime_seconds: 7_500,
        generation: 7,
        configuration: ConfigurationStatus {
            file: "conf/tidegate.toml".into(),
            hash: "0123456789abcdef".into(),
            loaded_at: "2026-11-21T07:34:57.000Z".into(),
            in_sync: false,
            last_reload: Some(ReloadStatus {
                at: "2026-11-21T07:35:00.000Z".into(),
                result: ReloadResult::Refused,
                problems: vec!["tidegate.toml:3:1 sites.shop: no\nsuch upstream".into()],
            }),
        },
        log: Some(LogLevelStatus {
            level: "debug".into(),
            configured: "info".into(),
            changed: true,
            until: Some("2026-11-21T08:00:00.000Z".into()),
        }),
        listeners: vec![ListenerStatus {
            name: "https".into(),
            address: "[::]:443".into(),
            tls: true,
            connections: 5,
        }],
        experiments: ExperimentsStatus {
            experiments: Vec::new(),
            problem: Some("experiments.json is\nbroken".into()),
        },
        sites: vec![SiteStatus {
            name: "shop".into(),
            hosts: vec!["shop.example.com".into(), "*.shop.example.com".into()],
            routes: vec!["rest".into()],
        }],
        upstreams: vec![
            UpstreamStatus {
                name: "web".into(),
                balance: "least-conn".into(),
                in_service: 1,
                panic: None,
                below_stable_min: None,
                limits: LimitsStatus::default(),
                endpoints: vec![
                    endpoint("10.0.0.11:8080", HealthStatus::Healthy, None),
                    endpoint("10.0.0.12:8080", HealthStatus::Unhealthy, Some("refused\x1b[2J")),
                ],
                names: Vec::new(),
            },
            UpstreamStatus {
                name: "none".into(),
                balance: "x".into(),
                in_service: 0,
                panic: None,
                below_stable_min: None,
                limits: LimitsStatus::default(),
                endpoints: Vec::new(),
                names: Vec::new(),
            },
        ],
        overload: OverloadStatus::default(),
        certificates: ["2026-11-20T07:35:00Z", "2026-11-23T07:35:00Z", "2027-11-21T07:35:00Z"]
            .map(|not_after| CertificateStatus {
                site: "shop".into(),
                names: vec!["shop.example.com".into()],
                issuer: "Test CA".into(),
                not_after: not_after.into(),
                source: CertificateOrigin::Files,
                standing_in: false,
                authority: None,
                issued: None,
                next_renewal: None,
                failures: 0,
                error: None,
            })
            .into(),
        routes: vec![RouteStatus {
            site: "shop".into(),
            route: "rest".into(),
            upstream: Some("web".into()),
            requests: 12,
            server_errors: 1,
            in_flight: 3,
        }],
    }
}

fn now() -> SystemTime {
    "2026-11-21T07:35:00Z".parse::<Timestamp>().unwrap().into()
}

#[test]
fn the_status_is_shown_as_tables() {
    let text = render(&sample(), now());
    assert!(text.contains("\x1b[32mhealthy\x1b[0m"), "{text}");
    assert!(text.contains("\x1b[31munhealthy\x1b[0m"), "{text}");
    let plain = anstream::adapter::strip_str(&text).to_string();
    let expected = "\
tidegate 0.1.0  ready  up 2h 5m
configuration 0123456789ab from conf/tidegate.toml, generation 7, in force since 3s ago
The file on disk is not the configuration in force: `tidegate check` tells whether it is right.
log level changed to debug until 2026-11-21T08:00:00.000Z; without that it is info
What was switched of experiments is not what the state directory has: experiments.json is\u{FFFD}broken
last reload 0s ago: refused
  tidegate.toml:3:1 sites.shop: no
  such upstream

Listeners
NAME   ADDRESS   TLS  CONNECTIONS
https  [::]:443  yes  5

Sites
NAME  HOSTS                                ROUTES
shop  shop.example.com *.shop.example.com  rest

Upstreams
NAME  BALANCE     ENDPOINT        WEIGHT  HEALTH     SINCE      IN FLIGHT  REQUESTS  LAST ERROR
web   least-conn  10.0.0.11:8080  1       healthy    5m 0s ago  2          31
web   least-conn  10.0.0.12:8080  1       unhealthy  5m 0s ago  2          31        refused\u{FFFD}[2J
none  x           -               -       -          -          -          -         no endpoints

Certificates
SITE  STATE    ENDS        ISSUER   NAMES
shop  expired  1d 0h ago   Test CA  shop.example.com
shop  ending   in 2d 0h    Test CA  shop.example.com
shop  valid    in 365d 0h  Test CA  shop.example.com

Requests
SITE  ROUTE  UPSTREAM  REQUESTS  5XX  IN FLIGHT
shop  rest   web       12        1    3
";
    assert_eq!(plain, expected);
}

#[test]
fn an_empty_edge_shows_no_empty_tables() {
    let text = render(&Status::default(), now());
    assert!(!text.contains("NAME"), "{text}");
}

#[test]
fn spans_have_two_units() {
    for (seconds, text) in
        [(0, "0s"), (59, "59s"), (61, "1m 1s"), (3_600, "1h 0m"), (90_000, "1d 1h")]
    {
        assert_eq!(span(seconds), text);
    }
}

fn args(list: &[&str]) -> StatusArgs {
    let command = StatusArgs::augment_args(clap::Command::new("status").no_binary_name(true));
    StatusArgs::from_arg_matches(&command.try_get_matches_from(list).unwrap()).unwrap()
}

struct Fake;

impl Control for Fake {
    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn status(&self) -> Status {
        sample()
    }

    fn metrics(&self) -> String {
        String::new()
    }

    fn reload(&self, _: AdminPeer) -> BoxFuture<'_, ReloadOutcome> {
        Box::pin(std::future::ready(ReloadOutcome::Unchanged { generation: 1 }))
    }
}

/// What the command prints for the edge at `address`.
async fn ask(address: &str, more: &[&str]) -> anyhow::Result<String> {
    let mut list = vec!["--admin", address];
    list.extend(more);
    let args = args(&list);
    text(&AdminClient::new(&args.admin)?, args.json).await
}

#[tokio::test]
async fn a_running_edge_is_asked_over_tcp_and_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("admin.sock").display());
    for bind in ["127.0.0.1:0", &socket] {
        let server = AdminServer::bind(&bind.parse().unwrap()).unwrap();
        let address = server.address().to_string();
        tokio::spawn(server.serve(Arc::new(Fake), None, CancellationToken::default()));
        assert!(ask(&address, &[]).await.unwrap().contains("10.0.0.11:8080"));
        let json = ask(&address, &["--json"]).await.unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), sample());
    }
}

#[tokio::test]
async fn a_token_is_sent_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    let token = Token::open(&crate::types::SecretSource::File(file.clone())).unwrap();
    let server = AdminServer::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address().to_string();
    tokio::spawn(server.serve(Arc::new(Fake), Some(token), CancellationToken::default()));
    let error = ask(&address, &[]).await.unwrap_err();
    assert!(error.to_string().contains("--token-file"), "{error}");
    assert!(ask(&address, &["--token-file", file.to_str().unwrap()]).await.is_ok());
}

#[tokio::test]
async fn an_edge_that_is_not_there_is_said_to_be_not_there() {
    // A port that was free a moment ago.
    let server = AdminServer::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address().to_string();
    drop(server);
    let error = ask(&address, &[]).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("no edge answers at http://{address}; is it running?")));
    assert!(ask("unix:/nonexistent/admin.sock", &[]).await.is_err());
}
