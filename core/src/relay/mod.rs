//! The relay: a node lends its address to workers that nobody can reach.
//!
//! Workers bind over a connection of their own ([`accept`], [`driver`]) or by asking over HTTP ([`polling`]); both have a
//! [`session`] at the desk. What a consumer sends under a worker's id is forwarded to that session as bytes. The paths and
//! answers of it are the node's: see `node/relaying.rs`.
//!
//! The other side is the [`worker`], which holds its session over a [`link`].

mod accept;
mod counts;
mod driver;
mod frames;
mod link;
mod observer;
mod parts;
mod polling;
mod session;
mod tickets;
mod upkeep;
mod worker;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub(crate) use accept::Listeners;
pub(crate) use observer::Observer;
pub(crate) use parts::Parts;
pub(crate) use polling::{PULL, Pulled};
pub(crate) use session::Reserved;
pub(crate) use tickets::TicketJudge;
pub(crate) use worker::{Exchange, Place, Worker};

use crate::crypto::pinned::{Pin, PinnedKey};
use crate::error::Result;
use crate::options::RelayServerOptions;
use crate::protocol::relay::bind::{Applicant, Desk, DeskLimits, Refusal};
use crate::protocol::relay::budget::{Allowance, Budget};
use crate::protocol::relay::liveness::Patience;
use crate::protocol::relay::source::Source;
use crate::protocol::relay::term::Bounds;
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::wire::relay::{Beginning, Facts};
use counts::{CallEnd, Counts};
use observer::Observing;
use session::{Call, NotTaken, Outcome, Owner, Session, Way};
use tickets::Doubt;

/// How often somebody looks after the sessions.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A relay: its desk, and what it carries.
pub(crate) struct Relay {
    limits: Limits,
    /// What workers are told to reach the HTTP side under.
    http_port: u16,
    accept_port: u16,
    desk: Mutex<Desk<Arc<Session>>>,
    /// Sessions whose workers are bound anew, until what is under way has ended.
    retired: Mutex<Vec<Arc<Session>>>,
    /// Sessions of workers that bind over HTTP, by the hash of their tokens.
    polls: Mutex<HashMap<[u8; 32], Arc<Session>>>,
    budget: Mutex<Budget>,
    /// Bytes of answers that are held.
    answers: AtomicUsize,
    tickets: TicketJudge,
    tls: Arc<rustls::ServerConfig>,
    pin: Pin,
    pub(crate) counts: Counts,
    /// How it helps peers to find direct paths, if it does.
    observing: OnceLock<Observing>,
    started: Instant,
    group: TaskGroup,
}

/// Bounds that every part of a relay looks at.
#[derive(Clone, Copy, Debug)]
struct Limits {
    per_worker: Allowance,
    answer_bytes: usize,
    call_timeout: Duration,
    patience: Patience,
    session: Bounds,
    tls_required: bool,
}

/// Why a call came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No such worker is bound.
    Unbound,
    /// Too much is under way, for this worker, for this source or for the relay.
    Busy,
    /// The worker was lost; `sent` says whether it may have read the call.
    Lost { sent: bool },
    /// The worker did not answer in time.
    Timeout,
}

/// What a worker answers.
pub(crate) enum Forwarded {
    Whole { body: Bytes, status: Option<u16> },
    Parts { beginning: Beginning, parts: Parts },
}

/// How long after a call's deadline the last of its parts may still come.
const GRACE: Duration = Duration::from_secs(1);
/// How long after it the worker's own word on it may come.
const LAST_WORD: Duration = Duration::from_millis(250);

/// How long a worker has to bind anew when its term is over: the directory, which gives it a ticket, may be away.
const RENEWAL_MS: u64 = 600_000;

/// How a worker comes to the desk.
struct Arrival<'a> {
    worker_id: &'a str,
    ticket: Option<&'a str>,
    source: Source,
}

