//! May a task be sent again, to whom, and when.
//!
//! *Provably not run* (no connection, 429, 503): yes, any task. *May have run* (500, 502, 504, no protocol, lost):
//! only if the task is idempotent. Anything else is final.

use std::time::Duration;

/// What one attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// This node did not and will not run the task; another may.
    Elsewhere,
    /// The node is full or draining; it did not run the task.
    Busy { retry_after: Option<Duration> },
    /// The node may have run the task.
    MayHaveRun,
    /// Sending again would change nothing.
    Final,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send to this candidate now.
    Send(usize),
    /// Pause, then ask again.
    Pause(Duration),
    /// Give up with the last error.
    GiveUp,
}

/// One submit's way through its candidates.
#[derive(Debug)]
pub(crate) struct Plan {
    idempotent: bool,
    rounds: u32,
    candidates: Vec<Candidate>,
    /// A result can no longer be excluded: a task that is not idempotent must not be sent again.
    spent: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Candidate {
    attempts: u32,
    /// Not before this time, counted from the submit's start.
    not_before: Duration,
    out: bool,
}

impl Plan {
    pub(crate) fn new(candidates: usize, rounds: u32, idempotent: bool) -> Self {
        Plan { idempotent, rounds, candidates: vec![Candidate::default(); candidates], spent: false }
    }

    /// Brings the number of candidates to this many.
    pub(crate) fn add(&mut self, candidates: usize) {
        self.candidates.resize(candidates.max(self.candidates.len()), Candidate::default());
    }

    /// Whether no candidate, also none that would be added, may be sent the task any more.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent
    }

    /// The next step at `now`, when `left` remains of the deadline. Candidates are tried in order; one that is free now
    /// goes before one that asked for a pause.
    pub(crate) fn next(&self, now: Duration, left: Duration) -> Step {
        if self.spent {
            return Step::GiveUp;
        }
        let open = self.candidates.iter().enumerate().filter(|(_, candidate)| !candidate.out);
        let best = open.min_by_key(|(at, candidate)| (candidate.not_before.max(now), candidate.attempts, *at));
        match best {
            Some((at, candidate)) if candidate.not_before <= now => Step::Send(at),
            Some((_, candidate)) if candidate.not_before - now < left => Step::Pause(candidate.not_before - now),
            _ => Step::GiveUp,
        }
    }

    /// Notes what an attempt came to. `jitter` is 0 to 1.
    pub(crate) fn tried(&mut self, at: usize, outcome: Outcome, now: Duration, jitter: f64) {
        let idempotent = self.idempotent;
        let Some(candidate) = self.candidates.get_mut(at) else { return };
        candidate.attempts += 1;
        let rounds_over = candidate.attempts >= self.rounds;
        match outcome {
            // A second try within one deadline would be a waste of it.
            Outcome::Elsewhere => candidate.out = true,
            Outcome::Busy { retry_after } => {
                candidate.out = rounds_over;
                candidate.not_before = now + retry_after.unwrap_or_else(|| back_off(candidate.attempts, jitter));
            }
            Outcome::MayHaveRun if idempotent => {
                candidate.out = rounds_over;
                candidate.not_before = now + back_off(candidate.attempts, jitter);
            }
            Outcome::MayHaveRun | Outcome::Final => self.spent = true,
        }
    }
}

/// 200 ms, doubled with each attempt, give or take a fifth (specification: semantics, retry).
fn back_off(attempts: u32, jitter: f64) -> Duration {
    let base = Duration::from_millis(200).saturating_mul(1 << attempts.saturating_sub(1).min(6));
    base.mul_f64(0.8 + 0.4 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Duration = Duration::from_secs(10);
    const ZERO: Duration = Duration::ZERO;

    #[test]
    fn a_task_that_may_have_run_is_sent_again_only_if_idempotent() {
        let mut plan = Plan::new(2, 3, false);
        plan.tried(0, Outcome::MayHaveRun, ZERO, 0.5);
        assert_eq!(plan.next(ZERO, LEFT), Step::GiveUp);
        let mut plan = Plan::new(2, 3, true);
        plan.tried(0, Outcome::MayHaveRun, ZERO, 0.5);
        assert_eq!(plan.next(ZERO, LEFT), Step::Send(1));
    }

    #[test]
    fn capacity_means_another_node_at_once_and_the_same_one_after_its_pause() {
        let mut plan = Plan::new(2, 2, false);
        let busy = Outcome::Busy { retry_after: Some(Duration::from_secs(2)) };
        plan.tried(0, busy, ZERO, 0.5);
        assert_eq!(plan.next(ZERO, LEFT), Step::Send(1));
        plan.tried(1, Outcome::Elsewhere, ZERO, 0.5);
        assert_eq!(plan.next(ZERO, LEFT), Step::Pause(Duration::from_secs(2)));
        assert_eq!(plan.next(Duration::from_secs(2), LEFT), Step::Send(0));
        plan.tried(0, busy, Duration::from_secs(2), 0.5);
        assert_eq!(plan.next(Duration::from_secs(9), LEFT), Step::GiveUp, "two rounds are over");
    }

    #[test]
    fn a_pause_that_outlives_the_deadline_is_not_waited_for() {
        let mut plan = Plan::new(1, 3, false);
        plan.tried(0, Outcome::Busy { retry_after: Some(Duration::from_secs(60)) }, ZERO, 0.5);
        assert_eq!(plan.next(ZERO, LEFT), Step::GiveUp);
    }

    #[test]
    fn a_final_answer_ends_the_submit_and_dead_nodes_are_all_passed_over() {
        let mut plan = Plan::new(9, 3, true);
        for at in 0..8 {
            assert_eq!(plan.next(ZERO, LEFT), Step::Send(at));
            plan.tried(at, Outcome::Elsewhere, ZERO, 0.5);
        }
        assert_eq!(plan.next(ZERO, LEFT), Step::Send(8));
        plan.tried(8, Outcome::Final, ZERO, 0.5);
        assert_eq!(plan.next(ZERO, LEFT), Step::GiveUp);
        assert_eq!(Plan::new(0, 3, true).next(ZERO, LEFT), Step::GiveUp);
    }

    #[test]
    fn back_off_doubles_and_jitters() {
        assert_eq!(back_off(1, 0.5), Duration::from_millis(200));
        assert_eq!(back_off(2, 0.0), Duration::from_millis(320));
        assert_eq!(back_off(3, 1.0), Duration::from_millis(960));
    }
}
