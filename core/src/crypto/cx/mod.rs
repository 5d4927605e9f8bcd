//! Sealing tasks and replies (IICP-CX): X25519 with a fresh key per task, HKDF-SHA256, AES-256-GCM.
//!
//! The consumer seals to a node's published key with [`SealingKey`] and keeps a [`ReplyKey`]; the node opens with its
//! [`NodeKey`] and keeps a [`ReplySeal`]. Task id and intent go into the key and the tag, so that an envelope opens for
//! its own task only. Nothing here has a `Debug` that shows a key, a secret or a plaintext.

mod node_key;
mod sealing_key;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use node_key::NodeKey;
#[allow(unused_imports, reason = "the client does not seal yet")]
pub(crate) use sealing_key::{KeyFault, SealingKey};
pub(crate) use stream::{StreamKey, StreamSeal};

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, Salt};
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};

use super::digest::{hex, random};
use crate::error::{Code, Error, Result};
use crate::types::position;
use crate::wire::sealed::{self, ReplyEnvelope, write_reply_envelope};

/// A node that publishes it seals its replies when asked to.
pub(crate) const SEALED_REPLIES: &str = "response_encryption_v1";

const ALGORITHM: &str = "X25519";
const ENCODING: &str = "base64url";
const TASK_LABEL: &[u8] = b"IICP-CX-v1";
const REPLY_LABEL: &[u8] = b"IICP-CX-RESP-v1";
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// The name of a public key: the first half of its fingerprint's first half.
fn key_id(public: &[u8; 32]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, public);
    format!("cx-{}", hex(&digest.as_ref()[..8]))
}

/// The secret that two keys share; none if the public one is of low order, so that everybody would know it.
fn agree(private: &StaticSecret, public: [u8; 32]) -> Option<SharedSecret> {
    let shared = private.diffie_hellman(&PublicKey::from(public));
    shared.was_contributory().then_some(shared)
}

/// The key for one message: the nonce is the salt as well.
fn message_key(
    shared: &SharedSecret,
    nonce: [u8; NONCE_BYTES],
    info: &[&[u8]],
) -> Result<(LessSafeKey, Nonce), Unspecified> {
    let secret = Salt::new(HKDF_SHA256, &nonce).extract(shared.as_bytes());
    let key = UnboundKey::from(secret.expand(info, &AES_256_GCM)?);
    Ok((LessSafeKey::new(key), Nonce::assume_unique_for_key(nonce)))
}

/// A copy of `plaintext`, sealed: ciphertext, then tag.
fn seal(
    shared: &SharedSecret,
    nonce: [u8; NONCE_BYTES],
    info: &[&[u8]],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    let (key, nonce) = message_key(shared, nonce, info).map_err(unsealable)?;
    let mut body = Vec::with_capacity(plaintext.len() + TAG_BYTES);
    body.extend_from_slice(plaintext);
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut body).map_err(unsealable)?;
    Ok(body)
}

/// Opens `body` in place.
fn open(
    shared: &SharedSecret,
    nonce: [u8; NONCE_BYTES],
    info: &[&[u8]],
    aad: &[u8],
    mut body: Vec<u8>,
) -> Result<Bytes, Unspecified> {
    let (key, nonce) = message_key(shared, nonce, info)?;
    let length = key.open_in_place(nonce, Aad::from(aad), &mut body)?.len();
    body.truncate(length);
    Ok(body.into())
}

fn unsealable(_: Unspecified) -> Error {
    Error::new(Code::Internal, "AES-256-GCM refused to seal; the text is too long for it")
}

fn reply_aad(task_id: &str) -> Vec<u8> {
    [task_id.as_bytes(), b"|resp"].concat()
}

/// What a node keeps of an opened task: it seals the reply. Wiped on drop; no `Debug`.
pub(crate) struct ReplySeal(SharedSecret);

impl ReplySeal {
    /// Appends `iicp_conf_resp`, the reply sealed under a fresh nonce.
    ///
    /// # Errors
    /// `INTERNAL` if the system has no randomness to give.
    pub(crate) fn seal(&self, task_id: &str, reply: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.seal_with(random()?, task_id, reply, out)
    }

    pub(crate) fn seal_with(
        &self,
        nonce: [u8; NONCE_BYTES],
        task_id: &str,
        reply: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let info = [REPLY_LABEL, task_id.as_bytes()];
        let body = seal(&self.0, nonce, &info, &reply_aad(task_id), reply)?;
        write_reply_envelope(out, &nonce, &body);
        Ok(())
    }
}

/// What a consumer keeps of a sealed task: it opens the reply. Wiped on drop; no `Debug`.
pub(crate) struct ReplyKey(SharedSecret);

impl ReplyKey {
    /// Opens `iicp_conf_resp`. What is allocated is bounded by its length.
    ///
    /// # Errors
    /// `REPLY_UNSEALED` with the protocol's `IICP-CX-RESP-INVALID`.
    pub(crate) fn open(&self, task_id: &str, iicp_conf_resp: &[u8]) -> Result<Bytes> {
        let reply: ReplyEnvelope<'_> =
            crate::wire::object(iicp_conf_resp).map_err(|e| invalid(&format!("is not in form: {}", position(&e))))?;
        if reply.version.is_some_and(|version| version != sealed::VERSION) {
            return Err(invalid("is of a version that this library does not know"));
        }
        let nonce = sealed::fixed(&reply.nonce).ok_or_else(|| invalid("has no nonce of 12 bytes"))?;
        let body = sealed::decode(&reply.encrypted_body).ok_or_else(|| invalid("is not base64url"))?;
        let info = [REPLY_LABEL, task_id.as_bytes()];
        open(&self.0, nonce, &info, &reply_aad(task_id), body)
            .map_err(|_| invalid("does not open: it was changed on the way, or is the reply to another task"))
    }
}

fn invalid(why: &str) -> Error {
    Error::new(Code::ReplyUnsealed, format!("the node's sealed reply {why}")).with_wire_code("IICP-CX-RESP-INVALID")
}
