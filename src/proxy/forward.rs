//! The request as the endpoint sees it: forwarding headers, request id, Host, path.
//!
//! Place: once a try, on Pingora's copy of the request (which has lost its hop-by-hop fields already). Forwarding
//! headers of an untrusted client are replaced, those of a trusted proxy continued (RFC 7239; X-Forwarded-* by custom).

use http::{
    HeaderName, HeaderValue, Uri,
    header::{CONNECTION, FORWARDED, HOST},
    uri::PathAndQuery,
};
use pingora_http::RequestHeader;

use super::{
    client_address::{ClientAddress, lists_agree},
    failure::Failure,
    hop::{Hop, push_for},
};
use crate::{
    route::{Rewrite, capture},
    tls::{CertificateHeader, ClientCertificate},
};

/// The client and the proxies before us.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// Headers that other proxies use for the client's address; from an untrusted client they are lies.
///
/// Some frameworks take the two with `url` for the path, which is a way around a route; gateways that turn "-" into "_"
/// can't tell those with "_" from ours.
const ALIASES: [&str; 15] = [
    "x-real-ip",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
    "x-forwarded-scheme",
    "x-forwarded-prefix",
    "x-forwarded-ssl",
    "front-end-https",
    "x-original-url",
    "x-rewrite-url",
    "x_forwarded_for",
    "x_forwarded_proto",
    "x_forwarded_host",
    "x_real_ip",
];
/// The number of the try, from the second one on: a client's is always removed.
const X_ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-attempt-count");
/// Headers that only the edge itself sends: they tell of a client's certificate, of our tries, or of a copy. A client's are
/// always removed, also with "_" for any "-", since gateways can't tell those from ours.
const OWN_NAMES: [&str; 5] = [
    "x-attempt-count",
    "client-cert",
    "client-cert-chain",
    "x-forwarded-client-cert",
    "x-tidegate-mirror",
];
/// The request's id, made here or passed on.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What forwarding headers say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forwarding<'a> {
    /// The connection: the hop that is added.
    pub(super) hop: &'a Hop,
    /// The client, and whether the peer's own headers are believed.
    pub(super) client: ClientAddress,
    /// The Host that the client asked for.
    pub(super) host: &'a HeaderValue,
    /// The request's id.
    pub(super) request_id: &'a HeaderValue,
    /// The certificate that the client showed.
    pub(super) certificate: Option<&'a ClientCertificate>,
    /// What the endpoint is told of it.
    pub(super) certificate_headers: &'a [CertificateHeader],
    /// The number of the try.
    pub(super) attempt: u32,
}

/// Writes the forwarding headers and the request id.
pub(super) fn set_forwarding_headers(request: &mut RequestHeader, forwarding: &Forwarding<'_>) {
    if forwarding.client.from_trusted {
        continue_lists(request, forwarding);
    } else {
        remove_aliases(request);
        let hop = forwarding.hop;
        set(request, &X_FORWARDED_FOR, Some(hop.address.clone()));
        set(request, &X_FORWARDED_PROTO, Some(hop.proto.clone()));
        set_host_and_port(request, forwarding, |_, _| false);
        let mut element = String::with_capacity(64 + forwarding.host.len());
        push_element(&mut element, forwarding);
        set(request, &FORWARDED, HeaderValue::try_from(element).ok());
    }
    set(request, &X_REQUEST_ID, Some(forwarding.request_id.clone()));
    remove_own(request);
    set_certificate(request, forwarding.certificate, forwarding.certificate_headers);
    if forwarding.attempt > 1 {
        set(request, &X_ATTEMPT_COUNT, Some(HeaderValue::from(forwarding.attempt)));
    }
}

