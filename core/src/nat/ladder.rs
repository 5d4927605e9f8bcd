//! One climb: all ways are tried at the same time, and the best one that was seen from outside is taken.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::asking;
use super::igd::{self, Igd};
use super::mapping::{Mapping, Order, Tool};
use super::proof::{Sight, Witness};
use super::surroundings::{Gateway, Surroundings, is_public};
use super::tunnel::{Tunnel, Tunnels};
use crate::options::{ExposureMode, NatOptions, TransportMethod};
use crate::types::{NatReport, Rung, RungReport, RungState};
use crate::wire::port_control::{self as wire, Nonce};

/// Longest climb.
pub(crate) const LONGEST: Duration = Duration::from_secs(8);
/// Longest wait for a gateway to show that it is there.
const SEARCH: Duration = Duration::from_millis(3_500);
/// How long our own address of IPv6 is looked at where there is another way: at most three times around the world.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long it is looked at before anybody is asked to open a firewall: a node that is reachable asks nobody.
const FIRST_LOOK: Duration = Duration::from_millis(300);
/// What PCP is waited for where NAT-PMP has answered.
const GRACE: Duration = Duration::from_millis(300);
/// Addresses of IPv6 that are tried.
const MOST_ADDRESSES: usize = 2;

const NO_GATEWAY: (&str, &str) = if cfg!(target_os = "linux") {
    ("there is no gateway", "connect this machine to a network that leads outside, or set option endpoint")
} else {
    ("on this system it is not known which gateway leads outside", "map the port by hand, and set option endpoint")
};
const OPEN_FIREWALL: &str =
    "let connections to the node's port through the firewall of this machine and of its network";
const NOT_SEEN: &str =
    "ask the provider for an address of your own; a firewall or another NAT stands before the gateway";
const OUTER_NAT: &str =
    "ask the provider for a public address, or put the gateway into bridge mode; until then a relay is used";
const CONTAINER: &str = "publish the port from the container and set option endpoint, or use the network of the host";

/// A way to the node that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) rung: Rung,
    /// What is advertised.
    pub(crate) endpoint: String,
    /// The same as an address; none at the far end of a tunnel.
    pub(crate) place: Option<SocketAddr>,
}

impl Path {
    fn new(rung: Rung, place: SocketAddr) -> Self {
        Path { rung, endpoint: format!("http://{place}"), place: Some(place) }
    }

    pub(super) fn through(tunnel: &Tunnel) -> Self {
        let endpoint = tunnel.url.as_str().trim_end_matches('/').to_owned();
        Path { rung: Rung::QuickTunnel, endpoint, place: None }
    }

    /// Whether native frames pass.
    pub(crate) fn is_transparent(&self) -> bool {
        self.rung != Rung::QuickTunnel
    }

    pub(crate) fn method(&self) -> TransportMethod {
        match self.rung {
            Rung::Pcp | Rung::NatPmp | Rung::Upnp => TransportMethod::UpnpMapped,
            Rung::QuickTunnel => TransportMethod::ExternalTunnel,
            _ => TransportMethod::Direct,
        }
    }

    pub(crate) fn exposure(&self) -> ExposureMode {
        match self.rung {
            Rung::QuickTunnel => ExposureMode::TunnelRequired,
            Rung::Ipv6Pinhole | Rung::DirectIpv6 => ExposureMode::Ipv6DirectPinholeAvailable,
            _ => ExposureMode::Ipv4PublicDirect,
        }
    }

    /// The tier that published nodes name in what they register.
    pub(crate) fn tier(&self) -> u8 {
        match self.rung {
            Rung::DirectIpv4 | Rung::DirectIpv6 => 0,
            Rung::QuickTunnel => 3,
            _ => 1,
        }
    }
}

/// What a climb brought.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) path: Option<Path>,
    pub(crate) mapping: Option<Mapping>,
    pub(crate) report: NatReport,
}

/// What is climbed.
pub(crate) struct Ladder {
    pub(crate) options: NatOptions,
    /// Where the node listens.
    pub(crate) listening: SocketAddr,
    pub(crate) witness: Witness,
    /// For all mappings of this node: a gateway takes a change from nobody else.
    pub(crate) nonce: Nonce,
    /// What opens a tunnel, if the operator asks for one.
    pub(crate) tunnels: Option<Tunnels>,
    /// The node stops. A climb is not dropped then but comes to its end at once: only it knows what a gateway has just opened.
    pub(crate) leaving: CancellationToken,
}

