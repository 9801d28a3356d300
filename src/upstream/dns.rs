//! Discovery by DNS: the A and AAAA records of a host name, asked for again when they expire.
//!
//! The two families are asked for independently, each by its own time to live, so that a slow or failing one does not hold up the
//! other. A failed look-up keeps the family's last answer for `dns.keep` (and [`super::discovery`] holds an empty one as long): a
//! broken name server must not take a working service down. Runs in the background, never in a request.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join};

use crate::types::EndpointAddress;

use super::{
    answers::Answers,
    discovery::{Discovered, Discovery, Report},
    resolver::{Family, SharedResolver},
};

/// The addresses of a host name.
pub struct Dns {
    resolver: Arc<SharedResolver>,
    host: Arc<str>,
    port: u16,
}

impl Dns {
    /// A source of the addresses of `host`, each with this port.
    pub fn new(resolver: Arc<SharedResolver>, host: Arc<str>, port: u16) -> Self {
        Self { resolver, host, port }
    }
}

impl Discovery for Dns {
    fn known(&self) -> Discovered {
        Discovered::default()
    }

    fn keep(&self) -> Duration {
        self.resolver.keep()
    }

    fn follow(&self, report: Report) -> BoxFuture<'static, ()> {
        let follower = Follower {
            resolver: Arc::clone(&self.resolver),
            host: Arc::clone(&self.host),
            port: self.port,
            answers: Mutex::new(Answers::default()),
            report,
        };
        Box::pin(async move {
            join(follower.follow(Family::V4), follower.follow(Family::V6)).await;
        })
    }
}

struct Follower {
    resolver: Arc<SharedResolver>,
    host: Arc<str>,
    port: u16,
    answers: Mutex<Answers>,
    report: Report,
}

impl Follower {
    async fn follow(&self, family: Family) {
        let mut failures = 0;
        loop {
            let result = self.resolver.addresses(&self.host, family).await;
            failures = match &result {
                Err(error) if !error.is_answer() => failures + 1,
                _ => 0,
            };
            let now = Instant::now();
            let discovered = {
                let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                let answer = result.as_ref().map(|(addresses, _)| addresses.clone());
                answers.record(family, answer.map_err(Clone::clone), now);
                self.discovered(&answers, now)
            };
            let is_empty = discovered.endpoints.is_empty();
            (self.report)(discovered);
            let pause = self.resolver.pause(&result, failures, is_empty, fastrand::f64());
            tokio::time::sleep(pause).await;
        }
    }

    fn discovered(&self, answers: &Answers, now: Instant) -> Discovered {
        let endpoint = |ip| EndpointAddress::Ip(SocketAddr::new(ip, self.port)).into();
        let endpoints: Vec<_> =
            answers.addresses(now, self.resolver.keep()).map(endpoint).collect();
        Discovered {
            is_answered: answers.is_asked() || !endpoints.is_empty(),
            is_fresh: answers.is_fresh(),
            error: answers.error(),
            endpoints,
        }
    }
}
