//! Who owns the tasks. Every task belongs to a `TaskGroup` that can stop it, and every stop has a deadline.
//!
//! Rust programs run on their own tokio runtime; the language layers own one [`Runtime`] per process.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::error::{Code, Error, Result};
use crate::options::{RuntimeOptions, Validate as _};

/// Tasks with one owner: told to close first, stopped at the deadline.
#[derive(Clone, Debug)]
pub(crate) struct TaskGroup {
    tracker: TaskTracker,
    closing: CancellationToken,
    abort: CancellationToken,
}

impl TaskGroup {
    pub(crate) fn new() -> Self {
        TaskGroup { tracker: TaskTracker::new(), closing: CancellationToken::new(), abort: CancellationToken::new() }
    }

    /// Starts a task that ends by itself, or when the group's grace is over.
    pub(crate) fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let abort = self.abort.clone();
        let span = tracing::debug_span!("task", name);
        let task = async move {
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                () = future => {}
            }
        };
        self.tracker.spawn(task.instrument(span))
    }

    /// Starts a task that somebody else aborts when the group's grace is over (see [`TaskGroup::aborted`]).
    pub(crate) fn spawn_bare<F>(&self, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(future)
    }

    /// Starts a task that serves the others and is not waited for. It must end when the group is [`TaskGroup::aborted`],
    /// which comes to every group in the end.
    pub(crate) fn spawn_watcher<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(future);
    }

    /// Resolves when the group was told to close: finish what runs, begin nothing new.
    pub(crate) fn closing(&self) -> WaitForCancellationFutureOwned {
        self.closing.clone().cancelled_owned()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Resolves when the grace is over.
    pub(crate) fn aborted(&self) -> WaitForCancellationFutureOwned {
        self.abort.clone().cancelled_owned()
    }

    /// Tells every task to close, without waiting.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        self.tracker.close();
    }

    /// Stops every task at once, without waiting.
    pub(crate) fn abort(&self) {
        self.close();
        self.abort.cancel();
    }

    /// Tells every task to close, waits up to `grace`, then stops what is left. True if all ended in time.
    pub(crate) async fn shutdown(&self, grace: Duration) -> bool {
        self.close();
        let in_time = tokio::time::timeout(grace, self.tracker.wait()).await.is_ok();
        self.abort.cancel();
        // Stopping is dropping: it takes no time of its own, but a destructor of a handler may.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await;
        in_time
    }
}

/// The runtime that a language layer owns, one per process. It knows the process it was made in.
#[derive(Debug)]
pub struct Runtime {
    handle: Handle,
    /// Gone once the threads were told to stop.
    threads: Mutex<Option<tokio::runtime::Runtime>>,
    born_in: u32,
    group: TaskGroup,
}

impl Runtime {
    /// Starts the threads.
    ///
    /// # Errors
    /// `CONFIG_INVALID` for a bad option, `INTERNAL` if the system gives no threads.
    pub fn new(options: &RuntimeOptions) -> Result<Arc<Self>> {
        Runtime::born_in(options, std::process::id())
    }

