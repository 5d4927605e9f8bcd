//! A relay with workers and callers by the thousand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iicp_core::CHAT;
use iicp_tests::http::{Conn, addr, post};
use iicp_tests::{is_soak, size};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::{Role, each};

/// Processes that hold the workers.
const HOSTS: usize = 3;
const TASKS_A_SECOND: u32 = 200;
/// Each task's time, and the second that may be added to it.
const MOST: Duration = Duration::from_secs(10 + 1);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn c3_of_tasks_for_thousands_of_workers_from_thousands_of_callers_none_is_lost() {
    let (count, lasting) = size((500, Duration::from_secs(20)), (9_000, Duration::from_secs(600)));
    let relay = Role::start("relay", &[]).await;
    // What the first need once is not a worker's.
    let mut hosts = vec![bind(&relay, count, 64).await];
    let before = (relay.process.memory(), relay.process.descriptors());
    for host in 0..HOSTS {
        let (first, last) = (host * count / HOSTS, (host + 1) * count / HOSTS);
        hosts.push(bind(&relay, first, last - first).await);
    }
    // What the greeting took is given back a moment later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(relay.process.descriptors() - before.1, count, "a worker takes one descriptor");
    let worker = each(relay.process.memory().saturating_sub(before.0), count);
    let at = addr(relay.said("url"));
    let mut callers = Vec::with_capacity(count);
    for n in 0..count {
        let mut conn = Conn::open(at).await.unwrap();
        let health = conn.get(&format!("/v1/relay-for/w-{n}/iicp/health")).await.unwrap();
        assert_eq!(health.status, 200, "worker {n} is bound");
        callers.push(Arc::new(Mutex::new(conn)));
    }
    let with_callers = relay.process.memory();
    let mut times = call(&callers, lasting).await;
    let sent = times.len();
    times.sort_unstable();
    let rise = relay.process.memory().saturating_sub(with_callers);
    println!(
        "{sent} tasks of {count} callers for {count} workers: median {:?}, 99 % within {:?}, longest {:?}; {worker} bytes a \
         worker, {rise} more after the tasks",
        times[sent / 2],
        times[sent * 99 / 100],
        times[sent - 1]
    );
    assert_eq!(answered(at).await, u64::try_from(sent).unwrap(), "as many as the relay says that it has answered");
    assert!(!is_soak() || worker <= 16 << 10, "{worker} bytes a worker");
    // What a caller and a worker hold after their first task; not one task more.
    assert!(!is_soak() || each(rise, count) <= 10 << 10, "{rise} bytes more after all");
}

async fn bind(relay: &Role, first: usize, count: usize) -> Role {
    let (first, count) = (first.to_string(), count.to_string());
    Role::start("workers", &[relay.said("relay"), &first, &count, "quick", "tls"]).await
}

/// Sends tasks from each caller in turn to a worker far from its own, and returns how long they took. Each must have its own
/// answer, in time.
async fn call(callers: &[Arc<Mutex<Conn>>], lasting: Duration) -> Vec<Duration> {
    let count = callers.len();
    let (mut tick, begun) = (tokio::time::interval(Duration::from_secs(1) / TASKS_A_SECOND), Instant::now());
    let (mut running, mut times) = (JoinSet::new(), Vec::new());
    // Each caller has its turn, however short the run.
    for n in (0..).take_while(|n| *n < count || begun.elapsed() < lasting) {
        tick.tick().await;
        let (caller, worker) = (callers[n % count].clone(), (n * 7 + n / count) % count);
        running.spawn(async move {
            let (id, begun) = (format!("t-{n}"), Instant::now());
            let task = json!({
                "task_id": id, "intent": CHAT, "payload": { "text": "x".repeat(900) },
                "constraints": { "timeout_ms": 10_000 },
            });
            let request = post(&format!("/v1/relay-for/w-{worker}/v1/task"), "", task.to_string().as_bytes());
            let mut conn = caller.lock().await;
            conn.write(&request).await.unwrap_or_else(|e| panic!("{id} was not sent: {e}"));
            let answer = tokio::time::timeout(MOST, conn.answer()).await;
            let answer = answer.unwrap_or_else(|_| panic!("{id} was lost")).unwrap_or_else(|e| panic!("{id}: {e}"));
            assert_eq!((answer.status, &answer.json()["task_id"]), (200, &json!(id)), "{answer:?}");
            begun.elapsed()
        });
        while let Some(done) = running.try_join_next() {
            times.push(done.unwrap());
        }
    }
    times.extend(running.join_all().await);
    times
}

/// Calls that the relay has answered.
async fn answered(at: SocketAddr) -> u64 {
    let page = Conn::open(at).await.unwrap().get("/metrics").await.unwrap().body;
    let page = String::from_utf8(page).unwrap();
    let count = page.lines().find_map(|line| line.strip_prefix("iicp_relay_calls_total{outcome=\"answered\"} "));
    count.unwrap_or_else(|| panic!("{page}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn s27_a_worker_that_reads_nothing_costs_its_share_and_no_other_notices() {
    const SENT: usize = 100;
    let relay = Role::start("relay", &[]).await;
    let (number, one) = (["0", "1"], "1");
    let _good = Role::start("workers", &[relay.said("relay"), number[0], one, "quick", "plain"]).await;
    let _deaf = Role::start("workers", &[relay.said("relay"), number[1], one, "deaf", "plain"]).await;
    let at = addr(relay.said("url"));
    let mut other = Conn::open(at).await.unwrap();
    // What the connections themselves cost is not the worker's.
    let mut callers = Vec::new();
    for _ in 0..SENT {
        let mut conn = Conn::open(at).await.unwrap();
        assert_eq!(conn.get("/v1/relay-for/w-1/iicp/health").await.unwrap().status, 200);
        callers.push(conn);
    }
    median(&mut other, "calm").await;
    let calm = median(&mut other, "calm-again").await;
    let before = relay.process.memory();
    let mut waiting = JoinSet::new();
    for (n, mut conn) in callers.into_iter().enumerate() {
        let text = "x".repeat(120 << 10);
        let task = json!({ "task_id": format!("t-{n}"), "intent": CHAT, "payload": { "text": text } });
        conn.write(&post("/v1/relay-for/w-1/v1/task", "", task.to_string().as_bytes())).await.unwrap();
        waiting.spawn(async move { conn.answer().await.unwrap().status });
    }
    let mut refused = 0;
    while let Ok(Some(status)) = tokio::time::timeout(Duration::from_secs(2), waiting.join_next()).await {
        assert_eq!(status.unwrap(), 503, "what is too much is refused at once");
        refused += 1;
    }
    let held = relay.process.memory().saturating_sub(before);
    let busy = median(&mut other, "busy").await;
    println!(
        "{refused} of {SENT} refused, the others hold {held} bytes; a neighbour's task takes {busy:?}, before {calm:?}"
    );
    assert!((SENT - 40..SENT).contains(&refused), "{refused} were refused");
    assert!(!is_soak() || held <= 5 << 20, "{held} bytes");
    assert!(busy < Duration::from_secs(1), "{busy:?} instead of {calm:?}");
}

/// The median time of tasks, one after the other.
async fn median(conn: &mut Conn, name: &str) -> Duration {
    let mut times = Vec::new();
    for n in 0..200 {
        let begun = Instant::now();
        let task = json!({ "task_id": format!("{name}-{n}"), "intent": CHAT, "payload": { "text": "x".repeat(200) } });
        assert_eq!(conn.post("/v1/relay-for/w-0/v1/task", &task).await.unwrap().status, 200);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}
