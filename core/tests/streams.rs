//! A task whose result comes in parts, as a consumer and a provider see it.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions};
use iicp_core::types::Chunk;
use iicp_core::{CHAT, Client, Code, Directory, Error, Handler, Inbound, LiveNode, Node, Reply, Result, Task};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

/// Long enough for anything that happens at all.
const SOON: Duration = Duration::from_secs(10);

struct Mesh {
    node: LiveNode,
    client: Client,
    _directory: Directory,
}

async fn mesh(handler: impl Handler) -> Mesh {
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let mut options = NodeOptions::default();
    (options.intents, options.directory) = (vec![CHAT.into()], directory.url());
    let node = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    Mesh { node, client: Client::new(options).unwrap(), _directory: directory }
}

impl Mesh {
    /// Waits until no handler runs.
    async fn is_idle(&self) {
        let idle = async {
            while self.node.active_jobs() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, idle).await.expect("a handler still runs");
    }
}

/// Counts what was made and not yet dropped.
#[derive(Clone, Default)]
struct Living(Arc<AtomicUsize>);

struct Life(Living);

impl Living {
    fn begin(&self) -> Life {
        self.0.fetch_add(1, SeqCst);
        Life(self.clone())
    }

    fn count(&self) -> usize {
        self.0.load(SeqCst)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, SeqCst);
    }
}

fn words(text: &'static str) -> Reply {
    Reply::stream(stream::iter(text.split_inclusive(' ').map(|word| Ok(Chunk::delta(word)))))
}

#[tokio::test]
async fn each_part_arrives_before_the_next_is_made() {
    let go_on = Arc::new(Notify::new());
    let waits = go_on.clone();
    let mesh = mesh(move |_: Inbound| {
        let waits = waits.clone();
        async move {
            Ok(Reply::stream(stream::unfold(0, move |n| {
                let waits = waits.clone();
                async move {
                    if n > 0 {
                        waits.notified().await;
                    }
                    (n < 3).then(|| (Ok(Chunk::delta(format!("{n} ")).tokens_used(n + 1)), n + 1))
                }
            })))
        }
    })
    .await;
    let mut parts = timeout(SOON, mesh.client.stream("count")).await.unwrap().unwrap();
    for n in 0..3_u64 {
        let part = timeout(SOON, parts.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((part.text(), part.tokens_used), (format!("{n} "), Some(n + 1)));
        assert_eq!(mesh.node.active_jobs(), 1);
        go_on.notify_one();
    }
    assert!(timeout(SOON, parts.next()).await.unwrap().is_none());
    assert!(parts.about().sealed, "the node has a key");
    assert_eq!(parts.node_id(), mesh.node.node_id());
    mesh.is_idle().await;
}

#[tokio::test]
async fn leaving_the_stream_stops_the_handler() {
    let living = Living::default();
    let lives = living.clone();
    let mesh = mesh(move |_: Inbound| {
        let life = lives.begin();
        async move {
            Ok(Reply::stream(stream::unfold(life, |life| async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Some((Ok(Chunk::delta("on and on ")), life))
            })))
        }
    })
    .await;
    let mut parts = mesh.client.stream("go").await.unwrap();
    assert_eq!(parts.next().await.unwrap().unwrap().text(), "on and on ");
    assert_eq!(living.count(), 1);
    drop(parts);
    mesh.is_idle().await;
    assert_eq!(living.count(), 0);
}

#[tokio::test]
async fn a_caller_who_takes_no_parts_gets_them_put_together() {
    let mesh = mesh(async |_: Inbound| Ok(words("one two three"))).await;
    assert_eq!(mesh.client.chat("hi").await.unwrap().text(), "one two three");
    let collected = mesh.client.stream("hi").await.unwrap().whole().await.unwrap();
    let result: Value = collected.result.json().unwrap();
    assert_eq!(result["choices"][0]["message"]["content"], "one two three");
}

#[tokio::test]
async fn a_handler_that_does_not_stream_gives_one_part() {
    let mesh = mesh(async |_: Inbound| Ok(Reply::chat("all at once"))).await;
    let parts: Vec<Result<Chunk>> = mesh.client.stream("hi").await.unwrap().collect_parts().await;
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].as_ref().unwrap().text(), "all at once");
}

#[tokio::test]
async fn any_task_can_be_streamed_and_its_parts_are_what_the_handler_gave() {
    let mesh = mesh(async |task: Inbound| {
        let rows: Vec<Value> = task.json::<Value>()?["rows"].as_array().unwrap().clone();
        Ok(Reply::stream(stream::iter(rows.into_iter().map(Ok))))
    })
    .await;
    let rows = json!([{ "a": "line\nbreak" }, 7, null, ["x"]]);
    let parts = mesh.client.stream(Task::new(CHAT, json!({ "rows": rows }))).await.unwrap().collect_parts().await;
    let got: Vec<Value> = parts.into_iter().map(|part| part.unwrap().result.json().unwrap()).collect();
    assert_eq!(Value::from(got), rows);
}

