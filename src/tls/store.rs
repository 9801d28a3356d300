//! One certificate that is served, and the task that keeps it fresh.
//!
//! On the request path only as the resolver of a handshake: one atomic load. A new certificate takes the place of the
//! old one whole; handshakes under way end with the one they began with, connections notice nothing. What can't be
//! served never takes a place: the old one stays, and `last_error` says why. The task holds the certificate weakly and
//! ends with it. Where a site has several (one for each kind of key; one of before that has some of its names), a
//! handshake gets the first that is for its name and that it can verify.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{runtime::Handle, task::AbortHandle};
use tracing::{info, warn};

use super::{
    acme::{self, Acme, KeyType, Renewal, RenewalFacts},
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
    /// Its start, in seconds since 1970.
    pub not_before: i64,
    /// Its end, in seconds since 1970.
    pub not_after: i64,
    /// Why a newer one is not served.
    pub last_error: Option<String>,
    /// Where it comes from.
    pub source: CertificateSource,
    /// The internal authority's stands in for one that is ordered.
    pub is_standing_in: bool,
    /// How it is renewed, where that is by ACME.
    pub renewal: Option<RenewalFacts>,
}

/// A certificate with its key, from one source, replaced in place.
pub struct Certificate {
    source: CertificateSource,
    current: ArcSwap<Served>,
    freshness: Mutex<Freshness>,
    task: OnceLock<AbortHandle>,
    ordered: Option<Ordered>,
}

/// What handshakes choose from.
#[derive(Debug)]
struct Served {
    first: LoadedCertificate,
    /// In the order of preference; nearly always none.
    others: Vec<LoadedCertificate>,
}

/// What a certificate by ACME has beside it.
struct Ordered {
    renewal: Arc<Renewal>,
    authority: Arc<InternalAuthority>,
    hosts: Vec<HostPattern>,
    /// The last of `others` is the internal authority's, or the first where there are none.
    is_standing_in: AtomicBool,
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

    /// A certificate by ACME: what is kept, else the internal authority's until it comes; the task orders and renews it.
    pub(super) fn ordered(
        source: CertificateSource,
        key_type: KeyType,
        hosts: Vec<HostPattern>,
        authority: Arc<InternalAuthority>,
        acme: &Arc<Acme>,
        now: SystemTime,
    ) -> Result<Arc<Self>, AuthorityError> {
        let names = acme::names_of(&hosts);
        let (exact, partial) = acme::kept_for(acme, &names, key_type, now);
        let is_standing_in = exact.is_empty();
        let served = if let Some(served) = Served::of(exact) {
            served
        } else {
            info!(?names, "the internal authority's certificate stands in until one is ordered");
            Served::standing_in(partial, authority.issue(&hosts, now)?)
        };
        let renewal = Arc::new(Renewal::default());
        let ordered = Ordered {
            renewal: Arc::clone(&renewal),
            authority,
            hosts,
            is_standing_in: AtomicBool::new(is_standing_in),
        };
        let certificate = Arc::new(Self {
            source,
            current: ArcSwap::from_pointee(served),
            freshness: Mutex::default(),
            task: OnceLock::new(),
            ordered: Some(ordered),
        });
        let keeping =
            acme::keep(Arc::clone(acme), Arc::downgrade(&certificate), renewal, names, key_type);
        certificate.keep(acme.handle().spawn(keeping).abort_handle());
        Ok(certificate)
    }

    /// Serves what was ordered, the preferred kind of key first; without any, what is served stays.
    pub(super) fn serve_ordered(&self, ordered: Vec<LoadedCertificate>) {
        if let Some(served) = Served::of(ordered) {
            self.current.store(Arc::new(served));
            if let Some(ordered) = &self.ordered {
                ordered.is_standing_in.store(false, Ordering::Release);
            }
        }
    }

    /// Whether the internal authority's certificate stands in for one that is ordered.
    pub(super) fn is_standing_in(&self) -> bool {
        self.ordered.as_ref().is_some_and(|ordered| ordered.is_standing_in.load(Ordering::Acquire))
    }

