//! What little of STUN (RFC 8489) it takes to learn how others see a port, and whether two peers hear each other: a binding
//! request and its success response. A request is never shorter than its answer, so that nobody is sent more than was asked
//! in his name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Every message has at least this.
const HEADER_BYTES: usize = 20;
/// A request of ours, and the longest answer: that with an IPv6 address.
const MOST_ANSWER: usize = HEADER_BYTES + 24;
/// Longest message that is looked at.
const MOST_BYTES: usize = 512;

const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

const USERNAME: u16 = 0x0006;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const SOFTWARE: u16 = 0x8022;
/// From here on an attribute may be passed over by who does not know it.
const OPTIONAL: u16 = 0x8000;

/// What an answer is known by.
pub(crate) type Id = [u8; 12];
/// What a peer was told in secret, so that a request proves that it comes from there. Shown to nobody else.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(pub(crate) [u8; 16]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// How do you see me?
    Request { id: Id, token: Option<Token> },
    /// So.
    Answer { id: Id, seen: SocketAddr },
}

/// Whether a datagram is one of these, and not of what else may come to the same port (RFC 9443).
pub(crate) fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_BYTES && datagram[0] < 0x40 && datagram[4..8] == COOKIE
}

impl Message {
    /// Reads a datagram; none if it is no such message, or says what must not be passed over and is not known here.
    pub(crate) fn read(datagram: &[u8]) -> Option<Message> {
        if !is_stun(datagram) || datagram.len() > MOST_BYTES {
            return None;
        }
        let (header, mut rest) = datagram.split_at(HEADER_BYTES);
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let id: Id = header[8..].try_into().ok()?;
        if usize::from(word(2)) != rest.len() {
            return None;
        }
        let (mut token, mut seen) = (None, None);
        while let Some((head, after)) = rest.split_first_chunk::<4>() {
            let (kind, length) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
            let value = after.get(..usize::from(length))?;
            // The last one may have lost its padding.
            rest = after.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
            match kind {
                USERNAME if token.is_none() => token = Some(Token(value.try_into().ok()?)),
                XOR_MAPPED_ADDRESS if seen.is_none() => seen = Some(read_address(value, &id)?),
                _ if kind >= OPTIONAL => {}
                _ => return None,
            }
        }
        if !rest.is_empty() {
            return None;
        }
        match (word(0), seen) {
            (REQUEST, None) => Some(Message::Request { id, token }),
            (SUCCESS, Some(seen)) => Some(Message::Answer { id, seen }),
            _ => None,
        }
    }
}

/// A request, as long as the longest answer.
pub(crate) fn write_request(id: &Id, token: Option<&Token>) -> Vec<u8> {
    let mut out = begin(REQUEST, id);
    if let Some(token) = token {
        attribute(&mut out, USERNAME, &token.0);
    }
    let filling = MOST_ANSWER.saturating_sub(out.len() + 4);
    attribute(&mut out, SOFTWARE, &[b' '; MOST_ANSWER][..filling]);
    end(out)
}

/// The answer to a request of so many bytes; none if it would be longer than that.
pub(crate) fn write_answer(id: &Id, seen: SocketAddr, asked_bytes: usize) -> Option<Vec<u8>> {
    let mut out = begin(SUCCESS, id);
    let mut value = vec![0, if seen.ip().to_canonical().is_ipv4() { 1 } else { 2 }];
    value.extend(seen.port().to_be_bytes().iter().zip(COOKIE).map(|(byte, key)| byte ^ key));
    let keys = COOKIE.iter().chain(id);
    match seen.ip().to_canonical() {
        IpAddr::V4(ip) => value.extend(ip.octets().iter().zip(keys).map(|(byte, key)| byte ^ key)),
        IpAddr::V6(ip) => value.extend(ip.octets().iter().zip(keys).map(|(byte, key)| byte ^ key)),
    }
    attribute(&mut out, XOR_MAPPED_ADDRESS, &value);
    Some(end(out)).filter(|out| out.len() <= asked_bytes)
}

fn begin(kind: u16, id: &Id) -> Vec<u8> {
    let mut out = Vec::with_capacity(MOST_ANSWER);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&COOKIE);
    out.extend_from_slice(id);
    out
}

/// Adds an attribute whose length is a multiple of four.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or_default().to_be_bytes());
    out.extend_from_slice(value);
}

