//! Over TLS: the relay is known by its key, and what passes is nobody else's to read.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::peer::{ACK, INIT, Worker};
use super::worker::{client, directory, reached, relay_with, submit, worker};
use super::{relay, soon, workers};

/// What the directory says that a relay's TLS is proven with.
async fn listed_key(directory: &iicp_core::Directory, node_id: &str) -> String {
    let list = iicp_tests::http::Conn::open(directory.addr())
        .await
        .unwrap()
        .get("/v1/discover?intent=urn:iicp:intent:llm:chat:v1&relay_capable=true")
        .await
        .unwrap()
        .json();
    let nodes = list["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| node["node_id"] == node_id).unwrap();
    node["transport_metadata"]["relay_tls_spki_sha256"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn our_workers_come_over_tls_and_know_the_relay_by_its_key() {
    let directory = directory().await;
    let relay = relay_with(&directory, "relay-1", (0, 0), |options| options.tls_required = true).await;
    assert_eq!(listed_key(&directory, "relay-1").await.len(), 64);
    let elected = worker(&directory, |_| ()).await;
    soon(reached(&directory, &elected, "")).await;
    let client = client(&directory);
    // More than a record of TLS holds, both ways.
    let large: Value = json!({ "n": "x".repeat(300_000) });
    for n in 0..20 {
        assert_eq!(submit(&client, json!({"n": n})).await.unwrap(), json!({"n": n}));
    }
    assert_eq!(submit(&client, large.clone()).await.unwrap(), large);
    assert_eq!(relay.relay_workers(), 1);
}

#[tokio::test]
async fn a_named_relay_is_known_by_the_key_that_was_named_with_it() {
    let directory = directory().await;
    let relay = relay_with(&directory, "relay-1", (0, 0), |options| options.tls_required = true).await;
    let key = listed_key(&directory, "relay-1").await;
    let place = workers(&relay).to_string();
    let named = worker(&directory, |options| {
        options.relay = Some(place);
        options.relay_key = Some(key);
    })
    .await;
    soon(reached(&directory, &named, "")).await;
    assert_eq!(relay.relay_workers(), 1);
}

#[tokio::test]
async fn who_has_another_key_binds_nobody() {
    let (directory, other) = (directory().await, relay(|_| ()).await);
    let place = workers(&other).to_string();
    let _worker = worker(&directory, |options| {
        options.relay = Some(place);
        options.relay_key = Some("0a".repeat(32));
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(other.relay_workers(), 0);
}

#[tokio::test]
async fn who_speaks_no_tls_where_a_key_is_known_is_told_nothing() {
    let directory = directory().await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = plain.local_addr().unwrap().to_string();
    let heard = async {
        let (mut stream, _) = plain.accept().await.unwrap();
        let mut heard = [0; 4096];
        let n = stream.read(&mut heard).await.unwrap();
        stream.write_all(ACK).await.unwrap();
        while stream.read(&mut heard[n..]).await.is_ok_and(|n| n > 0) {}
        heard
    };
    let worker = worker(&directory, |options| {
        options.relay = Some(place);
        options.relay_key = Some("0a".repeat(32));
    });
    let (_worker, heard) = soon(async { tokio::join!(worker, heard) }).await;
    assert_eq!(heard[0], 0x16, "a greeting of TLS");
    assert!(!heard.windows(8).any(|part| part == b"worker-1"), "and not a word in plain text");
}

#[tokio::test]
async fn a_relay_that_wants_tls_says_so_before_a_ticket_is_shown() {
    let strict = relay(|options| options.tls_required = true).await;
    let mut published = Worker::connect(workers(&strict)).await;
    published.write(INIT).await;
    let (kind, verdict) = soon(published.frame()).await.unwrap();
    assert_eq!(kind, 0x0c);
    assert!(String::from_utf8_lossy(&verdict).contains("relay takes workers over TLS only"));
    assert_eq!(soon(published.frame()).await, None);
    // By default both come in on the one port.
    let both = relay(|_| ()).await;
    let _worker = Worker::bound(workers(&both), "w-1", None, both.addr().port()).await;
}

#[tokio::test]
async fn broken_tls_costs_nobody_else_anything() {
    let relay = relay(|_| ()).await;
    let hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 500]].concat();
    let mut held = Vec::new();
    for bytes in [&b"\x16"[..], b"\x16\x03\x01\xff\xff", &[0x16; 64], &hello, &hello[..40]] {
        let mut stream = TcpStream::connect(workers(&relay)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        held.push(stream);
    }
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    let (answer, ()) = soon(async {
        tokio::join!(super::send(&relay, "w-1", super::task(1)), async {
            let call = worker.call().await.unwrap();
            worker.answer(&call, &json!({"result": 1})).await;
        })
    })
    .await;
    assert_eq!(answer.status, 200);
    assert!(soon(relay.shutdown(Duration::from_secs(1))).await || !held.is_empty());
}
