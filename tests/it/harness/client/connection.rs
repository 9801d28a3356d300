//! One connection of a client.

use std::{
    error::Error,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

use super::{
    body::RequestBody,
    failure::{Failure, FailureKind},
    tls::{Handshake, Tls},
};
use crate::harness::spawn;

/// A connected stream, plain or TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// What a connection is made to and how.
#[derive(Clone)]
pub(super) struct Target {
    /// `127.0.0.1:port` or `unix:/path`.
    pub(super) address: String,
    /// Where it connects from, where that matters.
    pub(super) source: Option<Ipv4Addr>,
    pub(super) tls: Option<Tls>,
    pub(super) is_http2: bool,
}

impl Target {
    /// The address without its port.
    pub(super) fn host(&self) -> &str {
        if self.address.starts_with("unix:") {
            return "localhost";
        }
        self.address.rsplit_once(':').map_or(&self.address, |(host, _)| host)
    }

    async fn connect_tcp(&self) -> std::io::Result<TcpStream> {
        let Some(source) = self.source else { return TcpStream::connect(&self.address).await };
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        socket.connect(self.address.parse().expect("an address and a port")).await
    }

    /// Connects and shakes hands.
    pub(super) async fn connect(&self) -> Result<(Box<dyn Io>, Option<Handshake>), Failure> {
        let failed = |error: std::io::Error| Failure::new(FailureKind::Connect, error);
        let plain: Box<dyn Io> = if let Some(path) = self.address.strip_prefix("unix:") {
            Box::new(UnixStream::connect(path).await.map_err(failed)?)
        } else {
            let stream = self.connect_tcp().await.map_err(failed)?;
            // It fails on a connection that is reset already; the request will say so.
            let _ = stream.set_nodelay(true);
            Box::new(stream)
        };
        let Some(tls) = &self.tls else { return Ok((plain, None)) };
        let alpn: &[&str] = if self.is_http2 { &["h2"] } else { &["http/1.1"] };
        let stream = TlsConnector::from(tls.config(alpn))
            .connect(tls.name(self.host()), plain)
            .await
            .map_err(|error| Failure::new(FailureKind::Tls, error))?;
        let handshake = Handshake::of(stream.get_ref().1);
        Ok((Box::new(stream), Some(handshake)))
    }
}

/// A connection that requests are sent on.
pub(super) struct Connection {
    sender: Sender,
    pub(super) handshake: Option<Arc<Handshake>>,
    /// Why the connection's task ended, which says more than what the request was told.
    end: Arc<Mutex<Option<Failure>>>,
}

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<RequestBody>),
    Http2(hyper::client::conn::http2::SendRequest<RequestBody>),
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self, Failure> {
        let (stream, handshake) = target.connect().await?;
        let io = TokioIo::new(stream);
        let end = Arc::new(Mutex::new(None));
        let sender = if target.is_http2 {
            let (sender, connection) =
                hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .handshake(io)
                    .await
                    .map_err(|error| Failure::before_head(&error))?;
            watch(connection, &end);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(io)
                .await
                .map_err(|error| Failure::before_head(&error))?;
            watch(connection, &end);
            Sender::Http1(sender)
        };
        Ok(Self { sender, handshake: handshake.map(Arc::new), end })
    }

    /// Whether another request may be sent. Waits for the end of the one before.
    pub(super) async fn is_ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok() && !sender.is_closed(),
            Sender::Http2(sender) => sender.ready().await.is_ok() && !sender.is_closed(),
        }
    }

    /// Another handle of the same connection, where the protocol shares it.
    pub(super) fn shared(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                sender: Sender::Http2(sender.clone()),
                handshake: self.handshake.clone(),
                end: Arc::clone(&self.end),
            }),
        }
    }

    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        let sent = match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        sent.map_err(|error| self.explain(&error))
    }

    fn explain(&self, error: &hyper::Error) -> Failure {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        match &*end {
            // "Canceled" only says that the connection's task ended.
            Some(end) if error.is_canceled() => end.clone(),
            _ => Failure::before_head(error),
        }
    }
}

/// Runs a connection's task and keeps why it ended.
fn watch<E: Error + 'static>(
    connection: impl Future<Output = Result<(), E>> + Send + 'static,
    end: &Arc<Mutex<Option<Failure>>>,
) {
    let end = Arc::clone(end);
    spawn(async move {
        let failure = match connection.await {
            Ok(()) => Failure::new(FailureKind::Closed, "the connection was closed"),
            Err(error) => Failure::before_head(&error),
        };
        *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    });
}

/// The data of a body's next frame; trailers are handed to `trailers`.
pub(super) async fn next_data(
    body: &mut Incoming,
    trailers: &mut http::HeaderMap,
) -> Option<Result<Bytes, Failure>> {
    use http_body_util::BodyExt;
    loop {
        match body.frame().await? {
            Ok(frame) => match frame.into_data() {
                Ok(data) => return Some(Ok(data)),
                Err(frame) => {
                    if let Ok(more) = frame.into_trailers() {
                        trailers.extend(more);
                    }
                }
            },
            Err(error) => return Some(Err(Failure::in_body(&error))),
        }
    }
}
