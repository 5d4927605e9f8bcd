//! Gateways: what their rules let through, and the real daemon that changes those rules when it is asked.

use std::process::{Child, Stdio};

use super::place::Place;

/// The kinds of NAT, each by its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whoever sends to a port is let in, to the machine behind.
    FullCone,
    /// Whoever was sent to is let in, from any port.
    Restricted,
    /// Whoever was sent to is let in, from that very port: what nft's masquerade does by itself.
    PortRestricted,
    /// The same, with another outer port for every destination.
    Symmetric,
    /// No NAT: a router with a firewall that lets nobody in.
    Firewall,
}

/// The rules of a gateway between `lan` and `wan` for the machine `inside`. Gateways drop; they do not reject.
#[must_use]
pub fn rules(kind: Kind, inside: &str) -> String {
    let masquerade = match kind {
        Kind::Firewall => "",
        Kind::Symmetric => "oifname wan meta nfproto ipv4 masquerade fully-random",
        _ => "oifname wan meta nfproto ipv4 masquerade",
    };
    let let_in = match kind {
        Kind::FullCone => format!("iifname wan meta nfproto ipv4 th dport 1024-65535 dnat ip to {inside}"),
        Kind::Restricted => format!("iifname wan ip saddr @sent_to th dport 1024-65535 dnat ip to {inside}"),
        _ => String::new(),
    };
    let note = if kind == Kind::Restricted { "iifname lan meta nfproto ipv4 add @sent_to { ip daddr }" } else { "" };
    format!(
        "table inet filter {{
            set sent_to {{ type ipv4_addr; flags dynamic,timeout; timeout 60s; }}
            chain miniupnpd {{ }}
            chain prerouting_miniupnpd {{ }}
            chain postrouting_miniupnpd {{ }}
            chain forward {{
                type filter hook forward priority 0; policy drop;
                {note}
                ct state established,related accept
                iifname lan accept
                ct status dnat accept
                meta l4proto ipv6-icmp accept
                jump miniupnpd
            }}
            chain input {{
                type filter hook input priority 0; policy drop;
                ct state established,related accept
                iifname {{ lan, lo }} accept
                meta l4proto {{ icmp, ipv6-icmp }} accept
            }}
            chain prerouting {{ type nat hook prerouting priority -100; jump prerouting_miniupnpd; {let_in}; }}
            chain postrouting {{ type nat hook postrouting priority 100; jump postrouting_miniupnpd; {masquerade}; }}
        }}"
    )
}

/// What the daemon offers.
#[derive(Clone, Copy, Debug)]
pub struct Offers {
    /// UPnP IGD.
    pub upnp: bool,
    /// NAT-PMP and PCP.
    pub port_control: bool,
    /// Says that it has this address outside, whatever it has.
    pub outer: Option<&'static str>,
}

impl Offers {
    /// All of it.
    pub const ALL: Offers = Offers { upnp: true, port_control: true, outer: None };
}

/// The daemon that opens ports: Debian's miniupnpd.
#[derive(Debug)]
pub struct Daemon {
    place: Place,
    offers: Offers,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it on the interface `lan`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(place: &Place, offers: Offers) -> Self {
        place.ip("route add 239.0.0.0/8 dev lan");
        let mut daemon = Daemon { place: place.clone(), offers, child: None };
        daemon.begin();
        daemon
    }

    fn begin(&mut self) {
        let yes = |on: bool| if on { "yes" } else { "no" };
        let folder = std::env::temp_dir();
        let path = folder.join(format!("{}.conf", self.place.name));
        let outer = self.offers.outer.map_or(String::new(), |ip| format!("ext_ip={ip}\n"));
        let settings = format!(
            "ext_ifname=wan\nlistening_ip=lan\nenable_upnp={}\nenable_natpmp={}\nsecure_mode=yes\n{outer}\
             force_igd_desc_v1=no\nsystem_uptime=yes\nuuid=00000000-0000-0000-0000-000000000007\n\
             allow 1024-65535 0.0.0.0/0 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n",
            yes(self.offers.upnp),
            yes(self.offers.port_control),
        );
        std::fs::write(&path, settings).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let pid = folder.join(format!("{}.pid", self.place.name));
        let words = ["miniupnpd", "-d", "-f", &path.to_string_lossy(), "-P", &pid.to_string_lossy()];
        let log = std::fs::File::create(folder.join(format!("{}.log", self.place.name)));
        let log = log.map_or_else(|_| Stdio::null(), Stdio::from);
        let child = self.place.command(&words).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.unwrap_or_else(|e| panic!("miniupnpd: {e}")));
    }

    /// What a power cut does: everything is forgotten, and it is back after a moment.
    pub fn restart(&mut self, down: std::time::Duration) {
        self.stop();
        for chain in ["miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd"] {
            self.place.rules(&format!("flush chain inet filter {chain}"));
        }
        std::thread::sleep(down);
        self.begin();
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ports and pinholes that are open now.
#[must_use]
pub fn open_ports(place: &Place) -> usize {
    let count = |chain: &str, what: &str| {
        let rules = place.run(&["nft", "list", "chain", "inet", "filter", chain]);
        rules.lines().filter(|line| line.contains(what)).count()
    };
    count("prerouting_miniupnpd", "dnat") + count("miniupnpd", "ip6 daddr")
}