/// The ways by IPv4, or those by IPv6.
#[derive(Default)]
struct Side {
    rungs: Vec<RungReport>,
    path: Option<Path>,
    mapping: Option<Mapping>,
    wan: Option<IpAddr>,
    double_nat: bool,
}

/// What was known of IPv6 before a firewall was asked to open.
enum Besides {
    /// The node is seen at this address as it is.
    Seen(SocketAddr),
    /// It is reached by IPv4, and needs no hole.
    ByIpv4,
    /// It is not seen; these may open a firewall.
    Closed(Vec<(Tool, Order)>),
}

impl Side {
    fn take(&mut self, mut report: RungReport, place: SocketAddr, mapping: Option<Mapping>) {
        report.state = RungState::Reached;
        report.fix = None;
        self.path = Some(Path::new(report.rung, place));
        self.mapping = mapping;
        self.rungs.push(report);
    }
}

impl Ladder {
    /// Climbs. `refuted` are places that nobody need try yet: the directory did not find the node there.
    pub(crate) async fn climb(&self, around: &Surroundings, refuted: &[SocketAddr]) -> Found {
        let begun = Instant::now();
        let deadline = begun + LONGEST;
        let (tell, told) = watch::channel(None);
        let by4 = async {
            let side = self.by_ipv4(around, refuted, deadline).await;
            tell.send_replace(Some(side.path.is_some()));
            side
        };
        let (mut four, mut six) = tokio::join!(by4, self.by_ipv6(around, refuted, told, deadline));
        let mut report = NatReport {
            interfaces: around.interfaces.clone(),
            gateways: [&around.gateway4, &around.gateway6].into_iter().flatten().map(named).collect(),
            container: around.container.map(str::to_owned),
            wan_address: four.wan.map(|ip| ip.to_string()),
            double_nat: four.double_nat,
            ..NatReport::default()
        };
        report.rungs.append(&mut four.rungs);
        report.rungs.append(&mut six.rungs);
        report.rungs.sort_by_key(|rung| rung.rung);
        let chosen = if four.path.is_some() { four } else { six };
        report.reached_by = chosen.path.as_ref().map(|path| path.rung);
        report.endpoint = chosen.path.as_ref().map(|path| path.endpoint.clone());
        report.took_ms = crate::options::millis(begun.elapsed());
        Found { path: chosen.path, mapping: chosen.mapping, report }
    }

    async fn by_ipv4(&self, around: &Surroundings, refuted: &[SocketAddr], deadline: Instant) -> Side {
        let mut side = Side::default();
        let mut direct = RungReport::new(Rung::DirectIpv4);
        match around.public4 {
            Some(ip) => {
                let place = SocketAddr::new(ip.into(), self.listening.port());
                if self.is_seen(place, refuted, deadline, &mut direct, OPEN_FIREWALL).await {
                    side.take(direct, place, None);
                    return side;
                }
            }
            None => direct.say("no address of this machine is one of the open network"),
        }
        side.rungs.push(direct);
        let [mut pcp, mut nat_pmp, mut upnp] = [Rung::Pcp, Rung::NatPmp, Rung::Upnp].map(RungReport::new);
        let all = [&mut pcp, &mut nat_pmp, &mut upnp];
        let (gateway, order) = match (&around.gateway4, self.mapping_is_off(around)) {
            (_, Some((why, fix))) => {
                all.into_iter().for_each(|report| {
                    report.say(why);
                    report.fix = fix.map(str::to_owned);
                });
                side.rungs.extend([pcp, nat_pmp, upnp]);
                return side;
            }
            (None, None) => {
                all.into_iter().for_each(|report| report.fail(format!("{}, for IPv4", NO_GATEWAY.0), NO_GATEWAY.1));
                side.rungs.extend([pcp, nat_pmp, upnp]);
                return side;
            }
            (Some(gateway), None) => (gateway, self.order(gateway, gateway.ours)),
        };
        let (mut pcp, mut nat_pmp, mut upnp) = (Some(pcp), Some(nat_pmp), Some(upnp));
        {
            let search = deadline.min(Instant::now() + SEARCH);
            let mut small = pin!(self.port_control(&order, search));
            let mut large = pin!(async {
                let mut report = RungReport::new(Rung::Upnp);
                let igd = igd::find(gateway, gateway.ours, search, &mut report).await;
                (report, igd)
            });
            // An answer that is on its way is still taken, so that what was opened is known.
            let mut leaving = pin!(async {
                self.leaving.cancelled().await;
                sleep(GRACE).await;
            });
            // Whoever answers first is tried first; what the other says meanwhile waits in its socket.
            while side.path.is_none() && !side.double_nat && (pcp.is_some() || upnp.is_some()) {
                tokio::select! {
                    ((asked, also_asked), opened) = &mut small, if pcp.is_some() => {
                        (pcp, nat_pmp) = (None, None);
                        let mut reports = [asked, also_asked];
                        if let Some((rung, mapping)) = opened {
                            let at = usize::from(rung == Rung::NatPmp);
                            self.judge(&mut side, &mut reports[at], mapping, refuted, deadline).await;
                        }
                        side.rungs.extend(reports);
                    }
                    (mut report, igd) = &mut large, if upnp.is_some() => {
                        upnp = None;
                        if let Some(mapping) = self.by_upnp(igd, &order, deadline, &mut report).await {
                            self.judge(&mut side, &mut report, mapping, refuted, deadline).await;
                        }
                        side.rungs.push(report);
                    }
                    () = &mut leaving => break,
                }
            }
        }
        side.rungs.extend([pcp, nat_pmp, upnp].into_iter().flatten());
        side
    }

