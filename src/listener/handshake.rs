//! TLS handshakes: the name asked for chooses the site's policy and certificate, or that the connection is sent on as it is.

use std::{io, net::IpAddr, sync::Arc};

use pingora_core::protocols::tls::SslDigest;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

use super::peeked::Peeked;

use crate::{
    proxy::TlsFacts,
    snapshot::{TlsChoice, Tunnel},
    telemetry::metrics::{HandshakeFailure, TlsVersion},
    tls::{
        ClientCertificate,
        acme::{ALPN, Challenges},
    },
};

/// A fatal `unrecognized_name` alert as one record (RFC 8446, sections 5.1 and 6; RFC 6066, section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Chooses for a name asked for (lower case), or for none at our own address.
pub(super) type Choose<'a> = &'a (dyn Fn(Option<&str>, Option<IpAddr>) -> TlsChoice + Send + Sync);

/// What a client's first message came to.
pub(super) enum Greeted<S> {
    /// A handshake that went well.
    Shaken(Box<Shaken<S>>),
    /// The name asked for is sent on: what was read is remembered in `client`.
    SentOn {
        /// The connection, untouched.
        client: Peeked<S>,
        /// The name asked for, lower case.
        server_name: Option<Box<str>>,
        /// Where it goes.
        tunnel: Arc<Tunnel>,
    },
    /// An authority that has seen what it wanted to see; the connection is over.
    Validated,
}

/// A handshake that went well.
pub(super) struct Shaken<S> {
    pub(super) stream: TlsStream<Peeked<S>>,
    pub(super) facts: TlsFacts,
    pub(super) digest: SslDigest,
    pub(super) version: TlsVersion,
    pub(super) is_http2: bool,
}

/// Shakes hands, or finds out that somebody else is to. The caller sets the deadline.
///
/// # Errors
/// By reason; they are counted and not logged one by one.
pub(super) async fn shake<S>(
    io: Peeked<S>,
    local: Option<IpAddr>,
    choose: Choose<'_>,
    challenges: &Challenges,
) -> Result<Greeted<S>, HandshakeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut start, server_name) = greet(io).await?;
    let validation = validation(&start, server_name.as_deref(), challenges);
    let choice = choose(server_name.as_deref(), local);
    let site = match (choice, validation) {
        (TlsChoice::Passthrough(tunnel), _) => {
            return Ok(Greeted::SentOn { client: start.io, server_name, tunnel });
        }
        (_, Some(config)) => return validate(start, config).await,
        (TlsChoice::Use(site), None) => site,
        (TlsChoice::Refuse, None) => {
            // The client may be gone; the refusal stands all the same.
            drop(start.io.write_all(&UNRECOGNIZED_NAME).await);
            drop(start.io.shutdown().await);
            return Err(HandshakeFailure::UnknownHost);
        }
    };
    start.io.forget();
    let given = site.handshake();
    let stream = start
        .into_stream(given.config.clone())
        .await
        .map_err(|error| reason(&error, HandshakeFailure::Other))?;
    let (_, connection) = stream.get_ref();
    let is_http2 = connection.alpn_protocol() == Some(b"h2");
    let (version, version_text) = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => (TlsVersion::Tls12, "TLSv1.2"),
        _ => (TlsVersion::Tls13, "TLSv1.3"),
    };
    let cipher = connection
        .negotiated_cipher_suite()
        .and_then(|suite| suite.suite().as_str())
        .unwrap_or_default();
    let digest = SslDigest::new(cipher, version_text, None, None, Vec::new());
    let client = connection.peer_certificates().and_then(ClientCertificate::of).map(Arc::new);
    let policy = Arc::clone(&given.identity);
    let facts = TlsFacts { policy, server_name, version: version_text, client };
    Ok(Greeted::Shaken(Box::new(Shaken { stream, facts, digest, version, is_http2 })))
}

/// The handshake for an authority that validates the name: it offers nothing but `acme-tls/1` (RFC 8737, section 3).
fn validation<S: AsyncRead + AsyncWrite + Unpin>(
    start: &StartHandshake<Peeked<S>>,
    server_name: Option<&str>,
    challenges: &Challenges,
) -> Option<Arc<ServerConfig>> {
    let hello = start.client_hello();
    let mut offered = hello.alpn()?;
    if offered.next() != Some(ALPN) || offered.next().is_some() {
        return None;
    }
    challenges.tls(server_name?)
}

async fn validate<S: AsyncRead + AsyncWrite + Unpin>(
    mut start: StartHandshake<Peeked<S>>,
    config: Arc<ServerConfig>,
) -> Result<Greeted<S>, HandshakeFailure> {
    start.io.forget();
    let shaken = start.into_stream(config).await;
    let mut stream = shaken.map_err(|error| reason(&error, HandshakeFailure::Other))?;
    // It has seen the certificate; whether it hears the end does not matter.
    drop(stream.shutdown().await);
    Ok(Greeted::Validated)
}

/// The client's first message, and the name that it asks for, lower case.
pub(super) async fn greet<S>(
    io: Peeked<S>,
) -> Result<(StartHandshake<Peeked<S>>, Option<Box<str>>), HandshakeFailure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let accepting = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io);
    let start = accepting.await.map_err(|error| reason(&error, HandshakeFailure::NotTls))?;
    let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    Ok((start, name.map(String::into_boxed_str)))
}

/// The reason behind an error of rustls, as it is counted.
fn reason(error: &io::Error, otherwise: HandshakeFailure) -> HandshakeFailure {
    use rustls::{Error, PeerIncompatible};
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => HandshakeFailure::Closed,
            io::ErrorKind::QuotaExceeded => HandshakeFailure::HelloTooLong,
            _ => otherwise,
        };
    };
    match error {
        Error::AlertReceived(_) => HandshakeFailure::Alert,
        Error::InvalidMessage(_) => HandshakeFailure::NotTls,
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => HandshakeFailure::Version,
        Error::PeerIncompatible(_) => HandshakeFailure::Parameters,
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => {
            HandshakeFailure::ClientCertificate
        }
        _ => otherwise,
    }
}
