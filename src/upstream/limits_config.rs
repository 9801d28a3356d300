//! `limits` and `breaker` of an upstream: as written, and parsed.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::UpstreamProtocol;
use crate::{
    limit::{AdaptiveConfig, BreakerConfig, QueueConfig, QueueOrder, RawQueue},
    types::{HumanDuration, KeyPath, Percent, Problems, defaults, deserialize_by_form},
};

/// `limits`: how much is put on an upstream at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawLimits {
    /// Requests that it has at once, over all endpoints; retries are not counted apart. Long streams (WebSockets, events,
    /// gRPC streams) count until their head. Default: no limit; with `adaptive` the most that it may come to, 1000.
    pub max_requests: Option<NonZeroU32>,
    /// Connections of HTTP/1.1 and TCP to its endpoints that are open at once, those in the pool too: a request that would
    /// need another one gets 503. Default: no limit.
    pub max_connections: Option<NonZeroU32>,
    /// So many requests may wait for room; more get 503 at once. 0 is no queue.
    #[schemars(extend("default" = defaults::MAX_WAITING))]
    pub max_waiting: Option<u32>,
    /// No request waits longer: 503 after it.
    #[schemars(extend("default" = defaults::QUEUE_TIMEOUT.to_string()))]
    pub queue_timeout: Option<HumanDuration>,
    /// Which request is next: `fifo`, that which has waited longest, or `lifo`, that which came last; of a full queue the
    /// oldest leaves then.
    #[schemars(extend("default" = "fifo"))]
    pub queue_order: Option<QueueOrder>,
    /// Finds the limit of requests by itself, from how long answers take: `true`, or a table.
    #[schemars(extend("default" = false))]
    pub adaptive: Option<RawAdaptive>,
}

/// `limits.adaptive`, as written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawAdaptive {
    /// `true`: with the defaults. `false`: not.
    Switch(bool),
    /// A table.
    Table(RawAdaptiveTable),
}

deserialize_by_form!(
    RawAdaptive,
    "true, false, or a table such as { min = 10 }",
    { bool => Switch, table => Table }
);

/// How a limit follows latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawAdaptiveTable {
    /// The limit never goes below.
    #[schemars(extend("default" = defaults::ADAPTIVE_MIN))]
    pub min: Option<NonZeroU32>,
    /// It is looked at so often.
    #[schemars(extend("default" = defaults::ADAPTIVE_WINDOW.to_string()))]
    pub window: Option<HumanDuration>,
    /// Answers may take so much longer than they do without a queue at the endpoints. More where fast and slow answers are
    /// mixed.
    #[schemars(extend("default" = defaults::ADAPTIVE_TOLERANCE))]
    pub tolerance: Option<Percent>,
    /// A limit that is reached all the time is brought down to a quarter so often, to see what answers take then: for two
    /// windows, and about six times as long as an answer takes where that is longer.
    #[schemars(extend("default" = defaults::ADAPTIVE_PROBE_INTERVAL.to_string()))]
    pub probe_interval: Option<HumanDuration>,
}

/// `breaker`, as written.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawBreaker {
    /// `true`: with the defaults. `false`: none; an inherited one is dropped.
    Switch(bool),
    /// A table.
    Table(RawBreakerTable),
}

deserialize_by_form!(
    RawBreaker,
    "true, false, or a table such as { failure_rate = \"50%\", open = \"5s\" }",
    { bool => Switch, table => Table }
);

/// When nothing is asked of an upstream for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RawBreakerTable {
    /// The part of the tries that fail, at which it opens: connections that fail, resets, time-outs, cut answers, 5xx.
    #[schemars(extend("default" = defaults::BREAKER_FAILURE_RATE))]
    pub failure_rate: Option<Percent>,
    /// Fewer tries in the window say nothing.
    #[schemars(extend("default" = defaults::BREAKER_MIN_REQUESTS))]
    pub min_requests: Option<NonZeroU32>,
    /// Tries count for so long.
    #[schemars(extend("default" = defaults::BREAKER_WINDOW.to_string()))]
    pub window: Option<HumanDuration>,
    /// It stays open for so long: every request gets 503 at once.
    #[schemars(extend("default" = defaults::BREAKER_OPEN.to_string()))]
    pub open: Option<HumanDuration>,
    /// After that so many requests are let through; when as many went well it closes, when one fails it opens again.
    #[schemars(extend("default" = defaults::BREAKER_HALF_OPEN_REQUESTS))]
    pub half_open_requests: Option<NonZeroU32>,
    /// The part of the failures that open it, which one client network (an IPv4 address, 64 bits of IPv6) can be the cause
    /// of. Connections that fail are nobody's. `"100%"` lifts it: for upstreams whose few clients are trusted.
    #[schemars(extend("default" = defaults::BREAKER_CLIENT_SHARE))]
    pub client_share: Option<Percent>,
}

