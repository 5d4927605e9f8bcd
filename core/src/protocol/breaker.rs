//! Leaving a node alone that keeps failing: a circuit breaker per node and place. A node that has moved, to another relay
//! say, is a fresh one.
//!
//! So many failures in a row open it for a while; then one task at a time is the probe. A success clears everything, a
//! failure opens it again. Time comes in as what has passed since some start.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

/// Nodes that are remembered; only those that failed last are.
const MOST_NODES: usize = 4096;
/// How long a probe keeps others out if it is neither reported nor released: longer than any task may take.
const PROBE_LEASE: Duration = Duration::from_secs(130);

/// Whether a node may be sent a task now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may.
    Closed,
    /// It may, as the only one: whoever is told this reports how it ended, or releases it.
    Probe,
    /// It may not, at least until then.
    Open { until: Duration },
}

/// A node where it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct At<'a> {
    pub(crate) node_id: &'a str,
    pub(crate) endpoint: &'a str,
}

/// The breakers of all nodes.
#[derive(Debug)]
pub(crate) struct Breakers {
    most_failures: u32,
    open_for: Duration,
    /// Nobody outside knows its key, so nobody can give a node the trouble of another.
    names: RandomState,
    nodes: HashMap<u64, Breaker>,
}

#[derive(Debug)]
struct Breaker {
    failures: u32,
    /// When the last failure was reported.
    failed: Duration,
    /// Open until then, and after that until a probe has come back well.
    open_until: Option<Duration>,
    /// A probe is out; its lease ends then.
    probe: Option<Duration>,
}

impl Breakers {
    /// `most_failures` in a row open a breaker `open_for` that long.
    pub(crate) fn new(most_failures: u32, open_for: Duration) -> Self {
        Breakers { most_failures: most_failures.max(1), open_for, names: RandomState::new(), nodes: HashMap::new() }
    }

    /// Asks whether a node may be sent a task; the answer [`Admission::Probe`] is given to one caller at a time.
    pub(crate) fn admit(&mut self, at: At<'_>, now: Duration) -> Admission {
        let admission = self.look(at, now);
        if admission == Admission::Probe
            && let Some(breaker) = self.nodes.get_mut(&self.names.hash_one(at))
        {
            breaker.probe = Some(now.saturating_add(PROBE_LEASE));
        }
        admission
    }

    /// The same without taking the probe.
    pub(crate) fn look(&self, at: At<'_>, now: Duration) -> Admission {
        let Some(breaker) = self.nodes.get(&self.names.hash_one(at)) else { return Admission::Closed };
        let Some(open_until) = breaker.open_until else { return Admission::Closed };
        match breaker.probe {
            _ if now < open_until => Admission::Open { until: open_until },
            Some(lease) if now < lease => Admission::Open { until: lease },
            _ => Admission::Probe,
        }
    }

    /// Notes how a task ended that was admitted.
    pub(crate) fn report(&mut self, at: At<'_>, ok: bool, now: Duration) {
        let name = self.names.hash_one(at);
        if ok {
            self.nodes.remove(&name);
            return;
        }
        if !self.nodes.contains_key(&name) {
            self.make_room();
            let fresh = Breaker { failures: 0, failed: now, open_until: None, probe: None };
            self.nodes.insert(name, fresh);
        }
        let Some(breaker) = self.nodes.get_mut(&name) else { return };
        breaker.failures = breaker.failures.saturating_add(1);
        breaker.failed = now;
        // What was sent before it opened says nothing new.
        let still_open = breaker.open_until.is_some_and(|until| now < until);
        if breaker.failures >= self.most_failures && !still_open {
            breaker.open_until = Some(now.saturating_add(self.open_for));
            breaker.probe = None;
        }
    }

    /// Notes that a task which began at `since` lost its connection. Those that were lost with it are no further failures:
    /// many share one connection, and a node that broke one of them is not left alone for it.
    pub(crate) fn lost(&mut self, at: At<'_>, since: Duration, now: Duration) {
        let is_known = self.nodes.get(&self.names.hash_one(at)).is_some_and(|breaker| since < breaker.failed);
        if !is_known {
            self.report(at, false, now);
        }
    }

    /// Gives a probe back that came to no end, because its task was cancelled: the next one may probe.
    pub(crate) fn release(&mut self, at: At<'_>) {
        if let Some(breaker) = self.nodes.get_mut(&self.names.hash_one(at)) {
            breaker.probe = None;
        }
    }

