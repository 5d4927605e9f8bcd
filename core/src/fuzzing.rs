//! What the fuzz targets in `tests/fuzz` call: each reads hostile bytes as the engine would, and holds what was taken to
//! a promise. Only with the feature `testing`; not for applications.
//!
//! The first byte of an input says what is done with the rest: read as it is, or dressed first with what a fuzzer cannot
//! guess, a signature or a seal. Keys are fixed, so that an input that fails will fail again.

#![allow(missing_docs, clippy::missing_panics_doc, clippy::unwrap_used)]

mod events;
mod finding;
mod framed;
mod gateway;
mod relaying;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use x25519_dalek::StaticSecret;

use crate::crypto::cx::{NodeKey, ReplyKey, ReplySeal, SealingKey};
use crate::crypto::digest::unhex;
use crate::crypto::ticket::{
    Expected, ExpectedCaller, TICKET_AUDIENCE, TICKET_TYPE, verify_consumer_token, verify_ticket,
};
use crate::crypto::token::{Domain, MAX_TOKEN_BYTES, TokenSigner};
use crate::options::{TaskOptions, is_node_id};
use crate::protocol::sealed::open_reply;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::types::{CHAT, MAX_JSON_DEPTH, Payload};
use crate::wire::directory::{Ticketed, read_nodes, read_ticket};
use crate::wire::sealed::write_sealed_reply;
use crate::wire::task::{Sending, TaskBody, TaskRequest, write_reply, write_request};

const ISSUER: &str = "https://directory.example";
const NODE: &str = "n-1";
const CALLER: &str = "c-1";
const TASK: &str = "t-1";
const NOW: u64 = 1_795_000_000;
const GRACE_S: u64 = 10;

/// A target: its name, inputs to begin with, and what is done with every input.
pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] = &[
    Target { name: "ticket", seeds: ticket_seeds, run: ticket },
    Target { name: "consumer_token", seeds: consumer_token_seeds, run: consumer_token },
    Target { name: "sealed_task", seeds: sealed_task_seeds, run: sealed_task },
    Target { name: "sealed_reply", seeds: sealed_reply_seeds, run: sealed_reply },
    Target { name: "events", seeds: events::seeds, run: events::run },
    Target { name: "directory", seeds: directory_seeds, run: directory },
    Target { name: "register", seeds: register_seeds, run: crate::directory::fuzzed::register },
    Target { name: "discover", seeds: discover_seeds, run: crate::directory::fuzzed::discover },
    Target { name: "task", seeds: task_seeds, run: task },
    Target { name: "frames", seeds: framed::frames_seeds, run: framed::frames },
    Target { name: "message", seeds: framed::message_seeds, run: framed::message },
    Target { name: "fragments", seeds: framed::fragments_seeds, run: framed::fragments },
    Target { name: "stun", seeds: finding::stun_seeds, run: finding::stun },
    Target { name: "punch", seeds: finding::punch_seeds, run: finding::punch },
    Target { name: "gateway", seeds: gateway::seeds, run: gateway::run },
    Target { name: "relay_bind", seeds: relaying::relay_bind_seeds, run: relaying::relay_bind },
];

/// Splits off the byte that says what to do.
fn split(data: &[u8]) -> (u8, &[u8]) {
    data.split_first().map_or((0, data), |(mode, rest)| (*mode, rest))
}

fn seed(mode: u8, rest: impl AsRef<[u8]>) -> Vec<u8> {
    [&[mode], rest.as_ref()].concat()
}

/// Whether this is one JSON text, by a reader that builds nothing.
fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok()
}

/// How deeply JSON that is well-formed is nested, counted another way than the engine does.
fn depth(json: &[u8]) -> usize {
    let (mut now, mut most, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' if !in_text => now -= 1,
            _ => {}
        }
    }
    most
}

// --- signed texts ---

