//! The events of a task as the body of an HTTP answer: server-sent events.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use tokio::time::{Interval, MissedTickBehavior};

use super::answer::json;
use crate::protocol::admission::Events;
use crate::transport::answer_body::AnswerBody;
use crate::transport::http_server::Answer;
use crate::wire::events::{EVENT_STREAM, STILL_THERE, write_event};

/// Events that are ready together go out together, up to about this many bytes.
const ENOUGH: usize = 16 << 10;
/// How often a caller who waits for the next part is told that the node is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// Whether a caller takes events.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let is_event_stream = |media: &str| media.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case(EVENT_STREAM);
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.into_iter().any(|value| value.split(',').any(is_event_stream))
}

/// The answer that carries the events as they are made.
pub(super) fn answer(events: Events) -> Answer {
    let mut sign_of_life = tokio::time::interval(SIGN_OF_LIFE);
    sign_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sign_of_life.reset();
    let body = Body { events, out: Vec::new(), ended: false, sign_of_life };
    let mut answer = json(StatusCode::OK, Bytes::new());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *answer.body_mut() = AnswerBody::parts(Box::pin(body));
    answer
}

struct Body {
    events: Events,
    out: Vec<u8>,
    ended: bool,
    sign_of_life: Interval,
}

impl Stream for Body {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = &mut *self;
        while !this.ended && this.out.len() < ENOUGH {
            match this.events.events.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => this.ended = true,
                Poll::Ready(Some(event)) => write_event(&mut this.out, &this.events.task_id, &event),
            }
        }
        if !this.out.is_empty() {
            this.sign_of_life.reset();
            return Poll::Ready(Some(std::mem::take(&mut this.out).into()));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        this.sign_of_life.poll_tick(cx).map(|_| Some(Bytes::from_static(STILL_THERE)))
    }
}
