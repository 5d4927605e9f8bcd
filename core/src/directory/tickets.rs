//! The signed texts that a directory hands out: dispatch tickets, consumer tokens and relay bind tickets.

use axum::extract::State;
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::Shared;
use super::answer::{Outcome, Refusal, json, ok};
use super::desk::{Caller, Desk};
use super::form::Form;
use super::limits::Route;
use super::node::Node;
use super::score::Wish;
use super::view::NodeView;
use crate::crypto::digest::{hex, random};
use crate::crypto::ticket::{RELAY_TICKET_TYPE, TICKET_AUDIENCE, TICKET_TYPE};
use crate::crypto::token::Domain;
use crate::options::is_node_id;

const TICKET_S: u64 = 120;
const CONSUMER_TOKEN_S: u64 = 300;
const RELAY_TICKET_S: u64 = 120;
/// Most nodes that a client may exclude.
const MOST_EXCLUDED: usize = 10;

#[derive(Serialize)]
struct TicketClaims<'a> {
    v: u8,
    typ: &'static str,
    iss: &'a str,
    aud: &'static str,
    jti: &'a str,
    node_id: &'a str,
    intent: &'a str,
    iat: u64,
    exp: u64,
    /// So that the route cannot come with the promises of another.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_manifest_sha256: Option<&'a str>,
}

#[derive(Serialize)]
struct Ticket<'a> {
    ticket: String,
    ticket_id_prefix: &'a str,
    expires_at: u64,
    intent: &'a str,
    node_id: &'a str,
    node_id_prefix: &'a str,
    route: NodeView<'a>,
    algorithm: &'static str,
    data_class: &'static str,
    route_fields_present: bool,
    prompt_payload_accepted: bool,
}

#[derive(Serialize)]
struct RelayClaims<'a> {
    v: u8,
    typ: &'static str,
    jti: &'a str,
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
    /// What the relay's TLS is proven with, if the relay says so: the worker holds it against what it has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay_tls_spki_sha256: Option<&'a str>,
}

#[derive(Serialize)]
struct ConsumerClaims<'a> {
    v: u8,
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    intent: &'a str,
    iat: u64,
    exp: u64,
}

/// `POST dispatch/ticket`: one route, with the directory's signature.
pub(super) async fn dispatch_ticket(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    desk.limit(Route::Ticket, caller.ip)?;
    let wish = read_ticket_wish(&body)?;
    let (score, node) = choose(&desk, &wish)?;
    let now = desk.now().unix_s;
    let jti = hex(&random::<12>()?);
    let claims = TicketClaims {
        v: 1,
        typ: TICKET_TYPE,
        iss: &caller.base,
        aud: TICKET_AUDIENCE,
        jti: &jti,
        node_id: &node.id,
        intent: &wish.intent,
        iat: now,
        exp: now + TICKET_S,
        policy_manifest_sha256: node.record.manifest.as_ref().map(|manifest| &*manifest.sha256),
    };
    json(
        StatusCode::CREATED,
        &Ticket {
            ticket: desk.signer.sign(Domain::DispatchTicket, &claims)?,
            ticket_id_prefix: &jti[..12],
            expires_at: claims.exp,
            intent: &wish.intent,
            node_id: &node.id,
            node_id_prefix: node.id.get(..8).unwrap_or(&node.id),
            route: NodeView::route(&node, score, Some(&wish.intent), now),
            algorithm: "ed25519",
            data_class: "ticketed_route_dispatch",
            route_fields_present: true,
            prompt_payload_accepted: false,
        },
    )
}

fn read_ticket_wish(body: &[u8]) -> Result<Wish, Refusal> {
    let mut form = Form::json(body)?;
    let mut wish = Wish::read(&mut form);
    wish.node_id = form.text("node_id", 64);
    wish.node_id_prefix = form.text("node_id_prefix", 36);
    wish.exclude = form.texts("exclude_node_id_prefixes", MOST_EXCLUDED, 36).unwrap_or_default();
    if wish.node_id.is_some() && wish.node_id_prefix.is_some() {
        form.fault("node_id_prefix", "must not be given together with node_id");
    }
    form.finish()?;
    wish.check_risk()?;
    // One is disclosed; a second shows that a prefix is ambiguous.
    wish.limit = 2;
    Ok(wish)
}

