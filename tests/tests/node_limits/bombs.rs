//! Small things that want to become large: compressed, nested, or of a million fields.

use std::time::Duration;

use ciborium::Value as Cbor;
use iicp_core::CHAT;
use iicp_tests::http::{Conn, post};
use iicp_tests::native::{Frame, Native, call_with, frame, gzip_of_zeros, hello, kind, map};
use iicp_tests::size;
use serde_json::{Value, json};

use super::Remote;

/// Most that any of them may cost.
const MOST: u64 = 64 << 20;
const MILLION: usize = 1_000_000;

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// A million fields of an object, all of them different; fewer where there is little time to read them.
fn fields() -> String {
    (0..size(200_000, MILLION)).map(|n| format!(r#","k{n}":0"#)).collect()
}

fn task(payload: &str, more: &str) -> Vec<u8> {
    format!(r#"{{"task_id":"bomb","intent":"{CHAT}","payload":{payload}{more}}}"#).into_bytes()
}

/// A caller who sends tasks one after the other, and counts them, until it is told to stop.
fn neighbour(node: &Remote) -> (tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<usize>) {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let addr = node.addr;
    let served = tokio::spawn(async move {
        let mut conn = Conn::open(addr).await.unwrap();
        for n in 0.. {
            if stopped.try_recv().is_ok() {
                return n;
            }
            let task = json!({ "task_id": format!("n-{n}"), "intent": CHAT, "payload": n });
            let answer = tokio::time::timeout(Duration::from_secs(10), conn.post("/v1/task", &task)).await;
            assert_eq!(answer.expect("a lost task").unwrap().json()["result"], n);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        0
    });
    (stop, served)
}

/// Lets a bomb be sent, and looks at what the node held at most meanwhile.
async fn costs_little<T>(node: &Remote, what: &str, bomb: impl Future<Output = T>) -> T {
    node.process.forget_peak();
    let before = node.process.memory();
    let outcome =
        tokio::time::timeout(Duration::from_secs(30), bomb).await.unwrap_or_else(|_| panic!("{what}: a hang"));
    let rise = node.process.peak_memory().saturating_sub(before);
    assert!(rise <= MOST, "{what}: {rise} bytes");
    outcome
}

async fn over_http(node: &Remote, headers: &str, body: &[u8]) -> (u16, Value) {
    let mut conn = Conn::open(node.addr).await.unwrap();
    conn.write(&post("/v1/task", headers, body)).await.unwrap();
    let answer = conn.answer().await.unwrap();
    (answer.status, answer.json()["error"]["code"].take())
}

/// The last frame that the node answers to these, after a greeting.
async fn natively(node: &Remote, bytes: &[u8]) -> Frame {
    let mut native = Native::open(node.addr).await.unwrap();
    native.send(&hello()).await.unwrap();
    assert_eq!(native.next().await.unwrap().unwrap().kind, kind::ACK);
    // Who is hung up on while it sends hears why all the same.
    let _ = native.send(bytes).await;
    native.next().await.unwrap().expect("it is told why")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bombs_are_refused_for_what_they_are_cost_little_and_disturb_nobody() {
    let mut node = Remote::new("echo", json!({}), None).await;
    let (stop, served) = neighbour(&node);
    let bomb = gzip_of_zeros(600_000);
    assert!((900_000..1 << 20).contains(&bomb.len()), "{} bytes that become 150 MB", bomb.len());

    let refused = "validation_error";
    for (what, headers, body) in [
        ("compressed", "content-encoding: gzip\r\n", bomb.clone()),
        ("a million lists", "", "[".repeat(MILLION).into()),
        ("a million lists in a payload", "", task(&nested(MILLION), "")),
        ("a task that is named twice", "", task("{}", r#","task_id":"other""#)),
        ("a million fields in disorder", "", task("{}", &format!(r#"{},"intent":"{CHAT}""#, fields()))),
    ] {
        let got = costs_little(&node, what, over_http(&node, headers, &body)).await;
        assert_eq!(got, (422, refused.into()), "{what}");
    }
    let called = |body: Vec<u8>| call_with("c", body);
    for (what, body) in [
        ("natively a million lists", nested(MILLION).into_bytes()),
        ("natively a million lists in a payload", task(&nested(MILLION), "")),
        ("natively a task that is named twice", task("{}", r#","task_id":"other""#)),
    ] {
        let frame = costs_little(&node, what, natively(&node, &called(body))).await;
        assert_eq!((frame.kind, frame.text(4)), (kind::RESPONSE, "error".into()), "{what}: {frame:?}");
    }
    let disorder: Vec<u8> = (0..MILLION).rev().flat_map(key).collect();
    for (what, frame, reason) in [
        ("compressed frames", frame(kind::CALL, 1, &bomb), "payload_too_large"),
        ("nested CBOR", frame(kind::CALL, 0, &[&[0xa1, 5][..], &[0x81; MILLION]].concat()), "invalid_payload"),
        ("keys in disorder", frame(kind::CALL, 0, &[&head(MILLION)[..], &disorder].concat()), "invalid_payload"),
        ("a key twice", frame(kind::CALL, 0, &[0xa2, 15, 0x60, 15, 0x60]), "invalid_payload"),
    ] {
        let goodbye = costs_little(&node, what, natively(&node, &frame)).await;
        assert_eq!((goodbye.kind, goodbye.text(1).as_str()), (kind::CLOSE, reason), "{what}");
    }

    // What is only large is served, and not built into anything.
    let many = format!(r#"{{"first":1{}}}"#, fields());
    assert_eq!(costs_little(&node, "a million fields", over_http(&node, "", &task(&many, ""))).await.0, 200);
    let other = json!({ "task_id": "other", "intent": CHAT, "payload": 1 }).to_string();
    let beside = map(&[(1, 1.into()), (2, "s".into()), (5, Cbor::Bytes(other.into())), (15, "c".into())]);
    let all = [&head(MILLION + 4)[..], &beside[1..], &(0..MILLION).flat_map(key).collect::<Vec<_>>()];
    let answer = costs_little(&node, "a million keys", natively(&node, &frame(kind::CALL, 0, &all.concat()))).await;
    assert_eq!((answer.kind, answer.text(4)), (kind::RESPONSE, "success".into()), "{answer:?}");

    stop.send(()).unwrap();
    let served = served.await.unwrap();
    let ledger = node.stage.call(&json!({ "ledger": {} })).await.unwrap();
    assert!(served > 10, "{served} tasks of others");
    assert_eq!(ledger["nodes"][0]["started"], served + 2, "no bomb ran");
}

/// The head of a CBOR map with so many entries.
fn head(count: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(count).unwrap().to_be_bytes();
    [0xba, a, b, c, d]
}

/// A key that takes four bytes, and null.
fn key(n: usize) -> [u8; 6] {
    let [a, b, c, d] = u32::try_from(n + (1 << 16)).unwrap().to_be_bytes();
    [0x1a, a, b, c, d, 0xf6]
}