fn signer() -> TokenSigner {
    TokenSigner::from_seed(&[7; 32])
}

/// The text as it is, or the rest signed as claims, for the right purpose or for the other one.
fn signed(data: &[u8], domain: Domain, other: Domain) -> Option<(String, bool)> {
    match split(data) {
        (1, claims) => Some((signer().sign_json(domain, claims), true)),
        (2, claims) => Some((signer().sign_json(other, claims), false)),
        (_, text) => Some((std::str::from_utf8(text).ok()?.to_owned(), true)),
    }
}

/// What verified must be what our key signs for this purpose, and is read again by another reader.
fn claims_of(token: &str, domain: Domain) -> Value {
    assert!(token.len() <= MAX_TOKEN_BYTES);
    let json = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    assert_eq!(token, signer().sign_json(domain, &json), "taken, and not signed by the directory");
    serde_json::from_slice(&json).unwrap()
}

fn ticket(data: &[u8]) {
    let Some((token, right)) = signed(data, Domain::DispatchTicket, Domain::ConsumerToken) else { return };
    let expected = Expected { issuer: ISSUER, node_id: NODE, intent: CHAT, now_unix_s: NOW };
    let Ok(taken) = verify_ticket(&token, &signer().public_key(), expected) else { return };
    assert!(right, "a text of another kind passed for a ticket");
    let claims = claims_of(&token, Domain::DispatchTicket);
    for (name, wanted) in [
        ("v", json!(1)),
        ("typ", json!(TICKET_TYPE)),
        ("iss", json!(ISSUER)),
        ("aud", json!(TICKET_AUDIENCE)),
        ("node_id", json!(NODE)),
        ("intent", json!(CHAT)),
        ("exp", json!(taken.exp)),
        ("jti", json!(taken.jti)),
    ] {
        assert_eq!(claims[name], wanted, "{name}");
    }
    assert!(taken.exp > NOW, "a ticket without time left was taken");
    assert!(unhex::<12>(&taken.jti).is_some());
    assert!(taken.policy_manifest_sha256.is_none_or(|digest| unhex::<32>(&digest).is_some()));
    let later = Expected { now_unix_s: taken.exp, ..expected };
    assert!(verify_ticket(&token, &signer().public_key(), later).is_err(), "taken at its end");
    let stranger = TokenSigner::from_seed(&[8; 32]).public_key();
    assert!(verify_ticket(&token, &stranger, expected).is_err(), "taken with another directory's key");
}

fn ticket_claims() -> Value {
    json!({
        "v": 1, "typ": TICKET_TYPE, "iss": ISSUER, "aud": TICKET_AUDIENCE, "jti": "0123456789abcdef01234567",
        "node_id": NODE, "intent": CHAT, "iat": NOW, "exp": NOW + 120, "policy_manifest_sha256": "a".repeat(64),
    })
}

fn ticket_seeds() -> Vec<Vec<u8>> {
    let claims = ticket_claims().to_string();
    let text = signer().sign_json(Domain::DispatchTicket, claims.as_bytes());
    vec![seed(0, text), seed(1, &claims), seed(2, &claims)]
}

