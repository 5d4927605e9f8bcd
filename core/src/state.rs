//! What outlives the process: a node's sealing key and who it is, as small files that are whole or not there.
//!
//! A file is written beside its place, brought to the disk and then moved in; a crash between any two steps leaves the
//! old state or the new one. A key is never replaced: whoever cannot read it is told, because tasks are being sealed to
//! it. The functions block on the disk.

mod identity;
mod keys;
mod pause;
mod pem;

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fsync, openat, renameat, unlinkat};
use zeroize::Zeroizing;

use crate::crypto::digest::{hex, token_hash};
use crate::telemetry;

pub(crate) use identity::{Credentials, Identity, identity, keep_credentials};
pub(crate) use keys::{relay_key, sealing_key};
pub(crate) use pause::{keep_pause, pause_left};
pub(crate) use pem::{is_exposed, pem, unusable};

/// More than a file of ours can have.
const ROOM: usize = 16 << 10;

/// The name of a node's files: its id may hold what a name of a file may not.
fn stem(node_id: &str) -> String {
    hex(&token_hash(node_id))[..24].to_owned()
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
