//! The framed transport with the published peer, both ways: their client at our node, our client at their servers.

use std::time::Duration;

use futures_util::StreamExt as _;
use iicp_core::options::{ClientOptions, NodeOptions, PolicyProfile};
use iicp_core::types::TaskResult;
use iicp_core::{CHAT, Client, Code, Directory, Error, Inbound, Node, Reply, Task};
use iicp_tests::http::{Conn, addr};
use iicp_tests::tap::Tap;
use serde_json::{Value, json};

use crate::directory;
use crate::peer::{Peer, free_port};
use crate::their_node::serve;

const PROMPT: &str = "canary-prompt";

fn client(directory: &Directory, profile: PolicyProfile) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    options.routing_policy.profile = profile;
    Client::new(options).unwrap()
}

/// Their node behind a tap, HTTP and native on one port as it serves them.
struct Mesh {
    directory: Directory,
    node: Peer,
    tap: Tap,
}

impl Mesh {
    async fn start(keyless: bool) -> Mesh {
        let directory = directory().await;
        let (node_port, tap_port) = (free_port(), free_port());
        let tap = Tap::start(tap_port, node_port).await.unwrap();
        let node = Peer::start("peer_node.py").await;
        let at = json!({
            "port": node_port, "endpoint": format!("http://127.0.0.1:{tap_port}"), "max_concurrent": 16,
            "transport_endpoint": format!("iicp://127.0.0.1:{tap_port}"), "keyless": keyless,
        });
        serve(&node, &directory, at).await;
        let _ = tap.take();
        Mesh { directory, node, tap }
    }

    /// How many tasks went over the wire since it was asked: over HTTP, and native.
    fn heard(&self) -> (usize, usize) {
        let heard = self.tap.take();
        (heard.matches("POST /v1/task").count(), heard.matches("IICP\u{1}\u{5}").count())
    }

    async fn handled(&self) -> Vec<Value> {
        self.node.ok("seen", json!({})).await["tasks"].as_array().unwrap().clone()
    }
}

async fn submit(client: &Client, payload: Value) -> Result<TaskResult, Error> {
    client.submit(Task::new(CHAT, payload)).await
}

#[tokio::test]
async fn our_client_calls_their_node_natively_where_the_task_goes_unsealed_anyway() {
    let mesh = Mesh::start(true).await;
    let ours = client(&mesh.directory, PolicyProfile::DebugOverride);
    for n in 0..5 {
        let done = submit(&ours, json!({ "n": n, "half": 0.5, "grüße": [null, true] })).await.unwrap();
        let expected = json!({ "echo": { "n": n, "half": 0.5, "grüße": [null, true] } });
        assert_eq!(done.result.json::<Value>().unwrap(), expected);
        assert!(!done.sealed);
        assert_eq!(
            mesh.handled().await.last().unwrap()["task_id"],
            done.task_id,
            "their handler is told our task's id"
        );
    }
    let reply = ours.chat("hello").await.unwrap();
    assert_eq!((reply.text(), reply.model.as_deref()), ("echo: hello", Some("m-peer")));
    assert_eq!(mesh.heard(), (0, 6));

    // A failure is told once, and its words stay there; only what does no harm is sent again.
    let error = submit(&ours, json!({ "act": "fail" })).await.unwrap_err();
    assert_eq!(error.code(), Code::Backend, "{error}");
    assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
    assert_eq!(mesh.heard(), (0, 1));
    let error = submit(&ours, json!({ "act": "backend" })).await.unwrap_err();
    assert_eq!(error.code(), Code::Backend, "{error}");
    assert_eq!(mesh.handled().await.len(), 8);

    // What the form has no word for goes over HTTP, such as a model that the payload does not name.
    let _ = mesh.tap.take();
    ours.submit(Task::new(CHAT, json!({})).model("m-peer")).await.unwrap();
    assert_eq!(mesh.heard(), (1, 0));
}

#[tokio::test]
async fn a_task_that_can_be_sealed_is_never_sent_to_their_node_natively() {
    let mesh = Mesh::start(false).await;
    for profile in [PolicyProfile::Standard, PolicyProfile::DebugOverride] {
        let ours = client(&mesh.directory, profile);
        for _ in 0..3 {
            let done = submit(&ours, json!({ "text": PROMPT })).await.unwrap();
            assert!(done.sealed, "{profile:?}");
        }
        let heard = mesh.tap.take();
        assert!(!heard.contains(PROMPT), "{profile:?}: {heard}");
        assert_eq!(heard.matches("POST /v1/task").count(), 3, "{profile:?}");
        assert!(!heard.contains("IICP\u{1}\u{5}"), "{profile:?}");
    }
    // And one without a key is sent nothing where the policy demands a seal.
    let keyless = Mesh::start(true).await;
    let error =
        submit(&client(&keyless.directory, PolicyProfile::Standard), json!({ "text": PROMPT })).await.unwrap_err();
    assert!(!keyless.tap.take().contains(PROMPT));
    assert!(matches!(error.code(), Code::ConfidentialityRequired | Code::PolicyRefused), "{error}");
}

