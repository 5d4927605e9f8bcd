//! The rules that the events of one task keep, whatever transport carries them (specification: service-lifecycle
//! profile): about this task, in order, one end and nothing after it.

use crate::wire::events::EventName;

/// Follows the events of one task.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    next: u64,
    ended: bool,
}

/// What became of a well-formed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is the next one.
    Next,
    /// It was taken before, and is passed over.
    Again,
}

/// Why an event breaks the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    AfterTerminal,
    SequenceGap,
    TaskDrift,
    TerminalFlag,
    /// It is accepted when it runs already.
    Order,
}

impl Fault {
    /// The code that the published fixtures use.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Fault::AfterTerminal => "event_after_terminal",
            Fault::SequenceGap => "sequence_gap",
            Fault::TaskDrift => "task_id_drift",
            Fault::TerminalFlag => "terminal_flag_mismatch",
            Fault::Order => "illegal_transition",
        }
    }
}

impl Lifecycle {
    /// Takes the next event. `same_task` says whether it names the task that is followed.
    ///
    /// # Errors
    /// What is wrong with it; the stream is broken then.
    pub(crate) fn take(
        &mut self,
        same_task: bool,
        sequence: u64,
        name: EventName,
        is_final: bool,
    ) -> Result<Taken, Fault> {
        if !same_task {
            return Err(Fault::TaskDrift);
        }
        if sequence < self.next {
            return Ok(Taken::Again);
        }
        if self.ended {
            return Err(Fault::AfterTerminal);
        }
        if sequence > self.next {
            return Err(Fault::SequenceGap);
        }
        if name.is_final() != is_final {
            return Err(Fault::TerminalFlag);
        }
        if name == EventName::Accepted && self.next > 0 {
            return Err(Fault::Order);
        }
        self.next += 1;
        self.ended = is_final;
        Ok(Taken::Next)
    }

    /// Whether the terminal event was taken.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(events: &[(u64, &str, bool)]) -> Result<Vec<Taken>, Fault> {
        let mut task = Lifecycle::default();
        let take = |(sequence, word, is_final): &(u64, &str, bool)| {
            task.take(true, *sequence, EventName::parse(word).unwrap(), *is_final)
        };
        events.iter().map(take).collect()
    }

    #[test]
    fn events_come_in_order_and_end_once() {
        use Taken::{Again, Next};
        let whole = [(0, "accepted", false), (1, "partial", false), (1, "partial", false), (2, "completed", true)];
        assert_eq!(follow(&whole), Ok(vec![Next, Next, Again, Next]));
        assert_eq!(follow(&[(0, "rejected", true)]), Ok(vec![Next]));
        // Framed transports do not say that a task was accepted.
        assert_eq!(follow(&[(0, "partial", false), (1, "completed", true)]), Ok(vec![Next, Next]));
        for (broken, fault) in [
            (&[(0, "accepted", false), (2, "partial", false)][..], Fault::SequenceGap),
            (&[(0, "accepted", false), (1, "completed", true), (2, "partial", false)], Fault::AfterTerminal),
            (&[(0, "accepted", false), (1, "partial", true)], Fault::TerminalFlag),
            (&[(0, "accepted", false), (1, "completed", false)], Fault::TerminalFlag),
            (&[(0, "accepted", false), (1, "accepted", false)], Fault::Order),
            (&[(1, "accepted", false)], Fault::SequenceGap),
        ] {
            assert_eq!(follow(broken), Err(fault), "{broken:?}");
        }
        let mut task = Lifecycle::default();
        assert_eq!(task.take(false, 0, EventName::Accepted, false), Err(Fault::TaskDrift));
        assert!(!task.has_ended());
    }
}
