//! One sending of a task to one node, and what its answer means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use super::Inner;
use super::natively::Natively;
use super::stream::{Events, Source, is_stream};
use super::submit::Submit;
use crate::crypto::cx::ReplyKey;
use crate::discovery::routes::Route;
use crate::error::{Code, Error, Result};
use crate::protocol::breaker::{Admission, At};
use crate::protocol::retry::Outcome;
use crate::protocol::sealed::open_reply;
use crate::telemetry;
use crate::transport::http_client::{Call, NoReply, Redirects, Reply};
use crate::types::{Chunk, Payload, Secret};
use crate::wire::failure::Failure;
use crate::wire::task::{Sending, TaskBody, write_request};

/// What one attempt brought.
pub(super) struct Sent {
    /// Nothing of a stream.
    pub(super) result: Payload,
    pub(super) begun: Option<Box<Begun>>,
    pub(super) sealed: bool,
    pub(super) connect: Duration,
    pub(super) first_byte: Duration,
    /// Time that passed at others: the directory for a token, the node for an answer.
    pub(super) waited: Duration,
}

/// A stream of which the first part was read.
pub(super) struct Begun {
    /// None if there was no part.
    pub(super) first: Option<Chunk>,
    pub(super) rest: Events,
}

/// A task as one node is sent it.
struct Envelope {
    /// As HTTP has it.
    body: Bytes,
    /// The payload, if it is not sealed.
    plain: Option<Bytes>,
    /// What the reply must be sealed with.
    key: Option<ReplyKey>,
}

/// Why an attempt brought no result, and whether the task may be sent again.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) outcome: Outcome,
    pub(super) waited: Duration,
    /// Whether the task had gone over a direct path, with a relay beside it.
    pub(super) is_direct: bool,
}

/// A direct path may be dead for so long before it is known to be.
const UNNOTICED: Duration = Duration::from_secs(6);

impl Failed {
    /// Whether it says nothing about the node: it may be well, and reached by the relay.
    fn is_the_paths_fault(&self, after: Duration) -> bool {
        match self.error.code() {
            Code::Lost => self.is_direct,
            Code::Timeout => self.is_direct && after < UNNOTICED,
            _ => false,
        }
    }

    fn new(code: Code, message: String, outcome: Outcome) -> Self {
        Failed { error: Error::new(code, message), outcome, waited: Duration::ZERO, is_direct: false }
    }

    pub(super) fn with(error: Error, outcome: Outcome) -> Self {
        Failed { error, outcome, waited: Duration::ZERO, is_direct: false }
    }

    fn elsewhere(error: Error) -> Self {
        Failed::with(error, Outcome::Elsewhere)
    }
}

/// The right to try a node: its circuit learns how it went, also when the attempt is dropped half-way.
struct Passage<'a> {
    client: &'a Inner,
    at: At<'a>,
    /// When, since the client began.
    since: Duration,
    /// Whether this is the one task that tries whether the node is well again, and has not said so yet.
    probe: bool,
}

impl<'a> Passage<'a> {
    fn admit(client: &'a Inner, at: At<'a>) -> Result<Self, Failed> {
        let since = client.started.elapsed();
        match client.breakers().admit(at, since) {
            Admission::Closed => Ok(Passage { client, at, since, probe: false }),
            Admission::Probe => Ok(Passage { client, at, since, probe: true }),
            Admission::Open { .. } => {
                let why = format!("node {} failed too often and is left alone for a while", at.node_id);
                Err(Failed::new(Code::Connect, why, Outcome::Elsewhere))
            }
        }
    }

    fn went_well(mut self) {
        self.probe = false;
        self.client.breakers().report(self.at, true, self.client.started.elapsed());
    }

    fn went_wrong(mut self, failed: &Failed) {
        self.probe = false;
        let now = self.client.started.elapsed();
        match failed.error.code() {
            Code::Lost => self.client.breakers().lost(self.at, self.since, now),
            _ => self.client.breakers().report(self.at, is_alive(failed), now),
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.client.breakers().release(self.at);
        }
    }
}

