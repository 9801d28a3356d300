//! Connections of the client. It settles what of TLS is used, so that it is the same for all: TLS 1.3,
//! `TLS_AES_128_GCM_SHA256`, X25519 but where the hybrid exchange is what is measured.

use std::{cell::Cell, io, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    version::TLS13,
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{Handshake, Load, Protocol};
use crate::certificate::HOST;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

pub(super) struct Connected {
    pub(super) stream: Box<dyn Stream>,
}

pub(super) struct Connector {
    target: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    resumed: Cell<u64>,
}

impl Connector {
    pub(super) fn new(load: &Load) -> Result<Self> {
        let (alpn, handshake) = match load.protocol {
            Protocol::Http1 => {
                return Ok(Self { target: load.target, tls: None, resumed: Cell::new(0) });
            }
            Protocol::Http1Tls => ("http/1.1", Handshake::Full),
            Protocol::Http2 => ("h2", Handshake::Full),
            Protocol::Handshake(handshake) => ("http/1.1", handshake),
        };
        let mut roots = RootCertStore::empty();
        roots.add(load.trusted.clone().context("TLS without a certificate")?)?;
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![match handshake {
                Handshake::Hybrid => aws_lc_rs::kx_group::X25519MLKEM768,
                Handshake::Full | Handshake::Resumed => aws_lc_rs::kx_group::X25519,
            }],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        if handshake != Handshake::Resumed {
            config.resumption = Resumption::disabled();
        }
        let tls = Some((TlsConnector::from(Arc::new(config)), ServerName::try_from(HOST)?));
        Ok(Self { target: load.target, tls, resumed: Cell::new(0) })
    }

    pub(super) async fn connect(&self) -> io::Result<Connected> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let Some((connector, name)) = &self.tls else {
            return Ok(Connected { stream: Box::new(stream) });
        };
        let stream = connector.connect(name.clone(), stream).await?;
        if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.resumed.set(self.resumed.get() + 1);
        }
        Ok(Connected { stream: Box::new(stream) })
    }

    /// Connections that went on with an earlier session.
    pub(super) fn resumed(&self) -> u64 {
        self.resumed.get()
    }
}
