//! Machines of the lab: a namespace each, and wires between them.

use std::process::{Command, Stdio};

/// Beginning of the names of all namespaces of this lab, with the process that made them.
fn prefix() -> String {
    format!("iicplab{}_", std::process::id())
}

/// What the lab needs and this machine lacks, in words; none if it can be built.
#[must_use]
pub fn missing() -> Option<String> {
    for (command, package) in
        [("ip", "iproute2"), ("nft", "nftables"), ("miniupnpd", "miniupnpd-nftables"), ("sysctl", "procps")]
    {
        let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
            .iter()
            .any(|folder| std::path::Path::new(folder).join(command).exists());
        if !found {
            return Some(format!("{command} is missing; on Debian: apt-get install {package}"));
        }
    }
    let trial = format!("{}trial", prefix());
    let made = quiet(&["ip", "netns", "add", &trial]);
    let rules = made
        && quiet(&[
            "ip",
            "netns",
            "exec",
            &trial,
            "nft",
            "add table inet t { chain c { type nat hook postrouting priority 100; }; }",
        ]);
    let wires = made && quiet(&["ip", "-n", &trial, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"]);
    let _ = quiet(&["ip", "netns", "del", &trial]);
    match (made, rules, wires) {
        (false, ..) => Some("namespaces cannot be made; the lab needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN)".into()),
        (_, false, _) => Some("nft makes no NAT here; the kernel needs nf_tables with nft_nat".into()),
        (.., false) => Some("no veth pair can be made; the kernel needs veth".into()),
        _ => None,
    }
}

fn quiet(command: &[&str]) -> bool {
    let ran = Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// A machine.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of the namespace.
    pub name: String,
}

/// All machines of one experiment; gone when dropped.
#[derive(Debug)]
pub struct Lab {
    places: Vec<Place>,
    wires: u32,
}

impl Default for Lab {
    fn default() -> Self {
        Lab::new()
    }
}

impl Lab {
    /// An empty one. Clears what a lab left whose process is gone.
    #[must_use]
    pub fn new() -> Self {
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix("iicplab").and_then(|rest| rest.split('_').next()).map(str::to_owned);
            if owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
                let _ = quiet(&["ip", "netns", "del", &name]);
            }
        }
        Lab { places: Vec::new(), wires: 0 }
    }

    /// Adds a machine.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn place(&mut self, name: &str) -> Place {
        let place = Place { name: format!("{}{name}", prefix()) };
        run(&["ip", "netns", "add", &place.name]);
        place.ip("link set lo up");
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.all.accept_dad=0",
            "net.ipv6.conf.default.accept_dad=0",
        ] {
            place.run(&["sysctl", "-qw", setting]);
        }
        self.places.push(place.clone());
        place
    }

    /// Lays a wire between two machines, with the names and addresses of its ends.
    ///
    /// # Panics
    /// If it cannot be laid.
    pub fn wire(&mut self, a: (&Place, &str, &[&str]), b: (&Place, &str, &[&str])) {
        self.wires += 1;
        let (one, other) = (format!("lab{}a", self.wires), format!("lab{}b", self.wires));
        a.0.ip(&format!("link add name {one} type veth peer name {other} netns {}", b.0.name));
        for ((place, name, addresses), end) in [(a, one), (b, other)] {
            place.ip(&format!("link set dev {end} name {name}"));
            place.ip(&format!("link set dev {name} up"));
            for address in addresses {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                place.ip(&format!("addr add {address} dev {name}{nodad}"));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for place in &self.places {
            let _ = quiet(&["ip", "netns", "del", &place.name]);
        }
    }
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Place {
    /// Runs `ip` for this machine, with words split at spaces.
    ///
    /// # Panics
    /// If it fails.
    pub fn ip(&self, words: &str) {
        let mut command = vec!["ip", "-n", &self.name];
        command.extend(words.split(' '));
        run(&command);
    }

    /// Runs a command here, and gives what it says.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, command: &[&str]) -> String {
        let mut words = vec!["ip", "netns", "exec", &self.name];
        words.extend(command);
        run(&words)
    }

    /// Loads rules for packets.
    ///
    /// # Panics
    /// If they are refused.
    pub fn rules(&self, rules: &str) {
        self.run(&["nft", rules]);
    }

    /// A command that will run here.
    #[must_use]
    pub fn command(&self, command: &[&str]) -> Command {
        let mut ready = Command::new("ip");
        ready.args(["netns", "exec", &self.name]).args(command).stdin(Stdio::null());
        ready
    }

    /// Runs a future here, on a thread and a runtime of its own, until it ends.
    ///
    /// # Panics
    /// If the namespace cannot be entered.
    pub fn spawn<T, F>(&self, what: impl FnOnce() -> F + Send + 'static) -> std::thread::JoinHandle<T>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let path = format!("/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let namespace = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            let entered = rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind);
            entered.unwrap_or_else(|e| panic!("{path}: {e}"));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap_or_else(|e| panic!("no runtime: {e}")).block_on(what())
        })
    }
}
