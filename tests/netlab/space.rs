//! Network namespaces: each a machine of its own, with its own interfaces, routes and packet filter.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Outcome;

/// Beginning of every name, before the id of the process that owns it.
const PREFIX: &str = "iicp-lab-";
const ROOM: &str = "/run/netns";
/// Files that stand in the place of the system's, by machine (ip-netns(8)).
const FILES: &str = "/etc/netns";

/// A machine of the lab. It goes with everything that runs on it when it is dropped.
#[derive(Debug)]
pub(crate) struct Space {
    name: String,
}

impl Space {
    /// One that is already there, made by [`ip`].
    pub(crate) fn named(lab: &str, machine: &str) -> Space {
        Space { name: format!("{PREFIX}{}-{lab}-{machine}", std::process::id()) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip` on this machine.
    pub(crate) fn ip(&self, lines: &str) -> Outcome {
        fed(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines)
            .map_err(|e| format!("{}: {e}", self.name))
    }

    /// Runs a script of nft on this machine.
    pub(crate) fn nft(&self, script: &str) -> Outcome {
        fed(self.command("nft").args(["-f", "-"]), script).map_err(|e| format!("{}: {e}", self.name))
    }

    /// All rules, without what they count and hold.
    pub(crate) fn rules(&self) -> Outcome<String> {
        let output = self.command("nft").args(["-s", "list", "ruleset"]).output();
        let all = done(output).map(|output| String::from_utf8_lossy(&output.stdout).into_owned())?;
        // What a map holds goes from "elements = {" to the next bracket.
        let mut parts = all.split("elements = {");
        let first = parts.next().unwrap_or_default().to_owned();
        let all = parts.fold(first, |rules, part| rules + part.split_once('}').map_or("", |(_, rest)| rest));
        Ok(all.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n"))
    }

    /// Sets kernel parameters below `net`, as `ipv4.ip_forward`.
    pub(crate) fn set(&self, parameters: &[(&str, &str)]) -> Outcome {
        self.within(|| {
            for (name, value) in parameters {
                let path = format!("/proc/sys/net/{}", name.replace('.', "/"));
                std::fs::write(&path, value).map_err(|e| format!("{path}: {e}"))?;
            }
            Ok(())
        })?
    }

    /// What names mean to programs that are started here from now on.
    pub(crate) fn hosts(&self, text: &str) -> Outcome {
        let folder = Path::new(FILES).join(&self.name);
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("hosts"), text));
        written.map_err(|e| format!("{}: {e}", folder.display()))
    }

    /// A program that will run here.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Does something here, on a thread of its own. Sockets that it makes stay here.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Outcome<T> {
        let entered = || -> Outcome<T> {
            let path = Path::new(ROOM).join(&self.name);
            let door = File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            move_into_link_name_space(door.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| format!("{}: {e}", self.name))?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(entered).join())
            .map_err(|_| format!("{}: a thread panicked", self.name))?
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Runs lines of `ip` outside of all machines: for making them, and what connects them.
pub(crate) fn ip(lines: &str) -> Outcome {
    fed(Command::new("ip").args(["-batch", "-"]), lines)
}

/// Removes what labs left behind whose process has ended.
pub(crate) fn sweep() {
    let left = |folder: &Path| -> Vec<String> {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let is_left = |name: &String| {
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists())
        };
        names.filter(is_left).collect()
    };
    left(Path::new(ROOM)).iter().for_each(|name| remove(name));
    left(Path::new(FILES)).iter().for_each(|name| remove(name));
    let folders = std::env::temp_dir();
    for name in left(&folders) {
        let _ = std::fs::remove_dir_all(folders.join(name));
    }
}

/// Beginning of the names of folders, as of machines.
pub(crate) fn folder(lab: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{}-{lab}", std::process::id()))
}

/// Ends what runs on a machine and removes it. Its interfaces go at once, so that their names are free.
fn remove(name: &str) {
    let quiet = |command: &mut Command| command.stderr(Stdio::null()).output();
    if let Ok(output) = quiet(Command::new("ip").args(["netns", "pids", name])) {
        let pids = String::from_utf8_lossy(&output.stdout).into_owned();
        let pids: Vec<&str> = pids.split_whitespace().collect();
        if !pids.is_empty() {
            let _ = quiet(Command::new("kill").arg("-9").args(pids));
        }
    }
    if let Ok(output) = quiet(Command::new("ip").args(["-n", name, "-o", "link", "show", "type", "veth"])) {
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let interface = line.split(": ").nth(1).and_then(|name| name.split('@').next()).unwrap_or_default();
            let _ = quiet(Command::new("ip").args(["-n", name, "link", "del", interface]));
        }
    }
    let _ = quiet(Command::new("ip").args(["netns", "del", name]));
    let _ = std::fs::remove_dir_all(Path::new(FILES).join(name));
}

fn fed(command: &mut Command, text: &str) -> Outcome {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| format!("{command:?}: {e}"))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(|e| format!("{command:?}: {e}"))?;
    }
    done(child.wait_with_output()).map(drop).map_err(|e| format!("{e}\n{text}"))
}

fn done(output: std::io::Result<Output>) -> Outcome<Output> {
    let output = output.map_err(|e| e.to_string())?;
    if output.status.success() { Ok(output) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
