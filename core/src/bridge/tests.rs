//! The seven invariants that every language layer stands on, and what is owed in a forked child.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Instant;

#[cfg(unix)]
use super::queue::tests::is_readable;
use super::*;

const LONG: Duration = Duration::from_secs(60);

fn bridge() -> Bridge {
    Bridge::new(RuntimeOptions::default()).unwrap()
}

fn small(max_events: usize, max_bytes: usize) -> QueueOptions {
    QueueOptions { max_events, max_bytes }
}

fn code<T>(result: Result<T>) -> Code {
    result.err().map_or(Code::Ok, |e| e.code())
}

fn next(bridge: &Bridge, queue: u64) -> Event {
    bridge.queue_next(queue, LONG).unwrap().expect("an event in time")
}

/// Everything up to and with the next `DONE`.
fn until_done(bridge: &Bridge, queue: u64) -> Vec<Event> {
    let mut events = vec![next(bridge, queue)];
    while events.last().is_some_and(|event| event.kind != EventKind::Done) {
        events.push(next(bridge, queue));
    }
    events
}

/// An operation that occupies a thread of the runtime until it is released.
struct Blocked {
    bridge: Bridge,
    id: u64,
    release: mpsc::Sender<()>,
}

impl Blocked {
    /// Starts it, and waits until it has the thread.
    fn start(bridge: &Bridge, queue: u64, tag: u64) -> Blocked {
        let seat = bridge.0.tables.queues.get(queue).unwrap().promise().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (entered, has_entered) = mpsc::channel();
        let verb = |op: &Arc<Op>| {
            let op = op.clone();
            async move {
                entered.send(()).unwrap();
                let _ = released.recv();
                op.chunk(String::new(), bytes::Bytes::new()).await?;
                Ok(Outcome::default())
            }
        };
        let id = bridge.launch(seat, tag, 0, verb).unwrap();
        has_entered.recv_timeout(LONG).unwrap();
        Blocked { bridge: bridge.clone(), id, release }
    }

    fn is_alive(&self) -> bool {
        self.bridge.0.tables.operations.get(self.id).is_ok()
    }
}

