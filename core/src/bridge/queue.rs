//! The bounded queue between the engine and one host loop.
//!
//! A slot for the last event of every operation is promised when the operation starts, and one for the cancellation of
//! every inbound task when the task is delivered: these events can never be refused, and never wait. Chunks and inbound
//! tasks wait for room, in the order in which they asked. At least one slot is never promised, so that what waits for
//! room gets it as soon as the host takes events.
//!
//! Waking a host costs more than most events do. So the host is woken when the engine has done what there was to do in
//! this turn of its loop, unless nothing else is expected.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

#[cfg(iicp_loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(iicp_loom))]
use std::sync::{Condvar, Mutex, MutexGuard};

use super::event::Event;
use super::wake::{Descriptor, Doorbell, after_this_turn, in_a_turn, ring};
use crate::error::{Code, Error, Result};
use crate::options::QueueOptions;

#[cfg(all(test, iicp_loom))]
mod interleavings;
#[cfg(all(test, not(iicp_loom)))]
pub(super) mod tests;

/// Most events of one drain: a host's loop gets to its other work in between.
pub(super) const MOST_AT_ONCE: usize = 256;

pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

struct State {
    events: VecDeque<Event>,
    /// Weight of the events.
    bytes: usize,
    /// Slots kept for last events that have not come yet.
    promised: usize,
    closed: bool,
    bell: Bell,
    /// Threads that wait in [`Queue::next`].
    sleeping: usize,
    /// Producers that wait for room, oldest first.
    waiting: BTreeMap<u64, Waiting>,
    last_turn: u64,
    descriptor: Option<Descriptor>,
    doorbell: Option<Doorbell>,
    max_events: usize,
    max_bytes: usize,
}

/// What the host was told of the events that are there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bell {
    /// Nothing; there are none, or they are just being pushed.
    Silent,
    /// It is told at the end of the turn.
    Coming,
    /// That they are there.
    Rung,
}

/// A producer that waits for room.
struct Waiting {
    /// None once it was woken and has not asked again.
    waker: Option<Waker>,
    slots: usize,
    bytes: usize,
}

/// Whom a change concerns. They are woken when the lock is free again, or they would run into it.
#[derive(Default)]
#[must_use]
struct Wake {
    one_sleeper: bool,
    all_sleepers: bool,
    host_later: bool,
    producer: Option<Waker>,
}

impl Wake {
    fn send(self, queue: &Arc<Queue>) {
        if self.host_later {
            after_this_turn(Ring(queue.clone()));
        }
        if self.all_sleepers {
            queue.filled.notify_all();
        } else if self.one_sleeper {
            queue.filled.notify_one();
        }
        if let Some(producer) = self.producer {
            producer.wake();
        }
    }
}

impl State {
    fn has_room(&self, slots: usize, bytes: usize) -> bool {
        // An event alone may be over the limit, or it could never pass.
        let bytes_fit = self.bytes == 0 || self.bytes.saturating_add(bytes) <= self.max_bytes;
        bytes_fit && self.events.len() + self.promised + slots <= self.max_events
    }

    /// Nothing is left and nothing more will come.
    fn is_over(&self) -> bool {
        self.closed && self.promised == 0 && self.events.is_empty()
    }

    fn ring(&self) {
        if let Some(doorbell) = &self.doorbell {
            ring(doorbell);
        }
    }

    fn push(&mut self, event: Event) -> Wake {
        self.bytes = self.bytes.saturating_add(event.weight());
        self.events.push_back(event);
        if self.bell != Bell::Silent {
            // Whoever is woken for the first event sees to the others.
            return Wake::default();
        }
        if self.promised > 0 && in_a_turn() {
            self.bell = Bell::Coming;
            return Wake { host_later: true, ..Wake::default() };
        }
        self.tell_host()
    }

    fn tell_host(&mut self) -> Wake {
        self.bell = Bell::Rung;
        if let Some(descriptor) = &self.descriptor {
            descriptor.raise();
        }
        self.ring();
        Wake { one_sleeper: self.sleeping > 0, ..Wake::default() }
    }

    fn take(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes = self.bytes.saturating_sub(event.weight());
        event.is_taken();
        Some(event)
    }

    /// Sets every signal to what is left, and finds who may go on.
    fn after_take(&mut self) -> Wake {
        let empty = self.events.is_empty();
        match (self.bell, &self.descriptor) {
            (Bell::Rung, _) if !empty => self.ring(),
            (Bell::Rung, Some(descriptor)) => descriptor.lower(),
            _ => {}
        }
        if empty {
            self.bell = Bell::Silent;
        }
        Wake {
            one_sleeper: !empty && self.sleeping > 0,
            all_sleepers: self.is_over() && self.sleeping > 0,
            producer: self.next_producer(),
            ..Wake::default()
        }
    }