/// `limits`, parsed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimitsConfig {
    /// Requests at once; with `adaptive` the most there may ever be.
    pub max_requests: Option<u32>,
    /// Connections at once.
    pub max_connections: Option<u32>,
    /// Those who wait for room among the requests.
    pub queue: QueueConfig,
    /// How the limit of requests follows latency.
    pub adaptive: Option<AdaptiveConfig>,
}

impl RawLimits {
    /// This one's keys, then `base`'s.
    pub fn or(self, base: Self) -> Self {
        let queue = self.queue().or(base.queue());
        Self {
            max_requests: self.max_requests.or(base.max_requests),
            max_connections: self.max_connections.or(base.max_connections),
            max_waiting: queue.max_waiting,
            queue_timeout: queue.queue_timeout,
            queue_order: queue.queue_order,
            adaptive: match (self.adaptive, base.adaptive) {
                (Some(RawAdaptive::Table(mine)), Some(RawAdaptive::Table(theirs))) => {
                    Some(RawAdaptive::Table(mine.or(theirs)))
                }
                (mine, theirs) => mine.or(theirs),
            },
        }
    }

    const fn queue(self) -> RawQueue {
        RawQueue {
            max_waiting: self.max_waiting,
            queue_timeout: self.queue_timeout,
            queue_order: self.queue_order,
        }
    }

    /// Fills in the defaults; `path` is that of the table.
    pub fn parse(
        self,
        protocol: UpstreamProtocol,
        path: &KeyPath,
        problems: &mut Problems,
    ) -> LimitsConfig {
        let adaptive = match self.adaptive {
            None | Some(RawAdaptive::Switch(false)) => None,
            Some(RawAdaptive::Switch(true)) => Some(RawAdaptiveTable::default()),
            Some(RawAdaptive::Table(table)) => Some(table),
        };
        let most = self.max_requests.map(NonZeroU32::get);
        let adaptive = adaptive.map(|table| table.parse(most, &path.key("adaptive"), problems));
        let has_queue = self.queue() != RawQueue::default();
        if has_queue && most.is_none() && adaptive.is_none() {
            problems
                .error(path, "nobody ever waits where requests have no limit")
                .at_key()
                .help("add `max_requests`, or `adaptive = true`");
        }
        if self.max_connections.is_some() && protocol == UpstreamProtocol::Http2 {
            problems
                .error(
                    &path.key("max_connections"),
                    "connections of HTTP/2 are not counted: each carries up to 100 requests",
                )
                .help("use `max_requests`");
        }
        LimitsConfig {
            max_requests: most,
            max_connections: self.max_connections.map(NonZeroU32::get),
            queue: self.queue().parse(path, problems),
            adaptive,
        }
    }
}

impl RawAdaptiveTable {
    fn or(self, base: Self) -> Self {
        Self {
            min: self.min.or(base.min),
            window: self.window.or(base.window),
            tolerance: self.tolerance.or(base.tolerance),
            probe_interval: self.probe_interval.or(base.probe_interval),
        }
    }

    fn parse(self, most: Option<u32>, path: &KeyPath, problems: &mut Problems) -> AdaptiveConfig {
        let most = most.unwrap_or(defaults::ADAPTIVE_MAX.get());
        let least = self.min.map_or(defaults::ADAPTIVE_MIN.get().min(most), NonZeroU32::get);
        if least > most {
            problems
                .error(&path.key("min"), format!("the least, {least}, is above the most, {most}"))
                .help("make `limits.max_requests` larger, or this smaller");
        }
        let window = self.window.unwrap_or(defaults::ADAPTIVE_WINDOW);
        if window.0.as_millis() < 10 {
            problems.error(&path.key("window"), format!("{window} is too short; at least 10ms"));
        }
        let probe_every = self.probe_interval.unwrap_or(defaults::ADAPTIVE_PROBE_INTERVAL);
        if probe_every < window {
            problems.error(
                &path.key("probe_interval"),
                format!("{probe_every} is shorter than the window, which is {window}"),
            );
        }
        let tolerance = self.tolerance.unwrap_or(defaults::ADAPTIVE_TOLERANCE);
        AdaptiveConfig {
            least,
            most,
            window: window.0,
            tolerance: f64::from(tolerance.millionths()) / 1e6,
            probe_every: probe_every.0,
        }
    }
}

