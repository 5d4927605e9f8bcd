//! The ladder: how a node finds a way to be reached, proves it, and keeps it.
//!
//! [`surroundings`] looks around, [`ladder`] climbs: what a gateway opens ([`mapping`], asked by [`asking`] and [`igd`]) is
//! advertised only if [`proof`] saw it from outside. Here the way that was found is looked after until the node stops.

mod asking;
mod igd;
mod ladder;
mod mapping;
mod proof;
mod refuted;
mod surroundings;
mod tunnel;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub(crate) use ladder::{LONGEST, Ladder, Path};
pub(crate) use proof::{Arrivals, Witness};

use crate::discovery::directory_client::DirectoryClient;
use crate::options::NatOptions;
use crate::telemetry;
use crate::types::{NatReport, Rung, RungReport};
use ladder::Found;
use mapping::Mapping;
use proof::Sight;
use refuted::Refuted;
use surroundings::Surroundings;
use tunnel::Tunnel;
pub(crate) use tunnel::Tunnels;

/// First pause before a climb that brought nothing is tried again; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// For how long a tunnel is used before a better way is looked for.
const TUNNEL_FOR: Duration = Duration::from_secs(300);
/// Soonest that a gateway is asked for more time, however little it gives.
const SOONEST: Duration = Duration::from_secs(1);
/// Longest wait for gateways to take back what they gave.
const FAREWELL: Duration = Duration::from_secs(3);

/// What is held for as long as the way is used.
#[derive(Default)]
struct Held {
    mapping: Option<Mapping>,
    tunnel: Option<Tunnel>,
}

/// How a node stands now, for those who have to know.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// None until the first climb is over; then the way, if there is one.
    path: watch::Sender<Option<Option<Path>>>,
    report: Mutex<NatReport>,
    refuted: Mutex<Refuted>,
    doubt: Notify,
}

impl Standing {
    /// The way to the node, if there is one.
    pub(crate) fn path(&self) -> Option<Path> {
        self.path.borrow().clone().flatten()
    }

    /// Tells of every change.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Option<Path>>> {
        self.path.subscribe()
    }

    pub(crate) fn report(&self) -> NatReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The directory did not find the node at the way that it was told.
    pub(crate) fn refute(&self) {
        if let Some(place) = self.path().and_then(|path| path.place) {
            self.refuted.lock().unwrap_or_else(PoisonError::into_inner).add(place, Instant::now());
        }
        self.doubt.notify_one();
    }

    fn refuted(&self) -> Vec<SocketAddr> {
        self.refuted.lock().unwrap_or_else(PoisonError::into_inner).at(Instant::now())
    }

    fn publish(&self, path: Option<&Path>, mut report: NatReport) {
        {
            let mut held = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            report.climbs = held.climbs + 1;
            *held = report;
        }
        let path = Some(path.cloned());
        self.path.send_if_modified(|held| {
            let is_new = *held != path;
            *held = path;
            is_new
        });
    }
}

impl Ladder {
    /// # Errors
    /// `INTERNAL` if the system has no random numbers.
    pub(crate) fn new(
        options: NatOptions,
        listening: SocketAddr,
        directory: Option<DirectoryClient>,
        arrivals: Option<Arrivals>,
    ) -> crate::error::Result<Self> {
        let nonce = crate::crypto::digest::random()?;
        let (witness, leaving) = (Witness { directory, arrivals }, CancellationToken::new());
        Ok(Ladder { options, listening, witness, nonce, tunnels: None, leaving })
    }

    /// Climbs once, and gives back what it took.
    pub(crate) async fn try_out(&self) -> NatReport {
        let Found { mapping, mut report, .. } = self.climb(&Surroundings::look(), &[]).await;
        report.climbs = 1;
        give_back(mapping).await;
        report
    }

    /// Finds a way and keeps it until the node stops; then gives back what gateways gave.
    pub(crate) async fn stay(&self, standing: &Standing) {
        let mut held = Held::default();
        self.keep(standing, &mut held).await;
        give_back(held.mapping).await;
    }

    async fn keep(&self, standing: &Standing, held: &mut Held) {
        let mut pause = FIRST_PAUSE;
        loop {
            let around = Surroundings::look();
            let Found { path, mapping, report } = self.climb(&around, &standing.refuted()).await;
            if let Some(before) = std::mem::replace(&mut held.mapping, mapping)
                && held.mapping.as_ref().is_none_or(|now| now.external != before.external)
            {
                give_back(Some(before)).await;
            }
            let stays = self.stand(&around, path, report, held, standing, &mut pause);
            if self.leaving.run_until_cancelled(stays).await.is_none() {
                return;
            }
        }
    }

