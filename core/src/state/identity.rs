//! Who a node is: its id, the lock that makes sure that nobody else is it, and what proves to the directory that it is the
//! one of before.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, ftruncate, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{open_folder, read_file, stem, write_file};
use crate::error::{Code, Error, Result};
use crate::options::is_node_id;
use crate::telemetry;

/// Where it is kept.
const NODES: &str = "nodes";
/// The id of a node that was given none.
const DEFAULT: &str = "default.json";
/// How long a lock is waited for: a process that was told to end may still hold it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What proves to the directory that a node is the one that registered before. No `Debug`: it holds secrets.
#[derive(Clone, PartialEq)]
pub(crate) struct Credentials {
    pub(crate) node_token: Zeroizing<String>,
    pub(crate) node_hmac_key: Option<Zeroizing<String>>,
}

/// Who the node is.
pub(crate) struct Identity {
    pub(crate) node_id: String,
    /// From the last registration at this directory.
    pub(crate) credentials: Option<Credentials>,
    /// Held for as long as the node lives; the system gives it back when the process ends, however that comes.
    _lock: Option<File>,
}

impl Identity {
    /// A node of which nothing is kept.
    pub(crate) fn passing(node_id: Option<String>) -> Self {
        let node_id = node_id.unwrap_or_else(|| Uuid::new_v4().to_string());
        Identity { node_id, credentials: None, _lock: None }
    }
}

#[derive(Serialize, Deserialize)]
struct DefaultFile<'a> {
    version: u64,
    #[serde(borrow)]
    node_id: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct CredentialsFile<'a> {
    version: u64,
    #[serde(borrow)]
    node_id: Cow<'a, str>,
    /// Nobody else is shown what this one gave.
    #[serde(borrow)]
    directory: Cow<'a, str>,
    #[serde(borrow)]
    node_token: Cow<'a, str>,
    #[serde(borrow)]
    node_hmac_key: Option<Cow<'a, str>>,
}

/// The node that is kept, or a new one, which is kept from now on. Where nothing can be written, the node serves with
/// what there is.
///
/// # Errors
/// `NODE_LOCKED` if another process is this node, `CONFIG_INVALID` with the path for a kept id that cannot be read.
pub(crate) fn identity(state_dir: &Path, node_id: Option<&str>, directory: &str) -> Result<Identity> {
    let folder = open_folder(state_dir, NODES).map_err(|error| warn_unkept(state_dir, &error)).ok();
    let node_id = match node_id {
        Some(node_id) => node_id.to_owned(),
        None => default_id(state_dir, folder.as_ref())?,
    };
    let lock = lock(state_dir, &node_id)?;
    let credentials = kept_credentials(state_dir, &node_id, directory);
    Ok(Identity { node_id, credentials, _lock: lock })
}

fn warn_unkept(state_dir: &Path, error: &io::Error) {
    tracing::warn!(
        target: telemetry::NODE, path = %state_dir.display(), %error,
        "nothing can be kept in state_dir; what the node is now ends with the process"
    );
}

fn default_id(state_dir: &Path, folder: Option<&OwnedFd>) -> Result<String> {
    let path = state_dir.join(NODES).join(DEFAULT);
    if let Some(node_id) = kept_id(&path)? {
        return Ok(node_id);
    }
    let node_id = Uuid::new_v4().to_string();
    let Some(folder) = folder else { return Ok(node_id) };
    // Of two nodes that start at the same time, the second takes the id of the first, and then finds it locked.
    let _held = flock(folder, FlockOperation::LockExclusive);
    let kept = kept_id(&path);
    if !matches!(kept, Ok(None)) {
        let _ = flock(folder, FlockOperation::Unlock);
        return kept.map(|kept| kept.unwrap_or(node_id));
    }
    let file = DefaultFile { version: 1, node_id: Cow::Borrowed(&node_id) };
    if let Err(error) = write_json(folder, DEFAULT, &file) {
        warn_unkept(state_dir, &error);
    }
    let _ = flock(folder, FlockOperation::Unlock);
    Ok(node_id)
}

fn kept_id(path: &Path) -> Result<Option<String>> {
    let unreadable = |why: &str| {
        Error::of_options(
            Code::ConfigInvalid,
            format!(
                "the node's id in {} cannot be used: {why}; set `node_id`, restore the file from a backup, or remove it to \
                 start as a new node",
                path.display()
            ),
        )
    };
    let text = match read_file(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(unreadable(&error.to_string())),
    };
    match crate::wire::object::<DefaultFile<'_>>(&text) {
        Ok(file) if file.version == 1 && is_node_id(&file.node_id) => Ok(Some(file.node_id.into_owned())),
        Ok(_) => Err(unreadable("it names no node")),
        Err(error) => Err(unreadable(&format!("it is no file of this library ({})", crate::types::position(&error)))),
    }
}