impl Relay {
    pub(crate) fn new(
        options: &RelayServerOptions,
        listeners: &Listeners,
        http_port: u16,
        tickets: TicketJudge,
        key: &PinnedKey,
        group: TaskGroup,
    ) -> Result<Arc<Self>> {
        let ms = Duration::from_millis;
        let allowance = |calls, bytes| Allowance { calls, bytes };
        Ok(Arc::new(Relay {
            limits: Limits {
                per_worker: allowance(options.max_calls_per_worker, options.max_bytes_per_worker),
                answer_bytes: options.max_bytes,
                call_timeout: ms(options.call_timeout_ms),
                patience: Patience {
                    ask_after: ms(options.ping_interval_ms),
                    answer_within: ms(options.pong_timeout_ms),
                    silence: ms(options.silence_timeout_ms),
                    look_every: LOOK_EVERY,
                },
                session: Bounds {
                    age_ms: options.max_session_ms,
                    bytes: options.max_session_bytes,
                    grace_ms: RENEWAL_MS,
                    // And its last word.
                    last_ms: options.call_timeout_ms.saturating_add(1_000),
                },
                tls_required: options.tls_required,
            },
            http_port,
            accept_port: listeners.addr().map_or(options.port, |addr| addr.port()),
            desk: Mutex::new(Desk::new(DeskLimits {
                workers: options.max_workers,
                workers_per_source: options.max_workers_per_source,
                binds_per_minute: options.binds_per_minute,
                ticket_required: listeners.ticket_required(options),
            })),
            retired: Mutex::default(),
            polls: Mutex::default(),
            budget: Mutex::new(Budget::new(
                allowance(options.max_calls_per_source, options.max_bytes_per_source),
                allowance(options.max_calls, options.max_bytes),
            )),
            answers: AtomicUsize::new(0),
            tickets,
            tls: crate::transport::pinned::server(key)?,
            pin: key.pin(),
            counts: Counts::default(),
            observing: OnceLock::new(),
            started: Instant::now(),
            group,
        }))
    }

    /// Accepts workers, and looks after those that are bound, until the group closes.
    pub(crate) fn serve(self: &Arc<Self>, listeners: Listeners) {
        listeners.serve(self);
        let relay = self.clone();
        let (closing, aborted) = (self.group.closing(), self.group.aborted());
        self.group.spawn_watcher(async move {
            let (mut closing, mut aborted) = (std::pin::pin!(closing), std::pin::pin!(aborted));
            let mut tick = tokio::time::interval(LOOK_EVERY);
            let mut stopping = false;
            loop {
                tokio::select! {
                    () = &mut aborted => break,
                    () = &mut closing, if !stopping => {
                        stopping = true;
                        relay.drain();
                    }
                    _ = tick.tick() => relay.look_after(stopping),
                }
            }
            relay.sessions().iter().for_each(|session| relay.end(session));
        });
    }

    fn desk(&self) -> MutexGuard<'_, Desk<Arc<Session>>> {
        // A panic while the lock is held leaves the desk whole: see `Desk::bind`.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn polls(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Session>>> {
        self.polls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn now_ms(&self) -> u64 {
        crate::options::millis(self.now())
    }

    /// Every session, those of workers that are bound anew too.
    fn sessions(&self) -> Vec<Arc<Session>> {
        let mut sessions: Vec<_> = self.desk().sessions().cloned().collect();
        sessions.extend(self.retired().iter().cloned());
        sessions
    }

    /// The port on which workers are accepted.
    pub(crate) fn accept_port(&self) -> u16 {
        self.accept_port
    }

    /// What workers know the relay's TLS by.
    pub(crate) fn pin(&self) -> Pin {
        self.pin
    }

    /// Workers that are bound.
    pub(crate) fn workers(&self) -> usize {
        self.desk().len()
    }

    /// The same, by how they are connected.
    pub(crate) fn workers_by_way(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let mut counts = [0; Way::ALL.len()];
        self.desk().sessions().for_each(|session| counts[session.way() as usize] += 1);
        Way::ALL.iter().map(|way| way.as_str()).zip(counts)
    }

