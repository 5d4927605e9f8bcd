//! Sealing a stream, part by part: one key for the stream, the part's number as the nonce, and what the part is in the
//! tag, so that none can be left out, moved, repeated or passed off as the last.

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, Salt};
use x25519_dalek::SharedSecret;

use super::{NONCE_BYTES, ReplyKey, ReplySeal, TAG_BYTES, invalid, unsealable};
use crate::crypto::digest::random;
use crate::error::Result;
use crate::wire::sealed::{self, VERSION};

const STREAM_LABEL: &[u8] = b"IICP-CX-STREAM-v1";

/// What the key of a stream is made with, beside the task's own secret.
pub(crate) type StreamSalt = [u8; NONCE_BYTES];

/// The key of one task's stream. No `Debug`.
struct StreamCipher {
    key: LessSafeKey,
    task_id: String,
}

impl StreamCipher {
    fn new(shared: &SharedSecret, salt: &StreamSalt, task_id: &str) -> Result<Self, Unspecified> {
        let secret = Salt::new(HKDF_SHA256, salt).extract(shared.as_bytes());
        let key = UnboundKey::from(secret.expand(&[STREAM_LABEL, task_id.as_bytes()], &AES_256_GCM)?);
        Ok(StreamCipher { key: LessSafeKey::new(key), task_id: task_id.to_owned() })
    }

    fn nonce(sequence: u64) -> Nonce {
        let mut nonce = [0; NONCE_BYTES];
        nonce[NONCE_BYTES - 8..].copy_from_slice(&sequence.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn aad(&self, sequence: u64, event: &str) -> Vec<u8> {
        format!("{}|stream|{sequence}|{event}", self.task_id).into_bytes()
    }
}

/// The node's side of a sealed stream.
pub(crate) struct StreamSeal(StreamCipher);

impl StreamSeal {
    /// Seals the part with this number; no number may be used twice.
    ///
    /// # Errors
    /// `INTERNAL` for a part that is too long for the cipher.
    pub(crate) fn seal(&self, sequence: u64, event: &str, part: &[u8]) -> Result<Vec<u8>> {
        let mut body = Vec::with_capacity(part.len() + TAG_BYTES);
        body.extend_from_slice(part);
        let aad = Aad::from(self.0.aad(sequence, event));
        self.0.key.seal_in_place_append_tag(StreamCipher::nonce(sequence), aad, &mut body).map_err(unsealable)?;
        Ok(body)
    }
}

impl ReplySeal {
    /// What seals a stream instead of a reply, and the salt that the consumer needs to open it.
    ///
    /// # Errors
    /// `INTERNAL` if the system has no randomness to give.
    pub(crate) fn stream(&self, task_id: &str) -> Result<(StreamSeal, StreamSalt)> {
        let salt = random()?;
        Ok((StreamSeal(StreamCipher::new(&self.0, &salt, task_id).map_err(unsealable)?), salt))
    }
}

/// The consumer's side of a sealed stream.
pub(crate) struct StreamKey(StreamCipher);

impl StreamKey {
    /// Opens the part with this number.
    ///
    /// # Errors
    /// `REPLY_UNSEALED` with the protocol's `IICP-CX-RESP-INVALID`.
    pub(crate) fn open(&self, sequence: u64, event: &str, part: &str) -> Result<Bytes> {
        let mut body = sealed::decode(part).ok_or_else(|| invalid("has a part that is not base64url"))?;
        let aad = Aad::from(self.0.aad(sequence, event));
        let opened = self.0.key.open_in_place(StreamCipher::nonce(sequence), aad, &mut body);
        let length = opened.map_err(|_| invalid("has a part that does not open: it was changed or moved"))?.len();
        body.truncate(length);
        Ok(body.into())
    }
}

impl ReplyKey {
    /// What opens a stream whose first event shows this version and salt.
    ///
    /// # Errors
    /// `REPLY_UNSEALED` with the protocol's `IICP-CX-RESP-INVALID`.
    pub(crate) fn stream(&self, version: Option<u64>, salt: &str, task_id: &str) -> Result<StreamKey> {
        if version.is_some_and(|version| version != VERSION) {
            return Err(invalid("is a stream of a version that this library does not know"));
        }
        let salt = sealed::fixed(salt).ok_or_else(|| invalid("is a stream without a nonce of 12 bytes"))?;
        let cipher = StreamCipher::new(&self.0, &salt, task_id).map_err(|_| invalid("is a stream without a key"))?;
        Ok(StreamKey(cipher))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::cx::{NodeKey, SealingKey};
    use crate::error::Code;
    use crate::types::CHAT;

    fn both() -> (StreamSeal, StreamKey) {
        let node = NodeKey::generate().unwrap();
        let (envelope, key) = SealingKey::read(&node.public_json(), 0).unwrap().seal("t-1", CHAT, b"{}").unwrap();
        let (_, seal) = node.open(&envelope, "t-1", CHAT).unwrap();
        let (seal, salt) = seal.stream("t-1").unwrap();
        (seal, key.stream(Some(1), &sealed::encode(&salt), "t-1").unwrap())
    }

    #[test]
    fn a_part_opens_in_its_own_place_only() {
        let (seal, key) = both();
        let first = sealed::encode(&seal.seal(1, "partial", br#"{"a":1}"#).unwrap());
        let last = sealed::encode(&seal.seal(2, "completed", b"").unwrap());
        assert_eq!(key.open(1, "partial", &first).unwrap(), &br#"{"a":1}"#[..]);
        assert_eq!(key.open(2, "completed", &last).unwrap(), &b""[..]);
        for (sequence, event, part) in [(2, "partial", &first), (1, "completed", &first), (3, "completed", &last)] {
            let error = key.open(sequence, event, part).unwrap_err();
            assert_eq!((error.code(), error.wire_code()), (Code::ReplyUnsealed, Some("IICP-CX-RESP-INVALID")));
        }
        assert!(both().1.open(1, "partial", &first).is_err(), "another stream's");
        assert!(key.open(1, "partial", "*").is_err());
    }

    #[test]
    fn a_stream_without_a_good_salt_has_no_key() {
        let node = NodeKey::generate().unwrap();
        let (_, key) = SealingKey::read(&node.public_json(), 0).unwrap().seal("t-1", CHAT, b"{}").unwrap();
        assert!(key.stream(Some(2), "BwcHBwcHBwcHBwcH", "t-1").is_err());
        assert!(key.stream(None, "BwcHBwcHBwc", "t-1").is_err());
        assert!(key.stream(None, "BwcHBwcHBwcHBwcH", "t-1").is_ok());
    }
}
