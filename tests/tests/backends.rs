//! Nodes whose tasks an inference server runs: what goes up, what comes down, and what becomes of a server that misbehaves.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use iicp_core::options::{BackendKind, BackendOptions, ClientOptions, DirectoryOptions, Discover, NodeOptions};
use iicp_core::types::Priority;
use iicp_core::{
    CHAT, COMPLETION, Client, Code, Directory, EMBEDDING, Handler, Inbound, LiveNode, MODERATION, Node, SPEECH,
    TRANSCRIPTION, Task,
};
use iicp_tests::backend::{Face, StubBackend};
use iicp_tests::http::{Answer, Conn, post};
use serde_json::{Value, json};

fn models(names: &[&str]) -> Face {
    Face { models: Some(names.iter().map(|name| (*name).to_owned()).collect()), ..Face::default() }
}

fn options(stub: &StubBackend, change: impl FnOnce(&mut NodeOptions, &mut BackendOptions)) -> NodeOptions {
    let (mut options, mut backend) = (NodeOptions::default(), BackendOptions::default());
    backend.url = Some(stub.url());
    backend.probe_interval_ms = 50;
    change(&mut options, &mut backend);
    options.backend = Some(backend);
    options
}

async fn serve(stub: &StubBackend, change: impl FnOnce(&mut NodeOptions, &mut BackendOptions)) -> LiveNode {
    Node::bind(options(stub, change)).await.unwrap().serve_backend().await.unwrap()
}

/// A node over a server with one chat model.
async fn pair() -> (StubBackend, LiveNode) {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let node = serve(&stub, |_, _| ()).await;
    (stub, node)
}

fn chat(said: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": said }] })
}

async fn ask(node: &LiveNode, intent: &str, payload: Value, constraints: Value) -> Answer {
    let task_id = format!("t-{:?}", Instant::now()).replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let body = json!({ "task_id": task_id, "intent": intent, "payload": payload, "constraints": constraints });
    Conn::open(node.addr()).await.unwrap().post("/v1/task", &body).await.unwrap()
}

