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
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use uuid::{Builder, Uuid};

use super::http_client::{NoReply, Reply};
use super::native_parts::{Answer, Begun, Parts, Waits};
use crate::protocol::session::{AGREED, CALLS, CANCEL, MAX_CALLS};
use crate::telemetry;
use crate::types::Traceparent;
use crate::wire::call::{Call, Content, Response, Status};
use crate::wire::failure;
use crate::wire::fragment::{self, parts};
use crate::wire::frame::{HEADER_BYTES, Kind, MAX_PAYLOAD, Reason, VERSION};
use crate::wire::inbound::{Fault, Inbound, Message};
use crate::wire::message::{Ack, Init, read_echo, write_cancel, write_close, write_echo};
use crate::wire::relay::{CREDIT, PART, Part, write_credit};

/// An idle connection is closed before the peer's own deadline can hit a task that is being sent.
pub(super) const IDLE: Duration = Duration::from_secs(20);
/// How long a peer that owes answers may be silent before it is asked whether it is there, and how long that may take.
const SILENCE: Duration = Duration::from_secs(15);
const PONG_WITHIN: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(5);
/// How long a goodbye may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Calls that nobody waits for any more whose answers may still come.
const MOST_ABANDONED: usize = 1024;
/// Most bytes that wait to be written; a peer that takes no more gets no more calls.
const MOST_QUEUED: usize = 8 << 20;
/// Room for what arrives: see the server's side.
const FIRST_ROOM: usize = 8 << 10;
const MOST_ROOM: usize = 256 << 10;

/// Both halves of a connection that is no plain socket.
type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// What a connection runs over.
pub(crate) enum Socket {
    Plain(Arc<TcpStream>),
    Secured(Reader, Writer),
}

impl Socket {
    pub(crate) fn secured(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Socket::Secured(Box::new(reader), Box::new(writer))
    }
}

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
    queued: Notify,
    closed: AtomicBool,
    /// Milliseconds from the beginning to the last byte that came.
    heard_ms: AtomicU64,
    since: Instant,
    idle: Duration,
}

impl Link {
    /// Greets a peer. The connection is closed when nothing was asked for `idle`.
    pub(crate) async fn greet(socket: Socket, idle: Duration) -> Result<(Arc<Link>, Answers), &'static str> {
        let mut hello = Vec::new();
        let init = Init {
            version: Some(u64::from(VERSION)),
            min_version: Some(u64::from(VERSION)),
            capabilities: vec![CALLS],
            max_frame_size: Some(MAX_PAYLOAD as u64),
            ..Init::default()
        };
        init.write(&mut hello).map_err(|_| "the greeting could not be written")?;
        let direct = match &socket {
            Socket::Plain(stream) => Some(stream.clone()),
            Socket::Secured(..) => None,
        };
        let mut answers = Answers::over(socket);
        answers.pen.write(&hello).await.map_err(|_| "the connection broke")?;
        let message = answers.next(0).await.map_err(|_| "it hung up on the greeting, or speaks something else")?;
        let ack = (message.kind == Kind::Ack).then(|| Ack::read(&message.payload).ok()).flatten();
        let ack = ack.ok_or("it did not answer the greeting")?;
        if ack.version != Some(u64::from(VERSION)) {
            return Err("it answered with another version");
        }
        if !ack.capabilities.as_ref().is_some_and(|known| known.contains(&CALLS)) {
            return Err("it does not know calls as HTTP has them");
        }
        (answers.inbound.parts, answers.inbound.agreed) = (true, AGREED);
        let max_payload = ack.max_frame_size.map_or(MAX_PAYLOAD, |max| usize::try_from(max).unwrap_or(MAX_PAYLOAD));
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
        let link = Link {
            shared: Mutex::new(shared),
            session_id: Uuid::new_v4().to_string(),
            ids: Uuid::new_v4().as_u128(),
            max_payload: max_payload.min(MAX_PAYLOAD),
            queued: Notify::new(),
            closed: AtomicBool::new(false),
            heard_ms: AtomicU64::new(0),
            since: Instant::now(),
            idle,
        };
        Ok((Arc::new(link), answers))
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

    /// Makes one call, and reads its whole answer. Dropping the future cancels it at the far end. `Connect` means that the peer
    /// cannot have begun.
    pub(crate) async fn call(self: &Arc<Self>, call: NativeCall<'_>) -> Result<Reply, NoReply> {
        match self.open(call).await? {
            Begun::Whole(reply) => Ok(reply),
            Begun::Parts(parts) => parts.read().await,
        }
    }

