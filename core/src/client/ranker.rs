//! The application's own ranking of candidates.

use std::future::Future;
use std::pin::Pin;

use serde::Serialize;

use crate::error::Result;
pub use crate::protocol::ranker::{CandidateEvidence, RankChoice, RankMode};

/// What a ranker is asked: who could serve a task, without anything by which a node or a prompt could be told.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RankRequest {
    /// Names the task: the same for every question about it.
    pub request_ref: String,
    /// The intent of the task.
    pub intent: String,
    /// The candidates, in the order in which they would be asked.
    pub candidates: Vec<CandidateEvidence>,
}

/// Ranks candidates that every rule has let through; it cannot bring back one that was refused.
///
/// `None` keeps the built-in order. An error refuses the task before anything is sent, and so does a choice of what is
/// no candidate. A ranker that takes longer than the submit has time ends with the submit.
pub trait CandidateRanker: Send + Sync + 'static {
    /// Chooses the candidate to be asked first.
    fn rank(&self, request: RankRequest) -> Pin<Box<dyn Future<Output = Result<Option<RankChoice>>> + Send + '_>>;
}

impl<F> CandidateRanker for F
where
    F: Fn(RankRequest) -> Result<Option<RankChoice>> + Send + Sync + 'static,
{
    fn rank(&self, request: RankRequest) -> Pin<Box<dyn Future<Output = Result<Option<RankChoice>>> + Send + '_>> {
        let choice = self(request);
        Box::pin(async move { choice })
    }
}
