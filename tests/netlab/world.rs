//! The lab's Internet: a directory, a consumer and relays outside, a provider, homes behind gateways, and one node inside.
//!
//! ```text
//! directory 5.5.1.2 ┐
//! consumer  5.5.2.2 ┼ internet ─ provider ┬ gateway  (wan 5.5.10.2 or 100.64.0.2) ┬ home: node 192.168.77.10
//! relay     5.5.3.2 ┤                     └ gateway2 (wan 5.5.11.2)               ┘
//! relay2    5.5.4.2 ┘
//! ```
//!
//! The addresses are outside of all reserved ranges, because gateways open nothing where theirs is not a public one.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Outcome;
use crate::rules::{self, Deaf, Nat};
use crate::space::{Space, folder, ip};

pub(crate) const DIRECTORY: &str = "5.5.1.2";
pub(crate) const CONSUMER: &str = "5.5.2.2";
pub(crate) const RELAYS: [&str; 2] = ["5.5.3.2", "5.5.4.2"];
pub(crate) const DIRECTORY6: &str = "2a05:5505:1::2";
pub(crate) const CONSUMER6: &str = "2a05:5505:2::2";
pub(crate) const RELAYS6: [&str; 2] = ["2a05:5505:3::2", "2a05:5505:4::2"];
pub(crate) const NODE: &str = "192.168.77.10";
pub(crate) const NODE6: &str = "2a05:5505:77::10";
pub(crate) const NODE_PUBLIC: &str = "5.5.5.2";
/// A machine at home, if there is one beside the node.
pub(crate) const STRANGER: &str = "192.168.77.66";
pub(crate) const GATEWAY: &str = "192.168.77.1";
pub(crate) const GATEWAY6: &str = "fe80::1";
const PROVIDER_SHARED: &str = "5.5.9.2";

/// How the gateway opens ports when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Igd {
    Upnp1,
    Upnp2,
    NatPmp,
    Pcp,
    /// All of them.
    Any,
    /// The same, with an address outside that is not its own.
    Lying,
}

/// Where the node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// None: the node has a public address of its own.
    pub(crate) nat: Option<Nat>,
    pub(crate) igd: Option<Igd>,
    /// The provider gives the gateway an address that it shares.
    pub(crate) shared: bool,
    pub(crate) ipv6_only: bool,
    /// 0 leaves the home without any way out.
    pub(crate) gateways: u8,
    /// The node also has an address in a VPN.
    pub(crate) vpn: bool,
    /// The best rungs that there are for the node; none: nobody can reach it.
    pub(crate) rungs: &'static [&'static str],
    /// How long a packet takes from the provider to the rest, and as long back.
    pub(crate) delay_ms: u16,
    /// Packets are lost on the way.
    pub(crate) lossy: bool,
}

impl Plan {
    pub(crate) const fn home(name: &'static str) -> Plan {
        let nat = Some(Nat::PortRestricted);
        Plan {
            name,
            nat,
            igd: None,
            shared: false,
            ipv6_only: false,
            gateways: 1,
            vpn: false,
            rungs: RELAY,
            delay_ms: 0,
            lossy: false,
        }
    }
}

const RELAY: &[&str] = &["relay"];
/// Where a gateway has all protocols, whichever answers first.
pub(crate) const MAPPED: &[&str] = &["pcp", "nat_pmp", "upnp"];

