//! The published client against our directory and our node.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use iicp_core::options::NodeOptions;
use iicp_core::{CHAT, Code, Directory, Error, Inbound, LiveNode, Node, Reply, Result};
use serde_json::{Value, json};
use tokio::sync::{Barrier, Notify};

use crate::directory;
use crate::peer::{PATIENCE, Peer, free_port};

pub(crate) const TASK: &str = "urn:iicp:intent:lab:echo:v1";
const OTHER: &str = "urn:iicp:intent:lab:other:v1";
pub(crate) const MODES: [&str; 3] = ["auto", "ticketed", "legacy"];

/// Our side, and their client.
struct Mesh {
    directory: Directory,
    node: LiveNode,
    client: Peer,
    hand: Arc<Hand>,
}

/// What the test holds the handler by.
struct Hand {
    holding: Notify,
    release: Notify,
    together: Barrier,
}

impl Mesh {
    async fn start(max_concurrent: u32) -> Mesh {
        let directory = directory().await;
        let together = Barrier::new(usize::try_from(max_concurrent).unwrap());
        let hand = Arc::new(Hand { holding: Notify::new(), release: Notify::new(), together });
        let node = node(&directory, max_concurrent, hand.clone()).await;
        let client = Peer::start("peer_client.py").await;
        Mesh { directory, node, client, hand }
    }

    fn command(&self, mode: &str, payload: Value) -> Value {
        json!({ "directory": self.directory.url(), "mode": mode, "intent": TASK, "payload": payload })
    }

    async fn submit(&self, payload: Value) -> Result<Value, Value> {
        self.client.call("submit", self.command("auto", payload)).await
    }
}

/// Our node under the one loopback name that their client lets through.
async fn node(directory: &Directory, max_concurrent: u32, hand: Arc<Hand>) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into(), TASK.into()];
    options.models = vec!["m-lab".into()];
    options.directory = directory.url();
    options.max_concurrent = max_concurrent;
    options.port = free_port();
    options.endpoint = Some(format!("http://127.1:{}", options.port));
    let node = Node::bind(options).await.unwrap();
    let live = node.serve(move |task: Inbound| handle(task, hand.clone())).await.unwrap();
    assert!(live.is_registered());
    live
}

async fn handle(task: Inbound, hand: Arc<Hand>) -> Result<Reply> {
    let payload: Value = task.json()?;
    match payload["act"].as_str() {
        Some("fail") => Err(Error::new(Code::Internal, "the secret of the handler")),
        Some("reject") => Err(Error::rejected("no such tenant")),
        Some("panic") => panic!("the secret of the handler"),
        Some("hold") => {
            hand.holding.notify_one();
            hand.release.notified().await;
            Ok(json!({ "held": true }).into())
        }
        Some("meet") => {
            hand.together.wait().await;
            Ok(json!({ "n": payload["n"] }).into())
        }
        _ if task.intent.as_ref() == CHAT => {
            let text = payload["messages"].as_array().and_then(|messages| messages.last()).map(|last| &last["content"]);
            Ok(Reply::chat(format!("echo: {}", text.and_then(Value::as_str).unwrap_or_default())))
        }
        _ => Ok(json!({ "echo": payload }).into()),
    }
}

#[tokio::test]
async fn their_client_finds_our_node_and_gets_its_result_in_every_route_mode() {
    let mesh = Mesh::start(4).await;
    for mode in MODES {
        let done = mesh.client.ok("submit", mesh.command(mode, json!({ "text": "grüße" }))).await;
        assert_eq!(done["status"], "success", "{mode}");
        assert_eq!(done["result"], json!({ "echo": { "text": "grüße" } }), "{mode}");
        assert_eq!(done["node_id"], mesh.node.node_id(), "{mode}");
        // The route came by a ticket that their client verified with our directory's key, or without any.
        assert_eq!(done["ticket"].is_string(), mode != "legacy", "{mode}: {done}");
    }
    let found = mesh.client.ok("discover", mesh.command("auto", Value::Null)).await;
    assert_eq!(found, json!([{ "node_id": mesh.node.node_id(), "endpoint": mesh.node.url(), "models": ["m-lab"] }]));
}

#[tokio::test]
async fn their_client_chats_with_our_node_in_every_route_mode() {
    let mesh = Mesh::start(4).await;
    for mode in MODES {
        let mut command = mesh.command(mode, Value::Null);
        command["content"] = "hello".into();
        command["model"] = "m-lab".into();
        command["max_tokens"] = 16.into();
        let reply = mesh.client.ok("chat", command).await;
        assert_eq!(reply["content"], "echo: hello", "{mode}");
        assert_eq!((&reply["role"], &reply["finish_reason"]), (&json!("assistant"), &json!("stop")), "{mode}");
        assert_eq!(reply["node_id"], mesh.node.node_id(), "{mode}");
    }
}

