//! A bound worker: what waits for it, what it was asked, and whether it is still there.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::protocol::relay::budget::{Allowance, Used};
use crate::protocol::relay::liveness::Liveness;
use crate::protocol::relay::term::Term;
use crate::wire::relay::{self as words, Beginning, Facts, WINDOW};

/// Control frames that may wait for a worker that takes nothing.
const MOST_CONTROL: usize = 1_024;
/// The part of an id that is counted: neither its version nor its variant.
const COUNT: u64 = (1 << 48) - 1;
/// Room that a session keeps when nothing is under way.
const KEPT: usize = 8;

/// What became of a call.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered {
        body: Bytes,
        /// The worker's own word on a task that failed.
        status: Option<u16>,
    },
    /// The answer comes in parts.
    Begun { beginning: Beginning, parts: mpsc::UnboundedReceiver<Part> },
    /// The worker is gone. `sent` says whether it may have read the call.
    Lost { sent: bool },
}

/// A part of an answer on its way to the caller. If none of them is the end, the worker was lost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Bytes(Bytes),
    End,
}

/// The worker sent more of an answer than it was given room for.
#[derive(Debug)]
pub(crate) struct Overrun;

/// Why a call was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Full,
    Gone,
}

/// What a worker's connection has to write next.
pub(crate) enum Next {
    /// Frames that are whole.
    Control(Bytes),
    /// A call, from now on taken for sent.
    Call { call: Uuid, body: Bytes, facts: Facts },
}

struct Pending {
    waits: Waits,
    sent: bool,
    bytes: usize,
}

/// What the caller of a call waits for.
enum Waits {
    Outcome(oneshot::Sender<Outcome>),
    Parts(Flow),
}

/// An answer that comes in parts. What lies in between is bounded by what the worker may send.
struct Flow {
    parts: mpsc::UnboundedSender<Part>,
    /// Bytes that the worker may still send.
    room: usize,
    /// Bytes that the caller has taken and the worker was not told of yet.
    taken: usize,
}

#[derive(Default)]
struct Link {
    closed: bool,
    /// Nothing new is taken; what is under way may end.
    draining: bool,
    control: VecDeque<Bytes>,
    /// Calls whose worker is to be told that it may send more; each at most once.
    credits: VecDeque<Uuid>,
    waiting: VecDeque<(Uuid, Bytes, Facts)>,
    pending: HashMap<Uuid, Pending>,
    used: Used,
    /// Calls until now, which makes each one's id another.
    count: u64,
    /// Which pull of a worker that binds over HTTP is the current one.
    pull: u64,
}

/// How a worker is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a connection, in the published form.
    Published,
    /// By a connection, and it is one of our own.
    Ours,
    /// By asking over HTTP.
    Poll,
}

/// Whose session it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    pub(crate) id: &'a str,
    /// Whether a ticket said so.
    pub(crate) proven: bool,
}

/// A bound worker. Shared by the desk, by who drives its connection, and by every caller.
pub(crate) struct Session {
    pub(crate) worker_id: Arc<str>,
    pub(crate) number: u64,
    pub(crate) models: Vec<String>,
    /// Whether the worker is one of ours, and told when a caller goes away.
    pub(crate) ours: bool,
    /// From where it came, if a direct path to it may be looked for.
    pub(crate) punches: OnceLock<IpAddr>,
    pub(crate) liveness: Liveness,
    pub(crate) term: Term,
    /// Whether it can be taken over by another of the same worker, which is told so and has proven its id.
    pub(crate) renews: bool,
    /// Whether the worker has no connection of its own, but asks over HTTP.
    poll: bool,
    /// Pulls that wait now: such a worker is there while one does.
    pulling: AtomicU64,
    /// Whether nothing is read from the worker until there is room for its answer.
    paused: AtomicBool,
    /// What the ids of its calls are made of.
    ids: Uuid,
    link: Mutex<Link>,
    /// Wakes who drives the connection.
    driver: AtomicWaker,
}

