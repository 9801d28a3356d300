//! The HTTP client.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

use super::{
    body::{BodySpec, RequestBody},
    connection::{Connection, Target, next_data},
    event_stream::EventStream,
    failure::{Failure, FailureKind},
    grpc::GrpcClient,
    http2::{Http2, Http2End},
    load::Load,
    response::{Opened, Response, Responses},
    tls::Tls,
    web_socket::WebSocket,
};
use crate::harness::block_on;

/// How long a request may take unless said otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one address. It keeps its connection; clones have their own.
pub struct Client {
    pub(super) target: Target,
    pub(super) host: Option<String>,
    timeout: Duration,
    keeps: bool,
    idle: Mutex<Option<Connection>>,
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self {
            target: self.target.clone(),
            host: self.host.clone(),
            timeout: self.timeout,
            keeps: self.keeps,
            idle: Mutex::new(None),
        }
    }
}

impl Client {
    /// A client of `127.0.0.1:port` or `unix:/path`, over plain HTTP/1.1.
    pub fn to(address: impl std::fmt::Display) -> Self {
        Self {
            target: Target {
                address: address.to_string(),
                source: None,
                tls: None,
                is_http2: false,
            },
            host: None,
            timeout: TIMEOUT,
            keeps: true,
            idle: Mutex::new(None),
        }
    }

    /// Connects from this address: `127.0.0.2` is another client than `127.0.0.1`.
    pub fn from(mut self, source: &str) -> Self {
        self.target.source = Some(source.parse().expect("an address"));
        self
    }

    /// Speaks TLS.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.target.tls = Some(tls);
        self.prepared()
    }

    /// Speaks HTTP/2: by ALPN over TLS, with prior knowledge without.
    pub fn http2(mut self) -> Self {
        self.target.is_http2 = true;
        // A kept connection speaks what it was opened for.
        *self.idle() = None;
        self.prepared()
    }

    fn prepared(mut self) -> Self {
        let alpn: &[&str] = if self.target.is_http2 { &["h2"] } else { &["http/1.1"] };
        // Built once, so that its connections can resume sessions; again when ALPN changes.
        self.target.tls = self.target.tls.map(|tls| tls.prepared(alpn));
        self
    }

    /// The `Host` of its requests, instead of the address. It is the server name too, unless the TLS says another.
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        if let Some(tls) = &mut self.target.tls
            && tls.server_name.is_none()
        {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            tls.server_name = Some(name.to_owned());
        }
        self
    }

    /// Makes a new connection for each request.
    pub fn new_connections(mut self) -> Self {
        self.keeps = false;
        self
    }

    /// How long a request may take, its body included; 10 s unless said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A request.
    pub fn request(&self, method: &str, path: &str) -> RequestBuilder<'_> {
        RequestBuilder {
            client: self,
            method: Method::from_bytes(method.as_bytes()).expect("a method"),
            path: path.to_owned(),
            host: None,
            headers: HeaderMap::new(),
            body: BodySpec::None,
        }
    }

    /// A GET request.
    pub fn get(&self, path: &str) -> RequestBuilder<'_> {
        self.request("GET", path)
    }

    /// A POST request.
    pub fn post(&self, path: &str) -> RequestBuilder<'_> {
        self.request("POST", path)
    }

    /// Opens a WebSocket.
    ///
    /// # Errors
    /// No connection, or an answer that is not 101.
    pub fn web_socket(&self, path: &str) -> Result<WebSocket, Failure> {
        WebSocket::open(self, path)
    }

    /// A gRPC client; it always speaks HTTP/2.
    ///
    /// # Errors
    /// No connection.
    pub fn grpc(&self) -> Result<GrpcClient, Failure> {
        GrpcClient::connect(self)
    }

    /// Opens an HTTP/2 connection that shows how it ends.
    ///
    /// # Errors
    /// No connection.
    pub async fn open_http2(&self) -> Result<(Http2, Http2End), Failure> {
        Http2::open(self).await
    }

    pub(super) fn authority(&self) -> String {
        self.host.clone().unwrap_or_else(|| {
            if self.target.address.starts_with("unix:") {
                "localhost".to_owned()
            } else {
                self.target.address.clone()
            }
        })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kept connection if it still is good, else a new one.
    async fn connection(&self) -> Result<Connection, Failure> {
        if self.keeps {
            let kept = self.idle().take();
            if let Some(mut connection) = kept
                && connection.is_ready().await
            {
                return Ok(connection);
            }
        }
        Connection::open(&self.target).await
    }

    /// Sends a request and reads the whole answer. Never tries twice.
    pub(super) async fn exchange(&self, request: &Prepared) -> Result<Response, Failure> {
        let start = Instant::now();
        let limit = start + self.timeout;
        let exchange = async {
            let mut connection = self.connection().await?;
            if let Some(shared) = connection.shared() {
                // HTTP/2: others may use it meanwhile.
                self.keep(shared);
            }
            let informational: Arc<Mutex<Vec<u16>>> = Arc::default();
            let answer = connection.send(request.make(Some(&informational))).await?;
            let (head, mut body) = answer.into_parts();
            let mut trailers = HeaderMap::new();
            let mut whole = Vec::new();
            while let Some(piece) = next_data(&mut body, &mut trailers).await {
                whole.extend_from_slice(&piece?);
            }
            drop(body);
            let handshake = connection.handshake.clone();
            if !self.target.is_http2 {
                self.keep(connection);
            }
            let informational =
                informational.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Ok(Response {
                status: head.status.as_u16(),
                version: head.version,
                headers: head.headers,
                body: whole.into(),
                trailers,
                informational,
                handshake,
                elapsed: start.elapsed(),
            })
        };
        tokio::time::timeout_at(limit.into(), exchange)
            .await
            .unwrap_or_else(|_| Err(Failure::new(FailureKind::Timeout, "no answer in time")))
    }

    fn keep(&self, connection: Connection) {
        if self.keeps {
            *self.idle() = Some(connection);
        }
    }
}

