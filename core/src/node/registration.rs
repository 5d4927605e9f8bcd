//! Staying in the directory: probe ourselves, register, report, register again when forgotten, leave at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::Method;
use tokio::sync::oneshot;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::reaching::{Moves, Way};
use super::{State, receipts};
use crate::crypto::digest::jitter;
use crate::discovery::directory_client::DirectoryClient;
use crate::error::{Code, Error, Result};
use crate::nat;
use crate::options::NodeCapability;
use crate::protocol::declaration::declare;
use crate::protocol::heartbeat::{Next, Registration};
use crate::relay::Place;
use crate::state::Credentials;
use crate::telemetry;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::transport::http_client::{Call, NoReply};
use crate::types::Secret;
use crate::wire::directory::{
    Capability, HeartbeatRequest, Limits, RegisterRequest, SDK_COMPATIBILITY, TransportMetadata,
};
use crate::wire::events::LIFECYCLE;

/// First pause before a directory that did not answer is told again where the node has moved; then twice as long each time.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait for the directory's answer, as the published nodes wait.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait when leaving.
const FAREWELL: Duration = Duration::from_secs(2);

/// Two registrations of a node whose offer changes are at least so far apart.
const CALM: Duration = Duration::from_secs(1);

/// Keeps the node registered until it is told to leave, and asks for the credits of its tasks. `first` learns how the
/// first registration went.
pub(super) async fn keep(
    state: Arc<State>,
    directory: DirectoryClient,
    kept: Option<Credentials>,
    first: oneshot::Sender<Result<()>>,
) {
    tokio::select! {
        () = stay(&state, &directory, kept, first) => {}
        () = receipts::send(&state, &directory) => {}
    }
}

async fn stay(
    state: &State,
    directory: &DirectoryClient,
    kept: Option<Credentials>,
    first: oneshot::Sender<Result<()>>,
) {
    let mut registration = begin(state, kept);
    let mut first = Some(first);
    let mut next = Next::Register(Duration::ZERO);
    let mut last = None;
    let leaving = state.leaving.clone();
    let mut moves = Moves::of(state);
    tokio::select! {
        () = leaving.cancelled() => return,
        () = first_way(state, &mut moves, &mut first) => {}
    }
    // Where the node was when it last asked to be listed, where it is listed, and how often it asked in vain.
    let (mut at, mut listed, mut in_vain) = (None, None, 0);
    loop {
        tokio::select! {
            () = leaving.cancelled() => break,
            () = tokio::time::sleep(pause(&next)) => {}
            () = moves.next() => {
                // While there is no way, the directory knows the last one, and hears that the node is not available.
                if state.way().is_some() && state.way() != at {
                    next = Next::Register(Duration::ZERO);
                }
                continue;
            }
            () = state.offer.changed(), if registration.is_registered() => {
                let since = last.map_or(CALM, |last: Instant| last.elapsed());
                next = Next::Register(CALM.saturating_sub(since));
                continue;
            }
        }
        let step = async {
            match next {
                Next::Register(_) => {
                    last = Some(Instant::now());
                    at = state.way();
                    register(state, directory, &mut registration).await
                }
                Next::Report(_) => (report(state, directory, &mut registration, true).await, Ok(())),
            }
        };
        let asked = matches!(next, Next::Register(_));
        let given_up = async {
            leaving.cancelled().await;
            if asked {
                // The directory may list the node all the same, and only its answer lets the node leave again.
                tokio::time::sleep(FAREWELL).await;
            }
        };
        let (after, result) = tokio::select! {
            () = given_up => break,
            done = step => done,
        };
        next = after;
        if asked && result.is_ok() {
            (listed, in_vain) = (at.clone(), 0);
        } else if asked && registration.is_registered() && at != listed && result.as_ref().is_err_and(Error::retryable)
        {
            // Callers are sent to where it no longer is. What came with it often took the way to the directory too.
            next = Next::Register(FIRST_RETRY.saturating_mul(1 << in_vain.min(5)));
            in_vain += 1;
        }
        state.registered.store(registration.is_registered(), Ordering::Release);
        state.receipts.know(credentials(&registration).filter(|_| registration.is_registered()));
        if let Some(first) = first.take() {
            // What waiting cannot mend, the operator must.
            let refused = result.as_ref().is_err_and(|error| !error.retryable());
            let _ = first.send(result);
            if refused {
                return;
            }
        }
    }
    leave(state, directory, &mut registration).await;
}

