//! What stands behind a stage whose nodes are reached through a relay and by no other way.

use std::time::{Duration, Instant};

use iicp_core::options::{DirectoryOptions, NodeOptions, RelayServerOptions, RelayWorkerOptions};
use iicp_core::{CHAT, Directory, Error, Inbound, LiveNode, Node, Reply};
use serde_json::Value;

use crate::http::{Conn, addr};

/// Longest until a node is bound, and listed where it is bound.
const PATIENCE: Duration = Duration::from_secs(10);

/// A relay that no directory lists, so that nobody takes it for one of the case's nodes.
pub struct Relay {
    node: LiveNode,
    /// Where its workers register if the case's directory takes no registrations: a worker needs one.
    directory: Directory,
}

impl Relay {
    /// # Errors
    /// What the library says.
    pub async fn start() -> Result<Relay, String> {
        let directory = Directory::bind(DirectoryOptions::loopback()).await.map_err(|e| e.to_string())?;
        let mut options = NodeOptions::default();
        options.intents = vec![CHAT.into()];
        options.node_id = Some("the-relay".into());
        let mut server = RelayServerOptions::default();
        // A case that begins many nodes is no flood.
        (server.port, server.binds_per_minute) = (0, 0);
        options.relay_server = Some(server);
        let node = Node::bind(options).await.map_err(|e| e.to_string())?;
        let itself = async |_: Inbound| Err::<Reply, _>(Error::rejected("the relay's own handler was called"));
        let node = node.serve(itself).await.map_err(|e| e.to_string())?;
        Ok(Relay { node, directory })
    }

    /// Has a node reached through this relay.
    pub fn lead(&self, options: &mut NodeOptions) {
        options.relay_worker = Some(self.worker());
        if options.directory.is_empty() {
            options.directory = self.directory.url();
        }
    }

    /// The option of a node that is reached through this relay.
    #[must_use]
    pub fn worker(&self) -> RelayWorkerOptions {
        let mut worker = RelayWorkerOptions::default();
        worker.relay = self.node.relay_addr().map(|addr| addr.to_string());
        worker
    }

    /// Waits until a node is bound, and its directory knows where; the relay's own directory if there is no other.
    ///
    /// # Errors
    /// What is still missing.
    pub async fn reached(&self, node_id: &str, directory: &str) -> Result<(), String> {
        let begun = Instant::now();
        let own = self.directory.url();
        let directory = addr(if directory.is_empty() { &own } else { directory });
        let path = format!("/v1/relay-for/{node_id}");
        let place = format!("{}{path}", self.node.url());
        let ask = async |addr, path: &str| Conn::open(addr).await?.get(path).await;
        loop {
            let health = ask(self.node.addr(), &format!("{path}/iicp/health")).await.map_err(|e| e.to_string())?;
            let entry = ask(directory, &format!("/v1/node/{node_id}")).await.map_err(|e| e.to_string())?;
            let listed = if entry.status == 200 { entry.json()["endpoint"].clone() } else { Value::Null };
            if health.status == 200 && listed == place {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{node_id} is not bound ({}), or listed at {listed}, not {place}", health.status));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
