//! What an embedded directory is made with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tls::check_trusted_ca;
use super::{Validate, in_range};
use crate::error::{Code, Error, Result};

/// The embedded directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DirectoryOptions {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Whether a node's health is asked before it is registered.
    pub probe: bool,
    /// Whether requests are rate limited as on the public directory.
    pub limits: bool,
    /// Whether `interactive` and `realtime` tasks only see nodes with a record of finished tasks.
    pub qos_gating: bool,
    /// How often nodes are asked to report, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a silent node stays in discovery, in milliseconds.
    pub node_ttl_ms: u64,
    /// Nodes that may be registered at the same time.
    pub max_nodes: usize,
    /// File for what must outlive the process: registrations and the directory's keys. It is made if it is not there, for
    /// its owner alone. By default nothing is kept. Needs a build with SQLite; any other refuses it as `UNSUPPORTED`.
    pub path: Option<String>,
    /// Certificates of authorities that are trusted beside the system's when nodes are asked for their health: path of a PEM
    /// file, or its text.
    #[schemars(extend("contentMediaType" = "application/x-pem-file"))]
    pub trusted_ca: Option<String>,
}

impl DirectoryOptions {
    /// A directory for development on this machine: nothing is probed, limited or gated.
    #[must_use]
    pub fn loopback() -> Self {
        DirectoryOptions { probe: false, limits: false, qos_gating: false, ..DirectoryOptions::default() }
    }
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        DirectoryOptions {
            host: "127.0.0.1".into(),
            port: 0,
            probe: true,
            limits: true,
            qos_gating: true,
            heartbeat_ms: 30_000,
            node_ttl_ms: 90_000,
            max_nodes: 10_000,
            path: None,
            trusted_ca: None,
        }
    }
}

impl Validate for DirectoryOptions {
    const WHAT: &'static str = "a directory";

    fn validate(&self) -> Result<()> {
        in_range(Self::WHAT, "heartbeat_ms", self.heartbeat_ms, 50, 600_000)?;
        in_range(Self::WHAT, "node_ttl_ms", self.node_ttl_ms, 50, 3_600_000)?;
        in_range(Self::WHAT, "max_nodes", self.max_nodes, 1, 1_000_000)?;
        if self.path.as_deref().is_some_and(|path| path.is_empty() || path.contains('\0')) {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `path` of a directory must be the path of a file",
            ));
        }
        check_trusted_ca(Self::WHAT, self.trusted_ca.as_deref())
    }
}
