//! Sites that ask clients for certificates: who gets in, what endpoints are told, and what a change does to connections.

use std::time::{Duration, SystemTime};

use rcgen::SanType;
use tempfile::TempDir;

use crate::{
    assert_eventually,
    harness::{
        Edge, Origin, Tls,
        certificate::{Authority, Certificate},
        client::Client,
    },
};

const DAY: Duration = Duration::from_hours(24);

/// Two authorities of clients, one of them trusted, and two sites: `a` asks for certificates, `b` does not.
struct Setting {
    origin: Origin,
    folder: TempDir,
    trusted: Authority,
    stranger: Authority,
}

impl Setting {
    fn new() -> Self {
        let setting = Self {
            origin: Origin::answering(200),
            folder: tempfile::tempdir().unwrap(),
            trusted: Authority::new("clients"),
            stranger: Authority::new("strangers"),
        };
        std::fs::write(setting.folder.path().join("ca.pem"), setting.trusted.pem()).unwrap();
        setting
    }

    /// With these keys of `client_auth` of the site `a`.
    fn text(&self, keys: &str) -> String {
        let folder = self.folder.path().display();
        let keys = keys.replace("{folder}", &folder.to_string());
        format!(
            r#"
            [listeners.https]
            address = "127.0.0.1:0"
            tls = true
            [listeners.http]
            address = "127.0.0.1:0"
            unknown_host = {{ site = "a" }}
            [sites.a]
            hosts = ["a.test"]
            listeners = ["https"]
            certificate = {{ internal = true }}
            {keys}
            endpoints = ["{{0}}"]
            [sites.b]
            hosts = ["b.test"]
            listeners = ["https"]
            certificate = {{ internal = true }}
            endpoints = ["{{0}}"]
            "#
        )
    }

    fn asking(&self, more: &str) -> String {
        self.text(&format!("tls = {{ client_auth = {{ ca = \"{{folder}}/ca.pem\", {more} }} }}"))
    }

    fn start(&self, text: &str) -> Edge {
        Edge::start(&[&self.origin], text)
    }

    /// A certificate with a serial number of its own.
    fn issue(&self, serial: u64) -> Certificate {
        self.trusted.issue_with(&["ann.test"], |params| {
            params.serial_number = Some(serial.into());
            params.subject_alt_names.push(SanType::URI("spiffe://test/ann".try_into().unwrap()));
        })
    }

    fn revoke(&self, serials: &[u64], until: SystemTime) {
        let list = self.trusted.revocation_list(serials, until);
        std::fs::write(self.folder.path().join("clients.crl"), list).unwrap();
    }
}

fn versions() -> [Tls; 2] {
    [Tls::any().only_tls12(), Tls::any().only_tls13()]
}

fn to(edge: &Edge, tls: Tls, host: &str) -> Client {
    edge.tls_client(tls.server_name(host)).host(host)
}

/// The alert that a client of the site `a` is refused with.
fn refusal(edge: &Edge, tls: Tls) -> String {
    tls.server_name("a.test").refusal(&edge.address("https"))
}

#[test]
fn a_good_certificate_is_let_in_and_the_endpoint_is_told() {
    let setting = Setting::new();
    let edge = setting.start(&setting.asking("send = [\"certificate\", \"chain\", \"xfcc\"]"));
    let ann = setting.issue(1);
    for tls in versions() {
        let client = to(&edge, tls.identity(&ann), "a.test");
        client.get("/").header("Client-Cert", ":bGllcw==:").send().assert_status(200);
        let seen = setting.origin.last_request();
        let told = seen.header("client-cert").unwrap();
        assert!(told.starts_with(":MII") && told.ends_with(':'), "{told}");
        assert_eq!(seen.header_values("client-cert").len(), 1);
        assert_eq!(seen.header("client-cert-chain"), None, "it was sent alone");
        let xfcc = seen.header("x-forwarded-client-cert").unwrap();
        assert!(xfcc.contains("URI=\"spiffe://test/ann\""), "{xfcc}");
    }
}

