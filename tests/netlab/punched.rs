//! Two peers, each at home behind a gateway of its own, and a relay outside: which of them find a direct path, how fast it is,
//! and what happens when it dies.
//!
//! ```text
//! directory 5.5.1.2 ┐            ┌ gateway (wan 5.5.10.2) ─ node 192.168.77.10
//! relay     5.5.3.2 ┴ internet ─ ┴ gateway (wan 5.5.11.2) ─ caller 192.168.77.11
//! ```
//!
//! Over IPv6 nothing is translated, but nothing is let in either: the homes are 2a05:5505:77::/64 and 2a05:5505:78::/64.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::inside::{DIRECTORY_PORT, INTENT};
use crate::program::Program;
use crate::rules::{self, Deaf, Nat};
use crate::space::{Space, ip};
use crate::world::{DIRECTORY, DIRECTORY6, RELAYS, RELAYS6, Running};

const START: Duration = Duration::from_secs(30);
/// How long a path may take that is there to be found.
const FOUND: Duration = Duration::from_secs(8);
/// How long it is watched that there is none.
const NOT_FOUND: Duration = Duration::from_secs(8);
/// The longest that a task may take when its path dies under it: until that is noticed, and a little.
const NOTICED: Duration = Duration::from_secs(9);
/// Of a hundred tries (issue: 95).
const OF_A_HUNDRED: u32 = 95;
/// Median over the direct path to median over the relay, at most.
const DIRECT_VS_RELAY: f64 = 0.6;

/// Two gateways, the node's and the caller's.
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    pub(crate) quick: bool,
    pub(crate) tries: u32,
    homes: [Home; 2],
    /// Whether both are at home behind the node's gateway.
    together: bool,
    /// Whether there is a path.
    found: bool,
}

/// Where a peer is at home.
#[derive(Clone, Copy)]
struct Home {
    nat: Nat,
    ipv4: bool,
    ipv6: bool,
}

const fn pair(name: &'static str, node: Nat, caller: Nat, tries: u32) -> Pair {
    Pair { name, quick: false, tries, homes: [home(node), home(caller)], together: false, found: true }
}

const fn home(nat: Nat) -> Home {
    Home { nat, ipv4: true, ipv6: false }
}

/// A gateway that lets in over IPv6 what it was asked for, and nothing else.
const FIREWALL: Home = Home { nat: Nat::Routed, ipv4: false, ipv6: true };

use Nat::{FullCone, PortRestricted, Restricted, Symmetric};

pub(crate) const PAIRS: &[Pair] = &[
    Pair { quick: true, ..pair("home, home", PortRestricted, PortRestricted, 100) },
    pair("full cone, full cone", FullCone, FullCone, 20),
    pair("restricted, restricted", Restricted, Restricted, 20),
    pair("full cone, home", FullCone, PortRestricted, 20),
    pair("home, full cone", PortRestricted, FullCone, 20),
    pair("restricted, home", Restricted, PortRestricted, 20),
    pair("symmetric, full cone", Symmetric, FullCone, 25),
    Pair { quick: true, ..pair("symmetric, restricted", Symmetric, Restricted, 25) },
    pair("full cone, symmetric", FullCone, Symmetric, 25),
    Pair { quick: true, ..pair("restricted, symmetric", Restricted, Symmetric, 25) },
    Pair { quick: true, homes: [FIREWALL, FIREWALL], ..pair("IPv6, IPv6", PortRestricted, PortRestricted, 25) },
    Pair {
        homes: [Home { ipv6: true, ..home(Symmetric) }, FIREWALL],
        ..pair("symmetric and IPv6, IPv6", Symmetric, Symmetric, 25)
    },
    Pair {
        homes: [Home { ipv6: true, ..home(Symmetric) }; 2],
        ..pair("symmetric and IPv6, alike", Symmetric, Symmetric, 25)
    },
    Pair { quick: true, together: true, ..pair("the same gateway", PortRestricted, PortRestricted, 25) },
    Pair { together: true, ..pair("the same symmetric gateway", Symmetric, Symmetric, 25) },
    // Whose ports cannot be named to each other.
    Pair { quick: true, found: false, ..pair("symmetric, symmetric", Symmetric, Symmetric, 1) },
    Pair { found: false, ..pair("symmetric, home", Symmetric, PortRestricted, 1) },
];

