//! What a relay shows of itself beside what every node shows.

use serde_json::{Value, json};

use super::metrics::{head, line};
use crate::relay::Relay;
use crate::telemetry::{RELAY_BINDS_TOTAL, RELAY_BYTES_TOTAL, RELAY_CALLS, RELAY_CALLS_TOTAL, RELAY_WORKERS};

/// Adds to the page of metrics.
pub(super) fn render(page: &mut String, relay: &Relay) {
    head(page, RELAY_WORKERS, "gauge", "Workers that are bound, by how they are connected.");
    for (way, count) in relay.workers_by_way() {
        line(page, RELAY_WORKERS, &format!("way=\"{way}\""), count);
    }
    head(page, RELAY_CALLS, "gauge", "Calls that are under way to workers.");
    line(page, RELAY_CALLS, "", relay.calls() as u64);
    let counts = &relay.counts;
    head(page, RELAY_CALLS_TOTAL, "counter", "Calls for workers, by how they ended.");
    for (outcome, count) in counts.calls() {
        line(page, RELAY_CALLS_TOTAL, &format!("outcome=\"{outcome}\""), count);
    }
    head(page, RELAY_BYTES_TOTAL, "counter", "Bytes of tasks and answers that were passed on.");
    for (direction, count) in counts.bytes() {
        line(page, RELAY_BYTES_TOTAL, &format!("direction=\"{direction}\""), count);
    }
    head(page, RELAY_BINDS_TOTAL, "counter", "Workers that came to be bound, by what became of it.");
    for (outcome, count) in counts.binds() {
        line(page, RELAY_BINDS_TOTAL, &format!("outcome=\"{outcome}\""), count);
    }
}

/// What stands in health.
pub(super) fn health(relay: &Relay) -> Value {
    json!({
        "workers": relay.workers(),
        "calls": relay.calls(),
        "load": relay.load(),
        "accept_port": relay.accept_port(),
        "tls_spki_sha256": relay.pin().to_string(),
    })
}
