//! What answers that want to become large may cost a client: compressed, nested, or of a million fields. Alone in its
//! file: it measures its own process.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use ciborium::Value as Cbor;
use iicp_core::options::{ClientOptions, DirectoryOptions, Discover, PolicyProfile};
use iicp_core::{CHAT, Client, Code, Directory, Task};
use iicp_tests::http::{Conn, addr};
use iicp_tests::native::{CALLS, Frame, Native, gzip_of_zeros, kind, map, raw};
use iicp_tests::process::Process;
use iicp_tests::size;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Most that any of them may cost; what it takes to send them is in it.
const MOST: u64 = 64 << 20;
const MILLION: usize = 1_000_000;

/// Part of an answer, made while it is sent, so that only who reads it can hold it.
#[derive(Clone, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Repeated(&'static [u8], usize),
    /// A number of seven digits between the two, from 0 on.
    Numbered(&'static str, &'static str, usize),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Repeated(bytes, times) => bytes.len() * times,
            Piece::Numbered(before, after, times) => (before.len() + 7 + after.len()) * times,
        }
    }

    async fn send(&self, to: &mut TcpStream) -> std::io::Result<()> {
        match self {
            Piece::Bytes(bytes) => to.write_all(bytes).await?,
            Piece::Repeated(bytes, times) => {
                for done in (0..*times).step_by(4096) {
                    to.write_all(&bytes.repeat((times - done).min(4096))).await?;
                }
            }
            Piece::Numbered(before, after, times) => {
                for done in (0..*times).step_by(4096) {
                    let some: String =
                        (done..(done + 4096).min(*times)).map(|n| format!("{before}{n:07}{after}")).collect();
                    to.write_all(some.as_bytes()).await?;
                }
            }
        }
        Ok(())
    }
}

fn text(text: impl Into<Vec<u8>>) -> Piece {
    Piece::Bytes(text.into())
}

fn nested() -> [Piece; 2] {
    [Piece::Repeated(b"[", MILLION), Piece::Repeated(b"]", MILLION)]
}

/// A million fields of an object; fewer where there is little time to read them.
fn fields() -> Piece {
    Piece::Numbered("\"k", "\":0,", size(200_000, MILLION))
}

/// An object with those.
fn wide() -> [Piece; 3] {
    [text("{"), fields(), text("\"last\":0}")]
}

/// A reply with this for its result, and `more` behind it.
fn reply(result: &[Piece], more: &str) -> Vec<Piece> {
    let head = text(r#"{"task_id":"t-1","status":"success","result":"#);
    [&[head][..], result, &[text(format!("{more}}}"))]].concat()
}

/// How a bomb comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// With these headers.
    Http(&'static str),
    /// As our own nodes answer, and as published ones do.
    Ours,
    Published,
}

/// Answers whatever is asked in the way in which it is asked; the bomb is the answer of a node to a task.
async fn peer(listener: TcpListener, way: Way, bomb: Vec<Piece>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let bomb = bomb.clone();
        open.spawn(async move {
            // Who has enough hangs up.
            let _ = match way {
                Way::Http(headers) => over_http(stream, headers, &bomb).await,
                Way::Ours | Way::Published => natively(Native(stream), way, &bomb).await,
            };
        });
    }
}

async fn over_http(mut stream: TcpStream, headers: &str, bomb: &[Piece]) -> std::io::Result<()> {
    let mut request = [0; 16 << 10];
    let _ = stream.read(&mut request).await?;
    let length: usize = bomb.iter().map(Piece::len).sum();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for piece in bomb {
        piece.send(&mut stream).await?;
    }
    while stream.read(&mut request).await? > 0 {}
    Ok(())
}

async fn natively(mut native: Native, way: Way, bomb: &[Piece]) -> std::io::Result<()> {
    while let Some(frame) = native.next().await? {
        match frame.kind {
            kind::INIT => {
                let ours = (3, Cbor::Array(vec![CALLS.into()]));
                let ack = [(1, 1.into()), (2, "node-1".into()), ours];
                native
                    .send(&iicp_tests::native::frame(
                        kind::ACK,
                        0,
                        &map(if way == Way::Ours { &ack } else { &ack[..2] }),
                    ))
                    .await?;
            }
            kind::CALL => answer(&mut native, &frame, way, bomb).await?,
            _ => {}
        }
    }
    Ok(())
}

/// A RESPONSE whose result is the bomb.
async fn answer(native: &mut Native, call: &Frame, way: Way, bomb: &[Piece]) -> std::io::Result<()> {
    let length: u32 = bomb.iter().map(Piece::len).sum::<usize>().try_into().unwrap();
    let (session, id) = ((2, call.get(2)), call.get(15));
    let (before, behind) = match way {
        Way::Ours => (vec![(1, 1.into()), session, (3, id), (4, "success".into())], (12, true.into())),
        _ => (vec![session], (15, id)),
    };
    let entries = u8::try_from(before.len()).unwrap() + 2;
    let head = [&[0xa0 | entries][..], &map(&before)[1..], &[5, 0x5a], &length.to_be_bytes()].concat();
    let last = &map(&[behind])[1..];
    let all = u32::try_from(head.len() + last.len()).unwrap() + length;
    native.send(&raw(1, kind::RESPONSE, 0, all, &head)).await?;
    for piece in bomb {
        piece.send(&mut native.0).await?;
    }
    native.send(last).await
}

