//! Policy `concurrency`: at most so many requests at once, of a route or of each client.
//!
//! Place: behind those that identify and authorize, so that nobody takes room who may not pass. The permits stay in the
//! context of the request and end with it, an aborted one's too. What is in flight lives by the policy's name (and the
//! route's), and outlives a reload.
//!
//! By client: a client is an IPv4 address or the 64 bits of an IPv6 network; clients without an address are one. Only
//! clients with a request under way are remembered, at most [`MAX_CLIENTS`]; one more passes without a limit, since to refuse
//! it would let many networks lock everybody else out.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Denied, Flow, Live, Place, Policy, PolicyContext, RequestHead, Step};
use crate::{
    limit::{Limiter, Permit, QueueConfig, QueueOrder, RawQueue, Refused},
    types::{ClientNetwork, HumanDuration, KeyPath, Name, Problems, defaults},
};

/// Clients with a request under way that are remembered.
const MAX_CLIENTS: usize = 65_536;
/// They are in so many parts, each with a lock of its own.
const PARTS: usize = 16;
/// When asking again may help.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// `concurrency`, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawConcurrency {
    /// Requests at once. Long streams (WebSockets, events, gRPC streams) count until their head. Must be there.
    pub max: Option<NonZeroU32>,
    /// Of what: `route`, all requests of each route; or `client`, those of each client, on all routes that have the policy.
    /// A client is an IPv4 address or the 64 bits of an IPv6 network.
    #[schemars(extend("default" = "route"))]
    pub per: Option<Per>,
    /// So many may wait for room; more get 503 at once. 0 is no queue.
    #[schemars(extend("default" = defaults::MAX_WAITING))]
    pub max_waiting: Option<u32>,
    /// Nobody waits longer: 503 after it.
    #[schemars(extend("default" = defaults::QUEUE_TIMEOUT.to_string()))]
    pub queue_timeout: Option<HumanDuration>,
    /// Who is next: `fifo`, who has waited longest, or `lifo`, who came last; of a full queue the oldest leaves then.
    #[schemars(extend("default" = "fifo"))]
    pub queue_order: Option<QueueOrder>,
}

/// What is limited together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// All requests of a route.
    #[default]
    Route,
    /// Those of a client.
    Client,
}

/// `concurrency`, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcurrencyConfig {
    max: u32,
    per: Per,
    queue: QueueConfig,
}

impl RawConcurrency {
    /// Fills in the defaults.
    pub fn parse(&self, path: &KeyPath, problems: &mut Problems) -> ConcurrencyConfig {
        if self.max.is_none() {
            problems.error(path, "the policy limits nothing").at_key().help("add `max = 100`");
        }
        let queue = RawQueue {
            max_waiting: self.max_waiting,
            queue_timeout: self.queue_timeout,
            queue_order: self.queue_order,
        };
        ConcurrencyConfig {
            max: self.max.map_or(1, NonZeroU32::get),
            per: self.per.unwrap_or_default(),
            queue: queue.parse(path, problems),
        }
    }
}

/// What is limited together: a policy, and the site and route where it is a route's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    policy: Name,
    route: Option<(Name, Name)>,
}

/// The policy as compiled; it limits nothing, and lets nobody pass, until it has its live state.
#[derive(Debug)]
pub struct Concurrency {
    policy: Name,
    config: ConcurrencyConfig,
}

impl Concurrency {
    /// The policy `name` with this configuration.
    pub fn new(policy: Name, config: ConcurrencyConfig) -> Self {
        Self { policy, config }
    }
}

impl Policy for Concurrency {
    fn on_request<'a>(&'a self, _: &'a mut RequestHead<'_>, _: &'a mut PolicyContext) -> Step<'a> {
        // A chain that was never attached serves nobody.
        Step::Now(Err(denied(Refused::Full)))
    }

    fn attached(&self, place: &Place<'_>, live: &Live) -> Option<Arc<dyn Policy>> {
        let ConcurrencyConfig { max, per, queue } = self.config;
        let policy = self.policy.clone();
        Some(match per {
            Per::Route => {
                let route = Some((place.site.clone(), place.route.clone()));
                let make = || Shared(Limiter::new(max, queue));
                let shared = live.limiters.get_or_insert_with(Key { policy, route }, make);
                shared.0.configure(queue);
                shared.0.set_max(max);
                Arc::new(PerRoute(shared))
            }
            Per::Client => {
                let make = || Clients::new(max, queue);
                let clients = live.clients.get_or_insert_with(Key { policy, route: None }, make);
                clients.configure(max, queue);
                Arc::new(PerClient(clients))
            }
        })
    }
}