    /// Forgets the node whose failures are the least and the oldest news, if there is no room for another.
    fn make_room(&mut self) {
        if self.nodes.len() < MOST_NODES {
            return;
        }
        let oldest = self.nodes.iter().min_by_key(|(_, breaker)| (breaker.open_until.is_some(), breaker.failed));
        if let Some(name) = oldest.map(|(name, _)| *name) {
            self.nodes.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: &str) -> At<'_> {
        At { node_id, endpoint: "http://192.0.2.1" }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn open(failures: u32) -> Breakers {
        let mut breakers = Breakers::new(failures, at(30));
        for _ in 0..failures {
            assert_eq!(breakers.admit(node("n"), at(0)), Admission::Closed);
            breakers.report(node("n"), false, at(0));
        }
        breakers
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breakers = Breakers::new(2, at(30));
        for ok in [false, true, false] {
            breakers.report(node("n"), ok, at(0));
            assert_eq!(breakers.admit(node("n"), at(0)), Admission::Closed);
        }
        breakers.report(node("n"), false, at(1));
        assert_eq!(breakers.admit(node("n"), at(1)), Admission::Open { until: at(31) });
        assert_eq!(breakers.admit(node("other"), at(1)), Admission::Closed);
    }

    #[test]
    fn what_was_lost_with_one_connection_is_one_failure() {
        let mut breakers = Breakers::new(3, at(30));
        for connection in 0..2 {
            let (since, cut) = (at(2 * connection), at(2 * connection + 1));
            for _ in 0..100 {
                breakers.lost(node("n"), since, cut);
            }
            assert_eq!(breakers.admit(node("n"), cut), Admission::Closed, "connection {connection}");
        }
        breakers.lost(node("n"), at(4), at(5));
        assert_eq!(breakers.admit(node("n"), at(5)), Admission::Open { until: at(35) }, "three in a row are three");
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let mut breakers = open(3);
        assert_eq!(breakers.admit(node("n"), Duration::from_millis(29_999)), Admission::Open { until: at(30) });
        assert_eq!(breakers.look(node("n"), at(30)), Admission::Probe, "looking takes nothing");
        assert_eq!(breakers.admit(node("n"), at(30)), Admission::Probe);
        assert!(matches!(breakers.admit(node("n"), at(30)), Admission::Open { .. }));
        breakers.report(node("n"), false, at(31));
        assert_eq!(breakers.admit(node("n"), at(60)), Admission::Open { until: at(61) }, "one failure opens it again");
        assert_eq!(breakers.admit(node("n"), at(61)), Admission::Probe);
        breakers.report(node("n"), true, at(62));
        for _ in 0..3 {
            assert_eq!(breakers.admit(node("n"), at(62)), Admission::Closed);
        }
    }

    #[test]
    fn a_probe_that_never_comes_back_frees_its_place() {
        let mut breakers = open(1);
        assert_eq!(breakers.admit(node("n"), at(30)), Admission::Probe);
        breakers.release(node("n"));
        assert_eq!(breakers.admit(node("n"), at(30)), Admission::Probe, "released");
        let lease_ends = at(30) + PROBE_LEASE;
        assert_eq!(breakers.admit(node("n"), at(31)), Admission::Open { until: lease_ends });
        assert_eq!(breakers.admit(node("n"), lease_ends), Admission::Probe, "forgotten");
        breakers.release(node("unknown"));
    }

    #[test]
    fn late_news_of_earlier_tasks_does_not_prolong_it() {
        let mut breakers = open(1);
        breakers.report(node("n"), false, at(20));
        assert_eq!(breakers.admit(node("n"), at(30)), Admission::Probe);
    }

    #[test]
    fn memory_is_bounded_and_open_breakers_stay_longest() {
        let mut breakers = open(2);
        for n in 0..2 * MOST_NODES as u64 {
            breakers.report(node(&format!("m-{n}")), false, at(1 + n));
        }
        assert_eq!(breakers.nodes.len(), MOST_NODES);
        assert!(matches!(breakers.admit(node("n"), at(1)), Admission::Open { .. }));
        assert!(!breakers.nodes.contains_key(&breakers.names.hash_one(node("m-0"))));
        let mut all_open = Breakers::new(1, at(30));
        for n in 0..=MOST_NODES as u64 {
            all_open.report(node(&format!("m-{n}")), false, at(n));
        }
        assert_eq!(all_open.nodes.len(), MOST_NODES);
        assert_eq!(all_open.admit(node("m-0"), at(1)), Admission::Closed, "the oldest made room");
    }

    #[test]
    fn a_node_that_has_moved_is_not_left_alone() {
        let breakers = open(3);
        assert!(matches!(breakers.look(node("n"), at(1)), Admission::Open { .. }));
        let moved = At { endpoint: "http://192.0.2.2", ..node("n") };
        assert_eq!(breakers.look(moved, at(1)), Admission::Closed);
    }
}
