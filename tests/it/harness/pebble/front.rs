//! The server before pebble's own: it adds what pebble 2.4 does not have, counts what passes, and misbehaves on demand.
//!
//! It keeps the `Host` of each request, since pebble builds its URLs from it, and checks against it those that clients
//! sign. What it adds is in [`extensions`](super::extensions).

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, TRANSFER_ENCODING},
    request, response,
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    extensions::{Extensions, RENEWAL_PATH},
    fault::Fault,
    record::{Order, Record},
};
use crate::harness::{block_on, certificate::Certificate, spawn};

// Pebble's paths, which are in its directory.
pub(super) const DIRECTORY: &str = "/dir";
const NEW_NONCE: &str = "/nonce-plz";
const NEW_ACCOUNT: &str = "/sign-me-up";
const NEW_ORDER: &str = "/order-plz";
const KEY_CHANGE: &str = "/rollover-account-key";
const FINALIZE: &str = "/finalize-order/";

const RUBBISH: &str = "<!DOCTYPE html><title>Welcome</title><h1>It works!</h1>";

/// The running front. Dropped, it is gone, with its connections.
pub(super) struct Front {
    pub(super) address: SocketAddr,
    pub(super) shared: Arc<Shared>,
    fault: watch::Sender<Option<Fault>>,
    task: JoinHandle<()>,
}

/// What its connections share.
pub(super) struct Shared {
    pebble: SocketAddr,
    management: SocketAddr,
    trust: Arc<ClientConfig>,
    pub(super) extensions: Extensions,
    record: Mutex<Record>,
    fault: watch::Receiver<Option<Fault>>,
    held: AtomicUsize,
}

/// A request with its body read.
struct Asked {
    head: request::Parts,
    body: Bytes,
}

/// An answer with its body read.
pub(super) struct Answer {
    head: response::Parts,
    body: Bytes,
}

/// The connection is closed in place of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the authority is down")]
struct Closed;

impl Front {
    /// Starts it before these two, which show a certificate that `trust` takes.
    pub(super) fn start(
        pebble: SocketAddr,
        management: SocketAddr,
        trust: Arc<ClientConfig>,
        certificate: &Certificate,
        extensions: Extensions,
    ) -> Self {
        let listener = block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, fault) = watch::channel(None);
        let shared = Arc::new(Shared {
            pebble,
            management,
            trust,
            extensions,
            record: Mutex::default(),
            fault,
            held: AtomicUsize::new(0),
        });
        let tls = TlsAcceptor::from(certificate.server_config(&["h2", "http/1.1"]));
        let task = spawn(accept(listener, tls, Arc::clone(&shared)));
        Self { address, shared, fault: sender, task }
    }

    /// How it behaves from now on. What is held goes on.
    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    // Dropped with this task, it ends what is open.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if shared.fault() == Some(Fault::Down) {
            continue;
        }
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Closed> {
    let asked = Asked::read(request).await.ok_or(Closed)?;
    let answer = match shared.fault() {
        Some(Fault::Down) => return Err(Closed),
        Some(Fault::Rubbish) => Answer::new(StatusCode::OK, "text/html", RUBBISH),
        Some(Fault::Status(status)) => {
            Answer::new(StatusCode::from_u16(status).expect("a status"), "text/plain", "no")
        }
        Some(Fault::RateLimited(wait)) if asked.is_post(NEW_ORDER) => {
            let detail = "too many certificates already issued";
            let problem = Answer::problem(StatusCode::TOO_MANY_REQUESTS, "rateLimited", detail);
            shared.with_nonce(problem.retry_after(wait)).await
        }
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            shared.answer(asked).await
        }
        _ => shared.answer(asked).await,
    };
    Ok(Response::from_parts(answer.head, Full::new(answer.body)))
}

impl Shared {
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many finalizations were made to wait so far.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    fn fault(&self) -> Option<Fault> {
        *self.fault.borrow()
    }

