//! A node, as a directory knows it. No HTTP, no clock.

use std::sync::Arc;

use super::pricing::Pricing;
use super::record::Record;

/// A moment: since the directory started, and on the calendar.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) ms: u64,
    pub(super) unix_s: u64,
}

impl Now {
    /// When a moment since the start was, on the calendar.
    pub(super) fn calendar_s(self, ms: u64) -> u64 {
        self.unix_s.saturating_sub(self.ms.saturating_sub(ms) / 1000)
    }
}

/// SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

/// A node as everybody may see it.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: Arc<str>,
    pub(super) record: Arc<Record>,
    pub(super) state: State,
}

/// What is known of a node beside what it said when it registered.
#[derive(Clone)]
pub(super) struct State {
    pub(super) seen_ms: u64,
    pub(super) available: bool,
    pub(super) draining: bool,
    pub(super) load: f64,
    pub(super) active_jobs: u32,
    /// The models that its backend has loaded, if it says so.
    pub(super) live_models: Option<Arc<[String]>>,
    pub(super) latency_ms: Option<f64>,
    pub(super) reputation: f64,
    pub(super) completed: u64,
    pub(super) probed: bool,
    pub(super) pricing: Pricing,
}

/// What a heartbeat says.
#[derive(Default)]
pub(super) struct Report {
    pub(super) available: bool,
    pub(super) load: Option<f64>,
    pub(super) active_jobs: Option<u32>,
    pub(super) draining: Option<bool>,
    pub(super) live_models: Option<Vec<String>>,
    pub(super) outcomes: Outcomes,
    pub(super) batch_id: Option<String>,
    pub(super) challenge_response: Option<String>,
    pub(super) pricing: Option<Pricing>,
}

/// Finished tasks since the last batch.
#[derive(Clone, Copy, Default)]
pub(super) struct Outcomes {
    pub(super) success: u32,
    pub(super) failed: u32,
    pub(super) latency_ms: Option<f64>,
}
