//! Connections to nodes that take calls in the published form. Such a node reads the next call when it has answered the one
//! before, so a call has a connection to itself; what is idle is used again.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use super::http_client::{NoReply, Reply};
use super::native_answers::Answers;
use crate::protocol::published::{Asking, Fault as Broken, Said};
use crate::telemetry;
use crate::wire::events::{Event, write_event};
use crate::wire::frame::{HEADER_BYTES, Kind, MAX_SENT_PAYLOAD, Reason};
use crate::wire::inbound::Fault;
use crate::wire::message::{Close, read_echo, write_echo};
use crate::wire::task::write_reply;

/// Connections to one node at a time; further tasks go over HTTP.
const MOST_LANES: usize = 32;
/// How long a connection is kept for another call.
const IDLE: Duration = Duration::from_secs(20);
/// How often it is looked for connections that were idle for that long.
const TICK: Duration = Duration::from_secs(5);
/// What an answer has beside its result, at most.
const ENVELOPE: usize = 64 << 10;

/// A task as this form has it: no seal, no credential, no constraints.
#[derive(Clone, Copy)]
pub(crate) struct PlainCall<'a> {
    pub(crate) task_id: &'a str,
    pub(crate) intent: &'a str,
    /// A JSON object.
    pub(crate) payload: &'a Bytes,
    pub(crate) deadline: Instant,
    /// Longest silence between two events.
    pub(crate) idle: Duration,
    pub(crate) most_bytes: usize,
    /// Whether the task's events are followed.
    pub(crate) follows: bool,
}

/// A connection that waits for its next call.
struct Idle {
    answers: Answers,
    since: Instant,
}

/// One node.
pub(super) struct Published {
    pub(super) node_id: Box<str>,
    idle: Mutex<Vec<Idle>>,
    lanes: Arc<Semaphore>,
    /// Set when it could not be reached any more, or is another node now.
    lost: AtomicBool,
}

impl Published {
    /// A node that answered the greeting on this connection.
    pub(super) fn new(node_id: Box<str>, answers: Answers) -> Arc<Published> {
        let idle = Mutex::new(vec![Idle { answers, since: Instant::now() }]);
        Arc::new(Published { node_id, idle, lanes: Arc::new(Semaphore::new(MOST_LANES)), lost: AtomicBool::new(false) })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.lost.load(Relaxed)
    }

    pub(super) fn give_up(&self) {
        self.lost.store(true, Relaxed);
        self.idle().clear();
    }

    /// The right to one more connection.
    pub(super) fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.lanes.clone().try_acquire_owned().ok()
    }

    /// A connection that is idle and still whole.
    pub(super) fn take(&self) -> Option<Answers> {
        loop {
            let mut answers = self.idle().pop()?.answers;
            match answers.half.read(&mut answers.arrived, HEADER_BYTES).now_or_never() {
                None => return Some(answers),
                Some(Ok(1..)) => {
                    tracing::warn!(
                        target: telemetry::TRANSPORT, node_id = %self.node_id,
                        "a node sent native frames that nobody asked for; its connection is closed"
                    );
                }
                Some(Ok(0) | Err(_)) => {}
            }
        }
    }

    /// Closes what has been idle for too long, as long as somebody has this.
    pub(super) async fn keep(kept: Weak<Published>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let Some(published) = kept.upgrade().filter(|published| published.is_open()) else { return };
            published.idle().retain(|idle| idle.since.elapsed() < IDLE);
        }
    }
}

/// A connection that one call has to itself. Dropping it before its answer is whole closes it: the form has no other word
/// for a caller who leaves.
pub(crate) struct Lane {
    home: Arc<Published>,
    answers: Answers,
    _room: OwnedSemaphorePermit,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("node_id", &self.home.node_id).finish_non_exhaustive()
    }
}

/// What came of a call.
pub(crate) enum Heard {
    Whole(Reply),
    Events(Followed),
}

impl Lane {
    pub(super) fn new(home: Arc<Published>, answers: Answers, room: OwnedSemaphorePermit) -> Self {
        Lane { home, answers, _room: room }
    }

    /// Whether a task of this size can go this way.
    pub(crate) fn takes(bytes: usize) -> bool {
        bytes + ENVELOPE <= MAX_SENT_PAYLOAD
    }

    /// Makes a call. `Connect` means that the node cannot have begun.
    pub(crate) async fn call(self, call: PlainCall<'_>) -> Result<Heard, NoReply> {
        // The handler of a published node is told the call's id as the task's; who follows a task names it beside.
        let followed = call.follows.then(|| call.task_id.to_owned());
        let call_id = if call.follows { Uuid::new_v4().to_string() } else { call.task_id.to_owned() };
        let asking = Asking::new(Uuid::new_v4().to_string(), call_id, followed);
        tokio::time::timeout_at(call.deadline, self.exchange(&call, asking)).await.unwrap_or(Err(NoReply::Deadline))
    }

