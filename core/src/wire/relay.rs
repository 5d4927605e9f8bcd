//! What workers and relays say to each other on the relay's port: the published form, and some words of our own.
//!
//! The frames have the header and the integer-keyed maps of the framed transport, but not all of its meanings: here 0x0B
//! and 0x0C are bind and answer, and a call carries the task as the consumer wrote it, in JSON.

use bytes::Bytes;
use uuid::Uuid;

use super::cbor::{self, MapWriter, Result};
use super::frame::{self, CustomKinds, HEADER_BYTES, Kind, Reason, VERSION};
use super::message::{self, RelayAck, RelayBind};

/// Says in INIT and ACK that a peer answers when it is pinged and knows the words below.
const PROFILE: &str = "urn:iicp:custom:core:relay:v1";
/// Says in INIT that a worker answers when somebody looks for a direct path to it: such a call has 107, and its body is not a
/// task.
const PUNCH: &str = "urn:iicp:custom:core:punch:v1";
/// The caller of a call is gone: `{15: call}`, from the relay.
pub(crate) const CANCEL: Kind = Kind::Custom(0xf0);
/// The relay is about to stop: from the relay, without content. What is under way may end.
pub(crate) const DRAIN: Kind = Kind::Custom(0xf1);
/// A part of an answer: `{5: bytes, 15: call}` from the worker, in the first of them 101 with the length of the whole, if
/// it is known, and 102 if the answer is a stream of events. RESPONSE is the last word on a call as ever.
pub(crate) const PART: Kind = Kind::Custom(0xf2);
/// So many more bytes of parts may come: `{1: bytes, 15: call}`, from the relay.
pub(crate) const CREDIT: Kind = Kind::Custom(0xf3);
/// The term of the session is over: from the relay, without content. The worker binds anew, and leaves this one to the relay
/// until what is under way has ended.
pub(crate) const RENEW: Kind = Kind::Custom(0xf4);

/// Bytes of parts that a worker may send for a call before the first credit.
pub(crate) const WINDOW: usize = 128 << 10;
/// Most bytes in a part, so that others get their turn in between.
pub(crate) const MOST_PART: usize = 16 << 10;

/// What both ends say first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Whether the peer is one of ours.
    pub(crate) ours: bool,
    /// Whether a direct path to it may be looked for.
    pub(crate) punches: bool,
}

/// Under which key INIT and ACK have what a peer can do; both of no use to published peers, which read neither.
const fn capabilities(kind: Kind) -> u64 {
    if matches!(kind, Kind::Init) { 5 } else { 3 }
}

impl Hello {
    /// Reads INIT or ACK. Nothing of it is needed: what is no CBOR says nothing.
    pub(crate) fn read(kind: Kind, payload: &[u8]) -> Hello {
        let mut hello = Hello::default();
        let read = message::read(payload, |key, value| match key {
            key if key == capabilities(kind) => value.array(|element| {
                let profile = element.text()?;
                hello.ours |= profile == PROFILE;
                hello.punches |= profile == PUNCH;
                Ok(())
            }),
            _ => value.skip(),
        });
        if read.is_ok() { hello } else { Hello::default() }
    }

    /// Writes INIT or ACK as published peers do; ours learn that we are one of them.
    pub(crate) fn write(self, kind: Kind) -> Vec<u8> {
        let profiles: &[&str] = match (self.ours, self.punches) {
            (true, true) => &[PROFILE, PUNCH],
            (true, false) => &[PROFILE],
            (false, _) => &[],
        };
        small(kind, |map| {
            map.uint(1, u64::from(VERSION)).texts(capabilities(kind), self.ours.then_some(profiles));
        })
    }

    /// The words of our own that the peer may say.
    pub(crate) fn words(self) -> CustomKinds {
        if self.ours { CustomKinds(0b1_1111) } else { CustomKinds::default() }
    }
}

/// Writes a bind.
pub(crate) fn write_bind(bind: &RelayBind<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    bind.write(&mut out)?;
    Ok(out)
}

/// Writes the answer to a bind.
pub(crate) fn write_verdict(verdict: &RelayAck<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    // What is in it is bounded far below what a frame may be.
    let _ = verdict.write(&mut out);
    out
}

