//! Names that everybody at home may give himself: an impostor who says by mDNS that the mesh is at his place, and listens whether
//! anybody asks.

use std::io::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Outcome;
use crate::program::Program;
use crate::space::Space;

const PORT: u16 = 5_353;
const GROUP4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// How often it is said again.
const AGAIN: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(10);
/// What is asked for if anybody looks for the mesh, by the names that it would have.
const NAMES: [&str; 4] = ["_iicp._tcp.local", "iicp.local", "directory.local", "node-1.local"];

/// Says from `ours`, again and again, that every name of the mesh is `place`, and calls `heard` for all that somebody else says.
pub(crate) fn spoof(ours: Ipv4Addr, place: Ipv4Addr, heard: impl Fn() + Send + 'static) -> Result<()> {
    // One socket for both, as a system has it.
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?;
    socket.join_multicast_v4(&GROUP4, &ours)?;
    for scope in scopes() {
        socket.join_multicast_v6(&GROUP6, scope)?;
    }
    let speaking = UdpSocket::bind((ours, PORT + 1))?;
    std::thread::spawn(move || {
        loop {
            for name in NAMES {
                let _ = speaking.send_to(&records(name, place), (GROUP4, PORT));
            }
            std::thread::sleep(AGAIN);
        }
    });
    std::thread::spawn(move || {
        let mut message = [0; 2_048];
        while let Ok((_, from)) = socket.recv_from(&mut message) {
            if from.ip().to_canonical() != IpAddr::V4(ours) {
                heard();
            }
        }
    });
    Ok(())
}

/// Numbers of the interfaces that have an address of IPv6 for their own network.
fn scopes() -> Vec<u32> {
    let table = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|one| one.get(3) == Some(&"20")).filter_map(|one| u32::from_str_radix(one.get(1)?, 16).ok()).collect()
}

/// An answer that nobody asked for: where a service is, and what address its host has.
fn records(name: &str, place: Ipv4Addr) -> Vec<u8> {
    let labels = |name: &str| -> Vec<u8> {
        let labels =
            name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap_or(0)], label.as_bytes()].concat());
        labels.chain([0]).collect()
    };
    let record = |kind: u8, data: &[u8]| -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap_or(0).to_be_bytes();
        [&labels(name)[..], &[0, kind, 0x80, 1, 0, 0, 0, 120], &length, data].concat()
    };
    let service = [&[0, 0, 0, 0][..], &5_000_u16.to_be_bytes(), &labels(name)].concat();
    let head = [0, 0, 0x84, 0, 0, 0, 0, 2, 0, 0, 0, 0];
    [&head[..], &record(33, &service), &record(1, &place.octets())].concat()
}

/// Whether the impostor hears what a machine says, by IPv4 and by IPv6. Then it forgets that.
pub(crate) fn is_heard(node: &Space, impostor: &mut Program) -> Outcome<bool> {
    node.ip("route add 224.0.0.0/4 dev eth0\naddr add fe80::77/64 dev eth0 nodad\n")?;
    let scope = node.within(scopes)?.first().copied().ok_or("eth0 has no IPv6")?;
    for group in [SocketAddr::from((GROUP4, PORT)), SocketAddrV6::new(GROUP6, PORT, 0, scope).into()] {
        let any: IpAddr = if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = node.within(|| UdpSocket::bind((any, 0)))?.map_err(|e| e.to_string())?;
        socket.send_to(&records(NAMES[0], Ipv4Addr::LOCALHOST), group).map_err(|e| format!("{group}: {e}"))?;
        let until = Instant::now() + PATIENCE;
        while impostor.ask(&json!({}), PATIENCE)?["heard"] == 0 {
            if Instant::now() > until {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        impostor.ask(&json!({ "deaf": true }), PATIENCE)?;
    }
    Ok(true)
}
