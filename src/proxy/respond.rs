//! Answers of the edge itself: one way out for redirects, static answers and every failure.
//!
//! The route's (or the site's) policies edit them like any other response, so that HSTS and CORS are there on a 404 too.
//! A failure is short JSON where the client's `Accept` names JSON, else one line of text, or the site's own page.

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, StatusCode,
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER},
};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{context::RequestContext, failure::Failure, forward::X_REQUEST_ID};
use crate::{
    policy::{PolicyResponse, ResponseHead},
    snapshot::{StaticAnswer, StaticBody},
};

/// An answer on its way out.
struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

/// Sends a route's static answer.
pub(super) async fn send_static(
    session: &mut Session,
    ctx: &mut RequestContext,
    answer: &StaticAnswer,
) -> Result<()> {
    let answer = Answer {
        status: answer.status,
        headers: answer.headers.clone(),
        body: answer.body.clone(),
    };
    send(session, ctx, answer).await
}

/// Sends the answer to an authority's challenge.
pub(super) async fn send_challenge(
    session: &mut Session,
    ctx: &mut RequestContext,
    answer: &str,
) -> Result<()> {
    let headers = vec![
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let body = Bytes::copy_from_slice(answer.as_bytes());
    send(session, ctx, Answer { status: StatusCode::OK, headers, body }).await
}

/// Sends an answer that a policy gives.
pub(super) async fn send_policy(
    session: &mut Session,
    ctx: &mut RequestContext,
    answer: PolicyResponse,
) -> Result<()> {
    send(session, ctx, Answer { status: answer.status, headers: answer.headers, body: answer.body })
        .await
}

/// Sends a redirect.
pub(super) async fn send_redirect(
    session: &mut Session,
    ctx: &mut RequestContext,
    status: StatusCode,
    to: &str,
) -> Result<()> {
    let Ok(location) = HeaderValue::from_str(to) else {
        return send_failure(session, ctx, &Failure::BadHost).await;
    };
    let headers = vec![
        (LOCATION, location),
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
    ];
    send(session, ctx, Answer { status, headers, body: Bytes::from(format!("{to}\n")) }).await
}

/// Sends the answer of a failure, unless nobody is there or a response is on its way already.
pub(super) async fn send_failure(
    session: &mut Session,
    ctx: &mut RequestContext,
    failure: &Failure,
) -> Result<()> {
    if failure.ends_connection() {
        session.set_keepalive(None);
    }
    let Some(status) = failure.status() else { return Ok(()) };
    let (content_type, body) = failure_body(session, ctx, failure, status);
    let mut headers =
        vec![(CONTENT_TYPE, content_type), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    match failure {
        Failure::MethodNotAllowed(methods) => {
            headers.extend(allow(methods).map(|value| (ALLOW, value)));
        }
        // What there is does not depend on the target, which is no resource of ours.
        Failure::Connect => headers.push((ALLOW, HeaderValue::from_static(""))),
        _ => {}
    }
    if let Some(after) = failure.retry_after() {
        // Whole seconds, and not before the time: 0 would mean at once.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.push((RETRY_AFTER, HeaderValue::from(seconds.max(1))));
    }
    send(session, ctx, Answer { status, headers, body }).await
}

fn allow(methods: &[Method]) -> Option<HeaderValue> {
    let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.sort_unstable();
    names.dedup();
    HeaderValue::from_str(&names.join(", ")).ok()
}

fn failure_body(
    session: &Session,
    ctx: &RequestContext,
    failure: &Failure,
    status: StatusCode,
) -> (HeaderValue, Bytes) {
    let page = ctx.site.as_ref().and_then(|site| site.error_pages.get(&status.as_u16()));
    if let Some(StaticBody { content_type, bytes }) = page {
        return (content_type.clone(), bytes.clone());
    }
    let request_id = ctx.request_id.to_str().unwrap_or_default();
    let reason = status.canonical_reason().unwrap_or("Error");
    if accepts_json(session) {
        let body = serde_json::json!({
            "status": status.as_u16(),
            "error": reason,
            "message": failure.message(),
            "request_id": request_id,
        });
        return (HeaderValue::from_static("application/json"), Bytes::from(format!("{body}\n")));
    }
    let text =
        format!("{} {reason}\n{}\nrequest id: {request_id}\n", status.as_u16(), failure.message());
    (HeaderValue::from_static("text/plain; charset=utf-8"), Bytes::from(text))
}

/// Whether `Accept` names a JSON type. Weights don't matter: a client that names JSON can read it.
fn accepts_json(session: &Session) -> bool {
    session.req_header().headers.get_all(ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',').any(|item| {
                let kind = item.split(';').next().unwrap_or_default().trim();
                kind.eq_ignore_ascii_case("application/json")
                    || kind.to_ascii_lowercase().ends_with("+json")
            })
        })
    })
}

async fn send(session: &mut Session, ctx: &mut RequestContext, answer: Answer) -> Result<()> {
    if session.response_written().is_some_and(|written| !written.status.is_informational()) {
        return Ok(());
    }
    ctx.is_own_answer = true;
    ctx.status = answer.status.as_u16();
    let has_no_body =
        answer.status == StatusCode::NO_CONTENT || answer.status == StatusCode::NOT_MODIFIED;
    let mut head = ResponseHeader::build(answer.status, Some(answer.headers.len() + 8))?;
    for (name, value) in answer.headers {
        head.append_header(name, value)?;
    }
    if !has_no_body {
        head.insert_header(CONTENT_LENGTH, answer.body.len())?;
    }
    edit(&mut head, ctx);
    let sends_body =
        !has_no_body && !answer.body.is_empty() && session.req_header().method != Method::HEAD;
    session.write_response_header(Box::new(head), !sends_body).await?;
    if sends_body {
        session.write_response_body(Some(answer.body), true).await
    } else {
        session.as_downstream_mut().finish_body().await
    }
}

/// What every response gets, the endpoint's too: the policies' edits and the request id.
pub(super) fn edit(head: &mut ResponseHeader, ctx: &RequestContext) {
    let chain = match (&ctx.route, &ctx.site) {
        (Some(route), _) => Some(&route.chain),
        (None, Some(site)) => Some(&site.chain),
        (None, None) => None,
    };
    if let Some(chain) = chain {
        chain.on_response(&mut ResponseHead(head), &ctx.policy);
    }
    if !ctx.request_id.is_empty() {
        // The value is valid by its type.
        drop(head.insert_header(X_REQUEST_ID, ctx.request_id.clone()));
    }
}