    /// The producer whose turn it is, if there is room for what it brings.
    fn next_producer(&mut self) -> Option<Waker> {
        let (turn, first) = self.waiting.first_key_value()?;
        let (turn, slots, bytes) = (*turn, first.slots, first.bytes);
        if !self.has_room(slots, bytes) {
            return None;
        }
        self.waiting.get_mut(&turn)?.waker.take()
    }

    fn is_turn_of(&self, turn: Option<u64>) -> bool {
        self.waiting.first_key_value().is_none_or(|(first, _)| Some(*first) == turn)
    }
}

impl Queue {
    /// A queue with checked bounds.
    pub(super) fn new(options: &QueueOptions) -> Arc<Self> {
        let state = State {
            events: VecDeque::new(),
            bytes: 0,
            promised: 0,
            closed: false,
            bell: Bell::Silent,
            sleeping: 0,
            waiting: BTreeMap::new(),
            last_turn: 0,
            descriptor: None,
            doorbell: None,
            max_events: options.max_events,
            max_bytes: options.max_bytes,
        };
        Arc::new(Queue { state: Mutex::new(state), filled: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole whenever something that can unwind runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes whom it concerns.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> (T, Wake)) -> T {
        let (result, wake) = change(&mut self.lock());
        wake.send(self);
        result
    }

    /// Promises a slot for the last event of an operation that starts now.
    ///
    /// # Errors
    /// `QUEUE_FULL`, or `CLOSED`.
    pub(super) fn promise(self: &Arc<Self>) -> Result<Seat> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        // One slot stays free for what waits for room.
        if !state.has_room(2, 0) {
            return Err(Error::new(
                Code::QueueFull,
                format!(
                    "the queue holds {} events and {} bytes and {} operations and tasks will end in it; take events \
                     and start this one again",
                    state.events.len(),
                    state.bytes,
                    state.promised
                ),
            ));
        }
        state.promised += 1;
        drop(state);
        Ok(Seat { queue: self.clone(), spent: AtomicBool::new(false) })
    }

    /// Delivers an inbound task when there is room for it and for its cancellation.
    ///
    /// # Errors
    /// `CLOSED`.
    pub(super) async fn deliver(self: &Arc<Self>, event: Event) -> Result<Seat> {
        self.push_in_turn(2, event, None).await?;
        Ok(Seat { queue: self.clone(), spent: AtomicBool::new(false) })
    }

    /// Pushes an event of which there is one at most for each task that is delivered, so that it need not wait for room.
    pub(super) fn tell(self: &Arc<Self>, event: Event) {
        self.change(|state| {
            let wake = if state.closed { Wake::default() } else { state.push(event) };
            ((), wake)
        });
    }

    /// Waits for room and pushes; the slots beyond the first are promised.
    async fn push_in_turn(self: &Arc<Self>, slots: usize, event: Event, spent: Option<&AtomicBool>) -> Result<()> {
        let mut turn = Turn { queue: self, number: None };
        let mut event = Some(event);
        poll_fn(|cx| self.poll_push(cx, &mut turn.number, slots, &mut event, spent)).await
    }

    fn poll_push(
        self: &Arc<Self>,
        cx: &Context<'_>,
        turn: &mut Option<u64>,
        slots: usize,
        event: &mut Option<Event>,
        spent: Option<&AtomicBool>,
    ) -> Poll<Result<()>> {
        let mut state = self.lock();
        if state.closed || spent.is_some_and(|spent| spent.load(Relaxed)) {
            return Poll::Ready(Err(closed()));
        }
        let bytes = event.as_ref().map_or(0, Event::weight);
        if !state.is_turn_of(*turn) || !state.has_room(slots, bytes) {
            let number = *turn.get_or_insert_with(|| {
                state.last_turn += 1;
                state.last_turn
            });
            state.waiting.insert(number, Waiting { waker: Some(cx.waker().clone()), slots, bytes });
            return Poll::Pending;
        }
        if let Some(number) = turn.take() {
            state.waiting.remove(&number);
        }
        state.promised += slots - 1;
        let mut wake = event.take().map_or_else(Wake::default, |event| state.push(event));
        wake.producer = state.next_producer();
        drop(state);
        wake.send(self);
        Poll::Ready(Ok(()))
    }

    /// Waits on the calling thread for the next event; none if the time is over first.
    ///
    /// # Errors
    /// `CLOSED` when the queue was closed and everything in it was taken.
    pub(super) fn next(self: &Arc<Self>, timeout: Duration) -> Result<Option<Event>> {
        let mut deadline = None;
        let mut state = self.lock();
        loop {
            if let Some(event) = state.take() {
                let wake = state.after_take();
                drop(state);
                wake.send(self);
                return Ok(Some(event));
            }
            if state.is_over() {
                return Err(closed());
            }
            if timeout.is_zero() {
                return Ok(None);
            }
            let now = Instant::now();
            let left = match *deadline.get_or_insert_with(|| now.checked_add(timeout)) {
                Some(deadline) => deadline.saturating_duration_since(now),
                // So far away that there is no such instant.
                None => Duration::MAX,
            };
            if left.is_zero() {
                return Ok(None);
            }
            state.sleeping += 1;
            state = self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.sleeping -= 1;
        }
    }

    /// Takes what is there, at most `most` events and never more than [`MOST_AT_ONCE`].
    ///
    /// # Errors
    /// `CLOSED` when the queue was closed and everything in it was taken.
    pub(super) fn drain(self: &Arc<Self>, most: usize) -> Result<Vec<Event>> {
        self.change(|state| {
            if state.is_over() {
                return (Err(closed()), Wake::default());
            }
            let count = most.min(MOST_AT_ONCE).min(state.events.len());
            if count == 0 {
                return (Ok(Vec::new()), Wake::default());
            }
            let events: Vec<Event> = state.events.drain(..count).collect();
            let bytes: usize = events.iter().map(Event::weight).sum();
            events.iter().for_each(Event::is_taken);
            state.bytes = state.bytes.saturating_sub(bytes);
            (Ok(events), state.after_take())
        })
    }

    /// The descriptor that is readable exactly while there are events of which the host was told. It lives as long as
    /// the queue.
    ///
    /// # Errors
    /// `UNSUPPORTED` where there are no such descriptors, `INTERNAL` if the process has none left.
    pub(super) fn descriptor(&self) -> Result<i32> {
        let mut state = self.lock();
        if let Some(descriptor) = &state.descriptor {
            return Ok(descriptor.as_raw_fd());
        }
        let descriptor = Descriptor::new().map_err(|e| match e.kind() {
            std::io::ErrorKind::Unsupported => {
                Error::new(Code::Unsupported, "queues have no descriptor on this platform; use a doorbell or a thread")
            }
            _ => Error::new(Code::Internal, "the system gave no descriptor for the queue").with_source(e),
        })?;
        if state.bell == Bell::Rung {
            descriptor.raise();
        }
        let number = descriptor.as_raw_fd();
        state.descriptor = Some(descriptor);
        Ok(number)
    }

    /// Sets or removes the doorbell, and rings a new one if there are events already. The old one rings no more.
    ///
    /// # Errors
    /// `CLOSED`.
    pub(super) fn set_doorbell(&self, doorbell: Option<Doorbell>) -> Result<()> {
        let mut state = self.lock();
        if state.closed && doorbell.is_some() {
            return Err(closed());
        }
        let old = std::mem::replace(&mut state.doorbell, doorbell);
        if state.bell == Bell::Rung {
            state.ring();
        }
        // What a doorbell holds is the host's, and may call back when it is dropped.
        drop(state);
        drop(old);
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Takes no more chunks, tasks and operations, and rings no more. What is there or was promised can be taken still.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let doorbell = state.doorbell.take();
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.filled.notify_all();
        for producer in waiting.into_values().filter_map(|waiting| waiting.waker) {
            producer.wake();
        }
        drop(doorbell);
    }
}

/// A producer's place in the order of waiting. Left by drop, and then it is the next one's turn.
struct Turn<'a> {
    queue: &'a Arc<Queue>,
    number: Option<u64>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        self.queue.change(|state| {
            state.waiting.remove(&number);
            ((), Wake { producer: state.next_producer(), ..Wake::default() })
        });
    }
}

