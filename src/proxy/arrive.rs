//! What happens to a request before it goes anywhere: checked, given its client and id, normalised, matched, let in.
//!
//! Place: `early_request_filter` and `request_filter`. Nothing here looks at a body.

use std::{borrow::Cow, sync::Arc, time::Instant};

use http::{
    HeaderValue, Method, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST},
    uri::Scheme,
};
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{
    admit, client_address,
    connection::ConnectionInfo,
    context::RequestContext,
    failure::Failure,
    fallback,
    forward::{self, X_REQUEST_ID, is_request_id, new_request_id, replace_path},
    gates,
    life::OnConnection,
    respond, split,
};
use crate::{
    config::ListenerLimits,
    framing::{Fault, check_fields, is_valid_host},
    policy::{Flow, PolicyContext, RequestHead, RequestView},
    route::{
        Found, capture,
        normalise::{PathError, normalise},
    },
    snapshot::{HostEntry, Route, Site, Snapshot, Target, Unknown},
    telemetry::metrics::LimitReached,
    tls::acme::HTTP_PATH,
};

/// How a request goes on.
pub(super) enum Arrived {
    /// To its upstream.
    Forward,
    /// It is answered.
    Answered,
}

/// The first step: the connection's identity and the listener's limits on this session.
pub(super) fn set_limits(session: &mut Session, ctx: &mut RequestContext) {
    ctx.connection = session.digest().and_then(ConnectionInfo::of).cloned();
    let Some(connection) = &ctx.connection else { return };
    ctx.on_connection = Some(OnConnection::begin(connection));
    if let Some(last) = connection.ending().last.load_full() {
        // Its listener is gone: what it had is still served, until the connection ends.
        ctx.snapshot = Some(last);
    }
    let limits = connection.limits();
    if !session.as_downstream_mut().is_body_done() {
        session.set_read_timeout(Some(limits.body_idle));
    }
    if session.is_http2() {
        // A stream whose client opens no window; HTTP/1.1 is watched by the I/O type.
        session.set_write_timeout(Some(limits.write_stall));
    } else {
        // A client of HTTP/1.0 takes a 1xx for the answer (RFC 9110, section 15.2).
        let is_http10 = session.req_header().version == Version::HTTP_10;
        session.set_ignore_info_resp(is_http10);
        // An answer that does not wait for the body keeps the connection; what is left of the body is read after it.
        session.set_close_on_response_before_downstream_finish(false);
    }
    if session.get_keepalive().is_some() {
        let is_old = connection.is_old();
        if is_old {
            connection.limit_reached(LimitReached::Age);
        }
        if is_old || connection.is_draining() {
            session.set_keepalive(None);
        }
    }
}

/// Everything up to the choice of an endpoint.
pub(super) async fn arrive(session: &mut Session, ctx: &mut RequestContext) -> Result<Arrived> {
    match route(session, ctx) {
        Ok(Routed::Route(route)) => enter(session, ctx, route).await,
        Ok(Routed::ToHttps(location)) => {
            let status = if matches!(session.req_header().method, Method::GET | Method::HEAD) {
                StatusCode::MOVED_PERMANENTLY
            } else {
                StatusCode::PERMANENT_REDIRECT
            };
            respond::send_redirect(session, ctx, status, &location).await?;
            Ok(Arrived::Answered)
        }
        Ok(Routed::Challenge(answer)) => {
            respond::send_challenge(session, ctx, &answer).await?;
            Ok(Arrived::Answered)
        }
        Err(failure) => fail(session, ctx, failure).await,
    }
}

/// Answers a request that goes nowhere.
async fn fail(
    session: &mut Session,
    ctx: &mut RequestContext,
    failure: Failure,
) -> Result<Arrived> {
    respond::send_failure(session, ctx, &failure).await?;
    ctx.failure = Some(failure);
    Ok(Arrived::Answered)
}

/// Where a request belongs.
enum Routed {
    Route(Arc<Route>),
    /// To the same address with TLS.
    ToHttps(String),
    /// Nowhere: an authority validates a name.
    Challenge(Arc<str>),
}

