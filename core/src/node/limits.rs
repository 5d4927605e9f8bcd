//! How much one page and one address may send.

use std::time::Duration;

use super::refusal;
use crate::options::NodeOptions;
use crate::protocol::admission::{Received, Refusal};
use crate::protocol::rate::Rates;

/// The rates of one node. What is not limited is not counted.
pub(super) struct Limits {
    by_origin: Option<Rates>,
    by_address: Option<Rates>,
}

impl Limits {
    pub(super) fn new(options: &NodeOptions) -> Self {
        Limits { by_origin: Rates::new(options.rate_per_origin), by_address: Rates::new(options.rate_per_ip) }
    }

    /// Counts a task, whatever becomes of it.
    ///
    /// # Errors
    /// 429 for one too many.
    pub(super) fn count(&self, task: &Received<'_>, now: Duration) -> Result<(), Refusal> {
        let now_s = now.as_secs();
        if let (Some(rates), Some(origin)) = (&self.by_origin, task.origin) {
            rates.count(origin, now_s).map_err(|after_s| refusal::too_many("this origin", after_s))?;
        }
        if let Some(rates) = &self.by_address {
            rates.count_address(task.peer.ip(), now_s).map_err(|after_s| refusal::too_many("this address", after_s))?;
        }
        Ok(())
    }
}
