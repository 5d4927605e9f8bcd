//! What becomes of a task, event by event: the envelope of the service-lifecycle profile as JSON, and the server-sent
//! events that carry it over HTTP. The same reader takes the events of a model server.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::types::{check_depth, position};

/// The profile that a peer names when its tasks can be followed (specification: service-lifecycle profile).
pub(crate) const LIFECYCLE: &str = "urn:iicp:profile:service-lifecycle:v1";
/// The media type of a stream of events.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";
/// A line that says nothing, and that the sender is still there.
pub(crate) const STILL_THERE: &[u8] = b":\n\n";

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventName {
    Accepted,
    /// The task waits or works; the profile's amendment has three words for it.
    Working,
    Partial,
    Completed,
    Failed,
    Cancelled,
    TimedOut,
}

impl EventName {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            EventName::Accepted => "accepted",
            EventName::Working => "running",
            EventName::Partial => "partial",
            EventName::Completed => "completed",
            EventName::Failed => "failed",
            EventName::Cancelled => "cancelled",
            EventName::TimedOut => "timed_out",
        }
    }

    /// Reads the words of the profile and of its amendment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "accepted" => EventName::Accepted,
            "queued" | "running" | "waiting" => EventName::Working,
            "partial" | "streaming" => EventName::Partial,
            "completed" => EventName::Completed,
            "failed" | "rejected" => EventName::Failed,
            "cancelled" => EventName::Cancelled,
            "timed_out" | "expired" => EventName::TimedOut,
            _ => return None,
        })
    }

    /// Whether nothing comes after it.
    pub(crate) const fn is_final(self) -> bool {
        matches!(self, EventName::Completed | EventName::Failed | EventName::Cancelled | EventName::TimedOut)
    }
}

/// One event, as it was read.
#[derive(Deserialize)]
pub(crate) struct TaskEvent<'a> {
    #[serde(borrow, default)]
    pub(crate) task_id: Cow<'a, str>,
    pub(crate) sequence: u64,
    #[serde(borrow, alias = "state")]
    event: Cow<'a, str>,
    #[serde(default)]
    pub(crate) is_final: bool,
    #[serde(borrow, default)]
    pub(crate) result: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(crate) error: Option<&'a RawValue>,
    /// Tokens so far.
    #[serde(default, deserialize_with = "super::count")]
    pub(crate) tokens_used: Option<u64>,
    /// With the first event of a sealed stream: what its key is made with.
    #[serde(borrow, default)]
    pub(crate) iicp_conf_stream: Option<SealedStream<'a>>,
    /// The result, sealed.
    #[serde(borrow, default)]
    pub(crate) iicp_conf_part: Option<Cow<'a, str>>,
}

/// What the key of a sealed stream is made with, beside the task's own secret.
#[derive(Deserialize)]
pub(crate) struct SealedStream<'a> {
    #[serde(default)]
    pub(crate) version: Option<u64>,
    #[serde(borrow)]
    pub(crate) nonce: Cow<'a, str>,
}

impl<'a> TaskEvent<'a> {
    /// # Errors
    /// What is wrong with it, without its text.
    pub(crate) fn read(json: &'a [u8]) -> Result<Self, String> {
        let event: TaskEvent<'a> = super::object(json).map_err(|e| position(&e))?;
        for part in [event.result, event.error].into_iter().flatten() {
            check_depth(part.get().as_bytes()).map_err(|most| format!("it is nested deeper than {most}"))?;
        }
        Ok(event)
    }

    /// None for a word that is not known.
    pub(crate) fn name(&self) -> Option<EventName> {
        EventName::parse(&self.event)
    }
}

/// One event, as it is written.
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) name: EventName,
    pub(crate) carried: Carried,
    /// Tokens so far; 0 if nobody counts.
    pub(crate) tokens_used: u64,
}

