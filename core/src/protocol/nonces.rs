//! Numbers that are good once. Unlike a task id, a nonce that may have been forgotten must not pass: when the memory is
//! full, no further one is taken (specification: replay window of 300 s).

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fingerprints::SetOfFingerprints;
use super::replay::{WINDOW_S, seconds};

const SHARDS: usize = 16;
/// What one nonce costs: its place in the table at the usual fill, and the one in the queue.
const ENTRY_BYTES: usize = 32;

/// Why a nonce is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// It came before.
    Seen,
    /// Whether it came before can't be remembered; in so many seconds there will be room.
    Full(u64),
}

/// Bounded memory of nonces. Each is held as a number of 64 bits that nobody outside can compute: one in 10^13 is taken for
/// another when a million are held, and that one is refused, so nothing runs twice. Small entries are what makes this
/// cheap: nearly all that a nonce costs is the walk through cold memory.
pub(crate) struct Nonces {
    names: RandomState,
    shards: [Mutex<Shard>; SHARDS],
    most: usize,
}

#[derive(Default)]
struct Shard {
    taken: SetOfFingerprints<NonZeroU64>,
    /// Oldest first. One that was given back leaves an empty place here until it comes up.
    order: VecDeque<Option<NonZeroU64>>,
    /// How many places the queue has of each second, oldest first.
    came: VecDeque<(u32, usize)>,
    /// The places that have left the queue.
    left: u64,
}

impl Nonces {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let shards = std::array::from_fn(|_| Mutex::default());
        Arc::new(Nonces { names: RandomState::new(), shards, most: (bytes / ENTRY_BYTES / SHARDS).max(1) })
    }

    fn shard(&self, name: NonZeroU64) -> MutexGuard<'_, Shard> {
        // Not the bits that the table hashes by.
        #[allow(clippy::cast_possible_truncation)]
        let index = (name.get() >> 40) as usize % SHARDS;
        // Every step leaves the shard whole.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a nonce, for as long as the window lasts or until the token is dropped without [`Taken::keep`].
    ///
    /// # Errors
    /// Why it is not taken.
    pub(crate) fn take(self: &Arc<Self>, nonce: &str, now_s: u64) -> Result<Taken, Spent> {
        let name = NonZeroU64::new(self.names.hash_one(nonce)).unwrap_or(NonZeroU64::MIN);
        let mut shard = self.shard(name);
        shard.expire(now_s);
        if shard.order.len() >= self.most {
            if shard.taken.contains(&name) {
                return Err(Spent::Seen);
            }
            let oldest = shard.came.front().map_or(now_s, |(came_s, _)| u64::from(*came_s));
            return Err(Spent::Full((oldest + WINDOW_S + 1).saturating_sub(now_s).max(1)));
        }
        if !shard.taken.insert(name) {
            return Err(Spent::Seen);
        }
        let place = shard.queue(name, seconds(now_s));
        Ok(Taken { nonces: self.clone(), name, place, kept: false })
    }
}

impl Shard {
    /// Gives the place that a nonce has from now on.
    fn queue(&mut self, name: NonZeroU64, now_s: u32) -> u64 {
        match self.came.back_mut() {
            Some((came_s, places)) if *came_s == now_s => *places += 1,
            _ => self.came.push_back((now_s, 1)),
        }
        self.order.push_back(Some(name));
        self.left + self.order.len() as u64 - 1
    }

    fn expire(&mut self, now_s: u64) {
        while let Some((came_s, places)) = self.came.front().copied()
            && now_s.saturating_sub(u64::from(came_s)) > WINDOW_S
        {
            self.came.pop_front();
            self.left += places as u64;
            for name in self.order.drain(..places).flatten() {
                self.taken.remove(&name);
            }
        }
    }

    /// Empties a place, unless its time is over: the nonce may have another since.
    fn give_back(&mut self, place: u64) {
        let at = place.checked_sub(self.left).and_then(|at| usize::try_from(at).ok());
        if let Some(name) = at.and_then(|at| self.order.get_mut(at)).and_then(Option::take) {
            self.taken.remove(&name);
        }
    }
}

/// A nonce that was taken. It is given back on drop, because a task that was not run may come again as it is.
pub(crate) struct Taken {
    nonces: Arc<Nonces>,
    name: NonZeroU64,
    place: u64,
    kept: bool,
}

impl Taken {
    /// The task has run: the nonce is spent.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.kept {
            self.nonces.shard(self.name).give_back(self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(nonces: &Arc<Nonces>, nonce: u32, now_s: u64) -> Result<(), Spent> {
        nonces.take(&nonce.to_string(), now_s).map(Taken::keep)
    }

    #[test]
    fn a_nonce_is_good_once_in_its_window() {
        let nonces = Nonces::new(1 << 20);
        assert_eq!(
            [take(&nonces, 1, 0), take(&nonces, 1, 300), take(&nonces, 2, 300)],
            [Ok(()), Err(Spent::Seen), Ok(())]
        );
        assert_eq!(take(&nonces, 1, 301), Ok(()), "the window is over");
    }

    #[test]
    fn what_was_not_used_may_come_again_and_is_then_held_for_a_whole_window() {
        let nonces = Nonces::new(1 << 20);
        let first = nonces.take("1", 0).unwrap();
        assert_eq!(nonces.take("1", 1).err(), Some(Spent::Seen), "it is in use");
        drop(first);
        assert_eq!(take(&nonces, 1, 200), Ok(()));
        assert_eq!(take(&nonces, 1, 400), Err(Spent::Seen), "the place of the first did not end it");
        assert_eq!(take(&nonces, 1, 501), Ok(()));
    }

    #[test]
    fn what_is_given_back_late_does_not_end_a_later_one() {
        let nonces = Nonces::new(1 << 20);
        let first = nonces.take("1", 0).unwrap();
        assert_eq!(take(&nonces, 1, 301), Ok(()), "its window was over, though it was in use");
        drop(first);
        assert_eq!(take(&nonces, 1, 302), Err(Spent::Seen));
    }

    #[test]
    fn a_full_memory_takes_no_further_nonce_and_forgets_none() {
        let nonces = Nonces::new(0);
        assert_eq!(take(&nonces, 1, 0), Ok(()));
        // One that shares its shard, which has room for one.
        let other = (2..10_000).find(|n| take(&nonces, *n, 100) == Err(Spent::Full(201))).unwrap();
        assert_eq!(take(&nonces, 1, 100), Err(Spent::Seen));
        assert_eq!(take(&nonces, other, 301), Ok(()));
        let nonces = Nonces::new(64 << 10);
        let taken = (0..100_000).filter(|n| take(&nonces, *n, 0).is_ok());
        assert!(taken.count() <= (64 << 10) / ENTRY_BYTES);
    }
}
