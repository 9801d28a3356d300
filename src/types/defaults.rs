//! Every default in one place: the parser takes them from here, and so does the generated reference.

use std::num::NonZeroU32;

use super::{ByteSize, HumanDuration, MaxLoad, Percent, Rate};

macro_rules! number {
    ($n:literal) => {
        match NonZeroU32::new($n) {
            Some(n) => n,
            None => NonZeroU32::MIN,
        }
    };
}

/// Whole request head, from its first byte.
pub const HEAD_DEADLINE: HumanDuration = HumanDuration::from_secs(10);
/// TLS handshake, from accept to its end.
pub const TLS_HANDSHAKE: HumanDuration = HumanDuration::from_secs(10);
/// Silence of a client inside a request body.
pub const CLIENT_BODY_IDLE: HumanDuration = HumanDuration::from_secs(30);
/// Bytes a second that a request body must come with, once [`RATE_GRACE`] has been waited for it.
pub const BODY_RATE: ByteSize = ByteSize(1 << 10);
/// Bytes a second that a client must take of a response, once [`RATE_GRACE`] has been waited for it.
pub const SEND_RATE: ByteSize = ByteSize(1 << 10);
/// Waiting for a client in all, in one body, before its rate counts.
pub const RATE_GRACE: HumanDuration = HumanDuration::from_secs(5);
/// A client that takes no bytes of a response.
pub const WRITE_STALL: HumanDuration = HumanDuration::from_secs(30);
/// A client connection without a request.
pub const CLIENT_KEEP_ALIVE: HumanDuration = HumanDuration::from_secs(75);
/// Requests on one connection.
pub const REQUESTS_PER_CONNECTION: NonZeroU32 = number!(1_000);
/// Streams open at once on one HTTP/2 connection.
pub const STREAMS_PER_CONNECTION: NonZeroU32 = number!(100);
/// TLS handshakes of one listener under way at once.
pub const HANDSHAKES_PER_LISTENER: NonZeroU32 = number!(2_000);
/// Of those, one client network's.
pub const HANDSHAKES_PER_CLIENT: NonZeroU32 = number!(200);
/// Bits of an IPv4 address that make one client.
pub const CLIENT_PREFIX_IPV4: u8 = 32;
/// Bits of an IPv6 address that make one client: a household has as many.
pub const CLIENT_PREFIX_IPV6: u8 = 64;
/// Streams that a client of HTTP/2 may reset in ten seconds.
pub const HTTP2_RESETS: NonZeroU32 = number!(200);
/// SETTINGS of a client of HTTP/2 in ten seconds.
pub const HTTP2_SETTINGS: NonZeroU32 = number!(20);
/// Other frames of a client of HTTP/2 that carry no request, in ten seconds.
pub const HTTP2_CONTROL_FRAMES: NonZeroU32 = number!(500);
/// Streams of one HTTP/2 connection whose client let their answers wait for the whole write stall.
pub const HTTP2_STALLED_STREAMS: NonZeroU32 = number!(10);
/// Connections of one listener.
pub const CONNECTIONS_PER_LISTENER: NonZeroU32 = number!(50_000);
/// Request head in all.
pub const HEAD_SIZE: ByteSize = ByteSize(32 << 10);
/// Fields of a request head.
pub const HEAD_FIELDS: NonZeroU32 = number!(100);
/// Request target (path and query).
pub const URI_SIZE: ByteSize = ByteSize(8 << 10);
/// Request body.
pub const BODY_SIZE: ByteSize = ByteSize(10 << 20);

/// Connecting to an endpoint, TLS included.
pub const UPSTREAM_CONNECT: HumanDuration = HumanDuration::from_secs(2);
/// From the request's end to the first byte of the answer.
pub const UPSTREAM_FIRST_BYTE: HumanDuration = HumanDuration::from_secs(60);
/// Silence inside an answer.
pub const UPSTREAM_IDLE: HumanDuration = HumanDuration::from_secs(60);
/// Silence on a WebSocket, an event stream or a gRPC stream.
pub const STREAM_IDLE: HumanDuration = HumanDuration::from_secs(3_600);
/// TCP keep-alive towards endpoints and clients.
pub const TCP_KEEP_ALIVE: HumanDuration = HumanDuration::from_secs(60);
/// An unused connection in the pool.
pub const POOL_IDLE: HumanDuration = HumanDuration::from_secs(30);
/// Tries of one request, the first included.
pub const TRIES: NonZeroU32 = number!(2);
/// The longest pause before the first retry; it doubles with each.
pub const BACKOFF: HumanDuration = HumanDuration::from_millis(25);
/// The longest pause before any retry.
pub const MAX_BACKOFF: HumanDuration = HumanDuration::from_millis(250);
/// Retries of an upstream as a share of its requests of the last ten seconds.
pub const RETRY_SHARE: Percent = Percent::whole(20);
/// Retries of an upstream beside that share, so that a quiet one can retry too.
pub const RETRY_FLOOR: Rate = Rate::per_second(3);