    /// Tells how the node stands after a climb, and returns when it has to climb again.
    async fn stand(
        &self,
        around: &Surroundings,
        mut path: Option<Path>,
        mut report: NatReport,
        held: &mut Held,
        standing: &Standing,
        pause: &mut Duration,
    ) {
        let interval = Duration::from_millis(self.options.check_interval_ms);
        match &path {
            Some(_) => held.tunnel = None,
            None => path = self.by_tunnel(held, standing, &mut report).await,
        }
        match &path {
            Some(path) => tracing::info!(target: telemetry::NAT, endpoint = %path.endpoint, "reached from outside"),
            None => tracing::warn!(target: telemetry::NAT, "no way from outside was found"),
        }
        standing.publish(path.as_ref(), report);
        match path {
            Some(path) => {
                *pause = FIRST_PAUSE;
                self.watch(around, &path, held, standing, interval).await;
            }
            None => {
                // As soon as a tunnel may be asked for.
                let tunnel = self.tunnels.as_ref().map(Tunnels::pause_left).filter(|left| !left.is_zero());
                let next = tunnel.map_or(*pause, |left| (*pause).min(left + Duration::from_secs(1)));
                self.wait(around, next, standing, interval).await;
                *pause = (*pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// The last way of one's own. A new tunnel takes its time, in which a relay may do.
    async fn by_tunnel(&self, held: &mut Held, standing: &Standing, report: &mut NatReport) -> Option<Path> {
        let tunnels = self.tunnels.as_ref()?;
        if held.tunnel.is_none() {
            standing.publish(None, report.clone());
        }
        let mut rung = RungReport::new(Rung::QuickTunnel);
        tunnels.hold(&mut held.tunnel, self.listening.port(), &mut rung).await;
        report.rungs.push(rung);
        let path = Path::through(held.tunnel.as_ref()?);
        (report.reached_by, report.endpoint) = (Some(path.rung), Some(path.endpoint.clone()));
        Some(path)
    }

    /// Returns when the way is no longer what it was.
    async fn watch(
        &self,
        around: &Surroundings,
        path: &Path,
        held: &mut Held,
        standing: &Standing,
        interval: Duration,
    ) {
        let until = Instant::now() + TUNNEL_FOR;
        loop {
            let Some(is_kept) = self.holds(path, &mut held.mapping, standing, Instant::now() + interval).await else {
                return;
            };
            let why = if Surroundings::look() != *around {
                "the network of this machine has changed"
            } else if !is_kept {
                "the gateway no longer has what it opened"
            } else {
                let sight = match (path.place, &self.tunnels, &held.tunnel) {
                    (Some(place), ..) => self.witness.look(place, Instant::now() + interval).await,
                    (None, Some(tunnels), Some(tunnel)) if tunnels.leads_here(&tunnel.url).await => Sight::Seen,
                    _ => Sight::NotSeen(String::new()),
                };
                match sight {
                    Sight::Seen | Sight::Nobody(_) if path.place.is_none() && Instant::now() > until => return,
                    Sight::Seen | Sight::Nobody(_) => continue,
                    Sight::NotSeen(_) => "it is no longer seen from outside",
                }
            };
            tracing::warn!(target: telemetry::NAT, endpoint = %path.endpoint, why, "the way is tried anew");
            return;
        }
    }

    /// Waits until it is time to look at the way again. A lease that ends before that is renewed meanwhile, and nobody outside
    /// is bothered with it. Whether the gateway still has what it opened; none if the way is in doubt.
    async fn holds(
        &self,
        path: &Path,
        mapping: &mut Option<Mapping>,
        standing: &Standing,
        look: Instant,
    ) -> Option<bool> {
        loop {
            let due = mapping.as_ref().and_then(Mapping::due).map(|due| due.max(Instant::now() + SOONEST));
            tokio::select! {
                () = sleep_until(due.map_or(look, |due| due.min(look))) => {}
                () = standing.doubt.notified() => return None,
            }
            let mut said = RungReport::new(path.rung);
            let is_kept = match mapping {
                Some(mapping) => mapping.is_kept(self.options.lease_s, &mut said).await,
                None => true,
            };
            if !is_kept || Instant::now() >= look {
                return Some(is_kept);
            }
        }
    }

    /// Waits until another climb may bring more: after a while, or when the network has changed.
    async fn wait(&self, around: &Surroundings, pause: Duration, standing: &Standing, interval: Duration) {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            tokio::select! {
                () = sleep(left.min(interval)) => {}
                () = standing.doubt.notified() => {}
            }
            if Surroundings::look() != *around {
                return;
            }
        }
    }
}

async fn give_back(mapping: Option<Mapping>) {
    if let Some(mapping) = mapping {
        let mut said = RungReport::new(Rung::Upnp);
        let _ = tokio::time::timeout(FAREWELL, mapping.close(&mut said)).await;
    }
}
