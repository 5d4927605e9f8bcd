//! The wall between Rust and C: results become codes, and panics too.

use std::panic::{AssertUnwindSafe, catch_unwind};

use iicp_core::{Code, Error, Result};

use crate::error::{iicp_code, iicp_error};

/// Runs the body of a function that can fail. The error goes to whoever asked for it.
///
/// # Safety
/// `err` is null or may be written.
pub(crate) unsafe fn guard(err: *mut *mut iicp_error, body: impl FnOnce() -> Result<()>) -> iicp_code {
    let Err(error) = contain(body) else { return Code::Ok.number() };
    let code = error.code().number();
    if !err.is_null() && err.is_aligned() {
        // SAFETY: not null, aligned, and the caller's to write.
        unsafe { err.write(iicp_error::boxed(error)) };
    }
    code
}

/// Runs the body of a function that cannot fail, with what it returns if it panics all the same.
pub(crate) fn guard_value<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    contain(|| Ok(body())).unwrap_or(otherwise)
}

fn contain<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let body = || {
        #[cfg(feature = "testing")]
        crate::testing::panic_if_asked();
        body()
    };
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        // Its destructor is the panicking code's, and may panic as well; what that throws is left alone.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
        let message = "the library panicked; this is a fault of the library, please report it";
        Err(Error::new(Code::Panic, message))
    })
}
