//! What peers say about nodes. It is checked and noted as received, and nothing follows from it here: anybody on this
//! machine can register a node, so what nodes say of each other weighs nothing.

use axum::extract::State;
use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::answer::{Outcome, Refusal, json, ok};
use super::desk::{Caller, Desk};
use super::form::Form;
use super::limits::Route;
use crate::crypto::digest::{fingerprint, same, token_hash};

/// `POST telemetry`: what a proxy saw of a node.
pub(super) async fn telemetry(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    let refused = || Refusal::new(StatusCode::UNAUTHORIZED, "IICP-E032", "the bearer must be the node's proxy_token");
    let token = caller.token.ok_or_else(refused)?;
    let mut form = Form::json(&body)?;
    let proxy = form.text("proxy_node_id", 64).unwrap_or_default();
    let known = desk.store().token_of(&proxy).ok_or_else(refused)?;
    if !same(&token_hash(&desk.proxy_token(&proxy, &known)), &token) {
        return Err(refused());
    }
    let node = form.text("node_id", 36);
    let node = form.require("node_id", node).unwrap_or_default();
    let status = form.choice("status", &["success", "failure", "timeout"]);
    form.require("status", status);
    form.number("latency_ms_observed", 0.0..=1e9);
    form.count("tokens_observed", 0..=u32::MAX);
    form.finish()?;
    let seen = fingerprint(&[proxy.as_bytes(), b"|", node.as_bytes()]);
    if desk.once().observations.first(seen, desk.now().ms) {
        json(StatusCode::ACCEPTED, &json!({ "accepted": true }))
    } else {
        ok(&json!({ "accepted": false, "reason": "duplicate" }))
    }
}

/// `POST audit-report`: a node says that another does not do what it declares.
pub(super) async fn audit(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    desk.limit(Route::AuditReport, caller.ip)?;
    let own = desk.registered(&caller)?;
    let mut form = Form::json(&body)?;
    if form.text("node_id", 64).is_some_and(|claimed| *claimed != *own.id) {
        return Err(Refusal::unauthorized());
    }
    let target = form.text("target_node_id", 64);
    let target = form.require("target_node_id", target).unwrap_or_default();
    if *target == *own.id {
        form.fault("target_node_id", "must be another node");
    }
    let finding = form.choice("finding", &["declaration_divergence"]);
    form.require("finding", finding);
    form.finish()?;
    if desk.store().get(&target).is_none() {
        return Err(Refusal::not_found("not_found", "the target node is not registered here"));
    }
    let pair = fingerprint(&[own.id.as_bytes(), b"|", target.as_bytes()]);
    if !desk.once().reports.first(pair, desk.now().ms) {
        return Err(Refusal::too_many(24 * 3_600));
    }
    json(StatusCode::ACCEPTED, &json!({ "accepted": true }))
}
