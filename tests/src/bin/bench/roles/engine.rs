//! The engine in its roles.

use std::time::Duration;

use bytes::Bytes;
use iicp_core::bridge::Bridge;
use iicp_core::options::{
    BackendOptions, ClientOptions, DirectoryOptions, NodeOptions, QueueOptions, RuntimeOptions, TaskAuth,
};
use iicp_core::types::Payload;
use iicp_core::{CHAT, Client, Directory, Inbound, LiveNode, Node, Reply, Task};
use serde_json::json;

use super::{Operation, operation};
use crate::{Result, load};

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for development, in memory or with a file.
pub(super) async fn directory(path: Option<&str>) -> Result<(String, Directory)> {
    let mut options = DirectoryOptions::loopback();
    options.path = path.map(str::to_owned);
    let directory = Directory::bind(options).await?;
    Ok((directory.url(), directory))
}

/// An echo node, registered with a directory, that takes its time.
pub(super) async fn node(directory: &str, pause: Duration) -> Result<(String, LiveNode)> {
    echo(node_options(directory), pause).await
}

/// An echo node that counts and checks all that it can, and is never given too much.
pub(super) async fn careful_node(directory: &str) -> Result<(String, LiveNode)> {
    let mut options = node_options(directory);
    options.node_id = Some(super::NODE_ID.into());
    options.auth = TaskAuth::Required;
    (options.rate_per_origin, options.rate_per_ip) = (u32::MAX, u32::MAX);
    // Every task of the run has a nonce, and none may be forgotten.
    options.replay_bytes = 1 << 30;
    echo(options, Duration::ZERO).await
}

/// An echo node that looks at nothing that it need not look at.
pub(super) async fn open_node(directory: &str) -> Result<(String, LiveNode)> {
    let mut options = node_options(directory);
    options.auth = TaskAuth::Open;
    options.rate_per_origin = 0;
    options.replay_bytes = 1 << 30;
    echo(options, Duration::ZERO).await
}

fn node_options(directory: &str) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = directory.into();
    options.max_concurrent = 256;
    options
}

async fn echo(options: NodeOptions, pause: Duration) -> Result<(String, LiveNode)> {
    let serve = move |task: Inbound| async move {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(task.payload)
    };
    let node = Node::bind(options).await?.serve(serve).await?;
    if !node.is_registered() {
        return Err("the node could not register".into());
    }
    Ok((node.url(), node))
}

/// A node that asks for the credits of every task, and remembers next to nothing else of it.
pub(super) async fn earning_node(directory: &str) -> Result<(String, LiveNode)> {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = directory.into();
    options.max_concurrent = 256;
    options.receipts = true;
    (options.replay_bytes, options.result_bytes) = (64 << 10, 0);
    let serve = async |task: Inbound| Ok(Reply::from(task.payload).tokens_used(100));
    let node = Node::bind(options).await?.serve(serve).await?;
    Ok((node.url(), node))
}

/// A node that hands its tasks to an inference server.
pub(super) async fn backend_node(backend: &str) -> Result<(String, LiveNode)> {
    let mut options = NodeOptions::default();
    let mut server = BackendOptions::default();
    server.url = Some(backend.into());
    options.backend = Some(server);
    options.max_concurrent = 256;
    let node = Node::bind(options).await?.serve_backend().await?;
    Ok((node.url(), node))
}

/// The stub that the clients are measured with has no key: sealing has rows of its own.
fn client_of(directory: &str) -> Result<Client> {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    options.routing_policy.require_encryption = Some(false);
    Ok(Client::new(options)?)
}

/// A client as it is without any option: with tickets, sealing and guard.
pub(super) fn whole_client(directory: &str) -> Result<impl Operation> {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    let (client, payload) = (Client::new(options)?, Payload::from_json(load::payload())?);
    Ok(operation(move || {
        let (client, task) = (client.clone(), Task::new(CHAT, payload.clone()));
        async move {
            let done = client.submit(task).await?;
            if done.sealed { Ok(()) } else { Err("the task was not sealed".into()) }
        }
    }))
}

/// A client that submits along the route that it holds.
pub(super) fn client(directory: &str) -> Result<impl Operation> {
    let (client, payload) = (client_of(directory)?, Payload::from_json(load::payload())?);
    Ok(operation(move || {
        let (client, task) = (client.clone(), Task::new(CHAT, payload.clone()));
        async move {
            client.submit(task).await?;
            Ok(())
        }
    }))
}

/// The same, but each payload comes as a text of which nobody has made sure yet that it is JSON.
pub(super) fn checking_client(directory: &str) -> Result<impl Operation> {
    let (client, payload) = (client_of(directory)?, Bytes::from(load::payload()));
    Ok(operation(move || {
        let (client, payload) = (client.clone(), payload.clone());
        async move {
            client.submit(Task::new(CHAT, Payload::from_json(payload)?)).await?;
            Ok(())
        }
    }))
}

/// A host of the bridge as a language layer is one: it starts verbs and takes events on a thread of its own.
pub(super) struct Host {
    bridge: Bridge,
    queue: u64,
    client: u64,
    task: String,
    payload: Bytes,
}

impl Host {
    pub(super) fn new(directory: &str) -> Result<Self> {
        let bridge = Bridge::new(RuntimeOptions::default())?;
        let queue = bridge.queue_new(QueueOptions::default())?;
        let client = bridge.client_new(
            &json!({ "directory": directory, "routing_policy": { "require_encryption": false } }).to_string(),
        )?;
        let task = json!({ "intent": CHAT }).to_string();
        Ok(Host { bridge, queue, client, task, payload: load::payload().into() })
    }

    /// Submits `count` tasks, `in_flight` at a time.
    pub(super) fn submit_all(&self, count: u64, in_flight: u64) -> Result<()> {
        let start = |tag| self.bridge.submit(self.client, self.queue, &self.task, self.payload.clone(), tag);
        let mut started = in_flight.min(count);
        for tag in 0..started {
            start(tag)?;
        }
        let mut done = 0;
        while done < count {
            let first = self.bridge.queue_next(self.queue, PATIENCE)?.ok_or("no event came")?;
            for event in std::iter::once(first).chain(self.bridge.queue_drain(self.queue, 256)?) {
                if let Some(error) = event.error {
                    return Err(error.into());
                }
                done += 1;
                if started < count {
                    start(started)?;
                    started += 1;
                }
            }
        }
        Ok(())
    }
}
