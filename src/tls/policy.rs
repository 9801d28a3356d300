//! What a site's handshakes must satisfy, built for rustls.
//!
//! A connection is stamped with the [`PolicyIdentity`] that it was made under; the request path compares it by value
//! where a site asks for more than the least. Tickets belong to one [`Handshake`] (`tickets.rs`), since rustls does not
//! check a client again when it resumes, and a ticket of one site must not open another. When the files
//! of a policy change (authorities, revocation lists), it becomes another in version: the sites that have it make their
//! handshakes anew, and connections of before count as made under another policy.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    compress::CompressionCache,
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};
use tokio::{runtime::Handle, task::AbortHandle};
use tracing::{error, info, warn};

use super::{
    client_auth::{ClientAuth, ExpiredCrl, Trust, TrustFiles},
    config::{TlsPolicy, TlsPreset},
    date,
    files::Fingerprint,
    provider,
    store::{Certificate, CertificateFacts},
    tickets::TicketKeys,
    watched::{Freshness, Offer, Timing, Watched, watch},
    with_sources,
};

/// A policy in one version. Independent of the site: sites with an equal policy share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyIdentity {
    policy: TlsPolicy,
    version: u64,
}

/// A policy with what its files say now. One for all sites that have it.
pub struct LivePolicy {
    in_force: ArcSwap<InForce>,
    freshness: Mutex<Freshness>,
    task: OnceLock<AbortHandle>,
}

struct InForce {
    identity: Arc<PolicyIdentity>,
    trust: Option<Trust>,
    /// It was told that a revocation list is past its time.
    has_told: AtomicBool,
}

/// The TLS of a site: kept over reloads that change nothing of it, so that tickets stay good.
pub struct SiteTls {
    policy: Arc<LivePolicy>,
    certificate: Arc<Certificate>,
    tickets: TicketKeys,
    current: ArcSwap<Handshake>,
}

/// What a handshake gets.
pub struct Handshake {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// What the connection is stamped with.
    pub identity: Arc<PolicyIdentity>,
}

