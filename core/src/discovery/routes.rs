//! Routes that a client holds: asked for once, used by many submits, renewed in the background.
//!
//! A question (intent, region, model, …) has a slot. Where the directory gives tickets, a slot is filled lazily: one
//! ticket for the first submit, up to [`WANTED`] in the background, another when those that are held failed. Where it
//! gives none, a slot holds the list that discovery answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::directory_client::DirectoryClient;
pub(crate) use super::held::{Found, Route};
use super::held::{Held, PATIENCE, Question, Slot};
use super::tickets::{Disclosed, Tickets, Waiting, unavailable};
use crate::crypto::cx::SealingKey;
use crate::crypto::ticket::ConsumerClaims;
use crate::error::{Code, Error, Result};
use crate::options::{Discover, RouteDiscovery};
use crate::protocol::profiles::UNSUPPORTED;
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::transport::native_client::Place;
use crate::types::{NodeInfo, Traceparent};

/// A ticketed route is not used in its last seconds.
const SPARE: Duration = Duration::from_secs(10);
/// Ticketed routes that are held for one question.
const WANTED: usize = 3;
/// How long it is remembered that the directory has no further node for a question.
const EXHAUSTED_FOR: Duration = Duration::from_secs(30);
/// Different questions whose answers are held.
const MOST_HELD: usize = 1_024;
/// Most ids that a directory lets one exclude, and the shortest that it takes.
const MOST_EXCLUDED: usize = 10;
const SHORTEST_EXCLUDED: usize = 4;

/// Every route that a client holds.
pub(crate) struct Routes {
    directory: DirectoryClient,
    tickets: Tickets,
    mode: RouteDiscovery,
    reach: Reach,
    ttl: Duration,
    slots: Mutex<HashMap<Question, Arc<Slot>>>,
    group: TaskGroup,
}

impl Routes {
    pub(crate) fn new(
        directory: DirectoryClient,
        mode: RouteDiscovery,
        private: bool,
        ttl: Duration,
        group: TaskGroup,
    ) -> Arc<Self> {
        let reach = if private { Reach::Private } else { directory.reach_of_nodes() };
        let tickets = Tickets::new(directory.clone());
        Arc::new(Routes { directory, tickets, mode, reach, ttl, slots: Mutex::default(), group })
    }

    pub(crate) fn directory(&self) -> &DirectoryClient {
        &self.directory
    }

    /// Checks a consumer token with the directory's key.
    pub(super) async fn verify_consumer_token(
        &self,
        token: &str,
        caller: Option<&str>,
        target: &str,
        intent: &str,
        deadline: Instant,
    ) -> Result<ConsumerClaims> {
        let checked = self.tickets.verify_consumer_token(token, caller, target, intent, deadline).await?;
        checked.map_err(|fault| {
            let why = format!("the directory's consumer token was refused: {}", fault.text());
            Error::new(Code::ConsumerAuthRequired, why)
        })
    }

    fn asks_for_tickets(&self, query: &Discover) -> bool {
        match self.mode {
            // A profile is negotiated by discovery only.
            _ if query.profile_request.is_some() => false,
            RouteDiscovery::Legacy => false,
            RouteDiscovery::Ticketed => true,
            RouteDiscovery::Auto => !self.tickets.are_unavailable(),
        }
    }

    /// Routes for a question. Within their time they cost nothing and are renewed in the background.
    pub(crate) async fn find(
        self: &Arc<Self>,
        query: &Discover,
        trace: &Traceparent,
        deadline: Instant,
    ) -> Result<Found> {
        let slot = self.slot(query);
        let patience = slot.patience(deadline);
        if self.asks_for_tickets(query) {
            let live = slot.live(Instant::now());
            if !live.is_empty() {
                self.want_more(&slot, query);
                return Ok(Found { routes: live, fresh: false, profile: None });
            }
            if let Some(found) = slot.while_away() {
                return Ok(found);
            }
            let asked = self.first_ticket(&slot, query, trace, patience).await;
            match asked {
                Err(error) if error.code() == Code::TicketsUnavailable && self.mode == RouteDiscovery::Auto => {}
                Err(error) => {
                    let found = slot.stale(error)?;
                    // It may only have been slow: in the background there is more patience.
                    self.want_more(&slot, query);
                    return Ok(found);
                }
                Ok(found) => {
                    self.want_more(&slot, query);
                    return Ok(found);
                }
            }
        }
        if let Some(found) = self.listed(&slot, query).or_else(|| slot.while_away()) {
            return Ok(found);
        }
        let found = self.list(&slot, query, Some(trace), patience).await?;
        if slot.held().is_away() {
            self.renew_list(&slot, query);
        }
        Ok(found)
    }

