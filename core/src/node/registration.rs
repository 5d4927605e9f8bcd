//! Staying in the directory: probe ourselves, register, report, register again when forgotten, leave at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Method;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::State;
use crate::crypto::digest::jitter;
use crate::discovery::directory_client::DirectoryClient;
use crate::error::{Code, Error, Result};
use crate::protocol::heartbeat::{Next, Registration};
use crate::telemetry;
use crate::transport::guard::Reach;
use crate::transport::http_client::Call;
use crate::wire::directory::{Capability, HeartbeatRequest, Limits, RegisterRequest, SDK_COMPATIBILITY};

/// Longest wait for the directory's answer, as the published nodes wait.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait when leaving.
const FAREWELL: Duration = Duration::from_secs(2);

/// Keeps the node registered until it is told to leave. `first` learns how the first registration went.
pub(super) async fn keep(state: Arc<State>, directory: DirectoryClient, first: oneshot::Sender<Result<()>>) {
    let mut registration = Registration::new();
    let mut first = Some(first);
    let mut next = Next::Register(Duration::ZERO);
    let leaving = state.leaving.clone();
    loop {
        let (Next::Register(pause) | Next::Report(pause)) = next;
        tokio::select! {
            () = leaving.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        let step = async {
            match next {
                Next::Register(_) => register(&state, &directory, &mut registration).await,
                Next::Report(_) => (report(&state, &directory, &mut registration).await, Ok(())),
            }
        };
        let (after, result) = tokio::select! {
            () = leaving.cancelled() => break,
            done = step => done,
        };
        next = after;
        state.registered.store(registration.is_registered(), Ordering::Release);
        if let Some(first) = first.take() {
            // What waiting cannot mend, the operator must.
            let refused = result.as_ref().is_err_and(|error| !error.retryable());
            let _ = first.send(result);
            if refused {
                return;
            }
        }
    }
    leave(&state, &directory, &registration).await;
}

async fn register(state: &State, directory: &DirectoryClient, registration: &mut Registration) -> (Next, Result<()>) {
    let result = match probe_self(state).await {
        Ok(()) => directory.register(&request(state, registration.token()), deadline(PATIENCE)).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(reply) => {
            let next = registration.registered(reply);
            tracing::info!(target: telemetry::NODE, node_id = %state.node_id, "registered");
            (next, Ok(()))
        }
        Err(error) => {
            let error = explained(state, error);
            let next = registration.register_failed(error.retry_after(), jitter());
            tracing::warn!(target: telemetry::NODE, node_id = %state.node_id, code = %error.code(), "not registered");
            (next, Err(error))
        }
    }
}

/// The directory holds on to a node's sealing key, so that nobody can put another in its place. Who comes back under an
/// old id with a new key is told how not to.
fn explained(state: &State, error: Error) -> Error {
    if error.wire_code() != Some("IICP-E049") {
        return error;
    }
    let known = format!("the directory knows node {} with another sealing key than it has now", state.node_id);
    let remedy = if state.options.state_dir.is_some() {
        "restore the key file of that node in state_dir, or choose another node_id"
    } else {
        "set state_dir, so that the key outlives the process, and choose another node_id until the old one is forgotten"
    };
    Error::new(error.code(), format!("{known}; {remedy}")).with_wire_code("IICP-E049").with_http_status(403)
}

/// A directory lists what it is told; a node that cannot be reached under its own URL must not be listed.
async fn probe_self(state: &State) -> Result<()> {
    let url = state.endpoint.join("/iicp/health")?;
    let call = Call::new(Method::GET, url, Reach::Private, deadline(PATIENCE), 1 << 20);
    match state.http.call(call).await {
        Ok(reply) if reply.status == 200 => Ok(()),
        other => {
            let seen = other.map_or_else(|no_reply| format!("{no_reply:?}"), |reply| reply.status.to_string());
            Err(Error::new(
                Code::Connect,
                format!(
                    "the node does not answer under its own endpoint {}: {seen}; check the option endpoint",
                    state.endpoint.as_str()
                ),
            ))
        }
    }
}

fn request<'a>(state: &'a State, token: Option<&'a str>) -> RegisterRequest<'a> {
    let options = &state.options;
    let capability = |intent: &'a Arc<str>| Capability {
        intent,
        models: &options.models,
        max_tokens: options.max_tokens,
        input_modalities: &["text"],
    };
    RegisterRequest {
        node_id: &state.node_id,
        // As the operator spelled it: other peers judge the text, not what it means.
        endpoint: &state.advertised,
        region: &options.region,
        capabilities: state.intents.iter().map(capability).collect(),
        limits: Limits { max_concurrent: options.max_concurrent, tokens_per_min: options.tokens_per_min },
        current_node_token: token,
        cx_public_key: state.key.public_json(),
        sdk_compatibility_version: SDK_COMPATIBILITY,
        implementation_name: "iicp-core",
        implementation_version: env!("CARGO_PKG_VERSION"),
    }
}

async fn report(state: &State, directory: &DirectoryClient, registration: &mut Registration) -> Next {
    let Some(token) = registration.token().map(str::to_owned) else { return Next::Register(Duration::ZERO) };
    let challenge_response = registration.challenge_response();
    let batch = registration.report(|most| state.metrics.take_outcomes(most));
    let report = HeartbeatRequest {
        node_id: &state.node_id,
        status: "available",
        available: state.gate.active() < state.gate.limit() && !state.gate.is_draining(),
        load: state.gate.load(),
        active_jobs: state.gate.active(),
        max_concurrent: state.options.max_concurrent,
        metrics: batch.map(|(_, outcomes)| outcomes),
        metrics_batch_id: batch.map(|(id, _)| id),
        challenge_response,
    };
    match directory.heartbeat(&token, &report, deadline(PATIENCE)).await {
        Ok(reply) => registration.reported(reply),
        Err(error) => {
            let next = registration.report_failed(error.http_status());
            let reason = match (&next, error.http_status()) {
                (Next::Register(_), _) => "unregistered",
                (Next::Report(_), Some(_)) => "refused",
                (Next::Report(_), None) => "unreachable",
            };
            state.metrics.heartbeat_failed(reason);
            tracing::warn!(target: telemetry::NODE, node_id = %state.node_id, code = %error.code(), reason, "heartbeat not taken");
            next
        }
    }
}

async fn leave(state: &State, directory: &DirectoryClient, registration: &Registration) {
    let Some(token) = registration.token().filter(|_| registration.is_registered()) else { return };
    state.registered.store(false, Ordering::Release);
    match directory.deregister(&state.node_id, token, deadline(FAREWELL)).await {
        Ok(()) => tracing::info!(target: telemetry::NODE, node_id = %state.node_id, "deregistered"),
        Err(error) => {
            tracing::warn!(target: telemetry::NODE, node_id = %state.node_id, code = %error.code(), "not deregistered");
        }
    }
}

fn deadline(patience: Duration) -> Instant {
    Instant::now() + patience
}
