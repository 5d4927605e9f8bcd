//! The node's side of its registration: what to say next, and what an answer means. Times come in as durations.

use std::time::Duration;

use uuid::Uuid;

use crate::crypto::digest::hmac_hex;
use crate::wire::directory::{HeartbeatReply, Outcomes, RegisterReply};

/// How often a node reports unless the directory says otherwise.
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// What a directory may ask for.
const INTERVAL_BOUNDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
/// Counts that one report may carry (directories refuse more).
const MOST_PER_REPORT: u64 = 1_000;

/// What a node knows of its registration. No `Debug`: it holds secrets.
pub(crate) struct Registration {
    /// The token to prove ownership with; kept when it has expired, because the directory still knows its hash.
    token: Option<String>,
    hmac_key: Option<String>,
    challenge: Option<String>,
    registered: bool,
    interval: Duration,
    failures: u32,
    /// The report that was sent and not acknowledged yet, with its id.
    pending: Option<(String, Outcomes)>,
}

/// What to do after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Report again after this pause.
    Report(Duration),
    /// Register (again) after this pause.
    Register(Duration),
}

impl Registration {
    pub(crate) fn new() -> Self {
        Registration {
            token: None,
            hmac_key: None,
            challenge: None,
            registered: false,
            interval: DEFAULT_INTERVAL,
            failures: 0,
            pending: None,
        }
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registered
    }

    /// The directory took the registration: every token is new, the key may be.
    pub(crate) fn registered(&mut self, reply: RegisterReply) -> Next {
        self.token = Some(reply.node_token);
        self.hmac_key = reply.node_hmac_key.or(self.hmac_key.take());
        self.challenge = None;
        self.registered = true;
        self.failures = 0;
        self.set_interval(reply.next_heartbeat_ms);
        Next::Report(self.interval)
    }

    /// The registration was not taken or not answered: try again, ever more rarely. `jitter` is 0 to 1.
    pub(crate) fn register_failed(&mut self, retry_after: Option<Duration>, jitter: f64) -> Next {
        self.registered = false;
        self.failures = self.failures.saturating_add(1);
        let ceiling = Duration::from_millis(500).saturating_mul(1 << self.failures.min(6)).min(DEFAULT_INTERVAL);
        Next::Register(ceiling.mul_f64(0.5 + jitter / 2.0).max(retry_after.unwrap_or_default()))
    }

    /// The outcomes to report: the unacknowledged batch under its old id first, else the new counts.
    pub(crate) fn report(&mut self, fresh: impl FnOnce(u64) -> Option<Outcomes>) -> Option<(&str, Outcomes)> {
        if self.pending.is_none() {
            self.pending = fresh(MOST_PER_REPORT).map(|outcomes| (Uuid::new_v4().to_string(), outcomes));
        }
        self.pending.as_ref().map(|(id, outcomes)| (id.as_str(), *outcomes))
    }

    /// The answer to the last challenge, if there was one and the key is known.
    pub(crate) fn challenge_response(&self) -> Option<String> {
        Some(hmac_hex(self.hmac_key.as_deref()?, self.challenge.as_deref()?))
    }

    /// The directory took the report.
    pub(crate) fn reported(&mut self, reply: HeartbeatReply) -> Next {
        self.challenge = reply.challenge;
        self.failures = 0;
        // Without an echo the batch counts as taken, as with the published nodes.
        let accepted = match (&self.pending, &reply.metrics_batch_accepted) {
            (Some((sent, _)), Some(echo)) => sent == echo,
            _ => true,
        };
        if accepted {
            self.pending = None;
        }
        self.set_interval(reply.next_heartbeat_ms);
        Next::Report(self.interval)
    }

    /// The directory refused the report with this status, or did not answer.
    pub(crate) fn report_failed(&mut self, status: Option<u16>) -> Next {
        if matches!(status, Some(401 | 404 | 410)) {
            self.registered = false;
            return Next::Register(Duration::ZERO);
        }
        Next::Report(self.interval)
    }

    fn set_interval(&mut self, asked_ms: Option<u64>) {
        if let Some(ms) = asked_ms {
            self.interval = Duration::from_millis(ms).clamp(INTERVAL_BOUNDS.0, INTERVAL_BOUNDS.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(token: &str, hmac_key: Option<&str>) -> RegisterReply {
        RegisterReply {
            node_token: token.into(),
            node_hmac_key: hmac_key.map(Into::into),
            next_heartbeat_ms: Some(1_000),
        }
    }

    #[test]
    fn a_lost_registration_is_made_again_with_the_old_token_as_proof() {
        let mut node = Registration::new();
        assert_eq!(node.registered(reply("t1", Some("k"))), Next::Report(Duration::from_secs(1)));
        for status in [401, 404, 410] {
            assert_eq!(node.report_failed(Some(status)), Next::Register(Duration::ZERO));
            assert_eq!(node.token(), Some("t1"));
        }
        assert_eq!(node.report_failed(Some(500)), Next::Report(Duration::from_secs(1)));
        assert_eq!(node.report_failed(None), Next::Report(Duration::from_secs(1)));
        node.registered(reply("t2", None));
        assert_eq!(node.token(), Some("t2"));
        node.reported(HeartbeatReply { challenge: Some("c".into()), ..HeartbeatReply::default() });
        assert_eq!(node.challenge_response(), Some(hmac_hex("k", "c")), "the key outlives a reply without one");
    }

    #[test]
    fn a_report_is_sent_under_the_same_id_until_it_is_acknowledged() {
        let mut node = Registration::new();
        let outcomes = Outcomes { tasks_success: 3, ..Outcomes::default() };
        let id = node.report(|_| Some(outcomes)).unwrap().0.to_owned();
        node.report_failed(None);
        let again = node.report(|_| panic!("nothing new before the old is taken")).unwrap();
        assert_eq!(again, (id.as_str(), outcomes));
        node.reported(HeartbeatReply { metrics_batch_accepted: Some("other".into()), ..HeartbeatReply::default() });
        assert!(node.report(|_| panic!("still not taken")).is_some());
        node.reported(HeartbeatReply { metrics_batch_accepted: Some(id), ..HeartbeatReply::default() });
        assert!(node.report(|_| None).is_none());
    }

    #[test]
    fn registering_backs_off_with_jitter_and_heeds_the_directory() {
        let mut node = Registration::new();
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            let Next::Register(pause) = node.register_failed(None, 1.0) else { panic!() };
            assert!(pause >= last && pause <= DEFAULT_INTERVAL);
            last = pause;
        }
        assert_eq!(node.register_failed(Some(Duration::from_secs(60)), 0.0), Next::Register(Duration::from_secs(60)));
    }
}
