//! An answer that comes natively in parts: read as it comes, and never more of it on the way than there is room for.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::http_client::{NoReply, Reply};
use super::native_link::CancelOnDrop;
use crate::wire::frame::Reason;
use crate::wire::relay::{Beginning, WINDOW};

/// Bytes that are taken before the peer is told that there is room again: not for every part.
const CREDIT_AT: usize = WINDOW / 4;

/// What came of a call.
pub(crate) enum Begun {
    Whole(Reply),
    Parts(Parts),
}

/// The same, as the connection has it.
pub(super) enum Answer {
    Whole(Reply),
    Parts(Beginning, mpsc::UnboundedReceiver<Word>),
}

/// What a call waits for.
pub(super) enum Waits {
    Answer(oneshot::Sender<Result<Answer, NoReply>>),
    Parts(Flow),
}

/// What the connection says to who reads parts. Without an end, the answer is lost.
pub(super) enum Word {
    Bytes(Bytes),
    End,
}

/// The connection's end of an answer in parts. What lies in between is bounded by the room that the peer was given.
pub(super) struct Flow {
    parts: mpsc::UnboundedSender<Word>,
    room: usize,
}

impl Waits {
    /// Takes a part of the answer.
    ///
    /// # Errors
    /// `ProtocolError` for more than there is room for.
    pub(super) fn part(&mut self, body: Bytes, beginning: Beginning) -> Result<(), Reason> {
        if let Waits::Answer(_) = self {
            let (sender, parts) = mpsc::unbounded_channel();
            let flow = Waits::Parts(Flow { parts: sender, room: WINDOW });
            if let Waits::Answer(answer) = std::mem::replace(self, flow) {
                let _ = answer.send(Ok(Answer::Parts(beginning, parts)));
            }
        }
        let Waits::Parts(flow) = self else { return Ok(()) };
        flow.room = flow.room.checked_sub(body.len()).ok_or(Reason::ProtocolError)?;
        let _ = flow.parts.send(Word::Bytes(body));
        Ok(())
    }

    /// Takes the last word. After parts there is none but that they were all.
    pub(super) fn end(self, answer: Result<Reply, NoReply>) {
        match self {
            Waits::Answer(waits) => drop(waits.send(answer.map(Answer::Whole))),
            Waits::Parts(flow) if answer.is_ok_and(|reply| reply.status == 200) => drop(flow.parts.send(Word::End)),
            Waits::Parts(_) => {}
        }
    }

    /// Ends it without an answer.
    pub(super) fn fail(self, why: NoReply) {
        if let Waits::Answer(waits) = self {
            let _ = waits.send(Err(why));
        }
    }

    /// Makes room; false if nothing comes in parts.
    pub(super) fn make_room(&mut self, bytes: usize) -> bool {
        let Waits::Parts(flow) = self else { return false };
        flow.room += bytes;
        true
    }
}

/// An answer in parts. Dropping it cancels the call.
pub(crate) struct Parts {
    pub(super) call: CancelOnDrop,
    pub(super) beginning: Beginning,
    pub(super) parts: mpsc::UnboundedReceiver<Word>,
    pub(super) deadline: Instant,
    pub(super) idle: Duration,
    pub(super) most_bytes: usize,
    pub(super) first_byte: Duration,
    /// Bytes that were taken, of which the peer knows nothing yet.
    pub(super) taken: usize,
}

impl Parts {
    /// Whether it is a stream of events.
    pub(crate) fn is_events(&self) -> bool {
        self.beginning.events
    }

    /// From the sending to the first part.
    pub(crate) fn first_byte(&self) -> Duration {
        self.first_byte
    }

    /// The next bytes; none at the end. The bound on the whole is the caller's to keep.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, NoReply> {
        let last = self.deadline.min(Instant::now().checked_add(self.idle).unwrap_or(self.deadline));
        match tokio::time::timeout_at(last, self.parts.recv()).await {
            Ok(Some(Word::Bytes(bytes))) => {
                self.taken += bytes.len();
                if self.taken >= CREDIT_AT {
                    self.call.make_room(std::mem::take(&mut self.taken));
                }
                Ok(Some(bytes))
            }
            Ok(Some(Word::End)) => Ok(None),
            Ok(None) => Err(NoReply::Lost),
            Err(_) if last == self.deadline => Err(NoReply::Deadline),
            Err(_) => Err(NoReply::Lost),
        }
    }

    /// Reads the whole answer.
    pub(crate) async fn read(mut self) -> Result<Reply, NoReply> {
        if self.beginning.length.is_some_and(|length| length > self.most_bytes) {
            return Err(NoReply::TooLarge);
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.chunk().await? {
            if whole.len() + bytes.len() > self.most_bytes {
                return Err(NoReply::TooLarge);
            }
            whole.extend_from_slice(&bytes);
        }
        if self.beginning.length.is_some_and(|length| length != whole.len()) {
            return Err(NoReply::Malformed);
        }
        Ok(Reply {
            status: 200,
            retry_after: None,
            date: None,
            content_type: None,
            body: whole.freeze(),
            connect: Duration::ZERO,
            first_byte: self.first_byte,
        })
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("beginning", &self.beginning).finish_non_exhaustive()
    }
}
