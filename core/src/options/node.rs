//! What a node is made with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Validate, check_names, check_node_id, check_region, check_timeout, in_range};
use crate::error::{Code, Error, Result};
use crate::types::Intent;

/// What a serving node offers and how much of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NodeOptions {
    /// Intents that the handler serves.
    pub intents: Vec<String>,
    /// Models that the handler serves, as discovery shows them.
    pub models: Vec<String>,
    /// Base URL of the directory to register with; empty: serve without registering.
    pub directory: String,
    /// Id of the node, at most 36 letters, digits, `.`, `_`, `:` or `-`; by default a fresh UUID.
    pub node_id: Option<String>,
    /// Folder for what must outlive the process: the node's sealing key. By default nothing is kept, and every start makes
    /// a new key. Needs `node_id`, whose key it is.
    pub state_dir: Option<String>,
    /// Region as the directory shows it: a letter, then letters, digits, `-` or `_`.
    pub region: String,
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// URL under which callers reach the node; by default the address it listens on.
    pub endpoint: Option<String>,
    /// Tasks that may run at the same time; one more is answered with `capacity_exceeded`.
    pub max_concurrent: u32,
    /// Token rate that is advertised to the directory.
    pub tokens_per_min: u32,
    /// Most tokens of one answer, as advertised to the directory.
    pub max_tokens: u32,
    /// Time of a task that names none, in milliseconds.
    pub default_timeout_ms: u64,
    /// The largest task body that is read, in bytes.
    pub max_body_bytes: usize,
    /// Connections held at the same time; by default what the process's descriptor limit allows, at most 16,384.
    pub max_connections: Option<usize>,
    /// Time to the end of a request's head, counted from its first byte (or from connecting), in milliseconds.
    pub header_timeout_ms: u64,
    /// How long a connection may wait for its next request, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Grace for a body or an answer to move on, in milliseconds; after it at least 1 KiB a second must pass.
    pub transfer_grace_ms: u64,
    /// Memory for remembering task ids, in bytes; the oldest are forgotten first.
    pub replay_bytes: usize,
    /// Memory for stored answers of finished tasks, in bytes; the oldest are dropped first.
    pub result_bytes: usize,
}

impl Default for NodeOptions {
    fn default() -> Self {
        NodeOptions {
            intents: Vec::new(),
            models: Vec::new(),
            directory: String::new(),
            node_id: None,
            state_dir: None,
            region: "unknown".into(),
            host: "127.0.0.1".into(),
            port: 0,
            endpoint: None,
            max_concurrent: 4,
            tokens_per_min: 10_000,
            max_tokens: 8_192,
            default_timeout_ms: 30_000,
            max_body_bytes: 16 << 20,
            max_connections: None,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 75_000,
            transfer_grace_ms: 10_000,
            replay_bytes: 64 << 20,
            result_bytes: 64 << 20,
        }
    }
}

impl Validate for NodeOptions {
    const WHAT: &'static str = "a node";

    fn validate(&self) -> Result<()> {
        if self.intents.is_empty() {
            return Err(Error::new(
                Code::ConfigInvalid,
                "option intents of a node is empty; name at least one intent to serve",
            ));
        }
        in_range(Self::WHAT, "intents", self.intents.len(), 1, 64)?;
        for intent in &self.intents {
            Intent::parse(intent)?;
        }
        in_range(Self::WHAT, "models", self.models.len(), 0, 64)?;
        check_names(Self::WHAT, "models", &self.models, 255)?;
        if let Some(node_id) = &self.node_id {
            check_node_id(node_id)?;
        }
        if let Some(state_dir) = &self.state_dir {
            check_names(Self::WHAT, "state_dir", &[state_dir], 4096)?;
            if self.node_id.is_none() {
                return Err(Error::new(
                    Code::ConfigInvalid,
                    "option state_dir of a node needs node_id: a key is kept for a node that keeps its id",
                ));
            }
        }
        check_region(Self::WHAT, &self.region)?;
        check_timeout(self.default_timeout_ms)?;
        in_range(Self::WHAT, "max_concurrent", self.max_concurrent, 1, 256)?;
        in_range(Self::WHAT, "tokens_per_min", self.tokens_per_min, 1, u32::MAX)?;
        in_range(Self::WHAT, "max_tokens", self.max_tokens, 1, u32::MAX)?;
        in_range(Self::WHAT, "max_body_bytes", self.max_body_bytes, 1 << 10, 1 << 30)?;
        in_range(Self::WHAT, "max_connections", self.max_connections.unwrap_or(1), 1, 1 << 20)?;
        in_range(Self::WHAT, "header_timeout_ms", self.header_timeout_ms, 100, 600_000)?;
        in_range(Self::WHAT, "idle_timeout_ms", self.idle_timeout_ms, 100, 3_600_000)?;
        in_range(Self::WHAT, "transfer_grace_ms", self.transfer_grace_ms, 100, 600_000)?;
        in_range(Self::WHAT, "replay_bytes", self.replay_bytes, 64 << 10, 1 << 34)?;
        in_range(Self::WHAT, "result_bytes", self.result_bytes, 0, 1 << 34)
    }
}
