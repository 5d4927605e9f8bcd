//! Discovery, and the signed texts that a directory hands out: dispatch tickets and consumer tokens.

use axum::extract::State;
use bytes::Bytes;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::json;

use super::Shared;
use super::answer::{Outcome, Refusal, json, ok};
use super::form::Form;
use super::limits::Route;
use super::routes::{Caller, Desk};
use super::score::Wish;
use super::store::Node;
use super::view::NodeView;
use crate::crypto::digest::{hex, random};
use crate::crypto::ticket::{TICKET_AUDIENCE, TICKET_TYPE};
use crate::crypto::token::Domain;
use crate::protocol::profiles::{self, Asked, Negotiation, negotiate};

const TICKET_S: u64 = 120;
const CONSUMER_TOKEN_S: u64 = 300;
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
struct ConsumerClaims<'a> {
    v: u8,
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    intent: &'a str,
    iat: u64,
    exp: u64,
}

#[derive(Serialize)]
struct Found<'a> {
    count: usize,
    nodes: Vec<NodeView<'a>>,
    query_ms: u64,
    relay_available: bool,
    view: &'a str,
    data_class: &'static str,
    route_fields_present: bool,
    dispatch_ticket_endpoint: &'static str,
    ticketed_dispatch_available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_negotiation: Option<Negotiation>,
}

/// `GET discover`: the nodes for an intent, best first; none is an empty list.
pub(super) async fn discover(State(desk): Desk, caller: Caller, uri: Uri) -> Outcome {
    desk.limit(Route::Discover, caller.ip)?;
    let mut form = Form::query(uri.query().unwrap_or_default());
    let wish = Wish::read(&mut form);
    let public = form.choice("view", &["dispatch", "public"]) == Some("public");
    let negotiation = read_profile(&mut form);
    form.finish()?;
    if !negotiation.dispatch_allowed {
        return Err(Refusal::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            profiles::UNSUPPORTED,
            "this directory does not know the required profile in this version; ask without profile_required",
        ));
    }
    let nodes = desk.store().select(&wish, desk.now());
    let view = if public { NodeView::public } else { NodeView::route };
    ok(&Found {
        count: nodes.len(),
        nodes: nodes.iter().map(|(score, node)| view(node, *score, Some(&wish.intent))).collect(),
        query_ms: 0,
        relay_available: nodes.iter().any(|(_, node)| node.record.relay_capable),
        view: if public { "public" } else { "dispatch" },
        data_class: if public { "public_presentation" } else { "route_dispatch" },
        route_fields_present: !public,
        dispatch_ticket_endpoint: "/api/v1/dispatch/ticket",
        ticketed_dispatch_available: true,
        profile_negotiation: negotiation.requested.then_some(negotiation),
    })
}

fn read_profile(form: &mut Form<'_>) -> Negotiation {
    let id = form.text("profile_id", 160);
    let version = form.text("profile_version", 64);
    let sha256 = form.text("profile_fixture_sha256", 64);
    negotiate(Asked {
        profile_id: id.as_deref(),
        profile_version: version.as_deref(),
        profile_fixture_sha256: sha256.as_deref(),
        profile_required: form.flag("profile_required").unwrap_or_default(),
    })
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
            route: NodeView::route(&node, score, Some(&wish.intent)),
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
