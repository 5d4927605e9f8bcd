//! What a provider writes: a [`Handler`] takes an [`Inbound`] and returns a [`Reply`].

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::{Code, Error, Result};
use crate::types::{Chunk, Payload, Priority, Qos};
use crate::wire::task::{Returned, returned};

/// Serves tasks. Implemented by every async closure that takes an [`Inbound`] and returns `Result<impl Into<Reply>>`.
///
/// The future is dropped when the caller goes away, the deadline passes or the node stops; work that was moved to
/// another task watches [`Inbound::cancelled`]. A panic is contained and answered as a failure.
pub trait Handler: Send + Sync + 'static {
    /// Serves one task.
    ///
    /// An error is answered as `backend_error` without its message, because the message may hold what the caller must
    /// not see; [`Error::rejected`] is the exception, made to be shown.
    fn call(&self, task: Inbound) -> impl Future<Output = Result<Reply>> + Send;
}

impl<F, Fut, R> Handler for F
where
    F: Fn(Inbound) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R>> + Send,
    R: Into<Reply> + Send,
{
    async fn call(&self, task: Inbound) -> Result<Reply> {
        self(task).await.map(Into::into)
    }
}

/// [`Handler`] behind a pointer.
pub(crate) trait DynHandler: Send + Sync + 'static {
    fn call(&self, task: Inbound) -> Pin<Box<dyn Future<Output = Result<Reply>> + Send + '_>>;
}

impl<H: Handler> DynHandler for H {
    fn call(&self, task: Inbound) -> Pin<Box<dyn Future<Output = Result<Reply>> + Send + '_>> {
        Box::pin(Handler::call(self, task))
    }
}

/// A task as the handler sees it.
pub struct Inbound {
    /// Id of the task, as the caller chose it.
    pub task_id: String,
    /// The intent, one of those that the node serves.
    pub intent: Arc<str>,
    /// The caller's payload.
    pub payload: Payload,
    /// When the answer must be there.
    pub deadline: Instant,
    /// Quality of service that the caller asked for.
    pub qos: Qos,
    /// How the task stands among others of its class, as the caller asked.
    pub priority: Priority,
    /// The model that the caller asked for outside of the payload.
    pub model: Option<String>,
    /// Most tokens of the answer, as the caller asked outside of the payload.
    pub max_tokens: Option<u64>,
    /// Whether the caller takes the result in parts as they are made; for others the node puts them together.
    pub takes_events: bool,
    /// The caller's W3C trace context, if it sent one.
    pub traceparent: Option<String>,
    /// What the systems on the way wrote beside it (W3C `tracestate`), as it came.
    pub tracestate: Option<String>,
    /// What is known of the caller.
    pub caller: Caller,
    pub(crate) cancelled: CancellationToken,
}

/// What is known of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// Address of the connection.
    pub peer: SocketAddr,
    /// The node that the caller says it is. Nothing proves it.
    pub source_node_id: Option<String>,
    /// Whether the caller has shown a good consumer token, or the token of this node.
    pub verified: bool,
    /// The node that the caller is by the word of the directory, which signed its consumer token.
    pub verified_node_id: Option<String>,
}

impl Inbound {
    /// Reads the payload into a type of yours.
    ///
    /// # Errors
    /// `PAYLOAD_INVALID`, which is answered to the caller as such.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        self.payload.json()
    }

    /// What is left of the deadline.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Cancelled when the caller went away, the deadline passed or the node stops. Needed only by work that does not
    /// end with the handler's own future.
    #[must_use]
    pub fn cancelled(&self) -> CancellationToken {
        self.cancelled.clone()
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("task_id", &self.task_id)
            .field("intent", &self.intent)
            .field("payload", &self.payload)
            .field("qos", &self.qos)
            .field("model", &self.model)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

/// What a handler returns: the inner value of the result as JSON, or a stream of its parts.
pub struct Reply {
    pub(crate) content: Content,
    pub(crate) tokens_used: u64,
}

/// Parts of a result in the making.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>;

pub(crate) enum Content {
    Whole(Payload),
    Chunks(Chunks),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content: &dyn fmt::Debug = match &self.content {
            Content::Whole(result) => result,
            Content::Chunks(_) => &"<stream>",
        };
        f.debug_struct("Reply").field("content", content).field("tokens_used", &self.tokens_used).finish()
    }
}

