//! The key that a relay's workers know it by.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{open_folder, read_file, stem, write_file};
use crate::crypto::pinned::PinnedKey;
use crate::error::{Code, Error, Result};
use crate::telemetry;

/// Where it is kept.
const KEYS: &str = "relay";

#[derive(Deserialize)]
struct KeyFile<'a> {
    version: u64,
    #[serde(borrow)]
    algorithm: Cow<'a, str>,
    /// PKCS #8 in base64url.
    #[serde(borrow)]
    private_key: Cow<'a, str>,
}

/// The key that is kept, or a new one, which is kept from now on. Where nothing can be written, it ends with the process:
/// workers then ask the directory for the next one.
///
/// # Errors
/// `CONFIG_INVALID` with the path if a key is there and cannot be read.
pub(crate) fn relay_key(state_dir: &Path, node_id: &str) -> Result<PinnedKey> {
    let name = format!("{}.json", stem(node_id));
    let path = state_dir.join(KEYS).join(&name);
    if let Some(key) = kept(&path)? {
        return Ok(key);
    }
    let key = PinnedKey::generate()?;
    let unkept = |error: io::Error| {
        tracing::warn!(
            target: telemetry::RELAY, node_id, path = %path.display(), %error,
            "the relay's key cannot be kept; after a restart its workers have to learn another one"
        );
    };
    match open_folder(state_dir, KEYS) {
        Ok(folder) => {
            let _ = flock(&folder, FlockOperation::LockExclusive);
            if let Some(key) = kept(&path)? {
                return Ok(key);
            }
            write_file(&folder, &name, &file(&key)).unwrap_or_else(unkept);
        }
        Err(error) => unkept(error),
    }
    Ok(key)
}

fn kept(path: &Path) -> Result<Option<PinnedKey>> {
    let unreadable = |why: &str| {
        let remedy = "restore the file from a backup, or remove it to start with a new key";
        Error::new(
            Code::ConfigInvalid,
            format!("the relay's key in {} cannot be used: {why}; {remedy}", path.display()),
        )
    };
    let text = match read_file(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    let file: KeyFile<'_> = crate::wire::object(&text)
        .map_err(|e| unreadable(&format!("it is no key file ({})", crate::types::position(&e))))?;
    if file.version != 1 || file.algorithm != "Ed25519" {
        return Err(unreadable("it is of a kind that this library does not know"));
    }
    let pkcs8 = URL_SAFE_NO_PAD.decode(file.private_key.as_bytes()).map(Zeroizing::new);
    let key = pkcs8.ok().and_then(|pkcs8| PinnedKey::from_pkcs8(&pkcs8));
    key.map(Some).ok_or_else(|| unreadable("its private_key is no Ed25519 key in PKCS #8"))
}

fn file(key: &PinnedKey) -> Zeroizing<Vec<u8>> {
    // Built in one piece: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(512));
    let private = Zeroizing::new(URL_SAFE_NO_PAD.encode(key.pkcs8()));
    for part in [r#"{"version":1,"algorithm":"Ed25519","private_key":""#, private.as_str(), "\"}\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_keeps_its_key_and_says_so_when_it_cannot_be_read() {
        let dir = std::env::temp_dir().join(format!("iicp-relay-key-{}", uuid::Uuid::new_v4()));
        let first = relay_key(&dir, "relay-1").unwrap();
        assert_eq!(relay_key(&dir, "relay-1").unwrap().pin(), first.pin());
        assert_ne!(relay_key(&dir, "relay-2").unwrap().pin(), first.pin());
        let path = dir.join(KEYS).join(format!("{}.json", stem("relay-1")));
        for bad in ["", "{}", r#"{"version":2}"#, r#"{"version":1,"algorithm":"Ed25519","private_key":"AAAA"}"#] {
            std::fs::write(&path, bad).unwrap();
            let Err(error) = relay_key(&dir, "relay-1") else { panic!("{bad}") };
            assert!(error.code() == Code::ConfigInvalid && error.to_string().contains(path.to_str().unwrap()));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