    /// Asks by PCP and by NAT-PMP at the same time; the first is better, because it says what it gave.
    async fn port_control(
        &self,
        order: &Order,
        search: Instant,
    ) -> ((RungReport, RungReport), Option<(Rung, Mapping)>) {
        let (mut pcp, mut nat_pmp) = (RungReport::new(Rung::Pcp), RungReport::new(Rung::NatPmp));
        let answers = {
            let (gateway, ours) = (&order.gateway, order.internal.ip());
            let mut better = pin!(Tool::Pcp(self.nonce).open(order, search, &mut pcp));
            let read = wire::read_address;
            let mut other = pin!(asking::ask(gateway, ours, &wire::ASK_ADDRESS, search, &mut nat_pmp, read));
            tokio::select! {
                opened = &mut better => match opened {
                    Some(mapping) => Ok(mapping),
                    None => Err(other.await.is_ok()),
                },
                answered = &mut other => match timeout(GRACE, &mut better).await {
                    Ok(Some(mapping)) => Ok(mapping),
                    Ok(None) => Err(answered.is_ok()),
                    Err(_) if answered.is_ok() => Err(true),
                    Err(_) => better.await.ok_or(false),
                },
            }
        };
        let opened = match answers {
            Ok(mapping) => Some((Rung::Pcp, mapping)),
            Err(true) => {
                let until = search + Duration::from_secs(1);
                Tool::NatPmp.open(order, until, &mut nat_pmp).await.map(|mapping| (Rung::NatPmp, mapping))
            }
            Err(false) => None,
        };
        if opened.is_none() {
            for report in [&mut pcp, &mut nat_pmp] {
                if report.state == RungState::NotTried {
                    report.fail("the gateway does not answer", "switch it on in the gateway's settings, if it has it");
                }
            }
        }
        ((pcp, nat_pmp), opened)
    }

    async fn by_upnp(
        &self,
        igd: Option<Igd>,
        order: &Order,
        deadline: Instant,
        report: &mut RungReport,
    ) -> Option<Mapping> {
        let Some(igd) = igd else {
            report.fail("no gateway answers the search", "switch UPnP on in the gateway's settings, if it has it");
            return None;
        };
        if igd.can.mapper.is_none() {
            report
                .fail("the gateway has UPnP, and maps no ports by it", "map the port by hand, and set option endpoint");
            return None;
        }
        Tool::Upnp(igd).open(order, deadline, report).await
    }

