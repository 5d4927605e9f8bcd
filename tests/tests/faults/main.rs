//! Lines that break or fall silent, and nodes that stop: whoever has asked learns what became of it, in time.

#![allow(clippy::unwrap_used)]

mod lines;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::stream;
use iicp_core::options::{ClientOptions, DirectoryOptions, NativeTransport, NodeOptions};
use iicp_core::types::Chunk;
use iicp_core::{CHAT, Client, Code, Directory, EMBEDDING, Handler, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::line::{Line, Silence};
use iicp_tests::stage_process::StageProcess;
use iicp_tests::{free_port, size};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A number that nobody foresees.
fn random() -> usize {
    use std::hash::{BuildHasher as _, Hasher as _};
    usize::try_from(std::collections::hash_map::RandomState::new().build_hasher().finish() >> 8).unwrap()
}

async fn directory() -> Directory {
    Directory::bind(DirectoryOptions::loopback()).await.unwrap()
}

fn client(directory: &str, change: impl FnOnce(&mut ClientOptions)) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    change(&mut options);
    Client::new(options).unwrap()
}

/// A node that is called over a line.
async fn lined(directory: &Directory, intent: &str, handler: impl Handler) -> (LiveNode, Line) {
    let port = free_port();
    let line = Line::start(([127, 0, 0, 1], port).into()).await.unwrap();
    let mut options = NodeOptions::default();
    (options.intents, options.directory) = (vec![intent.into()], directory.url());
    (options.port, options.max_concurrent) = (port, 256);
    options.endpoint = Some(format!("http://{}", line.addr()));
    (Node::bind(options).await.unwrap().serve(handler).await.unwrap(), line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn k11_connections_that_are_cut_at_random_cost_no_idempotent_task_and_run_no_other_twice() {
    const LANES: usize = 16;
    let lasting = size(Duration::from_secs(5), Duration::from_secs(120));
    let directory = directory().await;
    let runs: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let noted = runs.clone();
        let handler = move |task: Inbound| {
            *noted.lock().unwrap().entry(task.task_id.clone()).or_default() += 1;
            async move {
                tokio::time::sleep(Duration::from_millis(3)).await;
                Ok(Reply::from(task.payload))
            }
        };
        nodes.push(lined(&directory, EMBEDDING, handler).await);
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut lanes = JoinSet::new();
    // Half of them natively, where one connection carries many tasks.
    let ways = [NativeTransport::Auto, NativeTransport::Off].map(|way| client(&directory.url(), |o| o.native = way));
    for lane in 0..LANES {
        let (client, over) = (ways[lane % 2].clone(), over.clone());
        lanes.spawn(async move {
            let mut ends = HashMap::new();
            for n in 0.. {
                if over.load(SeqCst) {
                    break;
                }
                let (id, idempotent) = (format!("t-{lane}-{n}"), n % 2 == 0);
                let task = Task::new(EMBEDDING, json!({ "id": id })).task_id(&*id).idempotent(idempotent);
                let end = match client.submit(task.timeout(Duration::from_secs(10))).await {
                    Ok(done) => {
                        assert_eq!(done.result.json::<Value>().unwrap()["id"], *id, "nobody's but its own");
                        None
                    }
                    Err(error) => Some(error.code()),
                };
                ends.insert(id, (idempotent, end));
            }
            ends
        });
    }
    let (begun, mut cuts) = (Instant::now(), 0);
    while begun.elapsed() < lasting {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cuts += usize::from(nodes[random() % 2].1.cut(random()));
    }
    over.store(true, SeqCst);
    let (mut results, mut errors) = (0, HashMap::<Code, usize>::new());
    for ends in lanes.join_all().await {
        for (id, (idempotent, end)) in ends {
            let ran = runs.lock().unwrap().get(&id).copied().unwrap_or(0);
            match end {
                None => {
                    results += 1;
                    assert!(ran >= 1, "{id} has a result that nobody made");
                }
                Some(code) => {
                    assert!(!idempotent && code == Code::Lost, "{id} ended with {code}");
                    *errors.entry(code).or_default() += 1;
                }
            }
            assert!(idempotent || ran <= 1, "{id} ran {ran} times");
        }
    }
    println!("{cuts} connections were cut; {results} results, errors: {errors:?}");
    assert!(cuts > 20 && results > 100, "{cuts} cuts, {results} results");
}

/// Parts, one each 20 ms, counted as they are made.
fn counting(made: &Arc<AtomicUsize>, parts: usize) -> impl Handler + use<> {
    let made = made.clone();
    move |_: Inbound| {
        let made = made.clone();
        async move {
            Ok(Reply::stream(stream::unfold(0, move |n| {
                let made = made.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    made.fetch_add(1, SeqCst);
                    (n < parts).then(|| (Ok(Chunk::delta(format!("{n} "))), n + 1))
                }
            })))
        }
    }
}

const PARTS: usize = 100;
/// A native connection that is silent for so long is taken for gone, however patient its callers are; HTTP has no way to ask.
const GONE: Duration = Duration::from_secs(25);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn k10_a_stream_over_a_line_that_falls_silent_is_whole_or_says_that_it_is_not() {
    let pause = size(Duration::from_millis(1_500), Duration::from_secs(30));
    let both = Silence { to_server: true, to_callers: true };
    let mut all = JoinSet::new();
    for way in [NativeTransport::Auto, NativeTransport::Off] {
        for silence in [both, Silence { to_callers: false, ..both }, Silence { to_server: false, ..both }] {
            for patient in [true, false] {
                all.spawn(stream_through(way, silence, pause, patient));
            }
        }
    }
    assert_eq!(all.join_all().await.len(), 12);
}

/// A stream whose line falls silent for a while, for a caller who waits that long between parts or not.
async fn stream_through(way: NativeTransport, silence: Silence, pause: Duration, patient: bool) {
    let what = format!("{way:?}, {silence:?}, patient: {patient}");
    let (directory, made) = (directory().await, Arc::default());
    let (node, line) = lined(&directory, CHAT, counting(&made, PARTS)).await;
    let client = client(&directory.url(), |options| {
        let pause_ms = u64::try_from(pause.as_millis()).unwrap();
        options.native = way;
        options.idle_timeout_ms = if patient { pause_ms * 2 } else { pause_ms / 2 };
        options.timeout_ms = 90_000;
    });
    let mut parts = client.stream(Task::new(CHAT, json!({}))).await.unwrap();
    let mut heard = 0;
    let is_next = |part: Chunk, heard: &mut usize| {
        assert_eq!(part.text(), format!("{heard} "), "{what}");
        *heard += 1;
    };
    while heard < 10 {
        let part = timeout(pause * 2, parts.next()).await.unwrap().expect("it has only begun").unwrap();
        is_next(part, &mut heard);
    }
    line.set_silence(silence);
    let resumed = tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        line.set_silence(Silence::default());
        line
    });
    let error = loop {
        match timeout(pause * 4, parts.next()).await.unwrap_or_else(|_| panic!("{what}: it hangs")) {
            Some(Ok(part)) => is_next(part, &mut heard),
            Some(Err(error)) => break Some(error.code()),
            None => break None,
        }
    };
    match error {
        // What a caller does not hear of, it misses; what only the node does not hear of harms nobody.
        None => assert!(heard == PARTS && (patient || !silence.to_callers), "{what}: {heard} parts"),
        Some(code) => {
            let waits = patient && (way == NativeTransport::Off || pause < GONE);
            assert!(!waits && silence.to_callers && heard < PARTS, "{what}: {code} after {heard} parts");
            assert!(matches!(code, Code::Lost | Code::TaskTimeout), "{what}: {code}");
            assert!(parts.next().await.is_none(), "{what}: one end");
        }
    }
    drop(parts);
    let _line = resumed.await.unwrap();
    let idle = async {
        while node.active_jobs() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), idle).await.unwrap_or_else(|_| panic!("{what}: the handler still runs"));
}

