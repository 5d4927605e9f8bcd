//! Streams through the bridge, as a language layer uses it: one queue, one loop, a node and a client over loopback.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use iicp_core::bridge::{Bridge, Event, EventKind};
use iicp_core::options::{QueueOptions, RuntimeOptions};
use iicp_core::{CHAT, Code, Error, Result};
use serde_json::{Value, json};

const LONG: Duration = Duration::from_secs(60);
/// Nothing comes any more when nothing has come for so long.
const QUIET: Duration = Duration::from_millis(300);

/// A directory, a node in it and a client of it, whose events come in two queues.
struct Host {
    bridge: Bridge,
    queue: u64,
    tasks: u64,
    client: u64,
}

impl Host {
    fn new() -> Host {
        let bridge = Bridge::new(RuntimeOptions::default()).unwrap();
        let queue = bridge.queue_new(QueueOptions::default()).unwrap();
        let tasks = bridge.queue_new(QueueOptions::default()).unwrap();
        let off = json!({ "probe": false, "limits": false, "qos_gating": false });
        bridge.directory_bind(queue, &off.to_string(), 9).unwrap();
        let url = json_of(&bridge.queue_next(queue, LONG).unwrap().unwrap())["url"].clone();
        bridge.node_serve(tasks, &json!({ "intents": [CHAT], "directory": url }).to_string(), 2).unwrap();
        let status = json_of(&bridge.queue_next(tasks, LONG).unwrap().unwrap());
        assert_eq!(status["registered"], true);
        let client = bridge.client_new(&json!({ "directory": url }).to_string()).unwrap();
        Host { bridge, queue, tasks, client }
    }

    fn next(&self) -> Event {
        self.bridge.queue_next(self.queue, LONG).unwrap().expect("an event in time")
    }

    /// What comes for the handler.
    fn inbound(&self, kind: EventKind) -> Event {
        let event = self.bridge.queue_next(self.tasks, LONG).unwrap().expect("an event in time");
        assert_eq!(event.kind, kind, "{event:?}");
        event
    }

    fn stream(&self) -> (u64, u64) {
        let ask = json!({ "messages": [{ "role": "user", "content": "count" }] }).to_string();
        let op = self.bridge.stream(self.client, self.queue, &ask, "".into(), 7).unwrap();
        (op, self.inbound(EventKind::Task).id)
    }

    fn chunk(&self, task: u64, text: &str) -> Result<()> {
        let part = json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
        self.bridge.task_chunk(task, "", part.to_string().into())
    }

    fn alive(&self) -> (usize, usize) {
        let alive = self.bridge.alive().unwrap();
        (alive.operations, alive.tasks)
    }
}

fn json_of(event: &Event) -> Value {
    assert!(event.error.is_none(), "{event:?}");
    serde_json::from_str(&event.json).unwrap()
}

fn ending(event: &Event) -> Code {
    event.error.as_ref().map_or(Code::Ok, Error::code)
}

fn code<T>(result: Result<T>) -> Code {
    result.err().map_or(Code::Ok, |e| e.code())
}

