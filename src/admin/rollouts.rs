//! `/v1/rollouts`: how rollouts are, and what may be asked of them.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use super::{
    RolloutOutcome,
    handle::{Answer, Context, error, json_answer, method_not_allowed},
};
use crate::{rollout::Command, telemetry::audit::AdminPeer};

/// Where they are.
pub(super) const PATH: &str = "/v1/rollouts";

/// `GET /v1/rollouts`, `GET /v1/rollouts/NAME`, `POST /v1/rollouts/NAME/COMMAND`. `rest` is what follows [`PATH`].
pub(super) async fn answer(
    method: &Method,
    rest: &str,
    context: &Context,
    peer: AdminPeer,
) -> Answer {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let mut parts = rest.trim_start_matches('/').splitn(2, '/');
    let name = parts.next().filter(|name| !name.is_empty());
    match (name, parts.next(), is_read) {
        (None, None, true) => json_answer(StatusCode::OK, &json!(context.control.rollouts())),
        (Some(name), None, true) => show(name, context),
        (_, None, false) => method_not_allowed("GET, HEAD"),
        (Some(name), Some(word), false) if *method == Method::POST => {
            let Ok(command) = word.parse() else {
                let words = Command::ALL.map(Command::word).join(", ");
                let problem = format!("a rollout can't \"{word}\"; it can {words}");
                return error(StatusCode::NOT_FOUND, &problem);
            };
            command_one(name, command, context, peer).await
        }
        _ => method_not_allowed("POST"),
    }
}

fn show(name: &str, context: &Context) -> Answer {
    match context.control.rollouts().into_iter().find(|rollout| *rollout.name == *name) {
        Some(rollout) => json_answer(StatusCode::OK, &json!(rollout)),
        None => {
            error(StatusCode::NOT_FOUND, "there is no such rollout; GET /v1/rollouts lists them")
        }
    }
}

async fn command_one(name: &str, command: Command, context: &Context, peer: AdminPeer) -> Answer {
    let (control, name) = (Arc::clone(&context.control), name.to_owned());
    // A task of its own: what is in force must be written down, also when the client goes away.
    let done =
        tokio::spawn(async move { control.command_rollout(name, command, peer).await }).await;
    match done {
        Ok(RolloutOutcome::Done(status)) => json_answer(StatusCode::OK, &json!(status)),
        Ok(RolloutOutcome::Unknown(problem)) => error(StatusCode::NOT_FOUND, &problem),
        Ok(RolloutOutcome::Refused(problem)) => error(StatusCode::CONFLICT, &problem),
        Ok(RolloutOutcome::NotKept(problem)) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem),
        Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
    }
}
