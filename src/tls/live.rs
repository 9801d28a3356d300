//! The TLS state of an edge: what outlives configurations.
//!
//! Used when a configuration is attached and by the admin API, never by a request. One lock, held while a site is
//! attached (files of the authority are read and written under it, by the thread that reloads). Sites that nothing has
//! held for ten minutes are forgotten; should more than [`MIN_BOUND`], or twice those held, be there before that, those
//! that are not held are forgotten at once.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use foldhash::fast::RandomState;
use tokio::runtime::Handle;

use super::{
    acme::Acme,
    blueprint::{CertificateBlueprint, TlsBlueprint},
    client_auth::Trust,
    config::{CertificateSource, TlsPolicy},
    expiry::Told,
    files::Fingerprint,
    internal::{AuthorityError, InternalAuthority},
    policy::{LivePolicy, SiteTls},
    store::{Certificate, CertificateFacts},
    tickets::TicketKeys,
    unix_seconds,
    watched::Timing,
};
use crate::types::{HostPattern, Name};

const KEPT_UNHELD: Duration = Duration::from_mins(10);
const MIN_BOUND: usize = 4096;

/// Certificates, ticket keys and policy identities. One an edge.
#[derive(Debug)]
pub struct TlsLive {
    state_dir: PathBuf,
    handle: Handle,
    timing: Timing,
    acme: Arc<Acme>,
    told: Mutex<Told>,
    registry: Mutex<Registry>,
}

/// Why a site's TLS could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The internal authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Ticket keys, or what a policy asks for.
    #[error("TLS can't be set up")]
    Config(#[from] rustls::Error),
}

/// The certificate of a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteCertificate {
    /// The site.
    pub site: Name,
    /// Its certificate.
    pub certificate: CertificateFacts,
}

#[derive(Debug, Default)]
struct Registry {
    sites: HashMap<SiteKey, Kept, RandomState>,
    bound: usize,
    certificates: HashMap<CertificateKey, Weak<Certificate>, RandomState>,
    policies: HashMap<TlsPolicy, Weak<LivePolicy>, RandomState>,
    authority: Option<Arc<InternalAuthority>>,
    tickets: Option<TicketKeys>,
}

#[derive(Debug)]
struct Kept {
    tls: Arc<SiteTls>,
    unheld_since: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SiteKey {
    site: Name,
    policy: TlsPolicy,
    certificate: CertificateKey,
}

/// One certificate object each, however many sites have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CertificateKey {
    source: CertificateSource,
    /// Of issued ones; of files, the file says it.
    hosts: Vec<HostPattern>,
}

impl TlsLive {
    /// State for a new edge, with the internal authority in `state_dir` once it is needed. Tasks run on `handle`.
    pub fn new(state_dir: &Path, handle: Handle) -> Arc<Self> {
        Self::with_timing(state_dir, handle, Timing::default())
    }

    pub(super) fn with_timing(state_dir: &Path, handle: Handle, timing: Timing) -> Arc<Self> {
        let registry = Mutex::new(Registry { bound: MIN_BOUND, ..Registry::default() });
        let acme = Acme::new(state_dir, handle.clone());
        Arc::new(Self {
            state_dir: state_dir.to_owned(),
            handle,
            timing,
            acme,
            told: Mutex::default(),
            registry,
        })
    }

    /// Certificates by ACME.
    pub fn acme(&self) -> &Arc<Acme> {
        &self.acme
    }

    /// Has the certificate of a site ordered now. Says whether the site has one that is ordered.
    pub fn renew(&self, site: &str) -> bool {
        let registry = self.registry();
        let held = registry.sites.iter().filter(|(key, kept)| &*key.site == site && kept.is_held());
        let mut is_ordered = false;
        for (_, kept) in held {
            is_ordered |= kept.tls.renew_certificate();
        }
        is_ordered
    }

    /// Gives a site its TLS: that which it had, if nothing of it changed. Blocks on files for a moment.
    ///
    /// # Errors
    /// The internal authority can't be opened or made, or the system gives no random numbers.
    pub fn attach(&self, blueprint: TlsBlueprint) -> Result<Arc<SiteTls>, TlsError> {
        let TlsBlueprint { site, policy, trust, certificate } = blueprint;
        let mut registry = self.registry();
        let (source, hosts) = match &certificate {
            CertificateBlueprint::Issued { source, hosts } => (source.clone(), hosts.clone()),
            CertificateBlueprint::Files { chain, key, .. } => {
                (CertificateSource::Files { chain: chain.clone(), key: key.clone() }, Vec::new())
            }
        };
        let key = CertificateKey { source, hosts };
        let certificate = self.certificate(&mut registry, key.clone(), certificate)?;
        let policy_of = self.policy(&mut registry, &policy, trust);
        let key = SiteKey { site, policy, certificate: key };
        if let Some(kept) = registry.sites.get_mut(&key) {
            kept.unheld_since = None;
            return Ok(kept.tls.clone());
        }
        let tls = Arc::new(SiteTls::new(policy_of, certificate, registry.tickets()?)?);
        registry.make_room();
        registry.sites.insert(key, Kept { tls: tls.clone(), unheld_since: None });
        Ok(tls)
    }

