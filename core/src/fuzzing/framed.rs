//! Targets of the framed transport: frames as they arrive, messages as they are read, messages in parts.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::{seed, split};
use crate::protocol::published::{Asking, Said};
use crate::protocol::session::AGREED;
use crate::wire::call::{Call, Content, Failed, Lifecycle, Response, Status};
use crate::wire::cbor::{MapWriter, Reader, Result};
use crate::wire::fragment::{MAX_FRAGMENTS, MAX_HELD, MAX_INCOMPLETE, Reassembly, TIMEOUT_MS, parts, write_part};
use crate::wire::frame::{COMPRESSED, FRAGMENTED, Kind, MAX_PAYLOAD, Reason, begin, end};
use crate::wire::gzip::deflate;
use crate::wire::inbound::{Fault, Inbound, Message};
use crate::wire::message::{
    Ack, Close, Discover, GZIP, Init, RelayAck, RelayBind, check, read_echo, write_close, write_echo,
};
use crate::wire::relay::{Beginning, CREDIT, PART, Part, read_credit, write_credit, write_part as write_piece};
use crate::wire::transcode::{to_cbor, to_json};

const URN: &str = crate::types::CHAT;
const ID: &str = "e0000000-0000-4000-8000-000000000001";

/// Most bytes of the JSON that is made of an answer here.
const MOST_JSON: usize = 1 << 16;

// --- frames as they arrive ---

/// All messages of a stream, and what ended it, if the stream arrives in pieces of this size.
fn messages(stream: &[u8], piece: usize) -> (Vec<Message>, Option<Fault>) {
    let mut inbound = Inbound::default();
    (inbound.agreed, inbound.parts) = (AGREED, true);
    let (mut arrived, mut found) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece) {
        arrived.extend_from_slice(piece);
        loop {
            match inbound.next(&mut arrived, 0) {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(fault) => return (found, Some(fault)),
            }
        }
        assert!(inbound.missing(&arrived) > 0, "a whole frame was left lying");
        assert!(inbound.held() <= MAX_HELD && inbound.check_time(TIMEOUT_MS).is_ok());
    }
    (found, None)
}

/// The same messages come out, however the bytes come in.
pub(super) fn frames(data: &[u8]) {
    let (first, stream) = split(data);
    let whole = messages(stream, stream.len().max(1));
    assert_eq!(messages(stream, usize::from(first % 32) + 1), whole, "other pieces, other messages");
    for message in &whole.0 {
        assert!(message.payload.len() <= 32 << 20);
        assert!(
            !message.payload.is_empty() || !matches!(message.kind, Kind::Call | Kind::Response) || compressed(stream)
        );
        read_message(message.kind, &message.payload);
    }
    if !stream.is_empty() && !b"IICP".starts_with(&stream[..stream.len().min(4)]) {
        assert_eq!(whole, (Vec::new(), Some(Fault::NotIicp)), "another protocol");
    }
}

/// Whether there may be a message that became empty when it was inflated, or of empty parts.
fn compressed(stream: &[u8]) -> bool {
    stream.windows(12).any(|header| header.starts_with(b"IICP") && header[6] & (COMPRESSED | FRAGMENTED) != 0)
}

fn frame(kind: Kind, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let begun = begin(&mut out, kind, flags);
    out.extend_from_slice(payload);
    end(&mut out, begun).unwrap();
    out
}

fn in_parts(message: &[u8], flags: u8, order: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    for seq in order {
        write_part(&mut out, Kind::Call, flags, ID, *seq, message).unwrap();
    }
    out
}

