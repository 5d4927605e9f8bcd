//! The published Rust crate, both ways: over HTTP, natively, and through a relay. `tests/run --with interop-rust` builds
//! it and runs these; without it there is no such program.

use std::time::Duration;

use futures_util::StreamExt as _;
use iicp_core::options::{ClientOptions, Discover, NodeOptions, PolicyProfile, RelayServerOptions, RelayWorkerOptions};
use iicp_core::{CHAT, Client, Code, Directory, EMBEDDING, Error, Inbound, LiveNode, Node, Reply, Result, Task};
use iicp_tests::tap::Tap;
use serde_json::{Value, json};

use crate::directory;
use crate::native::their_server;
use crate::peer::{PATIENCE, Peer, free_port};
use crate::relay::relayed;
use crate::their_client::{MODES, TASK};
use crate::their_node::serve;

const PROMPT: &str = "canary-prompt";

fn client(directory: &Directory, profile: PolicyProfile) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    options.routing_policy.profile = profile;
    options.route_ttl_ms = 100;
    Client::new(options).unwrap()
}

async fn our_node(options: NodeOptions) -> LiveNode {
    let handler = |task: Inbound| async move {
        let payload: Value = task.json()?;
        match payload["act"].as_str() {
            Some("fail") => Err(Error::new(Code::Internal, "the secret of the handler")),
            Some("reject") => Err(Error::rejected("no such tenant")),
            Some("parts") => {
                let parts = (0..3).map(|n| Ok(json!({ "n": n })));
                Ok(Reply::stream(futures_util::stream::iter(parts)))
            }
            _ if task.intent.as_ref() == CHAT && payload["messages"].is_array() => {
                let last = payload["messages"].as_array().and_then(|messages| messages.last()).unwrap();
                Ok(Reply::chat(format!("echo: {}", last["content"].as_str().unwrap())))
            }
            _ => Ok(json!({ "echo": payload }).into()),
        }
    };
    Node::bind(options).await.unwrap().serve(handler).await.unwrap()
}

fn node_options(directory: &Directory, node_id: &str) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into(), TASK.into()];
    options.models = vec!["m-lab".into()];
    options.directory = directory.url();
    options.node_id = Some(node_id.into());
    options
}

fn command(directory: &Directory, mode: &str, payload: Value) -> Value {
    json!({ "directory": directory.url(), "mode": mode, "intent": TASK, "payload": payload })
}

async fn submit(client: &Client, payload: Value) -> Result<Value> {
    client.submit(Task::new(CHAT, payload)).await?.result.json()
}

#[tokio::test]
#[ignore = "needs the published crate; part of --with interop-rust"]
async fn their_rust_client_finds_our_node_submits_and_chats_in_every_route_mode() {
    let directory = directory().await;
    let node = our_node(node_options(&directory, "our-node")).await;
    assert!(node.is_registered());
    let peer = Peer::rust().await;
    let found = peer.ok("discover", command(&directory, "auto", Value::Null)).await;
    assert_eq!(found, json!([{ "node_id": "our-node", "endpoint": node.url() }]));
    for mode in MODES {
        let done = peer.ok("submit", command(&directory, mode, json!({ "text": "grüße" }))).await;
        assert_eq!((&done["status"], &done["error"]), (&json!("success"), &Value::Null), "{mode}: {done}");
        assert_eq!(done["result"], json!({ "echo": { "text": "grüße" } }), "{mode}");
        assert_eq!(done["from"], "our-node", "{mode}");
        // The route came by a ticket that their client verified with our directory's key, or without any.
        assert_eq!(done["ticket"].is_string(), mode != "legacy", "{mode}: {done}");
        let mut chat = command(&directory, mode, Value::Null);
        chat["content"] = "hello".into();
        chat["model"] = "m-lab".into();
        let reply = peer.ok("chat", chat).await;
        assert_eq!((&reply["role"], &reply["content"]), (&json!("assistant"), &json!("echo: hello")), "{mode}");
        assert_eq!(reply["finish_reason"], "stop", "{mode}");
    }
}

