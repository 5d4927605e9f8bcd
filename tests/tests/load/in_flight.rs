//! A node with tasks by the thousand, of which it runs a few hundred at a time.

use std::time::{Duration, Instant};

use iicp_core::CHAT;
use iicp_tests::cgroup::Cgroup;
use iicp_tests::http::{Conn, post};
use iicp_tests::{is_soak, size};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Remote;

/// Tasks that a node may run at the same time.
const SLOTS: usize = 256;
/// How long a task takes; short, so that the last of the queue is far from the longest wait.
const OTHERS_MS: u64 = 200;

/// How long the first tasks take, so that the queue is filled meanwhile, also where other work goes on.
fn first_ms() -> u64 {
    size(8_000, 30_000)
}

fn task(id: &str, takes_ms: u64) -> Vec<u8> {
    let task = json!({
        "task_id": id, "intent": CHAT, "payload": { "do": { "slow": takes_ms }, "text": "x".repeat(900) },
        "constraints": { "timeout_ms": 110_000, "qos": "interactive" },
    });
    post("/v1/task", "", task.to_string().as_bytes())
}

/// As many as may run, and all the others in the queue.
fn options(count: usize) -> Value {
    json!({
        "max_connections": 20_000, "max_concurrent": SLOTS, "queue_length": count - SLOTS, "queue_wait_ms": 60_000,
        "auth": "open",
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn c4_thousands_of_tasks_in_flight_are_answered_once_and_one_more_is_refused_at_once() {
    let count = size(1_000, 10_000);
    let node = Remote::new(json!("as_told"), options(count)).await;
    let (held, seen) = fly(node, count).await;
    println!("{seen}");
    assert!(held <= 200_000_000, "{held} bytes with {count} tasks in flight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "makes a control group, which needs root; part of --with soak"]
async fn k15_a_node_for_128_mb_of_memory_sheds_what_is_too_much_and_lives() {
    const CALLERS: usize = 10_000;
    let group = Cgroup::with_memory(128 << 20).unwrap();
    // What an operator of so small a machine allows; the rest is turned away.
    let options = json!({
        "max_connections": 3_000, "max_concurrent": SLOTS, "queue_length": 1_000, "queue_wait_ms": 60_000, "auth": "open",
        "replay_bytes": 8 << 20, "result_bytes": 8 << 20,
    });
    let node = Remote::within(Some(&group), json!("as_told"), options).await;
    let mut flying = JoinSet::new();
    for n in 0..CALLERS {
        // Who finds no room is told so, or cut off while it connects.
        let Ok(mut conn) = Conn::open(node.addr).await else { continue };
        flying.spawn(async move {
            conn.write(&task(&format!("t-{n}"), OTHERS_MS)).await.ok()?;
            let answer = tokio::time::timeout(Duration::from_secs(111), conn.answer()).await.expect("a lost task");
            Some(answer.ok()?.status)
        });
    }
    let (mut served, mut shed) = (0, 0);
    for status in flying.join_all().await {
        match status {
            Some(200) => served += 1,
            None | Some(429 | 503) => shed += 1,
            Some(other) => panic!("answered with {other}"),
        }
    }
    println!("of {CALLERS} at once {served} were served and {shed} shed in {} bytes", node.process.memory());
    assert!(served >= 1_000 && shed >= 1_000, "{served} were served, {shed} shed");
    let mut conn = Conn::open(node.addr).await.unwrap();
    conn.write(&task("after", 0)).await.unwrap();
    assert_eq!(conn.answer().await.unwrap().status, 200, "it lives");
}

/// Has so many tasks in flight at once, all of which are answered once, while one more is refused; returns the memory
/// held, and what was seen.
async fn fly(mut node: Remote, count: usize) -> (u64, String) {
    let idle = node.process.memory();
    let mut flying = JoinSet::new();
    send(&node, &mut flying, 0..SLOTS, first_ms()).await;
    node.stage
        .wait_for(json!({ "nodes": [{ "active_jobs": SLOTS }] }), Duration::from_millis(first_ms() / 2))
        .await
        .unwrap();
    send(&node, &mut flying, SLOTS..count, OTHERS_MS).await;
    let (refused, served) = refused(&node).await;
    let held = node.process.memory();
    let answered = flying.join_all().await.len();
    let ledger = node.ledger().await;
    let seen = format!(
        "{count} tasks in flight: {held} bytes, {idle} before; one more was refused within {refused:?}, \
         while the node said how it is within {served:?}"
    );
    assert_eq!((answered, &ledger["finished"], &ledger["started"]), (count, &json!(count), &json!(count)));
    assert_eq!(ledger["most_executions"], 1);
    // Three times what is promised, or what anything takes where other work goes on.
    let most = Duration::from_millis(15).max(served * 3);
    assert!(!is_soak() || refused < most, "refused after {refused:?} only, while anything takes {served:?}");
    (held, seen)
}

async fn send(node: &Remote, flying: &mut JoinSet<()>, ids: std::ops::Range<usize>, takes_ms: u64) {
    for n in ids {
        let id = format!("t-{n}");
        let mut conn = Conn::open(node.addr).await.unwrap();
        conn.write(&task(&id, takes_ms)).await.unwrap();
        flying.spawn(async move {
            let answer = tokio::time::timeout(Duration::from_secs(111), conn.answer()).await;
            let answer = answer.unwrap_or_else(|_| panic!("{id} was lost")).unwrap_or_else(|e| panic!("{id}: {e}"));
            assert_eq!((answer.status, &answer.json()["task_id"]), (200, &json!(id)), "{answer:?}");
        });
    }
}

/// How long a refusal takes, and how long the shortest answer that there is, each the median of some.
async fn refused(node: &Remote) -> (Duration, Duration) {
    let mut asked = Conn::open(node.addr).await.unwrap();
    let mut last = Conn::open(node.addr).await.unwrap();
    // What was sent has been read by then; the first are still running.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut times, mut served) = (Vec::new(), Vec::new());
    for n in 0..51 {
        let begun = Instant::now();
        let answer =
            tokio::time::timeout(Duration::from_secs(3), asked.get("/iicp/health")).await.expect("it is silent");
        assert_eq!(answer.unwrap().status, 200);
        served.push(begun.elapsed());
        let begun = Instant::now();
        last.write(&task(&format!("more-{n}"), 0)).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(3), last.answer()).await.expect("one too many waits");
        assert_eq!(answer.unwrap().status, 429, "there is no room for one more");
        times.push(begun.elapsed());
    }
    (median(times), median(served))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
