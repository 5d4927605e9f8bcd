//! Tasks and replies are sealed, whoever of us and the published peer is client and node. Whether it really was so is
//! seen on the wire, by somebody who listens in between.

use iicp_core::options::{ClientOptions, NodeOptions, RouteDiscovery, TaskAuth};
use iicp_core::{CHAT, Client, Code, Directory, Error, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::tap::Tap;
use serde_json::{Value, json};

use crate::directory;
use crate::peer::{Peer, free_port};
use crate::their_client::{MODES, TASK};
use crate::their_node::serve;

const PROMPT: &str = "canary-prompt";
const ANSWER: &str = "canary-answer";

async fn handle(task: Inbound) -> Result<Reply, Error> {
    let payload: Value = task.json()?;
    if task.intent.as_ref() == CHAT {
        assert_eq!(payload["messages"].as_array().unwrap().last().unwrap()["content"], PROMPT);
        return Ok(Reply::chat(ANSWER));
    }
    match payload["act"].as_str() {
        Some("who") => Ok(json!({ "caller": task.caller.verified_node_id }).into()),
        Some("reject") => Err(Error::rejected("no such tenant")),
        _ => Ok(json!({ "saw": payload, "answer": ANSWER }).into()),
    }
}

/// Our node behind a tap, under the one loopback name that their client lets through.
async fn tapped(directory: &str) -> (LiveNode, Tap) {
    tapped_with(directory, TaskAuth::default()).await
}

async fn tapped_with(directory: &str, auth: TaskAuth) -> (LiveNode, Tap) {
    let (node_port, tap_port) = (free_port(), free_port());
    let tap = Tap::start(tap_port, node_port).await.unwrap();
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into(), TASK.into()];
    options.models = vec!["m-lab".into()];
    options.directory = directory.into();
    options.port = node_port;
    options.auth = auth;
    options.endpoint = Some(format!("http://127.1:{tap_port}"));
    let node = Node::bind(options).await.unwrap().serve(handle).await.unwrap();
    assert!(node.is_registered());
    let _ = tap.take();
    (node, tap)
}

fn assert_sealed_both_ways(heard: &str, mode: &str) {
    // Theirs writes JSON with spaces.
    let heard = heard.replace("\": ", "\":");
    for sealed in ["\"iicp_conf\"", "\"cx_response_encryption\"", "\"status\":\"encrypted\"", "\"iicp_conf_resp\""] {
        assert!(heard.contains(sealed), "{mode}: no {sealed} in\n{heard}");
    }
    for plain in [PROMPT, ANSWER, "\"payload\"", "\"messages\"", "\"result\""] {
        assert!(!heard.contains(plain), "{mode}: {plain} in\n{heard}");
    }
}

#[tokio::test]
async fn their_clients_tasks_and_our_nodes_replies_are_sealed_on_the_wire_in_every_route_mode() {
    let directory = directory().await;
    let (node, tap) = tapped(&directory.url()).await;
    let client = Peer::start("peer_client.py").await;
    for mode in MODES {
        let payload = json!({ "text": PROMPT, "grüße": [1, null, 2.5] });
        let command = json!({ "directory": directory.url(), "mode": mode, "intent": TASK, "payload": payload });
        let done = client.ok("submit", command).await;
        assert_eq!((&done["status"], &done["node_id"]), (&json!("success"), &json!(node.node_id())), "{mode}");
        assert_eq!(done["result"], json!({ "saw": payload, "answer": ANSWER }), "{mode}");
        assert_sealed_both_ways(&tap.take(), mode);

        let mut chat = json!({ "directory": directory.url(), "mode": mode, "content": PROMPT, "model": "m-lab" });
        chat["max_tokens"] = 16.into();
        assert_eq!(client.ok("chat", chat).await["content"], ANSWER, "{mode}");
        assert_sealed_both_ways(&tap.take(), mode);
    }
}

