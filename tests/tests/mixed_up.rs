//! Answers that are somebody else's. A node, or whoever stands before it, may give the answer to one task to another;
//! no result may ever reach a call that it does not belong to.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions, PolicyProfile, RouteDiscovery};
use iicp_core::{CHAT, Client, Code, Directory, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::between::{Between, read_request};
use iicp_tests::http::{Answer, Conn, addr};
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

/// Calls at once.
const CALLS: usize = 1_000;
/// So many requests are answered together; of those the last two get their own answers.
const BATCH: usize = 10;

/// What the one before the node does to an answer that goes to another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mix {
    /// The answer to another task, as it is.
    Shuffled,
    /// The same under the id of the task that gets it.
    Relabelled,
    /// Its own answer, under an id that nobody gave.
    Foreign,
}

type Waiting = (Vec<u8>, oneshot::Sender<Answer>);

/// Stands before a node and mixes up its answers.
async fn mixer(node: std::net::SocketAddr, mix: Mix) -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let (sender, waiting) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(answer_in_batches(waiting, node, mix));
    tasks.spawn(async move {
        let mut conns = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            conns.spawn(converse(client, sender.clone()));
        }
    });
    (at, tasks)
}

async fn converse(client: TcpStream, waiting: mpsc::UnboundedSender<Waiting>) {
    let mut client = BufReader::new(client);
    while let Ok(Some((_, request))) = read_request(&mut client).await {
        let (sender, answer) = oneshot::channel();
        if waiting.send((request, sender)).is_err() {
            return;
        }
        let Ok(answer) = answer.await else { return };
        let head = format!("HTTP/1.1 {} Mixed\r\ncontent-length: {}\r\n\r\n", answer.status, answer.body.len());
        if client.get_mut().write_all(&[head.as_bytes(), &answer.body].concat()).await.is_err() {
            return;
        }
    }
}

async fn answer_in_batches(mut waiting: mpsc::UnboundedReceiver<Waiting>, node: std::net::SocketAddr, mix: Mix) {
    let few = Arc::new(Semaphore::new(16));
    let mut batches = JoinSet::new();
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH {
            let Some(next) = waiting.recv().await else { return };
            batch.push(next);
        }
        let few = few.clone();
        batches.spawn(async move {
            let _turn = few.acquire().await.unwrap();
            let mut conn = Conn::open(node).await.unwrap();
            let mut answers = Vec::with_capacity(BATCH);
            for (request, _) in &batch {
                conn.write(request).await.unwrap();
                answers.push(conn.answer().await.unwrap());
            }
            if mix != Mix::Foreign {
                answers[..BATCH - 2].rotate_left(3);
            }
            for (at, ((request, sender), mut answer)) in batch.into_iter().zip(answers).enumerate() {
                if at < BATCH - 2 && mix != Mix::Shuffled {
                    let mut json = answer.json();
                    json["task_id"] = if mix == Mix::Foreign { "foreign".into() } else { task_id(&request) };
                    answer.body = json.to_string().into_bytes();
                }
                let _ = sender.send(answer);
            }
        });
    }
}

fn task_id(request: &[u8]) -> Value {
    let body = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    serde_json::from_slice::<Value>(&request[body..]).unwrap()["task_id"].clone()
}

/// A node that echoes, and a client that reaches it through the mixer.
struct Mesh {
    _directory: Directory,
    _node: LiveNode,
    _between: Between,
    _tasks: JoinSet<()>,
    client: Client,
    runs: Arc<AtomicUsize>,
}

async fn mesh(mix: Mix, sealed: bool) -> Mesh {
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = directory.url();
    options.max_concurrent = 32;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let node = Node::bind(options).await.unwrap();
    let node = node.serve(move |task: Inbound| {
        counted.fetch_add(1, Relaxed);
        async move { Ok(Reply::from(task.payload)) }
    });
    let node = node.await.unwrap();
    let (at, tasks) = mixer(node.addr(), mix).await;
    let between = Between::start(addr(&directory.url())).await.unwrap();
    between.set_nodes(move |node| {
        node["endpoint"] = format!("http://{at}").into();
        // The one before it speaks HTTP.
        node["transport_endpoint"] = Value::Null;
        if !sealed {
            node["cx_public_key"] = Value::Null;
        }
    });
    let mut options = ClientOptions::default();
    options.directory = between.url();
    options.route_discovery = RouteDiscovery::Legacy;
    options.breaker_failures = 1_000;
    options.timeout_ms = 60_000;
    if !sealed {
        options.routing_policy.profile = PolicyProfile::DebugOverride;
    }
    let client = Client::new(options).unwrap();
    Mesh { _directory: directory, _node: node, _between: between, _tasks: tasks, client, runs }
}

/// Sends all tasks at once; every result is the task's own, and every error is one of these.
async fn no_result_reaches_another_call(mix: Mix, sealed: bool, errors: &[Code]) {
    let mesh = mesh(mix, sealed).await;
    let mut calls = JoinSet::new();
    for n in 0..CALLS {
        let client = mesh.client.clone();
        let task = Task::new(CHAT, json!({ "n": n })).timeout(Duration::from_secs(60));
        calls.spawn(async move { (n, client.submit(task).await) });
    }
    let (mut own, mut refused) = (0, 0);
    while let Some(call) = calls.join_next().await {
        let (n, done) = call.unwrap();
        match done {
            Ok(done) => {
                assert_eq!(done.result.json::<Value>().unwrap(), json!({ "n": n }), "{mix:?}: another call's result");
                assert_eq!(done.sealed, sealed);
                own += 1;
            }
            Err(error) => {
                assert!(errors.contains(&error.code()), "{mix:?}: {error}");
                refused += 1;
            }
        }
    }
    // None was sent twice: a task whose answer is somebody else's may have run.
    assert_eq!((own, refused), (CALLS / BATCH * 2, CALLS - CALLS / BATCH * 2), "{mix:?}");
    assert_eq!(mesh.runs.load(Relaxed), CALLS, "{mix:?}");
}

#[tokio::test]
async fn s8_of_1000_calls_none_gets_the_answer_to_another_sealed_or_not() {
    no_result_reaches_another_call(Mix::Shuffled, false, &[Code::Malformed]).await;
    no_result_reaches_another_call(Mix::Shuffled, true, &[Code::Malformed]).await;
}

#[tokio::test]
async fn s8_of_1000_calls_none_takes_an_answer_under_a_foreign_id() {
    no_result_reaches_another_call(Mix::Foreign, false, &[Code::Malformed]).await;
    no_result_reaches_another_call(Mix::Foreign, true, &[Code::Malformed]).await;
}

#[tokio::test]
async fn s8_of_1000_sealed_calls_none_opens_the_answer_to_another_that_bears_its_own_id() {
    no_result_reaches_another_call(Mix::Relabelled, true, &[Code::ReplyUnsealed]).await;
}
