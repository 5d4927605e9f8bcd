//! The slots of a node: how many tasks run at a time, and who gets the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::types::{Priority, Qos};

/// Lets at most `limit` tasks in at a time, and none while draining. Who may wait stands in a queue, the most urgent
/// first, and is given the first slot that becomes free.
#[derive(Debug)]
pub(crate) struct Gate {
    /// As many slots as there can be; the limit may be lower for a time.
    most: usize,
    most_waiting: usize,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    limit: usize,
    active: usize,
    draining: bool,
    pause: Option<Pause>,
    came: u64,
    // While anybody waits, no slot is free.
    waiting: BTreeMap<Place, Option<Waker>>,
    /// Who has been given a slot, and has not fetched it yet.
    called: BTreeSet<Place>,
}

/// Who goes first: by class, then by priority, then as they came.
type Place = (Rank, u64);

/// How urgent a task is, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(u8, u8);

impl Rank {
    /// The rank of a task that may wait; none for those that are taken at once or not at all.
    pub(crate) fn of(qos: Qos, priority: Priority) -> Option<Rank> {
        matches!(qos, Qos::Realtime | Qos::Interactive).then_some(Rank(qos as u8, priority as u8))
    }
}

/// Why a task was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Full,
    Draining,
    Paused(Pause),
}

/// A time in which what runs the tasks takes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) reason: &'static str,
    /// By the clock that [`Gate::enter`] is given.
    pub(crate) until: Duration,
}

