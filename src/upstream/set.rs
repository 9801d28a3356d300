//! The endpoints of an upstream, as one generation uses them.
//!
//! A pick reads one pointer, to those that are eligible; they are listed anew when a verdict or a discovered set changes.
//! The set belongs to a snapshot and goes with it; endpoints, health, addresses and what is alive of
//! the upstream outlive it.

mod ejecting;
mod events;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicBool},
    time::Instant,
};

use arc_swap::ArcSwap;
use rustls_pki_types::ServerName;
use tokio::sync::watch;

use crate::{
    telemetry::metrics::EjectionReason,
    types::{EndpointAddress, Name},
};

use super::{
    Blueprint, NoEndpoint, Picked, SetStanding, Wish,
    config::{EndpointConfig, HealthCheckConfig},
    discovery::{AddressSet, DiscoveredEndpoint},
    eligible::Eligible,
    endpoint::Seat,
    health::{Health, Verdict},
    live::{HealthKey, Live},
    live_tls::LiveTls,
    live_upstream::LiveUpstream,
    member::Member,
    peer::{self, PeerTemplate},
    picked::Reach,
    probe::{Probe, ProbeTls},
    ramp,
    status::{EjectedStatus, EndpointStatus, Faults, NameStatus, unix_seconds},
    task::TaskGuard,
    tls::EndpointTls,
    watch::Watch,
};

/// One configured endpoint: an address, or a name with all addresses it resolves to.
struct Source {
    addresses: Arc<AddressSet>,
    /// What is written, where that is a name.
    name: Option<EndpointAddress>,
    weight: u32,
    priority: u32,
    zone: Option<Name>,
    /// Keeps the name followed.
    _task: Arc<TaskGuard>,
}

/// TLS to the endpoints.
pub(super) struct SetTls {
    pub(super) live: Arc<LiveTls>,
    /// Keeps its files watched, where it has some.
    _task: Option<Arc<TaskGuard>>,
}

/// Where a member is to be.
struct Place {
    address: EndpointAddress,
    host: Option<Arc<str>>,
    weight: u32,
    priority: u32,
    zone: Option<Name>,
}

impl Place {
    fn of(endpoint: DiscoveredEndpoint, source: &Source) -> Self {
        let written = match &source.name {
            Some(EndpointAddress::Dns(host, _)) => Some(Arc::clone(host)),
            _ => None,
        };
        Self {
            address: endpoint.address,
            host: endpoint.host.or(written),
            weight: endpoint.weight.unwrap_or(source.weight),
            priority: source.priority,
            zone: source.zone.clone(),
        }
    }
}

/// What a probe needs to know.
struct PlaceOfProbe<'a> {
    set: &'a EndpointSet,
    address: &'a EndpointAddress,
    check: &'a HealthCheckConfig,
    authority: String,
    server_name: Option<String>,
}

impl PlaceOfProbe<'_> {
    fn into_probe(self) -> Probe {
        let config = &self.set.blueprint.config;
        let tls = self.set.tls.as_ref().zip(self.server_name).and_then(|(tls, server_name)| {
            let server_name = ServerName::try_from(server_name).ok()?;
            Some(ProbeTls { live: Arc::clone(&tls.live), server_name })
        });
        Probe::new(self.check.clone(), self.address.clone(), config.protocol, tls, self.authority)
            .announced_by(config.proxy_protocol)
    }
}

pub(super) struct EndpointSet {
    this: Weak<EndpointSet>,
    live: Arc<Live>,
    pub(super) blueprint: Blueprint,
    sources: Vec<Source>,
    pub(super) tls: Option<SetTls>,
    upstream: Arc<LiveUpstream>,
    /// Every endpoint. Also the lock under which the set is built anew. Of all requests only one that has ejected an endpoint takes it.
    members: Mutex<Vec<Arc<Member>>>,
    eligible: ArcSwap<Eligible>,
    /// Wakes who waits for the first probes.
    progress: watch::Sender<()>,
}

