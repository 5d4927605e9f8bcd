//! Whether the lab is what it is said to be, by plain sockets: before the engine enters, every topology proves its NAT.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::Outcome;
use crate::ports;
use crate::rules::Nat;
use crate::space::Space;
use crate::world::{
    CONSUMER, CONSUMER6, DIRECTORY, DIRECTORY6, GATEWAY, GATEWAY6, Igd, NODE, NODE_PUBLIC, NODE6, RELAYS, RELAYS6,
    World,
};

const INSIDE: u16 = 40_000;
const OUTSIDE: u16 = 7_000;
/// Where the node will listen.
const PORT: u16 = 9_484;
/// How long to wait for what must come, and for what must not.
const PATIENCE: Duration = Duration::from_secs(3);
const SILENCE: Duration = Duration::from_millis(400);
const LEASE: u32 = 600;

/// What a NAT does with UDP.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    /// All destinations see the same address and port.
    same_for_all: bool,
    /// A port lets in who was never sent anything.
    lets_in_anybody: bool,
    /// It lets in an address it has sent to, from another port.
    lets_in_other_ports: bool,
}

/// Proves a topology.
pub(crate) fn prove(world: &World) -> Outcome {
    let plan = &world.plan;
    if plan.gateways == 0 {
        let socket = bind(&world.node, SocketAddr::from(([0, 0, 0, 0], INSIDE)))?;
        return match socket.send_to(b"?", (DIRECTORY, OUTSIDE)) {
            Err(_) => Ok(()),
            Ok(_) => Err("there is a way out, and there should be none".into()),
        };
    }
    let wanted = match (plan.nat, plan.shared) {
        (None, _) => Behaviour { same_for_all: true, lets_in_anybody: true, lets_in_other_ports: true },
        (Some(Nat::FullCone), false) => {
            Behaviour { same_for_all: true, lets_in_anybody: true, lets_in_other_ports: true }
        }
        (Some(Nat::Restricted), false) => {
            Behaviour { same_for_all: true, lets_in_anybody: false, lets_in_other_ports: true }
        }
        (Some(Nat::Symmetric), _) => {
            Behaviour { same_for_all: false, lets_in_anybody: false, lets_in_other_ports: false }
        }
        _ => Behaviour { same_for_all: true, lets_in_anybody: false, lets_in_other_ports: false },
    };
    let found = behaviour(world)?;
    if found != wanted {
        return Err(format!("it behaves as {found:?}, and should as {wanted:?}"));
    }
    let port = SocketAddr::new(address(world.seen_as())?, PORT);
    let home = address(if plan.ipv6_only { NODE6 } else { NODE })?;
    let listening = SocketAddr::new(if plan.nat.is_none() { address(NODE_PUBLIC)? } else { home }, PORT);
    let listener = world.node.within(|| TcpListener::bind(listening))?.map_err(|e| format!("{listening}: {e}"))?;
    is_open(world, port, plan.nat.is_none())?;
    let before = world.gateway(0).map(Space::rules).transpose()?;
    match plan.igd {
        Some(igd) if plan.ipv6_only => pinhole(world, igd, port)?,
        Some(igd) => mapping(world, igd, port)?,
        None => {}
    }
    let after = world.gateway(0).map(Space::rules).transpose()?;
    if before != after {
        return Err(format!("the gateway kept something: before\n{before:?}\nafter\n{after:?}"));
    }
    drop(listener);
    Ok(())
}

fn address(text: &str) -> Outcome<IpAddr> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}

fn bind(space: &Space, at: SocketAddr) -> Outcome<UdpSocket> {
    let socket = space.within(|| UdpSocket::bind(at))?.map_err(|e| format!("{} at {at}: {e}", space.name()))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    Ok(socket)
}

