//! Peers that speak HTTP as a case likes, byte by byte.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ledger::Page;
use super::request::{Request, read_request};
use super::setup::{Answer, Behaviour, Peer};

/// Replaces `$node0_id` and the like.
pub(super) type Names = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Accepts connections and behaves, until it is dropped.
pub(super) async fn serve(listener: TcpListener, peer: Peer, names: Names, page: Page) {
    let requests = AtomicUsize::new(0);
    let shared = Arc::new((peer, names, page, requests));
    let mut conns = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while conns.try_join_next().is_some() {}
        let shared = shared.clone();
        conns.spawn(async move {
            let (peer, names, page, requests) = &*shared;
            page.note(|counts| counts.connections += 1);
            // How the other side ends a conversation with such a peer is its own business.
            let _ = converse(stream, peer, names, page, requests).await;
        });
    }
}

async fn converse(
    stream: TcpStream,
    peer: &Peer,
    names: &Names,
    page: &Page,
    requests: &AtomicUsize,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await? {
        note(page, &request);
        let behaviour = peer.behaviour(requests.fetch_add(1, Relaxed));
        if !behave(stream.get_mut(), behaviour, &request, names).await? {
            break;
        }
    }
    Ok(())
}

/// Notes a request, and a task that was read to its end.
pub(super) fn note(page: &Page, request: &Request) {
    page.note(|counts| {
        *counts.requests.entry(format!("{} {}", request.method, request.path)).or_default() += 1;
        counts.traceparents.extend(request.traceparent.clone());
        if request.path == "/v1/task" {
            counts.begin(task_id(request));
        }
    });
}

fn task_id(request: &Request) -> String {
    let task: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    task["task_id"].as_str().unwrap_or_default().to_owned()
}

/// Answers one request; false when the connection is to end.
async fn behave(stream: &mut TcpStream, behaviour: &Behaviour, request: &Request, names: &Names) -> io::Result<bool> {
    let replace = |text: &str| names(&text.replace("$task_id", &task_id(request)));
    match behaviour {
        Behaviour::Closed | Behaviour::Silent => std::future::pending().await,
        Behaviour::Reset => {
            // Closing with unsent data to discard is what makes a reset of it.
            stream.set_zero_linger()?;
            Ok(false)
        }
        Behaviour::Answer(answer) => write_answer(stream, answer, answer.body.bytes(&replace)).await,
        Behaviour::Task(result) => {
            let reply = json!({ "task_id": task_id(request), "status": "success", "result": result });
            write_answer(stream, &Answer::default(), reply.to_string().into_bytes()).await
        }
        Behaviour::Raw(text) => {
            stream.write_all(&text.bytes(&replace)).await?;
            stream.shutdown().await?;
            Ok(false)
        }
        Behaviour::Endless(bytes) => endless(stream, *bytes).await,
        Behaviour::Drip(ms) => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n")
                .await?;
            loop {
                stream.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(*ms)).await;
            }
        }
        Behaviour::Interim => loop {
            stream.write_all(&b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000)).await?;
        },
    }
}

async fn write_answer(stream: &mut TcpStream, answer: &Answer, body: Vec<u8>) -> io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\ncontent-type: {}\r\n", answer.status, answer.content_type);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    for n in 0..answer.more_headers {
        head.push_str(&format!("x-{n:05}: y\r\n"));
    }
    if answer.status != 204 {
        let length = answer.content_length.unwrap_or(body.len() as u64);
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.into_bytes(), body].concat()).await?;
    Ok(answer.content_length.is_none())
}

async fn endless(stream: &mut TcpStream, bytes: u64) -> io::Result<bool> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n\"").await?;
    let block = vec![b'a'; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(block.len() as u64);
        stream.write_all(&block[..usize::try_from(piece).unwrap_or(block.len())]).await?;
        left -= piece;
    }
    stream.write_all(b"\"").await?;
    stream.shutdown().await?;
    Ok(false)
}