/// What comes in under our own names is a lie, from a trusted proxy too: certificates are shown to us, and tries are
/// counted here.
fn remove_own(request: &mut RequestHeader) {
    // Nearly every request has none of them, and a look costs less than the removals.
    if !request.headers.keys().any(|name| is_own(name.as_str())) {
        return;
    }
    let own = request.headers.keys().filter(|name| is_own(name.as_str()));
    for name in own.cloned().collect::<Vec<_>>() {
        request.remove_header(&name);
    }
}

/// Tells of the client's certificate.
fn set_certificate(
    request: &mut RequestHeader,
    certificate: Option<&ClientCertificate>,
    headers: &[CertificateHeader],
) {
    let Some(certificate) = certificate else { return };
    for header in headers {
        if let Some(value) = certificate.header(*header) {
            set(request, certificate_name(*header), Some(value.clone()));
        }
    }
}

fn is_own(name: &str) -> bool {
    // As for aliases: most names are told apart by their first byte.
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let is_it = |own: &&str| own.len() == name.len() && own.bytes().eq(name.bytes().map(dashed));
    matches!(name.as_bytes().first(), Some(b'c' | b'x')) && OWN_NAMES.iter().any(is_it)
}

fn certificate_name(header: CertificateHeader) -> &'static HeaderName {
    static CERTIFICATE: HeaderName = HeaderName::from_static("client-cert");
    static CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
    static XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
    match header {
        CertificateHeader::Certificate => &CERTIFICATE,
        CertificateHeader::Chain => &CHAIN,
        CertificateHeader::Xfcc => &XFCC,
    }
}

fn remove_aliases(request: &mut RequestHeader) {
    // Clients hardly ever send one; a look costs less than fifteen removals.
    if request.headers.keys().any(|name| is_alias(name.as_str())) {
        for name in ALIASES {
            request.remove_header(name);
        }
    }
}

fn is_alias(name: &str) -> bool {
    // Cheaper than comparing: all of them begin with one of these.
    matches!(name.as_bytes().first(), Some(b'x' | b't' | b'c' | b'f')) && ALIASES.contains(&name)
}

/// What a trusted proxy says goes on, and what it did not say is added.
fn continue_lists(request: &mut RequestHeader, forwarding: &Forwarding<'_>) {
    let hop = forwarding.hop;
    let keeps = |request: &RequestHeader, name: &HeaderName| request.headers.contains_key(name);
    let keeps_for = keeps(request, &X_FORWARDED_FOR);
    // Of two lists that contradict each other, the one that was read goes on.
    let keeps_forwarded =
        keeps(request, &FORWARDED) && (!keeps_for || lists_agree(&request.headers));
    // A list that the peer did not write begins with the client that the other one names.
    let client = forwarding.client.address.filter(|_| forwarding.client.address != hop.peer);
    let mut addresses = String::with_capacity(40);
    let mut element = String::with_capacity(64 + forwarding.host.len());
    if let Some(client) = client {
        if !keeps_for {
            addresses.push_str(&client.to_string());
            addresses.push_str(", ");
        }
        if !keeps_forwarded {
            push_for(&mut element, Some(client));
            element.push_str(", ");
        }
    }
    addresses.push_str(hop.address.to_str().unwrap_or("unknown"));
    push_element(&mut element, forwarding);
    let for_list = if keeps_for {
        joined(request, &X_FORWARDED_FOR, &addresses)
    } else {
        HeaderValue::try_from(addresses).ok()
    };
    let forwarded = if keeps_forwarded {
        joined(request, &FORWARDED, &element)
    } else {
        HeaderValue::try_from(element).ok()
    };
    set(request, &X_FORWARDED_FOR, for_list);
    if !keeps(request, &X_FORWARDED_PROTO) {
        set(request, &X_FORWARDED_PROTO, Some(hop.proto.clone()));
    }
    set_host_and_port(request, forwarding, keeps);
    set(request, &FORWARDED, forwarded);
}

