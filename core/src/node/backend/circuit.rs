//! Leaving the backend alone while it fails.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::upstream::Failure;
use crate::options::BackendOptions;
use crate::protocol::breaker::{Admission, At, Breakers};

/// There is one backend.
const BACKEND: At<'static> = At { node_id: "backend", endpoint: "" };

/// The breaker of one backend.
#[derive(Debug)]
pub(super) struct Circuit {
    breaker: Mutex<Breakers>,
    begun: Instant,
}

impl Circuit {
    pub(super) fn new(options: &BackendOptions) -> Self {
        let open_for = Duration::from_millis(options.breaker_open_ms);
        Circuit { breaker: Mutex::new(Breakers::new(options.breaker_failures, open_for)), begun: Instant::now() }
    }

    /// Lets a task through, or says how long none is.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Pass, Duration> {
        let now = self.begun.elapsed();
        match self.with(|breaker| breaker.admit(BACKEND, now)) {
            Admission::Closed => Ok(Pass { circuit: self.clone(), probes: false }),
            Admission::Probe => Ok(Pass { circuit: self.clone(), probes: true }),
            Admission::Open { until } => Err(until.saturating_sub(now)),
        }
    }

    /// How long no task will be let through, if none is now.
    pub(super) fn open_for(&self) -> Option<Duration> {
        let now = self.begun.elapsed();
        match self.with(|breaker| breaker.look(BACKEND, now)) {
            Admission::Open { until } => Some(until.saturating_sub(now)),
            Admission::Closed | Admission::Probe => None,
        }
    }

    /// Notes that the backend did not answer, outside of any task.
    pub(super) fn away(&self) {
        let now = self.begun.elapsed();
        self.with(|breaker| breaker.report(BACKEND, false, now));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Breakers) -> T) -> T {
        act(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A task that was let through. Dropped without a word, it has said nothing about the backend.
pub(super) struct Pass {
    circuit: Arc<Circuit>,
    probes: bool,
}

impl Pass {
    /// How the task ended.
    pub(super) fn ended(mut self, failure: Option<Failure>) {
        if let Some(works) = failure.map_or(Some(true), Failure::works) {
            self.probes = false;
            let now = self.circuit.begun.elapsed();
            self.circuit.with(|breaker| breaker.report(BACKEND, works, now));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probes {
            self.circuit.with(|breaker| breaker.release(BACKEND));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit() -> Arc<Circuit> {
        let options = BackendOptions { breaker_failures: 2, breaker_open_ms: 1_000, ..BackendOptions::default() };
        Arc::new(Circuit::new(&options))
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_one_task_tries_again() {
        let circuit = circuit();
        for _ in 0..2 {
            assert!(circuit.open_for().is_none());
            circuit.enter().ok().unwrap().ended(Some(Failure::Broken(500)));
        }
        let pause = circuit.enter().err().unwrap();
        assert!(pause <= Duration::from_secs(1) && circuit.open_for() == Some(pause));
        tokio::time::advance(Duration::from_secs(1)).await;
        let probe = circuit.enter().ok().unwrap();
        assert!(circuit.enter().is_err(), "one tries, not all");
        drop(probe);
        let probe = circuit.enter().expect("one that was cancelled makes room for the next");
        probe.ended(None);
        assert!(circuit.enter().is_ok() && circuit.enter().is_ok());
    }

    #[tokio::test]
    async fn callers_in_a_hurry_and_bad_payloads_do_not_open_it() {
        let circuit = circuit();
        for failure in [Failure::Late { tasks_own: true }, Failure::Busy(None), Failure::Refused(400), Failure::NoModel]
        {
            for _ in 0..5 {
                circuit.enter().ok().unwrap().ended(Some(failure));
            }
        }
        assert!(circuit.open_for().is_none());
        circuit.away();
        circuit.away();
        assert!(circuit.open_for().is_some());
    }
}
