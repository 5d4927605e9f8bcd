//! What every language layer stands on: commands in, events out, integers across.
//!
//! A verb starts an operation and returns its id; events come through a bounded [queue](Bridge::queue_new); an inbound
//! task is an event too, answered by its id. Everything is named by a `u64` that is looked up and never dereferenced, so
//! a stale or twice-freed id is the code `STALE_ID`. What every layer may rely on:
//!
//! 1. An operation has any number of `CHUNK`s and then exactly one `DONE`: also after cancel, close, panic and shutdown.
//! 2. A verb never blocks and never calls back: what is wrong with its arguments it returns, all else comes as `DONE`.
//! 3. Room for a `DONE`, and for the `TASK_CANCEL` of a delivered task, is reserved, so they cannot be refused. Only
//!    `CHUNK` and `TASK` wait for room, and go on when there is some. A `CHUNK` waits as well while a megabyte of its
//!    stream is taken and not dropped, and a host whose part of a task had no room is told of some by `TASK_ROOM`.
//! 4. A stale id is a code, never a fault of memory.
//! 5. When [`Bridge::shutdown`] has returned, nobody is woken any more.
//! 6. A queue's descriptor is readable exactly while the queue has events; a drain takes up to 256, and what is left
//!    keeps the descriptor readable and rings the doorbell again.
//! 7. A queue is bounded in bytes as well as in events.
//!
//! Nothing here may be used in a forked child: every call says `FORKED` there, before it touches a lock.

mod answer;
mod beginning;
mod event;
mod ids;
mod inference;
mod ops;
mod queue;
#[cfg(any(test, feature = "testing"))]
mod script;
mod serve;
mod stream;
#[cfg(all(test, not(iicp_loom)))]
mod tests;
mod verbs;
mod wake;
mod window;

use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;

pub use event::{Event, EventKind};
pub use inference::Inference;
pub use wake::Doorbell;
pub use window::Hold;

use ids::{Kind, Table};
use ops::{Op, Outcome};
use queue::{Queue, Seat};
use serve::Asked;
use verbs::Serving;

use crate::client::Client;
use crate::directory::Directory;
pub use crate::error::Spelling;
use crate::error::{Code, Error, Result};
use crate::options::{QueueOptions, RuntimeOptions, Validate as _};
use crate::runtime::Runtime;

/// As good as for ever; more would overflow a clock.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The [`Bridge::id`] of the bridge that gave out an id, for layers that have several.
#[must_use]
pub fn runtime_of(id: u64) -> u64 {
    ids::runtime_of(id)
}

/// The engine as the language layers see it, one per process. A clone is another handle of the same.
#[derive(Clone)]
pub struct Bridge(Arc<Inner>);

struct Inner {
    /// This runtime among those of the process.
    number: u16,
    runtime: Arc<Runtime>,
    tables: Arc<Tables>,
    /// How the shutdown went, once there was one.
    ended: OnceLock<bool>,
}

/// Everything that has an id.
struct Tables {
    closed: AtomicBool,
    queues: Table<Arc<Queue>>,
    clients: Table<Client>,
    nodes: Table<Serving>,
    directories: Table<Directory>,
    operations: Table<Arc<Op>>,
    tasks: Table<Asked>,
}

/// How many things of each kind are alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Alive {
    /// Queues.
    pub queues: usize,
    /// Clients.
    pub clients: usize,
    /// Serving nodes.
    pub nodes: usize,
    /// Embedded directories.
    pub directories: usize,
    /// Operations without their `DONE`.
    pub operations: usize,
    /// Inbound tasks without their answer.
    pub tasks: usize,
}

impl Bridge {
    /// Starts the runtime.
    ///
    /// # Errors
    /// `CONFIG_INVALID` for a bad option, `INTERNAL` if the system gives no threads.
    #[allow(clippy::needless_pass_by_value)]
    pub fn new(options: RuntimeOptions) -> Result<Bridge> {
        Bridge::on(Runtime::new(&options)?)
    }

