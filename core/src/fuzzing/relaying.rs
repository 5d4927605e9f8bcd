//! A relay reads what workers and consumers say to it.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::{NOW, is_json, seed, signer, split};
use crate::crypto::digest::hex;
use crate::crypto::ticket::{RELAY_TICKET_TYPE, verify_bind_ticket};
use crate::crypto::token::Domain;
use crate::protocol::relay::bind::{Applicant, Desk, DeskLimits, Refusal};
use crate::protocol::relay::source::Source;
use crate::protocol::relay::{is_worker_id, path_of, read_path};
use crate::wire::frame::{HEADER_BYTES, Kind};
use crate::wire::message::{RelayAck, RelayBind};
use crate::wire::relay::{
    Beginning, Call, Facts, Hello, Part, Response, write_bind, write_call, write_part, write_response, write_verdict,
};
use crate::wire::relayed::{self, Addressed, BindRequest, Brought, Envelope};

const WORKER: &str = "w-1";
const RELAY: &str = "r-1";

/// A bind (0), a bind whose ticket is the rest, signed (1), an answer (2), a call (3), a path (4), a task (5), what comes
/// over HTTP (6), INIT and ACK (7).
pub(super) fn relay_bind(data: &[u8]) {
    let (mode, rest) = split(data);
    match mode {
        0 => bind(rest),
        1 => ticket(rest),
        2 => answer(rest),
        3 => call(rest),
        4 => path(rest),
        5 => task(rest),
        6 => over_http(rest),
        _ => {
            let (init, ack) = (Hello::read(Kind::Init, rest), Hello::read(Kind::Ack, rest));
            assert!(!(init.ours && ack.ours) || rest.len() > 60, "both words in too few bytes");
        }
    }
}

fn bind(payload: &[u8]) {
    let Ok(bind) = RelayBind::read(payload) else { return };
    assert!(!bind.worker_id.is_empty());
    if let Ok(written) = write_bind(&bind) {
        let again = RelayBind::read(&written[HEADER_BYTES..]).unwrap();
        assert_eq!((again.worker_id, again.intent, again.ticket), (bind.worker_id, bind.intent, bind.ticket));
    }
    if !is_worker_id(bind.worker_id) {
        return;
    }
    let limits = DeskLimits { workers: 1, workers_per_source: 1, binds_per_minute: 1, ticket_required: false };
    let (mut desk, source) = (Desk::new(limits), Source::of([127, 0, 0, 1].into()));
    let mut come = |proof| {
        let applicant = Applicant { worker_id: bind.worker_id, proof, source };
        desk.bind(&applicant, Duration::ZERO, NOW, |number| number)
    };
    assert_eq!(come(None), Ok(None));
    assert_eq!(come(None), Err(Refusal::AlreadyBound));
    let key = signer().public_key();
    if let Some(Ok(claims)) = bind.ticket.map(|ticket| verify_bind_ticket(ticket, &key, bind.worker_id, RELAY, NOW)) {
        assert_eq!(come(Some(claims)), Ok(Some(1)), "who proves the id has it");
        assert!(come(Some(claims)).is_err(), "a ticket was good twice");
    }
    let ack = RelayAck { ok: true, worker_id: Some(bind.worker_id), reason: None, http_port: Some(9484) };
    assert_eq!(RelayAck::read(&write_verdict(&ack)[HEADER_BYTES..]), Ok(ack));
}

fn ticket(claims: &[u8]) {
    let text = signer().sign_json(Domain::RelayBind, claims);
    let Ok(taken) = verify_bind_ticket(&text, &signer().public_key(), WORKER, RELAY, NOW) else { return };
    let claims: serde_json::Value = serde_json::from_slice(claims).unwrap();
    assert!(taken.exp > NOW && claims["exp"] == taken.exp, "a ticket without time left was taken");
    assert_eq!(claims["jti"], hex(&taken.jti));
    assert!(claims["sub"] == WORKER && claims["typ"] == RELAY_TICKET_TYPE);
    assert!(claims["aud"] == "*" || claims["aud"] == RELAY);
}

fn answer(payload: &[u8]) {
    let payload = Bytes::copy_from_slice(payload);
    if let Ok(Some(Part { call, body, beginning })) = Part::read(&payload) {
        let frame = write_part(&call.to_string(), &body, Some(&beginning)).concat();
        let again = Part::read(&Bytes::from(frame).slice(HEADER_BYTES..)).unwrap().unwrap();
        assert_eq!(again, Part { call, body, beginning });
    }
    let Ok(Some(Response { call, body, status })) = Response::read(&payload) else { return };
    assert!(status.is_none_or(|status| (400..600).contains(&status)));
    let frame = write_response(&call.to_string(), &body, status.unwrap_or(200)).concat();
    let again = Response::read(&Bytes::from(frame).slice(HEADER_BYTES..)).unwrap().unwrap();
    assert_eq!(again, Response { call, body, status });
}

