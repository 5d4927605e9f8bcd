//! What counts once: receipts, observations and reports that may be sent again, remembered in bounded memory.

use std::collections::{HashSet, VecDeque};

/// Things that are told apart at the same time, for each kind.
const MOST: usize = 65_536;
const MINUTE_MS: u64 = 60_000;

/// Everything that counts once in a directory.
pub(super) struct Onces {
    /// Nonces of receipts, for longer than a receipt is good.
    pub(super) receipts: Once,
    /// What a proxy saw of a node, once a minute.
    pub(super) observations: Once,
    /// What a node says against another, once a day.
    pub(super) reports: Once,
}

impl Onces {
    pub(super) fn new() -> Self {
        Onces {
            receipts: Once::new(65 * MINUTE_MS),
            observations: Once::new(MINUTE_MS),
            reports: Once::new(24 * 60 * MINUTE_MS),
        }
    }
}

/// Remembers fingerprints for some time. When there are too many, the oldest are forgotten early: all that is lost is
/// that they count again.
pub(super) struct Once {
    keep_ms: u64,
    seen: HashSet<u128>,
    by_age: VecDeque<(u64, u128)>,
}

impl Once {
    fn new(keep_ms: u64) -> Self {
        Once { keep_ms, seen: HashSet::new(), by_age: VecDeque::new() }
    }

    /// Whether this comes for the first time; from now on it does not.
    pub(super) fn first(&mut self, fingerprint: u128, now_ms: u64) -> bool {
        while let Some((since_ms, oldest)) = self.by_age.front().copied()
            && (self.by_age.len() >= MOST || now_ms.saturating_sub(since_ms) >= self.keep_ms)
        {
            self.by_age.pop_front();
            self.seen.remove(&oldest);
        }
        let first = self.seen.insert(fingerprint);
        if first {
            self.by_age.push_back((now_ms, fingerprint));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_counts_once_until_its_time_is_over() {
        let mut once = Once::new(1_000);
        assert!(once.first(1, 0) && once.first(2, 500));
        assert!(!once.first(1, 999) && !once.first(2, 999));
        assert!(once.first(1, 1_000), "its time is over");
        assert!(!once.first(2, 1_499));
    }

    #[test]
    fn a_flood_stays_within_the_bound() {
        let mut once = Once::new(u64::MAX);
        for n in 0..200_000 {
            assert!(once.first(n, 0));
        }
        assert_eq!((once.seen.len(), once.by_age.len()), (MOST, MOST));
        assert!(!once.first(199_999, 0) && once.first(0, 0));
    }
}