async fn health(node: &LiveNode) -> Value {
    Conn::open(node.addr()).await.unwrap().get("/iicp/health").await.unwrap().json()
}

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !reached().await {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

// What goes up and what comes down.

#[tokio::test]
async fn every_model_task_has_its_way_up_and_its_result() {
    let stub = StubBackend::start(models(&["llama3", "nomic-embed", "whisper-1"])).await.unwrap();
    let node = serve(&stub, |options, backend| {
        options.intents = [CHAT, COMPLETION, EMBEDDING, TRANSCRIPTION, SPEECH, MODERATION].map(Into::into).into();
        backend.api_key = Some("sk-canary".into());
    })
    .await;
    let chatted = ask(&node, CHAT, chat("hello"), json!({ "max_tokens": 5 })).await;
    assert_eq!(chatted.status, 200, "{chatted:?}");
    assert_eq!(chatted.json()["result"]["choices"][0]["message"]["content"], "hello");
    {
        let log = stub.log();
        let wanted = json!({ "messages": [{ "role": "user", "content": "hello" }], "model": "llama3", "max_tokens": 5, "stream": false });
        assert_eq!(log.last_json(), wanted);
        assert!(
            log.last.0.contains("POST /v1/chat/completions") && log.last.0.contains("authorization: Bearer sk-canary")
        );
    }
    let completed = ask(&node, COMPLETION, json!({ "prompt": "once" }), json!({ "model": "whisper-1" })).await;
    assert_eq!(completed.json()["result"]["choices"][0]["text"], "once");
    assert_eq!(stub.log().last_json()["model"], "whisper-1");
    let embedded = ask(&node, EMBEDDING, json!({ "input": "a" }), json!({})).await;
    assert_eq!(embedded.json()["result"]["data"][0]["embedding"], json!([0.5, 1.0]));
    assert_eq!(stub.log().last_json()["model"], "nomic-embed");
    let judged = ask(&node, MODERATION, json!({ "input": "a" }), json!({})).await;
    assert_eq!(judged.json()["result"]["results"][0]["flagged"], false);
    let spoken = ask(&node, SPEECH, json!({ "input": "a" }), json!({})).await;
    assert_eq!(
        spoken.json()["result"],
        json!({ "audio": "UklGRi4uLi4=", "content_type": "audio/wav", "format": "wav" })
    );
    let sound = json!({ "audio": "UklGRi4uLi4=", "model": "whisper-1", "language": "en", "temperature": 0.5 });
    let written = ask(&node, TRANSCRIPTION, sound, json!({})).await;
    assert!(written.json()["result"]["text"].as_str().unwrap().ends_with("bytes of a form"), "{written:?}");
    let log = stub.log();
    let form = String::from_utf8_lossy(&log.last.1);
    assert!(log.last.0.contains("multipart/form-data; boundary=") && form.contains("RIFF....\r\n--"), "{form}");
    for part in [
        "name=\"model\"\r\n\r\nwhisper-1\r\n",
        "name=\"language\"\r\n\r\nen\r\n",
        "name=\"temperature\"\r\n\r\n0.5\r\n",
    ] {
        assert!(form.contains(part), "{form}");
    }
}

#[tokio::test]
async fn a_chat_with_anthropics_interface_is_a_chat_like_any_other() {
    let stub = StubBackend::start(models(&["claude-x"])).await.unwrap();
    let node = serve(&stub, |_, backend| {
        backend.kind = BackendKind::Anthropic;
        backend.api_key = Some("sk-ant".into());
        // With the `/v1` that the URL may end in.
        backend.url = Some(format!("{}/v1/", stub.url()));
    })
    .await;
    let chatted = ask(&node, CHAT, chat("hello"), json!({})).await;
    assert_eq!(chatted.json()["result"]["choices"][0]["message"], json!({ "role": "assistant", "content": "hello" }));
    assert_eq!(chatted.json()["result"]["usage"]["total_tokens"], 7);
    {
        let log = stub.log();
        assert!(log.last.0.contains("x-api-key: sk-ant") && log.last.0.contains("anthropic-version: 2023-06-01"));
        assert!(log.last.0.starts_with("POST /v1/messages ") && log.last_json()["model"] == "claude-x", "{log:?}");
    }
    assert_eq!(health(&node).await["intents"], json!([CHAT]));
    let unserved = serve_refused(&stub, |options, backend| {
        backend.kind = BackendKind::Anthropic;
        options.intents = vec![EMBEDDING.into()];
    })
    .await;
    assert!(unserved.contains("cannot serve"), "{unserved}");
}

async fn serve_refused(stub: &StubBackend, change: impl FnOnce(&mut NodeOptions, &mut BackendOptions)) -> String {
    let error = Node::bind(options(stub, change)).await.unwrap().serve_backend().await.unwrap_err();
    assert_eq!(error.code(), Code::ConfigInvalid);
    error.to_string()
}

#[tokio::test]
async fn a_handler_may_stand_before_the_backend() {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let node = Node::bind(options(&stub, |_, _| ())).await.unwrap();
    let backend = node.backend().unwrap();
    let node = node
        .serve(move |task: Inbound| {
            let backend = backend.clone();
            async move {
                if task.payload.bytes().len() > 1000 {
                    return Err(iicp_core::Error::rejected("too long for this node"));
                }
                iicp_core::Handler::call(&backend, task).await
            }
        })
        .await
        .unwrap();
    assert_eq!(ask(&node, CHAT, chat("hello"), json!({})).await.status, 200);
    assert_eq!(ask(&node, CHAT, chat(&"x".repeat(2000)), json!({})).await.status, 422);
    assert_eq!(health(&node).await["models"], json!(["llama3"]));
    assert_eq!(stub.log().started, 1, "what the handler refused stayed there");
}

#[tokio::test]
async fn a_message_that_only_calls_tools_is_one_that_published_clients_read() {
    let (_stub, node) = pair().await;
    let message = ask(&node, CHAT, chat("tools"), json!({})).await.json()["result"]["choices"][0]["message"].clone();
    assert_eq!((&message["content"], &message["tool_calls"][0]["id"]), (&json!(""), &json!("c1")));
}

// What becomes of failures.

#[tokio::test]
async fn no_failure_is_a_success_and_none_shows_the_servers_words() {
    let (_stub, node) = pair().await;
    let table = [
        ("html", 502, "backend_error"),
        ("sse", 502, "backend_error"),
        ("reset", 502, "backend_error"),
        ("cut", 502, "backend_error"),
        ("hello again", 200, ""),
        ("status 500", 502, "backend_error"),
        ("status 401", 502, "backend_error"),
        ("status 404 html", 502, "backend_error"),
        ("status 302", 502, "backend_error"),
        ("hello again", 200, ""),
        ("status 408", 504, "task_timeout"),
        ("status 504", 504, "task_timeout"),
        ("status 400", 422, "rejected"),
        ("status 413", 422, "rejected"),
        ("status 422", 422, "rejected"),
        ("status 404", 404, "IICP-E029"),
        ("status 429", 503, "temporarily_unavailable"),
        ("status 529", 503, "temporarily_unavailable"),
        // The last one: it closes the node for a time.
        ("status 503", 503, "temporarily_unavailable"),
    ];
    for (said, status, code) in table {
        let answer = ask(&node, CHAT, chat(said), json!({})).await;
        assert_eq!(answer.status, status, "{said}: {answer:?}");
        assert_eq!(answer.json()["error"]["code"].as_str().unwrap_or_default(), code, "{said}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "{said}: {answer:?}");
        if status == 503 {
            assert_eq!(
                (answer.header("retry-after"), &answer.json()["error"]["retry_after_ms"]),
                (Some("7"), &json!(7000))
            );
        }
    }
    assert_eq!(node.active_jobs(), 0);
}

#[tokio::test]
async fn a_server_that_drips_or_never_ends_costs_one_slot_for_the_tasks_time() {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let node = serve(&stub, |options, backend| {
        options.max_concurrent = 1;
        backend.max_response_bytes = 1 << 20;
    })
    .await;
    for (said, timeout_ms, status) in
        [("hang", 300, 504), ("drip", 300, 504), ("endless", 30_000, 502), ("big", 30_000, 502)]
    {
        let answer = ask(&node, CHAT, chat(said), json!({ "timeout_ms": timeout_ms })).await;
        assert_eq!(answer.status, status, "{said}: {answer:?}");
        assert_eq!(ask(&node, CHAT, chat("hello"), json!({})).await.status, 200, "the slot is free after {said}");
    }
    until("all four are broken off", async || stub.log().aborted == 4).await;
    assert_eq!(stub.log().finished, 4);
}

#[tokio::test]
async fn the_servers_work_ends_with_the_task() {
    let (stub, node) = pair().await;
    // The caller goes away.
    let mut conn = Conn::open(node.addr()).await.unwrap();
    let body = json!({ "task_id": "t-gone", "intent": CHAT, "payload": chat("hang") }).to_string();
    conn.write(&post("/v1/task", "", body.as_bytes())).await.unwrap();
    until("the server has it", async || stub.log().started == 1).await;
    assert_eq!(stub.log().aborted, 0);
    drop(conn);
    until("the caller's leave reached the server", async || stub.log().aborted == 1).await;
    // The task's time ends.
    assert_eq!(ask(&node, CHAT, chat("hang"), json!({ "timeout_ms": 100 })).await.status, 504);
    until("the deadline reached the server", async || stub.log().aborted == 2).await;
    // The node stops.
    let mut conn = Conn::open(node.addr()).await.unwrap();
    conn.write(&post("/v1/task", "", body.replace("t-gone", "t-stop").as_bytes())).await.unwrap();
    until("the server has it", async || stub.log().started == 3).await;
    node.shutdown(Duration::ZERO).await;
    until("the end of the node reached the server", async || stub.log().aborted == 3).await;
}

// The circuit, and a server that is away.

/// A client of a node over a server, to take parts.
async fn mesh(stub: &StubBackend, change: impl FnOnce(&mut BackendOptions)) -> (Directory, LiveNode, Client) {
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let node = serve(stub, |options, backend| {
        options.directory = directory.url();
        options.max_concurrent = 1;
        options.intents = vec![CHAT.into()];
        if backend.kind != BackendKind::Anthropic {
            options.intents.push(COMPLETION.into());
        }
        change(backend);
        if backend.kind == BackendKind::Anthropic {
            options.intents = vec![CHAT.into()];
        }
    })
    .await;
    let mut options = ClientOptions::default();
    (options.directory, options.max_attempts) = (directory.url(), 1);
    let client = Client::new(options).unwrap();
    (directory, node, client)
}

/// The texts of a stream, and how it ended.
async fn texts(client: &Client, ask: impl Into<iicp_core::Streamed>) -> (Vec<String>, Option<u64>, Option<Code>) {
    let mut parts = match client.stream(ask).await {
        Ok(parts) => parts,
        Err(error) => return (Vec::new(), None, Some(error.code())),
    };
    let mut texts = Vec::new();
    while let Some(part) = parts.next().await {
        match part {
            Ok(part) => texts.push(part.text()),
            Err(error) => {
                assert!(!error.message().contains("canary"), "{error}");
                return (texts, parts.tokens_used(), Some(error.code()));
            }
        }
    }
    (texts, parts.tokens_used(), None)
}

#[tokio::test]
async fn a_caller_who_takes_parts_gets_them_as_the_server_makes_them() {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let (_directory, node, client) = mesh(&stub, |_| ()).await;
    let (said, tokens, failed) = texts(&client, "one two three").await;
    assert_eq!((said.concat().as_str(), tokens, failed), ("one two three", Some(7), None));
    assert_eq!(said[..3], ["one ", "two ", "three"], "word by word");
    let asked = stub.log().last_json();
    assert_eq!((&asked["stream"], &asked["stream_options"]["include_usage"]), (&json!(true), &json!(true)));
    let completion = iicp_core::Task::new(COMPLETION, json!({ "prompt": "four five", "stream": false }));
    assert_eq!(texts(&client, completion).await.0.concat(), "four five");
    // Who takes no parts makes no stream, whatever the payload says.
    let whole =
        ask(&node, CHAT, json!({ "messages": [{ "role": "user", "content": "six" }], "stream": true }), json!({}));
    assert_eq!(whole.await.json()["result"]["choices"][0]["message"]["content"], "six");
    assert_eq!(stub.log().last_json()["stream"], false);
    // A server that answers once gives one part.
    assert_eq!(texts(&client, "once only").await.0, ["once only"]);
    let log = stub.log();
    assert_eq!((log.started, log.finished, log.aborted), (4, 4, 0));
}

#[tokio::test]
async fn a_message_of_anthropics_interface_streams_as_a_chat() {
    let stub = StubBackend::start(models(&["claude"])).await.unwrap();
    let (_directory, _node, client) = mesh(&stub, |backend| backend.kind = BackendKind::Anthropic).await;
    let (said, tokens, failed) = texts(&client, "one two").await;
    assert_eq!((said.concat().as_str(), tokens, failed), ("one two", Some(7), None));
    assert_eq!(stub.log().last_json()["stream"], true);
    let whole = client.stream("one two").await.unwrap().whole().await.unwrap();
    let whole: Value = whole.result.json().unwrap();
    assert_eq!(whole["choices"][0]["message"], json!({ "role": "assistant", "content": "one two" }));
    assert_eq!((&whole["usage"]["total_tokens"], &whole["choices"][0]["finish_reason"]), (&json!(7), &json!("stop")));
    assert_eq!(texts(&client, "error").await.2, Some(Code::Backend));
    assert_eq!(texts(&client, "cut").await.2, Some(Code::Backend));
}

#[tokio::test]
async fn a_stream_that_the_server_breaks_has_one_clear_end() {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let (_directory, node, client) = mesh(&stub, |backend| {
        (backend.idle_timeout_ms, backend.breaker_failures) = (300, 100);
    })
    .await;
    for (said, code) in [
        ("cut", Code::Backend),
        ("garbage", Code::Backend),
        ("error", Code::Backend),
        ("stall", Code::TaskTimeout),
        ("dots", Code::TaskTimeout),
    ] {
        assert_eq!(texts(&client, said).await, (vec![said.to_owned()], None, Some(code)), "{said}");
        until("the slot is free", async || node.active_jobs() == 0).await;
    }
    // A 503 with a time closes the node for so long, so it comes last.
    for (said, code) in [("status 400", Code::TaskRejected), ("html", Code::Backend), ("status 503", Code::Capacity)] {
        assert_eq!(texts(&client, said).await, (vec![], None, Some(code)), "{said}");
    }
}

#[tokio::test]
async fn who_leaves_a_stream_ends_the_servers_work() {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let (_directory, node, client) = mesh(&stub, |backend| backend.max_response_bytes = 1 << 30).await;
    let mut parts = client.stream("endless").await.unwrap();
    for _ in 0..100 {
        parts.next().await.unwrap().unwrap();
    }
    assert_eq!((stub.log().aborted, node.active_jobs()), (0, 1));
    drop(parts);
    until("the server's task is broken off", async || stub.log().aborted == 1).await;
    until("the slot is free", async || node.active_jobs() == 0).await;
    assert_eq!(texts(&client, "well again").await.0.concat(), "well again");
}

#[tokio::test]
async fn a_server_that_keeps_failing_is_left_alone_and_tried_again() {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let node = serve(&stub, |_, backend| {
        backend.breaker_failures = 3;
        backend.breaker_open_ms = 1_500;
    })
    .await;
    for _ in 0..3 {
        assert_eq!(ask(&node, CHAT, chat("status 500"), json!({})).await.status, 502);
    }
    let refused = ask(&node, CHAT, chat("hello"), json!({})).await;
    assert_eq!((refused.status, stub.log().started), (503, 3), "{refused:?}");
    let pause: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&pause), "{pause}");
    let state = health(&node).await;
    assert_eq!((&state["status"], &state["available"]), (&json!("ok"), &json!(false)), "{state}");
    let stability = &state["backend_stability"];
    assert_eq!(
        (&stability["backend_state"], &stability["reason_class"]),
        (&json!("draining"), &json!("backend_unstable"))
    );
    assert!(stability["retry_after_s"].as_u64().is_some() && stability["drain_until"].as_u64().is_some(), "{state}");
    until("it is tried again", async || ask(&node, CHAT, chat("hello"), json!({})).await.status == 200).await;
    assert_eq!(health(&node).await["available"], true);
}