/// An event: its name, whether it is part of the short run, and what happens.
pub(crate) type Event = (&'static str, bool, fn() -> Outcome<String>);

pub(crate) const EVENTS: &[Event] = &[("path death", true, death), ("direct_vs_relay", true, latency)];

/// Both homes, and what is between them. Programs end before their machines go.
struct Homes {
    node: Program,
    caller: Program,
    _others: [Program; 2],
    _lines: Vec<Running>,
    gateways: [Space; 2],
    _spaces: Vec<Space>,
}

impl Homes {
    /// `delay_ms` is how long a packet takes from a home, or the relay, to the middle.
    fn build(at: [Home; 2], together: bool, delay_ms: u16) -> Outcome<Homes> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let lab = format!("p{}", LABS.fetch_add(1, Ordering::Relaxed));
        let named = |machine: &str| Space::named(&lab, machine);
        let [internet, directory, relay] = ["internet", "directory", "relay"].map(named);
        let [gateway, gateway2, node, caller] = ["gateway0", "gateway1", "node", "caller"].map(named);
        let mut lines = String::new();
        for space in [&internet, &directory, &relay, &gateway, &gateway2, &node, &caller] {
            lines += &format!("netns add {}\n", space.name());
        }
        let mut link = |a: &Space, at: &str, b: &Space, to: &str| {
            lines += &format!("link add {at} netns {} type veth peer name {to} netns {}\n", a.name(), b.name());
        };
        let far = [(&relay, "h3", "eth0"), (&gateway, "h10", "wan"), (&gateway2, "h11", "wan")];
        link(&internet, "h1", &directory, "eth0");
        link(&gateway, "lan0", &node, "eth0");
        link(if together { &gateway } else { &gateway2 }, "lan1", &caller, "eth0");
        if delay_ms == 0 {
            far.iter().for_each(|(space, at, to)| link(&internet, at, space, to));
        }
        ip(&lines).map_err(|e| format!("namespaces cannot be made here: {e}"))?;
        let mut slow = Vec::new();
        for (space, at, to) in far.iter().filter(|_| delay_ms > 0) {
            slow.push(line(&internet, at, space, to, delay_ms)?);
        }
        for space in [&internet, &gateway, &gateway2] {
            space.set(&[("ipv4.ip_forward", "1"), ("ipv6.conf.all.forwarding", "1")])?;
        }
        let mut lines = String::from("link set lo up\n");
        for n in [1, 3, 10, 11] {
            lines += &format!("link set h{n} up\naddr add 5.5.{n}.1/24 dev h{n}\n");
            lines += &format!("addr add 2a05:5505:{n}::1/64 dev h{n} nodad\n");
        }
        lines += "route add 2a05:5505:77::/64 via 2a05:5505:10::2\nroute add 2a05:5505:78::/64 via 2a05:5505:11::2\n";
        internet.ip(&lines)?;
        for (space, dev, net) in
            [(&directory, "eth0", 1), (&relay, "eth0", 3), (&gateway, "wan", 10), (&gateway2, "wan", 11)]
        {
            let (net4, net6) = (format!("5.5.{net}"), format!("2a05:5505:{net}"));
            join(space, dev, Some((&net4, 2)), Some((&net6, 2)))?;
        }
        for (n, (space, home)) in [(&gateway, at[0]), (&gateway2, at[1])].into_iter().enumerate() {
            space.ip(&format!(
                "link add lan type bridge mcast_snooping 0\nlink set lan up\naddr add 192.168.77.1/24 dev lan\n\
                 addr add 2a05:5505:{}::1/64 dev lan nodad\n",
                77 + n
            ))?;
            space.nft(&rules::gateway(home.nat, Deaf::Hears))?;
        }
        for (n, (space, home)) in [(&node, at[0]), (&caller, at[1])].into_iter().enumerate() {
            let (behind, net) = if together { (&gateway, 77) } else { ([&gateway, &gateway2][n], 77 + n) };
            behind.ip(&format!("link set lan{n} master lan\nlink set lan{n} up\n"))?;
            let net6 = format!("2a05:5505:{net}");
            let last = 10 + n;
            join(space, "eth0", home.ipv4.then_some(("192.168.77", last)), home.ipv6.then_some((&net6, last)))?;
            space.hosts(&names())?;
        }
        directory.hosts(&names())?;
        relay.hosts(&names())?;
        let has_ipv6 = at.iter().any(|home| home.ipv6);
        let place = |ip: &str, name: &str| if has_ipv6 { name.to_owned() } else { ip.to_owned() };
        let url = format!("http://{}:{DIRECTORY_PORT}", place(DIRECTORY, "directory.example"));
        let options = json!({ "probe": false, "limits": false, "qos_gating": false });
        let registry = Program::start(&directory, "directory", &options)?.ready(START)?;
        let options = json!({
            "node_id": "relay-0", "intents": ["urn:iicp:intent:llm:chat:v1"], "host": "::", "port": 9484,
            "directory": url, "endpoint": format!("http://{}:9484", place(RELAYS[0], "relay.example")), "relay_server": {},
        });
        let relaying = Program::start(&relay, "node", &options)?.ready(START)?;
        let options = json!({
            "node_id": "node-1", "intents": [INTENT], "host": "127.0.0.1", "port": 9484, "directory": url, "relay_worker": {},
            // A path that dies gives back all its tasks in the same moment.
            "max_concurrent": 256,
        });
        let served = Program::start(&node, "node", &options)?.ready(START)?;
        let options = json!({ "directory": url, "route_discovery": "legacy", "consumer_auth": "disabled" });
        let asking = Program::start(&caller, "consumer", &options)?.ready(START)?;
        let mut homes = Homes {
            node: served,
            caller: asking,
            _others: [registry, relaying],
            _lines: slow,
            gateways: [gateway, gateway2],
            _spaces: vec![internet, directory, relay, node, caller],
        };
        homes.until_relayed()?;
        Ok(homes)
    }

    /// Waits until a client that looks for no path has its answer.
    fn until_relayed(&mut self) -> Outcome {
        let begun = Instant::now();
        loop {
            let answer = self.submit(&json!({ "fresh": true, "punch": "off" }))?;
            if !answer["ok"].is_null() {
                return Ok(());
            }
            if begun.elapsed() > START {
                return Err(format!("no answer through the relay: {answer}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn submit(&mut self, command: &Value) -> Outcome<Value> {
        let mut command = command.clone();
        command["payload"] = json!({ "hello": 1 });
        self.caller.ask(&command, START)
    }

    fn report(&mut self) -> Outcome<String> {
        Ok(self.node.ask(&json!({}), START)?["report"].as_str().unwrap_or_default().to_owned())
    }

    /// How often a caller has connected.
    fn connected(&mut self) -> Outcome<u64> {
        let report = self.report()?;
        let count = report.split("and connected ").nth(1).and_then(|rest| rest.split(' ').next());
        Ok(count.and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    /// Submits until the caller has connected, or for so long; every task has to be answered. How long it took.
    fn direct(&mut self, is_new: bool, within: Duration) -> Outcome<Option<Duration>> {
        let before = self.connected()?;
        let begun = Instant::now();
        let mut command = json!({ "fresh": is_new });
        loop {
            let answer = self.submit(&command)?;
            if answer["ok"].is_null() {
                return Err(format!("a task was lost: {answer}"));
            }
            command["fresh"] = false.into();
            if self.connected()? > before {
                return Ok(Some(begun.elapsed()));
            }
            if begun.elapsed() > within {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Submits many; all have to be answered. How long each took.
    fn many(&mut self, command: &Value) -> Outcome<Vec<Duration>> {
        self.caller.tell(command)?;
        self.many_told()
    }

    fn many_told(&mut self) -> Outcome<Vec<Duration>> {
        let answer = self.caller.line(4 * START)?;
        if answer["failed"].as_array().is_none_or(|failed| !failed.is_empty()) {
            return Err(format!("tasks were lost: {}\n{}", answer["failed"], self.report()?));
        }
        let took = answer["took_us"].as_array().into_iter().flatten().filter_map(Value::as_u64);
        Ok(took.map(Duration::from_micros).collect())
    }
}

/// Connects a machine to a net by its addresses there, and to everything else by the first machine there.
fn join(space: &Space, dev: &str, net4: Option<(&str, usize)>, net6: Option<(&str, usize)>) -> Outcome {
    let mut lines = format!("link set lo up\nlink set {dev} up\n");
    if let Some((net, last)) = net4 {
        lines += &format!("addr add {net}.{last}/24 dev {dev}\nroute add default via {net}.1\n");
    }
    if let Some((net, last)) = net6 {
        lines += &format!("addr add {net}::{last}/64 dev {dev} nodad\nroute add default via {net}::1\n");
    }
    space.ip(&lines)
}

/// What names mean where there are two families.
fn names() -> String {
    format!(
        "127.0.0.1 localhost\n{DIRECTORY} directory.example\n{DIRECTORY6} directory.example\n\
         {} relay.example\n{} relay.example\n",
        RELAYS[0], RELAYS6[0]
    )
}

/// A slow line from the middle to a machine.
fn line(internet: &Space, at: &str, space: &Space, to: &str, delay_ms: u16) -> Outcome<Running> {
    let mut command = internet.command("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/netlab/delay.py"));
    command.args([at, to, space.name(), &delay_ms.to_string()]);
    let mut line = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("delay.py: {e}"))?;
    let output = line.stdout.take();
    let line = Running(line);
    let mut ready = String::new();
    match output.map(|output| BufReader::new(output).read_line(&mut ready)) {
        Some(Ok(_)) if ready == "ready\n" => Ok(line),
        _ => Err("delay.py makes no line; it needs /dev/net/tun".into()),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

impl Pair {
    /// Callers who know nothing yet come one after the other.
    pub(crate) fn run(&self, tries: u32) -> Outcome<String> {
        let mut homes = Homes::build(self.homes, self.together, 0)?;
        let (mut times, mut misses) = (Vec::new(), 0);
        for _ in 0..tries {
            match homes.direct(true, if self.found { FOUND } else { NOT_FOUND })? {
                Some(time) => times.push(time),
                None => misses += 1,
            }
        }
        let hits = tries - misses;
        let enough = if self.found { hits * 100 >= tries * OF_A_HUNDRED } else { hits == 0 };
        let shown =
            format!("direct in {hits} of {tries} tries, in the middle after {:.2} s", median(times).as_secs_f32());
        match (enough, self.found) {
            (true, true) => Ok(shown),
            (true, false) => Ok("stays on the relay".into()),
            (false, _) => Err(format!("{shown}\n{}", homes.report()?)),
        }
    }
}

/// The path dies in the middle of tasks that may be sent again: none is lost, and when it is good again, it is found again.
fn death() -> Outcome<String> {
    let mut homes = Homes::build([home(PortRestricted); 2], false, 0)?;
    homes.direct(true, FOUND)?.ok_or("no direct path to begin with")?;
    homes.caller.tell(&json!({ "count": 300, "every_ms": 50 }))?;
    std::thread::sleep(Duration::from_secs(3));
    homes.gateways[0].nft(
        "table ip hole { chain forward { type filter hook forward priority -10; meta l4proto udp counter drop; }; }",
    )?;
    let times = homes.many_told()?;
    let longest = times.iter().max().copied().unwrap_or_default();
    if times.len() != 300 || longest > NOTICED {
        return Err(format!("{} of 300 tasks were answered, the slowest after {longest:?}", times.len()));
    }
    homes.gateways[0].nft("delete table ip hole")?;
    let again = homes.direct(false, 3 * START)?.ok_or("not found again")?;
    let (longest, again) = (longest.as_secs_f32(), again.as_secs_f32());
    Ok(format!("300 of 300 tasks answered, the slowest after {longest:.1} s; direct again after {again:.1} s"))
}

/// Everybody is as far from the middle as everybody else.
fn latency() -> Outcome<String> {
    let mut homes = Homes::build([home(PortRestricted); 2], false, 10)?;
    let relayed = median(homes.many(&json!({ "fresh": true, "punch": "off", "count": 101 }))?);
    homes.direct(true, FOUND)?.ok_or("no direct path")?;
    // The path is proven a moment before it takes tasks.
    std::thread::sleep(Duration::from_secs(1));
    let direct = median(homes.many(&json!({ "count": 101 }))?);
    let ratio = direct.as_secs_f64() / relayed.as_secs_f64();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let shown = format!("{ratio:.2}: {:.1} ms direct, {:.1} ms through the relay", ms(direct), ms(relayed));
    if ratio <= DIRECT_VS_RELAY { Ok(shown) } else { Err(shown) }
}
