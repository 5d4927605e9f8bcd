//! The other side: a node that nobody can reach holds a session at a relay, or at two, and serves what comes over it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use url::{Host, Url};

use super::link::{self, Bound, Door, Ended, Live, Terms};
use crate::crypto::digest::jitter;
use crate::crypto::pinned::Pin;
use crate::discovery::directory_client::DirectoryClient;
use crate::error::{Code, Error, Result};
use crate::options::{RELAY_PORT, RelayWorkerOptions, relay_place};
use crate::protocol::admission::Admission;
use crate::protocol::punching::Rendezvous;
use crate::protocol::relay::election::elect;
use crate::protocol::relay::pacing::Reconnect;
use crate::protocol::relay::path_of;
use crate::runtime::TaskGroup;
use crate::telemetry;
use crate::transport::endpoint::Endpoint;
use crate::transport::guard::Reach;
use crate::transport::http_client::HttpClient;
use crate::types::Secret;
use crate::wire::directory::{ListedRelay, RelayTicketReply};

/// Longest wait for the directory.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where published relays take tasks if they do not say.
const USUAL_HTTP_PORT: u16 = 9484;
/// How often in a row the same relay is tried before another is elected.
const LOYALTY: u32 = 2;
/// Relays that one election tries.
const MOST_TRIED: usize = 8;

/// How long a session that another has taken over may last: longer than any call.
const RETIRING: Duration = Duration::from_secs(720);
/// Sessions of one slot that are left to end what is under way: a relay may ask for a new one as often as it likes.
const MOST_RETIRING: usize = 4;
/// And how often it gets one.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// What one slot knows of its renewals.
struct Renewals {
    /// For sessions that are left to end.
    room: Arc<Semaphore>,
    next: Instant,
}

/// Where a node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Base URL: the relay's, and the path of this worker.
    pub(crate) endpoint: String,
    pub(crate) relay_host: String,
    pub(crate) relay_port: u16,
    /// Whether the node is bound there, or only about to be.
    pub(crate) bound: bool,
}

/// What a node's registration and its relay worker tell each other.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    token: watch::Sender<Option<Secret>>,
    place: watch::Sender<Option<Place>>,
}

impl Exchange {
    /// The directory gave a new token; the one before is worth nothing any more.
    pub(crate) fn set_token(&self, token: &str) {
        self.token.send_replace(Some(Secret::from(token)));
    }

    /// The node is reached by another way now, and by this one no more.
    pub(crate) fn clear(&self) {
        self.place.send_if_modified(|place| place.take().is_some());
    }

    /// Where the node is reached, as soon as that is known.
    pub(crate) fn place(&self) -> watch::Receiver<Option<Place>> {
        self.place.subscribe()
    }
}

/// A relay that may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Relay {
    /// Unknown if the operator named it.
    node_id: Option<String>,
    host: Host,
    port: u16,
    reach: Reach,
    /// Its HTTP side, if the directory named it.
    endpoint: Option<Url>,
    /// What its TLS is proven with; none for one that is called in plain text.
    pin: Option<Pin>,
}

impl Relay {
    fn is(&self, other: &Relay) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }

    /// Where the worker is reached through it; `http_port` is what the relay said.
    fn place(&self, worker_id: &str, http_port: Option<u16>, bound: bool) -> Place {
        let host = self.host.to_string();
        let said = self.endpoint.as_ref().and_then(Url::port_or_known_default);
        // A relay behind https ends TLS somewhere before its own port.
        let is_https = self.endpoint.as_ref().is_some_and(|url| url.scheme() == "https");
        let port = if is_https { said } else { http_port.or(said) }.unwrap_or(USUAL_HTTP_PORT);
        let path = self.endpoint.as_ref().map_or("", |url| url.path().trim_end_matches('/'));
        let scheme = if is_https { "https" } else { "http" };
        Place {
            endpoint: format!("{scheme}://{host}:{port}{path}{}", path_of(worker_id)),
            relay_host: host,
            relay_port: port,
            bound,
        }
    }
}

/// A node that is reached through relays.
pub(crate) struct Worker {
    pub(crate) node_id: String,
    pub(crate) intents: Vec<Arc<str>>,
    pub(crate) models: Vec<String>,
    pub(crate) options: RelayWorkerOptions,
    pub(crate) tasks: Arc<dyn Admission>,
    /// Who answers those who look for a direct path.
    pub(crate) rendezvous: Option<Arc<dyn Rendezvous>>,
    pub(crate) directory: DirectoryClient,
    pub(crate) http: HttpClient,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) most_body: usize,
    /// Where it is bound, the oldest binding first.
    pub(crate) held: Mutex<Vec<(usize, Place)>>,
    /// Which relay each slot is at, or about to be.
    pub(crate) at: Mutex<Vec<(usize, (Host, u16))>>,
}

