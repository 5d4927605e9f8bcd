//! The bridge as a language layer uses it: one queue, one loop, a directory, a node and a client over loopback.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use iicp_core::bridge::{Alive, Bridge, Event, EventKind};
use iicp_core::options::{QueueOptions, RuntimeOptions};
use iicp_core::{CHAT, Code, Error, Result};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);
const CLIENT: u64 = 1;
const NODE: u64 = 2;

/// A host's loop: takes events as they come, and keeps those that nobody asked for yet.
struct Host {
    bridge: Bridge,
    queue: u64,
    kept: Vec<Event>,
}

impl Host {
    fn new() -> Host {
        Host::with(QueueOptions::default())
    }

    fn with(options: QueueOptions) -> Host {
        let bridge = Bridge::new(RuntimeOptions::default()).unwrap();
        let queue = bridge.queue_new(options).unwrap();
        Host { bridge, queue, kept: Vec::new() }
    }

    fn find(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            if let Some(at) = self.kept.iter().position(&wanted) {
                return self.kept.remove(at);
            }
            let event = self.bridge.queue_next(self.queue, LONG).unwrap().expect("the event in time");
            self.kept.push(event);
        }
    }

    fn done(&mut self, op: u64) -> Event {
        self.find(|event| event.kind == EventKind::Done && event.id == op)
    }

    fn task(&mut self) -> Event {
        self.find(|event| event.kind == EventKind::Task)
    }

    fn withdrawn(&mut self, task: u64) -> Event {
        self.find(|event| event.kind == EventKind::TaskCancel && event.id == task)
    }

    /// Takes what is there and expects it to be nothing.
    fn expect_nothing(&self) {
        assert!(self.kept.is_empty(), "{:?}", self.kept);
        let left = self.bridge.queue_drain(self.queue, 256).unwrap();
        assert!(left.is_empty(), "{left:?}");
    }

    fn directory(&mut self) -> (u64, String) {
        let off = json!({ "probe": false, "limits": false, "qos_gating": false });
        let op = self.bridge.directory_bind(self.queue, &off.to_string(), 9).unwrap();
        let done = ok(self.done(op));
        (done.handle, text(&json_of(&done)["url"]))
    }

    fn node(&mut self, mut options: Value) -> (u64, Value) {
        options["intents"] = json!([CHAT]);
        let op = self.bridge.node_serve(self.queue, &options.to_string(), NODE).unwrap();
        let done = ok(self.done(op));
        (done.handle, json_of(&done))
    }

    /// A directory, a node in it and a client of it.
    fn mesh(&mut self, options: Value) -> Mesh {
        let (directory, url) = self.directory();
        let mut options = options;
        options["directory"] = url.clone().into();
        let (node, status) = self.node(options);
        assert_eq!(status["registered"], true);
        let client = self.bridge.client_new(&json!({ "directory": url }).to_string()).unwrap();
        Mesh { directory, node, status, client }
    }

    fn submit(&self, client: u64, timeout_ms: u64) -> u64 {
        let task = json!({ "intent": CHAT, "timeout_ms": timeout_ms });
        let body = json!({ "n": 1 }).to_string();
        self.bridge.submit(client, self.queue, &task.to_string(), body.into(), CLIENT).unwrap()
    }

    fn finish(&self, task: u64, result: &str) -> Result<()> {
        self.bridge.task_finish(task, "", result.to_owned().into())
    }
}

struct Mesh {
    directory: u64,
    node: u64,
    status: Value,
    client: u64,
}

fn ok(event: Event) -> Event {
    assert!(event.error.is_none(), "{event:?}");
    event
}

fn ending(event: &Event) -> Code {
    event.error.as_ref().map_or(Code::Ok, Error::code)
}

fn code<T>(result: Result<T>) -> Code {
    result.err().map_or(Code::Ok, |e| e.code())
}

