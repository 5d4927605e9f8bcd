//! A relay's HTTP side: tasks for its workers, their health, and workers that pull.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue, ORIGIN, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::{self, json, preflight, refuse, wrong_method};
use super::{State, event_stream, punching, refusal};
use crate::crypto::digest::unhex;
use crate::crypto::pinned::PinnedKey;
use crate::discovery::directory_client::DirectoryClient;
use crate::error::{Code, Error, Result};
use crate::options::{MAX_TIMEOUT_MS, NodeOptions, RelayWorkerOptions};
use crate::protocol::admission::{self, Received};
use crate::protocol::relay::bind::Refusal;
use crate::protocol::relay::source::Source;
use crate::protocol::relay::{Errand, is_worker_id, path_of, read_path};
use crate::relay::{Fault, Forwarded, Listeners, PULL, Parts, Pulled, Relay, Reserved, TicketJudge, Worker};
use crate::runtime::TaskGroup;
use crate::transport::answer_body::AnswerBody;
use crate::transport::conn::Conn;
use crate::transport::http_server::{Answer, BodyFailure, read_body};
use crate::wire::failure::Failure;
use crate::wire::relay::{Beginning, Facts};
use crate::wire::relayed::{self, Addressed, BindRequest, Brought, Envelope};

/// Largest body of a bind.
const MOST_BIND: usize = 64 << 10;
/// Largest task that is copied out of its connection's buffer.
const MOST_COPIED: usize = 4 << 10;
/// How long a task keeps room at its worker while it arrives. Who sends slowly must not keep others from it.
const PROMPT: Duration = Duration::from_secs(1);

/// Takes the address on which workers are accepted, if the node is to be a relay.
pub(super) fn listen(options: &NodeOptions) -> Result<Option<Listeners>> {
    let Some(relay) = &options.relay_server else { return Ok(None) };
    let listeners = Listeners::bind(relay.host.as_deref().unwrap_or(&options.host), relay.port)?;
    if listeners.ticket_required(relay) && relay.ticket_key.is_none() && options.directory.is_empty() {
        return Err(Error::of_options(
            Code::ConfigInvalid,
            "a relay that wants tickets of its workers needs `directory` or `relay_server.ticket_key` to verify them with",
        ));
    }
    Ok(Some(listeners))
}

/// Accepts workers.
pub(super) fn serve(
    listeners: Listeners,
    options: &NodeOptions,
    node_id: &str,
    key: &PinnedKey,
    http_port: u16,
    directory: Option<DirectoryClient>,
    group: &TaskGroup,
) -> Result<Arc<Relay>> {
    let relay = options.relay_server.clone().unwrap_or_default();
    let ticket_key = relay.ticket_key.as_deref().and_then(unhex);
    let tickets = TicketJudge::new(node_id.to_owned(), ticket_key, directory);
    let relay = Relay::new(&relay, &listeners, http_port, tickets, key, group.clone())?;
    punching::observe(&relay, &listeners, options);
    relay.serve(listeners);
    Ok(relay)
}

/// Binds the node at a relay, if that is how it is to be reached.
pub(super) fn be_reached(state: &Arc<State>, directory: &DirectoryClient) {
    if let Some(options) = &state.options.relay_worker {
        work_at(state, directory, options, &state.group);
    }
}

/// Binds the node at relays while it has no other way, until the group closes: a second one stands by.
pub(super) fn bind_elsewhere(state: &Arc<State>, directory: &DirectoryClient, group: &TaskGroup) {
    work_at(state, directory, &RelayWorkerOptions { relays: 2, ..RelayWorkerOptions::default() }, group);
}

fn work_at(state: &Arc<State>, directory: &DirectoryClient, options: &RelayWorkerOptions, group: &TaskGroup) {
    let Some(exchange) = &state.exchange else { return };
    let worker = Worker {
        node_id: state.node_id.clone(),
        intents: state.intents.clone(),
        models: state.options.models.clone(),
        options: options.clone(),
        tasks: state.clone(),
        rendezvous: punching::host(state),
        directory: directory.clone(),
        http: state.http.clone(),
        exchange: exchange.clone(),
        most_body: state.options.max_body_bytes,
        held: Mutex::default(),
        at: Mutex::default(),
    };
    group.spawn("relay worker", worker.stay(group.clone()));
}

/// Whether a path is one of these.
pub(super) fn is_for_relay(path: &str) -> bool {
    path.starts_with("/v1/relay")
}