fn set_host_and_port(
    request: &mut RequestHeader,
    forwarding: &Forwarding<'_>,
    keeps: impl Fn(&RequestHeader, &HeaderName) -> bool,
) {
    if !keeps(request, &X_FORWARDED_HOST) {
        set(request, &X_FORWARDED_HOST, Some(forwarding.host.clone()));
    }
    if !keeps(request, &X_FORWARDED_PORT) {
        set(request, &X_FORWARDED_PORT, forwarding.hop.port.clone());
    }
}

/// Replaces a header, or removes it where there is no value to give.
fn set(request: &mut RequestHeader, name: &HeaderName, value: Option<HeaderValue>) {
    match value {
        // It fails only on an invalid name or value, which the types rule out.
        Some(value) => drop(request.insert_header(name, value)),
        None => drop(request.remove_header(name)),
    }
}

/// All lines of a header and one more element, as one line.
fn joined(request: &RequestHeader, name: &HeaderName, element: &str) -> Option<HeaderValue> {
    let mut line = Vec::new();
    for value in request.headers.get_all(name) {
        line.extend_from_slice(value.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(element.as_bytes());
    HeaderValue::from_bytes(&line).ok()
}

/// Appends one element of `Forwarded`; hosts with a port are quoted (RFC 7239, sections 4 and 6).
fn push_element(line: &mut String, forwarding: &Forwarding<'_>) {
    line.push_str(&forwarding.hop.element);
    let host = forwarding.host.to_str().unwrap_or_default();
    if !host.is_empty() {
        line.push_str(";host=\"");
        line.extend(host.chars().filter(|c| !matches!(c, '"' | '\\')));
        line.push('"');
    }
}

/// A request id that is taken over: up to 128 visible characters that no log can misread.
pub(super) fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes.iter().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=')
        })
}

/// 128 random bits as 32 hexadecimal digits. Unique, not secret.
pub fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u128(..);
    let mut text = [b'0'; 32];
    for (i, digit) in text.iter_mut().enumerate() {
        let nibble = (random >> (i * 4)) & 0xf;
        *digit = DIGITS.get(nibble as usize).copied().unwrap_or(b'0');
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// Writes the route's own path and host. `path` is the normalised path that was matched.
pub(super) fn rewrite(
    request: &mut RequestHeader,
    rewrite: &Rewrite,
    expression: Option<&regex::Regex>,
    upstream_host: Option<&HeaderValue>,
    path: &str,
) {
    if let Some(host) = rewrite.host.as_ref().or(upstream_host) {
        set(request, &HOST, Some(host.clone()));
        if let (Some(scheme), Ok(authority)) = (
            request.uri.scheme().cloned(),
            host.to_str().unwrap_or_default().parse::<http::uri::Authority>(),
        ) && let Some(path) = request.uri.path_and_query().cloned()
            && let Ok(uri) =
                Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build()
        {
            request.set_uri(uri);
        }
    }
    let new_path = match (&rewrite.path, &rewrite.strip_prefix) {
        (Some(template), _) => match expression {
            Some(regex) => template.fill(capture(regex, path)),
            None => template.fill(|_| None),
        },
        (None, Some(prefix)) => match path.strip_prefix(prefix.as_str()) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                if rest.is_empty() {
                    "/".to_owned()
                } else {
                    rest.to_owned()
                }
            }
            _ => return,
        },
        (None, None) => return,
    };
    // A path from captures that is no path leaves the one that was matched.
    let _ = replace_path(request, &new_path);
}

/// Puts another path into the request's target; the query stays. Whether that was possible.
#[must_use]
pub(super) fn replace_path(request: &mut RequestHeader, path: &str) -> bool {
    let target = match request.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let Ok(target) = PathAndQuery::try_from(target) else { return false };
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(target);
    match Uri::from_parts(parts) {
        Ok(uri) => {
            request.set_uri(uri);
            true
        }
        Err(_) => false,
    }
}

