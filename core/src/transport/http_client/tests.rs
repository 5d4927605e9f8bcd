//! Real sockets, and a resolver that says what the test wants.

#![allow(clippy::unwrap_used)]

mod fixture;
mod names;
mod redirects;

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use super::super::resolve::Answer;
use super::*;

const LONG: Duration = Duration::from_secs(30);

type Script = dyn Fn(&str) -> String + Send + Sync;

/// A server that answers what the script says to each request, and keeps what it was sent.
struct Server {
    addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(at: &str, script: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind(at).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (accepted, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let script: Arc<Script> = Arc::new(script);
        let (counted, kept) = (accepted.clone(), heard.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, SeqCst);
                tokio::spawn(converse(stream, script.clone(), kept.clone()));
            }
        });
        Server { addr, accepted, heard }
    }

    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.addr)).unwrap()
    }

    fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

async fn converse(mut stream: TcpStream, script: Arc<Script>, heard: Arc<Mutex<Vec<String>>>) {
    let mut seen = Vec::new();
    loop {
        let (mut chunk, mut whole) = ([0; 4_096], None);
        while whole.is_none() {
            let Ok(n @ 1..) = stream.read(&mut chunk).await else { return };
            seen.extend_from_slice(&chunk[..n]);
            whole = end_of_request(&seen);
        }
        let request = String::from_utf8(seen.drain(..whole.unwrap()).collect()).unwrap();
        let answer = script(&request);
        heard.lock().unwrap().push(request);
        if stream.write_all(answer.as_bytes()).await.is_err() || answer.contains("connection: close") {
            return;
        }
    }
}

fn end_of_request(seen: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(seen).ok()?;
    let head = text.find("\r\n\r\n")? + 4;
    let length = text[..head].lines().find_map(|line| line.strip_prefix("content-length: "));
    let end = head + length.map_or(0, |length| length.parse::<usize>().unwrap());
    (seen.len() >= end).then_some(end)
}

fn ok(_: &str) -> String {
    "HTTP/1.1 200 OK\r\ndate: Tue, 15 Nov 1994 08:12:31 GMT\r\ncontent-length: 2\r\n\r\nok".into()
}

fn ok_and_close(_: &str) -> String {
    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok".into()
}

/// Says what a test wants, for a name and the number of times that it was asked for.
struct Says<F>(F, Mutex<std::collections::HashMap<String, usize>>);

impl<F: Fn(&str, usize) -> Vec<IpAddr> + Send + Sync> Lookup for Says<F> {
    fn lookup(&self, name: &str, place: OwnedSemaphorePermit) -> Answer {
        let mut times = self.1.lock().unwrap();
        let times = times.entry(name.to_owned()).or_default();
        *times += 1;
        let answer = (self.0)(name, *times);
        let is_slow = name.starts_with("slow");
        Box::pin(async move {
            if is_slow {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            drop(place);
            if answer.is_empty() { Err(std::io::ErrorKind::NotFound.into()) } else { Ok(answer) }
        })
    }
}

fn ips(all: &[&str]) -> Vec<IpAddr> {
    all.iter().map(|ip| ip.parse().unwrap()).collect()
}

fn says(answers: impl Fn(&str, usize) -> Vec<IpAddr> + Send + Sync + 'static) -> Arc<dyn Lookup> {
    Arc::new(Says(answers, Mutex::default()))
}

fn client(answers: impl Fn(&str, usize) -> Vec<IpAddr> + Send + Sync + 'static) -> HttpClient {
    HttpClient::with_lookup(says(answers)).unwrap()
}

fn get(url: &str, reach: Reach) -> Call<'static> {
    Call::new(Method::GET, Url::parse(url).unwrap(), reach, Instant::now() + LONG, 1 << 20)
}

#[tokio::test]
async fn a_connection_is_used_again_and_its_time_is_told_once() {
    let server = Server::start("127.0.0.1:0", ok).await;
    let client = client(|_, times| if times == 1 { ips(&["127.0.0.1"]) } else { ips(&["10.0.0.1"]) });
    let by_name = format!("http://node.example:{}/", server.addr.port());
    for url in [server.url("/").to_string(), by_name] {
        let before = server.accepted();
        let first = client.call(get(&url, Reach::Loopback)).await.unwrap();
        let second = client.call(get(&url, Reach::Loopback)).await.unwrap();
        assert_eq!(server.accepted() - before, 1, "{url}");
        assert!(first.connect > Duration::ZERO && first.first_byte > Duration::ZERO, "{url} {first:?}");
        assert_eq!(second.connect, Duration::ZERO, "{url}");
        assert_eq!((first.status, first.date, &first.body[..]), (200, Some(784_887_151), &b"ok"[..]), "{url}");
    }
}

