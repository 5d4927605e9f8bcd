//! Row S1: no spelling of an address gets around its rule.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::Method;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::*;
use crate::error::Code;
use crate::transport::endpoint::Endpoint;
use crate::transport::http_client::{Call, HttpClient, NoReply};
use crate::transport::resolve::{Answer, Lookup};

/// Both ends of every range that is not global.
const V4_INSIDE: [&str; 31] = [
    "0.0.0.0",
    "0.255.255.255",
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.0.0",
    "169.254.169.254",
    "169.254.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.255",
    "192.0.2.0",
    "192.0.2.255",
    "192.88.99.1",
    "192.168.0.0",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.0",
    "198.51.100.255",
    "203.0.113.0",
    "203.0.113.255",
    "224.0.0.0",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.255",
];

const V6_INSIDE: [&str; 33] = [
    "::",
    "::1",
    "::2",
    "::ffff:7f00:1",
    "::8.8.8.8",
    "::ffff:0:8.8.8.8",
    "64:ff9b::808:808",
    "64:ff9b:0:0:0:0:ffff:ffff",
    "64:ff9b:1::1",
    "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    "100::",
    "100::ffff:ffff:ffff:ffff",
    "100:0:0:1::1",
    "2001::1",
    "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:2::1",
    "2001:10::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "2001:db8:ffff:ffff::1",
    "2002:808:808::1",
    "2002:ffff::",
    "3fff::1",
    "3fff:fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "feff::1",
    "ff02::1",
];

/// Just outside of the ranges.
const PUBLIC: [&str; 34] = [
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "203.0.114.0",
    "223.255.255.255",
    "[2606:2800:220:1:248:1893:25c8:1946]",
    "[2001:200::1]",
    "[2001:db7::1]",
    "[2001:4860:4860::8888]",
    "[2003::1]",
    "[::ffff:8.8.8.8]",
    "[2606::5efe:8.8.8.8]",
    "provider.example.com",
    "PROVIDER.example.COM.",
    "local.example",
    "notlocalhost.example",
    "bücher.example",
];

const LOCAL_NAMES: [&str; 14] = [
    "localhost",
    "ollama",
    "node.local",
    "node.internal",
    "metadata.google.internal",
    "node.lan",
    "node.test",
    "node.invalid",
    "node.localhost",
    "a.b.localhost",
    "router.home.arpa",
    "node.onion",
    "a..example",
    "xn--bcher-kva.local",
];

fn v4_spellings(ip: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = ip.octets();
    let bits = ip.to_bits();
    let (high, low) = (bits >> 16, bits & 0xffff);
    let dotted = ip.to_string();
    let fullwidth = |text: &str| -> String {
        text.chars().map(|c| c.to_digit(10).and_then(|n| char::from_u32(0xff10 + n)).unwrap_or(c)).collect()
    };
    let mut hosts = vec![
        dotted.clone(),
        format!("{dotted}."),
        bits.to_string(),
        format!("0x{bits:x}"),
        format!("0X{bits:08X}"),
        format!("0{bits:o}"),
        format!("{a}.{}", bits & 0xff_ffff),
        format!("{a}.{b}.{low}"),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("000{a:o}.0x{b:02x}.{c}.0{d:o}"),
        format!("0x{a:x}.0{:o}", bits & 0xff_ffff),
        fullwidth(&dotted),
        dotted.replace('.', "\u{3002}"),
        dotted.replace('.', "\u{ff0e}"),
        dotted.replace('.', "\u{ff61}"),
        dotted.replace('.', "%2e"),
        dotted.chars().map(|c| format!("%{:02x}", u32::from(c))).collect(),
        format!("example.com@{dotted}"),
        format!("example.com%40x:y@{dotted}"),
        format!("{dotted}\\@example.com"),
        format!("{dotted}#@example.com"),
        format!("{dotted}?@example.com"),
    ];
    let inner = [
        format!("::ffff:{dotted}"),
        format!("::FFFF:{high:X}:{low:x}"),
        format!("0000:0:00:0:0:ffff:{high:04x}:{low:04x}"),
        format!("::{dotted}"),
        format!("::ffff:0:{dotted}"),
        format!("64:ff9b::{dotted}"),
        format!("64:ff9b:1::{high:x}:{low:x}"),
        format!("2002:{high:x}:{low:x}::1"),
        format!("2001:0:808:808::{:x}:{:x}", !high & 0xffff, !low & 0xffff),
        format!("2606:1:2:3:0:5efe:{high:x}:{low:x}"),
        format!("2606:1:2:3:200:5efe:{dotted}"),
    ];
    hosts.extend(inner.map(|ip| format!("[{ip}]")));
    hosts
}

