//! Finding a path: as what a port is seen, and sending from both sides until one hears the other.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::port::{Asking, Awaiting, Port, Seen};
use crate::crypto::digest::random;
use crate::transport::guard::{self, Reach};
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
const MOST_PLACES: usize = 6;

/// As what a port is seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) seen: SocketAddr,
    /// Whether all observers see the same: then others will, too.
    pub(super) steady: bool,
}

/// Asks two observers as what they see the port. None if none answers; one that is alone is believed.
pub(super) async fn observe(port: &Port, observers: &[SocketAddr]) -> Option<Observed> {
    let mut asked = Vec::with_capacity(observers.len());
    for observer in observers.iter().filter(|observer| port.reaches(**observer)).take(2) {
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
    /// Where the other side says that it is seen.
    pub(super) places: Vec<SocketAddr>,
    /// How far it may be.
    pub(super) reach: Reach,
    /// What it answers to.
    pub(super) token: Token,
    /// Those who know our own secret.
    pub(super) awaiting: Awaiting,
}

impl Search {
    /// Sends to the other side, and to wherever it is heard from, until it answers; then that place is good both ways. `heard`
    /// is told every place from which it was heard.
    pub(super) async fn run(&mut self, port: &Port, heard: impl Fn(SocketAddr)) -> Option<SocketAddr> {
        let mut asking = port.asking(random().ok()?)?;
        let mut tick = tokio::time::interval(PROBE_EVERY);
        let mut left = PROBES;
        let may = |place: &SocketAddr, reach| port.reaches(*place) && guard::judge_ip(place.ip(), reach).is_ok();
        let reach = self.reach;
        self.places.retain(|place| place.port() != 0 && may(place, reach));
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    left = left.checked_sub(1)?;
                    self.places.iter().for_each(|place| port.ask(*place, Some(&self.token), &asking));
                }
                Some(source) = self.awaiting.source() => {
                    heard(source);
                    // Its gateway may show it to us by another port than to the observers.
                    if !self.places.contains(&source) && self.places.len() < MOST_PLACES && may(&source, reach) {
                        self.places.push(source);
                        port.ask(source, Some(&self.token), &asking);
                    }
                }
                Some(answer) = asking.answer() => {
                    if self.places.contains(&answer.by) {
                        return Some(answer.by);
                    }
                }
            }
        }
    }

    /// Goes on answering who looks for us.
    pub(super) async fn listen(mut self, heard: impl Fn(SocketAddr)) {
        while let Some(source) = self.awaiting.source().await {
            heard(source);
        }
    }
}
