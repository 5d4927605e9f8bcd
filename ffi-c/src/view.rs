//! What C lends to a call, and where a call writes to.

use std::ffi::c_char;
use std::ptr::NonNull;
use std::slice;

use bytes::Bytes;
use iicp_core::{Code, Error, Result};

/// Longest view that is believed: the largest body that any option allows. A longer one is a slip of the caller, such
/// as a negative length.
const MOST: usize = 1 << 30;

/// Text that somebody else owns: UTF-8, `len` bytes without a final NUL. As an argument, `{NULL, 0}` is the empty
/// text. What the library returns is followed by a NUL, so that `ptr` also is a C string, and lives as long as the
/// object that it was read from.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct iicp_str {
    /// The first byte; NULL only if `len` is 0.
    pub ptr: *const c_char,
    /// The number of bytes.
    pub len: usize,
}

/// Bytes that somebody else owns. As an argument, `{NULL, 0}` is the empty body. What the library returns lives as long
/// as the object that it was read from.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct iicp_bytes {
    /// The first byte; NULL only if `len` is 0.
    pub ptr: *const u8,
    /// The number of bytes.
    pub len: usize,
}

impl iicp_str {
    pub(crate) const EMPTY: iicp_str = iicp_str { ptr: c"".as_ptr(), len: 0 };

    /// Shows a text that ends with a NUL.
    pub(crate) fn of(text: &str) -> iicp_str {
        match text.strip_suffix('\0') {
            Some(shown) => iicp_str { ptr: text.as_ptr().cast(), len: shown.len() },
            None => iicp_str::EMPTY,
        }
    }

    /// # Safety
    /// `len` bytes at `ptr` may be read for as long as the result is used.
    pub(crate) unsafe fn read<'a>(self, name: &str) -> Result<&'a str> {
        // SAFETY: what the caller of this function promises.
        let bytes = unsafe { read(self.ptr.cast(), self.len, name)? };
        std::str::from_utf8(bytes).map_err(|e| {
            let at = e.valid_up_to();
            invalid(format!("argument {name} is not UTF-8: byte {at} is wrong; pass text in UTF-8"))
        })
    }
}

impl iicp_bytes {
    /// The empty body is at an address as well: that of an empty slice is a small number, which a garbage collector that
    /// finds it among pointers takes for a fault of memory.
    pub(crate) fn of(bytes: &[u8]) -> iicp_bytes {
        let ptr = if bytes.is_empty() { c"".as_ptr().cast() } else { bytes.as_ptr() };
        iicp_bytes { ptr, len: bytes.len() }
    }

    /// # Safety
    /// `len` bytes at `ptr` may be read.
    pub(crate) unsafe fn copy(self, name: &str) -> Result<Bytes> {
        // SAFETY: what the caller of this function promises.
        unsafe { read(self.ptr, self.len, name) }.map(Bytes::copy_from_slice)
    }
}

unsafe fn read<'a>(ptr: *const u8, len: usize, name: &str) -> Result<&'a [u8]> {
    if len == 0 {
        return Ok(&[]);
    }
    if ptr.is_null() {
        return Err(null(format!("argument {name} is NULL with a length of {len}; only the empty view may be NULL")));
    }
    if len > MOST {
        return Err(invalid(format!("argument {name} has a length of {len} bytes; a view may have {MOST} at most")));
    }
    // SAFETY: not null, shorter than isize::MAX, bytes have no alignment; that they may be read the caller promises.
    Ok(unsafe { slice::from_raw_parts(ptr, len) })
}

/// A place for a result, checked before anything is begun and written when it has succeeded.
pub(crate) struct Out<T>(Option<NonNull<T>>);

impl<T> Out<T> {
    /// A place that the caller must give.
    pub(crate) fn required(place: *mut T, name: &str) -> Result<Out<T>> {
        match Out::wanted(place, name)? {
            Out(None) => Err(null(format!("argument {name} is NULL; pass the address of a variable for the result"))),
            out => Ok(out),
        }
    }

    /// A place that the caller may give.
    pub(crate) fn wanted(place: *mut T, name: &str) -> Result<Out<T>> {
        if !place.is_aligned() {
            return Err(invalid(format!("argument {name} is no address of a variable of its type: it is not aligned")));
        }
        Ok(Out(NonNull::new(place)))
    }

    /// # Safety
    /// If not null, the place may be written.
    pub(crate) unsafe fn set(self, value: T) {
        if let Some(place) = self.0 {
            // SAFETY: not null and aligned; the rest is what the caller promises.
            unsafe { place.write(value) };
        }
    }
}

pub(crate) fn null(message: String) -> Error {
    Error::new(Code::NullArg, message)
}

pub(crate) fn invalid(message: String) -> Error {
    Error::new(Code::InvalidArg, message)
}
