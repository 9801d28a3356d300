//! One certificate with one kind of key: when it is due, what its authority suggests, its orders and their failures.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::FutureExt as _;
use instant_acme::CertificateIdentifier;
use tracing::{info, warn};

use super::{
    super::{date, files::LoadedCertificate, unix_seconds},
    config::{AcmeConfig, Authority, ChallengeKind, KeyType},
    failure::Failure,
    kept::{Algorithm, CertificateId, KeptCertificate},
    ledger::Tries,
    order::{self, Means, Wanted},
    preflight,
    schedule::{self, Window},
    service::Acme,
};

/// All of an order, whatever happens: each step has its own, shorter end.
const ORDER: Duration = Duration::from_hours(1);
/// Part of its lifetime that a certificate is kept at least, unless somebody asks for another.
const LEAST_AGE: i64 = 200;
/// So often an order goes on after nonces that were refused. The library tries each request three times.
const NONCES: usize = 3;
/// The wait after an authority said that it limits orders.
const LIMITED: i64 = 3_600;
/// The most that looks at a suggested renewal are apart, and the least for certificates of the usual lifetimes.
const SUGGESTION: (i64, i64) = (60, 86_400);

/// One certificate with one kind of key.
pub(super) struct Variant {
    id: CertificateId,
    pub(super) names: Vec<String>,
    pub(super) algorithm: Algorithm,
    pub(super) kept: Option<(KeptCertificate, LoadedCertificate)>,
    /// Of the file that it was read from or written to.
    changed: Option<SystemTime>,
    /// Where in the spread of renewals it stands.
    share: f64,
    /// When the authority is asked again what it suggests.
    pub(super) ask_at: i64,
    pub(super) is_wanted_now: bool,
    /// When it was issued in this process.
    pub(super) issued: Option<Instant>,
}

/// Reads what is kept for these names. Blocks. What can't be served is ordered anew, and told.
fn read_kept(
    acme: &Acme,
    id: &CertificateId,
    now: SystemTime,
) -> Option<(KeptCertificate, LoadedCertificate)> {
    let kept = match acme.store().certificate(id) {
        Ok(kept) => kept?,
        Err(error) => {
            warn!(certificate = %id, %error, "a certificate that is kept can't be read");
            return None;
        }
    };
    match kept.load(id, now) {
        Ok(loaded) => Some((kept, loaded)),
        Err(error) => {
            warn!(certificate = %id, %error, "a certificate that is kept can't be served");
            None
        }
    }
}

/// What is kept and can be served at once: certificates for exactly these names, the preferred kind first; without any,
/// those of before that cover some of the names. Blocks.
pub(in crate::tls) fn kept_for(
    acme: &Acme,
    names: &[String],
    key_type: KeyType,
    now: SystemTime,
) -> (Vec<LoadedCertificate>, Vec<LoadedCertificate>) {
    let exact: Vec<LoadedCertificate> = key_type
        .algorithms()
        .iter()
        .filter_map(|algorithm| read_kept(acme, &CertificateId::new(names, *algorithm), now))
        .map(|(_, loaded)| loaded)
        .collect();
    if !exact.is_empty() {
        return (exact, Vec::new());
    }
    let listing = acme.listing();
    let related =
        listing.iter().filter(|(_, kept)| kept.names.iter().any(|name| names.contains(name)));
    let mut partial: Vec<LoadedCertificate> =
        related.filter_map(|(id, kept)| kept.load(id, now).ok()).collect();
    // The one that lasts longest first; a site has few.
    partial.sort_by_key(|loaded| std::cmp::Reverse(loaded.not_after));
    partial.truncate(4);
    (Vec::new(), partial)
}

impl Variant {
    /// With what the disk has.
    pub(super) async fn open(acme: &Arc<Acme>, names: &[String], algorithm: Algorithm) -> Self {
        let id = CertificateId::new(names, algorithm);
        let (reading, of) = (Arc::clone(acme), id.clone());
        let read = acme.shelf().work(move || {
            (read_kept(&reading, &of, SystemTime::now()), reading.store().changed(&of))
        });
        // Without an answer it is as if there were none: what the disk has is looked at again.
        let (kept, changed) = read.await.unwrap_or_default();
        let mut variant = Self {
            id,
            names: names.to_vec(),
            algorithm,
            kept,
            changed,
            share: fastrand::f64(),
            ask_at: 0,
            is_wanted_now: false,
            issued: None,
        };
        variant.ask_at = variant.first_question(unix_seconds(SystemTime::now()));
        variant
    }

