//! The task that keeps one certificate: orders it when there is none, renews it in time, tries again after failures.
//!
//! A certificate may be two, one for each kind of key; each has its own times. The task sleeps by the calendar, a minute
//! at a time, so that suspended machines and set clocks do not make it late.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use instant_acme::{Account, CertificateIdentifier};
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::{
    super::{date, files::LoadedCertificate, store::Certificate, unix_seconds},
    config::{AcmeConfig, Authority, ChallengeKind, KeyType},
    failure::Failure,
    kept::{Algorithm, CertificateId, KeptCertificate},
    ledger::Tries,
    order::{self, Means, Wanted},
    own_handshake, preflight,
    schedule::{self, Window},
    service::Acme,
};

/// The longest sleep.
const LOOK: Duration = Duration::from_mins(1);
/// All of an order, whatever happens.
const ORDER: Duration = Duration::from_mins(15);
/// So often an order goes on after nonces that were refused. The library tries each request three times.
const NONCES: usize = 3;
/// The wait after an authority said that it limits orders.
const LIMITED: i64 = 3_600;
/// The most that looks at a suggested renewal are apart, and the least for certificates of the usual lifetimes.
const SUGGESTION: (i64, i64) = (60, 86_400);

/// What a certificate's task knows, for status and metrics; and how it is woken.
#[derive(Debug, Default)]
pub struct Renewal {
    facts: Mutex<RenewalFacts>,
    now: Notify,
}

/// How a certificate by ACME does. Times are in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewalFacts {
    /// Who issued it.
    pub authority: Option<String>,
    /// When it was issued.
    pub issued: Option<i64>,
    /// When it is renewed, or tried again.
    pub next: Option<i64>,
    /// Failures since the process started.
    pub failures: u64,
    /// Why the last try failed; none since it went well.
    pub error: Option<String>,
    /// The certificate of the edge's own authority stands in.
    pub is_standing_in: bool,
}

/// One certificate with one kind of key.
struct Half {
    id: CertificateId,
    names: Vec<String>,
    algorithm: Algorithm,
    kept: Option<(KeptCertificate, LoadedCertificate)>,
    /// Of the file that it was read from or written to.
    changed: Option<SystemTime>,
    /// Where in the spread of renewals it stands.
    share: f64,
    /// When the authority is asked again what it suggests.
    ask_at: i64,
    is_wanted_now: bool,
}

impl Renewal {
    /// What is known.
    pub fn facts(&self) -> RenewalFacts {
        self.lock().clone()
    }

    /// Orders it now, also where it is not due. What failed a moment ago waits all the same where the authorities' limits
    /// ask for it.
    pub fn renew_now(&self) {
        self.now.notify_one();
    }

