//! A real handshake with the edge's own listeners, to see that a new certificate is the one that is served.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{super::provider, kept::Algorithm};

const HANDSHAKE: Duration = Duration::from_secs(5);

/// Remembers the certificate that it is shown, and takes any.
#[derive(Debug)]
struct Seen {
    leaf: Mutex<Option<Vec<u8>>>,
    algorithm: Algorithm,
}

/// The name to ask for, of a certificate with these names. Any label will do for a star.
pub(super) fn host_of(names: &[String]) -> String {
    names.first().map(|name| name.replacen('*', "tidegate-check", 1)).unwrap_or_default()
}

/// Shakes hands with each listener for a name. A listener that can't be reached is told; so is another
/// certificate than `leaf` (DER).
pub(super) async fn check(
    listeners: &[SocketAddr],
    name: &str,
    algorithm: Algorithm,
    leaf: &[u8],
) -> Result<(), String> {
    for listener in listeners {
        let target = SocketAddr::new(reachable(listener.ip()), listener.port());
        let shown = tokio::time::timeout(HANDSHAKE, shown(target, name, algorithm)).await;
        match shown {
            Ok(Ok(Some(shown))) if shown == leaf => {}
            Ok(Ok(Some(_))) => {
                return Err(format!("{target} serves another certificate for {name}"));
            }
            Ok(Ok(None)) => return Err(format!("{target} shows no certificate for {name}")),
            Ok(Err(error)) => return Err(format!("{target} can't be asked for {name}: {error}")),
            Err(_) => return Err(format!("{target} does not answer for {name}")),
        }
    }
    Ok(())
}

fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// The certificate that a listener shows. The handshake may fail after it (a client certificate may be asked for).
async fn shown(
    target: SocketAddr,
    name: &str,
    algorithm: Algorithm,
) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
    let seen = Arc::new(Seen { leaf: Mutex::new(None), algorithm });
    let config = ClientConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(seen.clone())
        .with_no_client_auth();
    let stream = TcpStream::connect(target).await?;
    let name = ServerName::try_from(name.to_owned())?;
    let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let leaf = seen.leaf.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (leaf, shaken) {
        (None, Err(error)) => Err(error.into()),
        (leaf, _) => Ok(leaf),
    }
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.leaf.lock().unwrap_or_else(PoisonError::into_inner) = Some(leaf.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self.algorithm {
            Algorithm::Ecdsa => vec![SignatureScheme::ECDSA_NISTP256_SHA256],
            Algorithm::Rsa => {
                vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    };
    use tokio::{io::AsyncReadExt, net::TcpListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A listener that serves a certificate of its own, and that.
    async fn listener() -> (SocketAddr, Vec<u8>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    // Until the client goes.
                    drop(stream.read(&mut [0]).await);
                }
            }
        });
        (address, certificate.der().to_vec())
    }

    #[tokio::test]
    async fn another_certificate_than_the_new_one_is_told() {
        let (address, leaf) = listener().await;
        let name = host_of(&["*.a.test".to_owned()]);
        let check = |leaf: Vec<u8>, algorithm| {
            let name = name.clone();
            async move { check(&[address], &name, algorithm, &leaf).await }
        };
        assert_eq!(check(leaf.clone(), Algorithm::Ecdsa).await, Ok(()));
        let fault = check(vec![1, 2, 3], Algorithm::Ecdsa).await.unwrap_err();
        assert_eq!(
            fault,
            format!("{address} serves another certificate for tidegate-check.a.test")
        );
        let fault = check(leaf.clone(), Algorithm::Rsa).await.unwrap_err();
        assert!(fault.contains("can't be asked"), "{fault}");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(super::check(&[nobody], &name, Algorithm::Ecdsa, &leaf).await.is_err());
        assert_eq!(super::check(&[], &name, Algorithm::Ecdsa, &leaf).await, Ok(()));
    }
}
