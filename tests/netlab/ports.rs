//! The few requests by which the lab asks its own gateways for ports, to know that they are what they are said to be.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use crate::Outcome;

const PATIENCE: Duration = Duration::from_secs(1);
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Asks from an address of ours: of IPv6 a gateway opens only the one that asks.
fn asked(ours: IpAddr, gateway: SocketAddr, request: &[u8], length: usize) -> Outcome<Vec<u8>> {
    let socket = UdpSocket::bind((ours, 0)).map_err(|e| format!("{ours}: {e}"))?;
    socket.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    let mut answer = vec![0; 2048];
    for _ in 0..3 {
        socket.send_to(request, gateway).map_err(|e| e.to_string())?;
        if let Ok((n, _)) = socket.recv_from(&mut answer) {
            answer.truncate(n);
            return if n >= length { Ok(answer) } else { Err(format!("{n} bytes: {answer:?}")) };
        }
    }
    Err("no answer".into())
}

/// Maps a TCP port by NAT-PMP, or gives it back with `lifetime` 0; returns the external port.
pub(crate) fn nat_pmp(gateway: IpAddr, port: u16, lifetime: u32) -> Outcome<u16> {
    let mut request = vec![0, 2, 0, 0];
    request.extend(port.to_be_bytes());
    request.extend(port.to_be_bytes());
    request.extend(lifetime.to_be_bytes());
    let answer = asked(ANY, SocketAddr::new(gateway, 5351), &request, 16)?;
    match answer[..4] {
        [0, 130, 0, 0] => Ok(u16::from_be_bytes([answer[10], answer[11]])),
        _ => Err(format!("{answer:?}")),
    }
}

/// The same by PCP, for an address of ours.
pub(crate) fn pcp(gateway: SocketAddr, ours: IpAddr, port: u16, lifetime: u32) -> Outcome<u16> {
    let as_v6 = match ours {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let any = if ours.is_ipv4() { Ipv4Addr::UNSPECIFIED.to_ipv6_mapped() } else { Ipv6Addr::UNSPECIFIED };
    let mut request = vec![2, 1, 0, 0];
    request.extend(lifetime.to_be_bytes());
    request.extend(as_v6.octets());
    request.extend([7; 12]);
    request.extend([6, 0, 0, 0]);
    request.extend(port.to_be_bytes());
    request.extend(port.to_be_bytes());
    request.extend(any.octets());
    let answer = asked(ours, gateway, &request, 60)?;
    match answer[..4] {
        [2, 129, _, 0] => Ok(u16::from_be_bytes([answer[42], answer[43]])),
        _ => Err(format!("result {}: {answer:?}", answer[3])),
    }
}

/// Finds a gateway by SSDP, asked at `place`; returns the address of its description.
pub(crate) fn search(place: SocketAddr, target: &str) -> Outcome<String> {
    let request =
        format!("M-SEARCH * HTTP/1.1\r\nHOST: {place}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {target}\r\n\r\n");
    let answer = asked(ANY, place, request.as_bytes(), 1)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let location = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim().to_owned())
    });
    location.ok_or(answer)
}

/// An action of UPnP; returns the answer's body.
pub(crate) fn soap(gateway: SocketAddr, path: &str, service: &str, action: &str, arguments: &str) -> Outcome<String> {
    let body = format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{service}\">\
         {arguments}</u:{action}></s:Body></s:Envelope>"
    );
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {gateway}\r\nSOAPAction: \"{service}#{action}\"\r\nContent-Type: text/xml\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = http(gateway, &request)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(answer) }
}

fn http(gateway: SocketAddr, request: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect_timeout(&gateway, PATIENCE).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|e| e.to_string())?;
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer).map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
