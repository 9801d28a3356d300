//! Who gets a try: the reserve for retries, ejections, slow start.

use super::*;

const THREE: &str = r#"endpoints = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]"#;

fn slow_starts(upstream: &Upstream) -> Vec<Option<u32>> {
    upstream.status().endpoints.iter().map(|endpoint| endpoint.slow_start).collect()
}

fn fail(upstream: &Upstream, label: &str, times: usize) {
    (0..times).for_each(|_| pick_at(upstream, label).failed(Fault::Connect));
}

fn succeed(upstream: &Upstream, label: &str, times: usize) {
    for _ in 0..times {
        let mut picked = pick_at(upstream, label);
        picked.answered(http::StatusCode::OK, Duration::from_millis(1), false, Instant::now());
        picked.ended();
    }
}

/// Where the tries of one request go, one after the other.
fn tries(upstream: &Upstream, count: usize) -> Vec<String> {
    let mut wish = Wish::default();
    let next = |_| {
        let picked = upstream.pick(&wish).unwrap();
        wish.tried.add(picked.endpoint());
        picked.endpoint_label().to_owned()
    };
    (0..count).map(next).collect()
}

#[tokio::test]
async fn a_retry_goes_to_a_backup_and_to_an_ejected_one_before_it_goes_anywhere_again() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(
        &live,
        r#"
        endpoints = [
            { address = "10.0.0.3:80", priority = 7 }, "10.0.0.1:80",
            { address = "10.0.0.2:80", priority = 1 },
        ]
        "#,
    );
    let order = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80"];
    for _ in 0..10 {
        assert_eq!(tries(&upstream, 4), order);
    }
    let upstream = attach(&live, THREE);
    fail(&upstream, "10.0.0.2:80", 3);
    for _ in 0..10 {
        let tries = tries(&upstream, 4);
        assert_eq!(tries[2], "10.0.0.2:80", "ejected, and yet better than one that has failed");
        assert!(tries[..2].iter().all(|label| *label != tries[2]) && tries[3] != tries[2]);
    }
}

#[tokio::test]
async fn what_began_before_an_ejection_does_not_count_after_it() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(&live, THREE);
    let held: Vec<Picked> = (0..3).map(|_| pick_at(&upstream, "10.0.0.2:80")).collect();
    let endpoint = Arc::clone(held[0].endpoint());
    fail(&upstream, "10.0.0.2:80", 3);
    assert!(endpoint.is_ejected());
    endpoint.take_back(Instant::now());
    for mut picked in held {
        picked.failed(Fault::Connect);
    }
    assert!(!endpoint.is_ejected(), "these three began in its life before");
    assert_eq!(endpoint.observed.run_length(), 0);
}

#[tokio::test]
async fn where_no_more_may_be_ejected_that_is_remembered_for_a_while() {
    let live = Live::new(Handle::current(), Metrics::new());
    let upstream = attach(&live, THREE);
    succeed(&upstream, "10.0.0.1:80", 50);
    fail(&upstream, "10.0.0.2:80", 3);
    assert!(upstream.live.has_room());
    let is_remembered = || {
        succeed(&upstream, "10.0.0.1:80", 50);
        fail(&upstream, "10.0.0.3:80", 10);
        !upstream.live.has_room()
    };
    eventually("one of three is out, and no more", is_remembered).await;
    eventually("the keeper looks again", || upstream.live.has_room()).await;
    eventually("remembered again", is_remembered).await;
    upstream.live.changed();
    assert!(upstream.live.has_room(), "another list may have room");
    assert_eq!(upstream.status().service.in_service, 2);
}

#[tokio::test]
async fn who_leaves_and_comes_back_starts_slowly() {
    let server = NameServer::start(&[[127, 0, 0, 1], [127, 0, 0, 2]]).await;
    let live = server.live();
    let text = "endpoints = [\"app.test:8080\"]\nslow_start = \"10m\"";
    let upstream = attach(&live, text);
    upstream.probed().await;
    succeed(&upstream, "127.0.0.1:8080", 1);
    assert_eq!(slow_starts(&upstream), [None, None], "all were new");
    server.say(Some(&[[127, 0, 0, 1]]));
    eventually("one has left", || slow_starts(&upstream) == [None]).await;
    server.say(Some(&[[127, 0, 0, 1], [127, 0, 0, 2]]));
    eventually("it is back", || slow_starts(&upstream).len() == 2).await;
    assert_eq!(slow_starts(&upstream), [None, Some(100)]);
}

#[tokio::test]
async fn a_weight_that_comes_back_starts_slowly_and_a_reload_does_not() {
    let live = Live::new(Handle::current(), Metrics::new());
    let text = |weight: u32| {
        format!(
            "endpoints = [\"10.0.0.1:80\", {{ address = \"10.0.0.2:80\", weight = {weight} }}]\n\
             slow_start = \"10m\""
        )
    };
    let mut upstream = attach(&live, &text(1));
    succeed(&upstream, "10.0.0.1:80", 1);
    for (weight, share) in [(1, None), (5, None), (0, None), (2, Some(100))] {
        // The generation before it goes when the new one is there.
        upstream = attach(&live, &text(weight));
        assert_eq!(slow_starts(&upstream), [None, share], "{weight}");
    }
}

#[tokio::test]
async fn who_was_down_when_its_check_was_changed_starts_slowly() {
    let (good, bad) =
        (Origin::start(Behaviour::status(200)).await, Origin::start(Behaviour::status(500)).await);
    let live = Live::new(Handle::current(), Metrics::new());
    let slow = |more: &str| format!("{}\nslow_start = \"10m\"", checked(&[&good, &bad], more));
    let upstream = attach(&live, &slow(""));
    upstream.probed().await;
    assert_eq!(health(&upstream), [Verdict::Healthy, Verdict::Unhealthy]);
    bad.behave(Behaviour::Silent);
    let changed = attach(&live, &slow(", host = \"other.test\""));
    drop(upstream);
    bad.behave(Behaviour::status(200));
    eventually("both are healthy", || health(&changed) == [Verdict::Healthy; 2]).await;
    eventually("it starts slowly", || slow_starts(&changed) == [None, Some(100)]).await;
}
