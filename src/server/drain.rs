//! The end of an edge in order: connections that are open get their answers, and are told that they end.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::state::{Core, Phase};

/// Looking again whether the last connections have ended.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// Lame duck, then no new connections, then the end of those that are left. After a hand-over nobody needs to look away;
/// clients have a third of the time to learn with an answer that their connection ends.
pub(super) async fn drain_all(core: &Core) {
    let server = core.settings().server.clone();
    let deadline = Instant::now() + server.drain;
    core.set_phase(Phase::Draining);
    info!(connections = core.listeners.connections(), "draining");
    core.listeners.announce_end();
    if core.estate.is_handed_over() {
        let idle_end = Instant::now() + server.drain / 3;
        while core.listeners.connections() > 0 && Instant::now() < idle_end {
            sleep(DRAIN_STEP).await;
        }
    } else {
        sleep(server.lame_duck).await;
    }
    core.listeners.stop_accepting();
    core.listeners.end_idle();
    let spread = server.drain / 3;
    let streams_end = deadline - spread;
    let mut streams_are_ending = false;
    while core.listeners.connections() > 0 && Instant::now() < deadline {
        if !streams_are_ending && Instant::now() >= streams_end {
            core.listeners.end_streams(spread);
            streams_are_ending = true;
        }
        sleep(DRAIN_STEP).await;
    }
    match core.listeners.connections() {
        0 => info!("drained"),
        left => {
            warn!(connections = left, "the drain time is over; the last connections are closed");
        }
    }
}
