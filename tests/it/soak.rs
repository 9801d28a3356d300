//! Reloads under load: nothing that is on its way may notice.

use std::{collections::VecDeque, time::Duration};

use crate::{
    assert_eventually,
    harness::{Edge, Origin, Tls},
};

/// WebSockets that are open at a time, beside those that stay open all along.
const OPEN_WEB_SOCKETS: usize = 30;
const SOON: Duration = Duration::from_secs(10);

/// The configuration of generation `k`: its number stands in a header and in a body, a quarter of the generations has
/// other endpoints than the one before, some have a listener more.
fn generation(k: usize) -> String {
    let (first, second) = if (k / 4).is_multiple_of(2) { ("{0}", "{1}") } else { ("{2}", "{3}") };
    let extra = match k % 5 {
        0 => "[listeners.extra]\naddress = \"127.0.0.1:0\"\n".to_owned(),
        1 => format!("[listeners.extra{k}]\naddress = \"127.0.0.1:0\"\n"),
        _ => String::new(),
    };
    format!(
        r#"
        {extra}
        [listeners.http]
        address = "127.0.0.1:0"
        [listeners.https]
        address = "127.0.0.1:0"
        tls = true
        [policies.generation.headers]
        response = {{ set = {{ X-Generation = "{k}" }} }}
        [upstreams.api]
        endpoints = ["{first}", "{second}"]
        health_check = {{ path = "/healthz", interval = "1s" }}
        [upstreams.socket]
        endpoints = ["{{4}}"]
        [upstreams.events]
        endpoints = ["{{5}}"]
        [upstreams.download]
        endpoints = ["{{6}}"]
        [sites.test]
        hosts = ["localhost", "127.0.0.1"]
        listeners = ["http", "https"]
        policies = ["generation"]
        upstream = "api"
        [sites.test.routes.generation]
        path = "/generation"
        respond = {{ body = "{k}" }}
        [sites.test.routes.socket]
        path = "/socket"
        upstream = "socket"
        [sites.test.routes.events]
        path = "/events"
        upstream = "events"
        [sites.test.routes.download]
        path = "/download"
        upstream = "download"
        "#
    )
}

/// Reloads `reloads` times under load; gives resident memory after each, in bytes.
fn reload_under_load(reloads: usize) -> Vec<u64> {
    let endpoints: [Origin; 4] = std::array::from_fn(|_| Origin::answering(200));
    let sockets = Origin::builder().web_socket().start();
    let events = Origin::builder().events(Duration::from_millis(50)).start();
    let download = Origin::builder().paced(1 << 30, 1_000, Duration::from_millis(50)).start();
    let [a, b, c, d] = &endpoints;
    let edge = Edge::spawn(&[a, b, c, d, &sockets, &events, &download], &generation(0));
    let client = edge.client();

    let mut kept: Vec<_> = (0..5).map(|_| client.web_socket("/socket").unwrap()).collect();
    let mut streams: Vec<_> = (0..3).map(|_| client.get("/events").events().unwrap()).collect();
    let mut downloads: Vec<_> = (0..3).map(|_| client.get("/download").open().unwrap()).collect();
    let same = |response: &crate::harness::Response| {
        let header = response.header("x-generation").unwrap_or_default().to_owned();
        if header == response.text() {
            Ok(())
        } else {
            Err(format!("{header} and {}", response.text()))
        }
    };
    let pause = Duration::from_millis(5);
    let tls = edge.tls_client(Tls::any()).host("localhost");
    let loads = [
        client.get("/").load(4).pause(pause).start(),
        edge.client().new_connections().get("/").load(2).pause(pause).start(),
        edge.client().get("/generation").load(2).pause(pause).check(same).start(),
        tls.clone().get("/").load(2).pause(pause).start(),
        tls.http2().post("/").body("abc").load(2).pause(pause).start(),
    ];

    let mut memory = Vec::with_capacity(reloads);
    let mut open = VecDeque::new();
    for k in 1..=reloads {
        edge.reload_with(&generation(k)).unwrap_or_else(|error| panic!("reload {k}: {error}"));
        open.push_back(client.web_socket("/socket").unwrap());
        if open.len() > OPEN_WEB_SOCKETS
            && let Some(mut oldest) = open.pop_front()
        {
            // It was opened under a generation that is long gone.
            assert_eq!(oldest.echo("still here"), "still here");
        }
        memory.push(edge.rss());
    }

    for load in loads {
        load.stop().assert_all_ok();
    }
    for socket in kept.iter_mut().chain(&mut open) {
        assert_eq!(socket.echo("still here"), "still here");
    }
    for stream in &mut streams {
        assert!(stream.next(SOON).unwrap().is_some(), "an event stream was closed");
    }
    for download in &mut downloads {
        assert!(download.next(SOON).unwrap().is_some(), "a download was closed");
    }
    assert_eq!(edge.metric("tidegate_config_generation", ()), reloads as f64 + 1.0);
    // Streams that stay open hold no generation.
    assert_eventually!(edge.metric("tidegate_config_snapshots", ()) == 1.0);
    memory
}

#[test]
fn reloads_under_load_are_not_noticed() {
    reload_under_load(150);
}

#[test]
#[ignore = "slow: a thousand reloads, about three minutes"]
fn a_thousand_reloads_under_load_are_not_noticed_and_leave_no_memory_behind() {
    let memory = reload_under_load(1_000);
    let hundreds = (memory.len() - 200) as f64 / 100.0;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let slope = (mib(memory[memory.len() - 1]) - mib(memory[199])) / hundreds;
    println!(
        "after 200: {:.1} MiB, at the end: {:.1} MiB",
        mib(memory[199]),
        mib(memory[memory.len() - 1])
    );
    assert!(slope < 1.0, "{slope:.2} MiB for each 100 reloads");
}
