//! One sending of a task to one node, and what its answer means.

use std::time::Duration;

use crate::error::{Code, Error, Result};
use crate::protocol::retry::Outcome;
use crate::protocol::sealed::open_reply;
use crate::transport::http_client::{NoReply, Reply};
use crate::types::Payload;
use crate::wire::failure::Failure;

/// Why an attempt brought no result, and whether the task may be sent again.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) outcome: Outcome,
}

impl Failed {
    fn new(code: Code, message: String, outcome: Outcome) -> Self {
        Failed { error: Error::new(code, message), outcome }
    }
}

/// Reads what came back from a node.
pub(super) fn read(node_id: &str, task_id: &str, answer: Result<Reply, NoReply>) -> Result<Payload, Failed> {
    let reply = answer.map_err(|no_reply| unanswered(node_id, no_reply))?;
    if reply.status != 200 {
        return Err(refused(node_id, &reply));
    }
    open_reply(task_id, &reply.body, None).map_err(|error| {
        // A sealed answer will not open the second time either.
        let sealed = error.code() == Code::ConfidentialityRequired;
        Failed { error, outcome: if sealed { Outcome::Final } else { Outcome::MayHaveRun } }
    })
}

fn unanswered(node_id: &str, no_reply: NoReply) -> Failed {
    let (code, why, outcome) = match no_reply {
        NoReply::Connect => (Code::Connect, "cannot be reached", Outcome::Elsewhere),
        NoReply::Tls => (Code::Tls, "failed the TLS handshake", Outcome::Elsewhere),
        NoReply::Deadline => (Code::Timeout, "did not answer in time", Outcome::Final),
        NoReply::Lost => {
            (Code::Lost, "broke the connection or fell silent before its answer was whole", Outcome::MayHaveRun)
        }
        NoReply::Malformed => (Code::Malformed, "answered something that is not HTTP", Outcome::MayHaveRun),
        NoReply::TooLarge => (
            Code::ResponseTooLarge,
            "sent an answer over max_response_bytes; raise it if the answer is wanted",
            Outcome::Final,
        ),
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
    Failed { error, outcome }
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
        404 | 405 => (Code::Malformed, Outcome::Elsewhere),
        413 => (Code::PayloadTooLarge, Outcome::Elsewhere),
        300..400 => (Code::EndpointRefused, Outcome::Elsewhere),
        409 => (Code::Duplicate, Outcome::Final),
        504 => (Code::TaskTimeout, Outcome::MayHaveRun),
        500.. => (Code::Backend, Outcome::MayHaveRun),
        400..500 => (Code::TaskRejected, Outcome::Final),
        _ => (Code::Malformed, Outcome::MayHaveRun),
    }
}
