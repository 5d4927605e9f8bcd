//! The directory's file: one SQLite database for its owner alone. The functions block on the disk.
//!
//! SQLite's write-ahead log makes a transaction whole or nothing, also when the process is killed inside it. A new file is
//! made beside its place and moved in when it is whole, so a file that is there and empty was damaged. A key is never
//! replaced: whoever cannot read the file is told.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use zeroize::Zeroizing;

use super::kept::{Row, Secrets};
use crate::crypto::digest::{same, sha256_hex, unhex};
use crate::error::{Code, Error, Result};
use crate::telemetry;

/// Number of the form that is written here.
const FORM: i64 = 1;
/// How long to wait for the directory that had the file before.
const PATIENCE: Duration = Duration::from_secs(5);
const SCHEMA: &str = "
    CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID, STRICT;
    CREATE TABLE nodes (
        id TEXT PRIMARY KEY, token BLOB NOT NULL, hmac_key TEXT NOT NULL, record TEXT NOT NULL, state TEXT NOT NULL
    ) WITHOUT ROWID, STRICT;";

/// The open file.
pub(super) struct Disk {
    path: String,
    /// None if the file can only be read, or not be made.
    database: Option<Connection>,
    why_not: String,
}

/// What was found: the file, the secrets and nodes in it, and why it cannot be written, if it cannot.
type Opened = (Disk, Secrets, Vec<Row>, Option<String>);

impl Disk {
    /// Opens the file, and makes it first if it is not there. If it cannot be made, because the disk is full or read-only,
    /// the secrets are new and nothing is written.
    ///
    /// # Errors
    /// `CONFIG_INVALID` with the path if the file is there and cannot be read.
    pub(super) fn open(path: &str) -> Result<Opened> {
        let opened = |database: Option<Connection>, why_not: Option<String>, secrets, rows| {
            let disk = Disk { path: path.to_owned(), database, why_not: why_not.clone().unwrap_or_default() };
            (disk, secrets, rows, why_not)
        };
        match std::fs::metadata(path) {
            Ok(facts) if !facts.is_file() => return Err(unusable(path, "it is no regular file")),
            Ok(facts) if facts.len() == 0 => return Err(unusable(path, "it is empty")),
            Ok(facts) if facts.permissions().mode() & 0o077 != 0 => {
                // It may be another's file; then it stays as open as it was.
                let narrowed = std::fs::set_permissions(path, Permissions::from_mode(0o600)).is_ok();
                tracing::warn!(target: telemetry::DIRECTORY, path, narrowed, "others could read the directory's keys");
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let secrets = Secrets::random()?;
                if let Err(why) = make(Path::new(path), &secrets) {
                    return Ok(opened(None, Some(why), secrets, Vec::new()));
                }
            }
            Err(error) => return Err(unusable(path, &error.to_string())),
        }
        let (database, why_not) = match open_to_write(path) {
            Ok(database) => (database, None),
            Err(error) if is_read_only(&error) => {
                let database = open_to_read(path).map_err(|_| unusable(path, &error.to_string()))?;
                (database, Some("it is read-only".to_owned()))
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {
                return Err(unusable(path, "another directory uses it; stop that one, or give this one another file"));
            }
            Err(error) => return Err(unusable(path, &error.to_string())),
        };
        let (secrets, rows) = read(&database).map_err(|why| unusable(path, &why))?;
        let database = Some(database).filter(|_| why_not.is_none());
        Ok(opened(database, why_not, secrets, rows))
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Writes nodes, or removes those that there are no more, all of them or none.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn write<'a>(&mut self, rows: impl Iterator<Item = (&'a str, Option<Row>)>) -> Result<(), String> {
        let Some(database) = &mut self.database else { return Err(self.why_not.clone()) };
        write(database, rows).map_err(|error| error.to_string())
    }
}

fn write<'a>(database: &mut Connection, rows: impl Iterator<Item = (&'a str, Option<Row>)>) -> rusqlite::Result<()> {
    let whole = database.transaction()?;
    {
        let mut put = whole
            .prepare("INSERT OR REPLACE INTO nodes (id, token, hmac_key, record, state) VALUES (?, ?, ?, ?, ?)")?;
        let mut remove = whole.prepare("DELETE FROM nodes WHERE id = ?")?;
        for (id, row) in rows {
            match row {
                Some(row) => put.execute(params![id, row.token.as_slice(), row.hmac_key, row.record, row.state])?,
                None => remove.execute([id])?,
            };
        }
    }
    whole.commit()
}

