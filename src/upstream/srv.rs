//! Discovery by SRV records (RFC 2782): where a service is, with ports and weights, and the addresses of its hosts.
//!
//! Of the records only those with the lowest priority value are used; falling back to the next one is a matter of
//! balancing by priority, which there is not yet. A record's weight becomes the weight of its addresses. Everything is
//! asked for again when the first of the answers expires. What fails keeps its last answer, as in `dns.rs`.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join, join_all};

use crate::types::EndpointAddress;

use super::{
    answers::Answers,
    config::MAX_WEIGHT,
    discovery::{Discovered, DiscoveredEndpoint, Discovery, Report},
    resolver::{Family, Found, LookUpError, Service, SharedResolver},
};

/// The most hosts of one service; of more, those that sort last are left out.
const MAX_HOSTS: usize = 64;
/// What the greatest weight is raised to where records with the weight 0 stand beside others: those get "a very small
/// chance" (RFC 2782), at most 1 % of the greatest.
const GREATEST_BESIDE_ZERO: u64 = 100;

/// The endpoints of a service.
pub struct Srv {
    resolver: Arc<SharedResolver>,
    name: Arc<str>,
}

impl Srv {
    /// A source of the endpoints of a service: `_http._tcp.shop.internal`.
    pub fn new(resolver: Arc<SharedResolver>, name: Arc<str>) -> Self {
        Self { resolver, name }
    }
}

impl Discovery for Srv {
    fn known(&self) -> Discovered {
        Discovered::default()
    }

    fn keep(&self) -> Duration {
        self.resolver.keep()
    }

    fn follow(&self, report: Report) -> BoxFuture<'static, ()> {
        let mut follower = Follower {
            resolver: Arc::clone(&self.resolver),
            name: Arc::clone(&self.name),
            services: Vec::new(),
            answered: None,
            error: None,
            failures: 0,
            hosts: HashMap::new(),
        };
        Box::pin(async move {
            loop {
                let pause = follower.ask().await;
                report(follower.discovered(Instant::now()));
                tokio::time::sleep(pause).await;
            }
        })
    }
}

struct Follower {
    resolver: Arc<SharedResolver>,
    name: Arc<str>,
    /// What was last answered, chosen and weighted.
    services: Vec<Weighted>,
    answered: Option<Instant>,
    error: Option<LookUpError>,
    failures: u32,
    hosts: HashMap<Arc<str>, Answers>,
}

/// A record that is used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Weighted {
    host: Arc<str>,
    port: u16,
    weight: u32,
}

