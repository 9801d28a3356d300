//! `/v1/log/level`: the level of the edge's own log, shown and changed.
//!
//! `PUT {"level": "debug", "for": "10m"}` changes it; without `for` until further notice, that is `DELETE`, a reload
//! with another `log.level`, or the end of the process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use serde::Deserialize;
use serde_json::json;

use super::handle::{Answer, Context, error, json_answer, method_not_allowed};
use crate::{
    telemetry::{
        LogLevel,
        audit::{Actor, AdminPeer, Entry},
        logging::Logging,
    },
    types::HumanDuration,
};

/// A change says two words.
const MAX_BODY_BYTES: usize = 4 << 10;
const BODY_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    level: LogLevel,
    #[serde(rename = "for")]
    keep: Option<HumanDuration>,
}

/// Shows or changes it.
pub(super) async fn answer<B>(request: Request<B>, context: &Context, peer: AdminPeer) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(logging) = context.control.logging() else {
        return error(StatusCode::CONFLICT, "the log of this process is not the edge's own");
    };
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::PUT => match read(request.into_body()).await {
            Ok(change) => {
                if let Err(problem) = take(&logging, &change) {
                    return error(StatusCode::UNPROCESSABLE_ENTITY, problem);
                }
                record(context, peer, "changed", &logging);
            }
            Err((status, problem)) => return error(status, &problem),
        },
        Method::DELETE => {
            logging.end_change();
            record(context, peer, "restored", &logging);
        }
        _ => return method_not_allowed("GET, HEAD, PUT, DELETE"),
    }
    match serde_json::to_value(logging.status()) {
        Ok(status) => json_answer(StatusCode::OK, &status),
        Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
    }
}

fn record(context: &Context, peer: AdminPeer, outcome: &'static str, logging: &Logging) {
    let status = logging.status();
    let entry = Entry::new(Actor::Admin(peer), "log_level", "log", outcome);
    context.control.record(entry.detail(json!({ "level": status.level, "until": status.until })));
}

async fn read<B>(body: B) -> Result<Change, (StatusCode, String)>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let body = Limited::new(body, MAX_BODY_BYTES).collect();
    let bytes = match tokio::time::timeout(BODY_DEADLINE, body).await {
        Ok(Ok(whole)) => whole.to_bytes(),
        Ok(Err(problem)) => {
            let message = format!("the body can't be read: {problem}");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        Err(_) => {
            let message = "the body did not come in time".to_owned();
            return Err((StatusCode::REQUEST_TIMEOUT, message));
        }
    };
    serde_json::from_slice(&bytes).map_err(|problem| {
        let wanted = r#"write {"level": "debug"} or {"level": "debug", "for": "10m"}"#;
        (StatusCode::UNPROCESSABLE_ENTITY, format!("{problem}; {wanted}"))
    })
}

fn take(logging: &Logging, change: &Change) -> Result<(), &'static str> {
    let Some(keep) = change.keep else {
        logging.change(change.level, None);
        return Ok(());
    };
    let end = Instant::now().checked_add(keep.0).filter(|_| !keep.0.is_zero());
    let Some(end) = end else {
        return Err("a change holds for a time such as \"10m\"");
    };
    logging.change(change.level, Some(end));
    let logging = logging.clone();
    tokio::spawn(async move {
        tokio::time::sleep_until(end.into()).await;
        logging.expire();
    });
    Ok(())
}
