//! Policy `experiment`: a feature flag, or variants of an A/B test, told to endpoints by a request header.
//!
//! Place: behind all that may refuse a request, before its own headers are written. A segment decides, else the client's place
//! among the shares: hashed from a key ([`place`]), or drawn once and kept in a signed cookie. What clients send under the header's
//! name, and the cookie, end here, also while the experiment is off. Whether it is on is one atomic ([`switches`]).
//!
//! What it does not do: vary caches, or tell one client from another better than its key or cookie does.

mod config;
mod deal;
mod place;
mod switches;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use http::{HeaderName, HeaderValue};

use self::{
    config::reads_like,
    deal::Deal,
    place::Places,
    switches::{Switch, Switches},
};
pub use self::{
    config::{
        ExperimentConfig, PlaceOf, RawExperiment, RawExperimentKey, RawSegment, RawSegmentVariant,
    },
    switches::Switched,
};
use super::{
    Conditions, Flow, Place, Policy, PolicyContext, RequestHead, RequestView, Step, WireName,
};
use crate::{
    state::{EdgeSecret, NumberKey, NumberSigner, StoreError},
    telemetry::metrics::{DealtBy, Metrics, VariantMetrics},
    types::{Name, StickyCookie},
};

/// What outlives snapshots of all experiments.
#[derive(Debug)]
pub struct LiveExperiments {
    metrics: Arc<Metrics>,
    switches: Switches,
    /// What cookies of the next generation are signed with.
    key: Mutex<Option<NumberKey>>,
}

impl LiveExperiments {
    /// With what was switched before, from the state directory. Blocks.
    pub(super) fn new(state_dir: &Path, metrics: Arc<Metrics>) -> Self {
        Self { metrics, switches: Switches::of(state_dir), key: Mutex::new(None) }
    }

    /// The key of the cookies of experiments that are attached from here on. Those before keep theirs.
    pub fn set_secret(&self, secret: &EdgeSecret) {
        let key = NumberKey::of(secret, "experiment cookies, version 1");
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    /// How an experiment was switched by the API, where it was.
    pub fn switched(&self, name: &Name) -> Option<Switched> {
        self.switches.switched(name)
    }

    /// Switches an experiment by the API, or takes it back (`None`). It holds for the next request. Blocks.
    ///
    /// # Errors
    /// It can't be kept: it holds until the process ends.
    pub fn switch(
        &self,
        name: &Name,
        to: Option<Switched>,
        is_in_force: impl Fn(&Name) -> bool,
    ) -> Result<(), StoreError> {
        self.switches.set(name, to, is_in_force)
    }

    /// Why what was switched is not what the state directory has, in words.
    pub fn problem(&self) -> Option<String> {
        self.switches.problem()
    }

    /// Reads what was switched again: the process before this one may have written it. Blocks.
    pub fn read_again(&self) {
        self.switches.read_again();
    }

    pub(super) fn sweep(&self, now: Instant) {
        self.switches.sweep(now);
    }
}

/// The policy as compiled: nobody is in it until it has its live state.
#[derive(Debug)]
pub struct Experiment(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    name: Name,
    config: Arc<ExperimentConfig>,
    header: WireName,
    /// What the header says, by variant.
    values: Vec<HeaderValue>,
    deal: Deal,
    places: Places,
}

impl Experiment {
    /// The policy `name` with this configuration.
    pub fn new(name: Name, config: Arc<ExperimentConfig>) -> Self {
        // A name is a valid value.
        let value =
            |name: &Name| HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static(""));
        let (names, shares): (Vec<_>, Vec<_>) =
            config.variants.iter().map(|(name, share)| (name, *share)).unzip();
        Self(Arc::new(Compiled {
            header: WireName::from(&config.header),
            values: names.into_iter().map(value).collect(),
            deal: Deal::new(&shares),
            places: Places::new(&name, &config.salt),
            name,
            config,
        }))
    }
}

