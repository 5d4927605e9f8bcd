//! How much a relay carries at once: for one worker, for one source of callers, and in all.

use std::collections::HashMap;

use super::source::Source;

/// Bounds on what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

/// What is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    calls: usize,
    bytes: usize,
}

impl Used {
    /// Whether one more call fits. The first one always does, so that no body that may be sent at all is refused for ever.
    pub(crate) fn has_room(&self, bytes: usize, most: Allowance) -> bool {
        let fits = self.calls == 0 || self.bytes.saturating_add(bytes) <= most.bytes;
        self.calls < most.calls && fits
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.calls += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(crate) fn remove(&mut self, bytes: usize) {
        self.calls = self.calls.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls
    }
}

/// Whose share is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    Source,
    Relay,
}

/// What is under way for each source, and in all. A source without calls is not held.
#[derive(Debug)]
pub(crate) struct Budget {
    per_source: Allowance,
    in_all: Allowance,
    sources: HashMap<Source, Used>,
    total: Used,
}

impl Budget {
    pub(crate) fn new(per_source: Allowance, in_all: Allowance) -> Self {
        Budget { per_source, in_all, sources: HashMap::new(), total: Used::default() }
    }

    /// Takes room for a call; [`Budget::give_back`] returns it.
    pub(crate) fn take(&mut self, source: Source, bytes: usize) -> Result<(), Spent> {
        if !self.total.has_room(bytes, self.in_all) {
            return Err(Spent::Relay);
        }
        let used = self.sources.entry(source).or_default();
        if !used.has_room(bytes, self.per_source) {
            // An entry that was just made has room unless nothing may be under way at all.
            return Err(Spent::Source);
        }
        used.add(bytes);
        self.total.add(bytes);
        Ok(())
    }

    pub(crate) fn give_back(&mut self, source: Source, bytes: usize) {
        self.total.remove(bytes);
        if let Some(used) = self.sources.get_mut(&source) {
            used.remove(bytes);
            if used.calls == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// Calls that are under way.
    pub(crate) fn calls(&self) -> usize {
        self.total.calls
    }

    /// Share of the calls that may be under way, 0 to 1.
    pub(crate) fn load(&self) -> f64 {
        // Both are small counts.
        #[allow(clippy::cast_precision_loss)]
        let share = self.total.calls as f64 / self.in_all.calls.max(1) as f64;
        share.min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u8) -> Source {
        Source::of([127, 0, 0, n].into())
    }

    #[test]
    fn one_source_cannot_use_up_what_others_need() {
        let mut budget = Budget::new(Allowance { calls: 2, bytes: 100 }, Allowance { calls: 3, bytes: 1000 });
        assert_eq!(budget.take(source(1), 10), Ok(()));
        assert_eq!(budget.take(source(1), 91), Err(Spent::Source), "bytes");
        assert_eq!(budget.take(source(1), 90), Ok(()));
        assert_eq!(budget.take(source(1), 0), Err(Spent::Source), "calls");
        assert_eq!(budget.take(source(2), 901), Err(Spent::Relay), "bytes in all");
        assert_eq!(budget.take(source(2), 900), Ok(()), "a first call of a source may be larger than its share");
        assert_eq!(budget.take(source(3), 0), Err(Spent::Relay), "calls in all");
        assert!((budget.load() - 1.0).abs() < f64::EPSILON);
        budget.give_back(source(1), 10);
        assert_eq!(budget.take(source(3), 0), Ok(()));
        for (n, bytes) in [(1, 90), (2, 900), (3, 0)] {
            budget.give_back(source(n), bytes);
        }
        assert!(budget.sources.is_empty() && budget.total == Used::default());
    }
}
