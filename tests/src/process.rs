//! What the system says of a process: memory, processor time, descriptors.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process, and those that it starts, have as many descriptors as the system lets them.
pub fn many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // What cannot be raised is what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A process of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// This one.
    #[must_use]
    pub fn this() -> Process {
        Process(std::process::id())
    }

    /// Resident memory, in bytes.
    #[must_use]
    pub fn memory(self) -> u64 {
        self.status("VmRSS:")
    }

    /// Most resident memory since [`Process::forget_peak`], in bytes.
    #[must_use]
    pub fn peak_memory(self) -> u64 {
        self.status("VmHWM:")
    }

    /// Begins to look for the peak anew.
    ///
    /// # Panics
    /// If the system does not offer that.
    pub fn forget_peak(self) {
        let path = format!("/proc/{}/clear_refs", self.0);
        std::fs::write(&path, "5").unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    fn status(self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.unwrap_or_else(|| panic!("no {name} in {status}")) * 1024
    }

    /// Processor time so far, of all its threads.
    #[must_use]
    pub fn cpu_time(self) -> Duration {
        let stat = self.read("stat");
        // The second field is the name, which may hold anything; what follows its closing bracket is plain.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11..=12].iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // A tick is a hundredth of a second on every Linux that Rust runs on.
        Duration::from_millis(ticks * 10)
    }

    /// Open descriptors.
    #[must_use]
    pub fn descriptors(self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0)).map_or(0, Iterator::count)
    }

    /// How often these bytes stand in the memory that it may write to.
    #[must_use]
    pub fn holds(self, bytes: &[u8]) -> usize {
        let path = format!("/proc/{}/mem", self.0);
        let memory = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let maps = self.read("maps");
        let regions = maps.lines().filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (first, last) = range.split_once('-')?;
            let address = |text| u64::from_str_radix(text, 16).ok();
            rest.starts_with("rw").then_some((address(first)?, address(last)?))
        });
        let mut found = 0;
        for (first, last) in regions {
            let mut region = vec![0; usize::try_from(last - first).unwrap_or(0)];
            // What was given back in between cannot be read.
            if memory.read_exact_at(&mut region, first).is_ok() {
                found += memchr::memmem::find_iter(&region, bytes).count();
            }
        }
        found
    }

    fn read(self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.0);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}
