//! Bytes in both directions between a client and an endpoint, untouched.
//!
//! No buffer is held while nothing is on its way: bytes are read into the stack and written at once; only what a slow reader
//! does not take is kept, at most [`CHUNK`] for each direction, and nothing more is read for it. One side's end is passed
//! on as an end (half-close) while the other direction goes on.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep},
};

/// Bytes read at once, and the most that waits for one direction.
const CHUNK: usize = 16 << 10;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PumpEnd {
    /// Both sides have ended in order.
    Closed,
    /// Nothing passed in either direction for too long.
    Idle,
    /// The client's side failed.
    ClientBroke,
    /// The endpoint's side failed.
    EndpointBroke,
}

/// Which side of a direction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Reader,
    Writer,
}

/// One direction.
struct Direction {
    stage: Stage,
    /// What the writer has not taken yet, from `start` on.
    waiting: Vec<u8>,
    start: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Moving,
    /// The reader has ended; the writer is told.
    Ending,
    Ended,
}

/// Moves bytes until both sides have ended, one fails, or nothing has passed for `idle`. `opening` was read from the client already.
/// `received` is told of bytes that the endpoint took, `sent` of those that the client took.
pub(super) async fn pump<C, E>(
    client: &mut C,
    endpoint: &mut E,
    opening: Vec<u8>,
    idle: Duration,
    mut received: impl FnMut(u64),
    mut sent: impl FnMut(u64),
) -> PumpEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    E: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::starting_with(opening);
    let mut down = Direction::starting_with(Vec::new());
    let mut passed = Instant::now();
    let mut timer = std::pin::pin!(sleep(idle));
    poll_fn(|cx| {
        let mut has_moved = false;
        let up = up.poll(cx, client, endpoint, |bytes| {
            has_moved = true;
            received(bytes);
        });
        let down = down.poll(cx, endpoint, client, |bytes| {
            has_moved = true;
            sent(bytes);
        });
        match (up, down) {
            (Poll::Ready(Err(Broken::Reader)), _) | (_, Poll::Ready(Err(Broken::Writer))) => {
                return Poll::Ready(PumpEnd::ClientBroke);
            }
            (Poll::Ready(Err(Broken::Writer)), _) | (_, Poll::Ready(Err(Broken::Reader))) => {
                return Poll::Ready(PumpEnd::EndpointBroke);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(PumpEnd::Closed),
            _ => {}
        }
        if has_moved {
            passed = Instant::now();
        }
        // The timer is set anew when it runs out, not with every byte.
        while timer.as_mut().poll(cx).is_ready() {
            let ends = passed + idle;
            if ends <= Instant::now() {
                return Poll::Ready(PumpEnd::Idle);
            }
            timer.as_mut().reset(ends);
        }
        Poll::Pending
    })
    .await
}

impl Direction {
    fn starting_with(waiting: Vec<u8>) -> Self {
        Self { stage: Stage::Moving, waiting, start: 0 }
    }

    /// Moves what can be moved now. Ready when the reader has ended and the writer knows.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        mut moved: impl FnMut(u64),
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.stage {
                Stage::Moving => {
                    ready!(self.poll_waiting(cx, to, &mut moved))?;
                    let mut scratch = [MaybeUninit::uninit(); CHUNK];
                    let mut read = ReadBuf::uninit(&mut scratch);
                    match ready!(Pin::new(&mut *from).poll_read(cx, &mut read)) {
                        Err(_) => return Poll::Ready(Err(Broken::Reader)),
                        Ok(()) if read.filled().is_empty() => self.stage = Stage::Ending,
                        Ok(()) => self.write(cx, to, read.filled(), &mut moved)?,
                    }
                }
                Stage::Ending => {
                    // It fails where the other side has closed both ways already.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.stage = Stage::Ended;
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Writes what waits.
    fn poll_waiting<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        moved: &mut impl FnMut(u64),
    ) -> Poll<Result<(), Broken>> {
        while let Some(rest) = self.waiting.get(self.start..).filter(|rest| !rest.is_empty()) {
            self.start += taken(&ready!(Pin::new(&mut *to).poll_write(cx, rest)), moved)?;
        }
        if !self.waiting.is_empty() {
            *self = Self::starting_with(Vec::new());
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what was read; what is not taken waits.
    fn write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        mut bytes: &[u8],
        moved: &mut impl FnMut(u64),
    ) -> Result<(), Broken> {
        while !bytes.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, bytes) {
                Poll::Ready(result) => {
                    bytes = bytes.get(taken(&result, moved)?..).unwrap_or_default();
                }
                Poll::Pending => {
                    self.waiting = bytes.to_vec();
                    break;
                }
            }
        }
        Ok(())
    }
}

