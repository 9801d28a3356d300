//! Ends a try whose answer does not begin, goes silent, or takes longer than the route allows.
//!
//! Pingora has one read timeout for a connection to an endpoint. Where the try, the first byte, silence and the whole exchange
//! have different limits, this watches the try from beside: at a limit it shuts the connection's socket, and the try fails at
//! once. It is made only then; with equal limits (the default) nothing runs.
//! For HTTP/1.1 upstreams only: connections of HTTP/2 carry other requests too, and Pingora's own timeout is used there.

use std::{
    mem::MaybeUninit,
    net::Shutdown,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
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

/// When what must be over, where that has a limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    /// The wait for the head of this try's answer.
    pub(super) head: Option<std::time::Instant>,
    /// The whole exchange.
    pub(super) total: Option<std::time::Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Milliseconds from the start to the last byte of the answer; 0 before the first.
    last_byte: AtomicU64,
    /// Milliseconds from the start to the end of the request, at least 1; 0 while the client still sends it.
    request_end: AtomicU64,
    /// Milliseconds of silence that an answer may have.
    idle: AtomicU64,
    /// 0: not expired; 1: silence; 2: total; 3: the try.
    expired: AtomicU8,
    /// The answer is a stream: the whole exchange has no limit.
    is_stream: AtomicBool,
    /// From here on other limits hold.
    changed: Notify,
}

/// Watches one try; stops when dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    shared: Arc<Shared>,
    started: Instant,
    task: JoinHandle<()>,
}

impl Watchdog {
    /// Whether these limits need a watchdog.
    pub(super) fn is_needed(timeouts: &Timeouts, ends: &Ends) -> bool {
        timeouts.first_byte != timeouts.idle || ends.head.is_some() || ends.total.is_some()
    }

