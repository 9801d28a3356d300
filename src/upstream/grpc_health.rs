//! The question `grpc.health.v1.Health/Check` and how its answer is judged.
//!
//! Not on the request path. The messages are those of the gRPC Health Checking Protocol, written by hand so that no
//! protocol compiler and no gRPC stack is needed for one call; the frame around them is five bytes (gRPC over HTTP/2,
//! "Length-Prefixed-Message"). Only `SERVING` is healthy.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use prost::Message;

use crate::types::GRPC_STATUSES;

use super::probe::{ProbeError, USER_AGENT};

const PATH: &str = "/grpc.health.v1.Health/Check";
/// An answer has some bytes; what is longer is none.
const MAX_BODY_BYTES: usize = 64 << 10;
/// Flag and length before a message.
const PREFIX_BYTES: usize = 5;
/// What of the endpoint's own words is shown.
const MAX_WORDS: usize = 200;

#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Why a gRPC health check says that an endpoint is unhealthy.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrpcError {
    #[error("the endpoint does not speak HTTP/2, which gRPC needs")]
    NotHttp2,
    #[error("{0}")]
    NotServing(&'static str),
    #[error("gRPC status {code} {name}{message}")]
    Status { code: u32, name: &'static str, message: String },
    #[error("the endpoint does not offer grpc.health.v1 (UNIMPLEMENTED)")]
    Unimplemented,
    #[error("no valid gRPC answer: {0}")]
    Invalid(&'static str),
    #[error("no valid gRPC answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Asks how `service` does; the empty name stands for the whole server.
pub(super) fn request(
    scheme: &str,
    authority: &str,
    service: &str,
    timeout: Duration,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let message = HealthCheckRequest { service: service.to_owned() };
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + length);
    body.put_u8(0);
    // The name comes from the configuration, which is far below 4 GiB.
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    body.extend_from_slice(&message.encode_to_vec());
    let uri =
        http::Uri::builder().scheme(scheme).authority(authority).path_and_query(PATH).build()?;
    // At most eight digits (gRPC over HTTP/2, "Timeout").
    let millis = timeout.as_millis().min(99_999_999);
    Request::post(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, USER_AGENT)
        .header("grpc-timeout", format!("{millis}m"))
        .body(Full::new(body.freeze()))
}

/// Judges the answer: its head, its one message, its trailers.
pub(super) async fn judge(response: Response<Incoming>) -> Result<(), ProbeError> {
    if response.status() != StatusCode::OK {
        return Err(ProbeError::Status(response.status().as_u16()));
    }
    let is_grpc = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if !is_grpc {
        return Err(GrpcError::Invalid("its content type is not application/grpc").into());
    }
    // "Trailers-Only": an answer without a message has its status in the head.
    status(response.headers())?;
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect();
    let whole = body.await.map_err(GrpcError::Body)?;
    let no_trailers = HeaderMap::new();
    let trailers = whole.trailers().unwrap_or(&no_trailers);
    if status(trailers)?.is_none() {
        return Err(GrpcError::Invalid("it ends without grpc-status").into());
    }
    let mut message = whole.to_bytes();
    if message.len() < PREFIX_BYTES {
        return Err(GrpcError::Invalid("it has no message").into());
    }
    let prefix = message.split_to(PREFIX_BYTES);
    match prefix.as_ref() {
        [0, length @ ..] if length_of(length) == message.len() => {}
        [0, ..] => return Err(GrpcError::Invalid("its message has another length").into()),
        _ => return Err(GrpcError::Invalid("its message is compressed").into()),
    }
    let answer = HealthCheckResponse::decode(message)
        .map_err(|_| GrpcError::Invalid("its message can't be decoded"))?;
    let words = match ServingStatus::try_from(answer.status) {
        Ok(ServingStatus::Serving) => return Ok(()),
        Ok(ServingStatus::NotServing) => "NOT_SERVING",
        Ok(ServingStatus::ServiceUnknown) => "SERVICE_UNKNOWN",
        Ok(ServingStatus::Unknown) => "UNKNOWN",
        Err(_) => "an unknown serving status",
    };
    Err(GrpcError::NotServing(words).into())
}

fn length_of(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// The status where there is one: `Some` is OK.
fn status(headers: &HeaderMap) -> Result<Option<()>, GrpcError> {
    let Some(code) = headers.get("grpc-status") else { return Ok(None) };
    let code = code.to_str().ok().and_then(|text| text.parse().ok());
    let code: u32 = code.ok_or(GrpcError::Invalid("its grpc-status is no number"))?;
    match code {
        0 => Ok(Some(())),
        12 => Err(GrpcError::Unimplemented),
        code => Err(GrpcError::Status {
            code,
            name: name(code),
            message: words(headers.get("grpc-message")),
        }),
    }
}

/// What the endpoint says about it, cut and printable; it is percent-encoded, and stays so.
fn words(value: Option<&HeaderValue>) -> String {
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text.is_empty() {
        return String::new();
    }
    format!(": {}", text.chars().take(MAX_WORDS).collect::<String>())
}

fn name(code: u32) -> &'static str {
    let place = usize::try_from(code).ok();
    place.and_then(|place| GRPC_STATUSES.get(place)).copied().unwrap_or("(no such code)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_question_is_one_message_with_its_prefix() {
        let request = request("http", "app.test", "shop.Cart", Duration::from_secs(2)).unwrap();
        assert_eq!(request.uri(), "http://app.test/grpc.health.v1.Health/Check");
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(request.headers()["grpc-timeout"], "2000m");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        // Field 1, length-delimited, nine bytes.
        assert_eq!(&body[..], b"\x00\x00\x00\x00\x0b\x0a\x09shop.Cart");
    }

    #[test]
    fn statuses_are_told_by_name_with_what_the_endpoint_says() {
        let headers = |code: &str, message: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", code.parse().unwrap());
            headers.insert("grpc-message", message.parse().unwrap());
            headers
        };
        assert_eq!(status(&HeaderMap::new()).unwrap(), None);
        assert_eq!(status(&headers("0", "")).unwrap(), Some(()));
        let said = |code, message| status(&headers(code, message)).unwrap_err().to_string();
        assert_eq!(said("5", "unknown%20service"), "gRPC status 5 NOT_FOUND: unknown%20service");
        assert_eq!(said("14", ""), "gRPC status 14 UNAVAILABLE");
        assert_eq!(said("99", ""), "gRPC status 99 (no such code)");
        assert!(said("12", "").contains("does not offer grpc.health.v1"));
        assert!(said("x", "").contains("no number"));
        assert!(said("2", &"y".repeat(1_000)).len() < 300);
    }
}
