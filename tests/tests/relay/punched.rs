//! Direct paths between callers and workers, found with a relay's help. That they get past NATs, the network lab shows.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use iicp_core::options::{ClientOptions, NodeOptions, Punch, RelayServerOptions, RelayWorkerOptions};
use iicp_core::types::{Rung, RungState};
use iicp_core::{CHAT, Client, Directory, EMBEDDING, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::http::{Conn, post};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, UdpSocket};

use super::worker::directory;

/// How long a path may take here, where nothing is in its way.
const FOUND: Duration = Duration::from_secs(20);

async fn relay(directory: &Directory, change: impl FnOnce(&mut NodeOptions)) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.node_id = Some("relay-1".into());
    options.directory = directory.url();
    let mut relay = RelayServerOptions::default();
    relay.port = 0;
    options.relay_server = Some(relay);
    change(&mut options);
    Node::bind(options).await.unwrap().serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap()
}

async fn worker(directory: &Directory, change: impl FnOnce(&mut NodeOptions)) -> LiveNode {
    let mut options = NodeOptions::default();
    options.intents = vec![EMBEDDING.into()];
    options.node_id = Some("worker-1".into());
    options.directory = directory.url();
    options.relay_worker = Some(RelayWorkerOptions::default());
    change(&mut options);
    let handler = async |task: Inbound| match task.json::<Value>()?["parts"].as_u64() {
        Some(count) => Ok(Reply::stream(futures_util::stream::iter(0..count).map(|n| Ok(json!({ "part": n }))))),
        None => Ok(Reply::from(task.payload)),
    };
    Node::bind(options).await.unwrap().serve(handler).await.unwrap()
}

fn client(directory: &Directory, change: impl FnOnce(&mut ClientOptions)) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    change(&mut options);
    Client::new(options).unwrap()
}

async fn submit(client: &Client, payload: &Value) -> iicp_core::Result<Value> {
    let task = Task::new(EMBEDDING, payload.clone()).timeout(Duration::from_secs(5));
    client.submit(task).await.map(|done| done.result.json().unwrap())
}

fn is_direct(worker: &LiveNode) -> bool {
    worker.nat_report().rung(Rung::HolePunching).is_some_and(|rung| rung.state == RungState::Reached)
}

