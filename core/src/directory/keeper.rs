//! Bringing changes to the disk beside the requests: one thread writes what has changed since its last turn, as one
//! transaction, every second or when somebody waits for it.
//!
//! What waits is a set of nodes, not a queue of writes, so it is bounded by the table, and a disk that is full or gone for
//! a while loses nothing: the directory serves from memory and the next turn that succeeds writes what is missing.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Shared;
use super::disk::Disk;
use crate::error::{Code, Error, Result};
use crate::telemetry;

/// How long a change may lie in memory only, if nobody waits for it; also how soon a disk that failed is tried again.
const TURN: Duration = Duration::from_secs(1);
/// How long an answer waits for the disk. Whoever gets none sooner is answered from memory.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Turn {
    /// How often somebody has asked for a turn.
    asked: u64,
    closing: bool,
}

/// The keeper, as requests and the directory's owner see it.
pub(super) struct Keeper {
    turn: Mutex<Turn>,
    wake: Condvar,
    /// The last question that was answered by a turn.
    done: watch::Sender<u64>,
    ended: watch::Sender<bool>,
    failing: AtomicBool,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("failing", &self.is_failing()).finish_non_exhaustive()
    }
}

impl Keeper {
    pub(super) fn new() -> Self {
        Keeper {
            turn: Mutex::default(),
            wake: Condvar::new(),
            done: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            failing: AtomicBool::new(false),
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the disk takes nothing at present.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Waits until what has changed is written, for at most two seconds, and not at all while the disk fails.
    pub(super) async fn written(&self) {
        if self.is_failing() {
            return;
        }
        let mut done = self.done.subscribe();
        let mine = {
            let mut turn = self.turn();
            turn.asked += 1;
            turn.asked
        };
        self.wake.notify_one();
        let _ = tokio::time::timeout(PATIENCE, done.wait_for(|done| *done >= mine)).await;
    }

    /// Lets the thread end after a last turn, without waiting.
    pub(super) fn close(&self) {
        self.turn().closing = true;
        self.wake.notify_one();
    }

    /// Resolves when the thread has ended and the file is free for the next.
    pub(super) async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// `INTERNAL` if the system gives no thread.
    pub(super) fn start(self: &Arc<Self>, mut disk: Disk, desk: Arc<Shared>) -> Result<()> {
        let keeper = self.clone();
        let work = move || {
            let mut last = 0;
            loop {
                let (asked, closing) = keeper.wait(last);
                last = asked;
                keeper.take_turn(&mut disk, &desk);
                keeper.done.send_replace(asked);
                if closing {
                    break;
                }
            }
            // The file is free before anybody hears that it is.
            #[allow(clippy::drop_non_drop, reason = "without SQLite there is nothing to close")]
            drop(disk);
            keeper.ended.send_replace(true);
        };
        std::thread::Builder::new().name("iicp-directory".into()).spawn(work).map(drop).map_err(|e| {
            Error::new(Code::Internal, "the system gave no thread for the directory's file").with_source(e)
        })
    }

    /// Waits for the next turn: how often somebody had asked by then, and whether it is the last.
    fn wait(&self, last: u64) -> (u64, bool) {
        // While the disk fails nobody waits for it, so its next chance comes with the clock.
        let idle = |turn: &mut Turn| !turn.closing && (turn.asked == last || self.is_failing());
        let waited = self.wake.wait_timeout_while(self.turn(), TURN, idle);
        let (turn, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (turn.asked, turn.closing)
    }

    fn take_turn(&self, disk: &mut Disk, desk: &Shared) {
        let changed = desk.store().take_changed();
        if changed.is_empty() {
            return;
        }
        // Node by node, so that no request waits for the whole table.
        let rows = changed.iter().map(|id| {
            let now = desk.now();
            let kept = desk.store().kept(id);
            (&**id, kept.and_then(|kept| kept.row(now)))
        });
        match disk.write(rows) {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(target: telemetry::DIRECTORY, path = disk.path(), "the directory's file is written again");
                }
            }
            Err(error) => {
                desk.store().changed_again(changed);
                self.fails(disk.path(), &error);
            }
        }
    }

    /// Notes that the disk takes nothing, and says so once.
    pub(super) fn fails(&self, path: &str, error: &str) {
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: telemetry::DIRECTORY, path, error,
                "the directory's file cannot be written; registrations are served from memory and written when it can be"
            );
        }
    }
}
