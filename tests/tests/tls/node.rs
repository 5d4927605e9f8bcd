//! The node's side.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, DirectoryOptions, Discover, NativeTransport, NodeOptions};
use iicp_core::{CHAT, Client, Code, Directory, Node};
use iicp_tests::http::{Conn, post};
use iicp_tests::native::{Native, call, hello, kind};
use iicp_tests::tls::Authority;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Folder, HERE, PATIENCE, here, node, soon, tls};

fn task(task_id: &str, payload: Value) -> Value {
    json!({ "task_id": task_id, "intent": CHAT, "payload": payload })
}

/// An address of this machine that is not loopback, if it has one.
pub(super) fn outer(port: u16) -> Option<SocketAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(SocketAddr::new(socket.local_addr().ok()?.ip(), port)).filter(|addr| !addr.ip().is_loopback())
}

#[tokio::test]
async fn one_port_takes_https_native_over_tls_and_both_in_plain_text_from_this_machine() {
    let (authority, pair) = here();
    let node = node(&pair, |_| {}).await;
    assert_eq!(node.url(), format!("https://{}", node.addr()));
    let mut https = Conn::over(authority.connect(node.addr(), "localhost", 0).await.unwrap());
    for n in 0..3 {
        let answer = soon("https", https.post("/v1/task", &task(&format!("h{n}"), json!({ "n": n })))).await.unwrap();
        assert_eq!((answer.status, answer.json()["result"]["n"].as_u64()), (200, Some(n)), "{answer:?}");
    }
    let stream = authority.connect(node.addr(), "127.0.0.1", 0).await.unwrap();
    let mut native = soon("iicpsec", Native(stream).greeted()).await.unwrap();
    native.send(&call("c1", &task("n1", json!({ "n": 1 })))).await.unwrap();
    assert_eq!(soon("an answer", native.next()).await.unwrap().unwrap().json()["result"]["n"], 1);
    let mut plain = Conn::open(node.addr()).await.unwrap();
    assert_eq!(plain.post("/v1/task", &task("p1", json!({}))).await.unwrap().status, 200);
    let mut native = soon("iicp", Native::greet(node.addr())).await.unwrap();
    native.send(&call("c1", &task("n2", json!({})))).await.unwrap();
    assert_eq!(soon("an answer", native.next()).await.unwrap().unwrap().kind, kind::RESPONSE);
}