/// Sends tasks, each of which must be answered, until they take another way than the relay.
async fn until_direct(client: &Client, worker: &LiveNode) -> bool {
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < FOUND {
        match submit(client, &json!({ "n": sent })).await {
            Ok(answer) => assert_eq!(answer, json!({ "n": sent })),
            // The worker may not be bound yet.
            Err(error) => assert!(sent == 0, "{error}"),
        }
        sent += u32::from(sent > 0 || worker.is_registered());
        if is_direct(worker) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

#[tokio::test]
async fn tasks_move_from_the_relay_to_a_direct_path_and_outlive_the_relay() {
    let directory = directory().await;
    let relay = relay(&directory, |_| ()).await;
    let worker = worker(&directory, |_| ()).await;
    let client = client(&directory, |_| ());
    assert!(until_direct(&client, &worker).await, "{}", worker.nat_report());
    let report = worker.nat_report().to_string();
    assert!(report.contains("hole_punching: yes"), "{report}");
    // The path is announced before it is greeted.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(relay.shutdown(Duration::from_secs(5)).await);
    for n in 0..20 {
        assert_eq!(submit(&client, &json!({ "n": n })).await.unwrap(), json!({ "n": n }));
    }
    let large = json!({ "text": "x".repeat(3 << 20) });
    assert_eq!(submit(&client, &large).await.unwrap(), large);
    let mut stream = client.stream(Task::new(EMBEDDING, json!({ "parts": 500 }))).await.unwrap();
    let mut parts = 0;
    while let Some(chunk) = stream.next().await {
        assert_eq!(chunk.unwrap().result.json::<Value>().unwrap()["part"], parts);
        parts += 1;
    }
    assert_eq!(parts, 500);
    assert!(worker.shutdown(Duration::from_secs(5)).await);
}

/// Whoever does not want it, or does not know it, makes no difference to the others' tasks.
#[tokio::test]
async fn nobody_is_found_who_does_not_want_to_be() {
    for who in ["relay", "worker", "client", "native"] {
        let directory = directory().await;
        let off =
            |options: &mut NodeOptions, is_off: bool| options.punch = if is_off { Punch::Off } else { Punch::Auto };
        let _relay = relay(&directory, |options| off(options, who == "relay")).await;
        let worker = worker(&directory, |options| off(options, who == "worker")).await;
        let client = client(&directory, |options| {
            options.punch = if who == "client" { Punch::Off } else { Punch::Auto };
            if who == "native" {
                options.native = iicp_core::options::NativeTransport::Off;
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) || submit(&client, &json!({})).await.is_err() {
            assert!(begun.elapsed() < FOUND, "{who}: no answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for n in 0..10 {
            assert_eq!(submit(&client, &json!({ "n": n })).await.unwrap(), json!({ "n": n }), "{who}");
        }
        assert!(!is_direct(&worker), "{who}");
    }
}

/// What anybody on the Internet may send there.
#[tokio::test]
async fn an_observer_answers_no_more_than_it_is_asked_and_nothing_else() {
    let directory = directory().await;
    let relay = relay(&directory, |_| ()).await;
    let place = relay.relay_addr().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(place).await.unwrap();
    let mut question = [&[0, 1, 0, 24, 0x21, 0x12, 0xa4, 0x42][..], b"abcdefghijkl", &[0x80, 0x22, 0, 20]].concat();
    question.extend([b' '; 20]);
    let mut answer = [0; 600];
    socket.send(&question).await.unwrap();
    let length = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut answer)).await.unwrap().unwrap();
    assert!(length <= question.len() && answer[..2] == [1, 1] && &answer[8..20] == b"abcdefghijkl");
    let port = u16::from_be_bytes([answer[26] ^ 0x21, answer[27] ^ 0x12]);
    assert_eq!(port, socket.local_addr().unwrap().port(), "as it is seen");
    // Too short for its answer, no question, and no STUN.
    let bare = [&[0, 1, 0, 0][..], &question[4..20]].concat();
    for silent in [&bare[..], &question[..30], &answer[..length], b"hello", &[0xff; 44], &[]] {
        socket.send(silent).await.unwrap();
    }
    let heard = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut answer)).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test]
async fn a_question_that_is_none_finds_nobody_and_costs_the_worker_nothing() {
    let directory = directory().await;
    let relay = relay(&directory, |_| ()).await;
    let worker = worker(&directory, |_| ()).await;
    let begun = Instant::now();
    while relay.relay_workers() == 0 {
        assert!(begun.elapsed() < FOUND);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut conn = Conn::open(relay.addr()).await.unwrap();
    let observers = conn.get("/v1/relay-for/worker-1/v1/punch").await.unwrap();
    assert_eq!((observers.status, observers.json()["observers"].as_array().unwrap().len()), (200, 2));
    assert_eq!(observers.json()["beside"], true, "both come from 127.0.0.1");
    let elsewhere = TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut elsewhere = Conn::over(elsewhere.connect(relay.addr()).await.unwrap());
    let observers = elsewhere.get("/v1/relay-for/worker-1/v1/punch").await.unwrap();
    assert_eq!((observers.status, observers.json()["beside"].is_null()), (200, true), "nobody else is told so");
    assert_eq!(conn.get("/v1/relay-for/nobody/v1/punch").await.unwrap().status, 404);
    let large = format!(r#"{{"id":"p","iicp_conf":"{}"}}"#, "x".repeat(5_000));
    let sealed = r#"{"id":"p","iicp_conf":{"version":1,"recipient_key_id":"cx-0000000000000000","kem_ciphertext":"","encrypted_body":"","nonce":"","aad":""}}"#;
    for bad in ["", "{}", "[]", r#"{"id":"p"}"#, r#"{"id":"p","iicp_conf":7}"#, &large, sealed] {
        let mut conn = Conn::open(relay.addr()).await.unwrap();
        conn.write(&post("/v1/relay-for/worker-1/v1/punch", "", bad.as_bytes())).await.unwrap();
        assert_eq!(conn.answer().await.unwrap().status, 422, "{bad:.60}");
    }
    assert!(!is_direct(&worker));
    let client = client(&directory, |_| ());
    assert!(until_direct(&client, &worker).await, "and who asks as he should still finds it");
}