fn v6_spellings(ip: Ipv6Addr) -> Vec<String> {
    let full: Vec<String> = ip.segments().iter().map(|part| format!("{part:04X}")).collect();
    let full = full.join(":");
    vec![
        format!("[{ip}]"),
        format!("[{full}]"),
        format!("[{full}%25eth0]"),
        format!("[{ip}%1]"),
        format!("[{ip}]."),
        format!("x@[{ip}]"),
        full,
    ]
}

fn name_spellings(name: &str) -> Vec<String> {
    vec![
        name.to_owned(),
        name.to_uppercase(),
        format!("{name}."),
        format!("{name}.."),
        format!("{name}\u{3002}"),
        name.replace('.', "\u{ff61}"),
        name.replace('l', "%6c"),
        name.replace('o', "\u{ff4f}"),
    ]
}

/// Every hidden address in every spelling.
fn hostile() -> BTreeSet<String> {
    let v4 = V4_INSIDE.iter().flat_map(|ip| v4_spellings(ip.parse().unwrap()));
    let v6 = V6_INSIDE.iter().flat_map(|ip| v6_spellings(ip.parse().unwrap()));
    v4.chain(v6).chain(LOCAL_NAMES.iter().flat_map(|name| name_spellings(name))).collect()
}

/// Counts who asks, and answers nobody.
struct Counted(Arc<AtomicUsize>);

impl Lookup for Counted {
    fn lookup(&self, _: &str, _: OwnedSemaphorePermit) -> Answer {
        self.0.fetch_add(1, SeqCst);
        Box::pin(async { Err(std::io::Error::other("nobody is asked")) })
    }
}

#[tokio::test]
async fn every_hidden_address_is_refused_in_every_spelling_and_no_socket_is_opened() {
    // It hears every call to this machine, over IPv4 too.
    let listener = std::net::TcpListener::bind("[::]:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let client = HttpClient::with_lookup(Arc::new(Counted(asked.clone()))).unwrap();
    let hosts = hostile();
    let mut judged = 0;
    for host in &hosts {
        for scheme in ["http", "https"] {
            // Some of the spellings end in a path or a query: the port would be a part of it.
            let text = match host.split_once(['\\', '#', '?']) {
                Some((before, _)) => format!("{scheme}://{before}:{port}{}", &host[before.len()..]),
                None => format!("{scheme}://{host}:{port}"),
            };
            let refused = Endpoint::parse("the node", &text).and_then(|endpoint| endpoint.judge(Reach::Public));
            let code = refused.expect_err(&text).code();
            assert!(matches!(code, Code::ConfigInvalid | Code::EndpointRefused), "{text}: {code}");
            let Ok(url) = Url::parse(&text) else { continue };
            judged += 1;
            let deadline = Instant::now() + Duration::from_secs(60);
            let call = Call::new(Method::GET, url, Reach::Public, deadline, 1_024);
            assert_eq!(client.call(call).await.unwrap_err(), NoReply::Refused, "{text}");
        }
    }
    assert!(judged / 2 >= 1_000, "{judged} of {} spellings came as far as the guard", hosts.len() * 2);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "a socket was opened");
    assert_eq!((client.pools_made(), asked.load(SeqCst)), (0, 0), "something was made ready for a connection");
}

#[test]
fn what_lies_beside_the_ranges_is_public() {
    for host in PUBLIC {
        let endpoint = Endpoint::parse("the node", &format!("https://{host}/api")).unwrap();
        for reach in [Reach::Public, Reach::Loopback, Reach::Private] {
            assert!(endpoint.judge(reach).is_ok(), "{host}: {:?}", endpoint.judge(reach));
        }
    }
}

#[test]
fn loopback_is_this_machine_and_nothing_beside_it() {
    let judge = |host: &str| Endpoint::parse("x", &format!("http://{host}")).unwrap().judge(Reach::Loopback).is_ok();
    for host in ["127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST."] {
        assert!(judge(host), "{host}");
    }
    for host in ["10.0.0.1", "0.0.0.0", "[::]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[fe80::1]", "x.localhost", "pc"]
    {
        assert!(!judge(host), "{host}");
    }
}

#[test]
fn private_is_every_unicast_address_and_never_more() {
    let judge = |host: &str| Endpoint::parse("x", &format!("http://{host}")).unwrap().judge(Reach::Private).is_ok();
    for host in
        ["10.0.0.1", "192.168.1.1", "169.254.1.1", "[fd00::1]", "[fe80::1]", "[64:ff9b::a00:1]", "pc", "a.local"]
    {
        assert!(judge(host), "{host}");
    }
    for host in [
        "0.0.0.0",
        "0",
        "224.0.0.1",
        "255.255.255.255",
        "[::]",
        "[ff02::1]",
        "[::ffff:0.0.0.0]",
        "[::ffff:224.0.0.1]",
        "[64:ff9b::e000:1]",
        "[2002:e000:1::]",
        "[2001:0:1:1::1fff:fffe]",
    ] {
        assert!(!judge(host), "{host}");
    }
}