    /// Calls that are under way.
    pub(crate) fn calls(&self) -> usize {
        self.budget().calls()
    }

    /// How much of the relay is in use, 0 to 1.
    pub(crate) fn load(&self) -> f64 {
        self.budget().load()
    }

    /// The models that a bound worker serves; none if it is not bound.
    pub(crate) fn models(&self, worker_id: &str) -> Option<Vec<String>> {
        let session = self.desk().get(worker_id)?.clone();
        (!session.is_closed()).then(|| session.models.clone())
    }

    /// Takes room for a task of so many bytes that are still to come.
    pub(crate) fn reserve(&self, worker_id: &str, bytes: usize) -> Result<Reserved, Fault> {
        let session = self.desk().get(worker_id).cloned().ok_or(Fault::Unbound)?;
        session.reserve(bytes, self.limits.per_worker).ok_or(Fault::Busy)
    }

    /// Sends a task to a worker and waits for its answer, at most `within`.
    pub(crate) async fn forward(
        self: &Arc<Self>,
        worker_id: &str,
        caller: IpAddr,
        body: Bytes,
        facts: Facts,
        within: Option<Duration>,
    ) -> Result<Forwarded, Fault> {
        let mut counted = Counted { counts: &self.counts, end: CallEnd::Cancelled };
        let exchange = async {
            let within = within.unwrap_or(self.limits.call_timeout).min(self.limits.call_timeout);
            let deadline = Instant::now() + within + LAST_WORD;
            let room = self.room(Source::of(caller), body.len())?;
            let bytes = body.len();
            let mut call = self.call(worker_id, body, facts)?;
            self.counts.to_worker(bytes);
            match tokio::time::timeout_at(deadline, call.outcome()).await {
                Ok(Outcome::Answered { body, status }) => {
                    self.counts.to_caller(body.len());
                    Ok(Forwarded::Whole { body, status })
                }
                Ok(Outcome::Begun { beginning, parts }) => {
                    let deadline = Box::pin(tokio::time::sleep_until(deadline + GRACE));
                    let parts = Parts { call, parts, deadline, room, over: false };
                    Ok(Forwarded::Parts { beginning, parts })
                }
                Ok(Outcome::Lost { sent }) => Err(Fault::Lost { sent }),
                Err(_) => Err(Fault::Timeout),
            }
        };
        let forwarded = exchange.await;
        counted.end = match &forwarded {
            Ok(Forwarded::Whole { status: Some(_), .. }) => CallEnd::Failed,
            Ok(_) => CallEnd::Answered,
            Err(fault) => (*fault).into(),
        };
        forwarded
    }

    /// Queues a call for whoever is bound under the id.
    fn call(&self, worker_id: &str, mut body: Bytes, mut facts: Facts) -> Result<Call, Fault> {
        // Who is bound anew between the look and the call is found by the second look.
        for _ in 0..2 {
            let session = self.desk().get(worker_id).cloned().ok_or(Fault::Unbound)?;
            match session.call(&mut body, &mut facts, self.limits.per_worker) {
                Ok(call) => return Ok(call),
                Err(NotTaken::Full) => return Err(Fault::Busy),
                Err(NotTaken::Gone) => {}
            }
        }
        Err(Fault::Unbound)
    }

    fn room(self: &Arc<Self>, source: Source, bytes: usize) -> Result<Room, Fault> {
        self.budget().take(source, bytes).map_err(|spent| {
            tracing::debug!(target: telemetry::RELAY, ?spent, "a call was refused: too much is under way");
            Fault::Busy
        })?;
        Ok(Room { relay: self.clone(), source, bytes })
    }