#[tokio::test]
async fn calls_that_run_at_once_have_connections_of_their_own_and_get_their_own_results() {
    let mesh = Mesh::start(true).await;
    let ours = client(&mesh.directory, PolicyProfile::DebugOverride);
    submit(&ours, json!({})).await.unwrap();
    assert_eq!(mesh.heard(), (0, 1));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (ours, payload) = (ours.clone(), json!({ "act": "hold", "n": n }));
        tasks.spawn(async move { (n, submit(&ours, payload).await) });
    }
    // It reads a connection's next call when it has answered the one before.
    // A connection that takes over 300 ms, as on a busy machine, is not waited for: then a task goes over HTTP.
    mesh.node.until("the handlers run", |seen| seen["holding"].as_u64() >= Some(8)).await;
    mesh.node.ok("let_go", json!({})).await;
    while let Some(task) = tasks.join_next().await {
        let (n, done) = task.unwrap();
        assert_eq!(done.unwrap().result.json::<Value>().unwrap(), json!({ "held": n }));
    }
    assert!(mesh.heard().1 >= 8, "{:?}", mesh.heard());
}

#[tokio::test]
async fn a_native_call_ends_with_our_deadline_and_holds_up_no_other() {
    let mesh = Mesh::start(true).await;
    let ours = client(&mesh.directory, PolicyProfile::DebugOverride);
    submit(&ours, json!({})).await.unwrap();
    let task = Task::new(CHAT, json!({ "act": "hold" })).timeout(Duration::from_millis(700));
    assert_eq!(ours.submit(task).await.unwrap_err().code(), Code::Timeout);
    // Their handler goes on, and cannot be stopped; its connection is gone.
    submit(&ours, json!({ "n": 2 })).await.unwrap();
    mesh.node.ok("let_go", json!({})).await;
    assert_eq!(mesh.heard(), (0, 3));
    assert_eq!(mesh.handled().await.len(), 3, "none ran twice");
}

#[tokio::test]
async fn their_node_that_names_no_profile_answers_a_stream_once() {
    let mesh = Mesh::start(true).await;
    let ours = client(&mesh.directory, PolicyProfile::DebugOverride);
    let parts: Vec<_> = ours.stream(Task::new(CHAT, json!({ "n": 1 }))).await.unwrap().collect().await;
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].as_ref().unwrap().result.json::<Value>().unwrap(), json!({ "echo": { "n": 1 } }));
    let heard = mesh.tap.take();
    assert!(!heard.contains("service-lifecycle") && !heard.contains("event-stream"), "{heard}");
    // The same over HTTP, sealed.
    let mesh = Mesh::start(false).await;
    let ours = client(&mesh.directory, PolicyProfile::Standard);
    let parts: Vec<_> = ours.stream(Task::new(CHAT, json!({ "n": 2 }))).await.unwrap().collect().await;
    assert_eq!(parts.len(), 1);
    let heard = mesh.tap.take();
    assert!(heard.contains("POST /v1/task") && !heard.contains("service-lifecycle"), "{heard}");
    assert!(!heard.contains("event-stream"), "{heard}");
}

/// Their server by itself, with a handler that streams, registered by hand without a key; nothing speaks HTTP there.
pub(crate) async fn their_server(peer: Peer, max_concurrent: u32) -> (Directory, Peer, Client) {
    let directory = directory().await;
    let (port, nobody) = (free_port(), free_port());
    peer.ok("serve_native", json!({ "port": port, "node_id": "peer-native", "max_concurrent": max_concurrent })).await;
    let node = json!({
        "node_id": "peer-native", "endpoint": format!("http://127.0.0.1:{nobody}"), "region": "lab",
        "transport_endpoint": format!("iicp://127.0.0.1:{port}"),
        "capabilities": [{
            "intent": CHAT, "models": ["m"], "max_tokens": 100,
            "supported_profiles": ["urn:iicp:profile:service-lifecycle:v1"],
        }],
        "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
    });
    let answer = Conn::open(addr(&directory.url())).await.unwrap().post("/v1/register", &node).await.unwrap();
    assert!(answer.status < 300, "{answer:?}");
    let ours = client(&directory, PolicyProfile::DebugOverride);
    (directory, peer, ours)
}

