//! The body of an answer: there from the beginning, or made while it is sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body, Frame, SizeHint};

use super::conn::{Conn, Phase};

/// Parts of a body in the making. They are asked for as fast as the peer takes them; dropping it stops who makes them.
pub(crate) type Parts = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// The body of an answer.
pub(crate) enum AnswerBody {
    Whole(Bytes),
    Parts {
        parts: Parts,
        /// The connection to tell when the last part was made.
        conn: Option<Arc<Conn>>,
    },
}

impl AnswerBody {
    pub(crate) fn parts(parts: Parts) -> Self {
        AnswerBody::Parts { parts, conn: None }
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
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            AnswerBody::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            AnswerBody::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            AnswerBody::Parts { parts, conn } => parts.as_mut().poll_next(cx).map(|part| {
                if let (None, Some(conn)) = (&part, &conn) {
                    conn.end_stream();
                }
                part.map(|bytes| Ok(Frame::data(bytes)))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AnswerBody::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            AnswerBody::Parts { .. } => SizeHint::default(),
        }
    }
}