impl RawBreaker {
    /// This one's keys, then `base`'s.
    pub fn or(self, base: Self) -> Self {
        match (self, base) {
            (Self::Table(mine), Self::Table(theirs)) => Self::Table(RawBreakerTable {
                failure_rate: mine.failure_rate.or(theirs.failure_rate),
                min_requests: mine.min_requests.or(theirs.min_requests),
                window: mine.window.or(theirs.window),
                open: mine.open.or(theirs.open),
                half_open_requests: mine.half_open_requests.or(theirs.half_open_requests),
                client_share: mine.client_share.or(theirs.client_share),
            }),
            (mine, _) => mine,
        }
    }

    /// Fills in the defaults; `None` is none.
    pub fn parse(self, path: &KeyPath, problems: &mut Problems) -> Option<BreakerConfig> {
        let table = match self {
            Self::Switch(false) => return None,
            Self::Switch(true) => RawBreakerTable::default(),
            Self::Table(table) => table,
        };
        let failure_rate = table.failure_rate.unwrap_or(defaults::BREAKER_FAILURE_RATE);
        let client_share = table.client_share.unwrap_or(defaults::BREAKER_CLIENT_SHARE);
        for (key, share) in [("failure_rate", failure_rate), ("client_share", client_share)] {
            if share.millionths() == 0 {
                problems.error(&path.key(key), "nothing is less than 0%");
            }
        }
        let window = table.window.unwrap_or(defaults::BREAKER_WINDOW);
        let open = table.open.unwrap_or(defaults::BREAKER_OPEN);
        for (key, time) in [("window", window), ("open", open)] {
            if time.0.as_millis() < 100 {
                problems.error(&path.key(key), format!("{time} is too short; at least 100ms"));
            }
        }
        Some(BreakerConfig {
            failure_rate,
            min_requests: table.min_requests.unwrap_or(defaults::BREAKER_MIN_REQUESTS).get(),
            window: window.0,
            open: open.0,
            half_open_requests: table
                .half_open_requests
                .unwrap_or(defaults::BREAKER_HALF_OPEN_REQUESTS)
                .get(),
            client_share,
        })
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        RawLimits::default().parse(
            UpstreamProtocol::default(),
            &KeyPath::root(),
            &mut Problems::new(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> (LimitsConfig, Problems) {
        let mut problems = Problems::new();
        let raw: RawLimits = toml::from_str(text).unwrap();
        let config = raw.parse(UpstreamProtocol::Http1, &KeyPath::root(), &mut problems);
        (config, problems)
    }

    #[test]
    fn one_key_is_enough_for_sane_limits() {
        let (config, problems) = limits("max_requests = 50");
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(config.queue.max_waiting, defaults::MAX_WAITING);
        assert_eq!(config.queue.timeout, defaults::QUEUE_TIMEOUT.0);
        let (config, problems) = limits("adaptive = true");
        assert!(problems.is_empty(), "{problems:?}");
        let adaptive = config.adaptive.unwrap();
        assert_eq!((adaptive.least, adaptive.most, adaptive.tolerance), (4, 1_000, 0.25));
        assert!(config.max_requests.is_none() && config.max_connections.is_none());
        let (config, problems) = limits("max_requests = 2\nadaptive = true");
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!((config.adaptive.unwrap().least, config.adaptive.unwrap().most), (2, 2));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "max_waiting = 5",
            "max_requests = 5\nadaptive = { min = 10 }",
            "max_requests = 5\nqueue_timeout = '0s'",
            "max_requests = 5\nmax_waiting = 1000000",
            "adaptive = { window = '1ms' }",
            "adaptive = { probe_interval = '100ms' }",
        ] {
            assert!(limits(text).1.has_errors(), "{text}");
        }
        for text in
            ["failure_rate = '0%'", "client_share = '0%'", "window = '10ms'", "open = '1ms'"]
        {
            let mut problems = Problems::new();
            RawBreaker::Table(toml::from_str(text).unwrap()).parse(&KeyPath::root(), &mut problems);
            assert!(problems.has_errors(), "{text}");
        }
    }
}