/// What an endpoint may have of the average load per weight, with consistent hashing.
pub const MAX_LOAD: MaxLoad = MaxLoad::of_percent(125);

/// The cookie of sticky sessions is not for scripts.
pub const STICKY_HTTP_ONLY: bool = true;

/// An experiment is on where nobody says otherwise.
pub const EXPERIMENT_ENABLED: bool = true;

/// Requests that wait for room at a limit.
pub const MAX_WAITING: u32 = 100;
/// How long one waits.
pub const QUEUE_TIMEOUT: HumanDuration = HumanDuration::from_secs(1);
/// The least that an adaptive limit comes down to.
pub const ADAPTIVE_MIN: NonZeroU32 = number!(4);
/// And the most, where `max_requests` does not say it.
pub const ADAPTIVE_MAX: NonZeroU32 = number!(1_000);
/// An adaptive limit is looked at so often.
pub const ADAPTIVE_WINDOW: HumanDuration = HumanDuration::from_millis(250);
/// Answers may take so much longer than without a queue, in percent.
pub const ADAPTIVE_TOLERANCE: Percent = Percent::whole(25);
/// A limit that is reached all the time is lowered for a moment so often, to see what answers take then.
pub const ADAPTIVE_PROBE_INTERVAL: HumanDuration = HumanDuration::from_secs(30);
/// The part of requests that fail, at which a breaker opens.
pub const BREAKER_FAILURE_RATE: Percent = Percent::whole(50);
/// Fewer requests say nothing.
pub const BREAKER_MIN_REQUESTS: NonZeroU32 = number!(20);
/// They count for so long.
pub const BREAKER_WINDOW: HumanDuration = HumanDuration::from_secs(10);
/// It stays open for so long.
pub const BREAKER_OPEN: HumanDuration = HumanDuration::from_secs(5);
/// Half-open, so many are let through.
pub const BREAKER_HALF_OPEN_REQUESTS: NonZeroU32 = number!(3);
/// The part of the failures that one client network can be the cause of.
pub const BREAKER_CLIENT_SHARE: Percent = Percent::whole(25);
/// Memory that the edge may use, as a part of the control group's limit, where there is one.
pub const OVERLOAD_MEMORY: Percent = Percent::whole(90);

/// Between two probes of one endpoint.
pub const HEALTH_INTERVAL: HumanDuration = HumanDuration::from_secs(5);
/// One probe.
pub const HEALTH_TIMEOUT: HumanDuration = HumanDuration::from_secs(2);
/// Failed probes in a row that take an endpoint out.
pub const UNHEALTHY_AFTER: NonZeroU32 = number!(3);
/// Good probes in a row that take it back.
pub const HEALTHY_AFTER: NonZeroU32 = number!(2);
/// Share of the interval by which probes are spread, in percent.
pub const HEALTH_JITTER_PERCENT: u64 = 20;

/// An endpoint that came back or joined gets its whole share after this.
pub const SLOW_START: HumanDuration = HumanDuration::from_secs(10);
/// The own zone is preferred while at least this share of its weight gets requests.
pub const ZONE_THRESHOLD: Percent = Percent::whole(50);

/// Failed tries in a row that eject an endpoint.
pub const CONSECUTIVE_FAILURES: NonZeroU32 = number!(3);
/// The share of the endpoints that may be ejected at once.
pub const MAX_EJECTED: Percent = Percent::whole(50);
/// The first ejection.
pub const EJECTION: HumanDuration = HumanDuration::from_secs(10);
/// The longest ejection.
pub const MAX_EJECTION: HumanDuration = HumanDuration::from_secs(300);
/// Endpoints' failures and times are compared so often.
pub const OUTLIER_INTERVAL: HumanDuration = HumanDuration::from_secs(10);
/// Requests that a comparison needs.
pub const OUTLIER_MIN_REQUESTS: NonZeroU32 = number!(50);
/// How much larger an outlier's share of failures is.
pub const FAILURE_DIFFERENCE: Percent = Percent::whole(20);
/// By how much an endpoint that is too slow is slower than the others.
pub const LATENCY_FLOOR: HumanDuration = HumanDuration::from_millis(50);

/// One question to one name server.
pub const DNS_TIMEOUT: HumanDuration = HumanDuration::from_secs(2);
/// Look-ups of one name are at least so far apart, whatever the time to live.
pub const DNS_MIN_TTL: HumanDuration = HumanDuration::from_secs(1);
/// And at most so far.
pub const DNS_MAX_TTL: HumanDuration = HumanDuration::from_secs(300);
/// How long the last answer is used while look-ups fail or find nothing.
pub const DNS_KEEP: HumanDuration = HumanDuration::from_secs(86_400);

