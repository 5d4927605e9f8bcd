//! A task whose result comes in parts: opening the stream, following its events, and what a broken one means.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::{self, StreamExt as _};
use http::header::CONTENT_TYPE;
use tokio::time::Instant;

use super::attempt::{Begun, Failed};
use crate::crypto::cx::{ReplyKey, StreamKey};
use crate::error::{Code, Error, Result};
use crate::protocol::assemble::Assembly;
use crate::protocol::lifecycle::{Lifecycle, Taken};
use crate::protocol::retry::Outcome;
use crate::transport::http_client::{Incoming, NoReply};
use crate::transport::native_parts::Parts;
use crate::transport::native_published::Followed;
use crate::types::{Chunk, Payload, TaskResult};
use crate::wire::events::{EVENT_STREAM, EventName, EventReader, TaskEvent};
use crate::wire::failure::Failure;

/// The parts of a result as they come. Dropping it cancels the task at the provider, whose handler and backend stop.
///
/// A provider that does not stream gives one part, the whole result.
pub struct TaskStream {
    /// Everything about the task but its result.
    about: TaskResult,
    chunks: Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>,
    most_bytes: usize,
    deadline: Instant,
    tokens_used: Option<u64>,
}

impl TaskStream {
    /// Without a beginning of parts, the result is the one part.
    pub(super) fn new(mut about: TaskResult, begun: Option<Box<Begun>>, most_bytes: usize, deadline: Instant) -> Self {
        let whole = std::mem::replace(&mut about.result, serde_json::Value::Null.into());
        let (first, rest) = match begun {
            Some(begun) => (begun.first, Some(begun.rest)),
            None => (Some(Chunk::new(whole, None)), None),
        };
        let rest = stream::unfold(rest, |rest| async {
            let mut events = rest?;
            match events.next().await {
                Ok(chunk) => chunk.map(|chunk| (Ok(chunk), Some(events))),
                // What is left of a broken stream is nobody's; the connection goes with it.
                Err(failed) => Some((Err(failed.error), None)),
            }
        });
        let chunks = Box::pin(stream::iter(first.map(Ok)).chain(rest));
        TaskStream { about, chunks, most_bytes, deadline, tokens_used: None }
    }

    /// The next part; none after the last. After an error, which says that the result stays incomplete, nothing more comes.
    pub async fn next(&mut self) -> Option<Result<Chunk>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// Tokens that the task has used as of the last part that was taken, if the provider counts them. The end of the
    /// stream tells the last word.
    #[must_use]
    pub fn tokens_used(&self) -> Option<u64> {
        self.tokens_used
    }

    /// When the task's time is over.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Id of the task.
    #[must_use]
    pub fn task_id(&self) -> &str {
        &self.about.task_id
    }

    /// Id of the node that runs it.
    #[must_use]
    pub fn node_id(&self) -> &str {
        &self.about.node_id
    }

    /// What is known of the task beside its result, as of the first part: `total` is the time until then.
    #[must_use]
    pub fn about(&self) -> &TaskResult {
        &self.about
    }

    /// Reads what is left and puts it together to the result that the task would have had without a stream.
    ///
    /// # Errors
    /// Those of the parts; `RESPONSE_TOO_LARGE` over `max_response_bytes`.
    pub async fn whole(mut self) -> Result<TaskResult> {
        let mut whole = Assembly::new(self.most_bytes);
        while let Some(chunk) = self.next().await {
            whole.push(chunk?.result.bytes()).map_err(|_| {
                Error::of_options(Code::ResponseTooLarge, "the parts of the answer are over `max_response_bytes`")
            })?;
        }
        Ok(TaskResult { result: whole.finish(), ..self.about })
    }
}

impl Stream for TaskStream {
    type Item = Result<Chunk>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        loop {
            let next = std::task::ready!(self.chunks.as_mut().poll_next(cx));
            let Some(Ok(chunk)) = &next else { return std::task::Poll::Ready(next) };
            self.tokens_used = chunk.tokens_used.or(self.tokens_used);
            // The end of a stream has something to say of it, and mostly no part.
            if !chunk.result.bytes().is_empty() {
                return std::task::Poll::Ready(next);
            }
        }
    }
}

impl fmt::Debug for TaskStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskStream")
            .field("task_id", &self.about.task_id)
            .field("node_id", &self.about.node_id)
            .finish_non_exhaustive()
    }
}

/// Whether an answer comes as events. A peer that does not know the profile answers with JSON, whatever it was asked.
pub(super) fn is_stream(incoming: &Incoming) -> bool {
    let media = incoming.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    incoming.status() == 200
        && media.is_some_and(|media| media.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(EVENT_STREAM))
}

/// How the events come.
pub(super) enum Source {
    Http(Incoming),
    Native(Parts),
    Published(Followed),
}

