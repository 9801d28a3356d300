//! Asks the endpoints of a side what its preflight lists, and warms them up.
//!
//! Place: beside `live.rs`, in a task of its own, while the state machine is in its preflight; [`Run`] ends it when it is
//! dropped. What failed is asked again every few seconds; what passed is asked again every minute while something else holds
//! the rollout, for an endpoint may have come or gone meanwhile. Bounded: one round at a time, one request to each of
//! [`ENDPOINTS_AT_A_TIME`] endpoints, or [`WARM_UP_AT_A_TIME`] to one that is warmed up.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, header::USER_AGENT};
use tokio::{runtime::Handle, task::AbortHandle, time::sleep};

use super::{
    controller::PreflightResult,
    plan::{Preflight, PreflightRequest, RolloutConfig, WarmUp},
};
use crate::{
    types::{Name, defaults},
    upstream::{Ask, Asked, Rest, Upstream, UpstreamConfig},
};

/// What failed is asked again after this time.
const AGAIN: Duration = Duration::from_secs(3);
/// What passed is asked again after this time.
const STILL: Duration = Duration::from_mins(1);
/// Endpoints that are asked at the same time.
const ENDPOINTS_AT_A_TIME: usize = 8;
/// Requests that are under way while an endpoint is warmed up.
const WARM_UP_AT_A_TIME: usize = 8;
/// Warming up one endpoint takes no longer.
const WARM_UP_TIME: Duration = Duration::from_mins(1);
/// The most of a body that is looked at.
const MAX_BODY_BYTES: usize = 64 << 10;
/// What these requests call themselves.
const AGENT: &str = concat!("tidegate-preflight/", env!("CARGO_PKG_VERSION"));

/// What is asked, and whom: another answer may be expected where any of it is another.
#[derive(Debug, PartialEq)]
struct Basis {
    preflight: Preflight,
    revision: Option<Name>,
    upstream: UpstreamConfig,
}

impl Basis {
    fn of(upstream: &Upstream, config: &RolloutConfig) -> Self {
        Self {
            preflight: config.preflight.clone(),
            revision: config.revision.clone(),
            upstream: upstream.config().clone(),
        }
    }
}

/// A task that asks. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Run {
    basis: Basis,
    /// Of the generation in force.
    upstream: Arc<ArcSwap<Upstream>>,
    result: Arc<Mutex<PreflightResult>>,
    task: AbortHandle,
}

impl Run {
    pub(super) fn start(
        handle: &Handle,
        upstream: &Arc<Upstream>,
        config: &Arc<RolloutConfig>,
    ) -> Self {
        let result = Arc::new(Mutex::new(PreflightResult::Running));
        let basis = Basis::of(upstream, config);
        let upstream = Arc::new(ArcSwap::new(upstream.clone()));
        let asking = ask_on(upstream.clone(), basis.preflight.clone(), result.clone());
        Self { basis, upstream, result, task: handle.spawn(asking).abort_handle() }
    }

    /// Goes on with this upstream and plan, where they are the same but for their generation. Says whether it does: what was
    /// asked, and warmed up, is not begun anew by every reload.
    pub(super) fn goes_on(&self, upstream: &Arc<Upstream>, config: &RolloutConfig) -> bool {
        if Arc::ptr_eq(&self.upstream.load(), upstream) && self.is_of_plan(config) {
            return true;
        }
        let is_same = self.basis == Basis::of(upstream, config);
        if is_same {
            self.upstream.store(upstream.clone());
        }
        is_same
    }

    fn is_of_plan(&self, config: &RolloutConfig) -> bool {
        self.basis.preflight == config.preflight && self.basis.revision == config.revision
    }

    pub(super) fn result(&self) -> PreflightResult {
        self.result.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask_on(
    upstream: Arc<ArcSwap<Upstream>>,
    preflight: Preflight,
    result: Arc<Mutex<PreflightResult>>,
) {
    let mut warm = HashSet::new();
    loop {
        let endpoints = upstream.load().in_service();
        let asked = ask_all(endpoints, &preflight.requests).await;
        if let (Ok(endpoints), Some(warm_up)) = (&asked, &preflight.warm_up) {
            // Each once: what was warmed up before the others failed is warm.
            let cold = endpoints.iter().filter(|endpoint| warm.insert(endpoint.label().to_owned()));
            for endpoint in cold {
                // What takes longer is warm enough.
                drop(tokio::time::timeout(WARM_UP_TIME, warm_up_one(endpoint, warm_up)).await);
            }
        }
        let (found, pause) = match asked {
            Ok(_) => (PreflightResult::Passed, STILL),
            Err(text) => (PreflightResult::Failed { text }, AGAIN),
        };
        *result.lock().unwrap_or_else(PoisonError::into_inner) = found;
        sleep(pause).await;
    }
}

/// Asks every endpoint in service everything. Says who they are, or what failed first.
async fn ask_all(endpoints: Vec<Asked>, checks: &[PreflightRequest]) -> Result<Vec<Asked>, String> {
    if endpoints.is_empty() {
        return Err("no endpoint is in service to be asked".to_owned());
    }
    let asking: Vec<_> = endpoints.iter().map(|endpoint| ask_one(endpoint, checks)).collect();
    let mut answers = stream::iter(asking).buffered(ENDPOINTS_AT_A_TIME);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    drop(answers);
    Ok(endpoints)
}

async fn ask_one(endpoint: &Asked, checks: &[PreflightRequest]) -> Result<(), String> {
    for check in checks {
        let ask = ask(check.method.clone(), check.path.clone(), check.host.as_ref());
        let ask = Ask { deadline: check.timeout, max_body_bytes: MAX_BODY_BYTES, ..ask };
        let judged = match endpoint.ask(ask).await {
            Ok(answer) => check.judge(answer.status, &answer.body),
            Err(error) => Err(format!("gave {error}")),
        };
        judged.map_err(|text| {
            format!("{} {} at {} {text}", check.method, check.path, endpoint.label())
        })?;
    }
    Ok(())
}

/// Sends one endpoint its requests. What it answers does not matter.
async fn warm_up_one(endpoint: &Asked, warm_up: &WarmUp) {
    let paths = warm_up.paths.iter().cycle().take(warm_up.requests as usize);
    stream::iter(paths)
        .for_each_concurrent(WARM_UP_AT_A_TIME, |path| async move {
            drop(endpoint.ask(ask(Method::GET, path.clone(), warm_up.host.as_ref())).await);
        })
        .await;
}

fn ask(method: Method, path: String, host: Option<&HeaderValue>) -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    Ask {
        method,
        path,
        host: host.cloned(),
        headers,
        body: Bytes::new(),
        deadline: defaults::PREFLIGHT_TIMEOUT.0,
        max_body_bytes: MAX_BODY_BYTES,
        rest: Rest::Left,
    }
}