#[test]
fn what_a_client_says_of_its_certificate_is_removed_everywhere() {
    let setting = Setting::new();
    let edge = setting.start(&setting.asking(""));
    let names = ["Client-Cert", "Client-Cert-Chain", "X-Forwarded-Client-Cert", "Client_Cert"];
    let client = to(&edge, Tls::any(), "b.test");
    for name in names {
        client.get("/").header(name, ":bGllcw==:").send().assert_status(200);
        assert_eq!(setting.origin.last_request().header(name), None, "{name}");
    }
}

#[test]
fn others_are_refused_with_the_alert_that_says_why() {
    let setting = Setting::new();
    let edge = setting.start(&setting.asking(""));
    let expired = setting.trusted.issue_with(&["ann.test"], |params| {
        params.not_before = (SystemTime::now() - 9 * DAY).into();
        params.not_after = (SystemTime::now() - DAY).into();
    });
    for (identity, alert) in [
        (None, "CertificateRequired"),
        (Some(setting.stranger.issue(&["ann.test"])), "UnknownCA"),
        (Some(expired), "CertificateExpired"),
    ] {
        for tls in versions() {
            let tls = match &identity {
                Some(certificate) => tls.identity(certificate),
                None => tls,
            };
            let told = refusal(&edge, tls);
            assert!(told.contains(alert), "{alert}: {told}");
        }
    }
    let failures =
        || edge.metric("tidegate_tls_handshake_failures_total", [("reason", "client_certificate")]);
    assert_eventually!(failures() == 6.0);
    assert_eq!(setting.origin.requests(), 0);
}

#[test]
fn where_a_certificate_is_optional_a_bad_one_is_refused_all_the_same() {
    let setting = Setting::new();
    let edge = setting.start(&setting.asking("mode = \"optional\""));
    for tls in versions() {
        to(&edge, tls.clone(), "a.test").get("/").send().assert_status(200);
        assert_eq!(setting.origin.last_request().header("client-cert"), None);
        to(&edge, tls.clone().identity(&setting.issue(1)), "a.test")
            .get("/")
            .send()
            .assert_status(200);
        assert!(setting.origin.last_request().header("client-cert").is_some());
        let stranger = setting.stranger.issue(&["ann.test"]);
        let told = refusal(&edge, tls.identity(&stranger));
        assert!(told.contains("UnknownCA"), "{told}");
    }
}

#[test]
fn a_revoked_certificate_is_out_on_open_connections_and_resumed_ones_too() {
    let setting = Setting::new();
    setting.revoke(&[9], SystemTime::now() + DAY);
    let edge = setting.start(&setting.asking("crl = \"{folder}/clients.crl\""));
    let (ann, ben) = (setting.issue(1), setting.issue(2));
    for tls in versions() {
        let told = refusal(&edge, tls.identity(&setting.issue(9)));
        assert!(told.contains("CertificateRevoked"), "{told}");
    }
    let clients: Vec<Client> = versions().map(|tls| to(&edge, tls.identity(&ann), "a.test")).into();
    for client in &clients {
        client.get("/").send().assert_status(200);
    }
    let bens = to(&edge, Tls::any().identity(&ben), "a.test");
    bens.get("/").send().assert_status(200);
    // No reload is asked for: the files are watched.
    setting.revoke(&[9, 1], SystemTime::now() + DAY);
    assert_eventually!(
        bens.get("/").send().status == 421,
        within Duration::from_secs(10)
    );
    for client in &clients {
        client.get("/").send().assert_status(421);
        // The next connection offers the ticket of the one before.
        assert!(client.get("/").try_send().is_err());
    }
    bens.get("/").send().assert_status(200);
}

#[test]
fn a_list_that_is_past_its_time_shuts_out_or_is_believed_as_the_setting_says() {
    let setting = Setting::new();
    setting.revoke(&[9], SystemTime::now() - DAY);
    let crl = "crl = \"{folder}/clients.crl\"";
    let edge = Edge::spawn(&[&setting.origin], &setting.asking(crl));
    assert_eventually!(
        edge.logs().contains("a revocation list is past its time"),
        within Duration::from_secs(10)
    );
    let ann = setting.issue(1);
    assert!(to(&edge, Tls::any().identity(&ann), "a.test").get("/").try_send().is_err());
    edge.reload_with(&setting.asking(&format!("{crl}, expired_crl = \"accept\""))).unwrap();
    to(&edge, Tls::any().identity(&ann), "a.test").get("/").send().assert_status(200);
    let told = refusal(&edge, Tls::any().identity(&setting.issue(9)));
    assert!(told.contains("CertificateRevoked"), "{told}");
}

