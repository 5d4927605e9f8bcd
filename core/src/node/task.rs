//! One task from its envelope to its answer: gate, replay memory, handler, deadline.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::State;
use super::handler::{Caller, Inbound};
use super::metrics::{Ending, ReceiptEnd};
use super::receipts::Earned;
use super::refusal::{self, failed, invalid};
use super::stream;
use crate::crypto::cx::ReplySeal;
use crate::crypto::digest::fingerprint;
use crate::error::{Code, Error, Result};
use crate::options::{MAX_TIMEOUT_MS, is_task_id};
use crate::protocol::admission::{Admission, Body, Done, Outcome, Received, Refusal};
use crate::protocol::gate::{Closed, Permit};
use crate::protocol::replay::Seen;
use crate::telemetry;
use crate::types::{Payload, Qos, Traceparent, is_intent};
use crate::wire::sealed::write_sealed_reply;
use crate::wire::task::{TaskRequest, write_reply};

/// A task that was read and found well-formed and served here.
struct Accepted {
    task_id: String,
    intent: usize,
    payload: Payload,
    qos: Qos,
    timeout: Duration,
    source_node_id: Option<String>,
    /// Whether credits may be asked for it.
    creditable: bool,
    /// Seals the reply, if the caller takes no other.
    seal: Option<ReplySeal>,
    /// Fingerprints of the id and of what was asked.
    id: u128,
    content: u128,
}

impl Admission for State {
    fn admit<'a>(self: Arc<Self>, task: Received<'a>) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move { serve(&self, task).await })
    }
}

/// Serves one task. Dropping the future frees the slot, forgets the id and stops the handler.
pub(super) async fn serve(state: &Arc<State>, received: Received<'_>) -> Outcome {
    let begun = Instant::now();
    let task = match accept(state, &received.body) {
        Ok(task) => task,
        Err(refusal) => return Outcome::Refused(refusal),
    };
    loop {
        let (over, mut permit) = (CancellationToken::new(), None);
        let let_in = || {
            permit = Some(state.gate.enter()?);
            Ok(over.clone())
        };
        let seen = match state.replay.begin(task.id, task.content, state.seconds(), let_in) {
            Ok(seen) => seen,
            Err(closed) => return Outcome::Refused(shut(state, closed, task.qos)),
        };
        if let Some(permit) = permit {
            let attempt = Attempt::new(state.clone(), &task, permit, over.clone(), begun);
            return run(attempt, task, &received, over).await;
        }
        if let Some(outcome) = settled(seen, &task).await {
            return outcome;
        }
    }
}

/// What comes of a task that is not new; none if it was running and ended without an answer, so that it is new now.
async fn settled(seen: Seen<CancellationToken>, task: &Accepted) -> Option<Outcome> {
    match seen {
        Seen::New => None,
        Seen::Running(over) => {
            over.cancelled().await;
            None
        }
        Seen::Done(stored) => Some(reply(&task.task_id, task.seal.as_ref(), stored)),
        Seen::Conflict => Some(Outcome::Refused(refusal::conflict())),
    }
}

fn shut(state: &State, closed: Closed, qos: Qos) -> Refusal {
    match closed {
        Closed::Full => refusal::full(state.gate.limit(), qos),
        Closed::Draining => refusal::draining(),
    }
}