impl Submit<'_> {
    /// Sends the task to the candidate at this place.
    pub(super) async fn send(&self, route: &Arc<Route>, at: usize) -> Result<Sent, Failed> {
        let result = self.try_to_send(route, at).await;
        if let Err(failed) = &result {
            self.note_failure(route, failed);
        }
        result
    }

    async fn try_to_send(&self, route: &Route, at: usize) -> Result<Sent, Failed> {
        let node_id = route.node.node_id.as_str();
        let passage = Passage::admit(self.client, route.at())?;
        let begun = Instant::now();
        let tokens = &self.client.tokens;
        let token = tokens.get(&self.client.routes, node_id, &self.options.intent, self.deadline()).await;
        let token = token.map_err(Failed::elsewhere)?;
        let asked = begun.elapsed();
        let Envelope { body, plain, key: reply_key } = self.sealed(route, at)?;
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let call = self.call(route, body, token.as_deref());
        let plain = plain.filter(|payload| self.fits_published(&call, payload));
        let sealed = reply_key.is_some();
        let answer = if self.takes_events(route) {
            self.begin(route, call, plain.as_ref(), reply_key).await
        } else {
            self.whole(route, call, plain.as_ref(), reply_key).await
        };
        let waited = asked + sent.elapsed();
        match answer {
            Ok(sent) => {
                passage.went_well();
                Ok(Sent { sealed, waited, ..sent })
            }
            Err(failed) => {
                if failed.is_the_paths_fault(sent.elapsed()) {
                    passage.went_well();
                } else {
                    passage.went_wrong(&failed);
                }
                Err(Failed { waited, ..failed })
            }
        }
    }

    /// Reads the whole answer.
    async fn whole(
        &self,
        route: &Route,
        call: Call<'_>,
        plain: Option<&Bytes>,
        key: Option<ReplyKey>,
    ) -> Result<Sent, Failed> {
        let node_id = route.node.node_id.as_str();
        let (answer, is_direct) = match self.natively(route, &call, plain).await {
            Some((Ok(Natively::Whole(reply)), is_direct)) => (Ok(reply), is_direct),
            // Nobody follows the task, so no event is an answer.
            Some((Ok(Natively::Parts(_) | Natively::Events(_)), is_direct)) => (Err(NoReply::Malformed), is_direct),
            Some((Err(no_reply), is_direct)) => (Err(no_reply), is_direct),
            None => (self.client.http.call(call).await, false),
        };
        self.at_once(node_id, key.as_ref(), answer).map_err(|failed| Failed { is_direct, ..failed })
    }

    /// Reads the first part of the answer; all of it from a node that does not stream after all.
    async fn begin(
        &self,
        route: &Route,
        call: Call<'_>,
        plain: Option<&Bytes>,
        key: Option<ReplyKey>,
    ) -> Result<Sent, Failed> {
        let node_id = route.node.node_id.as_str();
        let source = match self.natively(route, &call, plain).await {
            Some((Ok(Natively::Parts(parts)), _)) if parts.is_events() => Source::Native(parts),
            Some((Ok(Natively::Parts(parts)), _)) => return self.at_once(node_id, key.as_ref(), parts.read().await),
            Some((Ok(Natively::Events(followed)), _)) => Source::Published(followed),
            Some((Ok(Natively::Whole(reply)), _)) => return self.at_once(node_id, key.as_ref(), Ok(reply)),
            Some((Err(no_reply), is_direct)) => return Err(Failed { is_direct, ..unanswered(node_id, no_reply) }),
            None => {
                let call = Call { accept: Some("text/event-stream, application/json"), ..call };
                let incoming = self.client.http.open(call).await.map_err(|no_reply| unanswered(node_id, no_reply))?;
                if !is_stream(&incoming) {
                    return self.at_once(node_id, key.as_ref(), incoming.read().await);
                }
                Source::Http(incoming)
            }
        };
        let (connect, first_byte) = source.took();
        let mut rest = Events::new(source, node_id, &self.task_id, key, self.client.options.max_response_bytes);
        let begun = Some(Box::new(Begun { first: rest.next().await?, rest }));
        let result = serde_json::Value::Null.into();
        Ok(Sent { result, begun, sealed: false, connect, first_byte, waited: Duration::ZERO })
    }

    /// What came in one piece.
    fn at_once(&self, node_id: &str, key: Option<&ReplyKey>, answer: Result<Reply, NoReply>) -> Result<Sent, Failed> {
        let (connect, first_byte) = answer.as_ref().map_or_else(|_| Default::default(), |r| (r.connect, r.first_byte));
        let result = read(node_id, &self.task_id, key, answer)?;
        Ok(Sent { result, begun: None, sealed: false, connect, first_byte, waited: Duration::ZERO })
    }

    /// Whether the result is taken in parts: from a node that says that its tasks can be followed.
    pub(super) fn takes_events(&self, route: &Route) -> bool {
        self.streamed && route.node.is_followed
    }

    fn call<'c>(&'c self, route: &Route, body: Bytes, token: Option<&'c Secret>) -> Call<'c> {
        let options = &self.client.options;
        let most_bytes = options.max_response_bytes;
        Call {
            redirects: Redirects::SameOrigin,
            traceparent: Some(&self.trace),
            tracestate: self.options.tracestate.as_deref().filter(|_| self.options.traceparent.is_some()),
            consumer_token: token.map(Secret::expose),
            body: Some(body),
            idle: Duration::from_millis(options.idle_timeout_ms),
            ..Call::new(Method::POST, route.task_url.clone(), route.reach, self.deadline(), most_bytes)
        }
    }

    /// The task's envelope for one node, sealed if the node has a key.
    fn sealed(&self, route: &Route, at: usize) -> Result<Envelope, Failed> {
        let payload =
            self.payload(route, at).map_err(|error| Failed { outcome: Outcome::Final, ..Failed::elsewhere(error) })?;
        let left = self.deadline().saturating_duration_since(Instant::now());
        // The provider gets a little less, so that its own word on a timeout arrives before our deadline.
        let budget = left.saturating_sub((left / 10).min(Duration::from_millis(200)));
        let timeout_ms = crate::options::millis(budget).max(1);
        let sending = Sending { timeout_ms, streamed: self.takes_events(route) };
        let write = |body: TaskBody<'_>| Bytes::from(write_request(&self.options, &self.task_id, body, sending));
        let key = match &route.key {
            Some(Ok(key)) => key,
            _ if self.requires_encryption() => {
                let why = format!("node {} has no key to seal the task to; nothing was sent", route.node.node_id);
                return Err(Failed::new(Code::ConfidentialityRequired, why, Outcome::Elsewhere));
            }
            _ => {
                if !self.client.said_unsealed.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        target: telemetry::CLIENT, node_id = %route.node.node_id,
                        "tasks go out unsealed to nodes without a key, as the routing policy allows; said once"
                    );
                }
                let body = write(TaskBody::Plain(&payload));
                return Ok(Envelope { body, plain: Some(payload.bytes().clone()), key: None });
            }
        };
        let (envelope, reply_key) =
            key.seal(&self.task_id, &self.options.intent, payload.bytes()).map_err(Failed::elsewhere)?;
        let sealed_reply = key.sealed_replies();
        let body = write(TaskBody::Sealed { envelope: &envelope, sealed_reply });
        Ok(Envelope { body, plain: None, key: sealed_reply.then_some(reply_key) })
    }
}

