//! A task whose result comes in parts, each an event.

use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout_at;

use super::Bridge;
use super::inference::ranker;
use super::ops::{Op, Outcome};
use super::serve::to_json;
use super::verbs::Finished;
use crate::client::{Streamed, Task, TaskStream};
use crate::error::{Code, Error, Result};
use crate::options::{Chat, from_json};
use crate::types::{Payload, Usage};

#[derive(Serialize)]
struct Part<'a> {
    sequence: u64,
    text: &'a str,
    tokens_used: Option<u64>,
    task_id: &'a str,
    node_id: &'a str,
}

#[derive(Serialize)]
struct Ended<'a> {
    finish_reason: Option<String>,
    usage: Option<Usage>,
    model: Option<String>,
    tokens_used: Option<u64>,
    #[serde(flatten)]
    task: Finished<'a>,
}

impl Bridge {
    /// Submits a task whose result comes in parts. With a `body`, `ask_json` and `body` are those of [`Bridge::submit`];
    /// without one, `ask_json` is that of [`Bridge::chat`].
    ///
    /// Every part is a `CHUNK`: its `body` is the part, its `json` `{"sequence", "text", "tokens_used", "task_id",
    /// "node_id"}`, with the count from 0, what a chat says next, and the tokens so far if the provider counts. `DONE.json`
    /// is that of [`Bridge::submit`] with `finish_reason`, `usage`, `model` and `tokens_used` besides (null if unknown), and
    /// `total` is the time until the first part. A provider that does not stream gives its whole result as one part.
    ///
    /// A `CHUNK` counts against its stream until it is dropped, and with a megabyte of them the provider has to wait.
    /// [`Bridge::cancel`] stops the provider's handler. What fails in the middle fails the operation.
    ///
    /// # Errors
    /// As [`Bridge::submit`] and [`Bridge::chat`].
    pub fn stream(&self, client: u64, queue: u64, ask_json: &str, body: Bytes, tag: u64) -> Result<u64> {
        let tables = self.open()?;
        let caller = tables.clients.get(client)?;
        let ask = if body.is_empty() {
            Streamed::Chat(from_json::<Chat>(ask_json)?)
        } else {
            Streamed::Task(Task { options: from_json(ask_json)?, payload: Payload::from_json(body)? })
        };
        let seat = tables.queues.get(queue)?.promise()?;
        self.launch(seat, tag, client, |op| {
            let ranker = ranker(&caller, op);
            let op = op.clone();
            async move { follow(&op, caller.stream_ranked(ask, ranker).await?).await }
        })
    }
}

async fn follow(op: &Op, mut stream: TaskStream) -> Result<Outcome> {
    let (mut finish_reason, mut usage, mut model) = (None, None, None);
    let mut sequence = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        let said = chunk.said();
        finish_reason = said.finish_reason.or(finish_reason);
        usage = said.usage.or(usage);
        model = said.model.or(model);
        let (text, tokens_used) = (said.text.as_str(), chunk.tokens_used);
        let part = Part { sequence, text, tokens_used, task_id: stream.task_id(), node_id: stream.node_id() };
        let pushed = op.chunk(to_json(&part)?, chunk.result.into_bytes());
        timeout_at(stream.deadline(), pushed).await.unwrap_or_else(|_| Err(not_taken()))?;
        sequence += 1;
    }
    let task = Finished::from(stream.about());
    let ended = Ended { finish_reason, usage, model, tokens_used: stream.tokens_used(), task };
    Ok(Outcome { json: to_json(&ended)?, ..Outcome::default() })
}

/// A host that takes nothing keeps no provider beyond the task's time.
fn not_taken() -> Error {
    Error::new(Code::Timeout, "the parts were not taken before the task's time was over; give the task more time")
}
