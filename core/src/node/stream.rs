//! A task whose caller takes the result in parts: every event is made when the caller has taken those before it.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use tokio::time::Sleep;

use super::State;
use super::handler::{Chunks, Content, Inbound, Reply};
use super::metrics::Ending;
use super::receipts::{Given, Parts};
use super::refusal::failed;
use super::task::Attempt;
use crate::crypto::cx::{ReplySeal, StreamSeal};
use crate::error::{Code, Error, Result};
use crate::protocol::admission::{Events, Outcome};
use crate::protocol::assemble::Assembly;
use crate::telemetry;
use crate::types::{Chunk, Payload};
use crate::wire::events::{Carried, Event, EventName};

/// Runs an admitted task; its result goes out event by event.
pub(super) fn begin(attempt: Attempt, inbound: Inbound, seal: Option<&ReplySeal>) -> Outcome {
    let (task_id, deadline) = (inbound.task_id.clone(), inbound.deadline.into_std());
    let (seal, accepted) = match seal.map(|seal| seal.stream(&task_id)).transpose() {
        Ok(Some((seal, salt))) => (Some(seal), Carried::Salt(salt)),
        Ok(None) => (None, Carried::Nothing),
        Err(error) => return Outcome::Refused(failed(&error, &task_id)),
    };
    let running = Running {
        first: Some(Event { sequence: 0, name: EventName::Accepted, carried: accepted, tokens_used: 0 }),
        deadline: Box::pin(tokio::time::sleep_until(inbound.deadline)),
        work: Work::Calling(Box::pin(call(attempt.state.clone(), inbound))),
        given: attempt.claim.is_some().then(Parts::default),
        attempt: Some(attempt),
        task_id: task_id.clone(),
        seal,
        sequence: 1,
        tokens_used: 0,
        whole: None,
    };
    Outcome::Events(Events { task_id, events: Box::pin(running), deadline })
}

/// Calls the handler, and contains its panics.
pub(super) async fn call(state: Arc<State>, inbound: Inbound) -> Result<Reply> {
    let handling = AssertUnwindSafe(state.handler.call(inbound)).catch_unwind();
    let reply = handling.await.unwrap_or_else(|_panic| Err(panicked()))?;
    inner(&state, reply)
}

/// The handler's value without an envelope around it. The operator is told once; nothing is lost by it.
fn inner(state: &State, reply: Reply) -> Result<Reply> {
    let (reply, was_wrapped) = reply.unwrapped()?;
    if was_wrapped && !state.told_wrapped.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            target: telemetry::NODE, node_id = %state.node_id,
            "the handler returns {{\"result\": …}}; return the inner value alone, the node makes the envelope"
        );
    }
    Ok(reply)
}

fn panicked() -> Error {
    Error::new(Code::Panic, "the handler panicked")
}

/// A handler's result in one piece, for a caller who takes no parts, and the tokens it took.
pub(super) async fn whole(reply: impl Future<Output = Result<Reply>>, most_bytes: usize) -> Result<(Payload, u64)> {
    let Reply { content, mut tokens_used } = reply.await?;
    let chunks = match content {
        Content::Whole(result) => return Ok((result, tokens_used)),
        Content::Chunks(chunks) => chunks,
    };
    let mut chunks = AssertUnwindSafe(chunks).catch_unwind();
    let mut whole = Assembly::new(most_bytes);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.unwrap_or_else(|_panic| Err(panicked()))?;
        tokens_used = chunk.tokens_used.unwrap_or(tokens_used);
        if !chunk.result.bytes().is_empty() {
            whole.push(chunk.result.bytes())?;
        }
    }
    Ok((whole.finish(), tokens_used))
}

enum Work {
    Calling(Pin<Box<dyn Future<Output = Result<Reply>> + Send>>),
    Chunks(Chunks),
    Over,
}

/// One task that runs. Dropping it stops the handler and gives the slot back.
struct Running {
    first: Option<Event>,
    work: Work,
    attempt: Option<Attempt>,
    task_id: String,
    seal: Option<StreamSeal>,
    sequence: u64,
    tokens_used: u64,
    /// The parts so far, if a receipt will be made of them.
    given: Option<Parts>,
    /// The result, if the handler made it in one piece: who asks again is given it.
    whole: Option<Payload>,
    deadline: Pin<Box<Sleep>>,
}

