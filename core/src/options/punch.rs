//! Whether direct paths past NATs are looked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether two peers whose gateways let nobody in look for a direct path, so that their tasks need not go through the relay.
/// The relay tells both as what it sees them and carries the first words between them, sealed; the path itself is QUIC over
/// UDP, and the two see each other's addresses. Whoever does not speak it is called through the relay as ever. It takes native
/// frames: with `native` off there is no such path, and none in builds without the feature `punch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Punch {
    /// Where the relay and the other side speak it.
    #[default]
    Auto,
    /// Never.
    Off,
}
