//! Finding a path: as what a port is seen, and sending from both sides until one hears the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::port::{Asking, Awaiting, Port, Seen};
use super::{near, reach_beside};
use crate::crypto::digest::random;
use crate::transport::guard::{self, Reach};
use crate::wire::punch::Words;
use crate::wire::stun::Token;

/// How often an observer is asked, and how long its answer is waited for.
const ASK_EVERY: Duration = Duration::from_millis(250);
const OBSERVED_WITHIN: Duration = Duration::from_secs(2);
/// How long the second observer is waited for after the first has answered.
const SECOND_WITHIN: Duration = Duration::from_millis(750);
/// How often the other side is sent something, and how often in all. Every place is sent so many packets of 44 bytes at most,
/// so that nobody is flooded whom a peer names in bad faith.
const PROBE_EVERY: Duration = Duration::from_millis(150);
const PROBES: u32 = 24;
/// Places that are tried: those that were named, and those that something came from.
const MOST_PLACES: usize = 10;

/// As what a port is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) seen: SocketAddr,
    /// Whether all observers see the same: then others will, too.
    pub(super) steady: bool,
}

/// A port of ours, as a relay sees it.
pub(super) struct Side {
    pub(super) relay: IpAddr,
    pub(super) port: Arc<Port>,
    pub(super) observed: Observed,
}

impl Side {
    /// Where it is for the neighbours of this machine.
    pub(super) fn near(&self) -> Vec<SocketAddr> {
        near::places(&self.port)
    }
}

/// Asks a relay at its address of either family as what it sees our port of that family. Where nobody answers is left out; once
/// there is one, the other is not waited for much longer.
pub(super) async fn sides(ports: Vec<(IpAddr, Arc<Port>)>, observers: &[u16]) -> Vec<Side> {
    let observing = ports.into_iter().map(|(relay, port)| async move {
        let observers: Vec<SocketAddr> = observers.iter().map(|port| SocketAddr::new(relay, *port)).collect();
        let observed = observe(&port, &observers).await?;
        Some(Side { relay, port, observed })
    });
    let (mut observing, mut found) = (observing.collect::<FuturesUnordered<_>>(), Vec::new());
    let mut until = Instant::now() + OBSERVED_WITHIN + SECOND_WITHIN;
    while let Ok(Some(side)) = tokio::time::timeout_at(until, observing.next()).await {
        if let Some(side) = side {
            found.push(side);
            until = until.min(Instant::now() + SECOND_WITHIN);
        }
    }
    found
}

/// Asks two observers as what they see the port. None if none answers; one that is alone is believed.
async fn observe(port: &Port, observers: &[SocketAddr]) -> Option<Observed> {
    let mut asked = Vec::with_capacity(observers.len());
    for observer in observers.iter().filter(|observer| port.leads_to(**observer)).take(2) {
        asked.push((*observer, port.asking(random().ok()?)?));
    }
    let mut seen: Vec<Option<SocketAddr>> = vec![None; asked.len()];
    let mut until = Instant::now() + OBSERVED_WITHIN;
    let mut tick = tokio::time::interval(ASK_EVERY);
    while seen.iter().any(Option::is_none) {
        let (at, answer) = tokio::select! {
            () = tokio::time::sleep_until(until) => break,
            _ = tick.tick() => {
                let missing = asked.iter().zip(&seen).filter(|(_, seen)| seen.is_none());
                missing.for_each(|((observer, asking), _)| port.ask(*observer, None, asking));
                continue;
            }
            answer = any(&mut asked) => answer,
        };
        seen[at] = Some(answer.as_);
        until = until.min(Instant::now() + SECOND_WITHIN);
    }
    let mut all = seen.iter().flatten();
    let first = *all.next()?;
    Some(Observed { seen: first, steady: all.all(|other| *other == first) })
}

/// The next answer of any observer.
async fn any(asked: &mut [(SocketAddr, Asking)]) -> (usize, Seen) {
    let answers = asked.iter_mut().enumerate().map(|(at, (_, asking))| {
        Box::pin(async move {
            match asking.answer().await {
                Some(seen) => (at, seen),
                // It cannot end while it is held.
                None => std::future::pending().await,
            }
        })
    });
    futures_util::future::select_all(answers).await.0
}

/// Who is looked for.
pub(super) struct Search {
    port: Arc<Port>,
    /// Where the other side says that it is, as far as that may be called.
    places: Vec<SocketAddr>,
    /// How far it may be.
    reach: Reach,
    /// What it answers to.
    token: Token,
    /// Those who know our own secret.
    awaiting: Awaiting,
}

impl Search {
    /// None if there is nowhere to look, or nobody would hear it. `beside` is whether the relay takes both sides for neighbours.
    pub(super) fn new(side: &Side, theirs: &Words, beside: bool, awaiting: Awaiting) -> Option<Search> {
        let reach = reach_beside(side.relay);
        let may = |place: &&SocketAddr| {
            place.port() != 0 && side.port.reaches(**place) && guard::judge_ip(place.ip(), reach).is_ok()
        };
        let mut places: Vec<SocketAddr> = theirs.seen.iter().filter(may).copied().collect();
        if beside && near::are_behind_one(side.observed.seen.ip(), &theirs.seen) {
            places.extend(near::in_reach(&side.port, &theirs.near));
        }
        let is_any = !places.is_empty();
        is_any.then(|| Search { port: side.port.clone(), places, reach, token: theirs.token, awaiting })
    }

    /// Sends to the other side, and to wherever it is heard from, until it answers; then that place is good both ways. `heard`
    /// is told every place from which it was heard.
    pub(super) async fn run(&mut self, heard: impl Fn(SocketAddr)) -> Option<(Arc<Port>, SocketAddr)> {
        let port = self.port.clone();
        let mut asking = port.asking(random().ok()?)?;
        let mut tick = tokio::time::interval(PROBE_EVERY);
        let mut left = PROBES;
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    left = left.checked_sub(1)?;
                    self.places.iter().for_each(|place| port.ask(*place, Some(&self.token), &asking));
                }
                Some(source) = self.awaiting.source() => {
                    heard(source);
                    // Its gateway may show it to us by another port than to the observers.
                    if !self.places.contains(&source) && self.places.len() < MOST_PLACES && self.may(source) {
                        self.places.push(source);
                        port.ask(source, Some(&self.token), &asking);
                    }
                }
                Some(answer) = asking.answer() => {
                    if self.places.contains(&answer.by) {
                        return Some((port, answer.by));
                    }
                }
            }
        }
    }

    fn may(&self, source: SocketAddr) -> bool {
        self.port.reaches(source) && guard::judge_ip(source.ip(), self.reach).is_ok()
    }

    /// Goes on answering who looks for us.
    pub(super) async fn listen(mut self, heard: impl Fn(SocketAddr)) {
        while let Some(source) = self.awaiting.source().await {
            heard(source);
        }
    }
}
