//! NAT-PMP (RFC 6886) and PCP (RFC 6887): how a gateway is asked for a port in a few bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where gateways are asked.
pub(crate) const PORT: u16 = 5351;
/// Largest answer.
pub(crate) const MOST_BYTES: usize = 1_100;

const PCP: u8 = 2;
const NAT_PMP: u8 = 0;
const ANSWER: u8 = 0x80;
const MAP: u8 = 1;
const MAP_TCP: u8 = 2;
const TCP: u8 = 6;

/// The words for a mapping that belong to one asker.
pub(crate) type Nonce = [u8; 12];

/// A mapping that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The asker, as the gateway sees it.
    pub(crate) client: IpAddr,
    pub(crate) internal: u16,
    /// The external port that would suit; 0: any.
    pub(crate) external: u16,
    /// In seconds; 0 takes the mapping away.
    pub(crate) lifetime: u32,
}

/// A mapping as the gateway gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    /// Seconds since the gateway forgot everything.
    pub(crate) epoch: u32,
    pub(crate) external: u16,
    pub(crate) lifetime: u32,
    /// Unknown to NAT-PMP, which tells it apart.
    pub(crate) external_ip: Option<IpAddr>,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It answers something else; go on listening.
    NotOurs(&'static str),
    /// The gateway says no, in its number.
    Refused(u8),
}

pub(crate) fn write_pcp(wish: &Wish, nonce: &Nonce) -> [u8; 60] {
    let mut out = [0; 60];
    out[0] = PCP;
    out[1] = MAP;
    out[4..8].copy_from_slice(&wish.lifetime.to_be_bytes());
    out[8..24].copy_from_slice(&mapped(wish.client).octets());
    out[24..36].copy_from_slice(nonce);
    out[36] = TCP;
    out[40..42].copy_from_slice(&wish.internal.to_be_bytes());
    out[42..44].copy_from_slice(&wish.external.to_be_bytes());
    let any = if wish.client.is_ipv4() { Ipv4Addr::UNSPECIFIED.to_ipv6_mapped() } else { Ipv6Addr::UNSPECIFIED };
    out[44..60].copy_from_slice(&any.octets());
    out
}

/// Reads the answer to a wish with this nonce.
///
/// # Errors
/// Whether it is none, or a refusal.
pub(crate) fn read_pcp(bytes: &[u8], wish: &Wish, nonce: &Nonce) -> Result<Given, Fault> {
    let not_ours = |why| Err(Fault::NotOurs(why));
    match bytes {
        // A gateway that speaks NAT-PMP only says so in its own form.
        [NAT_PMP, code, _, result, ..] if code & ANSWER != 0 => return Err(Fault::Refused(*result)),
        [PCP, code, ..] if code & ANSWER != 0 && bytes.len() >= 24 && bytes.len() <= MOST_BYTES => {
            if code & !ANSWER != MAP {
                return not_ours("an answer to another question");
            }
        }
        _ => return not_ours("no answer of this protocol"),
    }
    let refusal = bytes[3];
    if bytes.len() < 60 {
        return if refusal == 0 { not_ours("an answer that is cut off") } else { Err(Fault::Refused(refusal)) };
    }
    if bytes[24..36] != nonce[..] {
        return not_ours("an answer with a nonce that was not asked with");
    }
    if refusal != 0 {
        return Err(Fault::Refused(refusal));
    }
    if bytes[36] != TCP || u16_at(bytes, 40) != wish.internal {
        return not_ours("an answer about another port");
    }
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[44..60]);
    let given = Given {
        epoch: u32_at(bytes, 8),
        external: u16_at(bytes, 42),
        lifetime: u32_at(bytes, 4),
        external_ip: Some(IpAddr::V6(Ipv6Addr::from(ip)).to_canonical()),
    };
    Ok(given)
}

/// The question for the gateway's own address outside.
pub(crate) const ASK_ADDRESS: [u8; 2] = [NAT_PMP, 0];

/// Reads the answer: epoch and address.
///
/// # Errors
/// Whether it is none, or a refusal.
pub(crate) fn read_address(bytes: &[u8]) -> Result<(u32, Ipv4Addr), Fault> {
    match bytes {
        [NAT_PMP, ANSWER, high, low, ..] if (*high, *low) != (0, 0) && bytes.len() >= 4 => Err(Fault::Refused(*low)),
        [NAT_PMP, ANSWER, 0, 0, _, _, _, _, a, b, c, d] => Ok((u32_at(bytes, 4), Ipv4Addr::new(*a, *b, *c, *d))),
        _ => Err(Fault::NotOurs("no answer of this protocol")),
    }
}

pub(crate) fn write_nat_pmp(wish: &Wish) -> [u8; 12] {
    let mut out = [0; 12];
    out[1] = MAP_TCP;
    out[4..6].copy_from_slice(&wish.internal.to_be_bytes());
    let external = if wish.lifetime == 0 { 0 } else { wish.external };
    out[6..8].copy_from_slice(&external.to_be_bytes());
    out[8..12].copy_from_slice(&wish.lifetime.to_be_bytes());
    out
}

