//! The test authority of the harness, without an edge: what the front adds, counts and does wrong, and that real orders
//! go through it. What fails here would make tests of certificates say the wrong thing.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, header::HOST};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{
    Account, AccountCredentials, BodyWrapper, BytesResponse, CertificateIdentifier, ChallengeType,
    Error, ExternalAccountKey, HttpClient, Identifier, KeyAuthorization, NewAccount, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::parse_x509_certificate;

use crate::{
    assert_eventually,
    harness::{
        Client, FailureKind, Origin, Pebble, Tls, block_on,
        pebble::{Fault, Order as Ordered},
        spawn,
    },
};

/// How long an order may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// An ACME client over the harness's own TLS: a connection a request.
struct Http(Arc<ClientConfig>);

impl HttpClient for Http {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = TlsConnector::from(Arc::clone(&self.0));
        Box::pin(async move {
            let other = |error: Box<dyn std::error::Error + Send + Sync>| Error::Other(error);
            let authority = request.uri().authority().expect("a URL").clone();
            let stream = TcpStream::connect(authority.as_str()).await;
            let stream = stream.map_err(|error| other(error.into()))?;
            let name = ServerName::try_from(authority.host().to_owned()).expect("a name");
            let stream = tls.connect(name, stream).await.map_err(|error| other(error.into()))?;
            let handshake = http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = handshake.map_err(|error| other(error.into()))?;
            spawn(connection);
            request.headers_mut().insert(HOST, authority.as_str().parse().expect("a host"));
            *request.uri_mut() = request.uri().path().parse().expect("a path");
            let answer = sender.send_request(request).await;
            answer.map(BytesResponse::from).map_err(|error| other(error.into()))
        })
    }
}

fn http(pebble: &Pebble) -> Box<Http> {
    Box::new(Http(Tls::trusting(pebble.ca_pem()).client_config(&["http/1.1"])))
}

fn account_with(
    pebble: &Pebble,
    external: Option<&ExternalAccountKey>,
) -> Result<(Account, AccountCredentials), Error> {
    let new =
        NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let builder = Account::builder_with_http(http(pebble));
    block_on(builder.create(&new, pebble.directory(), external))
}

fn account(pebble: &Pebble) -> Account {
    account_with(pebble, None).expect("an account").0
}

fn order(account: &Account, name: &str) -> Order {
    let identifiers = [Identifier::Dns(name.to_owned())];
    block_on(account.new_order(&NewOrder::new(&identifiers))).expect("an order")
}

/// Answers the challenge of an order for one name by http-01, until it is ready to be finalized.
fn make_ready(pebble: &Pebble, order: &mut Order) {
    let mut origin = None;
    set_ready(order, ChallengeType::Http01, |key| {
        let started = Origin::builder().body(key.as_str().to_owned()).start();
        pebble.validate_at(started.address().parse().ok(), None);
        origin = Some(started);
    });
    let ready = block_on(order.poll_ready(&retries())).expect("an order");
    assert_eq!(ready, OrderStatus::Ready, "{}", pebble.logs());
}

/// Says that the challenge of this kind may be validated, once `prepare` has made use of its key authorization.
fn set_ready(order: &mut Order, kind: ChallengeType, prepare: impl FnOnce(&KeyAuthorization)) {
    let mut authorizations = order.authorizations();
    let authorization = block_on(authorizations.next()).expect("one");
    let mut authorization = authorization.expect("an authorization");
    let mut challenge = authorization.challenge(kind).expect("such a challenge");
    prepare(&challenge.key_authorization());
    block_on(challenge.set_ready()).expect("a challenge");
}

fn retries() -> RetryPolicy {
    RetryPolicy::new().initial_delay(Duration::from_millis(20)).timeout(PATIENCE)
}

/// Finalizes a ready order and fetches its certificate: the chain, leaf first.
fn finish(order: &mut Order) -> Vec<CertificateDer<'static>> {
    let chain = block_on(async {
        order.finalize().await.expect("the order is finalized");
        order.poll_certificate(&retries()).await.expect("a certificate")
    });
    CertificateDer::pem_slice_iter(chain.as_bytes()).map(|der| der.expect("PEM")).collect()
}

fn problem_type(error: &Error) -> Option<&str> {
    match error {
        Error::Api(problem) => problem.r#type.as_deref(),
        _ => None,
    }
}

fn directory(pebble: &Pebble) -> serde_json::Value {
    pebble.client().get("/dir").send().assert_status(200).json()
}

