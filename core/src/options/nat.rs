//! How a node finds a way to be reached.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Validate, in_range};
use crate::error::{Code, Error, Result};

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
    /// Whether a tunnel of somebody else is opened while nothing before it leads here; rather than a relay, if both may be.
    pub tunnel: NatTunnel,
    /// The program that opens it: a name that is looked for in `PATH`, or a path. It is never fetched, sees none of this
    /// process's secrets, and is stopped with the node.
    pub tunnel_program: String,
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

/// Which tunnel of somebody else a node may be reached through. What it leads to is not secret from whoever runs it: tasks that
/// are not sealed can be read there. One that exists already needs none of this: give its address as option `endpoint`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NatTunnel {
    /// None.
    #[default]
    Off,
    /// A quick tunnel of Cloudflare, opened by `cloudflared` if it is installed; it needs no account, and has another address
    /// each time. Native frames do not pass it.
    Quick,
}

impl Default for NatOptions {
    fn default() -> Self {
        NatOptions {
            mode: NatMode::Auto,
            mapping: true,
            ipv6: true,
            tunnel: NatTunnel::Off,
            tunnel_program: "cloudflared".to_owned(),
            relay: true,
            lease_s: 3_600,
            check_interval_ms: 20_000,
        }
    }
}

impl Validate for NatOptions {
    const WHAT: &'static str = "the ladder to be reached by";

    fn validate(&self) -> Result<()> {
        if self.tunnel_program.is_empty() {
            let why = "option `tunnel_program` of the ladder to be reached by is empty; leave it out for cloudflared";
            return Err(Error::of_options(Code::ConfigInvalid, why));
        }
        in_range(Self::WHAT, "lease_s", self.lease_s, 30, 86_400)?;
        in_range(Self::WHAT, "check_interval_ms", self.check_interval_ms, 1_000, 600_000)
    }
}