pub(super) fn frames_seeds() -> Vec<Vec<u8>> {
    let call = &written(|out| call().write(out))[12..];
    let zipped = deflate(&[call, &[0xf6; 200]].concat()).unwrap();
    let long = vec![0xf6; 130_000];
    let session = [
        written(|out| {
            Init { version: Some(1), min_version: Some(1), compression: vec![GZIP], ..Init::default() }.write(out)
        }),
        frame(Kind::Ping, 0, &[]),
        frame(Kind::Call, 0, call),
        frame(Kind::Call, COMPRESSED, &zipped),
        frame(Kind::Custom(0xf0), 0x80, b"x"),
        write_credit(uuid::Uuid::from_bytes([7; 16]), 1024),
        write_piece(ID, &Bytes::from_static(b"data: {}"), Some(&Beginning { length: Some(8), events: true })).concat(),
        written(|out| write_close(out, Reason::Graceful, Some("bye"))),
    ];
    vec![
        seed(3, session.concat()),
        seed(0, in_parts(&long, 0, &[2, 0, 1])),
        seed(0, in_parts(&zipped, COMPRESSED, &[0])),
        seed(7, b"GET / HTTP/1.1\r\n\r\n"),
        seed(1, [&frame(Kind::Ping, 0, &[])[..], b"IICP\x01\x0f\0\0\0\0\0\0"].concat()),
        seed(1, b"IICP\x01\x05\0\0\xff\xff\xff\xff"),
        seed(1, b"IICP\x02\x05\0\0\0\0\0\x01\xa0"),
    ]
}

// --- messages as they are read ---

fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    out
}

/// What is written of something that was read must be deterministic, and be read as the same again.
fn again(payload: &[u8], write: impl Fn(&[u8], &mut Vec<u8>) -> Result<()>) {
    let mut first = Vec::new();
    // Only what is too large to be sent is not written.
    if write(payload, &mut first).is_err() {
        return;
    }
    let second = written(|out| write(&first[12..], out));
    assert_eq!(first, second, "read, written and read again, it was something else");
    let value: ciborium::Value = ciborium::from_reader(&first[12..]).unwrap();
    let mut canonical = Vec::new();
    ciborium::into_writer(&value, &mut canonical).unwrap();
    assert_eq!(&first[12..], canonical, "not in its shortest form");
    let ciborium::Value::Map(entries) = value else { panic!("a message that is no map") };
    assert!(entries.windows(2).all(|pair| pair[0].0.as_integer() < pair[1].0.as_integer()), "keys out of order");
}

/// Whether the reader for this kind takes the message.
fn read_message(kind: Kind, payload: &[u8]) -> bool {
    match kind {
        Kind::Init => Init::read(payload).is_ok(),
        Kind::Ack => Ack::read(payload).is_ok(),
        Kind::Discover => Discover::read(payload).is_ok(),
        Kind::Call => Call::read(payload).is_ok(),
        Kind::Response => Response::read(payload).is_ok(),
        Kind::Close => Close::read(payload).is_ok(),
        Kind::Ping | Kind::Pong => read_echo(payload).is_ok(),
        PART => Part::read(&Bytes::copy_from_slice(payload)).is_ok(),
        CREDIT => read_credit(payload).is_some(),
        other => check(other, payload).is_ok(),
    }
}

/// Ciborium is the oracle: what it refuses, no reader here takes, and what is taken means the same to both.
pub(super) fn message(data: &[u8]) {
    let (kind, payload) = split(data);
    let mut reader = Reader::new(payload);
    let sound = reader.map(|_, value| value.skip()).and_then(|()| reader.end()).is_ok();
    let oracle = ciborium::de::from_reader_with_recursion_limit::<ciborium::Value, _>(payload, 256);
    if sound {
        let has_odd_simple_values = || payload.iter().any(|byte| (0xe0..=0xf3).contains(byte) || *byte >= 0xf8);
        assert!(oracle.is_ok() || has_odd_simple_values(), "taken, and not CBOR: {oracle:?}");
        if let Ok(value) = &oracle {
            assert!(value.as_map().unwrap().iter().all(|(key, _)| key.is_integer()));
        }
    }
    json(payload);
    let Some(kind) = KINDS.get(usize::from(kind) % (KINDS.len() + 2)) else {
        relay(payload);
        return;
    };
    let taken = read_message(*kind, payload);
    assert!(sound || !taken || payload.is_empty(), "taken, and not a map with integer keys");
    if !taken || payload.is_empty() {
        return;
    }
    match kind {
        Kind::Init => again(payload, |payload, out| Init::read(payload)?.write(out)),
        Kind::Ack => again(payload, |payload, out| Ack::read(payload)?.write(out)),
        Kind::Ping => again(payload, |payload, out| write_echo(out, Kind::Pong, read_echo(payload)?)),
        Kind::Call => {
            // A value that is passed on as it came is not ours to write.
            let plain = !matches!(Call::read(payload).unwrap().payload, Content::Value(_));
            if plain {
                again(payload, |payload, out| Call::read(payload)?.write(out));
            }
        }
        Kind::Response => {
            let response = Response::read(payload).unwrap();
            answered(payload, &response);
            let known = response.status.and_then(Status::parse);
            assert!(known.is_none_or(|status| Some(status.as_str()) == response.status));
            if !matches!(response.result, Content::Value(_)) {
                again(payload, |payload, out| Response::read(payload)?.write(out));
                again(payload, |payload, out| Response::read(payload)?.write_published(out));
            }
        }
        Kind::Discover => {
            let answer = written(|out| Discover::read(payload).unwrap().write_answer(out));
            assert!(Response::read(&answer[12..]).is_ok());
        }
        _ => {}
    }
}

