//! What outlives the process: a node's sealing key and who it is, as small files that are whole or not there.
//!
//! A file is written beside its place, brought to the disk and then moved in; a crash between any two steps leaves the
//! old state or the new one. A key is never replaced: whoever cannot read it is told, because tasks are being sealed to
//! it. The functions block on the disk.

mod identity;
mod pause;
mod pem;
mod relay_key;

use std::borrow::Cow;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fsync, openat, renameat, unlinkat};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::crypto::cx::NodeKey;
use crate::crypto::digest::{hex, token_hash};
use crate::error::{Code, Error, Result};
use crate::telemetry;
use crate::wire::sealed::fixed;

pub(crate) use identity::{Credentials, Identity, identity, keep_credentials};
pub(crate) use pause::{keep_pause, pause_left};
pub(crate) use pem::{is_exposed, pem, unusable};
pub(crate) use relay_key::relay_key;

/// Sealing keys have a folder of their own, as the published nodes have it.
const KEYS: &str = "cx";
/// More than a file of ours can have.
const ROOM: usize = 16 << 10;

/// The sealing key of a node: the one that is kept, or a new one, which is kept from now on. If it cannot be kept,
/// because the disk is full or read-only, the node serves with a key that ends with the process.
///
/// # Errors
/// `CONFIG_INVALID` with the path if a key is there and cannot be read.
pub(crate) fn sealing_key(state_dir: &Path, node_id: &str) -> Result<NodeKey> {
    let name = format!("{}.json", stem(node_id));
    let path = state_dir.join(KEYS).join(&name);
    if let Some(key) = kept_key(&path)? {
        return Ok(key);
    }
    let key = NodeKey::generate()?;
    match open_folder(state_dir, KEYS) {
        Ok(folder) => {
            // Of two nodes that start at the same time, the second takes the key of the first. Where files cannot be
            // locked, the last one stays.
            let _ = flock(&folder, FlockOperation::LockExclusive);
            if let Some(key) = kept_key(&path)? {
                return Ok(key);
            }
            write_file(&folder, &name, &key_file(&key)).unwrap_or_else(|error| warn_unkept(&path, node_id, &error));
        }
        Err(error) => warn_unkept(&path, node_id, &error),
    }
    Ok(key)
}

/// The name of a node's files: its id may hold what a name of a file may not.
fn stem(node_id: &str) -> String {
    hex(&token_hash(node_id))[..24].to_owned()
}

fn warn_unkept(path: &Path, node_id: &str, error: &io::Error) {
    tracing::warn!(
        target: telemetry::NODE, node_id, path = %path.display(), %error,
        "the sealing key cannot be kept; it ends with the process, and after a restart the directory may refuse the next"
    );
}

#[derive(Deserialize)]
struct KeyFile<'a> {
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

/// The key that is kept, or none.
fn kept_key(path: &Path) -> Result<Option<NodeKey>> {
    let unreadable = |why: &str| {
        Error::new(
            Code::ConfigInvalid,
            format!(
                "the sealing key in {} cannot be used: {why}; restore the file from a backup, or remove it to start with \
                 a new key (a directory that knows the old one then refuses this node_id for a while)",
                path.display()
            ),
        )
    };
    let text = match read_file(path) {
        Ok(text) => text,
        // Where there is no folder there is no key.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    let file: KeyFile<'_> = crate::wire::object(&text)
        .map_err(|e| unreadable(&format!("it is no key file ({})", crate::types::position(&e))))?;
    if file.version != 1 || file.algorithm != "X25519" {
        return Err(unreadable("it is of a kind that this library does not know"));
    }
    let private = fixed(&file.private_key).ok_or_else(|| unreadable("its private_key is not 32 bytes of base64url"))?;
    let key = NodeKey::from_private(private);
    let told = file.public_key.and_then(|public| public.key_id);
    if told.is_some_and(|id| id != key.key_id()) {
        return Err(unreadable("its two halves do not belong together"));
    }
    Ok(Some(key))
}

fn key_file(key: &NodeKey) -> Zeroizing<Vec<u8>> {
    let private = key.private_text();
    let public = key.public_json().to_string();
    // Built in one piece: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(public.len() + 256));
    for part in [
        r#"{"version":1,"algorithm":"X25519","private_key":""#,
        private.as_str(),
        r#"","public_key":"#,
        public.as_str(),
        "}\n",
    ] {
        text.extend_from_slice(part.as_bytes());
    }
    text
}

fn read_file(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Not a pipe or a device, which could be waited for without end.
    let facts = std::fs::metadata(path)?;
    if !facts.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    if facts.permissions().mode() & 0o077 != 0 {
        tracing::warn!(target: telemetry::NODE, path = %path.display(), "others may read this file, which is secret; chmod 600 it");
    }
    let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
    File::open(path)?.take(ROOM as u64).read_to_end(&mut text)?;
    Ok(text)
}

/// Opens a folder for writing into it, and makes it first if it is not there. Others may not look into it.
fn open_folder(state_dir: &Path, name: &str) -> io::Result<OwnedFd> {
    let path = state_dir.join(name);
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, &path, flags, Mode::empty())?;
    // One that was there before may be open to others.
    rustix::fs::fchmod(&folder, Mode::RWXU)?;
    Ok(folder)
}

/// Puts a file into a folder, whole or not at all.
fn write_file(folder: &OwnedFd, name: &str, text: &[u8]) -> io::Result<()> {
    let beside = format!("{name}.new");
    // What a crash left behind; also a link that somebody put there.
    let _ = unlinkat(folder, &beside, AtFlags::empty());
    let written = write_beside(folder, &beside, text)
        .and_then(|()| renameat(folder, &beside, folder, name).map_err(io::Error::from));
    if written.is_err() {
        let _ = unlinkat(folder, &beside, AtFlags::empty());
        return written;
    }
    fsync(folder)?;
    Ok(())
}

fn write_beside(folder: &OwnedFd, name: &str, text: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