impl Source {
    /// Time for the connection, and from there to the head of the answer.
    pub(super) fn took(&self) -> (Duration, Duration) {
        match self {
            Source::Http(incoming) => (incoming.connect(), incoming.first_byte()),
            Source::Native(parts) => (Duration::ZERO, parts.first_byte()),
            Source::Published(followed) => (Duration::ZERO, followed.first_byte()),
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, NoReply> {
        match self {
            Source::Http(incoming) => incoming.chunk().await,
            Source::Native(parts) => parts.chunk().await,
            Source::Published(followed) => followed.chunk().await,
        }
    }
}

/// The events of one task at one node.
pub(super) struct Events {
    source: Source,
    reader: EventReader,
    lifecycle: Lifecycle,
    node_id: String,
    task_id: String,
    seal: Seal,
    bytes: usize,
    most_bytes: usize,
}

/// Whether the parts are sealed.
enum Seal {
    Plain,
    /// They must be, and the first event has not yet said with what.
    Due(ReplyKey),
    Sealed(Box<StreamKey>),
}

impl Events {
    pub(super) fn new(source: Source, node_id: &str, task_id: &str, key: Option<ReplyKey>, most_bytes: usize) -> Self {
        Events {
            source,
            reader: EventReader::new(most_bytes),
            lifecycle: Lifecycle::default(),
            node_id: node_id.to_owned(),
            task_id: task_id.to_owned(),
            seal: key.map_or(Seal::Plain, Seal::Due),
            bytes: 0,
            most_bytes,
        }
    }

    /// The next part; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>, Failed> {
        loop {
            if self.lifecycle.has_ended() {
                return Ok(None);
            }
            let data = self.reader.next().map_err(|_| self.unanswered(NoReply::TooLarge))?;
            if let Some(data) = data {
                if let Some(chunk) = self.take(&data)? {
                    return Ok(Some(chunk));
                }
                continue;
            }
            let Some(bytes) = self.source.chunk().await.map_err(|no_reply| self.unanswered(no_reply))? else {
                return Err(self.unanswered(NoReply::Lost));
            };
            self.bytes += bytes.len();
            if self.bytes > self.most_bytes {
                return Err(self.unanswered(NoReply::TooLarge));
            }
            self.reader.push(&bytes);
        }
    }

    fn take(&mut self, data: &Bytes) -> Result<Option<Chunk>, Failed> {
        if data.is_empty() {
            return Ok(None);
        }
        let event = TaskEvent::read(data).map_err(|why| self.malformed(&why))?;
        let same_task = event.task_id.is_empty() || event.task_id == self.task_id;
        // A word that is not known yet says that the task goes on, or that it ended in a way that is no success.
        let name = event.name().unwrap_or(if event.is_final { EventName::Failed } else { EventName::Working });
        match self.lifecycle.take(same_task, event.sequence, name, event.is_final) {
            Ok(Taken::Next) => {}
            Ok(Taken::Again) => return Ok(None),
            Err(fault) => return Err(self.malformed(fault.code())),
        }
        if let (Seal::Due(key), Some(salt)) = (&self.seal, &event.iicp_conf_stream) {
            let key = key.stream(salt.version, &salt.nonce, &self.task_id).map_err(unsealed)?;
            self.seal = Seal::Sealed(Box::new(key));
        }
        match name {
            EventName::Accepted | EventName::Working => Ok(None),
            EventName::Partial | EventName::Completed => self.content(&event, name, data),
            EventName::Failed | EventName::Cancelled | EventName::TimedOut => Err(self.failed(&event, name)),
        }
    }

    /// What a part carries. The end of a sealed stream is sealed as well, or it might have been cut off.
    fn content(&self, event: &TaskEvent<'_>, name: EventName, data: &Bytes) -> Result<Option<Chunk>, Failed> {
        let chunk = |result| Some(Chunk::new(result, event.tokens_used));
        let nothing = || (name == EventName::Completed).then(|| Chunk::nothing(event.tokens_used));
        match (&self.seal, &event.iicp_conf_part, event.result) {
            (Seal::Plain, None, Some(result)) => Ok(chunk(Payload::trusted(data.slice_ref(result.get().as_bytes())))),
            (Seal::Plain, None, None) => Ok(nothing()),
            (Seal::Plain, Some(_), _) => Err(unsealed(Error::new(
                Code::ConfidentialityRequired,
                "the node sealed its answer though the task was not sealed",
            ))),
            (Seal::Sealed(key), Some(part), None) => {
                let opened = key.open(event.sequence, name.as_str(), part).map_err(unsealed)?;
                if opened.is_empty() {
                    return Ok(nothing());
                }
                Ok(chunk(Payload::from_json(opened).map_err(|error| self.malformed(error.message()))?))
            }
            (Seal::Due(_) | Seal::Sealed(_), ..) => Err(unsealed(
                Error::new(
                    Code::ReplyUnsealed,
                    "the node answered in plain text though its key promises sealed replies; choose another node",
                )
                .with_wire_code("IICP-CX-RESP-REQUIRED"),
            )),
        }
    }

    fn failed(&self, event: &TaskEvent<'_>, name: EventName) -> Failed {
        let failure = event.error.map_or_else(Failure::default, |error| Failure::read(error.get().as_bytes()));
        let (code, outcome) = match (name, failure.code.as_deref()) {
            (EventName::TimedOut, _) | (_, Some("task_timeout")) => (Code::TaskTimeout, Outcome::MayHaveRun),
            (_, Some("rejected" | "validation_error")) => (Code::TaskRejected, Outcome::Final),
            (_, Some("temporarily_unavailable" | "capacity_exceeded")) => {
                (Code::Capacity, Outcome::Busy { retry_after: failure.retry_after })
            }
            _ => (Code::Backend, Outcome::MayHaveRun),
        };
        let detail = failure.message.map_or_else(String::new, |message| format!(": {message}"));
        let mut error = Error::new(code, format!("node {} ended the task as {}{detail}", self.node_id, name.as_str()));
        if let Some(wire_code) = failure.code {
            error = error.with_wire_code(wire_code);
        }
        Failed::with(error, outcome)
    }

    fn malformed(&self, why: &str) -> Failed {
        let message = format!("node {} sent events that are not those of this task: {why}", self.node_id);
        Failed::with(Error::new(Code::Malformed, message), Outcome::MayHaveRun)
    }

    fn unanswered(&self, no_reply: NoReply) -> Failed {
        super::attempt::unanswered(&self.node_id, no_reply)
    }
}

/// What does not open will not open the second time either.
fn unsealed(error: Error) -> Failed {
    Failed::with(error, Outcome::Final)
}
