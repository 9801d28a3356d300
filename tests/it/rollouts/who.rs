//! Which clients get the candidate: cookies, headers, addresses, rules.

use super::{CANARY, Shop, version};
use crate::assert_eventually;

#[test]
fn a_cookie_keeps_a_client_with_its_version_and_moves_it_at_most_once() {
    let steps = "[\"10% 1ms\", \"50% pause\", \"90% 1h\"]";
    let sticky = CANARY.replace("canary =", "sticky = \"cookie\"\ncanary =");
    let shop = Shop::started(&sticky.replace("[\"10% 1h\", \"50% 1h\"]", steps));
    shop.command("pause").assert_status(200);
    let client = shop.edge.client();
    let sessions: Vec<(String, String)> = (0..300)
        .map(|_| {
            let answer = client.get("/").send().assert_status(200);
            let cookie = answer.header("set-cookie").expect("a cookie").split(';').next().unwrap();
            (answer.header("x-origin").unwrap().to_owned(), cookie.to_owned())
        })
        .collect();
    let candidates = sessions.iter().filter(|(version, _)| version == "v2").count();
    assert!((24..=36).contains(&candidates), "{candidates} of 300");
    for (version_of, cookie) in sessions.iter().chain(&sessions) {
        let answer = client.get("/").header("cookie", cookie).send().assert_status(200);
        assert_eq!(answer.header("x-origin"), Some(&**version_of));
        assert_eq!(answer.header("set-cookie"), None);
    }
    assert!(shop.v1.last_request().header("cookie").is_none(), "endpoints don't see it");
    // The share grows: who was there stays, and others come.
    shop.command("resume").assert_status(200);
    client.get("/").load(4).requests(800).assert_all_ok();
    assert_eventually!(shop.share() == 500_000);
    let mut moved = 0;
    for (before, cookie) in &sessions {
        let after = version(&client, &[("cookie", cookie)]);
        assert!(!(before == "v2" && after == "v1"), "it went back");
        moved += usize::from(*before != after);
    }
    assert!((90..=150).contains(&moved), "{moved} of 300 moved");
    // A cookie of somebody's own making is worth nothing.
    let (_, real) = sessions.iter().find(|(version, _)| version == "v1").unwrap();
    let name = real.split('=').next().unwrap();
    for forged in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "candidate"] {
        let answer = client.get("/").header("cookie", &format!("{name}={forged}")).send();
        assert!(answer.header("set-cookie").is_some(), "{forged} is taken for ours");
    }
}

#[test]
fn a_header_or_an_address_keep_a_client_with_its_version() {
    for (sticky, header) in
        [("{ header = \"X-User\" }", "x-user"), ("\"client-address\"", "x-forwarded-for")]
    {
        let shop =
            Shop::started(&CANARY.replace("canary =", &format!("sticky = {sticky}\ncanary =")));
        let client = shop.edge.client();
        let names: Vec<String> =
            (0..300).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
        let first: Vec<String> =
            names.iter().map(|name| version(&client, &[(header, name)])).collect();
        let again: Vec<String> =
            names.iter().map(|name| version(&client, &[(header, name)])).collect();
        assert_eq!(first, again, "{sticky}");
        let candidates = first.iter().filter(|version| *version == "v2").count();
        assert!((10..=55).contains(&candidates), "{sticky}: {candidates} of 300");
    }
}

#[test]
fn some_always_get_the_candidate_and_some_never_do() {
    let rules = "always = [{ headers = { X-Canary = \"yes\" } }, { cookies = { canary = \"1\" } }, { query = { canary = true } }, { client_address = [\"10.9.0.0/16\"] }]\nnever = [{ headers = { X-Bot = true } }]\ncanary =";
    let shop = Shop::new(&CANARY.replace("10% 1h", "0% pause").replace("canary =", rules));
    let client = shop.edge.client();
    let forced: [(&str, &str); 3] =
        [("x-canary", "yes"), ("cookie", "a=b; canary=1"), ("x-forwarded-for", "10.9.1.2")];
    for header in forced {
        assert_eq!(version(&client, &[header]), "v1", "before it has begun");
    }
    shop.command("start").assert_status(200);
    assert_eventually!(shop.phase() == "step");
    for header in forced {
        assert_eq!(version(&client, &[header]), "v2", "{header:?}");
        assert_eq!(version(&client, &[header, ("x-bot", "1")]), "v1", "{header:?}");
    }
    assert_eq!(client.get("/?canary=x").send().header("x-origin"), Some("v2"));
    assert_eq!(version(&client, &[("x-canary", "no")]), "v1");
    // They were not dealt, so they are not compared.
    let seen = shop.status()["stable"]["requests"].as_u64();
    client.get("/").times(5).all_status(200);
    assert_eventually!(shop.status()["stable"]["requests"].as_u64() >= seen.map(|n| n + 5));
    assert_eq!(shop.status()["candidate"]["requests"].as_u64(), Some(0));
    shop.command("abort").assert_status(200);
    assert_eq!(version(&client, &[("x-canary", "yes")]), "v1", "taken back from everybody");
}