    /// Makes the certificate that stands in anew where it ends soon.
    pub(super) fn refresh_stand_in(&self, now: SystemTime) {
        let Some(ordered) = self.ordered.as_ref().filter(|_| self.is_standing_in()) else { return };
        let current = self.current.load();
        let last = current.others.last().unwrap_or(&current.first);
        if unix_seconds(now) < renew_at(last.not_before, last.not_after) {
            return;
        }
        match ordered.authority.issue(&ordered.hosts, now) {
            Ok(made) => {
                let mut before: Vec<LoadedCertificate> =
                    std::iter::once(&current.first).chain(&current.others).cloned().collect();
                before.pop();
                self.current.store(Arc::new(Served::standing_in(before, made)));
            }
            Err(error) => warn!(%error, "the certificate that stands in can't be made anew"),
        }
    }

    /// How it is renewed, where that is by ACME.
    pub(super) fn renewal(&self) -> Option<&Arc<Renewal>> {
        self.ordered.as_ref().map(|ordered| &ordered.renewal)
    }

    /// What is served now, and why nothing newer.
    pub fn facts(&self) -> CertificateFacts {
        let current = self.current.load();
        let renewal = self.renewal().map(|renewal| renewal.facts());
        let is_standing_in = self.is_standing_in();
        let all = || std::iter::once(&current.first).chain(&current.others);
        // Of one that stands in with an older one beside it, the older one is for some names only.
        let shown = if is_standing_in { all().last() } else { None };
        let shown = shown.unwrap_or(&current.first);
        let ends = if is_standing_in { None } else { all().map(|one| one.not_after).min() };
        CertificateFacts {
            names: shown.names.0.clone(),
            issuer: shown.issuer.clone(),
            not_before: shown.not_before,
            not_after: ends.unwrap_or(shown.not_after),
            last_error: self
                .freshness()
                .last_error
                .clone()
                .or_else(|| renewal.as_ref().and_then(|renewal| renewal.error.clone())),
            source: self.source.clone(),
            is_standing_in,
            renewal,
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
            self.current.store(Arc::new(Served::one(loaded)));
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
        if unix_seconds(now) < renew_at(current.first.not_before, current.first.not_after) {
            return;
        }
        match authority.issue(hosts, now) {
            Ok(loaded) => {
                info!(names = ?loaded.names.0, not_after = date(loaded.not_after), "certificate renewed");
                self.current.store(Arc::new(Served::one(loaded)));
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
            current: ArcSwap::from_pointee(Served::one(loaded)),
            freshness: Mutex::new(Freshness::of(taken)),
            task: OnceLock::new(),
            ordered: None,
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

impl Served {
    fn one(first: LoadedCertificate) -> Self {
        Self { first, others: Vec::new() }
    }

    fn of(all: Vec<LoadedCertificate>) -> Option<Self> {
        let mut all = all.into_iter();
        let first = all.next()?;
        Some(Self { first, others: all.collect() })
    }

    /// Those of before for the names that they have, and one that stands in for all.
    fn standing_in(mut before: Vec<LoadedCertificate>, stand_in: LoadedCertificate) -> Self {
        if before.is_empty() {
            return Self::one(stand_in);
        }
        let first = before.remove(0);
        before.push(stand_in);
        Self { first, others: before }
    }

    /// The first that is for the name and that the client can verify; else the first that it can verify.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> &LoadedCertificate {
        let all = || std::iter::once(&self.first).chain(&self.others);
        let is_verified = |one: &&LoadedCertificate| one.key.key.choose_scheme(schemes).is_some();
        let is_for = |one: &&LoadedCertificate| name.is_none_or(|name| one.names.cover_name(name));
        all()
            .filter(is_verified)
            .find(is_for)
            .or_else(|| all().find(is_verified))
            .unwrap_or(&self.first)
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
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        if current.others.is_empty() {
            return Some(current.first.key.clone());
        }
        Some(current.choose(hello.server_name(), hello.signature_schemes()).key.clone())
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
