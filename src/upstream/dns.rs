//! Discovery by DNS: the A and AAAA records of a host name, asked for again when they expire.
//!
//! The two families are asked for independently, each by its own time to live, so that a slow or failing one does not hold up the
//! other. A failed look-up keeps the family's last answer (and [`super::discovery`] holds an empty one): a broken name server must not
//! take a working service down. Runs in the background, never in a request.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join};
use hickory_resolver::{
    TokioResolver,
    net::{DnsError, NetError},
    proto::rr::RecordType,
};

use crate::types::EndpointAddress;

use super::discovery::{Discovered, Discovery, Report};

/// Look-ups of one family of a name are at least so far apart, whatever the time to live.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// And at most so far.
const MAX_REFRESH: Duration = Duration::from_mins(5);
/// The time to live of "there are no such records" where the answer has none.
const NO_RECORDS_REFRESH: Duration = Duration::from_secs(30);
/// At most so far while the name has no address at all: a service that is being started is to be found soon.
const MAX_EMPTY_REFRESH: Duration = Duration::from_secs(5);
/// The wait after a failed look-up; it doubles up to [`MAX_RETRY`].
const MIN_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failed look-up.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// A resolver that all names share: the system's, read when the first name needs it.
pub struct SharedResolver(Mutex<Option<TokioResolver>>);

impl SharedResolver {
    /// The system's resolver (`/etc/resolv.conf`, `/etc/hosts`).
    pub fn system() -> Self {
        Self(Mutex::new(None))
    }

    /// Another resolver. Its cache should be off: names are asked for again only when they expire.
    pub fn fixed(resolver: TokioResolver) -> Self {
        Self(Mutex::new(Some(resolver)))
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = &*slot {
            return Ok(resolver.clone());
        }
        let mut builder = TokioResolver::builder_tokio()?;
        builder.options_mut().cache_size = 0;
        let resolver = builder.build()?;
        *slot = Some(resolver.clone());
        Ok(resolver)
    }
}

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
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
            let (answer, pause) = match self.look_up(family).await {
                Ok((addresses, time_to_live)) => {
                    if failures > 0 {
                        tracing::info!(host = %self.host, ?family, "name resolved again");
                    }
                    failures = 0;
                    (Ok(addresses), time_to_live.clamp(MIN_REFRESH, MAX_REFRESH))
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(
                            host = %self.host, ?family, %error,
                            "name not resolved, the last answer is kept"
                        );
                    }
                    failures += 1;
                    (Err(error.to_string()), retry_pause(failures))
                }
            };
            let discovered = {
                let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.record(family, answer);
                answers.discovered(self.port)
            };
            let is_empty = discovered.addresses.is_empty();
            (self.report)(discovered);
            let pause = if is_empty { pause.min(MAX_EMPTY_REFRESH) } else { pause };
            tokio::time::sleep(pause).await;
        }
    }

    /// The addresses of one family, and how long they may be used.
    async fn look_up(&self, family: Family) -> Result<(Vec<IpAddr>, Duration), NetError> {
        let resolver = self.resolver.resolver()?;
        let record_type = match family {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        };
        match resolver.lookup(&*self.host, record_type).await {
            Ok(answer) => {
                let addresses = answer.answers().iter().filter_map(|record| record.data.ip_addr());
                let time_to_live = answer.valid_until().saturating_duration_since(Instant::now());
                Ok((addresses.collect(), time_to_live))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let seconds = none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
                Ok((Vec::new(), seconds.unwrap_or(NO_RECORDS_REFRESH)))
            }
            Err(error) => Err(error),
        }
    }
}

fn retry_pause(failures: u32) -> Duration {
    MIN_RETRY.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(MAX_RETRY)
}

/// What both families have said. Pure.
#[derive(Default)]
struct Answers {
    v4: FamilyAnswer,
    v6: FamilyAnswer,
}

#[derive(Default)]
struct FamilyAnswer {
    is_asked: bool,
    addresses: Vec<IpAddr>,
    error: Option<String>,
}

impl Answers {
    fn record(&mut self, family: Family, answer: Result<Vec<IpAddr>, String>) {
        let mine = match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        mine.is_asked = true;
        match answer {
            Ok(mut addresses) => {
                // 0.0.0.0 is how filtering name servers say "no"; connecting to it would reach ourselves.
                addresses.retain(|ip| !ip.is_unspecified() && !ip.is_multicast());
                mine.addresses = addresses;
                mine.error = None;
            }
            Err(error) => mine.error = Some(error),
        }
    }

    fn discovered(&self, port: u16) -> Discovered {
        let both = self.v4.addresses.iter().chain(&self.v6.addresses);
        let addresses: Vec<EndpointAddress> =
            both.map(|ip| EndpointAddress::Ip(SocketAddr::new(*ip, port))).collect();
        let is_asked = self.v4.is_asked && self.v6.is_asked;
        let error = self.v4.error.as_ref().or(self.v6.error.as_ref()).cloned();
        let no_addresses =
            || (is_asked && addresses.is_empty()).then(|| "the name has no addresses".to_owned());
        Discovered {
            is_answered: is_asked || !addresses.is_empty(),
            error: error.or_else(no_addresses),
            addresses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(answers: &Answers) -> Vec<String> {
        answers.discovered(80).addresses.iter().map(ToString::to_string).collect()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_are_joined_and_failures_keep_the_last_answer() {
        let mut answers = Answers::default();
        assert_eq!(answers.discovered(80), Discovered::default());
        answers.record(Family::V4, Ok(ips(&["10.0.0.1", "10.0.0.2"])));
        assert_eq!(texts(&answers), ["10.0.0.1:80", "10.0.0.2:80"]);
        assert!(answers.discovered(80).is_answered, "one family is enough");
        answers.record(Family::V6, Ok(ips(&["2001:db8::1"])));
        assert_eq!(texts(&answers), ["10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"]);
        answers.record(Family::V4, Err("timed out".to_owned()));
        assert_eq!(texts(&answers).len(), 3);
        assert_eq!(answers.discovered(80).error.as_deref(), Some("timed out"));
        answers.record(Family::V4, Ok(ips(&["10.0.0.3"])));
        assert_eq!(texts(&answers), ["10.0.0.3:80", "[2001:db8::1]:80"]);
        assert_eq!(answers.discovered(80).error, None);
    }

    #[test]
    fn one_family_may_go_while_the_other_stays() {
        let mut answers = Answers::default();
        answers.record(Family::V6, Ok(ips(&[])));
        assert!(!answers.discovered(80).is_answered, "the other family may have some");
        answers.record(Family::V4, Ok(ips(&["10.0.0.1"])));
        assert_eq!(answers.discovered(80).error, None);
        answers.record(Family::V6, Ok(ips(&["2001:db8::1"])));
        answers.record(Family::V4, Ok(ips(&[])));
        assert_eq!(texts(&answers), ["[2001:db8::1]:80"]);
        assert_eq!(answers.discovered(80).error, None);
        answers.record(Family::V6, Ok(ips(&[])));
        assert!(answers.discovered(80).error.is_some());
    }

    #[test]
    fn addresses_that_lead_nowhere_are_left_out() {
        let mut answers = Answers::default();
        answers.record(Family::V4, Ok(ips(&["0.0.0.0", "224.0.0.1", "10.0.0.1"])));
        assert_eq!(texts(&answers), ["10.0.0.1:80"]);
    }

    #[test]
    fn retries_slow_down() {
        let pauses: Vec<u64> = (1..8).map(|n| retry_pause(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry_pause(u32::MAX), MAX_RETRY);
    }
}
