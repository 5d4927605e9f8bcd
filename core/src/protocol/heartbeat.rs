//! The node's side of its registration: what to say next, and what an answer means. Times come in as durations.

use std::time::Duration;

use uuid::Uuid;

use crate::crypto::digest::hmac_hex;
use crate::types::Secret;
use crate::wire::directory::{HeartbeatReply, Outcomes, RegisterReply};

/// How often a node reports unless the directory says otherwise.
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// What a directory may ask for.
const INTERVAL_BOUNDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(60));
/// Counts that one report may carry (directories refuse more).
const MOST_PER_REPORT: u64 = 1_000;

/// Over which time nodes come back that a directory has forgotten.
const SPREAD: Duration = Duration::from_secs(3);

/// A pause that a directory asks for, up to what keeps a node from being forgotten.
fn heeded(retry_after: Option<Duration>) -> Duration {
    retry_after.unwrap_or_default().min(INTERVAL_BOUNDS.1)
}

/// What a node knows of its registration. No `Debug`: it holds secrets.
pub(crate) struct Registration {
    /// The token to prove ownership with; kept when it has expired, because the directory still knows its hash.
    token: Option<Secret>,
    hmac_key: Option<Secret>,
    challenge: Option<String>,
    registered: bool,
    interval: Duration,
    failures: u32,
    /// Whether what is offered has changed and the directory has not taken that yet.
    stale: bool,
    /// Whether the directory has the node's price under the present key.
    priced: bool,
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
    /// Begins with the token of an earlier registration and the key that it or the operator gave, if there are any.
    pub(crate) fn new(token: Option<Secret>, hmac_key: Option<Secret>) -> Self {
        Registration {
            token,
            hmac_key,
            challenge: None,
            registered: false,
            interval: DEFAULT_INTERVAL,
            failures: 0,
            stale: false,
            priced: false,
            pending: None,
        }
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(Secret::expose)
    }

    pub(crate) fn hmac_key(&self) -> Option<&str> {
        self.hmac_key.as_ref().map(Secret::expose)
    }

    /// The key to declare the price under, if that is still to be done.
    pub(crate) fn unpriced(&self) -> Option<&str> {
        self.hmac_key().filter(|_| !self.priced)
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registered
    }

    /// The directory took the registration: every token is new, the key may be.
    pub(crate) fn registered(&mut self, reply: RegisterReply) -> Next {
        self.token = Some(reply.node_token);
        // The registration was signed with the key that it told; a directory that chose another has to be told again.
        self.priced = self.hmac_key.is_some()
            && reply.node_hmac_key.as_ref().is_none_or(|new| self.hmac_key.as_ref() == Some(new));
        self.hmac_key = reply.node_hmac_key.or(self.hmac_key.take());
        self.challenge = None;
        self.registered = true;
        self.stale = false;
        self.failures = 0;
        self.set_interval(reply.next_heartbeat_ms);
        Next::Report(self.interval)
    }

    /// The registration was not taken or not answered: try again, ever more rarely, but once per interval at least.
    /// `jitter` is 0 to 1. A node that is registered and only wants to change something goes on reporting.
    pub(crate) fn register_failed(&mut self, retry_after: Option<Duration>, jitter: f64) -> Next {
        if self.registered {
            self.stale = true;
            return Next::Report(self.interval);
        }
        self.failures = self.failures.saturating_add(1);
        let ceiling = Duration::from_millis(500).saturating_mul(1 << self.failures.min(6)).min(self.interval);
        Next::Register(ceiling.mul_f64(0.5 + jitter / 2.0).max(heeded(retry_after)))
    }

    /// The outcomes to report: the unacknowledged batch under its old id first, else the new counts.
    pub(crate) fn report(&mut self, fresh: impl FnOnce(u64) -> Option<Outcomes>) -> Option<(&str, Outcomes)> {
        if self.pending.is_none() {
            self.pending = fresh(MOST_PER_REPORT).map(|outcomes| (Uuid::new_v4().to_string(), outcomes));
        }
        self.pending.as_ref().map(|(id, outcomes)| (id.as_str(), *outcomes))
    }

    /// Whether there is a report that was not acknowledged.
    pub(crate) fn has_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// The answer to the last challenge, if there was one and the key is known.
    pub(crate) fn challenge_response(&self) -> Option<String> {
        Some(hmac_hex(self.hmac_key()?, self.challenge.as_deref()?))
    }

    /// The directory took the report.
    pub(crate) fn reported(&mut self, reply: HeartbeatReply) -> Next {
        self.challenge = reply.challenge;
        self.failures = 0;
        self.priced = true;
        // Without an echo the batch counts as taken, as with the published nodes.
        let accepted = match (&self.pending, &reply.metrics_batch_accepted) {
            (Some((sent, _)), Some(echo)) => sent == echo,
            _ => true,
        };
        if accepted {
            self.pending = None;
        }
        self.set_interval(reply.next_heartbeat_ms);
        // Once per report: what a directory refuses now it may take later.
        if self.stale { Next::Register(Duration::ZERO) } else { Next::Report(self.interval) }
    }

