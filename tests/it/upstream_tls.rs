//! TLS to endpoints: who is verified, what the edge shows of itself, and what changes when the files do.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use crate::{
    assert_eventually,
    harness::{Authority, Certificate, Edge, Origin, Play, TcpOrigin, origin::Builder},
};

/// A look at files, what must stay still, a handshake; on a machine that has other work.
const SOON: Duration = Duration::from_secs(30);

/// An authority of endpoints, one of clients, and the edge's files: `ca.pem`, `edge.pem` and `edge.key`.
struct Setting {
    folder: TempDir,
    endpoints: Authority,
    clients: Authority,
    edge: Certificate,
}

impl Setting {
    fn new() -> Self {
        let setting = Self {
            folder: tempfile::tempdir().unwrap(),
            endpoints: Authority::new("endpoints"),
            clients: Authority::new("clients"),
            edge: Authority::new("none").issue(&["edge.test"]),
        };
        let edge = setting.clients.issue(&["edge.test"]);
        setting.write("ca.pem", setting.endpoints.pem());
        edge.write_to(setting.folder.path(), "edge");
        Self { edge, ..setting }
    }

    /// Puts a whole file in the place of another, as tools that renew certificates do.
    fn write(&self, name: &str, text: &str) {
        let beside = self.path("beside");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, self.path(name)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An origin that takes only clients with a certificate.
    fn strict(&self) -> Builder {
        let certificate = self.endpoints.issue(&["app.test", "127.0.0.1"]);
        Origin::builder().tls(&certificate).asking_for_certificates(&self.clients)
    }

    /// An upstream with these keys of `tls`; `{folder}` is where the files are.
    fn text(&self, tls: &str, more: &str) -> String {
        let tls = tls.replace("{folder}", &self.folder.path().display().to_string());
        format!(
            "[upstreams.app]\nendpoints = [\"{{0}}\"]\ntls = {{ {tls} }}\n{more}\n\
             [sites.a]\nhosts = [\"a.test\"]\nlisteners = [\"http\"]\nupstream = \"app\"\n"
        )
    }

    fn with_certificate(&self, more: &str) -> String {
        let files =
            "client_certificate = { chain = \"{folder}/edge.pem\", key = \"{folder}/edge.key\" }";
        self.text(&format!("ca = \"{{folder}}/ca.pem\", {files}"), more)
    }
}

fn clients_of(origin: &Origin) -> Vec<Vec<u8>> {
    origin.handshakes().into_iter().filter_map(|handshake| handshake.client).collect()
}

#[test]
fn a_client_certificate_is_shown_in_both_protocols() {
    let setting = Setting::new();
    for (origin, protocol, version) in [
        (setting.strict().start(), "http1", "HTTP/1.1"),
        (setting.strict().start(), "auto", "HTTP/2.0"),
        (setting.strict().http1().start(), "auto", "HTTP/1.1"),
        (setting.strict().http2().start(), "http2", "HTTP/2.0"),
    ] {
        let protocol = format!("protocol = \"{protocol}\"");
        let edge = Edge::start(&[&origin], &setting.with_certificate(&protocol));
        let client = edge.client().host("a.test");
        client.get("/").times(3).all_status(200);
        assert_eq!(format!("{:?}", origin.last_request().version), version, "{protocol}");
        let seen = clients_of(&origin);
        assert!(!seen.is_empty() && seen.iter().all(|seen| *seen == setting.edge.der.to_vec()));
        // Nothing to show.
        let before = origin.requests();
        edge.reload_with(&setting.text("ca = \"{folder}/ca.pem\"", &protocol)).unwrap();
        client.get("/").send().assert_status(502);
        // A certificate that the endpoint does not trust.
        let stranger = Authority::new("strangers").issue(&["edge.test"]);
        stranger.write_to(setting.folder.path(), "stranger");
        let text = setting.with_certificate(&protocol).replace("/edge.", "/stranger.");
        edge.reload_with(&text).unwrap();
        client.get("/").send().assert_status(502);
        // An endpoint that we do not trust.
        setting.write("other-ca.pem", Authority::new("others").pem());
        let text = setting.with_certificate(&protocol).replace("/ca.pem", "/other-ca.pem");
        edge.reload_with(&text).unwrap();
        client.get("/").send().assert_status(502);
        assert_eq!(origin.requests(), before, "{protocol}");
        edge.reload_with(&setting.with_certificate(&protocol)).unwrap();
        client.get("/").send().assert_status(200);
    }
}

#[test]
fn the_name_is_asked_for_and_verified() {
    let setting = Setting::new();
    let named = setting.endpoints.issue(&["app.test"]);
    let by_address = setting.endpoints.issue(&["127.0.0.1"]);
    for (certificate, name, status, asked) in [
        (&named, "server_name = \"app.test\"", 200, Some("app.test")),
        (&named, "server_name = \"other.test\"", 502, None),
        (&named, "", 502, None),
        (&by_address, "", 200, None), // an address is never asked for (RFC 6066, section 3)
        (&named, "insecure_skip_verify = true", 200, None),
    ] {
        for protocol in ["http1", "http2"] {
            let origin = Origin::builder().tls(certificate).start();
            let tls = if name.is_empty() { String::new() } else { format!(", {name}") };
            let text = setting.text(
                &format!("ca = \"{{folder}}/ca.pem\"{tls}"),
                &format!("protocol = \"{protocol}\""),
            );
            let edge = Edge::start(&[&origin], &text);
            edge.client().host("a.test").get("/").send().assert_status(status);
            let handshakes = origin.handshakes();
            assert_eq!(handshakes.is_empty(), status == 502, "{name} {protocol}");
            if let Some(handshake) = handshakes.first() {
                assert_eq!(handshake.server_name.as_deref(), asked, "{name} {protocol}");
            }
        }
    }
}

#[test]
fn a_handshake_that_fails_or_never_ends_is_told_as_such() {
    let setting = Setting::new();
    let other = setting.endpoints.issue(&["other.test"]);
    for protocol in ["http1", "http2"] {
        let refusing = Origin::builder().tls(&other).start();
        // It takes the connection, and reads.
        let silent = TcpOrigin::playing(Play::AnswerAtEnd("".into()));
        for (address, status, error) in
            [(refusing.address(), 502, "upstream_tls"), (silent.address(), 504, "connect_timeout")]
        {
            let more = format!(
                "protocol = \"{protocol}\"\nproxy_protocol = \"v1\"\n\
                 retries = {{ tries = 1 }}\ntimeouts = {{ connect = \"700ms\" }}"
            );
            let more = if status == 502 { more.replace("\"v1\"", "\"off\"") } else { more };
            let edge = Edge::start(&[&address], &setting.text("ca = \"{folder}/ca.pem\"", &more));
            edge.client().host("a.test").get("/").send().assert_status(status);
            assert_eventually!(edge.access_log().len() == 1);
            assert_eq!(edge.access_log()[0]["error"], error, "{protocol}");
        }
        // The PROXY header goes before the handshake.
        let received = silent.received();
        let text = received.first().unwrap();
        let end = text.windows(2).position(|window| window == b"\r\n").unwrap() + 2;
        assert!(text.starts_with(b"PROXY TCP4 127.0.0.1 "), "{text:?}");
        assert_eq!(text.get(end), Some(&0x16), "a handshake's record: {text:?}");
    }
}

#[test]
fn web_sockets_go_over_tls_with_the_certificate() {
    let setting = Setting::new();
    let origin = setting.strict().http1().web_socket().start();
    let edge = Edge::start(&[&origin], &setting.with_certificate(""));
    let mut socket = edge.client().host("a.test").web_socket("/").unwrap();
    let long = "x".repeat(200_000);
    assert_eq!(socket.echo(&long), long);
    socket.close().unwrap();
    assert_eventually!(origin.open_connections() == 0);
}

#[test]
fn connections_are_kept_and_new_ones_resume_sessions() {
    let setting = Setting::new();
    let keeping = setting.strict().http1().start();
    let edge = Edge::start(&[&keeping], &setting.with_certificate(""));
    edge.client().host("a.test").get("/").times(20).all_status(200);
    assert_eq!(keeping.connections(), 1);

    let closing = setting.strict().http1().requests_per_connection(1).start();
    let edge = Edge::start(&[&closing], &setting.with_certificate(""));
    edge.client().host("a.test").get("/").times(20).all_status(200);
    let handshakes = closing.handshakes();
    let resumed = handshakes.iter().filter(|handshake| handshake.is_resumed).count();
    assert_eq!((handshakes.len(), resumed), (20, 19), "only the first is a whole one");
    // The endpoint still knows who it is.
    assert!(clients_of(&closing).len() == 20);
}

#[test]
fn files_that_change_are_taken_without_a_failed_request() {
    let setting = Setting::new();
    for (origin, protocol) in
        [(setting.strict().http1().start(), "http1"), (setting.strict().http2().start(), "http2")]
    {
        let text = setting.with_certificate(&format!("protocol = \"{protocol}\""));
        let edge = Edge::start(&[&origin], &text);
        let client = edge.client().host("a.test");
        client.get("/").send().assert_status(200);
        let load = client.get("/").load(4).pause(Duration::from_millis(5)).start();

        // The edge's own certificate.
        assert_eventually!(load.completed() > 20, within SOON);
        let before = origin.connections();
        let renewed = setting.clients.issue(&["edge.test"]);
        renewed.write_to(setting.folder.path(), "edge");
        let renewed = renewed.der.to_vec();
        assert_eventually!(clients_of(&origin).contains(&renewed), within SOON);
        // Connections of before carry nothing any more.
        let completed = load.completed();
        assert_eventually!(load.completed() > completed + 20, within SOON);
        assert!(origin.recorded().iter().rev().take(8).all(|seen| seen.connection > before));

        // The authority of the endpoints: both, the endpoint's new certificate, only the new one.
        let next = Authority::new("endpoints, next");
        let both = format!("{}{}", setting.endpoints.pem(), next.pem());
        let handshakes = whole_handshakes(&origin);
        setting.write("ca.pem", &both);
        assert_eventually!(whole_handshakes(&origin) > handshakes, within SOON);
        origin.set_certificate(&next.issue(&["127.0.0.1"]));
        setting.write("ca.pem", next.pem());
        let handshakes = whole_handshakes(&origin);
        assert_eventually!(whole_handshakes(&origin) > handshakes, within SOON);
        let completed = load.completed();
        assert_eventually!(load.completed() > completed + 50, within SOON);
        load.stop().assert_all_ok();
        // For the next round.
        setting.write("ca.pem", setting.endpoints.pem());
        setting.edge.write_to(setting.folder.path(), "edge");
    }
}

/// Whole handshakes: sessions are resumed until the configuration is another.
fn whole_handshakes(origin: &Origin) -> usize {
    origin.handshakes().iter().filter(|handshake| !handshake.is_resumed).count()
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_once() {
    let setting = Setting::new();
    let origin = setting.strict().http1().requests_per_connection(1).start();
    let edge = Edge::spawn(&[&origin], &setting.with_certificate(""));
    let client = edge.client().host("a.test");
    client.get("/").send().assert_status(200);
    let told = || edge.logs().matches("TLS files of upstreams not taken").count();
    let kept = || client.get("/").times(3).all_status(200);

    setting.write("edge.key", &setting.clients.issue(&["edge.test"]).key_pem);
    assert_eventually!(told() == 1, within SOON);
    assert!(edge.logs().contains("is not that of a certificate in"), "{}", edge.logs());
    kept();
    setting.write("ca.pem", "rubbish");
    assert_eventually!(told() == 2, within SOON);
    kept();
    let old = setting.edge.der.to_vec();
    assert!(clients_of(&origin).iter().all(|client| *client == old));

    setting.write("ca.pem", setting.endpoints.pem());
    let renewed = setting.clients.issue(&["edge.test"]);
    renewed.write_to(setting.folder.path(), "edge");
    assert_eventually!(
        {
            kept();
            clients_of(&origin).contains(&renewed.der.to_vec())
        },
        within SOON
    );
    assert!(!edge.logs().contains("PRIVATE KEY"));
}

#[test]
fn health_checks_show_the_certificate() {
    let setting = Setting::new();
    for protocol in ["http1", "http2"] {
        let origin = setting.strict().start();
        let more = format!(
            "protocol = \"{protocol}\"\n\
             health_check = {{ path = \"/healthz\", interval = \"100ms\", timeout = \"10s\" }}"
        );
        let edge = Edge::start(&[&origin], &setting.with_certificate(&more));
        assert_eventually!(origin.probes() > 2, within SOON);
        // There is nothing but probes yet: they take what has changed, and the endpoint stays healthy.
        let renewed = setting.clients.issue(&["edge.test"]);
        renewed.write_to(setting.folder.path(), "edge");
        assert_eventually!(clients_of(&origin).contains(&renewed.der.to_vec()), within SOON);
        let status = edge.status().to_string();
        assert!(status.contains("\"healthy\"") && !status.contains("\"unhealthy\""), "{status}");
        edge.client().host("a.test").get("/").send().assert_status(200);
        edge.reload_with(&setting.text("ca = \"{folder}/ca.pem\"", &more)).unwrap();
        let is_refused = || edge.client().host("a.test").get("/").send().status == 503;
        assert_eventually!(is_refused(), within SOON);
    }
}

#[test]
fn what_can_not_be_used_is_said_with_its_place() {
    let setting = Setting::new();
    let origin = setting.strict().start();
    let edge = Edge::start(&[&origin], &setting.with_certificate(""));
    let day = Duration::from_hours(24);
    let expired = setting.clients.issue_with(&["edge.test"], |params| {
        params.not_before = (SystemTime::now() - 2 * day).into();
        params.not_after = (SystemTime::now() - day).into();
    });
    expired.write_to(setting.folder.path(), "expired");
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    setting.write("encrypted.key", encrypted);
    setting.clients.issue(&["edge.test"]).write_to(setting.folder.path(), "other");
    for (chain, key, ca, expected) in [
        ("edge.pem", "other.key", "ca.pem", "is not that of a certificate in"),
        ("expired.pem", "expired.key", "ca.pem", "expired at"),
        ("edge.pem", "encrypted.key", "ca.pem", "is encrypted"),
        ("edge.pem", "missing.key", "ca.pem", "does not exist"),
        ("missing.pem", "edge.key", "ca.pem", "does not exist"),
        ("edge.pem", "edge.key", "edge.key", "there is no certificate in the file"),
    ] {
        let text = setting
            .with_certificate("")
            .replace("/edge.pem", &format!("/{chain}"))
            .replace("/edge.key", &format!("/{key}"))
            .replace("/ca.pem", &format!("/{ca}"));
        let refused = edge.reload_with(&text).unwrap_err();
        assert!(refused.contains(expected), "{expected}: {refused}");
        assert!(refused.contains("upstreams.app.tls"), "{refused}");
        assert!(refused.contains("\"line\":3"), "{refused}");
    }
    edge.client().host("a.test").get("/").send().assert_status(200);
}

#[test]
fn check_warns_of_each_upstream_that_takes_any_certificate() {
    let setting = Setting::new();
    let path = setting.path("edge.toml");
    let text = setting.text("insecure_skip_verify = true", "").replace("{0}", "10.0.0.1:443");
    std::fs::write(&path, format!("{text}[listeners.http]\naddress = \"127.0.0.1:0\"\n")).unwrap();
    let output = check(&path);
    assert!(output.contains("INSECURE: the upstream `app`"), "{output}");
    assert!(output.contains("edge.toml:3:"), "{output}");
}

fn check(file: &Path) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("check")
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success());
    [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
}
