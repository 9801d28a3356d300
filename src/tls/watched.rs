//! Files that are looked at for as long as what is made of them lives, and what was made of their content so far.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tracing::warn;

use super::files::Fingerprint;

/// How often tasks look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// Between two looks at the files.
    pub(crate) poll: Duration,
    /// Files must be the same for this long: a writer may be half through.
    pub(crate) still: Duration,
    /// Between two looks at the calendar; also the pause after a failed renewal.
    pub(crate) renewal: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(2),
            still: Duration::from_millis(250),
            renewal: Duration::from_hours(1),
        }
    }
}

/// What was made of the files' content so far.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    taken: Option<Fingerprint>,
    refused: Option<Fingerprint>,
    /// Time alone mends what was refused.
    is_early: bool,
    /// Why newer content is not in force.
    pub(crate) last_error: Option<String>,
}

/// What content that is offered comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It was judged before.
    Settled,
    /// What is in force stands in the files again.
    AsBefore,
    /// It is to be judged.
    New,
}

impl Freshness {
    /// This content is in force.
    pub(crate) fn of(taken: Option<Fingerprint>) -> Self {
        Self { taken, ..Self::default() }
    }

    /// Whether there is nothing to do about this content.
    pub(crate) fn is_settled(&self, content: Fingerprint) -> bool {
        if self.taken == Some(content) {
            return self.refused.is_none();
        }
        self.refused == Some(content) && !self.is_early
    }

    /// Whether this content is in force.
    pub(crate) fn has_taken(&self, content: Fingerprint) -> bool {
        self.taken == Some(content)
    }

    /// Begins to deal with content.
    pub(crate) fn offered(&mut self, content: Fingerprint) -> Offer {
        if self.is_settled(content) {
            return Offer::Settled;
        }
        if self.taken == Some(content) {
            *self = Self::of(self.taken);
            return Offer::AsBefore;
        }
        Offer::New
    }

    /// This content is not taken. Says whether that is news.
    pub(crate) fn refuse(&mut self, content: Fingerprint, error: String, is_early: bool) -> bool {
        let is_news = self.refused != Some(content);
        self.refused = Some(content);
        self.is_early = is_early;
        self.last_error = Some(error);
        is_news
    }
}

/// Something made of files, replaced in place when they change.
pub(crate) trait Watched: Send + Sync + 'static {
    /// The files' paths.
    type Files: Send + Sync + 'static;

    /// What the files hold now. Blocks.
    fn fingerprint(files: &Self::Files) -> Fingerprint;

    /// Whether there is nothing to do about this content. Asked at each look.
    fn is_settled(&self, content: Fingerprint) -> bool;

    /// What time alone changes. Called at each look.
    fn age(&self) {}

    /// Reads the files again and deals with them if they still hold what was `seen`. Blocks.
    fn offer(&self, files: &Self::Files, seen: Fingerprint);
}

/// Looks at the files until what is made of them is gone.
pub(crate) async fn watch<T: Watched>(watched: Weak<T>, files: T::Files, timing: Timing) {
    let files = Arc::new(files);
    // Many certificates should not be read at the same moment.
    tokio::time::sleep(timing.poll.mul_f64(fastrand::f64())).await;
    loop {
        tokio::time::sleep(timing.poll).await;
        let read = {
            let files = files.clone();
            tokio::task::spawn_blocking(move || T::fingerprint(&files))
        };
        let Ok(seen) = read.await else { continue };
        match watched.upgrade() {
            None => return,
            Some(watched) => {
                watched.age();
                if watched.is_settled(seen) {
                    continue;
                }
            }
        }
        tokio::time::sleep(timing.still).await;
        let (files, watched) = (files.clone(), watched.clone());
        let offered = tokio::task::spawn_blocking(move || {
            // Where they changed meanwhile somebody still writes, and the next look is soon enough.
            if let Some(watched) = watched.upgrade() {
                watched.offer(&files, seen);
            }
        });
        if offered.await.is_err() {
            warn!("looking at certificate files was interrupted");
        }
    }
}