    fn change(&self, change: impl FnOnce(&mut RenewalFacts)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, RenewalFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyType {
    /// The kinds of keys, the preferred one first.
    pub(in crate::tls) fn algorithms(self) -> &'static [Algorithm] {
        match self {
            Self::Ecdsa => &[Algorithm::Ecdsa],
            Self::Rsa => &[Algorithm::Rsa],
            Self::Both => &[Algorithm::Ecdsa, Algorithm::Rsa],
        }
    }
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

/// Keeps a certificate for as long as it is there.
pub(in crate::tls) async fn keep(
    acme: Arc<Acme>,
    certificate: Weak<Certificate>,
    renewal: Arc<Renewal>,
    names: Vec<String>,
    key_type: KeyType,
) {
    let (mut settings, mut is_started) = acme.changes();
    if is_started.wait_for(|is_started| *is_started).await.is_err() {
        return;
    }
    let mut halves = Vec::new();
    for algorithm in key_type.algorithms() {
        let (reading, id) = (Arc::clone(&acme), CertificateId::new(&names, *algorithm));
        let of = id.clone();
        let read = acme.shelf().work(move || {
            (read_kept(&reading, &of, SystemTime::now()), reading.store().changed(&of))
        });
        let Ok((kept, changed)) = read.await else { return };
        let (names, algorithm) = (names.clone(), *algorithm);
        let (share, ask_at) = (fastrand::f64(), 0);
        let mut half =
            Half { id, names, algorithm, kept, changed, share, ask_at, is_wanted_now: false };
        half.ask_at = half.first_question(unix_seconds(SystemTime::now()));
        halves.push(half);
    }
    loop {
        let config = settings.borrow_and_update().clone();
        let is_running = *is_started.borrow_and_update();
        let mut next = None;
        {
            let Some(certificate) = certificate.upgrade() else { return };
            certificate.refresh_stand_in(SystemTime::now());
        }
        if config.enabled && is_running {
            let looked = look(&acme, &certificate, &renewal, &mut halves, &config).await;
            match looked {
                Ok(at) => next = at,
                Err(failure) => renewal.change(|facts| facts.error = Some(failure.to_string())),
            }
        }
        let Some(held) = certificate.upgrade() else { return };
        renewal.change(|facts| {
            facts.next = next;
            facts.is_standing_in = held.is_standing_in();
            let kept = halves.iter().filter_map(|half| half.kept.as_ref());
            if let Some((kept, _)) = kept.min_by_key(|(_, loaded)| loaded.not_after) {
                facts.authority.clone_from(&kept.authority);
                facts.issued = Some(kept.issued);
            }
        });
        drop(held);
        let now = unix_seconds(SystemTime::now());
        let questions = halves.iter().map(|half| half.ask_at);
        let until = questions.chain(next).min().unwrap_or(i64::MAX).saturating_sub(now).max(1);
        let sleep = LOOK.min(Duration::from_secs(until.unsigned_abs()));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = renewal.now.notified() => {
                for half in &mut halves {
                    half.is_wanted_now = true;
                }
            }
            changed = settings.changed() => if changed.is_err() { return },
            changed = is_started.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks at each half, and orders what is due. Says when the next is.
async fn look(
    acme: &Arc<Acme>,
    certificate: &Weak<Certificate>,
    renewal: &Renewal,
    halves: &mut [Half],
    config: &AcmeConfig,
) -> Result<Option<i64>, Failure> {
    for at in 0..halves.len() {
        let Some(half) = halves.get_mut(at) else { break };
        if half.take_from_store(acme).await? {
            serve(certificate, halves);
        }
        let Some(half) = halves.get_mut(at) else { break };
        half.ask(acme, config).await;
        let now = unix_seconds(SystemTime::now());
        if half.due(acme, now).await? > now {
            continue;
        }
        acme.look_at_clock()?;
        let Some(_permit) = acme.permit().await else { return Ok(None) };
        // The site may be gone after a long wait.
        if certificate.strong_count() == 0 {
            return Ok(None);
        }
        half.is_wanted_now = false;
        match half.order(acme, config).await {
            Ok(()) => {
                renewal.change(|facts| facts.error = None);
                let algorithm = half.algorithm;
                let Some(leaf) = half.leaf() else { continue };
                let names = half.names.clone();
                serve(certificate, halves);
                if let Some(surroundings) = acme.surroundings() {
                    let listeners = (surroundings.tls_listeners)();
                    if let Err(fault) =
                        own_handshake::check(&listeners, &names, algorithm, &leaf).await
                    {
                        error!(?names, %fault, "the new certificate is not what is served");
                        renewal.change(|facts| facts.error = Some(fault));
                    }
                }
            }
            Err(failure) => {
                let error = half.failed(acme, failure).await?;
                renewal.change(|facts| {
                    facts.failures += 1;
                    facts.error = Some(error);
                });
            }
        }
    }
    let now = unix_seconds(SystemTime::now());
    let mut next: Option<i64> = None;
    for half in halves {
        let due = half.due(acme, now).await?;
        next = Some(next.map_or(due, |earlier| earlier.min(due)));
    }
    Ok(next)
}

/// Puts what there is in force.
fn serve(certificate: &Weak<Certificate>, halves: &[Half]) {
    if let Some(certificate) = certificate.upgrade() {
        let kept = halves.iter().filter_map(|half| half.kept.as_ref());
        certificate.serve_ordered(kept.map(|(_, loaded)| loaded.clone()).collect());
    }
}

impl Half {
    /// When it is to be ordered: now or earlier means at once.
    async fn due(&self, acme: &Acme, now: i64) -> Result<i64, Failure> {
        let (tries, free_at) = acme.tries(&self.id, &self.names, now).await?;
        let wanted = match &self.kept {
            _ if self.is_wanted_now => now,
            None => now,
            Some((kept, loaded)) => {
                let (start, end) = (loaded.not_before, loaded.not_after);
                schedule::renew_at(start, end, kept.window, self.share)
            }
        };
        let planned =
            tries.filter(|_| !self.is_wanted_now).map_or(wanted, |tries| tries.next.max(wanted));
        // A plan of a clock that was wrong must not stop renewals for good.
        let planned = planned.min(now.saturating_add(longest_wait(wanted, now)));
        Ok(if free_at > now { planned.max(free_at) } else { planned })
    }

    /// Takes what somebody else has put there: an import, another process. Says whether there was something.
    async fn take_from_store(&mut self, acme: &Arc<Acme>) -> Result<bool, Failure> {
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
    async fn ask(&mut self, acme: &Arc<Acme>, config: &AcmeConfig) {
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
        match suggestion(acme, authority, config, &identifier).await {
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
        let (id, keeping) = (self.id.clone(), kept.clone());
        let keep = acme.shelf().run(move |store| {
            store.keep_certificate(&id, &keeping)?;
            Ok(store.changed(&id))
        });
        match keep.await {
            Ok(changed) => self.changed = changed,
            Err(failure) => warn!(%failure, "the suggested renewal can't be kept"),
        }
    }

    /// Orders it from the first authority that issues it.
    async fn order(&mut self, acme: &Arc<Acme>, config: &AcmeConfig) -> Result<(), Failure> {
        let mut last = None;
        for authority in &config.authorities {
            let ordering = self.order_patiently_from(acme, authority, config);
            let failure = match tokio::time::timeout(ORDER, ordering).await {
                Ok(Ok((kept, loaded))) => {
                    info!(names = ?self.names, authority = %authority.name, key = self.algorithm.word(), not_after = date(loaded.not_after), "certificate issued");
                    acme.forget_listing();
                    self.kept = Some((kept, loaded));
                    self.changed = acme.store().changed(&self.id);
                    let now = unix_seconds(SystemTime::now());
                    self.ask_at = self.first_question(now);
                    self.share = fastrand::f64();
                    let id = self.id.to_string();
                    if let Err(failure) = acme.change_ledger(|ledger| ledger.forget(&id)).await {
                        warn!(%failure, "the ledger of orders can't be kept");
                    }
                    return Ok(());
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::TimedOut,
            };
            if matches!(failure, Failure::NoAccount(_)) {
                acme.forget_account(authority).await;
                let of = Arc::clone(authority);
                acme.shelf().run(move |store| store.forget_account(&of)).await?;
            }
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
        let (tries, _) = acme.tries(&self.id, &self.names, now).await?;
        // What has just failed is not tried again first.
        let mut kinds = config.challenges.clone();
        let turn = tries.map_or(0, |tries| tries.failures as usize);
        let places = kinds.len().max(1);
        kinds.rotate_left(turn % places);
        let (account, identities) = acme.account(authority, config).await?;
        if let Some(surroundings) = acme.surroundings().filter(|_| config.preflight) {
            let dns = &*surroundings.dns;
            preflight::look(&self.names, &authority.name, &identities, dns).await?;
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
            replaces: self.replaces(&account, authority),
        };
        let (challenges, shelf) = (acme.challenges(), acme.shelf());
        let dns = acme.dns(config);
        let means = Means {
            authority,
            account: &account,
            challenges,
            kinds: &kinds,
            dns: dns.as_deref(),
            shelf,
        };
        let ordered = order::order(&wanted, &means).await;
        if ordered.as_ref().is_err_and(|failure| matches!(failure, Failure::Unreachable(_))) {
            // The directory may have moved.
            acme.forget_account(authority).await;
        }
        ordered
    }

    /// What the order replaces: only authorities with ARI take it, and only for their own.
    fn replaces(
        &self,
        account: &Account,
        authority: &Authority,
    ) -> Option<CertificateIdentifier<'static>> {
        let _ = account;
        let (kept, _) = self.kept.as_ref()?;
        let is_its_own = kept.authority.as_deref() == Some(&*authority.name);
        if !is_its_own || kept.window.is_none() {
            return None;
        }
        order::identifier_of(kept)
    }

    /// Remembers a failure, and gives the words for it.
    async fn failed(&self, acme: &Acme, failure: Failure) -> Result<String, Failure> {
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
            ledger.plan(&id, Tries { failures, next, error: error.clone() });
            true
        })
        .await?;
        warn!(names = ?self.names, error, next = date(next), "certificate not ordered; it is tried again");
        Ok(error)
    }

    fn leaf(&self) -> Option<Vec<u8>> {
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