/// Sends from inside to two places, and from three places back.
fn behaviour(world: &World) -> Outcome<Behaviour> {
    let six = world.plan.ipv6_only;
    let ours = if six { "::" } else { "0.0.0.0" };
    let inside = bind(&world.node, SocketAddr::new(address(ours)?, INSIDE))?;
    let outside = |space: &Space, four: &str, of6: &str, port: u16| {
        bind(space, SocketAddr::new(address(if six { of6 } else { four })?, port))
    };
    let first = outside(&world.directory, DIRECTORY, DIRECTORY6, OUTSIDE)?;
    let first_other = outside(&world.directory, DIRECTORY, DIRECTORY6, OUTSIDE + 1)?;
    let second = outside(&world.consumer, CONSUMER, CONSUMER6, OUTSIDE)?;
    let stranger = outside(&world.relays[0], RELAYS[0], RELAYS6[0], OUTSIDE)?;
    let seen_by = |observer: &UdpSocket| -> Outcome<SocketAddr> {
        let to = observer.local_addr().map_err(|e| e.to_string())?;
        for _ in 0..5 {
            inside.send_to(b"?", to).map_err(|e| format!("to {to}: {e}"))?;
            observer.set_read_timeout(Some(Duration::from_millis(600))).map_err(|e| e.to_string())?;
            if let Ok((_, from)) = observer.recv_from(&mut [0; 16]) {
                return Ok(from);
            }
        }
        Err(format!("nothing arrives at {to}"))
    };
    let (by_first, by_second) = (seen_by(&first)?, seen_by(&second)?);
    if by_first.ip() != address(world.seen_as())? {
        return Err(format!("it is seen as {by_first}, and should be as {}", world.seen_as()));
    }
    let comes_in = |from: &UdpSocket, word: u8, patience: Duration| -> Outcome<bool> {
        let _ = from.send_to(&[word], by_first);
        inside.set_read_timeout(Some(patience)).map_err(|e| e.to_string())?;
        let mut byte = [0];
        Ok(inside.recv_from(&mut byte).is_ok() && byte[0] == word)
    };
    let lets_in_anybody = comes_in(&stranger, 1, SILENCE)?;
    let lets_in_other_ports = comes_in(&first_other, 2, SILENCE)?;
    if !comes_in(&first, 3, PATIENCE)? {
        return Err(format!("the answer of {DIRECTORY} does not come in"));
    }
    Ok(Behaviour { same_for_all: by_first == by_second, lets_in_anybody, lets_in_other_ports })
}

/// Whether a place is open to the consumer; one that is not must be silent.
fn is_open(world: &World, place: SocketAddr, wanted: bool) -> Outcome {
    let patience = if wanted { PATIENCE } else { 2 * SILENCE };
    match (world.consumer.within(|| TcpStream::connect_timeout(&place, patience))?, wanted) {
        (Ok(_), true) => Ok(()),
        (Err(error), false) if error.kind() == ErrorKind::TimedOut => Ok(()),
        (Ok(_), false) => Err(format!("{place} is open, and should not be")),
        (Err(error), _) => Err(format!("{place}: {error}")),
    }
}

/// Every protocol of the gateway opens a port and closes it again; the others are silent.
fn mapping(world: &World, igd: Igd, place: SocketAddr) -> Outcome {
    let (gateway, ours) = (address(GATEWAY)?, address(NODE)?);
    let inside = |work: &(dyn Fn() -> Outcome + Sync)| world.node.within(work)?;
    let opens = |what: &str, open: &(dyn Fn(u32) -> Outcome<u16> + Sync)| -> Outcome {
        let shown = |e: String| format!("{what}: {e}\n{}", world.log());
        let given = world.node.within(|| open(LEASE))?;
        if world.plan.shared {
            // Its own address is none of the open network: it says so, or opens what leads nowhere.
            is_open(world, place, false).map_err(shown)?;
            return if igd == Igd::Lying { world.node.within(|| open(0))?.map(drop).map_err(shown) } else { Ok(()) };
        }
        let given = given.map_err(shown)?;
        is_open(world, SocketAddr::new(place.ip(), given), true).map_err(shown)?;
        world.node.within(|| open(0))?.map_err(shown)?;
        is_open(world, SocketAddr::new(place.ip(), given), false).map_err(shown)
    };
    let by_nat_pmp = |lifetime| ports::nat_pmp(gateway, PORT, lifetime);
    let by_pcp = |lifetime| ports::pcp(SocketAddr::new(gateway, 5351), ours, PORT, lifetime);
    let service = if igd == Igd::Upnp1 { 1 } else { 2 };
    let service = format!("urn:schemas-upnp-org:service:WANIPConnection:{service}");
    let by_upnp = |lifetime| {
        let outside = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{PORT}</NewExternalPort><NewProtocol>TCP</NewProtocol>"
        );
        let (action, more) = match lifetime {
            0 => ("DeletePortMapping", String::new()),
            _ => (
                "AddPortMapping",
                format!(
                    "<NewInternalPort>{PORT}</NewInternalPort><NewInternalClient>{NODE}</NewInternalClient>\
                     <NewEnabled>1</NewEnabled><NewPortMappingDescription>lab</NewPortMappingDescription>\
                     <NewLeaseDuration>{lifetime}</NewLeaseDuration>"
                ),
            ),
        };
        let gateway = SocketAddr::new(gateway, 5000);
        ports::soap(gateway, "/ctl/IPConn", &service, action, &(outside + &more)).map(|_| PORT)
    };
    if matches!(igd, Igd::NatPmp | Igd::Any | Igd::Lying) {
        opens("NAT-PMP", &by_nat_pmp)?;
    }
    if matches!(igd, Igd::Pcp | Igd::Any | Igd::Lying) {
        opens("PCP", &by_pcp)?;
    }
    if matches!(igd, Igd::Upnp1 | Igd::Upnp2 | Igd::Any | Igd::Lying) {
        let version = if igd == Igd::Upnp1 { 1 } else { 2 };
        let target = format!("urn:schemas-upnp-org:device:InternetGatewayDevice:{version}");
        inside(&|| {
            for place in [SocketAddr::new(gateway, 1900), SocketAddr::from(([239, 255, 255, 250], 1900))] {
                let location = ports::search(place, &target).map_err(|e| format!("SSDP at {place}: {e}"))?;
                // Where there are two, everybody who is there answers a search that goes to all.
                let is_other = place.ip().is_multicast() && world.plan.gateways > 1;
                if !is_other && !location.starts_with(&format!("http://{GATEWAY}:5000/")) {
                    return Err(format!("SSDP at {place} leads to {location}"));
                }
            }
            Ok(())
        })?;
        opens("UPnP", &by_upnp)?;
    }
    let silent = match igd {
        Igd::NatPmp => world.node.within(|| by_pcp(LEASE))?.is_err() && world.node.within(|| by_upnp(LEASE))?.is_err(),
        Igd::Pcp => world.node.within(|| by_nat_pmp(LEASE))?.is_err() && world.node.within(|| by_upnp(LEASE))?.is_err(),
        Igd::Upnp1 | Igd::Upnp2 => world.node.within(|| by_nat_pmp(LEASE))?.is_err(),
        Igd::Any | Igd::Lying => true,
    };
    if silent { Ok(()) } else { Err("the gateway has more protocols than it should".into()) }
}

