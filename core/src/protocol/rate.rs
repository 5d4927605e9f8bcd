//! How much one source may send in a minute, in bounded memory.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use super::fingerprints::ByFingerprint;

/// The window in which is counted (as the published nodes count).
const WINDOW_S: u64 = 60;
/// Sources that are told apart at a time. Beyond that the oldest windows are forgotten: whoever can invent that many
/// names is not held by a count for each name, and must not be able to shut out others.
const MOST_SOURCES: usize = 16_384;

/// Counts by source, each in a window of its own that begins with its first task.
pub(crate) struct Rates {
    most: u32,
    names: RandomState,
    windows: Mutex<Windows>,
}

#[derive(Default)]
struct Windows {
    /// By a number that stands for the source; nobody outside can choose two with the same.
    by_source: ByFingerprint<u64, Window>,
    /// Every source and the second its window began in, the first in front.
    begun: VecDeque<(u64, u64)>,
}

struct Window {
    begun_s: u64,
    count: u32,
}

impl Rates {
    /// Lets so many through in a window; with 0 there is nothing to count.
    pub(crate) fn new(most: u32) -> Option<Self> {
        (most > 0).then(|| Rates { most, names: RandomState::new(), windows: Mutex::default() })
    }

    /// Counts one.
    ///
    /// # Errors
    /// One too many; in how many seconds the next may come.
    pub(crate) fn count(&self, source: &[u8], now_s: u64) -> Result<(), u64> {
        let name = self.names.hash_one(source);
        // Every step leaves the windows whole.
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.expire(now_s);
        if let Some(window) = windows.by_source.get_mut(&name) {
            if window.count >= self.most {
                return Err((window.begun_s + WINDOW_S).saturating_sub(now_s).max(1));
            }
            window.count += 1;
            return Ok(());
        }
        if windows.begun.len() >= MOST_SOURCES {
            windows.forget_oldest();
        }
        windows.by_source.insert(name, Window { begun_s: now_s, count: 1 });
        windows.begun.push_back((name, now_s));
        Ok(())
    }

    /// Counts one by address. Whoever has an IPv6 address has 2^64 of them, so the network is what counts.
    ///
    /// # Errors
    /// As [`Rates::count`].
    pub(crate) fn count_address(&self, address: IpAddr, now_s: u64) -> Result<(), u64> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.count(&address.octets(), now_s),
            IpAddr::V6(address) => self.count(&address.octets()[..8], now_s),
        }
    }
}

impl Windows {
    fn expire(&mut self, now_s: u64) {
        while self.begun.front().is_some_and(|(_, begun_s)| now_s.saturating_sub(*begun_s) >= WINDOW_S) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((name, _)) = self.begun.pop_front() {
            self.by_source.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_count_and_a_new_one_after_its_window() {
        let rates = Rates::new(2).unwrap();
        assert_eq!([rates.count(b"a", 5), rates.count(b"a", 6), rates.count(b"a", 7)], [Ok(()), Ok(()), Err(58)]);
        assert_eq!(rates.count(b"b", 7), Ok(()));
        assert_eq!([rates.count(b"a", 64), rates.count(b"a", 65), rates.count(b"a", 65)], [Err(1), Ok(()), Ok(())]);
        assert_eq!(rates.count(b"a", 65), Err(60));
        assert!(Rates::new(0).is_none());
    }

    #[test]
    fn addresses_count_by_network() {
        let rates = Rates::new(1).unwrap();
        let count = |address: &str| rates.count_address(address.parse().unwrap(), 0).is_ok();
        assert!(count("192.0.2.1") && !count("::ffff:192.0.2.1") && count("192.0.2.2"));
        assert!(count("2001:db8::1") && !count("2001:db8::ffff:2") && count("2001:db8:0:1::1"));
    }

    #[test]
    fn a_flood_of_sources_stays_in_bounded_memory_and_shuts_nobody_out() {
        let rates = Rates::new(1).unwrap();
        for n in 0..1_000_000_u32 {
            assert!(rates.count(&n.to_le_bytes(), 0).is_ok(), "{n}");
        }
        let windows = rates.windows.lock().unwrap();
        assert_eq!((windows.by_source.len(), windows.begun.len()), (MOST_SOURCES, MOST_SOURCES));
        assert!(windows.by_source.capacity() <= 4 * MOST_SOURCES && windows.begun.capacity() <= 4 * MOST_SOURCES);
        drop(windows);
        assert!(rates.count(&999_999_u32.to_le_bytes(), 0).is_err(), "the last ones are known");
        assert!(rates.count(b"later", 60).is_ok());
        assert_eq!(rates.windows.lock().unwrap().begun.len(), 1, "what is over is forgotten");
    }
}
