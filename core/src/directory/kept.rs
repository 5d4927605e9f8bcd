//! What a directory keeps of itself and of its nodes, in the form in which it is kept. Tokens are kept as hashes only.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::form::Form;
use super::node::{Now, State, TokenHash};
use super::pricing::{Pricing, pricing_model};
use super::record::Record;
use crate::crypto::digest::{hex, random};
use crate::error::Result;

/// What a directory must not lose, or its tickets and its nodes' challenges are worth nothing. No `Debug`.
pub(super) struct Secrets {
    /// Of the key that it signs with.
    pub(super) seed: Zeroizing<[u8; 32]>,
    /// Keys of heartbeat challenges are made from it and the node's id.
    pub(super) hmac_secret: Zeroizing<String>,
}

impl Secrets {
    /// Fresh ones.
    pub(super) fn random() -> Result<Self> {
        Ok(Secrets { seed: Zeroizing::new(random::<32>()?), hmac_secret: Zeroizing::new(hex(&random::<32>()?)) })
    }
}

/// Nodes that have changed since they were last written; none where nothing is kept.
pub(super) type Changed = HashSet<Arc<str>>;

/// A node, as the store hands it out and takes it back. No `Debug`.
pub(super) struct Kept<R> {
    pub(super) id: String,
    pub(super) token: TokenHash,
    pub(super) hmac_key: String,
    pub(super) from: IpAddr,
    pub(super) record: R,
    pub(super) state: State,
    pub(super) last_batch: Option<String>,
    pub(super) gained: (f64, u64),
}

/// A node, as it lies on the disk.
pub(super) struct Row {
    pub(super) id: String,
    pub(super) token: TokenHash,
    pub(super) hmac_key: String,
    /// As a registration is sent.
    pub(super) record: String,
    pub(super) state: String,
}

/// What changes between registrations. Moments are kept by the calendar: the clock of a process ends with it.
#[derive(Serialize, Deserialize)]
struct KeptState {
    seen_unix_s: u64,
    from: IpAddr,
    available: bool,
    draining: bool,
    load: f64,
    active_jobs: u32,
    live_models: Option<Vec<String>>,
    latency_ms: Option<f64>,
    reputation: f64,
    completed: u64,
    probed: bool,
    credit_cost_multiplier: f64,
    pricing_model: String,
    attested: bool,
    last_batch: Option<String>,
    gained: f64,
    gained_since_unix_s: u64,
}

/// A moment that the calendar puts into the future is now: the clock was set back.
fn from_calendar(unix_s: u64, now: Now) -> u64 {
    now.ms.saturating_sub(now.unix_s.saturating_sub(unix_s).saturating_mul(1000))
}

impl<R: AsRef<Record>> Kept<R> {
    /// What is written of it; none if it has no JSON form, which does not happen.
    pub(super) fn row(self, now: Now) -> Option<Row> {
        let Kept { id, token, hmac_key, from, record, state, last_batch, gained } = self;
        let kept = KeptState {
            seen_unix_s: now.calendar_s(state.seen_ms),
            from,
            available: state.available,
            draining: state.draining,
            load: state.load,
            active_jobs: state.active_jobs,
            live_models: state.live_models.as_deref().map(<[String]>::to_vec),
            latency_ms: state.latency_ms,
            reputation: state.reputation,
            completed: state.completed,
            probed: state.probed,
            credit_cost_multiplier: state.pricing.credit_cost_multiplier,
            pricing_model: state.pricing.pricing_model.to_owned(),
            attested: state.pricing.attested,
            last_batch,
            gained: gained.0,
            gained_since_unix_s: now.calendar_s(gained.1),
        };
        let record = serde_json::to_string(record.as_ref()).ok()?;
        Some(Row { id, token, hmac_key, record, state: serde_json::to_string(&kept).ok()? })
    }
}

impl Row {
    /// The node again; none if this version cannot read it.
    pub(super) fn kept(self, now: Now) -> Option<Kept<Record>> {
        let Row { id, token, hmac_key, record, state } = self;
        let mut form = Form::json(record.as_bytes()).ok()?;
        let record = Record::read(&mut form);
        form.finish().ok()?;
        let kept: KeptState = serde_json::from_str(&state).ok()?;
        let state = State {
            seen_ms: from_calendar(kept.seen_unix_s, now),
            available: kept.available,
            draining: kept.draining,
            load: kept.load,
            active_jobs: kept.active_jobs,
            live_models: kept.live_models.map(Into::into),
            latency_ms: kept.latency_ms,
            reputation: kept.reputation.clamp(0.0, 1.0),
            completed: kept.completed,
            probed: kept.probed,
            pricing: Pricing {
                credit_cost_multiplier: kept.credit_cost_multiplier,
                pricing_model: pricing_model(&kept.pricing_model)?,
                attested: kept.attested,
            },
        };
        let gained = (kept.gained, from_calendar(kept.gained_since_unix_s, now));
        Some(Kept { id, token, hmac_key, from: kept.from, record: record?, state, last_batch: kept.last_batch, gained })
    }
}