/// Whether the node itself is well, whatever became of the task: what its circuit is told.
fn is_alive(failed: &Failed) -> bool {
    match failed.outcome {
        Outcome::Busy { .. } => true,
        _ => matches!(
            failed.error.code(),
            Code::TaskRejected | Code::Duplicate | Code::UnknownIntent | Code::PayloadTooLarge | Code::ResponseTooLarge
        ),
    }
}

/// Reads what came back from a node.
fn read(
    node_id: &str,
    task_id: &str,
    reply_key: Option<&ReplyKey>,
    answer: Result<Reply, NoReply>,
) -> Result<Payload, Failed> {
    let reply = answer.map_err(|no_reply| unanswered(node_id, no_reply))?;
    if reply.status != 200 {
        return Err(refused(node_id, &reply));
    }
    open_reply(task_id, &reply.body, reply_key).map_err(|error| {
        // What does not open will not open the second time either.
        let sealed = matches!(error.code(), Code::ReplyUnsealed | Code::ConfidentialityRequired);
        let outcome = if sealed { Outcome::Final } else { Outcome::MayHaveRun };
        Failed { error, outcome, waited: Duration::ZERO, is_direct: false }
    })
}

pub(super) fn unanswered(node_id: &str, no_reply: NoReply) -> Failed {
    let (code, why, outcome) = match no_reply {
        NoReply::Connect => (Code::Connect, "cannot be reached", Outcome::Elsewhere),
        NoReply::Tls(why) => {
            let why = format!("node {node_id} cannot be trusted: {}", why.as_str());
            return Failed::elsewhere(Error::of_options(Code::Tls, why));
        }
        NoReply::Refused => {
            let why = format!("node {node_id} is at an address that may not be called; nothing was sent");
            let error = Error::new(Code::EndpointRefused, why).with_wire_code("IICP-ENDPOINT-REFUSED");
            return Failed::elsewhere(error);
        }
        NoReply::Deadline => (Code::Timeout, "did not answer in time", Outcome::Final),
        NoReply::Lost => {
            (Code::Lost, "broke the connection or fell silent before its answer was whole", Outcome::MayHaveRun)
        }
        NoReply::Malformed => {
            (Code::Malformed, "answered something that is not of this protocol, or is compressed", Outcome::MayHaveRun)
        }
        NoReply::TooLarge => {
            let why =
                format!("node {node_id} sent an answer over `max_response_bytes`; raise it if the answer is wanted");
            return Failed::with(Error::of_options(Code::ResponseTooLarge, why), Outcome::Final);
        }
    };
    Failed::new(code, format!("node {node_id} {why}"), outcome)
}