/// With what the last registration gave, if it is known; the operator's own key goes before.
fn begin(state: &State, kept: Option<Credentials>) -> Registration {
    let own = state.options.node_hmac_key.clone();
    let secret = |text: Zeroizing<String>| Secret::from(&**text);
    let (token, key) = match kept {
        Some(kept) => (Some(secret(kept.node_token)), kept.node_hmac_key.map(secret)),
        None => (None, None),
    };
    Registration::new(token, own.or(key))
}

/// Waits until it is known how the node will be reached. Who waits for the first registration is told if that takes long.
async fn first_way(state: &State, moves: &mut Moves, first: &mut Option<oneshot::Sender<Result<()>>>) {
    let patience = if state.standing.is_some() { nat::LONGEST + PATIENCE } else { PATIENCE };
    let known = tokio::time::timeout(patience, moves.known(state)).await.is_ok();
    if !known && let Some(first) = first.take() {
        let why = if state.standing.is_some() {
            "no way to this node was found, and no relay; it is not registered until there is one, see its NAT report"
        } else {
            "no relay is to be found; the node is not registered until there is one"
        };
        let _ = first.send(Err(Error::new(Code::RelayUnreachable, why)));
    }
    moves.known(state).await;
}

/// Nodes that began at the same moment do not report at the same moments for ever.
fn pause(next: &Next) -> Duration {
    match next {
        Next::Register(pause) => *pause,
        Next::Report(pause) => pause.mul_f64(0.9 + 0.1 * jitter()),
    }
}

async fn register(state: &State, directory: &DirectoryClient, registration: &mut Registration) -> (Next, Result<()>) {
    // What was changed until now goes along.
    let _ = state.offer.changed().now_or_never();
    let offered = state.offer.offered();
    let way = state.way();
    let result = match probe_self(state, way.as_ref()).await {
        Ok(()) => {
            let native = match &way {
                Some(way) => way.native(&state.options),
                None => state.native_endpoint.clone(),
            };
            let request = request(state, registration, &offered, way.as_ref(), native.as_deref());
            directory.register(&request, deadline(PATIENCE)).await
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(reply) => {
            state.callers.set_own_token(reply.node_token.expose());
            let next = registration.registered(reply);
            state.offer.listed(offered);
            if let (Some(exchange), Some(token)) = (&state.exchange, registration.token()) {
                exchange.set_token(token);
            }
            keep_credentials(state, directory, registration).await;
            tracing::info!(target: telemetry::NODE, node_id = %state.node_id, "registered");
            (next, Ok(()))
        }
        Err(error) => {
            let error = explained(state, error);
            let error = if state.refuted(&error) { error.with_retryable(true) } else { error };
            let next = registration.register_failed(error.retry_after(), jitter());
            tracing::warn!(target: telemetry::NODE, node_id = %state.node_id, code = %error.code(), "not registered");
            (next, Err(error))
        }
    }
}

fn credentials(registration: &Registration) -> Option<Credentials> {
    Some(Credentials {
        node_token: Zeroizing::new(registration.token()?.to_owned()),
        node_hmac_key: registration.hmac_key().map(|key| Zeroizing::new(key.to_owned())),
    })
}

/// What the directory gave is kept before anything else is done with it: the old is worth nothing any more.
async fn keep_credentials(state: &State, directory: &DirectoryClient, registration: &Registration) {
    let (Some(state_dir), Some(credentials)) = (state.options.state_dir.clone(), credentials(registration)) else {
        return;
    };
    let (node_id, url) = (state.node_id.clone(), directory.url().to_owned());
    let writing = tokio::task::spawn_blocking(move || {
        crate::state::keep_credentials(state_dir.as_ref(), &node_id, &url, &credentials)
    });
    // A disk that hangs must not silence the node.
    let why = match tokio::time::timeout(PATIENCE, writing).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(_)) => "the thread that writes broke down".to_owned(),
        Err(_) => "the disk does not answer".to_owned(),
    };
    tracing::warn!(
        target: telemetry::NODE, node_id = %state.node_id, why,
        "the registration cannot be kept in state_dir; after a restart the node may not be taken for the same"
    );
}

