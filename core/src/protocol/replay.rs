//! Remembering task ids, so that a task runs once, in bounded memory and constant time.
//!
//! Ids and contents are kept as 16-byte fingerprints. Entries leave in the order they came, by age or when the byte cap
//! is reached; stored results have a budget of their own. The memory is split into shards so that no single table grows
//! large enough for its rehash to be felt.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::fingerprints::ByFingerprint;

/// How long an id is remembered (specification: SEC-NONCE-01 and the published nodes' window).
pub(crate) const WINDOW_S: u64 = 300;
const SHARDS: usize = 16;
/// What one id costs: table slot at the usual fill, control byte, and its place in the queue.
const ENTRY_BYTES: usize = 112;
/// What holding an answer costs beside its bytes.
const HELD_BYTES: usize = 64;
/// Answers are held in slabs of this size: pieces of their own, of any size and freed in another order than all else that is
/// allocated meanwhile, would leave the heap in holes, which cost every task more than the copy does.
const SLAB: usize = 64 << 10;
/// What is larger is held as it is.
const MOST_IN_SLAB: usize = 8 << 10;

/// What is known of a task id when it comes in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen<W> {
    /// Never: the caller has to run it, and to say how it ended.
    New,
    /// The same task is running; wait for it.
    Running(W),
    /// The same task has run; this was its answer.
    Done(Bytes),
    /// The id was used for other content, or its answer is no longer held.
    Conflict,
}

struct Entry<W> {
    content: u64,
    came_s: u32,
    /// Its time was over while it was running; it goes as soon as it ends.
    overdue: bool,
    state: State<W>,
}

enum State<W> {
    Running(W),
    /// The number of the answer, or [`NOT_HELD`].
    Done(u64),
}

/// The number of an answer that there was not, or that was too large to hold.
const NOT_HELD: u64 = 0;

struct Shard<W> {
    entries: ByFingerprint<u128, Entry<W>>,
    /// Every id with the second it came in, oldest first. A forgotten id leaves its place here until it comes up.
    ids: VecDeque<(u128, u32)>,
    /// Answers in the order in which they were given; the first has the number `first_held`. They leave by their budget
    /// alone: finding out which id they belong to would cost every task another walk through cold memory.
    held: VecDeque<Bytes>,
    first_held: u64,
    held_bytes: usize,
    /// The room for the next answers.
    slab: BytesMut,
}

/// Bounded memory of task ids. `W` is what a second caller of a running task waits on.
pub(crate) struct ReplayMemory<W> {
    shards: [Mutex<Shard<W>>; SHARDS],
    most_ids: usize,
    most_held_bytes: usize,
    forgotten: AtomicU64,
}

impl<W: Clone> ReplayMemory<W> {
    pub(crate) fn new(id_bytes: usize, result_bytes: usize) -> Self {
        let shard = || {
            Mutex::new(Shard {
                entries: ByFingerprint::default(),
                ids: VecDeque::new(),
                held: VecDeque::new(),
                first_held: NOT_HELD + 1,
                held_bytes: 0,
                slab: BytesMut::new(),
            })
        };
        ReplayMemory {
            shards: std::array::from_fn(|_| shard()),
            most_ids: (id_bytes / ENTRY_BYTES / SHARDS).max(1),
            most_held_bytes: result_bytes / SHARDS,
            forgotten: AtomicU64::new(0),
        }
    }

    fn shard(&self, id: u128) -> MutexGuard<'_, Shard<W>> {
        // Not the bits that the table hashes by.
        #[allow(clippy::cast_possible_truncation)]
        let index = (id >> 64) as usize % SHARDS;
        // A shard stays whole across a panic: nothing that runs under the lock can unwind half-way.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a task up and, if it is new and may be let in, notes that it runs now. Whoever brings the same id meanwhile
    /// waits for the note, so that it never finds a task let in and not noted.
    ///
    /// # Errors
    /// Why it was not let in; nothing is noted then.
    pub(crate) fn begin<E>(
        &self,
        id: u128,
        content: u128,
        now_s: u64,
        let_in: impl FnOnce() -> Result<W, E>,
    ) -> Result<Seen<W>, E> {
        let mut shard = self.shard(id);
        shard.expire(now_s);
        let seen = shard.look(id, content);
        if !matches!(seen, Seen::New) {
            return Ok(seen);
        }
        let waiter = let_in()?;
        if shard.ids.len() >= self.most_ids {
            self.forgotten.fetch_add(1, Relaxed);
            shard.forget_oldest();
        }
        let came_s = seconds(now_s);
        shard.ids.push_back((id, came_s));
        let entry = Entry { content: brief(content), came_s, overdue: false, state: State::Running(waiter) };
        shard.entries.insert(id, entry);
        Ok(Seen::New)
    }