impl EndpointSet {
    /// Attaches to what is alive, and starts what is not yet running.
    pub(super) fn new(live: &Arc<Live>, blueprint: Blueprint) -> Arc<Self> {
        let set = Arc::new_cyclic(|this: &Weak<Self>| {
            let watcher: Weak<dyn Watch> = Weak::clone(this) as Weak<dyn Watch>;
            let source = |endpoint: &EndpointConfig| {
                let addresses = live.addresses(&endpoint.address);
                addresses.watchers().add(&watcher);
                let name = match &endpoint.address {
                    name @ (EndpointAddress::Dns(..) | EndpointAddress::Srv(_)) => {
                        Some(name.clone())
                    }
                    EndpointAddress::Ip(_) | EndpointAddress::Unix(_) => None,
                };
                let task = addresses.run(live.handle());
                Source {
                    addresses,
                    name,
                    weight: endpoint.weight,
                    priority: endpoint.priority,
                    zone: endpoint.zone.clone(),
                    _task: task,
                }
            };
            let tls = blueprint.tls.as_ref().map(|loaded| {
                let tls = live.tls(Arc::clone(loaded), blueprint.config.protocol);
                tls.watchers().add(&watcher);
                let task = tls.run(live.handle());
                SetTls { live: tls, _task: task }
            });
            Self {
                this: Weak::clone(this),
                live: Arc::clone(live),
                sources: blueprint.config.endpoints.iter().map(source).collect(),
                tls,
                upstream: live.upstream(&blueprint.config.name),
                blueprint,
                members: Mutex::new(Vec::new()),
                eligible: ArcSwap::default(),
                progress: watch::Sender::new(()),
            }
        });
        set.upstream.add_set(&set);
        live.keeper().watch(&set.blueprint.config.name, &set.upstream);
        set.changed();
        set
    }

    /// An endpoint for the next try, counted as in flight from now on.
    pub(super) fn pick(&self, wish: &Wish) -> Result<Picked, NoEndpoint> {
        let eligible = self.eligible.load();
        match eligible.pick(wish, &self.upstream.turns) {
            Some((member, sticky)) => Ok(Picked::new(
                Arc::clone(&member.reach),
                wish.network,
                sticky,
                self.upstream.gates.spell(),
            )),
            None if eligible.members.is_empty() => Err(NoEndpoint::NoneKnown),
            None => Err(NoEndpoint::NoneHealthy),
        }
    }

    pub(super) fn has_healthy(&self) -> bool {
        self.eligible.load().is_healthy
    }

