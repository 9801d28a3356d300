//! From a request to its answer.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use hyper::body::Body;
use serde_json::json;

use super::{
    Control, Readiness, ReloadOutcome, Token, access, access::Refused, certificates, experiments,
    log_level, rollouts, webhooks,
};
use crate::telemetry::{audit::AdminPeer, metrics};

const PATHS: &str = "\
tidegate admin

GET    /live              the process runs
GET    /ready             200: send traffic here; 503: starting or draining
GET    /metrics           Prometheus metrics
GET    /v1/status         what is in force and how it does, as JSON
POST   /v1/config/reload  read the configuration again
POST   /v1/certificates/renew?site=NAME
                          order the certificate of a site now
POST   /v1/acme/roll-account-key?authority=NAME
                          take a new key for the account with an authority
GET    /v1/rollouts       rollouts and how they do, as JSON
GET    /v1/rollouts/NAME  one of them
POST   /v1/rollouts/NAME/start|pause|resume|promote|abort|switch
POST   /v1/webhooks/test?name=NAME
                          tell a webhook a test event
GET    /v1/experiments    feature flags and A/B tests
POST   /v1/experiments/NAME/on|off|reset
                          switch one; reset: as the configuration says
GET    /v1/log/level      how much the edge logs
PUT    /v1/log/level      change it: {\"level\": \"debug\", \"for\": \"10m\"}
DELETE /v1/log/level      end the change
";

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROMETHEUS: HeaderValue = HeaderValue::from_static(metrics::CONTENT_TYPE);

pub(super) type Answer = Response<Full<Bytes>>;

/// What every request needs.
pub(super) struct Context {
    pub(super) control: Arc<dyn Control>,
    pub(super) token: Option<Token>,
}

/// Answers a request that came from `peer`. Its body is read only where it has a meaning.
pub(super) async fn handle<B>(request: Request<B>, context: &Context, peer: AdminPeer) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let method = request.method();
    let is_read = *method == Method::GET || *method == Method::HEAD;
    let path = request.uri().path();
    match path {
        "/live" if is_read => return answer(StatusCode::OK, TEXT, "live\n"),
        "/ready" if is_read => return ready(context.control.readiness()),
        _ => {}
    }
    let is_unix = peer == AdminPeer::UnixSocket;
    let allowed =
        access::check(method, request.uri(), request.headers(), context.token.as_ref(), is_unix);
    if let Err(refused) = allowed {
        return refuse(&refused);
    }
    if let Some(rest) = path.strip_prefix(experiments::PATH) {
        return experiments::answer(method, rest, context).await;
    }
    match (path, is_read) {
        ("/", true) => answer(StatusCode::OK, TEXT, PATHS),
        ("/metrics", true) => answer(StatusCode::OK, PROMETHEUS, context.control.metrics()),
        ("/v1/status", true) => status(context),
        ("/v1/config/reload", _) if *method == Method::POST => reload(context, peer).await,
        ("/v1/certificates/renew", _) if *method == Method::POST => {
            certificates::renew(request.uri().query(), context, peer)
        }
        ("/v1/acme/roll-account-key", _) if *method == Method::POST => {
            certificates::roll_account_key(request.uri().query(), context, peer).await
        }
        ("/v1/webhooks/test", _) if *method == Method::POST => {
            webhooks::test(request.uri().query(), context, peer)
        }
        (path, _) if path == rollouts::PATH || path.starts_with("/v1/rollouts/") => {
            let rest = path.strip_prefix(rollouts::PATH).unwrap_or_default();
            rollouts::answer(method, rest, context, peer).await
        }
        (
            "/v1/config/reload"
            | "/v1/certificates/renew"
            | "/v1/acme/roll-account-key"
            | "/v1/webhooks/test",
            _,
        ) => method_not_allowed("POST"),
        ("/v1/log/level", _) => log_level::answer(request, context, peer).await,
        ("/" | "/live" | "/ready" | "/metrics" | "/v1/status", false) => {
            method_not_allowed("GET, HEAD")
        }
        _ => error(StatusCode::NOT_FOUND, "there is nothing here; GET / lists the paths"),
    }
}

fn ready(readiness: Readiness) -> Answer {
    let status = match readiness {
        Readiness::Ready => StatusCode::OK,
        Readiness::Starting | Readiness::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    answer(status, TEXT, format!("{}\n", readiness.word()))
}

fn status(context: &Context) -> Answer {
    match serde_json::to_vec(&context.control.status()) {
        Ok(body) => answer(StatusCode::OK, JSON, body),
        Err(problem) => {
            tracing::error!(error = %problem, "status can't be written");
            error(StatusCode::INTERNAL_SERVER_ERROR, "the status can't be written")
        }
    }
}

async fn reload(context: &Context, peer: AdminPeer) -> Answer {
    let control = Arc::clone(&context.control);
    // A task of its own: a client that goes away must not stop a reload half-way.
    let outcome = tokio::spawn(async move { control.reload(peer).await }).await;
    match outcome {
        Ok(ReloadOutcome::Taken { generation }) => {
            json_answer(StatusCode::OK, &json!({ "generation": generation, "changed": true }))
        }
        Ok(ReloadOutcome::Unchanged { generation }) => {
            json_answer(StatusCode::OK, &json!({ "generation": generation, "changed": false }))
        }
        Ok(ReloadOutcome::Refused { problems }) => json_answer(
            StatusCode::UNPROCESSABLE_ENTITY,
            &json!({ "error": "the configuration is refused, the old one stays in force", "problems": problems }),
        ),
        Err(problem) => {
            tracing::error!(error = %problem, "reload failed");
            error(StatusCode::INTERNAL_SERVER_ERROR, "the reload failed; see the log")
        }
    }
}

fn refuse(refused: &Refused) -> Answer {
    match refused {
        Refused::Token => {
            let mut answer = error(
                StatusCode::UNAUTHORIZED,
                "this needs the admin token: Authorization: Bearer …",
            );
            answer
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidegate\""));
            answer
        }
        Refused::NoToken(problem) => {
            tracing::warn!(error = %problem, "admin request refused");
            error(StatusCode::SERVICE_UNAVAILABLE, "the admin token can't be read; see the log")
        }
        Refused::Host => error(
            StatusCode::FORBIDDEN,
            "without a token, the admin listener answers to localhost and loopback addresses only",
        ),
        Refused::CrossSite => {
            error(StatusCode::FORBIDDEN, "the request comes from a page of another site")
        }
    }
}

pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed here");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    json_answer(status, &json!({ "error": message }))
}

pub(super) fn json_answer(status: StatusCode, body: &serde_json::Value) -> Answer {
    answer(status, JSON, body.to_string())
}

fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
