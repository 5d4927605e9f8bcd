//! How a host learns that a queue has events: a descriptor for event loops that watch descriptors, a doorbell for those
//! that are rung.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Called when a queue has events. It must only wake its own loop: it may neither block nor use the bridge.
pub type Doorbell = Arc<dyn Fn() + Send + Sync>;

thread_local! {
    static RINGING: Cell<bool> = const { Cell::new(false) };
}

/// Rings under the queue's lock, so that closing the queue means that it rings no more.
pub(super) fn ring(doorbell: &Doorbell) {
    RINGING.set(true);
    // A doorbell that panics must not take the event with it, nor the operation that pushed it.
    let _ = catch_unwind(AssertUnwindSafe(|| doorbell()));
    RINGING.set(false);
}

/// Whether this thread is inside a doorbell, where any use of the queue would wait for itself.
pub(super) fn is_ringing() -> bool {
    RINGING.get()
}

/// Whether this thread is inside a turn of the engine's loop.
#[cfg(not(iicp_loom))]
pub(super) fn in_a_turn() -> bool {
    tokio::task::try_id().is_some()
}

/// Drops `ring` when the tasks that are ready now have run and what arrived meanwhile was looked at.
#[cfg(not(iicp_loom))]
pub(super) fn after_this_turn(ring: impl Send + 'static) {
    // Nobody owns this task: it ends with the turn, and what it holds does its work however it ends.
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(async move {
            tokio::task::yield_now().await;
            drop(ring);
        })),
        Err(_) => drop(ring),
    }
}

#[cfg(iicp_loom)]
pub(super) fn in_a_turn() -> bool {
    true
}

/// Any time later, for the model checker.
#[cfg(iicp_loom)]
pub(super) fn after_this_turn(ring: impl Send + 'static) {
    loom::thread::yield_now();
    drop(ring);
}

#[cfg(all(unix, not(iicp_loom)))]
pub(super) use unix::Descriptor;

#[cfg(all(unix, not(iicp_loom)))]
mod unix {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

    /// Readable between [`Descriptor::raise`] and [`Descriptor::lower`].
    pub(in crate::bridge) struct Descriptor {
        read: OwnedFd,
        #[cfg(not(target_os = "linux"))]
        write: OwnedFd,
    }

    impl Descriptor {
        #[cfg(target_os = "linux")]
        pub(in crate::bridge) fn new() -> std::io::Result<Self> {
            use rustix::event::{EventfdFlags, eventfd};
            Ok(Descriptor { read: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
        }

        #[cfg(not(target_os = "linux"))]
        pub(in crate::bridge) fn new() -> std::io::Result<Self> {
            let (read, write) = std::io::pipe()?;
            let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
            // A host that empties the pipe by itself must not make us wait.
            rustix::io::ioctl_fionbio(&read, true)?;
            rustix::io::ioctl_fionbio(&write, true)?;
            Ok(Descriptor { read, write })
        }

        fn write_end(&self) -> BorrowedFd<'_> {
            #[cfg(target_os = "linux")]
            return self.read.as_fd();
            #[cfg(not(target_os = "linux"))]
            return self.write.as_fd();
        }

        /// Neither end can be full or broken: it is raised once before it is lowered, and we hold both ends.
        pub(in crate::bridge) fn raise(&self) {
            let _ = rustix::io::write(self.write_end(), &1_u64.to_ne_bytes());
        }

        pub(in crate::bridge) fn lower(&self) {
            let _ = rustix::io::read(&self.read, &mut [0_u8; 8]);
        }

        pub(in crate::bridge) fn as_raw_fd(&self) -> RawFd {
            self.read.as_raw_fd()
        }
    }

    impl AsFd for Descriptor {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.read.as_fd()
        }
    }
}

#[cfg(all(not(unix), not(iicp_loom)))]
pub(super) use elsewhere::Descriptor;

#[cfg(all(not(unix), not(iicp_loom)))]
mod elsewhere {
    /// No descriptor can be watched here; hosts use the doorbell or wait in a thread.
    pub(in crate::bridge) enum Descriptor {}

    impl Descriptor {
        pub(in crate::bridge) fn new() -> std::io::Result<Self> {
            Err(std::io::ErrorKind::Unsupported.into())
        }

        pub(in crate::bridge) fn raise(&self) {
            match *self {}
        }

        pub(in crate::bridge) fn lower(&self) {
            match *self {}
        }

        pub(in crate::bridge) fn as_raw_fd(&self) -> i32 {
            match *self {}
        }
    }
}

#[cfg(iicp_loom)]
pub(super) use model::Descriptor;

/// A descriptor that the model checker can wait on.
#[cfg(iicp_loom)]
pub(super) mod model {
    use std::sync::PoisonError;

    use loom::sync::{Arc, Condvar, Mutex};

    #[derive(Clone)]
    pub(in crate::bridge) struct Descriptor {
        level: Arc<(Mutex<bool>, Condvar)>,
    }

    impl Descriptor {
        pub(in crate::bridge) fn new() -> std::io::Result<Self> {
            Ok(Descriptor { level: Arc::new((Mutex::new(false), Condvar::new())) })
        }

        fn set(&self, level: bool) {
            let mut now = self.level.0.lock().unwrap_or_else(PoisonError::into_inner);
            assert_ne!(*now, level, "raised or lowered twice");
            *now = level;
            self.level.1.notify_all();
        }

        pub(in crate::bridge) fn raise(&self) {
            self.set(true);
        }

        pub(in crate::bridge) fn lower(&self) {
            self.set(false);
        }

        pub(in crate::bridge) fn is_readable(&self) -> bool {
            *self.level.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// What an event loop does: sleeps until the descriptor is readable.
        pub(in crate::bridge) fn wait(&self) {
            let mut level = self.level.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*level {
                level = self.level.1.wait(level).unwrap_or_else(PoisonError::into_inner);
            }
        }

        pub(in crate::bridge) fn as_raw_fd(&self) -> i32 {
            -1
        }
    }
}
