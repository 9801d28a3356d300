//! Challenge records against a real DNS server: written by signed updates or by a command, seen, and taken away.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{Name, TSigner, rdata::tsig::TsigAlgorithm},
};
use tempfile::TempDir;
use tidegate::{
    tls::acme::dns::{DnsError, DnsWriter, ExchangeError, RawAcmeDns, SignatureProblem},
    types::{KeyPath, Problems},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::harness::{
    Knot, block_on,
    knot::{EDGE_SECRET, NARROW_SECRET, sbin},
    spawn,
};

/// The zone of most tests, with aliases to another zone and around in a circle.
const ACME_TEST: (&str, &str) = (
    "acme.test",
    "_acme-challenge.alias CNAME alias.delegated.test.\n\
     round CNAME and-round\nand-round CNAME round",
);

/// A writer with the configuration that a user would write.
fn writer(config: &str) -> DnsWriter {
    let raw: RawAcmeDns = toml::from_str(config).expect("[acme.dns]");
    let mut problems = Problems::new();
    let config = raw.parse(&KeyPath::of(&["acme", "dns"]), &mut problems);
    DnsWriter::new(config.unwrap_or_else(|| panic!("{problems:?}")))
}

/// A key in a folder.
struct Key {
    folder: TempDir,
    name: &'static str,
    algorithm: &'static str,
}

impl Key {
    fn new(name: &'static str, algorithm: &'static str, secret: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), format!("{secret}\n")).unwrap();
        Self { folder, name, algorithm }
    }

    fn edge() -> Self {
        Self::new("edge", "hmac-sha256", EDGE_SECRET)
    }

    /// Updates of this server; `more` are lines of `[acme.dns.rfc2136]`.
    fn config(&self, server: SocketAddr, more: &str) -> String {
        let Self { folder, name, algorithm } = self;
        let secret = folder.path().join("secret");
        format!(
            "[rfc2136]\nserver = \"{server}\"\nkey_name = \"{name}\"\nalgorithm = \"{algorithm}\"\n\
             secret = {{ file = \"{}\" }}\n{more}\n",
            secret.display()
        )
    }

    fn writer(&self, knot: &Knot) -> DnsWriter {
        writer(&self.config(knot.address(), ""))
    }
}

fn text(error: &DnsError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    assert!(!text.contains(EDGE_SECRET) && !text.contains(NARROW_SECRET), "{text}");
    text
}

#[test]
fn a_record_is_there_when_present_returns_and_gone_after_clean_up() {
    let knot = Knot::primary(&[ACME_TEST]);
    let key = Key::edge();
    let writer = key.writer(&knot);
    let name = "_acme-challenge.www.acme.test";
    block_on(async {
        writer.present(name, "first").await.unwrap();
        assert_eq!(knot.texts(name), ["first"]);
        assert_eq!(knot.time_to_live(name), Some(60));
        writer.present(name, "first").await.unwrap();
        assert_eq!(knot.texts(name), ["first"], "twice does no harm");
        writer.clean_up(name, "first").await.unwrap();
        assert_eq!(knot.texts(name), [""; 0]);
        writer.clean_up(name, "first").await.unwrap();
    });
}

#[test]
fn a_name_and_its_wildcard_have_two_values_and_lose_them_one_by_one() {
    let knot = Knot::primary(&[ACME_TEST]);
    let key = Key::edge();
    let writer = key.writer(&knot);
    let name = "_acme-challenge.acme.test";
    block_on(async {
        let (one, two) = tokio::join!(writer.present(name, "one"), writer.present(name, "-two"));
        one.and(two).unwrap();
        assert_eq!(knot.texts(name), ["-two", "one"]);
        writer.clean_up(name, "one").await.unwrap();
        assert_eq!(knot.texts(name), ["-two"]);
        writer.clean_up(name, "-two").await.unwrap();
        assert_eq!(knot.texts(name), [""; 0]);
    });
}

#[test]
fn an_alias_is_followed_to_its_zone() {
    let knot = Knot::primary(&[ACME_TEST, ("delegated.test", "")]);
    let key = Key::edge();
    let writer = key.writer(&knot);
    block_on(async {
        writer.present("_acme-challenge.alias.acme.test", "v").await.unwrap();
        assert_eq!(knot.texts("alias.delegated.test"), ["v"]);
        writer.clean_up("_acme-challenge.alias.acme.test", "v").await.unwrap();
        assert_eq!(knot.texts("alias.delegated.test"), [""; 0]);
        let error = writer.present("round.acme.test", "v").await.unwrap_err();
        assert!(matches!(error, DnsError::Aliases(_)), "{error}");
    });
}

