//! What a relay does with workers and callers as they come: published ones, hostile ones, and ones that die.

#![allow(clippy::unwrap_used)]

mod admission;
mod flood;
mod parts;
mod peer;
mod polling;
mod punched;
mod server;
mod term;
mod tls;
mod worker;

use std::net::SocketAddr;
use std::time::Duration;

use iicp_core::options::{NodeOptions, RelayServerOptions};
use iicp_core::{CHAT, Inbound, LiveNode, Node, Reply};
use iicp_tests::http::{Answer, Conn};
use serde_json::{Value, json};

/// A relay on this machine, on ports that the system chose.
async fn relay(change: impl FnOnce(&mut RelayServerOptions)) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.node_id = Some("relay-1".into());
    let mut relay = RelayServerOptions::default();
    relay.port = 0;
    relay.binds_per_minute = 0;
    change(&mut relay);
    options.relay_server = Some(relay);
    Node::bind(options).await.unwrap().serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap()
}

fn workers(relay: &LiveNode) -> SocketAddr {
    relay.relay_addr().unwrap()
}

fn task(n: u32) -> Value {
    json!({ "task_id": format!("t-{n}"), "intent": CHAT, "payload": {"n": n}, "constraints": {"timeout_ms": 20_000} })
}

/// Sends a task to a worker by its path.
async fn send(relay: &LiveNode, worker_id: &str, task: impl std::borrow::Borrow<Value>) -> Answer {
    send_bytes(relay, worker_id, task.borrow().to_string().as_bytes()).await
}

async fn send_bytes(relay: &LiveNode, worker_id: &str, body: &[u8]) -> Answer {
    let mut conn = Conn::open(relay.addr()).await.unwrap();
    conn.write(&iicp_tests::http::post(&format!("/v1/relay-for/{worker_id}/v1/task"), "", body)).await.unwrap();
    conn.answer().await.unwrap()
}

async fn get(relay: &LiveNode, path: &str) -> Answer {
    Conn::open(relay.addr()).await.unwrap().get(path).await.unwrap()
}

fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

/// Liveness only: what must not hang.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("it hangs")
}
