//! How a node finds a way to be reached.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Validate, in_range};
use crate::error::Result;

/// How a node finds a way to be reached from outside: its own address, a port or a pinhole that its gateway opens, a
/// relay. What is found is advertised only once it was seen from outside, and looked after until the node stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct NatOptions {
    /// Whether a way is looked for.
    pub mode: NatMode,
    /// Whether the gateway is asked to map a port (UPnP, NAT-PMP, PCP).
    pub mapping: bool,
    /// Whether IPv6 is tried, and its firewall asked to be opened.
    pub ipv6: bool,
    /// Whether the node goes to a relay while nothing else does.
    pub relay: bool,
    /// For how long a gateway is asked to keep what it opens, in seconds; it is renewed after half of that.
    pub lease_s: u32,
    /// How often it is looked whether the way is still good, in milliseconds.
    pub check_interval_ms: u64,
}

/// When a node looks for a way to be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NatMode {
    /// When it listens on all addresses of its machine, registers with a directory elsewhere, and has neither `endpoint`
    /// nor `relay_worker`.
    #[default]
    Auto,
    /// Never.
    Off,
}

impl Default for NatOptions {
    fn default() -> Self {
        NatOptions {
            mode: NatMode::Auto,
            mapping: true,
            ipv6: true,
            relay: true,
            lease_s: 3_600,
            check_interval_ms: 20_000,
        }
    }
}

impl Validate for NatOptions {
    const WHAT: &'static str = "the ladder to be reached by";

    fn validate(&self) -> Result<()> {
        in_range(Self::WHAT, "lease_s", self.lease_s, 30, 86_400)?;
        in_range(Self::WHAT, "check_interval_ms", self.check_interval_ms, 1_000, 600_000)
    }
}