/// Makes a file with nothing in it but secrets.
fn make(path: &Path, secrets: &Secrets) -> Result<(), String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let made = || -> std::result::Result<(), Box<dyn std::error::Error>> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // What a crash left behind; also a link that somebody put there.
        let _ = std::fs::remove_file(beside);
        // SQLite makes its own files beside this one as open as this one.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
        let mut database = Connection::open_with_flags(beside, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let whole = database.transaction()?;
        whole.execute_batch(SCHEMA)?;
        let check = check(secrets);
        for (name, value) in [
            ("seed", secrets.seed.as_slice()),
            ("hmac_secret", secrets.hmac_secret.as_bytes()),
            ("check", check.as_bytes()),
        ] {
            whole.execute("INSERT INTO secrets (name, value) VALUES (?, ?)", params![name, value])?;
        }
        whole.pragma_update(None, "user_version", FORM)?;
        whole.commit()?;
        database.close().map_err(|(_, error)| error)?;
        std::fs::rename(beside, path)?;
        File::open(folder)?.sync_all()?;
        Ok(())
    };
    made().map_err(|error| {
        let _ = std::fs::remove_file(beside);
        error.to_string()
    })
}

fn open_to_write(path: &str) -> rusqlite::Result<Connection> {
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    database.busy_timeout(PATIENCE)?;
    // One directory for each file; so nothing is shared through memory, and no third file lies beside it.
    database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    database.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A process that is killed loses nothing. A machine that loses power may lose the last second, and nothing before.
    database.pragma_update(None, "synchronous", "NORMAL")?;
    // Takes the lock now and not with the first node, and finds out here whether it may write.
    database.execute_batch("BEGIN IMMEDIATE; COMMIT;")?;
    Ok(database)
}

/// Reads a file that nobody can change, such as one on a disk that is read-only.
fn open_to_read(path: &str) -> Result<Connection, String> {
    // What only stands in the log would be missed.
    if std::fs::metadata(format!("{path}-wal")).is_ok_and(|log| log.len() > 0) {
        return Err("its log cannot be read without writing".into());
    }
    let escaped = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags).map_err(|error| error.to_string())
}

fn is_read_only(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::DiskFull | ErrorCode::PermissionDenied)
    )
}

fn read(database: &Connection) -> Result<(Secrets, Vec<Row>), String> {
    let text = |error: rusqlite::Error| error.to_string();
    let sound: String = database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(text)?;
    if sound != "ok" {
        return Err(format!("it is damaged ({sound})"));
    }
    let form: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(text)?;
    if form != FORM {
        return Err("it is no file of a directory, or one of another version".into());
    }
    let secret = |name: &str| {
        let found =
            database.query_row("SELECT value FROM secrets WHERE name = ?", [name], |row| row.get::<_, Vec<u8>>(0));
        found.map(Zeroizing::new).map_err(|error| format!("it lacks its keys ({error})"))
    };
    let seed = <[u8; 32]>::try_from(secret("seed")?.as_slice()).map_err(|_| "its key has not 32 bytes")?;
    let hmac_secret = secret("hmac_secret")?;
    let hmac_secret = std::str::from_utf8(&hmac_secret).ok().filter(|text| unhex::<32>(text).is_some());
    let hmac_secret = Zeroizing::new(hmac_secret.ok_or("its key for challenges has not 64 hex digits")?.to_owned());
    let secrets = Secrets { seed: Zeroizing::new(seed), hmac_secret };
    if !same(secret("check")?.as_slice(), check(&secrets).as_bytes()) {
        return Err("its keys are damaged".into());
    }
    let mut nodes = database.prepare("SELECT id, token, hmac_key, record, state FROM nodes").map_err(text)?;
    let rows = nodes.query_map([], |row| {
        Ok(Row { id: row.get(0)?, token: row.get(1)?, hmac_key: row.get(2)?, record: row.get(3)?, state: row.get(4)? })
    });
    let rows = rows.and_then(Iterator::collect).map_err(text)?;
    Ok((secrets, rows))
}

/// What tells whole secrets from damaged ones; SQLite does not look into what it keeps.
fn check(secrets: &Secrets) -> String {
    sha256_hex(&[secrets.seed.as_slice(), secrets.hmac_secret.as_bytes()])
}

fn unusable(path: &str, why: &str) -> Error {
    Error::new(
        Code::ConfigInvalid,
        format!(
            "the directory's file {path} cannot be used: {why}; restore it from a backup, or move it away to start with a \
             new one (nodes then register again, and clients fetch the new key)"
        ),
    )
}
