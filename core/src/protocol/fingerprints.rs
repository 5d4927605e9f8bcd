//! Tables by what is random already: hashing it again would only cost time.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A table by fingerprint, or by another number that nobody outside can choose.
pub(crate) type ByFingerprint<K, V> = HashMap<K, V, BuildHasherDefault<Passed>>;

/// A set of such numbers.
pub(crate) type SetOfFingerprints<K> = HashSet<K, BuildHasherDefault<Passed>>;

/// Passes a random number on as it is.
#[derive(Default)]
pub(crate) struct Passed(u64);

impl Hasher for Passed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }
}