    fn on(runtime: Arc<Runtime>) -> Result<Bridge> {
        let number = ids::new_runtime()?;
        let tables = Tables {
            closed: AtomicBool::new(false),
            queues: Table::new(Kind::Queue, number),
            clients: Table::new(Kind::Client, number),
            nodes: Table::new(Kind::Node, number),
            directories: Table::new(Kind::Directory, number),
            operations: Table::new(Kind::Operation, number),
            tasks: Table::new(Kind::Task, number),
        };
        Ok(Bridge(Arc::new(Inner { number, runtime, tables: Arc::new(tables), ended: OnceLock::new() })))
    }

    /// What [`runtime_of`] says of every id that this bridge gives out. No other bridge of this process has the same.
    #[must_use]
    pub fn id(&self) -> u64 {
        Kind::Runtime.id(self.0.number, 0, 0)
    }

    /// Lets in who may use the bridge at all. Touches no lock: in a forked child it may be held by a thread that is not
    /// there.
    fn enter(&self) -> Result<&Arc<Tables>> {
        self.0.runtime.check_process()?;
        if wake::is_ringing() {
            return Err(Error::new(
                Code::InvalidArg,
                "the library was called from inside a doorbell; only wake your own loop there, and take events in it",
            ));
        }
        Ok(&self.0.tables)
    }

    /// Lets in who wants to begin or change something.
    fn open(&self) -> Result<&Arc<Tables>> {
        let tables = self.enter()?;
        if tables.closed.load(Acquire) {
            return Err(ids::closed());
        }
        Ok(tables)
    }

    /// Makes a queue.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, `CLOSED`, `FORKED`.
    #[allow(clippy::needless_pass_by_value)]
    pub fn queue_new(&self, options: QueueOptions) -> Result<u64> {
        options.validate()?;
        self.open()?.queues.insert(|_| Queue::new(&options))
    }

    /// Waits on the calling thread for the next event; none if the time is over first. [`Duration::MAX`] waits for ever.
    ///
    /// # Errors
    /// `CLOSED` when the queue was closed and everything in it was taken; `STALE_ID`, `FORKED`.
    pub fn queue_next(&self, queue: u64, timeout: Duration) -> Result<Option<Event>> {
        self.enter()?.queues.get(queue)?.next(timeout)
    }

    /// Takes the events that are there, at most `most` and never more than 256. Does not wait.
    ///
    /// # Errors
    /// As [`Bridge::queue_next`].
    pub fn queue_drain(&self, queue: u64, most: usize) -> Result<Vec<Event>> {
        self.enter()?.queues.get(queue)?.drain(most)
    }

    /// A descriptor that is readable exactly while the queue has events: to be watched, never read or closed. It is the
    /// queue's own, so stop watching it before [`Bridge::queue_free`].
    ///
    /// # Errors
    /// `UNSUPPORTED` where there are no such descriptors, `INTERNAL` if the process has none left; `STALE_ID`, `FORKED`.
    pub fn queue_fd(&self, queue: u64) -> Result<i32> {
        self.enter()?.queues.get(queue)?.descriptor()
    }

    /// Sets what is called, on any thread, when the queue has events; none removes it. It rings once for any number of
    /// events, again after a drain that leaves some, and never after this call, close or shutdown has replaced it.
    ///
    /// # Errors
    /// `CLOSED`, `STALE_ID`, `FORKED`.
    pub fn queue_on_wake(&self, queue: u64, doorbell: Option<Doorbell>) -> Result<()> {
        self.enter()?.queues.get(queue)?.set_doorbell(doorbell)
    }

    /// Closes a queue: its operations end with `CLOSED`, the tasks it delivered are withdrawn and the nodes that deliver
    /// to it leave their directory; its doorbell rings no more. What is in it, and every `DONE` and `TASK_CANCEL` that
    /// was promised, can still be taken; after that, taking says `CLOSED`.
    ///
    /// # Errors
    /// `STALE_ID`, `FORKED`.
    pub fn queue_close(&self, queue: u64) -> Result<()> {
        self.close_queue(&self.enter()?.queues.get(queue)?);
        Ok(())
    }

    /// Closes a queue and forgets it, with everything that is in it.
    ///
    /// # Errors
    /// `STALE_ID`, `FORKED`.
    pub fn queue_free(&self, queue: u64) -> Result<()> {
        self.close_queue(&self.enter()?.queues.remove(queue)?);
        Ok(())
    }

