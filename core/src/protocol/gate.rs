//! The slots of a node: how many tasks run at a time, and who gets the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Lets at most `limit` tasks in at a time, and none while draining.
#[derive(Debug)]
pub(crate) struct Gate {
    limit: AtomicUsize,
    active: AtomicUsize,
    draining: AtomicBool,
}

/// Why a task was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Full,
    Draining,
}

/// A slot. Dropping it gives it back: after a result, an error, a panic, or when the caller went away.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Gate { limit: AtomicUsize::new(limit), active: AtomicUsize::new(0), draining: AtomicBool::new(false) })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Result<Permit, Closed> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Closed::Draining);
        }
        let limit = self.limit();
        let taken = self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1));
        taken.map(|_| Permit(self.clone())).map_err(|_| Closed::Full)
    }

    /// Lets nobody in any more.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Acquire)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Acquire)
    }

    /// Lets so many in from now on. Who is in already stays, also above the limit.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Release);
    }

    /// Share of the slots in use, 0 to 1.
    pub(crate) fn load(&self) -> f64 {
        let (active, limit) = (self.active(), self.limit());
        if active >= limit {
            return 1.0;
        }
        // Both are small counts.
        #[allow(clippy::cast_precision_loss)]
        let share = active as f64 / limit as f64;
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_given_back_by_drop_even_when_unwinding() {
        let gate = Gate::new(2);
        let first = gate.enter().unwrap();
        let held = gate.clone();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _permit = held.enter().unwrap();
            panic!("handler");
        }));
        assert!(caught.is_err());
        assert_eq!(gate.active(), 1);
        let second = gate.enter().unwrap();
        assert_eq!(gate.enter().unwrap_err(), Closed::Full);
        drop((first, second));
        assert_eq!(gate.active(), 0);
        gate.drain();
        assert_eq!(gate.enter().unwrap_err(), Closed::Draining);
    }

    #[test]
    fn a_lower_limit_lets_nobody_in_and_throws_nobody_out() {
        let gate = Gate::new(2);
        let both = [gate.enter().unwrap(), gate.enter().unwrap()];
        gate.set_limit(1);
        assert_eq!((gate.active(), gate.load() >= 1.0), (2, true));
        assert_eq!(gate.enter().unwrap_err(), Closed::Full);
        drop(both);
        let one = gate.enter().unwrap();
        assert_eq!(gate.enter().unwrap_err(), Closed::Full);
        drop(one);
        gate.set_limit(0);
        assert_eq!(gate.enter().unwrap_err(), Closed::Full);
        assert!(gate.load() >= 1.0, "nothing is given, so nothing is free");
    }
}
