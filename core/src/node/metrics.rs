//! What a node counts, and the page that shows it. Labels come from closed sets, so the page cannot grow.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::error::{Code, Error};
use crate::telemetry::{
    ACTIVE_JOBS, CONNECTIONS, CONNECTIONS_CUT_TOTAL, HEARTBEAT_FAILURES_TOTAL, LATENCY_BUCKETS_MS, RECEIPTS_TOTAL,
    REPLAY_FORGOTTEN_TOTAL, TASK_LATENCY_MS, TASKS_TOTAL, TOKENS_USED_TOTAL,
};
use crate::transport::conn::{ConnTable, Phase};
use crate::types::Qos;
use crate::wire::directory::Outcomes;

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Completed,
    Error,
    Timeout,
    Cancelled,
}

impl Ending {
    /// How a task ends that fails like this.
    pub(super) fn of(error: &Error) -> Self {
        if error.code() == Code::TaskTimeout { Ending::Timeout } else { Ending::Error }
    }
}

const ENDINGS: [(Ending, &str); 4] = [
    (Ending::Completed, "completed"),
    (Ending::Error, "error"),
    (Ending::Timeout, "timeout"),
    (Ending::Cancelled, "cancelled"),
];

/// Why a heartbeat was not taken.
pub(crate) const HEARTBEAT_REASONS: [&str; 3] = ["unreachable", "refused", "unregistered"];

/// What became of a request for credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiptEnd {
    Sent,
    Refused,
    /// It had to give way, or was too old when the directory came back.
    Dropped,
}

const RECEIPT_ENDS: [(ReceiptEnd, &str); 3] =
    [(ReceiptEnd::Sent, "sent"), (ReceiptEnd::Refused, "refused"), (ReceiptEnd::Dropped, "dropped")];