#[test]
fn the_directory_has_what_pebble_has_and_what_the_front_adds() {
    let pebble = Pebble::start();
    let directory = directory(&pebble);
    let base = pebble.directory().replace("/dir", "");
    for name in ["newNonce", "newAccount", "newOrder", "keyChange", "renewalInfo"] {
        let url = directory[name].as_str().unwrap_or_else(|| panic!("no {name}: {directory}"));
        assert!(url.starts_with(&base), "{url}");
    }
    assert_eq!(directory["meta"].get("profiles"), None);
    let second = pebble.client().http2().get("/dir").send().assert_status(200);
    assert_eq!(second.json(), directory, "HTTP/2 has no Host header");

    let plain =
        Pebble::builder().without_renewal_information().profile("short", "six days").start();
    let directory = plain.client().get("/dir").send().json();
    assert_eq!(directory.get("renewalInfo"), None);
    assert_eq!(directory["meta"]["profiles"]["short"], "six days");
    let trusting = std::fs::read_to_string(plain.ca_path()).unwrap();
    assert_eq!(trusting, plain.ca_pem());
    let other = Client::to(plain.directory().replace("https://", "").replace("/dir", ""))
        .tls(Tls::trusting(pebble.ca_pem()));
    assert_eq!(other.get("/dir").try_send().unwrap_err().kind, FailureKind::Tls);
}

#[test]
fn an_order_goes_through_and_is_counted() {
    let pebble = Pebble::builder().refused_nonces(0).validity(Duration::from_hours(144)).start();
    let (account, credentials) = account_with(&pebble, None).unwrap();
    let mut order = order(&account, "shop.example.com");
    assert_eq!((pebble.orders_created(), pebble.finalized()), (1, 0));
    make_ready(&pebble, &mut order);
    assert!(pebble.http_validations() >= 1);
    assert_eq!(pebble.tls_validations(), 0);
    let chain = finish(&mut order);
    assert_eq!(pebble.finalized(), 1);
    assert_eq!(
        pebble.orders(),
        [Ordered { names: vec!["shop.example.com".to_owned()], ..Ordered::default() }]
    );
    let (_, leaf) = parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(leaf.validity().time_to_expiration().unwrap().whole_hours(), 143);
    // What it is issued by is what the authority shows.
    let intermediate = CertificateDer::from_pem_slice(pebble.intermediate_pem().as_bytes());
    assert_eq!(chain[1], intermediate.unwrap());
    let root = CertificateDer::from_pem_slice(pebble.root_pem().as_bytes()).unwrap();
    let (_, root) = parse_x509_certificate(&root).unwrap();
    let (_, issuer) = parse_x509_certificate(&chain[1]).unwrap();
    assert_eq!(issuer.issuer(), root.subject());
    issuer.verify_signature(Some(root.public_key())).unwrap();

    assert_eq!((pebble.accounts_created(), pebble.accounts_found()), (1, 0));
    let mut account =
        block_on(Account::builder_with_http(http(&pebble)).from_credentials(credentials)).unwrap();
    let _ = block_on(account.update_key()).unwrap();
    assert_eq!((pebble.accounts_created(), pebble.keys_changed()), (1, 1));
}

#[test]
fn good_nonces_are_refused_as_often_as_was_asked() {
    let pebble = Pebble::builder().refused_nonces(90).start();
    // One in ten gets through at once: not nine in a row.
    for _ in 0..9 {
        let _ = account_with(&pebble, None);
    }
    assert!(pebble.nonces_refused() > 0);
}