    /// Further routes for a submit whose `tried` ones did not serve it: those that came in meanwhile, else one more
    /// ticket, or the list anew unless it was asked for just now.
    pub(crate) async fn more(
        self: &Arc<Self>,
        query: &Discover,
        tried: &[Arc<Route>],
        fresh: bool,
        trace: &Traceparent,
        deadline: Instant,
    ) -> Vec<Arc<Route>> {
        let exclude = tried.iter().map(|route| route.node.node_id.clone()).collect();
        self.besides(query, tried, exclude, fresh, trace, deadline).await
    }

    /// Nodes that are gone from where they were tried, and are reached elsewhere by now. If none is, what is held stays.
    pub(crate) async fn moved(
        self: &Arc<Self>,
        query: &Discover,
        tried: &[Arc<Route>],
        is_gone: impl Fn(&Route) -> bool,
        trace: &Traceparent,
        deadline: Instant,
    ) -> Vec<Arc<Route>> {
        let (gone, stay): (Vec<_>, Vec<_>) = tried.iter().partition(|route| is_gone(route));
        let slot = self.slot(query);
        let was_tried = |held: &Arc<Route>| gone.iter().any(|old| old.task_url == held.task_url);
        let (away, kept) = std::mem::take(&mut slot.held().routes).into_iter().partition::<Vec<_>, _>(was_tried);
        slot.held().routes.extend(kept);
        let exclude = stay.iter().map(|route| route.node.node_id.clone()).collect();
        let found = self.besides(query, tried, exclude, false, trace, deadline).await;
        if found.is_empty() {
            slot.put_back(away);
        }
        found
    }

    /// Whether the directory may be asked for nodes that were there a moment ago; who asks for all says so for two seconds.
    pub(crate) fn may_search(&self, query: &Discover) -> bool {
        self.slot(query).may_search()
    }

    /// Routes that are none of those that were tried; `exclude` are the nodes that no ticket is wanted for.
    async fn besides(
        self: &Arc<Self>,
        query: &Discover,
        tried: &[Arc<Route>],
        exclude: Vec<String>,
        fresh: bool,
        trace: &Traceparent,
        deadline: Instant,
    ) -> Vec<Arc<Route>> {
        let is_new = |route: &Arc<Route>| {
            !tried.iter().any(|old| old.node.node_id == route.node.node_id && old.task_url == route.task_url)
        };
        let slot = self.slot(query);
        let patience = slot.patience(deadline);
        let mut found: Vec<Arc<Route>> = slot.live(Instant::now()).into_iter().filter(|route| is_new(route)).collect();
        if !found.is_empty() {
            return found;
        }
        if !self.asks_for_tickets(query) {
            if !fresh {
                found = self.list(&slot, query, Some(trace), patience).await.map_or_else(|_| Vec::new(), |f| f.routes);
                found.retain(is_new);
            }
            return found;
        }
        if let Ok(_turn) = turn(&slot, patience).await {
            // Somebody else may have asked meanwhile.
            found = slot.live(Instant::now()).into_iter().filter(|route| is_new(route)).collect();
            if !found.is_empty() {
                return found;
            }
            if let Ok(Some(route)) = self.ticket(&slot, query, exclude, Waiting::Submit, Some(trace), patience).await {
                found.extend(is_new(&route).then_some(route));
            }
        }
        found
    }

    fn slot(&self, query: &Discover) -> Arc<Slot> {
        let question = Question::new(query);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MOST_HELD && !slots.contains_key(&question) {
            // Rare enough that asking everything anew costs less than keeping an order.
            slots.clear();
        }
        slots.entry(question).or_default().clone()
    }

    // --- tickets ---

    async fn first_ticket(
        &self,
        slot: &Slot,
        query: &Discover,
        trace: &Traceparent,
        deadline: Instant,
    ) -> Result<Found> {
        let waited = slot.asking.try_lock().is_err();
        let _turn = turn(slot, deadline).await?;
        // Who waited takes what the other was told.
        let live = slot.live(Instant::now());
        if !live.is_empty() {
            return Ok(Found { routes: live, fresh: true, profile: None });
        }
        if waited && self.tickets.are_unavailable() {
            return Err(unavailable());
        }
        let mut unusable: Vec<String> = Vec::new();
        let mut refused = None;
        loop {
            match self.ticket(slot, query, unusable.clone(), Waiting::Submit, Some(trace), deadline).await {
                Ok(Some(route)) => return Ok(Found { routes: vec![route], fresh: true, profile: None }),
                Ok(None) => {
                    return Err(refused.unwrap_or_else(|| no_nodes(&query.intent, "none is registered that fits")));
                }
                // A node that may not be called is not the only one: the next ticket is for another.
                Err(Unusable::Node(node_id, error)) if unusable.len() + 1 < WANTED => {
                    unusable.push(node_id);
                    refused.get_or_insert(error);
                }
                Err(Unusable::Node(_, error) | Unusable::Answer(error)) => return Err(error),
            }
        }
    }

