//! The server's side of one native call, from its task to the last word on it. An answer in one piece is the connection's
//! to write; one in parts goes piece by piece, no faster than its caller has room for them.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::{Semaphore, mpsc};

use super::event_bytes::EventBytes;
use crate::protocol::admission::{Admission, Done, Events, Outcome, Refusal};
use crate::protocol::session::{Asked, Sizes, Ticket};
use crate::wire::events::{Carried, Event, EventName};
use crate::wire::frame::Kind;
use crate::wire::relay::{Beginning, MOST_PART, PART, WINDOW, write_part};

/// How long a caller may leave parts lying before its call is given up.
const STALL: Duration = Duration::from_secs(60);
/// Pieces that wait for the connection to write them.
pub(super) const MOST_PIECES: usize = 16;

/// What is to be written of an answer next: one frame.
pub(super) struct Piece {
    pub(super) call_id: Box<str>,
    pub(super) kind: Kind,
    pub(super) frame: Vec<u8>,
}

/// What is left to be said when a call is over.
pub(super) enum Ended {
    /// All of it.
    Whole(Outcome),
    /// That the parts were all.
    Parts,
    Nothing,
}

/// The caller does not take what it was sent, or is gone.
struct Stalled;

/// One call.
pub(super) struct Answering {
    pub(super) ticket: Ticket,
    pub(super) pieces: mpsc::Sender<Piece>,
    /// Bytes of parts that the caller has room for.
    pub(super) credit: Arc<Semaphore>,
    /// None if every answer goes out in one piece.
    pub(super) sizes: Option<Sizes>,
}

/// Room for parts as every call has it at its beginning.
pub(super) fn credit() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(WINDOW))
}

/// Notes that the caller has room again; more than the whole window is never owed.
pub(super) fn add_credit(credit: &Semaphore, bytes: usize) {
    credit.add_permits(bytes.min(WINDOW.saturating_sub(credit.available_permits())));
}

impl Answering {
    /// Has the task judged and run.
    pub(super) async fn run(
        self,
        admission: Arc<dyn Admission>,
        asked: Box<Asked>,
        peer: SocketAddr,
    ) -> (Ticket, Ended) {
        let admitted = AssertUnwindSafe(admission.admit(asked.received(peer))).catch_unwind().await;
        drop(asked);
        let broken = |_| Outcome::Refused(Refusal::new(500, "internal_error", "the node broke down"));
        let ended = match admitted.unwrap_or_else(broken) {
            Outcome::Events(events) if self.ticket.is_ours() => self.stream(events).await,
            Outcome::Events(events) => self.follow(events).await,
            Outcome::Done(done) if self.sizes.is_some_and(|sizes| done.reply.len() > sizes.whole) => {
                self.in_parts(done).await
            }
            outcome => Ok(Ended::Whole(outcome)),
        };
        let stalled =
            |_| Ended::Whole(Outcome::Refused(Refusal::new(504, "stalled", "the caller takes no more parts")));
        let ended = ended.unwrap_or_else(stalled);
        (self.ticket, ended)
    }

    /// Events as HTTP has them, as they are made.
    async fn stream(&self, events: Events) -> Result<Ended, Stalled> {
        let mut first = Some(Beginning { length: None, events: true });
        let mut events = EventBytes::new(events);
        while let Some(bytes) = events.next().await {
            for part in bytes.chunks(self.part_bytes()) {
                events.wait(self.room(part)).await?;
                self.part(bytes.slice_ref(part), &mut first).await?;
            }
        }
        Ok(Ended::Parts)
    }

    /// An answer that is there, and long.
    async fn in_parts(&self, done: Done) -> Result<Ended, Stalled> {
        let mut first = Some(Beginning { length: Some(done.reply.len()), events: false });
        for part in done.reply.chunks(self.part_bytes()) {
            self.room(part).await?;
            self.part(done.reply.slice_ref(part), &mut first).await?;
        }
        Ok(Ended::Parts)
    }

    fn part_bytes(&self) -> usize {
        self.sizes.map_or(MOST_PART, |sizes| sizes.part)
    }

    /// Waits until the caller has room for a part.
    async fn room(&self, part: &[u8]) -> Result<(), Stalled> {
        let room = u32::try_from(part.len()).map_err(|_| Stalled)?;
        let credit = tokio::time::timeout(STALL, self.credit.acquire_many(room)).await;
        credit.map_err(|_| Stalled)?.map_err(|_| Stalled)?.forget();
        Ok(())
    }

    /// Sends a part for which there is room. `first` is what the first one says of them all.
    async fn part(&self, part: Bytes, first: &mut Option<Beginning>) -> Result<(), Stalled> {
        let frame = write_part(&self.ticket.call_id, &part, first.take().as_ref());
        self.send(PART, frame.concat()).await
    }

    /// Events for a caller who follows the task as the service-lifecycle profile has it. There is no word on room in that: what
    /// bounds it is the connection.
    async fn follow(&self, mut events: Events) -> Result<Ended, Stalled> {
        let mut sequence = 0;
        while let Some(event) = events.events.next().await {
            let mut frame = Vec::new();
            match self.ticket.event(sequence, &event, &mut frame) {
                Ok(true) => sequence += 1,
                Ok(false) => continue,
                Err(_) => {
                    let why = Refusal::new(500, "response_too_large", "a part of the answer does not fit into a frame");
                    let carried = Carried::Error(why.error());
                    let end = Event { sequence, name: EventName::Failed, carried, tokens_used: 0 };
                    frame.clear();
                    self.ticket.event(sequence, &end, &mut frame).map_err(|_| Stalled)?;
                    self.send(Kind::Response, frame).await?;
                    break;
                }
            }
            self.send(Kind::Response, frame).await?;
        }
        Ok(Ended::Nothing)
    }

    async fn send(&self, kind: Kind, frame: Vec<u8>) -> Result<(), Stalled> {
        let piece = Piece { call_id: self.ticket.call_id.clone(), kind, frame };
        self.pieces.send(piece).await.map_err(|_| Stalled)
    }
}
