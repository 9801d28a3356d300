//! From a request to its route: hosts, paths, conditions, redirects, answers of the edge's own.

use std::time::Duration;

use crate::harness::{Edge, FailureKind, Origin, Raw, Tls};

const SOON: Duration = Duration::from_secs(5);

/// The `x-route` of each answer is the name of its route.
fn route(edge: &Edge, host: &str, path: &str) -> (u16, String) {
    let response = edge.client().get(path).host(host).send();
    (response.status, response.header("x-route").unwrap_or_default().to_owned())
}

/// A site whose routes answer with their own names.
fn site(name: &str, hosts: &str, routes: &[(&str, &str)]) -> String {
    use std::fmt::Write;
    let mut text = format!("[sites.{name}]\nhosts = [{hosts}]\n");
    for (route, condition) in routes {
        let _ = writeln!(
            text,
            "[sites.{name}.routes.{route}]\n{condition}\n\
             respond = {{ body = \"{route}\", headers = {{ X-Route = \"{route}\" }} }}"
        );
    }
    text
}

#[test]
fn the_exact_host_goes_before_the_wildcard_which_covers_one_label() {
    let text = [
        site("exact", "\"a.example.com\", \"Bare.Example.com\"", &[("exact", "")]),
        site("wild", "\"*.example.com\"", &[("wild", "")]),
    ]
    .concat();
    let edge = Edge::start(&[], &text);
    for (host, status, expected) in [
        ("a.example.com", 200, "exact"),
        ("A.EXAMPLE.COM:8080", 200, "exact"),
        ("a.example.com.", 200, "exact"),
        ("bare.example.com", 200, "exact"),
        ("b.example.com", 200, "wild"),
        ("x.b.example.com", 421, ""),
        ("example.com", 421, ""),
        ("unknown.test", 421, ""),
    ] {
        assert_eq!(route(&edge, host, "/"), (status, expected.to_owned()), "{host}");
    }
}

#[test]
fn an_unknown_host_is_refused_not_found_or_served_by_the_default_site() {
    let sites = site("shop", "\"shop.example.com\"", &[("all", "")]);
    for (unknown, status) in [("\"refuse\"", 421), ("\"404\"", 404), ("{ site = \"shop\" }", 200)] {
        let listener =
            format!("[listeners.http]\naddress = \"127.0.0.1:0\"\nunknown_host = {unknown}\n");
        let edge = Edge::start(&[], &(listener + &sites));
        assert_eq!(route(&edge, "other.example.com", "/").0, status, "{unknown}");
        assert_eq!(route(&edge, "shop.example.com", "/").0, 200, "{unknown}");
    }
    let edge = Edge::start(
        &[],
        "[sites.a]\nhosts = [\"a.test\"]\ncertificate = { internal = true }\nrespond = { body = \"a\" }\n",
    );
    let refused =
        edge.tls_client(Tls::any().server_name("b.test")).get("/").try_send().unwrap_err();
    assert_eq!(refused.kind, FailureKind::Tls, "{refused}");
    edge.tls_client(Tls::any()).host("a.test").get("/").send().assert_status(200);
    edge.tls_client(Tls::any().server_name("a.test"))
        .get("/")
        .host("b.test")
        .send()
        .assert_status(421);
}

