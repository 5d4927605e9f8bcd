//! What arrives: bytes of bodies and messages that are not whole yet, of all connections of a server together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Most of them. Whoever has few is no trouble, however many they are.
const MOST: usize = 128 << 20;
const FEW: usize = 16 << 10;

/// The bytes of all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arriving(Arc<AtomicUsize>);

/// There are too many, and this connection is part of the trouble.
#[derive(Debug)]
pub(crate) struct TooMuch;

impl Arriving {
    /// What one connection has of them: nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share { all: self.0.clone(), own: 0 }
    }
}

/// What one connection has of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    all: Arc<AtomicUsize>,
    own: usize,
}

impl Share {
    /// Notes how many they are now.
    pub(crate) fn note(&mut self, now: usize) -> Result<(), TooMuch> {
        let before = std::mem::replace(&mut self.own, now);
        if now <= before {
            self.all.fetch_sub(before - now, Relaxed);
            return Ok(());
        }
        let all = self.all.fetch_add(now - before, Relaxed) + now - before;
        if all > MOST && now > FEW { Err(TooMuch) } else { Ok(()) }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_much_gives_way_and_what_is_dropped_makes_room() {
        let all = Arriving::default();
        let (mut large, mut small, mut late) = (all.share(), all.share(), all.share());
        assert!(large.note(MOST).is_ok());
        assert!(small.note(FEW).is_ok(), "few bytes are taken even now");
        assert!(small.note(FEW + 1).is_err() && late.note(FEW + 1).is_err());
        drop(late);
        assert!(large.note(MOST - (FEW + 1)).is_ok() && small.note(FEW + 1).is_ok(), "there is room again");
        drop((large, small));
        assert!(all.share().note(MOST).is_ok(), "and all of it");
    }
}
