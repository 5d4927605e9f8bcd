//! The verbs. Each checks its arguments, reserves the place of its `DONE`, starts and returns.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::beginning::Beginning;
use super::ids::Table;
use super::inference::ranker;
use super::ops::Outcome;
use super::queue::Queue;
use super::serve::{ForeignHandler, to_json};
use super::{Bridge, LONGEST};
use crate::client::{Client, Task};
use crate::directory::Directory;
use crate::error::{Code, Error, Result};
use crate::node::LiveNode;
use crate::options::{Chat, ClientOptions, DirectoryOptions, Discover, NodeOptions, TaskOptions, from_json};
use crate::types::{NatReport, Payload, RoutingReceipt, TaskResult, Usage};

/// A node that serves with the host's code, or with a backend.
pub(super) struct Serving {
    live: LiveNode,
    queue: Arc<Queue>,
}

impl Serving {
    pub(super) fn delivers_to(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.queue, queue)
    }

    pub(super) async fn shutdown(self, grace: Duration) -> bool {
        self.live.shutdown(grace).await
    }
}

#[derive(Serialize)]
pub(super) struct Finished<'a> {
    task_id: &'a str,
    node_id: &'a str,
    attempts: u32,
    traceparent: &'a str,
    timings_ms: TimingsMs,
    receipt: &'a RoutingReceipt,
    sealed: bool,
}

#[derive(Serialize)]
struct TimingsMs {
    discover: f64,
    select: f64,
    connect: f64,
    first_byte: f64,
    overhead: f64,
    total: f64,
}

#[derive(Serialize)]
struct Chatted<'a> {
    text: &'a str,
    tool_calls: &'a [serde_json::Map<String, serde_json::Value>],
    finish_reason: Option<&'a str>,
    usage: Option<Usage>,
    model: Option<&'a str>,
    #[serde(flatten)]
    task: Finished<'a>,
}

#[derive(Serialize)]
struct NatReported {
    text: String,
    #[serde(flatten)]
    report: NatReport,
}

#[derive(Serialize)]
struct DirectoryStatus {
    url: String,
}

#[derive(Serialize)]
struct Ended {
    in_time: bool,
}

impl<'a> From<&'a TaskResult> for Finished<'a> {
    fn from(task: &'a TaskResult) -> Self {
        Finished {
            task_id: &task.task_id,
            node_id: &task.node_id,
            attempts: task.attempts,
            traceparent: &task.traceparent,
            timings_ms: TimingsMs {
                discover: ms(task.timings.discover),
                select: ms(task.timings.select),
                connect: ms(task.timings.connect),
                first_byte: ms(task.timings.first_byte),
                overhead: ms(task.timings.overhead),
                total: ms(task.timings.total),
            },
            receipt: &task.receipt,
            sealed: task.sealed,
        }
    }
}

/// Gives what a verb made an id, unless the queue that would tell the id was closed meanwhile.
fn keep<T>(table: &Table<T>, queue: &Queue, made: T) -> Result<u64> {
    let id = table.insert(|_| made)?;
    if queue.is_closed() {
        drop(table.remove(id));
        return Err(Error::new(Code::Closed, "the queue was closed before the operation finished"));
    }
    Ok(id)
}

/// Milliseconds to the microsecond.
fn ms(time: Duration) -> f64 {
    // No wait of ours lasts the 285 years that would lose a digit.
    #[allow(clippy::cast_precision_loss)]
    let micros = time.as_micros() as f64;
    micros / 1000.0
}

impl Bridge {
    /// Makes a client. Nothing is sent before its first verb.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `TIMEOUT_TOO_LARGE`, `ENDPOINT_REFUSED`; `CLOSED`, `FORKED`.
    pub fn client_new(&self, options_json: &str) -> Result<u64> {
        let tables = self.open()?;
        let options: ClientOptions = from_json(options_json)?;
        let client = self.0.runtime.enter(|| Client::new(options))??;
        tables.clients.insert(|_| client)
    }

