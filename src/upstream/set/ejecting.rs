//! Ejections: who is taken out by what its traffic shows, and who comes back.
//!
//! At once where a request sees the last of too many failures in a row; by comparison once an interval; back by a probe that
//! began after the time was over, or earlier where each of those that are left fails as well. Only the newest set of an upstream does this (`live_upstream.rs`); the ejections themselves
//! outlive it (`endpoint.rs`).

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use super::EndpointSet;
use crate::{
    telemetry::metrics::EjectionReason,
    types::defaults,
    upstream::{
        config::HealthCheckConfig,
        endpoint::Endpoint,
        health::Verdict,
        member::Member,
        outlier::{OutlierConfig, Seen, has_room, worse},
        probe::ProbeError,
    },
};

/// Where too few requests come to compare endpoints, they are gathered over so many intervals.
const MOST_INTERVALS: u32 = 6;

impl EndpointSet {
    /// Its traffic shows that this endpoint fails: it is ejected, where there is room.
    pub(in crate::upstream) fn suspect(&self, endpoint: &Endpoint, now: Instant) {
        let eligible = self.eligible.load_full();
        let is_it = |member: &&Arc<Member>| std::ptr::eq(Arc::as_ptr(&member.endpoint), endpoint);
        let Some(member) = eligible.members.iter().find(is_it) else { return };
        if self.eject(&eligible.members, member, EjectionReason::ConsecutiveFailures, now) {
            self.upstream.changed();
        }
    }

    /// Does what is due. A few loads where nothing is.
    pub(in crate::upstream) fn tick(self: &Arc<Self>, now: Instant) {
        let (has_ejected, next_step) = {
            let eligible = self.eligible.load();
            (eligible.has_ejected, eligible.next_step)
        };
        self.upstream.set_room(true);
        if next_step.is_some_and(|at| at <= now) {
            self.refresh(now);
        }
        let has_run = self.upstream.take_run();
        if has_ejected {
            self.end_ejections(has_run, now);
        }
        let settings = self.blueprint.config.outlier_detection.as_ref();
        // A newer set that never came into force may have left its own.
        self.upstream.outliers.configure(settings);
        if let Some(settings) = settings
            && self.upstream.outliers.take_traffic()
        {
            self.compare(settings, now);
        }
    }

    /// Ejects a member, unless too many are out, or no other gets requests.
    fn eject(
        &self,
        members: &[Arc<Member>],
        member: &Member,
        reason: EjectionReason,
        now: Instant,
    ) -> bool {
        let config = &self.blueprint.config;
        let Some(settings) = &config.outlier_detection else { return false };
        let _one_at_a_time = self.upstream.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        if member.endpoint.is_ejected() {
            return false;
        }
        let with_weight = members.iter().filter(|one| one.weight > 0);
        let total = with_weight.clone().count();
        let ejected = with_weight.filter(|one| one.endpoint.is_ejected()).count();
        let others = members
            .iter()
            .filter(|one| is_in_service(one) && !std::ptr::eq(Arc::as_ptr(one), member))
            .count();
        if !has_room(total, ejected, others, settings.max_ejected) {
            self.upstream.set_room(false);
            return false;
        }
        let time = member.endpoint.eject(reason, settings, now);
        tracing::warn!(
            upstream = %config.name,
            endpoint = member.endpoint.label(),
            reason = reason.label(),
            seconds = time.as_secs_f64(),
            "endpoint ejected"
        );
        true
    }