    /// Whether what a gateway opened leads here.
    async fn judge(
        &self,
        side: &mut Side,
        report: &mut RungReport,
        mapping: Mapping,
        refuted: &[SocketAddr],
        deadline: Instant,
    ) {
        let external = mapping.external;
        side.wan = Some(external.ip());
        if !is_public(external.ip()) {
            side.double_nat = true;
            report.fail(format!("the gateway's own address {} is none of the open network", external.ip()), OUTER_NAT);
            mapping.close(report).await;
            return;
        }
        if self.is_seen(external, refuted, deadline, report, NOT_SEEN).await {
            report.state = RungState::Reached;
            report.fix = None;
            side.path = Some(Path::new(report.rung, external));
            side.mapping = Some(mapping);
        } else {
            mapping.close(report).await;
        }
    }

    async fn by_ipv6(
        &self,
        around: &Surroundings,
        refuted: &[SocketAddr],
        mut told: watch::Receiver<Option<bool>>,
        deadline: Instant,
    ) -> Side {
        let mut side = Side::default();
        let (mut direct, mut hole) = (RungReport::new(Rung::DirectIpv6), RungReport::new(Rung::Ipv6Pinhole));
        let why_not = match (self.options.ipv6, self.listening.is_ipv6(), around.public6.is_empty()) {
            (false, ..) => Some("switched off by option nat.ipv6"),
            (_, false, _) => Some("the node listens on IPv4 only; set option host to :: for both"),
            (.., true) => Some("no address of this machine is one of the open network"),
            _ => None,
        };
        if let Some(why) = why_not {
            direct.say(why);
            side.rungs.push(direct);
            return side;
        }
        let found = match self.besides(around, refuted, &mut told, deadline, &mut direct, &mut hole).await {
            Besides::Seen(place) => {
                side.take(direct, place, None);
                return side;
            }
            // No hole is made that is not needed.
            Besides::ByIpv4 => {
                hole.say("not needed: the node is reached by IPv4");
                Vec::new()
            }
            Besides::Closed(found) => found,
        };
        side.rungs.push(direct);
        if found.is_empty() {
            side.rungs.push(hole);
            return side;
        }
        for (tool, order) in found {
            if self.leaving.is_cancelled() {
                break;
            }
            let Some(mapping) = tool.open(&order, deadline, &mut hole).await else { continue };
            if self.is_seen(mapping.external, refuted, deadline, &mut hole, NOT_SEEN).await {
                let external = mapping.external;
                side.take(hole, external, Some(mapping));
                return side;
            }
            mapping.close(&mut hole).await;
        }
        if hole.state == RungState::NotTried {
            hole.fail("no gateway opens its firewall when it is asked", OPEN_FIREWALL);
        }
        side.rungs.push(hole);
        side
    }

    /// Looks at our addresses of IPv6 as they are, and a moment later also for who may open a firewall before them. Once there
    /// is another way, what a firewall drops in silence is not waited for any longer.
    async fn besides(
        &self,
        around: &Surroundings,
        refuted: &[SocketAddr],
        told: &mut watch::Receiver<Option<bool>>,
        deadline: Instant,
        direct: &mut RungReport,
        hole: &mut RungReport,
    ) -> Besides {
        let begun = Instant::now();
        let (head_start, mut until) = (deadline.min(begun + HEAD_START), deadline);
        let mut search = pin!(async {
            tokio::time::sleep_until(begun + FIRST_LOOK).await;
            self.firewalls(around, deadline, hole).await
        });
        let mut four = pin!(async { told.wait_for(Option::is_some).await.is_ok_and(|four| *four == Some(true)) });
        let (mut found, mut by4) = (None, None);
        let seen = {
            let mut look = pin!(self.first_seen(around, refuted, deadline, direct));
            loop {
                tokio::select! {
                    seen = &mut look => break Some(seen),
                    tools = &mut search, if found.is_none() => {
                        let opens = tools.iter().any(|(tool, _)| matches!(tool, Tool::Pinhole(..)));
                        until = if opens { head_start } else { until };
                        found = Some(tools);
                    }
                    is_reached = &mut four, if by4.is_none() => {
                        until = if is_reached { head_start } else { until };
                        by4 = Some(is_reached);
                    }
                    () = tokio::time::sleep_until(until) => break None,
                }
            }
        };
        match seen {
            Some(Some(place)) => return Besides::Seen(place),
            Some(None) => {}
            None => direct.fail("not seen from outside by the time that another way was found", OPEN_FIREWALL),
        }
        let is_reached = match by4 {
            Some(is_reached) => is_reached,
            None => four.await,
        };
        match found {
            _ if is_reached => Besides::ByIpv4,
            Some(found) => Besides::Closed(found),
            None => Besides::Closed(self.leaving.run_until_cancelled(search).await.unwrap_or_default()),
        }
    }

