//! What a child process of the benches does. Every role runs on the same kind of runtime: tokio with one worker thread,
//! as the language layers have it.

mod servers;

use std::future::Future;
use std::io::{BufRead as _, Write as _};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::Result;

/// Plays a role until the input ends.
pub(crate) fn play(role: &str, args: &[&str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match (role, args) {
        ("axum", []) => serve(&runtime, servers::axum()),
        ("stub", []) => serve(&runtime, servers::stub()),
        ("reqwest", [url, in_flight]) => {
            let post = servers::reqwest_post(url)?;
            obey(json!({}), |count| runtime.block_on(many(count, in_flight.parse()?, post.clone())))
        }
        _ => Err(format!("there is no role {role} with {} arguments", args.len()).into()),
    }
}

/// Starts a server, says where it is, and keeps it until the input ends.
fn serve<S>(runtime: &Runtime, start: impl Future<Output = Result<(String, S)>>) -> Result<()> {
    let (url, server) = runtime.block_on(start)?;
    let outcome = obey(json!({ "url": url }), |_| Err("a server runs nothing by itself".into()));
    let _inside = runtime.enter();
    drop(server);
    outcome
}

/// Answers the orchestrator.
fn obey(ready: Value, mut run: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{ready}")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.strip_prefix("run ") {
            None => json!({ "cpu_ns": nanos(cpu()) }),
            Some(count) => {
                let (before, since) = (cpu(), Instant::now());
                match run(count.parse()?) {
                    Ok(()) => json!({ "cpu_ns": nanos(cpu() - before), "wall_ns": nanos(since.elapsed()) }),
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

/// Runs `count` operations, `in_flight` at a time, and ends at the first that fails.
async fn many<F, Fut>(count: u64, in_flight: u64, operation: F) -> Result<()>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..in_flight {
        let (operation, share) = (operation.clone(), count / in_flight + u64::from(lane < count % in_flight));
        lanes.spawn(async move {
            for _ in 0..share {
                operation().await?;
            }
            Ok(())
        });
    }
    lanes.join_all().await.into_iter().collect()
}