#[tokio::test]
async fn a_server_that_loads_its_model_closes_the_node_until_it_is_done() {
    let face = || Face { server: "llama.cpp".into(), ..models(&["llama3"]) };
    let stub = StubBackend::start(Face { health: 503, ..face() }).await.unwrap();
    let node = serve(&stub, |_, _| ()).await;
    let refused = ask(&node, CHAT, chat("hello"), json!({ "qos": "realtime" })).await;
    assert_eq!((refused.status, stub.log().started), (503, 0), "{refused:?}");
    let error = &refused.json()["error"];
    assert_eq!(
        (&error["code"], &error["reason"]),
        (&json!("temporarily_unavailable"), &json!("backend_loading")),
        "{error}"
    );
    let pause: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&pause), "{pause}");
    assert_eq!(health(&node).await["available"], false);
    *stub.face() = Face { health: 200, ..face() };
    until("it is open again", async || ask(&node, CHAT, chat("hello"), json!({})).await.status == 200).await;
    assert_eq!(health(&node).await["backend_stability"]["backend_state"], "ok");
}

#[tokio::test]
async fn what_one_task_is_told_of_a_drain_holds_for_all() {
    let (stub, node) = pair().await;
    assert_eq!(ask(&node, CHAT, chat("status 503"), json!({})).await.status, 503);
    let refused = ask(&node, CHAT, chat("hello"), json!({})).await;
    assert_eq!((refused.status, stub.log().started), (503, 1), "{refused:?}");
    assert_eq!(refused.json()["error"]["reason"], "backend_unstable");
    let pause: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=7).contains(&pause), "as long as the server said: {pause}");
    let state = health(&node).await;
    assert_eq!(
        (&state["available"], &state["backend_stability"]["backend_state"]),
        (&json!(false), &json!("draining"))
    );

    let (stub, node) = pair().await;
    assert_eq!(ask(&node, CHAT, chat("loading"), json!({})).await.status, 503);
    let refused = ask(&node, CHAT, chat("hello"), json!({})).await;
    assert_eq!(refused.json()["error"]["reason"], "backend_loading");
    until("it is open again", async || ask(&node, CHAT, chat("hello"), json!({})).await.status == 200).await;
    assert_eq!(stub.log().started, 2);

    let stub = StubBackend::start(models(&["llama3", "phi"])).await.unwrap();
    let node = serve(&stub, |_, _| ()).await;
    assert_eq!(ask(&node, CHAT, chat("status 503"), json!({})).await.status, 503);
    assert_eq!(ask(&node, CHAT, chat("hello"), json!({})).await.status, 200, "it may have meant one of its models");
}

