//! No SIGPIPE for programs of the library's doing.
//!
//! A peer that breaks a connection off makes the system send SIGPIPE to the thread that writes to it, and that ends a
//! program which does not ignore the signal. Rust's programs do, those of C and Go do not. The library installs no handler
//! and changes nothing of the program's: its own threads are started with the signal blocked.

/// Runs something whose threads get no SIGPIPE; they inherit what is blocked from who starts them.
#[cfg(unix)]
pub(crate) fn without_sigpipe<T>(start: impl FnOnce() -> T) -> T {
    use std::mem::MaybeUninit;

    /// Sets the calling thread's mask back, whatever happens in between.
    struct Back(libc::sigset_t);

    impl Drop for Back {
        fn drop(&mut self) {
            // SAFETY: the set is one that the system has filled in.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
        }
    }

    let (mut pipe, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: the sets are ours, and filled in before they are read: `before` only where the call says that it did so.
    let _back = unsafe {
        libc::sigemptyset(pipe.as_mut_ptr());
        libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE);
        let blocked = libc::pthread_sigmask(libc::SIG_BLOCK, pipe.as_ptr(), before.as_mut_ptr());
        (blocked == 0).then(|| Back(before.assume_init()))
    };
    start()
}

/// Elsewhere there is no such signal.
#[cfg(not(unix))]
pub(crate) fn without_sigpipe<T>(start: impl FnOnce() -> T) -> T {
    start()
}