impl PolicyIdentity {
    fn new(policy: TlsPolicy) -> Self {
        /// The one that was made last.
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self { policy, version: LAST.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// What it asks for.
    pub fn policy(&self) -> &TlsPolicy {
        &self.policy
    }

    /// Which making of it this is, unique in the process.
    pub fn version(&self) -> u64 {
        self.version
    }
}

impl LivePolicy {
    /// A policy with the content of its files, where it has some; a task on `handle` looks for newer content.
    pub(super) fn new(
        policy: TlsPolicy,
        trust: Option<(Fingerprint, Trust)>,
        handle: &Handle,
        timing: Timing,
    ) -> Arc<Self> {
        let (content, trust) = trust.unzip();
        let watched = policy.client_auth.clone();
        let in_force = InForce {
            identity: Arc::new(PolicyIdentity::new(policy)),
            trust,
            has_told: AtomicBool::new(false),
        };
        let live = Arc::new(Self {
            in_force: ArcSwap::from_pointee(in_force),
            freshness: Mutex::new(Freshness::of(content)),
            task: OnceLock::new(),
        });
        if let Some(auth) = watched {
            let watching = handle.spawn(watch(Arc::downgrade(&live), auth, timing));
            if let Err(second) = live.task.set(watching.abort_handle()) {
                second.abort();
            }
        }
        live
    }

    /// What connections that are made now are stamped with.
    pub fn identity(&self) -> Arc<PolicyIdentity> {
        self.in_force.load().identity.clone()
    }

    /// Takes what was read and found good: a new version, if it is other content.
    pub(super) fn take(&self, content: Fingerprint, trust: Trust) {
        let mut freshness = self.freshness();
        if !freshness.has_taken(content) {
            let policy = self.in_force.load().identity.policy.clone();
            let identity = Arc::new(PolicyIdentity::new(policy));
            info!(version = identity.version, "client authorities or revocation lists replaced");
            let has_told = AtomicBool::new(false);
            self.in_force.store(Arc::new(InForce { identity, trust: Some(trust), has_told }));
        }
        *freshness = Freshness::of(Some(content));
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for LivePolicy {
    type Files = ClientAuth;

    fn fingerprint(auth: &ClientAuth) -> Fingerprint {
        TrustFiles::read(auth).fingerprint()
    }

    fn is_settled(&self, content: Fingerprint) -> bool {
        self.freshness().is_settled(content)
    }

    /// Tells once of a revocation list that is past its time.
    fn age(&self) {
        let in_force = self.in_force.load();
        if let (Some(auth), Some(trust)) = (&in_force.identity.policy.client_auth, &in_force.trust)
            && trust.has_expired(SystemTime::now())
            && !in_force.has_told.swap(true, Ordering::Relaxed)
        {
            tell_of_expired(auth, trust);
        }
    }

    fn offer(&self, auth: &ClientAuth, seen: Fingerprint) {
        let files = TrustFiles::read(auth);
        let content = files.fingerprint();
        if content != seen {
            return;
        }
        let offer = self.freshness().offered(content);
        match offer {
            Offer::Settled => return,
            Offer::AsBefore => {
                info!(ca = %auth.ca.display(), "files of client authorities are as before again");
                return;
            }
            Offer::New => {}
        }
        match files.load() {
            Ok(trust) => self.take(content, trust),
            Err(error) => {
                let text = with_sources(&error);
                if self.freshness().refuse(content, text.clone(), false) {
                    warn!(error = text, "client authorities not replaced; the old ones are kept");
                }
            }
        }
    }
}

/// A revocation list past its time is a fault of whoever should publish it, and stops or endangers everybody.
fn tell_of_expired(auth: &ClientAuth, trust: &Trust) {
    let until = trust.crl_until.map(date).unwrap_or_default();
    let crl = auth.crl.as_deref().unwrap_or(&auth.ca).display();
    match auth.expired_crl {
        ExpiredCrl::Refuse => {
            error!(%crl, until, "a revocation list is past its time: clients that it is about are refused");
        }
        ExpiredCrl::Accept => {
            error!(%crl, until, "a revocation list is past its time: it is believed all the same");
        }
    }
}

impl Drop for LivePolicy {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl SiteTls {
    /// The TLS of a site.
    ///
    /// # Errors
    /// The cryptography does not have what the policy asks for.
    pub(super) fn new(
        policy: Arc<LivePolicy>,
        certificate: Arc<Certificate>,
        tickets: TicketKeys,
    ) -> Result<Self, rustls::Error> {
        let current = Handshake::new(&policy.in_force.load(), &certificate, &tickets)?;
        Ok(Self { policy, certificate, tickets, current: ArcSwap::from_pointee(current) })
    }

    /// What a handshake gets now.
    pub fn handshake(&self) -> Arc<Handshake> {
        let current = self.current.load_full();
        let in_force = self.policy.in_force.load();
        if Arc::ptr_eq(&current.identity, &in_force.identity) {
            return current;
        }
        match Handshake::new(&in_force, &self.certificate, &self.tickets) {
            Ok(new) => {
                let new = Arc::new(new);
                self.current.store(new.clone());
                new
            }
            Err(error) => {
                // Its connections count as made under another policy, which the request path refuses.
                warn!(%error, "the new policy can't be put in force");
                current
            }
        }
    }

    /// Whether a connection that was stamped with this satisfies the present policy.
    pub fn is_satisfied_by(&self, identity: &PolicyIdentity) -> bool {
        *self.policy.in_force.load().identity == *identity
    }

    /// What is known of its certificate now.
    pub fn certificate(&self) -> CertificateFacts {
        self.certificate.facts()
    }

    /// Has the certificate ordered now, where it is one that is ordered.
    pub(super) fn renew_certificate(&self) -> bool {
        match self.certificate.renewal() {
            Some(renewal) => {
                renewal.renew_now();
                true
            }
            None => false,
        }
    }

    /// Whether a handshake or a connection has its config.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.current.load().config) > 1
    }
}

impl Handshake {
    fn new(
        policy: &InForce,
        certificate: &Arc<Certificate>,
        tickets: &TicketKeys,
    ) -> Result<Self, rustls::Error> {
        let identity = policy.identity.clone();
        let config = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(versions(identity.policy.preset))?;
        let config = match &policy.trust {
            Some(trust) => config.with_client_cert_verifier(trust.verifier.clone()),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(certificate.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Stateless, so nothing is stored for a session.
        config.ticketer = tickets.bound();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 2;
        // No 0-RTT: it can be replayed (RFC 8446, section 8).
        config.max_early_data_size = 0;
        // Nothing is compressed.
        config.cert_compression_cache = Arc::new(CompressionCache::Disabled);
        Ok(Self { config: Arc::new(config), identity })
    }
}

type Versions = &'static [&'static SupportedProtocolVersion];

fn versions(preset: TlsPreset) -> Versions {
    const INTERMEDIATE: Versions = &[&TLS13, &TLS12];
    const MODERN: Versions = &[&TLS13];
    match preset {
        TlsPreset::Intermediate => INTERMEDIATE,
        TlsPreset::Modern => MODERN,
    }
}

impl fmt::Debug for LivePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LivePolicy").field("identity", &self.identity()).finish_non_exhaustive()
    }
}

impl fmt::Debug for SiteTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteTls")
            .field("policy", &self.policy)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
