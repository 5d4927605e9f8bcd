//! A node with connections by the thousand: idle ones, and such as announce much and send little.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use iicp_core::CHAT;
use iicp_tests::http::{Conn, post};
use iicp_tests::native::{Native, call, hello, kind, raw};
use iicp_tests::{is_soak, size};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Remote, each};

/// More than any test opens, and longer than any test leaves one alone.
fn roomy() -> Value {
    json!({ "max_connections": 20_000, "idle_timeout_ms": 600_000, "max_concurrent": 256, "auth": "open" })
}

fn task(id: &str) -> Vec<u8> {
    let task = json!({ "task_id": id, "intent": CHAT, "payload": { "n": 1 } });
    post("/v1/task", "", task.to_string().as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn c1_thousands_of_callers_stay_connected_and_each_task_of_theirs_is_answered() {
    let (count, rounds, pause) = size((1_000, 2, Duration::from_secs(2)), (18_000, 5, Duration::from_secs(60)));
    let mut node = Remote::new(json!("echo"), roomy()).await;
    // What the first need once is not a connection's.
    drop(connected(&node, 0, 64).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = (node.process.memory(), node.process.descriptors());
    let mut callers = connected(&node, 64, count).await;
    let after = (node.process.memory(), node.process.descriptors());
    let mut errors = 0;
    for round in 0..rounds {
        // Spread over the time that they have.
        let mut tick = tokio::time::interval(pause / u32::try_from(count).unwrap());
        for (n, caller) in callers.iter_mut().enumerate() {
            tick.tick().await;
            let answer = match caller.write(&task(&format!("t-{round}-{n}"))).await {
                Ok(()) => tokio::time::timeout(Duration::from_secs(10), caller.answer()).await.expect("a lost task"),
                Err(error) => Err(error),
            };
            errors += usize::from(!answer.is_ok_and(|answer| answer.status == 200));
        }
    }
    let cost = each(after.0.saturating_sub(before.0), count);
    println!("{count} connections, {} tasks, {errors} errors, {cost} bytes a connection", rounds * count);
    assert_eq!(errors, 0, "of {} tasks", rounds * count);
    let ledger = node.ledger().await;
    assert_eq!((&ledger["finished"], &ledger["most_executions"]), (&json!(64 + (rounds + 1) * count), &json!(1)));
    assert_one_each(after.1 - before.1, count);
    // Twelve thousand were the aim, which the bench row `conn_rss_kb` measures; more than this is worse than it was.
    assert!(!is_soak() || cost <= 20 << 10, "{cost} bytes for each of {count} connections");
}

/// That a connection takes one descriptor. Some of those before may just have been closing.
fn assert_one_each(descriptors: usize, count: usize) {
    assert!((count - 64..=count).contains(&descriptors), "{descriptors} descriptors for {count} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn among_hundreds_of_connections_requests_that_are_sent_ahead_or_in_pieces_are_answered_in_order() {
    let node = Remote::new(json!("echo"), roomy()).await;
    // Beyond 256 a node holds no buffers for a connection between two requests.
    let mut callers = connected(&node, 0, 300).await;
    for (n, caller) in callers.iter_mut().enumerate().skip(250) {
        let ahead: Vec<u8> = (0..3).flat_map(|part| task(&format!("t-{n}-{part}"))).collect();
        // Ends in the head of the third, in its body, or just before it.
        let whole = task(&format!("t-{n}-0")).len() * 2;
        let cut = [whole + 2, ahead.len() - 1, whole][n % 3];
        for (piece, answers) in [(&ahead[..cut], 0..2), (&ahead[cut..], 2..3)] {
            caller.write(piece).await.unwrap();
            for part in answers {
                let answer = tokio::time::timeout(Duration::from_secs(10), caller.answer()).await.unwrap().unwrap();
                assert_eq!(answer.json()["task_id"], format!("t-{n}-{part}"));
            }
        }
    }
    // A body that nobody reads is not the next request, even if it looks like one and comes after the answer.
    let hidden = b"GET /iicp/health HTTP/1.1\r\nhost: node\r\n\r\n";
    let asking = format!("GET /iicp/health HTTP/1.1\r\nhost: node\r\ncontent-length: {}\r\n\r\n", hidden.len());
    for caller in callers.iter_mut().skip(290) {
        caller.write(asking.as_bytes()).await.unwrap();
        assert_eq!(caller.answer().await.unwrap().status, 200);
        if caller.write(hidden).await.is_ok() {
            let second = tokio::time::timeout(Duration::from_millis(300), caller.answer()).await;
            assert!(!matches!(second, Ok(Ok(_))), "the body was taken for a request: {second:?}");
        }
    }
}

/// Connections that have made one task each.
async fn connected(node: &Remote, first: usize, count: usize) -> Vec<Conn> {
    let mut callers = Vec::with_capacity(count);
    for n in first..first + count {
        let mut conn = Conn::open(node.addr).await.unwrap();
        conn.write(&task(&format!("first-{n}"))).await.unwrap();
        assert_eq!(conn.answer().await.unwrap().status, 200);
        callers.push(conn);
    }
    callers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn c2_thousands_of_idle_native_connections_cost_little_and_still_serve() {
    let count = size(1_000, 18_000);
    let node = Remote::new(json!("echo"), roomy()).await;
    drop(greeted(&node, 64).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = (node.process.memory(), node.process.descriptors());
    let mut held = greeted(&node, count).await;
    let cost = each(node.process.memory().saturating_sub(before.0), count);
    println!("{count} idle native connections, {cost} bytes each");
    assert_one_each(node.process.descriptors() - before.1, count);
    for n in (0..count).step_by(97) {
        let task = json!({ "task_id": format!("t-{n}"), "intent": CHAT, "payload": n });
        held[n].send(&call("c", &task)).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(10), held[n].next()).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.json()["result"], n);
    }
    assert!(!is_soak() || cost <= 6 << 10, "{cost} bytes for each of {count} connections");
}

async fn greeted(node: &Remote, count: usize) -> Vec<Native> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(Native::greet(node.addr).await.unwrap());
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn s13_five_thousand_who_announce_16_mib_cost_what_they_send_and_that_has_an_end() {
    const COUNT: usize = 5_000;
    let node = Remote::new(json!("echo"), roomy()).await;
    drop(connected(&node, 0, 64).await);
    let before = node.process.memory();
    let head = format!("POST /v1/task HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n ", 16 << 20);
    let native = [hello(), raw(1, kind::CALL, 0, 16 << 20, b" ")].concat();
    let mut held = Vec::with_capacity(COUNT);
    for n in 0..COUNT {
        let mut conn = Conn::open(node.addr).await.unwrap();
        conn.write(if n % 2 == 0 { head.as_bytes() } else { &native }).await.unwrap();
        held.push(conn);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let announced = node.process.memory().saturating_sub(before);
    // Now each of them sends what nobody could hold for all.
    let (more, mut sent) = (vec![b' '; 256 << 10], 0);
    for (n, conn) in held.iter_mut().enumerate() {
        // Who is refused while it sends is refused, and stays out.
        match tokio::time::timeout(Duration::from_secs(10), conn.write(&more)).await {
            Ok(outcome) => sent += usize::from(outcome.is_ok()) * more.len(),
            Err(_) => panic!("connection {n} is neither read nor closed"),
        }
        if n % 500 == 0 {
            connected(&node, 100 + n, 1).await;
        }
    }
    let rise = node.process.memory().saturating_sub(before);
    println!("{COUNT} connections that announce 16 MiB cost {announced} bytes; {rise} when they have sent {sent}");
    assert!(announced <= size(150_000_000, 100_000_000), "{announced} bytes more");
    // What arrives has 128 MiB; the rest is what the connections are read through.
    assert!(rise <= size(700_000_000, 500_000_000), "{rise} bytes more after {sent} were sent");
    assert!(sent >= 600_000_000, "only {sent} were sent");
    let begun = Instant::now();
    connected(&node, 10_000, 1).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "others are served: {:?}", begun.elapsed());
    drop(held);
    // There is room again, also for who sends much.
    for n in 0.. {
        let task = json!({ "task_id": format!("large-{n}"), "intent": CHAT, "payload": "x".repeat(12 << 20) });
        match Conn::open(node.addr).await.unwrap().post("/v1/task", &task).await.unwrap().status {
            200 => break,
            status => assert!(status == 503 && begun.elapsed() < Duration::from_secs(30), "{status}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn k19_connections_that_come_and_go_by_the_thousand_hold_up_nobody() {
    let lasting = size(Duration::from_secs(3), Duration::from_secs(30));
    let node = Remote::new(json!("echo"), roomy()).await;
    let other = Remote::new(json!("echo"), roomy()).await;
    let mut caller = connected(&node, 0, 1).await.remove(0);
    let before = node.process.descriptors();
    // The same storm takes the same part of the machine wherever it goes; what is more where it comes down is the node's.
    let (_, beside) = stormed(&mut caller, "beside", other.addr, lasting / 2).await;
    let (rate, stormy) = stormed(&mut caller, "stormy", node.addr, lasting).await;
    println!(
        "{rate} connections a second: 99 % of a caller's tasks within {stormy:?}, {beside:?} while another node has them"
    );
    assert!(rate > 100, "{rate} connections a second are no storm");
    // Three times what is promised: other work goes on. Where it lasts seconds only, and the machine may be busy, what counts
    // is that the node does not queue behind the storm.
    let most = (beside * 2 * 3).max(size(Duration::from_secs(1), Duration::from_millis(100)));
    assert!(stormy < most, "{stormy:?}, where it is {beside:?} beside the same storm");
    let gone = Instant::now();
    while node.process.descriptors() > before {
        assert!(
            gone.elapsed() < Duration::from_secs(15),
            "{} descriptors are left",
            node.process.descriptors() - before
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Connections that come and go at an address, by how many a second, and within which time 99 of 100 of the caller's
/// tasks are answered meanwhile.
async fn stormed(caller: &mut Conn, name: &str, addr: SocketAddr, lasting: Duration) -> (u64, Duration) {
    let count = Arc::new(AtomicU64::new(0));
    let mut storm = JoinSet::new();
    for lane in 0..16 {
        let (all, name) = (count.clone(), name.to_owned());
        storm.spawn(async move {
            for count in 0_u64.. {
                let mut conn = Conn::open(addr).await.unwrap();
                // Silent ones, half ones, and whole ones that do not wait; ports are few, so most are not left waiting.
                let request = task(&format!("{name}-{lane}-{count}"));
                let _ = conn.write(&request[..[0, request.len() / 2, request.len()][(count % 3) as usize]]).await;
                if !count.is_multiple_of(8) {
                    conn.socket().set_zero_linger().unwrap();
                }
                all.fetch_add(1, Relaxed);
            }
        });
    }
    let begun = Instant::now();
    let within = slowest(caller, name, lasting).await;
    storm.shutdown().await;
    let rate = count.load(Relaxed) * 1_000 / u64::try_from(begun.elapsed().as_millis()).unwrap();
    (rate, within)
}

/// Within which time 99 of 100 tasks are answered, one after the other.
async fn slowest(caller: &mut Conn, name: &str, lasting: Duration) -> Duration {
    let (begun, mut times) = (Instant::now(), Vec::new());
    for n in 0.. {
        if begun.elapsed() > lasting {
            break;
        }
        let since = Instant::now();
        caller.write(&task(&format!("{name}-{n}"))).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(10), caller.answer()).await.expect("a lost task");
        assert_eq!(answer.unwrap().status, 200);
        times.push(since.elapsed());
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}