/// What an event carries.
pub(crate) enum Carried {
    Nothing,
    /// A part of the result, as JSON.
    Result(Bytes),
    /// The same, sealed.
    Part(Vec<u8>),
    /// What a sealed stream's key is made with.
    Salt([u8; 12]),
    /// A failure, as JSON.
    Error(Vec<u8>),
}

/// Appends one event as a server-sent event.
pub(crate) fn write_event(out: &mut Vec<u8>, task_id: &str, event: &Event) {
    let name = event.name;
    out.extend_from_slice(br#"data: {"task_id":"#);
    super::write_string(out, task_id);
    out.extend_from_slice(br#","sequence":"#);
    write_count(out, event.sequence);
    out.extend_from_slice(br#","event":""#);
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(if name.is_final() { br#"","is_final":true"# } else { br#"","is_final":false"# });
    match &event.carried {
        Carried::Nothing => {}
        Carried::Result(json) => {
            out.extend_from_slice(br#","result":"#);
            write_on_one_line(out, json);
        }
        Carried::Part(sealed) => {
            out.extend_from_slice(br#","iicp_conf_part":""#);
            super::sealed::push_base64(out, sealed);
            out.push(b'"');
        }
        Carried::Salt(nonce) => {
            out.extend_from_slice(br#","iicp_conf_stream":{"version":1,"nonce":""#);
            super::sealed::push_base64(out, nonce);
            out.extend_from_slice(br#""}"#);
        }
        Carried::Error(json) => {
            out.extend_from_slice(br#","error":"#);
            write_on_one_line(out, json);
        }
    }
    if event.tokens_used > 0 {
        out.extend_from_slice(br#","tokens_used":"#);
        write_count(out, event.tokens_used);
    }
    if name == EventName::Completed {
        out.extend_from_slice(br#","generated_by_ai":true"#);
    }
    out.extend_from_slice(b"}\n\n");
}

fn write_count(out: &mut Vec<u8>, count: u64) {
    // A number always has a JSON form and a Vec always takes it.
    let _ = serde_json::to_writer(out, &count);
}

/// Appends JSON without line breaks, which would end the line of the event; inside of JSON's strings there are none.
fn write_on_one_line(out: &mut Vec<u8>, json: &[u8]) {
    if memchr::memchr2(b'\n', b'\r', json).is_none() {
        return out.extend_from_slice(json);
    }
    out.extend(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
}

/// An event is larger than agreed, or a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Takes bytes as they arrive and gives the data of one server-sent event after another. Names, ids and comments are
/// passed over.
pub(crate) struct EventReader {
    buffer: BytesMut,
    /// Bytes of the buffer that hold no end of a line.
    scanned: usize,
    data: BytesMut,
    has_data: bool,
    /// Most bytes of one event.
    most: usize,
}

impl EventReader {
    pub(crate) fn new(most: usize) -> Self {
        EventReader { buffer: BytesMut::new(), scanned: 0, data: BytesMut::new(), has_data: false, most }
    }

    /// Takes what arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The data of the next event; none until more arrives.
    ///
    /// # Errors
    /// [`TooLarge`]; nothing more can be read then.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, TooLarge> {
        loop {
            let Some(end) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) else {
                self.scanned = self.buffer.len();
                return if self.buffer.len() + self.data.len() > self.most { Err(TooLarge) } else { Ok(None) };
            };
            let mut line = self.buffer.split_to(self.scanned + end + 1);
            self.scanned = 0;
            line.truncate(line.len() - 1);
            if line.last() == Some(&b'\r') {
                line.truncate(line.len() - 1);
            }
            if line.is_empty() {
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(self.data.split().freeze()));
                }
                continue;
            }
            self.take_line(line)?;
        }
    }

    fn take_line(&mut self, mut line: BytesMut) -> Result<(), TooLarge> {
        let Some(value) = line.strip_prefix(b"data:") else { return Ok(()) };
        let from = line.len() - value.strip_prefix(b" ").unwrap_or(value).len();
        if self.data.len() + line.len() > self.most {
            return Err(TooLarge);
        }
        let value = line.split_off(from);
        if !std::mem::replace(&mut self.has_data, true) {
            // One line is the rule, and is passed on without a copy.
            self.data = value;
        } else {
            self.data.extend_from_slice(b"\n");
            self.data.extend_from_slice(&value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(reader: &mut EventReader, bytes: &[u8]) -> Vec<String> {
        reader.push(bytes);
        std::iter::from_fn(|| reader.next().unwrap()).map(|data| String::from_utf8(data.to_vec()).unwrap()).collect()
    }

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let stream =
            b": hello\r\ndata: one\r\n\r\nevent: x\nid: 7\ndata:two\ndata: three\n\n\n\n:\n\ndata\n\ndata: \n\n";
        for step in 1..stream.len() {
            let mut reader = EventReader::new(100);
            let seen: Vec<String> = stream.chunks(step).flat_map(|bytes| read_all(&mut reader, bytes)).collect();
            assert_eq!(seen, ["one", "two\nthree", ""], "in steps of {step}");
        }
    }

    #[test]
    fn an_event_or_a_line_over_the_bound_is_refused_and_held_no_longer_than_that() {
        let mut reader = EventReader::new(64);
        reader.push(&[b'x'; 64]);
        assert_eq!(reader.next(), Ok(None));
        reader.push(b"x");
        assert_eq!(reader.next(), Err(TooLarge), "a line without an end");
        let mut reader = EventReader::new(64);
        for _ in 0..3 {
            reader.push(b"data: 0123456789012345678901234567\n");
        }
        assert_eq!(reader.next(), Err(TooLarge), "lines without an end of the event");
    }

    #[test]
    fn what_is_written_reads_back_and_stays_on_one_line() {
        let mut out = Vec::new();
        for (sequence, name, carried, tokens_used) in [
            (0, EventName::Accepted, Carried::Salt([7; 12]), 0),
            (1, EventName::Partial, Carried::Result("{\"a\":\n[1,\r\n2]}".into()), 3),
            (2, EventName::Partial, Carried::Part(b"sealed".to_vec()), 0),
            (3, EventName::Failed, Carried::Error(br#"{"code":"x"}"#.to_vec()), 0),
        ] {
            write_event(&mut out, "t\"1", &Event { sequence, name, carried, tokens_used });
        }
        let mut reader = EventReader::new(1000);
        let seen = read_all(&mut reader, &out);
        assert_eq!(seen.len(), 4);
        let events: Vec<TaskEvent<'_>> = seen.iter().map(|json| TaskEvent::read(json.as_bytes()).unwrap()).collect();
        assert!(events.iter().all(|event| event.task_id == "t\"1"));
        assert_eq!(events[0].iicp_conf_stream.as_ref().unwrap().nonce, "BwcHBwcHBwcHBwcH");
        assert_eq!(events[1].result.unwrap().get(), "{\"a\": [1,  2]}");
        assert_eq!((events[1].name(), events[1].tokens_used), (Some(EventName::Partial), Some(3)));
        assert_eq!(events[2].iicp_conf_part.as_deref(), Some("c2VhbGVk"));
        assert_eq!((events[3].is_final, events[3].error.unwrap().get()), (true, r#"{"code":"x"}"#));
    }

    #[test]
    fn an_event_that_is_none_is_refused() {
        for json in ["", "7", "[]", "[{}]", "{}", r#"{"sequence":1}"#, r#"{"sequence":-1,"event":"partial"}"#] {
            assert!(TaskEvent::read(json.as_bytes()).is_err(), "{json}");
        }
        let deep = format!(r#"{{"sequence":0,"event":"partial","result":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        assert!(TaskEvent::read(deep.as_bytes()).is_err());
        let unknown = TaskEvent::read(br#"{"sequence":0,"event":"thinking"}"#).unwrap();
        assert_eq!(unknown.name(), None);
        let amended = TaskEvent::read(br#"{"task_id":"t","sequence":0,"state":"expired","is_final":true}"#).unwrap();
        assert_eq!(amended.name(), Some(EventName::TimedOut));
    }
}
