//! Peers that the client calls natively and that do not keep to their form: nothing of what they send reaches a call that it
//! is not for, and no task is lost or runs twice over it.

#![allow(clippy::unwrap_used)]

mod mixed;

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ciborium::Value as Cbor;
use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions, PolicyProfile};
use iicp_core::{CHAT, Client, Code, Directory, Error, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::http::{Conn, addr};
use iicp_tests::native::{CALLS, Frame, Native, frame, kind, map};
use iicp_tests::tap::Tap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(20);
const PROFILE: &str = "urn:iicp:profile:service-lifecycle:v1";

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A native server whose connections are served by `serve`, beside a node that answers `{"over": "http"}` over HTTP.
struct Mesh {
    client: Client,
    tap: Tap,
    connections: Arc<AtomicUsize>,
    _directory: Directory,
    _node: LiveNode,
    _server: JoinSet<()>,
}

impl Mesh {
    async fn start(serve: impl Fn(Native) -> Serving + Send + 'static) -> Mesh {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let native = format!("iicp://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let (counted, mut server) = (connections.clone(), JoinSet::new());
        server.spawn(async move {
            let mut conns = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                counted.fetch_add(1, Ordering::SeqCst);
                conns.spawn(serve(Native(stream)));
            }
        });
        let mut options = NodeOptions::default();
        options.intents = vec![CHAT.into()];
        options.max_concurrent = 200;
        let over_http = |_: Inbound| async { Ok(Reply::from(json!({ "over": "http" }))) };
        let node = Node::bind(options).await.unwrap().serve(over_http).await.unwrap();
        let tap = Tap::start(0, node.addr().port()).await.unwrap();
        let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
        let entry = json!({
            "node_id": "node-1", "endpoint": format!("http://{}", tap.addr()), "transport_endpoint": native,
            "region": "lab", "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
            "capabilities": [{ "intent": CHAT, "models": ["m"], "max_tokens": 9, "supported_profiles": [PROFILE] }],
        });
        let answer = Conn::open(addr(&directory.url())).await.unwrap().post("/v1/register", &entry).await.unwrap();
        assert!(answer.status < 300, "{answer:?}");
        let mut options = ClientOptions::default();
        options.directory = directory.url();
        options.routing_policy.profile = PolicyProfile::DebugOverride;
        options.max_response_bytes = 1 << 20;
        let client = Client::new(options).unwrap();
        Mesh { client, tap, connections, _directory: directory, _node: node, _server: server }
    }

    async fn submit(&self, payload: Value) -> Result<Value, Error> {
        let done = soon("an end", self.client.submit(Task::new(CHAT, payload))).await?;
        Ok(done.result.json::<Value>().unwrap())
    }

    /// What a submit brings, and how many tasks went over HTTP.
    async fn outcome(&self) -> (Result<Value, Code>, usize) {
        let outcome = self.submit(json!({ "n": 1 })).await.map_err(|error| error.code());
        (outcome, self.tap.take().matches("POST /v1/task").count())
    }
}

fn ack(entries: &[(u64, Cbor)]) -> Vec<u8> {
    frame(kind::ACK, 0, &map(entries))
}

fn published_ack() -> Vec<u8> {
    ack(&[(1, 1.into()), (2, "node-1".into())])
}

/// A server in the published form that answers every call with what `answer` makes of it; nothing hangs up.
fn published(
    answer: impl Fn(&Frame) -> Option<Vec<u8>> + Clone + Send + Sync + 'static,
) -> impl Fn(Native) -> Serving + Send {
    move |mut native| {
        let answer = answer.clone();
        Box::pin(async move {
            while let Ok(Some(frame)) = native.next().await {
                let reply = match frame.kind {
                    kind::INIT => Some(published_ack()),
                    kind::CALL => match answer(&frame) {
                        Some(reply) => Some(reply),
                        None => return,
                    },
                    _ => None,
                };
                if let Some(reply) = reply
                    && native.send(&reply).await.is_err()
                {
                    return;
                }
            }
        })
    }
}