#[tokio::test]
async fn callers_in_a_hurry_do_not_close_the_server_to_others() {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let node = serve(&stub, |_, backend| backend.breaker_failures = 1).await;
    for _ in 0..3 {
        assert_eq!(ask(&node, CHAT, chat("hang"), json!({ "timeout_ms": 50 })).await.status, 504);
    }
    assert_eq!(ask(&node, CHAT, chat("hello"), json!({})).await.status, 200);
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let (addr, settings) = (stub.addr(), options(&stub, |_, backend| backend.breaker_open_ms = 100));
    drop(stub);
    let node = Node::bind(settings).await.unwrap().serve_backend().await.unwrap();
    let state = health(&node).await;
    assert_eq!((&state["status"], &state["available"], &state["models"]), (&json!("ok"), &json!(false), &json!([])));
    assert_eq!(state["backend_stability"]["reason_class"], "backend_unstable");
    let answer = ask(&node, CHAT, json!({ "messages": [], "model": "llama3" }), json!({})).await;
    assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    let stub = StubBackend::start_at(addr, models(&["llama3"])).await.unwrap();
    until("the node is well", async || health(&node).await["available"] == true).await;
    assert_eq!(health(&node).await["models"], json!(["llama3"]));
    until("the circuit lets one through", async || ask(&node, CHAT, chat("hello"), json!({})).await.status == 200)
        .await;
    assert!(stub.log().finished >= 1);
}