impl Reply {
    /// A value.
    ///
    /// # Errors
    /// `HANDLER` if the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        Payload::serialize(value).map(Reply::from).map_err(|e| Error::new(Code::Handler, e.message()))
    }

    /// JSON text that is passed on as it is.
    ///
    /// # Errors
    /// `HANDLER` if it is not JSON.
    pub fn json_bytes(json: impl Into<bytes::Bytes>) -> Result<Self> {
        Payload::from_json(json)
            .map(Reply::from)
            .map_err(|e| Error::new(Code::Handler, format!("the handler's reply cannot be sent: {}", e.message())))
    }

    /// The result in parts, each sent as soon as it is there. The stream is asked for the next part when the caller has
    /// taken those before, and dropped when he leaves. For a caller who takes no parts they are put together: chats and
    /// completions to what they would have been without a stream, texts to one text, anything else to a list.
    ///
    /// An error ends the task as failed; the parts before it are incomplete.
    #[must_use]
    pub fn stream<S, C>(chunks: S) -> Self
    where
        S: Stream<Item = Result<C>> + Send + 'static,
        C: Into<Chunk>,
    {
        let chunks = chunks.map(|chunk| chunk.map(Into::into));
        Reply { content: Content::Chunks(Box::pin(chunks)), tokens_used: 0 }
    }

    /// The answer to a chat, in the form that chat clients read.
    #[must_use]
    pub fn chat(text: impl Into<String>) -> Self {
        let message = serde_json::json!({ "role": "assistant", "content": text.into() });
        serde_json::json!({ "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }] }).into()
    }

    /// The reply as it is meant: without an envelope that the handler has put around its value, which makes the reply's own.
    /// Whether there was one stands beside it. What comes in parts is taken as it is.
    ///
    /// # Errors
    /// For what the published adapters return when their backend failed.
    pub(crate) fn unwrapped(self) -> Result<(Self, bool)> {
        let Content::Whole(result) = &self.content else { return Ok((self, false)) };
        match returned(result.bytes()) {
            Returned::Plain => Ok((self, false)),
            Returned::Wrapped(inner) => Ok((Reply { content: Content::Whole(Payload::trusted(inner)), ..self }, true)),
            Returned::BackendError(status) => Err(backend_error(status)),
        }
    }

    /// The reply as the last part of others: maybe a part, maybe only the number of tokens.
    pub(crate) fn into_part(self) -> Chunk {
        let tokens = Some(self.tokens_used).filter(|tokens| *tokens > 0);
        match self.content {
            Content::Whole(part) => Chunk::new(part, tokens),
            Content::Chunks(_) => Chunk::nothing(tokens),
        }
    }

    /// Notes how many tokens the task took, for the metrics.
    #[must_use]
    pub fn tokens_used(mut self, tokens: u64) -> Self {
        self.tokens_used = tokens;
        self
    }
}

/// What a status of a backend means for the caller, who learns no more than that.
fn backend_error(status: i64) -> Error {
    match status {
        408 | 504 => Error::new(Code::TaskTimeout, "the backend did not answer in time"),
        429 | 503 => Error::new(Code::Capacity, "the backend is busy"),
        400..=498 => Error::rejected("the backend does not take the task"),
        _ => Error::new(Code::Backend, "the backend failed"),
    }
}

impl From<Payload> for Reply {
    fn from(result: Payload) -> Self {
        Reply { content: Content::Whole(result), tokens_used: 0 }
    }
}

impl From<serde_json::Value> for Reply {
    fn from(value: serde_json::Value) -> Self {
        Payload::from(value).into()
    }
}