/// The directory holds on to a node's sealing key, so that nobody can put another in its place. Who comes back under an
/// old id with a new key is told how not to.
fn explained(state: &State, error: Error) -> Error {
    if error.wire_code() == Some("IICP-E050") {
        let message = format!(
            "the directory knows node {} at another endpoint, which still answers; stop the node there, or choose another `node_id`",
            state.node_id
        );
        return Error::of_options(error.code(), message).with_wire_code("IICP-E050").with_http_status(403);
    }
    if error.wire_code() != Some("IICP-E049") {
        return error;
    }
    let known = format!("the directory knows node {} with another sealing key than it has now", state.node_id);
    let remedy = if state.options.state_dir.is_some() {
        "restore the key file of that node in `state_dir`, or choose another `node_id`"
    } else {
        "set `state_dir`, so that the key outlives the process, and choose another `node_id` until the old one is forgotten"
    };
    Error::of_options(error.code(), format!("{known}; {remedy}")).with_wire_code("IICP-E049").with_http_status(403)
}

/// A directory lists what it is told; a node that cannot be reached under its own URL must not be listed. From behind a
/// NAT, that it does not reach itself proves nothing.
async fn probe_self(state: &State, way: Option<&Way>) -> Result<()> {
    let url = match way {
        // Seen from outside; not every gateway leads those inside back in.
        Some(Way::Own(_)) => return Ok(()),
        // Nobody answers there yet: the registration comes first, and brings the ticket for the relay.
        Some(Way::Relay(Place { bound: false, .. })) => return Ok(()),
        Some(Way::Relay(place)) => Endpoint::parse("the relay", &place.endpoint)?.join("/iicp/health")?,
        None if state.options.is_behind_nat() => return Ok(()),
        None => state.endpoint.join("/iicp/health")?,
    };
    let endpoint = url.origin().ascii_serialization();
    let call = Call::new(Method::GET, url, Reach::Private, deadline(PATIENCE), 1 << 20);
    match state.http.call(call).await {
        Ok(reply) if reply.status == 200 => Ok(()),
        other => {
            let seen = match other {
                Err(NoReply::Tls(why)) => why.as_str().to_owned(),
                Err(no_reply) => format!("{no_reply:?}"),
                Ok(reply) => reply.status.to_string(),
            };
            Err(Error::of_options(
                Code::Connect,
                format!(
                    "the node does not answer under its own endpoint {endpoint}: {seen}; check the option `endpoint`"
                ),
            ))
        }
    }
}

fn request<'a>(
    state: &'a State,
    registration: &'a Registration,
    offered: &'a [NodeCapability],
    way: Option<&'a Way>,
    native: Option<&'a str>,
) -> RegisterRequest<'a> {
    let options = &state.options;
    let capability = |capability: &'a NodeCapability| Capability {
        intent: &capability.intent,
        models: &capability.models,
        max_tokens: capability.max_tokens.unwrap_or(options.max_tokens),
        input_modalities: &capability.input_modalities,
        output_modalities: &capability.output_modalities,
        supported_profiles: profiles(capability),
    };
    RegisterRequest {
        node_id: &state.node_id,
        // As the operator spelled it: other peers judge the text, not what it means.
        endpoint: way.map_or(&state.advertised, |way| way.endpoint()),
        transport_endpoint: native,
        region: &options.region,
        capabilities: offered.iter().map(capability).collect(),
        limits: Limits { max_concurrent: options.max_concurrent, tokens_per_min: options.tokens_per_min },
        current_node_token: registration.token(),
        node_hmac_key: registration.hmac_key(),
        relay_capable: state.relay.is_some(),
        relay_accept_port: state.relay.as_ref().map(|relay| relay.accept_port()),
        transport_metadata: transport_metadata(state, way),
        cx_public_key: state.key.public_json(),
        backend: options.engine.or(state.offer.engine()),
        policy: options.policy.as_ref().map(Into::into),
        pricing: options.pricing.as_ref().map(|pricing| declare(pricing, registration.hmac_key())),
        transport_method: way.map(Way::method).or(options.transport_method),
        nat_type: options.nat_type.or(way.map(Way::nat_type)),
        exposure_mode: options.exposure_mode.or(way.map(Way::exposure)),
        policy_manifest: options.policy_manifest.as_ref(),
        listing: options.listing.as_ref().map(Into::into),
        operator_delegation: options.operator_delegation.as_ref(),
        operator_display_name: options.operator_display_name.as_deref(),
        supported_receipt_profiles: &options.supported_receipt_profiles,
        sdk_language: "rust",
        sdk_version: SDK_COMPATIBILITY,
        sdk_compatibility_version: SDK_COMPATIBILITY,
        implementation_name: "iicp-core",
        implementation_version: env!("CARGO_PKG_VERSION"),
    }
}