    async fn answer(&self, asked: Asked) -> Answer {
        let path = asked.path();
        if let Some(certificate) = path.strip_prefix(RENEWAL_PATH) {
            self.record().renewal_queries += 1;
            return self.renewal(certificate).await;
        }
        let order = asked.is_post(NEW_ORDER).then(|| Order::of(&asked.payload()));
        if let Some(order) = &order
            && !self.extensions.allows_profile(order.profile.as_deref())
        {
            let detail = "this authority has no such profile";
            let problem = Answer::problem(StatusCode::BAD_REQUEST, "invalidProfile", detail);
            return self.with_nonce(problem).await;
        }
        let is_finalization = asked.head.method == Method::POST && path.starts_with(FINALIZE);
        if is_finalization {
            self.hold(false).await;
        }
        let mut answer = self.ask(self.pebble, &asked).await;
        if is_finalization {
            self.hold(true).await;
        }
        self.note(&asked, order, &mut answer);
        answer
    }

    /// Waits as long as such a finalization is to be held.
    async fn hold(&self, passed_on: bool) {
        if Fault::holds(self.fault(), passed_on) {
            self.held.fetch_add(1, Ordering::SeqCst);
            let mut fault = self.fault.clone();
            let _ = fault.wait_for(|fault| !Fault::holds(*fault, passed_on)).await;
        }
    }

    /// Counts what went through, and adds to the answer what pebble does not say.
    fn note(&self, asked: &Asked, order: Option<Order>, answer: &mut Answer) {
        let (path, status) = (asked.path(), answer.head.status);
        if asked.head.method == Method::GET && path == DIRECTORY {
            let base = format!("https://{}", asked.host());
            answer.edit(|directory| self.extensions.complete_directory(directory, &base));
            return;
        }
        if asked.head.method != Method::POST {
            return;
        }
        let mut record = self.record();
        if !status.is_success() {
            let problem = answer.json();
            record.nonces_refused += usize::from(
                problem["type"].as_str().is_some_and(|kind| kind.ends_with(":badNonce")),
            );
            return;
        }
        match path {
            NEW_ACCOUNT if status == StatusCode::CREATED => record.accounts_created += 1,
            NEW_ACCOUNT => record.accounts_found += 1,
            KEY_CHANGE => record.keys_changed += 1,
            _ => {}
        }
        record.finalized += usize::from(path.starts_with(FINALIZE));
        if let Some(order) = order {
            let location = answer.head.headers.get(LOCATION).and_then(|url| url.to_str().ok());
            let object = answer.json();
            let urls = location.into_iter().chain(object["finalize"].as_str());
            record.keep(order.clone(), urls.map(path_of));
            answer.edit(|object| order.complete(object));
        } else if let Some(order) = record.order_at(path) {
            answer.edit(|object| order.complete(object));
        }
    }

    /// RFC 9773, section 4.1: when a certificate should be renewed.
    async fn renewal(&self, certificate: &str) -> Answer {
        let wait = self.extensions.renewal_retry_after();
        let unknown =
            |why| Answer::problem(StatusCode::NOT_FOUND, "malformed", why).retry_after(wait);
        let serial = match self.extensions.serial_of(certificate) {
            Ok(serial) => serial,
            Err(why) => return unknown(why),
        };
        let issued = self.get(self.management, &format!("/cert-status-by-serial/{serial}")).await;
        if issued.head.status != StatusCode::OK {
            return unknown("no certificate with this serial number was issued");
        }
        match self.extensions.renewal_window() {
            Some(window) => {
                let body = json!({ "suggestedWindow": window }).to_string();
                Answer::new(StatusCode::OK, "application/json", body).retry_after(wait)
            }
            None => unknown("there is nothing to say of this certificate"),
        }
    }