impl Policy for Experiment {
    fn on_request<'a>(
        &'a self,
        request: &'a mut RequestHead<'_>,
        _: &'a mut PolicyContext,
    ) -> Step<'a> {
        self.0.clean(request);
        Step::Now(Ok(Flow::Continue))
    }

    fn attached(&self, _: &Place<'_>, live: &super::Live) -> Option<Arc<dyn Policy>> {
        let Compiled { name, config, .. } = &*self.0;
        let live = &live.experiments;
        let cookie = match &config.place {
            PlaceOf::Key(_) => None,
            PlaceOf::Cookie(cookie) => {
                let key = live.key.lock().unwrap_or_else(PoisonError::into_inner);
                key.as_ref().map(|key| (key.signer(&[name, &config.salt]), cookie.clone()))
            }
        };
        let metrics = |(variant, _): &(Name, _)| live.metrics.variant(name, variant);
        Some(Arc::new(Attached {
            compiled: Arc::clone(&self.0),
            switch: live.switches.get(name),
            exposures: config.variants.iter().map(metrics).collect(),
            cookie,
        }))
    }
}

/// An experiment with its live state.
#[derive(Debug)]
struct Attached {
    compiled: Arc<Compiled>,
    switch: Arc<Switch>,
    /// By variant.
    exposures: Vec<Arc<VariantMetrics>>,
    /// Where places are in cookies. Not there where there is no key for them: then only segments lead to variants.
    cookie: Option<(NumberSigner, StickyCookie)>,
}

impl Policy for Attached {
    fn on_request<'a>(
        &'a self,
        request: &'a mut RequestHead<'_>,
        context: &'a mut PolicyContext,
    ) -> Step<'a> {
        let compiled = &*self.compiled;
        let value = compiled.clean(request);
        if self.switch.is_on(compiled.config.enabled) {
            let (variant, by) = match compiled.segment(&request.view(context.client)) {
                Some((_, variant)) => (*variant, DealtBy::Segment),
                None => (self.dealt(request, value.as_deref(), context), DealtBy::Share),
            };
            if let Some(variant) = variant {
                if let Some(value) = compiled.values.get(variant) {
                    request.set_header(&compiled.header, value);
                }
                if let Some(exposures) = self.exposures.get(variant) {
                    exposures.exposed(by);
                }
            }
        }
        Step::Now(Ok(Flow::Continue))
    }
}

impl Attached {
    /// The variant of the client's place among the shares; a client that has no place yet is given one.
    fn dealt(
        &self,
        request: &RequestHead<'_>,
        value: Option<&str>,
        context: &mut PolicyContext,
    ) -> Option<usize> {
        let compiled = &*self.compiled;
        let place = match &compiled.config.place {
            PlaceOf::Key(key) => {
                let view = request.view(context.client);
                key.of(view.headers, view.path, view.query, view.client, |key| {
                    compiled.places.of(key)
                })?
            }
            PlaceOf::Cookie(_) => {
                let (signer, cookie) = self.cookie.as_ref()?;
                value.and_then(|value| signer.read(value)).unwrap_or_else(|| {
                    let drawn = fastrand::u64(..);
                    let line = cookie.set_cookie(&signer.sign(drawn), context.is_tls);
                    context.cookies.extend(HeaderValue::try_from(line));
                    drawn
                })
            }
        };
        compiled.deal.variant(place)
    }
}

impl Compiled {
    /// Takes out what endpoints would take for ours, and returns the value of the cookie.
    fn clean(&self, request: &mut RequestHead<'_>) -> Option<String> {
        let own = &self.config.header;
        // Few requests have one.
        while let Some(name) = request.0.headers.keys().find(|name| reads_like(name, own)) {
            let name: HeaderName = name.clone();
            request.remove_header(&name);
        }
        self.config.cookie().and_then(|name| request.take_cookie(name))
    }

    /// The first segment that holds.
    fn segment(&self, request: &RequestView<'_>) -> Option<&(Conditions, Option<usize>)> {
        self.config.segments.iter().find(|(conditions, _)| {
            conditions.take_method(request.method) && conditions.hold_but_for_method(request)
        })
    }
}

#[cfg(test)]
mod tests;