/// Writes a ping or a pong; published peers send an echo of nothing.
pub(crate) fn write_echo(kind: Kind, echo: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    let _ = message::write_echo(&mut out, kind, Some(echo));
    out
}

/// The end of a session; published peers know no reasons.
pub(crate) fn write_close() -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    frame::begin(&mut out, Kind::Close, 0);
    out
}

/// A call is no longer waited for.
pub(crate) fn write_cancel(call: Uuid) -> Vec<u8> {
    small(CANCEL, |map| {
        map.text(15, call_text(call, &mut [0; 36]));
    })
}

/// The relay is about to stop.
pub(crate) fn write_drain() -> Vec<u8> {
    small(DRAIN, |_| ())
}

/// The term of the session is over.
pub(crate) fn write_renew() -> Vec<u8> {
    small(RENEW, |_| ())
}

/// Which call is no longer waited for.
pub(crate) fn read_cancel(payload: &[u8]) -> Option<Uuid> {
    let mut call = None;
    let read = message::read(payload, |key, value| match key {
        15 => value.text().map(|text| call = Uuid::try_parse(text).ok()),
        _ => value.skip(),
    });
    read.ok().and(call)
}

/// More of a call's answer may come.
pub(crate) fn write_credit(call: Uuid, bytes: usize) -> Vec<u8> {
    small(CREDIT, |map| {
        map.uint(1, bytes as u64).text(15, call_text(call, &mut [0; 36]));
    })
}

/// For which call how much more may come.
pub(crate) fn read_credit(payload: &[u8]) -> Option<(&str, usize)> {
    let (mut call, mut bytes) = (None, 0);
    let read = message::read(payload, |key, value| match key {
        1 => value.uint().map(|count| bytes = usize::try_from(count).unwrap_or_default()),
        15 => value.text().map(|text| call = Some(text)),
        _ => value.skip(),
    });
    read.ok()?;
    Some((call?, bytes))
}

fn call_text(call: Uuid, buffer: &mut [u8; 36]) -> &str {
    call.hyphenated().encode_lower(buffer)
}

/// What the consumer's request said beside its body; only our own workers are told. It may hold a credential, and so has
/// no `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) consumer_token: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
    pub(crate) origin: Option<String>,
    /// Whether the consumer takes the result in parts.
    pub(crate) takes_events: bool,
    /// It is no task, but somebody who looks for a direct path.
    pub(crate) punches: bool,
}

/// Longest of these that is passed on.
const MOST_FACT: usize = 8 << 10;

/// More than stands around the body of a call.
pub(crate) const MOST_BESIDE: usize = 5 * MOST_FACT;

/// What stands before and behind the body of a call: with it they are one frame, and the body is never copied.
pub(crate) fn write_call(call: Uuid, body: &Bytes, facts: &Facts) -> [Bytes; 3] {
    let told = [(11, &facts.consumer_token), (103, &facts.traceparent), (104, &facts.tracestate), (105, &facts.origin)];
    let told = told.map(|(key, fact)| (key, fact.as_deref().filter(|fact| fact.len() <= MOST_FACT)));
    let told = || told.iter().filter_map(|(key, fact)| fact.map(|fact| (*key, fact)));
    // Beside the texts, a key and a length for each.
    let most = told().map(|(_, fact)| fact.len() + 5).sum::<usize>();
    let mut out = Vec::with_capacity(HEADER_BYTES + 52 + most);
    let begun = frame::begin(&mut out, Kind::Call, 0);
    // {5: body, 15: call}, and what is told.
    out.push(
        0xa2 + u8::from(facts.takes_events)
            + u8::from(facts.punches)
            + u8::try_from(told().count()).unwrap_or_default(),
    );
    out.push(5);
    cbor::write_head(&mut out, cbor::BYTES, body.len() as u64);
    let front = out.len();
    let mut entry = |key, text: &str| {
        cbor::write_head(&mut out, cbor::UINT, key);
        cbor::write_head(&mut out, cbor::TEXT, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    };
    told().filter(|(key, _)| *key < 15).for_each(|(key, fact)| entry(key, fact));
    entry(15, call_text(call, &mut [0; 36]));
    told().filter(|(key, _)| *key > 15).for_each(|(key, fact)| entry(key, fact));
    if facts.takes_events {
        out.extend_from_slice(&[0x18, 106, 1]);
    }
    if facts.punches {
        out.extend_from_slice(&[0x18, 107, 1]);
    }
    around(out, begun, front, body)
}

/// Both sides of a body, and the length of all three in the header.
fn around(mut out: Vec<u8>, begun: usize, front: usize, body: &Bytes) -> [Bytes; 3] {
    // A body is bounded far below what a frame may be.
    let length = u32::try_from(out.len() - begun + body.len()).unwrap_or(u32::MAX);
    out[begun - 4..begun].copy_from_slice(&length.to_be_bytes());
    let whole = Bytes::from(out);
    [whole.slice(..front), body.clone(), whole.slice(front..)]
}

/// What a relay asks a worker.
pub(crate) struct Call<'a> {
    /// As the relay wrote it: it comes back in the answer.
    pub(crate) call: &'a str,
    /// The task in JSON.
    pub(crate) body: &'a [u8],
    pub(crate) facts: Facts,
}

