//! One native connection to a node, and the calls that share it.
//!
//! A call writes its frame itself while nothing else waits to be written; what the socket does not take at once is left to
//! the connection's own task, which also reads the answers.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use uuid::{Builder, Uuid};

use super::http_client::{NoReply, Reply};
use super::native_parts::{Answer, Begun, Parts, Waits};
use crate::protocol::session::{CANCEL, MAX_CALLS};
use crate::types::Traceparent;
use crate::wire::call::{Call, Content, Response, Status};
use crate::wire::failure;
use crate::wire::fragment::{self, parts};
use crate::wire::frame::{HEADER_BYTES, Kind, MAX_PAYLOAD, Reason, VERSION};
use crate::wire::inbound::Message;
use crate::wire::message::{read_echo, write_cancel, write_echo};
use crate::wire::relay::{CREDIT, PART, Part, write_credit};

/// An idle connection is closed before the peer's own deadline can hit a task that is being sent.
pub(super) const IDLE: Duration = Duration::from_secs(20);
/// How long a peer that owes answers may be silent before it is asked whether it is there, and how long that may take.
const SILENCE: Duration = Duration::from_secs(15);
const PONG_WITHIN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(5);
/// Calls that nobody waits for any more whose answers may still come.
const MOST_ABANDONED: usize = 1024;
/// Most bytes that wait to be written; a peer that takes no more gets no more calls.
const MOST_QUEUED: usize = 8 << 20;

/// What a call asks, and how long it may take.
pub(crate) struct NativeCall<'a> {
    pub(crate) task_id: &'a str,
    pub(crate) intent: &'a str,
    /// The task as HTTP has it.
    pub(crate) body: Bytes,
    pub(crate) consumer_token: Option<&'a str>,
    pub(crate) traceparent: &'a Traceparent,
    pub(crate) deadline: Instant,
    /// Longest silence between the parts of an answer.
    pub(crate) idle: Duration,
    pub(crate) most_bytes: usize,
    /// Whether the result is taken in parts.
    pub(crate) takes_events: bool,
}

struct Waiting {
    waits: Waits,
    since: Instant,
    most_bytes: usize,
    /// Where the call's frame ends among all that was ever given to this connection.
    end: u64,
}

struct Shared {
    waiting: HashMap<Uuid, Waiting>,
    abandoned: VecDeque<Uuid>,
    /// What waits to be written, and how much was given to this connection and taken by the socket.
    queue: BytesMut,
    given: u64,
    written: u64,
    open: bool,
    calls: u64,
    /// The socket, if calls may write to it themselves.
    direct: Option<Arc<TcpStream>>,
}

/// One connection.
pub(crate) struct Link {
    shared: Mutex<Shared>,
    session_id: String,
    /// What every call's id is made from, so that none costs a random number.
    ids: u128,
    max_payload: usize,
    /// Told when something waits to be written.
    pub(super) queued: Notify,
    closed: AtomicBool,
    /// Milliseconds from the beginning to the last byte that came.
    heard_ms: AtomicU64,
    pub(super) since: Instant,
    idle: Duration,
}

impl Link {
    /// A connection to a peer that has been greeted.
    pub(super) fn new(direct: Option<Arc<TcpStream>>, max_payload: usize, idle: Duration) -> Arc<Link> {
        let shared = Shared {
            waiting: HashMap::new(),
            abandoned: VecDeque::new(),
            queue: BytesMut::new(),
            given: 0,
            written: 0,
            open: true,
            calls: 0,
            direct,
        };
        Arc::new(Link {
            shared: Mutex::new(shared),
            session_id: Uuid::new_v4().to_string(),
            ids: Uuid::new_v4().as_u128(),
            max_payload: max_payload.min(MAX_PAYLOAD),
            queued: Notify::new(),
            closed: AtomicBool::new(false),
            heard_ms: AtomicU64::new(0),
            since: Instant::now(),
            idle,
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it takes another call.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Relaxed)
    }

    /// Whether a task of this size can go this way.
    pub(crate) fn takes(&self, bytes: usize) -> bool {
        bytes + 1024 <= self.max_payload
    }

    /// Makes one call; an answer that comes in parts is left to be read. Dropping what this gives cancels it at the far end.
    /// `Connect` means that the peer cannot have begun.
    pub(crate) async fn open(self: &Arc<Self>, call: NativeCall<'_>) -> Result<Begun, NoReply> {
        let (answer, answered) = oneshot::channel();
        let (deadline, since) = (call.deadline, Instant::now());
        let waiting = Waiting { waits: Waits::Answer(answer), since, most_bytes: call.most_bytes, end: 0 };
        let id = self.begin(&call, waiting)?;
        let cancelled = CancelOnDrop { link: self.clone(), id };
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer.map(|answer| match answer {
                Answer::Whole(reply) => Begun::Whole(reply),
                Answer::Parts(beginning, parts) => Begun::Parts(Parts {
                    call: cancelled,
                    beginning,
                    parts,
                    deadline,
                    idle: call.idle,
                    most_bytes: call.most_bytes,
                    first_byte: since.elapsed(),
                    taken: 0,
                }),
            }),
            Ok(Err(_)) => Err(NoReply::Lost),
            Err(_) => Err(NoReply::Deadline),
        }
    }

