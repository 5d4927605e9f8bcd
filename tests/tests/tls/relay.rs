//! A relay with a certificate of its own.

use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions, RelayServerOptions, RelayWorkerOptions};
use iicp_core::{Client, Directory, EMBEDDING, Node, Task};
use iicp_tests::http::Conn;
use serde_json::{Value, json};

use super::node::outer;
use super::{PATIENCE, echo, here, node};

#[tokio::test]
async fn workers_of_a_relay_with_tls_are_called_over_it() {
    let (authority, pair) = here();
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let relay = node(&pair, |options| {
        options.directory = directory.url();
        options.trusted_ca = Some(authority.pem());
        options.tls.as_mut().unwrap().only = true;
        let mut relay = RelayServerOptions::default();
        relay.port = 0;
        options.relay_server = Some(relay);
    })
    .await;
    assert!(relay.is_registered());
    let mut worker = NodeOptions::default();
    worker.intents = vec![EMBEDDING.into()];
    worker.directory = directory.url();
    worker.trusted_ca = Some(authority.pem());
    worker.relay_worker = Some(RelayWorkerOptions::default());
    let worker = Node::bind(worker).await.unwrap().serve(echo).await.unwrap();
    let begun = Instant::now();
    let done = loop {
        let mut options = ClientOptions::default();
        options.directory = directory.url();
        options.trusted_ca = Some(authority.pem());
        let task = Task::new(EMBEDDING, json!({ "n": 1 })).timeout(Duration::from_secs(5));
        match Client::new(options).unwrap().submit(task).await {
            Ok(done) => break done,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(done.result.json::<Value>().unwrap(), json!({ "n": 1 }));
    assert!(worker.url().starts_with(&relay.url()) && relay.url().starts_with("https:"), "{}", worker.url());
}

#[tokio::test]
async fn a_relay_takes_plain_text_for_its_workers_unless_it_wants_tls() {
    let (_, pair) = here();
    for (tls_required, only, expected) in [(false, false, 404), (true, false, 426), (false, true, 426)] {
        let relay = node(&pair, |options| {
            options.host = "0.0.0.0".into();
            options.tls.as_mut().unwrap().only = only;
            let mut relay = RelayServerOptions::default();
            (relay.port, relay.tls_required, relay.ticket_required) = (0, tls_required, Some(false));
            options.relay_server = Some(relay);
        })
        .await;
        let Some(outer) = outer(relay.addr().port()) else { return };
        let get = async |path: &str| Conn::open(outer).await.unwrap().get(path).await.unwrap().status;
        assert_eq!(get("/v1/relay-for/w-1/iicp/health").await, expected, "{tls_required} {only}");
        assert_eq!(get("/metrics").await, 426, "{tls_required} {only}");
    }
}