#[test]
fn an_alias_that_another_server_knows_is_followed() {
    let public = Knot::primary(&[ACME_TEST]);
    let own = Knot::primary(&[("delegated.test", "")]);
    let key = Key::edge();
    let servers = format!("servers = [\"{}\"]\npropagation_timeout = \"0s\"\n", public.address());
    let writer = writer(&(servers + &key.config(own.address(), "")));
    block_on(writer.present("_acme-challenge.alias.acme.test", "v")).unwrap();
    assert_eq!(own.texts("alias.delegated.test"), ["v"]);
}

#[test]
fn a_wrong_key_is_told_by_what_is_wrong_with_it() {
    let knot = Knot::primary(&[ACME_TEST]);
    let name = "_acme-challenge.acme.test";
    let refused = |key: Key| {
        let error = block_on(key.writer(&knot).present(name, "v")).unwrap_err();
        assert_eq!(knot.texts(name), [""; 0]);
        error
    };
    let secret = refused(Key::new("edge", "hmac-sha256", NARROW_SECRET));
    assert!(
        matches!(&secret, DnsError::Signature { problem: SignatureProblem::Secret(_), .. })
            && text(&secret).contains("BADSIG: it has the key edge with another secret"),
        "{secret}"
    );
    for key in [
        Key::new("nobody", "hmac-sha256", EDGE_SECRET),
        Key::new("edge", "hmac-sha512", EDGE_SECRET),
    ] {
        let expected = format!("BADKEY: it has no key {} with {}", key.name, key.algorithm);
        let unknown = refused(key);
        assert!(
            matches!(&unknown, DnsError::Signature { problem: SignatureProblem::Key(..), .. })
                && text(&unknown).contains(&expected),
            "{unknown}"
        );
    }
    // A key that the server has, and that may write another name. Knot says BADKEY of it too.
    let narrow = Key::new("narrow", "hmac-sha512", NARROW_SECRET);
    block_on(narrow.writer(&knot).present("only.acme.test", "v")).unwrap();
    assert_eq!(knot.texts("only.acme.test"), ["v"]);
    let narrow = refused(narrow);
    assert!(text(&narrow).contains("or none that may write this zone"), "{narrow:?}");
}

#[test]
fn a_wrong_zone_is_told() {
    let knot = Knot::primary(&[ACME_TEST]);
    let key = Key::edge();
    // No look-up leaves this machine.
    let servers = format!("servers = [\"{}\"]\n", knot.address());
    let error = |zone: &str, name: &str| {
        let config = servers.clone() + &key.config(knot.address(), zone);
        block_on(writer(&config).present(name, "v")).unwrap_err()
    };
    let outside = error("zone = \"other.test\"", "_acme-challenge.acme.test");
    assert!(matches!(outside, DnsError::OutsideZone { .. }), "{outside}");
    let above = error("zone = \"test\"", "_acme-challenge.acme.test");
    assert!(
        matches!(above, DnsError::Rejected { code: ResponseCode::NotAuth, .. })
            && text(&above).contains("NOTAUTH: the server is not the primary of this zone"),
        "{above}"
    );
    let unknown = error("", "_acme-challenge.example.test");
    assert!(matches!(unknown, DnsError::NoZone { .. }), "{unknown}");
}

#[test]
fn a_secondary_that_lags_is_waited_for() {
    let primary = Knot::primary(&[ACME_TEST]);
    let secondary = Knot::secondary(&primary, "acme.test");
    let key = Key::edge();
    let servers = format!("servers = [\"{}\", \"{}\"]\n", primary.address(), secondary.address());
    let writer = writer(&(servers + &key.config(primary.address(), "")));
    let name = "_acme-challenge.acme.test";
    block_on(writer.present(name, "v")).unwrap_or_else(|error| panic!("{}", text(&error)));
    assert_eq!(secondary.texts(name), ["v"]);
}

#[test]
fn a_server_that_never_has_it_is_named_after_the_timeout() {
    let primary = Knot::primary(&[ACME_TEST]);
    let other = Knot::primary(&[ACME_TEST]);
    let servers = format!(
        "propagation_timeout = \"600ms\"\nservers = [\"{}\", \"{}\"]\n",
        primary.address(),
        other.address()
    );
    let key = Key::edge();
    let writer = writer(&(servers + &key.config(primary.address(), "")));
    let error = block_on(writer.present("_acme-challenge.acme.test", "v")).unwrap_err();
    assert_eq!(
        text(&error),
        format!(
            "_acme-challenge.acme.test was written, and within 600ms was not seen with its value at {} (no such value)",
            other.address()
        )
    );
}

