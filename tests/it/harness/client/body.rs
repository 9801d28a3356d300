//! Bodies of requests, made anew for each one.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;

use crate::harness::origin::pattern;

pub(super) type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

/// What a request carries.
#[derive(Clone, Default)]
pub(super) enum BodySpec {
    #[default]
    None,
    Whole(Bytes),
    /// The pattern of [`pattern`], piece by piece.
    Pieces {
        length: u64,
        piece: usize,
        pace: Duration,
    },
}

impl BodySpec {
    pub(super) fn make(&self) -> RequestBody {
        match self {
            Self::None => Empty::new().boxed_unsync(),
            Self::Whole(bytes) => Full::new(bytes.clone()).boxed_unsync(),
            Self::Pieces { length, piece, pace } => {
                let (length, piece, pace) = (*length, *piece, *pace);
                // One period beyond a piece: each piece is a slice of it and none is built.
                let source = pattern(0, piece + 251);
                let pieces = stream::unfold(0u64, move |offset| {
                    let source = source.clone();
                    async move {
                        if offset >= length {
                            return None;
                        }
                        if offset > 0 && !pace.is_zero() {
                            tokio::time::sleep(pace).await;
                        }
                        let now = usize::try_from(length - offset).unwrap_or(usize::MAX).min(piece);
                        let start = (offset % 251) as usize;
                        let data = source.slice(start..start + now);
                        Some((Ok(Frame::data(data)), offset + now as u64))
                    }
                });
                StreamBody::new(pieces).boxed_unsync()
            }
        }
    }
}
