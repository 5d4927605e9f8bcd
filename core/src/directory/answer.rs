//! What the directory says back: always JSON, whatever the status.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::protocol::risk;
use crate::transport::http_server::Answer;
use crate::wire::failure;

/// Names of fields, each with what is wrong with it.
pub(super) type Faults = BTreeMap<String, Vec<String>>;

/// What a route returns.
pub(super) type Outcome = Result<Answer, Refusal>;

/// A request that is not done, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    message: String,
    more: Option<(&'static str, Value)>,
    retry_after_s: Option<u64>,
    /// Whether `error` is the code itself and not an object, as published directories write some of theirs.
    bare: bool,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Refusal { status, code, message: message.into(), more: None, retry_after_s: None, bare: false }
    }

    /// A request that cannot be read.
    pub(super) fn unreadable(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "request_error", message)
    }

    /// A request whose fields are not as they should be; says which and why.
    pub(super) fn invalid(faults: Faults) -> Self {
        let refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", "Input validation failed");
        Refusal { more: Some(("fields", faults.into_iter().collect())), ..refusal }
    }

    /// Nodes answer this one, and only this one, by registering again: every fault of a credential takes this form.
    pub(super) fn unauthorized() -> Self {
        Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", "the bearer token is missing, stale or not this node's")
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn too_many(retry_after_s: u64) -> Self {
        let refusal =
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many requests; heed Retry-After");
        let more = Some(("retry_after_seconds", retry_after_s.into()));
        Refusal { more, retry_after_s: Some(retry_after_s), ..refusal }
    }

    /// More arrives than there is memory for.
    pub(super) fn overloaded() -> Self {
        let message = "too much arrives at the same time; come again in a second";
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
        Refusal { retry_after_s: Some(1), ..refusal }
    }

    /// Too many registrations; the one code whose published form is a bare string.
    pub(super) fn too_many_registrations(retry_after_s: u64) -> Self {
        let message = "too many registrations from this address; heed Retry-After";
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "IICP-E034", message);
        let more = Some(("retry_after", retry_after_s.into()));
        Refusal { more, retry_after_s: Some(retry_after_s), bare: true, ..refusal }
    }

    /// An intent that the table of risks names.
    pub(super) fn policy(why: String) -> Self {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, risk::REFUSED, why)
    }

    /// What this directory does not do as it is set up.
    pub(super) fn not_configured(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_configured", message)
    }

    pub(super) fn full() -> Self {
        let refusal = Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "directory_full",
            "the directory holds as many active nodes as it may; come back later",
        );
        Refusal { retry_after_s: Some(30), ..refusal }
    }

    pub(super) fn answer(self) -> Answer {
        let body = if self.bare {
            failure::write_bare(self.code, &self.message, self.more.as_slice())
        } else {
            failure::write(self.code, &self.message, self.more.as_slice())
        };
        let mut answer = answer(self.status, body);
        if let Some(seconds) = self.retry_after_s {
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        answer
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        tracing::error!(target: crate::telemetry::DIRECTORY, %error, "a request failed by the directory's own fault");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "the directory failed; try again")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.answer().into_response()
    }
}

/// A JSON answer.
pub(super) fn json<T: Serialize>(status: StatusCode, body: &T) -> Outcome {
    let body = serde_json::to_vec(body).map_err(|_| {
        Error::new(crate::error::Code::Internal, "an answer of the directory has no JSON form").with_retryable(false)
    })?;
    Ok(answer(status, body))
}

pub(super) fn ok<T: Serialize>(body: &T) -> Outcome {
    json(StatusCode::OK, body)
}

/// Metrics, the one answer that is no JSON.
pub(super) fn prometheus(text: String) -> Answer {
    let mut answer = answer(StatusCode::OK, text.into_bytes());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn answer(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Answer::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A node that registered a moment ago must be found, and a ticket is for one caller.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
