//! Numbers that are good once. Unlike a task id, a nonce that may have been forgotten must not pass: when the memory is
//! full, no further one is taken (specification: replay window of 300 s).

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fingerprints::ByFingerprint;
use super::replay::WINDOW_S;

const SHARDS: usize = 16;
/// What one nonce costs: table slot at the usual fill and its place in the queue, each with its second.
const ENTRY_BYTES: usize = 96;

/// Why a nonce is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spent {
    /// It came before.
    Seen,
    /// Whether it came before can't be remembered; in so many seconds there will be room.
    Full(u64),
}

/// Bounded memory of nonces, by fingerprint.
pub(crate) struct Nonces {
    shards: [Mutex<Shard>; SHARDS],
    most: usize,
}

#[derive(Default)]
struct Shard {
    came_s: ByFingerprint<u128, u64>,
    /// Oldest first. One that was given back leaves its place here until it comes up.
    order: VecDeque<(u128, u64)>,
}

impl Nonces {
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        let shards = std::array::from_fn(|_| Mutex::default());
        Arc::new(Nonces { shards, most: (bytes / ENTRY_BYTES / SHARDS).max(1) })
    }

    fn shard(&self, nonce: u128) -> MutexGuard<'_, Shard> {
        #[allow(clippy::cast_possible_truncation)]
        let index = (nonce >> 64) as usize % SHARDS;
        // Every step leaves the shard whole.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a nonce, for as long as the window lasts or until the token is dropped without [`Taken::keep`].
    ///
    /// # Errors
    /// Why it is not taken.
    pub(crate) fn take(self: &Arc<Self>, nonce: u128, now_s: u64) -> Result<Taken, Spent> {
        let mut shard = self.shard(nonce);
        shard.expire(now_s);
        let Shard { came_s, order } = &mut *shard;
        let Entry::Vacant(place) = came_s.entry(nonce) else { return Err(Spent::Seen) };
        if order.len() >= self.most {
            let oldest = order.front().map_or(now_s, |(_, came_s)| *came_s);
            return Err(Spent::Full((oldest + WINDOW_S + 1).saturating_sub(now_s).max(1)));
        }
        place.insert(now_s);
        order.push_back((nonce, now_s));
        Ok(Taken { nonces: self.clone(), nonce, kept: false })
    }
}

impl Shard {
    fn expire(&mut self, now_s: u64) {
        while let Some((nonce, came_s)) = self.order.front().copied()
            && now_s.saturating_sub(came_s) > WINDOW_S
        {
            self.order.pop_front();
            // The place of an earlier one that was given back must not end a later one.
            if self.came_s.get(&nonce) == Some(&came_s) {
                self.came_s.remove(&nonce);
            }
        }
    }
}

/// A nonce that was taken. It is given back on drop, because a task that was not run may come again as it is.
pub(crate) struct Taken {
    nonces: Arc<Nonces>,
    nonce: u128,
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
            self.nonces.shard(self.nonce).came_s.remove(&self.nonce);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(nonces: &Arc<Nonces>, nonce: u128, now_s: u64) -> Result<(), Spent> {
        nonces.take(nonce, now_s).map(Taken::keep)
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
        let first = nonces.take(1, 0).unwrap();
        assert_eq!(nonces.take(1, 1).err(), Some(Spent::Seen), "it is in use");
        drop(first);
        assert_eq!(take(&nonces, 1, 200), Ok(()));
        assert_eq!(take(&nonces, 1, 400), Err(Spent::Seen), "the place of the first did not end it");
        assert_eq!(take(&nonces, 1, 501), Ok(()));
    }

    #[test]
    fn a_full_memory_takes_no_further_nonce_and_forgets_none() {
        let nonces = Nonces::new(0);
        assert_eq!(take(&nonces, 1, 0), Ok(()));
        assert_eq!(take(&nonces, 2, 100), Err(Spent::Full(201)));
        assert_eq!(take(&nonces, 1, 100), Err(Spent::Seen));
        assert_eq!(take(&nonces, 2, 301), Ok(()));
        let nonces = Nonces::new(64 << 10);
        let taken = (0..100_000_u128).filter(|n| take(&nonces, n.wrapping_mul(0x9E37_79B9_7F4A_7C15) << 60, 0).is_ok());
        assert!(taken.count() <= (64 << 10) / ENTRY_BYTES);
    }
}