    fn close_queue(&self, queue: &Arc<Queue>) {
        let tables = &self.0.tables;
        queue.close();
        for op in tables.operations.select(|op| op.ends_in(queue)) {
            op.stop(Code::Closed);
        }
        drop(tables.tasks.take(|asked| asked.is_in(queue)));
        for node in tables.nodes.take(|node| node.delivers_to(queue)) {
            // Its tasks were withdrawn: what takes time is the farewell to the directory.
            let farewell = async move { _ = node.shutdown(Duration::from_secs(1)).await };
            // A runtime that was shut down has dropped its nodes.
            let _ = self.0.runtime.spawn(farewell);
        }
    }

    /// Asks an operation to end; its `DONE` says `CANCELLED`, or how it ended if that came first.
    ///
    /// # Errors
    /// `STALE_ID` when the operation has ended; `CLOSED`, `FORKED`.
    pub fn cancel(&self, operation: u64) -> Result<()> {
        self.open()?.operations.get(operation)?.stop(Code::Cancelled);
        Ok(())
    }

    /// How many things of each kind are alive: for tests that nothing leaks.
    ///
    /// # Errors
    /// `FORKED`.
    pub fn alive(&self) -> Result<Alive> {
        let tables = self.enter()?;
        Ok(Alive {
            queues: tables.queues.len(),
            clients: tables.clients.len(),
            nodes: tables.nodes.len(),
            directories: tables.directories.len(),
            operations: tables.operations.len(),
            tasks: tables.tasks.len(),
        })
    }

    /// Ends everything within the deadline and stops the runtime; true if all ended in time. Every operation gets its
    /// `DONE`, and what is in the queues can still be taken. When this has returned nobody is woken any more; all but
    /// taking events and freeing queues says `CLOSED`. A second call waits for the first and returns the same.
    ///
    /// # Errors
    /// `INVALID_ARG` on a thread of an async runtime, `FORKED`.
    pub fn shutdown(&self, deadline: Duration) -> Result<bool> {
        self.enter()?;
        self.0.runtime.check_may_block()?;
        Ok(*self.0.ended.get_or_init(|| self.0.stop(deadline.min(LONGEST))))
    }

    /// Starts an operation whose `DONE` has its place.
    fn launch<F>(&self, seat: Seat, tag: u64, owner: u64, verb: impl FnOnce(&Arc<Op>) -> F) -> Result<u64>
    where
        F: Future<Output = Result<Outcome>> + Send + 'static,
    {
        let (id, running) = self.0.tables.operation(seat, tag, owner, verb)?;
        // A shutdown in between drops the operation, and that is its DONE.
        let _ = self.0.runtime.spawn(running);
        Ok(id)
    }
}

impl Inner {
    /// Lets nothing begin any more, and tells everything to end.
    fn close(&self) {
        let tables = &self.tables;
        tables.closed.store(true, Release);
        tables.queues.close();
        tables.clients.close();
        tables.nodes.close();
        tables.directories.close();
        tables.operations.close();
        tables.tasks.close();
        for queue in tables.queues.select(|_| true) {
            queue.close();
        }
        for op in tables.operations.select(|_| true) {
            op.stop(Code::Closed);
        }
        drop(tables.tasks.take(|_| true));
        drop(tables.clients.take(|_| true));
    }

    fn stop(&self, deadline: Duration) -> bool {
        self.close();
        let nodes = self.tables.nodes.take(|_| true);
        let directories = self.tables.directories.take(|_| true);
        let farewells = async move {
            // Directories last: the nodes may be leaving one of them. Each gets half of the time.
            join_all(nodes.into_iter().map(|node| node.shutdown(deadline / 2))).await;
            join_all(directories.iter().map(|directory| directory.shutdown(deadline / 2))).await;
        };
        let in_time = self.runtime.stop(farewells, deadline).unwrap_or(false);
        // The last DONEs, for operations that did not end by themselves.
        for op in self.tables.operations.select(|_| true) {
            let error = Error::new(Code::Closed, "the operation did not end before the runtime's deadline");
            op.finish(&self.tables, Err(error));
        }
        in_time
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.runtime.check_process().is_err() {
            // In a forked child any lock in there may be held for ever.
            std::mem::forget(self.tables.clone());
            return;
        }
        if self.ended.get().is_none() {
            self.close();
            drop(self.tables.nodes.take(|_| true));
            drop(self.tables.directories.take(|_| true));
        }
    }
}
