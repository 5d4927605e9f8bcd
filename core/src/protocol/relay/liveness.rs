//! Whether the other end of a session is still there.
//!
//! A connection whose address pair is gone says nothing: neither end learns of it by itself. So who hears nothing for a
//! while asks, and who gets no answer lets go.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long silence may last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Silence after which the peer is asked.
    pub(crate) ask_after: Duration,
    /// Wait for an answer.
    pub(crate) answer_within: Duration,
    /// Silence after which a peer is gone that never answers when asked.
    pub(crate) silence: Duration,
    /// How often somebody looks. Every bound is met by then, not one look later.
    pub(crate) look_every: Duration,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Fine,
    /// Ask the peer whether it is there.
    Ask,
    Gone,
}

/// Times of one session, in milliseconds since some beginning. Written by whoever reads the connection, read by whoever
/// looks.
#[derive(Debug)]
pub(crate) struct Liveness {
    answers: bool,
    heard: AtomicU64,
    asked: AtomicU64,
    /// Since when the peer does not take what is written; 0 if it does.
    stuck: AtomicU64,
}

impl Liveness {
    /// `answers` says whether the peer answers when it is asked; published workers do not.
    pub(crate) fn new(answers: bool, now: u64) -> Self {
        Liveness { answers, heard: AtomicU64::new(now), asked: AtomicU64::new(0), stuck: AtomicU64::new(0) }
    }

    /// Something came.
    pub(crate) fn heard(&self, now: u64) {
        self.heard.store(now, Relaxed);
    }

    /// What was written was taken.
    pub(crate) fn took(&self) {
        if self.stuck.load(Relaxed) != 0 {
            self.stuck.store(0, Relaxed);
        }
    }

    /// What is written is not taken.
    pub(crate) fn stuck(&self, now: u64) {
        let _ = self.stuck.compare_exchange(0, now.max(1), Relaxed, Relaxed);
    }

    /// Asks now, whatever was heard. False if an answer is being waited for already.
    pub(crate) fn ask(&self, now: u64) -> bool {
        let waits = self.asked.load(Relaxed) > self.heard.load(Relaxed);
        if !waits {
            self.asked.store(now.max(self.heard.load(Relaxed) + 1), Relaxed);
        }
        !waits
    }

    /// What is to be done now. Who is told to ask is taken to have asked.
    pub(crate) fn look(&self, now: u64, patience: &Patience) -> Look {
        let over = |since: u64, limit: Duration| {
            let limit = limit.saturating_sub(patience.look_every);
            u128::from(now.saturating_sub(since)) >= limit.as_millis()
        };
        let (heard, asked, stuck) = (self.heard.load(Relaxed), self.asked.load(Relaxed), self.stuck.load(Relaxed));
        if stuck != 0 && over(stuck, patience.ask_after + patience.answer_within) || over(heard, patience.silence) {
            return Look::Gone;
        }
        if asked <= heard {
            return if over(heard, patience.ask_after) && self.ask(now) { Look::Ask } else { Look::Fine };
        }
        if self.answers {
            return if over(asked, patience.answer_within) { Look::Gone } else { Look::Fine };
        }
        // It will not answer, but writing to it shows whether its connection still stands.
        if over(asked, patience.ask_after) {
            self.asked.store(now, Relaxed);
            return Look::Ask;
        }
        Look::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        ask_after: Duration::from_secs(15),
        answer_within: Duration::from_secs(5),
        silence: Duration::from_secs(90),
        look_every: Duration::from_millis(250),
    };

    /// When a peer that falls silent at 0 is asked and given up, by who looks four times a second.
    fn silent(answers: bool) -> (Vec<u64>, u64) {
        let liveness = Liveness::new(answers, 0);
        let mut asked = Vec::new();
        for now in (0..200_000).step_by(250) {
            match liveness.look(now, &PATIENCE) {
                Look::Fine => {}
                Look::Ask => asked.push(now),
                Look::Gone => return (asked, now),
            }
        }
        panic!("never given up");
    }

    #[test]
    fn who_answers_when_asked_is_given_up_within_twenty_seconds() {
        assert_eq!(silent(true), (vec![14_750], 19_500));
    }

    #[test]
    fn who_never_answers_is_given_up_after_ninety() {
        let (asked, gone) = silent(false);
        assert_eq!(gone, 89_750);
        assert!(asked.len() >= 5, "{asked:?}");
    }

    #[test]
    fn an_answer_or_anything_else_that_is_heard_is_a_sign_of_life() {
        let liveness = Liveness::new(true, 0);
        assert_eq!(liveness.look(15_000, &PATIENCE), Look::Ask);
        assert_eq!(liveness.look(19_000, &PATIENCE), Look::Fine);
        liveness.heard(19_000);
        assert_eq!(liveness.look(25_000, &PATIENCE), Look::Fine);
        assert_eq!(liveness.look(34_000, &PATIENCE), Look::Ask);
        assert_eq!(liveness.look(38_750, &PATIENCE), Look::Gone);
    }

    #[test]
    fn who_is_doubted_is_asked_at_once_and_once() {
        let liveness = Liveness::new(true, 1_000);
        assert!(liveness.ask(1_000) && !liveness.ask(1_500));
        assert_eq!(liveness.look(5_000, &PATIENCE), Look::Fine);
        assert_eq!(liveness.look(6_000, &PATIENCE), Look::Gone);
    }

    #[test]
    fn who_takes_nothing_is_given_up_though_it_talks() {
        let liveness = Liveness::new(false, 0);
        liveness.stuck(1_000);
        liveness.stuck(9_000);
        liveness.heard(20_000);
        assert_eq!(liveness.look(20_000, &PATIENCE), Look::Fine);
        assert_eq!(liveness.look(21_000, &PATIENCE), Look::Gone);
        liveness.took();
        assert_eq!(liveness.look(21_000, &PATIENCE), Look::Fine);
    }
}