fn end(mut out: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(out.len() - HEADER_BYTES).unwrap_or_default();
    out[2..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn read_address(value: &[u8], id: &Id) -> Option<SocketAddr> {
    let (head, address) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([head[2] ^ COOKIE[0], head[3] ^ COOKIE[1]]);
    let mut plain = [0; 16];
    let keys = COOKIE.iter().chain(id);
    plain.iter_mut().zip(address.iter().zip(keys)).for_each(|(to, (byte, key))| *to = byte ^ key);
    let ip: IpAddr = match (head[1], address.len()) {
        (1, 4) => Ipv4Addr::from(*plain.first_chunk::<4>()?).into(),
        (2, 16) => Ipv6Addr::from(plain).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = *b"abcdefghijkl";
    const TOKEN: Token = Token(*b"0123456789abcdef");

    #[test]
    fn what_is_written_is_read_back_and_no_answer_is_longer_than_its_question() {
        for token in [None, Some(TOKEN)] {
            let request = write_request(&ID, token.as_ref());
            assert_eq!((request.len(), Message::read(&request)), (44, Some(Message::Request { id: ID, token })));
            for place in ["5.5.1.2:9485", "[2001:4860::7]:1", "[::ffff:5.5.1.2]:9485"] {
                let seen: SocketAddr = place.parse().unwrap();
                let answer = write_answer(&ID, seen, request.len()).unwrap();
                assert!(answer.len() <= request.len());
                let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
                assert_eq!(Message::read(&answer), Some(Message::Answer { id: ID, seen }));
                assert_eq!(write_answer(&ID, seen, answer.len() - 1), None, "a short question gets nothing");
            }
        }
    }

    /// RFC 5769, 2.2 and 2.3, without the attributes that need a password.
    #[test]
    fn addresses_are_hidden_as_the_specification_has_it() {
        let id = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let four = write_answer(&id, "192.0.2.1:32853".parse().unwrap(), 44).unwrap();
        assert_eq!(&four[20..], [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let six = write_answer(&id, "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap(), 44).unwrap();
        let wanted = [
            0, 0x20, 0, 0x14, 0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5,
            0xbe, 0xd2, 0xb9, 0xd9,
        ];
        assert_eq!(&six[20..], wanted);
    }

    #[test]
    fn what_is_no_such_message_is_nothing() {
        let good = write_request(&ID, Some(&TOKEN));
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            Message::read(&bytes)
        };
        assert_eq!(changed(0, 0x40), None, "QUIC");
        assert_eq!(changed(1, 0x11), None, "an indication");
        assert_eq!(changed(4, 0), None, "another cookie");
        assert_eq!(changed(3, 20), None, "another length");
        assert_eq!(changed(21, 0x24), None, "an attribute that must be known");
        assert_eq!(changed(23, 15), None, "a token that is none");
        assert_eq!(changed(23, 0xff), None, "an attribute that goes on behind the end");
        for cut in 0..good.len() {
            assert_eq!(Message::read(&good[..cut]), None);
        }
        assert_eq!(Message::read(&[good, vec![0; 512]].concat()), None);
    }

    /// Bytes that were never a message, and messages with one thing wrong, by the thousand: read or not, but never a panic, and
    /// what is read can be written.
    #[test]
    fn no_bytes_are_too_strange() {
        let mut seed = 0x9e37_79b9_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let seen = "[2001:4860::7]:1".parse().unwrap();
        for round in 0..200_000_u32 {
            let mut bytes = match round % 3 {
                0 => write_request(&ID, Some(&TOKEN)),
                1 => write_answer(&ID, seen, 44).unwrap(),
                _ => (0..next() % 80).map(|_| next().to_le_bytes()[3]).collect(),
            };
            for _ in 0..next() % 4 {
                let at = usize::try_from(next()).unwrap() % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = next().to_le_bytes()[2];
                }
            }
            bytes.truncate(bytes.len() - usize::try_from(next() % 3).unwrap().min(bytes.len()));
            if let Some(Message::Answer { id, seen }) = Message::read(&bytes) {
                let again = write_answer(&id, seen, 44).unwrap();
                assert_eq!(Message::read(&again), Some(Message::Answer { id, seen }));
            }
        }
    }
}
