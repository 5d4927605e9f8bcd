use std::time::{Duration, SystemTime};

use clap::Args;
use iicp_core::options::{BackendOptions, NodeOptions};
use iicp_core::types::{NatReport, Rung, RungState};
use iicp_core::{CHAT, Code, Node};
use serde_json::{Value, json};
use url::Url;

use super::{deepest, http, node_defaults};
use crate::Context;
use crate::console::{good, printable, strong};
use crate::failure::Failure;
use crate::settings::{Flags, Section, Takes, attach};

pub(crate) const FLAGS: &[Flags] = &[Flags {
    section: Section::Node,
    prefix: "",
    takes: Takes::Only(&["directory", "port", "backend", "endpoint", "tls.certificate", "tls.key", "trusted_ca"]),
    common: &["directory", "port", "backend"],
}];

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// More is no answer that is read.
const MOST_BYTES: usize = 1 << 20;
/// Tickets and tokens of a directory are good for minutes; clocks that differ by less do no harm.
const MOST_APART_S: u64 = 30;
const DAY_S: u64 = 24 * 3600;

const EXAMPLES: &str = "\
Exit codes:
  0  a node with these settings can serve, and is reached
  1  something stands in its way: what failed says what to do
  2  the command line or the configuration

Examples:
  iicp doctor                    this machine, its network, the directory and the backend
  iicp doctor --json             one object, for scripts
  iicp doctor --port 9484        as a node on this port would see it";

/// Find out what keeps a node from serving, or from being reached
///
/// Ports that the gateway opens meanwhile are given back. Nothing is registered.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {}

pub(crate) fn flags(command: clap::Command) -> clap::Command {
    attach(command, &FLAGS[0], &node_defaults())
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Well,
    /// Not so, and nothing that has to be.
    No,
    Skipped,
    Failed,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Well => "ok",
            State::No => "no",
            State::Skipped => "skipped",
            State::Failed => "failed",
        }
    }
}

struct Check {
    name: &'static str,
    state: State,
    said: String,
    fix: Option<String>,
}