/// Ends a task at a node that answers with a bomb.
async fn ends(way: Way, bomb: Vec<Piece>) -> Result<(), Code> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(peer(listener, way, bomb));
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let mut entry = json!({
        "node_id": "node-1", "endpoint": format!("http://{at}"), "region": "lab",
        "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
        "capabilities": [{ "intent": CHAT, "models": ["m"], "max_tokens": 9 }],
    });
    if !matches!(way, Way::Http(_)) {
        entry["transport_endpoint"] = format!("iicp://{at}").into();
    }
    let answer = Conn::open(addr(&directory.url())).await.unwrap().post("/v1/register", &entry).await.unwrap();
    assert!(answer.status < 300, "{answer:?}");
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    options.routing_policy.profile = PolicyProfile::DebugOverride;
    let client = Client::new(options).unwrap();
    let done = client.submit(Task::new(CHAT, json!({})).task_id("t-1").timeout(Duration::from_secs(30))).await;
    done.map(drop).map_err(|error| error.code())
}

/// Looks at the most that was held since the beginning.
fn cost_little(what: &str, before: u64, begun: Instant) {
    let (rise, took) = (Process::this().peak_memory().saturating_sub(before), begun.elapsed());
    assert!(rise <= MOST, "{what}: {rise} bytes");
    assert!(took < Duration::from_secs(20), "{what}: {took:?}");
}

#[tokio::test]
async fn an_answer_that_wants_to_become_large_is_refused_for_what_it_is_and_costs_little() {
    // What the first of a kind needs once is not a bomb's.
    assert_eq!(ends(Way::Http(""), reply(&[text("1")], "")).await, Ok(()));
    let before = Process::this().memory();
    let compressed = || vec![Piece::Bytes(gzip_of_zeros(600_000))];
    let two = || reply(&[text("1")], r#","result":2"#);
    let beside = [
        &[text("{"), Piece::Numbered("\"k", "\":0,", MILLION)][..],
        &[text(r#""task_id":"t-1","status":"success","result":1}"#)],
    ]
    .concat();
    let twice = text(b"\xa2\x61a\xf6\x61a\xf6");
    let many = size(200_000_u32, 1_000_000);
    let keys = [text([&[0xba][..], &many.to_be_bytes()].concat()), Piece::Numbered("\x68k", "\0", many as usize)];
    for (what, way, bomb, end) in [
        ("compressed", Way::Http("content-encoding: gzip\r\n"), compressed(), Err(Code::Malformed)),
        ("nested", Way::Http(""), reply(&nested(), ""), Err(Code::Malformed)),
        ("a million fields", Way::Http(""), reply(&wide(), ""), Ok(())),
        ("a million fields beside", Way::Http(""), beside, Ok(())),
        ("two results", Way::Http(""), two(), Err(Code::Malformed)),
        ("natively nested", Way::Ours, reply(&nested(), ""), Err(Code::Malformed)),
        ("natively a million fields", Way::Ours, reply(&wide(), ""), Ok(())),
        ("natively two results", Way::Ours, two(), Err(Code::Malformed)),
        ("nested CBOR", Way::Published, vec![Piece::Repeated(b"\x81", MILLION)], Err(Code::Malformed)),
        ("a million keys", Way::Published, keys.to_vec(), Ok(())),
        ("a key twice", Way::Published, vec![twice], Err(Code::Malformed)),
    ] {
        let begun = Instant::now();
        assert_eq!(ends(way, bomb).await, end, "{what}");
        cost_little(what, before, begun);
    }
    let refused = Err(Code::DirectoryMalformed);
    for (what, headers, bomb, end) in [
        ("a compressed list", "content-encoding: gzip\r\n", compressed(), refused),
        ("a nested list", "", [&[text(r#"{"nodes":"#)][..], &nested(), &[text("}")]].concat(), Ok(0)),
        // What nobody reads is passed over at no cost, however deep it is.
        (
            "a list beside what is nested",
            "",
            [&[text(r#"{"nodes":[],"more":"#)][..], &nested(), &[text("}")]].concat(),
            Ok(0),
        ),
        (
            "a list beside a million fields",
            "",
            [&[text(r#"{"nodes":[],"more":{"#)][..], &[Piece::Numbered("\"k", "\":0,", MILLION), text("\"k\":0}}")]]
                .concat(),
            refused,
        ),
    ] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut options = ClientOptions::default();
        options.directory = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(peer(listener, Way::Http(headers), bomb));
        let (client, begun) = (Client::new(options).unwrap(), Instant::now());
        let found = client.discover(Discover::intent(CHAT)).await;
        assert_eq!(found.map(|nodes| nodes.len()).map_err(|error| error.code()), end, "{what}");
        cost_little(what, before, begun);
    }
}
