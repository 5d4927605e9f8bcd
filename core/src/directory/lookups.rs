//! What anybody on this machine may ask: who is there, and what this directory is.

use std::sync::atomic::Ordering;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use serde_json::{Value, json};

use super::answer::{Outcome, Refusal, ok, prometheus};
use super::desk::{Caller, Desk};
use super::form::Form;
use super::limits::Route;
use super::node::Node;
use super::score::{self, Wish};
use super::view::{NodeView, prefix};
use crate::telemetry;
use crate::types::rfc3339;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Most entries of a listing.
const MOST_LISTED: usize = 100;
/// What names a node beyond doubt: nodes ask for themselves by the first eight characters of their id.
const PREFIX_BYTES: usize = 8;

/// A part of the path; not every sequence of bytes is text.
type Name = Result<Path<String>, PathRejection>;

/// `GET node/{id}`.
pub(super) async fn node(State(desk): Desk, caller: Caller, id: Name) -> Outcome {
    desk.limit(Route::Node, caller.ip)?;
    let known = id.ok().and_then(|Path(id)| desk.store().get(&id));
    let node = known.ok_or_else(|| Refusal::not_found("not_found", "no such node"))?;
    let score = score::score(&node, &Wish::default(), desk.now());
    ok(&NodeView::route(&node, score, None, desk.now().unix_s))
}

/// `GET registry/nodes/{prefix}`: nodes look for themselves here, and take a 404 for the order to register again.
pub(super) async fn registry_node(State(desk): Desk, caller: Caller, name: Name) -> Outcome {
    desk.limit(Route::Registry, caller.ip)?;
    let known = name.ok().and_then(|Path(name)| {
        let store = desk.store();
        let by_prefix = || store.with_prefix(&name).filter(|_| name.len() >= PREFIX_BYTES);
        store.get(&name).or_else(by_prefix)
    });
    let node = known.ok_or_else(|| Refusal::not_found("REGISTRY-NODE-NOT-FOUND", "no such node"))?;
    ok(&listed(&node))
}

fn listed(node: &Node) -> Value {
    json!({
        "node_id_prefix": prefix(&node.id),
        "region": node.record.region,
        "available": node.state.available,
        "browser_usable": true,
        "intents": node.record.serving(None).map(|capability| &*capability.intent).collect::<Vec<&str>>(),
    })
}

/// `GET registry/nodes`.
pub(super) async fn registry_nodes(State(desk): Desk, caller: Caller) -> Outcome {
    desk.limit(Route::Registry, caller.ip)?;
    let (nodes, count) = desk.store().active(MOST_LISTED, desk.now());
    ok(&json!({ "nodes": nodes.iter().map(listed).collect::<Vec<Value>>(), "count": count }))
}

/// `GET registry/intents`.
pub(super) async fn registry_intents(State(desk): Desk, caller: Caller) -> Outcome {
    desk.limit(Route::Registry, caller.ip)?;
    let intents = desk.store().intents(desk.now());
    let count = intents.len();
    let listed =
        intents.into_iter().take(MOST_LISTED).map(|(intent, nodes)| json!({ "intent": intent, "nodes": nodes }));
    ok(&json!({ "intents": listed.collect::<Vec<Value>>(), "count": count }))
}

/// `GET registry/stats`.
pub(super) async fn registry_stats(State(desk): Desk, caller: Caller) -> Outcome {
    desk.limit(Route::Registry, caller.ip)?;
    let (store, now) = (desk.store(), desk.now());
    let (registered, active, intents) = (store.len(), store.active(0, now).1, store.intents(now).len());
    drop(store);
    ok(&json!({ "registered_nodes": registered, "active_nodes": active, "intents": intents }))
}

/// `GET bootstrap`: some nodes to begin with.
pub(super) async fn bootstrap(State(desk): Desk, caller: Caller, uri: Uri) -> Outcome {
    desk.limit(Route::Bootstrap, caller.ip)?;
    let mut form = Form::query(uri.query().unwrap_or_default());
    let limit = form.count("limit", 0..=u32::MAX).map_or(5, |limit| limit.clamp(1, 20) as usize);
    form.finish()?;
    let now = desk.now();
    let (nodes, _) = desk.store().active(limit, now);
    let peer = |node: &Node| {
        json!({
            "node_id": &*node.id,
            "endpoint": node.record.endpoint,
            "region": node.record.region,
            "last_seen": rfc3339(now.calendar_s(node.state.seen_ms)),
        })
    };
    ok(&json!({ "peers": nodes.iter().map(peer).collect::<Vec<Value>>(), "count": nodes.len() }))
}

/// `GET stats`.
pub(super) async fn stats(State(desk): Desk) -> Outcome {
    let now = desk.now();
    let (_, active) = desk.store().active(0, now);
    let uptime_s = desk.started.elapsed().as_secs();
    ok(&json!({ "server": { "active_nodes": active, "version": VERSION, "uptime_seconds": uptime_s } }))
}

/// `GET /iicp/health`. A disk that takes nothing is told here; the directory serves all the same.
pub(super) async fn health(State(desk): Desk) -> Outcome {
    let (status, storage) = match &desk.keeper {
        Some(keeper) if keeper.is_failing() => ("degraded", "failing"),
        Some(_) => ("ok", "file"),
        None => ("ok", "memory"),
    };
    ok(&json!({ "ok": true, "status": status, "role": "directory", "version": VERSION, "storage": storage }))
}

/// `GET /iicp/ready`: whether nodes and clients may come.
pub(super) async fn ready() -> Outcome {
    ok(&json!({ "ready": true, "role": "directory" }))
}

/// `GET /metrics`, as Prometheus reads it.
pub(super) async fn metrics(State(desk): Desk) -> Outcome {
    let (registered, active) = {
        let store = desk.store();
        (store.len(), store.active(0, desk.now()).1)
    };
    let (nodes, answers) = (telemetry::DIRECTORY_NODES, telemetry::DIRECTORY_ANSWERS_TOTAL);
    let mut text = format!(
        "# TYPE {nodes} gauge\n{nodes}{{state=\"registered\"}} {registered}\n{nodes}{{state=\"active\"}} {active}\n\
         # TYPE {answers} counter\n"
    );
    for (class, count) in desk.answered.iter().enumerate().skip(2) {
        let count = count.load(Ordering::Relaxed);
        text.push_str(&format!("{answers}{{status=\"{class}xx\"}} {count}\n"));
    }
    Ok(prometheus(text))
}

/// `GET /.well-known/did.json`: the signing key as a DID document.
pub(super) async fn did(State(desk): Desk, caller: Caller) -> Outcome {
    let authority = caller.base.trim_start_matches("http://");
    let did = format!("did:web:{}", authority.replace(':', "%3A"));
    let key = URL_SAFE_NO_PAD.encode(desk.signer.public_key());
    ok(&json!({
        "id": did,
        "controller": did,
        "verificationMethod": [{
            "id": format!("{did}#key-1"),
            "type": "JsonWebKey2020",
            "controller": did,
            "publicKeyJwk": { "kty": "OKP", "crv": "Ed25519", "x": key },
        }],
        "service": [{
            "id": format!("{did}#directory"),
            "type": "IICPDirectory",
            "serviceEndpoint": format!("{}/api/v1", caller.base),
        }],
    }))
}
