//! What counts once: receipts, observations and reports that may be sent again, remembered in bounded memory.

use std::collections::{HashMap, HashSet, VecDeque};

/// Things that are told apart at the same time, for each kind.
const MOST: usize = 65_536;
const MINUTE_MS: u64 = 60_000;
/// Credits that a node may earn in an hour.
const MOST_CREDITS: f64 = 1_000.0;

/// Everything that counts once in a directory.
pub(super) struct Onces {
    /// Nonces of receipts, for longer than a receipt is good.
    pub(super) receipts: Once,
    /// What a proxy saw of a node, once a minute.
    pub(super) observations: Once,
    /// What a node says against another, once a day.
    pub(super) reports: Once,
    /// What a node has earned in the hour.
    pub(super) earnings: Earnings,
}

impl Onces {
    pub(super) fn new() -> Self {
        Onces {
            receipts: Once::new(65 * MINUTE_MS),
            observations: Once::new(MINUTE_MS),
            reports: Once::new(24 * 60 * MINUTE_MS),
            earnings: Earnings::default(),
        }
    }
}

/// What nodes have earned, an hour each.
#[derive(Default)]
pub(super) struct Earnings {
    by_node: HashMap<u128, (f64, u64)>,
    swept_ms: u64,
}

impl Earnings {
    /// Whether a node may earn so much more; if so, it has.
    pub(super) fn takes(&mut self, node: u128, amount: f64, now_ms: u64) -> bool {
        let hour = |since_ms: &u64| now_ms.saturating_sub(*since_ms) < 60 * MINUTE_MS;
        // Not for every newcomer: it looks at all of them.
        if self.by_node.len() >= MOST && now_ms.saturating_sub(self.swept_ms) >= MINUTE_MS {
            self.swept_ms = now_ms;
            self.by_node.retain(|_, (_, since_ms)| hour(since_ms));
        }
        if self.by_node.len() >= MOST && !self.by_node.contains_key(&node) {
            return false;
        }
        let (earned, since_ms) = self.by_node.entry(node).or_insert((0.0, now_ms));
        if !hour(since_ms) {
            (*earned, *since_ms) = (0.0, now_ms);
        }
        let takes = *earned + amount <= MOST_CREDITS;
        *earned += if takes { amount } else { 0.0 };
        takes
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

    #[test]
    fn an_hour_has_its_limit_and_the_next_begins_anew() {
        let mut earnings = Earnings::default();
        assert!(earnings.takes(1, 999.0, 0) && earnings.takes(2, 1_000.0, 0));
        assert!(!earnings.takes(1, 1.5, 60 * MINUTE_MS - 1) && earnings.takes(1, 1.0, 60 * MINUTE_MS - 1));
        assert!(earnings.takes(1, 1_000.0, 60 * MINUTE_MS) && !earnings.takes(1, 0.1, 60 * MINUTE_MS));
        for node in 0..2 * MOST as u128 {
            earnings.takes(node, 1.0, 61 * MINUTE_MS);
        }
        assert!(earnings.by_node.len() <= MOST);
    }
}