/// An answer as the client of a published node reads it: JSON if it is a result, about this call alone, and the last of it.
fn answered(payload: &[u8], response: &Response<'_>) {
    let named = |name: Option<&str>| name.unwrap_or("another").to_owned();
    for followed in [None, response.lifecycle.and_then(|told| told.task_id).map(str::to_owned)] {
        let mut asking = Asking::new(named(response.session_id), named(response.call_id), followed);
        match asking.take(payload, MOST_JSON) {
            Ok(Said::Result(json)) => {
                assert!(json.len() <= MOST_JSON && asking.has_ended());
                assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
            }
            Ok(Said::Refused(refusal)) => assert!(refusal.status >= 400 && asking.has_ended()),
            Ok(Said::Event(event)) => assert_eq!(event.name.is_final(), asking.has_ended()),
            Err(_) => assert!(!asking.has_ended() || asking.take(payload, MOST_JSON).is_err()),
        }
        assert!(
            Asking::new("x".into(), "x".into(), None).take(payload, MOST_JSON).is_err()
                || named(response.call_id) == "x"
        );
    }
}

/// What a worker and its relay say to each other, where 0x0B and 0x0C are theirs.
fn relay(payload: &[u8]) {
    if RelayBind::read(payload).is_ok_and(|bind| !bind.worker_id.is_empty()) {
        again(payload, |payload, out| RelayBind::read(payload)?.write(out));
    }
    if RelayAck::read(payload).is_ok() {
        again(payload, |payload, out| RelayAck::read(payload)?.write(out));
    }
}

/// A result of a published node: its JSON is JSON, small enough, and goes back into CBOR and out of it unchanged.
fn json(cbor: &[u8]) {
    if matches!(cbor.first(), Some(b'{' | b'[')) && serde_json::from_slice::<serde_json::Value>(cbor).is_ok() {
        assert!(to_json(cbor, usize::MAX).is_err(), "both CBOR and JSON");
    }
    let Ok(text) = to_json(cbor, usize::MAX) else { return };
    assert!(text.len() <= cbor.len() * 32 + 32);
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let back = to_json(&to_cbor(&text).unwrap(), usize::MAX).unwrap();
    assert!(same(&serde_json::from_slice(&back).unwrap(), &value), "{value}");
}

/// Whether both say the same. The JSON reader is fast and takes a number's last bit as it comes, once each way.
fn same(left: &serde_json::Value, right: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (left, right) {
        (Number(left), Number(right)) if left.is_f64() && right.is_f64() => {
            let (left, right) = (left.as_f64().unwrap(), right.as_f64().unwrap());
            left == right || (left - right).abs() <= right.abs() * 1e-14
        }
        (Array(left), Array(right)) => left.len() == right.len() && left.iter().zip(right).all(|(l, r)| same(l, r)),
        (Object(left), Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, value)| right.get(name).is_some_and(|r| same(value, r)))
        }
        (left, right) => left == right,
    }
}

const KINDS: [Kind; 14] = [
    Kind::Init,
    Kind::Ack,
    Kind::Discover,
    Kind::SubProtocol,
    Kind::Call,
    Kind::Response,
    Kind::Close,
    Kind::Feedback,
    Kind::Ping,
    Kind::Pong,
    Kind::Control,
    Kind::Advertise,
    Kind::Observe,
    Kind::Telemetry,
];

