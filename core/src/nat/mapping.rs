//! A port that a gateway opened, or a hole in its firewall: how it is asked for, kept and given back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::asking::{self, NoAnswer};
use super::igd::{Failure, Igd};
use super::surroundings::{Gateway, is_public};
use crate::crypto::digest::random;
use crate::protocol::lease::{Epoch, Lease};
use crate::types::RungReport;
use crate::wire::port_control::{self as wire, Nonce, Wish};
use crate::wire::upnp::Service;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Other ports that are tried where the one that suits is taken.
const MOST_PORTS: u32 = 4;
/// Gateways keep the ports below for themselves.
const FIRST_PORT: u16 = 1_024;
const BY_HAND: &str = "map the port by hand in the gateway's settings, and set option endpoint";
const ALLOW: &str = "allow this machine to open ports (UPnP, NAT-PMP or PCP) in the gateway's settings";
const TCP: &str = "TCP";
const ABOUT: &str = "iicp node";

/// How the gateway is asked.
#[derive(Clone, Debug)]
pub(crate) enum Tool {
    Pcp(Nonce),
    NatPmp,
    Upnp(Igd),
    /// For a hole in the firewall of IPv6: the id that the gateway gave it.
    Pinhole(Igd, Option<String>),
}

/// What the gateway opened.
#[derive(Debug)]
pub(crate) struct Mapping {
    tool: Tool,
    gateway: Gateway,
    internal: SocketAddr,
    pub(crate) external: SocketAddr,
    /// When it was opened.
    since: Instant,
    lease: Lease,
    /// What the gateway's clock said, if it has one.
    epoch: Option<Epoch>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) gateway: Gateway,
    pub(crate) internal: SocketAddr,
    /// The external port that would suit.
    pub(crate) external: u16,
    pub(crate) lease_s: u32,
}

impl Order {
    fn wish(&self, lifetime: u32) -> Wish {
        Wish { client: self.internal.ip(), internal: self.internal.port(), external: self.external, lifetime }
    }
}

impl Tool {
    /// Opens the port. What the gateway says, and what is to be done about it, goes into the report.
    pub(crate) async fn open(self, order: &Order, deadline: Instant, report: &mut RungReport) -> Option<Mapping> {
        let deadline = deadline.min(Instant::now() + 2 * PATIENCE);
        let (tool, external, lifetime, epoch) = match self {
            Tool::Pcp(nonce) => {
                let given = asking::pcp(&order.gateway, &order.wish(order.lease_s), &nonce, deadline, report).await;
                let given = said(given, true, report)?;
                let external = SocketAddr::new(given.external_ip?, given.external);
                (Tool::Pcp(nonce), external, given.lifetime, Some(given.epoch))
            }
            Tool::NatPmp => {
                let read = wire::read_address;
                let (gateway, ours) = (&order.gateway, order.internal.ip());
                let address = asking::ask(gateway, ours, &wire::ASK_ADDRESS, deadline, report, read).await;
                let (_, ip) = said(address, false, report)?;
                if !is_public(ip.into()) {
                    // There is no sense in a port that nobody outside can name.
                    return Some(Mapping::new(Tool::NatPmp, order, SocketAddr::new(ip.into(), 0), 0, None));
                }
                let given = asking::nat_pmp(gateway, &order.wish(order.lease_s), deadline, report).await;
                let given = said(given, false, report)?;
                (Tool::NatPmp, SocketAddr::new(ip.into(), given.external), given.lifetime, Some(given.epoch))
            }
            Tool::Upnp(igd) => {
                let (external, lifetime) = upnp_open(&igd, order, deadline, report).await?;
                (Tool::Upnp(igd), external, lifetime, None)
            }
            Tool::Pinhole(igd, _) => {
                let id = pinhole_open(&igd, order, deadline, report).await?;
                (Tool::Pinhole(igd, Some(id)), order.internal, order.lease_s, None)
            }
        };
        let is_upnp = matches!(tool, Tool::Upnp(_) | Tool::Pinhole(..));
        if external.port() == 0 && is_public(external.ip()) || lifetime == 0 && !is_upnp {
            report.fail("the gateway gave a mapping without port or time; not taken", BY_HAND);
            return None;
        }
        let time = if lifetime == 0 { String::new() } else { format!(" for {lifetime} s") };
        report.say(format!("the gateway opened {external}{time}"));
        Some(Mapping::new(tool, order, external, lifetime, epoch))
    }
}

