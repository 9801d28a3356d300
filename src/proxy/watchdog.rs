//! Ends a try whose answer does not begin, goes silent, or takes longer than the route allows.
//!
//! Pingora has one read timeout for a connection to an endpoint. Where the try, the first byte, silence and the whole exchange
//! have different limits, this watches the try from beside: at a limit it shuts the connection's socket, and the try fails at
//! once. It is made only then; with equal limits (the default) nothing runs.
//! For HTTP/1.1 upstreams only: connections of HTTP/2 carry other requests too, and Pingora's own timeout is used there.

use std::{
    mem::MaybeUninit,
    net::Shutdown,
    os::fd::{BorrowedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle, time::Instant};

use crate::upstream::Timeouts;

/// The limit that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// The answer did not begin, or went silent.
    Silence,
    /// The head of the answer was not there at the end of the try's own time.
    Try,
    /// The whole exchange took too long.
    Total,
}

#[derive(Debug, Default)]
struct Shared {
    /// Milliseconds from the start to the last byte of the answer; 0 before the first.
    last_byte: AtomicU64,
    /// Milliseconds from the start to the last byte of the request.
    last_request_byte: AtomicU64,
    /// Milliseconds of silence that an answer may have.
    idle: AtomicU64,
    /// 0: not expired; 1: silence; 2: total; 3: the try.
    expired: AtomicU8,
    /// The first byte came: from here on another limit holds.
    began: Notify,
}

/// Watches one try; stops when dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    shared: Arc<Shared>,
    started: Instant,
    task: JoinHandle<()>,
}

impl Watchdog {
    /// Whether these timeouts need a watchdog.
    pub(super) fn is_needed(timeouts: &Timeouts) -> bool {
        timeouts.first_byte != timeouts.idle || timeouts.total.is_some()
    }

    /// Watches the connection behind `socket`. `spent` is the time that the request has had with endpoints so far, `head`
    /// the time that is left for the head of this try's answer.
    ///
    /// Returns `None` where the socket can't be duplicated (no file descriptors left): Pingora's timeout remains.
    pub(super) fn start(
        socket: RawFd,
        timeouts: Timeouts,
        spent: Duration,
        head: Option<Duration>,
    ) -> Option<Self> {
        #[expect(
            unsafe_code,
            reason = "the descriptor is Pingora's connection, which is open while this hook runs; it is duplicated at once"
        )]
        // SAFETY: `socket` is open for the whole call, see above; the borrow ends with this statement.
        let own = unsafe { BorrowedFd::borrow_raw(socket) }.try_clone_to_owned().ok()?;
        let socket = socket2::Socket::from(own);
        let shared =
            Arc::new(Shared { idle: AtomicU64::new(millis(timeouts.idle)), ..Shared::default() });
        let started = Instant::now();
        let watched = shared.clone();
        let task = tokio::spawn(async move {
            let total = timeouts.total.map(|total| started + total.saturating_sub(spent));
            let head = head.map(|head| started + head);
            loop {
                let last_byte = watched.last_byte.load(Ordering::Relaxed);
                let silence = if last_byte == 0 {
                    let sent = watched.last_request_byte.load(Ordering::Relaxed);
                    started + Duration::from_millis(sent) + timeouts.first_byte
                } else {
                    started
                        + Duration::from_millis(last_byte + watched.idle.load(Ordering::Relaxed))
                };
                let head = head.filter(|_| last_byte == 0);
                let limits = [(Some(silence), 1), (total, 2), (head, 3)];
                let earliest =
                    limits.into_iter().filter_map(|(limit, which)| Some((limit?, which)));
                let (limit, which) = earliest.min().unwrap_or((silence, 1));
                if Instant::now() >= limit {
                    // Bytes that wait are not read because the client takes none: the endpoint is not silent.
                    if which == 1
                        && socket
                            .peek(&mut [MaybeUninit::uninit()])
                            .is_ok_and(|waiting| waiting > 0)
                    {
                        watched
                            .last_byte
                            .store(millis(started.elapsed()).max(1), Ordering::Relaxed);
                        continue;
                    }
                    watched.expired.store(which, Ordering::Release);
                    // It fails only where the connection is gone already.
                    drop(socket.shutdown(Shutdown::Both));
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep_until(limit) => {}
                    () = watched.began.notified() => {}
                }
            }
        });
        Some(Self { shared, started, task })
    }

    /// A byte of the request went: the time to the first byte of the answer begins anew.
    pub(super) fn saw_request_byte(&self) {
        self.shared.last_request_byte.store(millis(self.started.elapsed()), Ordering::Relaxed);
    }

    /// From now on the answer may be silent for so long.
    pub(super) fn allow_silence(&self, idle: Duration) {
        self.shared.idle.store(millis(idle), Ordering::Relaxed);
    }

    /// A byte of the answer came.
    pub(super) fn saw_byte(&self) {
        if self.shared.last_byte.swap(millis(self.started.elapsed()).max(1), Ordering::Relaxed) == 0
        {
            self.shared.began.notify_one();
        }
    }

    /// The limit that ended the try, if one did.
    pub(super) fn expired(&self) -> Option<Expired> {
        match self.shared.expired.load(Ordering::Acquire) {
            1 => Some(Expired::Silence),
            2 => Some(Expired::Total),
            3 => Some(Expired::Try),
            _ => None,
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn limits(first_byte: u64, idle: u64, total: Option<u64>) -> Timeouts {
        Timeouts {
            first_byte: Duration::from_millis(first_byte),
            idle: Duration::from_millis(idle),
            total: total.map(Duration::from_millis),
            ..Timeouts::default()
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn silence_and_total_end_the_connection() {
        for (timeouts, has_begun, which) in [
            (limits(30, 5_000, None), false, Expired::Silence),
            (limits(60_000, 30, None), true, Expired::Silence),
            (limits(5_000, 5_000, Some(30)), false, Expired::Total),
        ] {
            let (mut client, _server) = pair().await;
            let watchdog =
                Watchdog::start(client.as_raw_fd(), timeouts, Duration::ZERO, None).unwrap();
            if has_begun {
                watchdog.saw_byte();
            }
            let read = tokio::time::timeout(Duration::from_secs(5), client.read(&mut [0; 8]))
                .await
                .unwrap();
            assert!(matches!(read, Ok(0) | Err(_)));
            assert_eq!(watchdog.expired(), Some(which));
        }
    }

    #[tokio::test]
    async fn bytes_keep_it_alive_and_dropping_it_stops_it() {
        let (mut client, mut server) = pair().await;
        let watchdog =
            Watchdog::start(client.as_raw_fd(), limits(10, 60_000, None), Duration::ZERO, None)
                .unwrap();
        watchdog.saw_byte();
        drop(watchdog);
        server.write_all(b"x").await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_upload_is_not_silence_and_neither_are_bytes_that_wait() {
        let (client, mut server) = pair().await;
        let watchdog =
            Watchdog::start(client.as_raw_fd(), limits(120, 120, None), Duration::ZERO, None)
                .unwrap();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            watchdog.saw_request_byte();
        }
        assert_eq!(watchdog.expired(), None, "the request is still being sent");
        watchdog.saw_byte();
        server.write_all(b"waiting").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(watchdog.expired(), None, "nobody has read what came");
    }

    #[test]
    fn equal_limits_need_none() {
        assert!(!Watchdog::is_needed(&Timeouts::default()));
        assert!(
            Watchdog::is_needed(&limits(10, 20, None))
                && Watchdog::is_needed(&limits(10, 10, Some(5)))
        );
    }
}