impl Check {
    fn new(name: &'static str, state: State, said: impl Into<String>) -> Self {
        Check { name, state, said: said.into(), fix: None }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn json(&self) -> Value {
        json!({ "check": self.name, "state": self.state.as_str(), "said": self.said, "fix": self.fix })
    }
}

pub(crate) async fn run(_: Doctor, context: &mut Context) -> Result<(), Failure> {
    let options: NodeOptions = context.settings.section(Section::Node, &node_defaults())?;
    let progress = context.console.progress("looking at this machine and its network");
    let examined = tokio::select! {
        examined = examine(&options) => examined?,
        signal = context.signals.next() => return Err(Failure::Interrupted(signal)),
    };
    drop(progress);
    let (checks, report) = examined;
    let healthy = checks.iter().all(|check| check.state != State::Failed);
    let console = context.console;
    if console.json {
        let checks: Vec<Value> = checks.iter().map(Check::json).collect();
        console.object(&json!({ "healthy": healthy, "checks": checks, "nat": report }))?;
    } else {
        for check in &checks {
            let state = match check.state {
                State::Well => good("ok"),
                State::Failed => strong("failed"),
                other => other.as_str().to_owned(),
            };
            console.line(&format!("{}: {state}: {}", check.name, printable(&check.said)))?;
            if let Some(fix) = &check.fix {
                console.line(&format!("  what to do: {fix}"))?;
            }
        }
    }
    if healthy { Ok(()) } else { Err(Failure::Said(1)) }
}

async fn examine(options: &NodeOptions) -> Result<(Vec<Check>, NatReport), Failure> {
    let outside = directory(&options.directory, options.trusted_ca.as_deref());
    let (outside, backend, report, certificate) =
        tokio::join!(outside, backend(options.backend.as_ref()), nat(options), certificate(options));
    let report = report?;
    let (mut checks, relays) = outside;
    checks.push(certificate);
    checks.extend(network(&report));
    checks.push(reached(&report, &options.directory, relays));
    checks.push(backend);
    Ok((checks, report))
}

/// What a node on all addresses of this machine would find.
async fn nat(options: &NodeOptions) -> Result<NatReport, Failure> {
    let mut trial = NodeOptions::default();
    trial.intents = vec![CHAT.into()];
    trial.host = "::".into();
    trial.port = options.port;
    trial.nat = options.nat.clone();
    if !is_local(&options.directory) {
        trial.directory = options.directory.clone();
    }
    let node = match Node::bind(trial.clone()).await {
        // The node that is asked about may be running.
        Err(error) if error.code() == Code::Bind => {
            trial.port = 0;
            Node::bind(trial).await?
        }
        bound => bound?,
    };
    Ok(node.nat_report().await?)
}

fn is_local(directory: &str) -> bool {
    match Url::parse(directory).ok().and_then(|url| url.host().map(|host| host.to_owned())) {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => true,
    }
}

/// Name, clock, TLS and answer of the directory; and how many relays it knows.
async fn directory(base: &str, trusted_ca: Option<&str>) -> (Vec<Check>, usize) {
    let names = ["dns", "tls", "directory", "clock"];
    let skipped = |why: &str| names.map(|name| Check::new(name, State::Skipped, why)).into();
    let url = format!("{}/v1/discover?intent={CHAT}&relay_capable=true&limit=50", base.trim_end_matches('/'));
    let Ok(url) = Url::parse(&url) else { return (skipped("there is no directory"), 0) };
    let host = url.host_str().unwrap_or_default().to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let looked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host.trim_matches(['[', ']']), port))).await;
    let found = looked.ok().and_then(Result::ok).map_or(0, Iterator::count);
    if found == 0 {
        let mut checks: Vec<Check> = skipped("the directory's name does not resolve");
        checks[0] = Check::new("dns", State::Failed, format!("{host} does not resolve"))
            .fix("check the name, and the resolver of this machine (/etc/resolv.conf)");
        return (checks, 0);
    }
    let dns = Check::new("dns", State::Well, format!("{host} has {found} addresses"));
    let is_tls = url.scheme() == "https";
    let (tls, answer, clock, relays) = match get(url, trusted_ca).await {
        Ok(Answer { status, date, body }) => {
            let tls = if is_tls {
                Check::new("tls", State::Well, "the directory's certificate is good")
            } else {
                Check::new("tls", State::Skipped, "the directory is called in plain text, as its URL says")
            };
            let answer = if status == 200 {
                Check::new("directory", State::Well, format!("{base} answers"))
            } else {
                Check::new("directory", State::Failed, format!("{base} answers with status {status}"))
                    .fix("check option directory; the public one is https://iicp.network/api")
            };
            let relays = body["nodes"]
                .as_array()
                .map_or(0, |nodes| nodes.iter().filter(|node| node["relay_capable"].as_bool() == Some(true)).count());
            (tls, answer, clock(date), relays)
        }
        Err(why) => {
            let blames_tls = is_tls && why.to_ascii_lowercase().contains("certificate");
            let tls = if blames_tls {
                Check::new("tls", State::Failed, why.clone())
                    .fix("check the clock and the root certificates of this machine (package ca-certificates); option trusted_ca adds an authority")
            } else {
                Check::new("tls", State::Skipped, "there was no answer")
            };
            let answer = Check::new("directory", State::Failed, format!("{base} does not answer: {why}"))
                .fix("check option directory, and whether a firewall keeps this machine from it");
            (tls, answer, Check::new("clock", State::Skipped, "nobody told the time"), 0)
        }
    };
    (vec![dns, tls, answer, clock], relays)
}