#[tokio::test]
#[ignore = "needs the published crate; part of --with interop-rust"]
async fn their_rust_clients_tasks_are_sealed_and_our_refusals_reach_it_as_what_they_are() {
    let directory = directory().await;
    let (port, tap_port) = (free_port(), free_port());
    let tap = Tap::start(tap_port, port).await.unwrap();
    let mut options = node_options(&directory, "our-node");
    options.port = port;
    options.endpoint = Some(format!("http://127.0.0.1:{tap_port}"));
    let _node = our_node(options).await;
    let _ = tap.take();
    let peer = Peer::rust().await;
    let done = peer.ok("submit", command(&directory, "auto", json!({ "text": PROMPT }))).await;
    assert_eq!(done["result"], json!({ "echo": { "text": PROMPT } }));
    let heard = tap.take();
    assert!(heard.contains("POST /v1/task") && !heard.contains(PROMPT), "{heard}");
    for (act, status) in [("fail", 502), ("reject", 422)] {
        let error = peer.call("submit", command(&directory, "auto", json!({ "act": act }))).await.unwrap_err();
        assert_eq!((&error["kind"], &error["http_status"]), (&json!("protocol"), &json!(status)), "{act}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let mut nobody = command(&directory, "auto", json!({}));
    nobody["intent"] = "urn:iicp:intent:lab:other:v1".into();
    let error = peer.call("submit", nobody).await.unwrap_err();
    // What their client makes of it that nobody serves the intent.
    assert!(error["message"].as_str().unwrap().contains("refused all discovered nodes"), "{error}");
}

#[tokio::test]
#[ignore = "needs the published crate; part of --with interop-rust"]
async fn their_rust_client_gets_everything_that_it_asks_our_node_natively() {
    let directory = directory().await;
    let node = our_node(node_options(&directory, "our-node")).await;
    let peer = Peer::rust().await;
    let command = json!({
        "port": node.addr().port(), "intent": TASK, "followed": { "act": "parts" },
        "payloads": [{ "n": 1, "half": 0.5, "grüße": [null] }, { "act": "reject" }, {}],
    });
    let told = peer.ok("native", command).await;
    assert_eq!((&told["node_id"], &told["version"], &told["echo"]), (&json!("our-node"), &json!(1), &json!("abc")));
    let answers = json!([
        { "result": { "echo": { "n": 1, "half": 0.5, "grüße": [null] } } },
        { "error": "server error 422: no such tenant" },
        { "result": { "echo": {} } },
    ]);
    assert_eq!(told["answers"], answers);
    let parts = json!([
        { "status": "partial", "result": { "n": 0 }, "final": false },
        { "status": "partial", "result": { "n": 1 }, "final": false },
        { "status": "partial", "result": { "n": 2 }, "final": false },
        { "status": "success", "result": null, "final": true },
    ]);
    assert_eq!(told["events"], parts);
}

#[tokio::test]
#[ignore = "needs the published crate; part of --with interop-rust"]
async fn our_client_finds_their_rust_node_and_gets_its_results_sealed() {
    let directory = directory().await;
    let peer = Peer::rust().await;
    let endpoint = serve(&peer, &directory, json!({})).await;
    let ours = client(&directory, PolicyProfile::Standard);
    let found = ours.discover(Discover::intent(CHAT)).await.unwrap();
    assert_eq!(found.iter().map(|node| &node.endpoint).collect::<Vec<_>>(), [&endpoint]);
    assert!(found[0].available && found[0].cx_public_key.is_some());
    for n in 0..5 {
        let done = ours.submit(Task::new(CHAT, json!({ "n": n }))).await.unwrap();
        assert!(done.sealed);
        assert_eq!(done.result.json::<Value>().unwrap(), json!({ "echo": { "n": n } }));
    }
    let reply = ours.chat("hello").await.unwrap();
    assert_eq!((reply.text(), reply.model.as_deref()), ("echo: hello", Some("m-peer")));
    let error = submit(&ours, json!({ "act": "fail" })).await.unwrap_err();
    // Unlike their Python node, this one tells what its handler said.
    assert_eq!((error.code(), error.http_status()), (Code::Backend, Some(500)), "{error}");
    // Many at once, each with its own result.
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        let (ours, payload) = (ours.clone(), json!({ "act": "hold", "n": n }));
        tasks.spawn(async move { (n, submit(&ours, payload).await) });
    }
    peer.until("the handlers run", |seen| seen["holding"] == 4).await;
    peer.ok("let_go", json!({})).await;
    while let Some(task) = tasks.join_next().await {
        let (n, done) = task.unwrap();
        assert_eq!(done.unwrap(), json!({ "held": n }));
    }
    peer.ok("deregister", json!({})).await;
    let gone = submit(&client(&directory, PolicyProfile::Standard), json!({})).await.unwrap_err();
    assert_eq!(gone.code(), Code::NoNodes);
}

#[tokio::test]
#[ignore = "needs the published crate; part of --with interop-rust"]
async fn our_client_calls_their_rust_server_natively_and_follows_a_task_part_by_part() {
    let (_directory, peer, ours) = their_server(Peer::rust().await, 4).await;
    let payload = json!({ "n": 1, "half": 0.5, "grüße": [null, true] });
    assert_eq!(submit(&ours, payload.clone()).await.unwrap(), json!({ "echo": payload }));
    let error = submit(&ours, json!({ "act": "backend" })).await.unwrap_err();
    assert_eq!(error.code(), Code::Backend, "{error}");
    let mut stream = ours.stream(Task::new(CHAT, json!({ "parts": 3, "act": "hold" }))).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.result.json::<Value>().unwrap(), json!({ "n": 0 }));
    peer.until("the second part is held", |seen| seen["holding"] == 1).await;
    peer.ok("let_go", json!({})).await;
    let rest: Vec<Value> = stream.map(|part| part.unwrap().result.json::<Value>().unwrap()["n"].take()).collect().await;
    assert_eq!(rest, [json!(1), json!(2)]);
}