fn refused(node_id: &str, reply: &Reply) -> Failed {
    let status = reply.status;
    let failure = Failure::read(&reply.body);
    let retry_after = reply.retry_after.or(failure.retry_after);
    let (code, outcome) = if status == 503 && is_page(reply, &failure) {
        (Code::Backend, Outcome::MayHaveRun)
    } else {
        judge(status, failure.code.as_deref(), retry_after)
    };
    let detail = failure.message.map_or_else(String::new, |message| format!(": {message}"));
    let mut error = Error::new(code, format!("node {node_id} answered {status}{detail}")).with_http_status(status);
    if let Some(wire_code) = failure.code {
        error = error.with_wire_code(wire_code);
    }
    if let Some(pause) = retry_after {
        error = error.with_retry_after(pause);
    }
    Failed { error, outcome, waited: Duration::ZERO, is_direct: false }
}

/// Whether a 503 is a page instead of a refusal: published nodes answer so after a handler failed in certain words.
fn is_page(reply: &Reply, failure: &Failure) -> bool {
    !reply.body.is_empty() && reply.retry_after.is_none() && *failure == Failure::default()
}

/// What a status other than 200 says. Only those that prove that no handler ran lead to another node for every task.
fn judge(status: u16, wire_code: Option<&str>, retry_after: Option<Duration>) -> (Code, Outcome) {
    match status {
        429 | 503 => (Code::Capacity, Outcome::Busy { retry_after }),
        404 if wire_code == Some("unknown_intent") => (Code::UnknownIntent, Outcome::Elsewhere),
        // The node does not have the model; another may.
        404 if wire_code == Some("IICP-E029") => (Code::TaskRejected, Outcome::Elsewhere),
        // A relay that does not have the worker any more.
        404 if wire_code == Some("IICP-E030") => (Code::Connect, Outcome::Elsewhere),
        404 | 405 => (Code::Malformed, Outcome::Elsewhere),
        413 => (Code::PayloadTooLarge, Outcome::Elsewhere),
        // Leads elsewhere, or to TLS: what comes in plain text is not taken.
        300..400 | 426 => (Code::EndpointRefused, Outcome::Elsewhere),
        409 => (Code::Duplicate, Outcome::Final),
        504 => (Code::TaskTimeout, Outcome::MayHaveRun),
        // It has run, and would make the same answer again.
        500.. if wire_code == Some("response_too_large") => (Code::ResponseTooLarge, Outcome::Final),
        500.. => (Code::Backend, Outcome::MayHaveRun),
        400..500 => (Code::TaskRejected, Outcome::Final),
        _ => (Code::Malformed, Outcome::MayHaveRun),
    }
}
