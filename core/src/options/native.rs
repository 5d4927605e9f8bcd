//! How far the native framed transport is used.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far the native framed transport is used beside HTTP. Without TLS its frames can be read by whoever listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NativeTransport {
    /// Over TLS, and in plain text on this machine.
    #[default]
    Auto,
    /// In plain text everywhere; said once in the log.
    Any,
    /// HTTP alone.
    Off,
}