/// Reads the answer to a wish.
///
/// # Errors
/// Whether it is none, or a refusal.
pub(crate) fn read_nat_pmp(bytes: &[u8], wish: &Wish) -> Result<Given, Fault> {
    match bytes {
        [NAT_PMP, code, high, low, ..] if *code == ANSWER | MAP_TCP && (*high, *low) != (0, 0) => {
            Err(Fault::Refused(*low))
        }
        [NAT_PMP, code, 0, 0, ..] if *code == ANSWER | MAP_TCP && bytes.len() == 16 => {
            if u16_at(bytes, 8) != wish.internal {
                return Err(Fault::NotOurs("an answer about another port"));
            }
            Ok(Given {
                epoch: u32_at(bytes, 4),
                external: u16_at(bytes, 10),
                lifetime: u32_at(bytes, 12),
                external_ip: None,
            })
        }
        _ => Err(Fault::NotOurs("no answer of this protocol")),
    }
}

/// What a refusal means, and what to do about it.
pub(crate) fn refusal(number: u8, is_pcp: bool) -> (&'static str, &'static str) {
    match (number, is_pcp) {
        (1, _) => ("the gateway does not speak this version", "nothing; the other protocols are asked as well"),
        (2, _) => (
            "the gateway does not let this machine ask",
            "allow port mapping (UPnP, NAT-PMP or PCP) in the gateway's settings",
        ),
        (3, false) | (7, true) => {
            ("the gateway has no address outside at this time", "check the gateway's own connection")
        }
        (4, false) | (8 | 10, true) => (
            "the gateway has no port left for this machine",
            "remove mappings in the gateway's settings, or restart it",
        ),
        (11, true) => ("the gateway cannot give that port", "choose another option port"),
        (12, true) => (
            "there is another NAT between this machine and the gateway",
            "connect this machine to the outer gateway, or map the port in both by hand",
        ),
        _ => ("the gateway refused", "map the port by hand in the gateway's settings, and set option endpoint"),
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish =
        Wish { client: IpAddr::V4(Ipv4Addr::new(192, 168, 1, 7)), internal: 9484, external: 9484, lifetime: 3_600 };
    const NONCE: Nonce = [7; 12];

    fn pcp_answer() -> [u8; 60] {
        let mut answer = write_pcp(&WISH, &NONCE);
        answer[1] |= ANSWER;
        answer[8..24].fill(0);
        answer[8..12].copy_from_slice(&77u32.to_be_bytes());
        answer[42..44].copy_from_slice(&5000u16.to_be_bytes());
        answer[44..60].copy_from_slice(&Ipv4Addr::new(5, 5, 1, 2).to_ipv6_mapped().octets());
        answer
    }

    #[test]
    fn a_gateways_pcp_answer_is_read() {
        let given = read_pcp(&pcp_answer(), &WISH, &NONCE).unwrap();
        let external_ip = Some(IpAddr::V4(Ipv4Addr::new(5, 5, 1, 2)));
        assert_eq!(given, Given { epoch: 77, external: 5000, lifetime: 3_600, external_ip });
        let mut refused = pcp_answer();
        refused[3] = 2;
        assert_eq!(read_pcp(&refused, &WISH, &NONCE), Err(Fault::Refused(2)));
        assert_eq!(read_pcp(&[0, 0x81, 0, 1], &WISH, &NONCE), Err(Fault::Refused(1)), "it speaks NAT-PMP only");
    }

    #[test]
    fn answers_that_were_not_asked_for_are_not_taken() {
        assert!(matches!(read_pcp(&pcp_answer(), &WISH, &[8; 12]), Err(Fault::NotOurs(_))));
        let other = Wish { internal: 1, ..WISH };
        assert!(matches!(read_pcp(&pcp_answer(), &other, &NONCE), Err(Fault::NotOurs(_))));
        for end in 0..60 {
            assert!(read_pcp(&pcp_answer()[..end], &WISH, &NONCE).is_err(), "{end}");
        }
        assert!(read_pcp(&write_pcp(&WISH, &NONCE), &WISH, &NONCE).is_err(), "a question is no answer");
        assert!(read_pcp(&vec![2; 2_000], &WISH, &NONCE).is_err());
    }

    #[test]
    fn nat_pmp_is_read_in_both_its_forms() {
        assert_eq!(read_address(&[0, 128, 0, 0, 0, 0, 0, 9, 5, 5, 1, 2]), Ok((9, Ipv4Addr::new(5, 5, 1, 2))));
        assert_eq!(read_address(&[0, 128, 0, 3, 0, 0, 0, 9]), Err(Fault::Refused(3)));
        let mut answer = vec![0, 130, 0, 0, 0, 0, 0, 9];
        answer.extend(9484u16.to_be_bytes());
        answer.extend(5000u16.to_be_bytes());
        answer.extend(60u32.to_be_bytes());
        let given = Given { epoch: 9, external: 5000, lifetime: 60, external_ip: None };
        assert_eq!(read_nat_pmp(&answer, &WISH), Ok(given));
        for end in 0..answer.len() {
            assert!(read_nat_pmp(&answer[..end], &WISH).is_err(), "{end}");
        }
        assert!(read_nat_pmp(&answer, &Wish { internal: 1, ..WISH }).is_err());
    }

    #[test]
    fn taking_a_mapping_away_asks_for_no_port() {
        let gone = Wish { lifetime: 0, ..WISH };
        assert_eq!(write_nat_pmp(&gone)[6..12], [0; 6]);
        assert_eq!(write_pcp(&gone, &NONCE)[4..8], [0; 4]);
    }
}