// Models that come and go.

fn client(directory: &str) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    options.route_ttl_ms = 0;
    Client::new(options).unwrap()
}

#[tokio::test]
async fn what_a_caller_says_of_trace_and_priority_reaches_handler_and_server() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let stub = StubBackend::start(models(&["llama3"])).await.unwrap();
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let node = Node::bind(options(&stub, |options, _| options.directory = directory.url())).await.unwrap();
    let backend = node.backend().unwrap();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(None));
    let noted = heard.clone();
    let node = node
        .serve(move |task: Inbound| {
            let backend = backend.clone();
            *noted.lock().unwrap() = Some((task.priority, task.tracestate.clone()));
            async move { Handler::call(&backend, task).await }
        })
        .await
        .unwrap();
    let status = node.status();
    assert_eq!((status.models, status.backend_state.as_str()), (vec!["llama3".to_owned()], "ok"));
    let mut task = Task::new(CHAT, chat("hello")).priority(Priority::High);
    task.options.traceparent = Some(TRACE.into());
    task.options.tracestate = Some("vendor=1,other=2".into());
    client(&directory.url()).submit(task.clone()).await.unwrap();
    assert_eq!(*heard.lock().unwrap(), Some((Priority::High, Some("vendor=1,other=2".into()))));
    let head = stub.log().last.0.to_ascii_lowercase();
    assert!(
        head.contains("tracestate: vendor=1,other=2\r\n") && head.contains(&format!("traceparent: {TRACE}\r\n")),
        "{head}"
    );
    task.options.tracestate = Some("line\nbreak".into());
    let refused = client(&directory.url()).submit(task).await.unwrap_err();
    assert_eq!(refused.code(), Code::ConfigInvalid);
}

