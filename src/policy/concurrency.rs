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
    collections::{HashMap, hash_map::Entry},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
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
                let make = || Shared { limiter: Limiter::new(max, queue), newest: 0.into() };
                let shared = live.limiters.get_or_insert_with(Key { policy, route }, make);
                Arc::new(PerRoute { shared, max, queue })
            }
            Per::Client => {
                let make = || Clients::new(max, queue);
                let clients = live.clients.get_or_insert_with(Key { policy, route: None }, make);
                Arc::new(PerClient { clients, max, queue })
            }
        })
    }
}

/// Ends the limits that this generation has not: whoever waits for one goes on. What is in flight stays counted, for a
/// limit that comes back.
pub(super) fn lift_others(live: &Live, generation: u64) {
    for shared in live.limiters.values() {
        if shared.newest.load(Ordering::Relaxed) != generation {
            shared.limiter.set_max(u32::MAX);
        }
    }
    for clients in live.clients.values() {
        if clients.newest.load(Ordering::Relaxed) != generation {
            clients.lift();
        }
    }
}

/// A limiter that outlives its route.
#[derive(Debug)]
pub(super) struct Shared {
    limiter: Arc<Limiter>,
    /// The generation that was the last to have it in force.
    newest: AtomicU64,
}

struct PerRoute {
    shared: Arc<Shared>,
    max: u32,
    queue: QueueConfig,
}

impl Policy for PerRoute {
    fn put_in_force(&self, generation: u64) {
        self.shared.newest.store(generation, Ordering::Relaxed);
        self.shared.limiter.configure(self.queue);
        self.shared.limiter.set_max(self.max);
    }

    fn on_request<'a>(
        &'a self,
        _: &'a mut RequestHead<'_>,
        context: &'a mut PolicyContext,
    ) -> Step<'a> {
        enter(Room::Route(Arc::clone(&self.shared)), context)
    }
}

struct PerClient {
    clients: Arc<Clients>,
    max: u32,
    queue: QueueConfig,
}

impl Policy for PerClient {
    fn put_in_force(&self, generation: u64) {
        // On each route that has the policy.
        if self.clients.newest.swap(generation, Ordering::Relaxed) != generation {
            self.clients.configure(self.max, self.queue);
        }
    }