    /// Compares the endpoints where an interval is over and they had requests enough.
    fn compare(&self, settings: &OutlierConfig, now: Instant) {
        let age = self.upstream.window_age(now);
        if age < settings.interval {
            return;
        }
        let longest = settings.interval.saturating_mul(MOST_INTERVALS);
        if age > longest.saturating_add(settings.interval) {
            // Nobody came for a while: what was before says nothing of now.
            self.upstream.turn(now);
            self.upstream.turn(now);
            return;
        }
        let outliers = &self.upstream.outliers;
        let window = outliers.window();
        let eligible = self.eligible.load_full();
        let in_service: Vec<&Arc<Member>> =
            eligible.members.iter().filter(|member| is_in_service(member)).collect();
        let seen: Vec<Seen> =
            in_service.iter().map(|member| member.endpoint.observed.seen(window)).collect();
        let is_enough = seen.iter().any(|seen| seen.requests() >= settings.min_requests);
        if !is_enough && age < longest {
            return;
        }
        let found = worse(&seen, settings, outliers.networks());
        self.upstream.turn(now);
        let mut is_changed = false;
        for (index, reason) in found {
            if let Some(member) = in_service.get(index) {
                is_changed |= self.eject(&eligible.members, member, reason, now);
            }
        }
        if is_changed {
            self.upstream.changed();
        }
    }

    /// Asks those whose time is over whether they are well, and all where nobody else is; without outlier detection they come
    /// back at once.
    fn end_ejections(self: &Arc<Self>, has_run: bool, now: Instant) {
        let eligible = self.eligible.load_full();
        let ejected = || eligible.members.iter().filter(|member| member.endpoint.is_ejected());
        match &self.blueprint.config.outlier_detection {
            Some(settings) => {
                let limit = settings.consecutive_failures;
                let is_in_need = is_nobody_well(&eligible.members, has_run, limit);
                for member in ejected() {
                    if let Some(number) = member.endpoint.begin_probe(is_in_need, now) {
                        self.probe_ejected(member, number, settings.ejection);
                    }
                }
            }
            None => {
                for member in ejected() {
                    if member.endpoint.take_back(now) {
                        self.tell_back(member);
                    }
                }
            }
        }
    }

    /// Probes an ejected endpoint as the health check does, or by a connection where there is none. It never waits.
    fn probe_ejected(self: &Arc<Self>, member: &Arc<Member>, number: u64, longest_pause: Duration) {
        let (set, member) = (Arc::clone(self), Arc::clone(member));
        self.live.handle().spawn(async move {
            let outcome = set.ask(&member).await;
            let check = set.blueprint.config.health_check.as_ref();
            let pause = check.map_or(defaults::HEALTH_INTERVAL.0, |check| check.interval);
            let is_well = outcome.is_ok();
            let pause = pause.min(longest_pause);
            if member.endpoint.probed(number, is_well, pause, Instant::now()) {
                set.tell_back(&member);
            } else if let Err(error) = outcome {
                let (upstream, endpoint) = (&set.blueprint.config.name, member.endpoint.label());
                tracing::debug!(%upstream, endpoint, %error, "ejected endpoint failed its probe");
            }
        });
    }

    async fn ask(&self, member: &Member) -> Result<(), ProbeError> {
        if let Some((health, _)) = &member.health {
            return health.probe().run().await;
        }
        let check = HealthCheckConfig::connecting(self.blueprint.config.timeouts.connect);
        self.place_of_probe(member.endpoint.address(), member.host.as_deref(), &check)
            .into_probe()
            .run()
            .await
    }

    fn tell_back(&self, member: &Member) {
        let (upstream, endpoint) = (&self.blueprint.config.name, member.endpoint.label());
        tracing::info!(%upstream, endpoint, "endpoint taken back");
        self.upstream.changed();
    }
}

/// Whether it may get requests.
fn is_in_service(member: &Member) -> bool {
    member.weight > 0 && member.verdict() != Verdict::Unhealthy && !member.endpoint.is_ejected()
}

/// Whether each of those that may get requests fails them, or none may get any.
fn is_nobody_well(members: &[Arc<Member>], has_run: bool, limit: u32) -> bool {
    let mut in_service = members.iter().filter(|member| is_in_service(member)).peekable();
    in_service.peek().is_none()
        || has_run && in_service.all(|member| member.endpoint.observed.run_length() >= limit)
}
