//! A timer inside a connection, armed and disarmed with each request.
//!
//! The runtime's own timer is touched when the new deadline is earlier than the one that it has, which is seldom: when it
//! rings too early it is set to the deadline that holds by then.

use std::{pin::Pin, task::Context, time::Duration};

use tokio::time::{Instant, Sleep};

/// A timer that is made when it is first needed and then used again.
#[derive(Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
}

impl Timer {
    /// Sets the deadline, if there is none.
    pub(super) fn arm(&mut self, after: Duration) {
        if self.deadline.is_some() {
            return;
        }
        let deadline = Instant::now() + after;
        self.deadline = Some(deadline);
        match &mut self.sleep {
            Some(sleep) if deadline < sleep.deadline() => sleep.as_mut().reset(deadline),
            Some(_) => {}
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }

    pub(super) fn disarm(&mut self) {
        self.deadline = None;
    }

    /// Whether it has run out; registers the task otherwise.
    pub(super) fn has_run_out(&mut self, cx: &mut Context<'_>) -> bool {
        let (Some(deadline), Some(sleep)) = (self.deadline, &mut self.sleep) else { return false };
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return true;
            }
            sleep.as_mut().reset(deadline);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LATER: Duration = Duration::from_millis(100);
    const NEVER: Duration = Duration::from_mins(1);

    /// How long the timer takes to run out.
    async fn ring(timer: &mut Timer) -> Duration {
        let start = Instant::now();
        poll_fn(|cx| if timer.has_run_out(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        start.elapsed()
    }

    async fn has_run_out(timer: &mut Timer) -> bool {
        poll_fn(|cx| Poll::Ready(timer.has_run_out(cx))).await
    }

    #[tokio::test]
    async fn it_rings_at_a_deadline_that_was_put_off() {
        let mut timer = Timer::default();
        timer.arm(SOON);
        assert!(!has_run_out(&mut timer).await);
        timer.disarm();
        timer.arm(LATER);
        timer.arm(NEVER);
        let rang = ring(&mut timer).await;
        assert!(rang >= LATER && rang < NEVER, "{rang:?}");
        timer.disarm();
        assert!(!has_run_out(&mut timer).await);
    }

    #[tokio::test]
    async fn it_rings_at_a_deadline_that_was_put_forward() {
        let mut timer = Timer::default();
        timer.arm(NEVER);
        assert!(!has_run_out(&mut timer).await);
        timer.disarm();
        timer.arm(SOON);
        let rang = ring(&mut timer).await;
        assert!(rang >= SOON / 2 && rang < NEVER, "{rang:?}");
    }
}