    /// Asks for one ticket for another node than those excluded and those that are held and young.
    async fn ticket(
        &self,
        slot: &Slot,
        query: &Discover,
        mut exclude: Vec<String>,
        waiting: Waiting,
        trace: Option<&Traceparent>,
        deadline: Instant,
    ) -> Result<Option<Arc<Route>>, Unusable> {
        let now = Instant::now();
        let young = slot.held().routes.iter().filter(|route| route.is_young(now)).cloned().collect::<Vec<_>>();
        exclude.extend(young.iter().map(|route| route.node.node_id.clone()));
        exclude.sort_unstable();
        exclude.dedup();
        if exclude.len() > MOST_EXCLUDED || exclude.iter().any(|id| id.len() < SHORTEST_EXCLUDED) {
            return Ok(None);
        }
        // Whole ids: the first eight characters, as the published clients send, would exclude siblings too.
        let asked: Vec<&str> = exclude.iter().map(String::as_str).collect();
        let mut disclosed = self.tickets.ask(query, &asked, waiting, trace, deadline).await?;
        if disclosed.as_ref().is_some_and(|new| exclude.contains(&new.node.node_id)) {
            // A directory that compares nothing but prefixes of eight.
            let asked: Vec<&str> = exclude.iter().map(|id| id.get(..8).unwrap_or(id)).collect();
            disclosed = self.tickets.ask(query, &asked, waiting, trace, deadline).await?;
        }
        let Some(Disclosed { node, id_prefix, lasts }) = disclosed.filter(|new| !exclude.contains(&new.node.node_id))
        else {
            slot.held().exhausted = Some(Instant::now() + EXHAUSTED_FOR);
            return Ok(None);
        };
        let now = Instant::now();
        let node_id = node.node_id.clone();
        let judged = self.judge(node, query);
        let judged = judged.and_then(|route| route.ok_or_else(|| no_nodes(&query.intent, "the one named is no use")));
        let mut route = judged.map_err(|error| match error.code() {
            // Not the caller's URL, but the node's.
            Code::ConfigInvalid => {
                let why = format!("node {node_id} has an endpoint that is no base URL; nothing was sent");
                Unusable::Node(node_id, Error::new(Code::EndpointRefused, why))
            }
            _ => Unusable::Node(node_id, error),
        })?;
        route.ticket = Some(id_prefix);
        route.until = Some(now + lasts.saturating_sub(SPARE));
        let route = Arc::new(route);
        slot.take_in(&route, now);
        Ok(Some(route))
    }

    /// Sees to it that enough young routes are held, in the background.
    fn want_more(self: &Arc<Self>, slot: &Arc<Slot>, query: &Discover) {
        let now = Instant::now();
        let enough = {
            let held = slot.held();
            held.exhausted.is_some_and(|until| until > now)
                || held.routes.iter().filter(|route| route.is_young(now)).count() >= WANTED
        };
        if enough || slot.asking.try_lock().is_err() || self.group.is_closing() {
            return;
        }
        let (routes, slot, query) = (self.clone(), slot.clone(), query.clone());
        self.group.spawn("further routes", async move {
            let deadline = Instant::now() + PATIENCE;
            let Ok(_turn) = turn(&slot, deadline).await else { return };
            let mut skip: Vec<String> = Vec::new();
            for _ in 0..WANTED {
                let young = { slot.held().routes.iter().filter(|route| route.is_young(Instant::now())).count() };
                if young >= WANTED {
                    break;
                }
                // A failure costs nothing now: the next submit that needs a route says what it was told.
                match routes.ticket(&slot, &query, skip.clone(), Waiting::Nobody, None, deadline).await {
                    Ok(Some(_)) => {}
                    Err(Unusable::Node(node_id, _)) => skip.push(node_id),
                    Ok(None) => break,
                    Err(Unusable::Answer(_)) => {
                        slot.held().exhausted = Some(Instant::now() + PATIENCE);
                        break;
                    }
                }
            }
        });
    }

    // --- lists ---

    /// The list that is held: within its time as it is, for as long again while it is renewed in the background.
    fn listed(self: &Arc<Self>, slot: &Arc<Slot>, query: &Discover) -> Option<Found> {
        let held = slot.held().clone();
        let age = held.since?.elapsed();
        if age >= self.ttl && age < self.ttl * 2 {
            self.renew_list(slot, query);
        }
        (age < self.ttl * 2).then_some(Found { routes: held.routes, fresh: false, profile: held.profile })
    }

    /// Asks for the list in the background, unless somebody is asking.
    fn renew_list(self: &Arc<Self>, slot: &Arc<Slot>, query: &Discover) {
        if slot.asking.try_lock().is_err() || self.group.is_closing() {
            return;
        }
        let (routes, slot, query) = (self.clone(), slot.clone(), query.clone());
        self.group.spawn("renew routes", async move {
            let _ = routes.list(&slot, &query, None, Instant::now() + PATIENCE).await;
        });
    }