/// The firewall of IPv6 opens when the very address asks, and closes again.
fn pinhole(world: &World, _igd: Igd, place: SocketAddr) -> Outcome {
    let scope = world.node.within(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"))?;
    let scope = scope.map_err(|e| e.to_string())?;
    let scope = scope.lines().find(|line| line.ends_with("eth0")).and_then(|line| line.split_whitespace().nth(1));
    let scope = scope.and_then(|hex| u32::from_str_radix(hex, 16).ok()).ok_or("eth0 has no IPv6")?;
    let gateway = std::net::SocketAddrV6::new(GATEWAY6.parse().map_err(|_| GATEWAY6)?, 5351, 0, scope);
    let by_pcp = |lifetime| ports::pcp(gateway.into(), place.ip(), PORT, lifetime);
    let shown = |e: String| format!("{e}\n{}", world.log());
    world.node.within(|| by_pcp(LEASE))?.map_err(shown).map_err(|e| format!("PCP: {e}"))?;
    is_open(world, place, true).map_err(|e| format!("PCP opened: {e}"))?;
    world.node.within(|| by_pcp(0))?.map_err(|e| format!("PCP, given back: {e}"))?;
    is_open(world, place, false).map_err(|e| format!("PCP closed: {e}"))?;
    let service = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1";
    let upnp = SocketAddr::new(address("2a05:5505:77::1")?, 5000);
    let arguments = format!(
        "<RemoteHost></RemoteHost><RemotePort>0</RemotePort><InternalClient>{NODE6}</InternalClient>\
         <InternalPort>{PORT}</InternalPort><Protocol>6</Protocol><LeaseTime>{LEASE}</LeaseTime>"
    );
    let added = world.node.within(|| ports::soap(upnp, "/ctl/IP6FCtl", service, "AddPinhole", &arguments))?;
    let added = added.map_err(shown).map_err(|e| format!("AddPinhole: {e}"))?;
    let id = added.split("<UniqueID>").nth(1).and_then(|rest| rest.split('<').next()).ok_or("no UniqueID")?;
    is_open(world, place, true).map_err(|e| format!("AddPinhole: {e}"))?;
    let arguments = format!("<UniqueID>{id}</UniqueID>");
    world.node.within(|| ports::soap(upnp, "/ctl/IP6FCtl", service, "DeletePinhole", &arguments))??;
    is_open(world, place, false).map_err(|e| format!("DeletePinhole: {e}"))
}