fn in_cbor(value: &Cbor) -> Cbor {
    let mut out = Vec::new();
    ciborium::into_writer(value, &mut out).unwrap();
    Cbor::Bytes(out)
}

fn response(entries: &[(u64, Cbor)]) -> Vec<u8> {
    frame(kind::RESPONSE, 0, &map(entries))
}

fn parted(call_id: &Cbor, bytes: &[u8]) -> Vec<u8> {
    frame(kind::PART, 0, &map(&[(5, Cbor::Bytes(bytes.to_vec())), (15, call_id.clone()), (102, 1.into())]))
}

fn echo(call: &Frame) -> Vec<u8> {
    let n = call.json()["n"].as_u64().unwrap_or_default();
    let result = Cbor::Map(vec![("n".into(), n.into())]);
    response(&[(2, call.get(2)), (5, in_cbor(&result)), (15, call.get(15))])
}

#[tokio::test]
async fn who_answers_the_greeting_in_no_known_form_is_left_to_http() {
    let over_http = json!({ "over": "http" });
    let long = "x".repeat(100_000);
    for (what, greeting) in [
        // The port on which a published relay takes workers, where a call would be lost.
        ("no id", ack(&[(1, 1.into())])),
        ("another node", ack(&[(1, 1.into()), (2, "node-2".into())])),
        ("another version", ack(&[(1, 2.into()), (2, "node-1".into())])),
        ("the specification's form", ack(&[(1, 1.into()), (2, "node-1".into()), (3, Cbor::Array(vec![]))])),
        ("a size", ack(&[(1, 1.into()), (2, "node-1".into()), (5, 65536.into())])),
        ("no greeting", frame(kind::PONG, 0, &[0xa0])),
        ("no CBOR", frame(kind::ACK, 0, b"\xff")),
        ("no frame", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("far too much", ack(&[(1, 1.into()), (2, long.into())])),
        ("compressed", frame(kind::ACK, 1, &map(&[(1, 1.into()), (2, "node-1".into())]))),
    ] {
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = calls.clone();
        let mesh = Mesh::start(move |mut native| {
            let (greeting, seen) = (greeting.clone(), seen.clone());
            Box::pin(async move {
                while let Ok(Some(frame)) = native.next().await {
                    if frame.kind == kind::CALL {
                        seen.fetch_add(1, Ordering::SeqCst);
                    }
                    let _ = native.send(&greeting).await;
                }
            })
        })
        .await;
        for _ in 0..2 {
            assert_eq!(mesh.outcome().await, (Ok(over_http.clone()), 1), "{what}");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 0, "{what}");
    }
}

#[tokio::test]
async fn what_a_published_server_answers_is_taken_for_what_it_says() {
    let mesh = Mesh::start(published(|call| Some(echo(call)))).await;
    for n in 0..20 {
        assert_eq!(mesh.submit(json!({ "n": n })).await.unwrap(), json!({ "n": n }));
    }
    assert_eq!(mesh.connections.load(Ordering::SeqCst), 1, "one after the other on one connection");
    type Says = (&'static str, fn(&Frame) -> Vec<u8>, Result<Value, Code>);
    let rows: [Says; 8] = [
        (
            "JSON in bytes",
            |call| response(&[(2, call.get(2)), (5, Cbor::Bytes(br#"{"n":[7]}"#.to_vec())), (15, call.get(15))]),
            Ok(json!({ "n": [7] })),
        ),
        (
            "the specification's words",
            |call| {
                let result = Cbor::Map(vec![("n".into(), 8.into())]);
                response(&[
                    (1, 1.into()),
                    (2, call.get(2)),
                    (3, call.get(15)),
                    (4, "completed".into()),
                    (5, result),
                    (12, true.into()),
                ])
            },
            Ok(json!({ "n": 8 })),
        ),
        (
            "a failure",
            |call| {
                response(&[
                    (2, call.get(2)),
                    (15, call.get(15)),
                    (100, 500.into()),
                    (101, "handler raised exception".into()),
                ])
            },
            Err(Code::Backend),
        ),
        (
            "a refusal",
            |call| response(&[(2, call.get(2)), (15, call.get(15)), (100, 400.into()), (101, "no".into())]),
            Err(Code::TaskRejected),
        ),
        (
            "a handler's own 503",
            |call| response(&[(2, call.get(2)), (15, call.get(15)), (100, 503.into()), (101, "warming up".into())]),
            Err(Code::Backend),
        ),
        (
            "a number below zero",
            |call| response(&[(2, call.get(2)), (15, call.get(15)), (100, Cbor::from(-1)), (101, "odd".into())]),
            Err(Code::Backend),
        ),
        (
            "a timeout",
            |call| {
                response(&[
                    (1, 1.into()),
                    (2, call.get(2)),
                    (3, call.get(15)),
                    (4, "timeout".into()),
                    (12, true.into()),
                ])
            },
            Err(Code::TaskTimeout),
        ),
        (
            "pings and what it need not know in between",
            |call| {
                let unknown = frame(8, 0, &map(&[(1, "s".into())]));
                [frame(kind::PING, 0, &[0xa0]), unknown, frame(kind::PONG, 0, &[0xa0]), echo(call)].concat()
            },
            Ok(json!({ "n": 1 })),
        ),
    ];
    for (what, answer, expected) in rows {
        let mesh = Mesh::start(published(move |call| Some(answer(call)))).await;
        assert_eq!(mesh.outcome().await, (expected, 0), "{what}");
    }
}

#[tokio::test]
async fn what_is_no_answer_to_the_call_is_a_protocol_error_and_the_task_is_not_sent_again() {
    type Forge = (&'static str, fn(&Frame) -> Option<Vec<u8>>, Code);
    let rows: [Forge; 12] = [
        (
            "another session",
            |call| Some(response(&[(2, "s-2".into()), (5, in_cbor(&Cbor::from(7))), (15, call.get(15))])),
            Code::Malformed,
        ),
        (
            "another call",
            |call| Some(response(&[(2, call.get(2)), (5, in_cbor(&Cbor::from(7))), (15, "c-2".into())])),
            Code::Malformed,
        ),
        ("no name", |_| Some(response(&[(5, in_cbor(&Cbor::from(7)))])), Code::Malformed),
        ("nothing in it", |call| Some(response(&[(2, call.get(2)), (15, call.get(15))])), Code::Malformed),
        (
            "a part for who asked for none",
            |call| {
                Some(response(&[
                    (2, call.get(2)),
                    (15, call.get(15)),
                    (4, "partial".into()),
                    (5, 7.into()),
                    (12, false.into()),
                ]))
            },
            Code::Malformed,
        ),
        (
            "an unknown word",
            |call| Some(response(&[(2, call.get(2)), (15, call.get(15)), (4, "fine".into()), (5, 7.into())])),
            Code::Malformed,
        ),
        ("no CBOR", |_| Some(frame(kind::RESPONSE, 0, b"\xff\xff")), Code::Malformed),
        ("a key twice", |_| Some(frame(kind::RESPONSE, 0, b"\xa2\x05\x01\x05\x02")), Code::Malformed),
        (
            "parts of a frame",
            |call| {
                let part = map(&[(1, "f".into()), (2, 0.into()), (3, 2.into()), (4, Cbor::Bytes(b"x".to_vec()))]);
                let _ = call;
                Some(frame(kind::RESPONSE, 2, &part))
            },
            Code::Malformed,
        ),
        ("a second greeting", |_| Some(published_ack()), Code::Malformed),
        ("the end", |_| None, Code::Lost),
        ("a goodbye without a reason", |_| Some(frame(kind::CLOSE, 0, &[])), Code::Lost),
    ];
    for (what, forge, code) in rows {
        let mesh = Mesh::start(published(forge)).await;
        assert_eq!(mesh.outcome().await, (Err(code), 0), "{what}");
    }
}

#[tokio::test]
async fn a_goodbye_that_says_that_the_call_was_not_taken_leads_to_http() {
    for reason in ["frame_too_large", "auth_failed", "cbor_decode_error", "protocol_error"] {
        let mesh = Mesh::start(published(move |_| Some(frame(kind::CLOSE, 0, &map(&[(1, reason.into())]))))).await;
        assert_eq!(mesh.outcome().await, (Ok(json!({ "over": "http" })), 1), "{reason}");
    }
    for reason in ["graceful", "read_timeout", "something new"] {
        let mesh = Mesh::start(published(move |_| Some(frame(kind::CLOSE, 0, &map(&[(1, reason.into())]))))).await;
        assert_eq!(mesh.outcome().await, (Err(Code::Lost), 0), "{reason}");
    }
}

#[tokio::test]
async fn a_second_answer_reaches_no_later_call() {
    // Its second answer carries the name of the call that comes next.
    let mesh = Mesh::start(published(|call| {
        let forged = Cbor::Map(vec![("forged".into(), true.into())]);
        let second = response(&[(2, call.get(2)), (5, in_cbor(&forged)), (15, call.get(15))]);
        Some([echo(call), second].concat())
    }))
    .await;
    for n in 0..10 {
        assert_eq!(mesh.submit(json!({ "n": n })).await.unwrap(), json!({ "n": n }));
    }
    assert_eq!(mesh.connections.load(Ordering::SeqCst), 10, "such a connection is used once");
    // One that says more later, when nobody waits.
    let mesh = Mesh::start(move |mut native| {
        Box::pin(async move {
            while let Ok(Some(frame)) = native.next().await {
                let reply = if frame.kind == kind::INIT { published_ack() } else { echo(&frame) };
                let _ = native.send(&reply).await;
                if frame.kind == kind::CALL {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let _ = native.send(&echo(&frame)).await;
                }
            }
        })
    })
    .await;
    for n in 0..3 {
        assert_eq!(mesh.submit(json!({ "n": n })).await.unwrap(), json!({ "n": n }));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(mesh.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn events_that_break_the_sequence_end_the_stream_with_an_error() {
    fn event(call: &Frame, sequence: u64, status: &str, event: &str, is_final: bool, result: Cbor) -> Vec<u8> {
        let told = [(1, call.get(24)), (2, sequence.into()), (3, event.into()), (4, is_final.into())];
        let told = told.into_iter().map(|(key, value)| (Cbor::from(key), value)).collect();
        let (session, id) = (call.get(2), call.get(15));
        response(&[
            (1, 1.into()),
            (2, session),
            (3, id),
            (4, status.into()),
            (5, result),
            (12, is_final.into()),
            (13, Cbor::Map(told)),
        ])
    }
    type Breaks = (&'static str, fn(&Frame) -> Vec<u8>, usize, Option<Code>);
    let rows: [Breaks; 8] = [
        (
            "nothing wrong",
            |c| {
                [
                    event(c, 0, "partial", "partial", false, 1.into()),
                    event(c, 1, "success", "completed", true, 2.into()),
                ]
                .concat()
            },
            2,
            None,
        ),
        ("a base answer to who may follow", |c| echo(c), 1, None),
        (
            "a gap",
            |c| {
                [
                    event(c, 0, "partial", "partial", false, 1.into()),
                    event(c, 2, "success", "completed", true, 2.into()),
                ]
                .concat()
            },
            1,
            Some(Code::Malformed),
        ),
        ("the same again", |c| event(c, 0, "partial", "partial", false, 1.into()).repeat(2), 1, Some(Code::Malformed)),
        (
            "an end that is none",
            |c| {
                [
                    event(c, 0, "partial", "partial", false, 1.into()),
                    event(c, 1, "success", "completed", false, 2.into()),
                ]
                .concat()
            },
            1,
            Some(Code::Malformed),
        ),
        (
            "word and event disagree",
            |c| {
                [event(c, 0, "partial", "partial", false, 1.into()), event(c, 1, "success", "failed", true, 2.into())]
                    .concat()
            },
            1,
            Some(Code::Malformed),
        ),
        (
            "an answer that stands alone after a part",
            |c| [event(c, 0, "partial", "partial", false, 1.into()), echo(c)].concat(),
            1,
            Some(Code::Malformed),
        ),
        (
            "a part after the end",
            |c| {
                [
                    event(c, 0, "success", "completed", true, 1.into()),
                    event(c, 1, "partial", "partial", false, 2.into()),
                ]
                .concat()
            },
            1,
            None,
        ),
    ];
    for (what, frames, parts, fails) in rows {
        let mesh = Mesh::start(published(move |call| Some(frames(call)))).await;
        let mut stream = soon("a stream", mesh.client.stream(Task::new(CHAT, json!({ "n": 1 })))).await.unwrap();
        let (mut taken, mut error) = (0, None);
        while let Some(part) = soon("a part", stream.next()).await {
            match part {
                Ok(_) => taken += 1,
                Err(failed) => error = Some(failed.code()),
            }
        }
        assert_eq!((taken, error), (parts, fails), "{what}");
        assert_eq!(mesh.tap.take().matches("POST /v1/task").count(), 0, "{what}");
    }
}

#[tokio::test]
async fn bombs_cost_neither_time_nor_memory() {
    fn resident_kb() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("VmHWM: 0");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
    }
    fn answering(call: &Frame, result: &[u8]) -> Vec<u8> {
        response(&[(2, call.get(2)), (5, Cbor::Bytes(result.to_vec())), (15, call.get(15))])
    }
    type Bomb = (&'static str, fn(&Frame) -> Vec<u8>, Code);
    let rows: [Bomb; 6] = [
        // A frame that says that it is as large as frames may be: it is not waited for.
        ("a length", |_| iicp_tests::native::raw(1, kind::RESPONSE, 0, 16 << 20, b"\xa0"), Code::ResponseTooLarge),
        // Nobody said that it may compress, so it does not matter what it would become.
        ("compressed", |_| frame(kind::RESPONSE, 1, &[0x1f; 1 << 20]), Code::Malformed),
        ("nested", |call| answering(call, &[0x81].repeat(1_000_000)), Code::Malformed),
        ("nested outside", |_| frame(kind::RESPONSE, 0, &[0x81].repeat(1_000_000)), Code::Malformed),
        (
            "JSON nested",
            |call| answering(call, format!("{}{}", "[".repeat(500_000), "]".repeat(500_000)).as_bytes()),
            Code::Malformed,
        ),
        (
            "short numbers that are long in JSON",
            |call| {
                answering(call, &[&[0x9a], &300_000_u32.to_be_bytes()[..], &b"\xf9\x00\x01".repeat(300_000)].concat())
            },
            Code::ResponseTooLarge,
        ),
    ];
    for (what, bomb, code) in rows {
        let mesh = Mesh::start(published(move |call| Some(bomb(call)))).await;
        let (before, begun) = (resident_kb(), Instant::now());
        assert_eq!(mesh.outcome().await, (Err(code), 0), "{what}");
        // The bomb's own making is in it.
        assert!(begun.elapsed() < Duration::from_secs(9), "{what}: {:?}", begun.elapsed());
        let grown = resident_kb().saturating_sub(before);
        assert!(grown < 192 << 10, "{what}: {grown} kB");
    }
}

// --- our own form, in which calls share a connection ---

/// A frame that no node may send, and the reason that it is told; none if it is nothing of this protocol.
struct Row(&'static str, Vec<u8>, Option<&'static str>);

fn rows() -> Vec<Row> {
    let result = map(&[(2, "s".into()), (5, Cbor::Bytes(b"{}".to_vec()))]);
    let answer = |payload: &[u8]| frame(kind::RESPONSE, 0, payload);
    vec![
        Row("a wrong magic", b"XICP0000000000".to_vec(), None),
        Row("HTTP", b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), None),
        Row(
            "more than 16 MiB",
            iicp_tests::native::raw(1, kind::RESPONSE, 0, (16 << 20) + 1, &[]),
            Some("frame_too_large"),
        ),
        Row("4 GiB on a PONG", iicp_tests::native::raw(1, kind::PONG, 0, u32::MAX, &[]), Some("frame_too_large")),
        Row("an empty RESPONSE", answer(&[]), Some("invalid_frame")),
        Row("version 0", iicp_tests::native::raw(0, kind::RESPONSE, 0, 1, &result), Some("invalid_version")),
        Row("version 2", iicp_tests::native::raw(2, kind::RESPONSE, 0, 1, &result), Some("version_mismatch")),
        Row("type 0", frame(0, 0, &result), Some("invalid_type")),
        Row("type 255", frame(0xff, 0, &result), Some("invalid_type")),
        Row("a type that is reserved", frame(0x0f, 0, &result), Some("unknown_type")),
        Row("one that was not agreed on", frame(0xf1, 0, &result), Some("unsupported_extension")),
        Row("no CBOR", answer(&[0xff; 9]), Some("cbor_decode_error")),
        Row("CBOR that ends too early", answer(&result[..result.len() - 1]), Some("cbor_decode_error")),
        Row("bytes behind the CBOR", answer(&[&result[..], b"x"].concat()), Some("cbor_decode_error")),
        Row("a million lists", answer(&[&[0xa1, 5][..], &[0x81; 1_000_000]].concat()), Some("invalid_payload")),
        Row("a key twice", answer(&[0xa2, 3, 0x60, 3, 0x60]), Some("invalid_payload")),
        Row("a list where the map belongs", answer(&[0x80]), Some("invalid_payload")),
        Row("a status that is a number", answer(&[0xa1, 4, 7]), Some("invalid_payload")),
        Row("compressed", frame(kind::RESPONSE, 1, &result), Some("protocol_error")),
        Row("no call's answer", answer(&result), Some("protocol_error")),
        Row("a part of no call", parted(&"nobody".into(), b"x"), Some("protocol_error")),
        Row("a second greeting", ack(&[(1, 1.into()), (2, "node-1".into())]), Some("protocol_error")),
        Row("a CALL from a node", frame(kind::CALL, 0, &map(&[(1, 1.into())])), Some("protocol_error")),
        Row(
            "an echo of 65 bytes",
            frame(kind::PING, 0, &map(&[(1, Cbor::Bytes(vec![1; 65]))])),
            Some("invalid_payload"),
        ),
    ]
}

#[tokio::test]
async fn every_frame_that_a_node_may_not_send_ends_the_connection_with_its_reason_and_the_call_as_lost() {
    for Row(what, bytes, reason) in rows() {
        let goodbyes = Arc::new(Mutex::new(Vec::new()));
        let (said, ended) = (goodbyes.clone(), Arc::new(tokio::sync::Notify::new()));
        let over = ended.clone();
        let mesh = Mesh::start(move |mut native| {
            let (bytes, said, over) = (bytes.clone(), said.clone(), over.clone());
            Box::pin(async move {
                while let Ok(Some(frame)) = native.next().await {
                    match frame.kind {
                        kind::INIT => {
                            let ours = Cbor::Array(vec![CALLS.into()]);
                            let _ = native.send(&ack(&[(1, 1.into()), (2, "node-1".into()), (3, ours)])).await;
                        }
                        kind::CALL => drop(native.send(&bytes).await),
                        kind::CLOSE => said.lock().unwrap().push(frame.text(1)),
                        _ => {}
                    }
                }
                over.notify_one();
            })
        })
        .await;
        assert_eq!(mesh.outcome().await, (Err(Code::Lost), 0), "{what}");
        soon("the end of the connection", ended.notified()).await;
        assert_eq!(*goodbyes.lock().unwrap(), reason.into_iter().collect::<Vec<_>>(), "{what}");
    }
}
