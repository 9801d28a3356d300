//! TLS handshakes under way: a flood of them that never end takes a bounded part of memory and keeps nobody else out.
//!
//! A network over its share is refused, since whoever has so many open at once is a flood or a fault. Where the whole
//! listener has as many as it may (all clients come back after an outage), the next ones wait: they cost a socket then,
//! and their own deadline runs.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tokio::sync::Notify;

use super::networks::Networks;

/// The handshakes of one listener.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// By client network, those that wait among them.
    pub(super) by_network: Arc<Networks>,
    under_way: AtomicU32,
    freed: Notify,
}

/// A handshake's place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct UnderWay<'a>(&'a Handshakes);

impl Handshakes {
    /// Waits for a place among `most`, first come first served.
    pub(super) async fn place(&self, most: u32) -> UnderWay<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before the look, so that a place that is freed in between is not missed.
            freed.as_mut().enable();
            let taken = self
                .under_way
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1));
            if taken.is_ok() {
                return UnderWay(self);
            }
            freed.await;
        }
    }

    /// The limit may have grown: those that wait look again.
    pub(super) fn look_again(&self) {
        self.freed.notify_waiters();
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn who_comes_late_waits_for_a_place() {
        let handshakes = Handshakes::default();
        let soon = Duration::from_millis(20);
        let first = handshakes.place(2).await;
        let _second = handshakes.place(2).await;
        assert!(timeout(soon, handshakes.place(2)).await.is_err());
        let waiting = handshakes.place(2);
        drop(first);
        let third = timeout(soon, waiting).await.unwrap();
        assert!(timeout(soon, handshakes.place(2)).await.is_err());
        drop(third);
        assert!(timeout(soon, handshakes.place(2)).await.is_ok());
    }
}
