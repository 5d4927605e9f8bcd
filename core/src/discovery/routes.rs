//! Routes that a client holds: asked for once, used by many submits, renewed in the background.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::directory_client::DirectoryClient;
use crate::error::{Code, Error, Result};
use crate::options::Discover;
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::types::{NodeInfo, Traceparent};

/// Longest wait for the directory, within the submit's own deadline.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long routes outlive a directory that is away.
const STALE_FOR: Duration = Duration::from_secs(600);
/// Different questions whose answers are held.
const MOST_HELD: usize = 1_024;

/// A node that may be sent tasks.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) node_id: String,
    pub(crate) task_url: Url,
    pub(crate) reach: Reach,
}

/// What a submit gets.
pub(crate) struct Found {
    pub(crate) routes: Arc<[Route]>,
    /// Whether the directory was asked for this submit.
    pub(crate) fresh: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    intent: String,
    region: Option<String>,
    qos: Option<&'static str>,
    model: Option<String>,
    min_reputation: Option<u64>,
}

impl Key {
    fn new(query: &Discover) -> Self {
        Key {
            intent: query.intent.clone(),
            region: query.region.clone(),
            qos: query.qos.map(crate::types::Qos::as_str),
            model: query.model.clone(),
            min_reputation: query.min_reputation.map(f64::to_bits),
        }
    }
}

#[derive(Clone)]
struct Held {
    routes: Arc<[Route]>,
    since: Instant,
}

/// One question: its answer, and the right to ask it.
#[derive(Default)]
struct Slot {
    held: Mutex<Option<Held>>,
    asking: tokio::sync::Mutex<()>,
}

impl Slot {
    fn held(&self) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hold(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// Every route that a client holds.
pub(crate) struct Routes {
    directory: DirectoryClient,
    ttl: Duration,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    group: TaskGroup,
}

impl Routes {
    pub(crate) fn new(directory: DirectoryClient, ttl: Duration, group: TaskGroup) -> Arc<Self> {
        Arc::new(Routes { directory, ttl, slots: Mutex::default(), group })
    }

    pub(crate) fn directory(&self) -> &DirectoryClient {
        &self.directory
    }

    /// Routes for a question. Within their time they cost nothing; for as long again they are used while they are
    /// renewed in the background; after that, and when they were [`Routes::doubt`]ed, the directory is asked first.
    pub(crate) async fn find(
        self: &Arc<Self>,
        query: &Discover,
        trace: &Traceparent,
        deadline: Instant,
    ) -> Result<Found> {
        let slot = self.slot(query);
        if let Some(held) = slot.held() {
            let age = held.since.elapsed();
            if age >= self.ttl && age < self.ttl * 2 {
                self.renew(&slot, query);
            }
            if age < self.ttl * 2 {
                return Ok(Found { routes: held.routes, fresh: false });
            }
        }
        self.ask(&slot, query, Some(trace), deadline.min(Instant::now() + PATIENCE)).await
    }

    /// Drops what is held for a question: its nodes could not be reached.
    pub(crate) fn doubt(&self, query: &Discover) {
        self.slot(query).hold(None);
    }

    fn slot(&self, query: &Discover) -> Arc<Slot> {
        let key = Key::new(query);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MOST_HELD && !slots.contains_key(&key) {
            // Rare enough that asking everything anew costs less than keeping an order.
            slots.clear();
        }
        slots.entry(key).or_default().clone()
    }

    fn renew(self: &Arc<Self>, slot: &Arc<Slot>, query: &Discover) {
        if slot.asking.try_lock().is_err() || self.group.is_closing() {
            return;
        }
        let (routes, slot, query) = (self.clone(), slot.clone(), query.clone());
        self.group.spawn("renew routes", async move {
            // A failure costs nothing now: the next submit asks, and says what it was told.
            let _ = routes.ask(&slot, &query, None, Instant::now() + PATIENCE).await;
        });
    }

    /// Asks the directory, one caller at a time; who waited takes what the other was told.
    async fn ask(
        &self,
        slot: &Slot,
        query: &Discover,
        trace: Option<&Traceparent>,
        deadline: Instant,
    ) -> Result<Found> {
        let begun = Instant::now();
        let _turn = slot.asking.lock().await;
        if let Some(held) = slot.held().filter(|held| held.since >= begun) {
            return Ok(Found { routes: held.routes, fresh: true });
        }
        let answer = self.directory.discover(query, trace, deadline).await;
        match answer {
            Ok(nodes) => {
                let routes: Arc<[Route]> = usable(nodes, &query.intent, self.directory.reach_of_nodes())?.into();
                slot.hold(Some(Held { routes: routes.clone(), since: Instant::now() }));
                Ok(Found { routes, fresh: true })
            }
            Err(error) => {
                // The mesh goes on without its directory for a while.
                let kept = slot.held().filter(|held| error.retryable() && held.since.elapsed() < STALE_FOR);
                let Some(held) = kept else { return Err(error) };
                tracing::warn!(target: telemetry::CLIENT, code = %error.code(), "using older routes: the directory is away");
                Ok(Found { routes: held.routes, fresh: true })
            }
        }
    }
}

fn usable(nodes: Vec<NodeInfo>, intent: &str, reach: Reach) -> Result<Vec<Route>> {
    let listed = nodes.len();
    let mut refused = None;
    let mut routes = Vec::with_capacity(listed);
    for node in nodes.into_iter().filter(|node| node.available) {
        let judged = Endpoint::parse("the node", &node.endpoint).and_then(|endpoint| {
            endpoint.judge(reach)?;
            endpoint.join("/v1/task")
        });
        match judged {
            Ok(task_url) => routes.push(Route { node_id: node.node_id, task_url, reach }),
            Err(error) => {
                tracing::debug!(target: telemetry::CLIENT, node_id = %node.node_id, code = %error.code(), "node skipped");
                if error.code() == Code::EndpointRefused {
                    refused = Some((node.node_id, error));
                }
            }
        }
    }
    match (routes.is_empty(), refused) {
        (false, _) => Ok(routes),
        (true, Some((node_id, error))) => {
            let wire_code = error.wire_code().unwrap_or_default().to_owned();
            let message = format!("no node that serves {intent} may be called, such as {node_id}: {}", error.message());
            Err(Error::new(Code::EndpointRefused, message).with_wire_code(wire_code))
        }
        (true, None) => {
            let why = if listed == 0 { "none is registered" } else { "none of those listed is available" };
            Err(Error::new(Code::NoNodes, format!("no node serves {intent} now: {why}; start one, or ask again later")))
        }
    }
}
