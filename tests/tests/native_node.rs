//! A node that speaks the native transport on its port: every frame that may not be, how calls share a connection, and
//! that they pass the same gate as tasks over HTTP.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ciborium::Value as Cbor;
use iicp_core::options::{NativeTransport, NodeOptions};
use iicp_core::{CHAT, Error, Inbound, LiveNode, Node, Reply};
use iicp_tests::http::Conn;
use iicp_tests::native::{CALLS, Native, call, frame, gzip_of_zeros, hello, kind, map, raw};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// How often a handler ran for a task id.
type Runs = Arc<Mutex<BTreeMap<String, u64>>>;

struct Served {
    node: LiveNode,
    runs: Runs,
    /// Told when a handler that hangs was dropped.
    dropped: Arc<Notify>,
}

struct Tell(Arc<Notify>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A node that returns the payload; it hangs on `{"hang": true}` and refuses `{"bad": true}`.
async fn node(change: impl FnOnce(&mut NodeOptions)) -> Served {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.max_concurrent = 200;
    options.node_id = Some("node-1".into());
    change(&mut options);
    let (runs, dropped) = (Runs::default(), Arc::new(Notify::new()));
    let (noted, tell) = (runs.clone(), dropped.clone());
    let handler = move |task: Inbound| {
        *noted.lock().unwrap().entry(task.task_id.clone()).or_default() += 1;
        let tell = tell.clone();
        async move {
            let payload = task.json::<Value>()?;
            if payload["hang"] == true {
                let _tell = Tell(tell);
                std::future::pending::<()>().await;
            }
            if let Some(parts) = payload["parts"].as_u64() {
                let fails = payload["fails"] == true;
                let parts = (0..parts).map(move |n| {
                    if fails && n == 2 { Err(Error::rejected("no more")) } else { Ok(json!({ "n": n, "bytes": 1.5 })) }
                });
                return Ok(Reply::stream(futures_util::stream::iter(parts)));
            }
            if payload["bad"] == true {
                return Err(Error::rejected("not this one"));
            }
            Ok(Reply::from(task.payload))
        }
    };
    let node = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
    Served { node, runs, dropped }
}

fn task(task_id: &str, payload: Value) -> Value {
    json!({ "task_id": task_id, "intent": CHAT, "payload": payload })
}

fn published(entries: &[(u64, Cbor)]) -> Vec<u8> {
    frame(kind::CALL, 0, &map(entries))
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

// --- frames that may not be (specification 9.6 and 9.7) ---

/// One row: what is sent, and the reason of the goodbye; none for a connection that ends without a word.
struct Row(&'static str, Vec<u8>, Option<&'static str>);

fn part(id: &str, seq: u64, total: u64, data: &[u8]) -> Vec<u8> {
    frame(kind::CALL, 2, &map(&[(1, id.into()), (2, seq.into()), (3, total.into()), (4, Cbor::Bytes(data.into()))]))
}

fn after_hello(frames: &[Vec<u8>]) -> Vec<u8> {
    [vec![hello()], frames.to_vec()].concat().concat()
}

fn rows() -> Vec<Row> {
    let a_call = map(&[(3, CHAT.into()), (5, Cbor::Bytes(b"{}".into()))]);
    let init = |version: u64, least: u64| frame(kind::INIT, 0, &map(&[(1, version.into()), (2, least.into())]));
    // A megabyte of zeros, so far deflated that the ratio gives it away.
    let bomb = gzip_of_zeros(4_000);
    vec![
        Row("a wrong magic after a good frame", [frame(kind::PING, 0, &[]), b"XICP0000000000".to_vec()].concat(), None),
        Row("more than 16 MiB", raw(1, kind::CALL, 0, (16 << 20) + 1, &[]), Some("frame_too_large")),
        Row("4 GiB on a PING", raw(1, kind::PING, 0, u32::MAX, &[]), Some("frame_too_large")),
        Row("an empty CALL", frame(kind::CALL, 0, &[]), Some("invalid_frame")),
        Row("an empty RESPONSE", frame(kind::RESPONSE, 0, &[]), Some("invalid_frame")),
        Row("version 0", raw(0, kind::CALL, 0, 1, &a_call), Some("invalid_version")),
        Row("version 2", raw(2, kind::CALL, 0, 1, &a_call), Some("version_mismatch")),
        Row("type 0", frame(0, 0, &a_call), Some("invalid_type")),
        Row("type 255", frame(0xff, 0, &a_call), Some("invalid_type")),
        Row("a type that is reserved", frame(0x0f, 0, &a_call), Some("unknown_type")),
        Row("the last one that is", frame(0xef, 0, &a_call), Some("unknown_type")),
        Row("a custom type before a greeting", frame(0xf0, 0, &a_call), Some("unsupported_extension")),
        Row("one that was not agreed on", after_hello(&[frame(0xf1, 0, &a_call)]), Some("unsupported_extension")),
        Row("no CBOR", frame(kind::CALL, 0, &[0xff; 9]), Some("cbor_decode_error")),
        Row("CBOR that ends too early", frame(kind::CALL, 0, &a_call[..a_call.len() - 1]), Some("cbor_decode_error")),
        Row("bytes behind the CBOR", frame(kind::CALL, 0, &[&a_call[..], b"x"].concat()), Some("cbor_decode_error")),
        Row(
            "a million lists",
            frame(kind::CALL, 0, &[&[0xa1, 5][..], &[0x81; 1_000_000]].concat()),
            Some("invalid_payload"),
        ),
        Row("a key twice", frame(kind::CALL, 0, &[0xa2, 3, 0x60, 3, 0x60]), Some("invalid_payload")),
        Row("keys that are texts", frame(kind::CALL, 0, &[0xa1, 0x61, b'5', 0x40]), Some("invalid_payload")),
        Row("a map of unknown length", frame(kind::CALL, 0, &[0xbf, 3, 0x60, 0xff]), Some("invalid_payload")),
        Row("a list where the map belongs", frame(kind::CALL, 0, &[0x80]), Some("invalid_payload")),
        Row("an intent that is a number", frame(kind::CALL, 0, &[0xa1, 3, 7]), Some("invalid_payload")),
        Row("a text that is not UTF-8", frame(kind::CALL, 0, &[0xa1, 3, 0x61, 0xff]), Some("invalid_payload")),
        Row(
            "a trace of 15 bytes",
            frame(kind::CALL, 0, &map(&[(13, Cbor::Bytes(vec![1; 15]))])),
            Some("invalid_payload"),
        ),
        Row("a span of 9 bytes", frame(kind::CALL, 0, &map(&[(14, Cbor::Bytes(vec![1; 9]))])), Some("invalid_payload")),
        Row(
            "an echo of 65 bytes",
            frame(kind::PING, 0, &map(&[(1, Cbor::Bytes(vec![1; 65]))])),
            Some("invalid_payload"),
        ),
        Row("a bomb", frame(kind::CALL, 1, &bomb), Some("payload_too_large")),
        Row("more than 1 MiB compressed", frame(kind::CALL, 1, &vec![0x1f; (1 << 20) + 1]), Some("payload_too_large")),
        Row("what says it is compressed and is not", frame(kind::CALL, 1, &a_call), Some("invalid_payload")),
        Row("a part before a greeting", part("a", 0, 2, b"x"), Some("protocol_error")),
        Row("257 parts", after_hello(&[part("a", 0, 257, b"x")]), Some("fragment_limit_exceeded")),
        Row("no parts", after_hello(&[part("a", 0, 0, b"x")]), Some("invalid_payload")),
        Row("a part behind the last", after_hello(&[part("a", 2, 2, b"x")]), Some("invalid_payload")),
        Row("a part twice", after_hello(&[part("a", 0, 2, b"x"), part("a", 0, 2, b"x")]), Some("invalid_payload")),
        Row("another total", after_hello(&[part("a", 0, 3, b"x"), part("a", 1, 2, b"x")]), Some("invalid_payload")),
        Row(
            "65 messages in parts",
            after_hello(&(0..65).map(|id| part(&id.to_string(), 0, 2, b"x")).collect::<Vec<_>>()),
            Some("reassembly_limit_exceeded"),
        ),
        Row(
            "more than 64 MiB in parts",
            after_hello(&(0..5).map(|id| part(&id.to_string(), 0, 2, &vec![0; 15 << 20])).collect::<Vec<_>>()),
            Some("reassembly_limit_exceeded"),
        ),
        Row(
            "more than 16 MiB of one message",
            after_hello(&[part("a", 0, 3, &vec![0; 9 << 20]), part("a", 1, 3, &vec![0; 9 << 20])]),
            Some("frame_too_large"),
        ),
        Row("a version that is too new", init(2, 2), Some("version_mismatch")),
        Row("a version that is too old", init(0, 0), Some("version_too_old")),
        Row("a second greeting", after_hello(&[hello()]), Some("protocol_error")),
        Row(
            "an ACK from a client",
            after_hello(&[frame(kind::ACK, 0, &map(&[(1, 1.into())]))]),
            Some("protocol_error"),
        ),
        Row("a RESPONSE from a client", frame(kind::RESPONSE, 0, &map(&[(2, "s".into())])), Some("protocol_error")),
        Row("a call of the specification without a greeting", call("c", &task("t", json!({}))), Some("protocol_error")),
        Row(
            "one call id twice",
            after_hello(&[call("c", &task("t-1", json!({"hang": true}))), call("c", &task("t-2", json!({})))]),
            Some("protocol_error"),
        ),
    ]
}

#[tokio::test]
async fn every_frame_that_may_not_be_ends_its_connection_with_its_reason_and_runs_nothing() {
    let served = node(|_| {}).await;
    for Row(what, bytes, reason) in rows() {
        let mut native = Native::open(served.node.addr()).await.unwrap();
        // The node may hang up before it has read it all.
        let _ = native.send(&bytes).await;
        let frames = soon(what, native.rest()).await;
        let goodbye = frames.iter().find(|frame| frame.kind == kind::CLOSE).map(|frame| frame.text(1));
        assert_eq!(goodbye.as_deref(), reason, "{what}: {frames:?}");
        assert!(goodbye.is_none() || frames.last().unwrap().kind == kind::CLOSE, "{what}: it is the last word");
        served.runs.lock().unwrap().remove("t-1");
        assert!(served.runs.lock().unwrap().is_empty(), "{what}: a handler ran");
    }
    let answer = Conn::open(served.node.addr()).await.unwrap().get("/iicp/health").await.unwrap();
    assert_eq!(answer.status, 200, "and nobody else noticed");
}

#[tokio::test]
async fn what_is_only_unusual_is_served() {
    let served = node(|_| {}).await;
    let whole = map(&[
        (1, 1.into()),
        (2, "s".into()),
        (5, Cbor::Bytes(task("t-2", json!([1])).to_string().into())),
        (15, "c-2".into()),
    ]);
    let (one, two) = whole.split_at(9);
    let mut reserved = frame(kind::PING, 0, &[]);
    reserved[7] = 0xff;
    let frames = [
        hello(),
        // Unknown flags, a reserved byte, the upper half of the version.
        frame(kind::PING, 0xfc, &[]),
        reserved,
        raw(0xf1, kind::PING, 0, 0, &[]),
        // Parts that come the other way round.
        part("m", 1, 2, two),
        part("m", 0, 2, one),
        // Unknown keys and nulls.
        frame(kind::PING, 0, &[0xa2, 0x18, 99, 0x81, 0xf6, 1, 0xf6]),
    ];
    let mut native = Native::open(served.node.addr()).await.unwrap();
    native.send(&frames.concat()).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..6 {
        let frame = soon("an answer", native.next()).await.unwrap().unwrap();
        if frame.kind == kind::RESPONSE {
            assert_eq!(frame.json()["result"], json!([1]), "{frame:?}");
        }
        kinds.push(frame.kind);
    }
    kinds.sort_unstable();
    assert_eq!(kinds, [kind::ACK, kind::RESPONSE, kind::PONG, kind::PONG, kind::PONG, kind::PONG]);
}

#[tokio::test]
async fn a_magic_that_comes_in_pieces_is_the_same_magic() {
    let served = node(|_| {}).await;
    let mut native = Native::open(served.node.addr()).await.unwrap();
    for piece in hello().chunks(1).take(6) {
        native.send(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    native.send(&hello()[6..]).await.unwrap();
    let ack = soon("the ACK", native.next()).await.unwrap().unwrap();
    assert_eq!((ack.kind, ack.text(2)), (kind::ACK, "node-1".into()));
    assert_eq!(ack.get(3), Cbor::Array(vec![CALLS.into()]));

    // What begins like it and is something else is HTTP, and told that it is none.
    let mut http = Conn::open(served.node.addr()).await.unwrap();
    http.write(b"II").await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    http.write(b"X / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(soon("an answer", http.answer()).await.unwrap().status, 404);
}

#[tokio::test]
async fn who_falls_silent_is_told_why_it_has_to_go() {
    let served = node(|options| {
        options.header_timeout_ms = 1000;
        options.idle_timeout_ms = 1000;
    })
    .await;
    let begun = [
        ("init_timeout", b"IICP".to_vec()),
        ("init_timeout", frame(kind::PING, 0, &[])),
        ("idle_timeout", hello()),
        ("idle_timeout", after_hello(&[call("c", &task("t", json!({})))])),
    ];
    let waiting = begun.into_iter().map(|(reason, bytes)| {
        let addr = served.node.addr();
        tokio::spawn(async move {
            let mut native = Native::open(addr).await.unwrap();
            native.send(&bytes).await.unwrap();
            let since = Instant::now();
            let frames = soon("the end", native.rest()).await;
            assert_eq!(frames.last().map(|frame| frame.text(1)).as_deref(), Some(reason), "{frames:?}");
            assert!(since.elapsed() >= Duration::from_millis(900), "{reason} came after {:?}", since.elapsed());
        })
    });
    for one in waiting.collect::<Vec<_>>() {
        one.await.unwrap();
    }
}

#[tokio::test]
#[ignore = "takes the half a minute that a message has; part of --with soak"]
async fn a_message_whose_last_part_does_not_come_within_thirty_seconds_ends_its_connection() {
    let served = node(|options| options.idle_timeout_ms = 120_000).await;
    let some = after_hello(&[part("m", 0, 3, b"x"), part("m", 2, 3, b"z")]);
    let half = [hello(), raw(1, kind::CALL, 0, 100, b"half")].concat();
    // One of them is silent from then on, one says that it is there, and one has not even sent a frame whole.
    let rows =
        [(some.clone(), false, "fragment_timeout"), (some, true, "fragment_timeout"), (half, false, "read_timeout")];
    let ends = rows.into_iter().map(async |(bytes, talks, reason)| {
        let mut native = Native::open(served.node.addr()).await.unwrap();
        native.send(&bytes).await.unwrap();
        let begun = Instant::now();
        let last = loop {
            match tokio::time::timeout(Duration::from_secs(2), native.next()).await {
                Ok(Ok(Some(frame))) if frame.kind != kind::CLOSE => {}
                Ok(end) => break end.unwrap().map(|goodbye| goodbye.text(1)),
                Err(_) if talks => native.send(&frame(kind::PING, 0, &[])).await.unwrap(),
                Err(_) => {}
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{reason}: it is never told");
        };
        assert_eq!(last.as_deref(), Some(reason));
        assert!(begun.elapsed() > Duration::from_secs(29), "{reason} after {:?}", begun.elapsed());
    });
    futures_util::future::join_all(ends).await;
    assert!(served.runs.lock().unwrap().is_empty());
}

// --- calls on one connection ---

#[tokio::test]
async fn many_calls_run_at_once_and_each_answer_finds_its_call() {
    let served = node(|_| {}).await;
    let mut native = Native::greet(served.node.addr()).await.unwrap();
    native.send(&call("hangs", &task("hangs", json!({ "hang": true })))).await.unwrap();
    native.send(&frame(kind::PING, 0, &map(&[(1, Cbor::Bytes(b"still there".to_vec()))]))).await.unwrap();
    let pong = soon("the PONG", native.next()).await.unwrap().unwrap();
    assert_eq!((pong.kind, pong.get(1)), (kind::PONG, Cbor::Bytes(b"still there".to_vec())));
    let calls: Vec<u8> = (0..100).flat_map(|n| call(&format!("c-{n}"), &task(&format!("t-{n}"), json!(n)))).collect();
    native.send(&calls).await.unwrap();
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let frame = soon("an answer", native.next()).await.unwrap().unwrap();
        let n: u64 = frame.text(3).strip_prefix("c-").unwrap().parse().unwrap();
        assert_eq!((frame.text(2), frame.text(4), frame.get(12)), ("s-1".into(), "success".into(), true.into()));
        assert_eq!(frame.json()["result"], n);
        assert!(answered.insert(n), "answered twice");
    }
    // One call is cancelled, and has no answer; the connection lives on.
    native.send(&frame(kind::CANCEL, 0, &map(&[(1, "hangs".into())]))).await.unwrap();
    soon("the handler's end", served.dropped.notified()).await;
    native.send(&call("last", &task("last", json!(7)))).await.unwrap();
    assert_eq!(soon("the last answer", native.next()).await.unwrap().unwrap().text(3), "last");
    // A goodbye is answered.
    native.send(&frame(kind::CLOSE, 0, &map(&[(1, "graceful".into())]))).await.unwrap();
    let frames = soon("the goodbye", native.rest()).await;
    assert_eq!(
        frames.iter().map(|frame| (frame.kind, frame.text(1))).collect::<Vec<_>>(),
        [(kind::CLOSE, "graceful".into())]
    );
}

#[tokio::test]
async fn a_connection_that_is_gone_stops_its_handlers() {
    let served = node(|_| {}).await;
    let mut native = Native::greet(served.node.addr()).await.unwrap();
    native.send(&call("c", &task("t", json!({ "hang": true })))).await.unwrap();
    soon("the handler's begin", async {
        while served.node.active_jobs() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drop(native);
    soon("the handler's end", served.dropped.notified()).await;
    soon("the permit", async {
        while served.node.active_jobs() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn frames_that_never_end_take_no_more_memory_than_there_is_for_all_of_them() {
    let served = node(|_| {}).await;
    let begun = [hello(), raw(1, kind::CALL, 0, 16 << 20, &vec![0; 15 << 20])].concat();
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..12 {
        let mut native = Native::open(served.node.addr()).await.unwrap();
        // Who is cut off while it sends may hear of that by a reset.
        let sent = native.send(&begun).await;
        soon("the ACK", native.next()).await.ok();
        let told = tokio::time::timeout(Duration::from_secs(1), native.next()).await;
        if sent.is_err() || told.is_ok() {
            refused += 1;
        } else {
            open.push(native);
        }
    }
    assert!((6..=9).contains(&open.len()) && refused >= 3, "{} stay, {refused} were refused", open.len());
    // Others are served all the while, and there is room again when they are gone.
    let mut small = Native::greet(served.node.addr()).await.unwrap();
    small.send(&call("c", &task("t", json!(1)))).await.unwrap();
    assert_eq!(soon("an answer", small.next()).await.unwrap().unwrap().json()["result"], 1);
    drop(open);
    soon("room", async {
        for n in 0.. {
            let mut native = Native::greet(served.node.addr()).await.unwrap();
            let body = json!("x".repeat(8 << 20));
            native.send(&call("c", &task(&format!("t-{n}"), body))).await.ok();
            if matches!(native.next().await, Ok(Some(frame)) if frame.kind == kind::PART) {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_stopping_node_finishes_its_calls_and_says_goodbye() {
    let served = node(|_| {}).await;
    let mut native = Native::greet(served.node.addr()).await.unwrap();
    native.send(&call("c", &task("t", json!(1)))).await.unwrap();
    assert_eq!(soon("the answer", native.next()).await.unwrap().unwrap().text(4), "success");
    let (clean, frames) = tokio::join!(served.node.shutdown(PATIENCE), soon("the goodbye", native.rest()));
    assert!(clean);
    assert_eq!(frames.last().map(|frame| frame.text(1)).as_deref(), Some("graceful"), "{frames:?}");
}

#[tokio::test]
async fn large_answers_come_in_parts_and_compressed_for_those_who_take_them_so() {
    let served = node(|_| {}).await;
    let long: String = (0..40_000).map(|n| n.to_string()).collect();
    // Our kind: no more parts than there is room for.
    let mut native = Native::greet(served.node.addr()).await.unwrap();
    native.send(&call("c", &task("t", json!(long)))).await.unwrap();
    let (mut whole, mut room, mut length) = (Vec::new(), 128_usize << 10, None);
    loop {
        let next =
            tokio::time::timeout(Duration::from_millis(if room < 16 << 10 { 300 } else { 20_000 }), native.next());
        let Ok(frame) = next.await else {
            let more = map(&[(1, (64 << 10).into()), (15, "c".into())]);
            native.send(&frame(kind::CREDIT, 0, &more)).await.unwrap();
            room += 64 << 10;
            continue;
        };
        let frame = frame.unwrap().unwrap();
        if frame.kind == kind::RESPONSE {
            assert_eq!((frame.text(4).as_str(), frame.get(5), frame.get(12)), ("success", Cbor::Null, true.into()));
            break;
        }
        assert_eq!((frame.kind, frame.text(15).as_str()), (kind::PART, "c"));
        if whole.is_empty() {
            length = frame.get(101).into_integer().ok();
        }
        let part = frame.get(5).into_bytes().unwrap();
        room = room.checked_sub(part.len()).expect("more than there was room for");
        whole.extend(part);
    }
    assert_eq!(length, Some(whole.len().into()));
    assert_eq!(serde_json::from_slice::<Value>(&whole).unwrap()["result"], long);

    // The specification's kind: a message in parts.
    let mut native = Native::open(served.node.addr()).await.unwrap();
    native.send(&frame_of_init(&[(1, 1.into()), (2, 1.into())])).await.unwrap();
    soon("the ACK", native.next()).await.unwrap().unwrap();
    let body = Cbor::Bytes(serde_json::to_vec(&long).unwrap());
    native.send(&published(&[(1, 1.into()), (3, CHAT.into()), (5, body), (15, "c".into())])).await.unwrap();
    let mut whole = Vec::new();
    loop {
        let frame = soon("a part", native.next()).await.unwrap().unwrap();
        assert_eq!((frame.kind, frame.flags), (kind::RESPONSE, 2));
        assert_eq!(frame.get(2), Cbor::from(u64::try_from(whole.len() / 65_536).unwrap()));
        whole.extend(frame.get(4).into_bytes().unwrap());
        if Cbor::from(u64::try_from(whole.len().div_ceil(65_536)).unwrap()) == frame.get(3) {
            break;
        }
    }
    let frame = iicp_tests::native::Frame { kind: kind::RESPONSE, flags: 0, payload: whole };
    assert_eq!(frame.json(), json!(long));

    let mut native = Native::open(served.node.addr()).await.unwrap();
    let gzip = Cbor::Array(vec!["gzip".into()]);
    native
        .send(&frame_of_init(&[(1, 1.into()), (2, 1.into()), (5, Cbor::Array(vec![CALLS.into()])), (6, gzip)]))
        .await
        .unwrap();
    assert_eq!(soon("the ACK", native.next()).await.unwrap().unwrap().text(4), "gzip");
    let long = &long[..90_000];
    native.send(&call("c", &task("t-2", json!(long)))).await.unwrap();
    let frame = soon("the answer", native.next()).await.unwrap().unwrap();
    assert_eq!((frame.flags, &frame.payload[..2]), (1, &[0x1f, 0x8b][..]));
    assert!(frame.payload.len() < long.len() / 2);
}

fn frame_of_init(entries: &[(u64, Cbor)]) -> Vec<u8> {
    frame(kind::INIT, 0, &map(entries))
}

// --- published clients ---

#[tokio::test]
async fn a_published_client_gets_byte_for_byte_what_published_nodes_answer() {
    let served = node(|_| {}).await;
    let mut native = Native::open(served.node.addr()).await.unwrap();
    let urn = CHAT.as_bytes();
    let exchange = [
        (frame(kind::INIT, 0, b"\xa1\x01\x01"), frame(kind::ACK, 0, b"\xa2\x01\x01\x02\x66node-1")),
        (frame(kind::PING, 0, b"\xa1\x01\x43abc"), frame(kind::PONG, 0, b"\xa1\x01\x43abc")),
        (frame(kind::PING, 0, b""), frame(kind::PONG, 0, b"\xa0")),
        (frame(kind::PING, 0, b"\xa0"), frame(kind::PONG, 0, b"\xa0")),
        (
            frame(kind::DISCOVER, 0, &[b"\xa2\x02\x66sess-1\x03\x78\x1b", urn].concat()),
            frame(kind::RESPONSE, 0, &[b"\xa3\x02\x66sess-1\x03\x78\x1b", urn, b"\x14\x80"].concat()),
        ),
        (
            frame(
                kind::CALL,
                0,
                &[b"\xa4\x02\x66sess-1\x03\x78\x1b", urn, b"\x05\x4b{\"b\":[1.5]}\x0f\x66call-1"].concat(),
            ),
            frame(kind::RESPONSE, 0, b"\xa3\x02\x66sess-1\x05\x47\xa1\x61b\x81\xf9\x3e\x00\x0f\x66call-1"),
        ),
        // The payload as a map, and the same name for another call.
        (
            frame(
                kind::CALL,
                0,
                &[b"\xa4\x02\x66sess-1\x03\x78\x1b", urn, b"\x05\xa1\x61c\xf6\x0f\x66call-1"].concat(),
            ),
            frame(kind::RESPONSE, 0, b"\xa3\x02\x66sess-1\x05\x44\xa1\x61c\xf6\x0f\x66call-1"),
        ),
    ];
    for (sent, expected) in exchange {
        native.send(&sent).await.unwrap();
        let got = soon("an answer", native.next()).await.unwrap().unwrap();
        assert_eq!(frame(got.kind, got.flags, &got.payload), expected, "{sent:?}");
    }
    // It leaves without a word, and so does the node.
    native.send(&frame(kind::CLOSE, 0, &[])).await.unwrap();
    assert_eq!(soon("the end", native.next()).await.unwrap(), None);
}

#[tokio::test]
async fn a_published_client_learns_of_a_failure_as_published_nodes_tell_it() {
    let served = node(|options| options.max_concurrent = 1).await;
    let mut busy = Native::greet(served.node.addr()).await.unwrap();
    // Without a greeting: the call is the first frame.
    let mut native = Native::open(served.node.addr()).await.unwrap();
    let ask = async |native: &mut Native, intent: Option<&str>, payload: &str| {
        let mut entries = vec![(2, "call-1".into()), (5, Cbor::Bytes(payload.into()))];
        entries.extend(intent.map(|intent| (3, intent.into())));
        native.send(&published(&entries)).await.unwrap();
        let answer = soon("an answer", native.next()).await.unwrap().unwrap();
        assert_eq!((answer.text(2), answer.get(5), answer.get(15)), ("call-1".into(), Cbor::Null, Cbor::Null));
        (answer.get(100).as_integer().map(i128::from).unwrap_or_default(), answer.text(101))
    };
    assert_eq!(ask(&mut native, Some(CHAT), r#"{"bad": true}"#).await, (422, "not this one".into()));
    assert_eq!(ask(&mut native, None, "{}").await.0, 422);
    assert_eq!(ask(&mut native, Some(CHAT), "{").await.0, 422);
    assert_eq!(ask(&mut native, Some("urn:iicp:intent:llm:other:v1"), "{}").await.0, 404);
    busy.send(&call("c", &task("t", json!({ "hang": true })))).await.unwrap();
    soon("the handler's begin", async {
        while served.node.active_jobs() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let (status, message) = ask(&mut native, Some(CHAT), "{}").await;
    assert!(status == 429 && message.starts_with("IICP-E021: "), "{status} {message}");
}

// --- one gate ---

/// What a published client that names its task is told of it: status, whether it is the last, sequence, event, result, error.
async fn followed(served: &Served, task_id: &str, payload: Value) -> Vec<(String, bool, u64, String, Cbor, Cbor)> {
    let mut native = Native::open(served.node.addr()).await.unwrap();
    let body = Cbor::Bytes(payload.to_string().into_bytes());
    let entries = [(2, "s-1".into()), (3, CHAT.into()), (5, body), (15, "c-1".into()), (24, Cbor::from(task_id))];
    native.send(&published(&entries)).await.unwrap();
    let mut told = Vec::new();
    loop {
        let frame = soon("an event", native.next()).await.unwrap().unwrap();
        assert_eq!((frame.kind, frame.text(2).as_str(), frame.text(3).as_str()), (kind::RESPONSE, "s-1", "c-1"));
        let inner = frame.get(13).into_map().unwrap();
        let inner = |key: u64| inner.iter().find(|(known, _)| *known == key.into()).map(|(_, value)| value.clone());
        assert_eq!((inner(1), inner(4)), (Some(task_id.into()), Some(frame.get(12))), "task and end are told twice");
        let is_final = frame.get(12).into_bool().unwrap();
        let sequence = u64::try_from(inner(2).unwrap().into_integer().unwrap()).unwrap();
        let event = inner(3).unwrap().into_text().unwrap();
        told.push((frame.text(4), is_final, sequence, event, frame.get(5), frame.get(6)));
        if is_final {
            return told;
        }
    }
}

#[tokio::test]
async fn a_published_client_that_names_its_task_follows_it_to_exactly_one_end() {
    let served = node(|_| {}).await;
    let told = followed(&served, "t-parts", json!({ "parts": 3 })).await;
    assert_eq!(told.len(), 4);
    for (n, (status, is_final, sequence, event, result, error)) in told.iter().take(3).enumerate() {
        let n = u64::try_from(n).unwrap();
        assert_eq!((status.as_str(), *is_final, *sequence, event.as_str()), ("partial", false, n, "partial"));
        let part = Cbor::Map(vec![("n".into(), n.into()), ("bytes".into(), 1.5.into())]);
        assert_eq!((result, error), (&part, &Cbor::Null), "a bare value");
    }
    let end =
        |status: &str, sequence, event: &str, result| (status.to_owned(), true, sequence, event.to_owned(), result);
    let last = |told: &[(String, bool, u64, String, Cbor, Cbor)]| {
        let (status, is_final, sequence, event, result, error) = told.last().unwrap().clone();
        ((status, is_final, sequence, event, result), error)
    };
    assert_eq!(last(&told).0, end("success", 3, "completed", Cbor::Null));
    // A handler without parts, one that fails between them, and one that refuses at once.
    let told = followed(&served, "t-whole", json!("all of it")).await;
    assert_eq!(last(&told).0, end("success", 0, "completed", "all of it".into()));
    let told = followed(&served, "t-fails", json!({ "parts": 5, "fails": true })).await;
    assert_eq!((told.len(), last(&told).0), (3, end("error", 2, "failed", Cbor::Null)));
    let told = followed(&served, "t-bad", json!({ "bad": true })).await;
    let (ended, error) = last(&told);
    assert_eq!((told.len(), ended), (1, end("error", 0, "failed", Cbor::Null)));
    assert!(error.as_map().is_some_and(|error| error.len() == 2), "{error:?}");
}

#[tokio::test]
async fn a_node_without_the_transport_takes_its_frames_for_bad_http() {
    let served = node(|options| options.native = NativeTransport::Off).await;
    let mut native = Native::open(served.node.addr()).await.unwrap();
    native.send(&hello()).await.unwrap();
    assert_eq!(soon("the end", native.rest()).await, []);
}