    fn on_request<'a>(
        &'a self,
        _: &'a mut RequestHead<'_>,
        context: &'a mut PolicyContext,
    ) -> Step<'a> {
        let client = context.client.map(ClientNetwork::of);
        let Some(presence) = Clients::of(&self.clients, client) else {
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
            Self::Route(shared) => &shared.limiter,
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
            Refused::Full | Refused::Overtaken => "concurrency_full",
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

type Part = HashMap<Option<ClientNetwork>, Client, RandomState>;

/// A client with requests under way.
#[derive(Debug)]
struct Client {
    limiter: Arc<Limiter>,
    /// How many they are.
    requests: usize,
}

/// The clients that have a request under way.
#[derive(Debug)]
pub(super) struct Clients {
    parts: [Mutex<Part>; PARTS],
    settings: Mutex<(u32, QueueConfig)>,
    most: usize,
    /// The generation that was the last to have them in force.
    newest: AtomicU64,
}

impl Clients {
    fn new(max: u32, queue: QueueConfig) -> Self {
        Self {
            parts: std::array::from_fn(|_| Mutex::default()),
            settings: Mutex::new((max, queue)),
            most: MAX_CLIENTS / PARTS,
            newest: AtomicU64::new(0),
        }
    }

    fn configure(&self, max: u32, queue: QueueConfig) {
        let before = std::mem::replace(&mut *self.settings(), (max, queue));
        if before == (max, queue) {
            return;
        }
        // A client that comes from here on finds the new ones.
        for part in &self.parts {
            for Client { limiter, .. } in lock(part).values() {
                limiter.configure(queue);
                limiter.set_max(max);
            }
        }
    }

    fn lift(&self) {
        let (_, queue) = *self.settings();
        self.configure(u32::MAX, queue);
    }

    fn settings(&self) -> MutexGuard<'_, (u32, QueueConfig)> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limiter of a client, for as long as it is there; `None` where there are too many clients.
    fn of(this: &Arc<Self>, client: Option<ClientNetwork>) -> Option<Presence> {
        let part = Self::part(client);
        let mut clients = lock(this.parts.get(part)?);
        let has_room = clients.len() < this.most;
        let limiter = match clients.entry(client) {
            Entry::Occupied(mut known) => {
                known.get_mut().requests += 1;
                Arc::clone(&known.get().limiter)
            }
            Entry::Vacant(_) if !has_room => return None,
            Entry::Vacant(new) => {
                let (max, queue) = *this.settings();
                let limiter = Limiter::new(max, queue);
                new.insert(Client { limiter: Arc::clone(&limiter), requests: 1 });
                limiter
            }
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
        if let Entry::Occupied(mut known) = lock(part).entry(self.client) {
            known.get_mut().requests -= 1;
            if known.get().requests == 0 {
                known.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pingora_http::RequestHeader;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn policy(text: &str) -> Arc<Concurrency> {
        let raw: RawConcurrency = toml::from_str(text).unwrap();
        let mut problems = Problems::new();
        let config = raw.parse(&KeyPath::root(), &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        Arc::new(Concurrency::new("few".parse().unwrap(), config))
    }

    fn live() -> Live {
        Live::new(Path::new("/nowhere"), Metrics::new())
    }

    fn attach(policy: &Concurrency, route: &str, live: &Live) -> Arc<dyn Policy> {
        let (site, route) = ("shop".parse().unwrap(), route.parse().unwrap());
        policy.attached(&Place { site: &site, route: &route }, live).unwrap()
    }

    fn known(clients: &Clients) -> usize {
        clients.parts.iter().map(|part| lock(part).len()).sum()
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
        let live = live();
        let first = policy("max = 2\nmax_waiting = 0");
        let (one, other) = (attach(&first, "one", &live), attach(&first, "other", &live));
        let held = [passes(&*one, "10.0.0.1").unwrap(), passes(&*one, "10.0.0.2").unwrap()];
        assert!(passes(&*one, "10.0.0.3").is_none());
        assert!(passes(&*other, "10.0.0.3").is_some());
        let reloaded = attach(&policy("max = 3\nmax_waiting = 0"), "one", &live);
        assert!(passes(&*reloaded, "10.0.0.3").is_none(), "it is not in force yet");
        reloaded.put_in_force(2);
        let third = passes(&*reloaded, "10.0.0.3").unwrap();
        assert!(passes(&*reloaded, "10.0.0.3").is_none(), "two of before count");
        drop((held, third));
        assert!(passes(&*reloaded, "10.0.0.3").is_some());
    }

    #[tokio::test]
    async fn clients_have_their_own_permits_and_are_forgotten_with_their_last_request() {
        let live = live();
        let policy = policy("max = 1\nper = 'client'\nmax_waiting = 0");
        let (one, other) = (attach(&policy, "one", &live), attach(&policy, "other", &live));
        let held = passes(&*one, "10.0.0.1").unwrap();
        assert!(passes(&*one, "10.0.0.1").is_none());
        assert!(passes(&*other, "10.0.0.1").is_none(), "on all routes");
        let neighbour = passes(&*one, "10.0.0.2").unwrap();
        let key = Key { policy: "few".parse().unwrap(), route: None };
        let clients = live.clients.get_or_insert_with(key, || unreachable!());
        assert_eq!(known(&clients), 2);
        drop(held);
        assert_eq!(known(&clients), 1);
        assert!(passes(&*one, "10.0.0.1").is_some());
        drop(neighbour);
        assert_eq!(known(&clients), 0);
        // A household of IPv6 is one client.
        let held = passes(&*one, "2001:db8::1").unwrap();
        assert!(passes(&*one, "2001:db8::2").is_none());
        assert!(passes(&*one, "2001:db8:0:1::1").is_some());
        drop(held);
    }

    #[tokio::test]
    async fn a_policy_that_a_generation_has_not_lets_those_pass_who_wait() {
        let live = live();
        for text in ["max = 1", "max = 1\nper = 'client'"] {
            let before = attach(&policy(text), "one", &live);
            before.put_in_force(1);
            lift_others(&live, 1);
            let held = passes(&*before, "10.0.0.1").unwrap();
            let mut header = RequestHeader::build("GET", b"/", None).unwrap();
            let mut request = RequestHead(&mut header);
            let mut context =
                PolicyContext { client: "10.0.0.1".parse().ok(), ..PolicyContext::default() };
            let Step::Later(mut waiting) = before.on_request(&mut request, &mut context) else {
                panic!("there is no room")
            };
            assert!(futures_util::poll!(&mut waiting).is_pending(), "{text}");
            lift_others(&live, 2);
            assert!(matches!(waiting.await, Ok(Flow::Continue)), "{text}");
            // It comes back, and finds the two.
            let again = attach(&policy(text), "one", &live);
            again.put_in_force(3);
            lift_others(&live, 3);
            assert!(passes(&*again, "10.0.0.1").is_none(), "{text}");
            drop(context);
            assert!(passes(&*again, "10.0.0.1").is_none(), "{text}");
            drop(held);
            assert!(passes(&*again, "10.0.0.1").is_some(), "{text}");
        }
    }

    #[test]
    fn clients_that_come_and_go_at_once_leave_nothing_behind() {
        let queue = QueueConfig {
            max_waiting: 0,
            timeout: Duration::from_secs(1),
            order: QueueOrder::Fifo,
        };
        let clients = Arc::new(Clients::new(8, queue));
        let there = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for n in 0..20_000 {
                        let client = ClientNetwork::of(std::net::Ipv4Addr::from_bits(n).into());
                        let present = Clients::of(&clients, Some(client)).unwrap();
                        there.fetch_add(1, Ordering::AcqRel);
                        // Both leave in the same moment.
                        while there.load(Ordering::Acquire) < 2 * (u64::from(n) + 1) {
                            std::thread::yield_now();
                        }
                        drop(present);
                    }
                });
            }
        });
        assert_eq!(known(&clients), 0);
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