#[tokio::test]
async fn their_exception_carries_our_code_and_none_of_the_handlers_words() {
    let mesh = Mesh::start(4).await;
    for (act, code, status) in
        [("fail", "backend_error", 502), ("panic", "internal_error", 500), ("reject", "rejected", 422)]
    {
        let error = mesh.submit(json!({ "act": act })).await.unwrap_err();
        assert_eq!(error["type"], "IicpError", "{act}: {error:#}");
        assert_eq!((&error["code"], &error["http_status"]), (&json!(code), &json!(status)), "{act}");
        assert_eq!(error["retryable"], false, "{act}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let error = mesh.submit(json!({ "act": "reject" })).await.unwrap_err();
    assert_eq!(error["message"], "no such tenant", "a deliberate refusal is shown");
}

#[tokio::test]
async fn their_client_is_told_that_our_node_is_full_and_succeeds_when_it_is_not() {
    let mesh = Mesh::start(1).await;
    let held = mesh.submit(json!({ "act": "hold" }));
    let refused = async {
        tokio::time::timeout(PATIENCE, mesh.hand.holding.notified()).await.expect("the task is held");
        // Their client asks three times in a second and a half before it gives up.
        let error = mesh.submit(json!({ "act": "none" })).await.unwrap_err();
        mesh.hand.release.notify_one();
        error
    };
    let (held, error) = tokio::join!(held, refused);
    assert_eq!(held.unwrap()["result"]["held"], true);
    assert_eq!((&error["code"], &error["http_status"]), (&json!("capacity_exceeded"), &json!(429)));
    assert_eq!(error["retryable"], true);
    mesh.submit(json!({ "act": "none" })).await.unwrap();
}

#[tokio::test]
async fn their_client_is_told_when_nobody_or_not_this_node_serves_the_intent() {
    let mesh = Mesh::start(4).await;
    for mode in MODES {
        let mut command = mesh.command(mode, json!({}));
        command["intent"] = OTHER.into();
        let error = mesh.client.call("submit", command).await.unwrap_err();
        assert_eq!(error["code"], "IICP-E006", "{mode}: their code for an empty discovery: {error:#}");
    }
    // A node that names another's endpoint: the directory sends their client to one that does not serve the intent.
    let mut options = NodeOptions::default();
    options.intents = vec![OTHER.into()];
    options.directory = mesh.directory.url();
    options.endpoint = Some(mesh.node.url());
    let _liar = Node::bind(options).await.unwrap().serve(async |_| Ok(json!(null))).await.unwrap();
    let mut command = mesh.command("auto", json!({}));
    command["intent"] = OTHER.into();
    let error = mesh.client.call("submit", command).await.unwrap_err();
    assert_eq!((&error["code"], &error["http_status"]), (&json!("unknown_intent"), &json!(404)));
}

#[tokio::test]
async fn their_client_hears_of_the_tasks_end_of_time_before_its_own() {
    let mesh = Mesh::start(4).await;
    let mut command = mesh.command("auto", json!({ "act": "hold" }));
    command["timeout_ms"] = 300.into();
    let began = std::time::Instant::now();
    let error = mesh.client.call("submit", command).await.unwrap_err();
    assert_eq!((&error["code"], &error["http_status"]), (&json!("task_timeout"), &json!(504)), "{error:#}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(mesh.node.active_jobs(), 0, "the slot is free again");
}

#[tokio::test]
async fn their_client_runs_many_tasks_at_once_and_none_gets_anothers_result() {
    const MANY: u32 = 12;
    // No handler ends before all of them run.
    let mesh = Arc::new(Mesh::start(MANY).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..MANY {
        let mesh = mesh.clone();
        tasks.spawn(async move {
            let mode = MODES[usize::try_from(n).unwrap() % MODES.len()];
            (n, mesh.client.ok("submit", mesh.command(mode, json!({ "act": "meet", "n": n }))).await)
        });
    }
    let mut ids = HashSet::new();
    while let Some(task) = tasks.join_next().await {
        let (n, done) = task.unwrap();
        assert_eq!(done["result"]["n"], n);
        assert!(ids.insert(done["task_id"].as_str().unwrap().to_owned()));
    }
}

#[tokio::test]
async fn their_client_that_must_prove_itself_is_given_a_consumer_token_by_our_directory() {
    let mesh = Mesh::start(4).await;
    let their_node = Peer::start("peer_node.py").await;
    crate::their_node::serve(&their_node, &mesh.directory, json!({})).await;
    let mut command = mesh.command("auto", json!({ "n": 1 }));
    command["node_token"] = their_node.ok("token", json!({})).await;
    let done = mesh.client.ok("submit", command.clone()).await;
    assert_eq!(done["result"]["echo"]["n"], 1);

    command["node_token"] = "0".repeat(64).into();
    let error = mesh.client.call("submit", command).await.unwrap_err();
    assert_eq!(error["code"], "IICP-CONSUMER-AUTH-REQUIRED", "{error:#}");
}

#[tokio::test]
async fn their_client_no_longer_finds_our_node_after_its_shutdown() {
    let Mesh { directory, node, client, .. } = Mesh::start(4).await;
    assert!(node.shutdown(Duration::from_secs(5)).await);
    for mode in MODES {
        let command = json!({ "directory": directory.url(), "mode": mode, "intent": TASK, "payload": {} });
        let error = client.call("submit", command).await.unwrap_err();
        assert_eq!(error["code"], "IICP-E006", "{mode}: {error:#}");
    }
}