/// What the operator says that the capability keeps to, and what every node does: its tasks can be followed.
fn profiles(capability: &NodeCapability) -> Vec<&str> {
    /// Directories take no more.
    const MOST: usize = 16;
    let mut profiles: Vec<&str> = capability.supported_profiles.iter().map(String::as_str).collect();
    if !profiles.contains(&LIFECYCLE) && profiles.len() < MOST {
        profiles.push(LIFECYCLE);
    }
    profiles
}

fn transport_metadata<'a>(state: &'a State, way: Option<&'a Way>) -> Option<TransportMetadata<'a>> {
    let relay = || state.relay.as_ref().map(|relay| relay.pin().to_string());
    match way {
        Some(Way::Relay(place)) => Some(TransportMetadata::Worker {
            relay_for: &state.node_id,
            relay_host: &place.relay_host,
            relay_port: place.relay_port,
        }),
        Some(Way::Own(path)) => {
            Some(TransportMetadata::Own { tier: Some(path.tier()), relay_tls_spki_sha256: relay() })
        }
        None => relay().map(|pin| TransportMetadata::Own { tier: None, relay_tls_spki_sha256: Some(pin) }),
    }
}

/// Tells the directory how the node is. `staying` is false for the last time.
async fn report(state: &State, directory: &DirectoryClient, registration: &mut Registration, staying: bool) -> Next {
    let own = |text: &str| Zeroizing::new(text.to_owned());
    let Some(token) = registration.token().map(own) else { return Next::Register(Duration::ZERO) };
    let challenge_response = registration.challenge_response();
    let unpriced = registration.unpriced().map(own);
    let batch = registration.report(|most| state.metrics.take_outcomes(most));
    let (active, limit) = (state.gate.active(), state.gate.limit());
    let report = HeartbeatRequest {
        node_id: &state.node_id,
        status: "available",
        available: staying
            && state.is_reachable()
            && active < limit
            && !state.gate.is_draining()
            && !state.offer.is_draining(),
        load: state.load(),
        active_jobs: active,
        max_concurrent: limit,
        metrics: batch.map(|(_, outcomes)| outcomes),
        metrics_batch_id: batch.map(|(id, _)| id),
        challenge_response,
        health_models: state.offer.live_models(),
        backend_stability: state.offer.stability(),
        pricing: match (&state.options.pricing, &unpriced) {
            (Some(pricing), Some(key)) => Some(declare(pricing, Some(key))),
            _ => None,
        },
    };
    let patience = if staying { PATIENCE } else { FAREWELL };
    match directory.heartbeat(&token, &report, deadline(patience)).await {
        Ok(reply) => registration.reported(reply),
        Err(error) => {
            let next = registration.report_failed(error.http_status(), error.retry_after(), jitter());
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

async fn leave(state: &State, directory: &DirectoryClient, registration: &mut Registration) {
    if !registration.is_registered() {
        return;
    }
    if state.options.receipts {
        // Nobody is sent here any more, but the token is still good for what is owed for the last tasks.
        report(state, directory, registration, false).await;
        let left = || state.leave_by.get().map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
        let _ = tokio::time::timeout(left() / 2, state.idle()).await;
        let _ = tokio::time::timeout((left() / 2).min(FAREWELL), state.receipts.sent()).await;
    }
    if registration.has_pending() || state.metrics.has_outcomes() {
        // What was done since the last report would be lost.
        report(state, directory, registration, false).await;
    }
    let Some(token) = registration.token() else { return };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_says_that_its_tasks_can_be_followed() {
        let mut capability = NodeCapability::default();
        assert_eq!(profiles(&capability), [LIFECYCLE]);
        capability.supported_profiles = vec!["urn:iicp:profile:a:v1".into(), LIFECYCLE.into()];
        assert_eq!(profiles(&capability), ["urn:iicp:profile:a:v1", LIFECYCLE], "said once");
        capability.supported_profiles = (0..16).map(|n| format!("urn:iicp:profile:p{n}:v1")).collect();
        assert_eq!(profiles(&capability).len(), 16, "what the operator says goes first");
    }
}
