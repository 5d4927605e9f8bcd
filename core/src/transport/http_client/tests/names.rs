//! Rows S2 and K20: answers that change, that are mixed, late, missing, or lead nowhere.

use futures_util::StreamExt as _;
use tokio::net::TcpSocket;

use super::super::super::resolve::Names;
use super::*;

/// Public by every rule, and assigned to nobody.
const NOWHERE: &str = "2f00::1";

#[tokio::test]
async fn a_name_that_turns_to_this_machine_is_not_followed_there() {
    let server = Server::start("127.0.0.1:0", ok).await;
    let port = server.addr.port();
    let client = client(|_, times| if times == 1 { ips(&[NOWHERE]) } else { ips(&["127.0.0.1"]) });
    let round = |round: usize| {
        let (client, url) = (client.clone(), format!("http://n{round}.example:{port}/"));
        async move {
            let first = Call { deadline: Instant::now() + Duration::from_millis(50), ..get(&url, Reach::Public) };
            let first = client.call(first).await.unwrap_err();
            assert!(matches!(first, NoReply::Connect | NoReply::Deadline), "{first:?}");
            assert_eq!(client.call(get(&url, Reach::Public)).await.unwrap_err(), NoReply::Refused);
        }
    };
    futures_util::stream::iter(0..1_000).for_each_concurrent(50, round).await;
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn every_new_connection_asks_and_judges_again() {
    let server = Server::start("127.0.0.1:0", ok_and_close).await;
    let url = format!("http://node.example:{}/", server.addr.port());
    let client = client(|_, times| if times <= 2 { ips(&["127.0.0.1"]) } else { ips(&["10.0.0.1"]) });
    for _ in 0..2 {
        assert_eq!(client.call(get(&url, Reach::Loopback)).await.unwrap().status, 200);
    }
    assert_eq!(client.call(get(&url, Reach::Loopback)).await.unwrap_err(), NoReply::Refused);
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn one_bad_answer_among_good_ones_refuses_them_all() {
    let server = Server::start("127.0.0.1:0", ok).await;
    let port = server.addr.port();
    for (mixed, reach) in [
        (&["8.8.8.8", "127.0.0.1"][..], Reach::Public),
        (&["127.0.0.1", "8.8.8.8"], Reach::Public),
        (&["2606:2800:220:1::1", "::ffff:127.0.0.1"], Reach::Public),
        (&["8.8.8.8", "64:ff9b::808:808"], Reach::Public),
        (&["8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "127.0.0.1"], Reach::Public),
        (&["127.0.0.1", "10.0.0.1"], Reach::Loopback),
        (&["127.0.0.1", "0.0.0.0"], Reach::Private),
    ] {
        let client = client(move |_, _| ips(mixed));
        let url = format!("http://node.example:{port}/");
        assert_eq!(client.call(get(&url, reach)).await.unwrap_err(), NoReply::Refused, "{mixed:?}");
    }
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn localhost_is_this_machine_whatever_the_resolver_says() {
    let server = Server::start("127.0.0.1:0", ok).await;
    let client = client(|_, _| panic!("nobody is asked"));
    let url = format!("http://LocalHost.:{}/", server.addr.port());
    for reach in [Reach::Loopback, Reach::Private] {
        assert_eq!(client.call(get(&url, reach)).await.unwrap().status, 200);
    }
    assert_eq!(client.call(get(&url, Reach::Public)).await.unwrap_err(), NoReply::Refused);
}

#[tokio::test]
async fn of_many_answers_a_few_of_each_family_are_tried_in_their_order() {
    let many: Vec<IpAddr> = (0..2_000u32).map(|n| IpAddr::V4((0x0800_0000 + n).into())).collect();
    let names = Names::new(says(move |_, _| [ips(&["2606::1"]), many.clone()].concat()));
    let tried = names.resolve("many.example", Reach::Public).await.unwrap();
    let tried: Vec<String> = tried.iter().map(|addr| addr.ip().to_string()).collect();
    assert_eq!(tried, ["2606::1", "8.0.0.0", "8.0.0.1", "8.0.0.2", "8.0.0.3"]);
}

/// An address that takes no connection and refuses none: its queue is full.
struct Blackhole(#[allow(dead_code)] (tokio::net::TcpListener, Vec<TcpStream>));

async fn blackhole(addr: SocketAddr) -> Blackhole {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind(addr).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
        waiting.push(stream.unwrap());
    }
    Blackhole((listener, waiting))
}

#[tokio::test]
async fn a_dead_address_first_costs_a_moment_and_no_more() {
    let server = Server::start("127.0.0.1:0", ok_and_close).await;
    let port = server.addr.port();
    let _v6 = blackhole(SocketAddr::new("::1".parse().unwrap(), port)).await;
    let _v4 = blackhole(SocketAddr::new("127.0.0.2".parse().unwrap(), port)).await;
    let url = format!("http://node.example:{port}/");
    for (answers, most) in [
        // The other family starts after 300 ms.
        (&["::1", "127.0.0.1"][..], Duration::from_secs(1)),
        (&["::1", "::1", "::1", "127.0.0.1"], Duration::from_secs(1)),
        // Addresses of one family share the three seconds for a connection.
        (&["127.0.0.2", "127.0.0.1"], Duration::from_secs(3)),
        (&["127.0.0.2", "127.0.0.2", "127.0.0.2", "127.0.0.1"], Duration::from_secs(3)),
    ] {
        let begun = Instant::now();
        let reply = client(move |_, _| ips(answers)).call(get(&url, Reach::Loopback)).await;
        assert_eq!(reply.map(|reply| reply.status), Ok(200), "{answers:?}");
        assert!(begun.elapsed() < most, "{answers:?} took {:?}", begun.elapsed());
    }
    let begun = Instant::now();
    let all_dead = client(|_, _| ips(&["::1", "127.0.0.2"])).call(get(&url, Reach::Loopback)).await;
    assert_eq!(all_dead.unwrap_err(), NoReply::Connect);
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_refusing_address_first_costs_a_moment_and_no_more() {
    let server = Server::start("127.0.0.1:0", ok).await;
    let url = format!("http://node.example:{}/", server.addr.port());
    for answers in [&["::1", "127.0.0.1"][..], &["127.0.0.2", "127.0.0.1"]] {
        let begun = Instant::now();
        let client = client(move |_, _| ips(answers));
        assert_eq!(client.call(get(&url, Reach::Loopback)).await.unwrap().status, 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "{answers:?} took {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_name_without_addresses_is_no_connection_at_once() {
    let begun = Instant::now();
    let client = client(|_, _| Vec::new());
    for reach in [Reach::Public, Reach::Loopback, Reach::Private] {
        assert_eq!(client.call(get("http://gone.example/", reach)).await.unwrap_err(), NoReply::Connect);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn the_system_is_asked_for_names() {
    let names = Names::new(Arc::new(SystemLookup));
    // Needs no network: the system reads a literal as itself.
    let found = names.resolve("127.0.0.1", Reach::Loopback).await.unwrap();
    assert_eq!(found, ["127.0.0.1:0".parse().unwrap()]);
    assert_eq!(names.resolve("127.0.0.1", Reach::Public).await.unwrap_err(), NoReply::Refused);
}

#[tokio::test]
async fn a_slow_name_ends_at_the_calls_deadline_and_delays_nobody_else() {
    let server = Server::start("127.0.0.1:0", ok).await;
    let port = server.addr.port();
    let client = client(|_, _| ips(&["127.0.0.1"]));
    let begun = Instant::now();
    // More than are asked at once.
    let slow: Vec<_> = (0..20)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let deadline = begun + Duration::from_secs(2);
                let call = Call { deadline, ..get(&format!("http://slow{n}.example:{port}/"), Reach::Loopback) };
                client.call(call).await.unwrap_err()
            })
        })
        .collect();
    tokio::task::yield_now().await;
    // Not a literal, not another reach's name: both go on.
    assert_eq!(client.call(get(server.url("/").as_str(), Reach::Loopback)).await.unwrap().status, 200);
    assert_eq!(client.call(get(&format!("http://quick.example:{port}/"), Reach::Private)).await.unwrap().status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    for call in slow {
        assert_eq!(call.await.unwrap(), NoReply::Deadline);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(server.accepted(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_name_gets_five_seconds() {
    let names = Names::new(says(|_, _| ips(&["8.8.8.8"])));
    let begun = Instant::now();
    assert_eq!(names.resolve("slow.example", Reach::Public).await.unwrap_err(), NoReply::Connect);
    assert_eq!(begun.elapsed().as_secs(), 5);
}
