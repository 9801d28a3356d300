//! Looks after the edge's overload beside the requests: reads the memory, and says when shedding is over.

use std::{
    sync::Weak,
    time::{Duration, Instant},
};

use super::state::Core;
use crate::limit::memory;

/// Memory is read so often.
const EVERY: Duration = Duration::from_millis(250);

/// Runs for as long as the edge.
pub(super) async fn watch(core: Weak<Core>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(core) = core.upgrade() else { return };
        let overload = &core.live.overload;
        if overload.watches_memory()
            && let Some(bytes) = memory::resident()
        {
            overload.saw_memory(bytes);
        }
        if let Some(ended) = overload.look(Instant::now()) {
            tracing::info!(refused = ended.refused, "overload is over");
        }
    }
}
