//! A peer of the directory: asks over a socket, and checks what holds for every answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use iicp_core::options::DirectoryOptions;
use iicp_core::{CHAT, Directory};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer may take longer, however busy the machine is.
pub(crate) const LIVE: Duration = Duration::from_secs(30);

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        let body = self.json();
        // One refusal is a bare code.
        let code = if body["error"].is_string() { &body["error"] } else { &body["error"]["code"] };
        assert_eq!(code, &body["code"], "{body}");
        body["code"].as_str().unwrap().to_owned()
    }
}

/// A connection that sends what it is told to, well-formed or not.
pub(crate) struct Wire(TcpStream, Vec<u8>);

impl Wire {
    pub(crate) async fn connect(addr: SocketAddr) -> Wire {
        Wire(TcpStream::connect(addr).await.unwrap(), Vec::new())
    }

    /// An answer that is a JSON object, as all but one are.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Reply {
        let reply = self.answer(request).await;
        assert_eq!(reply.headers["content-type"], "application/json", "{}", reply.text);
        assert!(serde_json::from_str::<Value>(&reply.text).is_ok_and(|body| body.is_object()), "{}", reply.text);
        reply
    }

    /// An answer of whatever kind.
    pub(crate) async fn answer(&mut self, request: &[u8]) -> Reply {
        timeout(LIVE, async {
            self.0.write_all(request).await.unwrap();
            let head = loop {
                if let Some(end) = self.1.windows(4).position(|four| four == b"\r\n\r\n") {
                    break self.1.drain(..end + 4).collect::<Vec<u8>>();
                }
                assert_ne!(self.0.read_buf(&mut self.1).await.unwrap(), 0, "closed before an answer");
            };
            let head = String::from_utf8(head).unwrap();
            let mut lines = head.split("\r\n");
            let status = lines.next().unwrap()[9..12].parse().unwrap();
            let headers: HashMap<String, String> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers["content-length"].parse().unwrap();
            while self.1.len() < length {
                assert_ne!(self.0.read_buf(&mut self.1).await.unwrap(), 0, "closed inside an answer");
            }
            let text = String::from_utf8(self.1.drain(..length).collect()).unwrap();
            // What holds for every answer, whatever was asked.
            assert!(!headers.contains_key("access-control-allow-origin"), "{head}");
            Reply { status, headers, text }
        })
        .await
        .expect("no answer in time")
    }
}

pub(crate) fn request(line: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!("{line} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    format!("{head}\r\n{body}").into_bytes()
}

/// Asks as a well-behaved peer does.
pub(crate) async fn ask(directory: &Directory, line: &str, token: Option<&str>, body: &str) -> Reply {
    let host = directory.addr().to_string();
    let bearer = format!("Bearer {}", token.unwrap_or_default());
    let mut headers = vec![("host", host.as_str()), ("content-type", "application/json")];
    headers.extend(token.map(|_| ("authorization", bearer.as_str())));
    Wire::connect(directory.addr()).await.exchange(&request(line, &headers, body)).await
}

pub(crate) async fn loopback() -> Directory {
    Directory::bind(DirectoryOptions::loopback()).await.unwrap()
}

pub(crate) async fn with(change: impl FnOnce(&mut DirectoryOptions)) -> Directory {
    let mut options = DirectoryOptions::loopback();
    change(&mut options);
    Directory::bind(options).await.unwrap()
}

pub(crate) fn node(id: &str, more: Value) -> String {
    let mut body = json!({
        "node_id": id, "endpoint": "http://127.0.0.1:9600", "region": "eu",
        "capabilities": [{ "intent": CHAT, "models": ["m-1"], "max_tokens": 8192, "input_modalities": ["text"] }],
        "limits": { "max_concurrent": 4, "tokens_per_min": 1000 },
        "sdk_version": "0.7.109", "sdk_update_consecutive_failures": 0, "something_new": [1, { "x": null }],
    });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string()
}

/// Registers a node and returns its token.
pub(crate) async fn registered(directory: &Directory, id: &str, more: Value) -> String {
    let reply = ask(directory, "POST /v1/register", None, &node(id, more)).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.json()["node_token"].as_str().unwrap().to_owned()
}

pub(crate) async fn beat(directory: &Directory, id: &str, token: &str, more: Value) -> Reply {
    let mut body = json!({ "node_id": id, "node_token": token, "status": "available", "max_concurrent": 4 });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    ask(directory, "POST /v1/heartbeat", Some(token), &body.to_string()).await
}

pub(crate) async fn found(directory: &Directory, query: &str) -> Vec<String> {
    let reply = ask(directory, &format!("GET /v1/discover?intent={CHAT}&{query}"), None, "").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = reply.json();
    let nodes = body["nodes"].as_array().unwrap();
    assert_eq!(body["count"], nodes.len());
    nodes.iter().map(|node| node["node_id"].as_str().unwrap().to_owned()).collect()
}

/// Repeats a question until its answer is as it should be.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let asking = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    assert!(timeout(LIVE, asking).await.is_ok(), "never happened: {what}");
}
