//! Asks the directory for the credits of finished tasks, whether their answers went out whole or in parts. All of it happens in the background, in a bounded queue whose
//! oldest entries give way: no task waits for it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::State;
use super::metrics::ReceiptEnd;
use crate::crypto::digest::{hex, jitter, random};
use crate::discovery::directory_client::DirectoryClient;
use crate::error::{Code, Error, Result};
use crate::options::is_node_id;
use crate::protocol::assemble::Assembly;
use crate::protocol::receipt::{Receipt, VALIDITY};
use crate::state::Credentials;
use crate::telemetry;
use crate::types::{Payload, rfc3339};
use crate::wire::directory::AwardRequest;

/// Tasks that may wait, and bytes of their results.
const MOST: usize = 1_024;
const MOST_BYTES: usize = 16 << 20;
/// A task is not claimed any more after this time.
const OLDEST: Duration = Duration::from_secs(3_600);
/// How often a directory may answer that it cannot take one.
const MOST_FAILURES: u32 = 5;
/// Between two attempts, doubled each time.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Results up to this size are read where everything else runs.
const SMALL: usize = 64 << 10;

/// Most that is held of the parts of one answer; beyond that its task is not claimed.
const MOST_PARTS_BYTES: usize = 4 << 20;

/// Whose credits will be asked for if the task is done.
pub(super) struct Claim {
    pub(super) task_id: String,
    pub(super) querying_node_id: Option<String>,
    pub(super) since: Instant,
}

/// A finished task.
pub(super) struct Earned {
    pub(super) claim: Claim,
    /// As the handler said; 0 if it did not.
    pub(super) tokens: u64,
    pub(super) result: Given,
}

/// What a caller was given.
pub(super) enum Given {
    Whole(Payload),
    Parts(Parts),
}

/// The parts of an answer, one after the other. In one piece, so that they hold nothing else in memory.
#[derive(Default)]
pub(super) struct Parts {
    lines: Vec<u8>,
    too_many: bool,
}

impl Parts {
    /// Adds a part, which is JSON.
    pub(super) fn push(&mut self, part: &[u8]) {
        self.too_many |= self.lines.len() + part.len() >= MOST_PARTS_BYTES;
        if self.too_many {
            self.lines = Vec::new();
        } else {
            self.lines.extend_from_slice(part);
            self.lines.push(b'\n');
        }
    }

    /// What the caller would have been given in one piece. None if that is not known any more.
    fn whole(&self) -> Option<Payload> {
        let mut whole = Assembly::new(MOST_PARTS_BYTES);
        for part in serde_json::Deserializer::from_slice(&self.lines).into_iter::<&RawValue>() {
            whole.push(part.ok()?.get().as_bytes()).ok()?;
        }
        (!self.too_many).then(|| whole.finish())
    }
}

impl Given {
    fn len(&self) -> usize {
        match self {
            Given::Whole(result) => result.bytes().len(),
            Given::Parts(parts) => parts.lines.len(),
        }
    }
}

