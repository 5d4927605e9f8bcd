//! Parts of a mesh with next to no processor time, and what a relay's memory holds.

use std::time::{Duration, Instant};

use iicp_core::options::ClientOptions;
use iicp_core::{Client, EMBEDDING, Task};
use iicp_tests::cgroup::Cgroup;
use iicp_tests::http::Conn;
use serde_json::json;

use super::mesh::Mesh;

const WORKERS: usize = 10;

#[tokio::test]
#[ignore = "makes a control group, which needs root; part of --with soak"]
async fn k16_with_a_tenth_of_a_processor_nobody_is_taken_for_gone() {
    let group = Cgroup::with_cpu(10).unwrap();
    let mesh = Mesh::start("starved").await;
    let workers = mesh.workers(true, 0, WORKERS).await;
    mesh.all_bound(WORKERS, Duration::from_secs(60)).await;
    let binds = mesh.metric("iicp_relay_binds_total{outcome=\"bound\"}").await;
    group.take(mesh.relay.process()).unwrap();
    group.take(workers.process()).unwrap();
    // Four times round with the pings, and tasks between them.
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    for n in 0_usize.. {
        if begun.elapsed() > Duration::from_secs(70) {
            break;
        }
        let since = Instant::now();
        let task = json!({
            "task_id": format!("t-{n}"), "intent": EMBEDDING, "payload": { "n": n },
            "constraints": { "timeout_ms": 10_000 },
        });
        let mut conn = Conn::open(mesh.relay_addr).await.unwrap();
        let answer = conn.post(&format!("/v1/relay-for/w-{}/v1/task", n % WORKERS), &task).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        longest = longest.max(since.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let now = mesh.metric("iicp_relay_binds_total{outcome=\"bound\"}").await;
    println!("{WORKERS} workers stayed bound for {:?}; the longest task took {longest:?}", begun.elapsed());
    assert_eq!(now, binds, "nobody had to bind again");
    assert_eq!(mesh.metric("iicp_relay_workers{way=\"ours\"}").await, WORKERS as u64);
}

#[tokio::test]
async fn s30_of_what_is_sealed_a_relays_memory_holds_nothing_in_plain_text() {
    const SEALED: &str = "a-canary-that-was-sealed";
    const PLAIN: &str = "a-canary-that-was-not";
    let mesh = Mesh::start("blind").await;
    let _worker = mesh.workers(true, 0, 1).await;
    mesh.all_bound(1, Duration::from_secs(60)).await;
    let mut options = ClientOptions::default();
    options.directory = mesh.directory_url.clone();
    let client = Client::new(options).unwrap();
    let payload = |canary: &str, n: u32| json!({ "n": 0, "text": format!("{canary} {n} ").repeat(100) });
    for n in 0..200 {
        let done = client.submit(Task::new(EMBEDDING, payload(SEALED, n))).await.unwrap();
        assert!(done.sealed, "by itself, and the relay cannot have it otherwise");
        assert_eq!(done.result.json::<serde_json::Value>().unwrap(), payload(SEALED, n));
    }
    assert_eq!(mesh.relay.process().holds(SEALED.as_bytes()), 0);
    // That the search would have found it: a task that nobody sealed leaves its traces.
    let mut conn = Conn::open(mesh.relay_addr).await.unwrap();
    for n in 0..20 {
        let task = json!({ "task_id": format!("p-{n}"), "intent": EMBEDDING, "payload": payload(PLAIN, n) });
        assert_eq!(conn.post("/v1/relay-for/w-0/v1/task", &task).await.unwrap().status, 200);
    }
    assert!(mesh.relay.process().holds(PLAIN.as_bytes()) > 0, "the search finds nothing at all");
}