    /// Resolves when every name has been asked for and every endpoint has had a probe. May never.
    pub(super) async fn probed(&self) {
        let mut progress = self.progress.subscribe();
        while !self.is_probed() {
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    fn is_probed(&self) -> bool {
        self.sources.iter().all(|source| source.addresses.is_answered())
            && self.lock().iter().all(|member| {
                member.health.as_ref().is_none_or(|(health, _)| health.has_been_probed())
            })
    }

    /// What is known of its endpoints, for those who decide on its traffic.
    pub(super) fn standing(&self, good_probes: u32) -> SetStanding {
        let in_service = self.eligible.load().in_service;
        let members = self.lock();
        let has_weight = |member: &&Arc<Member>| member.weight > 0;
        let is_proven = |member: &&Arc<Member>| match &member.health {
            None => good_probes == 0,
            Some((health, _)) => health.state().good_in_a_row >= good_probes,
        };
        SetStanding {
            endpoints: members.iter().filter(has_weight).count(),
            in_service,
            proven: members.iter().filter(has_weight).filter(is_proven).count(),
        }
    }

    pub(super) fn endpoint_status(&self) -> Vec<EndpointStatus> {
        let members = self.lock().clone();
        let now = Instant::now();
        let status = |member: &Arc<Member>| {
            let state = member.health.as_ref().map(|(health, _)| health.state());
            let last_error = state.as_ref().and_then(|state| state.last_error.clone());
            EndpointStatus {
                address: member.endpoint.label().to_owned(),
                host: member.host.as_deref().map(ToOwned::to_owned),
                weight: member.weight,
                priority: member.priority,
                zone: member.zone.clone(),
                ejected: EjectedStatus::of(&member.endpoint, now),
                ejections: EjectionReason::ALL
                    .iter()
                    .map(|reason| (*reason, member.endpoint.ejections(*reason)))
                    .collect(),
                slow_start: Some(self.share_of(member, now)).filter(|share| *share < ramp::WHOLE),
                health: state.as_ref().map_or(Verdict::Healthy, |state| state.verdict),
                since: state.as_ref().map(|state| unix_seconds(state.since)),
                last_error: last_error.as_ref().map(|(error, _)| error.to_string()),
                last_error_at: last_error.map(|(_, at)| unix_seconds(at)),
                in_flight: member.endpoint.in_flight(),
                streams: member.endpoint.streams(),
                requests: member.endpoint.requests(),
                latency: Some(member.endpoint.latency(now)).filter(|time| !time.is_zero()),
                faults: Faults::of(&member.endpoint),
            }
        };
        members.iter().map(status).collect()
    }

    fn share_of(&self, member: &Member, now: Instant) -> u32 {
        let slow_start = self.blueprint.config.eligibility.slow_start;
        member.endpoint.ramp.step(slow_start, now).thousandths
    }

    pub(super) fn name_status(&self) -> Vec<NameStatus> {
        let status = |source: &Source| {
            let name = source.name.as_ref()?;
            let state = source.addresses.state();
            Some(NameStatus {
                name: name.to_string(),
                addresses: state.endpoints.len(),
                error: state.error,
            })
        };
        self.sources.iter().filter_map(status).collect()
    }

    /// The members for what is discovered now; those that stay are taken over. An address that stands in two sources counts once,
    /// for the first.
    fn build_members(&self, before: &[Arc<Member>]) -> Vec<Arc<Member>> {
        let known: HashMap<&EndpointAddress, &Arc<Member>> =
            before.iter().map(|member| (member.endpoint.address(), member)).collect();
        let tls = self.tls.as_ref().map(|tls| tls.live.in_force());
        let mut seen = HashSet::new();
        let mut members = Vec::with_capacity(before.len());
        for source in &self.sources {
            for endpoint in source.addresses.state().endpoints {
                if !seen.insert(endpoint.address.clone()) {
                    continue;
                }
                let place = Place::of(endpoint, source);
                let kept = known.get(&place.address).filter(|member| {
                    member.host == place.host
                        && member.weight == place.weight
                        && member.priority == place.priority
                        && member.zone == place.zone
                        && member.tls.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr)
                });
                let member = match kept {
                    Some(member) => Some(Arc::clone(member)),
                    None => self.new_member(place, tls.clone()),
                };
                members.extend(member);
            }
        }
        members
    }

    fn new_member(&self, place: Place, tls: Option<Arc<EndpointTls>>) -> Option<Arc<Member>> {
        let config = &self.blueprint.config;
        let Place { address, host, weight, priority, zone } = place;
        let made = PeerTemplate::new(config, tls.as_deref(), &address, host.as_deref());
        let template = match made {
            Ok(template) => template.counted_by(self.upstream.gates.connections()),
            // Compiling has tried the written addresses, and names resolve to IP addresses.
            Err(error) => {
                tracing::error!(upstream = %config.name, %address, %error, "endpoint left out");
                return None;
            }
        };
        let health = self.health(&address, host.as_deref());
        let endpoint = self.live.endpoint(&config.name, address);
        let reach = Arc::new(Reach { endpoint: Arc::clone(&endpoint), template });
        let seat = (weight > 0).then(|| Seat::take(&endpoint));
        let has_joined = seat.as_ref().is_some_and(|(_, is_only)| *is_only);
        Some(Arc::new(Member {
            endpoint,
            weight,
            priority,
            zone,
            host,
            reach,
            tls,
            health,
            _seat: seat.map(|(seat, _)| seat),
            has_joined: AtomicBool::new(has_joined),
        }))
    }

    fn health(
        &self,
        address: &EndpointAddress,
        host: Option<&str>,
    ) -> Option<(Arc<Health>, Arc<TaskGuard>)> {
        let config = &self.blueprint.config;
        let check = config.health_check.as_ref()?;
        let place = self.place_of_probe(address, host, check);
        let key = HealthKey {
            upstream: config.name.clone(),
            address: address.clone(),
            authority: place.authority.clone(),
            server_name: place.server_name.clone(),
            check: check.clone(),
            protocol: config.protocol,
            tls: config.tls.clone(),
            proxy_protocol: config.proxy_protocol,
        };
        let health = self
            .live
            .health(key, || Health::new(config.name.clone(), address.clone(), place.into_probe()));
        let watcher: Weak<dyn Watch> = Weak::clone(&self.this) as Weak<dyn Watch>;
        health.watchers().add(&watcher);
        let task = health.run(self.live.handle());
        Some((health, task))
    }

    /// How an endpoint of this set is probed with a check.
    fn place_of_probe<'a>(
        &'a self,
        address: &'a EndpointAddress,
        host: Option<&str>,
        check: &'a HealthCheckConfig,
    ) -> PlaceOfProbe<'a> {
        let authority = check.host.clone().unwrap_or_else(|| match (host, address) {
            (Some(host), EndpointAddress::Ip(address)) => format!("{host}:{}", address.port()),
            (_, EndpointAddress::Unix(_)) => "localhost".to_owned(),
            (_, address) => address.to_string(),
        });
        let tls = self.blueprint.config.tls.as_ref();
        let server_name = tls.and_then(|tls| peer::server_name(tls, address, host));
        PlaceOfProbe { set: self, address, check, authority, server_name }
    }

    /// Endpoints that have recovered, or have joined others that serve, start slowly.
    fn start_slowly(&self, members: &[Arc<Member>], now: Instant) {
        let has_served = members.iter().any(|member| member.endpoint.requests() > 0);
        // By its check: another one may still be asked for an older generation.
        let is_newest = self.is_newest();
        for member in members {
            member.endpoint.join(&self.upstream);
            let has_joined = member.take_joining() && has_served;
            let has_recovered = is_newest && member.take_recovery();
            if has_recovered || has_joined {
                member.endpoint.ramp.start(now);
            }
        }
    }

    /// Those that serve before they are healthy start slowly then. Whether there are any that begin.
    fn start_recovering(&self, eligible: &Eligible, now: Instant) -> bool {
        let mut begins = false;
        for member in eligible.recovering().filter(|_| self.is_newest()) {
            if member.take_service() {
                member.endpoint.ramp.start(now);
                begins = true;
            }
        }
        begins
    }

    /// Whether no newer set of its upstream lives.
    fn is_newest(&self) -> bool {
        self.upstream.newest().is_some_and(|set| std::ptr::eq(Arc::as_ptr(&set), self))
    }

    /// Lists who is eligible anew, for the same members.
    pub(super) fn refresh(&self, now: Instant) {
        self.list(&self.lock(), now);
    }

    /// Lists who of these members is eligible. To be called under their lock.
    fn list(&self, members: &[Arc<Member>], now: Instant) {
        let key = self.live.sticky_key();
        let list = || Eligible::of(members, &self.blueprint.config, key.as_deref(), now);
        let mut eligible = list();
        if self.start_recovering(&eligible, now) {
            eligible = list();
        }
        let eligible = Arc::new(eligible);
        self.eligible.store(Arc::clone(&eligible));
        self.upstream.set_room(true);
        self.tell(&eligible);
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for EndpointSet {
    fn changed(&self) {
        {
            // Under the lock, so that the last of two racing changes sees both.
            let mut members = self.lock();
            *members = self.build_members(&members);
            let now = Instant::now();
            self.start_slowly(&members, now);
            self.list(&members, now);
        }
        self.progress.send_replace(());
    }
}