impl<'a> Call<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Call<'a>> {
        let (mut call, mut body, mut facts): (&str, &[u8], _) = ("", b"", Facts::default());
        message::read(payload, |key, value| {
            match key {
                15 => call = value.text()?,
                5 => body = value.bytes()?,
                11 => facts.consumer_token = Some(value.text()?.to_owned()),
                103 => facts.traceparent = Some(value.text()?.to_owned()),
                104 => facts.tracestate = Some(value.text()?.to_owned()),
                105 => facts.origin = Some(value.text()?.to_owned()),
                106 => facts.takes_events = value.uint()? != 0,
                107 => facts.punches = value.uint()? != 0,
                _ => value.skip()?,
            }
            Ok(())
        })?;
        if call.is_empty() { Err(Reason::InvalidPayload) } else { Ok(Call { call, body, facts }) }
    }
}

/// Where the task lies in a call that is not read as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    /// Bytes before it.
    pub(crate) front: usize,
    pub(crate) body: usize,
}

impl Outline {
    /// What is needed of a call's beginning.
    pub(crate) const BYTES: usize = 11;

    /// Reads it from the beginning of a call in the order of this library and of the published relays: a map, and in it the
    /// task first. None for any other.
    pub(crate) fn read(begin: &[u8]) -> Option<Outline> {
        let [0xa0..=0xb7, 5, head, length @ ..] = begin else { return None };
        let (bytes, length) = match head {
            0x58 => (1, length.get(..1)?),
            0x59 => (2, length.get(..2)?),
            0x5a => (4, length.get(..4)?),
            0x5b => (8, length.get(..8)?),
            _ => return None,
        };
        let body = length.iter().fold(0, |body, byte| body << 8 | u64::from(*byte));
        Some(Outline { front: 3 + bytes, body: usize::try_from(body).ok()? })
    }
}

/// Which call it is, from what stands behind its task.
pub(crate) fn call_of_rest(rest: &[u8]) -> Option<String> {
    let mut reader = cbor::Reader::new(rest);
    while reader.uint().ok()? != 15 {
        reader.skip().ok()?;
    }
    reader.text().ok().map(str::to_owned)
}

/// Writes a worker's answer: its body in JSON and, unless it is 200, the status that the caller should see. Published
/// relays pass over that and give the body with a 200.
pub(crate) fn write_response(call: &str, body: &Bytes, status: u16) -> [Bytes; 3] {
    let mut out = Vec::with_capacity(HEADER_BYTES + call.len() + 24);
    let begun = frame::begin(&mut out, Kind::Response, 0);
    out.extend_from_slice(&[if status == 200 { 0xa2 } else { 0xa3 }, 5]);
    cbor::write_head(&mut out, cbor::BYTES, body.len() as u64);
    let front = out.len();
    out.push(15);
    cbor::write_head(&mut out, cbor::TEXT, call.len() as u64);
    out.extend_from_slice(call.as_bytes());
    if status != 200 {
        let [high, low] = status.to_be_bytes();
        out.extend_from_slice(&[0x18, 100, 0x19, high, low]);
    }
    around(out, begun, front, body)
}

