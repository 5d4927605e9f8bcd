//! A node reads what gateways, and whoever passes for one, say to it: UPnP's descriptions, answers and places, PCP, NAT-PMP.

use std::net::{IpAddr, Ipv4Addr};

use url::Url;

use super::{seed, split};
use crate::wire::port_control::{
    Given, MOST_BYTES, Nonce, Wish, read_address, read_nat_pmp, read_pcp, write_nat_pmp, write_pcp,
};
use crate::wire::upnp::{Answer, MOST_ANSWER, Service, answer, call, description, location, place, shown};
use crate::wire::xml::{self, Element};

const AT: &str = "http://192.168.77.1:5000/root.xml";
const WISH: Wish =
    Wish { client: IpAddr::V4(Ipv4Addr::new(192, 168, 77, 10)), internal: 9_484, external: 9_484, lifetime: 3_600 };
const NONCE: Nonce = [7; 12];
/// As much as a gateway can say, by the reader's own rules.
const MOST_ELEMENTS: usize = 4_096;
const MOST_DEPTH: usize = 16;

/// A description (0), an answer to a call (1), an answer to a search (2), PCP (3), a port by NAT-PMP (4), an address (5 and more).
pub(super) fn run(data: &[u8]) {
    let (mode, rest) = split(data);
    match mode {
        0 => described(rest),
        1 => answered(rest),
        2 => found(rest),
        3 => {
            if let Ok(given) = read_pcp(rest, &WISH, &NONCE) {
                given_by_pcp(rest, &given);
            }
        }
        4 => {
            if let Ok(given) = read_nat_pmp(rest, &WISH) {
                assert!(given.external_ip.is_none() && rest.len() == 16 && rest[8..10] == 9_484_u16.to_be_bytes());
                assert_eq!((rest[0], rest[1]), (0, 130), "an answer to another question");
            }
        }
        _ => {
            if let Ok((_, ip)) = read_address(rest) {
                assert_eq!(rest[8..], ip.octets());
            }
        }
    }
}

fn described(document: &[u8]) {
    let at = Url::parse(AT).unwrap();
    let read = xml::read(document);
    if let Ok(root) = &read {
        assert!(depth(root) <= MOST_DEPTH && root.all().len() <= MOST_ELEMENTS, "more than a gateway can say");
    }
    let Ok(can) = description(document, &at) else { return };
    assert!(read.is_ok(), "described by what cannot be read");
    for service in [can.mapper, can.firewall].into_iter().flatten() {
        assert!(service.kind.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'), "no header");
        assert!(service.kind.len() <= 128);
        asked(&service);
    }
}

/// What a service is asked is one element, whatever it calls itself, with what was meant in it.
fn asked(service: &Service) {
    let evil = "</NewPortMappingDescription><a>&'\"\u{7f}";
    let body = call(service, "AddPortMapping", &[("NewPortMappingDescription", evil.to_owned())]);
    let envelope = xml::read(body.as_bytes()).unwrap();
    let call = envelope.child("Body").and_then(|body| body.child("AddPortMapping")).unwrap();
    assert_eq!(call.children.len(), 1, "a gateway writes into what it is asked");
    assert_eq!(call.children[0].text, evil);
}

fn answered(document: &[u8]) {
    match answer(document, "Get") {
        Ok(Answer::Done(done)) => assert_eq!(done.name, "GetResponse"),
        Ok(Answer::Failed(_, said)) => assert_eq!(said, shown(&said), "a gateway's words are shown as they came"),
        Err(_) => {}
    }
}

fn found(datagram: &[u8]) {
    let Some(at) = location(datagram) else { return };
    assert!(at.len() <= MOST_ANSWER);
    let said = shown(&at);
    assert!(said.chars().count() <= 80 && !said.chars().any(char::is_control));
    let Some((url, ip, port)) = place(&at) else { return };
    assert_eq!((url.scheme(), url.port_or_known_default()), ("http", Some(port)));
    assert!(url.username().is_empty() && url.password().is_none());
    // What is called is what was judged.
    assert_eq!(place(url.as_str()).map(|(_, ip, port)| (ip, port)), Some((ip, port)));
}

fn given_by_pcp(answer: &[u8], given: &Given) {
    assert!((60..=MOST_BYTES).contains(&answer.len()));
    assert_eq!((answer[0], answer[1], answer[3]), (2, 0x81, 0));
    assert_eq!(answer[24..36], NONCE, "an answer to somebody else");
    assert_eq!(answer[40..42], 9_484_u16.to_be_bytes(), "an answer about another port");
    assert_eq!(given.external.to_be_bytes(), answer[42..44]);
}

fn depth(element: &Element) -> usize {
    1 + element.children.iter().map(depth).max().unwrap_or(0)
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let service = |kind: &str, control: &str| {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><controlURL>{control}</controlURL>\
             </service>"
        )
    };
    let root = |services: &str| {
        format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><URLBase>{AT}</URLBase><device>\
             <serviceList>{services}</serviceList></device></root>"
        )
    };
    let both = service("WANIPConnection:1", "/ctl") + &service("WANIPv6FirewallControl:1", "http://192.168.77.1/6");
    let fault = "<s:Envelope><s:Body><s:Fault><detail><UPnPError><errorCode>718</errorCode><errorDescription>no\
                 </errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>";
    let done = "<s:Envelope><s:Body><u:GetResponse xmlns:u=\"u\"><A>1 &amp; <![CDATA[<2>]]></A></u:GetResponse></s:Body>\
                </s:Envelope>";
    let search = format!("HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLOCATION: {AT}\r\nUSN: x\r\n\r\n");
    let mut pcp = write_pcp(&WISH, &NONCE);
    pcp[1] |= 0x80;
    let mut port = write_nat_pmp(&WISH).to_vec();
    port[1] |= 0x80;
    port.splice(4..4, [0, 0, 0, 9]);
    vec![
        seed(0, root(&both)),
        seed(0, root(&format!("<service><{0}>x</{0}></service>", "a".repeat(300)))),
        seed(0, root("<service><serviceType>x</serviceType></device>")),
        seed(0, "<!DOCTYPE x [<!ENTITY a \"aaaa\">]><root>&a;</root>"),
        seed(1, fault),
        seed(1, done),
        seed(2, search),
        seed(3, pcp),
        seed(4, port),
        seed(5, [0, 128, 0, 0, 0, 0, 0, 9, 5, 5, 10, 2]),
    ]
}