    /// The certificates of the sites that are in use, by site.
    pub fn certificates_status(&self) -> Vec<SiteCertificate> {
        let registry = self.registry();
        let held = registry.sites.iter().filter(|(_, kept)| kept.is_held());
        let mut status: Vec<_> = held
            .map(|(key, kept)| SiteCertificate {
                site: key.site.clone(),
                certificate: kept.tls.certificate(),
            })
            .collect();
        status.sort_by(|a, b| a.site.cmp(&b.site));
        status
    }

    /// Warns of certificates that end soon. To be called every minute or so; each warning comes once.
    pub fn warn_of_ends(&self, now: SystemTime) {
        let held: Vec<(Name, CertificateFacts)> = {
            let registry = self.registry();
            let held = registry.sites.iter().filter(|(_, kept)| kept.is_held());
            held.map(|(key, kept)| (key.site.clone(), kept.tls.certificate())).collect()
        };
        let held: Vec<_> = held.iter().map(|(site, facts)| (site, facts.clone())).collect();
        self.told.lock().unwrap_or_else(PoisonError::into_inner).tell(&held, unix_seconds(now));
    }

    /// Forgets what nothing has held for ten minutes. To be called every minute or so.
    pub fn sweep(&self, now: Instant) {
        let mut registry = self.registry();
        registry.sites.retain(|_, kept| {
            if kept.is_held() {
                kept.unheld_since = None;
                return true;
            }
            let since = *kept.unheld_since.get_or_insert(now);
            now.saturating_duration_since(since) < KEPT_UNHELD
        });
        registry.forget_dropped();
    }

    fn certificate(
        &self,
        registry: &mut Registry,
        key: CertificateKey,
        blueprint: CertificateBlueprint,
    ) -> Result<Arc<Certificate>, TlsError> {
        let present = registry.certificates.get(&key).and_then(Weak::upgrade);
        let certificate = match (present, blueprint) {
            (Some(present), CertificateBlueprint::Issued { .. }) => return Ok(present),
            (Some(present), CertificateBlueprint::Files { content, loaded, .. }) => {
                present.take(content, *loaded);
                return Ok(present);
            }
            (None, CertificateBlueprint::Files { chain, key, content, loaded }) => {
                let (handle, timing) = (&self.handle, self.timing);
                Certificate::from_files(&chain, &key, content, *loaded, handle, timing)
            }
            (None, CertificateBlueprint::Issued { source, hosts }) => {
                let now = SystemTime::now();
                let authority = registry.authority(&self.state_dir, now)?;
                match source {
                    CertificateSource::Acme(key_type) => {
                        Certificate::ordered(source, key_type, hosts, authority, &self.acme, now)?
                    }
                    source => {
                        let (handle, timing) = (&self.handle, self.timing);
                        Certificate::issued(source, hosts, authority, now, handle, timing)?
                    }
                }
            }
        };
        registry.certificates.insert(key, Arc::downgrade(&certificate));
        Ok(certificate)
    }

    /// The policy with what its files say: the present one while anything holds it.
    fn policy(
        &self,
        registry: &mut Registry,
        policy: &TlsPolicy,
        trust: Option<(Fingerprint, Trust)>,
    ) -> Arc<LivePolicy> {
        if let Some(present) = registry.policies.get(policy).and_then(Weak::upgrade) {
            if let Some((content, trust)) = trust {
                present.take(content, trust);
            }
            return present;
        }
        let live = LivePolicy::new(policy.clone(), trust, &self.handle, self.timing);
        registry.policies.insert(policy.clone(), Arc::downgrade(&live));
        live
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// The internal authority, opened or made when it is first asked for.
    fn authority(
        &mut self,
        state_dir: &Path,
        now: SystemTime,
    ) -> Result<Arc<InternalAuthority>, AuthorityError> {
        if let Some(open) = &self.authority {
            return Ok(open.clone());
        }
        let opened = Arc::new(InternalAuthority::open(state_dir, now)?);
        Ok(self.authority.insert(opened).clone())
    }

    /// The keys of tickets, made with the first site.
    fn tickets(&mut self) -> Result<TicketKeys, rustls::Error> {
        if let Some(made) = &self.tickets {
            return Ok(made.clone());
        }
        Ok(self.tickets.insert(TicketKeys::new()?).clone())
    }

    fn make_room(&mut self) {
        if self.sites.len() < self.bound {
            return;
        }
        self.sites.retain(|_, kept| kept.is_held());
        self.forget_dropped();
        self.bound = MIN_BOUND.max(self.sites.len().saturating_mul(2));
    }

    fn forget_dropped(&mut self) {
        self.certificates.retain(|_, certificate| certificate.strong_count() > 0);
        self.policies.retain(|_, policy| policy.strong_count() > 0);
    }
}

impl Kept {
    /// Whether a snapshot or a handshake has it; connections hold only its config.
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.tls) > 1 || self.tls.is_in_use()
    }
}

#[cfg(test)]
mod tests;