#[tokio::test]
async fn our_client_follows_a_task_at_their_server_part_by_part() {
    let (_directory, peer, ours) = their_server(Peer::start("peer_node.py").await, 4).await;
    let ask = |act: &str| Task::new(CHAT, json!({ "parts": 3, "act": act }));
    let mut stream = ours.stream(ask("hold")).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    // Bytes come as base64, as their clients have it.
    assert_eq!(first.result.json::<Value>().unwrap(), json!({ "n": 0, "bytes": "Yg==" }));
    assert_eq!(peer.ok("seen", json!({})).await["holding"], 1, "it came while the handler held the next one");
    peer.ok("let_go", json!({})).await;
    let rest: Vec<Value> =
        (&mut stream).map(|part| part.unwrap().result.json::<Value>().unwrap()["n"].take()).collect().await;
    assert_eq!((rest, stream.tokens_used()), (vec![json!(1), json!(2)], Some(9)));
    let seen = peer.ok("seen", json!({})).await;
    assert_eq!(seen["tasks"][0]["task_id"], stream.task_id());
    assert_ne!(seen["tasks"][0]["call_id"], stream.task_id(), "each attempt has its own name");

    // Every end that is no success, after parts.
    for (act, code) in [("fail", Code::Backend), ("nothing", Code::Backend), ("timeout", Code::TaskTimeout)] {
        let parts: Vec<_> = ours.stream(ask(act)).await.unwrap().collect().await;
        assert_eq!(parts.len(), 4, "{act}");
        let error = parts.into_iter().next_back().unwrap().unwrap_err();
        assert_eq!(error.code(), code, "{act}: {error}");
        assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
    }
    // And a task that nobody follows is answered once.
    let whole = submit(&ours, json!({ "n": 1 })).await.unwrap();
    assert_eq!(whole.result.json::<Value>().unwrap(), json!({ "echo": { "n": 1 } }));
}

#[tokio::test]
async fn their_full_server_is_known_not_to_have_run_the_task() {
    let (_directory, peer, ours) = their_server(Peer::start("peer_node.py").await, 1).await;
    let held = tokio::spawn({
        let ours = ours.clone();
        async move { submit(&ours, json!({ "act": "hold", "n": 0 })).await }
    });
    peer.until("the handler runs", |seen| seen["holding"] == 1).await;
    let hurried = Task::new(CHAT, json!({})).timeout(Duration::from_millis(300));
    let error = ours.submit(hurried).await.unwrap_err();
    assert_eq!((error.code(), error.wire_code()), (Code::Capacity, Some("IICP-E021")), "{error}");
    // One that has the time is sent again, although nobody said that it may run twice.
    let later = tokio::spawn({
        let ours = ours.clone();
        async move { submit(&ours, json!({ "n": 1 })).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    peer.ok("let_go", json!({})).await;
    assert_eq!(later.await.unwrap().unwrap().result.json::<Value>().unwrap(), json!({ "echo": { "n": 1 } }));
    assert!(held.await.unwrap().is_ok());
    assert_eq!(peer.ok("seen", json!({})).await["tasks"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn their_client_gets_everything_that_it_asks_our_node_natively() {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.node_id = Some("our-node".into());
    let node = Node::bind(options).await.unwrap();
    let handler = |task: Inbound| async move {
        let payload: Value = task.json()?;
        if payload["act"] == "reject" {
            return Err(Error::rejected("no such tenant"));
        }
        if payload["act"] == "parts" {
            let parts = (0..3).map(|n| Ok(json!({ "n": n })));
            return Ok(Reply::stream(futures_util::stream::iter(parts)));
        }
        Ok(Reply::from(json!({ "saw": payload })))
    };
    let node = node.serve(handler).await.unwrap();
    let peer = Peer::start("peer_client.py").await;
    let command = json!({
        "port": node.addr().port(), "intent": CHAT, "followed": { "act": "parts" },
        "payloads": [{ "n": 1, "half": 0.5, "grüße": [null] }, { "act": "reject" }, {}],
    });
    let told = peer.ok("native", command).await;
    assert_eq!((&told["node_id"], &told["version"], &told["echo"]), (&json!("our-node"), &json!(1), &json!("abc")));
    assert_eq!(told["nodes"], json!([]));
    assert_eq!(
        told["answers"],
        json!([
            { "result": { "saw": { "n": 1, "half": 0.5, "grüße": [null] } } },
            { "error": "server error 422: 'no such tenant'" },
            { "result": { "saw": {} } },
        ])
    );
    let events: Vec<_> = told["events"].as_array().unwrap().iter().map(|e| (&e["status"], &e["result"])).collect();
    let (partial, success) = (json!("partial"), json!("success"));
    let parts = [json!({ "n": 0 }), json!({ "n": 1 }), json!({ "n": 2 })];
    let expected: Vec<_> = parts.iter().map(|part| (&partial, part)).chain([(&success, &Value::Null)]).collect();
    assert_eq!(events, expected);
}
