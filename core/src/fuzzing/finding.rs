//! Peers and observers read what comes by UDP, and what peers tell each other to find a path.

use std::net::SocketAddr;

use serde_json::json;
use serde_json::value::RawValue;

use super::{is_json, seed, split};
use crate::wire::punch::{Answered, Asked, MOST_BYTES, Observers, Words};
use crate::wire::stun::{Id, Message, Token, is_stun, write_answer, write_request};

const ID: Id = *b"abcdefghijkl";
const SECRET: Token = Token(*b"0123456789abcdef");
/// The longest question that is ever read.
const MOST_STUN: usize = 512;

/// A datagram as it is (0), or with the rest of it behind the header of a message (1 and more).
pub(super) fn stun(data: &[u8]) {
    let (mode, rest) = split(data);
    if mode == 0 {
        return datagram(rest);
    }
    let kind: u16 = if mode % 2 == 0 { 0x0101 } else { 0x0001 };
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    let head = [&kind.to_be_bytes()[..], &length.to_be_bytes(), &[0x21, 0x12, 0xa4, 0x42], &ID].concat();
    datagram(&[&head[..], rest].concat());
}

fn datagram(datagram: &[u8]) {
    let Some(message) = Message::read(datagram) else { return };
    assert!(is_stun(datagram) && datagram.len() <= MOST_STUN, "QUIC would have seen it too");
    assert_eq!(datagram[0] & 0xc0, 0, "the first bits are those of QUIC");
    match message {
        Message::Request { id, token } => {
            assert_eq!(Message::read(&write_request(&id, token.as_ref())), Some(message));
            for from in ["5.5.1.2:9485", "[2001:4860::7]:1"] {
                let answer = write_answer(&id, from.parse().unwrap(), datagram.len());
                assert!(answer.is_none_or(|answer| answer.len() <= datagram.len()), "more was sent than was asked");
            }
        }
        Message::Answer { id, seen } => {
            let written = write_answer(&id, seen, MOST_STUN).unwrap();
            assert_eq!(Message::read(&written), Some(Message::Answer { id, seen }));
        }
    }
}

pub(super) fn stun_seeds() -> Vec<Vec<u8>> {
    let answer = |seen: &str| write_answer(&ID, seen.parse().unwrap(), 44).unwrap();
    let (four, six) = (answer("5.5.1.2:9485"), answer("[2001:4860::7]:1"));
    let question = write_request(&ID, Some(&SECRET));
    vec![
        seed(0, &question),
        seed(0, write_request(&ID, None)),
        seed(0, &four),
        seed(0, &six),
        seed(1, &question[20..]),
        seed(2, &four[20..]),
        seed(2, &six[20..]),
    ]
}

/// The words of a peer (0), a question (1), an answer (2), what a relay says (3 and more).
pub(super) fn punch(data: &[u8]) {
    let (mode, rest) = split(data);
    match mode {
        0 => words(rest),
        1 => question(rest),
        2 => {
            let answered: Result<Answered<'_>, _> = crate::wire::object(rest);
            assert!(
                answered.is_ok_and(|answered| is_json(answered.iicp_conf_resp.get().as_bytes())) || !is_sealed(rest)
            );
        }
        _ => {
            let Some(read) = Observers::read(rest) else { return };
            assert!((1..=4).contains(&read.observers.len()), "so many ports would be asked");
            assert_eq!(Observers::read(&serde_json::to_vec(&read).unwrap()), Some(read));
        }
    }
}

/// Whether this is an answer that must be read.
fn is_sealed(json: &[u8]) -> bool {
    json.starts_with(br#"{"iicp_conf_resp":{}}"#) && json.len() == 21
}

fn words(json: &[u8]) {
    let Some(read) = Words::read(json) else { return };
    assert!(read.seen.len() <= 4 && read.near.len() <= 4, "more places than a peer may name");
    let again = Words::read(&read.write()).unwrap();
    let same = |one: &[SocketAddr], other: &[SocketAddr]| {
        one.iter().map(SocketAddr::to_string).eq(other.iter().map(SocketAddr::to_string))
    };
    assert!(same(&again.seen, &read.seen) && same(&again.near, &read.near));
    assert_eq!((again.steady, again.token, again.pin), (read.steady, read.token, read.pin));
}

fn question(json: &[u8]) {
    let Some(asked) = Asked::read(json) else { return };
    assert!(json.len() <= MOST_BYTES && asked.id.len() <= 64);
    let (id, sealed) = (asked.id.clone(), asked.iicp_conf.get());
    assert!(is_json(sealed.as_bytes()));
    // As a relay passes it on, whatever the caller said in the relay's name.
    let passed = Asked { observers: vec![1, 2], beside: false, ..asked }.write();
    let read: Asked<'_> = crate::wire::object(&passed).unwrap();
    assert_eq!((read.id, RawValue::get(read.iicp_conf)), (id, sealed), "what is sealed was spoilt on its way");
    assert!(read.observers == [1, 2] && !read.beside, "the caller spoke for the relay");
}

pub(super) fn punch_seeds() -> Vec<Vec<u8>> {
    let places = ["5.5.1.2:7", "[2001:4860::7]:1"].map(|place| place.parse().unwrap()).to_vec();
    let near = vec!["192.168.77.10:40000".parse().unwrap()];
    let words = Words { seen: places, near, steady: true, token: SECRET, pin: Some("00".repeat(32)) };
    vec![
        seed(0, words.write()),
        seed(0, Words { near: Vec::new(), pin: None, ..words }.write()),
        seed(1, json!({ "id": "p-1", "iicp_conf": { "x": 1 }, "observers": [9485], "beside": true }).to_string()),
        seed(2, br#"{"iicp_conf_resp":{}}"#),
        seed(3, json!({ "observers": [9485, 9486], "beside": true }).to_string()),
    ]
}