    /// Whether the id is known, running or done.
    pub(crate) fn knows(&self, id: u128) -> bool {
        self.shard(id).entries.contains_key(&id)
    }

    /// Keeps the answer of a finished task; without one, only that it has run.
    pub(crate) fn finish(&self, id: u128, answer: Option<&Bytes>) {
        let mut shard = self.shard(id);
        let answer = answer.filter(|answer| answer.len() + HELD_BYTES <= self.most_held_bytes);
        let number = if answer.is_some() { shard.first_held + shard.held.len() as u64 } else { NOT_HELD };
        let Some(entry) = shard.entries.get_mut(&id) else { return };
        if entry.overdue {
            shard.entries.remove(&id);
            return;
        }
        entry.state = State::Done(number);
        if let Some(answer) = answer {
            shard.hold(answer, self.most_held_bytes);
        }
    }

    /// Forgets a task that did not run to an answer, so that it may come again.
    pub(crate) fn forget(&self, id: u128) {
        self.shard(id).entries.remove(&id);
    }

    /// Ids that were forgotten before their time, because the memory was full.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }
}

impl<W: Clone> Shard<W> {
    fn look(&self, id: u128, content: u128) -> Seen<W> {
        match self.entries.get(&id) {
            None => Seen::New,
            Some(entry) if entry.content != brief(content) => Seen::Conflict,
            Some(Entry { state: State::Running(waiter), .. }) => Seen::Running(waiter.clone()),
            Some(Entry { state: State::Done(number), .. }) => {
                let at = number.checked_sub(self.first_held).and_then(|at| usize::try_from(at).ok());
                at.and_then(|at| self.held.get(at)).map_or(Seen::Conflict, |answer| Seen::Done(answer.clone()))
            }
        }
    }

    fn expire(&mut self, now_s: u64) {
        while self.ids.front().is_some_and(|(_, came_s)| now_s.saturating_sub(u64::from(*came_s)) > WINDOW_S) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((id, came_s)) = self.ids.pop_front() else { return };
        match self.entries.get_mut(&id) {
            // The place of an earlier task of that id, forgotten since.
            Some(entry) if entry.came_s != came_s => {}
            Some(Entry { state: State::Done(_), .. }) => drop(self.entries.remove(&id)),
            Some(running) => running.overdue = true,
            None => {}
        }
    }

    fn hold(&mut self, answer: &Bytes, most_bytes: usize) {
        self.held_bytes += answer.len() + HELD_BYTES;
        let held = if answer.len() <= MOST_IN_SLAB { self.copy(answer, most_bytes) } else { answer.clone() };
        self.held.push_back(held);
        while self.held_bytes > most_bytes {
            let Some(oldest) = self.held.pop_front() else { return };
            self.held_bytes -= oldest.len() + HELD_BYTES;
            self.first_held += 1;
        }
    }

    /// The same bytes in the slab, which lives as long as the last answer in it: they leave in the order in which they came.
    fn copy(&mut self, answer: &[u8], most_bytes: usize) -> Bytes {
        if self.slab.capacity() < answer.len() {
            self.slab = BytesMut::with_capacity(SLAB.min(most_bytes).max(answer.len()));
        }
        self.slab.extend_from_slice(answer);
        self.slab.split().freeze()
    }
}

/// Half of a fingerprint tells contents of one id apart as well as the whole.
#[allow(clippy::cast_possible_truncation)]
fn brief(content: u128) -> u64 {
    content as u64
}

