//! Certificates by ACME, against Let's Encrypt's test authority, which refuses one good nonce in twenty.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    assert_eventually,
    harness::{
        Edge, Knot, Origin, Tls,
        knot::EDGE_SECRET,
        pebble::{Fault, Pebble, PebbleBuilder},
    },
};

const HOST: &str = "shop.example.com";
/// Orders take some seconds on a busy machine.
const ISSUED: Duration = Duration::from_secs(40);

/// An authority, an origin, and a state directory that outlives an edge.
struct Setting {
    pebble: Pebble,
    origin: Origin,
    folder: TempDir,
}

impl Setting {
    fn new() -> Self {
        Self::with(Pebble::builder())
    }

    fn with(pebble: PebbleBuilder) -> Self {
        Self {
            pebble: pebble.start(),
            origin: Origin::answering(200),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A configuration with these keys of `[acme]`, of the site, and sections.
    fn text(&self, acme: &str, site: &str, more: &str) -> String {
        let preflight = if acme.contains("preflight") { "" } else { "preflight = false" };
        let hosts = if site.contains("hosts") { "" } else { "hosts = [\"shop.example.com\"]" };
        format!(
            r#"
            [server]
            state_dir = "{state}/state"
            [acme]
            email = "ops@example.com"
            {preflight}
            {acme}
            [acme.authorities.pebble]
            directory = "{directory}"
            ca = "{ca}"
            [listeners.http]
            address = "127.0.0.1:0"
            [listeners.https]
            address = "127.0.0.1:0"
            tls = true
            [sites.shop]
            {hosts}
            endpoints = ["{{0}}"]
            {site}
            {more}
            "#,
            state = self.folder.path().display(),
            directory = self.pebble.directory(),
            ca = self.pebble.ca_path().display(),
        )
    }

    /// Starts an edge that orders once the authority knows where to validate.
    fn start(&self, text: &str) -> Edge {
        let edge = Edge::start(&[&self.origin], &silent(text));
        self.begin(&edge, text);
        edge
    }

    fn begin(&self, edge: &Edge, text: &str) {
        let address = |listener: &str| edge.address(listener).parse::<SocketAddr>().unwrap();
        self.pebble.validate_at(Some(address("http")), Some(address("https")));
        edge.reload_with(text).unwrap();
    }

    /// Waits until the authority's certificate is served, and a client that trusts the authority gets its answer.
    fn wait_issued(&self, edge: &Edge, host: &str) {
        assert_eventually!(!certificate(edge)["standing_in"].as_bool().unwrap(), within ISSUED);
        self.trusting(edge, host).get("/").send().assert_status(200);
    }

    fn trusting(&self, edge: &Edge, host: &str) -> crate::harness::Client {
        edge.tls_client(Tls::trusting(self.pebble.root_pem()).server_name(host)).host(host)
    }

    fn state(&self, folder: &str) -> Vec<std::path::PathBuf> {
        let folder = self.folder.path().join("state/acme").join(folder);
        std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

/// The text with orders switched off.
fn silent(text: &str) -> String {
    text.replacen("[acme]", "[acme]\n            enabled = false", 1)
}

fn certificate(edge: &Edge) -> Value {
    edge.status()["certificates"][0].clone()
}

fn leaf(edge: &Edge, host: &str) -> Vec<u8> {
    Tls::any().server_name(host).handshake(&edge.address("https")).unwrap().leaf
}

fn renew(edge: &Edge) {
    edge.admin().post("/v1/certificates/renew?site=shop").send().assert_status(202);
}

#[test]
fn a_certificate_is_issued_by_http_01_and_kept() {
    let setting = Setting::new();
    let hosts = "hosts = [\"shop.example.com\", \"www.shop.example.com\"]";
    let text = setting.text("challenges = [\"http-01\"]", hosts, "");
    let edge = Edge::start(&[&setting.origin], &silent(&text));
    let before = certificate(&edge);
    assert_eq!(
        (before["standing_in"].as_bool(), before["source"].as_str()),
        (Some(true), Some("acme"))
    );
    assert_eq!(edge.metric("tidegate_certificate_standing_in", [("site", "shop")]), 1.0);
    setting.begin(&edge, &text);
    setting.wait_issued(&edge, HOST);
    setting.trusting(&edge, "www.shop.example.com").get("/").send().assert_status(200);
    assert!(setting.pebble.http_validations() >= 2 && setting.pebble.tls_validations() == 0);
    let status = certificate(&edge);
    assert_eq!(status["authority"], "pebble");
    assert!(status["error"].is_null() && status["next_renewal"].is_string(), "{status}");
    assert_eq!(edge.metric("tidegate_certificate_standing_in", [("site", "shop")]), 0.0);
    assert_eq!(edge.metric("tidegate_certificate_renewal_failures_total", [("site", "shop")]), 0.0);
    let kept = [setting.state("accounts"), setting.state("certificates")].concat();
    assert_eq!(kept.len(), 2);
    for file in kept {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(setting.state("orders").is_empty(), "the order has ended");
    // Nobody has the key but the disk.
    let key = std::fs::read_to_string(&setting.state("certificates")[0]).unwrap();
    let key = key.split("BEGIN PRIVATE KEY-----\\n").nth(1).unwrap()[..40].to_owned();
    assert!(!edge.status().to_string().contains(&key));

    // The next process has it at once, and neither orders nor opens an account.
    drop(edge);
    let (orders, leaf_before) = (setting.pebble.orders_created(), setting.state("certificates"));
    let edge = Edge::start(&[&setting.origin], &text);
    setting.trusting(&edge, HOST).get("/").send().assert_status(200);
    assert_eq!(setting.state("certificates"), leaf_before);
    assert_eq!((setting.pebble.orders_created(), setting.pebble.accounts_created()), (orders, 1));
}

#[test]
fn a_certificate_is_issued_by_tls_alpn_01_also_where_clients_need_certificates() {
    let setting = Setting::new();
    let ca = setting.pebble.ca_path();
    let site = format!("tls = {{ client_auth = {{ ca = \"{}\" }} }}", ca.display());
    let edge = setting.start(&setting.text("challenges = [\"tls-alpn-01\"]", &site, ""));
    assert_eventually!(certificate(&edge)["authority"] == "pebble", within ISSUED);
    assert!(setting.pebble.tls_validations() >= 1 && setting.pebble.http_validations() == 0);
    assert!(certificate(&edge)["error"].is_null(), "the edge has seen its own certificate");
}

#[test]
fn clients_that_know_rsa_only_get_a_certificate_that_they_can_verify() {
    let setting = Setting::new();
    let site = "certificate = { acme = true, key_type = \"both\" }";
    let edge = setting.start(&setting.text("", site, ""));
    assert_eventually!(setting.state("certificates").len() == 2, within ISSUED);
    let shown = |algorithms: &str| {
        let asked = Command::new("openssl")
            .args(["s_client", "-connect", &edge.address("https"), "-servername", HOST])
            .args(["-sigalgs", algorithms])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&asked.stdout).into_owned()
    };
    assert_eventually!(shown("RSA-PSS+SHA256:RSA+SHA256").contains("Peer signature type: RSA-PSS"));
    for both in ["ECDSA+SHA256", "ECDSA+SHA256:RSA-PSS+SHA256", "RSA-PSS+SHA256:ECDSA+SHA256"] {
        assert!(shown(both).contains("Peer signature type: ECDSA"), "{both}");
    }
    // Another kind of key is another certificate; the present one serves on meanwhile.
    setting.pebble.set_fault(Fault::Down);
    edge.reload_with(&setting.text("", "certificate = { acme = true, key_type = \"rsa\" }", ""))
        .unwrap();
    assert!(shown("RSA-PSS+SHA256:RSA+SHA256").contains("Peer signature type: RSA-PSS"));
}

#[test]
fn a_certificate_of_few_seconds_is_renewed_when_a_third_is_left() {
    let builder = Pebble::builder().without_renewal_information();
    let setting = Setting::with(builder.validity(Duration::from_secs(15)));
    let edge = setting.start(&setting.text("", "", ""));
    setting.wait_issued(&edge, HOST);
    let first = leaf(&edge, HOST);
    let issued = SystemTime::now();
    assert_eventually!(leaf(&edge, HOST) != first, within ISSUED);
    assert!(issued.elapsed().unwrap() > Duration::from_secs(3), "not at once");
    setting.trusting(&edge, HOST).get("/").send().assert_status(200);
}

#[test]
fn a_renewal_that_the_authority_suggests_under_load_costs_no_request_and_no_handshake() {
    let setting = Setting::with(Pebble::builder().validity(Duration::from_mins(10)));
    setting.pebble.set_renewal_retry_after(Duration::from_secs(1));
    let edge = setting.start(&setting.text("", "", ""));
    setting.wait_issued(&edge, HOST);
    let first = leaf(&edge, HOST);
    let trust = Tls::trusting(setting.pebble.root_pem()).server_name(HOST);
    let kept = edge.tls_client(trust.clone()).host(HOST).get("/").load(2).start();
    let fresh = edge.tls_client(trust).host(HOST).new_connections().get("/").load(2).start();
    let now = SystemTime::now();
    setting.pebble.set_renewal_window(now - Duration::from_mins(2), now - Duration::from_mins(1));
    assert_eventually!(leaf(&edge, HOST) != first, within ISSUED);
    let (kept_until, fresh_until) = (kept.completed() + 20, fresh.completed() + 20);
    assert_eventually!(kept.completed() >= kept_until && fresh.completed() >= fresh_until);
    kept.stop().assert_all_ok();
    fresh.stop().assert_all_ok();
    assert_eq!(setting.pebble.replaced().len(), 1, "{:?}", setting.pebble.orders());
    assert_eq!(setting.pebble.accounts_created(), 1);
    assert!(setting.pebble.renewal_queries() >= 1);
}

#[test]
fn a_process_killed_in_the_middle_of_an_order_leaves_it_to_the_next() {
    for fault in [Fault::HoldFinalize, Fault::HoldFinalized] {
        let setting = Setting::new();
        let text = setting.text("", "", "");
        let mut edge = Edge::spawn(&[&setting.origin], &silent(&text));
        setting.pebble.set_fault(fault);
        setting.begin(&edge, &text);
        assert_eventually!(setting.pebble.held() == 1, within ISSUED);
        edge.signal_and_wait("KILL", Duration::from_secs(10));
        assert_eq!(setting.state("orders").len(), 1);
        setting.pebble.set_fault(None);
        let edge = Edge::spawn(&[&setting.origin], &text);
        setting.wait_issued(&edge, HOST);
        assert_eq!(setting.pebble.accounts_created(), 1);
        assert_eq!(setting.pebble.orders_created(), 1, "the same order");
        assert!(setting.state("orders").is_empty());
    }
}

#[test]
fn an_authority_that_fails_leaves_the_old_certificate_and_is_told() {
    let setting = Setting::new();
    let edge = setting.start(&setting.text("", "", ""));
    setting.wait_issued(&edge, HOST);
    let first = leaf(&edge, HOST);
    let mut failures = 0.0;
    for (fault, words) in [
        (Fault::Down, "can't be reached"),
        (Fault::Rubbish, "can't be read"),
        (Fault::Status(503), ""),
    ] {
        setting.pebble.set_fault(fault);
        renew(&edge);
        failures += 1.0;
        let counted =
            || edge.metric("tidegate_certificate_renewal_failures_total", [("site", "shop")]);
        assert_eventually!(counted() == failures, within ISSUED);
        let status = certificate(&edge);
        assert!(status["error"].as_str().unwrap().contains(words), "{fault:?}: {status}");
        assert_eq!(status["standing_in"], false);
        let next: jiff::Timestamp = status["next_renewal"].as_str().unwrap().parse().unwrap();
        let wait = next.as_second() - jiff::Timestamp::now().as_second();
        assert!(wait > 30, "{fault:?} is tried again after {wait} s");
        assert_eq!(leaf(&edge, HOST), first);
        setting.trusting(&edge, HOST).get("/").send().assert_status(200);
    }
    setting.pebble.set_fault(None);
    renew(&edge);
    assert_eventually!(leaf(&edge, HOST) != first, within ISSUED);
    assert_eventually!(certificate(&edge)["error"].is_null());
}

#[test]
fn an_authority_that_limits_orders_is_left_alone_for_an_hour() {
    let setting = Setting::new();
    setting.pebble.set_fault(Fault::RateLimited(Duration::from_mins(1)));
    let edge = setting.start(&setting.text("", "", ""));
    assert_eventually!(certificate(&edge)["failures"] == 1, within ISSUED);
    let status = certificate(&edge);
    assert!(status["error"].as_str().unwrap().contains("takes no more orders"), "{status}");
    setting.pebble.set_fault(None);
    // Nobody gets it sooner by asking.
    renew(&edge);
    let wait = || {
        let next: jiff::Timestamp =
            certificate(&edge)["next_renewal"].as_str().unwrap().parse().unwrap();
        next.as_second() - jiff::Timestamp::now().as_second()
    };
    assert_eventually!(wait() > 3_000);
    assert_eq!(setting.pebble.orders_created(), 0);
}

#[test]
fn the_next_authority_is_asked_where_the_first_fails() {
    let setting = Setting::new();
    let other = Pebble::start();
    other.set_fault(Fault::Status(500));
    let more = format!(
        "[acme.authorities.first]\ndirectory = \"{}\"\nca = \"{}\"",
        other.directory(),
        other.ca_path().display()
    );
    let text = setting.text("order_from = [\"first\", \"pebble\"]", "", &more);
    let edge = setting.start(&text);
    setting.wait_issued(&edge, HOST);
    assert_eq!(certificate(&edge)["authority"], "pebble");
}

#[test]
fn an_account_is_bound_to_an_external_one() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let setting = Setting::with(Pebble::builder().external_account("kid-1", key));
    let file = setting.folder.path().join("hmac");
    let binding = |id: &str| {
        format!("eab = {{ key_id = \"{id}\", hmac_key = {{ file = \"{}\" }} }}\n", file.display())
    };
    let with =
        |binding: &str| setting.text("", "", "").replacen("ca = ", &format!("{binding}ca = "), 1);
    let edge = setting.start(&with(""));
    assert_eventually!(certificate(&edge)["error"].as_str().is_some(), within ISSUED);
    let mut errors = String::new();
    for (id, secret) in [("kid-9", key), ("kid-1", "bm90IHRoZSBrZXk"), ("kid-2", "no base64!")] {
        std::fs::write(&file, secret).unwrap();
        let failures = certificate(&edge)["failures"].as_u64();
        // Another configuration is a reason to try again.
        edge.reload_with(&with(&binding(id))).unwrap();
        assert_eventually!(certificate(&edge)["failures"].as_u64() > failures, within ISSUED);
        let _ = writeln!(errors, "{}", certificate(&edge)["error"]);
    }
    assert!(errors.contains("base64url") && !errors.contains("bm90"), "{errors}");
    std::fs::write(&file, format!("{key}\n")).unwrap();
    edge.reload_with(&with(&binding("kid-1"))).unwrap();
    setting.wait_issued(&edge, HOST);
    assert_eq!(setting.pebble.accounts_created(), 1);
}

#[test]
fn a_profile_is_ordered_by_its_name() {
    let setting = Setting::with(Pebble::builder().profile("shortlived", "six days"));
    let with = |profile: &str| {
        setting.text("", "", "").replacen("ca = ", &format!("profile = \"{profile}\"\nca = "), 1)
    };
    let edge = setting.start(&with("longlived"));
    assert_eventually!(certificate(&edge)["error"].as_str().is_some(), within ISSUED);
    assert!(certificate(&edge)["error"].as_str().unwrap().contains("profile"));
    assert_eq!(setting.pebble.orders_created(), 0);
    edge.reload_with(&with("shortlived")).unwrap();
    renew(&edge);
    setting.wait_issued(&edge, HOST);
    assert_eq!(setting.pebble.profiles_ordered(), [Some("shortlived".to_owned())]);
}

#[test]
fn what_can_not_succeed_is_not_ordered() {
    let setting = Setting::new();
    setting.pebble.dns().set_caa(HOST, &[("issue", "other.test")]);
    let dns = format!("[dns]\nservers = [\"{}\"]", setting.pebble.dns().address());
    let edge = setting.start(&setting.text("preflight = true", "", &dns));
    assert_eventually!(certificate(&edge)["error"].as_str().is_some(), within ISSUED);
    let error = certificate(&edge)["error"].as_str().unwrap().to_owned();
    assert!(error.contains("CAA") && error.contains("other.test"), "{error}");
    assert_eq!(setting.pebble.orders_created(), 0);
    setting.pebble.dns().set_caa(HOST, &[("issue", "pebble.test")]);
    renew(&edge);
    setting.wait_issued(&edge, HOST);
}

#[test]
fn a_name_that_is_never_validated_is_not_ordered_again_and_again() {
    let setting = Setting::new();
    let text = setting.text("max_failures = 2", "", "");
    let edge = Edge::start(&[&setting.origin], &silent(&text));
    // Nobody answers the authority.
    edge.reload_with(&text).unwrap();
    for failures in 1..=2 {
        assert_eventually!(certificate(&edge)["failures"] == failures, within ISSUED);
        renew(&edge);
    }
    let status = certificate(&edge);
    assert!(status["error"].as_str().unwrap().contains("could not be validated"), "{status}");
    let next = || -> jiff::Timestamp {
        certificate(&edge)["next_renewal"].as_str().unwrap().parse().unwrap()
    };
    assert_eventually!(next().as_second() - jiff::Timestamp::now().as_second() > 3_000);
    assert_eq!(setting.pebble.orders_created(), 2);
    // A restart does not forget it.
    drop(edge);
    let edge = Edge::start(&[&setting.origin], &text);
    let next = || certificate(&edge)["next_renewal"].as_str().map(str::to_owned);
    assert_eventually!(next().is_some());
    assert_eq!(setting.pebble.orders_created(), 2);
}

#[test]
fn names_that_have_a_certificate_keep_it_while_one_for_more_names_is_ordered() {
    let setting = Setting::new();
    let edge = setting.start(&setting.text("", "", ""));
    setting.wait_issued(&edge, HOST);
    let first = leaf(&edge, HOST);
    setting.pebble.set_fault(Fault::Down);
    let hosts = "hosts = [\"shop.example.com\", \"www.shop.example.com\"]";
    edge.reload_with(&setting.text("", hosts, "")).unwrap();
    assert_eq!(leaf(&edge, HOST), first);
    setting.trusting(&edge, HOST).get("/").send().assert_status(200);
    let new =
        Tls::any().server_name("www.shop.example.com").handshake(&edge.address("https")).unwrap();
    assert!(new.names().contains(&"www.shop.example.com".to_owned()), "the internal authority's");
    setting.pebble.set_fault(Fault::Slow(Duration::from_millis(300)));
    renew(&edge);
    assert_eventually!(leaf(&edge, HOST) != first, within ISSUED);
    setting.trusting(&edge, "www.shop.example.com").get("/").send().assert_status(200);
}

#[test]
fn a_wildcard_is_issued_by_dns_01_beside_its_parent() {
    let knot = Knot::primary(&[("shop.test", "")]);
    let setting = Setting::with(Pebble::builder().name_server(knot.address()));
    let secret = setting.folder.path().join("tsig");
    std::fs::write(&secret, EDGE_SECRET).unwrap();
    let dns = format!(
        "[acme.dns.rfc2136]\nserver = \"{}\"\nkey_name = \"edge\"\nsecret = {{ file = \"{}\" }}",
        knot.address(),
        secret.display()
    );
    let site = "hosts = [\"shop.test\", \"*.shop.test\"]\ncertificate = { acme = true }";
    let edge = setting.start(&setting.text("", site, &dns));
    setting.wait_issued(&edge, "shop.test");
    setting.trusting(&edge, "any.shop.test").get("/").send().assert_status(200);
    let validations = setting.pebble.http_validations() + setting.pebble.tls_validations();
    assert_eq!(validations, 0, "both by DNS");
    assert_eventually!(knot.texts("_acme-challenge.shop.test").is_empty());
    // The next order writes them again.
    let first = leaf(&edge, "shop.test");
    renew(&edge);
    assert_eventually!(leaf(&edge, "shop.test") != first, within ISSUED);
    assert_eventually!(certificate(&edge)["error"].is_null());
}

#[test]
fn orders_wait_for_each_other_over_their_number() {
    let setting = Setting::new();
    let others = "[sites.a]\nhosts = [\"a.example.com\"]\nendpoints = [\"{0}\"]\n\
                  [sites.b]\nhosts = [\"b.example.com\"]\nendpoints = [\"{0}\"]";
    let text = setting.text("max_orders = 2", "", others);
    let edge = Edge::start(&[&setting.origin], &silent(&text));
    setting.pebble.set_fault(Fault::HoldFinalize);
    setting.begin(&edge, &text);
    assert_eventually!(setting.pebble.held() == 2, within ISSUED);
    assert_eq!(setting.pebble.orders_created(), 2, "the third waits");
    setting.pebble.set_fault(None);
    let issued = || {
        let status = edge.status();
        let all = status["certificates"].as_array().unwrap().clone();
        all.iter().filter(|certificate| certificate["standing_in"] == false).count()
    };
    assert_eventually!(issued() == 3, within ISSUED);
    assert_eq!(setting.pebble.accounts_created(), 1, "one for all");
}

#[test]
fn an_account_takes_a_new_key() {
    let setting = Setting::new();
    let edge = setting.start(&setting.text("", "", ""));
    setting.wait_issued(&edge, HOST);
    let first = leaf(&edge, HOST);
    let kept = || std::fs::read_to_string(&setting.state("accounts")[0]).unwrap();
    let before = kept();
    let roll = |name: &str| {
        edge.admin().post(&format!("/v1/acme/roll-account-key?authority={name}")).send()
    };
    roll("nobody").assert_status(422);
    roll("pebble").assert_status(200);
    assert_eq!(setting.pebble.keys_changed(), 1);
    assert_ne!(kept(), before);
    renew(&edge);
    assert_eventually!(leaf(&edge, HOST) != first, within ISSUED);
    assert_eq!(setting.pebble.accounts_created(), 1);
}

#[test]
fn what_was_exported_elsewhere_is_served_from_the_start_once_it_is_imported() {
    let setting = Setting::new();
    let edge = setting.start(&setting.text("", "", ""));
    setting.wait_issued(&edge, HOST);
    let first = leaf(&edge, HOST);
    let path = |name: &str| setting.folder.path().join(name).display().to_string();
    let run = |arguments: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("certificates")
            .args(arguments)
            .args(["--chain", &path("chain.pem"), "--key", &path("key.pem")])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    run(&["export", HOST, "--state-dir", &path("state")]);
    run(&["import", "--state-dir", &path("other")]);
    setting.pebble.set_fault(Fault::Down);
    let text = setting.text("", "", "").replace("/state\"", "/other\"");
    let other = Edge::start(&[&setting.origin], &text);
    assert_eq!(leaf(&other, HOST), first);
    setting.trusting(&other, HOST).get("/").send().assert_status(200);
    assert_eventually!(certificate(&other)["next_renewal"].is_string());
    assert_eq!(certificate(&other)["failures"], 0, "nothing is due");

    // A running edge takes what is put there, at its next look.
    setting.pebble.set_fault(None);
    renew(&edge);
    assert_eventually!(leaf(&edge, HOST) != first, within ISSUED);
    run(&["export", HOST, "--state-dir", &path("state")]);
    run(&["import", "--state-dir", &path("other")]);
    setting.pebble.set_fault(Fault::Down);
    other.reload_with(&text.replacen("[acme]", "[acme]\nmax_orders = 3", 1)).unwrap();
    assert_eventually!(leaf(&other, HOST) != first, within ISSUED);
}

#[test]
fn the_command_renews_and_shows() {
    let setting = Setting::new();
    let edge = setting.start(&setting.text("", "", ""));
    setting.wait_issued(&edge, HOST);
    let first = leaf(&edge, HOST);
    let admin = edge.admin_address().to_owned();
    let run = |arguments: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("certificates")
            .args(arguments)
            .args(["--admin", &admin])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.success(), text(&ran.stdout), text(&ran.stderr))
    };
    let (is_done, said, _) = run(&["list"]);
    assert!(is_done && said.contains("pebble") && said.contains("valid"), "{said}");
    let (is_done, said, complained) = run(&["renew", "shop"]);
    assert!(is_done && said.starts_with("renewed: "), "{said}{complained}");
    assert_ne!(leaf(&edge, HOST), first);
    let (is_done, _, complained) = run(&["show", "shpo"]);
    assert!(!is_done && complained.contains("there are shop"), "{complained}");
    setting.pebble.set_fault(Fault::Down);
    let (is_done, _, complained) = run(&["renew", "shop"]);
    assert!(!is_done && complained.contains("was not issued"), "{complained}");
}