impl Mapping {
    fn new(tool: Tool, order: &Order, external: SocketAddr, lifetime: u32, epoch: Option<u32>) -> Self {
        Mapping {
            tool,
            gateway: order.gateway.clone(),
            internal: order.internal,
            external,
            since: Instant::now(),
            lease: Lease::new(lifetime, Duration::ZERO),
            epoch: epoch.map(|seconds| Epoch::new(seconds, Duration::ZERO)),
        }
    }

    fn order(&self, lease_s: u32) -> Order {
        let gateway = self.gateway.clone();
        Order { gateway, internal: self.internal, external: self.external.port(), lease_s }
    }

    /// When more time must be asked for, if it was given for a time.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.lease.due().map(|due| self.since + due)
    }

    /// Whether the gateway still has it; asks for more time if half of it is over. False if it must be opened anew.
    pub(crate) async fn is_kept(&mut self, lease_s: u32, report: &mut RungReport) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let now = self.since.elapsed();
        let is_due = self.lease.is_due(now);
        let order = self.order(lease_s);
        match (&self.tool, is_due) {
            (Tool::Pcp(_) | Tool::NatPmp, true) => {
                let Some(renewed) = self.tool.clone().open(&order, deadline, report).await else { return false };
                let is_same = renewed.external == self.external;
                // Also a mapping that moved has to be given back some day.
                *self = renewed;
                is_same
            }
            // Which gateways of PCP always understand as well, and which says when they began to remember.
            (Tool::Pcp(_) | Tool::NatPmp, false) => {
                let read = wire::read_address;
                let ours = self.internal.ip();
                let asked = asking::ask(&self.gateway, ours, &wire::ASK_ADDRESS, deadline, report, read).await;
                match asked {
                    Ok((epoch, ip)) => {
                        let has_moved = self.external.is_ipv4() && self.external.ip() != IpAddr::V4(ip);
                        let has_forgotten = self.epoch.as_mut().is_some_and(|last| last.has_forgotten(epoch, now));
                        !has_moved && !has_forgotten
                    }
                    // It may speak PCP alone; what outside sees says the rest.
                    Err(NoAnswer::Refused(_)) => true,
                    Err(NoAnswer::Silent) => false,
                }
            }
            (Tool::Upnp(igd), is_due) => {
                let left = upnp_kept(igd, &order, self.external, is_due, deadline).await;
                let lease = if is_due { Lease::new(lease_s, now) } else { self.lease };
                self.lease = lease.shortened(left.unwrap_or(0), now);
                left.is_some()
            }
            (Tool::Pinhole(igd, Some(id)), _) => {
                let Some(firewall) = &igd.can.firewall else { return false };
                let arguments = [("UniqueID", id.clone()), ("NewLeaseTime", lease_s.to_string())];
                let kept = igd.call(firewall, "UpdatePinhole", &arguments, deadline).await.is_ok();
                self.lease = Lease::new(lease_s, now);
                kept
            }
            (Tool::Pinhole(_, None), _) => false,
        }
    }

    /// Gives it back. A gateway that does not answer closes it by itself when its time is over.
    pub(crate) async fn close(self, report: &mut RungReport) {
        if self.external.port() == 0 {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        let order = self.order(0);
        let (gone, port) = (order.wish(0), self.external.port());
        let closed = match &self.tool {
            Tool::Pcp(nonce) => asking::pcp(&self.gateway, &gone, nonce, deadline, report).await.is_ok(),
            Tool::NatPmp => asking::nat_pmp(&self.gateway, &gone, deadline, report).await.is_ok(),
            Tool::Upnp(igd) => match &igd.can.mapper {
                // Meanwhile another machine may have got it.
                Some(mapper) if matches!(owned(igd, mapper, &order, port, deadline).await, Owned::Another) => {
                    report.say(format!("port {port} is another machine's now, and was left to it"));
                    return;
                }
                Some(mapper) => igd.call(mapper, "DeletePortMapping", &named(port), deadline).await.is_ok(),
                None => false,
            },
            Tool::Pinhole(igd, id) => match (&igd.can.firewall, id) {
                (Some(firewall), Some(id)) => {
                    igd.call(firewall, "DeletePinhole", &[("UniqueID", id.clone())], deadline).await.is_ok()
                }
                _ => false,
            },
        };
        report.say(if closed { "given back to the gateway" } else { "the gateway did not take it back" });
    }
}

