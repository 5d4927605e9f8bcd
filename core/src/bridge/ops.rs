//! Operations: every one that starts ends with exactly one `DONE`, whatever becomes of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicI32, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;

use super::Tables;
use super::event::{Event, EventKind};
use super::queue::{Queue, Seat};
use super::window::Window;
use crate::client::RankChoice;
use crate::error::{Code, Error, Result};

/// What a verb hands to its `DONE`.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) handle: u64,
    pub(super) json: String,
    pub(super) body: Bytes,
}

/// An operation that runs.
pub(super) struct Op {
    id: u64,
    tag: u64,
    /// The id of the client whose closing ends the operation, or 0.
    owner: u64,
    seat: Seat,
    /// The number of the code to stop with, 0 while nobody asked to.
    stop: AtomicI32,
    waker: AtomicWaker,
    window: Arc<Window>,
    /// Who waits for the host's ranking.
    ranking: Mutex<Option<oneshot::Sender<Result<Option<RankChoice>>>>>,
}

impl Op {
    /// Asks the operation to end with `code`; the first one who asks is heard.
    pub(super) fn stop(&self, code: Code) {
        if self.stop.compare_exchange(0, code.number(), AcqRel, Acquire).is_ok() {
            self.waker.wake();
        }
    }

    fn stopped(&self) -> Option<Error> {
        match Code::from_number(self.stop.load(Acquire))? {
            Code::Ok => None,
            Code::Cancelled => Some(Error::new(Code::Cancelled, "the operation was cancelled by its owner")),
            code => Some(Error::new(code, "what the operation belongs to was closed before it finished")),
        }
    }

    pub(super) fn belongs_to(&self, owner: u64) -> bool {
        self.owner == owner
    }

    pub(super) fn ends_in(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(self.seat.queue(), queue)
    }

    /// Asks the host which candidate goes first, and waits for [`Op::ranked`].
    pub(super) async fn rank(&self, json: String) -> Result<Option<RankChoice>> {
        let (answer, answered) = oneshot::channel();
        *self.ranking.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.seat.push(Event { json, ..Event::new(EventKind::Rank, self.id, self.tag) }).await?;
        answered.await.unwrap_or_else(|_| Err(Error::new(Code::Closed, "the ranker was not heard")))
    }

    /// Answers the question of [`Op::rank`].
    pub(super) fn ranked(&self, choice: Result<Option<RankChoice>>) -> Result<()> {
        let asked = self.ranking.lock().unwrap_or_else(PoisonError::into_inner).take();
        asked.and_then(|asked| asked.send(choice).ok()).ok_or_else(|| {
            Error::new(Code::StaleId, format!("operation {:#018x} does not ask for a ranking, or no longer", self.id))
        })
    }

    /// Pushes a part of the result when the host has used enough of those before, and the queue has room for it.
    ///
    /// # Errors
    /// `CLOSED` when nobody will take it any more.
    pub(super) async fn chunk(&self, json: String, body: Bytes) -> Result<()> {
        let event = Event { json, body, ..Event::new(EventKind::Chunk, self.id, self.tag) };
        let hold = self.window.enter(event.weight()).await;
        self.seat.push(event.holding(hold)).await
    }

    /// Pushes the `DONE`; whoever comes second does nothing.
    pub(super) fn finish(&self, tables: &Tables, result: Result<Outcome>) {
        // The id is stale before anyone can see the event.
        if tables.operations.remove(self.id).is_err() {
            return;
        }
        let mut event = Event::new(EventKind::Done, self.id, self.tag);
        match result {
            Ok(outcome) => (event.handle, event.json, event.body) = (outcome.handle, outcome.json, outcome.body),
            Err(error) => event.error = Some(error),
        }
        self.seat.finish(event);
    }
}

impl Tables {
    /// Registers an operation and makes the future that runs it. Its `DONE` comes also if that future is only dropped.
    ///
    /// # Errors
    /// `CLOSED`, and then there is no operation.
    pub(super) fn operation<F>(
        self: &Arc<Self>,
        seat: Seat,
        tag: u64,
        owner: u64,
        verb: impl FnOnce(&Arc<Op>) -> F,
    ) -> Result<(u64, Running<F>)>
    where
        F: Future<Output = Result<Outcome>>,
    {
        let mut made = None;
        let id = self.operations.insert(|id| {
            let op = Op {
                id,
                tag,
                owner,
                seat,
                stop: AtomicI32::new(0),
                waker: AtomicWaker::new(),
                window: Window::new(),
                ranking: Mutex::default(),
            };
            made.insert(Arc::new(op)).clone()
        })?;
        let op = made.ok_or_else(|| Error::new(Code::Internal, "an operation was not registered"))?;
        let verb = Some(verb(&op));
        Ok((id, Running { op, tables: self.clone(), verb }))
    }
}

pin_project! {
    /// Runs a verb until it is done, told to stop, panics or is dropped.
    pub(super) struct Running<F> {
        op: Arc<Op>,
        tables: Arc<Tables>,
        #[pin]
        verb: Option<F>,
    }

    impl<F> PinnedDrop for Running<F> {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let panicked = drop_verb(this.verb).is_some();
            let error = match this.op.stopped() {
                _ if panicked => panic_error(),
                Some(error) => error,
                None => Error::new(Code::Closed, "the runtime was shut down before the operation finished"),
            };
            this.op.finish(this.tables, Err(error));
        }
    }
}

impl<F> Future for Running<F>
where
    F: Future<Output = Result<Outcome>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        // Registered before the look: a stop in between is not missed.
        this.op.waker.register(cx.waker());
        let mut result = match (this.op.stopped(), this.verb.as_mut().as_pin_mut()) {
            (_, None) => return Poll::Ready(()),
            (Some(error), _) => Err(error),
            (None, Some(verb)) => match catch_unwind(AssertUnwindSafe(|| verb.poll(cx))) {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(result)) => result,
                Err(_) => Err(panic_error()),
            },
        };
        // The verb goes first: once its DONE is seen, what it held is given back.
        if let Some(error) = drop_verb(this.verb) {
            result = Err(error);
        }
        this.op.finish(this.tables, result);
        Poll::Ready(())
    }
}

/// Drops what is left of a verb; an error if that panics.
fn drop_verb<F>(mut verb: Pin<&mut Option<F>>) -> Option<Error> {
    catch_unwind(AssertUnwindSafe(|| verb.set(None))).err().map(|_| panic_error())
}

/// Without the panic's own text, which may hold anything.
pub(super) fn panic_error() -> Error {
    Error::new(Code::Panic, "the operation panicked and was ended; this is a fault of the library, please report it")
}
