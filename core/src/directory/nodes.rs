//! What nodes ask for: to register, to report, to leave.

use axum::extract::State;
use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use uuid::Uuid;

use super::answer::{Outcome, Refusal, json, ok};
use super::desk::{Caller, Desk};
use super::form::Form;
use super::limits::{MOST_NODES_PER_ADDRESS, Route};
use super::node::{Outcomes, Report};
use super::pricing::{Declaration, Pricing};
use super::probe::{Health, not_alive};
use super::record::{MOST_BYTES, Record, Registration};
use super::store::{Candidate, NotTaken};
use super::view::{REPUTATION_EPOCH, REPUTATION_MODEL};
use super::{Shared, telemetry};
use crate::crypto::digest::{hex, hmac_hex, random, token_hash};

/// `POST register`: takes a node under a fresh token, whether it is new or known.
pub(super) async fn register(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    desk.limit(Route::Register, caller.ip)?;
    if body.len() > MOST_BYTES {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload_too_large",
            format!("a registration must be at most {MOST_BYTES} bytes"),
        ));
    }
    let Registration { node_id, proof, hmac_key, declaration, mut record } = Registration::read(&body)?;
    let node_id = node_id.unwrap_or_else(|| Uuid::new_v4().to_string());
    check_statements(&mut record, &node_id, desk.now().unix_s)?;
    let proof = proof.as_deref().map(token_hash);
    let probed = match &desk.probe {
        Some(probe) => {
            check_takeover(&desk, &node_id, &record.endpoint, proof.as_ref()).await?;
            let asked = !record.is_behind_nat();
            if asked {
                match probe.health(&record.endpoint).await {
                    Health::Alive => {}
                    Health::Dead => return Err(not_alive()),
                    Health::Elsewhere => return Err(elsewhere()),
                }
            }
            asked
        }
        None => false,
    };
    let node_token = hex(&random::<32>()?);
    // Published nodes keep the first key they are given, so a node must get the same one each time.
    let hmac_key = hmac_key.unwrap_or_else(|| hmac_hex(&desk.hmac_secret, &node_id));
    let pricing =
        declaration.map_or(Ok(Pricing::default()), |declared| declared.judge(&hmac_key, record.most_multiplier()))?;
    let token = token_hash(&node_token);
    let candidate = Candidate { record, proof, token, hmac_key: hmac_key.clone(), probed, pricing, from: caller.ip };
    let now = desk.now();
    let taken = desk.store().register(&node_id, candidate, now).map_err(not_taken)?;
    // What a node is told to be registered must be so after the next start, too.
    desk.written().await;
    tracing::debug!(target: telemetry::DIRECTORY, node_id, recovered = taken.recovered, "a node registered");
    let answer = json!({
        "node_id": node_id,
        "node_token": node_token,
        "proxy_token": desk.proxy_token(&node_id, &token),
        "node_hmac_key": hmac_key,
        "expires_at": null,
        "jwt_token": null,
        "jwt_expires_at": null,
        "directory": "iicp-core",
        "observed_source_ip": caller.ip.to_string(),
        "next_heartbeat_ms": desk.options.heartbeat_ms,
        "recovered": taken.recovered,
        "lifetime_jobs": taken.completed,
    });
    json(StatusCode::CREATED, &answer)
}

/// What the operator says counts while it lasts.
fn check_statements(record: &mut Record, node_id: &str, now_unix_s: u64) -> Result<(), Refusal> {
    record.operator = record.operator.take().filter(|operator| operator.vouches_for(node_id, now_unix_s));
    if record.manifest.as_ref().is_some_and(|manifest| manifest.is_over(now_unix_s)) {
        return Err(manifest_fault("is over; sign the manifest again"));
    }
    Ok(())
}

fn manifest_fault(what: &str) -> Refusal {
    Refusal::invalid([("policy_manifest.signature".into(), vec![what.into()])].into())
}

/// Whoever moves a node elsewhere must be its owner, unless nobody answers at its old place any more.
async fn check_takeover(desk: &Shared, node_id: &str, endpoint: &str, proof: Option<&[u8; 32]>) -> Result<(), Refusal> {
    let old = {
        let store = desk.store();
        let known = store.get(node_id).filter(|_| !store.is_owner(node_id, proof));
        known.map(|node| node.record.endpoint.clone()).filter(|old| old != endpoint)
    };
    match (old, &desk.probe) {
        (Some(old), Some(probe)) if probe.health(&old).await == Health::Alive => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "IICP-E050",
            "the node answers at its registered endpoint; send its current_node_token to move it",
        )),
        _ => Ok(()),
    }
}