#[test]
fn invariant_1_an_operation_is_chunks_and_then_exactly_one_done() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let endings = [
        (r#"{"chunks": 3, "chunk_bytes": 5}"#, 3, Code::Ok),
        (r#"{"chunks": 2, "fail_code": 4001}"#, 2, Code::Connect),
        (r#"{"chunks": 3, "panic_after": 2}"#, 2, Code::Panic),
        (r#"{"panic_after": 0}"#, 0, Code::Panic),
    ];
    for (tag, (script, chunks, ending)) in (0_u64..).zip(endings) {
        let op = bridge.script(queue, script, tag).unwrap();
        let events = until_done(&bridge, queue);
        assert_eq!(events.len(), chunks + 1, "{script}");
        assert!(events.iter().all(|event| event.id == op && event.tag == tag));
        assert_eq!(events.last().unwrap().error.as_ref().map_or(Code::Ok, Error::code), ending, "{script}");
        for (number, chunk) in events[..chunks].iter().enumerate() {
            assert_eq!((chunk.kind, &*chunk.json), (EventKind::Chunk, &*format!(r#"{{"seq":{number}}}"#)));
        }
        assert_eq!(code(bridge.cancel(op)), Code::StaleId, "after its DONE");
    }
    assert!(bridge.queue_next(queue, Duration::ZERO).unwrap().is_none());
    assert_eq!(bridge.alive().unwrap(), Alive { queues: 1, ..Alive::default() });
}

#[test]
fn invariant_1_also_after_cancel_close_and_shutdown() {
    let bridge = bridge();
    let hang = |queue, tag| bridge.script(queue, r#"{"hang": true}"#, tag).unwrap();
    let ended = |queue, op, ending| {
        let events = until_done(&bridge, queue);
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].id, events[0].error.as_ref().map(Error::code)), (op, Some(ending)));
        assert_eq!(code(bridge.cancel(op)), if bridge.0.ended.get().is_some() { Code::Closed } else { Code::StaleId });
    };
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let op = hang(queue, 1);
    bridge.cancel(op).unwrap();
    ended(queue, op, Code::Cancelled);

    let op = hang(queue, 2);
    bridge.queue_close(queue).unwrap();
    assert_eq!(code(bridge.script(queue, "", 3)), Code::Closed);
    ended(queue, op, Code::Closed);
    assert_eq!(code(bridge.queue_next(queue, LONG)), Code::Closed);

    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let op = hang(queue, 4);
    assert!(bridge.shutdown(LONG).unwrap());
    ended(queue, op, Code::Closed);
    assert_eq!(code(bridge.queue_drain(queue, 1)), Code::Closed);
    assert!(bridge.shutdown(LONG).unwrap(), "a second call says the same");
}

#[test]
fn invariant_2_a_verb_neither_blocks_nor_calls_back() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let blocked = Blocked::start(&bridge, queue, 0);
    let rings = Arc::new(AtomicUsize::new(0));
    let counter = rings.clone();
    bridge.queue_on_wake(queue, Some(Arc::new(move || _ = counter.fetch_add(1, SeqCst)))).unwrap();
    // The runtime's only thread is busy: a verb that waited for it would not return.
    let ops: Vec<u64> = (1..=50).map(|tag| bridge.script(queue, "", tag).unwrap()).collect();
    bridge.cancel(ops[0]).unwrap();
    assert_eq!(rings.load(SeqCst), 0);
    assert!(bridge.queue_drain(queue, 256).unwrap().is_empty());
    drop(blocked.release);
    let done: usize = (0..51).map(|_| until_done(&bridge, queue).len()).sum();
    assert_eq!(done, 52, "51 DONEs and one CHUNK");
}

#[test]
fn invariant_3_only_chunks_wait_for_room_and_every_done_comes() {
    let bridge = bridge();
    let queue = bridge.queue_new(small(4, 1 << 20)).unwrap();
    let other = bridge.queue_new(QueueOptions::default()).unwrap();
    // No part comes before all are started.
    let blocked = Blocked::start(&bridge, other, 0);
    let streams: Vec<u64> = (0..3).map(|tag| bridge.script(queue, r#"{"chunks": 40}"#, tag).unwrap()).collect();
    assert_eq!(code(bridge.script(queue, "", 9)), Code::QueueFull);
    drop(blocked.release);
    let mut next_seq: HashMap<u64, u32> = streams.iter().map(|op| (*op, 0)).collect();
    while !next_seq.is_empty() {
        let event = next(&bridge, queue);
        let seq = next_seq.get_mut(&event.id).expect("an operation without DONE");
        if event.kind == EventKind::Chunk {
            assert_eq!(event.json, format!(r#"{{"seq":{seq}}}"#));
            *seq += 1;
        } else {
            assert_eq!((event.kind, *seq), (EventKind::Done, 40));
            next_seq.remove(&event.id);
        }
    }
    bridge.script(queue, "", 9).unwrap();
}

#[test]
fn invariant_3_a_stream_stops_while_a_megabyte_of_it_is_held_and_hinders_no_other() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let slow = bridge.script(queue, r#"{"chunks": 300, "chunk_bytes": 10000}"#, 1).unwrap();
    let mut held = Vec::new();
    while let Some(event) = bridge.queue_next(queue, Duration::from_millis(300)).unwrap() {
        assert_eq!((event.id, event.kind), (slow, EventKind::Chunk));
        held.push(event);
    }
    let bytes: usize = held.iter().map(Event::weight).sum();
    assert!((1_000_000..=1 << 20).contains(&bytes), "{bytes}");
    let other = bridge.script(queue, r#"{"chunks": 300, "chunk_bytes": 10000}"#, 2).unwrap();
    let mut count = 0;
    while next(&bridge, queue).kind == EventKind::Chunk {
        count += 1;
    }
    assert_eq!(count, 300, "all of {other:#x}");
    // A layer that copies keeps the hold alone.
    let mut holds: Vec<Hold> = held.drain(..).map(|mut event| event.hold().unwrap()).collect();
    assert!(bridge.queue_next(queue, Duration::ZERO).unwrap().is_none());
    let first = holds.len();
    holds.clear();
    let rest = (first..).take_while(|_| next(&bridge, queue).kind == EventKind::Chunk).count();
    assert_eq!(first + rest, 300);
    // Who holds parts holds up neither a cancel nor the end.
    let op = bridge.script(queue, r#"{"chunks": 300, "chunk_bytes": 10000}"#, 3).unwrap();
    let held: Vec<Event> = (0..50).map(|_| next(&bridge, queue)).collect();
    bridge.cancel(op).unwrap();
    let events = until_done(&bridge, queue);
    assert_eq!(events.last().unwrap().error.as_ref().map(Error::code), Some(Code::Cancelled));
    drop(held);
}

#[test]
fn invariant_4_a_stale_or_foreign_id_is_a_code_everywhere() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let client = bridge.client_new("").unwrap();
    let body = || bytes::Bytes::from_static(b"{}");
    let intent = r#"{"intent": "urn:iicp:intent:llm:chat:v1"}"#;
    let chat = r#"{"messages": [{"role": "user", "content": "hi"}]}"#;
    let serve = r#"{"intents": ["urn:iicp:intent:llm:chat:v1"]}"#;
    for stale in [0, 1, u64::MAX, queue ^ 1 << 32, client] {
        let calls = [
            bridge.queue_next(stale, Duration::ZERO).map(drop),
            bridge.queue_drain(stale, 1).map(drop),
            bridge.queue_fd(stale).map(drop),
            bridge.queue_on_wake(stale, None),
            bridge.queue_close(stale),
            bridge.queue_free(stale),
            bridge.script(stale, "", 0).map(drop),
            bridge.submit(client, stale, intent, body(), 0).map(drop),
            bridge.discover(client, stale, intent, 0).map(drop),
            bridge.chat(client, stale, chat, 0).map(drop),
            bridge.stream(client, stale, chat, bytes::Bytes::new(), 0).map(drop),
            bridge.node_serve(stale, serve, 0).map(drop),
            bridge.node_close(stale, queue, LONG, 0).map(drop),
            bridge.node_status(stale).map(drop),
            bridge.directory_bind(stale, "", 0).map(drop),
            bridge.directory_close(stale, queue, LONG, 0).map(drop),
            bridge.task_chunk(stale, "", body()),
            bridge.task_finish(stale, "", body()),
            bridge.task_fail(stale, 5004, ""),
            bridge.cancel(stale),
        ];
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(code(call), Code::StaleId, "call {number} with {stale:#x}");
        }
    }
    for stale in [0, queue, client ^ 1] {
        assert_eq!(code(bridge.client_close(stale)), Code::StaleId);
        assert_eq!(code(bridge.submit(stale, queue, intent, body(), 0)), Code::StaleId);
        assert_eq!(code(bridge.discover(stale, queue, intent, 0)), Code::StaleId);
        assert_eq!(code(bridge.chat(stale, queue, chat, 0)), Code::StaleId);
    }
    bridge.client_close(client).unwrap();
    assert_eq!(code(bridge.client_close(client)), Code::StaleId);
    bridge.queue_free(queue).unwrap();
    assert_eq!(code(bridge.queue_free(queue)), Code::StaleId);
    assert_eq!(bridge.alive().unwrap(), Alive::default());
}

#[test]
fn invariant_5_nobody_is_woken_after_shutdown_returned() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let blocked = Blocked::start(&bridge, queue, 7);
    let rings = Arc::new(AtomicUsize::new(0));
    let counter = rings.clone();
    bridge.queue_on_wake(queue, Some(Arc::new(move || _ = counter.fetch_add(1, SeqCst)))).unwrap();
    assert!(!bridge.shutdown(Duration::from_millis(10)).unwrap(), "one operation does not let go of its thread");
    let rung = rings.load(SeqCst);
    assert!(!blocked.is_alive());
    // What was stuck goes on now; it must reach nobody.
    drop(blocked.release);
    let events = until_done(&bridge, queue);
    assert_eq!((events.len(), events[0].tag), (1, 7));
    assert_eq!(code(bridge.queue_next(queue, LONG)), Code::Closed);
    drop(bridge);
    assert_eq!(rings.load(SeqCst), rung);
}

#[cfg(unix)]
#[test]
fn invariant_6_a_drain_is_capped_and_what_is_left_keeps_the_descriptor_readable() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    bridge.queue_fd(queue).unwrap();
    let rings = Arc::new(AtomicUsize::new(0));
    let counter = rings.clone();
    bridge.queue_on_wake(queue, Some(Arc::new(move || _ = counter.fetch_add(1, SeqCst)))).unwrap();
    let watched = bridge.0.tables.queues.get(queue).unwrap();
    assert!(!is_readable(&watched));
    for tag in 0..600 {
        bridge.script(queue, "", tag).unwrap();
    }
    while bridge.alive().unwrap().operations > 0 {
        std::thread::yield_now();
    }
    for (drained, left) in [(256, true), (256, true), (88, false)] {
        assert!(is_readable(&watched));
        let rung = rings.load(SeqCst);
        assert_eq!(bridge.queue_drain(queue, usize::MAX).unwrap().len(), drained);
        assert_eq!(is_readable(&watched), left);
        assert_eq!(rings.load(SeqCst) - rung, usize::from(left));
    }
}

#[test]
fn invariant_7_a_queue_is_bounded_in_bytes() {
    let bridge = bridge();
    let queue = bridge.queue_new(small(1 << 16, 4 << 10)).unwrap();
    for tag in 0..4 {
        bridge.script(queue, r#"{"chunks": 50, "chunk_bytes": 1000}"#, tag).unwrap();
    }
    let (mut done, mut chunks) = (0, 0);
    while done < 4 {
        let events = bridge.queue_drain(queue, usize::MAX).unwrap();
        let bytes: usize = events.iter().filter(|event| event.kind == EventKind::Chunk).map(Event::weight).sum();
        assert!(bytes <= 4 << 10, "{bytes} bytes waited");
        done += events.iter().filter(|event| event.kind == EventKind::Done).count();
        chunks += events.iter().filter(|event| event.kind == EventKind::Chunk).count();
        std::thread::yield_now();
    }
    assert_eq!(chunks, 200);
    let big = bridge.script(queue, r#"{"chunks": 1, "chunk_bytes": 100000}"#, 5).unwrap();
    let event = next(&bridge, queue);
    assert_eq!((event.id, event.body.len()), (big, 100_000), "alone it may pass");
}

/// A directory that answers a registration when it is told to, and says what it is asked.
fn slow_directory() -> (String, mpsc::Receiver<String>, mpsc::Sender<()>) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ((asked, is_asked), (go_on, goes_on)) = (mpsc::channel(), mpsc::channel::<()>());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut request) = (stream.unwrap(), Vec::new());
            let mut buffer = [0; 4 << 10];
            // One request on each connection; its body ends with a brace, or there is none.
            let is_whole = |request: &[u8]| {
                request.ends_with(b"}") || request.starts_with(b"DELETE") && request.ends_with(b"\r\n\r\n")
            };
            while !is_whole(&request) {
                match stream.read(&mut buffer).unwrap() {
                    0 => break,
                    n => request.extend_from_slice(&buffer[..n]),
                }
            }
            let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
            let is_registration = line.contains("/v1/register");
            if asked.send(line).is_err() || is_registration && goes_on.recv().is_err() {
                return;
            }
            let body = r#"{"node_id": "n-1", "node_token": "t-0123456789abcdef", "status": "registered"}"#;
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    (url, is_asked, go_on)
}

#[test]
fn a_node_whose_start_is_cancelled_leaves_the_directory_that_it_came_to() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let (directory, asked, go_on) = slow_directory();
    let options = format!(r#"{{"intents": ["{}"], "directory": "{directory}", "node_id": "n-1"}}"#, crate::types::CHAT);
    let start = bridge.node_serve(queue, &options, 7).unwrap();
    assert!(asked.recv_timeout(LONG).unwrap().starts_with("POST /v1/register "));
    bridge.cancel(start).unwrap();
    let done = next(&bridge, queue);
    assert_eq!((done.kind, done.tag, code(done.error.map_or(Ok(()), Err))), (EventKind::Done, 7, Code::Cancelled));
    go_on.send(()).unwrap();
    let next = asked.recv_timeout(LONG).unwrap();
    assert!(next.starts_with("DELETE ") || next.contains("deregister"), "{next}");
    assert!(bridge.shutdown(LONG).unwrap());
}

#[test]
fn no_node_is_left_of_a_start_that_is_cancelled_at_any_moment() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let options = format!(r#"{{"intents": ["{}"]}}"#, crate::types::CHAT);
    for tag in 0..64 {
        let start = bridge.node_serve(queue, &options, tag).unwrap();
        std::thread::sleep(Duration::from_micros(tag * 50));
        let _ = bridge.cancel(start);
        let done = next(&bridge, queue);
        assert_eq!((done.kind, done.tag), (EventKind::Done, tag));
        if done.error.is_none() {
            bridge.node_close(done.handle, queue, Duration::ZERO, tag).unwrap();
            assert_eq!(next(&bridge, queue).tag, tag);
        }
    }
    assert!(bridge.shutdown(LONG).unwrap(), "something is still there");
}

#[test]
fn ten_thousand_operations_with_random_cancels_end_once_each() {
    const OPS: u64 = 10_000;
    const STARTERS: u64 = 4;
    let options: RuntimeOptions = serde_json::from_str(r#"{"worker_threads": 2}"#).unwrap();
    let bridge = Bridge::new(options).unwrap();
    let queue = bridge.queue_new(small(256, 64 << 10)).unwrap();
    let scripts = [
        "",
        r#"{"chunks": 3, "chunk_bytes": 100}"#,
        r#"{"hang": true}"#,
        r#"{"chunks": 1, "hang": true}"#,
        r#"{"fail_code": 5004}"#,
    ];
    let start = |starter: u64| {
        let mut random = 0x9e37_79b9_7f4a_7c15 ^ (starter + 1);
        let mut ops = Vec::new();
        for number in 0..OPS / STARTERS {
            // xorshift
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            #[allow(clippy::cast_possible_truncation)]
            let script = scripts[random as usize % scripts.len()];
            let op = loop {
                match bridge.script(queue, script, starter << 32 | number) {
                    Ok(op) => break op,
                    Err(error) => assert_eq!(error.code(), Code::QueueFull),
                }
                std::thread::yield_now();
            };
            ops.push(op);
            // What hangs must be cancelled; of the others some are, at any moment of their lives.
            if script.contains("hang") || random & 0x300 == 0 {
                let cancelled = bridge.cancel(op);
                assert!(matches!(code(cancelled), Code::Ok | Code::StaleId));
            }
        }
        ops
    };
    let mut done: HashMap<u64, u64> = HashMap::new();
    let started = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..STARTERS).map(|starter| scope.spawn(move || start(starter))).collect();
        let mut chunks: HashMap<u64, u64> = HashMap::new();
        while done.len() < usize::try_from(OPS).unwrap() {
            let event = next(&bridge, queue);
            assert!(!done.contains_key(&event.id), "an event after the DONE of {:#x}", event.id);
            match event.kind {
                EventKind::Chunk => *chunks.entry(event.id).or_default() += 1,
                EventKind::Done => _ = done.insert(event.id, event.tag),
                kind => panic!("{kind:?}"),
            }
        }
        starters.into_iter().flat_map(|starter| starter.join().unwrap()).collect::<Vec<u64>>()
    });
    assert!(bridge.queue_next(queue, Duration::ZERO).unwrap().is_none());
    assert_eq!(started.len(), done.len(), "every operation that was started, and no other, is done");
    assert!(started.iter().all(|op| done.contains_key(op)));
    assert_eq!(bridge.alive().unwrap(), Alive { queues: 1, ..Alive::default() });
}

#[test]
fn a_doorbell_that_uses_the_bridge_is_told_so_instead_of_waiting_for_itself() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let (said, heard) = mpsc::channel();
    let inside = Arc::downgrade(&bridge.0);
    let doorbell = move || {
        let bridge = Bridge(inside.upgrade().expect("the bridge is alive"));
        let codes = [
            code(bridge.queue_drain(queue, 1)),
            code(bridge.queue_close(queue)),
            code(bridge.script(queue, "", 2)),
            code(bridge.shutdown(LONG)),
        ];
        said.send(codes).unwrap();
    };
    bridge.queue_on_wake(queue, Some(Arc::new(doorbell))).unwrap();
    bridge.script(queue, "", 1).unwrap();
    assert_eq!(heard.recv_timeout(LONG).unwrap(), [Code::InvalidArg; 4]);
    assert_eq!(next(&bridge, queue).tag, 1);
}

#[test]
fn in_a_forked_child_every_call_says_so_before_it_touches_a_lock() {
    let bridge = Bridge::on(Runtime::of_parent()).unwrap();
    // A lock that another thread held while the process forked is never free again.
    let tables = bridge.0.tables.clone();
    let held = Arc::new(Barrier::new(2));
    let (release, released) = mpsc::channel::<()>();
    let holder = std::thread::spawn({
        let held = held.clone();
        move || {
            let inside = || {
                held.wait();
                let _ = released.recv();
            };
            tables.queues.insert(|_| {
                inside();
                Queue::new(&QueueOptions::default())
            })
        }
    });
    held.wait();
    let calls = [
        bridge.queue_new(QueueOptions::default()).map(drop),
        bridge.queue_next(1, LONG).map(drop),
        bridge.queue_drain(1, 1).map(drop),
        bridge.queue_fd(1).map(drop),
        bridge.queue_on_wake(1, None),
        bridge.queue_close(1),
        bridge.queue_free(1),
        bridge.client_new("").map(drop),
        bridge.client_close(1),
        bridge.node_close(1, 1, LONG, 0).map(drop),
        bridge.directory_close(1, 1, LONG, 0).map(drop),
        bridge.task_fail(1, 5004, ""),
        bridge.cancel(1),
        bridge.alive().map(drop),
        bridge.shutdown(LONG).map(drop),
    ];
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(code(call), Code::Forked, "call {number}");
    }
    drop(bridge);
    drop(release);
    holder.join().unwrap().unwrap();
}

#[test]
fn shutdown_is_refused_on_a_thread_that_drives_futures() {
    let bridge = bridge();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let inside = bridge.clone();
    runtime.block_on(async move { assert_eq!(code(inside.shutdown(LONG)), Code::InvalidArg) });
    let begun = Instant::now();
    assert!(bridge.shutdown(LONG).unwrap());
    assert!(begun.elapsed() < LONG / 2, "nothing was left to wait for");
}

#[test]
fn arguments_are_judged_before_anything_starts() {
    let bridge = bridge();
    let queue = bridge.queue_new(QueueOptions::default()).unwrap();
    let client = bridge.client_new("").unwrap();
    let body = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
    let intent = r#"{"intent": "urn:iicp:intent:llm:chat:v1"}"#;
    assert_eq!(code(bridge.queue_new(small(1, 1))), Code::ConfigInvalid);
    assert_eq!(code(bridge.client_new(r#"{"directoy": ""}"#)), Code::ConfigInvalid);
    assert_eq!(code(bridge.client_new("{")), Code::ConfigInvalid);
    assert_eq!(code(bridge.submit(client, queue, r#"{"intent": "chat"}"#, body("{}"), 1)), Code::IntentInvalid);
    assert_eq!(code(bridge.submit(client, queue, intent, body("{"), 1)), Code::PayloadInvalid);
    assert_eq!(code(bridge.chat(client, queue, r#"{"messages": []}"#, 1)), Code::ConfigInvalid);
    for misplaced in [r#"{"messages": "secret"}"#, r#"{"messages": [{"role": "user", "content": ["secret"]}]}"#] {
        let error = bridge.chat(client, queue, misplaced, 1).unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(error.message().contains("expected") && !error.message().contains("secret"), "{error}");
    }
    assert_eq!(code(bridge.discover(client, queue, "", 1)), Code::IntentInvalid);
    assert_eq!(code(bridge.node_serve(queue, "", 1)), Code::ConfigInvalid);
    assert_eq!(bridge.alive().unwrap().operations, 0);
    assert!(bridge.queue_next(queue, Duration::ZERO).unwrap().is_none());
    // A client that is closed takes what it does with it.
    let seat = bridge.0.tables.queues.get(queue).unwrap().promise().unwrap();
    bridge.launch(seat, 5, client, |_| std::future::pending()).unwrap();
    bridge.client_close(client).unwrap();
    let done = next(&bridge, queue);
    assert_eq!((done.tag, done.error.unwrap().code()), (5, Code::Closed));
}