/// A node in a process of its own that can be stopped, as SIGSTOP does.
struct Stopped {
    stage: StageProcess,
    pid: Pid,
}

impl Stopped {
    async fn start(directory: &str, node_id: &str) -> Stopped {
        let mut stage = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
        let node = json!({ "handler": { "slow": 200 }, "options": { "node_id": node_id, "max_concurrent": 256 } });
        stage.call(&json!({ "setup": { "directory": { "at": directory }, "nodes": [node] } })).await.unwrap();
        let pid = Pid::from_raw(i32::try_from(stage.id().unwrap()).unwrap()).unwrap();
        Stopped { stage, pid }
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn k3_a_node_that_is_stopped_holds_nobody_beyond_its_deadline_and_comes_back_as_it_was() {
    const DEADLINE: Duration = Duration::from_secs(2);
    for pause in size(vec![6], vec![10, 60]).into_iter().map(Duration::from_secs) {
        let directory = directory().await;
        let mut nodes =
            [Stopped::start(&directory.url(), "node-0").await, Stopped::start(&directory.url(), "node-1").await];
        let client = client(&directory.url(), |options| options.breaker_open_ms = 5_000);
        let send = &async |n: usize| {
            let (id, begun) = (format!("t-{n}"), Instant::now());
            let task =
                Task::new(CHAT, json!({ "id": id })).task_id(&*id).idempotent(n.is_multiple_of(2)).timeout(DEADLINE);
            let end = client.submit(task).await;
            let took = begun.elapsed();
            assert!(took < DEADLINE + Duration::from_secs(1), "{id} took {took:?}: {end:?}");
            end.map(|done| assert_eq!(done.result.json::<Value>().unwrap()["id"], *id, "no answer to another task"))
        };
        // Both are known, and used.
        let mut n = 0;
        for _ in 0..20 {
            send(n).await.unwrap();
            n += 1;
        }
        nodes[0].signal(Signal::STOP);
        let begun = Instant::now();
        let lanes = (0..4).map(|lane| async move {
            let mut ends = Vec::new();
            while begun.elapsed() < pause {
                ends.push(send(1_000 * (lane + 1) + ends.len()).await);
            }
            ends
        });
        let (mut results, mut late) = (0, HashMap::<Code, usize>::new());
        for end in futures_util::future::join_all(lanes).await.into_iter().flatten() {
            match end {
                Ok(()) => results += 1,
                Err(error) => *late.entry(error.code()).or_default() += 1,
            }
        }
        println!("{pause:?} without one of two nodes: {results} results, errors: {late:?}");
        assert!(results > 10, "the other serves all the while: {results} results, {late:?}");
        assert!(late.keys().all(|code| matches!(code, Code::Timeout | Code::Lost)), "{late:?}");
        nodes[0].signal(Signal::CONT);
        nodes[0]
            .stage
            .wait_for(json!({ "nodes": [{ "registered": true, "active_jobs": 0 }] }), Duration::from_secs(15))
            .await
            .unwrap();
        let before = nodes[0].stage.call(&json!({ "ledger": {} })).await.unwrap()["nodes"][0]["finished"].as_u64();
        let back = Instant::now();
        loop {
            send(n).await.unwrap();
            n += 1;
            let now = nodes[0].stage.call(&json!({ "ledger": {} })).await.unwrap()["nodes"][0]["finished"].as_u64();
            if now > before {
                break;
            }
            assert!(back.elapsed() < Duration::from_secs(15), "nobody comes back to it");
        }
        // What it did while nobody waited any more is no second run of a task that may run once.
        for node in &mut nodes {
            let ledger = node.stage.call(&json!({ "ledger": {} })).await.unwrap();
            assert_eq!(ledger["nodes"][0]["most_executions"], 1, "{ledger}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn k1_callers_of_a_killed_node_know_at_once_and_what_may_be_sent_again_is_done_elsewhere() {
    for round in 0..size(3, 100) {
        let directory = directory().await;
        let mut victim = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
        let options = json!({ "node_id": format!("victim-{round}"), "max_concurrent": 64 });
        let setup =
            json!({ "directory": { "at": directory.url() }, "nodes": [{ "handler": "hang", "options": options }] });
        victim.call(&json!({ "setup": setup })).await.unwrap();
        let client = client(&directory.url(), |options| options.timeout_ms = 60_000);
        let mut flying = JoinSet::new();
        for n in 0..32 {
            let client = client.clone();
            flying.spawn(async move {
                let task = Task::new(CHAT, json!({})).task_id(format!("t-{n}")).idempotent(n % 2 == 0);
                (n, client.submit(task).await.map(drop).map_err(|error| error.code()), Instant::now())
            });
        }
        victim.wait_for(json!({ "nodes": [{ "active_jobs": 32 }] }), Duration::from_secs(20)).await.unwrap();
        let mut other = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
        let options = json!({ "node_id": format!("other-{round}"), "max_concurrent": 64 });
        let setup =
            json!({ "directory": { "at": directory.url() }, "nodes": [{ "handler": "echo", "options": options }] });
        other.call(&json!({ "setup": setup })).await.unwrap();
        victim.kill().await.unwrap();
        let killed = Instant::now();
        for (n, end, at) in timeout(Duration::from_secs(30), flying.join_all()).await.expect("somebody hangs") {
            let took = at.duration_since(killed);
            assert_eq!(end, if n % 2 == 0 { Ok(()) } else { Err(Code::Lost) }, "task {n} after {took:?}");
            // What is promised is 50 ms, and a second for who is served elsewhere.
            assert!(took < Duration::from_secs(3), "task {n} after {took:?}");
        }
        let ledger = other.call(&json!({ "ledger": {} })).await.unwrap();
        assert_eq!(ledger["nodes"][0]["finished"], 16, "{ledger}");
    }
}
