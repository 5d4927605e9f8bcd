//! Runs what serves until somebody asks it to stop: then running tasks are finished within a bound, and the node leaves its
//! directory. Who asks a second time does not wait.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use iicp_core::{Directory, LiveNode};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::console::Console;
use crate::failure::Failure;
use crate::settings::DRAIN_MS;
use crate::supervisor::Supervisor;

/// Longest wait for what was only beginning to serve.
const LEAVING: Duration = Duration::from_secs(5);

/// How a service stops.
#[derive(Args, Clone, Debug)]
pub(crate) struct Stop {
    /// How long running tasks have when the command is asked to stop, in milliseconds [variable: IICP_DRAIN_MS]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=600_000))]
    drain_ms: Option<u64>,
}

impl Stop {
    /// Longest time that running tasks get: a little over that of a task that names none.
    const USUAL_MS: u64 = 35_000;

    fn grace(&self) -> Result<Duration, Failure> {
        let variable = std::env::var(DRAIN_MS).ok().filter(|text| !text.is_empty());
        let ms =
            match (self.drain_ms, variable) {
                (Some(ms), _) => ms,
                (None, None) => Stop::USUAL_MS,
                (None, Some(text)) => text.parse().ok().filter(|ms| *ms <= 600_000).ok_or_else(|| {
                    Failure::Usage(format!("variable {DRAIN_MS}: expected a whole number, 0 to 600000"))
                })?,
            };
        Ok(Duration::from_millis(ms))
    }
}

/// What serves. The directory outlives the node, which takes its leave of it.
#[derive(Debug)]
pub(crate) struct Running {
    pub node: Option<LiveNode>,
    pub directory: Option<Directory>,
    /// Whether the node is to be in a directory.
    pub registers: bool,
}

impl Running {
    async fn stop(self, grace: Duration) -> bool {
        let finished = match self.node {
            Some(node) => node.shutdown(grace).await,
            None => true,
        };
        match self.directory {
            Some(directory) => directory.shutdown(grace.min(Duration::from_secs(2))).await && finished,
            None => finished,
        }
    }
}

/// Starts a service and runs it. `start` says on the console that it is there; when it is asked to stop before that, `stop` tells
/// it so, and what it has begun is stopped in good order.
pub(crate) async fn run<F>(
    context: &mut Context,
    how: &Stop,
    stop: Option<CancellationToken>,
    start: F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Running, Failure>>,
{
    let grace = how.grace()?;
    let (console, signals) = (context.console, &mut context.signals);
    let supervisor = Supervisor::from_environment();
    let mut start = pin!(start);
    let running = tokio::select! {
        running = &mut start => running?,
        signal = signals.next() => {
            // Whoever listens to `stop` has something to give back.
            let finished = match stop {
                Some(stop) => {
                    stop.cancel();
                    let leaving = async { Ok::<_, Failure>(start.await?.stop(grace).await) };
                    tokio::select! {
                        finished = tokio::time::timeout(LEAVING, leaving) => matches!(finished, Ok(Ok(true))),
                        _ = signals.next() => false,
                    }
                }
                None => true,
            };
            console.event("stopped", json!({ "signal": signal.name(), "finished": finished }), "stopped before it began");
            return Ok(());
        }
    };
    supervisor.ready("serving");
    let signal = tokio::select! {
        signal = signals.next() => signal,
        () = supervisor.stay_alive() => return Ok(()),
        () = watch_registration(&running, console) => return Ok(()),
    };

    supervisor.stopping();
    let tasks = running.node.as_ref().map_or(0, LiveNode::active_jobs);
    let text = match tasks {
        0 => "stopping".to_owned(),
        tasks => format!("stopping: {tasks} running task(s) have {} s; once more stops them at once", grace.as_secs()),
    };
    console.event(
        "stopping",
        json!({ "signal": signal.name(), "running_tasks": tasks, "drain_ms": grace.as_millis() }),
        &text,
    );
    let progress = (tasks > 0).then(|| console.progress("waiting for running tasks"));
    let finished = tokio::select! {
        finished = running.stop(grace) => finished,
        signal = signals.next() => {
            drop(progress);
            console.event("stopped", json!({ "signal": signal.name(), "finished": false }), "stopped at once");
            return Err(Failure::Interrupted(signal));
        }
        () = supervisor.stay_alive() => false,
    };
    drop(progress);
    let text =
        if finished { "stopped; every task was finished" } else { "stopped; what was still running was cut short" };
    console.event("stopped", json!({ "signal": signal.name(), "finished": finished }), text);
    Ok(())
}

/// Says when the directory takes the node, or no longer knows it. Ends never.
async fn watch_registration(running: &Running, console: Console) {
    let Some(node) = running.node.as_ref().filter(|_| running.registers) else { return std::future::pending().await };
    let mut registered = node.is_registered();
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        look.tick().await;
        if node.is_registered() != registered {
            registered = !registered;
            let (name, text) = if registered {
                ("registered", "registered with the directory")
            } else {
                ("unregistered", "no longer registered; trying again")
            };
            console.event(name, json!({ "node_id": node.node_id() }), text);
        }
    }
}
