//! One task from its envelope to its answer: who may, how many at a time, once, with a handler, in time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::State;
use super::callers::{Proven, Shown};
use super::envelope::{self, Accepted};
use super::handler::{Caller, Inbound};
use super::metrics::{Ending, ReceiptEnd};
use super::receipts::{Claim, Earned, Given};
use super::refusal::{self, failed};
use super::stream;
use crate::crypto::cx::ReplySeal;
use crate::crypto::digest::fingerprint;
use crate::error::{Code, Error, Result};
use crate::protocol::admission::{Admission, Body, Done, Outcome, Received, Refusal};
use crate::protocol::gate::{Closed, Permit, Rank};
use crate::protocol::nonces::Taken;
use crate::protocol::replay::Seen;
use crate::telemetry;
use crate::types::{Payload, Qos, Traceparent};
use crate::wire::sealed::write_sealed_reply;
use crate::wire::task::{TaskRequest, write_reply};

impl Admission for State {
    fn admit<'a>(self: Arc<Self>, task: Received<'a>) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move { serve(&self, task).await })
    }
}

/// Serves one task. Dropping the future frees the slot, forgets the id and stops the handler.
pub(super) async fn serve(state: &Arc<State>, received: Received<'_>) -> Outcome {
    judge(state, received).await.unwrap_or_else(Outcome::Refused)
}

async fn judge(state: &Arc<State>, received: Received<'_>) -> Result<Outcome, Refusal> {
    let begun = Instant::now();
    // By itself, so that who waits for a slot does not hold what only this needs.
    let (task, proven, nonce) = accept(state, &received, begun).await?;
    once(state, task, Arrival { received, proven, begun, nonce }).await
}

/// The order in which a task is judged (specification: task processing). Whatever is refused leaves no trace but in the
/// rates, so that it may come again as it is.
async fn accept(
    state: &Arc<State>,
    received: &Received<'_>,
    begun: Instant,
) -> Result<(Accepted, Proven, Option<Taken>), Refusal> {
    let now = state.since_start(begun);
    state.limits.count(received, now)?;
    check_size(state, &received.body)?;
    let (bytes, request) = envelope::read(&received.body)?;
    let intent = envelope::check(state, &request)?;
    let node_token = request.node_token();
    let shown =
        Shown { consumer_token: received.consumer_token, node_token: node_token.as_deref(), intent: &request.intent };
    let proven = state.callers.prove(shown, begun).await?;
    check_tools(state, &request.intent)?;
    state.gate.check_open(now).map_err(|closed| shut(state, closed, request.constraints.qos(), now))?;
    let id = fingerprint(&[request.task_id.as_bytes()]);
    spare_opening(state, &request, id)?;
    let nonce = take_nonce(state, &request, now)?;
    let task = envelope::open(state, bytes, &request, intent, id)?;
    Ok((task, proven, nonce))
}

/// A relay may take larger tasks than its worker does.
fn check_size(state: &State, body: &Body<'_>) -> Result<(), Refusal> {
    let most = state.options.max_body_bytes;
    match body {
        Body::Json(bytes) if bytes.len() > most => Err(refusal::too_large(most)),
        _ => Ok(()),
    }
}

/// What is known of a task beside what stands in it.
struct Arrival<'a> {
    received: Received<'a>,
    proven: Proven,
    begun: Instant,
    /// Spent when there is an answer.
    nonce: Option<Taken>,
}

/// Runs a task that is new; one that is not gets the answer that there is.
async fn once(state: &Arc<State>, task: Accepted, mut arrival: Arrival<'_>) -> Result<Outcome, Refusal> {
    let mut permit = None;
    loop {
        let over = CancellationToken::new();
        let now = state.since_start(Instant::now());
        let let_in = || {
            if permit.is_none() {
                permit = Some(state.gate.enter(now)?);
            }
            Ok(over.clone())
        };
        let seen = state.replay.begin(task.id, task.content, now.as_secs(), let_in);
        match (seen, permit.take()) {
            (Ok(Seen::New), Some(permit)) => {
                let mut attempt = Attempt::new(state.clone(), &task, permit, over.clone(), arrival.begun);
                attempt.nonce = arrival.nonce.take();
                // Boxed, so that those who wait for a slot, and may be thousands, have no room for it yet.
                return Ok(Box::pin(run(attempt, task, arrival, over)).await);
            }
            (Ok(seen), unused) => {
                // Whoever waits for another's answer needs no slot.
                drop(unused);
                if let Some(outcome) = settled(seen, &task).await {
                    if let (Outcome::Done(_), Some(nonce)) = (&outcome, arrival.nonce) {
                        nonce.keep();
                    }
                    return Ok(outcome);
                }
            }
            (Err(Closed::Full), _) => permit = Some(wait(state, &task, arrival.begun).await?),
            (Err(closed), _) => return Err(shut(state, closed, task.qos, now)),
        }
    }
}