fn not_taken(why: NotTaken) -> Refusal {
    match why {
        NotTaken::KeyChanged => Refusal::new(
            StatusCode::FORBIDDEN,
            "IICP-E049",
            "cx_public_key differs from the registered one; send the current_node_token to change it",
        ),
        NotTaken::Superseded => {
            manifest_fault("was superseded: the node has shown a manifest of a later rotation_epoch")
        }
        NotTaken::NameTaken => Refusal::invalid(
            [(
                "operator_display_name".into(),
                vec!["IICP-E051: another operator has this name, or one that reads like it; choose another".into()],
            )]
            .into(),
        ),
        NotTaken::Full => Refusal::full(),
        NotTaken::Crowded => Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "IICP-E052",
            format!(
                "this address has {MOST_NODES_PER_ADDRESS} active nodes, and may have no more; deregister one first"
            ),
        ),
    }
}

fn elsewhere() -> Refusal {
    Refusal::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "IICP-E035",
        "the endpoint is not on this machine, and this directory asks nobody else for their health; register an endpoint \
         on loopback, or switch the directory's option probe off",
    )
}

/// `DELETE register`: forgets a node.
pub(super) async fn deregister(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    let mut form = Form::json(&body)?;
    let node_id = form.text("node_id", 64);
    let node_id = form.require("node_id", node_id).unwrap_or_default();
    form.finish()?;
    remove(&desk, &node_id, &caller)?;
    desk.written().await;
    if let Some(limits) = &desk.limits {
        limits.give_back(caller.ip);
    }
    tracing::debug!(target: telemetry::DIRECTORY, node_id, "a node deregistered");
    ok(&json!({ "deregistered": true, "node_id": node_id }))
}

fn remove(desk: &Shared, node_id: &str, caller: &Caller) -> Result<(), Refusal> {
    let mut store = desk.store();
    if store.get(node_id).is_none() {
        return Err(Refusal::not_found("IICP-E003", "the node is not registered here"));
    }
    if !store.is_owner(node_id, caller.token.as_ref()) {
        return Err(Refusal::unauthorized());
    }
    store.remove(node_id);
    Ok(())
}

/// `POST heartbeat`: a node is alive, and says how it is.
pub(super) async fn heartbeat(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    let own = desk.registered(&caller)?;
    desk.limits.as_ref().map_or(Ok(()), |limits| limits.heartbeat(&own.id))?;
    let mut form = Form::json(&body)?;
    if form.text("node_id", 64).is_some_and(|claimed| *claimed != *own.id) {
        return Err(Refusal::unauthorized());
    }
    let mut report = read_report(&mut form);
    let declaration = Declaration::read(&mut form);
    form.finish()?;
    if let Some(declared) = declaration {
        // It may have left in the meantime.
        let hmac_key = desk.store().hmac_key(&own.id).ok_or_else(Refusal::unauthorized)?;
        report.pricing = Some(declared.judge(&hmac_key, own.record.most_multiplier())?);
    }
    let batch_id = report.batch_id.clone();
    let challenge = hex(&random::<16>()?);
    let now = desk.now();
    let beat = desk.store().heartbeat(&own.id, report, challenge.clone(), now);
    // It may have left in the meantime.
    let beat = beat.ok_or_else(Refusal::unauthorized)?;
    if batch_id.is_some() {
        // The node forgets what it is told that was taken.
        desk.written().await;
    }
    let mut answer = json!({
        "ok": true,
        "next_heartbeat_ms": desk.options.heartbeat_ms,
        "reputation_score": beat.reputation,
        "reputation_model": REPUTATION_MODEL,
        "reputation_epoch": REPUTATION_EPOCH,
        "metrics_batch_accepted": batch_id,
        "challenge": challenge,
    });
    if let Some(proven) = beat.proven {
        answer["challenge_verified"] = proven.into();
    }
    ok(&answer)
}

fn read_report(form: &mut Form<'_>) -> Report {
    let mut outcomes = Outcomes::default();
    if let Some(mut metrics) = form.nested("metrics") {
        outcomes = Outcomes {
            success: metrics.count("tasks_success", 0..=1_000).unwrap_or_default(),
            failed: metrics.count("tasks_failed", 0..=1_000).unwrap_or_default(),
            latency_ms: metrics.number("avg_latency_ms", 0.0..=1e9),
        };
        form.absorb(metrics);
    }
    let mut draining = None;
    if let Some(mut backend) = form.nested("backend_stability") {
        draining = backend.text("backend_state", 64).map(|state| state == "draining");
        form.absorb(backend);
    }
    Report {
        available: form.flag("available").unwrap_or(true),
        load: form.number("load", 0.0..=1e9).map(|load| load.min(1.0)),
        active_jobs: form.count("active_jobs", 0..=u32::MAX),
        draining,
        live_models: form.texts("health_models", 64, 255),
        outcomes,
        batch_id: form.text("metrics_batch_id", 64),
        challenge_response: form.text("challenge_response", 64),
        pricing: None,
    }
}

/// `GET me`: what the directory knows of the caller.
pub(super) async fn me(State(desk): Desk, caller: Caller) -> Outcome {
    let own = desk.registered(&caller)?;
    ok(&json!({
        "node_id": &*own.id, "observed_source_ip": caller.ip.to_string(), "endpoint": own.record.endpoint,
    }))
}
