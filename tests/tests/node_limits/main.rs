//! What peers can make a node hold: measured on a node in a process of its own.

#![allow(clippy::unwrap_used)]

mod bombs;
mod noise;

use std::time::{Duration, Instant};

use iicp_core::CHAT;
use iicp_tests::http::{Conn, addr, post};
use iicp_tests::process::Process;
use iicp_tests::size;
use iicp_tests::stage_process::StageProcess;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};

/// A node in a stage of its own.
struct Remote {
    stage: StageProcess,
    process: Process,
    addr: std::net::SocketAddr,
}

impl Remote {
    async fn new(handler: &str, options: Value, descriptors: Option<u64>) -> Remote {
        let stage = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
        Remote::on(stage, handler, options, descriptors).await
    }

    async fn on(mut stage: StageProcess, handler: &str, options: Value, descriptors: Option<u64>) -> Remote {
        let process = Process(stage.id().unwrap());
        if descriptors.is_some() {
            let pid = Pid::from_raw(i32::try_from(process.0).unwrap());
            prlimit(pid, Resource::Nofile, Rlimit { current: descriptors, maximum: descriptors }).unwrap();
        }
        let node = json!({ "handler": handler, "options": options });
        let scene = stage.call(&json!({ "setup": { "nodes": [node] } })).await.unwrap();
        let addr = addr(scene["nodes"][0]["url"].as_str().unwrap());
        Remote { stage, process, addr }
    }

    async fn health(&self) -> Option<Value> {
        let mut conn = Conn::open(self.addr).await.ok()?;
        let answer = tokio::time::timeout(Duration::from_secs(1), conn.get("/iicp/health")).await.ok()?.ok()?;
        (answer.status == 200).then(|| answer.json())
    }
}

