//! What an origin does, said before it starts.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tonic_health::server::HealthReporter;

use super::Origin;
use crate::harness::{Authority, Certificate};

/// An origin to be started.
pub struct Builder {
    options: Options,
    certificate: Option<Certificate>,
}

/// How it shakes hands.
pub(super) struct TlsOptions {
    alpn: &'static [&'static str],
    clients: Option<CertificateDer<'static>>,
}

impl TlsOptions {
    /// With this certificate.
    pub(super) fn config(&self, certificate: &Certificate) -> Arc<ServerConfig> {
        certificate.server_config_asking(self.clients.as_ref(), self.alpn)
    }
}

/// What an origin does.
pub(super) struct Options {
    pub(super) name: Option<String>,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) delay: Duration,
    /// So many are answered at once; the others wait their turn.
    pub(super) places: Option<Semaphore>,
    pub(super) protocol: Protocol,
    pub(super) tls: TlsOptions,
    pub(super) unix: Option<PathBuf>,
    pub(super) keep_alive: Option<Duration>,
    pub(super) requests_per_connection: Option<u64>,
    pub(super) reset_before_head: bool,
    pub(super) behaviour: Behaviour,
    pub(super) grpc_health: Option<HealthReporter>,
}

/// What it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Either,
    Http1,
    Http2,
}

/// What it does with a request.
pub(super) enum Behaviour {
    /// Reads the body and answers with this one.
    Answer(Bytes),
    /// Answers without reading the body.
    Early(Bytes),
    /// Sends the body back as it comes.
    Echo,
    /// Sends so many bytes in chunks of a size, with a pause after each.
    Download { length: u64, chunk: usize, pace: Duration, tells_length: bool },
    /// Promises a length, sends less, and closes.
    Truncated { promised: u64, sent: u64 },
    /// Server-sent events, numbered from 1.
    Events { interval: Duration, count: Option<u64> },
    /// WebSocket echo.
    WebSocket,
    /// gRPC echo.
    Grpc,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            certificate: None,
            options: Options {
                name: None,
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                delay: Duration::ZERO,
                places: None,
                protocol: Protocol::Either,
                tls: TlsOptions { alpn: &[], clients: None },
                unix: None,
                keep_alive: None,
                requests_per_connection: None,
                reset_before_head: false,
                behaviour: Behaviour::Answer(Bytes::from_static(b"ok")),
                grpc_health: None,
            },
        }
    }
}

impl Builder {
    /// The value of `x-origin` in its answers.
    pub fn name(mut self, name: &str) -> Self {
        self.options.name = Some(name.to_owned());
        self
    }

    /// The status of its answers; 200 unless said.
    pub fn status(mut self, status: u16) -> Self {
        self.options.status = StatusCode::from_u16(status).expect("a status");
        self
    }

    /// A header of its answers; may be repeated, of one name too.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.options.headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a header name"),
            HeaderValue::from_str(value).expect("a header value"),
        );
        self
    }

    /// Waits before each answer.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.options.delay = delay;
        self
    }

    /// Answers so many at once, and the others after them: with [`Self::delay`] its capacity is known.
    pub fn places(mut self, n: usize) -> Self {
        self.options.places = Some(Semaphore::new(n));
        self
    }

    /// Speaks HTTP/1.1 only.
    pub fn http1(mut self) -> Self {
        self.options.protocol = Protocol::Http1;
        self
    }

    /// Speaks HTTP/2 only: with prior knowledge, or by ALPN over TLS.
    pub fn http2(mut self) -> Self {
        self.options.protocol = Protocol::Http2;
        self
    }

    /// Speaks TLS with this certificate.
    pub fn tls(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// Takes only clients that show a certificate of this authority; with [`Self::tls`].
    pub fn asking_for_certificates(mut self, authority: &Authority) -> Self {
        self.options.tls.clients = Some(authority.der().clone());
        self
    }

    /// Listens on a Unix socket at this path.
    pub fn unix(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.unix = Some(path.into());
        self
    }

    /// Says `Keep-Alive: timeout=<seconds, rounded up>` and closes a connection that was idle for `idle`.
    pub fn keep_alive(mut self, idle: Duration) -> Self {
        self.options.keep_alive = Some(idle);
        self
    }

    /// Closes a connection after so many requests (HTTP/1.1: with `Connection: close`; HTTP/2: with GOAWAY).
    pub fn requests_per_connection(mut self, n: u64) -> Self {
        self.options.requests_per_connection = Some(n);
        self
    }

    /// Resets every connection once a request's first bytes are there.
    pub fn reset_before_head(mut self) -> Self {
        self.options.reset_before_head = true;
        self
    }

    /// The body of its answers; `ok` unless said.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.options.behaviour = Behaviour::Answer(body.into());
        self
    }

    /// Answers without reading the body of the request.
    pub fn early(mut self, body: impl Into<Bytes>) -> Self {
        self.options.behaviour = Behaviour::Early(body.into());
        self
    }

    /// Sends the request's body back as it comes.
    pub fn echo(mut self) -> Self {
        self.options.behaviour = Behaviour::Echo;
        self
    }

    /// Sends so many bytes (each is its offset modulo 251) with `Content-Length`.
    pub fn download(mut self, length: u64) -> Self {
        self.options.behaviour = Behaviour::Download {
            length,
            chunk: 16 << 10,
            pace: Duration::ZERO,
            tells_length: true,
        };
        self
    }

    /// Sends so many bytes in chunks of `chunk` bytes with a pause after each and without `Content-Length`.
    pub fn paced(mut self, length: u64, chunk: usize, pace: Duration) -> Self {
        self.options.behaviour = Behaviour::Download { length, chunk, pace, tells_length: false };
        self
    }

    /// Promises so many bytes, sends fewer and closes the connection.
    pub fn truncated(mut self, promised: u64, sent: u64) -> Self {
        self.options.behaviour = Behaviour::Truncated { promised, sent };
        self
    }

    /// Sends server-sent events, numbered from 1: the first at once, then one an interval, for ever.
    pub fn events(mut self, interval: Duration) -> Self {
        self.options.behaviour = Behaviour::Events { interval, count: None };
        self
    }

    /// Sends so many server-sent events and ends.
    pub fn some_events(mut self, interval: Duration, count: u64) -> Self {
        self.options.behaviour = Behaviour::Events { interval, count: Some(count) };
        self
    }

    /// Sends each WebSocket message back; 426 to what is no upgrade.
    pub fn web_socket(mut self) -> Self {
        self.options.behaviour = Behaviour::WebSocket;
        self
    }

    /// Serves the gRPC echo service over HTTP/2.
    pub fn grpc(mut self) -> Self {
        self.options.behaviour = Behaviour::Grpc;
        self
    }

    /// Answers `grpc.health.v1` too, as the reporter says.
    pub fn grpc_health(mut self, reporter: &HealthReporter) -> Self {
        self.options.grpc_health = Some(reporter.clone());
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Origin {
        self.options.tls.alpn = match self.options.protocol {
            Protocol::Either => &["h2", "http/1.1"],
            Protocol::Http1 => &["http/1.1"],
            Protocol::Http2 => &["h2"],
        };
        let tls = self.certificate.map(|certificate| self.options.tls.config(&certificate));
        Origin::start(self.options, tls)
    }
}