    /// A second descriptor of Pingora's connection; `None` where it shows none, or there are none left.
    pub(super) fn duplicate(socket: RawFd) -> Option<OwnedFd> {
        if socket < 0 {
            return None;
        }
        #[expect(
            unsafe_code,
            reason = "the descriptor is Pingora's connection, which is open while this hook runs; it is duplicated at once"
        )]
        // SAFETY: `socket` is open for the whole call, see above; the borrow ends with this statement.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        socket.try_clone_to_owned().ok()
    }

    /// Watches the connection behind `socket`. `is_sent` says that the client has sent all of its request.
    pub(super) fn start(socket: OwnedFd, timeouts: &Timeouts, ends: Ends, is_sent: bool) -> Self {
        let socket = socket2::Socket::from(socket);
        let shared = Arc::new(Shared {
            idle: AtomicU64::new(millis(timeouts.idle)),
            request_end: AtomicU64::new(is_sent.into()),
            ..Shared::default()
        });
        let started = Instant::now();
        let watched = shared.clone();
        let first_byte = timeouts.first_byte;
        let task = tokio::spawn(async move {
            let total = ends.total.map(Instant::from_std);
            let head = ends.head.map(Instant::from_std);
            let after = |milliseconds| started + Duration::from_millis(milliseconds);
            loop {
                let last_byte = watched.last_byte.load(Ordering::Relaxed);
                let silence = match (last_byte, watched.request_end.load(Ordering::Relaxed)) {
                    // The answer to a request that is not whole may wait for the rest of it, as the client does.
                    (0, 0) => None,
                    (0, sent) => Some(after(sent) + first_byte),
                    (last, _) => Some(after(last + watched.idle.load(Ordering::Relaxed))),
                };
                let head = head.filter(|_| last_byte == 0);
                let total = total.filter(|_| !watched.is_stream.load(Ordering::Relaxed));
                let limits = [(silence, 1), (total, 2), (head, 3)];
                let earliest =
                    limits.into_iter().filter_map(|(limit, which)| Some((limit?, which))).min();
                let Some((limit, which)) = earliest else {
                    watched.changed.notified().await;
                    continue;
                };
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
                    () = watched.changed.notified() => {}
                }
            }
        });
        Self { shared, started, task }
    }

    /// The client has sent all of its request: the time to the first byte of the answer begins.
    pub(super) fn saw_request_end(&self) {
        let now = millis(self.started.elapsed()).max(1);
        if self.shared.request_end.swap(now, Ordering::Relaxed) == 0 {
            self.shared.changed.notify_one();
        }
    }

    /// The answer is a stream: it may be silent for so long, and go on for ever.
    pub(super) fn became_stream(&self, idle: Duration) {
        self.shared.idle.store(millis(idle), Ordering::Relaxed);
        self.shared.is_stream.store(true, Ordering::Relaxed);
    }

    /// A byte of the answer came.
    pub(super) fn saw_byte(&self) {
        if self.shared.last_byte.swap(millis(self.started.elapsed()).max(1), Ordering::Relaxed) == 0
        {
            self.shared.changed.notify_one();
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
    use std::os::fd::AsFd;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn limits(first_byte: u64, idle: u64) -> Timeouts {
        Timeouts {
            first_byte: Duration::from_millis(first_byte),
            idle: Duration::from_millis(idle),
            ..Timeouts::default()
        }
    }

    fn after(milliseconds: u64) -> std::time::Instant {
        std::time::Instant::now() + Duration::from_millis(milliseconds)
    }

    fn duplicate(stream: &TcpStream) -> OwnedFd {
        stream.as_fd().try_clone_to_owned().unwrap()
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn each_limit_ends_the_connection() {
        let none = Ends::default();
        for (timeouts, ends, has_begun, which) in [
            (limits(30, 60_000), none, false, Expired::Silence),
            (limits(60_000, 30), none, true, Expired::Silence),
            (limits(60_000, 60_000), Ends { total: Some(after(30)), ..none }, true, Expired::Total),
            (limits(60_000, 60_000), Ends { head: Some(after(30)), ..none }, false, Expired::Try),
        ] {
            let (mut client, _server) = pair().await;
            let watchdog = Watchdog::start(duplicate(&client), &timeouts, ends, true);
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
            Watchdog::start(duplicate(&client), &limits(10, 60_000), Ends::default(), true);
        watchdog.saw_byte();
        drop(watchdog);
        server.write_all(b"x").await.unwrap();
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn an_upload_is_not_silence_and_neither_are_bytes_that_wait() {
        let (client, mut server) = pair().await;
        let watchdog =
            Watchdog::start(duplicate(&client), &limits(120, 120), Ends::default(), false);
        tokio::time::sleep(Duration::from_millis(240)).await;
        assert_eq!(watchdog.expired(), None, "the request is still being sent");
        watchdog.saw_request_end();
        watchdog.saw_byte();
        server.write_all(b"waiting").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(watchdog.expired(), None, "nobody has read what came");
    }

    #[tokio::test]
    async fn the_end_of_the_request_begins_the_wait() {
        let (mut client, _server) = pair().await;
        let watchdog =
            Watchdog::start(duplicate(&client), &limits(30, 60_000), Ends::default(), false);
        watchdog.saw_request_end();
        let read = tokio::time::timeout(Duration::from_secs(5), client.read(&mut [0; 8])).await;
        assert!(matches!(read.unwrap(), Ok(0) | Err(_)));
        assert_eq!(watchdog.expired(), Some(Expired::Silence));
    }

    #[tokio::test]
    async fn a_stream_may_be_silent_and_go_on() {
        let (client, _server) = pair().await;
        let ends = Ends { total: Some(after(60)), head: None };
        let watchdog = Watchdog::start(duplicate(&client), &limits(60_000, 30), ends, true);
        watchdog.became_stream(Duration::from_mins(1));
        watchdog.saw_byte();
        tokio::time::sleep(Duration::from_millis(240)).await;
        assert_eq!(watchdog.expired(), None);
    }

    #[test]
    fn equal_limits_need_none() {
        let none = Ends::default();
        assert!(!Watchdog::is_needed(&Timeouts::default(), &none));
        assert!(Watchdog::is_needed(&limits(10, 20), &none));
        assert!(Watchdog::is_needed(&limits(10, 10), &Ends { total: Some(after(1)), ..none }));
        assert!(Watchdog::is_needed(&limits(10, 10), &Ends { head: Some(after(1)), ..none }));
    }
}