    /// When it is to be ordered: now or earlier means at once.
    pub(super) async fn due(&self, acme: &Acme, now: i64) -> i64 {
        let (tries, free_at) = acme.tries(&self.id, &self.names, now).await;
        let wanted = match &self.kept {
            _ if self.is_wanted_now => now,
            None => now,
            Some((kept, loaded)) => {
                let (start, end) = (loaded.not_before, loaded.not_after);
                let at = schedule::renew_at(start, end, kept.window, self.share);
                // An authority that suggests what is over for each new certificate must not be followed without end.
                let lifetime = end.saturating_sub(start).max(0);
                let least = kept.issued.saturating_add(lifetime / LEAST_AGE);
                // Nor a clock that was wrong when it was issued.
                at.max(least.min(start.saturating_add(lifetime / 2)))
            }
        };
        let planned = tries.filter(|tries| !self.is_wanted_now || tries.is_limited);
        let planned = planned.map_or(wanted, |tries| tries.next.max(wanted));
        // A plan of a clock that was wrong must not stop renewals for good.
        let planned = planned.min(now.saturating_add(longest_wait(wanted, now)));
        if free_at > now { planned.max(free_at) } else { planned }
    }

    /// Takes what somebody else has put there: an import, another process. Says whether there was something.
    pub(super) async fn take_from_store(&mut self, acme: &Arc<Acme>) -> Result<bool, Failure> {
        let (reading, id, known) = (Arc::clone(acme), self.id.clone(), self.changed);
        let read = acme.shelf().work(move || {
            let changed = reading.store().changed(&id);
            if changed == known {
                return None;
            }
            Some((read_kept(&reading, &id, SystemTime::now()), changed))
        });
        let Some((kept, changed)) = read.await? else { return Ok(false) };
        self.changed = changed;
        let is_other = |new: &KeptCertificate| {
            self.kept.as_ref().is_none_or(|(kept, _)| kept.chain != new.chain)
        };
        match kept {
            Some(kept) if is_other(&kept.0) => {
                info!(names = ?self.names, not_after = date(kept.1.not_after), "certificate taken from the store");
                self.kept = Some(kept);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Asks the authority what renewal it suggests, where that is due (RFC 9773, section 4.3).
    pub(super) async fn ask(&mut self, acme: &Arc<Acme>, config: &AcmeConfig) {
        let now = unix_seconds(SystemTime::now());
        if now < self.ask_at {
            return;
        }
        let Some((kept, loaded)) = &self.kept else {
            self.ask_at = now.saturating_add(SUGGESTION.1);
            return;
        };
        let lifetime = loaded.not_after.saturating_sub(loaded.not_before);
        let (least, most) = (SUGGESTION.0.min(lifetime / 1_000).max(1), SUGGESTION.1);
        let known = config
            .authorities
            .iter()
            .find(|authority| Some(&*authority.name) == kept.authority.as_deref());
        let Some((authority, identifier)) = known.zip(order::identifier_of(kept)) else {
            self.ask_at = now.saturating_add(most);
            return;
        };
        match unbroken(suggestion(acme, authority, config, &identifier)).await {
            Ok(Some((window, again))) => {
                self.ask_at = now.saturating_add(again.clamp(least, most));
                if kept.window != Some(window) {
                    info!(names = ?self.names, start = date(window.start), end = date(window.end), "the authority suggests a renewal");
                    // Where in the window is chosen once for each window.
                    self.share = fastrand::f64();
                    self.keep_window(acme, window).await;
                }
            }
            Ok(None) => self.ask_at = now.saturating_add(most),
            Err(failure) => {
                tracing::debug!(authority = %authority.name, %failure, "no suggestion");
                self.ask_at = now.saturating_add((LIMITED / 2).clamp(least, lifetime / 50 + 1));
            }
        }
    }

    async fn keep_window(&mut self, acme: &Acme, window: Window) {
        let Some((kept, _)) = &mut self.kept else { return };
        kept.window = Some(window);
        let (id, keeping, known) = (self.id.clone(), kept.clone(), self.changed);
        let keep = acme.shelf().run(move |store| {
            // Somebody may have put another one there meanwhile: it is taken at the next look.
            if store.changed(&id) != known {
                return Ok(known);
            }
            store.keep_certificate(&id, &keeping)?;
            Ok(store.changed(&id))
        });
        match keep.await {
            Ok(changed) => self.changed = changed,
            Err(failure) => warn!(%failure, "the suggested renewal can't be kept"),
        }
    }

    /// Orders it from the first authority that issues it.
    pub(super) async fn order(
        &mut self,
        acme: &Arc<Acme>,
        config: &AcmeConfig,
    ) -> Result<(), Failure> {
        let mut last = None;
        for authority in &config.authorities {
            let ordering = unbroken(self.order_patiently_from(acme, authority, config));
            let failure = match tokio::time::timeout(ORDER, ordering).await {
                Ok(Ok((kept, loaded))) => {
                    info!(names = ?self.names, authority = %authority.name, key = self.algorithm.word(), not_after = date(loaded.not_after), "certificate issued");
                    acme.forget_listing();
                    self.kept = Some((kept, loaded));
                    let (reading, of) = (Arc::clone(acme), self.id.clone());
                    let changed = acme.shelf().work(move || reading.store().changed(&of));
                    // Without an answer the file is read once more.
                    self.changed = changed.await.unwrap_or_default();
                    let now = unix_seconds(SystemTime::now());
                    self.ask_at = self.first_question(now);
                    self.share = fastrand::f64();
                    self.issued = Some(Instant::now());
                    let id = self.id.to_string();
                    if let Err(failure) = acme.change_ledger(|ledger| ledger.forget(&id)).await {
                        warn!(%failure, "the ledger of orders can't be kept");
                    }
                    return Ok(());
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::TimedOut,
            };
            let goes_on = failure.is_the_authoritys();
            warn!(names = ?self.names, authority = %authority.name, error = %failure, "no certificate");
            last = Some(failure);
            if !goes_on {
                break;
            }
        }
        Err(last.unwrap_or(Failure::Unsupported("authority")))
    }

    /// Goes on with an order whose requests had bad luck with their nonces.
    async fn order_patiently_from(
        &self,
        acme: &Arc<Acme>,
        authority: &Arc<Authority>,
        config: &AcmeConfig,
    ) -> Result<(KeptCertificate, LoadedCertificate), Failure> {
        for _ in 0..NONCES {
            match self.order_from(acme, authority, config).await {
                Err(Failure::Nonces) => {}
                other => return other,
            }
        }
        self.order_from(acme, authority, config).await
    }

    async fn order_from(
        &self,
        acme: &Arc<Acme>,
        authority: &Arc<Authority>,
        config: &AcmeConfig,
    ) -> Result<(KeptCertificate, LoadedCertificate), Failure> {
        let star = self.names.iter().find(|name| name.starts_with('*'));
        if let Some(name) = star.filter(|_| config.dns.is_none()) {
            return Err(Failure::NoChallenge { name: name.clone(), offered: "dns-01".to_owned() });
        }
        let now = unix_seconds(SystemTime::now());
        let (tries, _) = acme.tries(&self.id, &self.names, now).await;
        // What has just failed is not tried again first.
        let mut kinds = config.challenges.clone();
        let turn = tries.map_or(0, |tries| tries.failures as usize);
        let places = kinds.len().max(1);
        kinds.rotate_left(turn % places);
        let (account, identities) = match acme.account(authority, config).await {
            Err(failure @ (Failure::BadAccountKey | Failure::NoAccount(_))) => {
                acme.set_account_aside(authority, None).await?;
                return Err(failure);
            }
            // No order was made that could count against the names.
            Err(Failure::Refused(words)) => return Err(Failure::Account(words)),
            other => other?,
        };
        if let Some(surroundings) = acme.surroundings().filter(|_| config.preflight) {
            let dns = &*surroundings.dns;
            let needs_address = kinds.first() != Some(&ChallengeKind::Dns01);
            let names = &self.names;
            preflight::look(names, needs_address, &authority.name, &identities, dns).await?;
            if kinds.first() == Some(&ChallengeKind::Http01) {
                for name in self.names.iter().filter(|name| !name.starts_with('*')).take(4) {
                    if let Some(doubt) =
                        preflight::doubt_of_port_80(name, acme.challenges(), dns).await
                    {
                        warn!(
                            name,
                            doubt,
                            "seen from here, port 80 of the name is not this edge; http-01 may fail"
                        );
                    }
                }
            }
        }
        let wanted = Wanted {
            id: self.id.clone(),
            names: self.names.clone(),
            algorithm: self.algorithm,
            replaces: self.replaces(authority),
            held: self.kept.as_ref().map(|(kept, _)| kept.chain.clone()),
        };
        let (challenges, shelf) = (acme.challenges(), acme.shelf());
        let dns = acme.dns(config);
        let means = Means {
            authority,
            account: &account,
            challenges,
            kinds: &kinds,
            dns: dns.as_ref(),
            shelf,
        };
        let ordered = order::order(&wanted, &means).await;
        if ordered.as_ref().is_err_and(|failure| matches!(failure, Failure::NoAccount(_))) {
            acme.set_account_aside(authority, Some(account.id().to_owned())).await?;
        }
        if ordered.as_ref().is_err_and(|failure| matches!(failure, Failure::Unreachable(_))) {
            // The directory may have moved.
            acme.forget_account(authority).await;
        }
        ordered
    }

    /// What the order replaces: only authorities with ARI take it, and only for their own.
    fn replaces(&self, authority: &Authority) -> Option<CertificateIdentifier<'static>> {
        let (kept, _) = self.kept.as_ref()?;
        let is_its_own = kept.authority.as_deref() == Some(&*authority.name);
        if !is_its_own || kept.window.is_none() {
            return None;
        }
        order::identifier_of(kept)
    }

    /// Remembers a failure, and gives the words for it.
    pub(super) async fn failed(&self, acme: &Acme, failure: Failure) -> Result<String, Failure> {
        let now = unix_seconds(SystemTime::now());
        let (id, error) = (self.id.to_string(), failure.to_string());
        let is_limited = matches!(failure, Failure::RateLimited(_));
        let mut next = now;
        acme.change_ledger(|ledger| {
            let failures = ledger.tries(&id).map_or(0, |tries| tries.failures).saturating_add(1);
            let pause = schedule::pause(failures, fastrand::f64());
            next = now.saturating_add(if is_limited { pause.max(LIMITED) } else { pause });
            if failure.counts() {
                ledger.failed(&self.names, now);
            }
            ledger.plan(&id, Tries { failures, next, is_limited, error: error.clone() });
            true
        })
        .await?;
        warn!(names = ?self.names, error, next = date(next), "certificate not ordered; it is tried again");
        Ok(error)
    }

    /// Why the last try failed, where it did and has not gone well since.
    pub(super) async fn last_error(&self, acme: &Acme) -> Option<String> {
        let now = unix_seconds(SystemTime::now());
        acme.tries(&self.id, &self.names, now).await.0.map(|tries| tries.error)
    }

    pub(super) fn leaf(&self) -> Option<Vec<u8>> {
        let (_, loaded) = self.kept.as_ref()?;
        loaded.key.cert.first().map(|leaf| leaf.to_vec())
    }

    /// When the authority is asked first what it suggests: not all certificates at once after a start.
    fn first_question(&self, now: i64) -> i64 {
        let Some((_, loaded)) = &self.kept else { return now.saturating_add(SUGGESTION.1) };
        let spread = loaded.not_after.saturating_sub(loaded.not_before) / 1_000;
        now.saturating_add((spread as f64 * fastrand::f64()) as i64)
    }
}

/// What an authority answers may break the library: that must not end the task, and counts as rubbish.
async fn unbroken<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let broken = || Failure::Rubbish("it broke what reads it; the log has the place".to_owned());
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(broken()))
}

/// A renewal that is further away than this was planned by a clock that was wrong.
fn longest_wait(wanted: i64, now: i64) -> i64 {
    wanted.saturating_sub(now).max(12 * LIMITED)
}

/// The renewal that an authority suggests, and after how many seconds to ask again; `None` where it does not say.
async fn suggestion(
    acme: &Acme,
    authority: &Arc<Authority>,
    config: &AcmeConfig,
    identifier: &CertificateIdentifier<'_>,
) -> Result<Option<(Window, i64)>, Failure> {
    let (account, _) = acme.account(authority, config).await?;
    match account.renewal_info(identifier).await.map_err(Failure::acme) {
        Ok((info, again)) => {
            let window = info.suggested_window;
            let window =
                Window { start: window.start.unix_timestamp(), end: window.end.unix_timestamp() };
            let again = i64::try_from(again.as_secs()).unwrap_or(i64::MAX);
            // A window that ends before it starts is no window (RFC 9773, section 4.2).
            Ok((window.start < window.end).then_some((window, again)))
        }
        Err(Failure::Unsupported(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_breaks_the_library_is_a_failure_and_no_end() {
        let answer: Result<i64, _> = "no number".parse::<i64>();
        let broken = unbroken(async { Ok(answer.unwrap()) }).await;
        assert!(matches!(broken, Err(Failure::Rubbish(_))));
        assert!(matches!(unbroken(async { Ok(1) }).await, Ok(1)));
    }
}