/// All topologies.
pub(crate) const PLANS: &[Plan] = &[
    Plan { nat: None, rungs: &["direct_ipv4"], ..Plan::home("public") },
    Plan::home("home"),
    Plan { igd: Some(Igd::Upnp1), rungs: &["upnp"], ..Plan::home("home-igd1") },
    Plan { igd: Some(Igd::Upnp2), rungs: &["upnp"], ..Plan::home("home-igd2") },
    Plan { igd: Some(Igd::NatPmp), rungs: &["nat_pmp"], ..Plan::home("home-nat-pmp") },
    Plan { igd: Some(Igd::Pcp), rungs: &["pcp"], ..Plan::home("home-pcp") },
    Plan { nat: Some(Nat::FullCone), ..Plan::home("full-cone") },
    Plan { nat: Some(Nat::Restricted), ..Plan::home("restricted") },
    Plan { nat: Some(Nat::PortRestricted), ..Plan::home("port-restricted") },
    Plan { nat: Some(Nat::Symmetric), ..Plan::home("symmetric") },
    Plan { shared: true, ..Plan::home("cgnat") },
    Plan { shared: true, igd: Some(Igd::Any), ..Plan::home("cgnat-igd") },
    Plan { shared: true, igd: Some(Igd::Lying), ..Plan::home("cgnat-lying-igd") },
    Plan { ipv6_only: true, nat: Some(Nat::Routed), ..Plan::home("ipv6-firewall") },
    Plan {
        ipv6_only: true,
        nat: Some(Nat::Routed),
        igd: Some(Igd::Any),
        rungs: &["ipv6_pinhole"],
        ..Plan::home("ipv6-pinhole")
    },
    Plan { gateways: 0, rungs: &[], ..Plan::home("no-gateway") },
    Plan { gateways: 2, igd: Some(Igd::Any), rungs: MAPPED, ..Plan::home("two-gateways") },
    Plan { vpn: true, igd: Some(Igd::Any), rungs: MAPPED, ..Plan::home("vpn") },
];

/// A process that ends with its owner.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway that is up.
#[derive(Debug)]
struct Gateway {
    daemon: Option<Running>,
    space: Space,
}

/// A topology that stands.
#[derive(Debug)]
pub(crate) struct World {
    lab: String,
    pub(crate) plan: Plan,
    gateways: [Option<Gateway>; 2],
    pub(crate) directory: Space,
    pub(crate) consumer: Space,
    pub(crate) relays: [Space; 2],
    pub(crate) node: Space,
    provider: Space,
    /// Those that only have to be there: the rest of the Internet, what connects the home, a VPN.
    others: Vec<Space>,
    /// The gateway's address outside, which may change.
    pub(crate) wan: String,
    files: std::path::PathBuf,
    line: Option<Running>,
}

