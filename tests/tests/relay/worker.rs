//! Our own nodes as workers: they find a relay, stay bound, and move.

use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions, RelayServerOptions, RelayWorkerOptions};
use iicp_core::{CHAT, Client, Code, Directory, EMBEDDING, Error, Handler, Inbound, LiveNode, Node, Reply, Task};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::peer::{PING, Worker, bytes, frame};
use super::soon;

pub(super) async fn directory() -> Directory {
    Directory::bind(DirectoryOptions::loopback()).await.unwrap()
}

/// A relay that takes nobody without a ticket, on ports that may be given.
async fn relay(directory: &Directory, node_id: &str, ports: (u16, u16)) -> LiveNode {
    relay_with(directory, node_id, ports, |_| ()).await
}

pub(super) async fn relay_with(
    directory: &Directory,
    node_id: &str,
    ports: (u16, u16),
    change: impl FnOnce(&mut RelayServerOptions),
) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.node_id = Some(node_id.into());
    options.directory = directory.url();
    options.port = ports.0;
    let mut relay = RelayServerOptions::default();
    relay.port = ports.1;
    relay.ticket_required = Some(true);
    change(&mut relay);
    options.relay_server = Some(relay);
    // The same relay after a restart is one that kept its key.
    options.state_dir = Some(
        std::env::temp_dir().join(format!("iicp-relay-{}", directory.url().replace('/', "-"))).to_str().unwrap().into(),
    );
    let node = loop {
        match Node::bind(options.clone()).await {
            // What was dropped a moment ago may still be on its way out.
            Err(error) if error.code() == Code::NodeLocked || error.code() == Code::Bind => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            node => break node.unwrap(),
        }
    };
    node.serve(async |_: Inbound| Err::<Reply, _>(Error::rejected("a relay's own handler was called"))).await.unwrap()
}

/// A node that serves embeddings, which no relay here does.
pub(super) async fn worker(directory: &Directory, change: impl FnOnce(&mut RelayWorkerOptions)) -> LiveNode {
    let handler = async |task: Inbound| match task.json::<Value>()? {
        payload if payload["fail"] == true => Err(Error::rejected("as told")),
        payload if payload["slow"] == true => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok(Reply::from(task.payload))
        }
        _ => Ok(Reply::from(task.payload)),
    };
    worker_with(directory, change, handler).await
}

/// The same with another handler.
pub(super) async fn worker_with(
    directory: &Directory,
    change: impl FnOnce(&mut RelayWorkerOptions),
    handler: impl Handler,
) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into()];
    options.node_id = Some("worker-1".into());
    options.directory = directory.url();
    let mut relay = RelayWorkerOptions::default();
    change(&mut relay);
    options.relay_worker = Some(relay);
    Node::bind(options).await.unwrap().serve(handler).await.unwrap()
}

pub(super) fn client(directory: &Directory) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    options.route_ttl_ms = 100;
    Client::new(options).unwrap()
}

pub(super) async fn submit(client: &Client, payload: Value) -> iicp_core::Result<Value> {
    let task = Task::new(EMBEDDING, payload).timeout(Duration::from_secs(5));
    client.submit(task).await.map(|done| done.result.json().unwrap())
}

