//! PEM texts that the operator names: certificates and keys, which others write and renew.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::options::{MOST_PEM_BYTES, is_pem};

/// The text behind an option that is the path of a PEM file, or its text.
///
/// # Errors
/// `CONFIG_INVALID` with the path.
pub(crate) fn pem(option: &str, given: &str) -> Result<Zeroizing<Vec<u8>>> {
    if is_pem(given) {
        return Ok(Zeroizing::new(given.as_bytes().to_vec()));
    }
    read(Path::new(given)).map_err(|error| unusable(option, given, &error.to_string()))
}

/// That what an option names cannot be used, and where that is; never the text.
pub(crate) fn unusable(option: &str, given: &str, why: &str) -> Error {
    let place = if is_pem(given) { "the text given".to_owned() } else { format!("{given:?}") };
    Error::of_options(Code::ConfigInvalid, format!("option `{option}`: {place} cannot be used: {why}"))
}

/// Whether users of this machine other than the file's owner and group can read it.
pub(crate) fn is_exposed(given: &str) -> bool {
    !is_pem(given) && std::fs::metadata(given).is_ok_and(|facts| facts.permissions().mode() & 0o004 != 0)
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // Not a pipe or a device, which could be waited for without end.
    let facts = std::fs::metadata(path)?;
    if !facts.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let too_large = || io::Error::new(ErrorKind::InvalidData, format!("it is larger than {MOST_PEM_BYTES} bytes"));
    let room = usize::try_from(facts.len()).ok().filter(|length| *length <= MOST_PEM_BYTES).ok_or_else(too_large)?;
    // In one piece: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(room + 1));
    File::open(path)?.take(MOST_PEM_BYTES as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MOST_PEM_BYTES { Err(too_large()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named_and_what_is_given_as_text_is_not_shown() {
        let folder = std::env::temp_dir();
        let missing = folder.join(format!("iicp-no-such-{}.pem", std::process::id()));
        for path in [missing.to_str().unwrap(), folder.to_str().unwrap(), "/dev/zero"] {
            let error = pem("tls.key", path).unwrap_err();
            assert_eq!(error.code(), Code::ConfigInvalid);
            assert!(error.message().contains("tls.key") && error.message().contains(path), "{error}");
        }
        let text = "-----BEGIN PRIVATE KEY-----\nSESAME";
        assert_eq!(*pem("tls.key", text).unwrap(), text.as_bytes());
        assert!(!unusable("tls.key", text, "x").message().contains("SESAME"));
    }
}