fn route(session: &mut Session, ctx: &mut RequestContext) -> Result<Routed, Failure> {
    let Some(snapshot) = ctx.snapshot.clone() else { return Err(Failure::Internal) };
    identify(session.req_header(), ctx, &snapshot);
    ctx.labels.access_log.clone_from(&snapshot.access_log);
    if session.req_header().method == Method::CONNECT {
        return Err(Failure::Connect);
    }
    let host = host_of(session.req_header())?;
    ctx.host = host.clone();
    let name = name_in(host.to_str().map_err(|_| Failure::BadHost)?);
    let Some(connection) = ctx.connection.clone() else { return Err(Failure::Internal) };
    if !connection.is_tls
        && let Some(answer) = challenge(session.req_header(), &snapshot)
    {
        return Ok(Routed::Challenge(answer));
    }
    // A listener that a reload has taken away, on a connection that outlives it.
    let table = snapshot
        .listeners
        .get(&*connection.listener())
        .ok_or(Failure::UnknownHost { refuse: true })?;
    if table.tls != connection.is_tls {
        // The listener has changed since the connection was made.
        return Err(Failure::Misdirected);
    }
    check_head(session.req_header(), &table.limits)?;
    check_http2(session.req_header())?;
    check_target(session.req_header())?;
    let path = normalise(session.req_header().uri.path(), snapshot.slashes)
        .map_err(Failure::BadPath)?
        .into_owned();
    let site = match table.hosts.find(&name) {
        Some(HostEntry::Site(site)) => site,
        Some(HostEntry::RedirectToHttps(site)) => {
            ctx.site = Some(site.clone());
            ctx.labels.site = Some(site.name.clone());
            ctx.labels.metrics = Some(site.metrics.clone());
            return Ok(Routed::ToHttps(https_location(
                &name,
                &snapshot,
                &path,
                session.req_header().uri.query(),
            )));
        }
        // Only a connection that asked for this name is sent on; this one was made for another.
        Some(HostEntry::Passthrough(_)) => return Err(Failure::Misdirected),
        None => match &table.unknown {
            Unknown::Refuse => return Err(Failure::UnknownHost { refuse: true }),
            Unknown::NotFound => return Err(Failure::UnknownHost { refuse: false }),
            Unknown::Site(site) => site,
        },
    };
    ctx.site = Some(site.clone());
    ctx.labels.site = Some(site.name.clone());
    ctx.labels.metrics = Some(site.metrics.clone());
    check_connection(site, &connection)?;
    if path != session.req_header().uri.path() && !replace_path(session.req_header_mut(), &path) {
        return Err(Failure::Internal);
    }
    ctx.path = path;
    let header = session.req_header();
    let view = RequestView {
        method: &header.method,
        path: &ctx.path,
        query: header.uri.query(),
        headers: &header.headers,
        client: ctx.client.address,
    };
    match site.routes.find(&view) {
        Found::Route(route) => Ok(Routed::Route(route.clone())),
        Found::MethodNotAllowed(methods) => Err(Failure::MethodNotAllowed(methods)),
        Found::NotFound => Err(Failure::NotFound),
    }
}

/// The answer to an authority that validates a name on a plain listener, for whichever host it asks: who knows the token
/// may have it (RFC 8555, section 8.3).
fn challenge(header: &RequestHeader, snapshot: &Snapshot) -> Option<Arc<str>> {
    let path = header.uri.path();
    // Nearly no path gets past its second byte.
    if !path.starts_with(HTTP_PATH) || !matches!(header.method, Method::GET | Method::HEAD) {
        return None;
    }
    snapshot.challenges.http(path)
}

/// The client and the request's id.
fn identify(header: &RequestHeader, ctx: &mut RequestContext, snapshot: &Snapshot) {
    ctx.client = client_address::find(ctx.peer(), &header.headers, &snapshot.trusted_proxies);
    ctx.policy = PolicyContext::new(ctx.client.address, ctx.is_tls());
    let given = header.headers.get(X_REQUEST_ID).filter(|value| is_request_id(value));
    ctx.request_id = given.cloned().unwrap_or_else(new_request_id);
}