#[test]
fn renewal_information_is_for_certificates_that_were_issued() {
    let pebble = Pebble::builder().refused_nonces(0).start();
    let account = account(&pebble);
    let mut first = order(&account, "a.example.com");
    make_ready(&pebble, &mut first);
    let chain = finish(&mut first);
    let certificate = CertificateIdentifier::try_from(&chain[0]).unwrap();
    let unknown = block_on(account.renewal_info(&certificate)).unwrap_err();
    assert_eq!(problem_type(&unknown), Some("urn:ietf:params:acme:error:malformed"));

    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    pebble.set_renewal_window(start, start + Duration::from_mins(1));
    pebble.set_renewal_retry_after(Duration::from_secs(77));
    let (information, wait) = block_on(account.renewal_info(&certificate)).unwrap();
    let window = information.suggested_window;
    assert_eq!(
        (window.start.unix_timestamp(), window.end.unix_timestamp()),
        (2_000_000_000, 2_000_000_060)
    );
    assert!(wait > Duration::from_mins(1) && wait <= Duration::from_secs(77), "{wait:?}");
    for wrong in ["no-dot", "AAAA.AAAA", &format!("{certificate}AA"), &format!("{certificate}=")] {
        pebble.client().get(&format!("/renewal-info/{wrong}")).send().assert_status(404);
    }
    assert_eq!(pebble.renewal_queries(), 6);

    // The replaced certificate is named in the order, then and later: RFC 9773, section 5.
    let identifiers = [Identifier::Dns("a.example.com".to_owned())];
    let renewal = NewOrder::new(&identifiers).replaces(certificate.clone());
    let mut second = block_on(account.new_order(&renewal)).unwrap();
    assert_eq!(pebble.replaced(), [certificate.to_string()]);
    let state = block_on(second.refresh()).unwrap();
    assert_eq!(state.replaces.as_ref(), Some(&certificate));
    assert_eq!(pebble.orders_created(), 2);
}

#[test]
fn profiles_are_remembered_and_unknown_ones_refused() {
    let pebble = Pebble::builder().refused_nonces(0).profile("short", "six days").start();
    let account = account(&pebble);
    let identifiers = [Identifier::Dns("a.example.com".to_owned())];
    let short = NewOrder::new(&identifiers).profile("short");
    let mut order = block_on(account.new_order(&short)).unwrap();
    assert_eq!(order.state().profile.as_deref(), Some("short"));
    block_on(account.new_order(&NewOrder::new(&identifiers))).unwrap();
    let wrong = NewOrder::new(&identifiers).profile("wrong");
    let refused = block_on(account.new_order(&wrong)).err().unwrap();
    assert_eq!(problem_type(&refused), Some("urn:ietf:params:acme:error:invalidProfile"));
    assert_eq!(pebble.profiles_ordered(), [Some("short".to_owned()), None]);
}

#[test]
fn accounts_are_bound_to_an_external_one_where_that_is_wanted() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let pebble = Pebble::builder().refused_nonces(0).external_account("kid-1", key).start();
    let refused = account_with(&pebble, None).err().unwrap();
    let required = "urn:ietf:params:acme:error:externalAccountRequired";
    assert_eq!(problem_type(&refused), Some(required));
    let key = {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        URL_SAFE_NO_PAD.decode(key).unwrap()
    };
    let bound = ExternalAccountKey::new("kid-1".to_owned(), &key);
    let _ = account_with(&pebble, Some(&bound)).unwrap();
    assert_eq!(pebble.accounts_created(), 1);
}

#[test]
fn faults_do_what_they_say_and_end() {
    let pebble = Pebble::builder().refused_nonces(0).start();
    let client = pebble.client().new_connections();
    let kept = pebble.client();
    kept.get("/dir").send().assert_status(200);

    pebble.set_fault(Fault::Down);
    assert!(client.get("/dir").try_send().is_err());
    assert_eq!(kept.get("/dir").try_send().unwrap_err().kind, FailureKind::Closed);
    pebble.set_fault(Fault::Slow(Duration::from_millis(50)));
    let slow = client.get("/dir").send().assert_status(200);
    assert!(slow.elapsed >= Duration::from_millis(50));
    pebble.set_fault(Fault::Rubbish);
    let rubbish = client.get("/dir").send().assert_status(200);
    assert!(rubbish.text().starts_with("<!DOCTYPE html>"));
    pebble.set_fault(Fault::Status(503));
    client.get("/dir").send().assert_status(503);

    // Rate limits are for orders: an account is still found, and the refusal is signed for as any answer is.
    pebble.set_fault(Fault::RateLimited(Duration::from_hours(1)));
    let account = account(&pebble);
    let refused = client.post("/order-plz").body("{}").send().assert_status(429);
    assert_eq!(refused.header("retry-after"), Some("3600"));
    assert!(refused.header("replay-nonce").is_some_and(|nonce| !nonce.is_empty()));
    let identifiers = [Identifier::Dns("a.example.com".to_owned())];
    let refused = block_on(account.new_order(&NewOrder::new(&identifiers))).err().unwrap();
    assert_eq!(problem_type(&refused), Some("urn:ietf:params:acme:error:rateLimited"));
    assert_eq!(pebble.orders_created(), 0);
    pebble.set_fault(None);
    order(&account, "a.example.com");
    assert_eq!(pebble.orders_created(), 1);
}