impl Follower {
    /// Asks for the service, then for its hosts; says how long to wait until it is to be asked again.
    async fn ask(&mut self) -> Duration {
        let result = self.resolver.services(&self.name).await;
        let now = Instant::now();
        let mut is_failed = has_failed(&result);
        match &result {
            Ok((services, _)) => {
                self.services = choose(services.clone());
                self.answered = Some(now);
                self.error = None;
            }
            Err(error) => {
                if error.is_answer() {
                    self.services = Vec::new();
                    self.answered = Some(now);
                }
                self.error = Some(error.clone());
            }
        }
        let services = &self.services;
        self.hosts.retain(|host, _| services.iter().any(|service| service.host == *host));
        let mut hosts: Vec<Arc<str>> = services.iter().map(|it| Arc::clone(&it.host)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let resolver = &self.resolver;
        let found = join_all(hosts.iter().map(async |host| {
            let v4 = resolver.addresses(host, Family::V4);
            join(v4, resolver.addresses(host, Family::V6)).await
        }))
        .await;
        let now = Instant::now();
        let mut lookups = Vec::new();
        for (host, (v4, v6)) in hosts.into_iter().zip(found) {
            is_failed |= has_failed(&v4) || has_failed(&v6);
            let answers = self.hosts.entry(host).or_default();
            for (family, result) in [(Family::V4, v4), (Family::V6, v6)] {
                let answer = result.as_ref().map(|(addresses, _)| addresses.clone());
                answers.record(family, answer.map_err(Clone::clone), now);
                // A host without addresses of one family is what most are: only what is found has a time.
                if !matches!(result, Err(LookUpError::NoRecords(_))) {
                    lookups.push(result);
                }
            }
        }
        self.failures = if is_failed { self.failures + 1 } else { 0 };
        let is_empty = self.discovered(now).endpoints.is_empty();
        let random = fastrand::f64();
        let first = self.resolver.pause(&result, self.failures, is_empty, random);
        let pause = |result: &Result<Found<IpAddr>, LookUpError>| {
            self.resolver.pause(result, self.failures, is_empty, random)
        };
        lookups.iter().map(pause).fold(first, Duration::min)
    }

    fn discovered(&self, now: Instant) -> Discovered {
        let keep = self.resolver.keep();
        let is_failing = self.error.as_ref().is_some_and(|error| !error.is_answer());
        let is_too_old =
            self.answered.is_none_or(|answered| now.saturating_duration_since(answered) >= keep);
        let services: &[Weighted] = if is_failing && is_too_old { &[] } else { &self.services };
        let mut endpoints = Vec::new();
        let mut error = self.error.as_ref().map(|error| match error {
            LookUpError::NoRecords(_) => "the name has no SRV records".to_owned(),
            error => error.to_string(),
        });
        let mut is_fresh = false;
        for service in services {
            let Some(answers) = self.hosts.get(&service.host) else { continue };
            is_fresh |= self.error.is_none() && answers.is_fresh();
            endpoints.extend(answers.addresses(now, keep).map(|ip| DiscoveredEndpoint {
                address: EndpointAddress::Ip(SocketAddr::new(ip, service.port)),
                host: Some(Arc::clone(&service.host)),
                weight: Some(service.weight),
            }));
            error = error.or_else(|| Some(format!("{}: {}", service.host, answers.error()?)));
        }
        if endpoints.is_empty() && error.is_none() {
            error = Some("the service is not available (its target is \".\")".to_owned());
        }
        Discovered { endpoints, is_answered: true, is_fresh, error }
    }
}

/// Whether a look-up failed, so that nothing is known anew.
fn has_failed<T>(result: &Result<T, LookUpError>) -> bool {
    result.as_ref().is_err_and(|error| !error.is_answer())
}

/// The records with the lowest priority value, with weights as endpoints have them.
fn choose(mut services: Vec<Service>) -> Vec<Weighted> {
    // A target of "." says that the service is not there.
    services.retain(|service| !service.target.is_empty() && service.port != 0);
    let Some(best) = services.iter().map(|service| service.priority).min() else {
        return Vec::new();
    };
    services.retain(|service| service.priority == best);
    services.sort_unstable();
    if services.len() > MAX_HOSTS {
        tracing::warn!(
            records = services.len(),
            limit = MAX_HOSTS,
            "too many SRV records, the rest is left out"
        );
        services.truncate(MAX_HOSTS);
    }
    let weights: Vec<u16> = services.iter().map(|service| service.weight).collect();
    services
        .into_iter()
        .zip(weights_of(&weights))
        .map(|(service, weight)| Weighted { host: service.target, port: service.port, weight })
        .collect()
}

/// Weights from 1 to [`MAX_WEIGHT`] for those of records, which go from 0 to 65535.
fn weights_of(weights: &[u16]) -> Vec<u32> {
    let greatest = u64::from(weights.iter().copied().max().unwrap_or_default());
    let has_zero = weights.contains(&0);
    let target = match greatest {
        0 => return vec![1; weights.len()],
        greatest if has_zero => greatest.clamp(GREATEST_BESIDE_ZERO, u64::from(MAX_WEIGHT)),
        greatest => greatest.min(u64::from(MAX_WEIGHT)),
    };
    let scale = |weight: &u16| {
        let scaled = (u64::from(*weight) * target + greatest / 2) / greatest;
        u32::try_from(scaled).unwrap_or(MAX_WEIGHT).max(1)
    };
    weights.iter().map(scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
        Service { priority, weight, port, target: target.into() }
    }

    #[test]
    fn the_lowest_priority_value_is_used_alone() {
        let chosen = choose(vec![
            service(20, 5, 80, "spare"),
            service(10, 3, 8080, "b"),
            service(10, 1, 8081, "a"),
            service(0, 1, 80, ""),
            service(0, 1, 0, "no-port"),
        ]);
        let chosen: Vec<_> = chosen.iter().map(|it| (&*it.host, it.port, it.weight)).collect();
        assert_eq!(chosen, [("a", 8081, 1), ("b", 8080, 3)]);
        assert!(choose(vec![service(0, 0, 0, "")]).is_empty());
    }

    #[test]
    fn weights_keep_their_shares_and_zero_is_a_very_small_chance() {
        for (weights, expected) in [
            (&[][..], &[][..]),
            (&[0, 0], &[1, 1]),
            (&[3, 1], &[3, 1]),
            (&[1_000, 10], &[1_000, 10]),
            (&[60_000, 30_000, 1], &[1_000, 500, 1]),
            (&[10, 10, 0], &[100, 100, 1]),
            (&[500, 0], &[500, 1]),
            (&[u16::MAX, 0], &[1_000, 1]),
        ] {
            assert_eq!(weights_of(weights), expected, "{weights:?}");
        }
    }

    #[test]
    fn the_number_of_hosts_is_bounded() {
        let many = (0..500).map(|n| service(1, 1, 80, &format!("host-{n:03}"))).collect();
        let chosen = choose(many);
        assert_eq!(chosen.len(), MAX_HOSTS);
        assert_eq!(&*chosen[0].host, "host-000");
    }
}