/// A limiter that outlives its route.
#[derive(Debug)]
pub(super) struct Shared(Arc<Limiter>);

struct PerRoute(Arc<Shared>);

impl Policy for PerRoute {
    fn on_request<'a>(
        &'a self,
        _: &'a mut RequestHead<'_>,
        context: &'a mut PolicyContext,
    ) -> Step<'a> {
        enter(Room::Route(Arc::clone(&self.0)), context)
    }
}

struct PerClient(Arc<Clients>);

impl Policy for PerClient {
    fn on_request<'a>(
        &'a self,
        _: &'a mut RequestHead<'_>,
        context: &'a mut PolicyContext,
    ) -> Step<'a> {
        let client = context.client.map(ClientNetwork::of);
        let Some(presence) = Clients::of(&self.0, client) else {
            return Step::Now(Ok(Flow::Continue));
        };
        enter(Room::Client(presence), context)
    }
}

/// Where a permit is to be had.
enum Room {
    Route(Arc<Shared>),
    Client(Presence),
}

impl Room {
    fn limiter(&self) -> &Arc<Limiter> {
        match self {
            Self::Route(shared) => &shared.0,
            Self::Client(presence) => &presence.limiter,
        }
    }

    fn held(self, permit: Permit) -> Held {
        let presence = match self {
            Self::Route(_) => None,
            Self::Client(presence) => Some(presence),
        };
        Held { _permit: permit, _presence: presence }
    }
}

/// Takes a permit, or waits for one; it is kept in the context.
fn enter(room: Room, context: &mut PolicyContext) -> Step<'_> {
    if let Some(permit) = room.limiter().try_acquire() {
        context.held.push(room.held(permit));
        return Step::Now(Ok(Flow::Continue));
    }
    Step::Later(Box::pin(async move {
        let began = Instant::now();
        let acquired = room.limiter().acquire().await;
        if !matches!(acquired, Err(Refused::Full)) {
            context.waited += began.elapsed();
        }
        context.held.push(room.held(acquired.map_err(denied)?));
        Ok(Flow::Continue)
    }))
}

fn denied(refused: Refused) -> Denied {
    Denied {
        status: StatusCode::SERVICE_UNAVAILABLE,
        reason: match refused {
            Refused::Full => "concurrency_full",
            Refused::Timeout => "concurrency_timeout",
        },
        retry_after: Some(RETRY_AFTER),
    }
}

/// What a request holds until its end; the permit is given back first.
#[derive(Debug)]
pub(super) struct Held {
    _permit: Permit,
    _presence: Option<Presence>,
}

type Part = HashMap<Option<ClientNetwork>, Arc<Limiter>, RandomState>;

/// The clients that have a request under way.
#[derive(Debug)]
pub(super) struct Clients {
    parts: [Mutex<Part>; PARTS],
    settings: Mutex<(u32, QueueConfig)>,
    most: usize,
}