/// A request to be sent.
#[derive(Clone)]
pub struct RequestBuilder<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    host: Option<String>,
    headers: HeaderMap,
    body: BodySpec,
}

impl RequestBuilder<'_> {
    /// A header; may be repeated, of one name too. `header("host", …)` sets the host.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if name.eq_ignore_ascii_case("host") {
            return self.host(value);
        }
        self.headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a header name"),
            HeaderValue::from_str(value).expect("a header value"),
        );
        self
    }

    /// The `Host` header, apart from what TLS asked for.
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// A body with its length.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = BodySpec::Whole(body.into());
        self
    }

    /// A body of so many bytes in pieces, without its length (chunked), with a pause between them.
    pub fn chunked(mut self, length: u64, piece: usize, pace: Duration) -> Self {
        self.body = BodySpec::Pieces { length, piece, pace };
        self
    }

    /// A body of so many bytes with its length, made as it is sent.
    pub fn upload(mut self, length: u64) -> Self {
        self.headers.insert(header::CONTENT_LENGTH, length.into());
        self.body = BodySpec::Pieces { length, piece: 64 << 10, pace: Duration::ZERO };
        self
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// No whole answer.
    pub fn try_send(&self) -> Result<Response, Failure> {
        let request = self.prepared();
        block_on(self.client.exchange(&request))
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Panics
    /// When there is no whole answer.
    #[track_caller]
    pub fn send(&self) -> Response {
        self.try_send().unwrap_or_else(|failure| panic!("{} {}: {failure}", self.method, self.path))
    }

    /// Sends it `n` times, one after the other.
    pub fn times(&self, n: usize) -> Responses {
        Responses((0..n).map(|_| self.try_send()).collect())
    }

    /// Sends it and returns when the head of the answer is there.
    ///
    /// # Errors
    /// No head in time.
    pub fn open(&self) -> Result<Opened, Failure> {
        let request = self.prepared();
        let start = Instant::now();
        block_on(async {
            let open = async {
                let mut connection = Connection::open(&self.client.target).await?;
                let answer = connection.send(request.make(None)).await?;
                let (head, body) = answer.into_parts();
                Ok(Opened {
                    status: head.status.as_u16(),
                    headers: head.headers,
                    elapsed: start.elapsed(),
                    body,
                    trailers: HeaderMap::new(),
                    _connection: connection,
                })
            };
            tokio::time::timeout(self.client.timeout, open)
                .await
                .unwrap_or_else(|_| Err(Failure::new(FailureKind::Timeout, "no head in time")))
        })
    }

    /// Reads the answer as server-sent events.
    ///
    /// # Errors
    /// No head in time, or one that is no event stream.
    pub fn events(self) -> Result<EventStream, Failure> {
        EventStream::new(self.header("accept", "text/event-stream").open()?)
    }

    /// So many clients, each with a connection of its own, sending it again and again.
    pub fn load(&self, clients: usize) -> Load {
        Load::new(self.client.clone(), self.prepared(), clients)
    }

    pub(super) fn prepared(&self) -> Prepared {
        let host = self.host.clone().unwrap_or_else(|| self.client.authority());
        let uri = if self.client.target.is_http2 {
            let scheme = if self.client.target.tls.is_some() { "https" } else { "http" };
            format!("{scheme}://{host}{}", self.path)
        } else {
            self.path.clone()
        };
        let mut headers = self.headers.clone();
        if !self.client.target.is_http2 {
            headers.insert(header::HOST, HeaderValue::from_str(&host).expect("a host"));
            if !self.client.keeps {
                headers.entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
            }
        }
        Prepared {
            method: self.method.clone(),
            uri: uri.parse().unwrap_or_else(|error| panic!("{uri}: {error}")),
            version: if self.client.target.is_http2 { Version::HTTP_2 } else { Version::HTTP_11 },
            headers,
            body: self.body.clone(),
        }
    }
}

/// A request that can be made again and again.
#[derive(Clone)]
pub(super) struct Prepared {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: BodySpec,
}

impl Prepared {
    fn make(&self, informational: Option<&Arc<Mutex<Vec<u16>>>>) -> Request<RequestBody> {
        let mut request = Request::new(self.body.make());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers.clone();
        if let Some(seen) = informational {
            let seen = Arc::clone(seen);
            hyper::ext::on_informational(&mut request, move |response| {
                let status = response.status().as_u16();
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(status);
            });
        }
        request
    }
}
