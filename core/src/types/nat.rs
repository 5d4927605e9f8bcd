//! What a node found out about how it can be reached.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a node can be reached from outside: what was tried, what came back, what to do about it. `Display` is the same as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct NatReport {
    /// The rung that the node is reached by; none if nobody reaches it, or if the ladder was not asked.
    pub reached_by: Option<Rung>,
    /// The URL that is advertised for it.
    pub endpoint: Option<String>,
    /// Addresses of this machine, as far as they are of use.
    pub interfaces: Vec<Interface>,
    /// The gateways that lead outside, for IPv4 and IPv6.
    pub gateways: Vec<String>,
    /// By what a container was recognised, if this is one.
    pub container: Option<String>,
    /// The address that a gateway says it has outside.
    pub wan_address: Option<String>,
    /// Whether there is another NAT behind the gateway: its outer address is none of the open network.
    pub double_nat: bool,
    /// What was tried, in the order of preference.
    pub rungs: Vec<RungReport>,
    /// How long the last climb took, in milliseconds.
    pub took_ms: u64,
    /// How often the ladder was climbed.
    pub climbs: u64,
}

/// An address of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct Interface {
    /// Name of the interface.
    pub name: String,
    /// The address.
    pub address: String,
    /// Whether the address is one of the open network.
    pub public: bool,
    /// Whether the system will replace the address by another one by and by (RFC 8981).
    pub temporary: bool,
    /// Whether the interface looks like that of a VPN.
    pub vpn: bool,
}

/// A way to be reached, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rung {
    /// A public IPv4 address of this machine.
    DirectIpv4,
    /// A port that the gateway opened when it was asked by PCP (RFC 6887).
    Pcp,
    /// The same by NAT-PMP (RFC 6886).
    NatPmp,
    /// The same by UPnP.
    Upnp,
    /// A public IPv6 address of this machine.
    DirectIpv6,
    /// The same, after the gateway's firewall was opened for it.
    Ipv6Pinhole,
    /// Past the gateway's NAT and the caller's, by a path that both look for at the same time. Beside a relay, which they need
    /// for that.
    HolePunching,
    /// A tunnel that a program of somebody else opened.
    QuickTunnel,
    /// A relay.
    Relay,
}

/// What became of a rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RungState {
    /// Not needed, switched off, or nothing to try it with.
    #[default]
    NotTried,
    /// Tried, and nobody gets in this way.
    Failed,
    /// Seen from outside, and taken.
    Reached,
}

/// What was tried on a rung.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct RungReport {
    /// Which one.
    pub rung: Rung,
    /// What became of it.
    pub state: RungState,
    /// What was done and what came back, line by line.
    pub lines: Vec<String>,
    /// What to do about it, if there is anything.
    pub fix: Option<String>,
}

impl Rung {
    /// The name, as JSON has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Rung::DirectIpv4 => "direct_ipv4",
            Rung::Pcp => "pcp",
            Rung::NatPmp => "nat_pmp",
            Rung::Upnp => "upnp",
            Rung::DirectIpv6 => "direct_ipv6",
            Rung::Ipv6Pinhole => "ipv6_pinhole",
            Rung::HolePunching => "hole_punching",
            Rung::QuickTunnel => "quick_tunnel",
            Rung::Relay => "relay",
        }
    }
}

impl RungReport {
    pub(crate) fn new(rung: Rung) -> Self {
        RungReport { rung, state: RungState::NotTried, lines: Vec::new(), fix: None }
    }

    /// Adds a line; a hostile network does not make the report endless.
    pub(crate) fn say(&mut self, line: impl Into<String>) {
        const MOST: usize = 32;
        let line = line.into();
        if self.lines.len() < MOST && !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    pub(crate) fn fail(&mut self, line: impl Into<String>, fix: &str) {
        self.say(line);
        self.state = RungState::Failed;
        self.fix = (!fix.is_empty()).then(|| fix.to_owned());
    }
}

impl NatReport {
    /// What is known of a rung.
    #[must_use]
    pub fn rung(&self, rung: Rung) -> Option<&RungReport> {
        self.rungs.iter().find(|report| report.rung == rung)
    }
}

impl fmt::Display for NatReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.endpoint, self.reached_by) {
            (Some(endpoint), Some(rung)) => writeln!(f, "reached at {endpoint} ({})", rung.as_str())?,
            _ => writeln!(f, "not reached from outside")?,
        }
        for interface in &self.interfaces {
            let marks = [(interface.public, " public"), (interface.temporary, " temporary"), (interface.vpn, " VPN")];
            let marks: String = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
            writeln!(f, "address {} on {}{marks}", interface.address, interface.name)?;
        }
        self.gateways.iter().try_for_each(|gateway| writeln!(f, "gateway {gateway}"))?;
        if let Some(container) = &self.container {
            writeln!(f, "in a container ({container})")?;
        }
        if let Some(wan) = &self.wan_address {
            writeln!(f, "outer address {wan}{}", if self.double_nat { ", behind another NAT" } else { "" })?;
        }
        for rung in &self.rungs {
            let state = match rung.state {
                RungState::NotTried => "not tried",
                RungState::Failed => "no",
                RungState::Reached => "yes",
            };
            writeln!(f, "{}: {state}", rung.rung.as_str())?;
            rung.lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
            if let Some(fix) = &rung.fix {
                writeln!(f, "  what to do: {fix}")?;
            }
        }
        Ok(())
    }
}