#[tokio::test]
async fn first_bytes_decide_also_when_they_come_one_by_one() {
    let (authority, pair) = here();
    let node = node(&pair, |_| {}).await;
    // The whole hello of TLS byte by byte, and then what is inside.
    let stream = soon("TLS", authority.connect(node.addr(), "localhost", 64)).await.unwrap();
    let mut native = Native(stream);
    for byte in hello() {
        native.send(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(soon("an ACK", native.next()).await.unwrap().unwrap().kind, kind::ACK);
    let mut https = Conn::over(authority.connect(node.addr(), "localhost", 64).await.unwrap());
    // It begins as the magic does.
    for byte in b"II /v1/x HTTP/1.1\r\nhost: a\r\n\r\n" {
        https.write(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(soon("an answer", https.answer()).await.unwrap().status, 404);
}

#[tokio::test]
async fn large_tasks_and_streams_pass_both_ways() {
    let (authority, pair) = here();
    let node = node(&pair, |_| {}).await;
    let large = json!({ "filling": "y".repeat(3 << 20) });
    let mut https = Conn::over(authority.connect(node.addr(), "localhost", 0).await.unwrap());
    let answer = soon("a large one", https.post("/v1/task", &task("l1", large.clone()))).await.unwrap();
    assert_eq!(answer.json()["result"], large);
    let body = task("s1", json!({ "parts": 40 })).to_string();
    https
        .write(&post("/v1/task", "accept: text/event-stream\r\nconnection: close\r\n", body.as_bytes()))
        .await
        .unwrap();
    assert_eq!(https.head().await.unwrap().0, 200);
    let events = String::from_utf8(soon("the events", https.rest()).await).unwrap();
    assert_eq!(events.matches("\"filling\"").count(), 40);
    assert!(events.contains("completed"), "it ends as it should");
}

#[tokio::test]
async fn a_peer_that_breaks_off_or_stalls_the_handshake_is_cut_and_nobody_else_notices() {
    let (authority, pair) = here();
    let node = node(&pair, |options| {
        options.header_timeout_ms = 1_000;
        options.max_connections = Some(40);
    })
    .await;
    let mut https = Conn::over(authority.connect(node.addr(), "localhost", 0).await.unwrap());
    assert_eq!(https.post("/v1/task", &task("a", json!({}))).await.unwrap().status, 200);
    let begun = Instant::now();
    let mut stalled = Vec::new();
    for bytes in [&b"\x16"[..], b"\x16\x03\x01\x02\x00\x01", &[0x16, 3, 1, 0xff, 0xff], b"\x16\x03\x01\x00\x05garba"] {
        for _ in 0..5 {
            let mut stream = TcpStream::connect(node.addr()).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            stalled.push(stream);
        }
    }
    let answer = soon("a neighbour", https.post("/v1/task", &task("b", json!({})))).await.unwrap();
    assert_eq!(answer.status, 200);
    for mut stream in stalled {
        // An alert may come before the end.
        let mut rest = Vec::new();
        let _ = soon("an end", stream.read_to_end(&mut rest)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let metrics = String::from_utf8(https.get("/metrics").await.unwrap().body).unwrap();
    let cut = metrics.lines().find(|line| line.contains("phase=\"handshake\"")).unwrap();
    assert!(!cut.ends_with(" 0"), "{cut}");
    // And who agrees on TLS and then says nothing is cut as well.
    let mut silent = authority.connect(node.addr(), "localhost", 0).await.unwrap();
    let _ = soon("an end", silent.read(&mut [0; 1])).await;
}

#[tokio::test]
async fn stalled_handshakes_give_way_to_who_comes() {
    let (authority, pair) = here();
    let node = node(&pair, |options| {
        options.header_timeout_ms = 600_000;
        options.max_connections = Some(10);
    })
    .await;
    let mut stalled = Vec::new();
    for _ in 0..30 {
        let mut stream = TcpStream::connect(node.addr()).await.unwrap();
        stream.write_all(b"\x16\x03\x01").await.unwrap();
        stalled.push(stream);
    }
    let mut https = Conn::over(soon("TLS", authority.connect(node.addr(), "localhost", 0)).await.unwrap());
    assert_eq!(soon("an answer", https.post("/v1/task", &task("a", json!({})))).await.unwrap().status, 200);
}

#[tokio::test]
async fn what_comes_in_plain_text_where_tls_is_wanted_is_told_so_and_not_taken() {
    let (authority, pair) = here();
    let only = node(&pair, |options| options.tls.as_mut().unwrap().only = true).await;
    for path in ["/v1/task", "/iicp/health", "/metrics"] {
        let mut plain = Conn::open(only.addr()).await.unwrap();
        let answer = plain.post(path, &task("a", json!({}))).await.unwrap();
        assert_eq!(answer.status, 426, "{path}: {answer:?}");
        assert!(answer.header("upgrade").unwrap().starts_with("TLS/1.3"), "{answer:?}");
    }
    let mut native = Native::open(only.addr()).await.unwrap();
    native.send(&hello()).await.unwrap();
    let goodbye = soon("a goodbye", native.next()).await.unwrap().unwrap();
    assert_eq!((goodbye.kind, goodbye.text(1)), (kind::CLOSE, "auth_failed".to_owned()));
    let mut https = Conn::over(authority.connect(only.addr(), "localhost", 0).await.unwrap());
    assert_eq!(https.get("/iicp/health").await.unwrap().status, 200);
    assert_eq!(https.get("/metrics").await.unwrap().status, 200);

    let everywhere = node(&pair, |options| options.host = "0.0.0.0".into()).await;
    let Some(outer) = outer(everywhere.addr().port()) else { return };
    let status = async |request: &[u8]| {
        let mut plain = Conn::open(outer).await.unwrap();
        plain.write(request).await.unwrap();
        plain.answer().await.unwrap().status
    };
    assert_eq!(status(&post("/v1/task", "", task("b", json!({})).to_string().as_bytes())).await, 426);
    assert_eq!(status(b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n").await, 426);
    assert_eq!(status(b"GET /iicp/health HTTP/1.1\r\nhost: a\r\n\r\n").await, 200, "health holds no secrets");
    let mut native = Native::open(outer).await.unwrap();
    native.send(&hello()).await.unwrap();
    assert_eq!(soon("a goodbye", native.next()).await.unwrap().unwrap().kind, kind::CLOSE);
    let mut https = Conn::over(authority.connect(outer, "localhost", 0).await.unwrap());
    assert_eq!(https.post("/v1/task", &task("c", json!({}))).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named_before_any_network_is_touched() {
    let (authority, pair) = here();
    let other = authority.issue(HERE).unwrap();
    let folder = Folder::new("unusable");
    let (certificate, key) = pair.write(&folder.0).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let missing = folder.0.join("missing.pem");
    let (nonsense, others) = (folder.0.join("nonsense.pem"), folder.0.join("other.pem"));
    std::fs::write(&nonsense, "-----BEGIN CERTIFICATE-----\n??\n-----END CERTIFICATE-----\n").unwrap();
    std::fs::write(&others, &other.key).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    // Somebody has the port already: a node that had come so far would say so.
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    for (certificate, key, named) in [
        (&*text(&missing), key, "missing.pem"),
        (certificate, &*text(&missing), "missing.pem"),
        (&*text(&nonsense), key, "nonsense.pem"),
        (key, key, "key.pem"),
        (certificate, certificate, "certificate.pem"),
        (certificate, &*text(&others), "other.pem"),
        (certificate, &*other.key, "tls.key"),
        (certificate, text(&folder.0).as_str(), "tls.key"),
    ] {
        let mut options = NodeOptions::default();
        options.intents = vec![CHAT.into()];
        options.port = taken.local_addr().unwrap().port();
        let mut tls = tls(&pair);
        (tls.certificate, tls.key) = (certificate.into(), key.into());
        options.tls = Some(tls);
        let error = Node::bind(options).await.unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid, "{error}");
        assert!(error.message().contains(named), "{named}: {error}");
        assert!(!error.message().contains(&other.key[30..60]), "{error}");
    }
    let changes: [fn(&mut NodeOptions); 3] = [
        |options| options.endpoint = Some("http://node.example.com:9484".into()),
        |options| options.native = NativeTransport::Any,
        |options| (options.directory, options.host) = ("https://directory.example.com".into(), "0.0.0.0".into()),
    ];
    for (change, named) in changes.into_iter().zip(["https", "tls.only", "endpoint"]) {
        let mut options = NodeOptions::default();
        options.intents = vec![CHAT.into()];
        let mut tls = tls(&pair);
        tls.only = true;
        options.tls = Some(tls);
        change(&mut options);
        let error = Node::bind(options).await.unwrap_err();
        assert_eq!(error.code(), Code::ConfigInvalid, "{error}");
        assert!(error.message().contains(named), "{named}: {error}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_a_restart_and_open_connections_stay() {
    let (authority, pair) = here();
    let folder = Folder::new("renewed");
    let (certificate, key) = pair.write(&folder.0).unwrap();
    let node = node(&pair, |options| {
        let mut tls = tls(&pair);
        (tls.certificate, tls.key) = (certificate.to_str().unwrap().into(), key.to_str().unwrap().into());
        options.tls = Some(tls);
    })
    .await;
    let shown = async || {
        let stream = authority.connect(node.addr(), "localhost", 0).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let mut open = Conn::over(authority.connect(node.addr(), "localhost", 0).await.unwrap());
    assert_eq!(open.get("/iicp/health").await.unwrap().status, 200);
    let first = shown().await;
    let next = authority.issue(HERE).unwrap();
    // As ACME clients do it: one after the other, and for a moment they do not belong together.
    std::fs::write(&certificate, &next.certificate).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(shown().await, first, "what does not belong together is not served");
    std::fs::write(&key, &next.key).unwrap();
    let begun = Instant::now();
    while shown().await == first {
        assert!(begun.elapsed() < PATIENCE, "the renewed certificate is not served");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(open.get("/iicp/health").await.unwrap().status, 200, "who is connected stays so");
    let renewed = shown().await;
    std::fs::write(&key, "nonsense").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(shown().await, renewed, "and nonsense takes its place for nobody");
}

#[tokio::test]
async fn a_node_with_tls_is_listed_with_https_and_iicpsec_and_with_nothing_of_before() {
    let (authority, pair) = here();
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let folder = Folder::new("listed");
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    options.trusted_ca = Some(authority.pem());
    let client = Client::new(options).unwrap();
    let listed = async || {
        let nodes = client.discover(Discover::intent(CHAT)).await.unwrap();
        assert_eq!(nodes.len(), 1);
        (nodes[0].endpoint.clone(), nodes[0].transport_endpoint.clone())
    };
    let same = |options: &mut NodeOptions| {
        options.directory = directory.url();
        options.node_id = Some("node-1".into());
        options.state_dir = Some(folder.0.to_str().unwrap().into());
        options.trusted_ca = Some(authority.pem());
    };
    let plain = node(&pair, |options| {
        same(options);
        options.tls = None;
    })
    .await;
    assert!(listed().await.1.unwrap().starts_with("iicp://"));
    drop(plain);
    let secured = node(&pair, same).await;
    let addr = secured.addr();
    assert_eq!(listed().await, (format!("https://{addr}"), Some(format!("iicpsec://{addr}"))));
    assert!(secured.is_registered());
    drop(secured);
    let without = node(&pair, |options| {
        same(options);
        options.native = NativeTransport::Off;
    })
    .await;
    assert_eq!(listed().await, (format!("https://{}", without.addr()), None));

    // A node that does not trust its own certificate cannot see itself, and says why.
    let mut blind = NodeOptions::default();
    blind.intents = vec![CHAT.into()];
    blind.directory = directory.url();
    blind.tls = Some(tls(&Authority::new().unwrap().issue(HERE).unwrap()));
    let blind = Node::bind(blind).await.unwrap().serve(super::echo).await.unwrap();
    assert!(!blind.is_registered());
}
