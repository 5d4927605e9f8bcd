//! Peers that mean harm, or break half-way: what they may cost, and what they must never get.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, NodeOptions};
use iicp_core::types::Payload;
use iicp_core::{CHAT, Client, Code, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::http::{Conn, post};
use iicp_tests::size;
use iicp_tests::stage_process::StageProcess;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

/// Task ids and how often a handler ran for them.
type Runs = Arc<Mutex<BTreeMap<String, u64>>>;

/// A node that notes what runs, and returns the payload; it hangs on `{"hang": true}`, panics on `{"panic": true}` and
/// returns megabytes on `{"big": true}`.
async fn node(change: impl FnOnce(&mut NodeOptions)) -> (LiveNode, Runs) {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    change(&mut options);
    let runs = Runs::default();
    let (noted, big) = (runs.clone(), Payload::from(json!("x".repeat(6 << 20))));
    let handler = move |task: Inbound| {
        *noted.lock().unwrap().entry(task.task_id.clone()).or_default() += 1;
        let big = big.clone();
        async move {
            let payload = task.json::<Value>()?;
            if payload["panic"] == true {
                std::panic::resume_unwind(Box::new("as told"));
            }
            if payload["hang"] == true {
                std::future::pending::<()>().await;
            }
            Ok(Reply::from(if payload["big"] == true { big } else { task.payload }))
        }
    };
    (Node::bind(options).await.unwrap().serve(handler).await.unwrap(), runs)
}

fn task(task_id: &str, payload: Value) -> Vec<u8> {
    let body = json!({ "task_id": task_id, "intent": CHAT, "payload": payload });
    post("/v1/task", "", body.to_string().as_bytes())
}

async fn until(what: &str, within: Duration, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !reached().await {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn metric(node: &LiveNode, name: &str) -> u64 {
    let page = Conn::open(node.addr()).await.unwrap().get("/metrics").await.unwrap().body;
    let page = String::from_utf8(page).unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

fn client(directory: &Value) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.as_str().unwrap().into();
    Client::new(options).unwrap()
}

// Slow peers.

const DEADLINE: Duration = Duration::from_secs(1);
/// Each of them makes the node hold megabytes.
const READERS: usize = 8;

#[tokio::test]
async fn s11_slow_peers_of_five_kinds_are_cut_and_nobody_else_notices() {
    let per_kind = size(40, 400);
    let (node, runs) = node(|options| {
        options.header_timeout_ms = 1_000;
        options.idle_timeout_ms = 1_000;
        options.transfer_grace_ms = 1_000;
        options.max_concurrent = 256;
    })
    .await;
    let begun = Instant::now();
    let mut held = Vec::new();
    let mut drips = Vec::new();
    for n in 0..per_kind {
        held.push(Conn::open(node.addr()).await.unwrap());
        let mut head = Conn::open(node.addr()).await.unwrap();
        head.write(b"POST /v1/task HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
        drips.push(head);
        let mut body = Conn::open(node.addr()).await.unwrap();
        // A good start buys no patience: the first half comes at once, the rest by the byte.
        body.write(b"POST /v1/task HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500000\r\n\r\n").await.unwrap();
        body.write(&[b' '; 250_000]).await.unwrap();
        drips.push(body);
        let mut idle = Conn::open(node.addr()).await.unwrap();
        assert_eq!(idle.get("/iicp/health").await.unwrap().status, 200);
        held.push(idle);
        if n < READERS {
            held.push(slow_reader(&node, n).await);
        }
    }
    let dripping = tokio::spawn(async move {
        // A byte now and then, as a slow loris sends it; the ends show as errors and do not matter here.
        for _ in 0..100 {
            for conn in &mut drips {
                let _ = conn.write(b"a").await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut legit = Conn::open(node.addr()).await.unwrap();
    let mut served = 0;
    let kinds =
        [("silent", per_kind), ("head", per_kind), ("body", per_kind), ("idle", per_kind), ("answering", READERS)];
    for (phase, number) in kinds {
        until(phase, 3 * (DEADLINE + Duration::from_secs(1)), async || {
            legit.write(&task(&format!("legit-{served}"), json!({}))).await.unwrap();
            assert_eq!(legit.answer().await.unwrap().status, 200, "a good caller is served all the while");
            served += 1;
            let cut = metric(&node, &format!("iicp_connections_cut_total{{phase=\"{phase}\"}}")).await;
            cut >= number as u64
        })
        .await;
    }
    dripping.abort();
    assert!(begun.elapsed() >= DEADLINE && served > 3, "{served} served");
    assert!(!runs.lock().unwrap().contains_key("slow"), "half a task runs nothing");
    assert_eq!(node.active_jobs(), 0);
}

/// A peer that asks for megabytes and does not read them.
async fn slow_reader(node: &LiveNode, n: usize) -> Conn {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let mut conn = Conn::over(socket.connect(node.addr()).await.unwrap());
    conn.write(&task(&format!("reader-{n}"), json!({ "big": true }))).await.unwrap();
    conn
}

// Callers that go away.

#[tokio::test]
async fn s12_callers_that_break_off_anywhere_leave_every_slot() {
    let (node, _) = node(|options| options.max_concurrent = 4).await;
    for n in 0..size(2_000_usize, 100_000) {
        let mut conn = Conn::open(node.addr()).await.unwrap();
        let request = task(&format!("t-{n}"), json!({ "hang": true }));
        conn.write(&request[..(n * 7) % (request.len() + 1)]).await.unwrap();
        if n % 2 == 0 {
            conn.socket().set_zero_linger().unwrap();
        }
    }
    served_by_all_slots(&node).await;
}

#[tokio::test]
async fn four_who_abort_and_four_who_panic_leave_four_slots() {
    let (node, runs) = node(|options| options.max_concurrent = 4).await;
    let mut held = Vec::new();
    for n in 0..4 {
        let mut conn = Conn::open(node.addr()).await.unwrap();
        conn.write(&task(&format!("abort-{n}"), json!({ "hang": true }))).await.unwrap();
        held.push(conn);
    }
    until("four run", Duration::from_secs(5), async || node.active_jobs() == 4).await;
    for conn in &mut held {
        conn.socket().set_zero_linger().unwrap();
    }
    drop(held);
    served_by_all_slots(&node).await;
    for n in 0..4 {
        let mut conn = Conn::open(node.addr()).await.unwrap();
        conn.write(&task(&format!("panic-{n}"), json!({ "panic": true }))).await.unwrap();
        assert_eq!(conn.answer().await.unwrap().status, 500);
    }
    served_by_all_slots(&node).await;
    assert_eq!(runs.lock().unwrap().len(), 4 + 4 + 8);
}

/// Waits until no job runs, then takes all four slots at once.
async fn served_by_all_slots(node: &LiveNode) {
    until("none runs", Duration::from_secs(10), async || node.active_jobs() == 0).await;
    let mut held = Vec::new();
    for n in 0..4 {
        let mut conn = Conn::open(node.addr()).await.unwrap();
        conn.write(&task(&format!("next-{n}-{:?}", Instant::now()).replace(' ', ""), json!({}))).await.unwrap();
        held.push(conn);
    }
    for mut conn in held {
        let answer = conn.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

// Nodes that die.

#[tokio::test]
async fn a_task_whose_node_is_killed_runs_nowhere_else_unless_idempotent() {
    let mut home = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
    for round in 0..6 {
        let idempotent = round % 2 == 1;
        let scene = home.call(&json!({ "setup": {} })).await.unwrap();
        // A client sees the directory as others do; the two nodes each live in a process of their own.
        let mut stages = Vec::new();
        for n in 0..2 {
            let mut stage = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
            let options = json!({ "node_id": format!("killed-{round}-{n}") });
            let setup = json!({ "directory": { "at": scene["directory"] }, "nodes": [{ "handler": "hang", "options": options }] });
            stage.call(&json!({ "setup": setup })).await.unwrap();
            stages.push(stage);
        }
        let client = client(&scene["directory"]);
        let task = Task::new(CHAT, json!({})).task_id("t-1").idempotent(idempotent);
        let call = tokio::spawn(async move { client.submit(task).await });
        let first = loop {
            let mut running = None;
            for (n, stage) in stages.iter_mut().enumerate() {
                let ledger = stage.call(&json!({ "ledger": {} })).await.unwrap();
                running = (ledger["nodes"][0]["started"] == 1).then_some(n).or(running);
            }
            if let Some(running) = running {
                break running;
            }
        };
        stages.remove(first).kill().await.unwrap();
        let mut other = stages.pop().unwrap();
        if idempotent {
            let executions = json!({ "nodes": [{ "executions": { "t-1": 1 } }] });
            other.wait_for(executions, Duration::from_secs(10)).await.unwrap();
            call.abort();
        } else {
            let error = tokio::time::timeout(Duration::from_secs(10), call).await.unwrap().unwrap().unwrap_err();
            assert_eq!(error.code(), Code::Lost, "{error}");
            let ledger = other.call(&json!({ "ledger": {} })).await.unwrap();
            assert_eq!(ledger["nodes"][0]["started"], 0, "{ledger}");
        }
    }
}

// Answers that are none.

#[tokio::test]
async fn no_cut_or_damaged_answer_is_taken_for_a_whole_one() {
    let body = json!({ "task_id": "t-1", "status": "success", "result": { "text": "the whole truth" } }).to_string();
    let whole =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        40,
        &body[..40],
        body.len() - 40,
        &body[40..]
    );
    // Every place to break off, and every byte damaged in a way that depends on its place.
    let mut corpus: Vec<(Vec<u8>, bool)> = Vec::new();
    for answer in [&whole, &chunked] {
        corpus.extend((0..answer.len()).map(|cut| (answer.as_bytes()[..cut].to_vec(), true)));
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone().into_bytes();
        damaged[at] ^= [0x80, 0x01, 0xff, 0x20][at % 4];
        corpus.push((damaged, false));
    }
    assert!(corpus.len() >= 200);

    let peer: Vec<Value> = corpus.iter().map(|(bytes, _)| json!({ "raw": { "hex": hex(bytes) } })).collect();
    let mut stage = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
    let scene = stage.call(&json!({ "setup": { "nodes": [{ "peer": peer }] } })).await.unwrap();
    for (bytes, cut) in &corpus {
        // Each with connections of its own: a kept one may be closing already, and then the answer is another one's.
        let client = client(&scene["directory"]);
        let shown = || String::from_utf8_lossy(bytes).into_owned();
        match client.submit(Task::new(CHAT, json!({})).task_id("t-1")).await {
            Ok(done) => {
                // Damage inside a header or the text of the result is not ours to see; a missing end is.
                assert!(!cut || bytes.ends_with(b"0\r\n\r"), "a cut answer was taken: {}", shown());
                assert!(done.result.json::<Value>().is_ok(), "{}", shown());
            }
            Err(error) => {
                let typed = matches!(
                    error.code(),
                    Code::Malformed
                        | Code::Lost
                        | Code::ResponseTooLarge
                        | Code::Backend
                        | Code::TaskRejected
                        | Code::EndpointRefused
                        | Code::Capacity
                        | Code::Duplicate
                );
                assert!(typed, "{error} for {}", shown());
            }
        }
    }
    let ledger = stage.call(&json!({ "ledger": {} })).await.unwrap();
    assert_eq!(ledger["nodes"][0]["started"], corpus.len(), "each task was sent once");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// Injection and smuggling.

#[tokio::test]
async fn control_characters_in_names_are_refused_wherever_they_stand() {
    let (node, runs) = node(|_| {}).await;
    let mut conn = Conn::open(node.addr()).await.unwrap();
    let bad =
        ["\r\n", "\n", "\r", "\0", "\u{85}", "\u{2028}", "\x1b[31m", "|", " ", "\t", "\u{7f}", "é", "\r\nx-evil: 1"];
    let mut tried = 0;
    for bad in bad {
        for at in 0..=3 {
            let name = |good: &str| format!("{}{bad}{}", &good[..at * good.len() / 3], &good[at * good.len() / 3..]);
            for (task_id, intent) in [(name("task-1"), CHAT.to_owned()), ("t".to_owned(), name(CHAT))] {
                let body = json!({ "task_id": task_id, "intent": intent, "payload": {} }).to_string();
                conn.write(&post("/v1/task", "", body.as_bytes())).await.unwrap();
                let answer = conn.answer().await.unwrap();
                assert_eq!(answer.status, 422, "{body}: {answer:?}");
                // What was refused is not repeated, so it cannot forge a line wherever the answer ends up.
                assert!(!String::from_utf8_lossy(&answer.body).contains("evil"), "{answer:?}");
                tried += 1;
            }
        }
    }
    assert_eq!(tried, 13 * 4 * 2);
    // As raw bytes inside the JSON, where no control character may stand at all.
    for byte in 0..0x20_u8 {
        let body =
            [r#"{"task_id":"a"#.as_bytes(), &[byte], format!(r#"b","intent":"{CHAT}","payload":{{}}}}"#).as_bytes()]
                .concat();
        conn.write(&post("/v1/task", "", &body)).await.unwrap();
        assert_eq!(conn.answer().await.unwrap().status, 422, "byte {byte}");
    }
    assert!(runs.lock().unwrap().is_empty(), "nothing of it ran");
}

/// Requests that two readers may understand differently; `inner` is what the second of them would see as a request.
fn smuggling_corpus(outer: &str, inner: &str) -> Vec<(&'static str, String)> {
    const CHUNKED: &str = "transfer-encoding: chunked\r\n";
    let head = "POST /v1/task HTTP/1.1\r\nhost: localhost\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let length = |n: usize| format!("content-length: {n}\r\n");
    let both = outer.len() + inner.len();
    let ended = format!("{}0\r\n\r\n", chunk(outer));
    vec![
        ("CL.TE", format!("{head}{}{CHUNKED}\r\n{ended}{inner}", length(ended.len() + inner.len()))),
        ("TE.CL", format!("{head}{CHUNKED}{}\r\n{ended}{inner}", length(3))),
        ("CL.TE with a short length", format!("{head}{}{CHUNKED}\r\n0\r\n\r\n{inner}", length(5))),
        ("two lengths", format!("{head}{}{}\r\n{outer}{inner}", length(both), length(outer.len()))),
        ("two lengths in one", format!("{head}content-length: {}, {both}\r\n\r\n{outer}{inner}", outer.len())),
        ("a length with a sign", format!("{head}content-length: +{}\r\n\r\n{outer}{inner}", outer.len())),
        ("a length in hex", format!("{head}content-length: 0x{:x}\r\n\r\n{outer}{inner}", outer.len())),
        ("a negative length", format!("{head}content-length: -1\r\n\r\n{outer}{inner}")),
        ("a length beyond numbers", format!("{head}content-length: 18446744073709551617\r\n\r\n{outer}{inner}")),
        ("a space before the colon", format!("{head}content-length : {}\r\n\r\n{outer}{inner}", outer.len())),
        (
            "obs-fold",
            format!("{head}transfer-encoding:\r\n chunked\r\n{}\r\n{ended}{inner}", length(ended.len() + inner.len())),
        ),
        ("obs-fold of a length", format!("{head}content-length:\r\n {}\r\n\r\n{outer}{inner}", outer.len())),
        ("a TE that is not the last", format!("{head}transfer-encoding: chunked, identity\r\n\r\n{ended}{inner}")),
        ("a TE that nobody knows", format!("{head}transfer-encoding: xchunked\r\n{}\r\n{outer}{inner}", length(both))),
        ("a TE with a tab", format!("{head}transfer-encoding:\tchunked\r\n{}\r\n{ended}{inner}", length(both))),
        ("a TE with a NUL", format!("{head}transfer-encoding: chunked\0\r\n{}\r\n{ended}{inner}", length(both))),
        ("TE in HTTP/1.0", format!("POST /v1/task HTTP/1.0\r\n{CHUNKED}{}\r\n{ended}{inner}", length(3))),
        ("a bare LF chunk", format!("{head}{CHUNKED}\r\n{:x}\n{outer}\n0\n\n{inner}", outer.len())),
        ("a chunk size with junk", format!("{head}{CHUNKED}\r\n{:x}zz\r\n{outer}\r\n0\r\n\r\n{inner}", outer.len())),
        ("a chunk size beyond numbers", format!("{head}{CHUNKED}\r\nfffffffffffffffff\r\n{outer}\r\n0\r\n\r\n{inner}")),
        ("a negative chunk size", format!("{head}{CHUNKED}\r\n-1\r\n{outer}\r\n0\r\n\r\n{inner}")),
        ("a chunk without its end", format!("{head}{CHUNKED}\r\n{:x}\r\n{outer}{inner}\r\n0\r\n\r\n", outer.len())),
        ("a header with a bare CR", format!("{head}x: a\rcontent-length: 0\r\n{}\r\n{outer}{inner}", length(both))),
        ("a header line without a colon", format!("{head}content-length\r\n\r\n{inner}")),
        (
            "a request line in the body of a GET",
            format!("GET /iicp/health HTTP/1.1\r\nhost: localhost\r\n{}\r\n{inner}", length(inner.len())),
        ),
    ]
}

#[tokio::test]
async fn a_smuggled_request_never_runs() {
    let (node, runs) = node(|options| options.header_timeout_ms = 1_000).await;
    // Ids of their own for every attempt: an id that ran before would be answered without a run.
    let attempt = |n: usize| {
        let outer = json!({ "task_id": format!("outer-{n}"), "intent": CHAT, "payload": {} }).to_string();
        (outer, String::from_utf8(task(&format!("smuggled-{n}"), json!({}))).unwrap())
    };
    let smuggled = |runs: &BTreeMap<String, u64>| runs.keys().any(|id| id.starts_with("smuggled"));

    // That a second request on the line does run, when it is one, is what makes the rest of this test say something.
    let (outer, inner) = attempt(999);
    let mut conn = Conn::open(node.addr()).await.unwrap();
    conn.write(&[post("/v1/task", "", outer.as_bytes()), inner.into_bytes()].concat()).await.unwrap();
    assert_eq!((conn.answer().await.unwrap().status, conn.answer().await.unwrap().status), (200, 200));
    assert!(smuggled(&std::mem::take(&mut *runs.lock().unwrap())));

    for n in 0..smuggling_corpus("", "").len() {
        let (outer, inner) = attempt(n);
        let (name, bytes) = smuggling_corpus(&outer, &inner).swap_remove(n);
        let mut conn = Conn::open(node.addr()).await.unwrap();
        conn.write(bytes.as_bytes()).await.unwrap();
        // The node may have closed already.
        let _ = conn.socket().shutdown().await;
        let answers = conn.rest().await;
        let answers = String::from_utf8_lossy(&answers);
        let runs = std::mem::take(&mut *runs.lock().unwrap());
        assert!(!smuggled(&runs), "{name}: {answers}");
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{name}: {answers}");
        assert!(runs.values().sum::<u64>() <= 1, "{name}: {runs:?}");
    }
    let mut conn = Conn::open(node.addr()).await.unwrap();
    conn.write(&task("after", json!({}))).await.unwrap();
    assert_eq!(conn.answer().await.unwrap().status, 200, "and the node goes on");
}