#[test]
fn the_most_specific_path_wins_and_priority_goes_before_it() {
    let routes = [
        ("exact", "path_exact = \"/api/health\""),
        ("api", "path = \"/api\""),
        ("users", "path = \"/api/users/\""),
        ("digits", "path_regex = \"/files/[0-9]+\""),
        ("files", "path_regex = \"/files/.*\"\npriority = -1"),
        ("urgent", "path = \"/api/urgent\"\npriority = 5"),
        ("urgent-exact", "path_exact = \"/api/urgent\""),
        ("versioned", "path = \"/api\"\nheaders = { X-Version = \"2\" }"),
        ("rest", ""),
    ];
    let edge = Edge::start(&[], &site("a", "\"127.0.0.1\"", &routes));
    let host = "127.0.0.1";
    for (path, expected) in [
        ("/api/health", "exact"),
        ("/api/health/", "api"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api/x", "api"),
        ("/apix", "rest"),
        ("/api/users", "users"),
        ("/api/users/7", "users"),
        ("/api/usersx", "api"),
        ("/api/urgent", "urgent"),
        ("/files/17", "rest"),
        ("/", "rest"),
        ("/%61pi/x", "api"),
        ("/x/../api/health?q=/x", "exact"),
    ] {
        assert_eq!(route(&edge, host, path), (200, expected.to_owned()), "{path}");
    }
    let versioned = edge.client().get("/api/x").header("x-version", "2").send();
    assert_eq!(versioned.header("x-route"), Some("versioned"));
}

#[test]
fn expressions_take_whole_paths_where_no_prefix_does() {
    let routes = [("digits", "path_regex = \"/files/[0-9]+\""), ("api", "path = \"/api\"")];
    let edge = Edge::start(&[], &site("a", "\"127.0.0.1\"", &routes));
    for (path, status, expected) in [
        ("/files/17", 200, "digits"),
        ("/files/17/x", 404, ""),
        ("/files/x17", 404, ""),
        ("/x/files/17", 404, ""),
        ("/other", 404, ""),
    ] {
        assert_eq!(route(&edge, "127.0.0.1", path), (status, expected.to_owned()), "{path}");
    }
}

#[test]
fn conditions_on_method_header_query_cookie_and_client_are_all_needed() {
    let routes = [(
        "all",
        "methods = [\"POST\"]\nheaders = { X-A = \"1\", X-B = true, X-C = false }\nquery = { q = \"a b\" }\n\
         cookies = { session = \"7\" }\nclient_address = [\"127.0.0.0/8\"]",
    )];
    let edge = Edge::start(&[], &site("a", "\"127.0.0.1\"", &routes));
    let client = edge.client();
    let full = || {
        client
            .post("/?q=a%20b")
            .header("x-a", "1")
            .header("x-b", "anything")
            .header("cookie", "other=1; session=7")
    };
    full().send().assert_status(200);
    full().header("x-c", "there").send().assert_status(404);
    client
        .post("/?q=a")
        .header("x-a", "1")
        .header("x-b", "")
        .header("cookie", "session=7")
        .send()
        .assert_status(404);
    client.post("/?q=a+b").header("x-a", "1").header("x-b", "").send().assert_status(404);
    client
        .post("/?q=a+b")
        .header("x-a", "1")
        .header("x-b", "")
        .header("cookie", "session=7")
        .send()
        .assert_status(200);
}

#[test]
fn a_path_that_fails_on_its_method_is_405_and_never_the_next_less_protected_route() {
    let routes = [
        ("orders", "path = \"/orders\"\nmethods = [\"GET\", \"POST\"]"),
        ("inner", "path = \"/inner\"\nheaders = { X-Key = \"1\" }"),
        ("soft", "path = \"/soft\"\nmethods = [\"POST\"]\nfall_through = true"),
        ("rest", ""),
    ];
    let edge = Edge::start(&[], &site("a", "\"127.0.0.1\"", &routes));
    let client = edge.client();
    let refused = client.request("DELETE", "/orders/7").send().assert_status(405);
    assert_eq!(refused.header("allow"), Some("GET, HEAD, POST"));
    client.request("HEAD", "/orders").send().assert_status(200);
    client.get("/inner").send().assert_status(404);
    assert_eq!(client.get("/soft").send().header("x-route"), Some("rest"));
    assert_eq!(client.post("/soft").send().header("x-route"), Some("soft"));
}

#[test]
fn redirects_fill_in_captures_path_and_query() {
    let edge = Edge::start(
        &[],
        r#"
        [sites.a]
        hosts = ["127.0.0.1"]
        [sites.a.routes]
        moved = { path = "/moved", redirect = "https://new.example.com{path}{query}" }
        item = { path_regex = "/item/(?<id>[0-9]+)/(.*)", redirect = { to = "/things/{id}?rest={2}", status = 302 } }
        scheme = { path_exact = "/scheme", redirect = { to = "{scheme}://{host}/x", status = 301 } }
        "#,
    );
    let address = edge.address("http");
    for (path, status, location) in [
        ("/moved/a?b=c", 308, "https://new.example.com/moved/a?b=c".to_owned()),
        ("/moved", 308, "https://new.example.com/moved".to_owned()),
        ("/item/17/a/b", 302, "/things/17?rest=a/b".to_owned()),
        ("/scheme", 301, format!("http://{address}/x")),
    ] {
        let response = edge.client().get(path).send().assert_status(status);
        assert_eq!(response.header("location"), Some(location.as_str()), "{path}");
    }
    // A line break in the path must not become one in the head.
    edge.client().get("/moved/%0d%0aX-Evil:%201").send().assert_status(400);
}

#[test]
fn plain_requests_for_a_tls_site_are_redirected_with_the_published_port() {
    let edge = Edge::start(
        &[],
        "[server]\nhttps_port = 8443\n[sites.a]\nhosts = [\"a.test\"]\ncertificate = { internal = true }\nrespond = { body = \"a\" }\n",
    );
    let client = edge.client().host("a.test:8080");
    for (method, status) in [("GET", 301), ("HEAD", 301), ("POST", 308)] {
        let response = client.request(method, "/x?y=1").send().assert_status(status);
        assert_eq!(response.header("location"), Some("https://a.test:8443/x?y=1"), "{method}");
    }
    edge.client().get("/").host("unknown.test").send().assert_status(421);
}

#[test]
fn answers_of_the_edges_own_carry_their_status_headers_and_body() {
    let edge = Edge::start(
        &[],
        r#"
        [sites.a]
        hosts = ["127.0.0.1"]
        [sites.a.routes]
        teapot = { path = "/tea", respond = { status = 418, body = "short", headers = { X-A = "1", Content-Type = "text/x" } } }
        empty = { path = "/empty", respond = { status = 204 } }
        plain = { respond = { body = "hello" } }
        "#,
    );
    let client = edge.client();
    let tea = client.get("/tea").send().assert_status(418);
    assert_eq!((tea.text().as_str(), tea.header("x-a")), ("short", Some("1")));
    assert_eq!(tea.header("content-type"), Some("text/x"));
    assert!(client.get("/empty").send().assert_status(204).body.is_empty());
    let plain = client.get("/").send().assert_status(200);
    assert_eq!(plain.header("content-type"), Some("text/plain; charset=utf-8"));
    let head = client.request("HEAD", "/").send().assert_status(200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some("5"), 0));
    // The body of a POST that nobody wants does not break the next request on the connection.
    client.post("/tea").body("x".repeat(1_000)).times(3).all_status(418);
}

