//! A request of our own to an endpoint: deployment checks, warm-up, copies of requests.
//!
//! Not on the path of a client's request. It goes over the protocol and the TLS that requests use, over a connection of its
//! own, like a probe; nothing that becomes of it speaks for or against the endpoint in balancing, retries or ejection. One
//! deadline holds for all of it, and no more of the answer's body is kept than the caller asks for.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;

use crate::types::{EndpointAddress, ProxyHeader};

use super::{
    member::Member,
    peer,
    picked::Picked,
    probe::{Io, ProbeError, ProbeTls, drive, open},
    raw::UpstreamProtocol,
    set::EndpointSet,
};

/// The windows of HTTP/2, in bytes: what the protocol begins with, and the most.
const SMALLEST_WINDOW: u32 = (1 << 16) - 1;
const LARGEST_WINDOW: u32 = 1 << 20;

/// A request of our own.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The Host header; `None` for the upstream's own, or the endpoint's name.
    pub host: Option<HeaderValue>,
    /// Further fields; none of a connection.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// All of it must be over by then: connecting, TLS, the answer with its body.
    pub deadline: Duration,
    /// So many bytes of the answer's body are kept.
    pub max_body_bytes: usize,
    /// What becomes of further ones.
    pub rest: Rest,
}

/// What becomes of a body behind what is kept of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It is not waited for: the connection is closed.
    Left,
    /// It is read to its end, so that an answer that breaks off is none; beyond this many bytes it is left.
    ReadUpTo(usize),
}

/// What an endpoint answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its head.
    pub headers: HeaderMap,
    /// The beginning of its body.
    pub body: Bytes,
    /// There is no more of it.
    pub is_whole: bool,
    /// From the request to the head of the answer; connecting is left out.
    pub first_byte: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It could not be connected to.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// TLS failed.
    #[error("no TLS handshake")]
    Handshake(#[source] io::Error),
    /// What came is no answer.
    #[error("no valid answer")]
    Http(#[source] hyper::Error),
    /// The request can't be written.
    #[error("the request can't be made")]
    Request(#[source] http::Error),
    /// It took too long.
    #[error("no answer within {}", crate::types::HumanDuration(*.0))]
    Timeout(Duration),
}

impl From<http::Error> for AskError {
    fn from(error: http::Error) -> Self {
        Self::Request(error)
    }
}

impl From<hyper::Error> for AskError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

impl From<ProbeError> for AskError {
    fn from(error: ProbeError) -> Self {
        match error {
            ProbeError::Connect(error) => Self::Connect(error),
            ProbeError::Handshake(error) => Self::Handshake(error),
            other => Self::Connect(io::Error::other(other)),
        }
    }
}

/// An endpoint that can be asked.
pub struct Asked {
    address: EndpointAddress,
    label: String,
    protocol: UpstreamProtocol,
    tls: Option<ProbeTls>,
    authority: HeaderValue,
    opening: Vec<u8>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Asked").field(&self.label).finish()
    }
}

impl Asked {
    /// Its address, for people.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Sends a request, and reads its answer.
    ///
    /// # Errors
    /// There is no answer, or not in time.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        let deadline = ask.deadline;
        tokio::time::timeout(deadline, self.exchange(ask))
            .await
            .unwrap_or(Err(AskError::Timeout(deadline)))
    }

    async fn exchange(&self, ask: Ask) -> Result<Answer, AskError> {
        let (stream, is_http2) =
            open(&self.address, &self.opening, self.protocol, self.tls.as_ref()).await?;
        let (max_body_bytes, rest) = (ask.max_body_bytes, ask.rest);
        let request = self.request(ask, is_http2)?;
        if is_http2 {
            // What the endpoint may send before it is read is no more than what is kept.
            let window = u32::try_from(max_body_bytes).unwrap_or(u32::MAX);
            let window = window.clamp(SMALLEST_WINDOW, LARGEST_WINDOW);
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(window)
                .initial_connection_window_size(window)
                .handshake(TokioIo::<Box<dyn Io>>::new(stream))
                .await?;
            let began = Instant::now();
            let exchange = async {
                let response = sender.send_request(request).await?;
                read(response, began.elapsed(), max_body_bytes, rest).await
            };
            drive(exchange, connection).await
        } else {
            let (mut sender, connection) =
                http1::handshake(TokioIo::<Box<dyn Io>>::new(stream)).await?;
            let began = Instant::now();
            let exchange = async {
                let response = sender.send_request(request).await?;
                read(response, began.elapsed(), max_body_bytes, rest).await
            };
            drive(exchange, connection).await
        }
    }

    fn request(&self, ask: Ask, is_http2: bool) -> Result<Request<Full<Bytes>>, AskError> {
        // A request of HTTP/1.0 may have come without one.
        let host = ask.host.filter(|host| !host.is_empty());
        let host = host.unwrap_or_else(|| self.authority.clone());
        let mut request = Request::builder().method(ask.method);
        request = if is_http2 {
            let scheme = if self.tls.is_some() { "https" } else { "http" };
            let authority = host.as_bytes();
            request.uri(
                Uri::builder()
                    .scheme(scheme)
                    .authority(authority)
                    .path_and_query(ask.path)
                    .build()?,
            )
        } else {
            request.uri(ask.path)
        };
        let mut request = request.body(Full::new(ask.body))?;
        *request.headers_mut() = ask.headers;
        if is_http2 {
            request.headers_mut().remove(header::HOST);
        } else {
            request.headers_mut().insert(header::HOST, host);
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(request)
    }
}

async fn read(
    response: Response<Incoming>,
    first_byte: Duration,
    max_body_bytes: usize,
    rest: Rest,
) -> Result<Answer, AskError> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    let mut seen: usize = 0;
    while let Some(frame) = incoming.frame().await.transpose()? {
        let data = frame.into_data().unwrap_or_default();
        seen = seen.saturating_add(data.len());
        body.extend(data.iter().take(max_body_bytes - body.len()));
        let most = match rest {
            Rest::Left => max_body_bytes,
            Rest::ReadUpTo(most) => most.max(max_body_bytes),
        };
        if seen > most {
            break;
        }
    }
    let is_whole = seen <= max_body_bytes;
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.into(),
        is_whole,
        first_byte,
    })
}

