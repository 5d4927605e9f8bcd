//! Runs the case table against the Rust client. `CASE=part-of-a-name cargo cases` runs some of it.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use iicp_core::options::{
    Chat, ClientOptions, Completion, Discover, Embedding, Moderation, Speech, TaskOptions, Transcription, from_json,
};
use iicp_core::types::{Payload, TaskResult};
use iicp_core::{Client, Code, Error, RankChoice, RankMode, RankRequest, Streamed, Task};
use iicp_tests::stage::Transport;
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
    infer: Option<Value>,
    stream: Option<Value>,
    take: Option<usize>,
    rank: Option<Value>,
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
    every_case(Transport::Native).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_keeps_its_promise_where_nodes_speak_http_alone() {
    every_case(Transport::Http).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_keeps_its_promise_where_nodes_are_behind_a_relay() {
    every_case(Transport::Relay).await;
}

async fn every_case(transport: Transport) {
    let wanted = std::env::var("CASE").unwrap_or_default();
    let cases: VecDeque<Case> = table().into_iter().filter(|case| case.name.contains(&wanted)).collect();
    let total = cases.len();
    assert!(total > 0, "no case has {wanted:?} in its name");
    let (cases, failures) = (Arc::new(Mutex::new(cases)), Arc::new(Mutex::new(Vec::new())));
    let workers = (0..WORKERS).map(|_| {
        let (cases, failures) = (cases.clone(), failures.clone());
        tokio::spawn(async move {
            let mut stage = StageProcess::over(transport, env!("CARGO_BIN_EXE_stage")).unwrap();
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
    let ranker = Ranker(Arc::new(Mutex::new(None)));
    let wanted = case.r#do.iter().any(|step| step.rank.is_some());
    let mut client = new_client(&case.client, &scene, wanted.then(|| ranker.clone()));
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
            client = new_client(options, &scene, wanted.then(|| ranker.clone()));
            vec![client.as_ref().map_or_else(failed, |_| json!({}))]
        } else if let Some(name) = step.join.as_ref().or(step.cancel.as_ref()) {
            let calls = running.remove(name).ok_or_else(|| at(format!("nothing runs as {name}")))?;
            calls.iter().filter(|_| step.cancel.is_some()).for_each(JoinHandle::abort);
            collect(calls).await
        } else {
            let client = client.as_ref().map_err(|e| at(format!("there is no client: {e}")))?;
            ranker.0.lock().unwrap().clone_from(&step.rank);
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

/// Answers as the step says that it is at.
#[derive(Clone)]
struct Ranker(Arc<Mutex<Option<Value>>>);

impl Ranker {
    fn answer(&self, request: &RankRequest) -> Result<Option<RankChoice>, Error> {
        let choose = |candidate_ref: &str| RankChoice {
            candidate_ref: candidate_ref.into(),
            policy_id: "case-policy".into(),
            mode: RankMode::Normal,
        };
        let wanted = self.0.lock().unwrap().clone().unwrap_or_default();
        match wanted.as_str() {
            Some("last") => Ok(request.candidates.last().map(|last| choose(&last.candidate_ref))),
            Some("unknown") => Ok(Some(choose("nobody"))),
            Some(_) => Ok(None),
            None => match wanted["error"].as_str() {
                Some(why) => Err(Error::new(Code::RankerRefused, why)),
                None => Ok(None),
            },
        }
    }
}

fn new_client(options: &Value, scene: &Value, ranker: Option<Ranker>) -> Result<Client, Error> {
    let mut options = options.clone();
    let url = scene["directory"].as_str().unwrap_or_default();
    match options.get("directory") {
        None => options["directory"] = url.into(),
        Some(given) => {
            options["directory"] = given.as_str().map_or(given.clone(), |s| s.replace("$directory", url).into())
        }
    }
    let options = from_json::<ClientOptions>(&options.to_string())?;
    match ranker {
        None => Client::new(options),
        Some(ranker) => Client::with_ranker(options, move |request: RankRequest| ranker.answer(&request)),
    }
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
        json!({
            "result": done.result.json::<Value>()?, "node": place(&done.node_id), "attempts": done.attempts,
            "sealed": done.sealed, "receipt": done.receipt,
        })
    } else if let Some(options) = &step.chat {
        let reply = client.chat(from_json::<Chat>(&options.to_string())?).await?;
        json!({
            "text": reply.text(), "node": place(&reply.node_id), "model": reply.model, "usage": reply.usage,
            "finish_reason": reply.finish_reason, "tool_calls": reply.tool_calls, "attempts": reply.task.attempts,
            "sealed": reply.task.sealed, "receipt": reply.task.receipt,
        })
    } else if let Some(options) = &step.stream {
        let mut texts = Vec::new();
        let followed = follow(client, step, options, &mut texts).await;
        let mut outcome = match &followed {
            Ok(None) => json!({}),
            Ok(Some((task, tokens_used))) => json!({
                "node": place(&task.node_id), "attempts": task.attempts, "sealed": task.sealed, "receipt": task.receipt,
                "tokens_used": tokens_used,
            }),
            Err(error) => failed(error),
        };
        outcome["texts"] = json!(texts);
        outcome
    } else if let Some(options) = &step.infer {
        let (task, mut said) = infer(client, options.clone()).await?;
        said["node"] = place(&task.node_id).into();
        said["attempts"] = task.attempts.into();
        said["sealed"] = task.sealed.into();
        said["receipt"] = json!(task.receipt);
        said
    } else {
        let options = step.discover.as_ref().expect("a step has a verb");
        let nodes = client.discover(from_json::<Discover>(&options.to_string())?).await?;
        json!({ "nodes": nodes.iter().map(|node| place(&node.node_id)).collect::<Vec<_>>() })
    })
}

/// Takes the texts of a stream; what is known at its end, unless it was left before.
async fn follow(
    client: &Client,
    step: &Step,
    options: &Value,
    texts: &mut Vec<String>,
) -> Result<Option<(TaskResult, Option<u64>)>, Error> {
    let ask: Streamed = if step.payload.is_some() {
        let mut task = Task::new("", payload(step));
        task.options = from_json::<TaskOptions>(&options.to_string())?;
        task.into()
    } else {
        from_json::<Chat>(&options.to_string())?.into()
    };
    let mut stream = client.stream(ask).await?;
    while let Some(part) = stream.next().await {
        texts.push(part?.text());
        if step.take == Some(texts.len()) {
            return Ok(None);
        }
    }
    Ok(Some((stream.about().clone(), stream.tokens_used())))
}

/// Runs a model task, and tells what its reply has beside the task.
async fn infer(client: &Client, mut options: Value) -> Result<(TaskResult, Value), Error> {
    let kind = options.as_object_mut().and_then(|options| options.remove("kind")).unwrap_or_default();
    let sound = options.as_object_mut().and_then(|options| options.remove("audio_text"));
    let json = options.to_string();
    Ok(match kind.as_str().unwrap_or_default() {
        "completion" => {
            let r = client.complete(from_json::<Completion>(&json)?).await?;
            let said = json!({ "text": r.text, "finish_reason": r.finish_reason, "usage": r.usage, "model": r.model });
            (r.task, said)
        }
        "embedding" => {
            let r = client.embed(from_json::<Embedding>(&json)?).await?;
            let said = json!({ "vectors": r.vectors, "usage": r.usage, "model": r.model });
            (r.task, said)
        }
        "transcription" => {
            let sound = sound.as_ref().and_then(Value::as_str).unwrap_or_default();
            options["audio"] = json!(Transcription::of(sound.as_bytes()).audio);
            let r = client.transcribe(from_json::<Transcription>(&options.to_string())?).await?;
            (r.task, json!({ "text": r.text, "language": r.language }))
        }
        "speech" => {
            let r = client.speak(from_json::<Speech>(&json)?).await?;
            let audio = String::from_utf8_lossy(&r.audio);
            let said = json!({ "audio": audio, "content_type": r.content_type, "format": r.format });
            (r.task, said)
        }
        "moderation" => {
            let r = client.moderate(from_json::<Moderation>(&json)?).await?;
            let said = json!({ "results": r.results, "model": r.model });
            (r.task, said)
        }
        other => panic!("a case infers {other:?}"),
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
