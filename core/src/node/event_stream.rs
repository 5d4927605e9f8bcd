//! A task's result in parts as the answer of an HTTP request.

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::answer::json;
use crate::protocol::admission::Events;
use crate::transport::answer_body::{AnswerBody, Parts};
use crate::transport::event_bytes::EventBytes;
use crate::transport::http_server::Answer;
use crate::wire::events::EVENT_STREAM;

/// Whether a caller takes events.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let is_event_stream = |media: &str| media.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(EVENT_STREAM);
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.into_iter().any(|value| value.split(',').any(is_event_stream))
}

/// The answer that carries the events as they are made.
pub(super) fn answer(events: Events) -> Answer {
    carrying(Box::pin(EventBytes::new(events).map(Ok)))
}

/// The answer that carries such events, whoever makes them.
pub(super) fn carrying(events: Parts) -> Answer {
    let mut answer = json(StatusCode::OK, Bytes::new());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *answer.body_mut() = AnswerBody::parts(events, None);
    answer
}