#[test]
fn paths_are_rewritten_and_the_query_stays() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        r#"
        [sites.a]
        hosts = ["127.0.0.1"]
        [sites.a.routes]
        strip = { path = "/api", endpoints = ["{0}"], rewrite = { strip_prefix = "/api" } }
        same = { endpoints = ["{0}"] }
        "#,
    );
    for (path, seen) in [
        ("/api/x?q=1", "/x?q=1"),
        ("/api", "/"),
        ("/api/", "/"),
        ("/same/%7Euser/a%3fb?x=%2f..%2f", "/same/~user/a%3Fb?x=%2f..%2f"),
    ] {
        edge.client().get(path).send().assert_status(200);
        assert_eq!(origin.last_request().path, seen, "{path}");
    }
    let edge = Edge::start(
        &[&origin],
        "[sites.a]\nhosts = [\"127.0.0.1\"]\n[sites.a.routes]\n\
         template = { path_regex = \"/v1/(?<name>[^/]+)/(.*)\", endpoints = [\"{0}\"], rewrite = { path = \"/v2/{2}/{name}\" } }\n",
    );
    edge.client().get("/v1/shop/a/b?q=1").send().assert_status(200);
    assert_eq!(origin.last_request().path, "/v2/a/b/shop?q=1");
}

#[test]
fn what_could_mean_two_paths_is_refused_and_the_endpoint_sees_the_path_that_was_matched() {
    let origin = Origin::answering(200);
    let text = format!(
        "{}\n[sites.a.routes.rest]\nendpoints = [\"{{0}}\"]\n",
        site("a", "\"127.0.0.1\"", &[("admin", "path = \"/admin\"")])
    );
    let edge = Edge::start(&[&origin], &text);
    for path in [
        "/admin",
        "/%61dmin",
        "/x/../admin",
        "/x/%2e%2e/admin",
        "/./admin",
        "//admin",
        "/x//..//admin/",
        "/admin/%2e",
    ] {
        assert_eq!(route(&edge, "127.0.0.1", path).1, "admin", "{path}");
    }
    for path in [
        "/x%2f..%2fadmin",
        "/%2fadmin",
        "/a%5cb",
        "/a%00",
        "/a%0a",
        "/a%7f",
        "/..",
        "/x/../../admin",
        "/a%",
        "/a%zz",
    ] {
        edge.client().get(path).send().assert_status(400);
    }
    for target in ["/a\\b", "/a b", "admin", "/a\0", "/\u{1}"] {
        let mut raw = edge.raw();
        raw.send(format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"));
        let head = raw.read_head(SOON).unwrap_or_default();
        assert!(head.is_empty() || head.starts_with("HTTP/1.1 400 "), "{target:?}: {head}");
    }
    assert_eq!(origin.requests(), 0);
    edge.client().get("/x//y/./z/%7ea").send().assert_status(200);
    assert_eq!(origin.last_request().path, "/x/y/z/~a");
}

#[test]
fn a_body_over_its_limit_is_413_whether_announced_or_not() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        r#"
        [sites.a]
        hosts = ["127.0.0.1"]
        max_body = "10KiB"
        [sites.a.routes]
        small = { path = "/small", endpoints = ["{0}"], max_body = "10B" }
        none = { path = "/none", endpoints = ["{0}"], max_body = "0" }
        rest = { endpoints = ["{0}"] }
        "#,
    );
    let client = edge.client();
    client.post("/").body(vec![0; 10 << 10]).send().assert_status(200);
    client.post("/small").body("0123456789").send().assert_status(200);
    let before = origin.requests();
    client.post("/").body(vec![0; (10 << 10) + 1]).send().assert_status(413);
    client.post("/small").body("0123456789a").send().assert_status(413);
    client.post("/none").body("a").send().assert_status(413);
    assert_eq!(origin.requests(), before, "an announced body is refused before it is sent on");
    client.get("/none").send().assert_status(200);
    client.post("/small").chunked(11, 4, Duration::from_millis(5)).send().assert_status(413);
    assert!(origin.recorded().iter().all(|seen| seen.body_length <= 10 << 10));
    let mut raw = Raw::connect(edge.address("http"));
    raw.send("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n");
    assert!(raw.read_head(SOON).unwrap().starts_with("HTTP/1.1 413 "));
    assert!(raw.is_closed_within(SOON), "what follows can't be told from the body");
}

