//! HAProxy in TCP mode, as Debian packages it: what a relay is compared with.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::load::Spends;

/// A running HAProxy, with one thread as our roles have it. Dropping it ends it.
pub(crate) struct Haproxy {
    process: Child,
    pub(crate) addr: SocketAddr,
}

impl Haproxy {
    /// In front of a server, copying bytes both ways.
    pub(crate) fn before(server: SocketAddr, target_dir: &std::path::Path) -> Result<Self> {
        let program = program(target_dir)?;
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = target_dir.join(format!("haproxy-{}.cfg", std::process::id()));
        std::fs::write(
            &config,
            format!(
                "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
                 timeout server 60s\nlisten all\n  bind {addr}\n  server one {server}\n"
            ),
        )?;
        let process = Command::new(&program)
            .arg("-db")
            .arg("-f")
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .map_err(|e| format!("{} could not be started: {e}", program.display()))?;
        let haproxy = Haproxy { process, addr };
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(addr).is_err() {
            if Instant::now() > until {
                return Err("HAProxy does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        std::fs::remove_file(&config)?;
        Ok(haproxy)
    }
}

/// Where it is installed, or was unpacked below the target folder.
fn program(target_dir: &std::path::Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), target_dir.join("haproxy/usr/sbin")]);
    folders.map(|folder| folder.join("haproxy")).find(|program| program.is_file()).ok_or_else(|| {
        let into = target_dir.join("haproxy");
        let into = into.display();
        format!("HAProxy is not installed; run: apt-get download haproxy && dpkg-deb -x haproxy_*.deb {into}").into()
    })
}

impl Spends for Haproxy {
    fn cpu(&mut self) -> Result<Duration> {
        // Its one thread, to the nanosecond.
        let spent = std::fs::read_to_string(format!("/proc/{}/schedstat", self.process.id()))?;
        let nanos = spent.split_whitespace().next().ok_or("schedstat is empty")?;
        Ok(Duration::from_nanos(nanos.parse()?))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
