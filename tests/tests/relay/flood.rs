//! Many who want what is one's, and more than anybody needs.

use std::time::{Duration, Instant};

use iicp_tests::http::{Conn, post};
use iicp_tests::process::many_descriptors;
use iicp_tests::size;
use serde_json::json;
use tokio::task::JoinSet;

use super::peer::{Issuer, Worker, bind, frame};
use super::{get, relay, send, soon, task, workers};

#[tokio::test]
async fn s25_of_a_thousand_who_race_for_an_id_only_its_owner_gets_it() {
    many_descriptors();
    let issuer = Issuer::new(1);
    let key = issuer.public_key();
    let relay = relay(|options| (options.ticket_required, options.ticket_key) = (Some(true), Some(key))).await;
    let (addr, port) = (workers(&relay), relay.addr().port());
    let thief = Issuer::new(2);
    let mut race = JoinSet::new();
    for n in 0..1_000_u32 {
        let ticket = match n % 4 {
            0 => None,
            1 => Some(thief.ticket("w-1", n)),
            2 => Some(issuer.ticket("w-2", n)),
            // One ticket, good for one bind, that everybody of this kind has.
            _ => Some(issuer.ticket("w-1", 7)),
        };
        race.spawn(async move {
            // Each from a network of its own: who tries often from one is not listened to for long.
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            let [_, _, high, low] = n.to_be_bytes();
            socket.bind(([127, 1 + high, low, 1], 0).into()).unwrap();
            let mut worker = Worker(socket.connect(addr).await.unwrap());
            let verdict = worker.greet("w-1", ticket.as_deref()).await;
            let is_bound = verdict.is_some_and(|verdict| verdict[2] == 0x62);
            is_bound.then_some((n, worker))
        });
    }
    let bound: Vec<(u32, Worker)> = race.join_all().await.into_iter().flatten().collect();
    assert!(bound.iter().all(|(n, _)| n % 4 == 3) && bound.len() == 1, "{} are bound", bound.len());
    let begun = Instant::now();
    let mut owner = Worker::bound(addr, "w-1", Some(&issuer.ticket("w-1", 10_000)), port).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "a ghost gives way at once");
    let (answer, ()) = tokio::join!(send(&relay, "w-1", task(1)), async {
        let call = owner.call().await.unwrap();
        owner.answer(&call, &json!({"result": "owner"})).await;
    });
    assert_eq!(answer.json()["result"], "owner");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s28_while_binds_flood_in_an_owner_is_bound_soon() {
    let issuer = Issuer::new(1);
    let key = issuer.public_key();
    let relay = relay(|options| (options.binds_per_minute, options.ticket_key) = (5, Some(key))).await;
    let (addr, port) = (workers(&relay), relay.addr().port());
    let mut flood = JoinSet::new();
    for lane in 0..16 {
        flood.spawn(async move {
            for n in 0_u64.. {
                let Ok(Ok(stream)) =
                    tokio::time::timeout(Duration::from_secs(5), tokio::net::TcpStream::connect(addr)).await
                else {
                    continue;
                };
                // Ports are few; whoever hangs up with a reset leaves none waiting.
                stream.set_zero_linger().unwrap();
                let mut worker = Worker(stream);
                let hello = [super::peer::INIT, &bind(&format!("f-{lane}-{n}"), None)].concat();
                if tokio::io::AsyncWriteExt::write_all(&mut worker.0, &hello).await.is_ok() {
                    worker.frame().await;
                    worker.frame().await;
                }
            }
        });
    }
    let (begun, mut times) = (Instant::now(), Vec::new());
    let lasting = Duration::from_secs(size(3, 30));
    for n in 0.. {
        if begun.elapsed() > lasting {
            break;
        }
        let since = Instant::now();
        let owner = Worker::bound(addr, &format!("o-{n}"), Some(&issuer.ticket(&format!("o-{n}"), n)), port).await;
        times.push(since.elapsed());
        drop(owner);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    flood.shutdown().await;
    times.sort_unstable();
    let within = times[times.len() * 99 / 100];
    let page = String::from_utf8(get(&relay, "/metrics").await.body).unwrap();
    let refused = page.lines().filter(|line| line.starts_with("iicp_relay_binds_total")).collect::<Vec<_>>().join(", ");
    println!("99 of 100 binds of owners within {within:?}; {refused}");
    // What is promised is half a second.
    assert!(times.len() > 10 && within < Duration::from_millis(1_500), "{} binds, within {within:?}", times.len());
}

#[tokio::test]
async fn s29_five_hundred_spellings_of_a_path_that_leads_elsewhere_lead_nowhere() {
    let relay = relay(|_| ()).await;
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    let tricks = [
        "..",
        "%2e%2e",
        "%2E.",
        ".%2e",
        "..;",
        "..%00",
        "%00",
        "%0d%0a",
        "%20",
        "%09",
        "%2f",
        "%5c",
        "\\",
        "%252f",
        "%c0%af",
        "%e0%80%af",
        "%ef%bc%8f",
        "%u002f",
        "//",
        "/./",
        "/../",
        ";",
        "?",
        "#",
        "%3f",
        "%23",
        "*",
        "%77-1",
        "w%2d1",
        "w-1%00",
        "w-1/",
        "w-1%2fx",
        "w-1%2e",
        "W-1",
        "é",
        "\u{2215}",
        "~",
        "@",
        ":",
        "w-1,w-2",
    ];
    let (mut conn, mut tried) = (Conn::open(relay.addr()).await.unwrap(), 0);
    for trick in tricks {
        for around in ["", "w-1", "w-1/", "/w-1", "w-1/v1/task/", "x/../w-1/"] {
            for end in ["/v1/task", "/iicp/health", ""] {
                for id in [format!("{around}{trick}"), format!("{trick}{around}")] {
                    let path = format!("/v1/relay-for/{id}{end}");
                    // A fragment or a query is no part of the path, and this is the worker's own.
                    let plain = path.split(['?', '#']).next().unwrap();
                    if matches!(plain, "/v1/relay-for/w-1/v1/task" | "/v1/relay-for/w-1/iicp/health") {
                        continue;
                    }
                    let sent = conn.write(&post(&path, "", task(1).to_string().as_bytes())).await;
                    let status = match sent {
                        Ok(()) => soon(conn.answer()).await.map_or(400, |answer| answer.status),
                        Err(_) => 400,
                    };
                    assert!(matches!(status, 400 | 404 | 405), "{path}: {status}");
                    if status == 400 {
                        // A request line that is none ends its connection.
                        conn = Conn::open(relay.addr()).await.unwrap();
                    }
                    tried += 1;
                }
            }
        }
    }
    assert!(tried >= 500, "{tried} were tried");
    let (answer, ()) = tokio::join!(send(&relay, "w-1", task(2)), async {
        let call = worker.call().await.unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&call.task).unwrap(), task(2), "the first that it sees");
        worker.answer(&call, &json!({"result": 1})).await;
    });
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn s24_a_relay_carries_calls_to_its_workers_and_nothing_else_anywhere() {
    let relay = relay(|_| ()).await;
    let elsewhere = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let there = elsewhere.local_addr().unwrap();
    let body = task(1).to_string();
    for request in [
        format!("CONNECT {there} HTTP/1.1\r\nhost: {there}\r\n\r\n"),
        format!("GET http://{there}/v1/task HTTP/1.1\r\nhost: {there}\r\n\r\n"),
        format!(
            "POST http://{there}/v1/task HTTP/1.1\r\nhost: {there}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!(
            "POST /v1/relay-for/{there}/v1/task HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!(
            "POST /v1/relay-for/http://{there}/v1/task HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
        format!("GET / HTTP/1.1\r\nhost: {there}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
    ] {
        let mut conn = Conn::open(relay.addr()).await.unwrap();
        conn.write(request.as_bytes()).await.unwrap();
        // The relay is a node as well: what is asked of it under another's name is its own to answer.
        let answer = soon(conn.answer()).await.unwrap();
        let is_own = request.contains("/v1/task HTTP") && request.starts_with("POST http");
        assert!(answer.status >= 400 || is_own, "{request}: {answer:?}");
    }
    // A bound worker has nobody called either, whichever type its frame is of.
    for kind in (0..=255_u8).filter(|kind| !matches!(kind, 0x06 | 0x07 | 0x09 | 0x0a)) {
        let mut worker = Worker::bound(workers(&relay), &format!("w-{kind}"), None, relay.addr().port()).await;
        worker.write(&frame(kind, format!("\x70{there}").as_bytes())).await;
        soon(async { while worker.frame().await.is_some() {} }).await;
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), elsewhere.accept()).await.is_err(), "nobody was called");
}
