//! A session of the framed transport, as its server leads it: greeting, calls, liveness, goodbye. Pure: messages come in,
//! bytes and steps go out, and whoever owns the socket takes them.
//!
//! A caller speaks one of three ways, and each call says which. Published clients leave out the version (key 1) and the
//! greeting if they like; their payload stands alone. The specification's callers greet first. Peers of our kind agree on
//! [`CALLS`]: a call is the task as HTTP has it, and can be cancelled; an answer that is long, or made while it is sent, comes
//! in [`PART`]s of which the caller says how many it has room for ([`CREDIT`]), so that no call holds up another.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;

use super::admission::{Body, Done, Outcome, Received, Refusal};
use crate::types::Secret;
use crate::wire::call::{Call, Content, Failed, Lifecycle, Response, Status};
use crate::wire::events::{Carried, Event, EventName, LIFECYCLE};
use crate::wire::failure::Failure;
use crate::wire::fragment::{self, parts};
use crate::wire::frame::{CustomKinds, HEADER_BYTES, Kind, MAX_PAYLOAD, Reason, begin, end};
use crate::wire::gzip::MAX_INFLATED;
use crate::wire::inbound::{Inbound, Message};
use crate::wire::message::{Ack, Close, Discover, GZIP, Init, check, read_cancel, read_echo, write_echo};
use crate::wire::relay::{CREDIT, MOST_PART, PART, read_credit};
use crate::wire::task::TaskParts;
use crate::wire::transcode::{to_cbor, to_json};
use crate::wire::{frame, gzip};

/// What peers of our kind agree on: the payload of a CALL is the whole task as it is posted to `/v1/task`, the result of
/// its RESPONSE the whole reply, and [`CANCEL`] ends a call.
pub(crate) const CALLS: &str = "urn:iicp:custom:core:call:v1";
/// The frame that ends a call: a map with the call's id under 1.
pub(crate) const CANCEL: Kind = Kind::Custom(0xf0);
/// The frames of our own, those of answers in parts as relays have them.
pub(crate) const AGREED: CustomKinds = CustomKinds(0b1101);
/// Answers that are longer than about this come in parts to those who know them.
const WHOLE: usize = 64 << 10;
/// Calls of one connection that may run at the same time.
pub(crate) const MAX_CALLS: usize = 256;
/// From this size on, answers are compressed for those who asked for it.
const WORTH_COMPRESSING: usize = 16 << 10;

/// How a call is read and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Published,
    Specified,
    Ours,
}

/// What the two sides know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    None,
    Published,
    Specified { ours: bool, lifecycle: bool, gzip: bool, max_payload: usize },
}

/// Names a call that was taken, and knows how it is answered.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) call_id: Box<str>,
    session_id: Option<Box<str>>,
    form: Form,
    /// The task whose events the caller follows, if it does.
    followed: Option<Box<str>>,
}

/// The task of a call.
pub(crate) struct Asked {
    form: Form,
    body: Bytes,
    task_id: String,
    intent: String,
    timeout_ms: Option<u64>,
    qos: Option<String>,
    token: Option<Secret>,
    idempotency_key: Option<String>,
    traceparent: Option<String>,
    takes_events: bool,
}

impl Asked {
    /// The task as the gate takes it. The specification's token is the caller's own; between peers of our kind that stands in
    /// the task, and the one beside it is what the directory signed.
    pub(crate) fn received(&self, peer: SocketAddr) -> Received<'_> {
        let token = self.token.as_ref().map(Secret::expose);
        let body = if self.form == Form::Ours {
            Body::Json(self.body.clone())
        } else {
            Body::Parts(TaskParts {
                task_id: &self.task_id,
                intent: &self.intent,
                payload: self.body.clone(),
                timeout_ms: self.timeout_ms,
                qos: self.qos.as_deref(),
                source_node_id: None,
                node_token: token,
                idempotency_key: self.idempotency_key.as_deref(),
            })
        };
        Received {
            consumer_token: token.filter(|_| self.form == Form::Ours),
            traceparent: self.traceparent.as_deref(),
            takes_events: self.takes_events,
            ..Received::new(peer, body)
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.body.len()
    }
}

/// How answers are cut for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// The longest answer that goes out in one piece.
    pub(crate) whole: usize,
    /// The longest part of another.
    pub(crate) part: usize,
}