/// A node that runs for a century comes to its end here.
pub(super) fn seconds(now_s: u64) -> u32 {
    u32::try_from(now_s).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin<W: Clone>(memory: &ReplayMemory<W>, id: u128, content: u128, now_s: u64, waiter: W) -> Seen<W> {
        let seen: Result<_, std::convert::Infallible> = memory.begin(id, content, now_s, || Ok(waiter));
        let Ok(seen) = seen;
        seen
    }

    #[test]
    fn what_was_not_let_in_leaves_no_note() {
        let memory = ReplayMemory::new(16, 1 << 10);
        assert_eq!(memory.begin(id(1), 7, 0, || Err("full")), Err("full"));
        assert_eq!(begin(&memory, id(1), 8, 0, "w"), Seen::New);
        assert_eq!(memory.begin(id(1), 8, 0, || Err("full")), Ok(Seen::Running("w")), "asked only of what is new");
    }

    fn id(n: u128) -> u128 {
        n << 64 | n
    }

    #[test]
    fn a_task_runs_once_and_its_answer_is_given_again() {
        let memory = ReplayMemory::new(1 << 20, 1 << 20);
        assert_eq!(begin(&memory, id(1), 7, 0, "w"), Seen::New);
        assert_eq!(begin(&memory, id(1), 7, 0, "x"), Seen::Running("w"));
        assert_eq!(begin(&memory, id(1), 8, 0, "x"), Seen::Conflict);
        memory.finish(id(1), Some(&Bytes::from_static(b"answer")));
        assert_eq!(begin(&memory, id(1), 7, 0, "x"), Seen::Done(Bytes::from_static(b"answer")));
        assert_eq!(begin(&memory, id(1), 8, 0, "x"), Seen::Conflict);
        assert_eq!(begin(&memory, id(1), 8, WINDOW_S + 1, "y"), Seen::New);
    }

    #[test]
    fn a_task_that_did_not_run_may_come_again() {
        let memory = ReplayMemory::new(1 << 20, 1 << 20);
        assert_eq!(begin(&memory, id(1), 7, 0, ()), Seen::New);
        memory.forget(id(1));
        assert_eq!(begin(&memory, id(1), 8, 1, ()), Seen::New);
    }

    #[test]
    fn answers_leave_by_their_budget_and_ids_stay() {
        let memory = ReplayMemory::new(1 << 20, (100 + HELD_BYTES) * SHARDS);
        for n in [1, 2] {
            assert_eq!(begin(&memory, id(n * 16), 7, 0, ()), Seen::New);
            memory.finish(id(n * 16), Some(&Bytes::from(vec![0; 60])));
        }
        assert_eq!(begin(&memory, id(16), 7, 0, ()), Seen::Conflict, "its answer made room");
        assert_eq!(begin(&memory, id(32), 7, 0, ()), Seen::Done(Bytes::from(vec![0; 60])));
        assert_eq!(begin(&memory, id(48), 7, 0, ()), Seen::New);
        memory.finish(id(48), Some(&Bytes::from(vec![0; 101])));
        assert_eq!(begin(&memory, id(48), 7, 0, ()), Seen::Conflict, "too large to hold");
    }

    #[test]
    fn many_ids_stay_within_the_bound_and_the_loss_is_counted() {
        let memory = ReplayMemory::new(1 << 20, 1 << 20);
        for n in 0..200_000_u128 {
            let id = id(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            assert_eq!(begin(&memory, id, 7, 0, ()), Seen::New);
            memory.finish(id, Some(&Bytes::from_static(b"ok")));
        }
        let kept: usize = memory.shards.iter().map(|shard| shard.lock().unwrap().entries.len()).sum();
        let held: usize = memory.shards.iter().map(|shard| shard.lock().unwrap().held.len()).sum();
        assert!(kept <= (1 << 20) / ENTRY_BYTES, "{kept}");
        assert!(held * (2 + HELD_BYTES) <= 1 << 20, "{held} answers of two bytes");
        assert_eq!(memory.forgotten() as usize, 200_000 - kept);
    }

    #[test]
    fn a_task_that_runs_longer_than_the_window_is_not_forgotten() {
        let memory = ReplayMemory::new(1 << 20, 1 << 20);
        assert_eq!(begin(&memory, id(1), 7, 0, ()), Seen::New);
        assert_eq!(begin(&memory, id(17), 7, WINDOW_S + 1, ()), Seen::New);
        assert_eq!(begin(&memory, id(1), 7, WINDOW_S + 1, ()), Seen::Running(()));
        memory.finish(id(1), Some(&Bytes::from_static(b"late")));
        assert_eq!(begin(&memory, id(1), 7, WINDOW_S + 1, ()), Seen::New, "it left when it ended");
    }
}