#[test]
fn a_server_of_the_zone_that_nobody_reaches_is_left_out() {
    // Nothing answers at port 53 of this address.
    let knot = Knot::primary(&[("hidden.test", "@ NS gone\ngone A 127.0.0.253")]);
    let key = Key::edge();
    let writer = key.writer(&knot);
    block_on(writer.present("_acme-challenge.hidden.test", "v"))
        .unwrap_or_else(|error| panic!("{}", text(&error)));
    assert_eq!(knot.texts("_acme-challenge.hidden.test"), ["v"]);
}

#[test]
fn a_server_that_is_down_or_silent_is_an_error_in_time() {
    let key = Key::edge();
    let closed = {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    };
    let down = writer(&key.config(closed, ""));
    let error = block_on(down.present("_acme-challenge.acme.test", "v")).unwrap_err();
    assert!(text(&error).starts_with(&format!("connecting by TCP at {closed}: ")), "{error}");

    // Takes connections, by its backlog, and says nothing.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = listener.local_addr().unwrap();
    let silent = writer(&format!("timeout = \"300ms\"\n{}", key.config(silent, "")));
    let started = Instant::now();
    let error = block_on(silent.present("_acme-challenge.acme.test", "v")).unwrap_err();
    assert!(
        matches!(&error, DnsError::Exchange { source, .. } if matches!(**source, ExchangeError::Timeout(_))),
        "{error:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(30));
}

/// A server that says yes to every update, and has not the key.
async fn impostor(listener: TcpListener, signer: Option<TSigner>, updates: Arc<AtomicUsize>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        while let Ok(length) = stream.read_u16().await {
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await.unwrap();
            let question = Message::from_vec(&question).unwrap();
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            answer.metadata.authoritative = true;
            answer.add_query(question.queries[0].clone());
            if question.metadata.op_code == OpCode::Update {
                updates.fetch_add(1, Ordering::Relaxed);
                if let Some(signer) = &signer {
                    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
                    answer.finalize(signer, now).unwrap();
                }
            }
            let answer = answer.to_vec().unwrap();
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    }
}

#[test]
fn a_yes_without_the_right_signature_is_not_believed() {
    let key = Key::edge();
    let name = Name::from_ascii("edge.").unwrap();
    let other = |name: &Name| {
        TSigner::new(b"another".to_vec(), TsigAlgorithm::HmacSha256, name.clone(), 300).unwrap()
    };
    for signer in [None, Some(other(&name)), Some(other(&Name::from_ascii("other.").unwrap()))] {
        let listener = block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let updates = Arc::default();
        let server = spawn(impostor(listener, signer, Arc::clone(&updates)));
        let writer = writer(&key.config(address, "zone = \"acme.test\""));
        let error = block_on(writer.present("_acme-challenge.acme.test", "v")).unwrap_err();
        assert!(matches!(error, DnsError::NotSigned { .. }), "{error:?}");
        assert_eq!(updates.load(Ordering::Relaxed), 1);
        server.abort();
    }
}

/// Writes by `knotc`: control socket, then what the edge adds.
fn script(folder: &Path) -> String {
    let path = folder.join("dns.sh");
    let knotc = sbin("knotc");
    let text = format!(
        "set -eu\n\
         control=$1 action=$2\n\
         knotc() {{ {} --socket \"$control\" \"$@\" >&2; }}\n\
         knotc zone-begin acme.test\n\
         case $action in\n\
         present) knotc zone-set acme.test \"$TIDEGATE_DNS_NAME.\" 60 TXT \"\\\"$TIDEGATE_DNS_VALUE\\\"\" ;;\n\
         clean-up) knotc zone-unset acme.test \"$TIDEGATE_DNS_NAME.\" TXT \"\\\"$TIDEGATE_DNS_VALUE\\\"\" ;;\n\
         esac\n\
         knotc zone-commit acme.test\n",
        knotc.display()
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_command_writes_records_and_runs_once_at_a_time() {
    let knot = Knot::primary(&[ACME_TEST]);
    let folder = tempfile::tempdir().unwrap();
    let writer = writer(&format!(
        "command = [\"/bin/sh\", \"{}\", \"{}\"]\nservers = [\"{}\"]\n",
        script(folder.path()),
        knot.control().display(),
        knot.address()
    ));
    let name = "_acme-challenge.acme.test";
    block_on(async {
        // Two of the script at once would meet in one transaction of the zone.
        let (one, two) = tokio::join!(writer.present(name, "one"), writer.present(name, "two"));
        for result in [one, two] {
            result.unwrap_or_else(|error| panic!("{}", text(&error)));
        }
        assert_eq!(knot.texts(name), ["one", "two"]);
        writer.clean_up(name, "one").await.unwrap();
        assert_eq!(knot.texts(name), ["two"]);
        let error = writer.present("_acme-challenge.other.test", "v").await.unwrap_err();
        assert!(
            matches!(&error, DnsError::CommandFailed { stderr, .. } if !stderr.is_empty()),
            "{error}"
        );
    });
}