impl Worker {
    /// Stays bound until the group closes; what is under way then may end.
    pub(crate) async fn stay(self, group: TaskGroup) {
        let (first, second) = (self.hold(0, &group), self.hold(1, &group));
        if self.options.relays > 1 {
            tokio::join!(first, second);
        } else {
            first.await;
        }
    }

    /// Holds one session.
    async fn hold(&self, slot: usize, group: &TaskGroup) {
        let mut reconnect = Reconnect::default();
        let mut renewals = Renewals { room: Arc::new(Semaphore::new(MOST_RETIRING)), next: Instant::now() };
        let mut last: Option<Relay> = None;
        let mut failures = 0;
        while !group.is_closing() {
            let loyal = last.clone().filter(|_| failures < LOYALTY);
            let relays = match loyal {
                Some(relay) => vec![relay],
                None => self.elect(slot, last.as_ref()).await,
            };
            let ended = self.try_each(slot, relays, &mut last, &mut renewals, group).await;
            self.leave(slot);
            match ended {
                Some(Ended::Closing) => return,
                // The relay said that it stops: another one, now.
                Some(Ended::Draining) => {
                    reconnect.succeeded();
                    failures = LOYALTY;
                    continue;
                }
                Some(Ended::Lost | Ended::Renewing) => {
                    reconnect.succeeded();
                    failures = 0;
                }
                None => failures += 1,
            }
            let pause = reconnect.failed(jitter());
            tracing::debug!(target: telemetry::RELAY, ?pause, "not bound at a relay");
            tokio::select! {
                () = group.closing() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tries relays until one binds, and serves what comes over that until it ends.
    async fn try_each(
        &self,
        slot: usize,
        relays: Vec<Relay>,
        last: &mut Option<Relay>,
        renewals: &mut Renewals,
        group: &TaskGroup,
    ) -> Option<Ended> {
        for relay in relays.into_iter().take(MOST_TRIED) {
            if !self.take(slot, &relay) {
                continue;
            }
            self.announce(&relay);
            let bound = tokio::select! {
                () = group.closing() => return Some(Ended::Closing),
                bound = self.bind(&relay) => bound,
            };
            match bound {
                Ok(bound) => {
                    let place = relay.place(&self.node_id, bound.http_port, true);
                    tracing::info!(target: telemetry::RELAY, relay = %relay.host, "bound at a relay");
                    *last = Some(relay.clone());
                    self.enter(slot, place);
                    let mut live = bound.begin(self.tasks.clone(), self.rendezvous.clone());
                    let ended = loop {
                        match live.serve(group).await {
                            Ended::Renewing => {
                                if let Some(ended) = self.renew(&relay, &mut live, renewals, group).await {
                                    break ended;
                                }
                            }
                            ended => break ended,
                        }
                    };
                    if ended != Ended::Lost {
                        // Callers that came this way get their answers, whatever is done next.
                        group.spawn("relayed", live.finish());
                    }
                    return Some(ended);
                }
                Err(error) => {
                    tracing::warn!(target: telemetry::RELAY, relay = %relay.host, %error, "a relay did not bind this node");
                }
            }
        }
        None
    }

    /// Binds anew beside the session that there is, which serves on until then, and then until what came over it has ended.
    /// Without luck it stays: the relay asks again. Says why it is over, if it is.
    async fn renew(&self, relay: &Relay, live: &mut Live, renewals: &mut Renewals, group: &TaskGroup) -> Option<Ended> {
        // Without room the relay has to ask again.
        let room = renewals.room.clone().try_acquire_owned().ok()?;
        let begin = renewals.next.max(Instant::now());
        renewals.next = begin + RENEW_EVERY;
        let mut over = None;
        let bound = {
            let mut bound = std::pin::pin!(async {
                tokio::time::sleep_until(begin).await;
                self.bind(relay).await
            });
            loop {
                tokio::select! {
                    biased;
                    bound = &mut bound => break bound,
                    () = group.closing(), if over.is_some() => return Some(Ended::Closing),
                    ended = live.serve(group), if over.is_none() => match ended {
                        Ended::Renewing => {}
                        // The relay may end this one before it is heard that the other is bound.
                        Ended::Lost => over = Some(ended),
                        ended => return Some(ended),
                    },
                }
            }
        };
        match bound {
            Ok(bound) => {
                let old = std::mem::replace(live, bound.begin(self.tasks.clone(), self.rendezvous.clone()));
                let within = group.clone();
                group.spawn("relayed", async move {
                    let _ = tokio::time::timeout(RETIRING, old.retire(within)).await;
                    drop(room);
                });
                None
            }
            Err(error) => {
                tracing::warn!(target: telemetry::RELAY, relay = %relay.host, %error, "a relay did not bind this node anew");
                over
            }
        }
    }

    async fn bind(&self, relay: &Relay) -> Result<Bound> {
        let addrs =
            self.http.resolve(&relay.host, relay.reach).await.map_err(|no| link::unreachable(no, &relay.host))?;
        let terms = Terms {
            worker_id: &self.node_id,
            intent: self.intents.first().map_or("", |intent| intent),
            models: &self.models,
            ask_after: Duration::from_millis(self.options.ping_interval_ms),
            answer_within: Duration::from_millis(self.options.pong_timeout_ms),
            most_body: self.most_body,
            punches: self.rendezvous.is_some(),
        };
        let place = Door { addrs: &addrs, port: relay.port, pin: relay.pin };
        link::bind(place, &terms, async |ours| {
            let ticket = self.ticket(relay.node_id.as_deref().filter(|_| ours)).await?;
            // What the directory signs now is held against what it listed before.
            let known = ticket.as_ref().and_then(|ticket| ticket.relay_tls_spki_sha256.as_deref());
            if known.is_some_and(|known| Pin::parse(known) != relay.pin) {
                let why = "the directory knows the relay by another key than the one that answers";
                return Err(Error::new(Code::RelayRefused, why));
            }
            Ok(ticket.map(|ticket| ticket.ticket))
        })
        .await
    }

    /// A ticket with the token of this moment: every registration makes a new one, and ends the one before. None if the
    /// directory gives no tickets.
    async fn ticket(&self, relay: Option<&str>) -> Result<Option<RelayTicketReply>> {
        let mut token = self.exchange.token.subscribe();
        let deadline = Instant::now() + PATIENCE;
        for last in [false, true] {
            let held = tokio::time::timeout_at(deadline, token.wait_for(Option::is_some)).await;
            let held = held.ok().and_then(Result::ok).and_then(|held| held.clone());
            let Some(held) = held else { return Ok(None) };
            token.mark_unchanged();
            match self.directory.relay_ticket(&held, &self.node_id, relay, deadline).await {
                Err(error) if error.http_status() == Some(401) && !last => {
                    // A registration that was under way has made it stale; the new one is about to come.
                    let _ = tokio::time::timeout(Duration::from_secs(2), token.changed()).await;
                }
                other => return other,
            }
        }
        Ok(None)
    }

    /// The relays to try, best first; never the one of the other slot.
    async fn elect(&self, slot: usize, last: Option<&Relay>) -> Vec<Relay> {
        if let Some(named) = &self.options.relay {
            let Some((host, port)) = relay_place(named) else { return Vec::new() };
            let pin = self.options.relay_key.as_deref().and_then(Pin::parse);
            return vec![Relay { node_id: None, host, port, reach: Reach::Private, endpoint: None, pin }];
        }
        let reach = self.directory.reach_of_nodes();
        let candidates = self.ask().await;
        let mut relays: Vec<Relay> =
            elect(&self.node_id, candidates).iter().filter_map(|candidate| usable(candidate, reach)).collect();
        // The one that was lost comes last, if it is there at all.
        if let Some(last) = last {
            relays.sort_by_key(|relay| relay.is(last));
        }
        relays.retain(|relay| !self.is_taken(slot, relay));
        relays
    }

    /// What the directory knows: a relay is listed under the intents that it serves itself, so ours are asked for, and the
    /// one that most nodes serve.
    async fn ask(&self) -> Vec<ListedRelay> {
        let mut intents: Vec<&str> = self.intents.iter().map(|intent| &**intent).take(3).collect();
        if !intents.contains(&crate::types::CHAT) {
            intents.push(crate::types::CHAT);
        }
        let mut found = Vec::new();
        for intent in intents {
            match self.directory.relays(intent, Instant::now() + PATIENCE).await {
                Ok(relays) => found.extend(relays),
                Err(error) => {
                    tracing::warn!(target: telemetry::RELAY, code = %error.code(), "the directory named no relays");
                }
            }
        }
        found
    }

    fn at(&self) -> std::sync::MutexGuard<'_, Vec<(usize, (Host, u16))>> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_taken(&self, slot: usize, relay: &Relay) -> bool {
        self.at().iter().any(|(other, (host, port))| *other != slot && *host == relay.host && *port == relay.port)
    }

    fn take(&self, slot: usize, relay: &Relay) -> bool {
        if self.is_taken(slot, relay) {
            return false;
        }
        let mut at = self.at();
        at.retain(|(other, _)| *other != slot);
        at.push((slot, (relay.host.clone(), relay.port)));
        true
    }

    /// The first registration, without which there is no ticket, already names the place that is about to be.
    fn announce(&self, relay: &Relay) {
        let place = relay.place(&self.node_id, None, false);
        self.exchange.place.send_if_modified(|current| {
            let is_new = current.as_ref().is_none_or(|current| !current.bound && *current != place);
            if is_new {
                *current = Some(place.clone());
            }
            is_new
        });
    }

    fn enter(&self, slot: usize, place: Place) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push((slot, place));
        self.publish(&held);
    }

    fn leave(&self, slot: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = held.len();
        held.retain(|(other, _)| *other != slot);
        if held.len() != before {
            self.publish(&held);
        }
    }

    /// Callers are sent to the oldest binding. While there is none, they are left where they were: a relay that comes back
    /// has the node back at the same place.
    fn publish(&self, held: &[(usize, Place)]) {
        if let Some((_, place)) = held.first() {
            self.exchange.place.send_if_modified(|current| {
                let is_new = current.as_ref() != Some(place);
                if is_new {
                    *current = Some(place.clone());
                }
                is_new
            });
        }
    }
}

fn usable(candidate: &ListedRelay, reach: Reach) -> Option<Relay> {
    let endpoint = Endpoint::parse("a relay", &candidate.endpoint).ok()?;
    let refused = |error: Error| {
        tracing::debug!(target: telemetry::RELAY, code = %error.code(), "a relay is at a place that may not be called");
    };
    endpoint.judge(reach).map_err(refused).ok()?;
    let url = Url::parse(endpoint.as_str()).ok()?;
    // A key that nobody can read does not make plain text of TLS.
    let pin = candidate.pin().map(|pin| Pin::parse(pin).ok_or(())).transpose().ok()?;
    Some(Relay {
        node_id: Some(candidate.node_id.clone()),
        host: url.host()?.to_owned(),
        port: candidate.relay_accept_port.unwrap_or(RELAY_PORT),
        reach,
        endpoint: Some(url),
        pin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(endpoint: &str) -> ListedRelay {
        ListedRelay::new("r", endpoint)
    }

    fn place(endpoint: &str, http_port: Option<u16>) -> String {
        usable(&candidate(endpoint), Reach::Private).unwrap().place("w", http_port, true).endpoint
    }

    #[test]
    fn a_worker_is_reached_under_its_relays_own_url() {
        assert_eq!(place("http://r.example:9500", Some(9500)), "http://r.example:9500/v1/relay-for/w");
        assert_eq!(place("http://r.example:9500", Some(9600)), "http://r.example:9600/v1/relay-for/w");
        assert_eq!(place("http://r.example", None), "http://r.example:80/v1/relay-for/w");
        assert_eq!(place("https://r.example/x/", Some(9484)), "https://r.example:443/x/v1/relay-for/w");
        assert_eq!(place("http://[2001:db8::1]:7", None), "http://[2001:db8::1]:7/v1/relay-for/w");
        let (host, port) = relay_place("r.example:1").unwrap();
        let named = Relay { node_id: None, host, port, reach: Reach::Private, endpoint: None, pin: None };
        assert_eq!(named.place("w", None, true).endpoint, "http://r.example:9484/v1/relay-for/w");
        assert_eq!(named.place("w", Some(80), true).endpoint, "http://r.example:80/v1/relay-for/w");
    }

    #[test]
    fn relays_are_judged_before_they_are_called() {
        for endpoint in
            ["http://127.0.0.1:1", "http://10.0.0.1", "http://[::1]", "http://169.254.169.254", "http://x.local"]
        {
            assert_eq!(usable(&candidate(endpoint), Reach::Public), None, "{endpoint}");
        }
        assert!(usable(&candidate("http://127.0.0.1:1"), Reach::Loopback).is_some());
        let listed = |pin: &str| ListedRelay {
            transport_metadata: Some(serde_json::json!({"relay_tls_spki_sha256": pin})),
            ..candidate("http://r.example")
        };
        assert!(usable(&listed(&"0a".repeat(32)), Reach::Public).unwrap().pin.is_some());
        assert_eq!(usable(&listed("0a"), Reach::Public), None, "no plain text for one that speaks TLS");
        for endpoint in ["", "x", "ftp://r.example", "http://u@r.example"] {
            assert_eq!(usable(&candidate(endpoint), Reach::Private), None, "{endpoint}");
        }
    }
}