impl Earned {
    fn cost(&self) -> usize {
        self.result.len() + self.claim.task_id.len() + size_of::<Earned>()
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Earned>,
    bytes: usize,
    busy: bool,
}

/// What waits to be sent, and what it is signed with.
pub(super) struct Receipts {
    queue: Mutex<Queue>,
    arrived: Notify,
    emptied: Notify,
    credentials: watch::Sender<Option<Credentials>>,
}

impl Receipts {
    pub(super) fn new() -> Self {
        Receipts {
            queue: Mutex::default(),
            arrived: Notify::new(),
            emptied: Notify::new(),
            credentials: watch::Sender::new(None),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the node is registered with now; none while it is not.
    pub(super) fn know(&self, credentials: Option<Credentials>) {
        self.credentials.send_if_modified(|known| {
            let other = *known != credentials;
            *known = credentials;
            other
        });
    }

    /// Lines up a task. Returns how many had to give way.
    pub(super) fn push(&self, earned: Earned) -> u64 {
        let mut dropped = 0;
        let mut queue = self.queue();
        queue.bytes += earned.cost();
        queue.waiting.push_back(earned);
        while queue.waiting.len() > MOST || queue.bytes > MOST_BYTES {
            let Some(oldest) = queue.waiting.pop_front() else { break };
            queue.bytes -= oldest.cost();
            dropped += 1;
        }
        drop(queue);
        self.arrived.notify_one();
        dropped
    }

    async fn pop(&self) -> Earned {
        loop {
            {
                let mut queue = self.queue();
                if let Some(earned) = queue.waiting.pop_front() {
                    queue.bytes -= earned.cost();
                    queue.busy = true;
                    return earned;
                }
                queue.busy = false;
                // What a burst needed is not kept for ever.
                queue.waiting.shrink_to(64);
            }
            self.emptied.notify_waiters();
            self.arrived.notified().await;
        }
    }

    /// Waits until nothing is left to be sent.
    pub(super) async fn sent(&self) {
        loop {
            let emptied = self.emptied.notified();
            {
                let queue = self.queue();
                if queue.waiting.is_empty() && !queue.busy {
                    return;
                }
            }
            emptied.await;
        }
    }

    /// What to sign with, as soon as there is something.
    async fn credentials(&self) -> Credentials {
        let mut watching = self.credentials.subscribe();
        loop {
            if let Some(known) = watching.borrow_and_update().clone() {
                return known;
            }
            if watching.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Sends what waits, one after the other, for as long as it is asked to.
pub(super) async fn send(state: &State, directory: &DirectoryClient) {
    loop {
        let earned = state.receipts.pop().await;
        let since = earned.claim.since;
        let end = match receipt(earned).await {
            Ok(Some(receipt)) => deliver(state, directory, &receipt, since).await,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(target: telemetry::NODE, code = %error.code(), "a receipt could not be made");
                ReceiptEnd::Dropped
            }
        };
        state.metrics.receipt_ended(end, 1);
    }
}

/// The receipt, if there is something to claim.
async fn receipt(earned: Earned) -> Result<Option<Receipt>> {
    let nonce = hex(&random::<16>()?);
    let large = earned.result.len() > SMALL;
    let make = move || {
        let Earned { claim, tokens, result } = earned;
        let result = match result {
            Given::Whole(result) => result,
            Given::Parts(parts) => parts.whole()?,
        };
        let asking = claim.querying_node_id.filter(|id| is_node_id(id));
        Receipt::new(claim.task_id, tokens, nonce, result.bytes(), asking)
    };
    if !large {
        return Ok(make());
    }
    let broken = |_| Error::new(Code::Internal, "the thread that reads a result broke down");
    tokio::task::spawn_blocking(make).await.map_err(broken)
}

async fn deliver(state: &State, directory: &DirectoryClient, receipt: &Receipt, since: Instant) -> ReceiptEnd {
    let (mut failures, mut pause) = (0, PAUSES.0);
    loop {
        let credentials = state.receipts.credentials().await;
        if since.elapsed() > OLDEST {
            return ReceiptEnd::Dropped;
        }
        let Err(error) = award(state, directory, receipt, &credentials).await else { return ReceiptEnd::Sent };
        match error.http_status() {
            // The answer to an earlier attempt was lost, and the directory takes nothing twice.
            Some(409) => return ReceiptEnd::Sent,
            Some(401 | 408 | 429 | 500..) => failures += 1,
            Some(_) => {
                tracing::warn!(target: telemetry::NODE, task_id = receipt.task_id, %error, "a receipt was refused");
                return ReceiptEnd::Refused;
            }
            // A directory that is away says nothing against a receipt.
            None => {}
        }
        if failures == MOST_FAILURES {
            return ReceiptEnd::Refused;
        }
        let asked = error.retry_after().unwrap_or_default().min(PAUSES.1);
        tokio::time::sleep(pause.mul_f64(0.5 + jitter() / 2.0).max(asked)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn award(state: &State, directory: &DirectoryClient, receipt: &Receipt, with: &Credentials) -> Result<()> {
    let Some(key) = with.node_hmac_key.as_deref() else {
        return Err(Error::new(Code::DirectoryRejected, "the directory gave no key to sign receipts with")
            .with_http_status(422));
    };
    let multiplier = state.options.pricing.as_ref().map_or(1.0, |pricing| pricing.credit_cost_multiplier);
    // The directory judges it by its own clock.
    let until = directory.now_unix_s().saturating_add(VALIDITY.as_secs());
    let request = AwardRequest {
        node_id: &state.node_id,
        task_id: &receipt.task_id,
        tokens_used: receipt.tokens,
        amount: receipt.amount(multiplier),
        nonce: &receipt.nonce,
        expires_at: rfc3339(until),
        signature: receipt.signature(key),
        response_hash: &receipt.response_hash,
        reason: "task_completion",
        querying_node_id: receipt.querying_node_id.as_deref(),
    };
    directory.award(&with.node_token, &request, Instant::now() + PATIENCE).await
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn earned(task_id: &str, bytes: usize) -> Earned {
        Earned {
            claim: Claim { task_id: task_id.into(), querying_node_id: None, since: Instant::now() },
            tokens: 1,
            result: Given::Whole(Payload::from_json(format!("\"{}\"", "x".repeat(bytes))).unwrap()),
        }
    }

    #[tokio::test]
    async fn the_oldest_give_way_and_are_counted() {
        let receipts = Receipts::new();
        let dropped: u64 = (0..MOST + 7).map(|n| receipts.push(earned(&n.to_string(), 1))).sum();
        assert_eq!((dropped, receipts.queue().waiting.len()), (7, MOST));
        assert_eq!(receipts.pop().await.claim.task_id, "7");
        let dropped = receipts.push(earned("large", MOST_BYTES - 4_096));
        assert!(dropped as usize > MOST / 2, "{dropped}");
        assert!(receipts.queue().bytes <= MOST_BYTES);
        while receipts.pop().await.claim.task_id != "large" {}
        assert_eq!(receipts.queue().bytes, 0);
    }

    #[test]
    fn parts_are_claimed_as_the_answer_that_they_make_and_not_without_bound() {
        let mut parts = Parts::default();
        parts.push(b"\"Hel\"");
        parts.push(b"\"lo\"");
        assert_eq!(parts.whole().unwrap().bytes(), "\"Hello\"");
        for _ in 0..5 {
            parts.push(&[b'1'; 1 << 20]);
        }
        assert!(parts.whole().is_none());
        assert_eq!(parts.lines.capacity(), 0);
    }

    #[tokio::test]
    async fn nothing_is_left_when_the_last_was_dealt_with() {
        let receipts = Receipts::new();
        assert!(receipts.sent().now_or_never().is_some());
        receipts.push(earned("a", 1));
        assert!(receipts.sent().now_or_never().is_none());
        receipts.pop().await;
        assert!(receipts.sent().now_or_never().is_none(), "it is on its way");
        let (sent, mut next) = (receipts.sent(), Box::pin(receipts.pop()));
        tokio::pin!(sent);
        assert!(sent.as_mut().now_or_never().is_none());
        assert!(next.as_mut().now_or_never().is_none());
        assert!(sent.now_or_never().is_some());
    }
}
