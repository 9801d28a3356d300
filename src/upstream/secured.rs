//! TLS above a connection to an endpoint that Pingora has made: for HTTP/1.1.
//!
//! Pingora builds a client configuration for each connection where a peer has authorities or a certificate of its own, so
//! that no session is ever resumed. Here all connections of an upstream share one. It comes with the peer (`carried.rs`) and
//! is taken by our connector (`judged_connector.rs`). Connections that may be HTTP/2 stay
//! with Pingora, whose pool takes them from nobody else.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use pingora_error::{Error, ErrorType, Result};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How a connection to an endpoint is secured.
pub(super) struct Security {
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl Security {
    /// With this configuration, for an endpoint of this name.
    pub(super) fn new(config: Arc<ClientConfig>, server_name: ServerName<'static>) -> Self {
        Self { config, server_name }
    }

    /// Shakes hands over a connection.
    ///
    /// # Errors
    /// The endpoint can't be verified, refuses us, or does not speak TLS.
    pub(super) async fn connect(&self, stream: Stream) -> Result<Stream> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let tls = connector.connect(self.server_name.clone(), stream).await.map_err(|error| {
            Error::because(ErrorType::TLSHandshakeFailure, "TLS with an endpoint", error).into_up()
        })?;
        Ok(Box::new(SecuredStream(tls)))
    }
}

/// A connection to an endpoint above TLS. What Pingora asks of it besides bytes is answered by the connection below.
struct SecuredStream(TlsStream<Stream>);

impl SecuredStream {
    fn below(&self) -> &Stream {
        self.0.get_ref().0
    }
}

impl AsyncRead for SecuredStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for SecuredStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

impl fmt::Debug for SecuredStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecuredStream")
    }
}

#[async_trait]
impl Shutdown for SecuredStream {
    async fn shutdown(&mut self) {
        // It may be gone already.
        drop(AsyncWriteExt::shutdown(&mut self.0).await);
    }
}

impl UniqueID for SecuredStream {
    fn id(&self) -> UniqueIDType {
        self.below().id()
    }
}

impl Ssl for SecuredStream {}

#[async_trait]
impl Peek for SecuredStream {}

impl GetTimingDigest for SecuredStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.below().get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.below().get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.below().get_write_pending_time()
    }
}

impl GetProxyDigest for SecuredStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.below().get_proxy_digest()
    }
}

impl GetSocketDigest for SecuredStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.below().get_socket_digest()
    }
}