    fn begin(&self, call: &NativeCall<'_>, mut waiting: Waiting) -> Result<Uuid, NoReply> {
        let mut shared = self.shared();
        if !shared.open || shared.waiting.len() >= MAX_CALLS || shared.queue.len() > MOST_QUEUED {
            return Err(NoReply::Connect);
        }
        shared.calls += 1;
        let id = Builder::from_random_bytes((self.ids ^ u128::from(shared.calls)).to_be_bytes()).into_uuid();
        drop(shared);
        let frame = self.frame(call, id).map_err(|_| NoReply::Connect)?;
        let mut shared = self.shared();
        if !shared.open {
            return Err(NoReply::Connect);
        }
        if shared.waiting.is_empty() {
            // It was not asked for anything: its silence begins now.
            self.heard();
        }
        waiting.end = shared.given + frame.len() as u64;
        shared.waiting.insert(id, waiting);
        self.send(&mut shared, &frame);
        Ok(id)
    }

    fn frame(&self, call: &NativeCall<'_>, id: Uuid) -> Result<Vec<u8>, Reason> {
        let mut text = Uuid::encode_buffer();
        let (trace_id, parent_span) = call.traceparent.ids();
        let seconds = call.deadline.saturating_duration_since(Instant::now()).as_secs();
        let mut out = Vec::with_capacity(call.body.len() + 384);
        let message = Call {
            version: Some(u64::from(VERSION)),
            session_id: Some(&self.session_id),
            intent: Some(call.intent),
            payload: Content::Bytes(&call.body),
            timeout_s: Some(seconds.clamp(1, 3600)),
            auth_token: call.consumer_token,
            trace_id: Some(&trace_id),
            parent_span: Some(&parent_span),
            call_id: Some(id.hyphenated().encode_lower(&mut text)),
            task_id: Some(call.task_id),
            takes_events: call.takes_events,
            ..Call::default()
        };
        message.write(&mut out)?;
        if out.len() - HEADER_BYTES <= fragment::PART {
            return Ok(out);
        }
        let message = &out[HEADER_BYTES..];
        let mut parted = Vec::with_capacity(message.len() + parts(message) * 128);
        let id = Uuid::new_v4().to_string();
        for seq in 0..parts(message) {
            fragment::write_part(&mut parted, Kind::Call, 0, &id, seq, message)?;
        }
        Ok(parted)
    }

    /// Gives bytes to the socket, or to the queue before it.
    fn send(&self, shared: &mut Shared, bytes: &[u8]) {
        shared.given += bytes.len() as u64;
        let mut taken = 0;
        if let Some(direct) = shared.direct.as_ref().filter(|_| shared.queue.is_empty()) {
            // What is wrong with the socket, reading tells.
            taken = direct.try_write(bytes).unwrap_or(0);
            shared.written += taken as u64;
        }
        if taken < bytes.len() {
            shared.queue.extend_from_slice(&bytes[taken..]);
            self.queued.notify_one();
        }
    }

    /// Nobody waits for the call any more: the peer is told, if it has not answered.
    fn cancel(&self, id: Uuid) {
        let mut shared = self.shared();
        if shared.waiting.remove(&id).is_none() || !shared.open {
            return;
        }
        shared.abandoned.push_back(id);
        if shared.abandoned.len() > MOST_ABANDONED {
            shared.abandoned.pop_front();
        }
        let mut frame = Vec::new();
        if write_cancel(&mut frame, CANCEL, &id.to_string()).is_ok() {
            self.send(&mut shared, &frame);
        }
    }

