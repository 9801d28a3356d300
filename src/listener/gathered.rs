//! Small writes of one answer leave together: its head with the beginning of its body, in one system call and one TLS record.
//!
//! Place: below `stream`, above `guarded`. Pingora flushes at the end of an answer and after each part of one whose length
//! is not known; what is held here leaves then, when it is full, and as soon as the connection has nothing to do but wait
//! ([`Gathered::send`]). HTTP/2 gathers its frames itself.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held at most. What does not fit goes out behind them without a copy.
const ROOM: usize = 4 << 10;

/// A connection whose small writes are gathered.
pub(super) struct Gathered<S> {
    io: S,
    /// What was taken and is not written. Without memory of its own between two answers.
    held: Vec<u8>,
    /// So many bytes of it are written.
    written: usize,
    is_on: bool,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Gathers where `is_on`; passes everything on at once otherwise.
    pub(super) fn new(io: S, is_on: bool) -> Self {
        Self { io, held: Vec::new(), written: 0, is_on }
    }

    /// Begins to write what is held, if anything is. A failure is told by the write or flush that comes next.
    pub(super) fn send(&mut self, cx: &mut Context<'_>) {
        if !self.held.is_empty() {
            let _ = self.poll_written(cx, &[]);
        }
    }

    /// Writes what is held, then as much of `more` as the same calls take: ready, with the number of bytes taken of
    /// `more`, when nothing is held any longer.
    fn poll_written(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        while !self.held.is_empty() {
            let rest = self.held.get(self.written..).unwrap_or_default();
            let io = Pin::new(&mut self.io);
            let count = if more.is_empty() || !io.is_write_vectored() {
                ready!(io.poll_write(cx, rest))?
            } else {
                ready!(io.poll_write_vectored(cx, &[IoSlice::new(rest), IoSlice::new(more)]))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            taken = count.saturating_sub(rest.len());
            self.written += count - taken;
            if self.written == self.held.len() {
                self.held = Vec::new();
                self.written = 0;
            }
        }
        Poll::Ready(Ok(taken))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_on && this.held.len() + bytes.len() <= ROOM {
            if this.held.is_empty() {
                this.held.reserve_exact(ROOM);
            }
            this.held.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        match ready!(this.poll_written(cx, bytes))? {
            0 => Pin::new(&mut this.io).poll_write(cx, bytes),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if this.is_on && this.held.len() + length <= ROOM {
            for slice in slices {
                ready!(Pin::new(&mut *this).poll_write(cx, slice))?;
            }
            return Poll::Ready(Ok(length));
        }
        ready!(this.poll_written(cx, &[]))?;
        Pin::new(&mut this.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_written(cx, &[]))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A client that is gone has no use for the rest.
        let _ = ready!(this.poll_written(cx, &[]));
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes so many bytes a call, refuses every second call where it hesitates, and keeps each call's bytes.
    #[derive(Default)]
    struct Socket {
        calls: Vec<Vec<u8>>,
        most: usize,
        hesitates: bool,
        is_ready: bool,
        flushes: usize,
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.is_ready = !self.is_ready;
            if self.hesitates && self.is_ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let bytes: Vec<u8> =
                slices.iter().flat_map(|slice| slice.iter().copied()).take(self.most).collect();
            self.calls.push(bytes.clone());
            Poll::Ready(Ok(bytes.len()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gathered(most: usize, hesitates: bool) -> Gathered<Socket> {
        Gathered::new(Socket { most, hesitates, ..Socket::default() }, true)
    }

    #[tokio::test]
    async fn a_head_and_a_small_body_leave_in_one_call() {
        let mut stream = gathered(usize::MAX, false);
        stream.write_all(b"head").await.unwrap();
        stream.write_all(b"body").await.unwrap();
        assert!(stream.io.calls.is_empty());
        stream.flush().await.unwrap();
        assert_eq!(stream.io.calls, [b"headbody"]);
        assert_eq!(stream.io.flushes, 1);
        assert_eq!(stream.held.capacity(), 0, "an idle connection holds no memory");
    }

    #[tokio::test]
    async fn a_head_leaves_with_the_beginning_of_a_large_body() {
        let mut stream = gathered(usize::MAX, false);
        stream.write_all(b"head").await.unwrap();
        stream.write_all(&[b'x'; ROOM]).await.unwrap();
        assert_eq!(stream.io.calls.iter().map(Vec::len).collect::<Vec<_>>(), [ROOM + 4]);
    }

    #[tokio::test]
    async fn what_is_held_leaves_when_the_connection_waits_and_before_its_end() {
        let mut stream = gathered(usize::MAX, false);
        stream.write_all(b"head").await.unwrap();
        stream.send(&mut Context::from_waker(Waker::noop()));
        assert_eq!(stream.io.calls, [b"head"]);
        stream.write_all(b"rest").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.io.calls, [b"head", b"rest"]);
    }

    #[tokio::test]
    async fn nothing_is_held_where_it_is_off() {
        let mut stream = gathered(usize::MAX, false);
        stream.is_on = false;
        stream.write_all(b"frame").await.unwrap();
        assert_eq!(stream.io.calls, [b"frame"]);
    }

    proptest! {
        #[test]
        fn every_byte_leaves_once_and_in_order(
            parts in prop::collection::vec((0_usize..3 * ROOM, any::<bool>(), any::<bool>()), 1..20),
            most in 1_usize..2 * ROOM,
            hesitates: bool,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut stream = gathered(most, hesitates);
                let mut expected = Vec::new();
                for (index, (length, flushes, waits)) in parts.into_iter().enumerate() {
                    let part: Vec<u8> = (0..length).map(|byte| (byte + index) as u8).collect();
                    stream.write_all(&part).await.unwrap();
                    expected.extend(part);
                    if waits {
                        stream.send(&mut Context::from_waker(Waker::noop()));
                    }
                    if flushes {
                        stream.flush().await.unwrap();
                        prop_assert_eq!(stream.io.calls.concat().len(), expected.len());
                    }
                }
                stream.flush().await.unwrap();
                prop_assert_eq!(stream.io.calls.concat(), expected);
                Ok(())
            })?;
        }
    }
}
