//! A tunnel of somebody else: the way for a node that has no other, if its operator asks for it and has installed the program that
//! opens it. The program is started and stopped here, never fetched.

use std::collections::VecDeque;
use std::io::{PipeReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use crate::state::{keep_pause, pause_left};
use crate::telemetry;
use crate::transport::guard::Reach;
use crate::transport::http_client::{Call, HttpClient};
use crate::types::{RungReport, RungState};
use crate::wire::upnp::shown;

/// Where tunnels that cost nothing and need no account end.
const DOMAIN: &str = ".trycloudflare.com";
/// Longest wait for the program to name its address.
const NAMED: Duration = Duration::from_secs(20);
/// Longest wait until the new address leads here: its name has to become known first.
const LED_HERE: Duration = Duration::from_secs(30);
/// Longest wait for one answer through the tunnel.
const ANSWER: Duration = Duration::from_secs(8);
/// Between two tunnels, and after the other side said that there were too many (as the published nodes keep them).
const PAUSE: Duration = Duration::from_secs(120);
const LONG_PAUSE: Duration = Duration::from_secs(900);
const PAUSE_NAME: &str = "quick-tunnel";
/// Lines that are kept of what the program says, for the report, and bytes of one of them.
const MOST_LINES: usize = 6;
const MOST_LINE: usize = 4 << 10;
const MOST_HEALTH: usize = 64 << 10;
/// What the program gets of this process's environment, in which secrets may stand.
const ENVIRONMENT: &[&str] = &["PATH", "HOME", "TMPDIR", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY"];

const INSTALL: &str = "install cloudflared, name it in option nat.tunnel_program, or set nat.tunnel to off";
const LOOK_AT_IT: &str = "run `cloudflared tunnel --url http://127.0.0.1:PORT` by hand to see what it says";

/// What opens tunnels to this node.
pub(crate) struct Tunnels {
    pub(crate) program: String,
    pub(crate) node_id: String,
    pub(crate) http: HttpClient,
    /// Where pauses outlive the process.
    pub(crate) state_dir: Option<PathBuf>,
    not_before: Mutex<Option<Instant>>,
}

/// A tunnel that is open. Dropping it stops the program.
pub(super) struct Tunnel {
    pub(super) url: Url,
    child: Program,
}

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // With whatever it has started itself; it is asked first, so that it can say goodbye to the other side.
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::TERM);
            std::thread::sleep(Duration::from_millis(50));
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Tunnel {
    fn is_open(&mut self) -> bool {
        matches!(self.child.0.try_wait(), Ok(None))
    }
}

/// The last that a program said, and the address that it named.
#[derive(Default)]
struct Said {
    lines: Mutex<VecDeque<String>>,
    url: watch::Sender<Option<Url>>,
}

impl Said {
    fn lines(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if let Some(url) = named(&line) {
            self.url.send_if_modified(|known| {
                known.is_none() && {
                    *known = Some(url);
                    true
                }
            });
        }
        let mut lines = self.lines();
        if lines.len() == MOST_LINES {
            lines.pop_front();
        }
        lines.push_back(shown(&line));
    }

    /// Reads to the end: a program whose pipe is full stands still.
    fn hear_all(&self, mut pipe: PipeReader) {
        let (mut line, mut piece) = (Vec::new(), [0; 1 << 10]);
        while let Ok(length @ 1..) = pipe.read(&mut piece) {
            for byte in &piece[..length] {
                match byte {
                    b'\n' => {
                        self.hear(&line);
                        line.clear();
                    }
                    _ if line.len() < MOST_LINE => line.push(*byte),
                    _ => {}
                }
            }
        }
        // Nobody waits for an address of one that has gone.
        self.url.send_modify(|_| {});
    }
}

/// The address of a quick tunnel in a line, if one is named. `api.` is where the program asks for one, and stands in its complaints.
fn named(line: &str) -> Option<Url> {
    line.match_indices("https://").find_map(|(at, scheme)| {
        let rest = &line[at + scheme.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.').unwrap_or(rest.len());
        let label = rest[..end].strip_suffix(DOMAIN)?;
        let is_one = !label.is_empty() && !label.contains('.') && label != "api" && label != "www";
        is_one.then(|| Url::parse(&format!("https://{label}{DOMAIN}")).ok())?
    })
}

impl Tunnels {
    pub(crate) fn new(program: String, node_id: String, http: HttpClient, state_dir: Option<PathBuf>) -> Self {
        Tunnels { program, node_id, http, state_dir, not_before: Mutex::default() }
    }

    /// Keeps the tunnel that there is, if it leads here, or opens another. What was done stands in the report.
    pub(super) async fn hold(&self, held: &mut Option<Tunnel>, port: u16, report: &mut RungReport) {
        if let Some(tunnel) = held {
            if tunnel.is_open() && self.leads_here(&tunnel.url).await {
                report.say(format!("{} still leads here", tunnel.url));
                report.state = RungState::Reached;
                return;
            }
            *held = None;
        }
        let left = self.pause_left();
        if !left.is_zero() {
            report.fail(format!("no other tunnel is asked for before {} s have passed", left.as_secs() + 1), "");
            return;
        }
        let Some(tunnel) = self.open(port, report).await else { return };
        let until = Instant::now() + LED_HERE;
        loop {
            if self.leads_here(&tunnel.url).await {
                report.say(format!("seen from outside at {}", tunnel.url));
                report.state = RungState::Reached;
                report.fix = None;
                *held = Some(tunnel);
                return;
            }
            if Instant::now() > until {
                report.fail(format!("{} was opened, and does not lead here", tunnel.url), LOOK_AT_IT);
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Whether this node answers there.
    pub(super) async fn leads_here(&self, url: &Url) -> bool {
        let Ok(health) = url.join("/iicp/health") else { return false };
        let call = Call::new(Method::GET, health, Reach::Public, Instant::now() + ANSWER, MOST_HEALTH);
        match self.http.call(call).await {
            Ok(reply) if reply.status == 200 => serde_json::from_slice::<serde_json::Value>(&reply.body)
                .is_ok_and(|health| health["node_id"] == *self.node_id),
            _ => false,
        }
    }

    async fn open(&self, port: u16, report: &mut RungReport) -> Option<Tunnel> {
        // Kept before anything is asked for: a process that dies meanwhile has asked as well.
        self.pause(PAUSE);
        let said = Arc::new(Said::default());
        let child = match self.start(port, &said) {
            Ok(child) => child,
            Err(error) => {
                report.fail(format!("{} cannot be started: {}", self.program, error.kind()), INSTALL);
                return None;
            }
        };
        let mut tunnel = Program(child);
        let mut url = said.url.subscribe();
        let wait = async {
            loop {
                if let Some(url) = url.borrow_and_update().clone() {
                    return Some(url);
                }
                tokio::select! {
                    changed = url.changed() => changed.ok()?,
                    () = sleep(Duration::from_millis(100)) => {}
                }
                if !matches!(tunnel.0.try_wait(), Ok(None)) {
                    return url.borrow().clone();
                }
            }
        };
        let Ok(Some(url)) = timeout(NAMED, wait).await else {
            let lines: Vec<String> = said.lines().iter().cloned().collect();
            let text = lines.join("\n").to_lowercase();
            if ["too many requests", "rate limit", "error code: 1015", "status code 429"]
                .iter()
                .any(|word| text.contains(word))
            {
                self.pause(LONG_PAUSE);
            }
            lines.into_iter().for_each(|line| report.say(line));
            report.fail(format!("{} named no address", self.program), LOOK_AT_IT);
            return None;
        };
        tracing::info!(target: telemetry::NAT, %url, "a tunnel was opened");
        Some(Tunnel { url, child: tunnel })
    }

    fn start(&self, port: u16, said: &Arc<Said>) -> std::io::Result<Child> {
        let (reader, writer) = std::io::pipe()?;
        let child = Command::new(&self.program)
            .args(["tunnel", "--no-autoupdate", "--url", &format!("http://127.0.0.1:{port}")])
            .env_clear()
            .envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            // A Ctrl-C at the terminal is for the node, which drains first.
            .process_group(0)
            .spawn()?;
        let said = said.clone();
        std::thread::Builder::new().name("iicp-tunnel".into()).spawn(move || said.hear_all(reader))?;
        Ok(child)
    }

    fn pause(&self, lasts: Duration) {
        *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + lasts);
        if let Some(state_dir) = &self.state_dir {
            keep_pause(state_dir, PAUSE_NAME, lasts);
        }
    }

    /// For how long no other is asked for.
    pub(super) fn pause_left(&self) -> Duration {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        match (not_before, &self.state_dir) {
            (Some(not_before), _) => not_before.saturating_duration_since(Instant::now()),
            (None, Some(state_dir)) => pause_left(state_dir, PAUSE_NAME),
            (None, None) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Rung;

    #[test]
    fn only_the_address_of_a_quick_tunnel_is_one() {
        let box_ = "2026-01-01T00:00:00Z INF |  https://warm-sea-1.trycloudflare.com                          |";
        assert_eq!(named(box_).unwrap().as_str(), "https://warm-sea-1.trycloudflare.com/");
        for other in [
            "ERR failed to request quick Tunnel: Post \"https://api.trycloudflare.com/tunnel\": context deadline exceeded",
            "visit https://trycloudflare.com",
            "https://evil.example/?https://trycloudflare.com",
            "https://a.b.trycloudflare.com",
            "https://a.trycloudflare.com.evil.example/",
            "http://a.trycloudflare.com",
            "https://user@a.trycloudflare.com",
            "",
        ] {
            assert_eq!(named(other), None, "{other}");
        }
        let two = "see https://api.trycloudflare.com, then https://x.trycloudflare.com:443/";
        assert_eq!(named(two).unwrap().host_str(), Some("x.trycloudflare.com"));
    }

    fn tunnels(program: &str) -> Tunnels {
        Tunnels::new(program.into(), "n".into(), HttpClient::new().unwrap(), None)
    }

    fn script(name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("iicp-tunnel-{}-{name}", std::process::id()));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_program_that_opens_nothing_is_told_of_and_not_started_again_at_once() {
        let mut report = RungReport::new(Rung::QuickTunnel);
        let missing = tunnels("/nowhere/cloudflared");
        missing.hold(&mut None, 1, &mut report).await;
        assert_eq!((report.state, report.fix.as_deref()), (RungState::Failed, Some(INSTALL)));

        let path = script("busy", "echo 'ERR error code: 1015' >&2; exit 1");
        let busy = tunnels(path.to_str().unwrap());
        let mut report = RungReport::new(Rung::QuickTunnel);
        busy.hold(&mut None, 1, &mut report).await;
        assert!(report.lines.iter().any(|line| line.contains("1015")), "{report:?}");
        assert!(busy.pause_left() > PAUSE);
        let mut report = RungReport::new(Rung::QuickTunnel);
        busy.hold(&mut None, 1, &mut report).await;
        assert!(report.lines[0].starts_with("no other tunnel"), "{report:?}");
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn the_program_sees_no_secret_and_ends_with_the_tunnel() {
        // It says what it was given, names an address, and has a child of its own.
        let text = "env; echo \"args: $*\"; echo 'INF https://x-1.trycloudflare.com'; sleep 600 & echo pid $! $$; wait";
        let path = script("long", text);
        let tunnels = tunnels(path.to_str().unwrap());
        let said = Arc::new(Said::default());
        let mut program = Program(tunnels.start(4_711, &said).unwrap());
        let until = Instant::now() + Duration::from_secs(10);
        let pids = loop {
            let pids = said.lines().iter().find_map(|line| line.strip_prefix("pid ").map(str::to_owned));
            match pids {
                Some(pids) => break pids,
                None => assert!(Instant::now() < until && program.0.try_wait().unwrap().is_none()),
            }
            sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(said.url.borrow().as_ref().unwrap().as_str(), "https://x-1.trycloudflare.com/");
        let lines: Vec<String> = said.lines().iter().cloned().collect();
        assert!(
            lines.iter().any(|line| line == "args: tunnel --no-autoupdate --url http://127.0.0.1:4711"),
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| !line.contains("CARGO")), "its environment is ours: {lines:?}");
        drop(program);
        for pid in pids.split(' ') {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(state.is_empty() || state.contains(") Z "), "{pid} lives on");
        }
        std::fs::remove_file(path).unwrap();
    }
}