/// Removes what a client's `Connection` names (RFC 9110, section 7.6.1); `close`, `keep-alive` and `upgrade` stay there.
///
/// Pingora does it too, on its copy and after the policies: a client could then remove the headers that they set.
///
/// # Errors
/// A field that frames the message or tells where it comes from is named.
pub(super) fn strip_nominated(request: &mut RequestHeader) -> Result<(), Failure> {
    if !request.headers.contains_key(CONNECTION) {
        return Ok(());
    }
    let mut kept: Vec<String> = Vec::new();
    let mut named = Vec::new();
    for line in request.headers.get_all(CONNECTION) {
        for token in line.to_str().map_err(|_| Failure::ClientInvalid)?.split(',') {
            let token = token.trim().to_ascii_lowercase();
            match token.as_str() {
                "" => {}
                "close" | "keep-alive" | "upgrade" => kept.push(token),
                "host" | "content-length" | "transfer-encoding" | "forwarded" => {
                    return Err(Failure::ClientInvalid);
                }
                name if name.starts_with("x-forwarded-") => return Err(Failure::ClientInvalid),
                name => named.push(
                    HeaderName::from_bytes(name.as_bytes()).map_err(|_| Failure::ClientInvalid)?,
                ),
            }
        }
    }
    if named.is_empty() {
        return Ok(());
    }
    for name in &named {
        request.remove_header(name);
    }
    set(
        request,
        &CONNECTION,
        (!kept.is_empty()).then(|| HeaderValue::from_str(&kept.join(", ")).ok()).flatten(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RequestHeader {
        RequestHeader::build("GET", b"/a/b?q=1", None).unwrap()
    }

    const HOST_AND_PORT: HeaderValue = HeaderValue::from_static("shop.example.com:8443");

    fn hop() -> Hop {
        Hop::new(Some("192.0.2.1".parse().unwrap()), true, Some(8443))
    }

    fn client(address: &str, from_trusted: bool) -> ClientAddress {
        ClientAddress { address: Some(address.parse().unwrap()), from_trusted }
    }

    fn forward(request: &mut RequestHeader, client: ClientAddress) {
        let (hop, host, request_id) = (hop(), HOST_AND_PORT, new_request_id());
        let forwarding = Forwarding {
            hop: &hop,
            client,
            host: &host,
            request_id: &request_id,
            certificate: None,
            certificate_headers: &[],
            attempt: 1,
        };
        set_forwarding_headers(request, &forwarding);
    }

    fn text<'a>(request: &'a RequestHeader, name: &str) -> &'a str {
        request.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn an_untrusted_clients_headers_are_replaced() {
        let mut request = request();
        for name in [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-port",
            "forwarded",
            "x-real-ip",
        ] {
            request.append_header(name, "lie").unwrap();
        }
        forward(&mut request, client("192.0.2.1", false));
        assert_eq!(text(&request, "x-forwarded-for"), "192.0.2.1");
        assert_eq!(text(&request, "x-forwarded-proto"), "https");
        assert_eq!(text(&request, "x-forwarded-host"), "shop.example.com:8443");
        assert_eq!(text(&request, "x-forwarded-port"), "8443");
        assert_eq!(
            text(&request, "forwarded"),
            "for=192.0.2.1;proto=https;host=\"shop.example.com:8443\""
        );
        assert_eq!(text(&request, "x-real-ip"), "");
        assert_eq!(text(&request, "x-request-id").len(), 32);
    }

    #[test]
    fn what_only_the_edge_says_is_removed_in_any_spelling_from_anybody() {
        for from_trusted in [true, false] {
            let mut request = request();
            for name in [
                "x-tidegate-mirror",
                "x_tidegate_mirror",
                "X-Tidegate_Mirror",
                "x-attempt_count",
                "client_cert-chain",
                "x_forwarded_client-cert",
                "x-tidegate-mirrors",
            ] {
                request.append_header(name, "lie").unwrap();
            }
            forward(&mut request, client("192.0.2.1", from_trusted));
            let lies = request.headers.iter().filter(|(_, value)| *value == "lie");
            let names: Vec<&str> = lies.map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["x-tidegate-mirrors"], "{from_trusted}");
        }
    }

    #[test]
    fn a_trusted_proxys_headers_go_on() {
        let mut request = request();
        request.append_header("x-forwarded-for", "1.2.3.4").unwrap();
        request.append_header("x-forwarded-for", "10.0.0.3").unwrap();
        request.append_header("x-forwarded-proto", "http").unwrap();
        request.append_header("forwarded", "for=1.2.3.4, for=10.0.0.3").unwrap();
        forward(&mut request, client("192.0.2.1", true));
        assert_eq!(text(&request, "x-forwarded-for"), "1.2.3.4, 10.0.0.3, 192.0.2.1");
        assert_eq!(text(&request, "x-forwarded-proto"), "http");
        assert!(
            text(&request, "forwarded").starts_with("for=1.2.3.4, for=10.0.0.3, for=192.0.2.1;")
        );
    }

    #[test]
    fn a_list_that_a_trusted_proxy_did_not_write_begins_with_the_client() {
        let client = client("2001:db8::7", true);
        let forwarded =
            "for=\"[2001:db8::7]\", for=192.0.2.1;proto=https;host=\"shop.example.com:8443\"";
        for (name, value, for_list, forwarded) in [
            ("forwarded", "for=\"[2001:db8::7]\"", "2001:db8::7, 192.0.2.1", forwarded),
            ("x-forwarded-for", "2001:db8::7", "2001:db8::7, 192.0.2.1", forwarded),
        ] {
            let mut request = request();
            request.append_header(name, value).unwrap();
            forward(&mut request, client);
            assert_eq!(text(&request, "x-forwarded-for"), for_list, "{name}");
            assert_eq!(text(&request, "forwarded"), forwarded, "{name}");
        }
        // What the client wrote into the list that its proxy does not know goes no further.
        let mut request = request();
        request.append_header("x-forwarded-for", "2001:db8::7").unwrap();
        request.append_header("forwarded", "for=6.6.6.6").unwrap();
        forward(&mut request, client);
        assert_eq!(text(&request, "forwarded"), forwarded);
    }

    #[test]
    fn what_connection_names_is_removed_before_policies_act() {
        let mut named = request();
        for (name, value) in [
            ("connection", "Upgrade, X-Tenant"),
            ("connection", "close"),
            ("x-tenant", "1"),
            ("x-other", "2"),
        ] {
            named.append_header(name, value).unwrap();
        }
        strip_nominated(&mut named).unwrap();
        assert_eq!(text(&named, "connection"), "upgrade, close");
        assert_eq!((text(&named, "x-tenant"), text(&named, "x-other")), ("", "2"));
        for protected in ["host", "Content-Length", "x-forwarded-for"] {
            let mut named = request();
            named.append_header("connection", protected).unwrap();
            assert!(strip_nominated(&mut named).is_err(), "{protected}");
        }
    }

    #[test]
    fn paths_and_hosts_are_rewritten() {
        let strip = Rewrite { strip_prefix: Some("/a".into()), ..Rewrite::default() };
        let mut stripped = request();
        rewrite(&mut stripped, &strip, None, None, "/a/b");
        assert_eq!(stripped.uri.to_string(), "/b?q=1");
        let host = HeaderValue::from_static("other");
        let mut hosted = request();
        rewrite(&mut hosted, &Rewrite::default(), None, Some(&host), "/a/b");
        assert_eq!(text(&hosted, "host"), "other");
    }

    #[test]
    fn request_ids_are_checked() {
        assert!(is_request_id(&new_request_id()));
        assert!(
            !is_request_id(&HeaderValue::from_static("a b"))
                && !is_request_id(&HeaderValue::from_static(""))
        );
        assert_ne!(new_request_id(), new_request_id());
    }
}
