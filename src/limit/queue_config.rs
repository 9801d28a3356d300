//! Settings of a queue before a limit: the same keys wherever something is limited.

use super::{QueueConfig, QueueOrder};
use crate::types::{HumanDuration, KeyPath, Problems, defaults};

/// The most that a queue may hold: each one that waits is a client connection with its request in memory.
const MAX_WAITING: u32 = 100_000;

/// Who waits, and for how long, as written. The keys stand in the tables of what is limited, each with its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawQueue {
    /// `max_waiting`.
    pub max_waiting: Option<u32>,
    /// `queue_timeout`.
    pub queue_timeout: Option<HumanDuration>,
    /// `queue_order`.
    pub queue_order: Option<QueueOrder>,
}

impl RawQueue {
    /// This one's keys, then `base`'s.
    pub fn or(self, base: Self) -> Self {
        Self {
            max_waiting: self.max_waiting.or(base.max_waiting),
            queue_timeout: self.queue_timeout.or(base.queue_timeout),
            queue_order: self.queue_order.or(base.queue_order),
        }
    }

    /// Fills in the defaults; `path` is that of the table they stand in.
    pub fn parse(self, path: &KeyPath, problems: &mut Problems) -> QueueConfig {
        let max_waiting = self.max_waiting.unwrap_or(defaults::MAX_WAITING);
        if max_waiting > MAX_WAITING {
            problems.error(
                &path.key("max_waiting"),
                format!("{max_waiting} who wait are too many; at most {MAX_WAITING}"),
            );
        }
        let timeout = self.queue_timeout.unwrap_or(defaults::QUEUE_TIMEOUT);
        if timeout.0.is_zero() {
            problems
                .error(&path.key("queue_timeout"), "nobody can wait for no time")
                .help("write `max_waiting = 0` for no queue");
        }
        QueueConfig { max_waiting, timeout: timeout.0, order: self.queue_order.unwrap_or_default() }
    }
}
