//! `/v1/experiments`: feature flags and A/B tests, shown and switched.
//!
//! `POST /v1/experiments/NAME/on`, `/off` and `/reset`. What is switched goes before the configuration until it is reset.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;

use super::{
    ExperimentSwitch, SwitchOutcome,
    handle::{Answer, Context, error, json_answer, method_not_allowed},
};

/// The path of all experiments; of one with a slash after it.
pub(super) const PATH: &str = "/v1/experiments";

/// Shows all, or switches one: `rest` is what comes after [`PATH`].
pub(super) async fn answer(method: &Method, rest: &str, context: &Context) -> Answer {
    if rest.is_empty() {
        return match *method {
            Method::GET | Method::HEAD => shown(context),
            _ => method_not_allowed("GET, HEAD"),
        };
    }
    let parts = rest.strip_prefix('/').and_then(|rest| rest.split_once('/'));
    let asked = parts.and_then(|(name, word)| Some((name, switch(word)?)));
    let Some((name, to)) = asked else {
        return error(
            StatusCode::NOT_FOUND,
            "there is nothing here; POST /v1/experiments/NAME/on, /off or /reset",
        );
    };
    if *method != Method::POST {
        return method_not_allowed("POST");
    }
    // A task of its own: it is written to the disk whether or not the client waits.
    let (control, asked_for) = (Arc::clone(&context.control), name.to_owned());
    let switching = tokio::spawn(async move { control.switch_experiment(asked_for, to).await });
    match switching.await {
        Ok(SwitchOutcome::Switched { now, not_kept }) => {
            let mut body = json!({ "experiment": now, "kept": not_kept.is_none() });
            if let (Some(why), Some(body)) = (not_kept, body.as_object_mut()) {
                body.insert("problem".to_owned(), why.into());
            }
            json_answer(StatusCode::OK, &body)
        }
        Ok(SwitchOutcome::Unknown { near }) => {
            let near = near.map(|near| format!("; did you mean \"{near}\"?"));
            let near = near.unwrap_or_else(|| "; GET /v1/experiments lists them".to_owned());
            error(StatusCode::NOT_FOUND, &format!("there is no experiment \"{name}\"{near}"))
        }
        Ok(SwitchOutcome::Failed) | Err(_) => {
            error(StatusCode::INTERNAL_SERVER_ERROR, "switching it failed; see the log")
        }
    }
}

fn shown(context: &Context) -> Answer {
    match serde_json::to_value(context.control.experiments()) {
        Ok(status) => json_answer(StatusCode::OK, &status),
        Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
    }
}

fn switch(word: &str) -> Option<ExperimentSwitch> {
    match word {
        "on" => Some(ExperimentSwitch::On),
        "off" => Some(ExperimentSwitch::Off),
        "reset" => Some(ExperimentSwitch::Reset),
        _ => None,
    }
}
