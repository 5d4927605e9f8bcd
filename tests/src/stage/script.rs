//! The scripted handlers of the stage's real nodes.

use std::time::Duration;

use futures_util::stream;
use iicp_core::{Code, Error, Handler, Inbound, Reply, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ledger::Page;
use super::setup::HandlerSetup;

/// What a failing handler says, and no caller may read: a canary, as the cases' payloads are.
const PRIVATE: &str = "a canary that only the provider may see";

/// A handler that does as the case says, and notes it.
pub(super) struct Script {
    pub(super) setup: HandlerSetup,
    pub(super) page: Page,
}

/// One run; noted as cancelled or panicked unless it says otherwise before it is dropped.
struct Run {
    page: Page,
    over: bool,
}

impl Run {
    fn over<T>(&mut self, result: &Result<T>) {
        self.over = true;
        self.page.note(|counts| match result {
            Ok(_) => counts.finished += 1,
            Err(_) => counts.failed += 1,
        });
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.over {
            self.page.note(|counts| match std::thread::panicking() {
                true => counts.panicked += 1,
                false => counts.cancelled += 1,
            });
        }
    }
}

impl Handler for Script {
    async fn call(&self, task: Inbound) -> Result<Reply> {
        if let HandlerSetup::Unlisted = self.setup {
            return Ok(task.payload.into());
        }
        let run = self.page.note(|counts| {
            counts.traceparents.extend(task.traceparent.clone());
            counts.begin(task.task_id.clone())
        });
        let mut running = Run { page: self.page.clone(), over: false };
        if let HandlerSetup::Parts { each, times, then } = &self.setup {
            let parts = std::iter::repeat_n(each.clone(), *times).flatten();
            return Ok(in_parts(parts, then.clone(), task, running));
        }
        let result = act(&self.setup, &task, run).await;
        running.over(&result);
        result
    }
}

/// A reply in parts, whose run is over with the last.
fn in_parts(
    parts: impl Iterator<Item = Value> + Send + 'static,
    then: Option<Box<HandlerSetup>>,
    task: Inbound,
    running: Run,
) -> Reply {
    Reply::stream(stream::unfold(Some((parts, task, running)), move |rest| {
        let then = then.clone();
        async move {
            let (mut parts, task, mut running) = rest?;
            if let Some(part) = parts.next() {
                return Some((Ok(part), Some((parts, task, running))));
            }
            let result = match then {
                Some(then) => act(&then, &task, 0).await.map(|_| ()),
                None => Ok(()),
            };
            running.over(&result);
            result.err().map(|error| (Err(error), None))
        }
    }))
}

async fn act(setup: &HandlerSetup, task: &Inbound, run: u64) -> Result<Reply> {
    let told;
    let setup = match setup {
        HandlerSetup::AsTold => {
            told = told_by(task)?;
            &told
        }
        other => other,
    };
    match setup {
        HandlerSetup::Echo | HandlerSetup::Unlisted => Ok(task.payload.clone().into()),
        HandlerSetup::ChatEcho => {
            let payload: Value = task.json()?;
            let last = payload["messages"].as_array().and_then(|messages| messages.last());
            Ok(Reply::chat(last.and_then(|last| last["content"].as_str()).unwrap_or_default()))
        }
        HandlerSetup::Returns(value) => Ok(value.clone().into()),
        HandlerSetup::Roles => {
            let payload: Value = task.json()?;
            let messages = payload["messages"].as_array().into_iter().flatten();
            let roles: Vec<&str> = messages.filter_map(|message| message["role"].as_str()).collect();
            Ok(Reply::chat(roles.join(",")))
        }
        HandlerSetup::Count => Ok(json!({ "run": run }).into()),
        HandlerSetup::Slow(ms) => {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            Ok(task.payload.clone().into())
        }
        HandlerSetup::Hang => std::future::pending().await,
        HandlerSetup::Fail => Err(Error::new(Code::Backend, PRIVATE)),
        HandlerSetup::Reject(why) => Err(Error::rejected(why)),
        // Unwinds like a panic, without the hook's report on the stage's standard error.
        HandlerSetup::Panic => std::panic::resume_unwind(Box::new(PRIVATE)),
        HandlerSetup::WrongType => Reply::json_bytes(PRIVATE),
        HandlerSetup::Parts { .. } | HandlerSetup::AsTold => {
            Err(Error::rejected("the payload tells the handler to do as it is told"))
        }
    }
}

fn told_by(task: &Inbound) -> Result<HandlerSetup> {
    #[derive(Deserialize)]
    struct Told {
        r#do: HandlerSetup,
    }
    task.json::<Told>().map(|told| told.r#do)
}