    /// Ends every call: those whose frame has not left cannot have begun.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
        let mut shared = self.shared();
        shared.open = false;
        shared.direct = None;
        let written = shared.written;
        for (_, waiting) in shared.waiting.drain() {
            let why = if waiting.end > written { NoReply::Connect } else { NoReply::Lost };
            waiting.waits.fail(why);
        }
    }

    /// Writes what waits to a plain socket; true if something is left.
    pub(super) fn write_some(&self, stream: &TcpStream) -> io::Result<bool> {
        let mut shared = self.shared();
        while !shared.queue.is_empty() {
            match stream.try_write(&shared.queue) {
                Ok(n) => {
                    shared.written += n as u64;
                    shared.queue.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        shared.queue = BytesMut::new();
        Ok(false)
    }

    /// What waits, for a socket that takes it all in the end. It counts as written from here on: it may be.
    pub(super) fn take_queued(&self) -> Option<BytesMut> {
        let mut shared = self.shared();
        if shared.queue.is_empty() {
            return None;
        }
        shared.written = shared.given;
        Some(std::mem::take(&mut shared.queue))
    }

    /// Resolves when the connection has been idle for long enough, or the peer is silent though it owes answers.
    pub(super) async fn watch(&self) -> Option<Reason> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let silent = self.silent_for();
            let mut shared = self.shared();
            match shared.waiting.is_empty() {
                true if silent >= self.idle => {
                    // No call may begin between here and the goodbye.
                    shared.open = false;
                    return Some(Reason::Graceful);
                }
                false if silent >= SILENCE + PONG_WITHIN => return None,
                false if silent >= SILENCE => {
                    let mut ping = Vec::new();
                    if write_echo(&mut ping, Kind::Ping, None).is_ok() {
                        self.send(&mut shared, &ping);
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn heard(&self) {
        self.heard_ms.store(crate::options::millis(self.since.elapsed()), Relaxed);
    }

    fn silent_for(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.heard_ms.load(Relaxed)))
    }

    pub(super) fn take(&self, message: &Message) -> Result<(), Reason> {
        let payload = &message.payload;
        match message.kind {
            Kind::Response => self.deliver(payload),
            PART => self.part(payload),
            Kind::Ping => {
                let mut pong = Vec::new();
                write_echo(&mut pong, Kind::Pong, read_echo(payload)?)?;
                self.send(&mut self.shared(), &pong);
                Ok(())
            }
            Kind::Pong => read_echo(payload).map(|_| ()),
            // What it still owes, it has said before that.
            Kind::Close => Err(Reason::Graceful),
            Kind::Ack | Kind::Init | Kind::Call | CREDIT => Err(Reason::ProtocolError),
            other => crate::wire::message::check(other, payload),
        }
    }

    fn deliver(&self, payload: &Bytes) -> Result<(), Reason> {
        let response = Response::read(payload)?;
        if response.session_id != Some(&self.session_id) || response.is_final == Some(false) {
            return Err(Reason::ProtocolError);
        }
        let id = response.call_id.and_then(|id| Uuid::try_parse(id).ok()).ok_or(Reason::ProtocolError)?;
        let waiting = {
            let mut shared = self.shared();
            match shared.waiting.remove(&id) {
                Some(waiting) => waiting,
                None => {
                    let known = shared.abandoned.iter().position(|abandoned| *abandoned == id);
                    let at = known.ok_or(Reason::ProtocolError)?;
                    shared.abandoned.remove(at);
                    return Ok(());
                }
            }
        };
        let answer = reply(payload, &response, &waiting);
        waiting.waits.end(answer);
        Ok(())
    }

    /// Takes a part of an answer.
    fn part(&self, payload: &Bytes) -> Result<(), Reason> {
        let part = Part::read(payload)?.ok_or(Reason::ProtocolError)?;
        let mut shared = self.shared();
        if let Some(waiting) = shared.waiting.get_mut(&part.call) {
            return waiting.waits.part(part.body, part.beginning);
        }
        if shared.abandoned.contains(&part.call) { Ok(()) } else { Err(Reason::ProtocolError) }
    }

    /// So many bytes of an answer in parts were taken: as many more may come.
    fn make_room(&self, id: Uuid, bytes: usize) {
        let mut shared = self.shared();
        if shared.waiting.get_mut(&id).is_some_and(|waiting| waiting.waits.make_room(bytes)) {
            self.send(&mut shared, &write_credit(id, bytes));
        }
    }
}

/// The answer as HTTP would have brought it.
fn reply(payload: &Bytes, response: &Response<'_>, waiting: &Waiting) -> Result<Reply, NoReply> {
    let (status, body) = match response.status.and_then(Status::parse) {
        Some(Status::Success) => match response.result {
            Content::Bytes(result) => (200, payload.slice_ref(result)),
            // The last word after parts.
            Content::None if matches!(waiting.waits, Waits::Parts(_)) => (200, Bytes::new()),
            _ => return Err(NoReply::Malformed),
        },
        Some(Status::Error | Status::Timeout) => {
            let failed = response.error.unwrap_or_default();
            let status = response.status_code.and_then(|status| u16::try_from(status).ok()).filter(|s| *s >= 400);
            let body = failure::write(failed.code.unwrap_or_default(), failed.message.unwrap_or_default(), &[]);
            (status.unwrap_or(502), body.into())
        }
        Some(Status::Partial) | None => return Err(NoReply::Malformed),
    };
    if body.len() > waiting.most_bytes {
        return Err(NoReply::TooLarge);
    }
    Ok(Reply {
        status,
        retry_after: response.retry_after_ms.map(|ms| Duration::from_millis(ms.min(86_400_000))),
        date: None,
        content_type: None,
        body,
        connect: Duration::ZERO,
        first_byte: waiting.since.elapsed(),
    })
}

/// A call that somebody waits for.
pub(super) struct CancelOnDrop {
    link: Arc<Link>,
    id: Uuid,
}

impl CancelOnDrop {
    /// So many bytes of its answer were taken.
    pub(super) fn make_room(&self, bytes: usize) {
        self.link.make_room(self.id, bytes);
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.link.cancel(self.id);
    }
}