/// A slot. Dropping it gives it back: after a result, an error, a panic, or when the caller went away.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Gate {
    pub(crate) fn new(most: usize, most_waiting: usize) -> Arc<Self> {
        let slots = Slots { limit: most, ..Slots::default() };
        Arc::new(Gate { most, most_waiting, slots: Mutex::new(slots) })
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing that runs under the lock can unwind half-way.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot, if one is free. `now` is the time since any fixed moment.
    pub(crate) fn enter(self: &Arc<Self>, now: Duration) -> Result<Permit, Closed> {
        let mut slots = self.lock();
        slots.check_open(now)?;
        if slots.active >= slots.limit {
            return Err(Closed::Full);
        }
        slots.active += 1;
        Ok(Permit(self.clone()))
    }

    /// A place in the queue. In a full queue, who is more urgent takes the place of the last.
    pub(crate) fn queue(self: &Arc<Self>, rank: Rank, now: Duration) -> Result<Waiting, Closed> {
        let (displaced, called) = {
            let mut slots = self.lock();
            slots.check_open(now)?;
            let mut displaced = None;
            if slots.waiting.len() >= self.most_waiting {
                let last = slots.waiting.last_entry().filter(|last| rank < last.key().0).ok_or(Closed::Full)?;
                displaced = last.remove();
            }
            slots.came += 1;
            let place = (rank, slots.came);
            slots.waiting.insert(place, None);
            let waiting = Waiting { gate: self.clone(), place };
            // A slot may have become free since it was found full.
            (displaced, (slots.call(), waiting))
        };
        let (woken, waiting) = called;
        wake(displaced.into_iter().chain(woken));
        Ok(waiting)
    }

    fn give_back(&self) {
        let called = {
            let mut slots = self.lock();
            slots.active -= 1;
            slots.call()
        };
        wake(called);
    }

    /// Lets so many in from now on, at most as many as there can be. Who is in already stays, also above the limit.
    pub(crate) fn set_limit(&self, limit: usize) {
        let called = {
            let mut slots = self.lock();
            slots.limit = limit.min(self.most);
            slots.call()
        };
        wake(called);
    }

    /// Lets nobody in for a time, and sends away who waits. A later call replaces an earlier one; none ends it.
    pub(crate) fn pause(&self, pause: Option<Pause>) {
        let sent_away = {
            let mut slots = self.lock();
            slots.pause = pause;
            if pause.is_some() { std::mem::take(&mut slots.waiting) } else { BTreeMap::new() }
        };
        wake(sent_away.into_values().flatten());
    }

    /// Lets nobody in any more, and sends away who waits.
    pub(crate) fn drain(&self) {
        let sent_away = {
            let mut slots = self.lock();
            slots.draining = true;
            std::mem::take(&mut slots.waiting)
        };
        wake(sent_away.into_values().flatten());
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// Why nobody is let in at all, whether or not a slot is free.
    pub(crate) fn check_open(&self, now: Duration) -> Result<(), Closed> {
        self.lock().check_open(now)
    }

    /// Whether a task that does not wait would find no slot.
    pub(crate) fn is_full(&self) -> bool {
        let slots = self.lock();
        slots.active >= slots.limit
    }

    pub(crate) fn active(&self) -> usize {
        self.lock().active
    }

    pub(crate) fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Tasks that wait for a slot.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether fewer are let in now than there are slots.
    pub(crate) fn is_lowered(&self) -> bool {
        self.limit() < self.most
    }

    /// Share of the slots in use, 0 to 1.
    pub(crate) fn load(&self) -> f64 {
        let slots = self.lock();
        if slots.active >= slots.limit {
            return 1.0;
        }
        // Both are small counts.
        #[allow(clippy::cast_precision_loss)]
        let share = slots.active as f64 / slots.limit as f64;
        share
    }
}

impl Slots {
    fn check_open(&self, now: Duration) -> Result<(), Closed> {
        match self.pause {
            _ if self.draining => Err(Closed::Draining),
            Some(pause) if now < pause.until => Err(Closed::Paused(pause)),
            _ => Ok(()),
        }
    }

    /// Gives free slots to those who wait; whom to wake.
    fn call(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.active < self.limit
            && let Some((place, waker)) = self.waiting.pop_first()
        {
            self.active += 1;
            self.called.insert(place);
            woken.extend(waker);
        }
        woken
    }
}

/// Never under the lock: what is woken may come straight back.
fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// Waits for a slot. Dropping it gives the place up, and the slot if it was given one.
#[derive(Debug)]
pub(crate) struct Waiting {
    gate: Arc<Gate>,
    place: Place,
}

impl Future for Waiting {
    type Output = Result<Permit, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slots = self.gate.lock();
        if slots.called.remove(&self.place) {
            return Poll::Ready(Ok(Permit(self.gate.clone())));
        }
        if let Some(waker) = slots.waiting.get_mut(&self.place) {
            match waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        // Sent away, or displaced by somebody more urgent.
        Poll::Ready(Err(match slots.pause {
            _ if slots.draining => Closed::Draining,
            Some(pause) => Closed::Paused(pause),
            None => Closed::Full,
        }))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let was_called = {
            let mut slots = self.gate.lock();
            slots.waiting.remove(&self.place);
            slots.called.remove(&self.place)
        };
        if was_called {
            self.gate.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn rank(qos: Qos) -> Rank {
        Rank::of(qos, Priority::Normal).unwrap()
    }

    #[test]
    fn a_permit_is_given_back_by_drop_even_when_unwinding() {
        let gate = Gate::new(2, 0);
        let first = gate.enter(NOW).unwrap();
        let held = gate.clone();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _permit = held.enter(NOW).unwrap();
            panic!("handler");
        }));
        assert!(caught.is_err());
        assert_eq!(gate.active(), 1);
        let second = gate.enter(NOW).unwrap();
        assert_eq!(gate.enter(NOW).unwrap_err(), Closed::Full);
        drop((first, second));
        assert_eq!(gate.active(), 0);
        gate.drain();
        assert_eq!(gate.enter(NOW).unwrap_err(), Closed::Draining);
    }

    #[test]
    fn a_lower_limit_lets_nobody_in_and_throws_nobody_out() {
        let gate = Gate::new(2, 4);
        let both = [gate.enter(NOW).unwrap(), gate.enter(NOW).unwrap()];
        gate.set_limit(1);
        assert_eq!((gate.active(), gate.load() >= 1.0, gate.is_lowered()), (2, true, true));
        let mut waiting = gate.queue(rank(Qos::Realtime), NOW).unwrap();
        let [first, second] = both;
        drop(first);
        assert!((&mut waiting).now_or_never().is_none(), "one is still in, and that is the limit");
        drop(second);
        drop(waiting.now_or_never().unwrap().unwrap());
        gate.set_limit(0);
        assert_eq!(gate.enter(NOW).unwrap_err(), Closed::Full);
        assert!(gate.load() >= 1.0, "nothing is given, so nothing is free");
        let mut waiting = gate.queue(rank(Qos::Realtime), NOW).unwrap();
        assert!((&mut waiting).now_or_never().is_none());
        gate.set_limit(9);
        assert!(waiting.now_or_never().unwrap().is_ok(), "who waits profits from a higher limit");
        assert_eq!((gate.limit(), gate.active()), (2, 0), "and there are never more than there can be");
    }

    #[test]
    fn the_most_urgent_gets_the_next_slot_and_equals_go_as_they_came() {
        let gate = Gate::new(1, 8);
        let mut held = Some(gate.enter(NOW).unwrap());
        let place = |qos, priority| gate.queue(Rank::of(qos, priority).unwrap(), NOW).unwrap();
        let mut queue = vec![
            ("interactive", place(Qos::Interactive, Priority::Normal)),
            ("interactive, later", place(Qos::Interactive, Priority::Normal)),
            ("interactive, critical", place(Qos::Interactive, Priority::Critical)),
            ("realtime, low", place(Qos::Realtime, Priority::Low)),
            ("realtime", place(Qos::Realtime, Priority::Normal)),
        ];
        let mut order = Vec::new();
        while !queue.is_empty() {
            assert_eq!(gate.enter(NOW).unwrap_err(), Closed::Full, "nobody passes by the queue");
            drop(held.take());
            let called = queue.iter_mut().position(|(name, waiting)| {
                held = waiting.now_or_never().map(Result::unwrap);
                if held.is_some() {
                    order.push(*name);
                }
                held.is_some()
            });
            drop(queue.remove(called.unwrap()));
            assert_eq!(gate.active(), 1);
        }
        let expected = ["realtime", "realtime, low", "interactive, critical", "interactive", "interactive, later"];
        assert_eq!(order, expected);
        assert_eq!(Rank::of(Qos::Batch, Priority::Critical), None);
    }

    #[test]
    fn who_leaves_the_queue_gives_the_slot_to_the_next() {
        let gate = Gate::new(1, 8);
        let permit = gate.enter(NOW).unwrap();
        let (first, second, mut third) = (
            gate.queue(rank(Qos::Realtime), NOW).unwrap(),
            gate.queue(rank(Qos::Realtime), NOW).unwrap(),
            gate.queue(rank(Qos::Realtime), NOW).unwrap(),
        );
        drop(second);
        drop(permit);
        assert_eq!((gate.active(), gate.waiting()), (1, 1), "the slot is the first one's, fetched or not");
        drop(first);
        assert!((&mut third).now_or_never().unwrap().is_ok(), "and goes on to who is left");
        drop(third);
        assert_eq!((gate.active(), gate.waiting()), (0, 0));
    }

    #[test]
    fn a_full_queue_takes_only_who_is_more_urgent_than_its_last() {
        let gate = Gate::new(1, 2);
        let _permit = gate.enter(NOW).unwrap();
        let mut urgent = gate.queue(rank(Qos::Realtime), NOW).unwrap();
        let last = gate.queue(rank(Qos::Interactive), NOW).unwrap();
        assert_eq!(gate.queue(rank(Qos::Interactive), NOW).unwrap_err(), Closed::Full);
        let _second = gate.queue(rank(Qos::Realtime), NOW).unwrap();
        assert_eq!(last.now_or_never().unwrap().unwrap_err(), Closed::Full);
        assert!((&mut urgent).now_or_never().is_none());
        assert_eq!(gate.queue(rank(Qos::Realtime), NOW).unwrap_err(), Closed::Full);
        assert_eq!(Gate::new(0, 0).queue(rank(Qos::Realtime), NOW).unwrap_err(), Closed::Full);
    }

    #[test]
    fn a_pause_sends_away_who_waits_and_is_over_by_itself() {
        let gate = Gate::new(1, 2);
        let permit = gate.enter(NOW).unwrap();
        let waiting = gate.queue(rank(Qos::Realtime), NOW).unwrap();
        let pause = Pause { reason: "backend_loading", until: Duration::from_secs(30) };
        gate.pause(Some(pause));
        assert_eq!(waiting.now_or_never().unwrap().unwrap_err(), Closed::Paused(pause));
        drop(permit);
        assert_eq!(gate.enter(NOW).unwrap_err(), Closed::Paused(pause));
        assert_eq!(gate.queue(rank(Qos::Realtime), NOW).unwrap_err(), Closed::Paused(pause));
        assert!(gate.enter(Duration::from_secs(30)).is_ok());
        gate.pause(None);
        assert!(gate.enter(NOW).is_ok());
        let _permit = gate.enter(NOW).unwrap();
        let waiting = gate.queue(rank(Qos::Realtime), NOW).unwrap();
        gate.drain();
        assert_eq!(waiting.now_or_never().unwrap().unwrap_err(), Closed::Draining);
    }

    #[test]
    fn whoever_goes_away_at_whatever_moment_leaves_no_slot_behind() {
        let gate = Gate::new(3, 16);
        let mut held: Vec<Permit> = Vec::new();
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut random = 7_u64;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = usize::try_from(random >> 40).unwrap();
            match random >> 61 {
                0 | 1 => held.extend(gate.enter(NOW)),
                2 | 3 => waiting.extend(gate.queue(rank([Qos::Realtime, Qos::Interactive][pick % 2]), NOW)),
                4 if !held.is_empty() => drop(held.swap_remove(pick % held.len())),
                5 if !waiting.is_empty() => drop(waiting.swap_remove(pick % waiting.len())),
                6 => gate.set_limit(1 + pick % 3),
                _ if !waiting.is_empty() => {
                    let at = pick % waiting.len();
                    if let Some(settled) = (&mut waiting[at]).now_or_never() {
                        held.extend(settled);
                        drop(waiting.swap_remove(at));
                    }
                }
                _ => {}
            }
            assert!(gate.active() <= 3 && gate.waiting() <= 16);
        }
        drop((held, waiting));
        assert_eq!((gate.active(), gate.waiting()), (0, 0));
        assert!(gate.enter(NOW).is_ok());
    }
}
