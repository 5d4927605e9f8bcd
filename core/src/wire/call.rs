//! A task as a CALL, and its answer as a RESPONSE.
//!
//! There are two dialects. The specification's CALL has its version under key 1; the published clients leave that out, put
//! the task's JSON under 5, and take a result that is CBOR inside of bytes, or an error under 100 and 101. Relays send a
//! CALL of call id and task alone. All are read here, and each is written by its own function.

use super::cbor::{MapWriter, Result, ValueKind};
use super::frame::Kind;
use super::message::{exactly, read, write};

/// What stands under key 5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    #[default]
    None,
    Bytes(&'a [u8]),
    Text(&'a str),
    /// Any other value, as the CBOR that it is.
    Value(&'a [u8]),
}

impl<'a> Content<'a> {
    fn read(value: &mut super::cbor::Reader<'a>) -> Result<Self> {
        Ok(match value.peek()? {
            ValueKind::Bytes => Content::Bytes(value.bytes()?),
            ValueKind::Text => Content::Text(value.text()?),
            _ => Content::Value(value.encoded()?),
        })
    }
}

/// A CALL. It may hold a credential, and so has no `Debug`.
#[derive(Default)]
pub(crate) struct Call<'a> {
    /// There in the specification's dialect, and in no other.
    pub(crate) version: Option<u64>,
    pub(crate) session_id: Option<&'a str>,
    pub(crate) intent: Option<&'a str>,
    pub(crate) payload: Content<'a>,
    pub(crate) timeout_s: Option<u64>,
    pub(crate) auth_token: Option<&'a str>,
    pub(crate) trace_id: Option<&'a [u8; 16]>,
    pub(crate) parent_span: Option<&'a [u8; 8]>,
    pub(crate) call_id: Option<&'a str>,
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) qos: Option<&'a str>,
    pub(crate) task_id: Option<&'a str>,
    /// Whether the caller takes the result in parts; between peers of our kind.
    pub(crate) takes_events: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let mut call = Call::default();
        read(payload, |key, value| {
            match key {
                1 => call.version = Some(value.uint()?),
                2 => call.session_id = Some(value.text()?),
                3 => call.intent = Some(value.text()?),
                5 => call.payload = Content::read(value)?,
                6 => call.timeout_s = Some(value.uint()?),
                11 => call.auth_token = Some(value.text()?),
                13 => call.trace_id = Some(exactly(value)?),
                14 => call.parent_span = Some(exactly(value)?),
                15 => call.call_id = Some(value.text()?),
                16 => call.idempotency_key = Some(value.text()?),
                18 => call.qos = Some(value.text()?),
                24 => call.task_id = Some(value.text()?),
                106 => call.takes_events = value.uint()? != 0,
                4 | 9 | 10 | 19 | 20 => value.skip_kind(ValueKind::Text)?,
                7 | 8 | 17 | 22 => value.skip_kind(ValueKind::Uint)?,
                12 | 23 => value.skip_kind(ValueKind::Map)?,
                21 => value.skip_kind(ValueKind::Array)?,
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(call)
    }

    /// Writes the fields that are there; the payload only if it is bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        write(out, Kind::Call, |map| {
            map.uint(1, self.version).text(2, self.session_id).text(3, self.intent);
            content(map, self.payload);
            map.uint(6, self.timeout_s)
                .text(11, self.auth_token)
                .bytes(13, self.trace_id.map(|id| &id[..]))
                .bytes(14, self.parent_span.map(|id| &id[..]))
                .text(15, self.call_id)
                .text(16, self.idempotency_key)
                .text(18, self.qos)
                .text(24, self.task_id)
                .uint(106, self.takes_events.then_some(1));
        })
    }
}

fn content(map: &mut MapWriter<'_>, content: Content<'_>) {
    match content {
        Content::None => {}
        Content::Bytes(bytes) => {
            map.bytes(5, bytes);
        }
        Content::Text(text) => {
            map.text(5, text);
        }
        Content::Value(encoded) => {
            map.encoded(5, encoded);
        }
    }
}

/// How a call went, as its answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Partial,
    Success,
    Error,
    Timeout,
}

impl Status {
    const ALL: [(Status, &'static str); 4] = [
        (Status::Partial, "partial"),
        (Status::Success, "success"),
        (Status::Error, "error"),
        (Status::Timeout, "timeout"),
    ];

    pub(crate) fn parse(word: &str) -> Option<Status> {
        Status::ALL.iter().find(|(_, known)| *known == word).map(|(status, _)| *status)
    }

    pub(crate) fn as_str(self) -> &'static str {
        Status::ALL.iter().find(|(status, _)| *status == self).map_or("", |(_, word)| word)
    }
}