fn consumer_token(data: &[u8]) {
    let Some((token, right)) = signed(data, Domain::ConsumerToken, Domain::DispatchTicket) else { return };
    let expected = ExpectedCaller {
        issuer: Some(ISSUER),
        caller: None,
        target: NODE,
        intent: CHAT,
        now_unix_s: NOW,
        grace_s: GRACE_S,
    };
    let key = signer().public_key();
    let Ok(taken) = verify_consumer_token(&token, &key, expected) else { return };
    assert!(right, "a text of another kind passed for a consumer token");
    let claims = claims_of(&token, Domain::ConsumerToken);
    for (name, wanted) in [
        ("v", json!(1)),
        ("iss", json!(ISSUER)),
        ("aud", json!(NODE)),
        ("sub", json!(taken.caller)),
        ("exp", json!(taken.exp)),
    ] {
        assert_eq!(claims[name], wanted, "{name}");
    }
    assert!(claims["intent"] == CHAT || claims["intent"] == "*");
    assert!(!taken.caller.is_empty(), "nobody was taken for a caller");
    assert!(taken.exp.saturating_add(GRACE_S) > NOW, "a token without time left was taken");
    let iat = &claims["iat"];
    assert!(iat.is_null() || iat.as_u64().unwrap() <= NOW + GRACE_S, "a token was taken before its time");
    for (what, other) in [
        ("another node's", ExpectedCaller { target: "n-2", ..expected }),
        ("another directory's", ExpectedCaller { issuer: Some("https://elsewhere.example"), ..expected }),
        ("another caller's", ExpectedCaller { caller: Some("nobody of this name"), ..expected }),
    ] {
        let refused = verify_consumer_token(&token, &key, other).is_err();
        assert!(refused || taken.caller == "nobody of this name", "{what} token was taken");
    }
}

fn consumer_token_seeds() -> Vec<Vec<u8>> {
    let claims = json!({
        "v": 1, "iss": ISSUER, "sub": CALLER, "aud": NODE, "intent": "*", "iat": NOW, "exp": NOW + 300,
    })
    .to_string();
    let text = signer().sign_json(Domain::ConsumerToken, claims.as_bytes());
    vec![seed(0, text), seed(1, &claims), seed(2, &claims)]
}

// --- sealed tasks and replies ---

fn node_key() -> NodeKey {
    NodeKey::from_private([3; 32])
}

fn seal(plaintext: &[u8]) -> (Vec<u8>, ReplyKey) {
    let key = SealingKey::read(&node_key().public_json(), NOW).unwrap();
    key.seal_with(&StaticSecret::from([5; 32]), [9; 12], TASK, CHAT, plaintext).unwrap()
}

/// Puts another byte in a place; both are chosen by the first three bytes of an input.
fn changed(mut text: Vec<u8>, choice: &[u8]) -> Vec<u8> {
    if let [high, low, byte, ..] = choice {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % text.len();
        text[at] = *byte;
    }
    text
}

/// A node opens an envelope: as it is (0), sealed to it (1), or sealed to it and changed in one byte (2).
fn sealed_task(data: &[u8]) {
    let (mode, rest) = split(data);
    let node = node_key();
    let (envelope, original) = match mode {
        1 => (seal(rest).0, Some(rest)),
        2 => (changed(seal(rest).0, rest), Some(rest)),
        _ => (rest.to_vec(), None),
    };
    let opened = node.open(&envelope, TASK, CHAT);
    assert!(mode != 1 || opened.is_ok(), "what was sealed to the node does not open");
    let Ok((payload, _)) = opened else { return };
    assert!(original.is_none_or(|original| payload == original), "a changed envelope opened to another text");
    let read: Value = serde_json::from_slice(&envelope).unwrap();
    assert_eq!(read["recipient_key_id"], node.key_id(), "opened, and sealed to another key");
    assert!(node.open(&envelope, "t-2", CHAT).is_err(), "opened for another task");
    assert!(node.open(&envelope, TASK, "urn:iicp:intent:llm:embedding:v1").is_err(), "opened for another intent");
    assert!(NodeKey::from_private([4; 32]).open(&envelope, TASK, CHAT).is_err(), "opened by another node");
}

fn sealed_task_seeds() -> Vec<Vec<u8>> {
    let payload = br#"{"messages":[{"role":"user","content":"hello"}]}"#;
    vec![seed(0, seal(payload).0), seed(1, payload), seed(2, [&[0, 60, b'A'], &payload[..]].concat())]
}

