//! One certificate that is served, and the task that keeps it fresh.
//!
//! On the request path only as the resolver of a handshake: one atomic load. A new certificate takes the place of the
//! old one whole; handshakes under way end with the one they began with, connections notice nothing. What can't be
//! served never takes a place: the old one stays, and `last_error` says why. The task holds the certificate weakly and
//! ends with it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{runtime::Handle, task::AbortHandle};
use tracing::{info, warn};

use super::{
    certificate_error::CertificateError,
    config::CertificateSource,
    date,
    files::{Fingerprint, LoadedCertificate, Pair},
    internal::{AuthorityError, InternalAuthority, renew_at},
    unix_seconds,
    watched::{Freshness, Offer, Timing, Watched, watch},
    with_sources,
};
use crate::types::HostPattern;

/// What is known of a certificate that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The names that it is for.
    pub names: Vec<String>,
    /// The common name of its issuer.
    pub issuer: String,
    /// Its end, in seconds since 1970.
    pub not_after: i64,
    /// Why a newer one is not served.
    pub last_error: Option<String>,
}

/// A certificate with its key, from one source, replaced in place.
pub struct Certificate {
    source: CertificateSource,
    current: ArcSwap<LoadedCertificate>,
    freshness: Mutex<Freshness>,
    task: OnceLock<AbortHandle>,
}

impl Certificate {
    /// A certificate from files that were read before; the task looks for newer ones.
    pub(super) fn from_files(
        chain: &Path,
        key: &Path,
        content: Fingerprint,
        loaded: LoadedCertificate,
        handle: &Handle,
        timing: Timing,
    ) -> Arc<Self> {
        let source = CertificateSource::Files { chain: chain.to_owned(), key: key.to_owned() };
        let certificate = Arc::new(Self::new(source, loaded, Some(content)));
        let files = (chain.to_owned(), key.to_owned());
        let watching = watch(Arc::downgrade(&certificate), files, timing);
        certificate.keep(handle.spawn(watching).abort_handle());
        certificate
    }

    /// A certificate of the internal authority for `hosts`; the task renews it.
    pub(super) fn issued(
        source: CertificateSource,
        hosts: Vec<HostPattern>,
        authority: Arc<InternalAuthority>,
        now: SystemTime,
        handle: &Handle,
        timing: Timing,
    ) -> Result<Arc<Self>, AuthorityError> {
        let loaded = authority.issue(&hosts, now)?;
        let certificate = Arc::new(Self::new(source, loaded, None));
        let renewal = renew(Arc::downgrade(&certificate), hosts, authority, timing);
        certificate.keep(handle.spawn(renewal).abort_handle());
        Ok(certificate)
    }

    /// What is served now, and why nothing newer.
    pub fn facts(&self) -> CertificateFacts {
        let current = self.current.load();
        CertificateFacts {
            names: current.names.0.clone(),
            issuer: current.issuer.clone(),
            not_after: current.not_after,
            last_error: self.freshness().last_error.clone(),
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> &CertificateSource {
        &self.source
    }

    /// Takes what was read and found good elsewhere.
    pub(super) fn take(&self, content: Fingerprint, loaded: LoadedCertificate) {
        let mut freshness = self.freshness();
        if !freshness.has_taken(content) {
            info!(names = ?loaded.names.0, not_after = date(loaded.not_after), "certificate replaced");
            self.current.store(Arc::new(loaded));
        }
        *freshness = Freshness::of(Some(content));
    }

    /// Takes the content of the files if it can be served at `now`, and keeps the old certificate if not.
    pub(super) fn offer(&self, pair: Pair<'_>, now: SystemTime) {
        let content = pair.fingerprint();
        let offer = self.freshness().offered(content);
        match offer {
            Offer::Settled => return,
            Offer::AsBefore => {
                info!(source = ?self.source, "certificate files are as before again");
                return;
            }
            Offer::New => {}
        }
        match pair.load(now) {
            Ok(loaded) => self.take(content, loaded),
            Err(error) => {
                let is_early = matches!(error, CertificateError::NotYetValid { .. });
                let text = with_sources(&error);
                if self.freshness().refuse(content, text.clone(), is_early) {
                    warn!(error = text, "certificate not replaced; the old one is kept");
                }
            }
        }
    }

    /// Renews it where that is due.
    fn renew_if_due(&self, hosts: &[HostPattern], authority: &InternalAuthority, now: SystemTime) {
        let current = self.current.load();
        if unix_seconds(now) < renew_at(current.not_before, current.not_after) {
            return;
        }
        match authority.issue(hosts, now) {
            Ok(loaded) => {
                info!(names = ?loaded.names.0, not_after = date(loaded.not_after), "certificate renewed");
                self.current.store(Arc::new(loaded));
                self.freshness().last_error = None;
            }
            Err(error) => {
                let text = with_sources(&error);
                let mut freshness = self.freshness();
                if freshness.last_error.as_ref() != Some(&text) {
                    warn!(error = text, "certificate not renewed; the old one is kept");
                }
                freshness.last_error = Some(text);
            }
        }
    }

    fn new(
        source: CertificateSource,
        loaded: LoadedCertificate,
        taken: Option<Fingerprint>,
    ) -> Self {
        Self {
            source,
            current: ArcSwap::from_pointee(loaded),
            freshness: Mutex::new(Freshness::of(taken)),
            task: OnceLock::new(),
        }
    }

    fn keep(&self, task: AbortHandle) {
        if let Err(second) = self.task.set(task) {
            second.abort();
        }
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched for Certificate {
    /// Chain and key.
    type Files = (PathBuf, PathBuf);

    fn fingerprint((chain, key): &Self::Files) -> Fingerprint {
        Pair::read(chain, key).fingerprint()
    }

    fn is_settled(&self, content: Fingerprint) -> bool {
        self.freshness().is_settled(content)
    }

    fn offer(&self, (chain, key): &Self::Files, seen: Fingerprint) {
        let pair = Pair::read(chain, key);
        if pair.fingerprint() == seen {
            self.offer(pair, SystemTime::now());
        }
    }
}

async fn renew(
    certificate: Weak<Certificate>,
    hosts: Vec<HostPattern>,
    authority: Arc<InternalAuthority>,
    timing: Timing,
) {
    loop {
        // Often, and by the calendar: a monotonic sleep of weeks would miss suspended machines and set clocks.
        tokio::time::sleep(timing.renewal).await;
        let Some(certificate) = certificate.upgrade() else { return };
        certificate.renew_if_due(&hosts, &authority, SystemTime::now());
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("source", &self.source)
            .field("current", &self.current.load())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
