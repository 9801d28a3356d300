//! The edge's own HTTP requests: bounds, and what their errors say.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tidegate::{
    telemetry::outgoing::{Outgoing, OutgoingError},
    types::HttpUrl,
};

use crate::harness::{Authority, Origin, RawOrigin, block_on, origin::Step};

const LONG: Duration = Duration::from_secs(30);

/// Asks with a secret in path, query and header.
fn ask(base: &str, ca: Option<&Path>, deadline: Duration) -> Result<(u16, Bytes), OutgoingError> {
    let url: HttpUrl = format!("{base}/hidden-path?key=hidden-query").parse().unwrap();
    let request = Request::get(url.expose().clone())
        .header("authorization", "Bearer hidden-header")
        .body(Full::default())
        .unwrap();
    let answer = block_on(async { Outgoing::to(&url, ca)?.ask(request, deadline).await })?;
    Ok((answer.status().as_u16(), answer.into_body()))
}

/// What is said of a failure; it must have no secret in it.
#[track_caller]
fn said(result: Result<(u16, Bytes), OutgoingError>) -> String {
    let error = result.expect_err("a failure");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("hidden"), "{text}");
    error.to_string()
}

#[test]
fn an_answer_of_any_status_is_an_answer_and_no_redirect_is_followed() {
    let elsewhere = Origin::answering(200);
    let location = format!("http://{elsewhere}/");
    let origin = Origin::builder().status(307).header("location", &location).body("moved").start();
    let answered = ask(&format!("http://{origin}"), None, LONG).unwrap();
    assert_eq!(answered, (307, "moved".into()));
    assert_eq!(elsewhere.requests(), 0);
    let request = origin.last_request();
    assert_eq!(request.path, "/hidden-path?key=hidden-query");
    assert!(request.header("user-agent").unwrap().starts_with("tidegate/"));
}

#[test]
fn a_long_answer_a_slow_one_and_a_cut_one_are_errors() {
    let long = Origin::builder().download((1 << 20) + 1).start();
    assert_eq!(
        said(ask(&format!("http://{long}"), None, LONG)),
        "the answer is longer than 1048576 bytes"
    );
    let fits = Origin::builder().download(1 << 20).start();
    assert_eq!(ask(&format!("http://{fits}"), None, LONG).unwrap().1.len(), 1 << 20);
    // The deadline is for the whole of it: bytes that keep coming do not move it.
    let slow = Origin::builder().paced(10_000, 1, Duration::from_millis(20)).start();
    let began = Instant::now();
    let deadline = Duration::from_millis(500);
    assert_eq!(
        said(ask(&format!("http://{slow}"), None, deadline)),
        "there is no whole answer within 500ms"
    );
    assert!(began.elapsed() >= deadline);
    let cut = Origin::builder().truncated(100, 10).start();
    assert!(said(ask(&format!("http://{cut}"), None, LONG)).starts_with("the exchange failed: "));
    let garbage = RawOrigin::playing(vec![Step::Write("no http\r\n\r\n".into()), Step::Close]);
    let said = said(ask(&format!("http://{}", garbage.address()), None, LONG));
    assert!(said.starts_with("the exchange failed: "), "{said}");
}

#[test]
fn where_nobody_listens_there_is_no_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let said = said(ask(&format!("http://{address}"), None, LONG));
    assert!(said.starts_with("there is no connection: Connection refused"), "{said}");
}

#[test]
fn a_certificate_counts_by_the_authorities_in_the_file() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let origin = Origin::builder().tls(&ours.issue(&["localhost"])).start();
    let base = format!("https://localhost:{}", origin.port());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let (right, wrong) = (file("right.pem", ours.pem()), file("wrong.pem", other.pem()));
    assert_eq!(ask(&base, Some(&right), LONG).unwrap().0, 200);
    for ca in [None, Some(wrong.as_path())] {
        let said = said(ask(&base, ca, LONG));
        assert!(said.starts_with("there is no connection: invalid peer certificate"), "{said}");
    }
    let by_address = format!("https://127.0.0.1:{}", origin.port());
    assert!(said(ask(&by_address, Some(&right), LONG)).contains("invalid peer certificate"));
    let empty = file("empty.pem", "");
    let text = said(ask(&base, Some(&empty), LONG));
    assert!(text.ends_with("empty.pem can't be used: it has no certificate in it"), "{text}");
    assert_eq!(origin.requests(), 1);
}
