//! A call as published nodes take it, from its client's side: what is asked, and what the answers say.
//!
//! Key 5 has four spellings, and where it stands tells which: the JSON text of the payload in a call; CBOR inside of bytes
//! in an answer that stands alone; a bare CBOR value in an answer that belongs to a sequence of events; JSON inside of
//! bytes in what relays pass on. An answer that stands alone is CBOR unless it is no CBOR at all and a JSON object or
//! list: no text is both, since what `{` and `[` begin in CBOR is longer than any message.

use crate::types::check_depth;
use crate::wire::call::{Call, Content, Failed, Lifecycle, Response, Status};
use crate::wire::events::{Carried, Event, EventName};
use crate::wire::failure::clean;
use crate::wire::frame::Reason;
use crate::wire::transcode::to_json;

use super::admission::Refusal;

/// One call, and how far its answers have come.
#[derive(Debug)]
pub(crate) struct Asking {
    session_id: String,
    /// What published nodes give their handler for the task's id.
    call_id: String,
    /// The task whose events are followed; none for a caller who takes one answer.
    followed: Option<String>,
    next: u64,
    ended: bool,
}

/// What an answer says.
pub(crate) enum Said {
    /// The whole result, as JSON.
    Result(Vec<u8>),
    /// The task failed, in the words that HTTP would have had.
    Refused(Refusal),
    /// What has become of it meanwhile, or in the end.
    Event(Event),
}

/// Why an answer breaks the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    AfterTerminal,
    MissingLifecycle,
    SessionDrift,
    CallDrift,
    TaskDrift,
    SequenceDrift,
    FinalityDisagreement,
    StatusDisagreement,
    TerminalFlag,
    /// It is no answer, or its result is in no form that there is.
    Unreadable,
    TooLarge,
}

impl Fault {
    /// The code that published peers have for it.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Fault::AfterTerminal => "response_after_terminal",
            Fault::MissingLifecycle => "missing_lifecycle",
            Fault::SessionDrift => "session_id_drift",
            Fault::CallDrift => "call_id_drift",
            Fault::TaskDrift => "task_id_drift",
            Fault::SequenceDrift => "sequence_drift",
            Fault::FinalityDisagreement => "finality_disagreement",
            Fault::StatusDisagreement => "status_event_disagreement",
            Fault::TerminalFlag => "terminal_flag_mismatch",
            Fault::Unreadable => "invalid_response",
            Fault::TooLarge => "response_too_large",
        }
    }
}

impl Asking {
    pub(crate) fn new(session_id: String, call_id: String, followed: Option<String>) -> Self {
        Asking { session_id, call_id, followed, next: 0, ended: false }
    }

    /// Writes the call, with the fields that published clients send and no others.
    ///
    /// # Errors
    /// `FrameTooLarge`.
    pub(crate) fn write(&self, intent: &str, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Reason> {
        let call = Call {
            session_id: Some(&self.session_id),
            intent: Some(intent),
            payload: Content::Bytes(payload),
            call_id: Some(&self.call_id),
            idempotency_key: self.followed.as_deref(),
            task_id: self.followed.as_deref(),
            ..Call::default()
        };
        call.write(out)
    }

    /// Takes the next answer; JSON of more than `most_bytes` is not made.
    ///
    /// # Errors
    /// What is wrong with it; the call is lost then.
    pub(crate) fn take(&mut self, payload: &[u8], most_bytes: usize) -> Result<Said, Fault> {
        if self.ended {
            return Err(Fault::AfterTerminal);
        }
        let answer = Response::read(payload).map_err(|_| Fault::Unreadable)?;
        if answer.session_id != Some(&self.session_id) {
            return Err(Fault::SessionDrift);
        }
        if answer.call_id != Some(&self.call_id) {
            return Err(Fault::CallDrift);
        }
        match (answer.lifecycle, self.followed.is_some()) {
            (Some(lifecycle), true) => self.event(&answer, &lifecycle, most_bytes),
            // Who does not know events answers once.
            _ if self.next == 0 => self.whole(&answer, most_bytes),
            _ => Err(Fault::MissingLifecycle),
        }
    }

    /// Whether the last word was said. Who falls silent before that owes it.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    fn whole(&mut self, answer: &Response<'_>, most_bytes: usize) -> Result<Said, Fault> {
        let name = answer.status.map(status).transpose()?;
        if answer.is_final == Some(false) || matches!(name, Some(EventName::Partial)) {
            return Err(Fault::TerminalFlag);
        }
        self.ended = true;
        let failed = matches!(name, Some(EventName::Failed | EventName::TimedOut));
        if answer.status_code.is_some() || answer.error.is_some() || failed {
            return Ok(Said::Refused(refusal(answer, name)));
        }
        let json = match answer.result {
            Content::Bytes(bytes) => inner(bytes, most_bytes)?,
            Content::Text(text) => serde_json::to_vec(text).map_err(|_| Fault::Unreadable)?,
            Content::Value(value) => json(value, most_bytes)?,
            // A success that has nothing to say; without a word for it, it is no answer.
            Content::None if name.is_some() => b"{}".to_vec(),
            Content::None => return Err(Fault::Unreadable),
        };
        check_depth(&json).map_err(|_| Fault::Unreadable)?;
        Ok(Said::Result(json))
    }

