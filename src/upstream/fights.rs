//! Settings that are each right and fight each other. They are warnings: somebody may want them so.
//!
//! Asked when a configuration is loaded: for each upstream, and for each route that has timeouts or retries of its own.

use std::time::Duration;

use super::{
    config::{Timeouts, UpstreamConfig},
    eligibility_config::WhenNoneHealthy,
    raw::{Balance, UpstreamProtocol},
    retries_config::Retries,
};
use crate::types::{EndpointAddress, HumanDuration, KeyPath, Percent, Problems};

/// Warns of what in an upstream's settings makes something else useless, or worse.
pub(super) fn warn(config: &UpstreamConfig, problems: &mut Problems) {
    let path = &config.path;
    warn_of_tries(&config.retries, &config.timeouts, path, problems);
    if let Some(check) = &config.health_check
        && check.timeout > check.interval
    {
        problems
            .warning(
                &path.key("health_check").key("timeout"),
                format!(
                    "a probe may take {}, longer than the {} between two of them",
                    shown(check.timeout),
                    shown(check.interval)
                ),
            )
            .help("a shorter `timeout` finds a hanging endpoint sooner");
    }
    let rules = &config.eligibility;
    let is_judged = config.health_check.is_some() || config.outlier_detection.is_some();
    if config.health_check.is_none() && rules.when_none_healthy == WhenNoneHealthy::Try {
        problems
            .warning(
                &path.key("when_none_healthy"),
                "without a health check no endpoint is ever unhealthy",
            )
            .help("add `health_check = { path = \"/healthz\" }`");
    }
    match (rules.panic_threshold, &config.outlier_detection) {
        (Some(_), _) if !is_judged => {
            problems
                .warning(
                    &path.key("panic_threshold"),
                    "without a health check and outlier detection there is never a panic",
                )
                .help("add `health_check = { path = \"/healthz\" }`");
        }
        (Some(threshold), Some(outliers))
            if threshold.millionths() + outliers.max_ejected.millionths()
                > Percent::ALL.millionths() =>
        {
            problems
                .warning(
                    &path.key("panic_threshold"),
                    format!(
                        "ejections alone can take out {} of the endpoints, and then those are used again",
                        outliers.max_ejected
                    ),
                )
                .help("lower the threshold, or `outlier_detection.max_ejected`");
        }
        _ => {}
    }
    let is_fixed = config.endpoints.iter().all(|endpoint| {
        matches!(endpoint.address, EndpointAddress::Ip(_) | EndpointAddress::Unix(_))
    });
    if let Some(least) = rules.stable_min
        && is_fixed
        && least as usize > config.endpoints.len()
    {
        problems.warning(
            &path.key("stable_min"),
            format!(
                "there are {} endpoints only: the event would never end",
                config.endpoints.len()
            ),
        );
    }
    if config.balance == Balance::ConsistentHash && config.sticky.is_some() {
        problems
            .warning(
                &path.key("sticky"),
                "the cookie goes before the hash, which is left to clients that come for the first time",
            )
            .help("one of the two is enough");
    }
    if let (Some(requests), Some(connections)) =
        (config.limits.max_requests, config.limits.max_connections)
        && config.protocol == UpstreamProtocol::Http1
        && requests > connections
    {
        problems
            .warning(
                &path.key("limits").key("max_connections"),
                format!(
                    "each of {requests} requests needs a connection, and there may be {connections}: the others are refused without waiting"
                ),
            )
            .help("set `max_requests` to no more than `max_connections`");
    }
    let queue = &config.limits.queue;
    if let Some(total) = config.timeouts.total
        && (config.limits.max_requests.is_some() || config.limits.adaptive.is_some())
        && queue.max_waiting > 0
        && queue.timeout >= total
    {
        problems
            .warning(
                &path.key("limits").key("queue_timeout"),
                format!(
                    "waiting for room counts too, and `timeouts.total` is {}: who waits so long is not answered in time",
                    shown(total)
                ),
            )
            .help("a shorter `queue_timeout` leaves time for an answer");
    }
}

/// Warns of tries that can't end, that never come, or that do something twice. `path` is that of the upstream or the route.
pub fn warn_of_tries(
    retries: &Retries,
    timeouts: &Timeouts,
    path: &KeyPath,
    problems: &mut Problems,
) {
    let at = path.key("retries");
    if retries.tries > 1 {
        if retries.budget.is_nothing() {
            problems
                .warning(&at.key("budget"), "this budget never has a retry")
                .help("write `tries = 1` where none are wanted");
        }
        if retries.on().timeout && retries.per_try_timeout.is_none() {
            problems
                .warning(
                    &at.key("on"),
                    format!(
                        "a try times out after `timeouts.first_byte` only, which is {}",
                        shown(timeouts.first_byte)
                    ),
                )
                .help("add `per_try_timeout = \"2s\"`, or what a good answer may take");
        }
        let unsafe_method = retries.methods().iter().find(|method| !method.is_safe());
        if let Some(method) = unsafe_method
            && !method.is_idempotent()
            && (retries.on().reset || retries.on().timeout)
        {
            problems
                .warning(
                    &at.key("methods"),
                    format!("a {method} whose answer is lost may be done twice"),
                )
                .help("keep to idempotent methods, unless the endpoint tells repeated requests from new ones");
        }
    }
    let Some(total) = timeouts.total else { return };
    let Some(per_try) = retries.per_try_timeout else { return };
    let key = at.key("per_try_timeout");
    if per_try >= total {
        problems
            .warning(
                &key,
                format!(
                    "one try may take all of `timeouts.total`, which is {}: there is no time for another",
                    shown(total)
                ),
            )
            .help("a shorter one leaves time for a retry");
    } else if per_try.saturating_mul(retries.tries) > total {
        problems
            .warning(
                &key,
                format!(
                    "{} tries of {} take longer than `timeouts.total`, which is {}: the last is cut short",
                    retries.tries,
                    shown(per_try),
                    shown(total)
                ),
            )
            .help("shorten `per_try_timeout`, or take fewer `tries`");
    }
    // A shorter try cuts connecting short by itself: only what somebody wrote is worth a word.
    if timeouts.connect > per_try && timeouts.connect != Timeouts::default().connect {
        problems
            .warning(
                &path.key("timeouts").key("connect"),
                format!(
                    "connecting may take {}, longer than a whole try of {}",
                    shown(timeouts.connect),
                    shown(per_try)
                ),
            )
            .help("a shorter `connect` leaves a try time for its answer");
    }
}

fn shown(time: Duration) -> HumanDuration {
    HumanDuration(time)
}
