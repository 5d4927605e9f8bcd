//! What stands on the wire: bytes to structs and back. Pure: no socket, no clock, no tokio.
//!
//! Readers are lenient (missing, null and unknown fields are normal, success has three spellings, errors come in three
//! shapes); writers are strict.

pub(crate) mod call;
pub(crate) mod cbor;
pub(crate) mod directory;
pub(crate) mod events;
pub(crate) mod failure;
pub(crate) mod fragment;
pub(crate) mod frame;
pub(crate) mod gzip;
pub(crate) mod inbound;
pub(crate) mod message;
pub(crate) mod port_control;
#[cfg_attr(not(feature = "punch"), allow(dead_code))] // without it only a relay has words to say
pub(crate) mod punch;
pub(crate) mod relay;
pub(crate) mod relayed;
pub(crate) mod sealed;
#[cfg_attr(not(feature = "punch"), allow(dead_code))] // the same
pub(crate) mod stun;
pub(crate) mod task;
pub(crate) mod transcode;
pub(crate) mod upnp;
pub(crate) mod xml;

use serde::de::{Deserialize, Deserializer, Error as _};

/// Reads a JSON object. Serde would also take a list, element by field; nobody in this protocol means that.
pub(crate) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    if json.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(serde_json::Error::custom("a list where an object belongs"));
    }
    serde_json::from_slice(json)
}

/// Writes a JSON string.
fn write_string(out: &mut Vec<u8>, text: &str) {
    // A string always has a JSON form and a Vec always takes it.
    let _ = serde_json::to_writer(out, text);
}

/// Reads a count that may be missing, null or written as a float, and refuses what is negative or no number.
pub(crate) fn count<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<f64>::deserialize(d)? else { return Ok(None) };
    if number.is_finite() && (0.0..=9.0e15).contains(&number) {
        // Range and sign were checked; a fraction is cut off.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        return Ok(Some(number as u64));
    }
    Err(D::Error::custom("not a count"))
}
