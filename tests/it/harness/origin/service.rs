//! Answers of an [`Origin`](super::Origin).

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    upgrade::Upgraded,
};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::{Shared, builder::Behaviour, grpc, listening::Open, lock, recorded::BodyRecord};
use crate::harness::spawn;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(super) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// The connection is to be closed instead of answering.
pub(super) struct Ended;

/// Counts a request in flight for as long as it is answered.
struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn of(shared: &'a Shared) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_in_flight.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(super) async fn answer(
    shared: &Arc<Shared>,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Ended> {
    if request.uri().path() == "/healthz" {
        shared.probes.fetch_add(1, Ordering::SeqCst);
        not_hanging(shared).await;
        let is_healthy = shared.is_healthy.load(Ordering::SeqCst);
        let (status, text) = if is_healthy { (200, "ok") } else { (503, "unhealthy") };
        return Ok(plain(StatusCode::from_u16(status).expect("a status"), text));
    }
    if let Some(reporter) = &shared.options.grpc_health
        && request.uri().path().starts_with("/grpc.health.v1.")
    {
        shared.probes.fetch_add(1, Ordering::SeqCst);
        not_hanging(shared).await;
        return Ok(grpc::answer_health(reporter, request).await);
    }
    if shared.is_resetting.load(Ordering::SeqCst) {
        return Err(Ended);
    }
    let number = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
    let in_flight = InFlight::of(shared);
    let (head, body) = request.into_parts();
    shared.records.begin(number, connection, &head);
    let mut response = match &shared.options.behaviour {
        Behaviour::Early(text) => {
            wait(shared).await;
            // The body is dropped unread, as a server does that refuses an upload.
            drop(body);
            Ok(plain(*lock(&shared.status), text.clone()))
        }
        Behaviour::Echo => {
            wait(shared).await;
            Ok(echo(shared, number, body))
        }
        Behaviour::Grpc => {
            wait(shared).await;
            Ok(grpc::answer(Request::from_parts(head, body)).await)
        }
        Behaviour::WebSocket => {
            wait(shared).await;
            Ok(web_socket(shared, Request::from_parts(head, body)))
        }
        behaviour => {
            let whole = read(shared, number, body).await;
            wait(shared).await;
            if whole { Ok(bodied(shared, behaviour)) } else { Err(Ended) }
        }
    }?;
    if fails(shared, number) {
        shared.failed.fetch_add(1, Ordering::SeqCst);
        response = plain(StatusCode::INTERNAL_SERVER_ERROR, "failed");
    }
    drop(in_flight);
    let headers = response.headers_mut();
    if let Some(name) = &shared.options.name {
        headers.insert("x-origin", HeaderValue::from_str(name).expect("a name that is a value"));
    }
    if let Some(idle) = shared.options.keep_alive {
        let seconds = idle.as_millis().div_ceil(1_000);
        headers.insert(
            "keep-alive",
            HeaderValue::from_str(&format!("timeout={seconds}")).expect("a value"),
        );
    }
    for (name, value) in &shared.options.headers {
        headers.append(name, value.clone());
    }
    Ok(response)
}

/// Whether a request is one of those that [`Origin::set_failing`](super::Origin::set_failing) speaks of: by a hash of its number, so
/// that nothing else that goes by turns falls in with it.
fn fails(shared: &Shared, number: u64) -> bool {
    let one_of = shared.failing.load(Ordering::SeqCst);
    let hash = (number ^ shared.failing_seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    one_of > 0 && hash.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32 < (1 << 32) / one_of
}

async fn not_hanging(shared: &Shared) {
    let mut hanging = shared.is_hanging.subscribe();
    // The sender lives as long as the origin.
    let _ = hanging.wait_for(|is_hanging| !is_hanging).await;
}

async fn wait(shared: &Shared) {
    not_hanging(shared).await;
    let _place = match &shared.options.places {
        Some(places) => places.acquire().await.ok(),
        None => None,
    };
    let delay = *lock(&shared.delay);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

/// Reads and records a body. Whether it came whole.
async fn read(shared: &Shared, number: u64, mut body: Incoming) -> bool {
    let mut record = BodyRecord::default();
    let is_whole = loop {
        match body.frame().await {
            Some(Ok(frame)) => note(&mut record, &frame),
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    record.is_whole = is_whole;
    shared.records.end(number, record);
    is_whole
}

fn note(record: &mut BodyRecord, frame: &Frame<Bytes>) {
    if let Some(data) = frame.data_ref() {
        record.add(data);
    }
    if let Some(trailers) = frame.trailers_ref() {
        record.trailers = trailers.clone();
    }
}

fn bodied(shared: &Shared, behaviour: &Behaviour) -> Response<AnswerBody> {
    let status = *lock(&shared.status);
    let mut response = match behaviour {
        Behaviour::Answer(text) => plain(status, text.clone()),
        Behaviour::Download { length, chunk, pace, tells_length } => {
            let mut response = Response::new(download(*length, *chunk, *pace));
            if *tells_length {
                response.headers_mut().insert(header::CONTENT_LENGTH, (*length).into());
            }
            response
        }
        Behaviour::Truncated { promised, sent } => {
            let chunks = download_chunks(*sent, 16 << 10, Duration::ZERO);
            let broken = stream::once(async {
                // Hyper drops what it has not flushed; it flushes when there is nothing to do.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err::<Frame<Bytes>, BoxError>("cut short".into())
            });
            let mut response =
                Response::new(BodyExt::boxed_unsync(StreamBody::new(chunks.chain(broken))));
            response.headers_mut().insert(header::CONTENT_LENGTH, (*promised).into());
            response
        }
        Behaviour::Events { interval, count } => {
            let mut response = Response::new(events(*interval, *count));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Behaviour::Early(_) | Behaviour::Echo | Behaviour::WebSocket | Behaviour::Grpc => {
            unreachable!("answered before the body is read")
        }
    };
    *response.status_mut() = status;
    response
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<AnswerBody> {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

fn echo(shared: &Arc<Shared>, number: u64, body: Incoming) -> Response<AnswerBody> {
    let shared = Arc::clone(shared);
    let record = BodyRecord::default();
    let frames = stream::unfold(Some((body, record)), move |state| {
        let shared = Arc::clone(&shared);
        async move {
            let (mut body, mut record) = state?;
            match body.frame().await {
                Some(Ok(frame)) => {
                    note(&mut record, &frame);
                    Some((Ok(frame), Some((body, record))))
                }
                Some(Err(error)) => {
                    shared.records.end(number, record);
                    Some((Err(BoxError::from(error)), None))
                }
                None => {
                    record.is_whole = true;
                    shared.records.end(number, record);
                    None
                }
            }
        }
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)))
}

fn download(length: u64, chunk: usize, pace: Duration) -> AnswerBody {
    BodyExt::boxed_unsync(StreamBody::new(download_chunks(length, chunk, pace)))
}

/// Bytes that tell their offset: each is it modulo 251, a prime, so that a lost or doubled chunk shows.
pub fn pattern(offset: u64, length: usize) -> Bytes {
    (0..length as u64).map(|i| ((offset + i) % 251) as u8).collect()
}

fn download_chunks(
    length: u64,
    chunk: usize,
    pace: Duration,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
    // One period of the pattern beyond the chunk: every chunk is a slice of it and none is built.
    let source = pattern(0, chunk + 251);
    stream::unfold(0u64, move |offset| {
        let source = source.clone();
        async move {
            if offset >= length {
                return None;
            }
            if offset > 0 && !pace.is_zero() {
                tokio::time::sleep(pace).await;
            }
            let now = usize::try_from(length - offset).unwrap_or(usize::MAX).min(chunk);
            let start = (offset % 251) as usize;
            Some((Ok(Frame::data(source.slice(start..start + now))), offset + now as u64))
        }
    })
}

fn events(interval: Duration, count: Option<u64>) -> AnswerBody {
    let frames = stream::unfold(1u64, move |number| async move {
        if count.is_some_and(|count| number > count) {
            return None;
        }
        if number > 1 {
            tokio::time::sleep(interval).await;
        }
        let event = format!("id: {number}\ndata: {number}\n\n");
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from(event))), number + 1))
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

async fn echo_messages(mut socket: WebSocketStream<TokioIo<Upgraded>>) {
    while let Some(Ok(message)) = socket.next().await {
        let sent = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            // Pings and closes are answered by the library.
            _ => socket.flush().await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// RFC 6455, section 4.2.2; then each message is sent back until one closes.
fn web_socket(shared: &Arc<Shared>, mut request: Request<Incoming>) -> Response<AnswerBody> {
    let key = request.headers().get("sec-websocket-key").cloned();
    let is_upgrade = request
        .headers()
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let (true, Some(key)) = (is_upgrade, key) else {
        return plain(StatusCode::UPGRADE_REQUIRED, "a WebSocket is wanted");
    };
    let accept = derive_accept_key(key.to_str().expect("a key is text").as_ref());
    let upgrade = hyper::upgrade::on(&mut request);
    let open = Open::of(shared);
    let mut stops = shared.stops.subscribe();
    spawn(async move {
        let _open = open;
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None);
        let socket = socket.await;
        tokio::select! {
            () = echo_messages(socket) => {}
            _ = stops.changed() => {}
        }
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-accept", HeaderValue::from_str(&accept).expect("base64"));
    if let Some(protocol) = request.headers().get("sec-websocket-protocol") {
        headers.insert("sec-websocket-protocol", protocol.clone());
    }
    response
}