/// How good the node's own certificate is.
async fn certificate(options: &NodeOptions) -> Check {
    let check = |state, said: String| Check::new("certificate", state, said);
    let report = match Node::certificate_report(options).await {
        Ok(Some(report)) => report,
        Ok(None) => {
            return check(State::Skipped, "the node has none; it speaks HTTP, or something in front of it TLS".into());
        }
        Err(error) => {
            return check(State::Failed, error.message().to_owned())
                .fix("correct option tls.certificate, tls.key or trusted_ca, or renew the files");
        }
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let host = report.host.unwrap_or_default();
    if !report.is_for_host {
        return check(State::Failed, format!("it is not for {host}, which callers are sent to"))
            .fix("set option endpoint to a URL with a name in the certificate, or get a certificate for this name");
    }
    if now < report.from_unix_s {
        return check(State::Failed, format!("it is good in {} days only", (report.from_unix_s - now).div_ceil(DAY_S)))
            .fix("check the clock of this machine");
    }
    let Some(left) = report.until_unix_s.checked_sub(now) else {
        return check(State::Failed, format!("it expired {} days ago", (now - report.until_unix_s) / DAY_S))
            .fix("renew it, and see why that was not done (systemctl list-timers)");
    };
    let named = if host.is_empty() { String::new() } else { format!("for {host}, and ") };
    let said = format!("it is {named}good for {} more days", left / DAY_S);
    if left < 7 * DAY_S {
        return check(State::No, said).fix("renew it, and see why that was not done (systemctl list-timers)");
    }
    check(State::Well, said)
}

fn clock(date: Option<SystemTime>) -> Check {
    let Some(theirs) = date else { return Check::new("clock", State::Skipped, "the directory did not tell the time") };
    let ours = SystemTime::now();
    let apart = ours.duration_since(theirs).or_else(|_| theirs.duration_since(ours)).unwrap_or_default().as_secs();
    if apart <= MOST_APART_S {
        return Check::new("clock", State::Well, "as the directory's");
    }
    Check::new("clock", State::Failed, format!("{apart} s away from the directory's"))
        .fix("set the clock, and keep it by NTP (timedatectl set-ntp true)")
}

/// What stands in the report, check by check.
fn network(report: &NatReport) -> Vec<Check> {
    let addresses: Vec<String> =
        report.interfaces.iter().map(|one| format!("{} on {}", one.address, one.name)).collect();
    let interfaces = if addresses.is_empty() {
        Check::new("interfaces", State::Failed, "this machine has no address").fix("connect it to a network")
    } else {
        Check::new("interfaces", State::Well, addresses.join(", "))
    };
    let gateway = if report.gateways.is_empty() {
        let fix = "connect this machine to a network that leads outside, or set option endpoint";
        Check::new("gateway", State::No, "none is known that leads outside").fix(fix)
    } else {
        Check::new("gateway", State::Well, report.gateways.join(", "))
    };
    let rung = |name, rungs: &[Rung]| {
        let known: Vec<_> = rungs.iter().filter_map(|rung| report.rung(*rung)).collect();
        let state = match known.iter().map(|rung| rung.state).max_by_key(|state| *state as u8) {
            Some(RungState::Reached) => State::Well,
            Some(RungState::Failed) => State::No,
            _ => State::Skipped,
        };
        let lines: Vec<&str> = known.iter().flat_map(|rung| rung.lines.iter().map(String::as_str)).collect();
        let said = if lines.is_empty() { "not needed".to_owned() } else { lines.join("; ") };
        let fix = known.iter().find_map(|rung| rung.fix.clone()).filter(|_| state != State::Well);
        Check { name, state, said, fix }
    };
    let cgnat = match (&report.wan_address, report.double_nat) {
        (Some(wan), true) => {
            Check::new("cgnat", State::No, format!("the gateway's own address is {wan}: there is another NAT"))
                .fix("ask the provider for a public address; until then the node is reached through a relay")
        }
        (Some(wan), false) => Check::new("cgnat", State::Well, format!("the gateway has the public address {wan}")),
        (None, _) => Check::new("cgnat", State::Skipped, "no gateway told its outer address"),
    };
    vec![
        interfaces,
        gateway,
        rung("pcp", &[Rung::Pcp]),
        rung("nat-pmp", &[Rung::NatPmp]),
        rung("upnp", &[Rung::Upnp]),
        rung("ipv4", &[Rung::DirectIpv4]),
        rung("ipv6", &[Rung::DirectIpv6, Rung::Ipv6Pinhole]),
        cgnat,
    ]
}

/// Whether there is any way to the node: its own, or a relay.
fn reached(report: &NatReport, directory: &str, relays: usize) -> Check {
    if is_local(directory) {
        return Check::new("relay", State::Skipped, "the mesh is on this machine; nobody has to come in");
    }
    let known = format!("the directory knows {relays} relays");
    match (&report.endpoint, relays) {
        (Some(endpoint), _) => Check::new("relay", State::Well, format!("not needed: reached at {endpoint}; {known}")),
        (None, 1..) => Check::new("relay", State::Well, format!("needed, since nothing else leads here; {known}")),
        (None, 0) => {
            Check::new("relay", State::Failed, "nothing leads to this machine, and the directory knows no relay")
                .fix("map the node's port by hand in the gateway's settings, and set option endpoint")
        }
    }
}

async fn backend(options: Option<&BackendOptions>) -> Check {
    let Some(options) = options else {
        return Check::new("backend", State::Skipped, "the node has none; a handler serves its tasks");
    };
    let base = options.base_url().unwrap_or_default();
    let Ok(url) = Url::parse(base) else {
        return Check::new("backend", State::Failed, "its URL cannot be read").fix("check option backend.url");
    };
    match get(url, None).await {
        Ok(answer) => Check::new("backend", State::Well, format!("{base} answers ({})", answer.status)),
        Err(why) => Check::new("backend", State::Failed, format!("{base} does not answer: {why}"))
            .fix("start the inference server, or correct option backend.url"),
    }
}

struct Answer {
    status: u16,
    date: Option<SystemTime>,
    /// Null if it is no JSON.
    body: Value,
}

async fn get(url: Url, trusted_ca: Option<&str>) -> Result<Answer, String> {
    let client = http(trusted_ca)?.timeout(PATIENCE).build().map_err(deepest)?;
    let mut answer = client.get(url).send().await.map_err(deepest)?;
    let date = answer.headers().get("date").and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let (status, mut bytes) = (answer.status().as_u16(), Vec::new());
    while let Ok(Some(piece)) = answer.chunk().await {
        if bytes.len() + piece.len() > MOST_BYTES {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Answer { status, date, body: serde_json::from_slice(&bytes).unwrap_or_default() })
}
