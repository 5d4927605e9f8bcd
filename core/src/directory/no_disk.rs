//! In place of the directory's file, in a build without SQLite: there is none.

use std::convert::Infallible;

use super::kept::{Row, Secrets};
use crate::error::{Code, Error, Result};

/// The file, which no such build has.
pub(super) struct Disk(Infallible);

impl Disk {
    /// Says that this build has no file.
    ///
    /// # Errors
    /// `UNSUPPORTED`, always.
    pub(super) fn open(_path: &str) -> Result<(Disk, Secrets, Vec<Row>, Option<String>)> {
        Err(Error::of_options(
            Code::Unsupported,
            "option `path` of a directory needs a build with SQLite (cargo feature sqlite); leave it out to keep nothing",
        ))
    }

    pub(super) fn path(&self) -> &str {
        match self.0 {}
    }

    pub(super) fn write<'a>(&mut self, _rows: impl Iterator<Item = (&'a str, Option<Row>)>) -> Result<(), String> {
        match self.0 {}
    }
}
