//! Answers that come in parts: streams end to end, and large ones that hold up nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::stream;
use iicp_core::types::Chunk;
use iicp_core::{EMBEDDING, Error, Inbound, LiveNode, Reply, Task};
use iicp_tests::http::{Conn, post};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::soon;
use super::worker::{client, directory, reached, relay_with, submit, worker_with};

/// Parts for ever, each as large as asked, counted as they are made; `living` is what is not dropped yet.
#[derive(Clone, Default)]
struct Source {
    made: Arc<AtomicUsize>,
    living: Arc<AtomicUsize>,
}

struct Life(Arc<AtomicUsize>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Source {
    fn begin(&self, bytes: usize, most: usize) -> Reply {
        self.living.fetch_add(1, SeqCst);
        let (made, life) = (self.made.clone(), Life(self.living.clone()));
        Reply::stream(stream::unfold((0, life), move |(n, life)| {
            let made = made.clone();
            async move {
                tokio::task::yield_now().await;
                made.fetch_add(1, SeqCst);
                (n < most).then(|| (Ok::<_, Error>(Chunk::delta(format!("{n} {}", "x".repeat(bytes)))), (n + 1, life)))
            }
        }))
    }
}

/// A worker behind a relay: `parts` wants so many of `bytes`, `large` wants an answer of so many.
struct Mesh {
    directory: iicp_core::Directory,
    relay: LiveNode,
    worker: LiveNode,
    source: Source,
}

async fn mesh() -> Mesh {
    let directory = directory().await;
    let relay = relay_with(&directory, "relay-1", (0, 0), |_| ()).await;
    let source = Source::default();
    let source_of_handler = source.clone();
    let handler = move |task: Inbound| {
        let source = source_of_handler.clone();
        async move {
            let payload: Value = task.json()?;
            let number = |name: &str| payload[name].as_u64().and_then(|n| usize::try_from(n).ok());
            Ok(match (number("parts"), number("large")) {
                (Some(parts), _) => source.begin(number("bytes").unwrap_or(1), parts),
                (_, Some(large)) => Reply::json(&json!({ "text": "y".repeat(large) }))?,
                _ => Reply::from(task.payload),
            })
        }
    };
    let worker = worker_with(&directory, |_| (), handler).await;
    soon(reached(&directory, &worker, "")).await;
    Mesh { directory, relay, worker, source }
}

fn endless() -> Value {
    json!({ "parts": u32::MAX, "bytes": 1_000 })
}

impl Mesh {
    /// A task by its path at the relay, whose answer nobody has read yet.
    async fn asked(&self, id: &str, payload: Value, headers: &str) -> Conn {
        let mut conn = Conn::open(self.relay.addr()).await.unwrap();
        let task =
            json!({ "task_id": id, "intent": EMBEDDING, "payload": payload, "constraints": {"timeout_ms": 60_000} });
        let path = "/v1/relay-for/worker-1/v1/task";
        conn.write(&post(path, headers, task.to_string().as_bytes())).await.unwrap();
        conn
    }

    async fn is_idle(&self) {
        soon(async {
            while self.worker.active_jobs() > 0 || self.source.living.load(SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_stream_comes_through_a_relay_part_by_part_and_sealed() {
    let mesh = mesh().await;
    let task = Task::new(EMBEDDING, json!({ "parts": 500, "bytes": 3_000 })).timeout(Duration::from_secs(30));
    let mut parts = soon(client(&mesh.directory).stream(task)).await.unwrap();
    assert!(parts.about().sealed, "the relay reads nothing of it");
    let mut n = 0;
    while let Some(part) = soon(parts.next()).await {
        assert!(part.unwrap().text().starts_with(&format!("{n} x")));
        n += 1;
    }
    assert_eq!(n, 500);
    mesh.is_idle().await;
}

#[tokio::test]
async fn leaving_a_relayed_stream_stops_the_workers_handler() {
    let mesh = mesh().await;
    let mut parts = soon(client(&mesh.directory).stream(Task::new(EMBEDDING, endless()))).await.unwrap();
    soon(parts.next()).await.unwrap().unwrap();
    assert_eq!(mesh.source.living.load(SeqCst), 1);
    drop(parts);
    mesh.is_idle().await;
}

#[tokio::test]
async fn a_worker_lost_in_the_middle_of_a_stream_is_one_clear_error() {
    let mesh = mesh().await;
    let mut parts = soon(client(&mesh.directory).stream(Task::new(EMBEDDING, endless()))).await.unwrap();
    soon(parts.next()).await.unwrap().unwrap();
    drop(mesh.worker);
    let error = loop {
        match soon(parts.next()).await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    let error = error.expect("not the end of a whole answer").unwrap_err();
    assert_eq!(error.code(), iicp_core::Code::Lost, "{error}");
    assert!(soon(parts.next()).await.is_none(), "and only one");
}

#[tokio::test]
async fn who_does_not_read_its_answer_holds_up_neither_the_handler_nor_its_neighbours() {
    let mesh = mesh().await;
    // One takes events and does not read them, one does not read a large answer.
    let stalled = mesh.asked("stalled", endless(), "accept: text/event-stream\r\n").await;
    let large = mesh.asked("large", json!({ "large": 8_000_000 }), "").await;
    let mut before = 0;
    soon(async {
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let made = mesh.source.made.load(SeqCst);
            if made > 0 && made == before {
                break;
            }
            before = made;
        }
    })
    .await;
    // A window, and what sockets and servers hold on the way to one who does not read.
    assert!(before < 12_000, "{before} parts of 1 kB were made for nobody");
    let client = client(&mesh.directory);
    for n in 0..50 {
        let begun = std::time::Instant::now();
        assert_eq!(submit(&client, json!({"n": n})).await.unwrap(), json!({"n": n}));
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
    // What was held up comes whole, as soon as it is read.
    let mut large = large;
    let answer = soon(large.answer()).await.unwrap();
    assert_eq!(answer.json()["result"]["text"].as_str().unwrap().len(), 8_000_000);
    drop(stalled);
    mesh.is_idle().await;
}

#[tokio::test]
async fn a_large_answer_whose_worker_is_lost_is_not_taken_for_whole() {
    let mesh = mesh().await;
    let mut large = mesh.asked("large", json!({ "large": 8_000_000 }), "").await;
    let (status, headers) = soon(large.head()).await.unwrap();
    let length: usize = headers.iter().find(|(name, _)| name == "content-length").unwrap().1.parse().unwrap();
    assert!(status == 200 && length > 8_000_000);
    let mut some = vec![0; 1_000_000];
    soon(large.socket().read_exact(&mut some)).await.unwrap();
    drop(mesh.worker);
    assert!(soon(large.rest()).await.len() + some.len() < length);
}