#[tokio::test]
#[ignore = "needs the published crate; part of --with interop-rust"]
async fn their_rust_worker_binds_at_our_relay_and_serves_our_client_sealed() {
    let directory = directory().await;
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into()];
    options.node_id = Some("relay-1".into());
    options.directory = directory.url();
    let mut relay = RelayServerOptions::default();
    relay.port = 0;
    // Their Rust node never shows a ticket at a relay, unlike their Python one.
    relay.ticket_required = Some(false);
    options.relay_server = Some(relay);
    let relay = our_node(options).await;
    let worker = Peer::rust().await;
    let place = relay.relay_addr().unwrap();
    serve(&worker, &directory, json!({ "relay_worker_endpoint": place.to_string() })).await;
    let ours = client(&directory, PolicyProfile::Standard);
    relayed(&ours, CHAT, &format!("http://127.0.0.1:{}/v1/relay-for/peer-node-1", relay.addr().port())).await;
    for n in 0..5 {
        let done = ours.submit(Task::new(CHAT, json!({ "n": n }))).await.unwrap();
        assert!(done.sealed, "the relay sees ciphertext");
        assert_eq!(done.result.json::<Value>().unwrap(), json!({ "echo": { "n": n } }));
    }
}

#[tokio::test]
#[ignore = "needs the published crate; part of --with interop-rust"]
async fn our_worker_serves_our_client_and_theirs_through_their_rust_relay() {
    let directory = directory().await;
    let (relay, accept) = (Peer::rust().await, free_port());
    let base = serve(&relay, &directory, json!({ "relay_capable": true, "relay_accept_port": accept })).await;
    let mut options = NodeOptions::default();
    options.intents = vec![TASK.into()];
    options.node_id = Some("worker-1".into());
    options.directory = directory.url();
    let mut worker = RelayWorkerOptions::default();
    worker.relay = Some(format!("127.0.0.1:{accept}"));
    options.relay_worker = Some(worker);
    let node = our_node(options).await;
    let ours = client(&directory, PolicyProfile::Standard);
    assert_eq!(relayed(&ours, TASK, &base).await, format!("{base}/v1/relay-for/worker-1"));
    let theirs = Peer::rust().await;
    for n in 0..5 {
        let done = ours.submit(Task::new(TASK, json!({ "n": n }))).await.unwrap();
        assert!(done.sealed);
        assert_eq!(done.result.json::<Value>().unwrap(), json!({ "echo": { "n": n } }));
        let done = theirs.ok("submit", command(&directory, "auto", json!({ "n": n }))).await;
        assert_eq!((&done["status"], &done["result"]), (&json!("success"), &json!({ "echo": { "n": n } })));
    }
    assert!(node.shutdown(Duration::from_secs(5)).await);
}