fn body(task_id: &str, intent: &str, more: &str) -> String {
    format!(r#"{{"task_id":"{task_id}","intent":"{intent}","payload":{{}}{more}}}"#)
}

#[tokio::test]
async fn s17_s18_distinct_ids_intents_origins_and_models_do_not_grow_a_node() {
    let rounds = size(100, 1_000);
    const PER_ROUND: usize = 1_000;
    // Little memory for ids and answers, so that any other growth shows.
    let options = json!({ "replay_bytes": 1 << 20, "result_bytes": 1 << 20 });
    let node = Remote::new("unlisted", options, None).await;
    let mut conn = Conn::open(node.addr).await.unwrap();
    let mut before = 0;
    for round in 0..rounds {
        let mut requests = Vec::new();
        for n in 0..PER_ROUND {
            let key = format!("{round}-{n}");
            let headers = format!("origin: https://o{key}.example\r\nx-iicp-trace-id: {key}\r\n");
            let more = format!(r#","source_node_id":"n-{key}","constraints":{{"model":"m-{key}","qos":"q-{key}"}}"#);
            let intent = if n % 2 == 0 { CHAT.to_owned() } else { format!("urn:iicp:intent:x.v{key}:do:v1") };
            requests.extend(post("/v1/task", &headers, body(&key, &intent, &more).as_bytes()));
        }
        conn.write(&requests).await.unwrap();
        for n in 0..PER_ROUND {
            assert_eq!(conn.answer().await.unwrap().status, if n % 2 == 0 { 200 } else { 404 });
        }
        if round == 2 {
            before = node.process.memory();
        }
    }
    let rise = node.process.memory().saturating_sub(before);
    assert!(rise <= 32 << 20, "{rise} bytes more after {} requests", rounds * PER_ROUND);
    let page = String::from_utf8(conn.get("/metrics").await.unwrap().body).unwrap();
    assert!(page.len() < 64 << 10, "the metrics page has {} bytes", page.len());
    let forgotten = page.lines().find_map(|line| line.strip_prefix("iicp_replay_forgotten_total ")).unwrap();
    assert!(forgotten.parse::<u64>().unwrap() > 0, "ids that were forgotten early are counted");
}

#[tokio::test]
async fn nonces_by_the_thousand_are_each_good_once_and_cost_what_they_may() {
    const PER_ROUND: usize = 1_000;
    let count = size(10_000, 1_000_000);
    let node = Remote::new("unlisted", json!({ "result_bytes": 1 << 20 }), None).await;
    let mut conn = Conn::open(node.addr).await.unwrap();
    let (mut before, mut sent) = (0, Vec::new());
    for first in (0..count).step_by(PER_ROUND) {
        sent.push(Instant::now());
        let with_nonce = |n: usize| body(&format!("t-{n}"), CHAT, &format!(r#","nonce":"n-{n}""#));
        let tasks = (first..first + PER_ROUND).flat_map(|n| post("/v1/task", "", with_nonce(n).as_bytes()));
        conn.write(&tasks.collect::<Vec<_>>()).await.unwrap();
        for n in first..first + PER_ROUND {
            assert_eq!(conn.answer().await.unwrap().status, 200, "nonce {n} is new");
        }
        if first == PER_ROUND {
            before = node.process.memory();
        }
    }
    let rise = node.process.memory().saturating_sub(before);
    println!("{count} nonces cost {rise} bytes");
    // 64 MiB of nonces and as much of task ids, and holes of the heap where tables have grown.
    assert!(rise <= size(16, 160) << 20, "{rise} bytes for {count} nonces");
    // One is held for five minutes, and a slow machine takes longer for a million.
    for n in (0..count).step_by(97).filter(|n| sent[n / PER_ROUND].elapsed() < Duration::from_secs(200)) {
        let again = body(&format!("other-{n}"), CHAT, &format!(r#","nonce":"n-{n}""#));
        conn.write(&post("/v1/task", "", again.as_bytes())).await.unwrap();
        let answer = conn.answer().await.unwrap();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (409, &json!("IICP-E011")), "nonce {n} is spent");
    }
}

#[tokio::test]
async fn s22_k14_a_node_short_of_descriptors_stays_calm_and_answers() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let node = Remote::new("echo", json!({}), Some(256)).await;
    assert!(node.health().await.is_some());

    let mut held = Vec::new();
    for _ in 0..1_000 {
        held.push(Conn::open(node.addr).await.unwrap());
    }
    let (cpu, begun) = (node.process.cpu_time(), Instant::now());
    // Nothing happens on a thousand connections; a server that spins on the error of accept shows here.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let share = (node.process.cpu_time() - cpu).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.05, "{share:.3} of a processor while nothing happens");
    assert!(node.process.descriptors() <= 256);

    for _ in 0..10 {
        answers_within(&node, Duration::from_secs(3)).await;
    }
    drop(held);
    answers_within(&node, Duration::from_secs(6)).await;
    let mut conn = Conn::open(node.addr).await.unwrap();
    let task = json!({ "task_id": "t", "intent": CHAT, "payload": {} });
    assert_eq!(conn.post("/v1/task", &task).await.unwrap().status, 200);
}

async fn answers_within(node: &Remote, limit: Duration) {
    let begun = Instant::now();
    while node.health().await.is_none() {
        assert!(begun.elapsed() < limit, "no health within {limit:?}");
    }
}

#[tokio::test]
async fn ten_thousand_connections_that_come_and_go_leave_nothing() {
    let mut node = Remote::new("hang", json!({ "max_concurrent": 64, "max_connections": 128 }), None).await;
    let mut before = (0, 0);
    for round in 0..10_usize {
        for n in 0..1_000_usize {
            let mut conn = Conn::open(node.addr).await.unwrap();
            let request = post("/v1/task", "", body(&format!("{round}-{n}"), CHAT, "").as_bytes());
            // Gone before, inside and after the request.
            let cut = (n * 31) % (request.len() + 1);
            let _ = conn.write(&request[..cut]).await;
            if n % 3 == 0 {
                conn.socket().set_zero_linger().unwrap();
            }
        }
        node.stage.wait_for(json!({ "nodes": [{ "active_jobs": 0 }] }), Duration::from_secs(10)).await.unwrap();
        if round == 0 {
            before = (node.process.memory(), node.process.descriptors());
        }
    }
    // All that may be open, and the few that are just being closed to make room for them; on a busy machine these are more.
    let most = before.1 + 128 + 16;
    let begun = Instant::now();
    while node.process.descriptors() > most && begun.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = (node.process.memory(), node.process.descriptors());
    assert!(after.0 < before.0 + (8 << 20), "{} bytes before, {} after", before.0, after.0);
    assert!(after.1 <= most, "{} descriptors before, {} after", before.1, after.1);
}
