//! What a child process of the benches does. Every role runs on the same kind of runtime: tokio with one worker thread,
//! as the language layers have it.

mod engine;
mod framed;
mod relaying;
mod servers;

use std::future::Future;
use std::io::{BufRead as _, Write as _};
use std::time::{Duration, Instant};

use iicp_core::options::NativeTransport;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Result;

/// Id of the node that is called with consumer tokens.
pub(crate) const NODE_ID: &str = "careful";

/// Plays a role until the input ends.
pub(crate) fn play(role: &str, args: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match (role, args) {
        ("axum", []) => serve(&runtime, servers::axum()),
        ("backend", []) => serve(&runtime, servers::backend()),
        ("forward", [backend]) => serve(&runtime, servers::forward(backend)),
        ("backend-node", [backend]) => serve(&runtime, engine::backend_node(backend)),
        ("stub", []) => serve(&runtime, servers::stub()),
        ("directory", []) => serve(&runtime, engine::directory(None)),
        ("directory", [path]) => serve(&runtime, engine::directory(Some(path))),
        ("node", [directory]) => serve(&runtime, engine::node(directory, Duration::ZERO)),
        ("earning-node", [directory]) => serve(&runtime, engine::earning_node(directory)),
        ("careful-node", [directory]) => serve(&runtime, engine::careful_node(directory)),
        ("open-node", [directory]) => serve(&runtime, engine::open_node(directory)),
        ("slow-node", [directory, ms]) => serve(&runtime, engine::node(directory, Duration::from_millis(ms.parse()?))),
        ("whole-client", [directory, in_flight]) => repeat(&runtime, in_flight, engine::whole_client(directory)?),
        ("client", [directory, in_flight]) => repeat(&runtime, in_flight, engine::client(directory)?),
        ("checking-client", [directory, in_flight]) => repeat(&runtime, in_flight, engine::checking_client(directory)?),
        ("bridge", [directory, in_flight]) => {
            let (host, in_flight) = (engine::Host::new(directory)?, in_flight.parse()?);
            obey(json!({}), |count| host.submit_all(count, in_flight).map(|()| None))
        }
        ("framed-node", [directory]) => serve(&runtime, framed::node(directory)),
        ("framed-client", [directory, way, in_flight]) => {
            repeat(&runtime, in_flight, framed::client(directory, native(way)?)?)
        }
        ("stream-client", [directory, way]) => {
            let streams = framed::streams(directory, native(way)?)?;
            obey(json!({}), |count| runtime.block_on(streams(count)).map(|()| None))
        }
        ("first-part", [directory, way, form]) => {
            let once = framed::first_part(directory, native(way)?, *form == "whole")?;
            obey(json!({}), |count| runtime.block_on(middle(count, &once)).map(Some))
        }
        ("relay", []) => keep(&runtime, relaying::relay()),
        ("workers", [relay, first, count, manner, wire]) => {
            let (first, count) = (first.parse()?, count.parse()?);
            let manner = relaying::Manner::named(manner)?;
            keep(&runtime, relaying::workers(relay.parse()?, first, count, manner, *wire == "tls"))
        }
        ("reqwest", [url, in_flight]) => repeat(&runtime, in_flight, servers::reqwest_post(url)?),
        _ => Err(format!("there is no role {role} with {} arguments", args.len()).into()),
    }
}

/// Which way tasks go.
fn native(way: &str) -> Result<NativeTransport> {
    match way {
        "native" => Ok(NativeTransport::Auto),
        "http" => Ok(NativeTransport::Off),
        _ => Err(format!("there is no way {way}").into()),
    }
}

/// Starts a server, says where it is, and keeps it until the input ends.
fn serve<S>(runtime: &Runtime, start: impl Future<Output = Result<(String, S)>>) -> Result<()> {
    keep(runtime, async { start.await.map(|(url, server)| (json!({ "url": url }), server)) })
}

/// The same with more to say.
fn keep<S>(runtime: &Runtime, start: impl Future<Output = Result<(Value, S)>>) -> Result<()> {
    let (ready, server) = runtime.block_on(start)?;
    let outcome = obey(ready, |_| Err("a server runs nothing by itself".into()));
    let _inside = runtime.enter();
    drop(server);
    outcome
}

/// Runs an operation as often as it is told to.
fn repeat(runtime: &Runtime, in_flight: &str, operation: impl Operation) -> Result<()> {
    let in_flight = in_flight.parse()?;
    obey(json!({}), |count| runtime.block_on(many(count, in_flight, operation.clone())).map(|()| None))
}

/// Answers the orchestrator. A run may have a time of its own to tell instead of how long it took.
fn obey(ready: Value, mut run: impl FnMut(u64) -> Result<Option<Duration>>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{ready}")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.strip_prefix("run ") {
            None => json!({ "cpu_ns": nanos(cpu()) }),
            Some(count) => {
                let (before, since) = (cpu(), Instant::now());
                match run(count.parse()?) {
                    Ok(told) => {
                        let wall = told.unwrap_or_else(|| since.elapsed());
                        json!({ "cpu_ns": nanos(cpu() - before), "wall_ns": nanos(wall) })
                    }
                    Err(failure) => json!({ "failure": failure.to_string() }),
                }
            }
        };
        writeln!(stdout, "{answer}")?;
    }
    Ok(())
}

/// CPU time of this process, to the nanosecond, threads that have ended included.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a client does over and over.
trait Operation: Clone + Send + 'static {
    fn once(&self) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Clone)]
struct Closure<F>(F);

fn operation<F, Fut>(once: F) -> Closure<F>
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    Closure(once)
}

impl<F, Fut> Operation for Closure<F>
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    fn once(&self) -> impl Future<Output = Result<()>> + Send {
        (self.0)()
    }
}

/// The median of what `count` operations, one after the other, say that they took.
async fn middle(count: u64, once: &impl AsyncFn() -> Result<Duration>) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..count.max(1) {
        times.push(once().await?);
    }
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// Runs `count` operations, `in_flight` at a time, and ends at the first that fails.
async fn many(count: u64, in_flight: u64, operation: impl Operation) -> Result<()> {
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..in_flight {
        let (operation, share) = (operation.clone(), count / in_flight + u64::from(lane < count % in_flight));
        lanes.spawn(async move {
            for _ in 0..share {
                operation.once().await?;
            }
            Ok(())
        });
    }
    lanes.join_all().await.into_iter().collect()
}
