//! The clock of the open loop. Tokio's timers have steps of a millisecond, which is more than what we measure, so it is a
//! timer of the kernel.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

pub(super) struct Ticker {
    timer: AsyncFd<OwnedFd>,
    start: Instant,
}

impl Ticker {
    pub(super) fn new(interval: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let interval = Timespec::try_from(interval).map_err(io::Error::other)?;
        let start = Instant::now();
        let every = Itimerspec { it_interval: interval, it_value: interval };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
        #[expect(
            unsafe_code,
            reason = "tokio has no safe way to wait for a descriptor of any kind"
        )]
        // SAFETY: `AsyncFd` owns the descriptor, and nobody else closes or replaces it.
        let timer = unsafe { AsyncFd::register(timer)? };
        Ok(Self { timer, start })
    }

    /// The nth tick is n intervals after it.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// Waits for a tick; how many there were since the last call.
    pub(super) async fn due(&self) -> io::Result<usize> {
        loop {
            let mut ready = self.timer.readable().await?;
            let read = ready.try_io(|timer| {
                let mut count = [0; 8];
                rustix::io::read(timer, &mut count)?;
                Ok(u64::from_ne_bytes(count) as usize)
            });
            // Not ready after all: wait again.
            if let Ok(read) = read {
                return read;
            }
        }
    }
}
