//! Runs the case table against the Rust client. `CASE=part-of-a-name cargo cases` runs some of it.

use std::collections::{BTreeMap, VecDeque};
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
    #[serde(default)]
    setup: Value,
    #[serde(default)]
    client: Value,
    r#do: Vec<serde_json::Map<String, Value>>,
    #[serde(default)]
    ledger: Value,
}

/// How a verb ended: what `expect` is compared with, and the error's message.
type Outcome = (Value, String);

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
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two cases have one name: {names:?}");
    cases
}

async fn run(stage: &mut StageProcess, case: &Case) -> Result<(), String> {
    let setup = if case.setup.is_null() { json!({}) } else { case.setup.clone() };
    let mut scene = stage.call(&json!({ "setup": setup })).await?;
    let mut client = new_client(&case.client, &scene);
    let mut running: BTreeMap<String, Vec<JoinHandle<Outcome>>> = BTreeMap::new();
    for (number, step) in case.r#do.iter().enumerate() {
        let at = |why: String| format!("step {}: {why}", number + 1);
        let text = |verb: &str| step[verb].as_str().unwrap_or_default();
        let begun = Instant::now();
        let outcomes = if let Some(command) = step.get("stage") {
            let answer = stage.call(command).await.map_err(at)?;
            if answer.get("nodes").is_some_and(|_| command.get("add_node").is_some()) {
                scene = answer;
            }
            continue;
        } else if let Some(options) = step.get("client_new") {
            client = new_client(options, &scene);
            vec![client.as_ref().map_or_else(failed, |_| (json!({}), String::new()))]
        } else if step.contains_key("join") {
            collect(running.remove(text("join")).unwrap_or_default()).await
        } else if step.contains_key("cancel") {
            let calls = running.remove(text("cancel")).unwrap_or_default();
            calls.iter().for_each(JoinHandle::abort);
            collect(calls).await
        } else {
            let client = client.as_ref().map_err(|e| at(format!("there is no client: {e}")))?;
            let calls = step.get("parallel").and_then(Value::as_u64).unwrap_or(1);
            let calls: Vec<_> =
                (0..calls).map(|_| tokio::spawn(call(client.clone(), step.clone(), scene.clone()))).collect();
            if step.contains_key("as") {
                running.insert(text("as").to_owned(), calls);
                continue;
            }
            collect(calls).await
        };
        let nothing = json!({});
        for outcome in outcomes {
            check(step.get("expect").unwrap_or(&nothing), &outcome, begun.elapsed()).map_err(at)?;
        }
    }
    if !case.ledger.is_null() {
        stage.wait_for(case.ledger.clone(), Duration::from_secs(10)).await?;
    }
    drop(client);
    stage.call(&json!({ "teardown": {} })).await.map(|_| ())
}

fn new_client(options: &Value, scene: &Value) -> Result<Client, Error> {
    let mut options = if options.is_null() { json!({}) } else { options.clone() };
    if options.get("directory").is_none() {
        options["directory"] = scene["directory"].clone();
    }
    Client::new(from_json::<ClientOptions>(&options.to_string())?)
}

async fn collect(calls: Vec<JoinHandle<Outcome>>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for call in calls {
        // In Rust a call is cancelled by dropping its future, which has no outcome of its own.
        outcomes.push(call.await.unwrap_or_else(|_| (json!({ "code": "CANCELLED" }), String::new())));
    }
    outcomes
}

async fn call(client: Client, step: serde_json::Map<String, Value>, scene: Value) -> Outcome {
    attempt(&client, &step, &scene).await.unwrap_or_else(|error| failed(&error))
}

async fn attempt(client: &Client, step: &serde_json::Map<String, Value>, scene: &Value) -> Result<Outcome, Error> {
    let place = |id: &str| scene["nodes"].as_array()?.iter().position(|node| node["node_id"] == id);
    let ok = if let Some(options) = step.get("submit") {
        let mut task = Task::new("", payload(step));
        task.options = from_json::<TaskOptions>(&options.to_string())?;
        let done = client.submit(task).await?;
        json!({ "result": done.result.json::<Value>()?, "node": place(&done.node_id), "attempts": done.attempts })
    } else if let Some(options) = step.get("chat") {
        let reply = client.chat(from_json::<Chat>(&options.to_string())?).await?;
        json!({ "text": reply.text(), "node": place(&reply.node_id), "model": reply.model, "usage": reply.usage })
    } else {
        let nodes = client.discover(from_json::<Discover>(&step["discover"].to_string())?).await?;
        json!({ "nodes": nodes.iter().map(|node| place(&node.node_id)).collect::<Vec<_>>() })
    };
    Ok((ok, String::new()))
}

fn payload(step: &serde_json::Map<String, Value>) -> Payload {
    match (step.get("payload_bytes").and_then(Value::as_u64), step.get("payload")) {
        (Some(bytes), _) => json!({ "pad": "x".repeat(usize::try_from(bytes).unwrap() - 10) }).into(),
        (None, given) => given.cloned().unwrap_or_else(|| json!({ "text": "canary" })).into(),
    }
}

fn failed(error: &Error) -> Outcome {
    let mut json = error.to_json();
    json["code"] = json["name"].take();
    (json, error.message().to_owned())
}

fn check(expect: &Value, (outcome, message): &Outcome, took: Duration) -> Result<(), String> {
    let mut expect = expect.clone();
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
        _ => expected == actual,
    }
}
