//! How long a session lasts. Who holds an id proves again from time to time that it is his: what the directory said when he
//! was bound need not be true any more, and one who carries more than all others has to come again for more.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How often a worker is asked to bind anew, in milliseconds.
const ASK_EVERY_MS: u64 = 10_000;

/// The bounds of a session; 0: none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) age_ms: u64,
    pub(crate) bytes: u64,
    /// How long after its term a session still takes calls.
    pub(crate) grace_ms: u64,
    /// How long after that it may end what is under way.
    pub(crate) last_ms: u64,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// The term is over: ask the worker to bind anew.
    Ask,
    /// It was asked not long ago.
    Wait,
    /// The grace is over too: no new calls.
    Drain,
    End,
}

/// The term of one session. Times are in milliseconds since some beginning, the relay's.
#[derive(Debug)]
pub(crate) struct Term {
    begun: u64,
    carried: AtomicU64,
    /// When it was seen to be over; 0: not yet.
    over: AtomicU64,
    /// When the worker was asked last; 0: not yet.
    asked: AtomicU64,
}

impl Term {
    pub(crate) fn new(now: u64) -> Self {
        Term { begun: now, carried: AtomicU64::new(0), over: AtomicU64::new(0), asked: AtomicU64::new(0) }
    }

    /// So many bytes of a task or of an answer went over it.
    pub(crate) fn carry(&self, bytes: usize) {
        self.carried.fetch_add(bytes as u64, Relaxed);
    }

    /// Whether the worker was asked to bind anew.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked.load(Relaxed) != 0
    }

    /// What is to be done now; for one who looks at a time. Who is told to ask is taken to have asked.
    pub(crate) fn look(&self, now: u64, bounds: &Bounds) -> Due {
        let mut over = self.over.load(Relaxed);
        if over == 0 {
            let is_old = bounds.age_ms != 0 && now.saturating_sub(self.begun) >= bounds.age_ms;
            if !is_old && (bounds.bytes == 0 || self.carried.load(Relaxed) < bounds.bytes) {
                return Due::Nothing;
            }
            over = now.max(1);
            self.over.store(over, Relaxed);
        }
        let asked = self.asked.load(Relaxed);
        let since = now.saturating_sub(over);
        if since >= bounds.grace_ms.saturating_add(bounds.last_ms) {
            Due::End
        } else if since >= bounds.grace_ms {
            Due::Drain
        } else if asked == 0 || now.saturating_sub(asked) >= ASK_EVERY_MS {
            self.asked.store(now.max(1), Relaxed);
            Due::Ask
        } else {
            Due::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { age_ms: 60_000, bytes: 1_000, grace_ms: 25_000, last_ms: 5_000 };

    #[test]
    fn an_old_session_is_asked_again_and_again_and_ends_after_its_grace() {
        let term = Term::new(5_000);
        let look = |now| term.look(now, &BOUNDS);
        assert_eq!((look(64_999), term.was_asked()), (Due::Nothing, false));
        assert_eq!((look(65_000), term.was_asked()), (Due::Ask, true));
        assert_eq!(
            [look(65_250), look(74_999), look(75_000), look(75_001)],
            [Due::Wait, Due::Wait, Due::Ask, Due::Wait]
        );
        assert_eq!([look(89_999), look(90_000), look(94_999)], [Due::Ask, Due::Drain, Due::Drain]);
        assert_eq!([look(95_000), look(99_000)], [Due::End, Due::End]);
    }

    #[test]
    fn one_that_carried_its_bytes_is_over_whatever_its_age() {
        let term = Term::new(0);
        term.carry(999);
        assert_eq!(term.look(0, &BOUNDS), Due::Nothing);
        term.carry(1);
        assert_eq!([term.look(0, &BOUNDS), term.look(25_001, &BOUNDS)], [Due::Ask, Due::Drain]);
    }

    #[test]
    fn without_bounds_nothing_is_ever_due() {
        let term = Term::new(0);
        term.carry(usize::MAX);
        assert_eq!(term.look(u64::MAX, &Bounds { age_ms: 0, bytes: 0, grace_ms: 0, last_ms: 0 }), Due::Nothing);
    }
}
