//! Relays: their worker at our relay, and ours at theirs.

use std::time::Duration;

use iicp_core::options::{ClientOptions, Discover, NodeOptions, RelayServerOptions, RelayWorkerOptions};
use iicp_core::{CHAT, Client, Directory, EMBEDDING, Inbound, LiveNode, Node, Reply, Task};
use serde_json::{Value, json};

use crate::directory;
use crate::peer::{PATIENCE, Peer, free_port};
use crate::their_node::serve;

fn client(directory: &Directory) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    options.route_ttl_ms = 100;
    Client::new(options).unwrap()
}

/// Until a node serves the intent under the path of a relay.
pub(crate) async fn relayed(client: &Client, intent: &str, relay: &str) -> String {
    let listed = async {
        loop {
            let found = client.discover(Discover::intent(intent)).await.unwrap_or_default();
            if let Some(node) = found.iter().find(|node| node.endpoint.starts_with(relay)) {
                return node.endpoint.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listed).await.expect("nobody is reached through the relay")
}

async fn our_relay(directory: &Directory) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into()];
    options.node_id = Some("relay-1".into());
    options.directory = directory.url();
    let mut relay = RelayServerOptions::default();
    relay.port = 0;
    relay.ticket_required = Some(true);
    options.relay_server = Some(relay);
    Node::bind(options).await.unwrap().serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap()
}

#[tokio::test]
async fn their_worker_binds_at_our_strict_relay_and_serves_our_client() {
    let directory = directory().await;
    let relay = our_relay(&directory).await;
    let worker = Peer::start("peer_node.py").await;
    let place = relay.relay_addr().unwrap();
    serve(&worker, &directory, json!({ "relay_worker_endpoint": place.to_string() })).await;
    let client = client(&directory);
    let endpoint = relayed(&client, CHAT, &format!("http://127.0.0.1:{}/v1/relay-for/", relay.addr().port())).await;
    assert!(endpoint.ends_with("/v1/relay-for/peer-node-1"), "{endpoint}");
    for n in 0..5 {
        let done = client.submit(Task::new(CHAT, json!({ "n": n }))).await.unwrap();
        assert!(done.sealed, "the relay sees ciphertext");
        assert_eq!(done.result.json::<Value>().unwrap(), json!({ "echo": { "n": n } }));
    }
    // A worker of theirs that dies mid-call.
    let holding = tokio::spawn({
        let client = self::client(&directory);
        async move { client.submit(Task::new(CHAT, json!({ "act": "hold" })).timeout(Duration::from_secs(60))).await }
    });
    worker.until("the task is held", |seen| seen["holding"] == 1).await;
    drop(worker);
    let error = tokio::time::timeout(PATIENCE / 2, holding).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.http_status(), Some(502), "{error}");
}

#[tokio::test]
async fn our_worker_serves_our_client_through_their_relay() {
    let directory = directory().await;
    let (relay, accept) = (Peer::start("peer_node.py").await, free_port());
    let base = serve(&relay, &directory, json!({ "relay_capable": true, "relay_accept_port": accept })).await;
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into()];
    options.node_id = Some("worker-1".into());
    options.directory = directory.url();
    let mut worker = RelayWorkerOptions::default();
    worker.relay = Some(format!("127.0.0.1:{accept}"));
    options.relay_worker = Some(worker);
    let node =
        Node::bind(options).await.unwrap().serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap();
    let client = client(&directory);
    assert_eq!(relayed(&client, EMBEDDING, &base).await, format!("{base}/v1/relay-for/worker-1"));
    for n in 0..5 {
        let done = client.submit(Task::new(EMBEDDING, json!({ "n": n }))).await.unwrap();
        assert!(done.sealed);
        assert_eq!(done.result.json::<Value>().unwrap(), json!({ "n": n }));
    }
    assert!(node.shutdown(Duration::from_secs(5)).await);
}