/// Writes a part of an answer.
pub(crate) fn write_part(call: &str, body: &Bytes, first: Option<&Beginning>) -> [Bytes; 3] {
    let mut out = Vec::with_capacity(HEADER_BYTES + call.len() + 32);
    let begun = frame::begin(&mut out, PART, 0);
    let length = first.and_then(|first| first.length);
    let events = first.is_some_and(|first| first.events);
    out.extend_from_slice(&[0xa2 + u8::from(length.is_some()) + u8::from(events), 5]);
    cbor::write_head(&mut out, cbor::BYTES, body.len() as u64);
    let front = out.len();
    out.push(15);
    cbor::write_head(&mut out, cbor::TEXT, call.len() as u64);
    out.extend_from_slice(call.as_bytes());
    if let Some(length) = length {
        out.extend_from_slice(&[0x18, 101]);
        cbor::write_head(&mut out, cbor::UINT, length as u64);
    }
    if events {
        out.extend_from_slice(&[0x18, 102, 1]);
    }
    around(out, begun, front, body)
}

/// What is known of an answer when its first part comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Bytes of the whole.
    pub(crate) length: Option<usize>,
    /// It is a stream of events.
    pub(crate) events: bool,
}

/// A part of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) call: Uuid,
    pub(crate) body: Bytes,
    pub(crate) beginning: Beginning,
}

impl Part {
    /// Reads a part; none if it names no call that this relay could have made.
    pub(crate) fn read(payload: &Bytes) -> Result<Option<Part>> {
        let (mut call, mut body, mut beginning): (&str, &[u8], _) = ("", b"", Beginning::default());
        message::read(payload, |key, value| {
            match key {
                15 => call = value.text()?,
                5 => body = value.bytes()?,
                101 => beginning.length = usize::try_from(value.uint()?).ok(),
                102 => beginning.events = value.uint()? != 0,
                _ => value.skip()?,
            }
            Ok(())
        })?;
        let body = payload.slice_ref(body);
        Ok(Uuid::try_parse(call).ok().map(|call| Part { call, body, beginning }))
    }
}

/// What a worker answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) call: Uuid,
    pub(crate) body: Bytes,
    /// From our own workers, if the task failed.
    pub(crate) status: Option<u16>,
}