#[test]
fn parts_arrive_as_the_host_gives_them_and_then_one_done() {
    let host = Host::new();
    let (op, task) = host.stream();
    for (sequence, text) in (0..).zip(["Hello ", "world"]) {
        host.chunk(task, text).unwrap();
        let chunk = host.next();
        assert_eq!((chunk.kind, chunk.id, chunk.tag), (EventKind::Chunk, op, 7));
        let about = json_of(&chunk);
        assert_eq!((&about["sequence"], &about["text"]), (&json!(sequence), &json!(text)));
        assert!(about["task_id"].is_string() && about["node_id"].is_string(), "{about}");
        let part: Value = serde_json::from_slice(&chunk.body).unwrap();
        assert_eq!(part["choices"][0]["delta"]["content"], text);
    }
    let last = json!({
        "model": "m", "choices": [{ "delta": {}, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3 },
    });
    host.bridge.task_finish(task, r#"{"tokens_used": 3}"#, last.to_string().into()).unwrap();
    let chunk = json_of(&host.next());
    assert_eq!((&chunk["text"], &chunk["tokens_used"]), (&json!(""), &json!(3)));
    let done = host.next();
    assert_eq!((done.kind, done.id), (EventKind::Done, op));
    let about = json_of(&done);
    assert_eq!((&about["finish_reason"], &about["model"]), (&json!("stop"), &json!("m")));
    assert_eq!((&about["usage"]["total_tokens"], &about["tokens_used"]), (&json!(3), &json!(3)));
    assert_eq!((&about["attempts"], &about["sealed"]), (&json!(1), &json!(true)));
    assert_eq!(code(host.chunk(task, "late")), Code::StaleId);
    assert_eq!(host.alive(), (0, 0));
}

#[test]
fn an_end_without_a_part_tells_the_tokens() {
    let host = Host::new();
    let (_, task) = host.stream();
    host.bridge.task_chunk(task, r#"{"tokens_used": 1}"#, r#""one""#.into()).unwrap();
    assert_eq!(json_of(&host.next())["text"], "one");
    host.bridge.task_finish(task, r#"{"tokens_used": 9}"#, "".into()).unwrap();
    let done = host.next();
    assert_eq!((done.kind, &json_of(&done)["tokens_used"]), (EventKind::Done, &json!(9)));
    // A stream without any part, which an empty body announces.
    let (_, task) = host.stream();
    host.bridge.task_chunk(task, "", "".into()).unwrap();
    host.bridge.task_finish(task, "", "".into()).unwrap();
    assert_eq!(host.next().kind, EventKind::Done);
}

#[test]
fn a_host_is_stopped_after_a_megabyte_and_told_when_there_is_room() {
    let host = Host::new();
    let (_, task) = host.stream();
    let text = "x".repeat(64 << 10);
    // Whoever takes the parts holds them, so that all the buffers on the way fill up.
    let mut held = Vec::new();
    let mut given = 0;
    loop {
        match host.chunk(task, &text) {
            Ok(()) => given += 1,
            Err(error) => {
                assert_eq!(error.code(), Code::QueueFull);
                held.extend(std::iter::from_fn(|| host.bridge.queue_next(host.queue, QUIET).unwrap()));
                if host.bridge.queue_next(host.tasks, QUIET).unwrap().is_none() {
                    break;
                }
            }
        }
    }
    assert_eq!(held.len(), 7, "a megabyte, where each counts 64 KiB as a part and as a text");
    assert!(given < 16 << 4, "{given} parts of 64 KiB are under way");
    for _ in 0..3 {
        // One TASK_ROOM comes for any number of refusals.
        while host.chunk(task, &text).is_ok() {
            given += 1;
        }
    }
    let mut taken = held.len();
    held.clear();
    let mut room = 0;
    while taken < given {
        assert_eq!(host.next().kind, EventKind::Chunk);
        taken += 1;
    }
    while host.bridge.queue_next(host.tasks, QUIET).unwrap().is_some() {
        room += 1;
    }
    assert_eq!(room, 1);
    host.chunk(task, "again").unwrap();
    assert_eq!(json_of(&host.next())["text"], "again");
    host.bridge.task_finish(task, "", "".into()).unwrap();
    assert_eq!(host.next().kind, EventKind::Done);
}

#[test]
fn who_leaves_a_stream_stops_the_host() {
    let host = Host::new();
    let (op, task) = host.stream();
    host.chunk(task, "one").unwrap();
    assert_eq!(host.next().kind, EventKind::Chunk);
    host.bridge.cancel(op).unwrap();
    assert_eq!(ending(&host.next()), Code::Cancelled);
    assert_eq!(host.inbound(EventKind::TaskCancel).id, task);
    assert_eq!(code(host.chunk(task, "two")), Code::StaleId);
    assert_eq!(code(host.bridge.task_finish(task, "", "".into())), Code::StaleId);
    assert_eq!(host.alive(), (0, 0));
}

#[test]
fn a_stream_that_fails_in_the_middle_fails_its_operation() {
    let host = Host::new();
    type Fail<'a> = &'a dyn Fn(u64) -> Code;
    let failures: [(Fail<'_>, Code, Code); 4] = [
        (&|task| code(host.bridge.task_fail(task, Code::Backend.number(), "secret")), Code::Ok, Code::Backend),
        (&|task| code(host.bridge.task_fail(task, Code::TaskRejected.number(), "no")), Code::Ok, Code::TaskRejected),
        (&|task| code(host.bridge.task_chunk(task, "", "{".into())), Code::Handler, Code::Backend),
        (
            &|task| code(host.bridge.task_chunk(task, r#"{"tokens": 1}"#, "1".into())),
            Code::ConfigInvalid,
            Code::Backend,
        ),
    ];
    for (number, (fail, to_host, to_caller)) in failures.into_iter().enumerate() {
        let (_, task) = host.stream();
        host.chunk(task, "one").unwrap();
        assert_eq!(host.next().kind, EventKind::Chunk);
        assert_eq!(fail(task), to_host, "failure {number}");
        let done = host.next();
        assert_eq!((done.kind, ending(&done)), (EventKind::Done, to_caller), "failure {number}");
        assert!(!done.error.unwrap().message().contains("secret"));
        assert_eq!(code(host.chunk(task, "late")), Code::StaleId);
    }
    let (_, task) = host.stream();
    host.chunk(task, "one").unwrap();
    assert_eq!(host.next().kind, EventKind::Chunk);
    host.bridge.queue_close(host.tasks).unwrap();
    assert_eq!(host.inbound(EventKind::TaskCancel).id, task);
    assert_eq!(ending(&host.next()), Code::Backend, "the host left");
}

#[test]
fn a_caller_who_takes_no_parts_gets_them_together_and_one_who_does_takes_a_whole_answer_too() {
    let host = Host::new();
    let chat = json!({ "messages": [{ "role": "user", "content": "hi" }] }).to_string();
    host.bridge.chat(host.client, host.queue, &chat, 1).unwrap();
    let task = host.inbound(EventKind::Task);
    assert_eq!(json_of(&task)["takes_events"], false);
    host.chunk(task.id, "Hello ").unwrap();
    host.chunk(task.id, "world").unwrap();
    host.bridge.task_finish(task.id, "", "".into()).unwrap();
    assert_eq!(json_of(&host.next())["text"], "Hello world");

    let options = json!({ "intent": CHAT }).to_string();
    host.bridge.stream(host.client, host.queue, &options, "{}".into(), 1).unwrap();
    let task = host.inbound(EventKind::Task);
    assert_eq!(json_of(&task)["takes_events"], true);
    host.bridge.task_finish(task.id, "", r#"{"n": 1}"#.into()).unwrap();
    let chunk = host.next();
    assert_eq!((chunk.kind, &chunk.body[..]), (EventKind::Chunk, &br#"{"n": 1}"#[..]));
    assert_eq!(host.next().kind, EventKind::Done);
}
