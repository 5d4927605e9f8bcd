//! Workers with a connection of their own.

use std::time::{Duration, Instant};

use iicp_core::options::RelayServerOptions;
use iicp_tests::http::Conn;
use serde_json::json;

use super::peer::{ACK, INIT, Issuer, PING, PONG, Worker, bind, bytes, frame};
use super::{assert_refused, get, relay, send, send_bytes, soon, task, workers};

fn strict(issuer: &Issuer) -> impl FnOnce(&mut RelayServerOptions) {
    let key = issuer.public_key();
    move |options| {
        options.ticket_required = Some(true);
        options.ticket_key = Some(key);
    }
}

#[tokio::test]
async fn a_published_worker_is_bound_and_gets_tasks_byte_for_byte() {
    let relay = relay(|_| ()).await;
    assert_refused(&get(&relay, "/v1/relay-for/w-1/iicp/health").await, 404, "IICP-E030");
    assert_refused(&send(&relay, "w-1", task(1)).await, 404, "IICP-E030");
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    worker.write(PING).await;
    assert_eq!(worker.frame().await, Some((0x0a, PONG[12..].to_vec())));
    let health = get(&relay, "/v1/relay-for/w-1/iicp/health").await;
    assert_eq!(health.json(), json!({"status": "ok", "node_id": "w-1", "via_relay": true, "models": ["m"]}));
    let body = br#" {"task_id":"t-1", "intent":"urn:iicp:intent:llm:chat:v1","payload" : {"n":1.50}} "#;
    let (answer, ()) = tokio::join!(send_bytes(&relay, "w-1", body), async {
        let call = worker.call().await.unwrap();
        assert_eq!(call.task, body, "as it came");
        worker.answer(&call, &json!({"result": {"ok": true}})).await;
    });
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({"task_id": "t-1", "status": "completed", "result": {"ok": true}, "generated_by_ai": true})
    );
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn the_older_path_serves_bound_workers_and_calls_nobody_else() {
    let relay = relay(|_| ()).await;
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    let post = async |body: serde_json::Value| {
        let mut conn = Conn::open(relay.addr()).await.unwrap();
        conn.post("/v1/relay", &body).await.unwrap()
    };
    let (answer, ()) = tokio::join!(post(json!({"target_node_id": "w-1", "task": task(1)})), async {
        let call = worker.call().await.unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&call.task).unwrap(), task(1));
        worker.answer(&call, &json!({"task_id": "t-1", "status": "success", "result": 7})).await;
    });
    assert_eq!(answer.json(), json!({"task_id": "t-1", "status": "success", "result": 7, "generated_by_ai": true}));
    for target in ["w-2", "http://127.0.0.1:1/", "127.0.0.1", "../w-1", ""] {
        assert_refused(&post(json!({"target_node_id": target, "task": task(1)})).await, 404, "IICP-E030");
    }
    for body in [json!({}), json!({"target_node_id": "w-1"}), json!({"task": {}})] {
        assert_refused(&post(body).await, 422, "IICP-E000");
    }
}

#[tokio::test]
async fn many_calls_share_a_connection_and_come_back_in_any_order() {
    let relay = relay(|_| ()).await;
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    let callers = (0..100).map(|n| {
        let relay = &relay;
        async move {
            let answer = send(relay, "w-1", task(n)).await;
            assert_eq!(answer.json()["result"]["n"], n, "{answer:?}");
        }
    });
    let answering = async {
        let mut calls = Vec::new();
        for _ in 0..100 {
            calls.push(worker.call().await.unwrap());
        }
        // Strange answers first: of nobody's call, of no call at all, twice.
        worker.answer_bytes("00000000-0000-4000-8000-000000000000", b"{}").await;
        worker.answer_bytes("no uuid", b"{}").await;
        for call in calls.iter().rev() {
            let task: serde_json::Value = serde_json::from_slice(&call.task).unwrap();
            worker.answer(call, &json!({"result": task["payload"]})).await;
            worker.answer(call, &json!({"result": "again"})).await;
        }
    };
    soon(async { tokio::join!(join_all(callers), answering) }).await;
}