impl EndpointSet {
    /// Its endpoints that nothing speaks against, to be asked.
    pub(super) fn in_service(&self) -> Vec<Asked> {
        let members = self.lock();
        let is_in_service = |member: &&Arc<Member>| {
            member.weight > 0 && member.is_in_service(&self.blueprint.config)
        };
        members.iter().filter(is_in_service).filter_map(|member| self.to_ask(member)).collect()
    }

    /// The endpoint that was picked, to be asked.
    pub(super) fn asked(&self, picked: &Picked) -> Option<Asked> {
        let is_it = |member: &&Arc<Member>| Arc::ptr_eq(&member.endpoint, picked.endpoint());
        let member = self.lock().iter().find(is_it).cloned()?;
        self.to_ask(&member)
    }

    fn to_ask(&self, member: &Member) -> Option<Asked> {
        let config = &self.blueprint.config;
        let (address, host) = (member.endpoint.address(), member.host.as_deref());
        let authority = match (&config.host, host, address) {
            (Some(host), ..) => host.clone(),
            (None, Some(host), EndpointAddress::Ip(address)) => {
                format!("{host}:{}", address.port())
            }
            (None, _, EndpointAddress::Unix(_)) => "localhost".to_owned(),
            (None, _, address) => address.to_string(),
        };
        let tls = match &self.tls {
            None => None,
            Some(tls) => {
                let settings = config.tls.as_ref()?;
                let name = peer::server_name(settings, address, host)?;
                let server_name = ServerName::try_from(name).ok()?;
                Some(ProbeTls { live: Arc::clone(&tls.live), server_name })
            }
        };
        Some(Asked {
            address: address.clone(),
            label: member.endpoint.label().to_owned(),
            protocol: config.protocol,
            tls,
            authority: HeaderValue::from_str(&authority).ok()?,
            opening: config
                .proxy_protocol
                .map_or_else(Vec::new, |version| ProxyHeader::Local.encode(version)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_host_asks_for_the_upstreams_own() {
        let asked = Asked {
            address: "127.0.0.1:80".parse().unwrap(),
            label: String::new(),
            protocol: UpstreamProtocol::Auto,
            tls: None,
            authority: HeaderValue::from_static("own.test:80"),
            opening: Vec::new(),
        };
        for (host, expected) in
            [(None, "own.test:80"), (Some(""), "own.test:80"), (Some("a.test"), "a.test")]
        {
            for is_http2 in [false, true] {
                let ask = Ask {
                    method: Method::GET,
                    path: "/a".to_owned(),
                    host: host.map(HeaderValue::from_static),
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                    deadline: Duration::ZERO,
                    max_body_bytes: 0,
                    rest: Rest::Left,
                };
                let request = asked.request(ask, is_http2).unwrap();
                let seen = if is_http2 {
                    request.uri().authority().unwrap().as_str()
                } else {
                    request.headers()[header::HOST].to_str().unwrap()
                };
                assert_eq!(seen, expected, "{host:?} {is_http2}");
            }
        }
    }
}
