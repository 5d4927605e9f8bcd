//! The node's HTTP surface: health, metrics, tasks, and what browsers ask first.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;

use super::answer::{self, json, preflight, refuse, text, wrong_method};
use super::{State, event_stream, refusal, relay_metrics, relaying, task, tls};
use crate::protocol::admission::{Body, Received};
use crate::transport::conn::Conn;
use crate::transport::http_server::{Answer, AnswerFuture, BodyFailure, Service, read_body};
use crate::wire::directory::BackendState;

impl Service for State {
    fn call(self: Arc<Self>, request: Request<Incoming>, conn: Arc<Conn>) -> AnswerFuture {
        let trace_id = request.headers().get("x-iicp-trace-id").cloned();
        let traced = |mut answer: Answer| {
            if let Some(trace_id) = trace_id {
                answer.headers_mut().insert("x-iicp-trace-id", trace_id);
            }
            answer
        };
        if let Some(refusal) = tls::refuse_plaintext(&self, &request, &conn) {
            return Box::pin(std::future::ready(traced(refusal)));
        }
        match self.relay.clone().filter(|_| relaying::is_for_relay(request.uri().path())) {
            // Boxed apart: what is passed on needs much less than the task that is run here, and waits longer.
            Some(relay) => Box::pin(async move { traced(relaying::route(&self, &relay, request, &conn).await) }),
            None => Box::pin(async move { traced(route(&self, request, &conn).await) }),
        }
    }
}

async fn route(state: &Arc<State>, request: Request<Incoming>, conn: &Conn) -> Answer {
    match (request.uri().path(), request.method()) {
        ("/v1/task" | "/iicp/health" | "/metrics", &Method::OPTIONS) => preflight(),
        ("/v1/task", &Method::POST) => post_task(state, request, conn).await,
        ("/v1/task", _) => wrong_method("POST, OPTIONS"),
        // hyper leaves the body out of the answer to a HEAD.
        ("/iicp/health", &Method::GET | &Method::HEAD) => json(StatusCode::OK, health(state)),
        ("/metrics", &Method::GET | &Method::HEAD) => {
            let mut page = state.metrics.render(state.gate.active(), state.replay.forgotten(), &state.table);
            if let Some(relay) = &state.relay {
                relay_metrics::render(&mut page, relay);
            }
            text(page)
        }
        ("/iicp/health" | "/metrics", _) => wrong_method("GET, HEAD, OPTIONS"),
        _ => refuse(StatusCode::NOT_FOUND, "not_found", "a node serves /v1/task, /iicp/health and /metrics", &[]),
    }
}

async fn post_task(state: &Arc<State>, request: Request<Incoming>, conn: &Conn) -> Answer {
    if state.gate.is_draining() {
        return answer::refused(&refusal::draining());
    }
    let (Parts { headers, .. }, body) = request.into_parts();
    if is_cbor(&headers) {
        let message = "this node reads JSON; send application/json";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message, &[]);
    }
    let most = state.options.max_body_bytes;
    match read_body(body, most, conn).await {
        Ok(body) => {
            let (headers, body) = apart(headers, body);
            answer::of(task::serve(state, received(conn, &headers, body)).await)
        }
        Err(BodyFailure::TooLarge) => answer::refused(&refusal::too_large(most)),
        Err(BodyFailure::Busy) => answer::refused(&refusal::overloaded()),
        Err(BodyFailure::Broken) => {
            refuse(StatusCode::BAD_REQUEST, "invalid_http_body", "the body ended before its declared length", &[])
        }
    }
}

/// What a task needs of its request, away from the buffer into which that was read. It would be held for as long as the task
/// lasts, beside the next one that hyper makes, and thousands of tasks may wait.
fn apart(headers: HeaderMap, body: Bytes) -> (HeaderMap, Bytes) {
    /// What costs less to copy than to hold.
    const SMALL: usize = 4 << 10;
    const OF_TASKS: [HeaderName; 5] = [
        ORIGIN,
        ACCEPT,
        HeaderName::from_static("x-iicp-consumer-token"),
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("tracestate"),
    ];
    let mut kept = HeaderMap::new();
    for name in OF_TASKS {
        for value in headers.get_all(&name) {
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                kept.append(name.clone(), value);
            }
        }
    }
    (kept, if body.len() <= SMALL { Bytes::copy_from_slice(&body) } else { body })
}

/// What HTTP knows of a task. A header that is no text says nothing.
fn received<'a>(conn: &Conn, headers: &'a HeaderMap, body: Bytes) -> Received<'a> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Received {
        origin: headers.get(ORIGIN).map(HeaderValue::as_bytes),
        consumer_token: consumer_token(headers),
        traceparent: text("traceparent"),
        tracestate: text("tracestate"),
        takes_events: event_stream::is_wanted(headers),
        ..Received::new(conn.peer, Body::Json(body))
    }
}

/// One that is there and cannot be read must not pass for none, nor one of two for the other.
fn consumer_token(headers: &HeaderMap) -> Option<&str> {
    let mut shown = headers.get_all("x-iicp-consumer-token").iter();
    let token = shown.next()?.to_str().ok().filter(|_| shown.next().is_none());
    Some(token.unwrap_or("?"))
}

fn is_cbor(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value: &HeaderValue| value.to_str().ok()).is_some_and(|t| t.contains("cbor"))
}

/// Always 200 and `ok`, also when full or draining: directories take anything else for a dead node.
fn health(state: &State) -> Bytes {
    let options = &state.options;
    let (active, limit) = (state.gate.active(), state.gate.limit());
    let draining = state.gate.is_draining();
    let mut stability = state.offer.stability();
    if draining {
        stability.backend_state = BackendState::Draining;
    }
    let models = state.offer.models();
    let intents: Vec<&str> = state.intents.iter().map(|intent| &**intent).collect();
    let mut health = serde_json::json!({
        "status": "ok",
        "node_id": state.node_id,
        "region": options.region,
        "load": state.gate.load(),
        "active_jobs": active,
        "max_concurrent": options.max_concurrent,
        "effective_max_concurrent": limit,
        "available": active < limit && !draining && !state.offer.is_draining(),
        "model": models.first(),
        "models": models,
        "intent": intents.first(),
        "intents": intents,
        "cx_key_id": state.key.key_id(),
        "pinhole_state": { "active": false },
        "backend_stability": stability,
        "implementation": { "name": "iicp-core", "version": env!("CARGO_PKG_VERSION") },
    });
    if let Some(relay) = &state.relay {
        health["relay"] = relay_metrics::health(relay);
    }
    health.to_string().into()
}
