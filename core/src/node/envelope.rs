//! What stands in a task, checked and opened.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

use super::State;
use super::refusal::{self, invalid};
use crate::crypto::cx::ReplySeal;
use crate::crypto::digest::fingerprint;
use crate::error::Result;
use crate::options::{MAX_TIMEOUT_MS, is_task_id};
use crate::protocol::admission::{Body, Refusal};
use crate::protocol::gate::Rank;
use crate::telemetry;
use crate::types::{Payload, Priority, Qos, is_intent};
use crate::wire::task::TaskRequest;

/// A task that was found well-formed and served here.
pub(super) struct Accepted {
    pub(super) task_id: String,
    pub(super) intent: usize,
    pub(super) payload: Payload,
    pub(super) qos: Qos,
    pub(super) priority: Priority,
    /// Its place among those that wait, if it may wait.
    pub(super) rank: Option<Rank>,
    pub(super) timeout: Duration,
    pub(super) model: Option<String>,
    pub(super) max_tokens: Option<u64>,
    pub(super) source_node_id: Option<String>,
    /// Whether credits may be asked for it.
    pub(super) creditable: bool,
    /// Seals the reply, if the caller takes no other.
    pub(super) seal: Option<ReplySeal>,
    /// Fingerprints of the id and of what was asked.
    pub(super) id: u128,
    pub(super) content: u128,
}

/// Reads the envelope, and says which bytes it stands in.
pub(super) fn read<'a>(body: &'a Body<'_>) -> Result<(&'a Bytes, TaskRequest<'a>), Refusal> {
    let (bytes, request) = match body {
        Body::Json(json) => (json, TaskRequest::read(json)),
        Body::Parts(parts) => (&parts.payload, TaskRequest::of_parts(parts)),
    };
    Ok((bytes, request.map_err(|why| invalid(format!("the body is not a task: {why}")))?))
}

/// Checks what can be checked before anything is opened; which of the node's intents it is.
pub(super) fn check(state: &State, request: &TaskRequest<'_>) -> Result<usize, Refusal> {
    if !is_task_id(&request.task_id) {
        return Err(invalid("task_id must be 1 to 128 visible ASCII characters without '|'; a UUIDv4 is best"));
    }
    if !is_intent(&request.intent) {
        return Err(invalid("intent must read urn:iicp:intent:<domain>:<action>:v<N>"));
    }
    if request.constraints.timeout_ms == Some(0) {
        return Err(invalid("constraints.timeout_ms must be above 0"));
    }
    if request.constraints.requires_unknown_profiles() {
        return Err(refusal::unsupported_profile());
    }
    state.intents.iter().position(|served| **served == *request.intent).ok_or_else(refusal::unknown_intent)
}

/// The whole task, opened if it was sealed. `bytes` are what holds the request.
pub(super) fn open(
    state: &State,
    bytes: &Bytes,
    request: &TaskRequest<'_>,
    intent: usize,
    id: u128,
) -> Result<Accepted, Refusal> {
    let (payload, seal) = payload(state, bytes, request)?;
    let constraints = &request.constraints;
    let timeout_ms = constraints.timeout_ms.unwrap_or(state.options.default_timeout_ms);
    let model = constraints.model.as_deref().filter(|model| !model.is_empty());
    // What was answered sealed is never given out in plain text: whoever repeats a task that he cannot read himself, but
    // takes a plain reply, asks for something else. An intent holds no '|', so the parts cannot run into each other.
    let asked: &[u8] = if seal.is_some() { b"|sealed|" } else { b"|" };
    let wish = match (model, constraints.max_tokens, request.idempotency_key) {
        (None, None, None) => String::new(),
        wish => format!("{wish:?}"),
    };
    Ok(Accepted {
        id,
        content: fingerprint(&[request.intent.as_bytes(), asked, wish.as_bytes(), payload.bytes()]),
        task_id: request.task_id.clone().into_owned(),
        intent,
        payload,
        qos: constraints.qos(),
        priority: constraints.priority(),
        rank: Rank::of(constraints.qos(), constraints.priority()),
        timeout: Duration::from_millis(timeout_ms.min(MAX_TIMEOUT_MS)),
        model: model.map(str::to_owned),
        max_tokens: constraints.max_tokens,
        source_node_id: request.source_node_id.clone().map(Cow::into_owned),
        creditable: state.options.receipts && !request.is_part(),
        seal,
    })
}

/// The payload, opened if it was sealed, and what seals the reply if that was asked for. `bytes` are what holds the request.
fn payload(state: &State, bytes: &Bytes, request: &TaskRequest<'_>) -> Result<(Payload, Option<ReplySeal>), Refusal> {
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
