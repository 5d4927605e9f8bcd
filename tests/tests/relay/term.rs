//! No session lasts for ever, and none costs a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use iicp_core::options::RelayServerOptions;
use iicp_core::{Error, Inbound, LiveNode, Reply};
use serde_json::json;
use tokio::net::TcpListener;

use super::peer::{Worker, frame};
use super::worker::{TheirRelay, directory, reached, relay_with, worker_with};
use super::{get, relay, send, soon, task, workers};

const CLOSE: u8 = 7;
const RENEW: u8 = 0xf4;

/// How many workers were bound until now.
async fn binds(relay: &LiveNode) -> usize {
    let page = String::from_utf8(get(relay, "/metrics").await.body).unwrap();
    let bound = |line: &str| line.strip_prefix("iicp_relay_binds_total{outcome=\"bound\"} ").map(str::to_owned);
    page.lines().find_map(bound).unwrap().parse().unwrap()
}

/// Callers that are never without a call, at a relay whose sessions have this term; how often the worker was bound.
async fn renewed(change: impl FnOnce(&mut RelayServerOptions), callers: usize) -> usize {
    const CALLS: usize = 24;
    let directory = directory().await;
    let relay = Arc::new(relay_with(&directory, "relay-1", (0, 0), change).await);
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = ran.clone();
    let handler = move |task: Inbound| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            // Longer than the relay takes to look, and not the same for all.
            let pause = 100 + task.payload.bytes().len() as u64 % 7 * 60;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok::<_, Error>(Reply::from(task.payload))
        }
    };
    let worker = worker_with(&directory, |_| (), handler).await;
    soon(reached(&directory, &worker, "")).await;
    ran.store(0, Ordering::Relaxed);
    let calling = (0..callers).map(|caller| {
        let relay = relay.clone();
        tokio::spawn(async move {
            for n in 0..CALLS {
                let text = "x".repeat(100 * n % 700);
                let task = json!({
                    "task_id": format!("t-{caller}-{n}"), "intent": iicp_core::EMBEDDING, "payload": {"text": text},
                    "constraints": {"timeout_ms": 20_000},
                });
                let answer = send(&relay, "worker-1", &task).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.json()["result"]["text"], text.as_str());
            }
        })
    });
    for calls in calling.collect::<Vec<_>>() {
        calls.await.unwrap();
    }
    assert_eq!(ran.load(Ordering::Relaxed), callers * CALLS, "each call ran once");
    assert_eq!(relay.relay_workers(), 1);
    binds(&relay).await
}

#[tokio::test(flavor = "multi_thread")]
async fn s28_a_session_that_is_too_old_is_renewed_beside_the_calls_under_way() {
    let binds = renewed(|options| options.max_session_ms = 700, 4).await;
    assert!(binds >= 4, "bound {binds} times in some seven seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn s28_a_session_that_has_carried_its_bytes_is_renewed_too() {
    let binds = renewed(|options| options.max_session_bytes = 20_000, 4).await;
    assert!(binds >= 3, "bound {binds} times for some 100 KB");
}

#[tokio::test]
async fn a_session_without_a_term_is_bound_once() {
    let no_term = |options: &mut RelayServerOptions| (options.max_session_ms, options.max_session_bytes) = (0, 0);
    assert_eq!(renewed(no_term, 1).await, 1);
}

#[tokio::test]
async fn s28_a_worker_that_cannot_renew_is_let_go_when_nothing_is_under_way_and_may_come_again() {
    let relay = Arc::new(relay(|options| options.max_session_ms = 1_000).await);
    let port = relay.addr().port();
    let mut worker = Worker::bound(workers(&relay), "w", None, port).await;
    let calling = tokio::spawn({
        let relay = relay.clone();
        async move { send(&relay, "w", task(1)).await }
    });
    let call = soon(worker.call()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    worker.answer(&call, &json!({"task_id": "t-1", "status": "completed", "result": {}})).await;
    assert_eq!(soon(calling).await.unwrap().status, 200, "the term was over, and the call went on");
    soon(async {
        while let Some((kind, _)) = worker.frame().await {
            assert_ne!(kind, RENEW, "published workers do not know it");
            if kind == CLOSE {
                return;
            }
        }
        panic!("hung up on without a word");
    })
    .await;
    Worker::bound(workers(&relay), "w", None, port).await;
}

#[tokio::test]
async fn a_relay_that_asks_for_ever_new_sessions_gets_a_handful() {
    let directory = directory().await;
    let theirs = TheirRelay(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let place = theirs.0.local_addr().unwrap().to_string();
    // ACK of one of ours: `{1: 1, 3: [profile]}`.
    let ours = b"urn:iicp:custom:core:relay:v1";
    let ack = frame(2, &[b"\xa2\x01\x01\x03\x81\x78\x1d", &ours[..]].concat());
    let (first, worker) = tokio::join!(
        theirs.bound_with(&ack),
        worker_with(
            &directory,
            |options| options.relay = Some(place),
            async |task: Inbound| Ok(Reply::from(task.payload)),
        )
    );
    let mut sessions = vec![first];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        sessions.last_mut().unwrap().write(&frame(RENEW, &[])).await;
        if let Ok(session) = tokio::time::timeout(Duration::from_millis(100), theirs.bound_with(&ack)).await {
            sessions.push(session);
        }
    }
    assert_eq!(sessions.len(), 5, "four that end, and the one that serves");
    drop(sessions);
    soon(worker.shutdown(Duration::from_secs(1))).await;
}