impl Session {
    pub(crate) fn new(owner: Owner<'_>, number: u64, models: Vec<String>, way: Way, now: u64) -> Self {
        Session {
            worker_id: owner.id.into(),
            number,
            models,
            ours: way == Way::Ours,
            punches: OnceLock::new(),
            liveness: Liveness::new(way == Way::Ours, now),
            term: Term::new(now),
            renews: way == Way::Ours && owner.proven,
            poll: way == Way::Poll,
            pulling: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            ids: Uuid::new_v4(),
            link: Mutex::default(),
            driver: AtomicWaker::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        // Nothing that is done under the lock can panic halfway.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame that is no call.
    pub(crate) fn control(&self, frame: impl Into<Bytes>) {
        let mut link = self.lock();
        if link.closed {
            return;
        }
        if link.control.len() < MOST_CONTROL {
            link.control.push_back(frame.into());
            drop(link);
            self.driver.wake();
        }
    }

    /// Takes room for a call whose bytes are still to come. None if there is no room.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: usize, most: Allowance) -> Option<Reserved> {
        let mut link = self.lock();
        let has_room = link.used.has_room(bytes, most);
        has_room.then(|| {
            link.used.add(bytes);
            Reserved { session: self.clone(), bytes }
        })
    }

    /// Queues a call for the worker. What it is made of is left if it is not taken.
    pub(crate) fn call(
        self: &Arc<Self>,
        body: &mut Bytes,
        facts: &mut Facts,
        most: Allowance,
    ) -> Result<Call, NotTaken> {
        let (outcome, waits) = oneshot::channel();
        let bytes = body.len();
        let mut link = self.lock();
        if link.closed || link.draining {
            return Err(NotTaken::Gone);
        }
        if !link.used.has_room(bytes, most) {
            return Err(NotTaken::Full);
        }
        link.used.add(bytes);
        self.term.carry(bytes);
        link.count += 1;
        // A worker answers for nobody but itself, so its calls' ids need not be secret: no randomness for each.
        let call = Uuid::from_u128(self.ids.as_u128() ^ u128::from(link.count & COUNT));
        // One of the published kind would make nothing of them.
        let facts = if self.ours { std::mem::take(facts) } else { Facts::default() };
        link.waiting.push_back((call, std::mem::take(body), facts));
        link.pending.insert(call, Pending { waits: Waits::Outcome(outcome), sent: false, bytes });
        drop(link);
        self.driver.wake();
        Ok(Call { session: self.clone(), call, waits })
    }

    /// What is to be written next; none if nothing waits, `Err` if the session is over.
    pub(crate) fn next(&self) -> Result<Option<Next>, Closed> {
        let mut link = self.lock();
        if let Some(frame) = link.control.pop_front() {
            return Ok(Some(Next::Control(frame)));
        }
        if link.closed {
            return Err(Closed);
        }
        if let Some(frame) = link.credit() {
            return Ok(Some(Next::Control(frame)));
        }
        let next = link.waiting.pop_front();
        if let Some((call, body, facts)) = next {
            if let Some(pending) = link.pending.get_mut(&call) {
                pending.sent = true;
            }
            return Ok(Some(Next::Call { call, body, facts }));
        }
        link.rest();
        Ok(None)
    }

    /// Whether calls wait to be written.
    pub(crate) fn has_calls(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Notes who is to be woken when there is something to write.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.driver.register(cx.waker());
    }

    /// The worker has answered. False if nobody waits for that.
    pub(crate) fn settle(&self, call: Uuid, body: Bytes, status: Option<u16>) -> bool {
        self.term.carry(body.len());
        let Some(pending) = self.lock().take(call) else { return false };
        match pending.waits {
            Waits::Outcome(outcome) => outcome.send(Outcome::Answered { body, status }).is_ok(),
            Waits::Parts(flow) => {
                let rest = body.is_empty() || flow.parts.send(Part::Bytes(body)).is_ok();
                rest && flow.parts.send(Part::End).is_ok()
            }
        }
    }

    /// A part of an answer has come.
    pub(crate) fn part(&self, call: Uuid, body: Bytes, beginning: Beginning) -> Result<(), Overrun> {
        self.term.carry(body.len());
        let mut link = self.lock();
        let Some(pending) = link.pending.get_mut(&call) else { return Ok(()) };
        if let Waits::Outcome(_) = &pending.waits {
            let (sender, parts) = mpsc::unbounded_channel();
            let flow = Waits::Parts(Flow { parts: sender, room: WINDOW, taken: 0 });
            if let Waits::Outcome(outcome) = std::mem::replace(&mut pending.waits, flow) {
                let _ = outcome.send(Outcome::Begun { beginning, parts });
            }
        }
        let Waits::Parts(flow) = &mut pending.waits else { return Ok(()) };
        flow.room = flow.room.checked_sub(body.len()).ok_or(Overrun)?;
        let _ = flow.parts.send(Part::Bytes(body));
        Ok(())
    }

    /// The caller has taken so much of an answer.
    pub(crate) fn taken(&self, call: Uuid, bytes: usize) {
        let mut link = self.lock();
        let Some(Pending { waits: Waits::Parts(flow), .. }) = link.pending.get_mut(&call) else { return };
        let before = flow.taken;
        flow.taken += bytes;
        // Not for every part.
        let is_due = |taken| taken >= WINDOW / 4;
        if is_due(flow.taken) && !is_due(before) {
            link.credits.push_back(call);
            drop(link);
            self.driver.wake();
        }
    }

    /// Whether an answer is being waited for.
    pub(crate) fn is_asked(&self) -> bool {
        !self.lock().pending.is_empty()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Takes no new calls; what is under way may end.
    pub(crate) fn drain(&self) {
        self.lock().draining = true;
    }

    /// The same if nothing is under way; false if something is.
    pub(crate) fn drain_if_idle(&self) -> bool {
        let mut link = self.lock();
        let is_idle = link.used.calls() == 0;
        link.draining |= is_idle;
        is_idle
    }

    /// Ends the session: every call is failed at once, and whoever drives the connection lets go of it.
    pub(crate) fn close(&self) {
        let (waiting, pending) = {
            let mut link = self.lock();
            if std::mem::replace(&mut link.closed, true) {
                return;
            }
            link.used = Used::default();
            (std::mem::take(&mut link.waiting), std::mem::take(&mut link.pending))
        };
        self.driver.wake();
        drop(waiting);
        for (_, Pending { waits, sent, .. }) in pending {
            // Parts without an end are lost as well.
            if let Waits::Outcome(outcome) = waits {
                let _ = outcome.send(Outcome::Lost { sent });
            }
        }
    }

    /// A caller is gone.
    fn forget(&self, call: Uuid) {
        let mut link = self.lock();
        let Some(pending) = link.take(call) else { return };
        if !pending.sent {
            link.waiting.retain(|(waiting, ..)| *waiting != call);
        } else if self.ours && !link.closed && link.control.len() < MOST_CONTROL {
            link.control.push_back(words::write_cancel(call).into());
            drop(link);
            self.driver.wake();
        }
    }

    /// Begins a pull, which ends any other.
    pub(crate) fn begin_pull(self: &Arc<Self>, now: u64) -> Pull {
        let number = {
            let mut link = self.lock();
            link.pull += 1;
            link.pull
        };
        self.driver.wake();
        self.pulling.fetch_add(1, Ordering::Relaxed);
        self.liveness.heard(now);
        Pull { session: self.clone(), number }
    }

    pub(crate) fn is_poll(&self) -> bool {
        self.poll
    }

    pub(crate) fn way(&self) -> Way {
        match (self.poll, self.ours) {
            (true, _) => Way::Poll,
            (false, true) => Way::Ours,
            (false, false) => Way::Published,
        }
    }

    /// Notes whether an answer waits for room.
    pub(crate) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Has whoever drives the connection look again.
    pub(crate) fn wake(&self) {
        self.driver.wake();
    }

    pub(crate) fn is_pulling(&self) -> bool {
        self.pulling.load(Ordering::Relaxed) > 0
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("worker_id", &self.worker_id)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl Link {
    fn take(&mut self, call: Uuid) -> Option<Pending> {
        let pending = self.pending.remove(&call)?;
        self.used.remove(pending.bytes);
        Some(pending)
    }

    /// Tells the worker that it may send more of an answer.
    fn credit(&mut self) -> Option<Bytes> {
        while let Some(call) = self.credits.pop_front() {
            if let Some(Pending { waits: Waits::Parts(flow), .. }) = self.pending.get_mut(&call) {
                let bytes = std::mem::take(&mut flow.taken);
                flow.room += bytes;
                return Some(words::write_credit(call, bytes).into());
            }
        }
        None
    }

    /// Gives back the memory of a busy hour.
    fn rest(&mut self) {
        if self.control.is_empty() && self.control.capacity() > KEPT {
            self.control = VecDeque::new();
        }
        if self.credits.is_empty() && self.credits.capacity() > KEPT {
            self.credits = VecDeque::new();
        }
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT {
            self.waiting = VecDeque::new();
        }
        if self.pending.is_empty() && self.pending.capacity() > KEPT {
            self.pending = HashMap::new();
        }
    }
}

/// The session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// Room for a call whose bytes are still to come, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    session: Arc<Session>,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.session.lock().used.remove(self.bytes);
    }
}

/// A call that is under way. Dropping it says that nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Call {
    session: Arc<Session>,
    call: Uuid,
    waits: oneshot::Receiver<Outcome>,
}

impl Call {
    /// Says that the caller has taken so much of the answer.
    pub(crate) fn taken(&self, bytes: usize) {
        self.session.taken(self.call, bytes);
    }