pub(super) async fn route(state: &Arc<State>, relay: &Arc<Relay>, request: Request<Incoming>, conn: &Conn) -> Answer {
    let path = request.uri().path().to_owned();
    if let Some((worker_id, errand)) = read_path(&path) {
        return match (errand, request.method()) {
            (Errand::Task | Errand::Health, &Method::OPTIONS) => preflight(),
            (Errand::Task, &Method::POST) => task(state, relay, worker_id, request, conn).await,
            (Errand::Task, _) => wrong_method("POST, OPTIONS"),
            (Errand::Punch, _) => punching::answer(state, relay, worker_id, request, conn).await,
            (Errand::Health, &Method::GET | &Method::HEAD) => health(relay, worker_id),
            (Errand::Health, _) => wrong_method("GET, HEAD, OPTIONS"),
        };
    }
    match (path.as_str(), request.method()) {
        (
            "/v1/relay" | "/v1/relay/bind" | "/v1/relay/pull" | "/v1/relay/result" | "/v1/relay/unbind",
            &Method::OPTIONS,
        ) => preflight(),
        ("/v1/relay", &Method::POST) => addressed(state, relay, request, conn).await,
        ("/v1/relay/bind", &Method::POST) => bind(relay, request, conn).await,
        ("/v1/relay/pull", &Method::GET) => pull(relay, &request).await,
        ("/v1/relay/result", &Method::POST) => result(state, relay, request, conn).await,
        ("/v1/relay/unbind", &Method::POST) => unbind(relay, &request),
        ("/v1/relay" | "/v1/relay/bind" | "/v1/relay/result" | "/v1/relay/unbind", _) => wrong_method("POST, OPTIONS"),
        ("/v1/relay/pull", _) => wrong_method("GET, OPTIONS"),
        _ => refuse(StatusCode::NOT_FOUND, "not_found", "a relay has no such path", &[]),
    }
}

fn health(relay: &Relay, worker_id: &str) -> Answer {
    let Some(models) = relay.models(worker_id) else { return unbound() };
    let health = serde_json::json!({ "status": "ok", "node_id": worker_id, "via_relay": true, "models": models });
    json(StatusCode::OK, health.to_string())
}

async fn task(
    state: &Arc<State>,
    relay: &Arc<Relay>,
    worker_id: &str,
    request: Request<Incoming>,
    conn: &Conn,
) -> Answer {
    let facts = facts(request.headers());
    if let Err(answer) = admit(state, request.headers(), conn) {
        return *answer;
    }
    let body = request.into_body();
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    // What there is no room for is not held until it is whole. Small ones are judged when they are there.
    let reserved = match (declared > MOST_COPIED).then(|| relay.reserve(worker_id, declared)).transpose() {
        Ok(reserved) => reserved,
        Err(fault) => {
            // Its sender gets to read why.
            let _ = read_body(body, 0, conn).await;
            return fault_answer(fault, "");
        }
    };
    match arrive(state, body, reserved, conn).await {
        Ok(body) => forward(relay, worker_id, body, facts, conn).await,
        Err(answer) => *answer,
    }
}

/// Takes a body, with its room at the worker as long as it comes promptly.
async fn arrive(state: &State, body: Incoming, reserved: Option<Reserved>, conn: &Conn) -> Result<Bytes, Box<Answer>> {
    let mut body = std::pin::pin!(take(state, body, conn));
    let prompt = tokio::time::timeout(PROMPT, &mut body).await;
    drop(reserved);
    match prompt {
        Ok(body) => body,
        Err(_) => body.await,
    }
}

/// What the consumer said beside the task. What is no text says nothing.
fn facts(headers: &HeaderMap) -> Facts {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    Facts {
        // One that is there and cannot be read must not pass for none.
        consumer_token: headers.get("x-iicp-consumer-token").map(|value| value.to_str().unwrap_or("?").to_owned()),
        traceparent: text("traceparent"),
        tracestate: text("tracestate"),
        origin: text("origin"),
        takes_events: event_stream::is_wanted(headers),
        punches: false,
    }
}

/// The older form. Its target is a bound worker or nobody: a relay calls no address that a caller names.
async fn addressed(state: &Arc<State>, relay: &Arc<Relay>, request: Request<Incoming>, conn: &Conn) -> Answer {
    let facts = facts(request.headers());
    if let Err(answer) = admit(state, request.headers(), conn) {
        return *answer;
    }
    let body = match take(state, request.into_body(), conn).await {
        Ok(body) => body,
        Err(answer) => return *answer,
    };
    match Addressed::read(&body) {
        Ok(Some(Addressed { target, task })) => forward(relay, &target, task, facts, conn).await,
        Ok(None) => {
            refuse(StatusCode::UNPROCESSABLE_ENTITY, "IICP-E000", "target_node_id and task must both be there", &[])
        }
        Err(why) => no_object(&why),
    }
}

