//! Compressed messages: what is read is bounded while it is inflated.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use super::frame::Reason;

/// Most bytes of a message on the wire, if it is compressed.
pub(crate) const MAX_COMPRESSED: usize = 1 << 20;
/// Most bytes that a message may inflate to.
pub(crate) const MAX_INFLATED: usize = 32 << 20;
/// Most bytes that one compressed byte may stand for, once there are more than a few.
const MAX_RATIO: usize = 100;
const FEW: usize = 64 << 10;

/// Inflates a message.
///
/// # Errors
/// `PayloadTooLarge` as soon as it is over a bound; `InvalidPayload` if it is not one whole gzip member.
pub(crate) fn inflate(compressed: &[u8]) -> Result<Vec<u8>, Reason> {
    if compressed.len() > MAX_COMPRESSED {
        return Err(Reason::PayloadTooLarge);
    }
    let most = (compressed.len() * MAX_RATIO).clamp(FEW, MAX_INFLATED);
    let mut decoder = GzDecoder::new(compressed);
    let mut out = Vec::new();
    // One byte more than may be, to see that there is more.
    let read = decoder.by_ref().take(most as u64 + 1).read_to_end(&mut out);
    if out.len() > most {
        return Err(Reason::PayloadTooLarge);
    }
    if read.is_err() || !decoder.into_inner().is_empty() {
        return Err(Reason::InvalidPayload);
    }
    Ok(out)
}

/// Compresses a message, unless it would not be smaller or the other side would not take it.
pub(crate) fn deflate(plain: &[u8]) -> Option<Vec<u8>> {
    if plain.len() > MAX_INFLATED {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    encoder.write_all(plain).ok()?;
    let out = encoder.finish().ok()?;
    let fits = out.len() < plain.len() && out.len() <= MAX_COMPRESSED;
    (fits && plain.len() <= (out.len() * MAX_RATIO).max(FEW)).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(n: usize) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        std::io::copy(&mut std::io::repeat(0).take(n as u64), &mut encoder).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_compressed_is_inflated_to_the_same() {
        let text = serde_json::to_vec(&(0..5000).map(|n| n * 7919).collect::<Vec<u32>>()).unwrap();
        assert_eq!(inflate(&deflate(&text).unwrap()).unwrap(), text);
        assert_eq!(deflate(b"x"), None, "it would grow");
        assert_eq!(deflate(&vec![0; 1 << 20]), None, "nobody would take it");
    }

    #[test]
    fn a_bomb_is_found_before_it_goes_off() {
        assert_eq!(inflate(&zeros(64 << 10)).unwrap().len(), 64 << 10, "a small one harms nobody");
        assert_eq!(inflate(&zeros(1 << 20)), Err(Reason::PayloadTooLarge), "by its ratio");
        assert_eq!(inflate(&zeros(8 << 20)), Err(Reason::PayloadTooLarge));
        assert_eq!(inflate(&vec![0x1f; MAX_COMPRESSED + 1]), Err(Reason::PayloadTooLarge), "by its size");
    }

    #[test]
    fn what_is_not_one_gzip_member_is_refused() {
        let whole = zeros(100);
        for broken in
            [&whole[..whole.len() - 1], &[&whole[..], b"x"].concat(), &[&whole[..], &whole].concat(), b"", b"{}"]
        {
            assert_eq!(inflate(broken), Err(Reason::InvalidPayload));
        }
        let mut wrong_sum = whole.clone();
        let at = whole.len() - 8;
        wrong_sum[at] ^= 1;
        assert_eq!(inflate(&wrong_sum), Err(Reason::InvalidPayload));
    }
}