impl Clients {
    fn new(max: u32, queue: QueueConfig) -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            settings: Mutex::new((max, queue)),
            most: MAX_CLIENTS / PARTS,
        }
    }

    fn configure(&self, max: u32, queue: QueueConfig) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = (max, queue);
        for part in &self.parts {
            for limiter in lock(part).values() {
                limiter.configure(queue);
                limiter.set_max(max);
            }
        }
    }

    /// The limiter of a client, for as long as it is there; `None` where there are too many clients.
    fn of(this: &Arc<Self>, client: Option<ClientNetwork>) -> Option<Presence> {
        let part = Self::part(client);
        let mut clients = lock(this.parts.get(part)?);
        let limiter = if let Some(limiter) = clients.get(&client) {
            Arc::clone(limiter)
        } else {
            if clients.len() >= this.most {
                return None;
            }
            let (max, queue) = *this.settings.lock().unwrap_or_else(PoisonError::into_inner);
            let limiter = Limiter::new(max, queue);
            clients.insert(client, Arc::clone(&limiter));
            limiter
        };
        Some(Presence { clients: Arc::clone(this), client, limiter })
    }

    /// Neighbours are in different parts.
    fn part(client: Option<ClientNetwork>) -> usize {
        client.map_or(0, |client| client.number() as usize % PARTS)
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    // An entry is inserted or removed at one point.
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client is there; the last of its requests forgets it.
#[derive(Debug)]
pub(super) struct Presence {
    clients: Arc<Clients>,
    client: Option<ClientNetwork>,
    limiter: Arc<Limiter>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let Some(part) = self.clients.parts.get(Clients::part(self.client)) else { return };
        let mut clients = lock(part);
        // New ones come about under this lock: two are this one and the map's. A permit holds one too, and is gone.
        if Arc::strong_count(&self.limiter) <= 2 {
            clients.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;

    fn policy(text: &str) -> Arc<Concurrency> {
        let raw: RawConcurrency = toml::from_str(text).unwrap();
        let mut problems = Problems::new();
        let config = raw.parse(&KeyPath::root(), &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        Arc::new(Concurrency::new("few".parse().unwrap(), config))
    }

    fn attach(policy: &Concurrency, route: &str, live: &Live) -> Arc<dyn Policy> {
        let (site, route) = ("shop".parse().unwrap(), route.parse().unwrap());
        policy.attached(&Place { site: &site, route: &route }, live).unwrap()
    }

    /// Whether a request passes; what it holds stays in its context.
    fn passes(policy: &dyn Policy, client: &str) -> Option<PolicyContext> {
        let mut header = RequestHeader::build("GET", b"/", None).unwrap();
        let mut context = PolicyContext { client: client.parse().ok(), ..PolicyContext::default() };
        let is_in = match policy.on_request(&mut RequestHead(&mut header), &mut context) {
            Step::Now(decided) => matches!(decided, Ok(Flow::Continue)),
            Step::Later(later) => futures_util::FutureExt::now_or_never(later)
                .is_some_and(|decided| matches!(decided, Ok(Flow::Continue))),
        };
        is_in.then_some(context)
    }

    #[tokio::test]
    async fn a_route_has_its_own_permits_and_a_reload_keeps_them() {
        let live = Live::default();
        let first = policy("max = 2\nmax_waiting = 0");
        let (one, other) = (attach(&first, "one", &live), attach(&first, "other", &live));
        let held = [passes(&*one, "10.0.0.1").unwrap(), passes(&*one, "10.0.0.2").unwrap()];
        assert!(passes(&*one, "10.0.0.3").is_none());
        assert!(passes(&*other, "10.0.0.3").is_some());
        let reloaded = attach(&policy("max = 3\nmax_waiting = 0"), "one", &live);
        let third = passes(&*reloaded, "10.0.0.3").unwrap();
        assert!(passes(&*reloaded, "10.0.0.3").is_none(), "two of before count");
        drop((held, third));
        assert!(passes(&*reloaded, "10.0.0.3").is_some());
    }

    #[tokio::test]
    async fn clients_have_their_own_permits_and_are_forgotten_with_their_last_request() {
        let live = Live::default();
        let policy = policy("max = 1\nper = 'client'\nmax_waiting = 0");
        let (one, other) = (attach(&policy, "one", &live), attach(&policy, "other", &live));
        let held = passes(&*one, "10.0.0.1").unwrap();
        assert!(passes(&*one, "10.0.0.1").is_none());
        assert!(passes(&*other, "10.0.0.1").is_none(), "on all routes");
        let neighbour = passes(&*one, "10.0.0.2").unwrap();
        let key = Key { policy: "few".parse().unwrap(), route: None };
        let clients = live.clients.get_or_insert_with(key, || unreachable!());
        let known = || clients.parts.iter().map(|part| lock(part).len()).sum::<usize>();
        assert_eq!(known(), 2);
        drop(held);
        assert_eq!(known(), 1);
        assert!(passes(&*one, "10.0.0.1").is_some());
        drop(neighbour);
        assert_eq!(known(), 0);
        // A household of IPv6 is one client.
        let held = passes(&*one, "2001:db8::1").unwrap();
        assert!(passes(&*one, "2001:db8::2").is_none());
        assert!(passes(&*one, "2001:db8:0:1::1").is_some());
        drop(held);
    }

    #[test]
    fn too_many_clients_pass_without_a_limit() {
        let clients = Arc::new(Clients {
            most: 1,
            ..Clients::new(
                1,
                QueueConfig {
                    max_waiting: 0,
                    timeout: Duration::from_secs(1),
                    order: QueueOrder::Fifo,
                },
            )
        });
        let of = |address: &str| {
            Clients::of(&clients, Some(ClientNetwork::of(address.parse().unwrap())))
        };
        // Sixteen addresses apart, they are in one part.
        let first = of("10.0.0.1").unwrap();
        assert!(of("10.0.0.17").is_none());
        assert!(of("10.0.0.2").is_some(), "in another part");
        drop(first);
        assert!(of("10.0.0.17").is_some());
    }
}
