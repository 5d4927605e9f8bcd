//! The relay: what it costs to pass a task on, and to hold who waits.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Figure, Rounds, Row, Target, median, rounded, target_dir};
use crate::child::Child;
use crate::cpu::OneCpu;
use crate::haproxy::Haproxy;
use crate::load::{Load, Request};
use crate::{Result, http};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "relay_vs_haproxy",
        unit: "×",
        target: Target::AtLeast(0.6),
        what: "tasks of 1 KB that a relay passes on per CPU-second of its process, over those of HAProxy in TCP mode \
               (64 connections, 16 workers in plain text)",
        measure: || cost("plain"),
    },
    Row {
        name: "relay_tls_vs_haproxy",
        unit: "×",
        target: Target::AtLeast(0.6),
        what: "the same with workers over TLS, which HAProxy is not asked for",
        measure: || cost("tls"),
    },
    Row {
        name: "relay_latency_vs_haproxy",
        unit: "×",
        target: Target::AtMost(2.0),
        what: "what a relay adds to the median time of a task, over what HAProxy in TCP mode adds (one after the other, \
               all on one CPU)",
        measure: latency,
    },
    Row {
        name: "relay_worker_rss_kb",
        unit: "kB",
        target: Target::AtMost(8.0),
        what: "resident memory of a relay per bound idle worker in plain text, of 9,000",
        measure: || resident("plain"),
    },
    Row {
        name: "relay_tls_worker_rss_kb",
        unit: "kB",
        target: Target::AtMost(16.0),
        what: "the same over TLS",
        measure: || resident("tls"),
    },
    Row {
        name: "relay_keepalive_cpu_pct",
        unit: "%",
        target: Target::AtMost(5.0),
        what: "CPU of a relay in relation to one core that asks 9,000 idle workers over TLS every 15 s whether they are there",
        measure: keepalive,
    },
    Row {
        name: "relay_noisy_neighbour",
        unit: "×",
        target: Target::AtMost(1.2),
        what: "median time of a task at a relay with one worker flooded by 200 callers and one that reads nothing, over that \
               without",
        measure: noisy,
    },
];

const WORKERS: usize = 9_000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A relay with its places for callers and for workers.
struct Relay {
    process: Child,
    addr: SocketAddr,
}

impl Relay {
    fn start() -> Result<Self> {
        let process = Child::role("relay", &[])?;
        let addr = http::addr_of(process.said("url")?)?;
        Ok(Relay { process, addr })
    }

    fn bind(&self, first: usize, count: usize, manner: &str, wire: &str) -> Result<Child> {
        let (first, count) = (first.to_string(), count.to_string());
        Child::role("workers", &[self.process.said("relay")?, &first, &count, manner, wire])
    }

    fn request(&self, worker: usize) -> Result<Request> {
        Request::chat(self.addr, &format!("/v1/relay-for/w-{worker}/v1/task"))
    }
}

fn cost(wire: &str) -> Result<Figure> {
    const SLICE: Duration = Duration::from_millis(300);
    const CONNECTIONS: usize = 64;
    let mut relay = Relay::start()?;
    let _workers = relay.bind(0, 16, "quick", wire)?;
    let stub = Child::role("stub", &[])?;
    let mut haproxy = Haproxy::before(http::addr_of(stub.said("url")?)?, &target_dir())?;
    let requests: Vec<Request> = (0..16).map(|worker| relay.request(worker)).collect::<Result<_>>()?;
    let mut on_relay = Load::of(relay.addr, CONNECTIONS, &requests)?;
    let mut on_haproxy = Load::of(haproxy.addr, CONNECTIONS, &[Request::chat(haproxy.addr, "/v1/task")?])?;
    let rounds = Rounds::take(
        30,
        || Ok(on_relay.watch(&mut relay.process, SLICE)?.into()),
        || Ok(on_haproxy.watch(&mut haproxy, SLICE)?.into()),
    )?;
    Ok(Figure { value: rounds.theirs_over_ours(), seen: rounds.seen("a task takes the relay", "HAProxy") })
}

/// A caller that asks one thing after the other.
struct Caller {
    stream: TcpStream,
    request: Request,
    answer: Vec<u8>,
}

