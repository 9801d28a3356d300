//! What the edge answers to an authority that validates a name.
//!
//! On the path of requests on plain listeners and of handshakes, as one load of a pointer that is nearly always null. An
//! order puts its answers in and takes them out when its [`Shown`] is dropped. Bounded by the orders under way.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use foldhash::fast::RandomState;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use super::super::provider;

/// The path of http-01, before the token (RFC 8555, section 8.3).
pub const HTTP_PATH: &str = "/.well-known/acme-challenge/";
/// What a validating handshake of tls-alpn-01 offers, alone (RFC 8737, section 3).
pub const ALPN: &[u8] = b"acme-tls/1";

/// The answers to challenges under way. One an edge.
#[derive(Default)]
pub struct Challenges {
    current: ArcSwapOption<Answers>,
    /// The number of the answer that was put in last.
    writing: Mutex<u64>,
}

#[derive(Clone, Default)]
struct Answers {
    /// Key authorizations by token.
    http: HashMap<Box<str>, (u64, Arc<str>), RandomState>,
    /// Handshakes by name, lower case.
    tls: HashMap<Box<str>, (u64, Arc<ServerConfig>), RandomState>,
}

/// Why there can be no answer to tls-alpn-01.
#[derive(Debug, thiserror::Error)]
pub enum AlpnError {
    /// The certificate.
    #[error("the certificate of tls-alpn-01 can't be made")]
    Certificate(#[from] rcgen::Error),
    /// The handshake.
    #[error("the handshake of tls-alpn-01 can't be prepared")]
    Handshake(#[from] rustls::Error),
}

/// An answer that is there for as long as this is held.
#[must_use]
pub struct Shown {
    challenges: Arc<Challenges>,
    key: Key,
    /// Two orders may answer for one name: each takes back its own.
    number: u64,
}

enum Key {
    Token(Box<str>),
    Name(Box<str>),
}

impl Challenges {
    /// The body that answers a request for `path`, where a token of ours is asked for. The path is as it came.
    pub fn http(&self, path: &str) -> Option<Arc<str>> {
        let token = path.strip_prefix(HTTP_PATH)?;
        let current = self.current.load();
        current.as_ref()?.http.get(token).map(|(_, answer)| Arc::clone(answer))
    }

    /// The handshake that answers a validation of `name` (lower case).
    pub fn tls(&self, name: &str) -> Option<Arc<ServerConfig>> {
        let current = self.current.load();
        current.as_ref()?.tls.get(name).map(|(_, answer)| Arc::clone(answer))
    }

    /// Answers requests for `token` with `authorization`.
    pub fn show_http(self: &Arc<Self>, token: &str, authorization: &str) -> Shown {
        let number = self.change(|answers, number| {
            answers.http.insert(token.into(), (number, authorization.into()));
        });
        Shown { challenges: Arc::clone(self), key: Key::Token(token.into()), number }
    }

    /// Answers validating handshakes for `name` with the digest of a key authorization.
    ///
    /// # Errors
    /// The name is not one that a certificate can have, or the system gives no random numbers.
    pub fn show_tls(self: &Arc<Self>, name: &str, digest: &[u8]) -> Result<Shown, AlpnError> {
        let config = Arc::new(handshake(name, digest)?);
        let number = self.change(|answers, number| {
            answers.tls.insert(name.into(), (number, config));
        });
        Ok(Shown { challenges: Arc::clone(self), key: Key::Name(name.into()), number })
    }

    fn change(&self, change: impl FnOnce(&mut Answers, u64)) -> u64 {
        let mut last = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.wrapping_add(1);
        let mut answers = self.current.load().as_deref().cloned().unwrap_or_default();
        change(&mut answers, *last);
        let is_empty = answers.http.is_empty() && answers.tls.is_empty();
        self.current.store((!is_empty).then(|| Arc::new(answers)));
        *last
    }
}

/// A handshake with the certificate that RFC 8737, section 3, describes: for the one name, with the digest in it.
fn handshake(name: &str, digest: &[u8]) -> Result<ServerConfig, AlpnError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider().key_provider.load_private_key(key)?;
    // Unchecked: the library knows no extension of this kind, which is critical.
    let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.challenges.change(|answers, _| match &self.key {
            Key::Token(token)
                if answers.http.get(token).is_some_and(|(n, _)| *n == self.number) =>
            {
                answers.http.remove(token);
            }
            Key::Name(name) if answers.tls.get(name).is_some_and(|(n, _)| *n == self.number) => {
                answers.tls.remove(name);
            }
            Key::Token(_) | Key::Name(_) => {}
        });
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
        let count = current.as_ref().map_or(0, |answers| answers.http.len() + answers.tls.len());
        f.debug_struct("Challenges").field("answers", &count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_there_while_they_are_shown() {
        let challenges = Arc::new(Challenges::default());
        assert!(challenges.http("/.well-known/acme-challenge/a").is_none());
        let a = challenges.show_http("a", "a.thumb");
        let b = challenges.show_http("b", "b.thumb");
        let tls = challenges.show_tls("x.test", &[7; 32]).unwrap();
        assert_eq!(challenges.http("/.well-known/acme-challenge/a").as_deref(), Some("a.thumb"));
        for path in [
            "/a",
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/a/",
            "/.well-known/acme-challenge/../a",
        ] {
            assert!(challenges.http(path).is_none(), "{path}");
        }
        assert!(challenges.tls("x.test").is_some() && challenges.tls("y.test").is_none());
        drop(a);
        assert!(challenges.http("/.well-known/acme-challenge/a").is_none());
        assert!(challenges.http("/.well-known/acme-challenge/b").is_some());
        let again = challenges.show_tls("x.test", &[8; 32]).unwrap();
        drop((b, tls));
        assert!(challenges.tls("x.test").is_some(), "another order's");
        drop(again);
        assert!(challenges.current.load().is_none(), "nothing is left behind");
    }
}