fn no_object(why: &str) -> Answer {
    let message = format!("the body is not a task: {why}");
    refuse(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", &message, &[])
}

fn admit(state: &State, headers: &HeaderMap, conn: &Conn) -> Result<(), Box<Answer>> {
    if state.gate.is_draining() {
        return Err(Box::new(answer::refused(&refusal::draining())));
    }
    // The same rates as for the node's own tasks; the worker sees the relay in every caller's place.
    count(state, headers, conn)
}

async fn take(state: &State, body: Incoming, conn: &Conn) -> Result<Bytes, Box<Answer>> {
    let body = read(body, state.options.max_body_bytes, conn).await?;
    // It is a piece of its connection's buffer. While the worker has the call, that buffer would be held up by it, and the
    // next request would have to make another.
    Ok(if body.len() <= MOST_COPIED { Bytes::copy_from_slice(&body) } else { body })
}

/// Counts a call that takes something of a worker.
pub(super) fn count(state: &State, headers: &HeaderMap, conn: &Conn) -> Result<(), Box<Answer>> {
    let about = Received {
        origin: headers.get(ORIGIN).map(HeaderValue::as_bytes),
        ..Received::new(conn.peer, admission::Body::Json(Bytes::new()))
    };
    let counted = state.limits.count(&about, state.since_start(Instant::now()));
    counted.map_err(|refusal| Box::new(answer::refused(&refusal)))
}

async fn read(body: Incoming, most: usize, conn: &Conn) -> Result<Bytes, Box<Answer>> {
    read_body(body, most, conn).await.map_err(|failure| {
        Box::new(match failure {
            BodyFailure::TooLarge => {
                let message = format!("the body is larger than {most} bytes");
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", &message, &[("max_bytes", most.into())])
            }
            BodyFailure::Busy => answer::refused(&refusal::overloaded()),
            BodyFailure::Broken => {
                let message = "the body ended before its declared length";
                refuse(StatusCode::BAD_REQUEST, "invalid_http_body", message, &[])
            }
        })
    })
}

async fn forward(relay: &Arc<Relay>, worker_id: &str, body: Bytes, facts: Facts, conn: &Conn) -> Answer {
    let envelope = match Envelope::read(&body) {
        Ok(envelope) => envelope,
        Err(why) => return no_object(&why),
    };
    let task_id = envelope.task_id.as_deref().unwrap_or_default().to_owned();
    let within = envelope.timeout_ms.map(|ms| Duration::from_millis(ms.min(MAX_TIMEOUT_MS)));
    match relay.forward(worker_id, conn.peer.ip(), body, facts, within).await {
        Ok(Forwarded::Whole { body, status: None }) => answered(&task_id, &body),
        Ok(Forwarded::Whole { body, status: Some(status) }) => failed(status, body),
        Ok(Forwarded::Parts { beginning, parts }) => in_parts(beginning, parts),
        Err(fault) => fault_answer(fault, &task_id),
    }
}

fn answered(task_id: &str, body: &Bytes) -> Answer {
    match relayed::answer(task_id, body) {
        Some(body) => json(StatusCode::OK, body),
        None => {
            let message = "the worker's answer is not an object";
            refuse(StatusCode::BAD_GATEWAY, "IICP-E031", message, &[("task_id", task_id.into())])
        }
    }
}

/// An answer as it comes; its caller knows what belongs into it.
fn in_parts(beginning: Beginning, parts: Parts) -> Answer {
    if beginning.events {
        return event_stream::carrying(Box::pin(parts));
    }
    let mut answer = json(StatusCode::OK, Bytes::new());
    *answer.body_mut() = AnswerBody::parts(Box::pin(parts), beginning.length.map(|length| length as u64));
    answer
}

/// A failure in the worker's own words: its caller sees what it would have seen without the relay.
fn failed(status: u16, body: Bytes) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let pause = Failure::read(&body).retry_after;
    let mut answer = json(status, body);
    if let Some(pause) = pause {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(pause.as_secs().max(1)));
    }
    answer
}

fn unbound() -> Answer {
    refuse(StatusCode::NOT_FOUND, "IICP-E030", "no alive relay session for this worker; ask another node", &[])
}