fn call() -> Call<'static> {
    Call {
        version: Some(1),
        session_id: Some("s-1"),
        intent: Some(URN),
        payload: Content::Bytes(br#"{"messages":[]}"#),
        timeout_s: Some(30),
        auth_token: Some("0123456789abcdef0123456789abcdef"),
        trace_id: Some(&[7; 16]),
        parent_span: Some(&[8; 8]),
        call_id: Some("c-1"),
        idempotency_key: Some("k-1"),
        qos: Some("interactive"),
        task_id: Some("t-1"),
        takes_events: true,
    }
}

fn response() -> Response<'static> {
    Response {
        version: Some(1),
        session_id: Some("s-1"),
        call_id: Some("c-1"),
        status: Some(Status::Partial.as_str()),
        result: Content::Bytes(b"{}"),
        tokens_used: Some(7),
        duration_ms: Some(12),
        node_id: Some("n-1"),
        is_final: Some(false),
        lifecycle: Some(Lifecycle {
            task_id: Some("t-1"),
            sequence: Some(0),
            event: Some("partial"),
            is_final: Some(false),
        }),
        ..Response::default()
    }
}

pub(super) fn message_seeds() -> Vec<Vec<u8>> {
    let init = Init {
        version: Some(1),
        min_version: Some(1),
        node_id: Some("n-1"),
        node_token: Some("secret"),
        capabilities: vec!["urn:iicp:custom:core:envelope:v1"],
        compression: vec![GZIP],
        max_frame_size: Some(MAX_PAYLOAD as u64),
    };
    let ack = Ack {
        version: Some(1),
        node_id: Some("n-1"),
        capabilities: Some(vec!["urn:iicp:custom:core:envelope:v1"]),
        compression: Some(GZIP),
        max_frame_size: Some(1 << 20),
        server_time: Some(1_795_000_000),
    };
    let failed = Response {
        status: Some("error"),
        result: Content::None,
        error: Some(Failed { code: Some("overloaded"), message: Some("later") }),
        is_final: Some(true),
        lifecycle: None,
        status_code: Some(503),
        retry_after_ms: Some(1000),
        ..response()
    };
    let published = Response {
        session_id: Some("call-1"),
        call_id: Some("call-9"),
        result: Content::Bytes(b"\xa1\x61a\x01"),
        ..Response::default()
    };
    let bind = RelayBind { worker_id: "w-1", intent: Some(URN), models: vec!["m"], ticket: Some("t.s") };
    let bound = RelayAck { ok: true, worker_id: Some("w-1"), reason: None, http_port: Some(9484) };
    let of = |mode: u8, frame: Vec<u8>| seed(mode, &frame[12..]);
    let body = |fill: fn(&mut MapWriter<'_>)| {
        let mut out = Vec::new();
        let mut map = MapWriter::begin(&mut out);
        fill(&mut map);
        map.end();
        out
    };
    vec![
        of(0, written(|out| init.write(out))),
        of(1, written(|out| ack.write(out))),
        seed(
            2,
            body(|map| {
                map.text(2, "discover-1").text(3, URN);
            }),
        ),
        seed(
            2,
            body(|map| {
                map.text(1, URN).uint(2, 5).text(3, "eu-lab");
            }),
        ),
        of(4, written(|out| call().write(out))),
        of(5, written(|out| response().write(out))),
        of(5, written(|out| failed.write(out))),
        of(5, written(|out| published.write_published(out))),
        of(6, written(|out| write_close(out, Reason::ReadTimeout, Some("slow")))),
        of(6, written(|out| write_close(out, Reason::InitTimeout, None))),
        of(6, written(|out| write_close(out, Reason::IdleTimeout, None))),
        of(6, written(|out| write_close(out, Reason::VersionTooOld, Some("server_min=1")))),
        of(8, written(|out| write_echo(out, Kind::Ping, Some(b"hi")))),
        of(14, written(|out| bind.write(out))),
        of(14, written(|out| bound.write(out))),
        seed(
            3,
            body(|map| {
                map.text(1, "urn:iicp:sp:cip:v1").text(2, "propose");
            }),
        ),
        seed(
            13,
            body(|map| {
                map.text(1, "n").uint(2, 9).map(3, Some(()), |_, ()| {}).bytes(4, &[1; 16][..]).bytes(5, &[2; 8][..]);
            }),
        ),
        seed(99, to_cbor(br#"{"choices":[{"index":0,"message":{"content":"hi"}}],"n":-1.5,"b":null}"#).unwrap()),
    ]
}

// --- messages in parts ---

/// What has come of a message, as the model keeps it.
struct Model {
    total: u64,
    flags: u8,
    since_ms: u64,
    parts: BTreeMap<u64, Vec<u8>>,
}

/// Parts in any order, of many messages, with ends that do not fit: a model that keeps every part says what must come.
pub(super) fn fragments(data: &[u8]) {
    let mut reassembly = Reassembly::default();
    let mut model: BTreeMap<u8, Model> = BTreeMap::new();
    let mut now_ms = 0;
    for step in data.chunks_exact(5) {
        let [id, seq, total, size, what] = [step[0], step[1], step[2], step[3], step[4]];
        let (seq, total) = (u64::from(seq % 16), u64::from(total % 16) + u64::from(what >> 7) * 250);
        let flags = what & COMPRESSED;
        now_ms += u64::from(what & 0x40) * 100;
        let part = vec![size; usize::from(size) * usize::from(what & 7)];
        let mut payload = Vec::new();
        let mut map = MapWriter::begin(&mut payload);
        map.text(1, id.to_string().as_str()).uint(2, seq).uint(3, total).bytes(4, &part[..]).end();
        let got = reassembly.add(Kind::Call, flags | FRAGMENTED, &payload, now_ms);
        let expected = expect(&mut model, id, seq, total, flags, part, now_ms);
        assert_eq!(got, expected);
        if got.is_err() {
            return;
        }
        assert!(reassembly.held() <= MAX_HELD && reassembly.is_empty() == model.is_empty());
    }
}

fn expect(
    model: &mut BTreeMap<u8, Model>,
    id: u8,
    seq: u64,
    total: u64,
    flags: u8,
    part: Vec<u8>,
    now_ms: u64,
) -> Result<Option<(u8, Vec<u8>)>> {
    if model.values().any(|message| now_ms - message.since_ms > TIMEOUT_MS) {
        return Err(Reason::FragmentTimeout);
    }
    if total > MAX_FRAGMENTS {
        return Err(Reason::FragmentLimitExceeded);
    }
    if seq >= total {
        return Err(Reason::InvalidPayload);
    }
    if !model.contains_key(&id) && model.len() == MAX_INCOMPLETE {
        return Err(Reason::ReassemblyLimitExceeded);
    }
    let message = model.entry(id).or_insert_with(|| Model { total, flags, since_ms: now_ms, parts: BTreeMap::new() });
    if (message.total, message.flags) != (total, flags) || message.parts.insert(seq, part).is_some() {
        return Err(Reason::InvalidPayload);
    }
    if message.parts.len() as u64 != total {
        return Ok(None);
    }
    let whole: Vec<u8> = message.parts.values().flatten().copied().collect();
    model.remove(&id);
    Ok(Some((flags, whole)))
}

pub(super) fn fragments_seeds() -> Vec<Vec<u8>> {
    let step = |id: u8, seq: u8, total: u8, size: u8, what: u8| vec![id, seq, total, size, what];
    assert_eq!(parts(&[0; 65_537]), 2);
    vec![
        [step(1, 0, 2, 9, 1), step(2, 1, 2, 7, 1), step(1, 1, 2, 8, 1), step(2, 0, 2, 200, 7)].concat(),
        (0..70).flat_map(|id| step(id, 0, 2, 255, 7)).collect(),
        [step(1, 0, 2, 1, 1), step(1, 0, 2, 1, 1)].concat(),
        [step(1, 0, 3, 1, 1), step(1, 1, 2, 1, 1)].concat(),
        [[1, 0, 2, 1, 1], [2, 0, 2, 1, 0x41], [3, 0, 2, 1, 0x41]].concat(),
        step(1, 0, 15, 1, 0x81),
        (0..8).flat_map(|at| step(1, 7 - at, 8, at, 3)).collect(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cheap source of bytes that are the same in every run.
    fn noise(mut state: u64) -> impl FnMut() -> u8 {
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        }
    }

    /// The one number of rounds, or the other in the long form of `tests/run --with soak`.
    fn rounds(few: usize, many: usize) -> usize {
        if std::env::var_os("IICP_SOAK").is_some() { many } else { few }
    }

    #[test]
    fn parts_in_any_order_make_what_the_model_says() {
        let mut byte = noise(0x9e37_79b9_7f4a_7c15);
        for round in 0..rounds(20_000, 1_000_000) {
            // Few ids and small totals, so that many messages get whole; some rounds as they come.
            let tame = round % 8 != 0;
            let steps: Vec<u8> = (0..round % 90)
                .flat_map(|_| [byte(), byte(), byte(), byte(), byte()])
                .enumerate()
                .map(|(at, byte)| match at % 5 {
                    0 if tame => byte % 4,
                    1 if tame => byte % 3,
                    2 if tame => 3,
                    4 if tame => byte & 6,
                    _ => byte,
                })
                .collect();
            fragments(&steps);
        }
    }

    #[test]
    fn large_parts_are_taken_as_long_as_there_is_room_for_their_message_and_for_all() {
        let (mut byte, zeros) = (noise(0x2545_f491_4f6c_dd1d), vec![0; 3 << 20]);
        let mut ends = BTreeMap::<_, usize>::new();
        for _ in 0..rounds(40, 400) {
            let (mut reassembly, mut model) = (Reassembly::default(), BTreeMap::<u8, (u64, usize)>::new());
            // Seven parts each, so that some get whole, some are too large, and all together too many.
            let [few, most] = [byte() % 8 + 1, byte() % 3 + 1];
            for _ in 0..64 {
                let (id, length) = (byte() % few, (usize::from(byte()) << 12) * usize::from(most));
                let (seq, held) = model.get(&id).copied().unwrap_or_default();
                let all: usize = model.values().map(|(_, held)| held).sum();
                let mut payload = Vec::new();
                let mut map = MapWriter::begin(&mut payload);
                map.text(1, id.to_string().as_str()).uint(2, seq).uint(3, 7).bytes(4, &zeros[..length]).end();
                let too_much = [held + length > MAX_PAYLOAD, all + length > MAX_HELD];
                let end = match reassembly.add(Kind::Call, FRAGMENTED, &payload, 0) {
                    Ok(whole) => {
                        assert_eq!(too_much, [false, false], "taken all the same");
                        let length = held + length;
                        assert_eq!(whole.as_ref().map(|(_, whole)| whole.len()), (seq == 6).then_some(length));
                        model.insert(id, if whole.is_some() { (0, 0) } else { (seq + 1, length) });
                        if whole.is_some() { "one got whole" } else { "none" }
                    }
                    Err(Reason::FrameTooLarge) if too_much[0] => "one is too large",
                    // A message costs a little beside its bytes.
                    Err(Reason::ReassemblyLimitExceeded) if all + length + (1 << 10) > MAX_HELD => "all are",
                    Err(reason) => panic!("{reason:?} with {held} of one, {all} of all and {length} more"),
                };
                *ends.entry(end).or_default() += 1;
                assert!(reassembly.held() <= MAX_HELD);
                if end == "one is too large" || end == "all are" {
                    break;
                }
            }
        }
        assert_eq!(ends.len(), 4, "each end came: {ends:?}");
    }

    #[test]
    fn messages_that_were_changed_somewhere_keep_every_promise() {
        let mut byte = noise(0xdead_beef_1234_5678);
        let seeds = [message_seeds(), frames_seeds()].concat();
        for round in 0..20_000_usize {
            let mut input = seeds[round % seeds.len()].clone();
            if input.len() > 4096 {
                continue;
            }
            for _ in 0..=byte() % 4 {
                let at = usize::from(byte()) % input.len();
                match byte() % 3 {
                    0 => input[at] = byte(),
                    1 => input.insert(at, byte()),
                    _ => drop(input.remove(at)),
                }
                if input.is_empty() {
                    input.push(0);
                }
            }
            message(&input);
            frames(&input);
        }
    }
}
