//! Digests, message authentication codes and random secrets.

use ring::rand::SecureRandom as _;
use subtle::ConstantTimeEq as _;

use crate::error::{Code, Error, Result};

/// A 16-byte fingerprint for look-ups: the first half of a SHA-256 over the parts, one after the other.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> u128 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let digest = context.finish();
    let mut half = [0; 16];
    half.copy_from_slice(&digest.as_ref()[..16]);
    u128::from_be_bytes(half)
}

/// SHA-256 of a random token: what is stored in the token's place.
pub(crate) fn token_hash(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, token.as_bytes()).as_ref());
    hash
}

/// Compares in a time that does not depend on where they differ.
pub(crate) fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

/// Lower-case hex of HMAC-SHA256, keyed with the text of the key (as heartbeat challenges want it).
pub(crate) fn hmac_hex(key: &str, message: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.as_bytes());
    hex(ring::hmac::sign(&key, message.as_bytes()).as_ref())
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)] as char, DIGITS[usize::from(b & 15)] as char]).collect()
}

/// Reads exactly `N` bytes of lower-case hex.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let value = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(out)
}

/// Lower-case hex of a SHA-256 over the parts, one after the other.
pub(crate) fn sha256_hex(parts: &[&[u8]]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    hex(context.finish().as_ref())
}

/// Fresh random bytes.
///
/// # Errors
/// `INTERNAL` if the system has no randomness to give.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::new(Code::Internal, "the system's random number generator failed"))?;
    Ok(bytes)
}

/// A random number from 0 to 1, for jitter only.
pub(crate) fn jitter() -> f64 {
    let bytes = uuid::Uuid::new_v4();
    f64::from(u16::from_be_bytes([bytes.as_bytes()[0], bytes.as_bytes()[1]])) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_matches_the_published_nodes_answer_to_a_challenge() {
        // Recorded: register gave this key, the heartbeat this challenge, the next heartbeat this answer.
        assert_eq!(
            hmac_hex("b028e869dfee4fa7b4afc46fafcb2446", "efd7054aa2f44afaafdac6c363f55c56"),
            "d24cd825bc72d11c117b393876c1b33015692816c99380b8a1ab520b2daa3243"
        );
    }

    #[test]
    fn hex_and_fingerprints_are_plain_sha256() {
        assert_eq!(hex(&[0, 15, 255]), "000fff");
        assert_eq!(unhex("000fff"), Some([0, 15, 255]));
        for bad in ["000FFF", "000ff", "000fff0", "00 fff", "+00fff", ""] {
            assert_eq!(unhex::<3>(bad), None, "{bad}");
        }
        assert!(sha256_hex(&[b"a", b"bc"]).starts_with("ba7816bf8f01cfea"));
        assert_eq!(fingerprint(&[b"a", b"bc"]), 0xba7816bf_8f01cfea_414140de_5dae2223);
        assert!(same(b"a", b"a") && !same(b"a", b"b") && !same(b"a", b"ab"));
        assert_ne!(random::<16>().unwrap(), random::<16>().unwrap());
    }
}
