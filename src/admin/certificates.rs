//! `/v1/certificates/renew` and `/v1/acme/roll-account-key`: what may be asked of certificates by ACME.

use std::{borrow::Cow, sync::Arc};

use http::StatusCode;
use serde_json::json;

use super::{
    RenewalOutcome,
    handle::{Answer, Context, error, json_answer},
};
use crate::telemetry::audit::AdminPeer;

/// Has a certificate ordered: `?site=NAME`.
pub(super) fn renew(query: Option<&str>, context: &Context, peer: AdminPeer) -> Answer {
    let Some(site) = parameter(query, "site") else {
        return error(StatusCode::BAD_REQUEST, "which site? POST /v1/certificates/renew?site=NAME");
    };
    match context.control.renew(&site, peer) {
        RenewalOutcome::Ordered => {
            json_answer(StatusCode::ACCEPTED, &json!({ "site": site, "ordered": true }))
        }
        RenewalOutcome::NotOrdered => {
            error(StatusCode::CONFLICT, "the certificate of this site is not ordered by ACME")
        }
        RenewalOutcome::NoSite => error(StatusCode::NOT_FOUND, "there is no such site with TLS"),
    }
}

/// Has an account take a new key: `?authority=NAME`.
pub(super) async fn roll_account_key(
    query: Option<&str>,
    context: &Context,
    peer: AdminPeer,
) -> Answer {
    let Some(authority) = parameter(query, "authority") else {
        return error(
            StatusCode::BAD_REQUEST,
            "which authority? POST /v1/acme/roll-account-key?authority=NAME",
        );
    };
    let (control, name) = (Arc::clone(&context.control), authority.to_string());
    // A task of its own: the authority has the new key whether or not the client waits.
    let rolled = tokio::spawn(async move { control.roll_account_key(name, peer).await });
    match rolled.await {
        Ok(Ok(())) => {
            json_answer(StatusCode::OK, &json!({ "authority": authority, "changed": true }))
        }
        Ok(Err(problem)) => error(StatusCode::UNPROCESSABLE_ENTITY, &problem),
        Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
    }
}

pub(super) fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = form_urlencoded::parse(query?.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value)
}