impl Response {
    /// Reads an answer; none if it names no call that this relay could have made.
    pub(crate) fn read(payload: &Bytes) -> Result<Option<Response>> {
        let (mut call, mut body, mut status): (&str, &[u8], _) = ("", b"", None);
        message::read(payload, |key, value| {
            match key {
                15 => call = value.text()?,
                5 => body = value.bytes()?,
                100 => status = u16::try_from(value.uint()?).ok(),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        let body = payload.slice_ref(body);
        let status = status.filter(|status| (400..600).contains(status));
        Ok(Uuid::try_parse(call).ok().map(|call| Response { call, body, status }))
    }
}

/// A frame whose length is known to be small.
fn small(kind: Kind, fill: impl FnOnce(&mut MapWriter<'_>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    let _ = message::write(&mut out, kind, fill);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(frames: [Bytes; 3]) -> Vec<u8> {
        frames.concat()
    }

    fn payload(frame: &[u8]) -> Bytes {
        let header = frame::Header::read(frame.first_chunk().unwrap()).unwrap();
        assert_eq!(header.length as usize, frame.len() - HEADER_BYTES);
        Bytes::copy_from_slice(&frame[HEADER_BYTES..])
    }

    /// Recorded: what the published relays and workers say to each other.
    #[test]
    fn every_frame_of_a_published_session_is_written_byte_for_byte() {
        let published = Hello::default();
        assert_eq!(published.write(Kind::Init), b"IICP\x01\x01\0\0\0\0\0\x03\xa1\x01\x01");
        assert_eq!(published.write(Kind::Ack), b"IICP\x01\x02\0\0\0\0\0\x03\xa1\x01\x01");
        assert_eq!(write_echo(Kind::Ping, &[]), b"IICP\x01\x09\0\0\0\0\0\x03\xa1\x01\x40");
        assert_eq!(write_close(), b"IICP\x01\x07\0\0\0\0\0\0");
        let models = vec!["m"];
        let bind = RelayBind { worker_id: "w-1", intent: Some("urn:iicp:intent:llm:chat:v1"), models, ticket: None };
        let wanted = b"IICP\x01\x0b\0\0\0\0\0\x28\xa3\x01\x63w-1\x02\x78\x1burn:iicp:intent:llm:chat:v1\x03\x81\x61m";
        assert_eq!(write_bind(&bind).unwrap(), wanted);
        let ack = RelayAck { ok: true, worker_id: Some("w-1"), reason: None, http_port: Some(9484) };
        assert_eq!(write_verdict(&ack), b"IICP\x01\x0c\0\0\0\0\0\x0e\xa3\x01\x62ok\x02\x63w-1\x04\x19\x25\x0c");
        let call: Uuid = "c63c31e3-4234-4772-ab2a-45a5bc52eb93".parse().unwrap();
        let body = Bytes::from_static(b"{\"task_id\":\"t\"}");
        let mut wanted = b"IICP\x01\x05\0\0\0\0\0\x39\xa2\x05\x4f{\"task_id\":\"t\"}\x0f\x78\x24".to_vec();
        wanted.extend(call.to_string().as_bytes());
        wanted[11] = u8::try_from(wanted.len() - HEADER_BYTES).unwrap();
        assert_eq!(joined(write_call(call, &body, &Facts::default())), wanted);
    }

    #[test]
    fn what_is_written_is_read_back_and_bodies_are_not_copied() {
        let call = Uuid::new_v4();
        for length in [0, 23, 24, 255, 256, 65_535, 65_536] {
            let body = Bytes::from(vec![b'x'; length]);
            let facts = Facts {
                consumer_token: Some("c".into()),
                traceparent: Some("t".into()),
                tracestate: None,
                origin: Some("o".repeat(300)),
                takes_events: length % 2 == 0,
                punches: length % 3 == 0,
            };
            let frames = write_call(call, &body, &facts);
            assert_eq!(frames[1].as_ptr(), body.as_ptr());
            let frame = payload(&joined(frames));
            let read = Call::read(&frame).unwrap();
            assert!(read.call == call.to_string() && read.body == &body[..] && read.facts == facts);
            for (status, seen) in [(200, None), (429, Some(429)), (503, Some(503)), (302, None)] {
                let frame = payload(&joined(write_response(&call.to_string(), &body, status)));
                let read = Response::read(&frame).unwrap().unwrap();
                assert_eq!(read, Response { call, body: body.clone(), status: seen });
            }
        }
        assert_eq!(read_cancel(&payload(&write_cancel(call))), Some(call));
        assert_eq!(read_credit(&payload(&write_credit(call, WINDOW))), Some((&*call.to_string(), WINDOW)));
        for (length, events) in [(None, true), (Some(70_000), false), (None, false)] {
            let (body, beginning) = (Bytes::from_static(b"{"), Beginning { length, events });
            let frame = payload(&joined(write_part(&call.to_string(), &body, Some(&beginning))));
            assert_eq!(Part::read(&frame), Ok(Some(Part { call, body, beginning })));
        }
        for kind in [Kind::Init, Kind::Ack] {
            for (ours, punches) in [(true, true), (true, false), (false, false)] {
                let hello = Hello { ours, punches };
                assert_eq!(Hello::read(kind, &payload(&hello.write(kind))), hello);
            }
        }
        assert_eq!(Hello::read(Kind::Init, b"\xff"), Hello::default());
        // The published Rust worker's order, and an id that is none of ours.
        for nobodys in [&b"\xa2\x0f\x61c\x05\x42{}"[..], b"\xa0", b"\xa1\x05\x42{}"] {
            assert_eq!(Response::read(&Bytes::from_static(nobodys)), Ok(None));
        }
        for bad in [&b""[..], b"\xff", b"\xa1\x0f\x07"] {
            assert!(Response::read(&Bytes::from_static(bad)).is_err(), "{bad:?}");
        }
    }
}