/// What is to be done about a message. What it is answered with stands in the output already.
pub(crate) enum Step {
    Nothing,
    Run(Ticket, Box<Asked>),
    Cancel(Box<str>),
    /// A call's answer has room for so many bytes more.
    Credit(Box<str>, usize),
    /// The peer says goodbye; whether it waits for ours.
    Leave {
        answered: bool,
    },
}

/// One session.
pub(crate) struct Session<H> {
    pub(crate) inbound: Inbound,
    greeting: Greeting,
    /// Calls that run, each with what stops it.
    running: HashMap<Box<str>, H>,
}

impl<H> Session<H> {
    pub(crate) fn new() -> Self {
        Session { inbound: Inbound::default(), greeting: Greeting::None, running: HashMap::new() }
    }

    /// Whether the peer has shown who it is, by a greeting or by a call.
    pub(crate) fn is_known(&self) -> bool {
        self.greeting != Greeting::None
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Notes what stops a call that runs now.
    pub(crate) fn began(&mut self, call_id: Box<str>, stop: H) {
        self.running.insert(call_id, stop);
    }

    /// What belongs to a call that runs.
    pub(crate) fn running(&self, call_id: &str) -> Option<&H> {
        self.running.get(call_id)
    }

    /// Forgets a call, and gives what stops it.
    pub(crate) fn ended(&mut self, call_id: &str) -> Option<H> {
        self.running.remove(call_id)
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// Why the session is over.
    pub(crate) fn take(
        &mut self,
        message: Message,
        node_id: &str,
        now_unix_s: u64,
        out: &mut Vec<u8>,
    ) -> Result<Step, Reason> {
        let payload = &message.payload;
        match message.kind {
            Kind::Init => self.greet(&Init::read(payload)?, node_id, now_unix_s, out)?,
            Kind::Call => return self.call(payload, out),
            Kind::Ping => write_echo(out, Kind::Pong, read_echo(payload)?)?,
            Kind::Pong => read_echo(payload).map(|_| ())?,
            Kind::Discover => Discover::read(payload)?.write_answer(out)?,
            Kind::Close => {
                Close::read(payload)?;
                return Ok(Step::Leave { answered: matches!(self.greeting, Greeting::Specified { .. }) });
            }
            CANCEL => return Ok(Step::Cancel(read_cancel(payload)?.into())),
            CREDIT => {
                let (call_id, bytes) = read_credit(payload).ok_or(Reason::InvalidPayload)?;
                return Ok(Step::Credit(call_id.into(), bytes));
            }
            // These come from servers.
            Kind::Ack | Kind::Response | Kind::Advertise | PART => return Err(Reason::ProtocolError),
            other => check(other, payload)?,
        }
        Ok(Step::Nothing)
    }

    fn greet(&mut self, init: &Init<'_>, node_id: &str, now_unix_s: u64, out: &mut Vec<u8>) -> Result<(), Reason> {
        if self.greeting != Greeting::None {
            return Err(Reason::ProtocolError);
        }
        let ours = u64::from(frame::VERSION);
        if init.version == Some(0) {
            return Err(Reason::VersionTooOld);
        }
        let Some(least) = init.min_version else {
            self.greeting = Greeting::Published;
            return Ack { version: Some(ours), node_id: Some(node_id), ..Ack::default() }.write(out);
        };
        if least > ours {
            return Err(Reason::VersionMismatch);
        }
        let knows_calls = init.capabilities.contains(&CALLS);
        let lifecycle = init.capabilities.contains(&LIFECYCLE);
        let gzip = init.compression.contains(&GZIP);
        let max_payload = init.max_frame_size.map_or(MAX_PAYLOAD, |max| usize::try_from(max).unwrap_or(MAX_PAYLOAD));
        let max_payload = max_payload.min(MAX_PAYLOAD);
        self.greeting = Greeting::Specified { ours: knows_calls, lifecycle, gzip, max_payload };
        self.inbound.parts = true;
        if knows_calls {
            self.inbound.agreed = AGREED;
        }
        let ack = Ack {
            version: Some(ours),
            node_id: Some(node_id),
            capabilities: Some(
                [(knows_calls, CALLS), (lifecycle, LIFECYCLE)].iter().filter(|c| c.0).map(|c| c.1).collect(),
            ),
            compression: gzip.then_some(GZIP),
            max_frame_size: Some(MAX_PAYLOAD as u64),
            server_time: Some(now_unix_s),
        };
        ack.write(out)
    }

    fn call(&mut self, payload: &Bytes, out: &mut Vec<u8>) -> Result<Step, Reason> {
        let call = Call::read(payload)?;
        let form = match (call.version, self.greeting) {
            (None, _) => Form::Published,
            (Some(_), Greeting::Specified { ours: true, .. }) => Form::Ours,
            (Some(_), Greeting::Specified { .. }) => Form::Specified,
            // Who speaks the specification's way greets first.
            (Some(_), _) => return Err(Reason::ProtocolError),
        };
        if self.greeting == Greeting::None {
            self.greeting = Greeting::Published;
        }
        // Who names the task follows its events (specification: service-lifecycle profile); our kind says so.
        let followed = call.task_id.filter(|_| form != Form::Ours);
        let ticket = Ticket {
            call_id: call.call_id.unwrap_or_default().into(),
            session_id: call.session_id.map(Into::into),
            form,
            followed: followed.map(Into::into),
        };
        // Two answers under one id could not be told apart.
        if self.running.contains_key(&ticket.call_id) {
            return Err(Reason::ProtocolError);
        }
        let agreed = matches!(self.greeting, Greeting::Specified { lifecycle: true, .. });
        if let Some(missing) = missing_identity(&call).filter(|_| agreed && form != Form::Ours) {
            let why = "a call under the service-lifecycle profile names its task, itself and an idempotency key";
            self.answer(&ticket, Outcome::Refused(Refusal::new(422, missing, why)), out);
            return Ok(Step::Nothing);
        }
        let asked = Asked {
            form,
            body: body(payload, call.payload)?,
            task_id: task_id(&call, form),
            intent: call.intent.unwrap_or_default().into(),
            timeout_ms: call.timeout_s.map(|seconds| seconds.saturating_mul(1000)),
            qos: call.qos.map(Into::into),
            token: call.auth_token.filter(|_| form != Form::Published).map(Secret::from),
            idempotency_key: call.idempotency_key.filter(|_| form != Form::Ours).map(Into::into),
            traceparent: call.trace_id.map(|trace| traceparent(trace, call.parent_span)),
            takes_events: if form == Form::Ours { call.takes_events } else { followed.is_some() },
        };
        if self.running.len() >= MAX_CALLS {
            let why = Refusal::new(429, "capacity_exceeded", "too many calls run on this connection");
            self.answer(&ticket, Outcome::Refused(why), out);
            return Ok(Step::Nothing);
        }
        Ok(Step::Run(ticket, Box::new(asked)))
    }

    /// Writes the answer to a call.
    pub(crate) fn answer(&self, ticket: &Ticket, outcome: Outcome, out: &mut Vec<u8>) {
        let begun = out.len();
        let written = match outcome {
            Outcome::Done(done) if ticket.followed.is_some() => match done.result() {
                Some(result) => ticket.completed(result, out),
                None => Err(Reason::InvalidPayload),
            },
            Outcome::Done(done) => self.done(ticket, done, out),
            Outcome::Refused(refusal) => refused(ticket, &refusal, out),
            // They are followed, not answered.
            Outcome::Events(_) => Err(Reason::ProtocolError),
        };
        if written.is_ok() && self.pack(begun, out).is_ok() {
            return;
        }
        out.truncate(begun);
        let why = Refusal::new(
            500,
            "response_too_large",
            "the answer does not fit into a frame of 16 MiB; ask over HTTP, or follow it in parts",
        );
        // What is this short always fits.
        let _ = refused(ticket, &why, out);
    }

    fn done(&self, ticket: &Ticket, done: Done, out: &mut Vec<u8>) -> Result<(), Reason> {
        let (session_id, call_id) = ticket.names();
        let result = match ticket.form {
            Form::Ours => done.reply,
            Form::Specified | Form::Published => done.result().ok_or(Reason::InvalidPayload)?,
        };
        let named = Response { session_id, call_id, ..Response::default() };
        if ticket.form == Form::Published {
            let result = to_cbor(&result)?;
            return Response { result: Content::Bytes(&result), ..named }.write_published(out);
        }
        let answer = Response {
            version: Some(u64::from(frame::VERSION)),
            status: Some(Status::Success.as_str()),
            result: Content::Bytes(&result),
            is_final: Some(true),
            ..named
        };
        answer.write(out)
    }

    /// When an answer of this call comes in parts; none if its caller knows none.
    pub(crate) fn sizes(&self, ticket: &Ticket) -> Option<Sizes> {
        let Greeting::Specified { ours: true, gzip, max_payload, .. } = self.greeting else { return None };
        // What is compressed is small enough for a frame, or for some of them.
        let whole = if gzip { max_payload } else { max_payload.min(WHOLE) };
        let sizes = Sizes { whole: whole.saturating_sub(1024), part: (max_payload / 2).clamp(256, MOST_PART) };
        ticket.is_ours().then_some(sizes)
    }

    /// Brings what was written last into the form that goes over the wire: compressed or in parts, if that was agreed on.
    ///
    /// # Errors
    /// `FrameTooLarge` if it fits in no form that the peer takes.
    pub(crate) fn pack(&self, begun: usize, out: &mut Vec<u8>) -> Result<(), Reason> {
        let Greeting::Specified { gzip, max_payload, .. } = self.greeting else { return Ok(()) };
        let length = out.len() - begun - HEADER_BYTES;
        let smaller =
            (gzip && length >= WORTH_COMPRESSING).then(|| gzip::deflate(&out[begun + HEADER_BYTES..])).flatten();
        let flags = if smaller.is_some() { frame::COMPRESSED } else { 0 };
        let message = smaller.as_deref().unwrap_or(&out[begun + HEADER_BYTES..]);
        // A part has its own head: whose limit is as low as that gets no parts.
        let parted = message.len() > fragment::PART && max_payload >= 2 * fragment::PART;
        if !parted && message.len() > max_payload {
            return Err(Reason::FrameTooLarge);
        }
        if flags == 0 && !parted {
            return Ok(());
        }
        let message = smaller.unwrap_or_else(|| out[begun + HEADER_BYTES..].to_vec());
        out.truncate(begun);
        if !parted {
            let begun = begin(out, Kind::Response, flags);
            out.extend_from_slice(&message);
            return end(out, begun);
        }
        let id = uuid::Uuid::new_v4().to_string();
        (0..parts(&message)).try_for_each(|seq| fragment::write_part(out, Kind::Response, flags, &id, seq, &message))
    }
}

impl Ticket {
    fn names(&self) -> (Option<&str>, Option<&str>) {
        (self.session_id.as_deref(), (!self.call_id.is_empty()).then_some(&self.call_id))
    }

    /// Whether the caller is of our kind, and takes an answer as HTTP has it.
    pub(crate) fn is_ours(&self) -> bool {
        self.form == Form::Ours
    }

    /// Writes that an answer has come to its end: all of it stands in parts.
    pub(crate) fn end_of_parts(&self, out: &mut Vec<u8>) {
        let (session_id, call_id) = self.names();
        let end = Response {
            version: Some(u64::from(frame::VERSION)),
            session_id,
            call_id,
            status: Some(Status::Success.as_str()),
            is_final: Some(true),
            ..Response::default()
        };
        // What is this short always fits.
        let _ = end.write(out);
    }

    /// Writes an event for a caller who follows the task; false if the framed transport does not tell it.
    ///
    /// # Errors
    /// `FrameTooLarge`, or `InvalidPayload` for what has no form here.
    pub(crate) fn event(&self, sequence: u64, event: &Event, out: &mut Vec<u8>) -> Result<bool, Reason> {
        let status = match event.name {
            EventName::Accepted | EventName::Working => return Ok(false),
            EventName::Partial => Status::Partial,
            EventName::Completed => Status::Success,
            EventName::Failed | EventName::Cancelled => Status::Error,
            EventName::TimedOut => Status::Timeout,
        };
        let (session_id, call_id) = self.names();
        let is_final = Some(event.name.is_final());
        let (result, failure) = match &event.carried {
            Carried::Nothing => (None, None),
            Carried::Result(json) => (Some(to_cbor(json)?), None),
            Carried::Error(json) => (None, Some(Failure::read(json))),
            // Nobody can ask for a seal here.
            Carried::Part(_) | Carried::Salt(_) => return Err(Reason::InvalidPayload),
        };
        let answer = Response {
            version: Some(u64::from(frame::VERSION)),
            session_id,
            call_id,
            status: Some(status.as_str()),
            result: result.as_deref().map_or(Content::None, Content::Value),
            error: failure
                .as_ref()
                .map(|failure| Failed { code: failure.code.as_deref(), message: failure.message.as_deref() }),
            tokens_used: Some(event.tokens_used).filter(|tokens| *tokens > 0),
            is_final,
            lifecycle: Some(Lifecycle {
                task_id: self.followed.as_deref(),
                sequence: Some(sequence),
                event: Some(event.name.as_str()),
                is_final,
            }),
            ..Response::default()
        };
        answer.write(out).map(|()| true)
    }

    /// Writes the end of a followed task whose whole result is there.
    fn completed(&self, result: Bytes, out: &mut Vec<u8>) -> Result<(), Reason> {
        let carried = Carried::Result(result);
        let end = Event { sequence: 0, name: EventName::Completed, carried, tokens_used: 0 };
        self.event(0, &end, out).map(drop)
    }
}

fn refused(ticket: &Ticket, refusal: &Refusal, out: &mut Vec<u8>) -> Result<(), Reason> {
    let (session_id, call_id) = ticket.names();
    let named = Response { session_id, call_id, ..Response::default() };
    let status = u64::from(refusal.status);
    if ticket.followed.is_some() {
        let name = if refusal.status == 504 { EventName::TimedOut } else { EventName::Failed };
        let end = Event { sequence: 0, name, carried: Carried::Error(refusal.error()), tokens_used: 0 };
        return ticket.event(0, &end, out).map(drop);
    }
    if ticket.form == Form::Published {
        // Published clients know a full node by this beginning.
        let full = if refusal.status == 429 { "IICP-E021: " } else { "" };
        let message = format!("{full}{}", refusal.message);
        let answer = Response { status_code: Some(status), status_message: Some(&message), ..named };
        return answer.write_published(out);
    }
    let kind = if refusal.status == 504 { Status::Timeout } else { Status::Error };
    let ours = ticket.form == Form::Ours;
    let answer = Response {
        version: Some(u64::from(frame::VERSION)),
        status: Some(kind.as_str()),
        error: Some(Failed { code: Some(&refusal.code), message: Some(&refusal.message) }),
        is_final: Some(true),
        status_code: ours.then_some(status),
        retry_after_ms: refusal.retry_after.filter(|_| ours).map(crate::options::millis),
        ..named
    };
    answer.write(out)
}

/// The task's JSON. What a published client leaves out is an empty object to published nodes.
fn body(message: &Bytes, content: Content<'_>) -> Result<Bytes, Reason> {
    Ok(match content {
        Content::None => Bytes::from_static(b"{}"),
        Content::Bytes(bytes) => message.slice_ref(bytes),
        Content::Text(text) => message.slice_ref(text.as_bytes()),
        Content::Value(cbor) => to_json(cbor, MAX_INFLATED)?.into(),
    })
}

/// What a call under the service-lifecycle profile must have and does not, in the profile's words.
fn missing_identity(call: &Call<'_>) -> Option<&'static str> {
    let is_missing = |name: Option<&str>| name.is_none_or(str::is_empty);
    let parts = [
        (call.task_id, "missing_task_id"),
        (call.call_id, "missing_call_id"),
        (call.idempotency_key, "missing_idempotency_key"),
    ];
    parts.into_iter().find(|(name, _)| is_missing(*name)).map(|(_, code)| code)
}

/// What the task is known by. Published clients name calls, and mostly by the same word for each: that would be a task
/// that was answered before.
fn task_id(call: &Call<'_>, form: Form) -> String {
    let named = call.task_id.or(call.call_id.filter(|id| form != Form::Published || id.len() == 36));
    named.map_or_else(|| uuid::Uuid::new_v4().to_string(), Into::into)
}

fn traceparent(trace: &[u8; 16], span: Option<&[u8; 8]>) -> String {
    use crate::crypto::digest::hex;
    format!("00-{}-{}-01", hex(trace), hex(span.unwrap_or(&[0; 8])))
}
