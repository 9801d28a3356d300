//! `/v1/webhooks/test`: whether a webhook works.

use http::StatusCode;
use serde_json::json;

use super::{
    certificates::parameter,
    handle::{Answer, Context, error, json_answer},
};
use crate::telemetry::audit::AdminPeer;

/// Tells a webhook an event: `?name=NAME`.
pub(super) fn test(query: Option<&str>, context: &Context, peer: AdminPeer) -> Answer {
    let Some(name) = parameter(query, "name") else {
        return error(StatusCode::BAD_REQUEST, "which one? POST /v1/webhooks/test?name=NAME");
    };
    if context.control.test_webhook(&name, peer) {
        json_answer(StatusCode::ACCEPTED, &json!({ "webhook": name, "told": true }))
    } else {
        error(StatusCode::NOT_FOUND, "there is no such webhook")
    }
}