#[tokio::test]
async fn a_failure_after_the_first_part_is_told_and_nothing_follows_it() {
    let mesh = mesh(async |_: Inbound| {
        let failure = Err(Error::new(Code::Internal, "secret of the handler"));
        Ok(Reply::stream(stream::iter([Ok(Chunk::delta("a")), failure, Ok(Chunk::delta("never"))])))
    })
    .await;
    let mut parts = mesh.client.stream("hi").await.unwrap();
    assert_eq!(parts.next().await.unwrap().unwrap().text(), "a");
    let error = parts.next().await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.wire_code()), (Code::Backend, Some("backend_error")));
    assert!(!error.to_string().contains("secret"));
    assert!(parts.next().await.is_none());
    mesh.is_idle().await;
}

#[tokio::test]
async fn a_failure_before_the_first_part_is_the_calls_own() {
    let mesh = mesh(async |_: Inbound| Err::<Reply, _>(Error::rejected("too rude"))).await;
    let error = mesh.client.stream("hi").await.unwrap_err();
    assert_eq!(error.code(), Code::TaskRejected);
    assert!(error.message().contains("too rude"));
}

#[tokio::test]
async fn a_panic_in_the_middle_is_contained() {
    let mesh = mesh(async |_: Inbound| {
        Ok(Reply::stream(stream::iter(0..2).map(|n| {
            assert!(n == 0, "boom");
            Ok(Chunk::delta("a"))
        })))
    })
    .await;
    for _ in 0..3 {
        let parts = mesh.client.stream("hi").await.unwrap().collect_parts().await;
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].as_ref().unwrap_err().code(), Code::Backend);
    }
    assert_eq!(mesh.client.chat("hi").await.unwrap_err().code(), Code::Backend);
    mesh.is_idle().await;
}

#[tokio::test]
async fn the_tasks_time_is_for_the_whole_stream() {
    let mesh = mesh(async |_: Inbound| {
        let slow = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((Ok(Chunk::delta("tick ")), ()))
        });
        Ok(Reply::stream(slow))
    })
    .await;
    let task = Task::new(CHAT, json!({})).timeout(Duration::from_millis(900));
    let mut parts = timeout(SOON, mesh.client.stream(task)).await.unwrap().unwrap();
    let end = async {
        let mut seen = 0;
        loop {
            match parts.next().await {
                Some(Ok(_)) => seen += 1,
                Some(Err(error)) => break (seen, error.code()),
                None => panic!("an endless stream ended well"),
            }
        }
    };
    let (seen, code) = timeout(SOON, end).await.unwrap();
    assert!(seen > 0 && matches!(code, Code::TaskTimeout | Code::Timeout), "{seen} {code}");
    mesh.is_idle().await;
}

#[tokio::test]
async fn a_handler_is_not_asked_for_more_than_the_caller_takes() {
    let made = Arc::new(AtomicUsize::new(0));
    let counts = made.clone();
    let big = "x".repeat(256 << 10);
    let mesh = mesh(move |_: Inbound| {
        let (counts, big) = (counts.clone(), big.clone());
        async move {
            Ok(Reply::stream(stream::repeat_with(move || {
                counts.fetch_add(1, SeqCst);
                Ok(Value::from(big.clone()))
            })))
        }
    })
    .await;
    let mut parts = mesh.client.stream(Task::new(CHAT, json!({}))).await.unwrap();
    parts.next().await.unwrap().unwrap();
    // Whatever is made without being taken fills the buffers of both sockets and no more.
    let mut before = usize::MAX;
    while made.load(SeqCst) != before {
        before = made.load(SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < 200, "{before} parts of 256 KiB are on their way to a caller who took one");
    for _ in 0..before {
        parts.next().await.unwrap().unwrap();
    }
    assert!(made.load(SeqCst) > before, "who takes more gets more");
}

#[tokio::test]
async fn a_node_that_stops_gives_its_streams_their_time() {
    let (more, mut told) = mpsc::unbounded_channel::<()>();
    let mesh = mesh(move |_: Inbound| {
        let more = more.clone();
        async move {
            let _ = more.send(());
            Ok(Reply::stream(stream::unfold(0, |n| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                (n < 10).then(|| (Ok(Chunk::delta("x")), n + 1))
            })))
        }
    })
    .await;
    let parts = mesh.client.stream("hi").await.unwrap();
    told.recv().await.unwrap();
    let (whole, in_time) = tokio::join!(parts.whole(), mesh.node.shutdown(SOON));
    assert_eq!(whole.unwrap().result.json::<Value>().unwrap()["choices"][0]["message"]["content"], "x".repeat(10));
    assert!(in_time);
}

/// The parts of a stream to its end.
trait CollectParts {
    async fn collect_parts(self) -> Vec<Result<Chunk>>;
}

impl CollectParts for iicp_core::TaskStream {
    async fn collect_parts(self) -> Vec<Result<Chunk>> {
        timeout(SOON, futures_util::StreamExt::collect(self)).await.expect("a stream that does not end")
    }
}