/// How many bytes a write took.
fn taken(result: &io::Result<usize>, moved: &mut impl FnMut(u64)) -> Result<usize, Broken> {
    match result {
        Ok(length) if *length > 0 => {
            moved(*length as u64);
            Ok(*length)
        }
        Ok(_) | Err(_) => Err(Broken::Writer),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LONG: Duration = Duration::from_mins(10);

    fn pattern(length: usize, seed: usize) -> Vec<u8> {
        (0..length).map(|at| ((at * 7 + seed) % 251) as u8).collect()
    }

    #[tokio::test]
    async fn both_directions_pass_whatever_the_pieces_and_a_half_close_is_one() {
        for room in [1, 7, 4_096, 100_000] {
            let (mut client, mut near) = duplex(room);
            let (mut far, mut endpoint) = duplex(room);
            let (mut up, mut down) = (0, 0);
            let moving = async {
                let opening = b"opening".to_vec();
                pump(&mut near, &mut far, opening, LONG, |n| up += n, |n| down += n).await
            };
            let asking = async {
                client.write_all(&pattern(50_000, 1)).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                assert!(answer == pattern(70_000, 2), "room {room}");
            };
            let answering = async {
                // The whole question first: the client's end reaches it while its own side is open.
                let mut question = Vec::new();
                endpoint.read_to_end(&mut question).await.unwrap();
                assert!(question == [&b"opening"[..], &pattern(50_000, 1)].concat());
                endpoint.write_all(&pattern(70_000, 2)).await.unwrap();
                endpoint.shutdown().await.unwrap();
            };
            let (end, (), ()) = tokio::join!(moving, asking, answering);
            assert_eq!(end, PumpEnd::Closed);
            assert_eq!((up, down), (50_007, 70_000));
        }
    }

    #[tokio::test]
    async fn a_side_that_takes_nothing_stops_the_other() {
        let (mut client, mut near) = duplex(1 << 20);
        let (mut far, _endpoint) = duplex(1_000);
        client.write_all(&pattern(500_000, 0)).await.unwrap();
        let mut up = 0;
        let moving = pump(&mut near, &mut far, Vec::new(), LONG, |n| up += n, |_| {});
        let stuck = tokio::time::timeout(Duration::from_millis(50), moving).await;
        assert!(stuck.is_err() && up == 1_000, "{up}");
        let mut left = 0;
        let mut scratch = vec![0; 1 << 20];
        while let Ok(read) =
            tokio::time::timeout(Duration::from_millis(20), near.read(&mut scratch)).await
        {
            left += read.unwrap();
        }
        assert_eq!(left, 500_000 - CHUNK, "more than one chunk was taken in");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_in_both_directions_ends_it_and_a_byte_in_one_does_not() {
        let (mut client, mut near) = duplex(64);
        let (mut far, _endpoint) = duplex(64);
        let idle = Duration::from_secs(10);
        let began = Instant::now();
        let talking = async {
            for _ in 0..3 {
                sleep(Duration::from_secs(8)).await;
                client.write_all(b"x").await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let moving = pump(&mut near, &mut far, Vec::new(), idle, |_| {}, |_| {});
        tokio::select! {
            () = talking => {}
            end = moving => assert_eq!(end, PumpEnd::Idle),
        }
        assert_eq!(began.elapsed().as_secs(), 34);
    }

    #[tokio::test]
    async fn the_side_that_breaks_is_named() {
        struct Breaks;
        impl AsyncRead for Breaks {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        impl AsyncWrite for Breaks {
            fn poll_write(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &[u8],
            ) -> Poll<io::Result<usize>> {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let (mut open, _other) = duplex(64);
        let end = pump(&mut Breaks, &mut open, Vec::new(), LONG, |_| {}, |_| {}).await;
        assert_eq!(end, PumpEnd::ClientBroke);
        let end = pump(&mut open, &mut Breaks, Vec::new(), LONG, |_| {}, |_| {}).await;
        assert_eq!(end, PumpEnd::EndpointBroke);
        let end = pump(&mut open, &mut Breaks, b"x".to_vec(), LONG, |_| {}, |_| {}).await;
        assert_eq!(end, PumpEnd::EndpointBroke);
    }
}
