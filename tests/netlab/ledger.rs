//! Two ledgers, the caller's and the node's, while something happens to the way between them: each task ends once, in time, none
//! is lost that may be sent again, and none runs twice that must not.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use iicp_core::{Client, Code, Task};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::Outcome;
use crate::inside::INTENT;

/// Between two tasks. Every other one is idempotent.
const EVERY: Duration = Duration::from_millis(500);
/// Deadline of one submit, and the second that may be added to it.
const DEADLINE: Duration = Duration::from_secs(5);
const ADDED: Duration = Duration::from_secs(1);
/// Before a task is sent again.
const PAUSE: Duration = Duration::from_millis(500);
const NAME: &str = "steady-";

/// How often the node ran which task.
#[derive(Debug, Default)]
pub(crate) struct Ran(Mutex<BTreeMap<String, u64>>);

impl Ran {
    pub(crate) fn note(&self, task_id: &str) {
        if task_id.starts_with(NAME) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(task_id.to_owned()).or_default() += 1;
        }
    }

    pub(crate) fn told(&self) -> Value {
        json!(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Submits one task after the other until it is told to end; then those under way come to their end. A task that may be sent
/// again is, for as long as `within`.
pub(crate) async fn steadily(client: &Client, within: Duration, told: impl Future) -> Value {
    let (mut tasks, mut told, mut every) = (JoinSet::new(), pin!(told), tokio::time::interval(EVERY));
    for n in 0_u32.. {
        tokio::select! {
            _ = &mut told => break,
            _ = every.tick() => {}
        }
        tasks.spawn(one(client.clone(), n, within));
    }
    tasks.join_all().await.into()
}

async fn one(client: Client, n: u32, within: Duration) -> Value {
    let (id, idempotent, until) = (format!("{NAME}{n}"), n.is_multiple_of(2), Instant::now() + within);
    let (mut sent, mut longest) = (0, Duration::ZERO);
    loop {
        sent += 1;
        let task = Task::new(INTENT, json!({ "id": id, "take_ms": 20 })).task_id(&*id);
        let begun = Instant::now();
        let outcome = client.submit(task.timeout(DEADLINE).idempotent(idempotent)).await;
        longest = longest.max(begun.elapsed());
        let end = match outcome {
            Ok(done) if done.result.json::<Value>().is_ok_and(|result| result["id"] == *id) => "result",
            Ok(_) => "the result of another task",
            Err(error) if (idempotent || has_not_run(error.code().name())) && Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => error.code().name(),
        };
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        return json!({ "id": id, "idempotent": idempotent, "end": end, "sent": sent, "longest_ms": longest });
    }
}

/// What an error says of a task that no node can have run.
fn has_not_run(code: &str) -> bool {
    [Code::Connect, Code::Capacity, Code::NoNodes, Code::DirectoryUnreachable].iter().any(|not| not.name() == code)
}

/// Compares what the caller noted with what the node did; gives a summary.
pub(crate) fn compare(caller: &Value, ran: &Value) -> Outcome<String> {
    let tasks = caller.as_array().filter(|tasks| !tasks.is_empty()).ok_or("no task was submitted")?;
    let (mut ends, mut again) = (BTreeMap::<&str, u32>::new(), 0);
    for task in tasks {
        let end = task["end"].as_str().unwrap_or("no end");
        let (idempotent, runs) = (task["idempotent"] == true, ran[task["id"].as_str().unwrap_or_default()].as_u64());
        let runs = runs.unwrap_or(0);
        let fault = match end {
            _ if task["longest_ms"].as_u64().is_none_or(|ms| u128::from(ms) > (DEADLINE + ADDED).as_millis()) => {
                "ended too late"
            }
            _ if !idempotent && runs > 1 => "ran twice and must not",
            "result" if runs == 0 => "has a result that nobody made",
            "result" => "",
            "the result of another task" | "no end" => end,
            error if idempotent || has_not_run(error) => "is lost, and may be sent again",
            _ => "",
        };
        if !fault.is_empty() {
            return Err(format!("a task {fault}; it ran {runs} times: {task}"));
        }
        *ends.entry(end).or_default() += 1;
        again += u32::from(task["sent"] != 1);
    }
    if let Some(strange) =
        ran.as_object().into_iter().flatten().find(|ran| tasks.iter().all(|one| one["id"] != **ran.0))
    {
        return Err(format!("the node ran {strange:?}, which nobody sent"));
    }
    Ok(format!("{} tasks, {again} of them sent again: {ends:?}", tasks.len()))
}
