//! `tidegate rollout` over a running edge.

use serde_json::Value;

use super::{CANARY, Shop};
use crate::assert_eventually;

#[test]
fn the_command_line_shows_and_commands() {
    let shop = Shop::started(CANARY);
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("rollout")
            .args(words)
            .args(["--admin", &format!("http://{}", shop.edge.admin_address())])
            .output()
            .expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    shop.edge.client().get("/").times(100).all_status(200);
    assert_eventually!(run(&["status"]).1.contains("of 50 requests of the candidate"));
    let (code, list, _) = run(&["list"]);
    assert!(code == Some(0) && list.contains("step-1/2") && list.contains("10 %"), "{list}");
    let (code, status, _) = run(&["status", "shop", "--json"]);
    let json: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((code, &json["phase"]), (Some(0), &Value::from("step")));
    let (code, _, error) = run(&["resume", "shop"]);
    assert!(code == Some(1) && error.contains("nothing waits for a person"), "{error}");
    let (code, _, error) = run(&["abort", "shpo"]);
    assert!(code == Some(1) && error.contains("did you mean \"shop\"?"), "{error}");
    let (code, done, _) = run(&["abort", "shop"]);
    assert!(code == Some(0) && done.contains("a new revision starts again"), "{done}");
    let (code, _, error) = run(&["status", "shpo"]);
    assert!(code == Some(1) && error.contains("there are shop"), "{error}");
}