/// Until the worker is listed under a place that is not `other`, and answers there.
pub(super) async fn reached(directory: &Directory, worker: &LiveNode, other: &str) {
    let begun = Instant::now();
    loop {
        // A client that failed before leaves the node alone for a while; a new one does not.
        let is_elsewhere = worker.is_registered() && worker.url() != other;
        if is_elsewhere && submit(&client(directory), json!({"n": 0})).await.is_ok() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "still at {}", worker.url());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_new_node_that_nobody_can_reach_comes_up_at_a_strict_relay() {
    let directory = directory().await;
    let relay = relay(&directory, "relay-1", (0, 0)).await;
    let worker = worker(&directory, |_| ()).await;
    let client = client(&directory);
    soon(reached(&directory, &worker, "")).await;
    assert_eq!(worker.url(), format!("http://127.0.0.1:{}/v1/relay-for/worker-1", relay.addr().port()));
    assert_eq!(relay.relay_workers(), 1);
    for n in 0..20 {
        assert_eq!(submit(&client, json!({"n": n})).await.unwrap(), json!({"n": n}));
    }
    // What the node refuses is what its caller sees, as without a relay.
    let error = submit(&client, json!({"fail": true})).await.unwrap_err();
    assert_eq!((error.code(), error.http_status()), (Code::TaskRejected, Some(422)), "{error}");
    assert!(soon(worker.shutdown(Duration::from_secs(5))).await);
    soon(async {
        while relay.relay_workers() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_task_that_is_too_large_for_a_worker_costs_the_worker_nothing() {
    let directory = directory().await;
    let relay = relay(&directory, "relay-1", (0, 0)).await;
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into()];
    options.node_id = Some("worker-1".into());
    options.directory = directory.url();
    options.max_body_bytes = 64 << 10;
    options.relay_worker = Some(RelayWorkerOptions::default());
    let handler = async |task: Inbound| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Reply::from(task.payload))
    };
    let worker = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
    soon(reached(&directory, &worker, "")).await;
    let bound = relay.relay_workers();
    let beside = tokio::spawn({
        let client = client(&directory);
        async move { submit(&client, json!({"beside": true})).await }
    });
    // A little more than the node takes, and as much as the relay does.
    for bytes in [65_536, 900_000] {
        let task = json!({"pad": "x".repeat(bytes)});
        let error = soon(submit(&client(&directory), task)).await.unwrap_err();
        assert_eq!((error.code(), error.http_status()), (Code::PayloadTooLarge, Some(413)), "{error}");
        assert!(error.to_string().contains("65536"), "{error}");
    }
    assert_eq!(beside.await.unwrap().unwrap(), json!({"beside": true}), "a task that was under way");
    assert_eq!((relay.relay_workers(), worker.is_registered()), (bound, true));
}

#[tokio::test]
async fn a_node_behind_a_relay_that_has_too_much_to_do_is_not_looked_for_elsewhere() {
    let directory = directory().await;
    let _relay = relay(&directory, "relay-1", (0, 0)).await;
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into()];
    options.node_id = Some("worker-1".into());
    options.directory = directory.url();
    options.rate_per_ip = 1;
    options.relay_worker = Some(RelayWorkerOptions::default());
    let node = Node::bind(options).await.unwrap();
    let worker = node.serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap();
    soon(reached(&directory, &worker, "")).await;
    let begun = Instant::now();
    let task = Task::new(EMBEDDING, json!({"n": 1})).timeout(Duration::from_secs(20));
    let error = client(&directory).submit(task).await.unwrap_err();
    assert_eq!((error.code(), error.http_status()), (Code::Capacity, Some(429)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3), "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_relay_that_comes_back_has_its_workers_back() {
    let directory = directory().await;
    let first = relay(&directory, "relay-1", (0, 0)).await;
    let ports = (first.addr().port(), first.relay_addr().unwrap().port());
    let worker = worker(&directory, |_| ()).await;
    let client = client(&directory);
    reached(&directory, &worker, "").await;
    drop(first);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(submit(&client, json!({"n": 1})).await.is_err());
    let again = relay(&directory, "relay-1", ports).await;
    let begun = Instant::now();
    reached(&directory, &worker, "").await;
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert_eq!(again.relay_workers(), 1);
}

#[tokio::test]
async fn a_hundred_workers_are_back_soon_after_their_relay() {
    const WORKERS: usize = 100;
    let directory = directory().await;
    let first = relay(&directory, "relay-1", (0, 0)).await;
    let ports = (first.addr().port(), first.relay_addr().unwrap().port());
    let mut workers = Vec::new();
    for n in 0..WORKERS {
        let mut options = NodeOptions::default();
        options.intents = vec![EMBEDDING.into()];
        options.node_id = Some(format!("worker-{n}"));
        options.directory = directory.url();
        options.relay_worker = Some(RelayWorkerOptions::default());
        let node = Node::bind(options).await.unwrap();
        workers.push(tokio::spawn(node.serve(async |task: Inbound| Ok(Reply::from(task.payload)))));
    }
    let bound = async |relay: &LiveNode| {
        while relay.relay_workers() < WORKERS {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let liveness = Duration::from_secs(30);
    tokio::time::timeout(liveness, bound(&first)).await.expect("they come");
    drop(first);
    let again = relay(&directory, "relay-1", ports).await;
    tokio::time::timeout(liveness, bound(&again)).await.expect("all come back");
    assert!(submit(&client(&directory), json!({"n": 1})).await.is_ok());
}

#[tokio::test]
async fn when_a_relay_is_gone_for_good_its_worker_moves() {
    let directory = directory().await;
    let relays = [relay(&directory, "relay-1", (0, 0)).await, relay(&directory, "relay-2", (0, 0)).await];
    let worker = worker(&directory, |_| ()).await;
    reached(&directory, &worker, "").await;
    let before = worker.url();
    let [at, other] = if relays[0].relay_workers() == 1 { [0, 1] } else { [1, 0] };
    let mut relays: Vec<Option<LiveNode>> = relays.into_iter().map(Some).collect();
    relays[at] = None;
    reached(&directory, &worker, &before).await;
    assert_eq!(relays[other].as_ref().unwrap().relay_workers(), 1);
}

#[tokio::test]
async fn with_two_relays_the_death_of_one_costs_nothing_that_may_be_sent_again() {
    let directory = directory().await;
    let relays = [relay(&directory, "relay-1", (0, 0)).await, relay(&directory, "relay-2", (0, 0)).await];
    let worker = worker(&directory, |options| options.relays = 2).await;
    soon(async {
        while relays.iter().any(|relay| relay.relay_workers() == 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    reached(&directory, &worker, "").await;
    let before = worker.url();
    let dying = relays.iter().position(|relay| before.contains(&format!(":{}/", relay.addr().port()))).unwrap();
    let mut relays: Vec<Option<LiveNode>> = relays.into_iter().map(Some).collect();
    // One client throughout, which may send again what it asks.
    let client = client(&directory);
    let (mut n, mut after) = (0, 0);
    while after < 20 {
        let task = Task::new(EMBEDDING, json!({"n": n})).timeout(Duration::from_secs(10)).idempotent(true);
        let done = client.submit(task).await;
        assert_eq!(done.map(|done| done.result.json::<Value>().unwrap()).unwrap(), json!({"n": n}), "task {n}");
        n += 1;
        if n == 20 {
            relays[dying] = None;
        }
        after += usize::from(worker.url() != before);
    }
}

#[tokio::test]
async fn a_relay_that_stops_sends_its_workers_away_first() {
    let directory = directory().await;
    let relays = [relay(&directory, "relay-1", (0, 0)).await, relay(&directory, "relay-2", (0, 0)).await];
    let worker = worker(&directory, |_| ()).await;
    reached(&directory, &worker, "").await;
    let before = worker.url();
    let stopping = relays.iter().position(|relay| relay.relay_workers() == 1).unwrap();
    let mut relays: Vec<Option<LiveNode>> = relays.into_iter().map(Some).collect();
    let leaving = relays[stopping].take().unwrap();
    let slow = tokio::spawn({
        let client = self::client(&directory);
        async move { submit(&client, json!({"slow": true})).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(soon(leaving.shutdown(Duration::from_secs(5))).await);
    assert_eq!(slow.await.unwrap().unwrap(), json!({"slow": true}), "what was under way got its answer");
    soon(reached(&directory, &worker, &before)).await;
}

/// A relay as it is published, by hand.
pub(super) struct TheirRelay(pub(super) TcpListener);

impl TheirRelay {
    pub(super) async fn bound(&self) -> Worker {
        self.bound_with(super::peer::ACK).await
    }

    pub(super) async fn bound_with(&self, ack: &[u8]) -> Worker {
        let (stream, _) = self.0.accept().await.unwrap();
        let mut session = Worker(stream);
        let (kind, init) = session.frame().await.unwrap();
        assert_eq!((kind, &init[1..3]), (1, &[1, 1][..]));
        session.write(ack).await;
        let (kind, bind) = session.frame().await.unwrap();
        assert_eq!((kind, &bind[..11]), (0x0b, &b"\xa4\x01\x68worker-1"[..]), "with a ticket: four keys");
        session.write(&frame(0x0c, b"\xa2\x01\x62ok\x02\x68worker-1")).await;
        session
    }
}

#[tokio::test]
async fn our_worker_serves_a_published_relay() {
    let directory = directory().await;
    let theirs = TheirRelay(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let place = theirs.0.local_addr().unwrap().to_string();
    let (mut session, worker) = tokio::join!(theirs.bound(), async {
        worker(&directory, |options| {
            options.relay = Some(place);
            options.ping_interval_ms = 500;
            options.pong_timeout_ms = 500;
        })
        .await
    });
    soon(async {
        while worker.url() != "http://127.0.0.1:9484/v1/relay-for/worker-1" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let call = |id: &str, n: u32| {
        let task = json!({"task_id": format!("t-{n}"), "intent": EMBEDDING, "payload": {"n": n}}).to_string();
        let map = [vec![0xa2, 15, 0x61], id.as_bytes().to_vec(), vec![5], bytes(task.as_bytes())].concat();
        frame(5, &map)
    };
    // The published Rust relay's order, two in one segment, and something it does not know in between.
    session.write(&[call("a", 1), frame(0x0d, b"\xa0"), call("b", 2)].concat()).await;
    let mut seen = Vec::new();
    let mut pings = 0;
    while seen.len() < 2 || pings < 2 {
        match soon(session.frame()).await.unwrap() {
            (6, payload) => {
                let text = String::from_utf8_lossy(&payload);
                let json = &text[text.find('{').unwrap()..=text.rfind('}').unwrap()];
                let reply: Value = serde_json::from_str(json).unwrap();
                assert_eq!(reply["status"], "success");
                seen.push(reply["result"]["n"].as_u64().unwrap());
            }
            (9, payload) => {
                assert_eq!(payload, PING[12..]);
                pings += 1;
                session.write(super::peer::PONG).await;
            }
            other => panic!("{other:?}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2]);
    // A relay that says nothing any more is left, and come back to.
    let mut again = soon(theirs.bound()).await;
    again.0.shutdown().await.unwrap();
    let _third = soon(theirs.bound()).await;
}
