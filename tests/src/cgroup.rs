//! Groups of processes that get no more memory or processor time than they are given. Needs root, and Linux's control groups
//! of either version.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Process;

const ROOT: &str = "/sys/fs/cgroup";

/// A group. Dropping it sends its processes back to where all others are.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    parent: PathBuf,
}

impl Cgroup {
    /// Gives all of its processes together so many bytes.
    ///
    /// # Errors
    /// The system's, such as that only root may do it.
    pub fn with_memory(bytes: u64) -> io::Result<Cgroup> {
        let (group, is_new) = Cgroup::make("memory")?;
        let file = if is_new { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.path.join(file), bytes.to_string())?;
        Ok(group)
    }

    /// Gives all of its processes together so many hundredths of a processor.
    ///
    /// # Errors
    /// The system's, such as that only root may do it.
    pub fn with_cpu(percent: u32) -> io::Result<Cgroup> {
        const PERIOD_US: u32 = 100_000;
        let (group, is_new) = Cgroup::make("cpu")?;
        let quota = PERIOD_US / 100 * percent;
        if is_new {
            fs::write(group.path.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
        } else {
            fs::write(group.path.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
            fs::write(group.path.join("cpu.cfs_quota_us"), quota.to_string())?;
        }
        Ok(group)
    }

    /// Makes a group for a controller; says whether it is one of the second version.
    fn make(controller: &str) -> io::Result<(Cgroup, bool)> {
        let root = Path::new(ROOT);
        let is_new = root.join("cgroup.controllers").exists();
        let parent = if is_new { root.to_owned() } else { root.join(controller) };
        if is_new {
            fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
        let path = parent.join(format!("iicp-test-{}-{controller}", std::process::id()));
        fs::create_dir(&path)?;
        Ok((Cgroup { path, parent }, is_new))
    }

    /// Takes a process in, with what it starts from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&self, process: Process) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), process.0.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for process in fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(self.parent.join("cgroup.procs"), process);
        }
        // A process that was killed a moment ago may still be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