impl Caller {
    fn new(addr: SocketAddr, request: Request) -> Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Caller { stream, request, answer: vec![0; 16 << 10] })
    }

    fn once(&mut self) -> Result<Duration> {
        let id = self.request.renew();
        let begun = Instant::now();
        self.stream.write_all(self.request.bytes())?;
        let mut read = 0;
        loop {
            match self.stream.read(&mut self.answer[read..])? {
                0 => return Err("the connection was closed inside an answer".into()),
                n => read += n,
            }
            if http::message(&self.answer[..read]).is_some() {
                break;
            }
        }
        let took = begun.elapsed();
        http::check_status(&self.answer[..read])?;
        if memchr::memmem::find(&self.answer[..read], &self.request.bytes()[id]).is_none() {
            return Err("the answer is about another task".into());
        }
        Ok(took)
    }

    /// The median of so many, in µs.
    fn median(&mut self, count: usize) -> Result<f64> {
        let times: Vec<f64> = (0..count).map(|_| Ok(self.once()?.as_secs_f64() * 1e6)).collect::<Result<_>>()?;
        Ok(median(times))
    }
}

fn latency() -> Result<Figure> {
    const TASKS: usize = 300;
    // For all that takes part, on both sides.
    let _one = OneCpu::keep()?;
    let relay = Relay::start()?;
    let _workers = relay.bind(0, 1, "quick", "plain")?;
    let stub = Child::role("stub", &[])?;
    let direct = http::addr_of(stub.said("url")?)?;
    let haproxy = Haproxy::before(direct, &target_dir())?;
    let mut at_stub = Caller::new(direct, Request::chat(direct, "/v1/task")?)?;
    let mut at_haproxy = Caller::new(haproxy.addr, Request::chat(haproxy.addr, "/v1/task")?)?;
    let mut at_relay = Caller::new(relay.addr, relay.request(0)?)?;
    let (mut direct, mut proxied, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..31 {
        let medians = (at_stub.median(TASKS)?, at_haproxy.median(TASKS)?, at_relay.median(TASKS)?);
        // The first only warms up.
        if round > 0 {
            direct.push(medians.0);
            proxied.push(medians.1);
            relayed.push(medians.2);
        }
    }
    let (direct, proxied, relayed) = (median(direct), median(proxied), median(relayed));
    let seen = format!(
        "a task takes {} µs without either, {} through the relay, {} through HAProxy",
        rounded(direct),
        rounded(relayed),
        rounded(proxied)
    );
    Ok(Figure { value: (relayed - direct) / (proxied - direct), seen })
}

/// A relay with 9,000 workers, the hosts of these, and what the relay holds for each.
struct Crowd {
    relay: Relay,
    _workers: Vec<Child>,
    each: f64,
    bound_in: Duration,
}

fn crowd(wire: &str) -> Result<Crowd> {
    const HOSTS: usize = 3;
    let relay = Relay::start()?;
    // What the first need once is not a worker's.
    let mut workers = vec![relay.bind(WORKERS, 64, "quick", wire)?];
    let (resident, descriptors) = (relay.process.resident()?, relay.process.descriptors()?);
    let begun = Instant::now();
    for host in 0..HOSTS {
        workers.push(relay.bind(host * WORKERS / HOSTS, WORKERS / HOSTS, "quick", wire)?);
    }
    let bound_in = begun.elapsed();
    // Its memory is what is left when the greeting is over.
    std::thread::sleep(Duration::from_secs(1));
    #[allow(clippy::cast_precision_loss)]
    let per_worker = |n: u64| n as f64 / WORKERS as f64;
    let each = per_worker((relay.process.descriptors()? - descriptors) as u64);
    if !(0.999..1.001).contains(&each) {
        return Err(format!("a worker takes {each} descriptors, not one").into());
    }
    let each = per_worker(relay.process.resident()?.saturating_sub(resident)) / 1e3;
    Ok(Crowd { relay, _workers: workers, each, bound_in })
}

fn resident(wire: &str) -> Result<Figure> {
    let crowd = crowd(wire)?;
    let seen = format!("they were bound in {:.1} s; each takes one descriptor", crowd.bound_in.as_secs_f64());
    Ok(Figure { value: crowd.each, seen })
}

fn keepalive() -> Result<Figure> {
    let mut crowd = crowd("tls")?;
    let (before, begun) = (crowd.relay.process.cpu()?, Instant::now());
    // Four times round.
    std::thread::sleep(Duration::from_secs(60));
    let spent = crowd.relay.process.cpu()? - before;
    let value = spent.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let mut last = Caller::new(crowd.relay.addr, crowd.relay.request(WORKERS - 1)?)?;
    last.once()?;
    #[allow(clippy::cast_precision_loss)]
    let each = spent.as_secs_f64() * 1e6 / (4 * WORKERS) as f64;
    Ok(Figure { value, seen: format!("{} µs CPU for each ping and its answer; all are still bound", rounded(each)) })
}

fn noisy() -> Result<Figure> {
    const TASKS: usize = 200;
    let mut relay = Relay::start()?;
    let _good = relay.bind(0, 1, "quick", "plain")?;
    let _flooded = relay.bind(1, 1, "slow", "plain")?;
    let _deaf = relay.bind(2, 1, "deaf", "plain")?;
    let mut other = Caller::new(relay.addr, relay.request(0)?)?;
    let mut flood = Load::of(relay.addr, 200, &[relay.request(1)?])?;
    other.median(TASKS)?;
    // What the flood's connections hold is not the stalled worker's, nor the code that a large task is the first to need.
    flood.watch(&mut relay.process, Duration::from_millis(500))?;
    pass_large(&relay)?;
    let resident = relay.process.resident()?;
    let stalled = stall(&relay)?;
    std::thread::sleep(Duration::from_secs(1));
    let held = relay.process.resident()?.saturating_sub(resident);
    let (mut with, mut without, mut passed) = (Vec::new(), Vec::new(), 0);
    for _ in 0..20 {
        without.push(other.median(TASKS)?);
        let (median, window) = during(&mut flood, &mut relay, &mut other, TASKS)?;
        with.push(median);
        passed += window;
    }
    drop(stalled);
    let (with, without) = (median(with), median(without));
    #[allow(clippy::cast_precision_loss)]
    let held = held as f64 / 1e6;
    if held > 5.0 {
        return Err(format!("the stalled worker costs {} MB, not 5", rounded(held)).into());
    }
    let seen = format!(
        "{} µs over {} µs, while the flooded worker got {passed} tasks; calls to the one that reads nothing hold {} MB",
        rounded(with),
        rounded(without),
        rounded(held)
    );
    Ok(Figure { value: with / without, seen })
}

/// The others' median while the flood runs, and how much of it there was.
fn during(flood: &mut Load, relay: &mut Relay, other: &mut Caller, tasks: usize) -> Result<(f64, u64)> {
    std::thread::scope(|scope| {
        let window = scope.spawn(|| flood.watch(&mut relay.process, Duration::from_millis(400)));
        std::thread::sleep(Duration::from_millis(50));
        let median = other.median(tasks)?;
        let window = window.join().map_err(|_| "the load panicked")??;
        Ok((median, window.tasks))
    })
}

/// A large task to a worker that answers.
fn pass_large(relay: &Relay) -> Result<()> {
    let mut stream = TcpStream::connect(relay.addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&large(relay, 0))?;
    let mut answer = [0; 4 << 10];
    let read = stream.read(&mut answer)?;
    http::check_status(&answer[..read])
}

/// Callers of the worker that reads nothing, with as much as it may have waiting.
fn stall(relay: &Relay) -> Result<Vec<TcpStream>> {
    let request = large(relay, 2);
    (0..34)
        .map(|_| {
            let mut stream = TcpStream::connect(relay.addr)?;
            stream.write_all(&request)?;
            Ok(stream)
        })
        .collect()
}

fn large(relay: &Relay, worker: usize) -> Vec<u8> {
    let body = crate::load::envelope("t-large", &format!("{{\"text\":\"{}\"}}", "x".repeat(120 << 10)));
    http::post(relay.addr, &format!("/v1/relay-for/w-{worker}/v1/task"), "", &body)
}