/// The host that a request asks for, with its port as the client wrote it (RFC 9112, section 3.2; RFC 9113, section 8.3.1).
fn host_of(header: &RequestHeader) -> Result<HeaderValue, Failure> {
    let mut lines = header.headers.get_all(HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return Err(Failure::BadHost);
    }
    let host = match (header.uri.authority(), line) {
        (Some(authority), _) => {
            HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::BadHost)?
        }
        (None, Some(line)) => line.clone(),
        (None, None) => HeaderValue::from_static(""),
    };
    // HTTP/1.0 may leave it out.
    let may_be_empty = header.version < Version::HTTP_11;
    if is_valid_host(host.as_bytes()) || (host.is_empty() && may_be_empty) {
        Ok(host)
    } else {
        Err(Failure::BadHost)
    }
}

/// The name in a valid host: lower case, without port and trailing dot; IPv6 in brackets.
fn name_in(host: &str) -> Cow<'_, str> {
    let end = match host.find(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let name = host.get(..end).unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        name.to_ascii_lowercase().into()
    } else {
        name.into()
    }
}

/// The listener's limits on a head. The I/O type has refused what is far over them on HTTP/1.1; HTTP/2 is counted here.
fn check_head(header: &RequestHeader, limits: &ListenerLimits) -> Result<(), Failure> {
    let uri_bytes = header.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if uri_bytes as u64 > limits.max_uri_bytes {
        return Err(Failure::UriTooLong);
    }
    let bytes: usize =
        header.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if header.headers.len() > limits.max_fields as usize
        || (bytes + uri_bytes) as u64 > limits.max_head_bytes
    {
        return Err(Failure::HeadTooLarge);
    }
    Ok(())
}

/// What the HTTP/2 code takes, and a reader of HTTP/1.1 behind us would take otherwise.
fn check_http2(header: &RequestHeader) -> Result<(), Failure> {
    if header.version < Version::HTTP_2 {
        return Ok(());
    }
    if header.uri.scheme().is_some_and(|scheme| ![Scheme::HTTP, Scheme::HTTPS].contains(scheme)) {
        return Err(Failure::ClientFraming(Fault::Target));
    }
    let fields =
        header.headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    check_fields(fields).map_err(Failure::ClientFraming)
}

/// Whether this connection may carry requests for the site.
fn check_connection(site: &Site, connection: &ConnectionInfo) -> Result<(), Failure> {
    if site.is_disabled && connection.is_tls {
        return Err(Failure::SiteDisabled);
    }
    if site.asks_for_certificates && !connection.is_tls {
        // As the site of unknown hosts, on a plain listener: nobody can show a certificate there.
        return Err(Failure::Misdirected);
    }
    if !site.demands_own_policy || !connection.is_tls {
        return Ok(());
    }
    match (&site.tls, &connection.tls) {
        (Some(tls), Some(facts)) if tls.is_satisfied_by(&facts.policy) => Ok(()),
        _ => Err(Failure::Misdirected),
    }
}

