//! The side of those who call.

use std::time::Duration;

use iicp_core::options::{ClientOptions, DirectoryOptions, NativeTransport, NodeOptions, PolicyProfile};
use iicp_core::{CHAT, Client, Code, Directory, LiveNode, Task};
use iicp_tests::http::{Conn, addr};
use iicp_tests::tls::{Authority, Pair};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::{Folder, HERE, here, node, soon};

/// A client of a directory that trusts an authority.
fn client(directory: &Directory, authority: &Authority, change: impl FnOnce(&mut ClientOptions)) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    options.trusted_ca = Some(authority.pem());
    options.routing_policy.profile = PolicyProfile::DebugOverride;
    change(&mut options);
    Client::new(options).unwrap()
}

/// A directory that knows a node, by what it is told.
async fn listing(endpoint: &str, native: Option<&str>) -> Directory {
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let node = json!({
        "node_id": "node-1", "endpoint": endpoint, "transport_endpoint": native, "region": "lab",
        "capabilities": [{
            "intent": CHAT, "models": ["m"], "max_tokens": 100,
            "supported_profiles": ["urn:iicp:profile:service-lifecycle:v1"],
        }],
        "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
    });
    let answer = Conn::open(addr(&directory.url())).await.unwrap().post("/v1/register", &node).await.unwrap();
    assert!(answer.status < 300, "{answer:?}");
    directory
}

async fn closed() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn submit(client: &Client, payload: Value) -> iicp_core::Result<Value> {
    let done = soon("an end", client.submit(Task::new(CHAT, payload))).await?;
    Ok(done.result.json().unwrap())
}

async fn with(pair: &Pair) -> LiveNode {
    node(pair, |_: &mut NodeOptions| {}).await
}

#[tokio::test]
async fn tasks_and_streams_go_over_https_and_over_iicpsec() {
    let (authority, pair) = here();
    let node = with(&pair).await;
    let https = listing(&node.url(), None).await;
    // There is nobody at the other endpoint, so that what arrives has come natively.
    let native = format!("iicpsec://{}", node.addr());
    let native = listing(&format!("https://{}", closed().await), Some(&native)).await;
    for directory in [&https, &native] {
        let client = client(directory, &authority, |options| options.max_response_bytes = 64 << 20);
        // The first task may be too impatient for the first greeting.
        for _ in 0..50 {
            if submit(&client, json!({})).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for n in 0..3 {
            assert_eq!(submit(&client, json!({ "n": n })).await.unwrap(), json!({ "n": n }));
        }
        let large = json!({ "filling": "z".repeat(4 << 20) });
        assert_eq!(submit(&client, large.clone()).await.unwrap(), large);
        let mut stream = soon("a stream", client.stream(Task::new(CHAT, json!({ "parts": 50 })))).await.unwrap();
        let mut seen = 0;
        while let Some(part) = soon("a part", stream.next()).await {
            assert_eq!(part.unwrap().result.json::<Value>().unwrap()["n"], seen);
            seen += 1;
        }
        assert_eq!(seen, 50);
    }
}

#[tokio::test]
async fn a_certificate_that_proves_nothing_is_not_trusted_and_the_error_says_why() {
    let (authority, _) = here();
    let stranger = Authority::new().unwrap();
    for (pair, why) in [
        (authority.issue(&["other.example.com"]).unwrap(), "another name"),
        (authority.issue_expired(HERE).unwrap(), "expired"),
        (stranger.issue(HERE).unwrap(), "trusted_ca"),
    ] {
        let node = with(&pair).await;
        let native = format!("iicpsec://{}", node.addr());
        let directory = listing(&node.url(), Some(&native)).await;
        let client = client(&directory, &authority, |_| {});
        for _ in 0..2 {
            let error = submit(&client, json!({ "secret": 1 })).await.unwrap_err();
            assert_eq!(error.code(), Code::Tls, "{why}: {error}");
            assert!(error.message().contains(why), "{why}: {error}");
        }
        let metrics = Conn::open(node.addr()).await.unwrap().get("/metrics").await.unwrap();
        let metrics = String::from_utf8(metrics.body).unwrap();
        assert!(
            !metrics.lines().any(|line| line.starts_with("iicp_tasks_total") && !line.ends_with(" 0")),
            "{metrics}"
        );
    }
}

#[tokio::test]
async fn without_the_option_only_the_systems_authorities_are_trusted() {
    let (authority, pair) = here();
    let node = with(&pair).await;
    let directory = listing(&node.url(), None).await;
    let system = client(&directory, &authority, |options| options.trusted_ca = None);
    assert_eq!(submit(&system, json!({})).await.unwrap_err().code(), Code::Tls);
    let folder = Folder::new("authority");
    std::fs::create_dir_all(&folder.0).unwrap();
    let path = folder.0.join("authority.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    let told = client(&directory, &authority, |options| options.trusted_ca = Some(path.to_str().unwrap().into()));
    assert_eq!(submit(&told, json!({ "n": 1 })).await.unwrap(), json!({ "n": 1 }));
}

#[tokio::test]
async fn a_native_place_whose_tls_fails_costs_no_task() {
    let (authority, pair) = here();
    let node = with(&pair).await;
    let stranger = with(&Authority::new().unwrap().issue(HERE).unwrap()).await;
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let garbage = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let place = garbage.local_addr().unwrap();
    let _server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = garbage.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    for native in [stranger.addr(), silent.local_addr().unwrap(), place] {
        let directory = listing(&node.url(), Some(&format!("iicpsec://{native}"))).await;
        let client = client(&directory, &authority, |_| {});
        for n in 0..5 {
            assert_eq!(submit(&client, json!({ "n": n })).await.unwrap(), json!({ "n": n }), "{native}");
        }
    }
}

#[tokio::test]
async fn the_whole_way_from_registration_to_a_sealed_result_works_with_a_private_authority() {
    let (authority, pair) = here();
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let node = node(&pair, |options| {
        options.directory = directory.url();
        options.trusted_ca = Some(authority.pem());
        options.tls.as_mut().unwrap().only = true;
    })
    .await;
    assert!(node.is_registered());
    for native in [NativeTransport::Auto, NativeTransport::Off] {
        let client = client(&directory, &authority, |options| {
            options.native = native;
            options.routing_policy.profile = PolicyProfile::default();
        });
        for n in 0..5 {
            assert_eq!(submit(&client, json!({ "n": n })).await.unwrap(), json!({ "n": n }));
        }
    }
}

#[test]
fn authorities_that_cannot_be_read_are_named() {
    let (_, pair) = here();
    for (given, named) in
        [("/no/such/authority.pem", "/no/such/authority.pem"), (&*pair.key, "trusted_ca"), ("", "trusted_ca")]
    {
        let mut options = ClientOptions::default();
        options.trusted_ca = Some(given.into());
        let error = Client::new(options).unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid);
        assert!(error.message().contains(named), "{error}");
    }
}