    fn event(&mut self, answer: &Response<'_>, lifecycle: &Lifecycle<'_>, most_bytes: usize) -> Result<Said, Fault> {
        if lifecycle.task_id != self.followed.as_deref() {
            return Err(Fault::TaskDrift);
        }
        if lifecycle.sequence != Some(self.next) {
            return Err(Fault::SequenceDrift);
        }
        if answer.is_final != lifecycle.is_final {
            return Err(Fault::FinalityDisagreement);
        }
        let kind = answer.status.ok_or(Fault::StatusDisagreement).and_then(status)?;
        let name = lifecycle.event.and_then(EventName::parse).ok_or(Fault::StatusDisagreement)?;
        let agree = match kind {
            EventName::Failed => matches!(name, EventName::Failed | EventName::Cancelled),
            kind => kind == name,
        };
        if !agree {
            return Err(Fault::StatusDisagreement);
        }
        if answer.is_final != Some(name.is_final()) {
            return Err(Fault::TerminalFlag);
        }
        let carried = match answer.result {
            _ if !matches!(name, EventName::Partial | EventName::Completed) => Carried::Error(failure(answer)),
            Content::None => Carried::Nothing,
            Content::Bytes(bytes) => Carried::Result(base64(bytes).into()),
            Content::Text(text) => Carried::Result(serde_json::to_vec(text).map_err(|_| Fault::Unreadable)?.into()),
            Content::Value(value) => Carried::Result(json(value, most_bytes)?.into()),
        };
        let event = Event { sequence: self.next, name, carried, tokens_used: answer.tokens_used.unwrap_or(0) };
        self.next += 1;
        self.ended = name.is_final();
        Ok(Said::Event(event))
    }
}

/// The word of a status in every spelling that published peers have, as the event that it belongs to.
fn status(word: &str) -> Result<EventName, Fault> {
    Ok(match Status::parse(word) {
        Some(Status::Partial) => EventName::Partial,
        Some(Status::Success) => EventName::Completed,
        Some(Status::Error) => EventName::Failed,
        Some(Status::Timeout) => EventName::TimedOut,
        None => match EventName::parse(word) {
            Some(EventName::Completed) => EventName::Completed,
            Some(EventName::Failed | EventName::Cancelled) => EventName::Failed,
            Some(EventName::TimedOut) => EventName::TimedOut,
            Some(EventName::Accepted | EventName::Working | EventName::Partial) | None => {
                return Err(Fault::StatusDisagreement);
            }
        },
    })
}

/// A result inside of bytes.
fn inner(bytes: &[u8], most_bytes: usize) -> Result<Vec<u8>, Fault> {
    match json(bytes, most_bytes) {
        Err(Fault::Unreadable) if matches!(bytes.first(), Some(b'{' | b'[')) => {
            serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|_| Fault::Unreadable)?;
            if bytes.len() > most_bytes { Err(Fault::TooLarge) } else { Ok(bytes.to_vec()) }
        }
        read => read,
    }
}

fn json(cbor: &[u8], most_bytes: usize) -> Result<Vec<u8>, Fault> {
    to_json(cbor, most_bytes).map_err(|why| match why {
        Reason::PayloadTooLarge => Fault::TooLarge,
        _ => Fault::Unreadable,
    })
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    [b"\"", text.as_bytes(), b"\""].concat()
}

/// What an event that ends a task without success carries.
fn failure(answer: &Response<'_>) -> Vec<u8> {
    let Failed { code, message } = answer.error.unwrap_or_default();
    serde_json::json!({ "code": code.map(clean), "message": message.map(clean) }).to_string().into_bytes()
}

/// What HTTP would have had for a failure. A number under 100 is the handler's own but for three, which are the server's:
/// no other proves that the handler did not run.
fn refusal(answer: &Response<'_>, name: Option<EventName>) -> Refusal {
    let Failed { code, message } = answer.error.unwrap_or_default();
    let message = answer.status_message.or(message).map(clean).unwrap_or_default();
    let said = |status: u16, code: &'static str, message: String| Refusal::new(status, code, message);
    match (answer.status_code, code) {
        (Some(429), _) if message.starts_with("IICP-E021") => said(429, "IICP-E021", message),
        (Some(503), _) if message == "no handler configured" => said(503, "temporarily_unavailable", message),
        (Some(408 | 504), _) => said(504, "task_timeout", message),
        (Some(429), _) => said(502, "backend_error", format!("its handler ended with 429: {message}")),
        (Some(number @ 400..500), _) => said(422, "rejected", format!("its handler ended with {number}: {message}")),
        (Some(number), _) => said(502, "backend_error", format!("its handler ended with {number}: {message}")),
        (None, Some("capacity_exceeded")) => said(429, "capacity_exceeded", message),
        (None, _) if name == Some(EventName::TimedOut) => said(504, "task_timeout", message),
        (None, code) => Refusal::new(502, code.map_or_else(|| "backend_error".into(), clean), message),
    }
}

#[cfg(test)]
mod tests;