    /// Closes a client. What it is doing ends with `CLOSED`.
    ///
    /// # Errors
    /// `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn client_close(&self, client: u64) -> Result<()> {
        let tables = self.open()?;
        let closed = tables.clients.remove(client)?;
        for op in tables.operations.select(|op| op.belongs_to(client)) {
            op.stop(Code::Closed);
        }
        drop(closed);
        Ok(())
    }

    /// Asks the directory for nodes. `DONE.json` is a list of nodes, best first.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `INTENT_INVALID`; `QUEUE_FULL`, `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn discover(&self, client: u64, queue: u64, query_json: &str, tag: u64) -> Result<u64> {
        let tables = self.open()?;
        let caller = tables.clients.get(client)?;
        let query: Discover = from_json(query_json)?;
        let seat = tables.queues.get(queue)?.promise()?;
        self.launch(seat, tag, client, |_| async move {
            let nodes = caller.discover(query).await?;
            Ok(Outcome { json: to_json(&nodes)?, ..Outcome::default() })
        })
    }

    /// Submits a task; `body` is its payload, a JSON text. `DONE.body` is the result, `DONE.json` is `{"task_id",
    /// "node_id", "attempts", "traceparent", "timings_ms": {"discover", "select", "connect", "first_byte", "overhead",
    /// "total"}, "receipt": {"receipt_version", "selection_profile", "eligible_candidate_count",
    /// "selected_node_id_prefix", "dispatch_ticket_id_prefix", "profile_negotiation", "redaction"}, "sealed"}`.
    ///
    /// If the client was made with `external_ranker`, a `RANK` event with the operation's `id` and `tag` comes before:
    /// its `json` is `{"request_ref", "intent", "candidates": [{"candidate_ref", "models", "directory_score", "load",
    /// "health_label", "directory_observed_reachable", "schema_version"}]}`; answer it with [`Bridge::rank_finish`].
    ///
    /// # Errors
    /// 2xxx for the options and the payload; `QUEUE_FULL`, `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn submit(&self, client: u64, queue: u64, task_json: &str, body: Bytes, tag: u64) -> Result<u64> {
        let tables = self.open()?;
        let caller = tables.clients.get(client)?;
        let options: TaskOptions = from_json(task_json)?;
        let task = Task { options, payload: Payload::from_json(body)? };
        let seat = tables.queues.get(queue)?.promise()?;
        self.launch(seat, tag, client, |op| {
            let ranker = ranker(&caller, op);
            async move {
                let done = caller.submit_ranked(task, ranker).await?;
                let json = to_json(&Finished::from(&done))?;
                Ok(Outcome { json, body: done.result.into_bytes(), ..Outcome::default() })
            }
        })
    }

    /// Chats. `DONE.json` is that of [`Bridge::submit`] with `text`, `tool_calls`, `finish_reason`, `usage` and `model`
    /// (null if unknown) besides, `DONE.body` the provider's whole reply.
    ///
    /// # Errors
    /// 2xxx for the options; `QUEUE_FULL`, `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn chat(&self, client: u64, queue: u64, chat_json: &str, tag: u64) -> Result<u64> {
        let tables = self.open()?;
        let caller = tables.clients.get(client)?;
        let chat: Chat = from_json(chat_json)?;
        let seat = tables.queues.get(queue)?.promise()?;
        self.launch(seat, tag, client, |op| {
            let ranker = ranker(&caller, op);
            async move {
                let reply = caller.chat_ranked(chat, ranker).await?;
                let chatted = Chatted {
                    text: reply.text(),
                    tool_calls: &reply.tool_calls,
                    finish_reason: reply.finish_reason.as_deref(),
                    usage: reply.usage,
                    model: reply.model.as_deref(),
                    task: Finished::from(&reply.task),
                };
                let json = to_json(&chatted)?;
                Ok(Outcome { json, body: reply.task.result.into_bytes(), ..Outcome::default() })
            }
        })
    }

    /// Serves with the host's code, or with the `backend` of the options: its tasks never come to the host, whose queue then
    /// has the `DONE` and nothing else. `DONE.handle` is the node, `DONE.json` as [`Bridge::node_status`].
    ///
    /// Inbound tasks come as `TASK` events with the same `tag` on the same queue, maybe before the `DONE`: `id` is the
    /// task, `body` the payload, `json` is `{"task_id", "intent", "qos", "deadline_ms", "traceparent",
    /// "tracestate", "priority", "model", "max_tokens", "takes_events", "peer", "source_node_id", "verified", "verified_node_id", "node"}`, as
    /// [`Inbound`](crate::Inbound) has them, with the time that was left when it came in. Answer with [`Bridge::task_finish`] or
    /// [`Bridge::task_fail`], maybe with parts before by [`Bridge::task_chunk`], until a `TASK_CANCEL` with the same `id` says that nobody waits any more.
    ///
    /// Cancelled, a node that begins is taken down in good order behind the `DONE`: it leaves its directory, and gives back
    /// what a gateway has opened. Its port and its lock on `state_dir` are free when that is done, some seconds later at most.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `INTENT_INVALID`; `QUEUE_FULL`, `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn node_serve(&self, queue: u64, options_json: &str, tag: u64) -> Result<u64> {
        let tables = self.open()?;
        let mut options: NodeOptions = from_json(options_json)?;
        let node_id = options.node_id.get_or_insert_with(|| Uuid::new_v4().to_string()).clone();
        let queue = tables.queues.get(queue)?;
        let seat = queue.promise()?;
        let tables = tables.clone();
        let beginning = Beginning::new();
        let handler = ForeignHandler { tables: tables.clone(), queue: queue.clone(), tag, node_id };
        let node = beginning.node();
        self.0.runtime.spawn(beginning.run(options, handler))?;
        self.launch(seat, tag, 0, |_| async move {
            let live = node.await?;
            let json = to_json(&live.status())?;
            let handle = keep(&tables.nodes, &queue.clone(), Serving { live, queue })?;
            Ok(Outcome { handle, json, ..Outcome::default() })
        })
    }

    /// How a node is: `{"node_id", "url", "registered", "active_jobs",
    /// "effective_max_concurrent", "models", "backend_state", "backend_reason"}`, as [`NodeStatus`](crate::NodeStatus) has them.
    ///
    /// # Errors
    /// `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn node_status(&self, node: u64) -> Result<String> {
        self.open()?.nodes.read(node, |node| to_json(&node.live.status()))?
    }

    /// How a node can be reached from outside: a [`NatReport`], and as `text` the same for people.
    ///
    /// # Errors
    /// `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn node_nat_report(&self, node: u64) -> Result<String> {
        let report = self.open()?.nodes.read(node, |node| node.live.nat_report())?;
        to_json(&NatReported { text: report.to_string(), report })
    }

    /// Closes a node: it leaves its directory and takes no new task; running ones have `grace` to end. The id is stale
    /// at once. `DONE.json` is `{"in_time": true}` if all ended. Cancelled, the node stops at once.
    ///
    /// # Errors
    /// `QUEUE_FULL`, `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn node_close(&self, node: u64, queue: u64, grace: Duration, tag: u64) -> Result<u64> {
        let tables = self.open()?;
        let seat = tables.queues.get(queue)?.promise()?;
        let node = tables.nodes.remove(node)?;
        self.launch(seat, tag, 0, |_| async move {
            let ended = Ended { in_time: node.shutdown(grace.min(LONGEST)).await };
            Ok(Outcome { json: to_json(&ended)?, ..Outcome::default() })
        })
    }

    /// Starts a directory in this process. `DONE.handle` is the directory, `DONE.json` is `{"url"}`.
    ///
    /// # Errors
    /// `CONFIG_INVALID`; `QUEUE_FULL`, `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn directory_bind(&self, queue: u64, options_json: &str, tag: u64) -> Result<u64> {
        let tables = self.open()?;
        let options: DirectoryOptions = from_json(options_json)?;
        let queue = tables.queues.get(queue)?;
        let seat = queue.promise()?;
        let tables = tables.clone();
        self.launch(seat, tag, 0, |_| async move {
            let directory = Directory::bind(options).await?;
            let json = to_json(&DirectoryStatus { url: directory.url() })?;
            let handle = keep(&tables.directories, &queue, directory)?;
            Ok(Outcome { handle, json, ..Outcome::default() })
        })
    }

    /// Closes a directory: it takes no new request, and running ones have `grace` to end. The id is stale at once.
    /// `DONE.json` is `{"in_time": true}` if all ended. Cancelled, the directory stops at once.
    ///
    /// # Errors
    /// `QUEUE_FULL`, `STALE_ID`, `CLOSED`, `FORKED`.
    pub fn directory_close(&self, directory: u64, queue: u64, grace: Duration, tag: u64) -> Result<u64> {
        let tables = self.open()?;
        let seat = tables.queues.get(queue)?.promise()?;
        let directory = tables.directories.remove(directory)?;
        self.launch(seat, tag, 0, |_| async move {
            let ended = Ended { in_time: directory.shutdown(grace.min(LONGEST)).await };
            Ok(Outcome { json: to_json(&ended)?, ..Outcome::default() })
        })
    }
}
