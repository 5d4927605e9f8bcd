//! Gives others as much of the node as its windows say, by the clock of the place where it is.

use std::sync::Arc;
use std::time::Duration;

use super::State;
use crate::protocol::availability::Availability;
use crate::telemetry;

/// Sets the limit for now, and again at the beginning of every minute. A clock that is set is noticed then too.
pub(super) fn follow(state: &Arc<State>) {
    let availability = Availability::new(&state.options.availability);
    if availability.is_constant() {
        return;
    }
    let rest = apply(state, &availability);
    let following = state.clone();
    state.group.spawn("availability", async move {
        let closing = following.group.closing();
        let minutes = async {
            let mut rest = rest;
            loop {
                tokio::time::sleep(rest).await;
                rest = apply(&following, &availability);
            }
        };
        tokio::select! {
            () = closing => {}
            () = minutes => {}
        }
    });
}

/// Sets the limit for this minute, and says how long it lasts.
fn apply(state: &State, availability: &Availability) -> Duration {
    let now = jiff::ZonedDateTime::now();
    let part = |n: i8| u16::try_from(n).unwrap_or_default();
    let minute = part(now.hour()) * 60 + part(now.minute());
    let most = usize::try_from(state.options.max_concurrent).unwrap_or(usize::MAX);
    let limit = availability.limit(most, minute);
    if limit != state.gate.limit() {
        tracing::info!(target: telemetry::NODE, node_id = %state.node_id, limit, "another share of the node is given");
        state.gate.set_limit(limit);
    }
    Duration::from_secs(60 - u64::from(part(now.second())).min(59))
}
