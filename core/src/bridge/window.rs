//! How much of a stream may wait for its host: what was pushed and not yet used is bounded for each stream by itself, so
//! that a slow one neither fills the queue that it shares nor grows in the layer that took it out.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Acquire};
use std::task::Poll;

use futures_util::task::AtomicWaker;

/// Most bytes of one stream that wait; a part alone may be larger, or it could never pass.
pub(super) const MOST_WAITING: usize = 1 << 20;

/// What every part counts at least.
const LEAST: usize = 256;

/// What a part of so many bytes counts.
pub(super) fn weight(bytes: usize) -> usize {
    bytes.max(LEAST)
}

/// Whether a part fits beside those that wait.
pub(super) fn has_room(waiting: usize, weight: usize) -> bool {
    waiting == 0 || waiting.saturating_add(weight) <= MOST_WAITING
}

/// What waits of one stream. One producer, any number of holders.
pub(super) struct Window {
    held: AtomicUsize,
    producer: AtomicWaker,
    /// A forked child inherits holds and must not touch what they wake.
    born_in: u32,
}

impl Window {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Window { held: AtomicUsize::new(0), producer: AtomicWaker::new(), born_in: std::process::id() })
    }

    /// Waits until a part of so many bytes has room.
    pub(super) async fn enter(self: &Arc<Self>, bytes: usize) -> Hold {
        let weight = weight(bytes);
        poll_fn(|cx| {
            if !has_room(self.held.load(Acquire), weight) {
                self.producer.register(cx.waker());
                // Looked at again: room that was made in between is not missed.
                if !has_room(self.held.load(Acquire), weight) {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        })
        .await;
        self.held.fetch_add(weight, AcqRel);
        Hold { window: self.clone(), weight }
    }
}

/// A part that counts against its stream's megabyte until this is dropped.
pub struct Hold {
    window: Arc<Window>,
    weight: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if std::process::id() == self.window.born_in {
            self.window.held.fetch_sub(self.weight, AcqRel);
            self.window.producer.wake();
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("bytes", &self.weight).finish_non_exhaustive()
    }
}
