//! What a host says to an inbound task: one answer, or parts and then the end.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::task::AtomicWaker;

use super::Tables;
use super::event::{Event, EventKind};
use super::queue::{Queue, Seat};
use super::window::{MOST_WAITING, has_room, weight};
use crate::error::{Code, Error, Result};
use crate::node::Reply;
use crate::types::Chunk;

/// What the host has said so far and the caller has not yet taken.
pub(super) struct Answer {
    said: Mutex<Said>,
    reader: AtomicWaker,
    /// Whether a `TASK_ROOM` waits to be taken: one is enough.
    told: Arc<AtomicBool>,
}

#[derive(Default)]
struct Said {
    parts: VecDeque<Chunk>,
    /// Weight of the parts.
    waiting: usize,
    /// It comes in parts.
    in_parts: bool,
    /// The answer, or the end of the parts.
    end: Option<Result<Reply>>,
    /// There was an end; nothing is said after it.
    ended: bool,
    /// Nobody waits any more.
    unwanted: bool,
    /// The host closed the queue that the task is in.
    closed: bool,
    /// A part was refused for want of room.
    wants_room: bool,
}

/// What an answer begins with.
pub(super) enum Begun {
    Whole(Result<Reply>),
    Parts,
}

impl Answer {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Answer { said: Mutex::default(), reader: AtomicWaker::new(), told: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a part, none only says that parts will come.
    ///
    /// # Errors
    /// `QUEUE_FULL` if there is no room; there will be a `TASK_ROOM`. `STALE_ID` if nobody waits.
    pub(super) fn add(&self, task: u64, part: Option<Chunk>) -> Result<()> {
        let mut said = self.lock();
        if said.ended || said.unwanted {
            return Err(stale(task));
        }
        if let Some(part) = part {
            let weight = weight(part.result.bytes().len());
            if !has_room(said.waiting, weight) {
                said.wants_room = true;
                return Err(Error::new(
                    Code::QueueFull,
                    "the caller has a megabyte of parts to take; give this one again after TASK_ROOM",
                ));
            }
            said.waiting += weight;
            said.parts.push_back(part);
        }
        said.in_parts = true;
        drop(said);
        self.reader.wake();
        Ok(())
    }

    pub(super) fn is_in_parts(&self) -> bool {
        self.lock().in_parts
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// `STALE_ID` if nobody waits.
    pub(super) fn end(&self, task: u64, end: Result<Reply>) -> Result<()> {
        let mut said = self.lock();
        if said.ended || said.unwanted {
            return Err(stale(task));
        }
        (said.end, said.ended) = (Some(end), true);
        drop(said);
        self.reader.wake();
        Ok(())
    }

    /// The host can say nothing any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.reader.wake();
    }

    pub(super) fn poll_begin(&self, cx: &Context<'_>) -> Poll<Begun> {
        self.reader.register(cx.waker());
        let mut said = self.lock();
        if said.in_parts {
            return Poll::Ready(Begun::Parts);
        }
        match said.end.take() {
            Some(reply) => Poll::Ready(Begun::Whole(reply)),
            None if said.closed => Poll::Ready(Begun::Whole(Err(host_left()))),
            None => Poll::Pending,
        }
    }
}

/// A task that the host was asked to serve. However the wait for its answer ends, its id is stale afterwards; if there
/// was no answer, the host is told to stop.
pub(super) struct Asking {
    pub(super) tables: Arc<Tables>,
    pub(super) queue: Arc<Queue>,
    pub(super) id: u64,
    pub(super) tag: u64,
    /// There once the task is delivered.
    pub(super) seat: Option<Seat>,
    pub(super) answer: Arc<Answer>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        // Who took the id out may be about to answer: from here on that says STALE_ID, or the answer is here already.
        let _ = self.tables.tasks.remove(self.id);
        let mut said = self.answer.lock();
        said.unwanted = true;
        let answered = said.ended;
        drop(said);
        if let Some(seat) = self.seat.take()
            && !answered
        {
            seat.finish(Event::new(EventKind::TaskCancel, self.id, self.tag));
        }
    }
}

/// The parts of an answer, as the caller takes them.
pub(super) struct Parts {
    pub(super) asking: Asking,
    pub(super) over: bool,
}

impl Stream for Parts {
    type Item = Result<Chunk>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.over {
            return Poll::Ready(None);
        }
        let answer = self.asking.answer.clone();
        answer.reader.register(cx.waker());
        let mut said = answer.lock();
        if let Some(part) = said.parts.pop_front() {
            said.waiting -= weight(part.result.bytes().len());
            let room = said.wants_room && said.waiting <= MOST_WAITING / 2;
            said.wants_room &= !room;
            drop(said);
            if room && !answer.told.swap(true, Relaxed) {
                let Asking { queue, id, tag, .. } = &self.asking;
                queue.tell(Event::new(EventKind::TaskRoom, *id, *tag).telling(answer.told.clone()));
            }
            return Poll::Ready(Some(Ok(part)));
        }
        let end = match said.end.take() {
            Some(end) => end.map(Reply::into_part),
            None if said.closed => Err(host_left()),
            None => return Poll::Pending,
        };
        drop(said);
        self.over = true;
        Poll::Ready(Some(end))
    }
}

fn host_left() -> Error {
    Error::new(Code::Closed, "the host closed the queue that the task was delivered to")
}

fn stale(task: u64) -> Error {
    Error::new(Code::StaleId, format!("task {task:#018x} needs no answer any more; its caller did not wait"))
}