    /// The directory refused the report with this status, or did not answer. Nodes that were forgotten all at once do not
    /// come back all at once: `jitter` is 0 to 1.
    pub(crate) fn report_failed(&mut self, status: Option<u16>, retry_after: Option<Duration>, jitter: f64) -> Next {
        match status {
            Some(401 | 404 | 410) => {
                self.registered = false;
                return Next::Register(self.interval.min(SPREAD).mul_f64(jitter));
            }
            // A price that is not taken must not cost the node its place.
            Some(422) => self.priced = true,
            _ => {}
        }
        Next::Report(self.interval.max(heeded(retry_after)))
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
        let mut node = Registration::new(None, None);
        assert_eq!(node.registered(reply("t1", Some("k"))), Next::Report(Duration::from_secs(1)));
        for status in [401, 404, 410] {
            assert_eq!(node.report_failed(Some(status), None, 0.0), Next::Register(Duration::ZERO));
            assert_eq!(node.report_failed(Some(status), None, 1.0), Next::Register(Duration::from_secs(1)));
            assert_eq!(node.token(), Some("t1"));
        }
        for (status, pause) in [(Some(500), 0), (None, 0), (Some(429), 7), (Some(429), 86_400)] {
            let next = node.report_failed(status, Some(Duration::from_secs(pause)), 1.0);
            assert_eq!(next, Next::Report(Duration::from_secs(pause.clamp(1, 60))), "{status:?}");
        }
        node.registered(reply("t2", None));
        assert_eq!(node.token(), Some("t2"));
        node.reported(HeartbeatReply { challenge: Some("c".into()), ..HeartbeatReply::default() });
        assert_eq!(node.challenge_response(), Some(hmac_hex("k", "c")), "the key outlives a reply without one");
    }

    #[test]
    fn a_report_is_sent_under_the_same_id_until_it_is_acknowledged() {
        let mut node = Registration::new(None, None);
        let outcomes = Outcomes { tasks_success: 3, ..Outcomes::default() };
        let id = node.report(|_| Some(outcomes)).unwrap().0.to_owned();
        node.report_failed(None, None, 0.0);
        let again = node.report(|_| panic!("nothing new before the old is taken")).unwrap();
        assert_eq!(again, (id.as_str(), outcomes));
        node.reported(HeartbeatReply { metrics_batch_accepted: Some("other".into()), ..HeartbeatReply::default() });
        assert!(node.report(|_| panic!("still not taken")).is_some());
        node.reported(HeartbeatReply { metrics_batch_accepted: Some(id), ..HeartbeatReply::default() });
        assert!(node.report(|_| None).is_none());
    }

    #[test]
    fn registering_backs_off_with_jitter_and_heeds_the_directory() {
        let mut node = Registration::new(None, None);
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            let Next::Register(pause) = node.register_failed(None, 1.0) else { panic!() };
            assert!(pause >= last && pause <= DEFAULT_INTERVAL);
            last = pause;
        }
        assert_eq!(node.register_failed(Some(Duration::from_secs(60)), 0.0), Next::Register(Duration::from_secs(60)));
        let next = node.register_failed(Some(Duration::from_secs(86_400)), 0.0);
        assert_eq!(next, Next::Register(Duration::from_secs(60)), "not for a day");
    }

    #[test]
    fn a_change_that_is_not_taken_costs_no_place_and_is_tried_once_per_report() {
        let mut node = Registration::new(None, None);
        node.registered(reply("t1", Some("k")));
        assert_eq!(node.register_failed(None, 0.5), Next::Report(Duration::from_secs(1)));
        assert!(node.is_registered());
        assert_eq!(node.reported(HeartbeatReply::default()), Next::Register(Duration::ZERO));
        node.register_failed(None, 0.5);
        node.report_failed(Some(401), None, 0.5);
        assert!(matches!(node.register_failed(None, 0.5), Next::Register(_)), "now it has no place to keep");
        node.registered(reply("t2", None));
        assert_eq!(node.reported(HeartbeatReply::default()), Next::Report(Duration::from_secs(1)));
    }

    #[test]
    fn a_price_is_declared_again_under_every_new_key() {
        let mut node = Registration::new(None, None);
        assert_eq!(node.unpriced(), None, "no key yet");
        node.registered(reply("t1", Some("k1")));
        assert_eq!(node.unpriced(), Some("k1"));
        node.reported(HeartbeatReply::default());
        assert_eq!(node.unpriced(), None);
        node.registered(reply("t2", Some("k1")));
        assert_eq!(node.unpriced(), None, "the registration was signed with it");
        node.registered(reply("t3", Some("k2")));
        assert_eq!(node.unpriced(), Some("k2"));
        node.report_failed(Some(422), None, 0.0);
        assert_eq!(node.unpriced(), None, "what is refused is not repeated");
    }
}