/// What the caller learns: 503 proves that the worker never saw the task, 502 and 504 do not.
pub(super) fn fault_answer(fault: Fault, task_id: &str) -> Answer {
    let mut about = vec![("retry_after_ms", 1_000.into())];
    // What was refused before it was read has no id yet.
    about.extend((!task_id.is_empty()).then(|| ("task_id", task_id.into())));
    let later = |code, message| {
        let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, code, message, &about);
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        answer
    };
    match fault {
        Fault::Unbound => unbound(),
        Fault::Busy => later("capacity_exceeded", "too much is under way through this relay; ask another node"),
        Fault::Lost { sent: false } => later("IICP-E031", "the worker was lost before it was sent the task"),
        Fault::Lost { sent: true } => {
            let message = "the worker was lost before it answered; it may have run the task";
            refuse(StatusCode::BAD_GATEWAY, "IICP-E031", message, &about[1..])
        }
        Fault::Timeout => {
            let message = "the worker did not answer in time; it may have run the task";
            refuse(StatusCode::GATEWAY_TIMEOUT, "IICP-E031", message, &about[1..])
        }
    }
}

async fn bind(relay: &Arc<Relay>, request: Request<Incoming>, conn: &Conn) -> Answer {
    let body = match read(request.into_body(), MOST_BIND, conn).await {
        Ok(body) => body,
        Err(answer) => return *answer,
    };
    let malformed = |message: &str| refuse(StatusCode::UNPROCESSABLE_ENTITY, "IICP-E001", message, &[]);
    let Some(request) = BindRequest::read(&body) else { return malformed("the body is no object") };
    let Some(worker_id) = request.worker_id().filter(|id| is_worker_id(id)) else {
        return malformed("worker_id must be a letter or digit, then up to 127 letters, digits, '.', '_', ':' or '-'");
    };
    let source = Source::of(conn.peer.ip());
    match relay.bind_poll(&worker_id, request.ticket().as_deref(), request.models(), source).await {
        Ok(token) => {
            let bound = serde_json::json!({
                "session_token": token, "poll_timeout_s": PULL.as_secs(), "worker_endpoint_path": path_of(&worker_id),
            });
            json(StatusCode::OK, bound.to_string())
        }
        Err(refusal) => refused(refusal),
    }
}

fn refused(refusal: Refusal) -> Answer {
    let (status, code) = refusal.http();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = refusal.reason();
    let mut answer = refuse(status, code, reason, &[("reason", reason.into())]);
    if matches!(refusal, Refusal::RateLimited | Refusal::AtCapacity) {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
    }
    answer
}

fn token(request: &Request<Incoming>) -> Option<&str> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn unknown_token() -> Answer {
    refuse(StatusCode::UNAUTHORIZED, "IICP-E021", "invalid or missing relay session token", &[])
}

async fn pull(relay: &Arc<Relay>, request: &Request<Incoming>) -> Answer {
    let Some(token) = token(request) else { return unknown_token() };
    match relay.pull(token).await {
        Pulled::Call { call, body } => json(StatusCode::OK, relayed::write_pulled(&call.to_string(), &body)),
        Pulled::Nothing => nothing(),
        Pulled::Unknown => unknown_token(),
    }
}

async fn result(state: &State, relay: &Arc<Relay>, request: Request<Incoming>, conn: &Conn) -> Answer {
    let Some(token) = token(&request).map(str::to_owned) else { return unknown_token() };
    // Nobody but a worker may make us read what is as large as an answer.
    if !relay.knows(&token) {
        return unknown_token();
    }
    let body = match read(request.into_body(), state.options.max_body_bytes, conn).await {
        Ok(body) => body,
        Err(answer) => return *answer,
    };
    let Some(Brought { call, result }) = Brought::read(&body) else {
        let message = "call_id and result must both be there, and result must be an object";
        return refuse(StatusCode::UNPROCESSABLE_ENTITY, "IICP-E001", message, &[]);
    };
    if relay.bring(&token, Uuid::try_parse(&call).ok(), result) { nothing() } else { unknown_token() }
}

fn unbind(relay: &Relay, request: &Request<Incoming>) -> Answer {
    if token(request).is_some_and(|token| relay.unbind(token)) { nothing() } else { unknown_token() }
}

fn nothing() -> Answer {
    let mut answer = json(StatusCode::NO_CONTENT, Bytes::new());
    answer.headers_mut().remove(http::header::CONTENT_TYPE);
    answer
}
