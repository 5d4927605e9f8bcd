//! A client that sends tasks natively: only where that is proven, never losing one over it, and never mixing them up.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ciborium::Value as Cbor;
use iicp_core::options::{ClientOptions, DirectoryOptions, Discover, NativeTransport, NodeOptions, PolicyProfile};
use iicp_core::{CHAT, Client, Code, Directory, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::free_port;
use iicp_tests::http::{Conn, addr};
use iicp_tests::native::{CALLS, Frame, Native, frame, kind, map};
use iicp_tests::tap::Tap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

type Runs = Arc<Mutex<BTreeMap<String, u64>>>;

struct Tell(Arc<Notify>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A node that returns the payload, behind a tap, with its directory. It hangs on `{"hang": true}` until its caller goes.
struct Mesh {
    directory: Directory,
    node: LiveNode,
    tap: Tap,
    runs: Runs,
    dropped: Arc<Notify>,
}

async fn mesh(change: impl FnOnce(&mut NodeOptions)) -> Mesh {
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let port = free_port();
    let tap = Tap::start(0, port).await.unwrap();
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = directory.url();
    options.port = port;
    options.endpoint = Some(format!("http://{}", tap.addr()));
    options.max_concurrent = 200;
    change(&mut options);
    let (runs, dropped) = (Runs::default(), Arc::new(Notify::new()));
    let (noted, tell) = (runs.clone(), dropped.clone());
    let handler = move |task: Inbound| {
        *noted.lock().unwrap().entry(task.task_id.clone()).or_default() += 1;
        let tell = tell.clone();
        async move {
            if task.json::<Value>()?["hang"] == true {
                let _tell = Tell(tell);
                std::future::pending::<()>().await;
            }
            Ok(Reply::from(task.payload))
        }
    };
    let node = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
    Mesh { directory, node, tap, runs, dropped }
}

fn client(directory: &str, change: impl FnOnce(&mut ClientOptions)) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.into();
    change(&mut options);
    Client::new(options).unwrap()
}

/// How many tasks the tap has heard since it was asked: over HTTP, and native.
fn heard(tap: &Tap) -> (usize, usize) {
    let heard = tap.take();
    (heard.matches("POST /v1/task").count(), heard.matches("IICP\u{1}\u{5}").count())
}

#[tokio::test]
async fn tasks_go_natively_where_the_node_takes_them_so_and_over_http_where_one_side_does_not_want_it() {
    let mesh = mesh(|_| {}).await;
    let ours = client(&mesh.directory.url(), |_| {});
    let nodes = ours.discover(Discover::intent(CHAT)).await.unwrap();
    let expected = format!("iicp://{}", mesh.tap.addr());
    assert_eq!(nodes[0].transport_endpoint.as_deref(), Some(&*expected));
    let _ = mesh.tap.take();
    for n in 0..5 {
        let done = soon("a result", ours.submit(Task::new(CHAT, json!({ "n": n })))).await.unwrap();
        assert_eq!(done.result.json::<Value>().unwrap(), json!({ "n": n }));
    }
    assert_eq!(heard(&mesh.tap), (0, 5));
    let without = client(&mesh.directory.url(), |options| options.native = NativeTransport::Off);
    soon("a result", without.submit(Task::new(CHAT, json!({})))).await.unwrap();
    assert_eq!(heard(&mesh.tap), (1, 0));

    let other = self::mesh(|options| options.native = NativeTransport::Off).await;
    let ours = client(&other.directory.url(), |_| {});
    assert_eq!(ours.discover(Discover::intent(CHAT)).await.unwrap()[0].transport_endpoint, None);
    let _ = other.tap.take();
    soon("a result", ours.submit(Task::new(CHAT, json!({})))).await.unwrap();
    assert_eq!(heard(&other.tap), (1, 0));
}

#[tokio::test]
async fn what_is_sent_natively_is_sealed_as_over_http() {
    let mesh = mesh(|_| {}).await;
    let ours = client(&mesh.directory.url(), |_| {});
    let _ = mesh.tap.take();
    let done = soon("a result", ours.submit(Task::new(CHAT, json!({ "words": "nobody else shall read this" }))))
        .await
        .unwrap();
    assert_eq!(done.result.json::<Value>().unwrap()["words"], "nobody else shall read this");
    let wire = mesh.tap.take();
    assert!(wire.contains("IICP\u{1}\u{5}") && wire.contains("iicp_conf"), "{wire}");
    assert!(!wire.contains("nobody else"), "{wire}");
}

#[tokio::test]
async fn a_thousand_calls_on_one_connection_each_get_their_own_answer() {
    let mesh = mesh(|options| options.max_concurrent = 256).await;
    let ours = client(&mesh.directory.url(), |options| options.timeout_ms = 60_000);
    soon("the first", ours.submit(Task::new(CHAT, json!({})))).await.unwrap();
    heard(&mesh.tap);
    let mut calls = JoinSet::new();
    for worker in 0..50_u64 {
        let ours = ours.clone();
        calls.spawn(async move {
            for n in 0..20_u64 {
                let payload =
                    json!({ "n": worker * 1000 + n, "filling": "x".repeat(usize::try_from(n * n * 200).unwrap()) });
                let done = ours.submit(Task::new(CHAT, payload.clone())).await.unwrap();
                assert_eq!(done.result.json::<Value>().unwrap(), payload);
            }
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    let (http, native) = heard(&mesh.tap);
    assert!(http == 0 && native >= 1000, "{http} over HTTP, {native} native");
    assert!(mesh.runs.lock().unwrap().values().all(|runs| *runs == 1), "one of them ran twice");
}

#[tokio::test]
async fn leaving_a_call_stops_its_handler_and_no_other() {
    let mesh = mesh(|_| {}).await;
    let ours = client(&mesh.directory.url(), |_| {});
    soon("the first", ours.submit(Task::new(CHAT, json!({})))).await.unwrap();
    let stays = tokio::spawn({
        let ours = ours.clone();
        async move { ours.submit(Task::new(CHAT, json!({ "hang": true })).timeout(Duration::from_secs(2))).await }
    });
    let leaves = ours.submit(Task::new(CHAT, json!({ "hang": true })));
    assert!(tokio::time::timeout(Duration::from_millis(500), leaves).await.is_err());
    soon("the handler's end", mesh.dropped.notified()).await;
    soon("the other is alone", async {
        while mesh.node.active_jobs() != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    soon("a result beside it", ours.submit(Task::new(CHAT, json!({})))).await.unwrap();
    let error = soon("its own end", stays).await.unwrap().unwrap_err();
    assert!(matches!(error.code(), Code::TaskTimeout | Code::Timeout), "{error}");
}

// --- places that do not do what the directory says of them ---

/// Registers an HTTP endpoint with a native one that is elsewhere.
async fn register(directory: &str, endpoint: &str, native: &str) {
    let node = json!({
        "node_id": "node-elsewhere", "endpoint": endpoint, "transport_endpoint": native, "region": "lab",
        "capabilities": [{
            "intent": CHAT, "models": ["m"], "max_tokens": 100,
            "supported_profiles": ["urn:iicp:profile:service-lifecycle:v1"],
        }],
        "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
    });
    let answer = Conn::open(addr(directory)).await.unwrap().post("/v1/register", &node).await.unwrap();
    assert!(answer.status < 300, "{answer:?}");
}

/// A node that is registered with this native endpoint, and a client of it that sends in plain text.
async fn elsewhere(native: &str) -> (Mesh, Client) {
    let mesh = mesh(|options| options.directory = String::new()).await;
    register(&mesh.directory.url(), &format!("http://{}", mesh.tap.addr()), native).await;
    let ours = client(&mesh.directory.url(), |options| {
        options.routing_policy.profile = PolicyProfile::DebugOverride;
    });
    let _ = mesh.tap.take();
    (mesh, ours)
}

#[tokio::test]
async fn a_place_that_does_not_answer_natively_costs_a_moment_once() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let closed = free_port();
    for native in [
        format!("iicp://{}", silent.local_addr().unwrap()),
        format!("iicp://127.0.0.1:{closed}"),
        // TLS at a place that has none.
        format!("iicpsec://{}", silent.local_addr().unwrap()),
    ] {
        let (mesh, ours) = elsewhere(&native).await;
        let begun = Instant::now();
        for _ in 0..5 {
            soon("a result", ours.submit(Task::new(CHAT, json!({})))).await.unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{native}: {:?}", begun.elapsed());
        assert_eq!(heard(&mesh.tap), (5, 0), "{native}");
    }
}

/// A native server by hand: greets, and then does with every call what `answer` says.
async fn by_hand(answer: impl Fn(&Frame) -> Option<Vec<u8>> + Clone + Send + 'static) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = format!("iicp://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut conns = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            conns.spawn(async move {
                let mut native = Native(stream);
                while let Ok(Some(frame)) = native.next().await {
                    let reply = match frame.kind {
                        kind::INIT => Some(ack(&[CALLS])),
                        kind::CALL => match answer(&frame) {
                            Some(reply) => Some(reply),
                            None => return,
                        },
                        _ => None,
                    };
                    if let Some(reply) = reply {
                        let _ = native.send(&reply).await;
                    }
                }
            });
        }
    });
    (at, tasks)
}

fn ack(capabilities: &[&str]) -> Vec<u8> {
    let list = capabilities.iter().map(|one| Cbor::from(*one)).collect();
    frame(kind::ACK, 0, &map(&[(1, 1.into()), (3, Cbor::Array(list))]))
}

fn answered(session: &str, call_id: &str, body: Value) -> Vec<u8> {
    let body = Cbor::Bytes(body.to_string().into_bytes());
    frame(
        kind::RESPONSE,
        0,
        &map(&[
            (1, 1.into()),
            (2, session.into()),
            (3, call_id.into()),
            (4, "success".into()),
            (5, body),
            (12, true.into()),
        ]),
    )
}

#[tokio::test]
async fn an_answer_to_somebody_elses_call_ends_the_connection_and_reaches_nobody() {
    type Forge = fn(&Frame) -> Option<Vec<u8>>;
    let reply = |call: &Frame| json!({ "task_id": call.text(24), "status": "success", "result": { "forged": true } });
    let forgeries: [Forge; 3] = [
        |call| Some(answered(&call.text(2), "e0000000-0000-4000-8000-000000000001", json!({}))),
        |call| Some(answered("another session", &call.text(15), json!({}))),
        |_| None,
    ];
    for forge in forgeries {
        let (at, _tasks) = by_hand(forge).await;
        let (mesh, ours) = elsewhere(&at).await;
        let error = soon("an error", ours.submit(Task::new(CHAT, json!({})))).await.unwrap_err();
        assert_eq!(error.code(), Code::Lost, "{error}");
        assert_eq!(heard(&mesh.tap), (0, 0), "it may have run, and so it was not sent again");
    }
    // And the answer that belongs to the call is its result.
    let (at, _tasks) = by_hand(move |call| Some(answered(&call.text(2), &call.text(15), reply(call)))).await;
    let (_mesh, ours) = elsewhere(&at).await;
    let done = soon("a result", ours.submit(Task::new(CHAT, json!({})))).await.unwrap();
    assert_eq!(done.result.json::<Value>().unwrap(), json!({ "forged": true }));
}

#[tokio::test]
async fn a_lost_call_is_sent_again_only_if_it_may_be() {
    let (at, _tasks) = by_hand(|_| None).await;
    let (mesh, ours) = elsewhere(&at).await;
    let error = soon("an error", ours.submit(Task::new(CHAT, json!({})))).await.unwrap_err();
    assert_eq!((error.code(), heard(&mesh.tap)), (Code::Lost, (0, 0)));
    // The second sending finds the connection gone and the place new, and greets it again.
    let task = Task::new(CHAT, json!({})).idempotent(true);
    let error = soon("an error", ours.submit(task)).await.unwrap_err();
    assert_eq!(error.code(), Code::Lost, "{error}");
}

// --- results in parts ---

/// A node whose handler gives a part each time it is told to; `{"endless": true}` gives them as fast as they are taken, of
/// 8 KiB each, and counts the bytes.
async fn streaming() -> (Mesh, Arc<tokio::sync::Semaphore>, Arc<std::sync::atomic::AtomicUsize>) {
    let mesh = mesh(|options| options.directory = String::new()).await;
    let (go, made) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let port = free_port();
    let tap = Tap::start(0, port).await.unwrap();
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = mesh.directory.url();
    options.port = port;
    options.endpoint = Some(format!("http://{}", tap.addr()));
    let (told, counted, tell) = (go.clone(), made.clone(), mesh.dropped.clone());
    let handler = move |task: Inbound| {
        let (told, counted, tell) = (told.clone(), counted.clone(), Tell(tell.clone()));
        async move {
            let payload = task.json::<Value>()?;
            if !payload["endless"].is_null() || !payload["parts"].is_null() {
                let endless = payload["endless"] == true;
                let last = payload["parts"].as_u64().unwrap_or(u64::MAX);
                let parts = futures_util::stream::unfold((0, tell), move |(n, tell)| {
                    let (told, counted) = (told.clone(), counted.clone());
                    async move {
                        if n == last {
                            return None;
                        }
                        if endless {
                            counted.fetch_add(8 << 10, std::sync::atomic::Ordering::SeqCst);
                            return Some((Ok(json!("x".repeat(8 << 10))), (n + 1, tell)));
                        }
                        told.acquire().await.ok()?.forget();
                        Some((Ok(json!(format!("secret part {n}"))), (n + 1, tell)))
                    }
                });
                return Ok(Reply::stream(parts));
            }
            let long = usize::try_from(payload["long"].as_u64().unwrap_or(0)).unwrap();
            Ok(Reply::from(json!("y".repeat(long))))
        }
    };
    let node = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
    (Mesh { node, tap, ..mesh }, go, made)
}

/// A client that has found out that the node takes tasks natively.
async fn acquainted(mesh: &Mesh, change: impl FnOnce(&mut ClientOptions)) -> Client {
    let ours = client(&mesh.directory.url(), change);
    soon("a task that goes natively", async {
        while heard(&mesh.tap).1 == 0 {
            ours.submit(Task::new(CHAT, json!({}))).await.unwrap();
        }
    })
    .await;
    ours
}

#[tokio::test]
async fn parts_come_natively_as_they_are_made_and_sealed() {
    let (mesh, go, _) = streaming().await;
    let ours = acquainted(&mesh, |_| {}).await;
    let mut stream = None;
    for n in 0..3 {
        go.add_permits(1);
        if stream.is_none() {
            stream = Some(soon("a stream", ours.stream(Task::new(CHAT, json!({ "parts": 3 })))).await.unwrap());
        }
        // The handler makes no other before this one has come.
        let part = soon("a part", stream.as_mut().unwrap().next()).await.unwrap().unwrap();
        assert_eq!(part.result.json::<String>().unwrap(), format!("secret part {n}"));
    }
    assert!(soon("the end", stream.as_mut().unwrap().next()).await.is_none());
    let heard = mesh.tap.take();
    assert!(!heard.contains("POST /v1/task") && heard.contains("IICP\u{1}\u{5}"), "it went over HTTP");
    assert!(!heard.contains("secret part"), "it went unsealed");
}

#[tokio::test]
async fn leaving_a_native_stream_stops_its_handler_and_no_other() {
    let (mesh, go, _) = streaming().await;
    let ours = acquainted(&mesh, |_| {}).await;
    let first = soon("a stream", ours.stream(Task::new(CHAT, json!({ "endless": true })))).await.unwrap();
    go.add_permits(1);
    let mut other = soon("another", ours.stream(Task::new(CHAT, json!({ "parts": 2 })))).await.unwrap();
    drop(first);
    soon("the handler's end", mesh.dropped.notified()).await;
    soon("its slot", async {
        while mesh.node.active_jobs() != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(soon("its first", other.next()).await.unwrap().is_ok());
    go.add_permits(1);
    assert!(soon("its second", other.next()).await.unwrap().is_ok());
    assert!(soon("its end", other.next()).await.is_none());
}

#[tokio::test]
async fn who_does_not_read_one_stream_holds_up_no_other_call_and_little_memory() {
    let (mesh, _, made) = streaming().await;
    let ours = acquainted(&mesh, |_| {}).await;
    let mut lazy = soon("a stream", ours.stream(Task::new(CHAT, json!({ "endless": true })))).await.unwrap();
    assert!(soon("its first", lazy.next()).await.unwrap().is_ok());
    for _ in 0..20 {
        soon("a result", ours.submit(Task::new(CHAT, json!({})))).await.unwrap();
        let mut quick = soon("a stream", ours.stream(Task::new(CHAT, json!({ "endless": true })))).await.unwrap();
        for _ in 0..30 {
            assert!(soon("a part", quick.next()).await.unwrap().is_ok());
        }
    }
    let (http, _) = heard(&mesh.tap);
    assert_eq!(http, 0, "they share the connection");
    // What the quick ones made, and a window and what is on the way for each.
    let made = made.load(std::sync::atomic::Ordering::SeqCst);
    assert!(made < 21 * (512 << 10) + 20 * 31 * (8 << 10), "{made} bytes were made for nobody");
    for _ in 0..100 {
        assert!(soon("a part", lazy.next()).await.unwrap().is_ok(), "and it goes on where it was left");
    }
}

#[tokio::test]
async fn an_answer_larger_than_a_frame_comes_natively_too() {
    let (mesh, ..) = streaming().await;
    let long = 20 << 20;
    let ours = acquainted(&mesh, |options| options.max_response_bytes = 64 << 20).await;
    let done = soon("a result", ours.submit(Task::new(CHAT, json!({ "long": long })))).await.unwrap();
    assert_eq!(done.result.json::<String>().unwrap().len(), long);
    assert_eq!(heard(&mesh.tap).0, 0);
    let bounded = acquainted(&mesh, |options| options.max_response_bytes = 1 << 20).await;
    let error = soon("an error", bounded.submit(Task::new(CHAT, json!({ "long": long })))).await.unwrap_err();
    assert_eq!(error.code(), Code::ResponseTooLarge, "{error}");
}

#[tokio::test]
async fn a_peer_that_sends_more_than_there_is_room_for_is_cut_off() {
    let (at, _tasks) = by_hand(|call| {
        let body = Cbor::Bytes(vec![b'x'; 200 << 10]);
        Some(frame(kind::PART, 0, &map(&[(5, body), (15, call.text(15).into()), (102, 1.into())])))
    })
    .await;
    let (mesh, ours) = elsewhere(&at).await;
    let error = soon("an error", ours.stream(Task::new(CHAT, json!({})))).await.unwrap_err();
    assert_eq!(error.code(), Code::Lost, "{error}");
    assert_eq!(heard(&mesh.tap), (0, 0), "it may have run, and so it was not sent again");
}