/// Tells the host of what is there, when it is dropped: also where the runtime never comes to it.
pub(super) struct Ring(Arc<Queue>);

impl Drop for Ring {
    fn drop(&mut self) {
        self.0.change(|state| {
            let wake = if state.bell == Bell::Coming { state.tell_host() } else { Wake::default() };
            ((), wake)
        });
    }
}

/// A promised slot for one last event. Dropping it gives the slot back.
pub(super) struct Seat {
    queue: Arc<Queue>,
    /// Read and written under the queue's lock only.
    spent: AtomicBool,
}

impl Seat {
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Pushes the last event; false if there was one already.
    pub(super) fn finish(&self, event: Event) -> bool {
        self.queue.change(|state| {
            if self.spent.load(Relaxed) {
                return (false, Wake::default());
            }
            self.spent.store(true, Relaxed);
            state.promised -= 1;
            (true, state.push(event))
        })
    }

    /// Pushes an event that goes before the last one, when there is room.
    ///
    /// # Errors
    /// `CLOSED` when the last event was pushed, or the queue was closed.
    pub(super) async fn push(&self, event: Event) -> Result<()> {
        self.queue.push_in_turn(1, event, Some(&self.spent)).await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if *self.spent.get_mut() {
            return;
        }
        self.queue.change(|state| {
            state.promised -= 1;
            let all_sleepers = state.is_over() && state.sleeping > 0;
            ((), Wake { all_sleepers, producer: state.next_producer(), ..Wake::default() })
        });
    }
}

fn closed() -> Error {
    Error::new(Code::Closed, "the queue was closed; make a new one")
}