#[test]
fn a_broken_file_changes_nothing() {
    let setting = Setting::new();
    let edge = Edge::spawn(&[&setting.origin], &setting.asking(""));
    let client = to(&edge, Tls::any().identity(&setting.issue(1)), "a.test");
    client.get("/").send().assert_status(200);
    std::fs::write(setting.folder.path().join("ca.pem"), "rubbish").unwrap();
    assert_eventually!(edge.logs().contains("client authorities not replaced"), within Duration::from_secs(10));
    client.get("/").send().assert_status(200);
    to(&edge, Tls::any().identity(&setting.issue(2)), "a.test").get("/").send().assert_status(200);
    let refused = edge.reload().unwrap_err();
    assert!(format!("{refused:?}").contains("has no certificate in it"), "{refused:?}");
}

#[test]
fn a_policy_that_a_reload_adds_binds_connections_that_were_open_before() {
    let setting = Setting::new();
    let edge = setting.start(&setting.text(""));
    let clients = [
        to(&edge, Tls::any(), "a.test"),
        to(&edge, Tls::any().identity(&setting.issue(1)), "a.test"),
        to(&edge, Tls::any(), "a.test").http2(),
    ];
    for client in &clients {
        client.get("/").send().assert_status(200);
    }
    edge.reload_with(&setting.asking("")).unwrap();
    for client in &clients {
        client.get("/").send().assert_status(421);
    }
    clients[1].get("/").send().assert_status(200);
    assert!(clients[0].get("/").try_send().is_err());
}

#[test]
fn a_connection_of_another_site_is_misdirected() {
    let setting = Setting::new();
    let edge = setting.start(&setting.asking(""));
    let ann = setting.issue(1);
    let tls = |name: &str| Tls::any().identity(&ann).server_name(name);
    let address = edge.address("https");
    let without_name = Client::to(&address).tls(Tls::any()).host("a.test");
    for client in [edge.tls_client(tls("b.test")).host("a.test"), without_name] {
        let answer = client.clone().get("/").try_send();
        // Without a name there may be no site at all: then the handshake fails.
        if let Ok(answer) = answer {
            answer.assert_status(421);
            client.http2().get("/").send().assert_status(421);
        }
    }
    // Nor does a plain listener answer for the site, which is its site of unknown hosts.
    edge.client().host("nobody.test").get("/").send().assert_status(421);
    assert_eq!(setting.origin.requests(), 0);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let setting = Setting::new();
    let folder = setting.folder.path();
    std::fs::write(folder.join("empty.crl"), "").unwrap();
    let edge = setting.start(&setting.asking(""));
    for (text, expected) in [
        (setting.text("tls = { client_auth = { mode = \"require\" } }"), "no authority"),
        (setting.text("tls = { client_auth = { ca = \"none.pem\" } }"), "none.pem does not exist"),
        (setting.asking("crl = \"{folder}/empty.crl\""), "has no revocation list in it"),
        (setting.asking("expired_crl = \"accept\""), "there is no revocation list"),
        (
            setting
                .asking("")
                .replace("listeners = [\"https\"]", "listeners = [\"https\", \"http\"]"),
            "plain listener",
        ),
    ] {
        let refused = edge.reload_with(&text).unwrap_err();
        let refused = format!("{refused:?}");
        assert!(refused.contains(expected), "{expected}: {refused}");
        assert!(refused.contains("sites.a"), "{refused}");
    }
}

#[test]
fn only_routes_whose_clients_must_show_a_certificate_are_not_open() {
    let setting = Setting::new();
    let check = |text: &str| {
        let edge = setting.start(text);
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["check", "--format", "json"])
            .arg(edge.config_path())
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["routes_without_identity"].clone()
    };
    assert_eq!(check(&setting.asking("")), serde_json::json!(["b.default"]));
    let optional = check(&setting.asking("mode = \"optional\""));
    assert_eq!(optional, serde_json::json!(["a.default", "b.default"]));
}
