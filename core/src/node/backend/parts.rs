//! An answer that comes in parts: the server's events become those of the task, one for one, as the caller takes them.
//! Dropping it drops the connection, and so stops the server's work.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::anthropic::{Followed, Following};
use super::circuit::Pass;
use super::openai::{Usage, Wanted};
use super::upstream::{Failure, lost};
use crate::error::Result;
use crate::node::handler::Reply;
use crate::telemetry;
use crate::transport::http_client::{Incoming, NoReply};
use crate::types::{Chunk, Payload, check_depth};
use crate::wire::events::{EVENT_STREAM, EventReader};
use crate::wire::object;

/// Most bytes of one event; a delta is some hundred.
const MOST_OF_AN_EVENT: usize = 4 << 20;

/// How long a server may take for a part.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Between two parts. Until the first there is the task's time alone: it may have a long text to read.
    pub(super) idle: Duration,
    pub(super) most_bytes: usize,
    pub(super) task_deadline: Instant,
}

/// Whether an answer is a stream of events.
pub(super) fn are_in(answer: &Incoming) -> bool {
    let media = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(EVENT_STREAM)
}

/// The answer as a handler's reply.
pub(super) fn reply(answer: Incoming, wanted: &Wanted, patience: Patience, pass: Pass, task_id: String) -> Reply {
    let dialect = match wanted {
        Wanted::Message => Dialect::Messages(Following::default()),
        _ => Dialect::Deltas,
    };
    let reader = EventReader::new(MOST_OF_AN_EVENT);
    let parts = Parts { answer, reader, dialect, patience, bytes: 0, last_part: None };
    let parts = stream::unfold(Some((parts, pass, task_id)), |following| async {
        let (mut parts, pass, task_id) = following?;
        match parts.next().await {
            Ok(Some(part)) => Some((Ok(part), Some((parts, pass, task_id)))),
            Ok(None) => {
                pass.ended(None);
                None
            }
            Err(failure) => {
                tracing::warn!(target: telemetry::NODE, %task_id, ?failure, "the backend broke off");
                pass.ended(Some(failure));
                Some((Err(failure.error()), None))
            }
        }
    });
    Reply::stream::<_, Chunk>(parts)
}

/// How the events are to be read.
enum Dialect {
    /// OpenAI's, which are passed on as they are.
    Deltas,
    /// Anthropic's, which become such.
    Messages(Following),
}

struct Parts {
    answer: Incoming,
    reader: EventReader,
    dialect: Dialect,
    patience: Patience,
    bytes: usize,
    last_part: Option<Instant>,
}

impl Parts {
    /// The next part; none after the last. Signs of life that say nothing do not count as one.
    async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        // From when it is asked for: the time of a slow caller is not the server's.
        let until = self.last_part.map(|_| Instant::now() + self.patience.idle);
        let part = match until {
            Some(until) => tokio::time::timeout_at(until, self.read())
                .await
                .unwrap_or(Err(Failure::Late { tasks_own: self.patience.task_deadline <= until })),
            None => self.read().await,
        }?;
        self.last_part = Some(Instant::now());
        Ok(part)
    }

    async fn read(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            let event = self.reader.next().map_err(|_| Failure::TooLarge)?;
            if let Some(data) = event {
                match self.take(&data)? {
                    Followed::Nothing => continue,
                    Followed::Delta(part) => return Ok(Some(part)),
                    Followed::End => return Ok(None),
                }
            }
            let tasks_own = self.answer.deadline() >= self.patience.task_deadline;
            let bytes = self.answer.chunk().await.map_err(|why| lost(why, tasks_own))?;
            // An answer without its last word is not whole, however well it looks.
            let bytes = bytes.ok_or(Failure::Transport(NoReply::Lost))?;
            self.bytes = self.bytes.saturating_add(bytes.len());
            if self.bytes > self.patience.most_bytes {
                return Err(Failure::TooLarge);
            }
            self.reader.push(&bytes);
        }
    }

    fn take(&mut self, data: &Bytes) -> Result<Followed, Failure> {
        let data = data.slice_ref(data.trim_ascii());
        if data.is_empty() {
            return Ok(Followed::Nothing);
        }
        match &mut self.dialect {
            Dialect::Messages(following) => following.take(&data),
            Dialect::Deltas => delta(data),
        }
    }
}

/// What is looked at of a delta; the rest is only walked over.
#[derive(Deserialize)]
struct Looked<'a> {
    #[serde(default)]
    choices: Option<IgnoredAny>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

/// One event of OpenAI's interface.
fn delta(data: Bytes) -> Result<Followed, Failure> {
    if &data[..] == b"[DONE]" {
        return Ok(Followed::End);
    }
    check_depth(&data).map_err(|_| Failure::Garbage("nested too deeply"))?;
    let looked: Looked<'_> = object(&data).map_err(|_| Failure::Garbage("no JSON in an event"))?;
    if looked.choices.is_none() {
        return Err(Failure::Garbage("an event without choices"));
    }
    let usage = looked.usage.and_then(|usage| object::<Usage>(usage.get().as_bytes()).ok());
    let tokens = usage.map(|usage| usage.tokens()).filter(|tokens| *tokens > 0);
    Ok(Followed::Delta(Chunk::new(Payload::trusted(data), tokens)))
}