async fn listed(client: &Client, intent: &str, model: &str) -> bool {
    client.discover(Discover::intent(intent).model(model)).await.is_ok_and(|nodes| nodes.len() == 1)
}

#[tokio::test]
async fn other_models_are_registered_and_health_never_lacks_what_is_listed() {
    let mut quick = DirectoryOptions::loopback();
    quick.heartbeat_ms = 50;
    let directory = Directory::bind(quick.clone()).await.unwrap();
    let (url, port) = (directory.url(), directory.addr().port());
    let stub = StubBackend::start(models(&["llama3", "nomic-embed"])).await.unwrap();
    let node = serve(&stub, |options, _| options.directory.clone_from(&url)).await;
    let client = client(&url);
    assert!(
        node.is_registered()
            && listed(&client, CHAT, "llama3").await
            && listed(&client, EMBEDDING, "nomic-embed").await
    );
    stub.face().models = models(&["mistral", "nomic-embed"]).models;
    until("the directory lists the new model", async || listed(&client, CHAT, "mistral").await).await;
    until("health has it", async || health(&node).await["models"] == json!(["mistral", "nomic-embed"])).await;
    assert!(!listed(&client, CHAT, "llama3").await);
    // A list that is empty, or none, changes nothing.
    for none in [models(&[]), Face::default()] {
        *stub.face() = none;
        looked(&stub).await;
        assert_eq!(health(&node).await["models"], json!(["mistral", "nomic-embed"]));
    }
    // What the directory did not take yet, health does not show.
    directory.shutdown(Duration::from_secs(5)).await;
    *stub.face() = models(&["qwen"]);
    looked(&stub).await;
    assert_eq!(health(&node).await["models"], json!(["mistral", "nomic-embed"]));
    quick.port = port;
    let _directory = Directory::bind(quick).await.unwrap();
    until("the directory lists it", async || listed(&client, CHAT, "qwen").await).await;
    until("health follows", async || health(&node).await["models"] == json!(["qwen"])).await;
}

