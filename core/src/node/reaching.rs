//! The way by which the node is reached, if that is not simply where it listens: what the ladder found, or a relay.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{State, native, punching, relaying};
use crate::discovery::directory_client::DirectoryClient;
use crate::error::{Error, Result};
use crate::nat::{Arrivals, Ladder, Path, Standing, Tunnels};
use crate::options::{ExposureMode, NatMode, NatTunnel, NatType, NodeOptions, TransportMethod};
use crate::relay::Place;
use crate::runtime::TaskGroup;
use crate::transport::http_client::HttpClient;
use crate::types::{NatReport, Rung, RungReport, RungState};

/// How long a relay is kept after a better way was found: until the directory has been told, and callers have come over.
const OVERLAP: Duration = Duration::from_secs(10);

/// How the node is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Own(Path),
    Relay(Place),
}

impl Way {
    pub(super) fn endpoint(&self) -> &str {
        match self {
            Way::Own(path) => &path.endpoint,
            Way::Relay(place) => &place.endpoint,
        }
    }

    /// Where native frames are taken; behind a relay nobody comes to it directly.
    pub(super) fn native(&self, options: &NodeOptions) -> Option<String> {
        match self {
            Way::Own(path) if !path.is_transparent() => None,
            Way::Own(path) => native::endpoint(options, &super::Endpoint::parse("the node", &path.endpoint).ok()?),
            Way::Relay(_) => None,
        }
    }

    pub(super) fn method(&self) -> TransportMethod {
        match self {
            Way::Own(path) => path.method(),
            Way::Relay(_) => TransportMethod::TurnRelay,
        }
    }

    /// Known for a relay's worker, so that the directory does not ask it whether it answers. Of its own way it shall.
    pub(super) fn nat_type(&self) -> NatType {
        match self {
            Way::Own(_) => NatType::Unknown,
            Way::Relay(_) => NatType::Symmetric,
        }
    }

    pub(super) fn exposure(&self) -> ExposureMode {
        match self {
            Way::Own(path) => path.exposure(),
            Way::Relay(_) => ExposureMode::RelayRequired,
        }
    }
}

/// Whether a node has to look for the way by which it is reached.
pub(super) fn has_to_climb(options: &NodeOptions, directory: Option<&DirectoryClient>, is_everywhere: bool) -> bool {
    let is_elsewhere = directory.is_some_and(|directory| !directory.is_loopback());
    options.nat.mode == NatMode::Auto && is_everywhere && is_elsewhere && options.relay_worker.is_none()
}

/// Whether the node may come to be reached through a relay.
pub(super) fn may_need_relay(options: &NodeOptions, climbs: bool) -> bool {
    options.relay_worker.is_some() || climbs && options.nat.relay && options.relay_server.is_none()
}

impl State {
    /// How the node is reached; none if that is not known yet, or where it listens.
    pub(super) fn way(&self) -> Option<Way> {
        if let Some(path) = self.standing.as_ref().and_then(|standing| standing.path()) {
            return Some(Way::Own(path));
        }
        self.exchange.as_ref()?.place().borrow().clone().map(Way::Relay)
    }

    /// Whether callers can be sent here.
    pub(super) fn is_reachable(&self) -> bool {
        self.standing.is_none() || self.way().is_some()
    }

    /// The directory did not find the node where it was told: true if that was a way of the ladder, which is tried anew.
    pub(super) fn refuted(&self, error: &Error) -> bool {
        let says_so = error.http_status() == Some(422)
            && matches!(error.wire_code(), Some("IICP-E035" | "IICP-E036" | "validation_error"));
        let own = matches!(self.way(), Some(Way::Own(_)));
        match &self.standing {
            Some(standing) if says_so && own => {
                standing.refute();
                true
            }
            _ => false,
        }
    }

