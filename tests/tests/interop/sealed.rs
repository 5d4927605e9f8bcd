//! The published client seals its tasks to our node and takes nothing but sealed replies. Whether it really was so is
//! seen on the wire, by somebody who listens in between.
//!
//! The other way, our client and their node, needs a client that seals: `their_node.rs` is the place for it.

use std::sync::{Arc, Mutex};

use iicp_core::options::NodeOptions;
use iicp_core::{CHAT, Error, Inbound, LiveNode, Node, Reply};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::directory;
use crate::peer::{Peer, free_port};
use crate::their_client::{MODES, TASK};

const PROMPT: &str = "canary-prompt";
const ANSWER: &str = "canary-answer";

/// Passes bytes on between callers and a node, and writes them all down.
struct Tap {
    heard: Arc<Mutex<Vec<u8>>>,
    _tasks: JoinSet<()>,
}

impl Tap {
    async fn start(port: u16, node: u16) -> Tap {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (all, mut tasks) = (heard.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut conns = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                let Ok(node) = TcpStream::connect(("127.0.0.1", node)).await else { continue };
                let ((from_caller, to_caller), (from_node, to_node)) = (caller.into_split(), node.into_split());
                conns.spawn(pass(from_caller, to_node, all.clone()));
                conns.spawn(pass(from_node, to_caller, all.clone()));
            }
        });
        Tap { heard, _tasks: tasks }
    }

    /// Everything so far; the next look begins anew.
    fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.heard.lock().unwrap())).into_owned()
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, heard: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        heard.lock().unwrap().extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn handle(task: Inbound) -> Result<Reply, Error> {
    let payload: Value = task.json()?;
    if task.intent.as_ref() == CHAT {
        assert_eq!(payload["messages"].as_array().unwrap().last().unwrap()["content"], PROMPT);
        return Ok(Reply::chat(ANSWER));
    }
    match payload["act"].as_str() {
        Some("reject") => Err(Error::rejected("no such tenant")),
        _ => Ok(json!({ "saw": payload, "answer": ANSWER }).into()),
    }
}

/// Our node behind a tap, under the one loopback name that their client lets through.
async fn tapped(directory: &str) -> (LiveNode, Tap) {
    let (node_port, tap_port) = (free_port(), free_port());
    let tap = Tap::start(tap_port, node_port).await;
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into(), TASK.into()];
    options.models = vec!["m-lab".into()];
    options.directory = directory.into();
    options.port = node_port;
    options.endpoint = Some(format!("http://127.1:{tap_port}"));
    let node = Node::bind(options).await.unwrap().serve(handle).await.unwrap();
    assert!(node.is_registered());
    tap.take();
    (node, tap)
}

fn assert_sealed_both_ways(heard: &str, mode: &str) {
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
