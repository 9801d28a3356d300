//! The task that keeps one certificate: orders it when there is none, renews it in time, tries again after failures.
//!
//! A certificate may be two, one for each kind of key; each has its own times. The task sleeps by the calendar, a minute
//! at a time, so that suspended machines and set clocks do not make it late.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;
use tracing::{error, warn};

use super::{
    super::{store::Certificate, unix_seconds},
    config::{AcmeConfig, KeyType},
    failure::Failure,
    kept::Algorithm,
    own_handshake,
    service::Acme,
    variant::Variant,
};

/// The longest sleep.
const LOOK: Duration = Duration::from_mins(1);

/// What a certificate's task knows, for status and metrics; and how it is woken.
#[derive(Debug, Default)]
pub struct Renewal {
    facts: Mutex<RenewalFacts>,
    now: Notify,
    /// When somebody asked for it.
    asked: Mutex<Option<Instant>>,
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
}

impl Renewal {
    /// What is known.
    pub fn facts(&self) -> RenewalFacts {
        self.lock().clone()
    }

    /// Orders it now, also where it is not due. What failed a moment ago waits all the same where the authorities' limits
    /// ask for it.
    pub fn renew_now(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
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
    let mut variants = Vec::new();
    for algorithm in key_type.algorithms() {
        variants.push(Variant::open(&acme, &names, *algorithm).await);
    }
    for variant in &variants {
        if let Some(error) = variant.last_error(&acme).await {
            renewal.change(|facts| facts.error = Some(error));
        }
    }
    let mut was_in_trouble = false;
    loop {
        let config = settings.borrow_and_update().clone();
        let is_running = *is_started.borrow_and_update();
        let mut next = None;
        {
            let Some(certificate) = certificate.upgrade() else { return };
            certificate.refresh_stand_in(SystemTime::now());
        }
        if config.enabled && is_running {
            let looked = look(&acme, &certificate, &renewal, &mut variants, &config).await;
            match looked {
                Ok(at) => {
                    next = at;
                    if std::mem::take(&mut was_in_trouble) {
                        // What kept it from looking is over; nothing was ordered, so nothing failed.
                        renewal.change(|facts| facts.error = None);
                    }
                }
                Err(failure) => {
                    if !std::mem::replace(&mut was_in_trouble, true) {
                        warn!(?names, %failure, "a certificate can't be looked after now");
                    }
                    renewal.change(|facts| facts.error = Some(failure.to_string()));
                }
            }
        }
        if certificate.strong_count() == 0 {
            return;
        }
        renewal.change(|facts| {
            facts.next = next;
            let kept = variants.iter().filter_map(|variant| variant.kept.as_ref());
            if let Some((kept, _)) = kept.min_by_key(|(_, loaded)| loaded.not_after) {
                facts.authority.clone_from(&kept.authority);
                facts.issued = Some(kept.issued);
            }
        });
        let now = unix_seconds(SystemTime::now());
        let questions = variants.iter().map(|variant| variant.ask_at);
        let until = questions.chain(next).min().unwrap_or(i64::MAX).saturating_sub(now).max(1);
        let sleep = LOOK.min(Duration::from_secs(until.unsigned_abs()));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = renewal.now.notified() => {
                let asked = renewal.asked.lock().unwrap_or_else(PoisonError::into_inner).take();
                for variant in &mut variants {
                    // Not what has come since, while an order was under way.
                    variant.is_wanted_now = variant.issued.is_none_or(|issued| asked > Some(issued));
                }
            }
            changed = settings.changed() => {
                if changed.is_err() {
                    return;
                }
                for variant in &mut variants {
                    // What failed may have been mended.
                    variant.is_wanted_now |= variant.last_error(&acme).await.is_some();
                }
            }
            changed = is_started.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks at each variant, and orders what is due. Says when the next is.
async fn look(
    acme: &Arc<Acme>,
    certificate: &Weak<Certificate>,
    renewal: &Renewal,
    variants: &mut [Variant],
    config: &AcmeConfig,
) -> Result<Option<i64>, Failure> {
    for at in 0..variants.len() {
        let Some(variant) = variants.get_mut(at) else { break };
        if variant.take_from_store(acme).await? {
            serve(certificate, variants);
        }
        let Some(variant) = variants.get_mut(at) else { break };
        variant.ask(acme, config).await;
        let now = unix_seconds(SystemTime::now());
        if variant.due(acme, now).await > now {
            continue;
        }
        acme.look_at_clock()?;
        let Some(_permit) = acme.permit().await else { return Ok(None) };
        // The site may be gone after a long wait.
        if certificate.strong_count() == 0 {
            return Ok(None);
        }
        variant.is_wanted_now = false;
        match variant.order(acme, config).await {
            Ok(()) => {
                renewal.change(|facts| facts.error = None);
                let algorithm = variant.algorithm;
                let Some(leaf) = variant.leaf() else { continue };
                let names = variant.names.clone();
                serve(certificate, variants);
                if let Some(surroundings) = acme.surroundings() {
                    let host = own_handshake::host_of(&names);
                    let listeners = (surroundings.tls_listeners)(&host);
                    if let Err(fault) =
                        own_handshake::check(&listeners, &host, algorithm, &leaf).await
                    {
                        error!(?names, %fault, "the new certificate is not what is served");
                        renewal.change(|facts| facts.error = Some(fault));
                    }
                }
            }
            Err(failure) => {
                let error = variant.failed(acme, failure).await?;
                renewal.change(|facts| {
                    facts.failures += 1;
                    facts.error = Some(error);
                });
            }
        }
    }
    let now = unix_seconds(SystemTime::now());
    let mut next: Option<i64> = None;
    for variant in variants {
        let due = variant.due(acme, now).await;
        next = Some(next.map_or(due, |earlier| earlier.min(due)));
    }
    Ok(next)
}

/// Puts what there is in force.
fn serve(certificate: &Weak<Certificate>, variants: &[Variant]) {
    if let Some(certificate) = certificate.upgrade() {
        let kept = variants.iter().filter_map(|variant| variant.kept.as_ref());
        certificate.serve_ordered(kept.map(|(_, loaded)| loaded.clone()).collect());
    }
}