    pub(super) fn nat_report(&self) -> NatReport {
        let mut report = self.standing.as_ref().map(|standing| standing.report()).unwrap_or_default();
        if let Some(Way::Relay(place)) = self.way().filter(|_| report.reached_by.is_none()) {
            let mut rung = RungReport::new(Rung::Relay);
            rung.say(format!("at the relay {}", place.relay_host));
            if place.bound {
                rung.state = RungState::Reached;
                report.reached_by = Some(Rung::Relay);
                report.endpoint = Some(place.endpoint);
            }
            report.rungs.push(rung);
        }
        if let Some(rung) = punching::report(self) {
            let at = report.rungs.iter().position(|other| other.rung > rung.rung).unwrap_or(report.rungs.len());
            report.rungs.insert(at, rung);
        }
        report
    }
}

/// Tells when the way by which a node is reached may have changed.
pub(super) struct Moves {
    relay: Option<watch::Receiver<Option<Place>>>,
    own: Option<watch::Receiver<Option<Option<Path>>>>,
}

impl Moves {
    pub(super) fn of(state: &State) -> Self {
        Moves {
            relay: state.exchange.as_ref().map(|exchange| exchange.place()),
            own: state.standing.as_ref().map(|standing| standing.changes()),
        }
    }

    /// Resolves at the next change; never for a node that is called where it listens.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            () = change(&mut self.relay) => {}
            () = change(&mut self.own) => {}
        }
    }

    /// Waits until it is known how the node is reached, if that is not where it listens.
    pub(super) async fn known(&mut self, state: &State) {
        if self.relay.is_none() && self.own.is_none() {
            return;
        }
        while state.way().is_none() {
            self.next().await;
        }
        if let Some(relay) = &mut self.relay {
            relay.mark_unchanged();
        }
        if let Some(own) = &mut self.own {
            own.mark_unchanged();
        }
    }
}

async fn change<T>(watched: &mut Option<watch::Receiver<T>>) {
    let gone = match watched {
        Some(watched) => watched.changed().await.is_err(),
        None => true,
    };
    if gone {
        std::future::pending().await
    }
}

/// The ladder of a node that listens here.
///
/// # Errors
/// `INTERNAL` if the system has no random numbers.
pub(super) fn ladder(
    options: &NodeOptions,
    node_id: &str,
    http: &HttpClient,
    listening: std::net::SocketAddr,
    directory: Option<DirectoryClient>,
    arrivals: Option<Arrivals>,
) -> Result<Ladder> {
    let mut ladder = Ladder::new(options.nat.clone(), listening, directory, arrivals)?;
    if options.nat.tunnel == NatTunnel::Quick {
        let (program, state_dir) = (options.nat.tunnel_program.clone(), options.state_dir.clone().map(Into::into));
        ladder.tunnels = Some(Tunnels::new(program, node_id.to_owned(), http.clone(), state_dir));
    }
    Ok(ladder)
}

/// Finds the way by which the node is reached and keeps it, with a relay while there is none.
pub(super) fn keep(state: &Arc<State>, mut ladder: Ladder, standing: Arc<Standing>, directory: DirectoryClient) {
    ladder.leaving = state.leaving.clone();
    let told = standing.clone();
    state.group.spawn("ladder", async move { ladder.stay(&told).await });
    let state_ = state.clone();
    state.group.spawn("reaching", async move {
        let closing = state_.group.closing();
        tokio::select! {
            () = closing => {}
            () = bridge_gaps(&state_, &standing, &directory) => {}
        }
    });
}

/// A relay's worker that ends with its owner.
struct Bridge(TaskGroup);

impl Drop for Bridge {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn bridge_gaps(state: &Arc<State>, standing: &Standing, directory: &DirectoryClient) {
    let mut changes = standing.changes();
    let mut bridge: Option<Bridge> = None;
    loop {
        let path = changes.borrow_and_update().clone();
        match (path, &bridge) {
            (Some(None), None) if state.exchange.is_some() => {
                let group = TaskGroup::new();
                relaying::bind_elsewhere(state, directory, &group);
                bridge = Some(Bridge(group));
            }
            (Some(Some(_)), Some(_)) => {
                let lost = changes.wait_for(|path| matches!(path, Some(None)));
                let stays = tokio::time::timeout(OVERLAP, lost).await.is_err();
                if stays && let (Some(bridge), Some(exchange)) = (bridge.take(), &state.exchange) {
                    bridge.0.shutdown(OVERLAP).await;
                    exchange.clear();
                }
                continue;
            }
            _ => {}
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
