//! When to try again, and how often others may.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// First and longest bound of the wait between two tries.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(20);

/// How long a worker waits before it knocks again: anything from nothing to a bound that doubles with every failure (full
/// jitter), so that thousands whose relay came back do not knock at the same moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reconnect {
    failures: u32,
}

impl Reconnect {
    /// Notes a failure and gives the wait that it costs. `jitter` is 0 to 1.
    pub(crate) fn failed(&mut self, jitter: f64) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// Notes that a binding held.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// Most of those whose rate is held. Each takes some 40 bytes.
const MOST_HELD: usize = 4_096;

/// Lets each of many do something so many times a minute, in one go if it was quiet before. Bounded: when too many are
/// held, those that have all their tries again are let go, then the ones that were heard of longest ago.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    per_minute: u32,
    held: HashMap<K, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    since: Duration,
}

impl<K: Eq + Hash + Copy> Rates<K> {
    /// Zero means no limit.
    pub(crate) fn new(per_minute: u32) -> Self {
        Rates { per_minute, held: HashMap::new() }
    }

    /// Whether `who` may, at this time; what may is counted.
    pub(crate) fn take(&mut self, who: K, now: Duration) -> bool {
        if self.per_minute == 0 {
            return true;
        }
        if self.held.len() >= MOST_HELD && !self.held.contains_key(&who) {
            self.make_room(now);
        }
        let most = f64::from(self.per_minute);
        let bucket = self.held.entry(who).or_insert(Bucket { left: most, since: now });
        bucket.left = left(*bucket, most, now);
        bucket.since = now;
        let may = bucket.left >= 1.0;
        if may {
            bucket.left -= 1.0;
        }
        may
    }

    /// Whether `who` would be refused now; counts nothing.
    pub(crate) fn is_spent(&self, who: K, now: Duration) -> bool {
        let most = f64::from(self.per_minute);
        self.per_minute != 0 && self.held.get(&who).is_some_and(|bucket| left(*bucket, most, now) < 1.0)
    }

    fn make_room(&mut self, now: Duration) {
        let most = f64::from(self.per_minute);
        self.held.retain(|_, bucket| left(*bucket, most, now) < most);
        if self.held.len() <= MOST_HELD / 2 {
            return;
        }
        let mut ages: Vec<Duration> = self.held.values().map(|bucket| bucket.since).collect();
        let middle = ages.len() / 2;
        let (_, median, _) = ages.select_nth_unstable(middle);
        let median = *median;
        self.held.retain(|_, bucket| bucket.since > median);
    }
}

fn left(bucket: Bucket, most: f64, now: Duration) -> f64 {
    let passed = now.saturating_sub(bucket.since).as_secs_f64();
    (bucket.left + passed * most / 60.0).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_anything_up_to_a_bound_that_doubles() {
        let mut reconnect = Reconnect::default();
        assert_eq!(reconnect.failed(0.0), Duration::ZERO, "some come back at once");
        assert_eq!(reconnect.failed(1.0), Duration::from_secs(2));
        assert_eq!(reconnect.failed(0.5), Duration::from_secs(2));
        for _ in 0..100 {
            assert!(reconnect.failed(1.0) <= LONGEST);
        }
        reconnect.succeeded();
        assert_eq!(reconnect.failed(1.0), FIRST);
    }

    #[test]
    fn each_has_its_own_rate_and_gets_it_back_with_time() {
        let mut rates = Rates::new(3);
        let at = Duration::from_secs;
        assert!((0..3).all(|_| rates.take("a", at(0))));
        assert!(!rates.take("a", at(0)) && rates.is_spent("a", at(0)) && !rates.is_spent("b", at(0)));
        assert!(rates.take("b", at(0)));
        assert!(!rates.take("a", at(19)));
        assert!(rates.take("a", at(21)) && !rates.take("a", at(21)));
        assert!(!rates.take("a", at(5)), "a clock that jumps back gives nothing");
        let mut free = Rates::new(0);
        assert!((0..1000).all(|_| free.take("a", at(0))));
    }

    #[test]
    fn those_that_are_held_are_bounded_and_who_was_refused_last_is_not_let_go() {
        let mut rates = Rates::new(2);
        let ms = Duration::from_millis;
        for who in 0..100_000_u64 {
            assert!(rates.take(who, ms(who / 100)));
        }
        assert!(rates.held.len() <= MOST_HELD);
        assert!(rates.take(99_999, ms(1_000)) && !rates.take(99_999, ms(1_000)));
    }
}
