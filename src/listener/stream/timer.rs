//! A timer inside a connection: made when it is first needed, used again after that.

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::{Instant, Sleep};

/// A timer that is made when it is first needed and then used again.
#[derive(Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    is_armed: bool,
}

impl Timer {
    pub(super) fn arm(&mut self, after: Duration) {
        if self.is_armed {
            return;
        }
        let deadline = Instant::now() + after;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
        self.is_armed = true;
    }

    pub(super) fn disarm(&mut self) {
        self.is_armed = false;
    }

    /// Whether it has run out; registers the task otherwise.
    pub(super) fn has_run_out(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_armed && self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}