/// What the service-lifecycle profile adds to an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lifecycle<'a> {
    pub(crate) task_id: Option<&'a str>,
    pub(crate) sequence: Option<u64>,
    pub(crate) event: Option<&'a str>,
    pub(crate) is_final: Option<bool>,
}

impl<'a> Lifecycle<'a> {
    fn read(value: &mut super::cbor::Reader<'a>) -> Result<Self> {
        let mut lifecycle = Lifecycle::default();
        value.map(|key, value| {
            match key {
                1 => lifecycle.task_id = Some(value.text()?),
                2 => lifecycle.sequence = Some(value.uint()?),
                3 => lifecycle.event = Some(value.text()?),
                4 => lifecycle.is_final = Some(value.bool()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(lifecycle)
    }

    fn write(&self, map: &mut MapWriter<'_>) {
        map.text(1, self.task_id).uint(2, self.sequence).text(3, self.event).bool(4, self.is_final);
    }
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failed<'a> {
    pub(crate) code: Option<&'a str>,
    pub(crate) message: Option<&'a str>,
}

/// A RESPONSE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Response<'a> {
    /// There in the specification's dialect, and in no other.
    pub(crate) version: Option<u64>,
    pub(crate) session_id: Option<&'a str>,
    /// Under 3, and under 15 where that is not how the peer speaks.
    pub(crate) call_id: Option<&'a str>,
    /// The word of the status: one that nobody knows is for the reader to judge.
    pub(crate) status: Option<&'a str>,
    pub(crate) result: Content<'a>,
    pub(crate) error: Option<Failed<'a>>,
    pub(crate) tokens_used: Option<u64>,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) node_id: Option<&'a str>,
    pub(crate) is_final: Option<bool>,
    pub(crate) lifecycle: Option<Lifecycle<'a>>,
    /// The HTTP status that the failure would have. Published nodes have it in place of an error.
    pub(crate) status_code: Option<u64>,
    /// What published nodes say about it.
    pub(crate) status_message: Option<&'a str>,
    /// When to come again; between peers of our kind.
    pub(crate) retry_after_ms: Option<u64>,
}

impl<'a> Response<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let (mut response, mut second) = (Response::default(), None);
        read(payload, |key, value| {
            match key {
                1 => response.version = Some(value.uint()?),
                2 => response.session_id = Some(value.text()?),
                3 => response.call_id = Some(value.text()?),
                4 => response.status = Some(value.text()?),
                5 => response.result = Content::read(value)?,
                6 => {
                    let mut failed = Failed::default();
                    value.map(|key, value| {
                        match key {
                            1 => failed.code = Some(value.text()?),
                            2 => failed.message = Some(value.text()?),
                            _ => value.skip()?,
                        }
                        Ok(())
                    })?;
                    response.error = Some(failed);
                }
                7 => response.tokens_used = Some(value.uint()?),
                8 => response.duration_ms = Some(value.uint()?),
                9 => exactly::<16>(value).map(|_| ())?,
                10 => value.skip_kind(ValueKind::Uint)?,
                11 => response.node_id = Some(value.text()?),
                12 => response.is_final = Some(value.bool()?),
                13 => response.lifecycle = Some(Lifecycle::read(value)?),
                15 => second = Some(value.text()?),
                // A handler may have given any number, also one below zero.
                100 if value.peek()? == ValueKind::Uint => response.status_code = Some(value.uint()?),
                100 => {
                    value.skip()?;
                    response.status_code = Some(0);
                }
                101 => response.status_message = Some(value.text()?),
                102 => response.retry_after_ms = Some(value.uint()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        response.call_id = response.call_id.or(second);
        Ok(response)
    }

    /// Writes it as the specification has it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        write(out, Kind::Response, |map| {
            map.uint(1, self.version).text(2, self.session_id).text(3, self.call_id).text(4, self.status);
            content(map, self.result);
            map.map(6, self.error, |map, failed| {
                map.text(1, failed.code).text(2, failed.message);
            })
            .uint(7, self.tokens_used)
            .uint(8, self.duration_ms)
            .text(11, self.node_id)
            .bool(12, self.is_final)
            .map(13, self.lifecycle, |map, value| value.write(map))
            .uint(100, self.status_code)
            .uint(102, self.retry_after_ms);
        })
    }

    /// Writes it as published nodes do: the call's id under 15, an error under 100 and 101.
    pub(crate) fn write_published(&self, out: &mut Vec<u8>) -> Result<()> {
        write(out, Kind::Response, |map| {
            map.text(2, self.session_id);
            content(map, self.result);
            map.text(15, self.call_id).uint(100, self.status_code).text(101, self.status_message);
        })
    }
}
