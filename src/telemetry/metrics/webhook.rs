//! What is counted by webhook.

use std::{sync::Arc, time::Instant};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{
    counters, gauges,
    kept::Kept,
    listener::CounterBy,
    names::{self, WebhookResult},
    register,
};

/// The families, and the handles that are held.
#[derive(Debug)]
pub(super) struct Webhooks {
    events: IntCounterVec,
    failed_tries: IntCounterVec,
    waiting: IntGaugeVec,
    handles: Kept<Arc<str>, WebhookMetrics>,
}

/// What is counted by webhook.
#[derive(Debug)]
pub struct WebhookMetrics {
    events: CounterBy<WebhookResult>,
    failed_tries: IntCounter,
    waiting: IntGauge,
}

impl WebhookMetrics {
    /// Counts an event that is over.
    pub fn ended(&self, result: WebhookResult) {
        self.events.inc(result);
    }

    /// Counts a try that failed.
    pub fn failed_try(&self) {
        self.failed_tries.inc();
    }

    /// How many events wait.
    pub fn waiting(&self, events: usize) {
        self.waiting.set(i64::try_from(events).unwrap_or(i64::MAX));
    }
}

impl Webhooks {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            events: register(registry, counters(&names::WEBHOOK_EVENTS)),
            failed_tries: register(registry, counters(&names::WEBHOOK_FAILED_TRIES)),
            waiting: register(registry, gauges(&names::WEBHOOK_WAITING)),
            handles: Kept::new(),
        }
    }

    pub(super) fn resolve(&self, name: &str) -> Arc<WebhookMetrics> {
        self.handles.resolve(name.into(), |name| {
            let labels = [&**name];
            WebhookMetrics {
                events: CounterBy::new(&self.events, &labels),
                failed_tries: self.failed_tries.with_label_values(&labels),
                waiting: self.waiting.with_label_values(&labels),
            }
        })
    }

    pub(super) fn sweep(&self, now: Instant) {
        self.handles.sweep(now, |name| {
            let labels = [&**name];
            CounterBy::<WebhookResult>::remove(&self.events, &labels);
            // Removing what is not there is the only error.
            let _ = self.failed_tries.remove_label_values(&labels);
            let _ = self.waiting.remove_label_values(&labels);
        });
    }
}