#[tokio::test]
async fn their_client_proves_itself_to_our_node_that_requires_it_and_is_sealed_too() {
    let directory = directory().await;
    let (node, tap) = tapped_with(&directory.url(), TaskAuth::Required).await;
    let client = Peer::start("peer_client.py").await;
    let payload = json!({ "act": "who", "text": PROMPT });
    let mut command = json!({ "directory": directory.url(), "mode": "auto", "intent": TASK, "payload": payload });
    let error = client.call("submit", command.clone()).await.unwrap_err();
    assert_eq!((&error["code"], &error["http_status"]), (&json!("unauthorized"), &json!(401)), "{error:#}");
    // The credential of a node of theirs, which is all that their client shows to the directory.
    let (their_node, _tap) = their_tapped_node(&directory).await;
    command["node_token"] = their_node.ok("token", json!({})).await;
    let _ = tap.take();
    for _ in 0..2 {
        let done = client.ok("submit", command.clone()).await;
        assert_eq!(done["node_id"], node.node_id());
        assert!(done["result"]["caller"].as_str().is_some_and(|caller| !caller.is_empty()), "{done}");
        let heard = tap.take();
        assert!(heard.to_lowercase().contains("x-iicp-consumer-token: ey"), "{heard}");
        assert_sealed_both_ways(&heard, "auto");
    }
}

#[tokio::test]
async fn a_refusal_of_a_sealed_task_reaches_their_client_as_what_it_is() {
    let directory = directory().await;
    let (_node, tap) = tapped(&directory.url()).await;
    let client = Peer::start("peer_client.py").await;
    let payload = json!({ "act": "reject", "text": PROMPT });
    let command = json!({ "directory": directory.url(), "mode": "auto", "intent": TASK, "payload": payload });
    let error = client.call("submit", command).await.unwrap_err();
    assert_eq!((&error["code"], &error["http_status"]), (&json!("rejected"), &json!(422)), "{error:#}");
    assert_eq!(error["message"], "no such tenant");
    assert!(!tap.take().contains(PROMPT));
}

/// Their node behind a tap.
async fn their_tapped_node(directory: &Directory) -> (Peer, Tap) {
    let (node_port, tap_port) = (free_port(), free_port());
    let tap = Tap::start(tap_port, node_port).await.unwrap();
    let node = Peer::start("peer_node.py").await;
    let endpoint = format!("http://127.0.0.1:{tap_port}");
    serve(&node, directory, json!({ "port": node_port, "endpoint": endpoint })).await;
    let _ = tap.take();
    (node, tap)
}

fn client(directory: &Directory, mode: RouteDiscovery) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    options.route_discovery = mode;
    Client::new(options).unwrap()
}

#[tokio::test]
async fn our_clients_tasks_and_their_nodes_replies_are_sealed_on_the_wire_in_every_route_mode() {
    let directory = directory().await;
    let (node, tap) = their_tapped_node(&directory).await;
    // What a client does that is told nothing comes first.
    for (mode, ticketed) in
        [(RouteDiscovery::default(), true), (RouteDiscovery::Ticketed, true), (RouteDiscovery::Legacy, false)]
    {
        let client = client(&directory, mode);
        let what = format!("{mode:?}");
        for n in 0..2 {
            let payload = json!({ "text": PROMPT, "grüße": [1, null, 2.5], "n": n });
            let done = client.submit(Task::new(CHAT, payload.clone())).await.unwrap();
            assert_eq!(done.result.json::<Value>().unwrap(), json!({ "echo": payload }), "{what}");
            assert!(done.sealed, "{what}");
            assert_eq!(done.receipt.dispatch_ticket_id_prefix.is_some(), ticketed, "{what}");
            assert_sealed_both_ways(&tap.take(), &what);
        }
        let reply = client.chat(PROMPT).await.unwrap();
        assert_eq!(reply.text(), format!("echo: {PROMPT}"), "{what}");
        assert!(reply.task.sealed, "{what}");
        assert_sealed_both_ways(&tap.take(), &what);
    }
    // Nine tasks, and their handler was given each once.
    assert_eq!(node.ok("seen", json!({})).await["tasks"].as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn a_failure_of_their_handler_shows_neither_the_prompt_on_the_wire_nor_their_words_to_us() {
    let directory = directory().await;
    let (_node, tap) = their_tapped_node(&directory).await;
    let client = client(&directory, RouteDiscovery::default());
    for act in ["fail", "close", "backend"] {
        let task = Task::new(CHAT, json!({ "act": act, "text": PROMPT }));
        let error = client.submit(task).await.unwrap_err();
        assert_eq!(error.code(), Code::Backend, "{act}: {error:?}");
        assert!(!format!("{error:?} {error}").contains("secret"), "{act}: {error:?}");
        assert!(!tap.take().contains(PROMPT), "{act}");
    }
}
