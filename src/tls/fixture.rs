//! For tests: certificates made afresh, and handshakes in memory.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::provider;

pub(super) const DAY: Duration = Duration::from_hours(24);

/// An authority to sign with, and its certificate in PEM.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
    pub(super) der: CertificateDer<'static>,
}

/// A leaf with its key, in PEM.
pub(super) struct Leaf {
    pub(super) pem: String,
    pub(super) key: String,
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    pub(super) fn root(name: &str) -> Self {
        Self::make(name, None)
    }

    pub(super) fn intermediate(&self, name: &str) -> Self {
        Self::make(name, Some(self))
    }

    fn make(name: &str, by: Option<&Self>) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = match by {
            Some(by) => params.signed_by(&key, &by.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Valid from a day ago for thirty.
    pub(super) fn leaf(&self, hosts: &[&str]) -> Leaf {
        let now = SystemTime::now();
        self.leaf_between(hosts, now - DAY, now + DAY * 30)
    }

    pub(super) fn leaf_between(&self, hosts: &[&str], from: SystemTime, to: SystemTime) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = params("leaf", hosts);
        params.not_before = from.into();
        params.not_after = to.into();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { pem, key: key.serialize_pem() }
    }
}

/// A directory with `chain.pem` and `key.pem`.
pub(super) struct Files {
    _directory: tempfile::TempDir,
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
}

impl Files {
    pub(super) fn new(chain: &str, key: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = Self {
            chain: directory.path().join("chain.pem"),
            key: directory.path().join("key.pem"),
            _directory: directory,
        };
        files.write(chain, key);
        files
    }

    pub(super) fn of(leaf: &Leaf) -> Self {
        Self::new(&leaf.pem, &leaf.key)
    }

    pub(super) fn write(&self, chain: &str, key: &str) {
        fs::write(&self.chain, chain).unwrap();
        fs::write(&self.key, key).unwrap();
    }
}

/// A client that trusts `root` and speaks `versions`.
pub(super) fn client(
    root: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// What a client saw of a handshake.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) kind: HandshakeKind,
    pub(super) version: ProtocolVersion,
    pub(super) alpn: Vec<u8>,
    pub(super) leaf: CertificateDer<'static>,
}

/// One handshake and one byte, in memory. The error is the client's.
pub(super) async fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<Seen> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let acceptor = tokio_rustls::TlsAcceptor::from(server.clone());
    let serving = tokio::spawn(async move {
        if let Ok(mut stream) = acceptor.accept(far).await {
            // The tickets of TLS 1.3 come before the first byte.
            drop(stream.write_all(b"x").await);
            drop(stream.shutdown().await);
        }
    });
    let connector = tokio_rustls::TlsConnector::from(client.clone());
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = connector.connect(name, near).await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    let connection = stream.get_ref().1;
    let seen = Seen {
        kind: connection.handshake_kind().unwrap(),
        version: connection.protocol_version().unwrap(),
        alpn: connection.alpn_protocol().unwrap_or_default().to_owned(),
        leaf: connection.peer_certificates().unwrap()[0].clone().into_owned(),
    };
    serving.await.unwrap();
    Ok(seen)
}

/// Waits until `is_so`, at most ten seconds.
pub(super) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "never came: {what}");
        tokio::task::yield_now().await;
    }
}

/// The names of the files in a directory, sorted.
pub(super) fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
