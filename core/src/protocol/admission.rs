//! The one way in for a task, whatever transport it came by. A transport says what it received, and writes what came of
//! it in its own form; what may run, and when, is decided behind [`Admission`].

use std::borrow::Cow;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use serde_json::Value;

use crate::wire::events::Event;
use crate::wire::failure;
use crate::wire::task::{TaskParts, result_of};

/// A task as it came, and what its transport knows beside it. What is not there costs nothing.
pub(crate) struct Received<'a> {
    /// The other end of the connection; for a relayed task the relay.
    pub(crate) peer: SocketAddr,
    /// The page that a browser sends it for.
    pub(crate) origin: Option<&'a [u8]>,
    /// What the directory signed for the caller.
    pub(crate) consumer_token: Option<&'a str>,
    pub(crate) traceparent: Option<&'a str>,
    pub(crate) tracestate: Option<&'a str>,
    /// Whether the caller takes the result in parts.
    pub(crate) takes_events: bool,
    pub(crate) body: Body<'a>,
}

impl<'a> Received<'a> {
    /// A task of which no more is known.
    pub(crate) fn new(peer: SocketAddr, body: Body<'a>) -> Self {
        Received {
            peer,
            origin: None,
            consumer_token: None,
            traceparent: None,
            tracestate: None,
            takes_events: false,
            body,
        }
    }
}

/// The task itself.
pub(crate) enum Body<'a> {
    /// JSON, as it is posted to `/v1/task`.
    Json(Bytes),
    /// Parts that came by themselves.
    Parts(TaskParts<'a>),
}

/// What came of a task.
pub(crate) enum Outcome {
    Done(Done),
    /// It runs, and its result comes in parts.
    Events(Events),
    Refused(Refusal),
}

/// The events of a task from `accepted` to its end, each made when it is asked for. Dropping them means that the caller
/// went away.
pub(crate) struct Events {
    pub(crate) task_id: String,
    pub(crate) events: Pin<Box<dyn Stream<Item = Event> + Send>>,
    /// When the task's time is over: whoever asks for the next event from then on is given its end.
    pub(crate) deadline: Instant,
}

/// A task that was answered, now or earlier.
pub(crate) struct Done {
    /// The whole reply, as JSON; sealed if the caller wanted that.
    pub(crate) reply: Bytes,
    pub(crate) is_sealed: bool,
}

impl Done {
    /// The handler's result alone, as JSON; none if it is sealed.
    pub(crate) fn result(&self) -> Option<Bytes> {
        if self.is_sealed { None } else { result_of(&self.reply) }
    }
}

/// A task that was not taken, or failed. Every word in it is meant for the caller.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// As HTTP has it.
    pub(crate) status: u16,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: Cow<'static, str>,
    pub(crate) retry_after: Option<Duration>,
    /// What stands beside code and message.
    pub(crate) details: Vec<(&'static str, Value)>,
}

impl Refusal {
    pub(crate) fn new(
        status: u16,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Refusal {
        Refusal { status, code: code.into(), message: message.into(), retry_after: None, details: Vec::new() }
    }

    /// Says when to come again.
    pub(crate) fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.with("retry_after_ms", pause_ms)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    /// What an event that ends a task carries: code and message alone.
    pub(crate) fn error(&self) -> Vec<u8> {
        serde_json::json!({ "code": self.code, "message": self.message }).to_string().into_bytes()
    }

    /// The body of an answer, in the form of the protocol.
    pub(crate) fn body(&self) -> Vec<u8> {
        failure::write(&self.code, &self.message, &self.details)
    }
}

/// What every transport hands its tasks to. Dropping the future means that the caller went away.
pub(crate) trait Admission: Send + Sync + 'static {
    fn admit<'a>(self: Arc<Self>, task: Received<'a>) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;
}
