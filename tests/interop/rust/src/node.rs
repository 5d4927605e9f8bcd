//! The published node: serves with a handler that a task's payload commands, and tells what it did.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use iicp_client::concurrency::ConcurrencyGate;
use iicp_client::iicp_tcp::{IicpTcpServer, TcpStreamEvent, TcpTask};
use iicp_client::{IicpError, IicpNode, NodeConfig};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::{Told, port, text};

/// One node, and what its handler was given.
#[derive(Default)]
pub(crate) struct Peer {
    node: Mutex<Option<Arc<IicpNode>>>,
    hand: Arc<Hand>,
}

/// What the test holds the handler by.
#[derive(Default)]
struct Hand {
    tasks: Mutex<Vec<Value>>,
    holding: Mutex<u64>,
    released: watch::Sender<bool>,
}

fn failed(error: impl ToString) -> Value {
    json!({ "kind": "node", "message": error.to_string() })
}

impl Hand {
    async fn hold(&self) {
        *self.holding.lock().unwrap() += 1;
        let _ = self.released.subscribe().wait_for(|released| *released).await;
    }

    /// Does what the payload says.
    async fn handle(&self, task_id: String, payload: Value) -> iicp_client::Result<Value> {
        self.tasks.lock().unwrap().push(json!({ "task_id": task_id }));
        match payload["act"].as_str() {
            Some("fail") => return Err(IicpError::Node("the secret of the handler".into())),
            Some("backend") => return Ok(json!({ "error_code": 502, "error_message": "the backend is down" })),
            Some("hold") => {
                self.hold().await;
                return Ok(json!({ "held": payload["n"] }));
            }
            _ => {}
        }
        let Some(last) = payload["messages"].as_array().and_then(|messages| messages.last()) else {
            return Ok(json!({ "echo": payload }));
        };
        let text = format!("echo: {}", last["content"].as_str().unwrap_or_default());
        let choice =
            json!({ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" });
        let usage = json!({ "prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5 });
        Ok(json!({ "choices": [choice], "usage": usage, "model": "m-peer" }))
    }
}

impl Peer {
    /// Registers, then listens; the order of the published quick start.
    pub(crate) async fn serve(&self, command: &Value) -> Told {
        let port = port(command, "port");
        let endpoint = command["endpoint"].as_str().map_or_else(|| format!("http://127.0.0.1:{port}"), str::to_owned);
        let mut config = NodeConfig::new(text(command, "node_id"), endpoint.clone(), text(command, "intent"));
        config.directory_url = text(command, "directory");
        config.model = Some(text(command, "model"));
        config.region = Some("eu-lab".into());
        config.max_concurrent = command["max_concurrent"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(4);
        config.transport_endpoint = command["transport_endpoint"].as_str().map(str::to_owned);
        config.relay_worker_endpoint = command["relay_worker_endpoint"].as_str().map(str::to_owned);
        config.relay_capable = command["relay_capable"] == true;
        if config.relay_capable {
            config.relay_accept_port = crate::port(command, "relay_accept_port");
        }
        let node = Arc::new(IicpNode::new(config));
        let token = node.register().await.map_err(failed)?;
        *self.node.lock().unwrap() = Some(node.clone());
        let hand = self.hand.clone();
        let serving = tokio::spawn(async move {
            let handler = move |task: iicp_client::node::TaskRequest| {
                let hand = hand.clone();
                async move { hand.handle(task.task_id, task.payload).await }
            };
            node.serve(handler, &format!("127.0.0.1:{port}"), Some(token)).await
        });
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if serving.is_finished() {
                return Err(failed(format!("{:?}", serving.await)));
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Ok(json!({ "endpoint": endpoint }))
    }

    /// Listens for native frames alone, with parts and a bound, which the node itself installs neither of.
    pub(crate) async fn serve_native(&self, command: &Value) -> Told {
        let (whole, parts) = (self.hand.clone(), self.hand.clone());
        let most = command["max_concurrent"].as_u64().and_then(|n| n.try_into().ok()).unwrap_or(4);
        let server = IicpTcpServer::new("127.0.0.1", port(command, "port"))
            .with_node_id(text(command, "node_id"))
            .with_concurrency_gate(Arc::new(ConcurrencyGate::new(most)))
            .with_handler(Arc::new(move |task: TcpTask| {
                let hand = whole.clone();
                Box::pin(async move { hand.handle(task.task_id, task.payload).await.unwrap_or_else(failed) })
            }))
            .with_streaming_handler(Arc::new(move |task: TcpTask| Box::pin(stream(parts.clone(), task))));
        let listener = server.bind().await.map_err(failed)?;
        tokio::spawn(server.serve_on(listener));
        Ok(Value::Null)
    }

    /// What happened until now.
    pub(crate) fn seen(&self) -> Value {
        json!({ "tasks": *self.hand.tasks.lock().unwrap(), "holding": *self.hand.holding.lock().unwrap() })
    }

    /// Lets the held tasks finish.
    pub(crate) fn let_go(&self) -> Value {
        self.hand.released.send_replace(true);
        Value::Null
    }

    pub(crate) async fn deregister(&self) -> Told {
        let node = self.node.lock().unwrap().clone().expect("a node");
        node.deregister(None).await.map_err(failed)?;
        Ok(Value::Null)
    }
}

/// Parts, and an end as the payload says.
fn stream(
    hand: Arc<Hand>,
    task: TcpTask,
) -> impl futures_util::Stream<Item = Result<TcpStreamEvent, String>> + Send + 'static {
    let event = |status: &str, result: Option<Value>| TcpStreamEvent {
        status: status.into(),
        result,
        error_code: None,
        error_message: None,
        tokens_used: None,
        event: None,
    };
    hand.tasks.lock().unwrap().push(json!({ "task_id": task.task_id }));
    let many = task.payload["parts"].as_u64().unwrap_or(0);
    let parts = futures_util::stream::iter(0..many).then(move |n| {
        let (hand, held) = (hand.clone(), task.payload["act"] == "hold" && n == 1);
        async move {
            if held {
                hand.hold().await;
            }
            Ok(event("partial", Some(json!({ "n": n }))))
        }
    });
    parts.chain(futures_util::stream::iter([Ok(event("success", None))]))
}
