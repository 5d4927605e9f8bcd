//! What systemd is told through `NOTIFY_SOCKET`: ready, stopping, still alive. Without that variable nothing is done.

#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The supervisor that started this process, if it wants to be told.
#[derive(Debug)]
pub(crate) struct Supervisor {
    #[cfg(unix)]
    socket: Option<UnixDatagram>,
}

impl Supervisor {
    pub(crate) fn from_environment() -> Supervisor {
        Supervisor {
            #[cfg(unix)]
            socket: std::env::var_os("NOTIFY_SOCKET").and_then(|path| connect(&path)),
        }
    }

    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=waiting for running tasks");
    }

    /// Says that it is alive for as long as the runtime it runs on is. Ends never.
    pub(crate) async fn stay_alive(&self) {
        let Some(within) = watchdog() else { return std::future::pending().await };
        let mut tick = tokio::time::interval(within / 2);
        loop {
            tick.tick().await;
            self.tell("WATCHDOG=1");
        }
    }

    #[cfg(unix)]
    fn tell(&self, what: &str) {
        // A supervisor that does not listen is no reason to stop.
        let _ = self.socket.as_ref().map(|socket| socket.send(what.as_bytes()));
    }

    #[cfg(not(unix))]
    fn tell(&self, _what: &str) {}
}

/// Within which time systemd wants to hear from this very process.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if number("WATCHDOG_PID").is_some_and(|pid| pid != u64::from(std::process::id())) {
        return None;
    }
    number("WATCHDOG_USEC").filter(|within| *within >= 1_000).map(Duration::from_micros)
}

#[cfg(unix)]
fn connect(path: &std::ffi::OsStr) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    // A full buffer must not hold up the node.
    socket.set_nonblocking(true).ok()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = std::os::unix::ffi::OsStrExt::as_bytes(path).strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name).ok()?;
        return socket.connect_addr(&address).ok().map(|()| socket);
    }
    socket.connect(path).ok()?;
    Some(socket)
}
