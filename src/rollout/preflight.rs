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

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, header::USER_AGENT};
use tokio::{runtime::Handle, task::AbortHandle, time::sleep};

use super::{
    controller::PreflightResult,
    plan::{PreflightRequest, RolloutConfig, WarmUp},
};
use crate::{
    types::defaults,
    upstream::{Ask, Asked, Rest, Upstream},
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

/// A task that asks. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Run {
    upstream: Arc<Upstream>,
    config: Arc<RolloutConfig>,
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
        let asking = ask_on(upstream.clone(), config.clone(), result.clone());
        Self {
            upstream: upstream.clone(),
            config: config.clone(),
            result,
            task: handle.spawn(asking).abort_handle(),
        }
    }

    /// Whether it asks these endpoints, for this plan.
    pub(super) fn is_of(&self, upstream: &Arc<Upstream>, config: &Arc<RolloutConfig>) -> bool {
        Arc::ptr_eq(&self.upstream, upstream) && Arc::ptr_eq(&self.config, config)
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
    upstream: Arc<Upstream>,
    config: Arc<RolloutConfig>,
    result: Arc<Mutex<PreflightResult>>,
) {
    let preflight = &config.preflight;
    let mut warm = HashSet::new();
    loop {
        let asked = ask_all(&upstream, &preflight.requests).await;
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
async fn ask_all(upstream: &Upstream, checks: &[PreflightRequest]) -> Result<Vec<Asked>, String> {
    let endpoints = upstream.in_service();
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