impl World {
    pub(crate) fn build(plan: Plan) -> Outcome<World> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let lab = LABS.fetch_add(1, Ordering::Relaxed).to_string();
        let named = |machine: &str| Space::named(&lab, machine);
        let [internet, directory, consumer, relay, relay2] =
            ["internet", "directory", "consumer", "relay", "relay2"].map(named);
        let [provider, home, node, vpn] = ["provider", "home", "node", "vpn"].map(named);
        let mut lines = String::new();
        let everyone = [&internet, &directory, &consumer, &relay, &relay2, &provider, &home, &node, &vpn];
        for space in everyone {
            lines += &format!("netns add {}\n", space.name());
        }
        let mut link = |a: &Space, at: &str, b: &Space, to: &str| {
            lines += &format!("link add {at} netns {} type veth peer name {to} netns {}\n", a.name(), b.name());
        };
        let outside = [&directory, &consumer, &relay, &relay2];
        for (n, host) in outside.iter().enumerate() {
            link(&internet, &format!("h{}", n + 1), host, "eth0");
        }
        if plan.delay_ms == 0 {
            link(&internet, "isp", &provider, "uplink");
        }
        if plan.nat.is_none() {
            link(&internet, "h5", &node, "eth0");
        } else {
            link(&home, "node", &node, "eth0");
        }
        if plan.vpn {
            link(&vpn, "peer", &node, "tun0");
        }
        ip(&lines).map_err(|e| format!("namespaces cannot be made here: {e}"))?;
        let mut world = World {
            files: folder(&lab),
            lab,
            plan,
            gateways: [None, None],
            directory,
            consumer,
            relays: [relay, relay2],
            node,
            provider,
            others: vec![internet, home, vpn],
            wan: String::new(),
            line: None,
        };
        std::fs::create_dir_all(&world.files).map_err(|e| e.to_string())?;
        world.slow_line()?;
        world.connect()?;
        for n in 0..usize::from(plan.gateways) {
            if plan.nat.is_some() {
                world.gateway_up(n)?;
            }
        }
        Ok(world)
    }

    /// What is between the provider and the rest, if that is not simply a wire.
    fn slow_line(&mut self) -> Outcome {
        if self.plan.delay_ms == 0 {
            return Ok(());
        }
        let mut command = self.others[0].command("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/netlab/delay.py"));
        command.args(["isp", "uplink", self.provider.name(), &self.plan.delay_ms.to_string()]);
        let mut line = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("delay.py: {e}"))?;
        let output = line.stdout.take();
        self.line = Some(Running(line));
        let mut ready = String::new();
        let read = output.map(|output| BufReader::new(output).read_line(&mut ready));
        match read {
            Some(Ok(_)) if ready == "ready\n" => Ok(()),
            _ => Err("delay.py makes no line; it needs /dev/net/tun".into()),
        }
    }

    /// Gives addresses and routes to all but the gateways.
    fn connect(&mut self) -> Outcome {
        const ROUTER: [(&str, &str); 2] = [("ipv4.ip_forward", "1"), ("ipv6.conf.all.forwarding", "1")];
        let [internet, home, vpn] = &self.others[..] else { return Err("no internet".into()) };
        internet.set(&ROUTER)?;
        let mut lines = String::from("link set lo up\nlink set isp up\naddr add 5.5.9.1/24 dev isp\n");
        lines += "addr add 2a05:5505:9::1/64 dev isp nodad\n";
        for n in 1..=4 {
            lines += &format!(
                "link set h{n} up\naddr add 5.5.{n}.1/24 dev h{n}\naddr add 2a05:5505:{n}::1/64 dev h{n} nodad\n"
            );
        }
        if self.plan.nat.is_none() {
            lines += "link set h5 up\naddr add 5.5.5.1/24 dev h5\n";
        }
        lines += "route add 5.5.10.0/24 via 5.5.9.2\nroute add 5.5.11.0/24 via 5.5.9.2\n";
        lines += "route add 2a05:5505:10::/64 via 2a05:5505:9::2\nroute add 2a05:5505:77::/64 via 2a05:5505:9::2\n";
        internet.ip(&lines)?;
        let outside = [&self.directory, &self.consumer, &self.relays[0], &self.relays[1]];
        for (n, host) in outside.into_iter().enumerate() {
            let n = n + 1;
            host.ip(&format!(
                "link set lo up\nlink set eth0 up\naddr add 5.5.{n}.2/24 dev eth0\nroute add default via 5.5.{n}.1\n\
                 addr add 2a05:5505:{n}::2/64 dev eth0 nodad\nroute add default via 2a05:5505:{n}::1\n"
            ))?;
        }
        self.provider.set(&ROUTER)?;
        self.provider.ip(
            "link set lo up\nlink set uplink up\naddr add 5.5.9.2/24 dev uplink\nroute add default via 5.5.9.1\n\
             addr add 2a05:5505:9::2/64 dev uplink nodad\nroute add default via 2a05:5505:9::1\n",
        )?;
        self.provider.nft(rules::PROVIDER)?;
        // As a switch is: it learns nothing of who wants which multicast.
        home.ip("link set lo up\nlink add lan type bridge mcast_snooping 0\nlink set lan up\n")?;
        if self.plan.nat.is_none() {
            return self
                .node
                .ip("link set lo up\nlink set eth0 up\naddr add 5.5.5.2/24 dev eth0\nroute add default via 5.5.5.1\n");
        }
        home.ip("link set node master lan\nlink set node up\n")?;
        let mut lines = String::from("link set lo up\nlink set eth0 up\n");
        if self.plan.ipv6_only {
            lines += &format!("addr add {NODE6}/64 dev eth0 nodad\n");
            if self.plan.gateways > 0 {
                lines += &format!("route add default via {GATEWAY6} dev eth0\n");
            }
        } else {
            lines += &format!("addr add {NODE}/24 dev eth0\nroute add 239.0.0.0/8 dev eth0\n");
            if self.plan.gateways > 0 {
                lines += &format!("route add default via {GATEWAY}\n");
            }
        }
        if self.plan.vpn {
            lines += "link set tun0 up\naddr add 10.8.0.2/24 dev tun0\nroute add 10.0.0.0/8 dev tun0\n";
            vpn.ip("link set lo up\nlink set peer up\naddr add 10.8.0.1/24 dev peer\n")?;
        }
        self.node.ip(&lines)
    }

    /// Brings up a gateway, with nothing in its memory.
    pub(crate) fn gateway_up(&mut self, n: usize) -> Outcome {
        self.gateway_down(n);
        let home = &self.others[1];
        let space = Space::named(&self.lab, &format!("gateway{n}"));
        let (down, lan) = (format!("down{n}"), format!("gw{n}"));
        ip(&format!(
            "netns add {gw}\nlink add wan netns {gw} type veth peer name {down} netns {provider}\n\
             link add lan netns {gw} type veth peer name {lan} netns {home}\n",
            gw = space.name(),
            provider = self.provider.name(),
            home = home.name()
        ))?;
        home.ip(&format!("link set {lan} master lan\nlink set {lan} up\n"))?;
        space.set(&[("ipv4.ip_forward", "1"), ("ipv6.conf.all.forwarding", "1")])?;
        let mut lines = String::from("link set lo up\nlink set wan up\nlink set lan up\n");
        lines += &format!("addr add 192.168.77.{}/24 dev lan\nroute add 239.0.0.0/8 dev lan\n", n + 1);
        if self.plan.ipv6_only {
            lines +=
                &format!("addr add fe80::{}/64 dev lan nodad\naddr add 2a05:5505:77::{0}/64 dev lan nodad\n", n + 1);
            lines += "addr add 2a05:5505:10::2/64 dev wan nodad\nroute add default via 2a05:5505:10::1\n";
        }
        space.ip(&lines)?;
        self.provider.ip(&format!("link set {down} up\n"))?;
        if self.plan.ipv6_only {
            self.provider.ip(&format!(
                "addr add 2a05:5505:10::1/64 dev {down} nodad\nroute add 2a05:5505:77::/64 via 2a05:5505:10::2\n"
            ))?;
        }
        let deaf = match self.plan.igd {
            Some(Igd::NatPmp) => Deaf::ToPcp,
            Some(Igd::Pcp) => Deaf::ToNatPmp,
            _ => Deaf::Hears,
        };
        space.nft(&rules::gateway(self.plan.nat.unwrap_or(Nat::PortRestricted), deaf))?;
        self.gateways[n] = Some(Gateway { daemon: None, space });
        let (ours, theirs) = match (self.plan.shared, n) {
            (true, _) => ("100.64.0.2", "100.64.0.1"),
            (false, 0) => ("5.5.10.2", "5.5.10.1"),
            (false, _) => ("5.5.11.2", "5.5.11.1"),
        };
        self.address(n, ours, theirs)?;
        self.daemon_up(n)
    }

    /// Has the provider give a gateway another address.
    pub(crate) fn address(&mut self, n: usize, ours: &str, theirs: &str) -> Outcome {
        let gateway = self.gateway(n).ok_or("this gateway is down")?;
        gateway.ip(&format!(
            "addr flush dev wan to 0.0.0.0/0\naddr add {ours}/24 dev wan\nroute add default via {theirs}\n"
        ))?;
        self.provider.ip(&format!("addr flush dev down{n} to 0.0.0.0/0\naddr add {theirs}/24 dev down{n}\n"))?;
        if n == 0 {
            self.wan = ours.into();
        }
        Ok(())
    }

    pub(crate) fn gateway(&self, n: usize) -> Option<&Space> {
        self.gateways[n].as_ref().map(|gateway| &gateway.space)
    }

    /// Another machine at home, which is simply there.
    pub(crate) fn stranger(&self) -> Outcome<&Space> {
        let home = &self.others[1];
        home.ip(&format!("addr add {STRANGER}/24 dev lan\nroute add 224.0.0.0/4 dev lan\n"))?;
        Ok(home)
    }

    /// Takes a gateway away, with all that it knew.
    pub(crate) fn gateway_down(&mut self, n: usize) {
        self.gateways[n] = None;
    }

    /// Ends the gateway's daemon for good, and with it what it opened.
    pub(crate) fn daemon_down(&mut self, n: usize) -> Outcome {
        let gateway = self.gateways[n].as_mut().ok_or("this gateway is down")?;
        gateway.daemon = None;
        self.forget(n)
    }

    /// Closes all ports of a gateway, as if nobody had ever asked for them.
    pub(crate) fn forget(&self, n: usize) -> Outcome {
        let gateway = self.gateway(n).ok_or("this gateway is down")?;
        ["miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"]
            .iter()
            .try_for_each(|chain| gateway.nft(&format!("flush chain inet filter {chain}")))
    }

    /// Starts the gateway's daemon for port control anew, if it has one.
    pub(crate) fn daemon_up(&mut self, n: usize) -> Outcome {
        let config = self.files.join(format!("miniupnpd{n}.conf"));
        let Some(igd) = self.plan.igd else { return Ok(()) };
        let has_upnp = !matches!(igd, Igd::NatPmp | Igd::Pcp);
        let has_port_control = !matches!(igd, Igd::Upnp1 | Igd::Upnp2);
        let word = |is: bool| if is { "yes" } else { "no" };
        let text = format!(
            "ext_ifname=wan\nlistening_ip=lan\nhttp_port=5000\nenable_upnp={}\nenable_natpmp={}\nsecure_mode=yes\n\
             force_igd_desc_v1={}\nsystem_uptime=no\nmin_lifetime=60\nmax_lifetime=86400\nnotify_interval=900\n\
             uuid=00000000-0000-0000-0000-00000000000{n}\nallow 1024-65535 192.168.77.0/24 1024-65535\n\
             deny 0-65535 0.0.0.0/0 0-65535\n{}",
            word(has_upnp),
            word(has_port_control),
            word(igd == Igd::Upnp1),
            if igd == Igd::Lying { format!("ext_ip={PROVIDER_SHARED}\n") } else { String::new() },
        );
        std::fs::write(&config, text).map_err(|e| e.to_string())?;
        let log = std::fs::File::create(self.files.join(format!("miniupnpd{n}.log"))).map_err(|e| e.to_string())?;
        let pid = self.files.join(format!("miniupnpd{n}.pid"));
        let gateway = self.gateways[n].as_mut().ok_or("this gateway is down")?;
        gateway.daemon = None;
        let mut command = gateway.space.command("miniupnpd");
        command.arg("-d").arg("-f").arg(&config).arg("-P").arg(pid);
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        gateway.daemon = Some(Running(child.map_err(|e| format!("miniupnpd: {e}"))?));
        Ok(())
    }

    /// A folder for what a program keeps, as long as this world stands.
    pub(crate) fn folder(&self, name: &str) -> Outcome<String> {
        let folder = self.files.join(name);
        std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
        Ok(folder.to_string_lossy().into_owned())
    }

    /// What the first gateway's daemon said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.files.join("miniupnpd0.log")).unwrap_or_default()
    }

    /// The address by which the outside sees packets from inside.
    pub(crate) fn seen_as(&self) -> &str {
        match (self.plan.nat, self.plan.shared) {
            (None, _) => NODE_PUBLIC,
            (Some(Nat::Routed), _) => NODE6,
            (Some(_), true) => PROVIDER_SHARED,
            (Some(_), false) => &self.wan,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.files);
    }
}