fn https_location(host: &str, snapshot: &Snapshot, path: &str, query: Option<&str>) -> String {
    let port = match snapshot.https_port {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("https://{host}{port}{path}{query}")
}

/// Through the route's policies to its target.
async fn enter(
    session: &mut Session,
    ctx: &mut RequestContext,
    route: Arc<Route>,
) -> Result<Arrived> {
    ctx.labels.route = Some(route.name.clone());
    ctx.labels.in_flight = Some(route.metrics.started());
    ctx.labels.metrics = Some(route.metrics.clone());
    ctx.route = Some(route.clone());
    if let Err(failure) = gates::enter_edge(ctx, &route) {
        return fail(session, ctx, failure).await;
    }
    // Before policies set headers, so that a client can't name theirs.
    if let Err(failure) = forward::strip_nominated(session.req_header_mut()) {
        return fail(session, ctx, failure).await;
    }
    let flow =
        route.chain.on_request(&mut RequestHead(session.req_header_mut()), &mut ctx.policy).await;
    let failure = match flow {
        Ok(Flow::Continue) => check_body(session.req_header(), route.max_body_bytes),
        Ok(Flow::Respond(answer)) => {
            respond::send_policy(session, ctx, answer).await?;
            return Ok(Arrived::Answered);
        }
        Err(denied) => Some(Failure::Denied(denied)),
    };
    if let Some(failure) = failure {
        return fail(session, ctx, failure).await;
    }
    let forward = match &route.target {
        Target::Forward(forward) => Some(forward),
        Target::Split(split) => Some(split::choose(session, ctx, split)),
        Target::Redirect { .. } | Target::Respond(_) => None,
    };
    if let Some(forward) = forward {
        return match admit::admit(session, ctx, &route, forward).await {
            Ok(()) => Ok(Arrived::Forward),
            Err(failure) if split::other_side(session, ctx, &failure, Instant::now()) => {
                Ok(Arrived::Forward)
            }
            Err(failure) if fallback::take_over(session, ctx, &failure, Instant::now()) => {
                Ok(Arrived::Forward)
            }
            Err(failure) => {
                fallback::answer(session, ctx, &failure).await?;
                ctx.failure = Some(failure);
                Ok(Arrived::Answered)
            }
        };
    }
    match &route.target {
        Target::Forward(_) | Target::Split(_) => Err(Failure::Internal.into_error()),
        Target::Redirect { to, status } => {
            let location = redirect_location(session.req_header(), ctx, &route, to);
            respond::send_redirect(session, ctx, *status, &location).await?;
            Ok(Arrived::Answered)
        }
        Target::Respond(answer) => {
            respond::send_static(session, ctx, answer).await?;
            Ok(Arrived::Answered)
        }
    }
}

/// A body that is announced as too large is refused before it is read.
fn check_body(header: &RequestHeader, max_body_bytes: u64) -> Option<Failure> {
    let announced = header.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok()?;
    (announced > max_body_bytes).then_some(Failure::BodyTooLarge)
}

/// What Pingora parsed is what was sent: it takes some targets that are no URI, and shows them mended.
fn check_target(header: &RequestHeader) -> Result<(), Failure> {
    let raw = header.raw_path();
    let parsed = header.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let is_absolute_form = [&b"http://"[..], b"https://"].iter().any(|scheme| {
        raw.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    if is_absolute_form || (raw.first() == Some(&b'/') && raw == parsed.as_bytes()) {
        Ok(())
    } else {
        Err(Failure::BadPath(PathError::NotUri))
    }
}

fn redirect_location(
    header: &RequestHeader,
    ctx: &RequestContext,
    route: &Route,
    to: &crate::route::Template,
) -> String {
    let query = header.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let scheme = if ctx.is_tls() { "https" } else { "http" };
    let captured = route.expression.as_ref().map(|regex| capture(regex, &ctx.path));
    to.fill(|name| match name {
        "path" => Some(ctx.path.as_str()),
        "query" => Some(query.as_str()),
        "host" => ctx.host.to_str().ok(),
        "scheme" => Some(scheme),
        name => captured.as_ref().and_then(|captured| captured(name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: Version, host: Option<&str>, uri: &str) -> RequestHeader {
        let mut header = RequestHeader::build("GET", b"/", None).unwrap();
        header.set_version(version);
        header.set_uri(uri.parse().unwrap());
        if let Some(host) = host {
            header.insert_header(HOST, host).unwrap();
        }
        header
    }

    #[test]
    fn hosts_are_taken_apart() {
        for (host, name) in [
            ("Example.COM", "example.com"),
            ("example.com:8443", "example.com"),
            ("example.com.", "example.com"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            let found = host_of(&header(Version::HTTP_11, Some(host), "/")).unwrap();
            assert_eq!((found.to_str().unwrap(), &*name_in(host)), (host, name));
        }
        assert!(host_of(&header(Version::HTTP_10, None, "/")).is_ok());
        assert!(host_of(&header(Version::HTTP_11, None, "/")).is_err());
        for bad in [
            "",
            "a b",
            "user@example.com",
            "example.com/path",
            "example.com:99999",
            "exa\tmple",
            "a:b:c",
        ] {
            assert!(host_of(&header(Version::HTTP_11, Some(bad), "/")).is_err(), "{bad:?}");
        }
        let absolute = header(Version::HTTP_11, Some("b"), "http://a/x");
        assert_eq!(host_of(&absolute).unwrap(), "a");
    }

    #[test]
    fn a_target_that_is_no_uri_is_refused() {
        for (raw, is_good) in
            [("/a?b=c", true), ("/a b", false), ("http://a/x", true), ("a", false)]
        {
            let mut header = header(Version::HTTP_11, Some("a"), "/");
            if header.set_raw_path(raw.as_bytes()).is_ok() {
                assert_eq!(check_target(&header).is_ok(), is_good, "{raw}");
            }
        }
    }
}