    pub(crate) async fn outcome(&mut self) -> Outcome {
        (&mut self.waits).await.unwrap_or(Outcome::Lost { sent: true })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.session.forget(self.call);
    }
}

/// A worker that waits for a call over HTTP.
#[derive(Debug)]
pub(crate) struct Pull {
    session: Arc<Session>,
    number: u64,
}

impl Pull {
    /// The next call; none if another pull took this one's place, or the session is over.
    pub(crate) async fn next(&self) -> Option<(Uuid, Bytes)> {
        std::future::poll_fn(|cx| {
            // One that was replaced must not be woken in its successor's place.
            let is_current = || self.session.lock().pull == self.number;
            if !is_current() {
                return Poll::Ready(None);
            }
            self.session.register(cx);
            loop {
                match self.session.next() {
                    // Frames are for workers with a connection.
                    Ok(Some(Next::Control(_))) => {}
                    Ok(Some(Next::Call { call, body, .. })) => return Poll::Ready(Some((call, body))),
                    Ok(None) => return Poll::Pending,
                    Err(Closed) => return Poll::Ready(None),
                }
            }
        })
        .await
    }

    /// Ends the pull: the worker was there until now.
    pub(crate) fn end(self, now: u64) {
        self.session.liveness.heard(now);
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.session.pulling.fetch_sub(1, Ordering::Relaxed);
    }
}
