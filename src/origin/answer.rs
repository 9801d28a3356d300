//! What the demo origin answers to each path.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use serde::Serialize;

use super::settings::{Settings, SettingsView, wait_of};
use crate::types::ByteSize;

/// The most bytes `/bytes` sends in one answer.
const MOST_BYTES: u64 = 1 << 40;
/// Bytes of one chunk of `/bytes`: one buffer, sent again and again.
const CHUNK: &[u8] = &[b'.'; 16 << 10];
/// The shortest time between two events of `/sse`.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

pub(super) type AnswerBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// One demo origin: its name, its counter, its settings of now.
#[derive(Debug)]
pub(super) struct State {
    pub(super) name: String,
    requests: AtomicU64,
    settings: Mutex<Settings>,
}

impl State {
    pub(super) fn new(name: String, settings: Settings) -> Self {
        Self { name, requests: AtomicU64::new(0), settings: Mutex::new(settings) }
    }

    fn settings(&self) -> Settings {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the settings all at once, or not at all.
    fn change(&self, query: &str) -> Result<Settings, super::SettingsError> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        *settings = settings.changed_by(query)?;
        Ok(*settings)
    }
}

/// What the origin saw of a request, as JSON in this order.
#[derive(Serialize)]
struct Seen<'a> {
    origin: &'a str,
    request: u64,
    method: &'a str,
    path: &'a str,
    version: String,
    peer: SocketAddr,
    headers: BTreeMap<&'a str, Vec<String>>,
}

/// Answers one request. Health and control know neither latency nor errors.
pub(super) async fn answer(
    state: Arc<State>,
    peer: SocketAddr,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let mut response = match request.uri().path() {
        "/healthz" => health(&state),
        "/-/origin" => control(&state, request.method(), request.uri()),
        _ => {
            let number = state.requests.fetch_add(1, Ordering::Relaxed) + 1;
            let settings = state.settings();
            let wait = settings.wait(fastrand::f64());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            if settings.error_rate.takes(fastrand::f64()) {
                text(StatusCode::INTERNAL_SERVER_ERROR, "an error, as set by error_rate\n")
            } else {
                serve(&state, peer, number, request).await
            }
        }
    };
    if let Ok(name) = HeaderValue::from_str(&state.name) {
        response.headers_mut().insert("x-origin", name);
    }
    response
}

async fn serve(
    state: &State,
    peer: SocketAddr,
    number: u64,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let uri = request.uri().clone();
    match uri.path() {
        "/echo" => echo(request),
        "/bytes" => match parameter(&uri, "n").unwrap_or("1MiB").parse() {
            Ok(ByteSize(n)) if n <= MOST_BYTES => bytes(n),
            Ok(_) => text(StatusCode::BAD_REQUEST, "at most 1024GiB\n"),
            Err(reason) => text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
        },
        "/sse" => match wait_of(parameter(&uri, "interval").unwrap_or("1s")) {
            Ok(interval) => events(interval.max(SHORTEST_INTERVAL)),
            Err(reason) => text(StatusCode::BAD_REQUEST, format!("interval: {reason}\n")),
        },
        "/slow" => match wait_of(parameter(&uri, "for").unwrap_or("2s")) {
            Ok(wait) => {
                tokio::time::sleep(wait).await;
                seen(state, peer, number, &request)
            }
            Err(reason) => text(StatusCode::BAD_REQUEST, format!("for: {reason}\n")),
        },
        path => match path.strip_prefix("/status/").map(super::settings::health) {
            Some(Ok(status)) => text(status, format!("{status}\n")),
            Some(Err(reason)) => text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
            None => seen(state, peer, number, &request),
        },
    }
}

fn health(state: &State) -> Response<AnswerBody> {
    let status = state.settings().health;
    text(status, if status.is_success() { "ok\n" } else { "unhealthy, as set\n" })
}

fn control(state: &State, method: &Method, uri: &Uri) -> Response<AnswerBody> {
    let settings = match *method {
        Method::GET | Method::HEAD => state.settings(),
        Method::POST | Method::PUT => match state.change(uri.query().unwrap_or_default()) {
            Ok(settings) => settings,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        _ => {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            return refused;
        }
    };
    json(&SettingsView::from(settings))
}

/// The first value of a query parameter, not decoded: sizes and durations need no escapes.
fn parameter<'a>(uri: &'a Uri, name: &str) -> Option<&'a str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn seen(
    state: &State,
    peer: SocketAddr,
    number: u64,
    request: &Request<Incoming>,
) -> Response<AnswerBody> {
    json(&Seen {
        origin: &state.name,
        request: number,
        method: request.method().as_str(),
        path: request.uri().path_and_query().map_or("", |path| path.as_str()),
        version: format!("{:?}", request.version()),
        peer,
        headers: headers(request.headers()),
    })
}

fn headers(map: &HeaderMap) -> BTreeMap<&str, Vec<String>> {
    let mut headers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in map {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str()).or_default().push(value);
    }
    headers
}

fn echo(request: Request<Incoming>) -> Response<AnswerBody> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .cloned()
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    // Hyper frames the answer as the request was: with a length where it had one, in chunks elsewhere.
    let mut response = Response::new(request.into_body().boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn bytes(n: u64) -> Response<AnswerBody> {
    let chunks = stream::unfold(n, |left| async move {
        let now = left.min(CHUNK.len() as u64);
        let chunk = CHUNK.get(..usize::try_from(now).ok()?)?;
        (now > 0).then(|| (Ok(Frame::data(Bytes::from_static(chunk))), left - now))
    });
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(n));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

fn events(interval: Duration) -> Response<AnswerBody> {
    let events = stream::unfold(1u64, move |number| async move {
        // The first event comes at once: a client sees that the stream is open.
        if number > 1 {
            tokio::time::sleep(interval).await;
        }
        let event = format!("id: {number}\nevent: tick\ndata: {number}\n\n");
        Some((Ok(Frame::data(Bytes::from(event))), number + 1))
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json<T: Serialize>(value: &T) -> Response<AnswerBody> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(whole(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<AnswerBody> {
    // RFC 9110, sections 15.3.5 and 15.4.5: these have no content.
    let has_content = !matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    );
    let mut response = Response::new(if has_content {
        whole(body)
    } else {
        Empty::new().map_err(never).boxed_unsync()
    });
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn whole(body: impl Into<Bytes>) -> AnswerBody {
    Full::new(body.into()).map_err(never).boxed_unsync()
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}