async fn join_all(futures: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut set = Vec::new();
    for future in futures {
        set.push(Box::pin(future));
    }
    // Polled together, without another dependency.
    std::future::poll_fn(|cx| {
        set.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if set.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn a_worker_lost_mid_call_fails_its_calls_at_once() {
    let relay = relay(|_| ()).await;
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    let begun = Instant::now();
    let (task, short) = (task(1), super::task(2));
    let (first, second, ()) = tokio::join!(send(&relay, "w-1", &task), send(&relay, "w-1", &short), async {
        worker.call().await.unwrap();
        worker.call().await.unwrap();
        drop(worker);
    });
    assert_refused(&first, 502, "IICP-E031");
    assert_refused(&second, 502, "IICP-E031");
    assert!(begun.elapsed() < Duration::from_secs(3), "its deadline was 20 s");
    assert_refused(&get(&relay, "/v1/relay-for/w-1/iicp/health").await, 404, "IICP-E030");
}

#[tokio::test]
async fn a_worker_that_is_slow_costs_its_callers_no_more_than_their_own_time() {
    let relay = relay(|_| ()).await;
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    let mut task = task(1);
    task["constraints"]["timeout_ms"] = 300.into();
    let late = send(&relay, "w-1", &task).await;
    assert_refused(&late, 504, "IICP-E031");
    let call = worker.call().await.unwrap();
    // The answer that comes too late is nobody's, and does no harm.
    worker.answer(&call, &json!({"result": 1})).await;
    let (answer, ()) = tokio::join!(send(&relay, "w-1", super::task(2)), async {
        let call = worker.call().await.unwrap();
        worker.answer(&call, &json!({"result": 2})).await;
    });
    assert_eq!(answer.json()["result"], 2);
}

#[tokio::test]
async fn a_worker_that_stops_reading_fills_its_own_share_and_no_other() {
    let relay = relay(|options| options.max_calls_per_worker = 8).await;
    let mut stalled = Worker::bound(workers(&relay), "stalled", None, relay.addr().port()).await;
    let mut good = Worker::bound(workers(&relay), "good", None, relay.addr().port()).await;
    let hanging: Vec<_> = (0..8)
        .map(|n| {
            let addr = relay.addr();
            tokio::spawn(async move {
                let mut conn = Conn::open(addr).await.unwrap();
                let body = task(n).to_string();
                conn.write(&iicp_tests::http::post("/v1/relay-for/stalled/v1/task", "", body.as_bytes()))
                    .await
                    .unwrap();
                conn.answer().await
            })
        })
        .collect();
    for _ in 0..8 {
        soon(stalled.call()).await.unwrap();
    }
    let full = soon(send(&relay, "stalled", task(99))).await;
    assert_refused(&full, 503, "capacity_exceeded");
    assert_eq!(full.header("retry-after"), Some("1"));
    let (answer, ()) = tokio::join!(send(&relay, "good", task(1)), async {
        let call = good.call().await.unwrap();
        good.answer(&call, &json!({"result": 1})).await;
    });
    assert_eq!(answer.status, 200);
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn only_the_owner_of_an_id_displaces_its_session() {
    let issuer = Issuer::new(1);
    let relay = relay(strict(&issuer)).await;
    let (addr, port) = (workers(&relay), relay.addr().port());
    let mut ghost = Worker::bound(addr, "w-1", Some(&issuer.ticket("w-1", 1)), port).await;
    Worker::refused(addr, "w-1", None, "relay bind ticket required").await;
    Worker::refused(addr, "w-1", Some("x"), "relay bind ticket invalid").await;
    Worker::refused(addr, "w-1", Some(&Issuer::new(2).ticket("w-1", 2)), "relay bind ticket invalid").await;
    Worker::refused(addr, "w-1", Some(&issuer.ticket("w-2", 3)), "relay bind ticket invalid").await;
    Worker::refused(addr, "w-1", Some(&issuer.ticket("w-1", 1)), "relay bind ticket replayed").await;
    let expired = json!({"typ": "relay-bind-ticket", "jti": "0".repeat(32), "sub": "w-1", "aud": "*", "exp": 1});
    Worker::refused(addr, "w-1", Some(&issuer.sign(&expired)), "relay bind ticket invalid").await;
    let pending = tokio::spawn({
        let addr = relay.addr();
        async move {
            let mut conn = Conn::open(addr).await.unwrap();
            let body = task(1).to_string();
            conn.write(&iicp_tests::http::post("/v1/relay-for/w-1/v1/task", "", body.as_bytes())).await.unwrap();
            conn.answer().await.unwrap()
        }
    });
    ghost.call().await.unwrap();
    let begun = Instant::now();
    let mut owner = Worker::bound(addr, "w-1", Some(&issuer.ticket("w-1", 4)), port).await;
    assert_refused(&pending.await.unwrap(), 502, "IICP-E031");
    assert!(begun.elapsed() < Duration::from_secs(1), "a ghost is displaced at once");
    assert_eq!(ghost.frame().await, Some((7, Vec::new())), "and told so");
    assert_eq!(ghost.frame().await, None);
    let (answer, ()) = tokio::join!(send(&relay, "w-1", task(2)), async {
        let call = owner.call().await.unwrap();
        owner.answer(&call, &json!({"result": "owner"})).await;
    });
    assert_eq!(answer.json()["result"], "owner");
}

#[tokio::test]
async fn without_tickets_a_live_session_stays() {
    let relay = relay(|_| ()).await;
    let (addr, port) = (workers(&relay), relay.addr().port());
    let mut worker = Worker::bound(addr, "w-1", None, port).await;
    Worker::refused(addr, "w-1", None, "worker_id already bound to an alive session").await;
    let (kind, _) = worker.frame().await.unwrap();
    assert_eq!(kind, 9, "who is doubted is asked");
    worker.write(b"IICP\x01\x07\0\0\0\0\0\0").await;
    assert_eq!(worker.frame().await, None);
    soon(async { while Worker::ask(addr, "w-1", None).await.1.is_none_or(|verdict| verdict[2] != 0x62) {} }).await;
}

#[tokio::test]
async fn a_flood_of_binds_is_slowed_and_others_get_in() {
    let issuer = Issuer::new(1);
    let key = issuer.public_key();
    let relay = relay(|options| {
        options.binds_per_minute = 5;
        options.ticket_key = Some(key);
    })
    .await;
    let (addr, port) = (workers(&relay), relay.addr().port());
    let mut flood = Vec::new();
    for n in 0..5 {
        flood.push(Worker::bound(addr, &format!("f-{n}"), None, port).await);
    }
    for n in 5..50 {
        Worker::refused(addr, &format!("f-{n}"), None, "relay_bind_rate_limited").await;
    }
    let mut owner = Worker::bound(addr, "owner", Some(&issuer.ticket("owner", 1)), port).await;
    owner.write(PING).await;
    assert_eq!(owner.frame().await.unwrap().0, 0x0a);
}

#[tokio::test]
async fn who_does_not_speak_the_protocol_gets_no_answer() {
    let relay = relay(|_| ()).await;
    let big = [&b"IICP\x01\x01\0\0"[..], &u32::MAX.to_be_bytes()].concat();
    let too_big = [INIT, b"IICP\x01\x0b\0\0\x00\x10\x00\x00"].concat();
    for (what, sent, acked) in [
        ("HTTP", &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], false),
        ("another first frame", PING, false),
        ("a bind first", &bind("w", None), false),
        ("a frame of 4 GiB", &big, false),
        ("no bind", &[INIT, PING].concat(), true),
        ("a bind of a megabyte", &too_big, true),
        ("an empty id", &[INIT, &bind("", None)].concat(), true),
        ("an id that is a path", &[INIT, &bind("../x", None)].concat(), true),
        ("a bind that is no CBOR", &[INIT, &frame(0x0b, b"\xff\xff")].concat(), true),
        ("a bind without an id", &[INIT, &frame(0x0b, b"\xa0")].concat(), true),
    ] {
        let mut peer = Worker::connect(workers(&relay)).await;
        peer.write(sent).await;
        if acked {
            assert_eq!(peer.frame().await, Some((2, ACK[12..].to_vec())), "{what}");
        }
        assert_eq!(soon(peer.frame()).await, None, "{what}");
    }
}

#[tokio::test]
async fn a_bound_worker_that_says_what_it_must_not_is_let_go_and_its_neighbour_stays() {
    let relay = relay(|_| ()).await;
    let (addr, port) = (workers(&relay), relay.addr().port());
    let mut neighbour = Worker::bound(addr, "neighbour", None, port).await;
    let unasked = [&b"IICP\x01\x06\0\0"[..], &(1_u32 << 20).to_be_bytes()].concat();
    let ping = [&b"IICP\x01\x09\0\0"[..], &(1_u32 << 20).to_be_bytes()].concat();
    for (n, (what, sent)) in [
        ("a call", frame(5, &[vec![0xa1, 5], bytes(b"{}")].concat())),
        ("another INIT", INIT.to_vec()),
        ("another bind", bind("x", None)),
        ("a type that is ours", frame(0xf0, b"\xa0")),
        ("no type", frame(0, b"")),
        ("an answer of a megabyte that nobody asked for", unasked),
        ("a ping of a megabyte", ping),
        ("an answer that is no CBOR", frame(6, b"\xff\xff")),
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another version", b"IICP\x02\x09\0\0\0\0\0\0".to_vec()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut worker = Worker::bound(addr, &format!("w-{n}"), None, port).await;
        worker.write(&sent).await;
        soon(async { while worker.frame().await.is_some() {} }).await;
        assert_refused(&get(&relay, &format!("/v1/relay-for/w-{n}/iicp/health")).await, 404, "IICP-E030");
        let _ = what;
    }
    neighbour.write(PING).await;
    assert_eq!(neighbour.frame().await.unwrap().0, 0x0a);
}

#[tokio::test]
async fn a_path_means_one_thing_or_nothing() {
    let relay = relay(|_| ()).await;
    let _worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    for id in [
        "w-1%00", "%77-1", "w-1/..", "../w-1", "..%2fw-1", "w-1%2f", "w-1%20", ".", "..", "", "w-1;x", "w-1\\",
        "%2e%2e", "w-1%2e",
    ] {
        for end in ["iicp/health", "v1/task"] {
            let answer = get(&relay, &format!("/v1/relay-for/{id}/{end}")).await;
            assert_eq!(answer.status, 404, "{id}");
        }
    }
    for path in
        ["/v1/relay-for/w-1", "/v1/relay-for/w-1/v1/peers", "/v1/relay-for/w-1/metrics", "/v1/relay/x", "/v1/relayed"]
    {
        assert_refused(&get(&relay, path).await, 404, "not_found");
    }
    let mut conn = Conn::open(relay.addr()).await.unwrap();
    conn.write(b"GET http://elsewhere/v1/task HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_ne!(conn.answer().await.unwrap().status, 200);
    conn.write(b"CONNECT elsewhere:80 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(conn.answer().await.is_ok_and(|answer| answer.status >= 400));
}

#[tokio::test]
async fn bodies_that_are_no_task_or_too_large_never_reach_the_worker() {
    let relay = relay(|_| ()).await;
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    for body in [&b""[..], b"[]", b"x", b"{", b"null"] {
        assert_refused(&send_bytes(&relay, "w-1", body).await, 422, "validation_error");
    }
    let large = format!("{{\"x\":\"{}\"}}", "a".repeat((16 << 20) + 1));
    assert_refused(&send_bytes(&relay, "w-1", large.as_bytes()).await, 413, "request_too_large");
    let (answer, ()) = tokio::join!(send(&relay, "w-1", task(7)), async {
        let call = worker.call().await.unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&call.task).unwrap(), task(7), "the first it sees");
        worker.answer_bytes(&call.id, b"[]").await;
    });
    assert_refused(&answer, 502, "IICP-E031");
}

#[tokio::test]
async fn a_silent_worker_of_the_published_kind_is_let_go_after_a_while() {
    let relay = relay(|options| {
        options.ping_interval_ms = 500;
        options.pong_timeout_ms = 500;
        options.silence_timeout_ms = 2_000;
    })
    .await;
    let (addr, port) = (workers(&relay), relay.addr().port());
    let mut silent = Worker::bound(addr, "silent", None, port).await;
    let mut talking = Worker::bound(addr, "talking", None, port).await;
    let talk = async {
        for _ in 0..16 {
            talking.write(PING).await;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let (pings, ()) = soon(async {
        tokio::join!(
            async {
                let mut pings = 0;
                while let Some((kind, _)) = silent.frame().await {
                    pings += usize::from(kind == 9);
                }
                pings
            },
            talk
        )
    })
    .await;
    assert!(pings >= 2, "it is asked, though it will not answer");
    assert_eq!(get(&relay, "/v1/relay-for/talking/iicp/health").await.status, 200);
    assert_eq!(get(&relay, "/v1/relay-for/silent/iicp/health").await.status, 404);
}

#[tokio::test]
async fn a_worker_of_ours_that_answers_no_ping_is_gone_and_its_calls_with_it() {
    let relay = relay(|options| {
        options.ping_interval_ms = 500;
        options.pong_timeout_ms = 500;
    })
    .await;
    let mut worker = Worker::connect(workers(&relay)).await;
    let hello = [&b"\xa2\x01\x01\x05\x81\x78\x1d"[..], b"urn:iicp:custom:core:relay:v1"].concat();
    worker.write(&frame(1, &hello)).await;
    let hello = [&b"\xa2\x01\x01\x03\x81\x78\x1d"[..], b"urn:iicp:custom:core:relay:v1"].concat();
    assert_eq!(worker.frame().await, Some((2, hello)), "it is told that it is understood");
    worker.write(&bind("w-1", None)).await;
    assert_eq!(worker.frame().await.unwrap().0, 0x0c);
    let begun = Instant::now();
    // The connection stands, but nothing comes over it any more.
    let answer = soon(send(&relay, "w-1", task(1))).await;
    assert_refused(&answer, 502, "IICP-E031");
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_caller_that_goes_away_frees_what_its_call_held() {
    let relay = relay(|options| options.max_calls = 1).await;
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    let mut conn = Conn::open(relay.addr()).await.unwrap();
    conn.write(&iicp_tests::http::post("/v1/relay-for/w-1/v1/task", "", task(1).to_string().as_bytes())).await.unwrap();
    worker.call().await.unwrap();
    assert_refused(&send(&relay, "w-1", task(2)).await, 503, "capacity_exceeded");
    drop(conn);
    soon(async {
        loop {
            let mut quick = task(3);
            quick["constraints"]["timeout_ms"] = 50.into();
            if send(&relay, "w-1", &quick).await.status == 504 {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn both_families_are_listened_on() {
    let relay = relay(|_| ()).await;
    let port = relay.relay_addr().unwrap().port();
    let _v4 = Worker::bound(([127, 0, 0, 1], port).into(), "v4", None, relay.addr().port()).await;
    let _v6 = Worker::bound((std::net::Ipv6Addr::LOCALHOST, port).into(), "v6", None, relay.addr().port()).await;
}

#[tokio::test]
async fn a_relay_that_stops_lets_calls_end() {
    let relay = relay(|_| ()).await;
    let addr = relay.addr();
    let mut worker = Worker::bound(workers(&relay), "w-1", None, addr.port()).await;
    let caller = tokio::spawn(async move {
        let mut conn = Conn::open(addr).await.unwrap();
        conn.write(&iicp_tests::http::post("/v1/relay-for/w-1/v1/task", "", task(1).to_string().as_bytes()))
            .await
            .unwrap();
        conn.answer().await.unwrap()
    });
    let call = worker.call().await.unwrap();
    let stopping = tokio::spawn(relay.shutdown(Duration::from_secs(5)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    worker.answer(&call, &json!({"result": 1})).await;
    assert_eq!(caller.await.unwrap().json()["result"], 1);
    assert_eq!(soon(worker.frame()).await, Some((7, Vec::new())));
    assert!(soon(stopping).await.unwrap(), "in time");
}

#[tokio::test]
async fn what_passes_through_a_relay_is_counted_and_shown() {
    let relay = relay(|_| ()).await;
    let mut worker = Worker::bound(workers(&relay), "w-1", None, relay.addr().port()).await;
    Worker::refused(workers(&relay), "w-1", None, "worker_id already bound to an alive session").await;
    let (answer, ()) = tokio::join!(send(&relay, "w-1", task(1)), async {
        let call = worker.call().await.unwrap();
        worker.answer(&call, &json!({"result": 1})).await;
    });
    assert_eq!(answer.status, 200);
    assert_refused(&send(&relay, "w-2", task(2)).await, 404, "IICP-E030");
    let page = String::from_utf8(get(&relay, "/metrics").await.body).unwrap();
    for line in [
        "iicp_relay_workers{way=\"published\"} 1".to_owned(),
        "iicp_relay_workers{way=\"ours\"} 0".to_owned(),
        "iicp_relay_calls 0".to_owned(),
        "iicp_relay_calls_total{outcome=\"answered\"} 1".to_owned(),
        "iicp_relay_calls_total{outcome=\"unbound\"} 1".to_owned(),
        format!("iicp_relay_bytes_total{{direction=\"to_worker\"}} {}", task(1).to_string().len()),
        format!("iicp_relay_bytes_total{{direction=\"to_caller\"}} {}", json!({"result": 1}).to_string().len()),
        "iicp_relay_binds_total{outcome=\"bound\"} 1".to_owned(),
        "iicp_relay_binds_total{outcome=\"already_bound\"} 1".to_owned(),
    ] {
        assert!(page.lines().any(|shown| shown == line), "{line}\n{page}");
    }
    let health = get(&relay, "/iicp/health").await.json();
    assert_eq!((&health["relay"]["workers"], &health["relay"]["calls"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn a_page_has_the_same_rate_through_a_relay_as_at_a_node() {
    let relay = relay(|_| ()).await;
    let post = async |origin: &str| {
        let mut conn = Conn::open(relay.addr()).await.unwrap();
        let headers = format!("origin: {origin}\r\n");
        let body = task(1).to_string();
        conn.write(&iicp_tests::http::post("/v1/relay-for/w-1/v1/task", &headers, body.as_bytes())).await.unwrap();
        conn.answer().await.unwrap()
    };
    for _ in 0..120 {
        assert_eq!(post("https://a.example").await.status, 404, "nobody is bound there");
    }
    let refused = post("https://a.example").await;
    assert!(refused.status == 429 && refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(post("https://b.example").await.status, 404);
}