fn accept(state: &State, body: &Body<'_>) -> Result<Accepted, Refusal> {
    let (bytes, request) = match body {
        Body::Json(json) => (json, TaskRequest::read(json)),
        Body::Parts(parts) => (&parts.payload, TaskRequest::of_parts(parts)),
    };
    let request = request.map_err(|why| invalid(format!("the body is not a task: {why}")))?;
    if !is_task_id(&request.task_id) {
        return Err(invalid("task_id must be 1 to 128 visible ASCII characters without '|'; a UUIDv4 is best"));
    }
    if !is_intent(&request.intent) {
        return Err(invalid("intent must read urn:iicp:intent:<domain>:<action>:v<N>"));
    }
    let Some(intent) = state.intents.iter().position(|served| **served == *request.intent) else {
        return Err(refusal::unknown_intent());
    };
    let timeout_ms = request.constraints.timeout_ms.unwrap_or(state.options.default_timeout_ms);
    if timeout_ms == 0 {
        return Err(invalid("constraints.timeout_ms must be above 0"));
    }
    let (payload, seal) = open(state, bytes, &request)?;
    // What was answered sealed is never given out in plain text: whoever repeats a task that he cannot read himself, but
    // takes a plain reply, asks for something else. An intent holds no '|', so the parts cannot run into each other.
    let asked: &[u8] = if seal.is_some() { b"|sealed|" } else { b"|" };
    Ok(Accepted {
        id: fingerprint(&[request.task_id.as_bytes()]),
        content: fingerprint(&[request.intent.as_bytes(), asked, payload.bytes()]),
        creditable: state.options.receipts && !request.is_part(),
        task_id: request.task_id.into_owned(),
        intent,
        payload,
        qos: request.constraints.qos(),
        timeout: Duration::from_millis(timeout_ms.min(MAX_TIMEOUT_MS)),
        source_node_id: request.source_node_id.map(std::borrow::Cow::into_owned),
        seal,
    })
}

/// The payload, opened if it was sealed, and what seals the reply if that was asked for. `bytes` are what holds the request.
fn open(state: &State, bytes: &Bytes, request: &TaskRequest<'_>) -> Result<(Payload, Option<ReplySeal>), Refusal> {
    let missing = || invalid("payload is missing");
    let wants_sealed_reply = request.wants_sealed_reply();
    let envelope = match (request.payload, request.iicp_conf) {
        (None, Some(envelope)) => envelope,
        (Some(_), Some(_)) => {
            let message = "a sealed task has its payload in iicp_conf; send no other beside it";
            return Err(Refusal::new(400, "validation_error", message));
        }
        (Some(_), None) if wants_sealed_reply => {
            let message = "only the reply to a sealed task can be sealed; seal the task too";
            return Err(Refusal::new(400, "IICP-CX-03", message));
        }
        (Some(payload), None) => return Ok((Payload::trusted(bytes.slice_ref(payload.get().as_bytes())), None)),
        (None, None) => return Err(missing()),
    };
    let (opened, seal) =
        state.key.open(envelope.get().as_bytes(), &request.task_id, &request.intent).map_err(|why| {
            tracing::debug!(target: telemetry::NODE, task_id = %request.task_id, ?why, "a sealed task was not opened");
            Refusal::new(400, "IICP-CX-02", why.text())
        })?;
    let payload = Payload::from_json(opened).map_err(|error| invalid(error.message()))?;
    if payload.bytes() == "null" {
        return Err(missing());
    }
    Ok((payload, wants_sealed_reply.then_some(seal)))
}

/// The answer to a finished task; what is stored is plain, and sealed anew for everyone who asks.
fn reply(task_id: &str, seal: Option<&ReplySeal>, plain: Bytes) -> Outcome {
    let Some(seal) = seal else { return Outcome::Done(Done { reply: plain, is_sealed: false }) };
    match write_sealed_reply(task_id, |out| seal.seal(task_id, &plain, out)) {
        Ok(sealed) => Outcome::Done(Done { reply: sealed.into(), is_sealed: true }),
        Err(error) => {
            tracing::error!(target: telemetry::NODE, task_id, code = %error.code(), "a reply was not sealed");
            Outcome::Refused(Refusal::new(500, "IICP-CX-04", "the reply could not be sealed").with("task_id", task_id))
        }
    }
}

/// Tells who waits for the node to become idle.
struct Ended(Arc<State>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.task_ended.notify_waiters();
    }
}

