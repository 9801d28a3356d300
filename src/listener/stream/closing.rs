//! The end of a WebSocket: the edge's own close frame, between two frames of the endpoint.

use std::{
    io,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::ClientStream;
use crate::{
    listener::web_socket::{CLOSE_SERVICE_RESTART, Frames},
    proxy::Ending,
};

/// The end of a head.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A WebSocket that may have to be closed by us.
pub(super) struct WebSocket {
    /// How many bytes of [`HEAD_END`] have been written last; all of them once the 101 is out.
    head_end: usize,
    /// The frames on their way to the client.
    frames: Frames,
    /// Ready when WebSockets end.
    ends: Pin<Box<WaitForCancellationFutureOwned>>,
    pub(super) closing: Closing,
}

impl WebSocket {
    pub(super) fn new(ending: &Ending) -> Self {
        let ends = Box::pin(ending.streams.child_token().cancelled_owned());
        Self { head_end: 0, frames: Frames::default(), ends, closing: Closing::No }
    }
}

/// How far the closing of a WebSocket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// It is not closed.
    No,
    /// Its turn in the spread is awaited, by the read timer.
    Waiting,
    /// The close frame is written from this byte on, as soon as no frame is under way.
    Writing(usize),
    /// It is written.
    Done,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientStream<S> {
    /// Whether the edge has closed this WebSocket; while it has not, the task is told when it must.
    pub(super) fn web_socket_is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.info.is_web_socket() {
            return false;
        }
        let ending = self.info.ending();
        let socket = self.web_socket.get_or_insert_with(|| Box::new(WebSocket::new(ending)));
        if socket.closing == Closing::No && socket.ends.as_mut().poll(cx).is_ready() {
            let spread = ending.spread_millis.load(Ordering::Acquire);
            self.read_timer.disarm();
            self.read_timer.arm(Duration::from_millis(fastrand::u64(0..=spread)));
            socket.closing = Closing::Waiting;
        }
        if socket.closing == Closing::Waiting && self.read_timer.has_run_out(cx) {
            self.read_timer.disarm();
            socket.closing = Closing::Writing(0);
        }
        while let Closing::Writing(written) = socket.closing {
            // In the middle of the endpoint's frame: the write that ends it wakes nobody here, the next read looks again.
            if written == 0 && (socket.head_end < HEAD_END.len() || !socket.frames.is_between()) {
                return false;
            }
            let rest = CLOSE_SERVICE_RESTART.get(written..).unwrap_or_default();
            if rest.is_empty() {
                let _ = Pin::new(&mut self.io).poll_flush(cx);
                socket.closing = Closing::Done;
                break;
            }
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(more)) if more > 0 => {
                    socket.closing = Closing::Writing(written + more);
                }
                Poll::Ready(_) => socket.closing = Closing::Done,
                Poll::Pending => return false,
            }
        }
        socket.closing == Closing::Done
    }

    /// Follows what goes to the client of a WebSocket: after the head of the 101, frames.
    pub(super) fn saw_written(&mut self, result: &Poll<io::Result<usize>>, bytes: &[u8]) {
        let Poll::Ready(Ok(length)) = result else { return };
        if self.web_socket.is_none() && !self.info.is_web_socket() {
            return;
        }
        let ending = self.info.ending();
        let socket = self.web_socket.get_or_insert_with(|| Box::new(WebSocket::new(ending)));
        let mut written = bytes.get(..*length).unwrap_or_default();
        while socket.head_end < HEAD_END.len()
            && let Some((first, rest)) = written.split_first()
        {
            let is_next = HEAD_END.get(socket.head_end) == Some(first);
            socket.head_end =
                if is_next { socket.head_end + 1 } else { usize::from(*first == b'\r') };
            written = rest;
        }
        socket.frames.feed(written);
    }
}
