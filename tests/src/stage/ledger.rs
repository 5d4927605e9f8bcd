//! What happened on the stage: counted where it happens, read and waited for by the runner.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Counts of one node or of the directory.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: u64,
    /// By method and path.
    pub(super) requests: BTreeMap<String, u64>,
    /// Handlers begun, or tasks read by a peer.
    pub(super) started: u64,
    /// The same by task id.
    pub(super) executions: BTreeMap<String, u64>,
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) panicked: u64,
    pub(super) traceparents: BTreeSet<String>,
}

impl Counts {
    /// Notes that a task was begun, and returns how many there are now.
    pub(super) fn begin(&mut self, task_id: String) -> u64 {
        *self.executions.entry(task_id).or_default() += 1;
        self.started += 1;
        self.started
    }

    fn to_json(&self) -> Value {
        json!({
            "connections": self.connections,
            "requests": self.requests,
            "started": self.started,
            "executions": self.executions,
            "most_executions": self.executions.values().max().unwrap_or(&0),
            "finished": self.finished,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "panicked": self.panicked,
            "traceparents": self.traceparents.len(),
        })
    }
}

/// The counts of one party, and how to tell that they changed.
#[derive(Clone, Debug)]
pub(super) struct Page {
    counts: Arc<Mutex<Counts>>,
    changed: Arc<Notify>,
}

impl Page {
    pub(super) fn new(changed: &Arc<Notify>) -> Page {
        Page { counts: Arc::default(), changed: changed.clone() }
    }

    /// Changes the counts and tells who waits for that.
    pub(super) fn note<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        let noted = change(&mut self.read());
        self.changed.notify_waiters();
        noted
    }

    pub(super) fn read(&self) -> MutexGuard<'_, Counts> {
        // A handler that panics does so outside of the lock.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn to_json(&self) -> Value {
        self.read().to_json()
    }
}

/// Distinct traces over all pages.
pub(super) fn traceparents<'a>(pages: impl Iterator<Item = &'a Page>) -> usize {
    pages.flat_map(|page| page.read().traceparents.iter().cloned().collect::<Vec<_>>()).collect::<BTreeSet<_>>().len()
}

/// Waits until `now()` holds all of `wanted`, at most `within`.
///
/// # Errors
/// The last state, when it is still lacking something.
pub(super) async fn wait_for(
    wanted: &Value,
    within: Duration,
    changed: &Notify,
    now: impl Fn() -> Value,
) -> Result<Value, Value> {
    let deadline = Instant::now() + within;
    loop {
        let change = changed.notified();
        let state = now();
        if holds(wanted, &state) {
            return Ok(state);
        }
        if Instant::now() >= deadline {
            return Err(state);
        }
        // A node's own gauges change without a note, so this also looks again by itself.
        let look_again = deadline.min(Instant::now() + Duration::from_millis(20));
        let _ = tokio::time::timeout_at(look_again, change).await;
    }
}

/// Whether `wanted` is a subset of `state`: objects by field, lists by place with null for "anything", numbers also as
/// `{"at_least": n}` or `{"at_most": n}`.
fn holds(wanted: &Value, state: &Value) -> bool {
    match (wanted, state) {
        (Value::Object(bounds), Value::Number(n)) => bounds.iter().all(|(bound, limit)| {
            let (n, limit) = (n.as_f64(), limit.as_f64());
            match bound.as_str() {
                "at_least" => n >= limit,
                "at_most" => n <= limit,
                _ => false,
            }
        }),
        (Value::Object(wanted), Value::Object(state)) => {
            wanted.iter().all(|(name, wanted)| state.get(name).is_some_and(|state| holds(wanted, state)))
        }
        (Value::Array(wanted), Value::Array(state)) => {
            wanted.len() <= state.len()
                && wanted.iter().zip(state).all(|(wanted, state)| wanted.is_null() || holds(wanted, state))
        }
        _ => wanted == state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subset_holds_and_anything_else_does_not() {
        let state = json!({"nodes": [{"started": 2, "executions": {"t": 1}}, {"started": 0}], "traceparents": 1});
        for wanted in [
            json!({}),
            json!({"nodes": [{"started": 2}]}),
            json!({"nodes": [null, {"started": 0}]}),
            json!({"nodes": [{"started": {"at_least": 2, "at_most": 2}, "executions": {"t": 1}}], "traceparents": 1}),
        ] {
            assert!(holds(&wanted, &state), "{wanted}");
        }
        for wanted in [
            json!({"nodes": [{"started": 1}]}),
            json!({"nodes": [null, null, null]}),
            json!({"nodes": [{"started": {"at_least": 3}}]}),
            json!({"nodes": [{"started": {"about": 2}}]}),
            json!({"nodes": [{"executions": {"u": 0}}]}),
            json!({"nodes": {}}),
        ] {
            assert!(!holds(&wanted, &state), "{wanted}");
        }
    }
}
