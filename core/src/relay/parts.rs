//! An answer that comes in parts: the worker sends no more than its caller takes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::Room;
use super::session::{Call, Part};
use crate::transport::answer_body::Cut;

/// The parts as the caller takes them. Dropping it stops the worker's handler.
pub(crate) struct Parts {
    pub(super) call: Call,
    pub(super) parts: mpsc::UnboundedReceiver<Part>,
    pub(super) deadline: Pin<Box<Sleep>>,
    /// What the call takes of the relay for as long as it lasts.
    pub(super) room: Room,
    pub(super) over: bool,
}

impl Stream for Parts {
    type Item = Result<Bytes, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(part) = self.parts.poll_recv(cx) {
            return Poll::Ready(match part {
                Some(Part::Bytes(bytes)) => {
                    self.call.taken(bytes.len());
                    self.room.relay.counts.to_caller(bytes.len());
                    Some(Ok(bytes))
                }
                Some(Part::End) => {
                    self.over = true;
                    None
                }
                // The worker is lost.
                None => self.cut(),
            });
        }
        self.deadline.as_mut().poll(cx).map(|()| self.cut())
    }
}

impl Parts {
    fn cut(&mut self) -> Option<Result<Bytes, Cut>> {
        self.over = true;
        Some(Err(Cut))
    }
}