    /// Makes one call; an answer that comes in parts is left to be read.
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
    fn close(&self) {
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
    fn write_some(&self, stream: &TcpStream) -> io::Result<bool> {
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
    fn take_queued(&self) -> Option<BytesMut> {
        let mut shared = self.shared();
        if shared.queue.is_empty() {
            return None;
        }
        shared.written = shared.given;
        Some(std::mem::take(&mut shared.queue))
    }

    /// Resolves when the connection has been idle for long enough, or the peer is silent though it owes answers.
    async fn watch(&self) -> Option<Reason> {
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

    fn heard(&self) {
        self.heard_ms.store(crate::options::millis(self.since.elapsed()), Relaxed);
    }

    fn silent_for(&self) -> Duration {
        self.since.elapsed().saturating_sub(Duration::from_millis(self.heard_ms.load(Relaxed)))
    }

    fn take(&self, message: &Message) -> Result<(), Reason> {
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

/// The reading side of a socket.
enum Half {
    Plain(Arc<TcpStream>),
    Secured(Reader),
}

impl Half {
    /// Reads what has come. An idle plain connection waits without a buffer.
    async fn read(&mut self, arrived: &mut BytesMut, missing: usize) -> io::Result<usize> {
        let room = missing.min(arrived.len()).clamp(FIRST_ROOM, MOST_ROOM);
        match self {
            Half::Secured(half) => {
                arrived.reserve(room);
                half.read_buf(arrived).await
            }
            Half::Plain(stream) => loop {
                stream.readable().await?;
                arrived.reserve(room);
                match stream.try_read_buf(arrived) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
            },
        }
    }
}

/// The writing side of a socket; a plain one is shared with the calls.
enum Pen {
    Plain(Arc<TcpStream>),
    Secured(Writer),
}

impl Pen {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Pen::Secured(half) => {
                half.write_all(bytes).await?;
                half.flush().await
            }
            Pen::Plain(stream) => {
                let mut rest = bytes;
                while !rest.is_empty() {
                    stream.writable().await?;
                    match stream.try_write(rest) {
                        Ok(n) => rest = &rest[n..],
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes what waits, whenever something does.
    async fn write_queued(&mut self, link: &Link) -> io::Result<()> {
        loop {
            link.queued.notified().await;
            match self {
                Pen::Plain(stream) => {
                    while link.write_some(stream)? {
                        stream.writable().await?;
                    }
                }
                Pen::Secured(half) => {
                    while let Some(bytes) = link.take_queued() {
                        half.write_all(&bytes).await?;
                        half.flush().await?;
                    }
                }
            }
        }
    }
}

/// The connection's own side of it: reads answers, and writes what the calls could not.
pub(crate) struct Answers {
    half: Half,
    pen: Pen,
    inbound: Inbound,
    arrived: BytesMut,
}

impl Answers {
    fn over(socket: Socket) -> Self {
        let (half, pen) = match socket {
            Socket::Plain(stream) => (Half::Plain(stream.clone()), Pen::Plain(stream)),
            Socket::Secured(reader, writer) => (Half::Secured(reader), Pen::Secured(writer)),
        };
        Answers { half, pen, inbound: Inbound::default(), arrived: BytesMut::new() }
    }

    /// The next message; an error if there is none any more.
    async fn next(&mut self, now_ms: u64) -> Result<Message, Fault> {
        loop {
            if let Some(message) = self.inbound.next(&mut self.arrived, now_ms)? {
                return Ok(message);
            }
            if self.arrived.is_empty() {
                // An idle connection holds no buffer.
                self.arrived = BytesMut::new();
            }
            let missing = self.inbound.missing(&self.arrived);
            if self.half.read(&mut self.arrived, missing).await.unwrap_or(0) == 0 {
                return Err(Fault::NotIicp);
            }
        }
    }

    /// Serves the connection until one side is done with it.
    pub(crate) async fn serve(mut self, link: &Link, closing: impl Future<Output = ()>) {
        let _closes = CloseOnDrop(link);
        let Answers { half, pen, inbound, arrived } = &mut self;
        let reading = async {
            loop {
                let now_ms = crate::options::millis(link.since.elapsed());
                let taken = inbound.check_time(now_ms).map_err(Fault::Close);
                match taken.and_then(|()| inbound.next(arrived, now_ms)) {
                    Ok(Some(message)) => match link.take(&message) {
                        Ok(()) => continue,
                        Err(reason) => return Some(reason),
                    },
                    Ok(None) => {}
                    Err(Fault::Close(reason)) => return Some(reason),
                    Err(Fault::NotIicp) => return None,
                }
                if arrived.is_empty() {
                    // An idle connection holds no buffer.
                    *arrived = BytesMut::new();
                }
                let missing = inbound.missing(arrived);
                if half.read(arrived, missing).await.unwrap_or(0) == 0 {
                    return None;
                }
                link.heard();
            }
        };
        let reason = tokio::select! {
            reason = reading => reason,
            _ = pen.write_queued(link) => None,
            reason = link.watch() => reason,
            () = closing => Some(Reason::Graceful),
        };
        if let Some(reason) = reason {
            if reason != Reason::Graceful {
                tracing::warn!(target: telemetry::TRANSPORT, %reason, "a node sent native frames that it may not");
            }
            link.close();
            let mut last = Vec::new();
            if write_close(&mut last, reason, None).is_ok() {
                let _ = tokio::time::timeout(FAREWELL, self.pen.write(&last)).await;
            }
        }
    }
}

struct CloseOnDrop<'a>(&'a Link);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
