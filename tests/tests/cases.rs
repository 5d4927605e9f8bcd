//! Runs the case table against the Rust client. `CASE=part-of-a-name cargo cases` runs some of it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iicp_core::options::{Chat, ClientOptions, Discover, TaskOptions, from_json};
use iicp_core::{Client, Error, Task, types::Payload};
use iicp_tests::stage_process::StageProcess;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    promise: String,
    #[serde(default = "nothing")]
    setup: Value,
    #[serde(default = "nothing")]
    client: Value,
    r#do: Vec<Step>,
    ledger: Option<Value>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    stage: Option<Value>,
    client_new: Option<Value>,
    discover: Option<Value>,
    submit: Option<Value>,
    chat: Option<Value>,
    join: Option<String>,
    cancel: Option<String>,
    payload: Option<Value>,
    payload_bytes: Option<usize>,
    parallel: Option<usize>,
    r#as: Option<String>,
    #[serde(default = "nothing")]
    expect: Value,
}

fn nothing() -> Value {
    json!({})
}

/// Stages, and so cases, that run at the same time.
const WORKERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_keeps_its_promise() {
    let wanted = std::env::var("CASE").unwrap_or_default();
    let cases: VecDeque<Case> = table().into_iter().filter(|case| case.name.contains(&wanted)).collect();
    let total = cases.len();
    assert!(total > 0, "no case has {wanted:?} in its name");
    let (cases, failures) = (Arc::new(Mutex::new(cases)), Arc::new(Mutex::new(Vec::new())));
    let workers = (0..WORKERS).map(|_| {
        let (cases, failures) = (cases.clone(), failures.clone());
        tokio::spawn(async move {
            let mut stage = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
            while let Some(case) = { cases.lock().unwrap().pop_front() } {
                if let Err(why) = run(&mut stage, &case).await {
                    failures.lock().unwrap().push(format!("{}: {}\n    {why}", case.name, case.promise));
                }
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let failures = failures.lock().unwrap();
    assert!(failures.is_empty(), "{} of {total} cases failed:\n{}", failures.len(), failures.join("\n"));
}

fn table() -> Vec<Case> {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/cases")).unwrap();
    let mut cases: Vec<Case> = Vec::new();
    for path in files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "json")) {
        let text = std::fs::read_to_string(&path).unwrap();
        cases.extend(serde_json::from_str::<Vec<Case>>(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }
    let mut names = HashSet::new();
    let twice = cases.iter().find(|case| !names.insert(&case.name));
    assert!(twice.is_none(), "two cases are named {}", twice.unwrap().name);
    cases
}

async fn run(stage: &mut StageProcess, case: &Case) -> Result<(), String> {
    let mut scene = stage.call(&json!({ "setup": case.setup })).await?;
    let mut client = new_client(&case.client, &scene);
    let mut running: BTreeMap<String, Vec<JoinHandle<Value>>> = BTreeMap::new();
    for (number, step) in case.r#do.iter().enumerate() {
        let at = |why: String| format!("step {}: {why}", number + 1);
        let begun = Instant::now();
        let outcomes = if let Some(command) = &step.stage {
            let answer = stage.call(command).await.map_err(at)?;
            if command.get("add_node").is_some() {
                scene = answer;
            }
            continue;
        } else if let Some(options) = &step.client_new {
            client = new_client(options, &scene);
            vec![client.as_ref().map_or_else(failed, |_| json!({}))]
        } else if let Some(name) = step.join.as_ref().or(step.cancel.as_ref()) {
            let calls = running.remove(name).ok_or_else(|| at(format!("nothing runs as {name}")))?;
            calls.iter().filter(|_| step.cancel.is_some()).for_each(JoinHandle::abort);
            collect(calls).await
        } else {
            let client = client.as_ref().map_err(|e| at(format!("there is no client: {e}")))?;
            let start = || tokio::spawn(call(client.clone(), step.clone(), scene.clone()));
            let calls: Vec<_> = (0..step.parallel.unwrap_or(1)).map(|_| start()).collect();
            if let Some(name) = &step.r#as {
                running.insert(name.clone(), calls);
                continue;
            }
            collect(calls).await
        };
        outcomes.iter().try_for_each(|outcome| check(&step.expect, outcome, begun.elapsed())).map_err(at)?;
    }
    if let Some(ledger) = &case.ledger {
        stage.wait_for(ledger.clone(), Duration::from_secs(10)).await?;
    }
    stage.call(&json!({ "teardown": {} })).await.map(|_| ())
}

fn new_client(options: &Value, scene: &Value) -> Result<Client, Error> {
    let mut options = options.clone();
    let url = scene["directory"].as_str().unwrap_or_default();
    match options.get("directory") {
        None => options["directory"] = url.into(),
        Some(given) => {
            options["directory"] = given.as_str().map_or(given.clone(), |s| s.replace("$directory", url).into())
        }
    }
    Client::new(from_json::<ClientOptions>(&options.to_string())?)
}

async fn collect(calls: Vec<JoinHandle<Value>>) -> Vec<Value> {
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(match call.await {
            Ok(outcome) => outcome,
            // In Rust a call is cancelled by dropping its future, which has no outcome of its own.
            Err(gone) => json!({ "code": if gone.is_cancelled() { "CANCELLED" } else { "PANIC" } }),
        });
    }
    outcomes
}

async fn call(client: Client, step: Step, scene: Value) -> Value {
    attempt(&client, &step, &scene).await.unwrap_or_else(|error| failed(&error))
}

async fn attempt(client: &Client, step: &Step, scene: &Value) -> Result<Value, Error> {
    let place = |id: &str| scene["nodes"].as_array()?.iter().position(|node| node["node_id"] == id);
    Ok(if let Some(options) = &step.submit {
        let mut task = Task::new("", payload(step));
        task.options = from_json::<TaskOptions>(&options.to_string())?;
        let done = client.submit(task).await?;
        json!({ "result": done.result.json::<Value>()?, "node": place(&done.node_id), "attempts": done.attempts })
    } else if let Some(options) = &step.chat {
        let reply = client.chat(from_json::<Chat>(&options.to_string())?).await?;
        json!({ "text": reply.text(), "node": place(&reply.node_id), "model": reply.model, "usage": reply.usage })
    } else {
        let options = step.discover.as_ref().expect("a step has a verb");
        let nodes = client.discover(from_json::<Discover>(&options.to_string())?).await?;
        json!({ "nodes": nodes.iter().map(|node| place(&node.node_id)).collect::<Vec<_>>() })
    })
}

fn payload(step: &Step) -> Payload {
    let json = match (step.payload_bytes, &step.payload) {
        (Some(bytes), _) => json!({ "pad": "x".repeat(bytes - 10) }),
        (None, Some(given)) => given.clone(),
        (None, None) => json!({ "text": "canary" }),
    };
    json.into()
}

fn failed(error: &Error) -> Value {
    let mut json = error.to_json();
    json["code"] = json["name"].take();
    json
}

fn check(expect: &Value, outcome: &Value, took: Duration) -> Result<(), String> {
    let mut expect = expect.clone();
    let message = outcome["message"].as_str().unwrap_or_default();
    let fields = expect.as_object_mut().ok_or("expect is no object")?;
    let says = fields.remove("says").unwrap_or_default();
    let within = fields.remove("within_ms").and_then(|ms| ms.as_u64()).map(Duration::from_millis);
    if fields.contains_key("code") != outcome.get("code").is_some() || !holds(&expect, outcome) {
        return Err(format!("expected {expect}, got {outcome}"));
    }
    if message.contains("canary") {
        return Err(format!("the message gives away what it must not: {message:?}"));
    }
    let missing = says.as_array().into_iter().flatten().filter_map(Value::as_str).find(|part| !message.contains(part));
    match (missing, within) {
        (Some(part), _) => Err(format!("{message:?} does not say {part:?}")),
        (_, Some(within)) if took > within => Err(format!("it took {took:?}, more than {within:?}")),
        _ => Ok(()),
    }
}

/// Objects are compared by the fields that are expected, everything else exactly.
fn holds(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            expected.iter().all(|(name, value)| actual.get(name).is_some_and(|actual| holds(value, actual)))
        }
        (Value::Array(expected), Value::Array(actual)) => {
            expected.len() == actual.len() && expected.iter().zip(actual).all(|(e, a)| holds(e, a))
        }
        // A list of codes: any of them.
        (Value::Array(any), Value::String(_)) => any.contains(actual),
        _ => expected == actual,
    }
}
