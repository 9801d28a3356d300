use std::collections::BTreeMap;

use pingora_http::{RequestHeader, ResponseHeader};

use super::{config::RawExperiment, *};
use crate::{
    policy::{Chain, Kind, Live, ResponseHead},
    state::EdgeSecret,
    types::{KeyPath, Problems, Secret},
};

fn config(text: &str) -> Arc<ExperimentConfig> {
    let raw: RawExperiment = toml::from_str(text).unwrap();
    let mut problems = Problems::new();
    let config = raw.parse(&KeyPath::root(), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    Arc::new(config.unwrap())
}

fn live() -> Live {
    let live = Live::new(Path::new("/nowhere"), Metrics::new());
    let secret = EdgeSecret::shared(Secret::new(b"a secret that is long enough".to_vec()));
    live.experiments.set_secret(&secret);
    live
}

/// The chain of one experiment called `new`.
fn chain(text: &str, live: &Live) -> Chain {
    let (name, site, route) = ("new".parse().unwrap(), "s".parse().unwrap(), "r".parse().unwrap());
    let experiment: Arc<dyn Policy> = Arc::new(Experiment::new(name, config(text)));
    Chain::new(vec![(Kind::Experiment, experiment)])
        .attached(&Place { site: &site, route: &route }, live)
}

/// What endpoints see of `x-new` and `cookie`, and the cookie that the client is given.
fn ask(
    chain: &Chain,
    fields: &[(&'static str, &str)],
) -> (Vec<String>, Vec<String>, Option<String>) {
    let mut request = RequestHeader::build("GET", b"/", None).unwrap();
    for (name, value) in fields {
        request.append_header(*name, *value).unwrap();
    }
    let mut context = PolicyContext::new("10.0.0.1".parse().ok(), false);
    let mut head = RequestHead(&mut request);
    let flow = chain.on_request(&mut head, &mut context);
    assert!(matches!(futures_util::FutureExt::now_or_never(flow), Some(Ok(Flow::Continue))));
    let mut response = ResponseHeader::build(200, None).unwrap();
    chain.on_response(&mut ResponseHead(&mut response), &context);
    let lines = |name: &str| {
        let lines = request.headers.get_all(name).iter();
        lines.map(|line| line.to_str().unwrap().to_owned()).collect()
    };
    let cookies: Vec<_> = response.headers.get_all("set-cookie").iter().collect();
    assert!(cookies.len() <= 1);
    let cookie = cookies.first().map(|line| line.to_str().unwrap().to_owned());
    (lines("x-new"), lines("cookie"), cookie)
}

const BY_USER: &str = r#"
header = "X-New"
key = { header = "x-user" }
variants = { a = "30%", b = "60%" }
"#;

#[test]
fn the_same_client_gets_the_same_variant_everywhere_and_shares_are_kept() {
    let (chain_here, there) = (chain(BY_USER, &live()), chain(BY_USER, &live()));
    let salted = chain(&format!("{BY_USER}salt = 'other'"), &live());
    let mut counts: BTreeMap<Vec<String>, i32> = BTreeMap::new();
    let mut moved = 0;
    for user in 0..10_000 {
        let user = [("x-user", &*user.to_string())];
        let seen = ask(&chain_here, &user).0;
        assert_eq!(ask(&there, &user).0, seen);
        moved += i32::from(ask(&salted, &user).0 != seen);
        *counts.entry(seen).or_default() += 1;
    }
    for (variant, wanted) in
        [(vec!["a".to_owned()], 3_000), (vec!["b".to_owned()], 6_000), (vec![], 1_000)]
    {
        assert!((counts[&variant] - wanted).abs() <= 100, "{counts:?}");
    }
    // 1 - (0.3² + 0.6² + 0.1²) of all.
    assert!((moved - 5_400).abs() <= 300, "{moved}");
    assert_eq!(ask(&chain_here, &[]).0, [""; 0], "without a key");
}

#[test]
fn what_a_client_says_about_its_variant_ends_here_on_and_off() {
    let text = "header = 'X-New'\nsticky = { cookie = 'exp' }\nvariants = { on = '100%' }\n";
    let lies = [("X-New", "on"), ("x-new", "a"), ("x_new", "on"), ("cookie", "a=1; exp=lie")];
    for (enabled, seen) in [("enabled = true", &["on"][..]), ("enabled = false", &[])] {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in lies {
            request.append_header(name, value).unwrap();
        }
        let chain = chain(&format!("{text}{enabled}"), &live());
        let mut context = PolicyContext::default();
        let mut head = RequestHead(&mut request);
        let flow = chain.on_request(&mut head, &mut context);
        assert!(futures_util::FutureExt::now_or_never(flow).is_some_and(|flow| flow.is_ok()));
        let values: Vec<_> = request.headers.get_all("x-new").iter().collect();
        assert_eq!(values, seen, "{enabled}");
        assert!(!request.headers.contains_key("x_new"));
        assert_eq!(request.headers["cookie"], "a=1");
    }
    // Not in force yet, or without live state.
    let never = Chain::new(vec![(
        Kind::Experiment,
        Arc::new(Experiment::new("new".parse().unwrap(), config(text))),
    )]);
    assert_eq!(ask(&never, &lies), (vec![], vec!["a=1".to_owned()], None));
}

#[test]
fn a_cookie_is_given_once_and_keeps_the_variant() {
    let text = "header = 'X-New'\nsticky = { cookie = 'exp', max_age = '30d' }\n";
    let live = live();
    let half = chain(&format!("{text}variants = {{ a = '50%', b = '50%' }}"), &live);
    for _ in 0..50 {
        let (variant, _, cookie) = ask(&half, &[]);
        let cookie = cookie.unwrap();
        assert!(cookie.ends_with("; Path=/; Max-Age=2592000; SameSite=Lax; HttpOnly"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        assert_eq!(ask(&half, &[("cookie", pair)]), (variant, vec![], None));
    }
    // Who is in no variant is told so as well: its place is drawn once.
    let none = chain(&format!("{text}variants = {{ a = '0%' }}"), &live);
    let (variant, _, cookie) = ask(&none, &[]);
    assert!(variant.is_empty() && cookie.is_some());
    let off = chain(&format!("{text}variants = {{ a = '100%' }}\nenabled = false"), &live);
    assert_eq!(ask(&off, &[]), (vec![], vec![], None));
}

#[test]
fn without_a_secret_nobody_is_dealt() {
    let live = Live::new(Path::new("/nowhere"), Metrics::new());
    let text = "header = 'X-New'\nsticky = { cookie = 'exp' }\nvariants = { on = '100%' }\n\
                segments = [{ variant = 'on', headers = { x-staff = true } }]";
    let chain = chain(text, &live);
    assert_eq!(ask(&chain, &[]), (vec![], vec![], None));
    assert_eq!(ask(&chain, &[("x-staff", "1")]).0, ["on"]);
}

#[test]
fn the_first_segment_that_holds_decides() {
    let text = r#"
        header = "X-New"
        variants = { a = "100%", b = "0%" }
        segments = [
            { variant = false, headers = { x-bot = true } },
            { variant = "b", cookies = { beta = "1" }, client_address = ["10.0.0.0/8"] },
            { variant = "a", methods = ["GET"], query = { x = "1" } },
            { variant = false, methods = ["GET"], headers = { x-staff = true } },
        ]
    "#;
    let chain = chain(text, &live());
    for (fields, seen) in [
        (&[][..], &["a"][..]),
        (&[("x-bot", "1")], &[]),
        (&[("x-bot", "1"), ("cookie", "beta=1")], &[]),
        (&[("cookie", "beta=1")], &["b"]),
        (&[("cookie", "beta=2")], &["a"]),
        (&[("x-staff", "1")], &[]),
    ] {
        assert_eq!(ask(&chain, fields).0, seen, "{fields:?}");
    }
}

#[test]
fn exposures_are_counted_by_how_the_variant_was_found() {
    let live = live();
    let metrics = Arc::clone(&live.experiments.metrics);
    let text = "header = 'X-New'\nvariants = { a = '100%', b = '0%' }\n\
                segments = [{ variant = 'b', headers = { x-staff = true } }]";
    let chain = chain(text, &live);
    for _ in 0..3 {
        ask(&chain, &[]);
    }
    ask(&chain, &[("x-staff", "1")]);
    let text = metrics.render(&crate::telemetry::metrics::Samples::default());
    for (by, variant, count) in
        [("share", "a", 3), ("segment", "a", 0), ("share", "b", 0), ("segment", "b", 1)]
    {
        let line = format!(
            "tidegate_experiment_exposures_total{{by=\"{by}\",experiment=\"new\",variant=\"{variant}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line} in {text}");
    }
}

#[test]
fn a_switch_holds_for_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let live = Live::new(folder.path(), Metrics::new());
    let name: Name = "new".parse().unwrap();
    let chain = chain("header = 'X-New'\nvariants = { on = '100%' }", &live);
    assert_eq!(ask(&chain, &[]).0, ["on"]);
    let to = |on| Some(Switched { on, at: 1 });
    live.experiments.switch(&name, to(false), |_| true).unwrap();
    assert_eq!(ask(&chain, &[]).0, [""; 0]);
    live.experiments.switch(&name, to(true), |_| true).unwrap();
    assert_eq!(ask(&chain, &[]).0, ["on"]);
    live.experiments.switch(&name, None, |_| true).unwrap();
    assert_eq!(ask(&chain, &[]).0, ["on"]);
}
