//! Keys that are kept: what a node's tasks are sealed to, and what a relay's workers know it by.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{open_folder, read_file, stem, write_file};
use crate::crypto::cx::NodeKey;
use crate::crypto::pinned::PinnedKey;
use crate::error::{Code, Error, Result};
use crate::telemetry;
use crate::wire::sealed::fixed;

/// The sealing key of a node: the one that is kept, or a new one, which is kept from now on. If it cannot be kept,
/// because the disk is full or read-only, the node serves with a key that ends with the process.
///
/// # Errors
/// `CONFIG_INVALID` with the path if a key is there and cannot be read.
pub(crate) fn sealing_key(state_dir: &Path, node_id: &str) -> Result<NodeKey> {
    kept_or_new(state_dir, node_id)
}

/// The key of a relay, in the same way. Where it cannot be kept, workers ask the directory for the next one.
///
/// # Errors
/// `CONFIG_INVALID` with the path if a key is there and cannot be read.
pub(crate) fn relay_key(state_dir: &Path, node_id: &str) -> Result<PinnedKey> {
    kept_or_new(state_dir, node_id)
}

/// A kind of key that is kept in a folder of its own, a file for each node.
pub(super) trait Kept: Sized {
    const FOLDER: &'static str;
    const ALGORITHM: &'static str;
    const NAME: &'static str;
    /// What comes of removing a file that cannot be read.
    const REMOVED: &'static str;
    /// What comes of a key that cannot be kept.
    const UNKEPT: &'static str;

    fn generate() -> Result<Self>;

    /// # Errors
    /// What is wrong with the file.
    fn from_file(file: &KeyFile<'_>) -> Result<Self, &'static str>;

    /// The private half as it stands in the file.
    fn private(&self) -> Zeroizing<String>;

    /// The public half in JSON, if it stands there as well.
    fn public(&self) -> Option<String>;
}

#[derive(Deserialize)]
pub(super) struct KeyFile<'a> {
    version: u64,
    #[serde(borrow)]
    algorithm: Cow<'a, str>,
    #[serde(borrow)]
    private_key: Cow<'a, str>,
    #[serde(borrow, default)]
    public_key: Option<PublicHalf<'a>>,
}

#[derive(Deserialize)]
struct PublicHalf<'a> {
    #[serde(borrow, default)]
    key_id: Option<Cow<'a, str>>,
}

impl Kept for NodeKey {
    // As the published nodes have it.
    const FOLDER: &'static str = "cx";
    const ALGORITHM: &'static str = "X25519";
    const NAME: &'static str = "the sealing key";
    const REMOVED: &'static str = " (a directory that knows the old one then refuses this node_id for a while)";
    const UNKEPT: &'static str = "it ends with the process, and after a restart the directory may refuse the next";

    fn generate() -> Result<Self> {
        NodeKey::generate()
    }

    fn from_file(file: &KeyFile<'_>) -> Result<Self, &'static str> {
        let private = fixed(&file.private_key).ok_or("its private_key is not 32 bytes of base64url")?;
        let key = NodeKey::from_private(private);
        let told = file.public_key.as_ref().and_then(|public| public.key_id.as_deref());
        if told.is_some_and(|id| id != key.key_id()) {
            return Err("its two halves do not belong together");
        }
        Ok(key)
    }

    fn private(&self) -> Zeroizing<String> {
        self.private_text()
    }

    fn public(&self) -> Option<String> {
        Some(self.public_json().to_string())
    }
}

impl Kept for PinnedKey {
    const FOLDER: &'static str = "relay";
    const ALGORITHM: &'static str = "Ed25519";
    const NAME: &'static str = "the relay's key";
    const REMOVED: &'static str = "";
    const UNKEPT: &'static str = "after a restart the relay's workers have to learn another one";

    fn generate() -> Result<Self> {
        PinnedKey::generate()
    }

    /// From PKCS #8 in base64url.
    fn from_file(file: &KeyFile<'_>) -> Result<Self, &'static str> {
        let pkcs8 = URL_SAFE_NO_PAD.decode(file.private_key.as_bytes()).map(Zeroizing::new);
        let key = pkcs8.ok().and_then(|pkcs8| PinnedKey::from_pkcs8(&pkcs8));
        key.ok_or("its private_key is no Ed25519 key in PKCS #8")
    }

    fn private(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.pkcs8()))
    }

    fn public(&self) -> Option<String> {
        None
    }
}

/// The key that is kept, or a new one, which is kept from now on if it can be.
fn kept_or_new<K: Kept>(state_dir: &Path, node_id: &str) -> Result<K> {
    let name = format!("{}.json", stem(node_id));
    let path = state_dir.join(K::FOLDER).join(&name);
    if let Some(key) = kept(&path)? {
        return Ok(key);
    }
    let key = K::generate()?;
    let unkept = |error: io::Error| {
        tracing::warn!(
            target: telemetry::NODE, node_id, path = %path.display(), %error, "{} cannot be kept; {}", K::NAME, K::UNKEPT
        );
    };
    match open_folder(state_dir, K::FOLDER) {
        Ok(folder) => {
            // Of two nodes that start at the same time, the second takes the key of the first. Where files cannot be
            // locked, the last one stays.
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

/// The key that is kept, or none.
pub(super) fn kept<K: Kept>(path: &Path) -> Result<Option<K>> {
    let unreadable = |why: &str| {
        let (name, path, removed) = (K::NAME, path.display(), K::REMOVED);
        let remedy = "restore the file from a backup, or remove it to start with a new key";
        Error::new(Code::ConfigInvalid, format!("{name} in {path} cannot be used: {why}; {remedy}{removed}"))
    };
    let text = match read_file(path) {
        Ok(text) => text,
        // Where there is no folder there is no key.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    let file: KeyFile<'_> = crate::wire::object(&text)
        .map_err(|e| unreadable(&format!("it is no key file ({})", crate::types::position(&e))))?;
    if file.version != 1 || file.algorithm != K::ALGORITHM {
        return Err(unreadable("it is of a kind that this library does not know"));
    }
    K::from_file(&file).map(Some).map_err(unreadable)
}

fn file<K: Kept>(key: &K) -> Zeroizing<Vec<u8>> {
    let (private, public) = (key.private(), key.public());
    let public = public.map(|public| format!(r#","public_key":{public}"#)).unwrap_or_default();
    // Built in one piece: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(private.len() + public.len() + 256));
    let begin = r#"{"version":1,"algorithm":""#;
    for part in [begin, K::ALGORITHM, r#"","private_key":""#, private.as_str(), "\"", &public, "}\n"] {
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
        let path = dir.join(PinnedKey::FOLDER).join(format!("{}.json", stem("relay-1")));
        for bad in ["", "{}", r#"{"version":2}"#, r#"{"version":1,"algorithm":"Ed25519","private_key":"AAAA"}"#] {
            std::fs::write(&path, bad).unwrap();
            let Err(error) = relay_key(&dir, "relay-1") else { panic!("{bad}") };
            assert!(error.code() == Code::ConfigInvalid && error.to_string().contains(path.to_str().unwrap()));
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