fn call(payload: &[u8]) {
    let Ok(read) = Call::read(payload) else { return };
    assert!(!read.call.is_empty());
    let (id, body) = (Uuid::from_u128(7), Bytes::copy_from_slice(read.body));
    let frame = write_call(id, &body, &read.facts).concat();
    let again = Call::read(&frame[HEADER_BYTES..]).unwrap();
    assert!(again.call == id.to_string() && again.body == read.body);
}

fn path(path: &[u8]) {
    let Ok(path) = std::str::from_utf8(path) else { return };
    let Some((id, _)) = read_path(path) else { return };
    assert!(is_worker_id(id) && path.starts_with(&path_of(id)));
    assert!(!path.contains(['%', '\\', '\0', ' ', '?', '#']) && !path.contains("..") && path.matches('/').count() == 5);
}

fn task(body: &[u8]) {
    let Ok(envelope) = Envelope::read(body) else { return };
    assert!(is_json(body), "forwarded, and no JSON that a worker would read");
    let task_id = envelope.task_id.unwrap_or_default();
    // The same bytes as a worker's answer.
    let Some(answer) = relayed::answer(&task_id, &Bytes::copy_from_slice(body)) else { return };
    assert!(is_json(&answer), "a worker's answer was spoilt on its way");
    let read: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    let own: serde_json::Value = serde_json::from_slice(body).unwrap();
    for (name, value) in own.as_object().unwrap() {
        assert_eq!(read[name], *value, "the worker's own fields win");
    }
    assert!(["task_id", "status", "generated_by_ai"].iter().all(|name| read.get(name).is_some()));
}

fn over_http(body: &[u8]) {
    if let Some(request) = BindRequest::read(body) {
        let (_, _, models) = (request.worker_id(), request.ticket(), request.models());
        assert!(models.len() <= 64 && models.iter().all(|model| model.len() <= 255));
    }
    let body = Bytes::copy_from_slice(body);
    if let Some(Brought { call, result }) = Brought::read(&body) {
        assert!(is_json(&result) && result.starts_with(b"{"));
        assert!(is_json(&relayed::write_pulled(&call, &result)));
    }
    if let Ok(Some(Addressed { task, .. })) = Addressed::read(&body) {
        assert!(is_json(&task));
    }
}

pub(super) fn relay_bind_seeds() -> Vec<Vec<u8>> {
    let claims = serde_json::json!({
        "v": 1, "typ": RELAY_TICKET_TYPE, "jti": "0123456789abcdef0123456789abcdef", "iss": "d", "sub": WORKER, "aud": "*",
        "iat": NOW, "exp": NOW + 120,
    })
    .to_string();
    let ticket = signer().sign_json(Domain::RelayBind, claims.as_bytes());
    let bind = |ticket| {
        let bind = RelayBind { worker_id: WORKER, intent: Some("i"), models: vec!["m"], ticket };
        write_bind(&bind).unwrap()[HEADER_BYTES..].to_vec()
    };
    let facts = Facts { consumer_token: Some("c".into()), origin: Some("o".into()), ..Facts::default() };
    let body = Bytes::from_static(br#"{"task_id":"t","result":{"ok":true}}"#);
    let call = Uuid::from_u128(7);
    vec![
        seed(0, bind(None)),
        seed(0, bind(Some(&ticket))),
        seed(1, claims),
        seed(2, &write_response(&call.to_string(), &body, 503).concat()[HEADER_BYTES..]),
        seed(
            2,
            &write_part(&call.to_string(), &body, Some(&Beginning { length: Some(7), events: true })).concat()
                [HEADER_BYTES..],
        ),
        seed(3, &write_call(call, &body, &facts).concat()[HEADER_BYTES..]),
        seed(4, "/v1/relay-for/w-1/v1/task"),
        seed(5, &body),
        seed(5, "{}"),
        seed(6, r#"{"worker_id":"w","models":["m"],"bind_ticket":"x"}"#),
        seed(6, r#"{"call_id":"c","result":{"result":1}}"#),
        seed(6, r#"{"target_node_id":"w","task":{"task_id":"t"}}"#),
        seed(7, &Hello { ours: true, punches: true }.write(Kind::Init)[HEADER_BYTES..]),
        seed(7, &Hello { ours: true, punches: true }.write(Kind::Ack)[HEADER_BYTES..]),
    ]
}
