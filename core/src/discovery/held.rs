//! What a client holds of the answers to one question: its routes, and for how long they do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use crate::crypto::cx::{KeyFault, SealingKey};
use crate::error::{Code, Error, Result};
use crate::options::{Discover, ProfileRequest};
use crate::protocol::breaker::At;
use crate::telemetry;
use crate::transport::guard::Reach;
use crate::transport::native_client::Place;
use crate::types::NodeInfo;

/// Longest wait for the directory, within the submit's own deadline.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The same where routes are held that would do without it.
const PATIENCE_WITH_ROUTES: Duration = Duration::from_secs(1);
/// How long nobody waits again for a directory that was away, where routes are held that would do.
const AWAY_FOR: Duration = Duration::from_secs(5);
/// How long routes outlive a directory that is away.
const STALE_FOR: Duration = Duration::from_secs(600);
/// How often nodes are searched for that are not where they were.
const SEARCH_EVERY: Duration = Duration::from_secs(2);

/// A node that may be sent tasks.
pub(crate) struct Route {
    pub(crate) node: NodeInfo,
    pub(crate) task_url: Url,
    pub(crate) reach: Reach,
    /// Where it takes native frames, if it says so and that place may be called.
    pub(crate) native: Option<Place>,
    /// What tasks are sealed to; none if the node shows no key, a fault if what it shows is none.
    pub(crate) key: Option<Result<SealingKey, KeyFault>>,
    /// The beginning of the id of the ticket that disclosed the route.
    pub(crate) ticket: Option<String>,
    pub(super) since: Instant,
    /// Until when a ticketed route is used.
    pub(super) until: Option<Instant>,
}

impl Route {
    /// Whether the node is reached through a relay, and so may be reached elsewhere when that is gone.
    pub(crate) fn is_relayed(&self) -> bool {
        self.task_url.path().contains("/v1/relay-for/")
    }

    /// What its circuit is known by.
    pub(crate) fn at(&self) -> At<'_> {
        At { node_id: &self.node.node_id, endpoint: &self.node.endpoint }
    }

    pub(super) fn is_live(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    /// Less than half of its time is over: it needs no successor yet.
    pub(super) fn is_young(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until > now && now - self.since < until - now)
    }
}

/// What a submit gets.
pub(crate) struct Found {
    pub(crate) routes: Vec<Arc<Route>>,
    /// Whether the directory was asked for this submit.
    pub(crate) fresh: bool,
    /// What the directory said about the profile that was asked for.
    pub(crate) profile: Option<String>,
}

/// What routes are asked for with.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    intent: String,
    region: Option<String>,
    qos: Option<&'static str>,
    model: Option<String>,
    min_reputation: Option<u64>,
    limit: u32,
    browser_usable_only: bool,
    profile_request: Option<ProfileRequest>,
}

impl Question {
    pub(super) fn new(query: &Discover) -> Self {
        Question {
            intent: query.intent.clone(),
            region: query.region.clone(),
            qos: query.qos.map(crate::types::Qos::as_str),
            model: query.model.clone(),
            min_reputation: query.min_reputation.map(f64::to_bits),
            limit: query.limit,
            browser_usable_only: query.browser_usable_only,
            profile_request: query.profile_request.clone(),
        }
    }
}

/// The answer to a question.
#[derive(Clone, Default)]
pub(super) struct Held {
    pub(super) routes: Vec<Arc<Route>>,
    /// When the list was answered, or the last ticket.
    pub(super) since: Option<Instant>,
    /// Until when no further ticket is asked for: the directory has no other node.
    pub(super) exhausted: Option<Instant>,
    /// Until when the directory is not waited for: it was away.
    pub(super) away: Option<Instant>,
    pub(super) profile: Option<String>,
    /// When nodes were last searched for that are not where they were.
    pub(super) searched: Option<Instant>,
}

impl Held {
    /// Whether the routes would do although their time is over, since the directory is away.
    pub(super) fn would_do(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() < STALE_FOR) && !self.routes.is_empty()
    }

    pub(super) fn is_away(&self) -> bool {
        self.away.is_some_and(|until| until > Instant::now())
    }
}

/// One question: its answer, and the right to ask it.
#[derive(Default)]
pub(super) struct Slot {
    held: Mutex<Held>,
    pub(super) asking: tokio::sync::Mutex<()>,
}

impl Slot {
    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn live(&self, now: Instant) -> Vec<Arc<Route>> {
        self.held().routes.iter().filter(|route| route.is_live(now)).cloned().collect()
    }

    /// Takes in a ticketed route, in the place of an older one to the same node.
    pub(super) fn take_in(&self, route: &Arc<Route>, now: Instant) {
        let mut held = self.held();
        held.routes.retain(|old| {
            old.node.node_id != route.node.node_id && old.until.is_none_or(|until| now < until + STALE_FOR)
        });
        held.routes.push(route.clone());
        // As the directory would list them.
        held.routes.sort_by(|a, b| b.node.score.total_cmp(&a.node.score));
        held.since = Some(now);
        held.away = None;
    }

    /// Holds routes again for which nothing better was found.
    pub(super) fn put_back(&self, routes: Vec<Arc<Route>>) {
        let mut held = self.held();
        for route in routes {
            if !held.routes.iter().any(|other| other.node.node_id == route.node.node_id) {
                held.routes.push(route);
            }
        }
    }

    /// Whether it is time to search for nodes that are not where they were; whoever is told so does it.
    pub(super) fn may_search(&self) -> bool {
        let mut held = self.held();
        let may = held.searched.is_none_or(|since| since.elapsed() >= SEARCH_EVERY);
        if may {
            held.searched = Some(Instant::now());
        }
        may
    }

    /// What is held, after the directory did not answer: the mesh goes on without it for a while.
    pub(super) fn stale(&self, error: Error) -> Result<Found> {
        let mut held = self.held();
        if !held.would_do() || !error.retryable() || error.code() == Code::NoNodes {
            return Err(error);
        }
        held.away = Some(Instant::now() + AWAY_FOR);
        tracing::warn!(target: telemetry::CLIENT, code = %error.code(), "using older routes: the directory is away");
        Ok(Found { routes: held.routes.clone(), fresh: true, profile: held.profile.clone() })
    }

    /// What is held, where the directory was away a moment ago.
    pub(super) fn while_away(&self) -> Option<Found> {
        let held = self.held();
        let found = || Found { routes: held.routes.clone(), fresh: true, profile: held.profile.clone() };
        (held.is_away() && held.would_do()).then(found)
    }

    /// Until when a submit waits for the directory.
    pub(super) fn patience(&self, deadline: Instant) -> Instant {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let most = if self.held().would_do() { PATIENCE_WITH_ROUTES.min(left / 4) } else { PATIENCE };
        now + most.min(left)
    }
}