    fn born_in(options: &RuntimeOptions, born_in: u32) -> Result<Arc<Self>> {
        options.validate()?;
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.worker_threads)
            // Only name look-ups and the read of the system's certificates block.
            .max_blocking_threads(16)
            .thread_name(options.thread_name.clone())
            .enable_all()
            .build()
            .map_err(|e| Error::new(Code::Internal, "the system gave no threads for the runtime").with_source(e))?;
        let handle = threads.handle().clone();
        Ok(Arc::new(Runtime { handle, threads: Mutex::new(Some(threads)), born_in, group: TaskGroup::new() }))
    }

    /// A runtime as a forked child sees it.
    #[cfg(test)]
    pub(crate) fn of_parent() -> Arc<Self> {
        Runtime::born_in(&RuntimeOptions::default(), u32::MAX).expect("the defaults are valid")
    }

    /// Refuses use in a forked child, where the runtime's threads do not exist.
    ///
    /// # Errors
    /// `FORKED`.
    pub fn check_process(&self) -> Result<()> {
        if std::process::id() == self.born_in {
            return Ok(());
        }
        Err(Error::new(Code::Forked, "this object was made before fork(); make a new one in the child, or use spawn"))
    }

    /// Refuses to wait on a thread that drives futures.
    ///
    /// # Errors
    /// `FORKED`, `INVALID_ARG`.
    pub(crate) fn check_may_block(&self) -> Result<()> {
        self.check_process()?;
        if Handle::try_current().is_ok() {
            return Err(Error::new(Code::InvalidArg, "a blocking call was made on a thread of an async runtime"));
        }
        Ok(())
    }

    /// Runs a closure in the runtime's context, so that it may create sockets and timers.
    ///
    /// # Errors
    /// `FORKED`, or `CLOSED` after shutdown.
    pub(crate) fn enter<T>(&self, make: impl FnOnce() -> T) -> Result<T> {
        self.check_process()?;
        self.check_open()?;
        let _guard = self.handle.enter();
        Ok(make())
    }

    fn check_open(&self) -> Result<()> {
        if self.group.is_closing() {
            return Err(Error::new(Code::Closed, "the runtime was shut down; make a new one"));
        }
        Ok(())
    }

    /// Starts a task of the runtime. On every call's way, so it leaves the check of the process to who began the call.
    ///
    /// # Errors
    /// `CLOSED` after shutdown.
    pub(crate) fn spawn<F>(&self, future: F) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.check_open()?;
        self.group.tracker.spawn_on(future, &self.handle);
        Ok(())
    }

    /// Lets nothing start any more, waits until `last` and every task have ended, at most `deadline`, and stops the
    /// threads. True if all ended in time. The tasks must have been told to end before.
    ///
    /// # Errors
    /// `FORKED`, or `INVALID_ARG` on a thread that drives futures.
    pub(crate) fn stop(&self, last: impl Future<Output = ()> + Send + 'static, deadline: Duration) -> Result<bool> {
        self.check_may_block()?;
        self.group.close();
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(threads) = threads else { return Ok(true) };
        let begun = Instant::now();
        let tracker = self.group.tracker.clone();
        let (say, hear) = std::sync::mpsc::sync_channel(1);
        threads.spawn(async move {
            last.await;
            tracker.wait().await;
            let _ = say.send(());
        });
        // Not a timer of the runtime: a task that blocks may have stopped its clock.
        let in_time = hear.recv_timeout(deadline).is_ok();
        // Even when the time is over, what only waits is dropped here and not behind the caller's back.
        threads.shutdown_timeout(deadline.saturating_sub(begun.elapsed()).max(Duration::from_millis(100)));
        Ok(in_time)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(threads) = threads else { return };
        if std::process::id() != self.born_in {
            // The threads live in the parent; joining them here would wait for ever.
            std::mem::forget(threads);
        } else if Handle::try_current().is_ok() {
            // A thread that drives futures must not wait.
            threads.shutdown_background();
        } else {
            // A bounded join: detaching the threads lets them outlive an unloaded library.
            threads.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_group_waits_for_its_tasks_and_stops_them_at_the_deadline() {
        let group = TaskGroup::new();
        let closing = group.closing();
        group.spawn("polite", closing);
        assert!(group.shutdown(Duration::from_secs(5)).await);

        let group = TaskGroup::new();
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        group.spawn("stubborn", async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        assert!(!group.shutdown(Duration::from_secs(5)).await);
        assert!(ended.await.is_err(), "the task was dropped");
    }

    #[test]
    fn a_runtime_is_not_stopped_on_one_of_its_own_threads() {
        let runtime = Runtime::new(&RuntimeOptions::default()).unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        let inner = runtime.clone();
        let stop = async move { said.send(inner.stop(std::future::ready(()), Duration::ZERO).unwrap_err().code()) };
        runtime.spawn(async move { stop.await.unwrap() }).unwrap();
        assert_eq!(heard.recv().unwrap(), Code::InvalidArg);
        assert!(runtime.stop(std::future::ready(()), Duration::from_secs(30)).unwrap());
        assert_eq!(runtime.spawn(async {}).unwrap_err().code(), Code::Closed);
    }

    #[test]
    fn a_runtime_of_another_process_is_refused() {
        let runtime = Runtime::of_parent();
        assert_eq!(runtime.check_process().unwrap_err().code(), Code::Forked);
        assert_eq!(runtime.enter(|| ()).unwrap_err().code(), Code::Forked);
        assert_eq!(runtime.stop(std::future::ready(()), Duration::ZERO).unwrap_err().code(), Code::Forked);
    }
}