/// Certificate orders under way at once.
pub const ACME_ORDERS: NonZeroU32 = number!(4);
/// Failed certificate orders an hour for one name: as many as Let's Encrypt takes.
pub const ACME_FAILURES_PER_HOUR: NonZeroU32 = number!(5);
/// A challenge record must be seen in DNS within this.
pub const ACME_DNS_PROPAGATION: HumanDuration = HumanDuration::from_secs(120);
/// One connection, question or update to the server of challenge records.
pub const ACME_DNS_UPDATE_TIMEOUT: HumanDuration = HumanDuration::from_secs(10);
/// One run of the command that writes challenge records.
pub const ACME_DNS_COMMAND_TIMEOUT: HumanDuration = HumanDuration::from_secs(60);
/// The time to live of a challenge record.
pub const ACME_DNS_TTL: HumanDuration = HumanDuration::from_secs(60);

/// From the beginning of one run of a rollout's check to that of the next.
pub const CHECK_EVERY: HumanDuration = HumanDuration::from_secs(30);
/// One run of a check.
pub const CHECK_TIMEOUT: HumanDuration = HumanDuration::from_secs(5);
/// Failing results in a row that make a check fail.
pub const CHECK_FAILURES: NonZeroU32 = number!(1);

/// One try to tell a webhook an event.
pub const WEBHOOK_TIMEOUT: HumanDuration = HumanDuration::from_secs(10);

/// Ending in all, after SIGTERM.
pub const DRAIN: HumanDuration = HumanDuration::from_secs(25);
/// Part of the drain in which new connections are still taken while `/ready` says 503.
pub const LAME_DUCK: HumanDuration = HumanDuration::from_secs(5);
/// Waiting for the first probe of new endpoints at a reload.
pub const WARM_UP: HumanDuration = HumanDuration::from_millis(500);
/// A file must be still for so long before it is read.
pub const SETTLE: HumanDuration = HumanDuration::from_millis(250);
/// Looking at the files without an event.
pub const POLL: HumanDuration = HumanDuration::from_secs(2);
/// HTTP/1.1 `Retry-After` of a 503 that says no endpoint is healthy.
pub const RETRY_AFTER: HumanDuration = HumanDuration::from_secs(5);

/// The admin listener.
pub const ADMIN_ADDRESS: &str = "127.0.0.1:9180";
/// Port that redirects to TLS name.
pub const HTTPS_PORT: u16 = 443;
/// Where state is kept.
pub const STATE_DIR: &str = "/var/lib/tidegate";

/// 1 less the probability that a rollout's healthy candidate is ever taken back, over the whole rollout.
pub const ROLLOUT_CONFIDENCE: f64 = 0.999;
/// By how much more of its requests a candidate may fail than the stable.
pub const MAX_ERROR_INCREASE: f64 = 0.005;
/// By how much more of its answers a candidate may exceed the stable's p95 and p99.
pub const MAX_LATENCY_INCREASE: f64 = 0.05;
/// The steps of a canary.
pub const CANARY_STEPS: [&str; 3] = ["1% 2m", "10% 5m", "50% 5m"];
/// Failures of one client network that count in a minute.
pub const MAX_CLIENT_FAILURES: NonZeroU32 = number!(3);
/// Probes in a row that must find a candidate healthy before it gets requests.
pub const PREFLIGHT_HEALTHY: u32 = 3;
/// How long an answer to a request of the preflight may take.
pub const PREFLIGHT_TIMEOUT: HumanDuration = HumanDuration::from_secs(5);
/// Requests that warm up each endpoint, where that is asked for.
pub const WARM_UP_REQUESTS: u32 = 100;
/// What share of the requests a mirror copies.
pub const MIRROR_SHARE: Percent = Percent::whole(10);
/// How long a mirror lasts at least.
pub const MIRROR_DURATION: HumanDuration = HumanDuration::from_secs(600);
/// Pairs of answers that a mirror compares at least.
pub const MIRROR_REQUESTS: u64 = 1_000;
/// The largest body of a request that is copied.
pub const MIRROR_BODY: ByteSize = ByteSize(64 << 10);
/// Copies at the same time.
pub const MIRROR_IN_FLIGHT: u32 = 64;
/// A copy that is not answered by then has failed.
pub const MIRROR_TIMEOUT: HumanDuration = HumanDuration::from_secs(10);
/// So much of a body is compared.
pub const MIRROR_COMPARED_BODY: ByteSize = ByteSize(256 << 10);
/// How long a switch of blue-green is watched.
pub const BLUE_GREEN_WATCH: HumanDuration = HumanDuration::from_secs(300);