/// Makes sure that this process alone is the node. Where files cannot be locked, everyone is trusted.
fn lock(state_dir: &Path, node_id: &str) -> Result<Option<File>> {
    let path = state_dir.join(NODES).join(format!("{}.lock", stem(node_id)));
    let unlocked = |error: Errno| {
        tracing::warn!(
            target: telemetry::NODE, node_id, path = %path.display(), error = %io::Error::from(error),
            "the node cannot be locked; see to it that no other process serves with this node_id and state_dir"
        );
        Ok(None)
    };
    let open = |flags| openat(CWD, &path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
    // One that is there can be locked also where nothing can be written.
    let file = match open(OFlags::RDWR | OFlags::CREATE).or_else(|error| open(OFlags::RDONLY).map_err(|_| error)) {
        Ok(file) => file,
        Err(error) => return unlocked(error),
    };
    let mut file = File::from(file);
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(locked(state_dir, node_id, &mut file)),
            Err(error) => return unlocked(error),
        }
    }
    // For whoever finds it locked; what matters is the lock.
    let _ = ftruncate(&file, 0);
    let _ = writeln!(file, "{}", std::process::id());
    Ok(Some(file))
}

fn locked(state_dir: &Path, node_id: &str, file: &mut File) -> Error {
    let mut holder = String::new();
    let _ = file.rewind();
    let _ = file.take(16).read_to_string(&mut holder);
    let holder = match holder.trim().parse::<u32>() {
        Ok(id) if id == std::process::id() => "another node of this process".to_owned(),
        Ok(id) => format!("process {id}"),
        Err(_) => "another process".to_owned(),
    };
    Error::of_options(
        Code::NodeLocked,
        format!(
            "{holder} serves as node {node_id} with the `state_dir` {}; stop it, or give this node another `node_id` or `state_dir`",
            state_dir.display()
        ),
    )
}

fn credentials_path(state_dir: &Path, node_id: &str) -> PathBuf {
    state_dir.join(NODES).join(format!("{}.json", stem(node_id)))
}

/// What is kept of the last registration. A node can do without: it registers like a new one, and the directory knows it
/// by its sealing key.
fn kept_credentials(state_dir: &Path, node_id: &str, directory: &str) -> Option<Credentials> {
    let path = credentials_path(state_dir, node_id);
    let unusable = |why: &dyn std::fmt::Display| {
        tracing::warn!(
            target: telemetry::NODE, node_id, path = %path.display(), %why,
            "what is kept of the last registration cannot be used; the node registers without it"
        );
        None
    };
    let text = match read_file(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return None,
        Err(error) => return unusable(&error),
    };
    let file: CredentialsFile<'_> = match crate::wire::object(&text) {
        Ok(file) => file,
        Err(error) => return unusable(&crate::types::position(&error)),
    };
    if file.version != 1 || file.node_id != node_id {
        return unusable(&"it is of another node, or of a kind that this library does not know");
    }
    let secret = |text: Cow<'_, str>| Zeroizing::new(text.into_owned());
    (file.directory == directory)
        .then(|| Credentials { node_token: secret(file.node_token), node_hmac_key: file.node_hmac_key.map(secret) })
}

/// Keeps what the directory gave.
///
/// # Errors
/// The system's; what was kept before is still there then.
pub(crate) fn keep_credentials(
    state_dir: &Path,
    node_id: &str,
    directory: &str,
    credentials: &Credentials,
) -> io::Result<()> {
    let file = CredentialsFile {
        version: 1,
        node_id: Cow::Borrowed(node_id),
        directory: Cow::Borrowed(directory),
        node_token: Cow::Borrowed(&credentials.node_token),
        node_hmac_key: credentials.node_hmac_key.as_ref().map(|key| Cow::Borrowed(key.as_str())),
    };
    write_json(&open_folder(state_dir, NODES)?, &format!("{}.json", stem(node_id)), &file)
}

fn write_json<T: Serialize>(folder: &OwnedFd, name: &str, value: &T) -> io::Result<()> {
    // More than a token and a key have, so that no copy is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(super::ROOM));
    serde_json::to_writer(&mut *text, value)?;
    text.push(b'\n');
    write_file(folder, name, &text)
}

#[cfg(test)]
mod tests;
