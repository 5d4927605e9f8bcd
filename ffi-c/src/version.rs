//! Versions: of the interface, and of the library.

use crate::view::iicp_str;

/// Version of this interface. A library whose `iicp_abi_version()` is another one does not fit this header.
pub const IICP_ABI_VERSION: u32 = 1;

/// The version of the interface that the library speaks; compare it with `IICP_ABI_VERSION`. `iicp_runtime_new` does.
///
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn iicp_abi_version() -> u32 {
    IICP_ABI_VERSION
}

/// The version of the library, such as `0.1.0`.
///
/// Ownership: the text is part of the library. Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn iicp_version() -> iicp_str {
    iicp_str::of(concat!(env!("CARGO_PKG_VERSION"), "\0"))
}