/// One run of a handler. Whatever becomes of it, dropping this gives the slot back, tells everyone who waits for the
/// task that it is over, and forgets the id unless there is an answer to keep.
pub(super) struct Attempt {
    pub(super) state: Arc<State>,
    // Fields are dropped in this order: who waits for the last task to end looks at the gate.
    _permit: Permit,
    _ended: Ended,
    _over: DropGuard,
    id: u128,
    intent: usize,
    qos: Qos,
    received: Instant,
    pub(super) ending: Ending,
    pub(super) tokens: u64,
    kept: bool,
}

impl Attempt {
    fn new(state: Arc<State>, task: &Accepted, permit: Permit, over: CancellationToken, received: Instant) -> Self {
        Attempt {
            _permit: permit,
            _ended: Ended(state.clone()),
            _over: over.drop_guard(),
            id: task.id,
            intent: task.intent,
            qos: task.qos,
            received,
            ending: Ending::Cancelled,
            tokens: 0,
            kept: false,
            state,
        }
    }

    fn keep(&mut self, stored: &Bytes) {
        self.state.replay.finish(self.id, Some(stored));
        self.kept = true;
    }

    /// Notes that the task has run; its answer went out in parts and is not there to be given again.
    pub(super) fn keep_without_answer(&mut self) {
        self.state.replay.finish(self.id, None);
        self.kept = true;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.kept {
            self.state.replay.forget(self.id);
        }
        self.state.metrics.task_ended(self.intent, self.qos, self.ending, self.received.elapsed(), self.tokens);
    }
}

async fn run(mut attempt: Attempt, task: Accepted, received: &Received<'_>, cancelled: CancellationToken) -> Outcome {
    let deadline = attempt.received + task.timeout;
    let (traceparent, tracestate) = trace(received);
    let querying_node_id = task.source_node_id.clone().filter(|_| task.creditable);
    let inbound = Inbound {
        task_id: task.task_id.clone(),
        intent: attempt.state.intents[task.intent].clone(),
        payload: task.payload,
        deadline,
        qos: task.qos,
        traceparent,
        tracestate,
        caller: Caller { peer: received.peer, source_node_id: task.source_node_id },
        cancelled,
    };
    if received.takes_events {
        return stream::begin(attempt, inbound, task.seal.as_ref());
    }
    let most_bytes = attempt.state.options.max_body_bytes;
    let whole = stream::whole(stream::call(attempt.state.clone(), inbound), most_bytes);
    let timeout = || Err(Error::new(Code::TaskTimeout, "the handler did not finish in time"));
    match tokio::time::timeout_at(deadline, whole).await.unwrap_or_else(|_| timeout()) {
        Ok((result, tokens_used)) => {
            attempt.ending = Ending::Completed;
            attempt.tokens = tokens_used;
            let latency_ms = attempt.received.elapsed().as_secs_f64() * 1000.0;
            let body = Bytes::from(write_reply(&task.task_id, result.bytes(), latency_ms));
            attempt.keep(&body);
            if task.creditable {
                let (task_id, since) = (task.task_id.clone(), attempt.received);
                let earned = Earned { task_id, tokens: tokens_used, result, querying_node_id, since };
                let given_way = attempt.state.receipts.push(earned);
                attempt.state.metrics.receipt_ended(ReceiptEnd::Dropped, given_way);
            }
            reply(&task.task_id, task.seal.as_ref(), body)
        }
        Err(error) => {
            attempt.ending = Ending::of(&error);
            tracing::warn!(target: telemetry::NODE, task_id = %task.task_id, code = %error.code(), "a task failed");
            Outcome::Refused(failed(&error, &task.task_id))
        }
    }
}

/// The trace that a task belongs to. Without a trace, its state means nothing.
fn trace(received: &Received<'_>) -> (Option<String>, Option<String>) {
    const MOST_STATE: usize = 512;
    let Some(trace) = received.traceparent.and_then(Traceparent::parse) else { return (None, None) };
    let state = received.tracestate.filter(|state| !state.is_empty() && state.len() <= MOST_STATE);
    (Some(trace.as_str().to_owned()), state.map(str::to_owned))
}
