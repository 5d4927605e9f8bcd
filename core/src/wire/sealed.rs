//! Sealed tasks and replies (IICP-CX) as JSON: read without a copy, written by hand into one buffer. Nothing secret
//! stands here; the cryptography is in `crypto::cx`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::error::Result;

/// Reads with and without padding; everything is written without.
const READER: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The one version of sealing there is.
pub(crate) const VERSION: u64 = 1;

/// `iicp_conf`: a sealed payload. Texts are base64url as they came, but for the key's id.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    pub(crate) version: u64,
    #[serde(borrow)]
    pub(crate) recipient_key_id: Cow<'a, str>,
    /// The sender's public key, made for this task alone.
    #[serde(borrow)]
    pub(crate) kem_ciphertext: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) encrypted_body: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) nonce: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) aad: Cow<'a, str>,
    #[serde(default, deserialize_with = "super::count")]
    pub(crate) plaintext_size: Option<u64>,
}

/// `iicp_conf_resp`: a sealed reply.
#[derive(Deserialize)]
pub(crate) struct ReplyEnvelope<'a> {
    #[serde(default)]
    pub(crate) version: Option<u64>,
    #[serde(borrow)]
    pub(crate) nonce: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) encrypted_body: Cow<'a, str>,
}

/// What an envelope is written from.
pub(crate) struct Parts<'a> {
    pub(crate) recipient_key_id: &'a str,
    pub(crate) ephemeral: &'a [u8; 32],
    pub(crate) encrypted_body: &'a [u8],
    pub(crate) nonce: &'a [u8; 12],
    pub(crate) aad: &'a [u8],
    pub(crate) plaintext_size: usize,
}

/// Writes `iicp_conf`.
pub(crate) fn write_envelope(parts: &Parts<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(encoded_len(parts.encrypted_body.len()) + encoded_len(parts.aad.len()) + 256);
    out.extend_from_slice(br#"{"version":1,"recipient_key_id":"#);
    super::write_string(&mut out, parts.recipient_key_id);
    for (name, bytes) in [
        (&br#","kem_ciphertext":""#[..], &parts.ephemeral[..]),
        (br#"","encrypted_body":""#, parts.encrypted_body),
        (br#"","nonce":""#, parts.nonce),
        (br#"","aad":""#, parts.aad),
    ] {
        out.extend_from_slice(name);
        push_base64(&mut out, bytes);
    }
    out.extend_from_slice(br#"","plaintext_size":"#);
    out.extend_from_slice(parts.plaintext_size.to_string().as_bytes());
    out.push(b'}');
    out
}

/// Appends `iicp_conf_resp`.
pub(crate) fn write_reply_envelope(out: &mut Vec<u8>, nonce: &[u8; 12], encrypted_body: &[u8]) {
    out.reserve(encoded_len(encrypted_body.len()) + 96);
    out.extend_from_slice(br#"{"version":1,"nonce":""#);
    push_base64(out, nonce);
    out.extend_from_slice(br#"","encrypted_body":""#);
    push_base64(out, encrypted_body);
    out.extend_from_slice(br#""}"#);
}

/// Writes the outer form of a sealed reply; `seal` appends `iicp_conf_resp`.
///
/// # Errors
/// Those of `seal`.
pub(crate) fn write_sealed_reply(task_id: &str, seal: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(br#"{"task_id":"#);
    super::write_string(&mut out, task_id);
    out.extend_from_slice(br#","status":"encrypted","iicp_conf_resp":"#);
    seal(&mut out)?;
    out.extend_from_slice(br#","generated_by_ai":true}"#);
    Ok(out)
}

/// Base64url text of exactly `N` bytes.
pub(crate) fn fixed<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut buffer = zeroize::Zeroizing::new([0; 64]);
    // Longer text is not even looked at.
    let length = (text.len() <= 64).then(|| READER.decode_slice(text, &mut buffer[..]).ok())??;
    buffer[..length].try_into().ok()
}

/// Base64url text of any length; what is allocated is bounded by the text.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    READER.decode_vec(text, &mut bytes).ok()?;
    Some(bytes)
}

/// Base64url text without padding.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

const fn encoded_len(bytes: usize) -> usize {
    bytes.saturating_mul(4).div_ceil(3)
}

pub(super) fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    out.resize(start + encoded_len(bytes.len()), 0);
    // The room is exact, so this cannot fail.
    let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut out[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_read_and_never_written() {
        for (bytes, text) in [(&b"a"[..], "YQ"), (b"ab", "YWI"), (b"abc", "YWJj"), (&[0xfb, 0xff], "-_8")] {
            let mut out = b"x".to_vec();
            push_base64(&mut out, bytes);
            assert_eq!(out, [b"x", text.as_bytes()].concat());
            assert_eq!(decode(text).unwrap(), bytes);
            let padded = format!("{text}{}", &"=="[..(4 - text.len() % 4) % 4]);
            assert_eq!(decode(&padded).unwrap(), bytes, "{padded}");
        }
        assert_eq!(decode("+/8"), None, "another alphabet");
        assert_eq!((fixed::<2>("YWI="), fixed::<1>("YWI"), fixed::<3>("YWI")), (Some(*b"ab"), None, None));
        assert_eq!(fixed::<32>(&"A".repeat(100_000)), None);
    }

    #[test]
    fn an_envelope_is_read_back() {
        let parts = Parts {
            recipient_key_id: "cx-0",
            ephemeral: &[7; 32],
            encrypted_body: b"sealed",
            nonce: &[9; 12],
            aad: b"t|i",
            plaintext_size: 3,
        };
        let json = write_envelope(&parts);
        let read: Envelope<'_> = crate::wire::object(&json).unwrap();
        assert_eq!((read.version, &*read.recipient_key_id, read.plaintext_size), (VERSION, "cx-0", Some(3)));
        assert_eq!((fixed(&read.kem_ciphertext), fixed(&read.nonce)), (Some([7; 32]), Some([9; 12])));
        assert_eq!(
            (decode(&read.encrypted_body).unwrap(), decode(&read.aad).unwrap()),
            (b"sealed".to_vec(), b"t|i".to_vec())
        );
        assert!(matches!(read.kem_ciphertext, Cow::Borrowed(_)), "without a copy");
        let reply = write_sealed_reply("t\"1", |out| {
            write_reply_envelope(out, &[1; 12], b"r");
            Ok(())
        });
        let reply: serde_json::Value = serde_json::from_slice(&reply.unwrap()).unwrap();
        assert_eq!((&reply["task_id"], &reply["status"]), (&"t\"1".into(), &"encrypted".into()));
        let inner = reply["iicp_conf_resp"].to_string();
        let inner: ReplyEnvelope<'_> = crate::wire::object(inner.as_bytes()).unwrap();
        assert_eq!((inner.version, decode(&inner.encrypted_body).unwrap()), (Some(1), b"r".to_vec()));
    }
}