/// Waits for a slot, if tasks of this kind do.
async fn wait(state: &State, task: &Accepted, begun: Instant) -> Result<Permit, Refusal> {
    let now = || state.since_start(Instant::now());
    let most = Duration::from_millis(state.options.queue_wait_ms);
    let Some(rank) = task.rank.filter(|_| !most.is_zero()) else {
        return Err(shut(state, Closed::Full, task.qos, now()));
    };
    let waited = match state.gate.queue(rank, now()) {
        Ok(waiting) => tokio::time::timeout_at(begun + most.min(task.timeout), waiting).await,
        Err(closed) => Ok(Err(closed)),
    };
    waited.unwrap_or(Err(Closed::Full)).map_err(|closed| shut(state, closed, task.qos, now()))
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

fn shut(state: &State, closed: Closed, qos: Qos, now: Duration) -> Refusal {
    match closed {
        Closed::Full => refusal::full(&state.gate, qos),
        Closed::Draining => refusal::draining(),
        Closed::Paused(pause) => refusal::paused(pause, now),
    }
}

/// Intents that act in the world are served only where the operator said so (specification: CIP-A1-GATE-01).
fn check_tools(state: &State, intent: &str) -> Result<(), Refusal> {
    let acts = intent.strip_prefix("urn:iicp:intent:tool:").is_some();
    if acts && !state.options.policy.as_ref().is_some_and(|policy| policy.allow_tool_execution) {
        return Err(refusal::no_tools());
    }
    Ok(())
}

/// Opening costs more than all else that is done before a handler: a full node does not open what it cannot take.
fn spare_opening(state: &State, request: &TaskRequest<'_>, id: u128) -> Result<(), Refusal> {
    let is_sealed = request.payload.is_none() && request.iicp_conf.is_some();
    let waits = Rank::of(request.constraints.qos(), request.constraints.priority()).is_some();
    if is_sealed && !waits && state.gate.is_full() && !state.replay.knows(id) {
        return Err(refusal::full(&state.gate, request.constraints.qos()));
    }
    Ok(())
}

fn take_nonce(state: &State, request: &TaskRequest<'_>, now: Duration) -> Result<Option<Taken>, Refusal> {
    let Some(nonce) = request.nonce() else { return Ok(None) };
    state.nonces.take(nonce, now.as_secs()).map(Some).map_err(refusal::spent)
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
    nonce: Option<Taken>,
    /// Whose credits are asked for when it is done.
    pub(super) claim: Option<Claim>,
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
            nonce: None,
            claim: None,
            state,
        }
    }

    /// The task is done; its credits are asked for, if they are to be.
    pub(super) fn completed(&mut self, tokens: u64, result: impl FnOnce() -> Given) {
        (self.ending, self.tokens) = (Ending::Completed, tokens);
        if let Some(claim) = self.claim.take() {
            let given_way = self.state.receipts.push(Earned { claim, tokens, result: result() });
            self.state.metrics.receipt_ended(ReceiptEnd::Dropped, given_way);
        }
    }

    /// Keeps the reply to a task that has run, and gives it.
    pub(super) fn keep_result(&mut self, task_id: &str, result: &Payload) -> Bytes {
        let latency_ms = self.received.elapsed().as_secs_f64() * 1000.0;
        let reply = Bytes::from(write_reply(task_id, result.bytes(), latency_ms));
        self.finish(Some(&reply));
        reply
    }

    /// Notes that the task has run; its answer went out in parts and is not there to be given again.
    pub(super) fn keep_without_answer(&mut self) {
        self.finish(None);
    }

    fn finish(&mut self, stored: Option<&Bytes>) {
        self.state.replay.finish(self.id, stored);
        self.kept = true;
        if let Some(nonce) = self.nonce.take() {
            nonce.keep();
        }
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

async fn run(mut attempt: Attempt, task: Accepted, arrival: Arrival<'_>, cancelled: CancellationToken) -> Outcome {
    let deadline = attempt.received + task.timeout;
    let Arrival { received, proven, .. } = arrival;
    let (traceparent, tracestate) = trace(&received);
    attempt.claim = task.creditable.then(|| Claim {
        task_id: task.task_id.clone(),
        querying_node_id: task.source_node_id.clone(),
        since: attempt.received,
    });
    let inbound = Inbound {
        task_id: task.task_id.clone(),
        intent: attempt.state.intents[task.intent].clone(),
        payload: task.payload,
        deadline,
        qos: task.qos,
        priority: task.priority,
        model: task.model,
        max_tokens: task.max_tokens,
        takes_events: received.takes_events,
        traceparent,
        tracestate,
        caller: Caller {
            peer: received.peer,
            source_node_id: task.source_node_id,
            verified: proven.verified,
            verified_node_id: proven.node_id.map(|id| (*id).to_owned()),
        },
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
            let body = attempt.keep_result(&task.task_id, &result);
            attempt.completed(tokens_used, || Given::Whole(result));
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