fn sealed_answer(reply: &[u8]) -> (ReplyKey, Vec<u8>) {
    let (envelope, key) = seal(b"{}");
    let (_, sealer): (_, ReplySeal) = node_key().open(&envelope, TASK, CHAT).unwrap();
    let answer = write_sealed_reply(TASK, |out| sealer.seal_with([11; 12], TASK, reply, out)).unwrap();
    (key, answer)
}

/// A client reads a node's 200: as it is with a key (0) and without (3), the rest sealed as a reply (1), or a good
/// sealed reply changed in one byte (2).
fn sealed_reply(data: &[u8]) {
    let (mode, rest) = split(data);
    let good = write_reply(TASK, br#"{"answer":"42"}"#, 1.0);
    let (key, answer) = match mode {
        1 => sealed_answer(rest),
        2 => {
            let (key, answer) = sealed_answer(&good);
            (key, changed(answer, rest))
        }
        _ => (seal(b"{}").1, rest.to_vec()),
    };
    let answer = Bytes::from(answer);
    let opened = open_reply(TASK, &answer, (mode != 3).then_some(&key));
    let Ok(result) = opened else { return };
    assert!(is_json(result.bytes()), "a result that is no JSON");
    assert!(depth(result.bytes()) <= MAX_JSON_DEPTH, "a result that is nested too deeply");
    match mode {
        1 => assert!(open_reply(TASK, &answer, None).is_err(), "a sealed reply passed for a plain one"),
        2 => assert_eq!(result.bytes(), &br#"{"answer":"42"}"#[..], "a changed reply opened to another result"),
        3 => return,
        _ => {}
    }
    let read: Value = serde_json::from_slice(&answer).unwrap();
    assert!(read["iicp_conf_resp"].is_object(), "a plain reply passed for a sealed one");
    let inner = read["iicp_conf_resp"].to_string();
    assert!(key.open(TASK, inner.as_bytes()).is_ok());
    assert!(key.open("t-2", inner.as_bytes()).is_err(), "a reply opened for another task");
}

fn sealed_reply_seeds() -> Vec<Vec<u8>> {
    let reply = write_reply(TASK, br#"{"answer":"42"}"#, 1.0);
    let page = br#"{"status":"completed","choices":[],"error":null}"#;
    let backend = br#"{"status":"completed","error_code":502,"error_message":"down"}"#;
    let mut seeds = vec![seed(0, sealed_answer(&reply).1), seed(2, [0, 90, b'A']), seed(2, [0, 12, b'2'])];
    for text in [&reply[..], page, backend] {
        seeds.extend([seed(1, text), seed(3, text), seed(0, text)]);
    }
    seeds
}

// --- what directories answer ---

/// A client reads an answer to `discover` (odd: the first byte is also the most nodes it asked for) or for a ticket.
fn directory(data: &[u8]) {
    let (mode, body) = split(data);
    if mode % 2 == 0 {
        if let Ok(Ticketed { ticket, node }) = read_ticket(body) {
            assert!(is_node_id(&node.node_id) && !node.endpoint.is_empty());
            let expected = Expected { issuer: ISSUER, node_id: &node.node_id, intent: CHAT, now_unix_s: NOW };
            if verify_ticket(&ticket, &signer().public_key(), expected).is_ok() {
                assert_eq!(claims_of(&ticket, Domain::DispatchTicket)["node_id"], node.node_id);
            }
        }
        return;
    }
    let most = usize::from(mode % 50) + 1;
    let Ok(listed) = read_nodes(body, most) else { return };
    assert!(listed.nodes.len() <= most, "more nodes than were asked for");
    for node in &listed.nodes {
        assert!(is_node_id(&node.node_id) && !node.endpoint.is_empty());
        if let Some(Ok(key)) = node.cx_public_key.as_ref().map(|key| SealingKey::read(key, NOW)) {
            let shown = node.cx_public_key.as_ref().unwrap();
            assert_eq!(shown["key_id"], key.key_id(), "a key under another's name");
            assert!(!key.has_expired(NOW), "a key that is over");
        }
        let Ok(endpoint) = Endpoint::parse("the node", &node.endpoint) else { continue };
        let reaches = [Reach::Public, Reach::Loopback, Reach::Private].map(|reach| endpoint.judge(reach).is_ok());
        assert!(reaches[2] || !reaches[0], "an address that is public, and may not be called even if it were private");
        assert!(!(reaches[0] && endpoint.is_loopback()), "this machine passed for a public one");
        assert!(!reaches.contains(&true) || endpoint.join("/v1/task").is_ok());
    }
}

fn directory_seeds() -> Vec<Vec<u8>> {
    let node = json!({
        "node_id": NODE, "endpoint": "https://node.example:8443/x", "score": 0.5, "available": true, "region": "eu-lab",
        "models": ["m"], "load": 0.1, "reputation_score": 0.9, "cx_public_key": node_key().public_json(),
        "health_label": "ok", "directory_observed_reachable": true, "browser_usable": null,
        "node_policy_manifest": { "verification": { "canonical_sha256": "a".repeat(64) } },
    });
    let mut literal = node.clone();
    literal["endpoint"] = "http://[::ffff:127.0.0.1]:80".into();
    let list = |nodes: &[&Value]| {
        json!({ "nodes": nodes, "count": 1, "profile_negotiation": { "status": "compatible", "dispatch_allowed": true } })
            .to_string()
    };
    let ticket = signer().sign_json(Domain::DispatchTicket, ticket_claims().to_string().as_bytes());
    let ticketed = json!({ "ticket": ticket, "node_id": NODE, "route": node, "intent": CHAT, "expires_at": NOW + 120 });
    vec![
        seed(1, list(&[&node, &literal])),
        seed(49, list(&[&literal; 60])),
        seed(1, list(&[])),
        seed(0, ticketed.to_string()),
    ]
}

// --- tasks ---

/// A node reads a task; what it read is written anew and must be read as the same.
fn task(data: &[u8]) {
    let Ok(read) = TaskRequest::read(data) else { return };
    assert!(read.nonce().is_none_or(|nonce| is_json(nonce.as_bytes()) && nonce != "null"));
    let whole: Value = serde_json::from_slice(data).unwrap_or_default();
    let shown = read.node_token();
    let in_either = |token: &str| ["node_token", "token"].iter().any(|name| whole["auth"][name] == *token);
    assert!(whole.is_null() || shown.is_none_or(|token| in_either(&token)), "a token that the task does not show");
    let _ = (read.constraints.qos(), read.constraints.priority());
    let names_profiles = whole.is_null() || !whole["constraints"]["required_profiles"].is_null();
    assert!(names_profiles || !read.constraints.requires_unknown_profiles());
    assert!(read.iicp_conf.is_none_or(|conf| is_json(conf.get().as_bytes())));
    let Some(payload) = read.payload else { return };
    let payload = payload.get().as_bytes();
    assert!(is_json(payload), "a payload that is no JSON");
    assert!(depth(payload) <= MAX_JSON_DEPTH, "a payload that is nested too deeply");
    let options = TaskOptions {
        intent: read.intent.clone().into_owned(),
        source_node_id: read.source_node_id.as_deref().map(str::to_owned),
        ..TaskOptions::default()
    };
    let payload = Payload::from_json(payload.to_vec()).unwrap();
    let written = write_request(
        &options,
        &read.task_id,
        TaskBody::Plain(&payload),
        Sending { timeout_ms: 1_000, streamed: false },
    );
    let again = TaskRequest::read(&written).unwrap();
    assert_eq!((&again.task_id, &again.intent), (&read.task_id, &read.intent));
    assert_eq!(again.source_node_id, read.source_node_id);
    assert_eq!(again.payload.map(|payload| payload.get().as_bytes()), Some(&payload.bytes()[..]));
    assert!(!again.wants_sealed_reply() && again.iicp_conf.is_none());
}

fn task_seeds() -> Vec<Vec<u8>> {
    let plain = json!({
        "task_id": TASK, "intent": CHAT, "payload": { "messages": [{ "role": "user", "content": "\u{1f600}\n" }] },
        "constraints": {
            "timeout_ms": 30_000, "qos": "interactive", "qos_class": "interactive", "model": "m", "max_tokens": 9,
            "priority": "high", "required_profiles": ["p"],
        },
        "source_node_id": NODE, "auth": { "node_token": null, "token": "s" }, "nonce": "n",
    });
    let envelope: Value = serde_json::from_slice(&seal(b"{}").0).unwrap();
    let sealed = json!({
        "task_id": TASK, "intent": CHAT, "cx_response_encryption": "required", "iicp_conf": envelope,
    });
    let deep = format!(r#"{{"task_id":"t","intent":"i","payload":{}{}}}"#, "[".repeat(128), "]".repeat(128));
    vec![plain.to_string().into(), sealed.to_string().into(), deep.into()]
}

// --- what nodes and clients ask of a directory ---

fn register_seeds() -> Vec<Vec<u8>> {
    let whole = json!({
        "node_id": NODE, "endpoint": "http://127.0.0.1:9484", "region": "eu-central", "current_node_token": "t",
        "capabilities": [{ "intent": CHAT, "models": ["m"], "max_tokens": 8192, "input_modalities": ["text"] }],
        "limits": { "max_concurrent": 4, "tokens_per_min": 10_000 },
        "transport_endpoint": "iicp://127.0.0.1:9484", "transport_method": "direct", "nat_type": "full_cone",
        "exposure_mode": "ipv4_public_direct", "backend": "ollama", "relay_capable": true, "relay_accept_port": 9485,
        "policy": { "allow_remote_inference": true, "pricing_credits_per_1000": 2.5 },
        "pricing": { "credit_cost_multiplier": 1.0, "pricing_model": "per_token", "declaration_signature": "00" },
        "availability": [{ "start": "22:00", "end": "06:00", "share": 0.5 }],
        "cx_public_key": node_key().public_json(), "sdk_language": "rust", "sdk_version": "0.7.109",
    });
    vec![whole.to_string().into_bytes(), b"{}".to_vec(), br#"{"endpoint":"http://a.b","limits":null}"#.to_vec()]
}

fn discover_seeds() -> Vec<Vec<u8>> {
    let all = format!(
        "intent={CHAT}&qos=interactive&region=eu-central&model=m&min_reputation=0.5&limit=10&cip_capable=true\
         &relay_capable=1&modality=image&max_multiplier=2&min_quality_score=0.1&view=public"
    );
    vec![all.into_bytes(), b"intent=a%2Bb&limit=51&limit=1".to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a target that refuses everything would look like one that holds its promise.
    #[test]
    fn the_seeds_of_every_target_hold_and_are_what_they_say() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            seeds.iter().for_each(|seed| (target.run)(seed));
        }
        let expected = Expected { issuer: ISSUER, node_id: NODE, intent: CHAT, now_unix_s: NOW };
        let text = String::from_utf8(ticket_seeds()[0][1..].to_vec()).unwrap();
        assert!(verify_ticket(&text, &signer().public_key(), expected).is_ok());
        let (key, answer) = sealed_answer(&write_reply(TASK, b"{}", 1.0));
        assert!(open_reply(TASK, &answer.into(), Some(&key)).is_ok());
        assert!(node_key().open(&sealed_task_seeds()[0][1..], TASK, CHAT).is_ok());
        assert_eq!(read_nodes(&directory_seeds()[1][1..], 50).unwrap().nodes.len(), 50);
        assert!(read_ticket(&directory_seeds()[3][1..]).is_ok());
        assert!(task_seeds().iter().all(|seed| TaskRequest::read(seed).is_ok()));
    }
}