    /// Room for an answer that begins to arrive; none if too much is held. It is given back with the last of its bytes.
    fn hold_answer(self: &Arc<Self>, bytes: usize) -> Option<HeldAnswer> {
        let most = self.limits.answer_bytes;
        let take =
            |held: usize| (held == 0 || held.saturating_add(bytes) <= most).then_some(held.saturating_add(bytes));
        self.answers.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(HeldAnswer { relay: self.clone(), bytes, whole: Bytes::new() })
    }

    /// Judges a worker and binds it. `greet` says what its session must be told first: it is queued before anybody can find
    /// the session.
    async fn admit(
        &self,
        arrival: Arrival<'_>,
        models: Vec<String>,
        way: Way,
        greeting: Option<Bytes>,
    ) -> Result<Arc<Session>, Refusal> {
        let admitted = self.judge(arrival, models, way, greeting).await;
        match &admitted {
            Ok(_) => self.counts.bound(),
            Err(refusal) => self.counts.refused(*refusal),
        }
        admitted
    }

    async fn judge(
        &self,
        arrival: Arrival<'_>,
        models: Vec<String>,
        way: Way,
        greeting: Option<Bytes>,
    ) -> Result<Arc<Session>, Refusal> {
        let Arrival { worker_id, ticket, source } = arrival;
        // A ticket that nobody can read proves nothing; a strict desk has somebody who can.
        let ticket = ticket.filter(|_| self.tickets.can_verify());
        self.desk().precheck(ticket.is_some(), source, self.now())?;
        let proof = match ticket {
            None => None,
            Some(ticket) => match self.tickets.verify(ticket, worker_id).await {
                Ok(claims) => Some(claims),
                Err(doubt) => {
                    if let Doubt::Fault(fault) = doubt {
                        tracing::debug!(target: telemetry::RELAY, worker_id, fault = fault.text(), "a bind ticket is not taken");
                        self.desk().bad_ticket(source, self.now());
                    }
                    return Err(Refusal::TicketInvalid);
                }
            },
        };
        if self.group.is_closing() {
            return Err(Refusal::AtCapacity);
        }
        let (now, now_ms, unix_s) = (self.now(), self.now_ms(), self.tickets.now_unix_s());
        let owner = Owner { id: worker_id, proven: proof.is_some() };
        let applicant = Applicant { worker_id, proof, source };
        let mut bound = None;
        let make = |number| {
            let session = Arc::new(Session::new(owner, number, models, way, now_ms));
            if let Some(greeting) = greeting {
                session.control(greeting);
            }
            bound = Some(session.clone());
            session
        };
        let verdict = self.desk().bind(&applicant, now, unix_s, make);
        match verdict {
            Ok(displaced) => {
                if let Some(old) = displaced {
                    self.displace(old);
                }
            }
            Err(refusal) => {
                if refusal == Refusal::AlreadyBound {
                    // Somebody else wants the id.
                    let holder = self.desk().get(worker_id).cloned();
                    holder.iter().for_each(|session| self.doubt(session));
                }
                return Err(refusal);
            }
        }
        // The desk has just made it.
        bound.ok_or(Refusal::AtCapacity)
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("workers", &self.workers()).finish_non_exhaustive()
    }
}

/// Counts a call when it ends, however it does.
struct Counted<'a> {
    counts: &'a Counts,
    end: CallEnd,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.counts.call_ended(self.end);
    }
}

/// What a call takes of the budget, until it is dropped.
struct Room {
    relay: Arc<Relay>,
    source: Source,
    bytes: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.relay.budget().give_back(self.source, self.bytes);
    }
}

/// What an answer takes of the memory for answers, until the last of its bytes is dropped.
struct HeldAnswer {
    relay: Arc<Relay>,
    bytes: usize,
    whole: Bytes,
}

impl HeldAnswer {
    /// The answer, which holds its room from now on.
    fn with(mut self, whole: Bytes) -> Bytes {
        self.whole = whole;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for HeldAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.whole
    }
}

impl Drop for HeldAnswer {
    fn drop(&mut self) {
        self.relay.answers.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
