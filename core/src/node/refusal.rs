//! Why a task is not taken, or failed, in the protocol's own words.

use std::time::Duration;

use crate::error::{Code, Error};
use crate::protocol::admission::Refusal;
use crate::protocol::gate::{Gate, Pause};
use crate::protocol::nonces::Spent;
use crate::types::Qos;

/// Something in the task is not as it must be.
pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(422, "validation_error", message.into())
}

/// The intent is none of this node's.
pub(super) fn unknown_intent() -> Refusal {
    Refusal::new(404, "unknown_intent", "this node does not serve the intent; ask the directory who does")
}

/// The task id was used before.
pub(super) fn conflict() -> Refusal {
    let message =
        "this task id was used before, for other content or with a result that is no longer held; use a new id";
    Refusal::new(409, "conflict", message)
}

/// No slot is free (specification: QOS-ADMIT-01).
pub(super) fn full(gate: &Gate, qos: Qos) -> Refusal {
    let message = match gate.limit() {
        0 => "this node takes no tasks at this time of the day; ask another node".to_owned(),
        limit => format!("all {limit} slots are busy; ask another node, or this one again in 2 s"),
    };
    let refusal =
        Refusal::new(429, "capacity_exceeded", message).after(Duration::from_secs(2)).with("qos_class", qos.as_str());
    if gate.is_lowered() { refusal.with("reason", "availability_window") } else { refusal }
}

/// One source sends more than its share.
pub(super) fn too_many(source: &str, after_s: u64) -> Refusal {
    let message = format!("too many tasks from {source}; send the next in {after_s} s");
    Refusal::new(429, "IICP-E023", message).after(Duration::from_secs(after_s))
}

/// The operator allows no tools (specification: CIP-A1-GATE-01).
pub(super) fn no_tools() -> Refusal {
    let message = "this node runs no tools; its operator has to allow them in its policy";
    Refusal::new(403, "tool_execution_denied", message)
}

/// The caller insists on something that this node does not know.
pub(super) fn unsupported_profile() -> Refusal {
    let message = "this node knows none of the profiles in constraints.required_profiles; ask a node that does";
    Refusal::new(422, "unsupported_profile", message)
}

/// A nonce is not taken (specification: SEC-NONCE-01).
pub(super) fn spent(spent: Spent) -> Refusal {
    match spent {
        Spent::Seen => {
            Refusal::new(409, "IICP-E011", "replay_detected: this nonce was used before; make a new one for every task")
        }
        Spent::Full(after_s) => {
            let message = "this node cannot remember any more nonces now; ask another node, or send none";
            Refusal::new(503, "temporarily_unavailable", message)
                .after(Duration::from_secs(after_s))
                .with("reason", "nonces")
        }
    }
}

/// What runs the tasks takes none for a time.
pub(super) fn paused(pause: Pause, now: Duration) -> Refusal {
    let left = pause.until.saturating_sub(now).max(Duration::from_secs(1));
    Refusal::new(503, "temporarily_unavailable", "the backend takes no tasks for a time; ask another node")
        .after(left)
        .with("reason", pause.reason)
}

/// The node is stopping.
pub(super) fn draining() -> Refusal {
    Refusal::new(503, "temporarily_unavailable", "the node is draining; ask another node")
        .after(Duration::from_secs(5))
        .with("reason", "draining")
}

/// The task is larger than the operator wants them.
pub(super) fn too_large(most: usize) -> Refusal {
    Refusal::new(413, "request_too_large", format!("the task is larger than {most} bytes")).with("max_bytes", most)
}

/// More arrives than there is memory for.
pub(super) fn overloaded() -> Refusal {
    let message = "too much arrives at this node at the same time; ask another node, or this one again in a second";
    Refusal::new(503, "temporarily_unavailable", message).after(Duration::from_secs(1)).with("reason", "overloaded")
}

/// What the caller learns of a failure. A handler's own words are shown only where the handler meant them to be.
pub(super) fn failed(error: &Error, task_id: &str) -> Refusal {
    let refusal = match error.code() {
        Code::TaskTimeout => Refusal::new(504, "task_timeout", "the task was not finished in its time"),
        Code::Panic => Refusal::new(500, "internal_error", "the handler broke down"),
        Code::Handler => Refusal::new(500, "internal_error", "the handler's reply is not JSON"),
        Code::TaskRejected => rejected(error),
        Code::PayloadInvalid => invalid(error.message()),
        Code::Capacity => busy(error.retry_after()),
        _ => Refusal::new(502, "backend_error", "the handler or its backend failed"),
    };
    refusal.with("task_id", task_id)
}

/// The handler's backend cannot take the task now.
fn busy(pause: Option<Duration>) -> Refusal {
    Refusal::new(503, "temporarily_unavailable", "the backend is busy; ask another node")
        .after(pause.unwrap_or(Duration::from_secs(2)))
        .with("reason", "backend")
}

/// A handler's own refusal, with the status that it chose, if that is one for what the caller did.
fn rejected(error: &Error) -> Refusal {
    let status = error.http_status().filter(|status| (400..500).contains(status)).unwrap_or(422);
    let code = error.wire_code().unwrap_or("rejected").to_owned();
    Refusal::new(status, code, error.message().to_owned())
}