fn said<T>(answer: Result<T, NoAnswer>, is_pcp: bool, report: &mut RungReport) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(NoAnswer::Silent) => {
            report.fail("the gateway does not answer", "switch it on in the gateway's settings, if it has it");
            None
        }
        Err(NoAnswer::Refused(number)) => {
            let (why, fix) = wire::refusal(number, is_pcp);
            report.fail(format!("{why} (result {number})"), fix);
            None
        }
    }
}

fn failed(failure: &Failure, report: &mut RungReport) {
    match failure {
        Failure::Broken(why) => report.fail(why.clone(), BY_HAND),
        Failure::Code(code, said) => {
            let (why, fix) = meaning(*code);
            report.fail(format!("{why} ({code} {said})"), fix);
        }
    }
}

/// What a gateway's number means, and what to do about it.
fn meaning(code: u16) -> (&'static str, &'static str) {
    match code {
        401 => ("the gateway does not know the action", BY_HAND),
        606 => ("the gateway does not let this machine ask", ALLOW),
        703 | 718 | 729 => {
            ("the port is taken by another machine", "choose another option port, or remove that mapping")
        }
        724 => ("the gateway maps a port only to the same port", "choose another option port"),
        725 => ("the gateway opens ports for ever only", "remove the mapping by hand should the node be killed"),
        728 => ("the gateway has no port left", "remove mappings in the gateway's settings, or restart it"),
        704 => ("the gateway does not know the pinhole", ALLOW),
        _ => ("the gateway refused", BY_HAND),
    }
}

/// The gateway's own address outside.
pub(crate) async fn outer(igd: &Igd, mapper: &Service, deadline: Instant) -> Result<IpAddr, Failure> {
    let answer = igd.call(mapper, "GetExternalIPAddress", &[], deadline).await?;
    let ip = answer.text_of("NewExternalIPAddress").and_then(|ip| ip.parse().ok());
    ip.filter(|ip: &IpAddr| ip.is_ipv4() && !ip.is_unspecified())
        .ok_or_else(|| Failure::Broken("the gateway knows no address of its own outside".to_owned()))
}

async fn upnp_open(igd: &Igd, order: &Order, deadline: Instant, report: &mut RungReport) -> Option<(SocketAddr, u32)> {
    let mapper = igd.can.mapper.as_ref()?;
    let ip = match outer(igd, mapper, deadline).await {
        Ok(ip) => ip,
        Err(failure) => {
            failed(&failure, report);
            return None;
        }
    };
    if !is_public(ip) {
        return Some((SocketAddr::new(ip, 0), 0));
    }
    let (mut port, mut lifetime, mut tried) = (order.external.max(FIRST_PORT), order.lease_s, 0);
    loop {
        let asked = igd.call(mapper, "AddPortMapping", &mapping(order, port, lifetime), deadline).await;
        match asked {
            Ok(_) => return Some((SocketAddr::new(ip, port), lifetime)),
            Err(Failure::Code(725, _)) if lifetime != 0 => {
                report.say("the gateway opens ports for ever only (725); it is asked to close it at the end");
                lifetime = 0;
            }
            Err(Failure::Code(718 | 729 | 724, _)) if tried == 0 && mapper.chooses_ports() => {
                report.say(format!("port {port} is taken; the gateway is asked to choose one"));
                tried = 1;
                let any = igd.call(mapper, "AddAnyPortMapping", &mapping(order, port, lifetime), deadline).await;
                let given = any.ok().and_then(|given| given.text_of("NewReservedPort")?.parse::<u16>().ok());
                if let Some(given) = given.filter(|given| *given >= FIRST_PORT) {
                    return Some((SocketAddr::new(ip, given), lifetime));
                }
            }
            Err(Failure::Code(718 | 729, _)) if tried < MOST_PORTS => {
                report.say(format!("port {port} is taken; another one is tried"));
                tried += 1;
                port = any_port()?;
            }
            Err(failure) => {
                failed(&failure, report);
                return None;
            }
        }
    }
}