    async fn exchange(mut self, call: &PlainCall<'_>, mut asking: Asking) -> Result<Heard, NoReply> {
        let begun = Instant::now();
        let mut frame = Vec::with_capacity(call.payload.len() + 512);
        asking.write(call.intent, call.payload, &mut frame).map_err(|_| NoReply::Connect)?;
        // What was not taken whole, nobody has read whole.
        self.answers.pen.write(&frame).await.map_err(|_| NoReply::Connect)?;
        let said = self.next(&mut asking, call.most_bytes).await.map_err(Ended::of_first)?;
        let first_byte = begun.elapsed();
        let (status, body) = match said {
            Said::Result(json) => (200, write_reply(call.task_id, &json, first_byte.as_secs_f64() * 1000.0)),
            Said::Refused(refusal) => (refusal.status, refusal.body()),
            Said::Event(event) => {
                let mut followed = Followed {
                    lane: Some(self),
                    asking,
                    task_id: call.task_id.to_owned(),
                    ready: None,
                    deadline: call.deadline,
                    idle: call.idle,
                    most_bytes: call.most_bytes,
                    first_byte,
                };
                followed.ready = Some(followed.as_http(&event));
                return Ok(Heard::Events(followed));
            }
        };
        self.give_back();
        Ok(Heard::Whole(Reply {
            status,
            retry_after: None,
            date: None,
            content_type: None,
            body: body.into(),
            connect: Duration::ZERO,
            first_byte,
        }))
    }

    /// The next answer to the call.
    async fn next(&mut self, asking: &mut Asking, most_bytes: usize) -> Result<Said, Ended> {
        loop {
            let message = self.answers.next_within(most_bytes.saturating_add(ENVELOPE)).await?;
            match message.kind {
                Kind::Response => {
                    return asking.take(&message.payload, most_bytes).map_err(|why| {
                        tracing::warn!(
                            target: telemetry::TRANSPORT, node_id = %self.home.node_id, why = why.code(),
                            "a node's native answer is not one to its call; the connection is closed"
                        );
                        if why == Broken::TooLarge { Ended::TooLarge } else { Ended::Malformed }
                    });
                }
                Kind::Ping => {
                    let mut pong = Vec::new();
                    let echo = read_echo(&message.payload).map_err(|_| Ended::Malformed)?;
                    write_echo(&mut pong, Kind::Pong, echo).map_err(|_| Ended::Malformed)?;
                    self.answers.pen.write(&pong).await.map_err(|_| Ended::Gone)?;
                }
                Kind::Close => {
                    let close = Close::read(&message.payload).map_err(|_| Ended::Malformed)?;
                    return Err(if close.reason.is_some_and(proves_not_run) { Ended::NotTaken } else { Ended::Gone });
                }
                // Published peers pass over what they do not know, and send it.
                Kind::Pong | Kind::SubProtocol | Kind::Feedback | Kind::Observe | Kind::Telemetry => {}
                _ => return Err(Ended::Malformed),
            }
        }
    }

    /// Leaves the connection to the next call.
    fn give_back(self) {
        if self.answers.arrived.is_empty() {
            self.home.idle().push(Idle { answers: self.answers, since: Instant::now() });
        }
    }
}

/// Why there is no further answer.
enum Ended {
    /// The node said that it did not take the call.
    NotTaken,
    Gone,
    Malformed,
    TooLarge,
}

impl Ended {
    fn of_first(self) -> NoReply {
        match self {
            Ended::NotTaken => NoReply::Connect,
            other => other.of_later(),
        }
    }

    fn of_later(self) -> NoReply {
        match self {
            Ended::NotTaken | Ended::Gone => NoReply::Lost,
            Ended::Malformed => NoReply::Malformed,
            Ended::TooLarge => NoReply::TooLarge,
        }
    }
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Ended {
        match fault {
            // An end of the connection is one of these as well.
            Fault::NotIicp => Ended::Gone,
            Fault::Close(Reason::FrameTooLarge | Reason::PayloadTooLarge) => Ended::TooLarge,
            Fault::Close(_) => Ended::Malformed,
        }
    }
}

/// Whether a goodbye says that the call before it was not taken. A node that reads one call at a time says all but these of
/// what it has just read.
fn proves_not_run(reason: &str) -> bool {
    let others = [Reason::Graceful, Reason::ReadTimeout, Reason::IdleTimeout];
    Reason::parse(reason).is_some_and(|reason| !others.contains(&reason))
}

/// The events of a task, as HTTP has them.
pub(crate) struct Followed {
    /// None when the last one was read.
    lane: Option<Lane>,
    asking: Asking,
    task_id: String,
    ready: Option<Bytes>,
    deadline: Instant,
    idle: Duration,
    most_bytes: usize,
    first_byte: Duration,
}

impl Followed {
    /// From the sending to the first event.
    pub(crate) fn first_byte(&self) -> Duration {
        self.first_byte
    }

    /// The next bytes; none after the last event.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, NoReply> {
        if let Some(bytes) = self.ready.take() {
            return Ok(Some(bytes));
        }
        let Some(lane) = &mut self.lane else { return Ok(None) };
        let last = self.deadline.min(Instant::now().checked_add(self.idle).unwrap_or(self.deadline));
        match tokio::time::timeout_at(last, lane.next(&mut self.asking, self.most_bytes)).await {
            Ok(Ok(Said::Event(event))) => Ok(Some(self.as_http(&event))),
            Ok(Ok(Said::Result(_) | Said::Refused(_))) => Err(NoReply::Malformed),
            Ok(Err(ended)) => Err(ended.of_later()),
            Err(_) if last == self.deadline => Err(NoReply::Deadline),
            Err(_) => Err(NoReply::Lost),
        }
    }

    /// An event in HTTP's form. After the last one, the connection is another call's.
    fn as_http(&mut self, event: &Event) -> Bytes {
        if let Some(lane) = self.lane.take_if(|_| self.asking.has_ended()) {
            lane.give_back();
        }
        let mut bytes = Vec::new();
        write_event(&mut bytes, &self.task_id, event);
        bytes.into()
    }
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("lane", &self.lane).finish_non_exhaustive()
    }
}
