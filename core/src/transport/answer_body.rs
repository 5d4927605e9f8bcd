//! The body of an answer: there from the beginning, or made while it is sent.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};

use super::conn::{Conn, Phase};

/// Parts of a body in the making. They are asked for as fast as the peer takes them; dropping it stops who makes them.
pub(crate) type Parts = Pin<Box<dyn Stream<Item = Result<Bytes, Cut>> + Send>>;

/// The parts end before the answer does: the connection ends with them, so that nobody takes it for whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer is cut off")
    }
}

impl std::error::Error for Cut {}

/// The body of an answer.
pub(crate) enum AnswerBody {
    Whole(Bytes),
    Parts {
        parts: Parts,
        /// Bytes of all parts, if that is known.
        length: Option<u64>,
        /// The connection to tell when the last part was made.
        conn: Option<Arc<Conn>>,
    },
}

impl AnswerBody {
    pub(crate) fn parts(parts: Parts, length: Option<u64>) -> Self {
        AnswerBody::Parts { parts, length, conn: None }
    }

    /// Says which connection the body goes out on.
    pub(super) fn goes_to(&mut self, to: &Arc<Conn>) {
        match self {
            AnswerBody::Whole(_) => to.enter(Phase::Answering),
            AnswerBody::Parts { conn, .. } => {
                to.begin_stream();
                *conn = Some(to.clone());
            }
        }
    }
}

impl<B: Into<Bytes>> From<B> for AnswerBody {
    fn from(body: B) -> Self {
        AnswerBody::Whole(body.into())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            AnswerBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            AnswerBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            AnswerBody::Parts { parts, conn, .. } => parts.as_mut().poll_next(cx).map(|part| {
                if let (None, Some(conn)) = (&part, &conn) {
                    conn.end_stream();
                }
                part.map(|part| part.map(Frame::data))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AnswerBody::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            AnswerBody::Parts { length, .. } => length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