fn any_port() -> Option<u16> {
    let random: [u8; 2] = random().ok()?;
    Some(20_000 + u16::from_be_bytes(random) % 40_000)
}

fn mapping(order: &Order, port: u16, lifetime: u32) -> [(&'static str, String); 8] {
    [
        ("NewRemoteHost", String::new()),
        ("NewExternalPort", port.to_string()),
        ("NewProtocol", TCP.to_owned()),
        ("NewInternalPort", order.internal.port().to_string()),
        ("NewInternalClient", order.internal.ip().to_string()),
        ("NewEnabled", "1".to_owned()),
        ("NewPortMappingDescription", ABOUT.to_owned()),
        ("NewLeaseDuration", lifetime.to_string()),
    ]
}

/// Whether the gateway still maps the port to us, under the same address; renews it if that is due. Returns how much of its
/// time is left, as far as the gateway says so; 0: it does not, or it has no end.
async fn upnp_kept(igd: &Igd, order: &Order, external: SocketAddr, is_due: bool, deadline: Instant) -> Option<u32> {
    let mapper = igd.can.mapper.as_ref()?;
    if outer(igd, mapper, deadline).await != Ok(external.ip()) {
        return None;
    }
    if is_due {
        let mapping = mapping(order, external.port(), order.lease_s);
        igd.call(mapper, "AddPortMapping", &mapping, deadline).await.ok()?;
    }
    match owned(igd, mapper, order, external.port(), deadline).await {
        Owned::Ours(left) => Some(left),
        Owned::Unsaid => Some(0),
        Owned::Another | Owned::Nobody => None,
    }
}

/// Whose a port is.
enum Owned {
    /// For so many seconds; 0: for ever, or it is not said.
    Ours(u32),
    Another,
    Nobody,
    /// There are gateways that do not tell.
    Unsaid,
}

async fn owned(igd: &Igd, mapper: &Service, order: &Order, port: u16, deadline: Instant) -> Owned {
    match igd.call(mapper, "GetSpecificPortMappingEntry", &named(port), deadline).await {
        Ok(entry) => {
            let client = entry.text_of("NewInternalClient").and_then(|ip| ip.parse().ok());
            let internal = entry.text_of("NewInternalPort").and_then(|port| port.parse().ok());
            let left = entry.text_of("NewLeaseDuration").and_then(|left| left.parse().ok());
            let is_ours = client == Some(order.internal.ip()) && internal == Some(order.internal.port());
            if is_ours { Owned::Ours(left.unwrap_or(0)) } else { Owned::Another }
        }
        Err(Failure::Code(714, _) | Failure::Broken(_)) => Owned::Nobody,
        Err(Failure::Code(..)) => Owned::Unsaid,
    }
}

/// A port of the gateway, as UPnP names it.
fn named(port: u16) -> [(&'static str, String); 3] {
    [("NewRemoteHost", String::new()), ("NewExternalPort", port.to_string()), ("NewProtocol", TCP.to_owned())]
}

async fn pinhole_open(igd: &Igd, order: &Order, deadline: Instant, report: &mut RungReport) -> Option<String> {
    let firewall = igd.can.firewall.as_ref()?;
    let arguments = [
        ("RemoteHost", String::new()),
        ("RemotePort", "0".to_owned()),
        ("InternalClient", order.internal.ip().to_string()),
        ("InternalPort", order.internal.port().to_string()),
        ("Protocol", "6".to_owned()),
        ("LeaseTime", order.lease_s.to_string()),
    ];
    match igd.call(firewall, "AddPinhole", &arguments, deadline).await {
        Ok(given) => {
            let id = given.text_of("UniqueID").filter(|id| id.len() <= 16).map(str::to_owned);
            if id.is_none() {
                report.fail("the gateway opened a pinhole and did not say which", BY_HAND);
            }
            id
        }
        Err(failure) => {
            failed(&failure, report);
            None
        }
    }
}