    /// Asks for the list, one caller at a time; who waited takes what the other was told.
    async fn list(
        &self,
        slot: &Slot,
        query: &Discover,
        trace: Option<&Traceparent>,
        deadline: Instant,
    ) -> Result<Found> {
        let begun = Instant::now();
        let _turn = match turn(slot, deadline).await {
            Ok(turn) => turn,
            Err(error) => return slot.stale(error),
        };
        {
            let held = slot.held();
            if held.since.is_some_and(|since| since >= begun) {
                return Ok(Found { routes: held.routes.clone(), fresh: true, profile: held.profile.clone() });
            }
        }
        let listed = match self.directory.discover(query, trace, deadline).await {
            Ok(listed) => listed,
            Err(error) if error.wire_code() == Some(UNSUPPORTED) => return Err(unsupported()),
            Err(error) => return slot.stale(error),
        };
        let required = query.profile_request.as_ref().is_some_and(|profile| profile.required);
        let compatible =
            |p: &crate::wire::directory::ProfileNegotiation| p.status == "compatible" && p.dispatch_allowed;
        if required && !listed.profile.as_ref().is_some_and(compatible) {
            return Err(unsupported());
        }
        let routes = self.usable(listed.nodes, query)?;
        let profile = listed.profile.map(|profile| profile.status);
        let searched = slot.held().searched;
        let held = Held { routes, since: Some(Instant::now()), exhausted: None, away: None, profile, searched };
        slot.held().clone_from(&held);
        Ok(Found { routes: held.routes, fresh: true, profile: held.profile })
    }

    fn usable(&self, nodes: Vec<NodeInfo>, query: &Discover) -> Result<Vec<Arc<Route>>> {
        let listed = nodes.len();
        let mut refused = None;
        let mut routes = Vec::with_capacity(listed);
        for node in nodes {
            let node_id = node.node_id.clone();
            match self.judge(node, query) {
                Ok(Some(route)) => routes.push(Arc::new(route)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(target: telemetry::CLIENT, node_id = %node_id, code = %error.code(), "node skipped");
                    if error.code() == Code::EndpointRefused {
                        refused.get_or_insert((node_id, error));
                    }
                }
            }
        }
        match (routes.is_empty(), refused, listed) {
            (false, _, _) => Ok(routes),
            (true, Some((node_id, error)), _) => Err(Error::new(
                Code::EndpointRefused,
                format!("no node that serves {} may be called, such as {node_id}: {}", query.intent, error.message()),
            )
            .with_wire_code("IICP-ENDPOINT-REFUSED")),
            (true, None, 0) => Err(no_nodes(&query.intent, "none is registered")),
            (true, None, _) => Err(no_nodes(&query.intent, "none of those listed is available")),
        }
    }
}

impl Routes {
    /// Makes a route of a node that is available and may be called; none if it is not wanted.
    fn judge(&self, node: NodeInfo, query: &Discover) -> Result<Option<Route>> {
        let endpoint = Endpoint::parse("the node", &node.endpoint)?;
        let browser_usable =
            node.browser_usable.unwrap_or_else(|| endpoint.as_str().starts_with("https:") || endpoint.is_loopback());
        if !node.available || (query.browser_usable_only && !browser_usable) {
            return Ok(None);
        }
        endpoint.judge(self.reach)?;
        let task_url = endpoint.join("/v1/task")?;
        let key = node.cx_public_key.as_ref().map(|key| SealingKey::read(key, self.directory.now_unix_s()));
        let native = node.transport_endpoint.as_deref().and_then(|text| Place::parse(text, self.reach));
        Ok(Some(Route {
            node,
            task_url,
            reach: self.reach,
            native,
            key,
            ticket: None,
            since: Instant::now(),
            until: None,
        }))
    }
}

fn unsupported() -> Error {
    let why = "the directory does not support the profile that is required; no task was sent";
    Error::new(Code::ProfileUnsupported, why).with_wire_code(UNSUPPORTED)
}

/// Why a ticket brought no route.
enum Unusable {
    /// The node that it names may not be called.
    Node(String, Error),
    /// The directory gave none.
    Answer(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        Unusable::Answer(error)
    }
}

async fn turn(slot: &Slot, deadline: Instant) -> Result<tokio::sync::MutexGuard<'_, ()>> {
    tokio::time::timeout_at(deadline, slot.asking.lock())
        .await
        .map_err(|_| Error::new(Code::DirectoryUnreachable, "the directory did not answer in time"))
}

fn no_nodes(intent: &str, why: &str) -> Error {
    Error::new(Code::NoNodes, format!("no node serves {intent} now: {why}; start one, or ask again later"))
}