impl Stream for Running {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        if matches!(this.work, Work::Over) {
            return Poll::Ready(None);
        }
        // Looked at before the handler: one that always has another part must not outrun its time.
        if this.deadline.as_mut().poll(cx).is_ready() {
            let late = Error::new(Code::TaskTimeout, "the handler did not finish in time");
            return Poll::Ready(Some(this.end(Err(late))));
        }
        if let Work::Calling(reply) = &mut this.work {
            match std::task::ready!(reply.as_mut().poll(cx)) {
                Ok(Reply { content: Content::Whole(result), tokens_used }) => {
                    this.tokens_used = tokens_used;
                    this.whole = Some(result.clone());
                    return Poll::Ready(Some(this.end(Ok(Some(result.into())))));
                }
                Ok(Reply { content: Content::Chunks(chunks), tokens_used }) => {
                    this.tokens_used = tokens_used;
                    this.work = Work::Chunks(chunks);
                }
                Err(error) => return Poll::Ready(Some(this.end(Err(error)))),
            }
        }
        let Work::Chunks(chunks) = &mut this.work else { return Poll::Ready(None) };
        let next = std::panic::catch_unwind(AssertUnwindSafe(|| {
            loop {
                match chunks.poll_next_unpin(cx) {
                    // No part, but a word on the tokens.
                    Poll::Ready(Some(Ok(chunk))) if chunk.result.bytes().is_empty() => {
                        this.tokens_used = chunk.tokens_used.unwrap_or(this.tokens_used);
                    }
                    next => break next,
                }
            }
        }));
        let event = match next {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(chunk)))) => {
                this.event(EventName::Partial, Some(chunk)).unwrap_or_else(|error| this.end(Err(error)))
            }
            Ok(Poll::Ready(Some(Err(error)))) => this.end(Err(error)),
            Ok(Poll::Ready(None)) => this.end(Ok(None)),
            Err(_panic) => this.end(Err(panicked())),
        };
        Poll::Ready(Some(event))
    }
}

impl Running {
    /// Makes an event, sealed if the caller wants it so.
    fn event(&mut self, name: EventName, chunk: Option<Chunk>) -> Result<Event> {
        let part = chunk.map_or_else(Bytes::new, |chunk| {
            self.tokens_used = chunk.tokens_used.unwrap_or(self.tokens_used);
            chunk.result.into_bytes()
        });
        if let Some(given) = self.given.as_mut().filter(|_| !part.is_empty()) {
            given.push(&part);
        }
        let carried = match &self.seal {
            Some(seal) => Carried::Part(seal.seal(self.sequence, name.as_str(), &part)?),
            None if part.is_empty() => Carried::Nothing,
            None => Carried::Result(part),
        };
        let event = Event { sequence: self.sequence, name, carried, tokens_used: self.tokens_used };
        self.sequence += 1;
        Ok(event)
    }

    /// The last event. What the task held is let go.
    fn end(&mut self, outcome: Result<Option<Chunk>>) -> Event {
        self.work = Work::Over;
        let ended = outcome.and_then(|last| self.event(EventName::Completed, last));
        let attempt = self.attempt.take();
        match ended {
            Ok(event) => {
                if let Some(mut attempt) = attempt {
                    match self.whole.take() {
                        Some(whole) => drop(attempt.keep_result(&self.task_id, &whole)),
                        None => attempt.keep_without_answer(),
                    }
                    attempt.completed(self.tokens_used, || Given::Parts(self.given.take().unwrap_or_default()));
                }
                event
            }
            Err(error) => {
                let timeout = error.code() == Code::TaskTimeout;
                if let Some(mut attempt) = attempt {
                    (attempt.ending, attempt.tokens) = (Ending::of(&error), self.tokens_used);
                }
                tracing::warn!(target: telemetry::NODE, task_id = %self.task_id, code = %error.code(), "a task failed");
                let name = if timeout { EventName::TimedOut } else { EventName::Failed };
                let carried = Carried::Error(failed(&error, &self.task_id).error());
                Event { sequence: self.sequence, name, carried, tokens_used: 0 }
            }
        }
    }
}
