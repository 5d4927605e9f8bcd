//! What a relay counts. Labels come from closed sets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Fault;
use super::session::Way;
use crate::protocol::relay::bind::Refusal;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallEnd {
    /// The worker answered, or has begun to.
    Answered,
    /// It answered that the task failed.
    Failed,
    Unbound,
    Busy,
    Lost,
    Timeout,
    /// The caller went away before.
    Cancelled,
}

impl CallEnd {
    pub(crate) const ALL: [CallEnd; 7] = [
        CallEnd::Answered,
        CallEnd::Failed,
        CallEnd::Unbound,
        CallEnd::Busy,
        CallEnd::Lost,
        CallEnd::Timeout,
        CallEnd::Cancelled,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            CallEnd::Answered => "answered",
            CallEnd::Failed => "failed",
            CallEnd::Unbound => "unbound",
            CallEnd::Busy => "busy",
            CallEnd::Lost => "lost",
            CallEnd::Timeout => "timeout",
            CallEnd::Cancelled => "cancelled",
        }
    }
}

impl From<Fault> for CallEnd {
    fn from(fault: Fault) -> CallEnd {
        match fault {
            Fault::Unbound => CallEnd::Unbound,
            Fault::Busy => CallEnd::Busy,
            Fault::Lost { .. } => CallEnd::Lost,
            Fault::Timeout => CallEnd::Timeout,
        }
    }
}

/// Counters since the relay began.
#[derive(Default)]
pub(crate) struct Counts {
    calls: [AtomicU64; CallEnd::ALL.len()],
    bound: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    to_workers: AtomicU64,
    to_callers: AtomicU64,
}

impl Counts {
    pub(super) fn call_ended(&self, end: CallEnd) {
        self.calls[end as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn bound(&self) {
        self.bound.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn to_worker(&self, bytes: usize) {
        self.to_workers.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn to_caller(&self, bytes: usize) {
        self.to_callers.fetch_add(bytes as u64, Relaxed);
    }

    /// Calls by how they ended.
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CallEnd::ALL.iter().zip(&self.calls).map(|(end, count)| (end.as_str(), count.load(Relaxed)))
    }

    /// Binds by what became of them.
    pub(crate) fn binds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let refused = Refusal::ALL.iter().zip(&self.refused);
        let refused = refused.map(|(refusal, count)| (refusal.as_str(), count.load(Relaxed)));
        std::iter::once(("bound", self.bound.load(Relaxed))).chain(refused)
    }

    /// Bytes of tasks and of answers, by where they went.
    pub(crate) fn bytes(&self) -> [(&'static str, u64); 2] {
        [("to_worker", self.to_workers.load(Relaxed)), ("to_caller", self.to_callers.load(Relaxed))]
    }
}

impl Way {
    pub(crate) const ALL: [Way; 3] = [Way::Published, Way::Ours, Way::Poll];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Way::Published => "published",
            Way::Ours => "ours",
            Way::Poll => "poll",
        }
    }
}