fn json_of(event: &Event) -> Value {
    serde_json::from_str(&event.json).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn a_task_goes_through_one_queue_from_submit_to_done() {
    let mut host = Host::new();
    let mesh = host.mesh(json!({}));
    let (queue, client) = (host.queue, mesh.client);

    let op = host.bridge.discover(client, queue, &json!({ "intent": CHAT }).to_string(), CLIENT).unwrap();
    let nodes = json_of(&ok(host.done(op)));
    assert_eq!(nodes[0]["node_id"], mesh.status["node_id"]);

    let options = json!({ "intent": CHAT, "task_id": "t-1", "qos": "batch", "source_node_id": "me" });
    let op = host.bridge.submit(client, queue, &options.to_string(), r#"{"n": 1}"#.into(), CLIENT).unwrap();
    let task = host.task();
    let about = json_of(&task);
    assert_eq!((task.tag, &task.body[..]), (NODE, &b"{\"n\": 1}"[..]));
    assert_eq!((&about["task_id"], &about["intent"], &about["qos"]), (&"t-1".into(), &CHAT.into(), &"batch".into()));
    assert_eq!((&about["source_node_id"], &about["node"]), (&"me".into(), &mesh.status["node_id"]));
    assert!((1..=30_000).contains(&about["deadline_ms"].as_u64().unwrap()), "{about}");
    assert!(text(&about["peer"]).starts_with("127.0.0.1:"));
    assert_eq!(host.bridge.alive().unwrap().tasks, 1);
    host.bridge.task_finish(task.id, r#"{"tokens_used": 12}"#, r#"{"m": 2}"#.into()).unwrap();
    let done = ok(host.done(op));
    let finished = json_of(&done);
    assert_eq!((done.tag, &done.body[..]), (CLIENT, &b"{\"m\": 2}"[..]));
    assert_eq!((&finished["task_id"], &finished["attempts"]), (&"t-1".into(), &1.into()));
    assert_eq!((&finished["node_id"], &finished["traceparent"]), (&mesh.status["node_id"], &about["traceparent"]));
    assert!(finished["timings_ms"]["total"].as_f64().unwrap() >= finished["timings_ms"]["discover"].as_f64().unwrap());

    let chat = json!({ "messages": [{ "role": "user", "content": "hi" }] });
    let op = host.bridge.chat(client, queue, &chat.to_string(), CLIENT).unwrap();
    let task = host.task();
    host.finish(task.id, r#"{"choices": [{"message": {"content": "hello"}}], "model": "m"}"#).unwrap();
    let chatted = json_of(&ok(host.done(op)));
    assert_eq!((&chatted["text"], &chatted["model"], &chatted["usage"]), (&"hello".into(), &"m".into(), &Value::Null));
    assert_eq!(chatted["node_id"], mesh.status["node_id"]);

    assert_eq!(serde_json::from_str::<Value>(&host.bridge.node_status(mesh.node).unwrap()).unwrap(), mesh.status);
    let op = host.bridge.node_close(mesh.node, queue, LONG, 3).unwrap();
    assert_eq!(code(host.bridge.node_close(mesh.node, queue, LONG, 3)), Code::StaleId, "closed twice");
    assert_eq!(json_of(&ok(host.done(op))), json!({ "in_time": true }));
    let op = host.bridge.directory_close(mesh.directory, queue, LONG, 4).unwrap();
    assert_eq!(json_of(&ok(host.done(op))), json!({ "in_time": true }));
    host.bridge.client_close(client).unwrap();
    host.expect_nothing();
    host.bridge.queue_free(queue).unwrap();
    assert_eq!(host.bridge.alive().unwrap(), Alive::default());
}

#[test]
fn a_cancelled_call_withdraws_its_task_at_the_far_end() {
    let mut host = Host::new();
    let mesh = host.mesh(json!({ "max_concurrent": 1 }));
    for _ in 0..20 {
        let op = host.submit(mesh.client, 60_000);
        let task = host.task();
        host.bridge.cancel(op).unwrap();
        assert_eq!(ending(&host.done(op)), Code::Cancelled);
        assert_eq!(host.withdrawn(task.id).tag, NODE);
        assert_eq!(code(host.finish(task.id, "1")), Code::StaleId, "an answer that nobody waits for");
        assert_eq!(code(host.bridge.task_fail(task.id, 5004, "")), Code::StaleId);
    }
    host.expect_nothing();
    assert_eq!(host.bridge.alive().unwrap().tasks, 0);
}

#[test]
fn a_host_that_never_answers_costs_a_task_and_no_slot() {
    let mut host = Host::new();
    let mesh = host.mesh(json!({ "max_concurrent": 1 }));
    for _ in 0..2 {
        let op = host.submit(mesh.client, 300);
        let task = host.task();
        assert!(matches!(ending(&host.done(op)), Code::TaskTimeout | Code::Timeout));
        host.withdrawn(task.id);
    }
    let op = host.submit(mesh.client, 60_000);
    let task = host.task();
    host.finish(task.id, "true").unwrap();
    assert_eq!(&ok(host.done(op)).body[..], b"true");
    host.expect_nothing();
}

#[test]
fn what_the_host_answers_is_judged_and_the_caller_is_told_at_once() {
    let mut host = Host::new();
    let mesh = host.mesh(json!({}));
    let bridge = host.bridge.clone();
    type Answer<'a> = &'a dyn Fn(u64) -> Code;
    let answers: [(Answer<'_>, Code, Code); 6] = [
        (&|task| code(bridge.task_finish(task, "", "not json".into())), Code::Handler, Code::Backend),
        (&|task| code(bridge.task_finish(task, r#"{"tokens": 1}"#, "1".into())), Code::ConfigInvalid, Code::Backend),
        (&|task| code(bridge.task_fail(task, Code::Backend.number(), "secret")), Code::Ok, Code::Backend),
        (&|task| code(bridge.task_fail(task, Code::TaskRejected.number(), "too long")), Code::Ok, Code::TaskRejected),
        (&|task| code(bridge.task_fail(task, 0, "")), Code::InvalidArg, Code::Backend),
        (&|task| code(bridge.task_fail(task, 12, "")), Code::InvalidArg, Code::Backend),
    ];
    for (number, (answer, to_host, to_caller)) in answers.into_iter().enumerate() {
        let op = host.submit(mesh.client, 60_000);
        let task = host.task();
        assert_eq!(answer(task.id), to_host, "answer {number}");
        let error = host.done(op).error.expect("a failure");
        assert_eq!(error.code(), to_caller, "answer {number}: {error}");
        assert!(!error.message().contains("secret"), "{error}");
        assert!(to_caller != Code::TaskRejected || error.message().contains("too long"), "{error}");
        assert_eq!(code(host.finish(task.id, "1")), Code::StaleId, "answered twice");
    }
    host.expect_nothing();
}

#[test]
fn tasks_wait_for_room_no_longer_than_their_deadline() {
    let mut host = Host::with(serde_json::from_str(r#"{"max_events": 4}"#).unwrap());
    let (node, status) = host.node(json!({ "max_concurrent": 8 }));
    let url = text(&status["url"]);
    // A task takes a slot and promises another for its cancellation: two fill the queue.
    let post = |id: &str, timeout_ms: u64| {
        let body = json!({
            "task_id": id, "intent": CHAT, "payload": {}, "constraints": { "timeout_ms": timeout_ms },
        });
        post(&url, &body.to_string())
    };
    let (one, two) = (post("one", 60_000), post("two", 60_000));
    while host.bridge.alive().unwrap().tasks < 2 {
        std::thread::yield_now();
    }
    let late = post("late", 100);
    let status_of = |answer: std::thread::JoinHandle<String>| text(&answer.join().unwrap().as_str().into());
    assert!(status_of(late).starts_with("HTTP/1.1 504 "), "its time was over while the queue was full");
    let mut answered = Vec::new();
    for _ in 0..2 {
        let task = host.task();
        answered.push(text(&json_of(&task)["task_id"]));
        host.finish(task.id, "1").unwrap();
    }
    answered.sort_unstable();
    assert_eq!(answered, ["one", "two"]);
    assert!(status_of(one).starts_with("HTTP/1.1 200 ") && status_of(two).starts_with("HTTP/1.1 200 "));
    let op = host.bridge.node_close(node, host.queue, LONG, 3).unwrap();
    ok(host.done(op));
    host.expect_nothing();
}

/// Posts a task on a thread of its own, without a client that would send it again.
fn post(url: &str, body: &str) -> std::thread::JoinHandle<String> {
    use std::io::{Read as _, Write as _};

    let addr = url.strip_prefix("http://").unwrap().to_owned();
    let request = format!(
        "POST /v1/task HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

#[test]
fn a_handler_may_close_its_own_node() {
    let mut host = Host::new();
    let mesh = host.mesh(json!({}));
    let op = host.submit(mesh.client, 60_000);
    let task = host.task();
    let closing = host.bridge.node_close(mesh.node, host.queue, Duration::ZERO, 3).unwrap();
    assert_eq!(json_of(&ok(host.done(closing))), json!({ "in_time": false }));
    host.withdrawn(task.id);
    assert_eq!(ending(&host.done(op)), Code::Lost, "the task may have run");
    assert_eq!(code(host.bridge.node_status(mesh.node)), Code::StaleId);
    host.expect_nothing();
}

#[test]
fn a_closed_queue_takes_its_nodes_along_and_they_leave_the_directory() {
    let mut host = Host::new();
    let mesh = host.mesh(json!({}));
    // The client's events are in a queue of their own.
    let theirs = host.bridge.queue_new(QueueOptions::default()).unwrap();
    let task = json!({ "intent": CHAT }).to_string();
    let op = host.bridge.submit(mesh.client, theirs, &task, "{}".into(), CLIENT).unwrap();
    let task = host.task();
    host.bridge.queue_close(host.queue).unwrap();
    assert_eq!(host.withdrawn(task.id).id, task.id);
    assert_eq!(code(host.bridge.queue_next(host.queue, LONG)), Code::Closed);
    let done = host.bridge.queue_next(theirs, LONG).unwrap().unwrap();
    assert_eq!((done.id, ending(&done)), (op, Code::Backend), "what was withdrawn may have run");
    let query = json!({ "intent": CHAT }).to_string();
    let mut left = false;
    while !left {
        host.bridge.discover(mesh.client, theirs, &query, CLIENT).unwrap();
        let done = ok(host.bridge.queue_next(theirs, LONG).unwrap().expect("an answer in time"));
        left = json_of(&done) == json!([]);
    }
    assert_eq!(host.bridge.alive().unwrap(), {
        let mut alive = Alive::default();
        (alive.queues, alive.clients, alive.directories) = (2, 1, 1);
        alive
    });
}

#[test]
fn shutdown_ends_calls_tasks_nodes_and_directories_once_each() {
    let mut host = Host::new();
    let mesh = host.mesh(json!({ "max_concurrent": 4 }));
    let ops: Vec<u64> = (0..8).map(|_| host.submit(mesh.client, 60_000)).collect();
    let tasks: Vec<u64> = (0..4).map(|_| host.task().id).collect();
    assert!(host.bridge.shutdown(LONG).unwrap(), "nothing waited for the host");
    let mut done = Vec::new();
    let mut withdrawn = Vec::new();
    for event in host.kept.drain(..) {
        assert_eq!(event.kind, EventKind::Done);
        done.push(event.id);
    }
    while let Ok(Some(event)) = host.bridge.queue_next(host.queue, LONG) {
        match event.kind {
            EventKind::Done => done.push(event.id),
            EventKind::TaskCancel => withdrawn.push(event.id),
            kind => panic!("{kind:?}"),
        }
    }
    let sorted = |mut ids: Vec<u64>| {
        ids.sort_unstable();
        ids
    };
    assert_eq!(sorted(done), sorted(ops));
    assert_eq!(sorted(withdrawn), sorted(tasks.clone()));
    assert_eq!(code(host.bridge.queue_next(host.queue, LONG)), Code::Closed);
    for call in [
        host.bridge.client_new("").map(drop),
        host.bridge.queue_new(QueueOptions::default()).map(drop),
        host.bridge.node_status(mesh.node).map(drop),
        host.finish(tasks[0], "1"),
        host.bridge.cancel(1),
    ] {
        assert_eq!(code(call), Code::Closed);
    }
    host.bridge.queue_free(host.queue).unwrap();
    assert_eq!(host.bridge.alive().unwrap(), Alive::default());
}

#[test]
fn cancelling_what_is_being_made_leaves_nothing_behind() {
    let mut host = Host::new();
    for _ in 0..50 {
        let op = host.bridge.directory_bind(host.queue, "", 0).unwrap();
        let cancelled = code(host.bridge.cancel(op));
        let done = host.done(op);
        match ending(&done) {
            Code::Ok => {
                let op = host.bridge.directory_close(done.handle, host.queue, LONG, 0).unwrap();
                ok(host.done(op));
            }
            ending => assert_eq!((ending, cancelled), (Code::Cancelled, Code::Ok)),
        }
    }
    host.bridge.queue_free(host.queue).unwrap();
    assert_eq!(host.bridge.alive().unwrap(), Alive::default());
}

/// An inference server that answers every request in turn, on a connection each, and tells what it was asked.
fn inference_server() -> (String, std::sync::mpsc::Receiver<String>) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (say, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut read, mut buf) = (stream.unwrap(), Vec::new(), [0; 4096]);
            let request = loop {
                let n = stream.read(&mut buf).unwrap();
                read.extend_from_slice(&buf[..n]);
                let text = String::from_utf8_lossy(&read).into_owned();
                let end = if text.starts_with("POST") { "}" } else { "\r\n\r\n" };
                if n == 0 || text.ends_with(end) {
                    break text;
                }
            };
            let body = match request.starts_with("POST") {
                true => json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": "hi" } }] }),
                false => json!({ "data": [{ "id": "m-1" }] }),
            };
            let (body, close) = (body.to_string(), "content-type: application/json\r\nconnection: close");
            let answer = format!("HTTP/1.1 200 OK\r\n{close}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).unwrap();
            if say.send(request).is_err() {
                return;
            }
        }
    });
    (url, hear)
}

#[test]
fn a_node_with_a_backend_asks_nothing_of_the_host() {
    let mut host = Host::new();
    let (server, asked) = inference_server();
    let (_directory, url) = host.directory();
    let (node, status) = host.node(json!({ "directory": url, "backend": { "url": server, "kind": "vllm" } }));
    assert_eq!(status["registered"], true);
    let client = host.bridge.client_new(&json!({ "directory": url }).to_string()).unwrap();
    let chat = json!({ "messages": [{ "role": "user", "content": "hello" }] });
    let op = host.bridge.chat(client, host.queue, &chat.to_string(), CLIENT).unwrap();
    let done = ok(host.done(op));
    assert_eq!(json_of(&done)["text"], "hi");
    host.expect_nothing();
    let task = std::iter::from_fn(|| asked.recv_timeout(LONG).ok()).find(|asked| asked.starts_with("POST")).unwrap();
    assert!(task.starts_with("POST /v1/chat/completions") && task.contains("\"model\":\"m-1\""), "{task}");
    let op = host.bridge.node_close(node, host.queue, LONG, NODE).unwrap();
    ok(host.done(op));
    host.bridge.client_close(client).unwrap();
    let bad = json!({ "backend": { "url": "ftp://x" } }).to_string();
    assert_eq!(host.bridge.node_serve(host.queue, &bad, NODE).unwrap_err().code(), Code::ConfigInvalid);
}