#[test]
fn a_finalization_is_held_before_pebble_has_it_or_after() {
    let pebble = Pebble::builder().refused_nonces(0).start();
    let account = account(&pebble);
    let mut held = order(&account, "a.example.com");
    make_ready(&pebble, &mut held);
    let url = held.url().to_owned();

    // A client that is gone when its request was held leaves the order ready.
    pebble.set_fault(Fault::HoldFinalize);
    let finalizing = spawn(async move { held.finalize().await.is_ok() });
    assert_eventually!(pebble.held() == 1, within PATIENCE);
    finalizing.abort();
    assert!(block_on(finalizing).is_err(), "it was held when it was given up");
    let mut again = block_on(account.order(url.clone())).unwrap();
    assert_eq!((again.state().status, pebble.finalized()), (OrderStatus::Ready, 0));

    // One whose answer was held finds it finalized.
    pebble.set_fault(Fault::HoldFinalized);
    let finalizing = spawn(async move { again.finalize().await.is_ok() });
    assert_eventually!(pebble.held() == 2, within PATIENCE);
    let mut again = block_on(account.order(url)).unwrap();
    assert_ne!(again.state().status, OrderStatus::Ready);
    assert!(!finalizing.is_finished());
    pebble.set_fault(None);
    assert!(block_on(finalizing).unwrap(), "released, it is answered");
    assert_eq!(pebble.finalized(), 1);
    assert!(block_on(again.poll_certificate(&retries())).is_ok());
}

#[test]
fn relays_count_and_reach_a_target_that_is_set_later() {
    let pebble = Pebble::builder().refused_nonces(0).start();
    let account = account(&pebble);
    // Nowhere to validate: the order fails.
    let mut failing = order(&account, "a.example.com");
    set_ready(&mut failing, ChallengeType::TlsAlpn01, |_| {});
    let failed = block_on(failing.poll_ready(&retries())).unwrap_err();
    assert_eq!(problem_type(&failed), Some("urn:ietf:params:acme:error:unauthorized"));
    assert!(pebble.tls_validations() >= 1);
    assert_eq!(pebble.http_validations(), 0);
    let before = pebble.http_validations();
    make_ready(&pebble, &mut order(&account, "a.example.com"));
    assert!(pebble.http_validations() > before);
}

#[test]
fn the_name_server_says_what_it_is_told() {
    let pebble = Pebble::builder().refused_nonces(0).start();
    let name = "_acme-challenge.a.example.com";
    assert_eq!(pebble.dns().text_records(name), Some(Vec::new()));
    pebble.dns().add_text(name, "one");
    pebble.dns().add_text(name, "two");
    assert_eq!(pebble.dns().text_records(name).unwrap().len(), 2);
    pebble.dns().clear_text(name);
    assert_eq!(pebble.dns().text_records(name), Some(Vec::new()));

    // dns-01, for a wildcard.
    let account = account(&pebble);
    let mut wildcard = order(&account, "*.a.example.com");
    set_ready(&mut wildcard, ChallengeType::Dns01, |key| {
        pebble.dns().add_text(name, &key.dns_value());
    });
    let ready = block_on(wildcard.poll_ready(&retries()));
    assert_eq!(ready.unwrap(), OrderStatus::Ready, "{}", pebble.logs());
    // A name that does not resolve.
    pebble.dns().fail("b.example.com");
    let mut failing = order(&account, "b.example.com");
    set_ready(&mut failing, ChallengeType::Http01, |_| {});
    let failed = block_on(failing.poll_ready(&retries())).unwrap_err();
    assert_eq!(problem_type(&failed), Some("urn:ietf:params:acme:error:connection"));
    assert_eq!(pebble.http_validations(), 0);
}

#[test]
fn two_authorities_at_once_do_not_disturb_each_other() {
    let (one, other) = (Pebble::start(), Pebble::builder().refused_nonces(0).start());
    assert_ne!(one.directory(), other.directory());
    assert_ne!(one.root_pem(), other.root_pem());
    one.set_fault(Fault::Status(503));
    one.dns().add_text("a.example.com", "one");
    let account = account(&other);
    let mut order = order(&account, "a.example.com");
    make_ready(&other, &mut order);
    assert_eq!(finish(&mut order).len(), 2);
    assert_eq!(other.dns().text_records("a.example.com"), Some(Vec::new()));
    assert_eq!((one.accounts_created(), one.orders_created()), (0, 0));
    assert_eq!((one.http_validations(), one.finalized()), (0, 0));
}
