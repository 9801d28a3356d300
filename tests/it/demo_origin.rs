//! The demo origin, as `tidegate origin` and a demo run start it.

use std::time::Duration;

use tidegate::origin::{Origins, Settings, Spec, StartError, start};

use crate::harness::{Client, block_on};

fn started(settings: Settings, names: &[&str]) -> Origins {
    let specs = names.iter().map(|name| Spec {
        name: (*name).to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        settings,
    });
    block_on(start(specs.collect())).expect("free ports")
}

fn client(origins: &Origins, i: usize) -> Client {
    Client::to(origins.addresses()[i].1)
}

#[test]
fn it_shows_what_it_saw_over_both_protocols() {
    let origins = started(Settings::default(), &["blue", "green"]);
    let blue = client(&origins, 0);
    let seen = blue.get("/any/path?x=1").header("x-forwarded-for", "192.0.2.1").send();
    assert_eq!(seen.header("x-origin"), Some("blue"));
    let seen = seen.assert_status(200).json();
    assert_eq!((&seen["origin"], &seen["request"]), (&"blue".into(), &1.into()));
    assert_eq!((&seen["method"], &seen["path"]), (&"GET".into(), &"/any/path?x=1".into()));
    assert_eq!(seen["headers"]["x-forwarded-for"][0], "192.0.2.1");
    let seen = client(&origins, 1).http2().get("/").send().json();
    assert_eq!((&seen["origin"], &seen["version"]), (&"green".into(), &"HTTP/2.0".into()));
}

#[test]
fn its_settings_change_while_it_runs() {
    let origins = started(Settings::default(), &["blue"]);
    let blue = client(&origins, 0);
    let changed = blue.post("/-/origin?latency=30ms&error_rate=100%25&health=503").send();
    assert_eq!(changed.assert_status(200).json()["error_rate"], "100%");
    let failed = blue.get("/").send().assert_status(500);
    assert!(failed.elapsed >= Duration::from_millis(30));
    blue.get("/healthz").send().assert_status(503);
    blue.post("/-/origin?error_rate=0%&latency=0s&health=200").send().assert_status(200);
    blue.get("/").send().assert_status(200);
    blue.get("/healthz").send().assert_status(200);
    let refused = blue.post("/-/origin?latency=9ms&colour=red").send().assert_status(400);
    assert!(refused.text().contains("no setting \"colour\""), "{}", refused.text());
    assert_eq!(blue.get("/-/origin").send().json()["latency"], "0s");
    blue.request("DELETE", "/-/origin").send().assert_status(405);
}

#[test]
fn each_path_does_what_the_help_says() {
    let origins = started(Settings::default(), &["blue"]);
    let blue = client(&origins, 0);
    let echoed = blue.post("/echo").header("content-type", "text/x").body("hello").send();
    assert_eq!((echoed.text().as_str(), echoed.header("content-type")), ("hello", Some("text/x")));
    let bytes = blue.get("/bytes?n=100KiB").send();
    assert_eq!((bytes.body.len(), bytes.header("content-length")), (102_400, Some("102400")));
    blue.get("/bytes?n=many").send().assert_status(400);
    blue.get("/status/418").send().assert_status(418);
    blue.get("/status/9").send().assert_status(400);
    assert!(blue.get("/slow?for=30ms").send().elapsed >= Duration::from_millis(30));
    let mut events = blue.get("/sse?interval=5ms").events().unwrap();
    for number in ["1", "2"] {
        assert_eq!(events.next(Duration::from_secs(5)).unwrap().unwrap().data, number);
    }
}

#[test]
fn an_address_that_is_taken_is_named_and_a_dropped_handle_frees_it() {
    let origins = started(Settings::default(), &["blue"]);
    let (_, address) = origins.addresses()[0].clone();
    let spec = Spec { name: "green".to_owned(), listen: address, settings: Settings::default() };
    let error: StartError = block_on(start(vec![spec.clone()])).unwrap_err();
    assert_eq!(error.to_string(), format!("origin \"green\" can't be bound to {address}"));
    block_on(async { drop(origins) });
    crate::assert_eventually!(block_on(start(vec![spec.clone()])).is_ok());
}
