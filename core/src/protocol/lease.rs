//! Something that a gateway gave for a time: when to ask for more, and whether the gateway has forgotten it. Times are
//! those since it was given.

use std::time::Duration;

/// Soonest that more is asked for because of what a gateway says that is left: some say always the same.
const SOONEST: Duration = Duration::from_secs(10);

/// Time that was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// None if it was given for ever.
    renew: Option<Duration>,
}

impl Lease {
    /// Of so many seconds; 0: for ever. More is asked for after half of them.
    pub(crate) fn new(seconds: u32, now: Duration) -> Self {
        Lease { renew: (seconds != 0).then(|| now + Duration::from_secs(seconds.into()) / 2) }
    }

    /// When more is asked for; never, if it was given for ever.
    pub(crate) fn due(self) -> Option<Duration> {
        self.renew
    }

    /// The gateway says that so much is left: less than it was asked for, perhaps. 0: it does not say.
    pub(crate) fn shortened(self, seconds_left: u32, now: Duration) -> Self {
        let renew = (seconds_left != 0).then(|| now + (Duration::from_secs(seconds_left.into()) / 2).max(SOONEST));
        Lease { renew: self.renew.map(|before| renew.map_or(before, |renew| renew.min(before))) }
    }

    /// Whether it is time to ask for more.
    pub(crate) fn is_due(self, now: Duration) -> bool {
        self.renew.is_some_and(|renew| now >= renew)
    }
}

/// The clock of a gateway: seconds since it forgot everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    seconds: u32,
    at: Duration,
}

impl Epoch {
    pub(crate) fn new(seconds: u32, at: Duration) -> Self {
        Epoch { seconds, at }
    }

    /// Whether the gateway has forgotten what it gave since: its clock stands lower than it can (RFC 6887, 8.5, with two
    /// seconds and an eighth for what clocks differ by). Notes the clock.
    pub(crate) fn has_forgotten(&mut self, seconds: u32, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_secs();
        let least = u64::from(self.seconds) + passed - passed / 8;
        let has = u64::from(seconds) + 2 < least;
        *self = Epoch { seconds, at: now };
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_time_is_asked_for_after_half_of_it() {
        let lease = Lease::new(60, Duration::from_secs(7));
        assert!(!lease.is_due(Duration::from_secs(36)));
        assert!(lease.is_due(Duration::from_secs(37)));
        assert!(!Lease::new(0, Duration::ZERO).is_due(Duration::from_secs(1 << 20)), "given for ever");
    }

    #[test]
    fn a_gateway_that_gave_less_than_it_was_asked_for_is_asked_sooner() {
        let after = Duration::from_secs;
        let lease = Lease::new(3_600, Duration::ZERO);
        assert_eq!(lease.shortened(40, after(20)).due(), Some(after(40)));
        assert_eq!(lease.shortened(3_580, after(20)).due(), Some(after(1_800)), "it gave what it was asked for");
        assert_eq!(lease.shortened(0, after(20)), lease, "it does not say");
        assert_eq!(lease.shortened(1, after(20)).due(), Some(after(30)));
        assert_eq!(Lease::new(0, Duration::ZERO).shortened(40, after(20)).due(), None, "given for ever");
    }

    #[test]
    fn a_gateway_whose_clock_began_anew_has_forgotten() {
        let after = Duration::from_secs;
        let mut epoch = Epoch::new(1_000, Duration::ZERO);
        assert!(!epoch.has_forgotten(1_020, after(20)));
        assert!(!epoch.has_forgotten(1_036, after(40)), "clocks differ");
        assert!(epoch.has_forgotten(3, after(60)));
        assert!(!epoch.has_forgotten(23, after(80)), "told once");
    }
}