fn choose(desk: &Shared, wish: &Wish) -> Result<(f64, Node), Refusal> {
    let mut found = desk.store().select(wish, desk.now()).into_iter();
    let first = found.next().ok_or_else(|| {
        Refusal::not_found("no_route_available", "no eligible node serves the intent with these filters")
    })?;
    if wish.node_id_prefix.is_some() && found.next().is_some() {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "ambiguous_node_prefix",
            "more than one node has this prefix; give a longer one",
        ));
    }
    Ok(first)
}

/// `GET directory-key`: what tickets are verified with.
pub(super) async fn directory_key(State(desk): Desk, caller: Caller) -> Outcome {
    desk.limit(Route::DirectoryKey, caller.ip)?;
    ok(&json!({ "public_key": desk.signer.public_key_hex(), "algorithm": "ed25519" }))
}

/// `POST consumer-token`: names a registered caller to one provider.
pub(super) async fn consumer_token(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    let own = desk.registered(&caller)?;
    desk.limits.as_ref().map_or(Ok(()), |limits| limits.consumer_token(&own.id))?;
    let mut form = Form::json(&body)?;
    let (target, intent) = (form.text("target_node_id", 64), form.text("intent", 256));
    let target = form.require("target_node_id", target).unwrap_or_default();
    form.finish()?;
    if desk.store().get(&target).is_none() {
        return Err(Refusal::not_found("not_found", "the target node is not registered here"));
    }
    let (intent, now) = (intent.as_deref().unwrap_or("*"), desk.now().unix_s);
    let exp = now + CONSUMER_TOKEN_S;
    let claims = ConsumerClaims { v: 1, iss: &caller.base, sub: &own.id, aud: &target, intent, iat: now, exp };
    let token = desk.signer.sign(Domain::ConsumerToken, &claims)?;
    let body = json!({
        "token": token, "expires_at": exp, "caller_node_id": &*own.id, "target_node_id": target, "intent": intent,
    });
    json(StatusCode::CREATED, &body)
}

/// `POST relay/ticket`: lets a registered worker bind itself, once, to a relay that it names or to any.
pub(super) async fn relay_ticket(State(desk): Desk, caller: Caller, body: Bytes) -> Outcome {
    let own = desk.registered(&caller)?;
    desk.limits.as_ref().map_or(Ok(()), |limits| limits.relay_ticket(&own.id))?;
    let mut form = if body.is_empty() { Form::query("") } else { Form::json(&body)? };
    let relay = form.text("relay_node_id", 64);
    if relay.as_deref().is_some_and(|id| !is_node_id(id)) {
        form.fault("relay_node_id", "must be the id of a node");
    }
    form.finish()?;
    let pin = relay.as_deref().and_then(|relay| desk.store().get(relay)).and_then(|relay| relay.record.relay_pin());
    let (now, jti) = (desk.now().unix_s, hex(&random::<16>()?));
    let claims = RelayClaims {
        v: 1,
        typ: RELAY_TICKET_TYPE,
        jti: &jti,
        iss: &caller.base,
        sub: &own.id,
        aud: relay.as_deref().unwrap_or("*"),
        iat: now,
        exp: now + RELAY_TICKET_S,
        relay_tls_spki_sha256: pin.as_deref(),
    };
    let mut body = json!({
        "ticket": desk.signer.sign(Domain::RelayBind, &claims)?,
        "expires_at": claims.exp,
        "worker_node_id": &*own.id,
        "relay_node_id": relay,
        "algorithm": "ed25519",
    });
    if let Some(pin) = pin {
        body["relay_tls_spki_sha256"] = pin.into();
    }
    json(StatusCode::CREATED, &body)
}