#[derive(Default)]
struct Latency {
    buckets: [AtomicU64; LATENCY_BUCKETS_MS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

#[derive(Default)]
struct PerIntent {
    endings: [[AtomicU64; ENDINGS.len()]; Qos::ALL.len()],
    latency: [Latency; Qos::ALL.len()],
    tokens: AtomicU64,
}

/// Counters since the node began.
pub(crate) struct Metrics {
    intents: Vec<(Arc<str>, PerIntent)>,
    heartbeat_failures: [AtomicU64; HEARTBEAT_REASONS.len()],
    receipts: [AtomicU64; RECEIPT_ENDS.len()],
    // What the next heartbeat reports.
    success: AtomicU64,
    failed: AtomicU64,
    latency_us: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(intents: &[Arc<str>]) -> Self {
        Metrics {
            intents: intents.iter().map(|intent| (intent.clone(), PerIntent::default())).collect(),
            heartbeat_failures: Default::default(),
            receipts: Default::default(),
            success: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latency_us: AtomicU64::new(0),
        }
    }

    pub(crate) fn task_ended(&self, intent: usize, qos: Qos, ending: Ending, took: Duration, tokens: u64) {
        let Some((_, counters)) = self.intents.get(intent) else { return };
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        counters.endings[qos as usize][ending as usize].fetch_add(1, Relaxed);
        counters.tokens.fetch_add(tokens, Relaxed);
        let latency = &counters.latency[qos as usize];
        if let Some(bucket) = LATENCY_BUCKETS_MS.iter().position(|bound| us <= bound * 1000) {
            latency.buckets[bucket].fetch_add(1, Relaxed);
        }
        latency.count.fetch_add(1, Relaxed);
        latency.sum_us.fetch_add(us, Relaxed);
        match ending {
            Ending::Completed => self.success.fetch_add(1, Relaxed),
            // A caller that went away says nothing about the provider.
            Ending::Cancelled => return,
            Ending::Error | Ending::Timeout => self.failed.fetch_add(1, Relaxed),
        };
        self.latency_us.fetch_add(us, Relaxed);
    }

    pub(crate) fn heartbeat_failed(&self, reason: &str) {
        if let Some(at) = HEARTBEAT_REASONS.iter().position(|known| *known == reason) {
            self.heartbeat_failures[at].fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn receipt_ended(&self, end: ReceiptEnd, count: u64) {
        self.receipts[end as usize].fetch_add(count, Relaxed);
    }

    /// Whether there is something to report.
    pub(crate) fn has_outcomes(&self) -> bool {
        self.success.load(Relaxed) + self.failed.load(Relaxed) > 0
    }

    /// Takes what is to be reported, at most `most` of either count.
    pub(crate) fn take_outcomes(&self, most: u64) -> Option<Outcomes> {
        let waiting = self.success.load(Relaxed) + self.failed.load(Relaxed);
        let take = |counter: &AtomicU64| {
            let before = counter.fetch_update(Relaxed, Relaxed, |n| Some(n - n.min(most))).unwrap_or_default();
            before.min(most)
        };
        let (tasks_success, tasks_failed) = (take(&self.success), take(&self.failed));
        let taken = tasks_success + tasks_failed;
        if taken == 0 {
            return None;
        }
        // The part of the time that belongs to the part of the tasks; the rest is for the next report.
        let spent_us = self.latency_us.load(Relaxed);
        let part_us = u64::try_from(u128::from(spent_us) * u128::from(taken) / u128::from(waiting.max(taken)))
            .unwrap_or(spent_us);
        self.latency_us.fetch_sub(part_us, Relaxed);
        // Two decimals, as directories show it; precision beyond that is of no use.
        #[allow(clippy::cast_precision_loss)]
        let average = part_us as f64 / taken as f64 / 1000.0;
        Some(Outcomes { tasks_success, tasks_failed, avg_latency_ms: (average * 100.0).round() / 100.0 })
    }

    /// The page in Prometheus' text format.
    pub(crate) fn render(&self, active_jobs: usize, forgotten: u64, table: &ConnTable) -> String {
        let mut page = String::with_capacity(4096);
        self.render_tasks(&mut page);
        self.render_latency(&mut page);
        head(&mut page, TOKENS_USED_TOTAL, "counter", "Tokens that handlers reported.");
        for (intent, counters) in &self.intents {
            line(&mut page, TOKENS_USED_TOTAL, &format!("intent=\"{intent}\""), counters.tokens.load(Relaxed));
        }
        head(&mut page, HEARTBEAT_FAILURES_TOTAL, "counter", "Heartbeats that the directory did not take.");
        for (reason, count) in HEARTBEAT_REASONS.iter().zip(&self.heartbeat_failures) {
            line(&mut page, HEARTBEAT_FAILURES_TOTAL, &format!("reason=\"{reason}\""), count.load(Relaxed));
        }
        head(&mut page, RECEIPTS_TOTAL, "counter", "Requests for the credits of a task.");
        for ((_, outcome), count) in RECEIPT_ENDS.iter().zip(&self.receipts) {
            line(&mut page, RECEIPTS_TOTAL, &format!("outcome=\"{outcome}\""), count.load(Relaxed));
        }
        head(&mut page, ACTIVE_JOBS, "gauge", "Handlers that run now.");
        line(&mut page, ACTIVE_JOBS, "", active_jobs as u64);
        head(&mut page, CONNECTIONS, "gauge", "Open connections.");
        line(&mut page, CONNECTIONS, "", table.len() as u64);
        head(&mut page, CONNECTIONS_CUT_TOTAL, "counter", "Connections cut because the peer was too slow.");
        for phase in Phase::ALL {
            line(&mut page, CONNECTIONS_CUT_TOTAL, &format!("phase=\"{}\"", phase.as_str()), table.cut_count(phase));
        }
        head(&mut page, REPLAY_FORGOTTEN_TOTAL, "counter", "Task ids forgotten early because the memory was full.");
        line(&mut page, REPLAY_FORGOTTEN_TOTAL, "", forgotten);
        page
    }

    fn render_tasks(&self, page: &mut String) {
        head(page, TASKS_TOTAL, "counter", "Finished tasks.");
        for (intent, counters) in &self.intents {
            for (qos, endings) in Qos::ALL.iter().zip(&counters.endings) {
                for ((_, status), count) in ENDINGS.iter().zip(endings) {
                    let labels = format!("status=\"{status}\",intent=\"{intent}\",qos=\"{}\"", qos.as_str());
                    line(page, TASKS_TOTAL, &labels, count.load(Relaxed));
                }
            }
        }
    }

    fn render_latency(&self, page: &mut String) {
        head(page, TASK_LATENCY_MS, "histogram", "Time from admission to answer, in milliseconds.");
        let (bucket, sum, count) =
            (format!("{TASK_LATENCY_MS}_bucket"), format!("{TASK_LATENCY_MS}_sum"), format!("{TASK_LATENCY_MS}_count"));
        for (intent, counters) in &self.intents {
            for (qos, latency) in Qos::ALL.iter().zip(&counters.latency) {
                let labels = format!("intent=\"{intent}\",qos=\"{}\"", qos.as_str());
                let mut so_far = 0;
                for (bound, n) in LATENCY_BUCKETS_MS.iter().zip(&latency.buckets) {
                    so_far += n.load(Relaxed);
                    line(page, &bucket, &format!("{labels},le=\"{bound}\""), so_far);
                }
                let total = latency.count.load(Relaxed);
                line(page, &bucket, &format!("{labels},le=\"+Inf\""), total);
                line(page, &sum, &labels, latency.sum_us.load(Relaxed) / 1000);
                line(page, &count, &labels, total);
            }
        }
    }
}

pub(super) fn head(page: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

pub(super) fn line(page: &mut String, name: &str, labels: &str, value: u64) {
    let _ =
        if labels.is_empty() { writeln!(page, "{name} {value}") } else { writeln!(page, "{name}{{{labels}}} {value}") };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::conn::Deadlines;

    #[test]
    fn the_page_shows_what_was_counted() {
        let metrics = Metrics::new(&["urn:iicp:intent:llm:chat:v1".into()]);
        metrics.task_ended(0, Qos::Batch, Ending::Completed, Duration::from_millis(60), 7);
        metrics.task_ended(0, Qos::Batch, Ending::Cancelled, Duration::from_secs(60), 0);
        metrics.task_ended(9, Qos::Batch, Ending::Completed, Duration::ZERO, 0);
        metrics.heartbeat_failed("refused");
        metrics.receipt_ended(ReceiptEnd::Dropped, 5);
        let second = Duration::from_secs(1);
        let table = ConnTable::new(Deadlines { head: second, idle: second, transfer_grace: second });
        let page = metrics.render(2, 3, &table);
        for line in [
            "iicp_tasks_total{status=\"completed\",intent=\"urn:iicp:intent:llm:chat:v1\",qos=\"batch\"} 1",
            "iicp_task_latency_ms_bucket{intent=\"urn:iicp:intent:llm:chat:v1\",qos=\"batch\",le=\"50\"} 0",
            "iicp_task_latency_ms_bucket{intent=\"urn:iicp:intent:llm:chat:v1\",qos=\"batch\",le=\"5000\"} 1",
            "iicp_task_latency_ms_bucket{intent=\"urn:iicp:intent:llm:chat:v1\",qos=\"batch\",le=\"+Inf\"} 2",
            "iicp_tokens_used_total{intent=\"urn:iicp:intent:llm:chat:v1\"} 7",
            "iicp_heartbeat_failures_total{reason=\"refused\"} 1",
            "iicp_credit_receipts_total{outcome=\"sent\"} 0",
            "iicp_credit_receipts_total{outcome=\"dropped\"} 5",
            "iicp_active_jobs 2",
            "iicp_replay_forgotten_total 3",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    }

    #[test]
    fn outcomes_are_taken_once_and_in_portions() {
        let metrics = Metrics::new(&["i".into()]);
        assert_eq!(metrics.take_outcomes(1000), None);
        for _ in 0..3 {
            metrics.task_ended(0, Qos::Batch, Ending::Completed, Duration::from_millis(10), 0);
        }
        metrics.task_ended(0, Qos::Batch, Ending::Timeout, Duration::from_millis(10), 0);
        let first = metrics.take_outcomes(2).unwrap();
        assert_eq!((first.tasks_success, first.tasks_failed), (2, 1));
        let rest = metrics.take_outcomes(2).unwrap();
        assert_eq!((rest.tasks_success, rest.tasks_failed), (1, 0));
        let average = |outcomes: Outcomes| (outcomes.avg_latency_ms * 100.0).round();
        assert_eq!((average(first), average(rest)), (1_000.0, 1_000.0), "10 ms each, however they are parted");
        assert_eq!(metrics.take_outcomes(2), None);
    }
}