    /// The first of our addresses of IPv6 at which the node is seen.
    async fn first_seen(
        &self,
        around: &Surroundings,
        refuted: &[SocketAddr],
        deadline: Instant,
        report: &mut RungReport,
    ) -> Option<SocketAddr> {
        for ip in around.public6.iter().take(MOST_ADDRESSES) {
            let place = SocketAddr::new((*ip).into(), self.listening.port());
            if self.is_seen(place, refuted, deadline, report, OPEN_FIREWALL).await {
                return Some(place);
            }
        }
        None
    }

    /// Who may open the firewall of IPv6, for which address; nobody where `report` says why. A gateway lets an address ask for
    /// itself only.
    async fn firewalls(&self, around: &Surroundings, deadline: Instant, report: &mut RungReport) -> Vec<(Tool, Order)> {
        if !self.options.mapping {
            report.say("switched off by option nat.mapping");
            return Vec::new();
        }
        let Some(gateway) = &around.gateway6 else {
            report.fail(format!("{}, for IPv6", NO_GATEWAY.0), NO_GATEWAY.1);
            return Vec::new();
        };
        let search = deadline.min(Instant::now() + SEARCH);
        let addresses: Vec<Ipv6Addr> = around.public6.iter().take(MOST_ADDRESSES).copied().collect();
        let mut tools = Vec::new();
        // The search is the same from every address of ours, the answers are not.
        let mut searches = addresses.iter().map(|ip| async {
            let mut report = RungReport::new(Rung::Ipv6Pinhole);
            (igd::find(gateway, (*ip).into(), search, &mut report).await, report, *ip)
        });
        let (first, second) = (searches.next(), searches.next());
        let first = async { futures_util::future::OptionFuture::from(first).await };
        let second = async { futures_util::future::OptionFuture::from(second).await };
        let (first, second) = tokio::join!(first, second);
        for (igd, said, ip) in [first, second].into_iter().flatten() {
            said.lines.into_iter().for_each(|line| report.say(line));
            if let Some(igd) = igd.filter(|igd| igd.can.firewall.is_some()) {
                tools.push((Tool::Pinhole(igd, None), self.order(gateway, ip.into())));
            }
        }
        tools.extend(addresses.iter().map(|ip| (Tool::Pcp(self.nonce), self.order(gateway, (*ip).into()))));
        tools
    }

    /// Whether a place is this node's for somebody outside.
    async fn is_seen(
        &self,
        place: SocketAddr,
        refuted: &[SocketAddr],
        deadline: Instant,
        report: &mut RungReport,
        fix: &str,
    ) -> bool {
        if refuted.contains(&place) {
            report.fail(format!("the directory did not find the node at {place}; it is tried again later"), fix);
            return false;
        }
        let sight = self.leaving.run_until_cancelled(self.witness.look(place, deadline)).await;
        match sight.unwrap_or_else(|| Sight::NotSeen("nobody looks there any more, since the node stops".to_owned())) {
            Sight::Seen => {
                report.say(format!("seen from outside at {place}"));
                true
            }
            Sight::NotSeen(why) => {
                report.fail(format!("{place}: {why}"), fix);
                false
            }
            Sight::Nobody(why) => {
                // The directory looks when the node registers, and refuses it if it is not there.
                report.say(format!("{place}: {why}; the registration will tell"));
                self.witness.directory.is_some()
            }
        }
    }

    fn order(&self, gateway: &Gateway, ours: IpAddr) -> Order {
        let port = self.listening.port();
        let internal = SocketAddr::new(ours, port);
        Order { gateway: gateway.clone(), internal, external: port, lease_s: self.options.lease_s }
    }

    fn mapping_is_off(&self, around: &Surroundings) -> Option<(&'static str, Option<&'static str>)> {
        if !self.options.mapping {
            return Some(("switched off by option nat.mapping", None));
        }
        if around.container.is_some() {
            return Some(("this is a container, and its gateway is not the one that leads outside", Some(CONTAINER)));
        }
        None
    }
}

fn named(gateway: &Gateway) -> String {
    format!("{} on {}", gateway.ip, gateway.interface)
}
