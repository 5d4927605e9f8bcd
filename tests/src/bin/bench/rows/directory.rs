//! What registrations cost the embedded directory, in memory and with a file.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use iicp_core::CHAT;
use serde_json::json;

use super::{Figure, Row, Target};
use crate::child::Child;
use crate::{Result, http};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "directory_registers_per_s",
        unit: "1/CPU-s",
        target: Target::AtLeast(5_000.0),
        what: "registrations per CPU-second of a directory that knows 10,000 nodes",
        measure: || Ok(flood(&[])?.rate()),
    },
    Row {
        name: "directory_register_p99_ms",
        unit: "ms",
        target: Target::AtMost(50.0),
        what: "time to register of the slowest hundredth, four at a time without a pause",
        measure: || Ok(flood(&[])?.slowest()),
    },
    Row {
        name: "directory_kept_registers_per_s",
        unit: "1/CPU-s",
        target: Target::AtLeast(5_000.0),
        what: "the same with a file, in which each is written before it is answered",
        measure: kept,
    },
];

const NODES: u32 = 10_000;
const CONNECTIONS: u32 = 4;
const ROUNDS: u32 = 2;

/// What a flood of registrations came to.
struct Flood {
    count: u32,
    cpu: Duration,
    wall: Duration,
    /// Ascending.
    times: Vec<Duration>,
    resident: u64,
}

impl Flood {
    fn p99(&self) -> Duration {
        self.times[self.times.len() * 99 / 100]
    }

    fn seen(&self) -> String {
        let per_s = f64::from(self.count) / self.wall.as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let resident = self.resident as f64 / 1e6;
        format!("{per_s:.0}/s by the clock, p99 {:.1} ms, {resident:.0} MB resident", self.p99().as_secs_f64() * 1e3)
    }

    fn rate(&self) -> Figure {
        Figure { value: f64::from(self.count) / self.cpu.as_secs_f64(), seen: self.seen() }
    }

    fn slowest(&self) -> Figure {
        Figure { value: self.p99().as_secs_f64() * 1e3, seen: self.seen() }
    }
}

fn kept() -> Result<Figure> {
    let folder = std::env::temp_dir().join(format!("iicp-bench-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let path = folder.join("directory.db");
    let figure = flood(&[&path.to_string_lossy()]).map(|flood| flood.rate());
    std::fs::remove_dir_all(&folder)?;
    figure
}

/// Registers every node, and then every node again while that is measured.
fn flood(args: &[&str]) -> Result<Flood> {
    let mut directory = Child::role("directory", args)?;
    round(&directory)?;
    let (cpu, since) = (directory.cpu()?, Instant::now());
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.extend(round(&directory)?);
    }
    let (cpu, wall) = (directory.cpu()?.saturating_sub(cpu), since.elapsed());
    times.sort_unstable();
    Ok(Flood { count: NODES * ROUNDS, cpu, wall, times, resident: directory.resident()? })
}

fn round(directory: &Child) -> Result<Vec<Duration>> {
    let addr = http::addr_of(directory.said("url")?)?;
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|sender| {
            std::thread::spawn(move || -> Result<Vec<Duration>> {
                let mut stream = TcpStream::connect(addr)?;
                stream.set_nodelay(true)?;
                let (mut times, mut answer) = (Vec::new(), [0; 8 << 10]);
                for n in (sender..NODES).step_by(CONNECTIONS as usize) {
                    let request = http::post(addr, "/v1/register", "", &registration(n));
                    let began = Instant::now();
                    stream.write_all(&request)?;
                    let mut read = 0;
                    while http::message(&answer[..read]).is_none() {
                        match stream.read(&mut answer[read..])? {
                            0 => return Err("the connection was closed inside an answer".into()),
                            more => read += more,
                        }
                    }
                    times.push(began.elapsed());
                    if !answer.starts_with(b"HTTP/1.1 201 ") {
                        return Err("a registration was refused".into());
                    }
                }
                Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for sender in senders {
        times.extend(sender.join().map_err(|_| "a sender panicked")??);
    }
    Ok(times)
}

/// As published nodes register.
fn registration(n: u32) -> String {
    json!({
        "node_id": format!("aaaaaaaa-0000-4000-8000-{n:012}"), "endpoint": "http://127.0.0.1:9600", "region": "eu",
        "capabilities": [{ "intent": CHAT, "models": ["m-1"], "max_tokens": 8192, "input_modalities": ["text"] }],
        "limits": { "max_concurrent": 4, "tokens_per_min": 1000 }, "sdk_language": "rust", "sdk_version": "0.7.109",
        "cx_public_key": {
            "algorithm": "X25519", "encoding": "base64url", "key": "Ip52uKfpMhxv_uzHOxcXHK-q0d08BDbHBduLaQQaLl4",
            "key_id": "cx-369f867b9c22ed40", "features": ["response_encryption_v1"],
        },
    })
    .to_string()
}