#[test]
fn heads_over_their_limits_are_414_and_431() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        "[listeners.http]\naddress = \"127.0.0.1:0\"\nmax_head = \"4KiB\"\nmax_uri = \"1KiB\"\nmax_fields = 20\n",
    );
    let client = edge.client();
    client.get(&format!("/{}", "a".repeat(1_000))).send().assert_status(200);
    client.get(&format!("/{}", "a".repeat(1_100))).send().assert_status(414);
    client.get("/").header("x-long", &"a".repeat(5_000)).send().assert_status(431);
    let mut many = client.get("/");
    for n in 0..25 {
        many = many.header(&format!("x-{n}"), "1");
    }
    many.send().assert_status(431);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_sites_own_pages_stand_in_for_the_edges_and_policies_edit_them_too() {
    let origin = Origin::answering(200);
    let edge = Edge::start(
        &[&origin],
        r#"
        [sites.a]
        hosts = ["127.0.0.1"]
        policies = ["marked"]
        [sites.a.error_pages]
        404 = { body = "<h1>nothing here</h1>" }
        502 = { body = "{\"sorry\":true}", content_type = "application/json" }
        [sites.a.routes.api]
        path = "/api"
        endpoints = ["{0}"]
        [policies.marked.headers]
        response = { set = { X-Marked = "1" }, remove = ["X-Origin"] }
        "#,
    );
    let missing = edge.client().get("/nothing").send().assert_status(404);
    assert_eq!(missing.text(), "<h1>nothing here</h1>");
    assert_eq!(missing.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(missing.header("x-marked"), Some("1"));
    origin.stop();
    let sorry = edge.client().get("/api").send().assert_status(502);
    assert_eq!(sorry.json()["sorry"], true);
    origin.restart();
    // The endpoint's own 404 is its own.
    origin.set_status(404);
    let own = edge.client().get("/api").send().assert_status(404);
    assert_eq!((own.text().as_str(), own.header("x-marked")), ("ok", Some("1")));
    let json =
        edge.client().get("/").host("unknown.test").header("accept", "application/json").send();
    assert_eq!(json.assert_status(421).json()["status"], 421);
}

#[test]
fn the_headers_policy_acts_in_both_directions_and_hsts_only_over_tls() {
    let origin =
        Origin::builder().header("server", "secret/1.0").header("x-powered-by", "x").start();
    let edge = Edge::start(
        &[&origin],
        r#"
        [sites.a]
        hosts = ["localhost"]
        listeners = ["http", "https"]
        certificate = { internal = true }
        endpoints = ["{0}"]
        policies = ["strict", "request"]
        [policies.strict.headers]
        preset = "strict"
        [policies.request.headers]
        request = { set = { X-Tenant = "a" }, add = { X-Via = "edge" }, remove = ["X-Debug"] }
        "#,
    );
    let plain = edge
        .client()
        .get("/")
        .host("localhost")
        .header("x-debug", "1")
        .header("x-via", "me")
        .send();
    assert_eq!(plain.header("x-content-type-options"), Some("nosniff"));
    assert_eq!((plain.header("server"), plain.header("x-powered-by")), (None, None));
    assert_eq!(plain.header("strict-transport-security"), None);
    let seen = origin.last_request();
    assert_eq!((seen.header("x-tenant"), seen.header("x-debug")), (Some("a"), None));
    assert_eq!(seen.header_values("x-via"), ["me", "edge"]);
    let secure = edge.tls_client(Tls::any()).host("localhost").get("/").send();
    assert!(
        secure.header("strict-transport-security").is_some_and(|hsts| hsts.starts_with("max-age="))
    );
}
