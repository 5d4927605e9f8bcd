//! Answers of a node: always JSON, always readable for browsers, with the protocol's codes.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
    UPGRADE,
};
use http::{Response, StatusCode};
use serde_json::Value;

use super::event_stream;
use crate::protocol::admission::{Outcome, Refusal};
use crate::transport::http_server::Answer;
use crate::wire::failure;

/// A JSON body that any page may read: browsers are consumers of the mesh.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, HeaderValue::from_static("application/json"), body.into())
}

/// A plain-text body.
pub(crate) fn text(body: String) -> Answer {
    with_type(StatusCode::OK, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"), body.into())
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After, X-IICP-Trace-Id"));
    answer
}

/// The answer to a browser's question what it may send.
pub(crate) fn preflight() -> Answer {
    let mut answer = json(StatusCode::NO_CONTENT, Bytes::new());
    let headers = answer.headers_mut();
    headers.remove(CONTENT_TYPE);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "Content-Type, Authorization, X-IICP-Consumer-Token, X-IICP-Trace-Id, traceparent, tracestate",
        ),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    answer
}

/// The answer to a method that the path does not have.
pub(crate) fn wrong_method(allowed: &'static str) -> Answer {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &format!("use {allowed}"), &[]);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// The answer to what came in plain text where TLS is wanted. It was sent already; leading it elsewhere would hide that.
pub(crate) fn tls_required() -> Answer {
    let message = "this node takes nothing in plain text from there; call it by https";
    let mut answer = refuse(StatusCode::UPGRADE_REQUIRED, "tls_required", message, &[]);
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("TLS/1.3, HTTP/1.1"));
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade, close"));
    answer
}

/// A refusal of HTTP's own, before there was a task.
pub(crate) fn refuse(status: StatusCode, code: &str, message: &str, more: &[(&str, Value)]) -> Answer {
    json(status, failure::write(code, message, more))
}

/// What came of a task.
pub(crate) fn of(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Done(done) => json(StatusCode::OK, done.reply),
        Outcome::Events(events) => event_stream::answer(events),
        Outcome::Refused(refusal) => refused(&refusal),
    }
}

/// A task that was not taken, or failed.
pub(crate) fn refused(refusal: &Refusal) -> Answer {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(status, refusal.body());
    if let Some(pause) = refusal.retry_after {
        // Whole seconds, and none too few.
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}