#[tokio::test]
async fn a_connection_that_reached_far_is_not_lent_to_a_call_that_does_not() {
    let server = Server::start("127.0.0.1:0", ok).await;
    let client = client(|_, _| ips(&["127.0.0.1"]));
    let url = format!("http://node.example:{}/", server.addr.port());
    assert_eq!(client.call(get(&url, Reach::Private)).await.unwrap().status, 200);
    assert_eq!(client.call(get(&url, Reach::Public)).await.unwrap_err(), NoReply::Refused);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn literal_ipv6_is_called() {
    let server = Server::start("[::1]:0", ok).await;
    let client = client(|_, _| Vec::new());
    let reply = client.call(get(server.url("/x").as_str(), Reach::Loopback)).await.unwrap();
    assert_eq!(reply.status, 200);
    assert!(server.heard()[0].contains(&format!("host: {}\r\n", server.addr)), "{:?}", server.heard());
}

#[tokio::test]
async fn headers_are_sent_as_asked_and_nothing_else_is() {
    let server = Server::start("127.0.0.1:0", ok).await;
    let client = client(|_, _| Vec::new());
    let trace = Traceparent::random();
    let call = Call {
        traceparent: Some(&trace),
        bearer: Some("b1"),
        consumer_token: Some("c1"),
        node_id: Some("n1"),
        ..get(server.url("/").as_str(), Reach::Loopback)
    };
    client.call(call).await.unwrap();
    let heard = server.heard().remove(0);
    for line in ["authorization: Bearer b1", "x-iicp-consumer-token: c1", "x-node-id: n1", "accept-encoding: identity"]
    {
        assert!(heard.contains(&format!("{line}\r\n")), "{heard}");
    }
    client.call(get(server.url("/").as_str(), Reach::Loopback)).await.unwrap();
    let bare = server.heard().remove(1);
    assert!(!bare.contains("authorization") && !bare.contains("x-") && !bare.contains("user-agent"), "{bare}");
}

#[tokio::test]
async fn a_compressed_answer_is_refused_and_never_unpacked() {
    for (coding, expected) in [
        ("gzip", Err(NoReply::Malformed)),
        ("identity, br", Err(NoReply::Malformed)),
        ("identity\r\ncontent-encoding: deflate", Err(NoReply::Malformed)),
        ("Identity", Ok(200)),
        ("", Ok(200)),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: 2\r\n\r\nok");
        let server = Server::start("127.0.0.1:0", move |_| answer.clone()).await;
        let reply = client(|_, _| Vec::new()).call(get(server.url("/").as_str(), Reach::Loopback)).await;
        assert_eq!(reply.map(|reply| reply.status), expected, "{coding}");
    }
}

/// One thread has to serve the flood and the deadline.
#[tokio::test]
async fn a_flood_of_interim_answers_ends_at_the_deadline_and_the_connection_is_closed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let flood = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        // Who answers before he is asked does not speak HTTP, and is cut for that.
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(1_000);
        loop {
            if let Err(error) = stream.write_all(hints.as_bytes()) {
                return error.kind();
            }
        }
    });
    let begun = Instant::now();
    let call = Call { deadline: begun + Duration::from_secs(1), ..get(&url, Reach::Loopback) };
    assert_eq!(client(|_, _| Vec::new()).call(call).await.unwrap_err(), NoReply::Deadline);
    // Not "at the deadline": the flood and its judge share two busy cores here.
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    // The connection's task sees that nobody waits any more, and drops it.
    let ended = tokio::task::spawn_blocking(move || flood.join().unwrap()).await.unwrap();
    assert!(matches!(ended, std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset), "{ended:?}");
}

#[tokio::test]
async fn tls_is_1_3_and_nothing_older() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let hello = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut hello = vec![0; 5];
        stream.read_exact(&mut hello).await.unwrap();
        let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        hello.resize(5 + length, 0);
        stream.read_exact(&mut hello[5..]).await.unwrap();
        hello
    });
    assert_eq!(client(|_, _| Vec::new()).call(get(&url, Reach::Loopback)).await.unwrap_err(), NoReply::Connect);
    // The extension supported_versions, with one version in it.
    let only_1_3 = [0, 43, 0, 3, 2, 3, 4];
    assert!(hello.await.unwrap().windows(only_1_3.len()).any(|part| part == only_1_3));
}