/// Waits until the server was asked for its models twice more: what it said before is known by then.
async fn looked(stub: &StubBackend) {
    let asked = || stub.log().requests.get("GET /v1/models").copied().unwrap_or_default();
    let before = asked();
    until("the server is asked again", async || asked() >= before + 2).await;
}

#[tokio::test]
async fn what_the_operator_named_is_what_is_offered() {
    let stub = StubBackend::start(models(&["llama3", "expensive"])).await.unwrap();
    let node = serve(&stub, |_, backend| backend.model = Some("llama3".into())).await;
    looked(&stub).await;
    assert_eq!(health(&node).await["models"], json!(["llama3"]));
    let asked = ask(&node, CHAT, json!({ "messages": [], "model": "expensive" }), json!({})).await;
    assert_eq!((asked.status, asked.json()["error"]["code"].as_str()), (404, Some("IICP-E029")), "{asked:?}");
    assert_eq!(ask(&node, CHAT, chat("a"), json!({ "model": "expensive" })).await.status, 404);
    assert_eq!(stub.log().started, 0, "nobody was asked at the operator's cost");
}

#[tokio::test]
async fn engines_are_told_apart_and_their_signals_are_read() {
    let state = async |face: Face, change: fn(&mut BackendOptions)| {
        let stub = StubBackend::start(face).await.unwrap();
        let node = serve(&stub, |_, backend| change(backend)).await;
        let state = health(&node).await["backend_stability"].clone();
        (state["backend_state"].as_str().unwrap().to_owned(), state["reason_class"].as_str().unwrap().to_owned())
    };
    let is = |state: &str, reason: &str| (state.to_owned(), reason.to_owned());
    let any = |_: &mut BackendOptions| ();
    let ollama = |loaded: &[&str]| Face { ollama: models(loaded).models, ..models(&["llama3:latest"]) };
    assert_eq!(state(ollama(&[]), any).await, is("degraded", "backend_cold"));
    assert_eq!(state(ollama(&["llama3:latest"]), any).await, is("ok", "ok"));
    let served_by = |server: &str, health| Face { server: server.into(), health, ..models(&["m"]) };
    assert_eq!(state(served_by("llama.cpp", 503), any).await, is("draining", "backend_loading"));
    assert_eq!(state(served_by("uvicorn", 500), any).await, is("draining", "backend_unstable"));
    assert_eq!(state(served_by("uvicorn", 200), any).await, is("ok", "ok"));
    assert_eq!(state(served_by("nginx", 503), any).await, is("ok", "ok"), "whose health nobody knows");
    let lmstudio = |state: &str| Face { lmstudio: Some(state.into()), ..models(&["m"]) };
    assert_eq!(state(lmstudio("loaded"), any).await, is("ok", "ok"));
    assert_eq!(state(lmstudio("loading"), any).await, is("draining", "backend_loading"));
    assert_eq!(state(lmstudio("error"), any).await, is("draining", "backend_unstable"));
    let llamacpp = |backend: &mut BackendOptions| backend.kind = BackendKind::Llamacpp;
    assert_eq!(state(served_by("", 503), llamacpp).await, is("draining", "backend_loading"));
    let page = Face { always: Some("html".into()), ..Face::default() };
    assert_eq!(state(page, any).await, is("degraded", "observer_error"));
    let no_list = Face::default();
    assert_eq!(state(no_list, any).await, is("ok", "ok"), "a server need not list its models");
}

#[tokio::test]
async fn a_server_that_lies_at_every_question_costs_the_start_a_few_seconds() {
    for trick in ["hang", "drip", "endless", "big", "reset", "cut", "status 500"] {
        let face = Face { always: Some(trick.into()), ..Face::default() };
        let stub = StubBackend::start(face).await.unwrap();
        let begun = Instant::now();
        let node = serve(&stub, |_, _| ()).await;
        assert!(begun.elapsed() < Duration::from_secs(18), "{trick}: {:?}", begun.elapsed());
        assert_eq!(health(&node).await["status"], "ok", "{trick}");
        *stub.face() = models(&["llama3"]);
        until("it is well again", async || health(&node).await["models"] == json!(["llama3"])).await;
    }
}
