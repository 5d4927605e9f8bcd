//! On which CPU things run.

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::Result;

/// Keeps this thread, and the processes that it starts, on one CPU until it is dropped. On which of several the system puts
/// two processes that talk to each other counts for more than what they do: a message to another CPU takes 20 µs longer,
/// and each run has its own luck.
pub(crate) struct OneCpu(CpuSet);

impl OneCpu {
    pub(crate) fn keep() -> Result<OneCpu> {
        let before = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        one.set(sched_getcpu());
        sched_setaffinity(None, &one)?;
        Ok(OneCpu(before))
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}