    /// Every answer to a signed request brings the nonce for the next: RFC 8555, section 6.5.
    async fn with_nonce(&self, mut answer: Answer) -> Answer {
        let fresh = self.get(self.pebble, NEW_NONCE).await;
        if let Some(nonce) = fresh.head.headers.get("replay-nonce") {
            answer.head.headers.insert("replay-nonce", nonce.clone());
        }
        answer
    }

    async fn get(&self, server: SocketAddr, path: &str) -> Answer {
        let mut request = Request::new(());
        *request.uri_mut() = path.parse().expect("a path");
        let host = HeaderValue::from_str(&server.to_string()).expect("a host");
        request.headers_mut().insert(HOST, host);
        self.ask(server, &Asked { head: request.into_parts().0, body: Bytes::new() }).await
    }

    async fn ask(&self, server: SocketAddr, asked: &Asked) -> Answer {
        match self.exchange(server, asked).await {
            Ok(answer) => answer,
            Err(error) => {
                let text = format!("the front does not reach pebble: {error}");
                Answer::new(StatusCode::BAD_GATEWAY, "text/plain", text)
            }
        }
    }

    async fn exchange(
        &self,
        server: SocketAddr,
        asked: &Asked,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(server).await?;
        let name = ServerName::from(server.ip());
        let stream = TlsConnector::from(Arc::clone(&self.trust)).connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = spawn(connection);
        let mut request = Request::new(Full::new(asked.body.clone()));
        *request.method_mut() = asked.head.method.clone();
        *request.uri_mut() = asked.path().parse()?;
        *request.headers_mut() = asked.head.headers.clone();
        request.headers_mut().insert(HOST, HeaderValue::from_str(&asked.host())?);
        for framing in [CONTENT_LENGTH, TRANSFER_ENCODING] {
            request.headers_mut().remove(framing);
        }
        let (mut head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        // The body is framed anew, and the version is that of the client.
        for framing in [CONTENT_LENGTH, TRANSFER_ENCODING] {
            head.headers.remove(framing);
        }
        head.version = Version::default();
        Ok(Answer { head, body })
    }
}

impl Asked {
    async fn read(request: Request<Incoming>) -> Option<Self> {
        let (head, body) = request.into_parts();
        Some(Self { head, body: body.collect().await.ok()?.to_bytes() })
    }

    fn path(&self) -> &str {
        self.head.uri.path()
    }

    fn is_post(&self, path: &str) -> bool {
        self.head.method == Method::POST && self.path() == path
    }

    /// What the client called the server: `Host`, or `:authority`.
    fn host(&self) -> String {
        let named = self.head.headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = || self.head.uri.authority().map(ToString::to_string);
        named.map(ToOwned::to_owned).or_else(authority).unwrap_or_default()
    }

    /// The payload of the JWS in the body: RFC 8555, section 6.2. `null` where there is none.
    fn payload(&self) -> Value {
        let read = || {
            let jws: Value = serde_json::from_slice(&self.body).ok()?;
            let payload = URL_SAFE_NO_PAD.decode(jws["payload"].as_str()?).ok()?;
            serde_json::from_slice(&payload).ok()
        };
        read().unwrap_or_default()
    }
}

impl Answer {
    fn new(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Self {
        let mut head = Response::new(()).into_parts().0;
        head.status = status;
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Self { head, body: body.into() }
    }

    /// A problem document: RFC 8555, section 6.7.
    fn problem(status: StatusCode, kind: &str, detail: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let body = json!({ "type": kind, "detail": detail, "status": status.as_u16() });
        Self::new(status, "application/problem+json", body.to_string())
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        self.head.headers.insert(RETRY_AFTER, wait.as_secs().into());
        self
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Changes the body where it is a JSON object.
    fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let mut object = self.json();
        if object.is_object() {
            change(&mut object);
            self.body = object.to_string().into();
        }
    }
}

fn path_of(url: &str) -> String {
    url.parse::<http::Uri>().expect("a URL").path().to_owned()
}
