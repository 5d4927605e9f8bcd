//! What the engine is compared with: a bare axum server, a bare reqwest client, and the cheap far end of both clients.

use std::sync::Arc;

use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Operation, operation};
use crate::{Result, http, load};

#[derive(Deserialize)]
struct Task {
    task_id: String,
    #[serde(rename = "intent")]
    _intent: String,
    #[serde(rename = "constraints")]
    _constraints: Constraints,
    payload: Chat,
}

#[derive(Deserialize)]
struct Constraints {
    #[serde(rename = "timeout_ms")]
    _timeout_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Chat {
    model: String,
    messages: Vec<Message>,
    max_tokens: u32,
    temperature: f64,
}

#[derive(Serialize, Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Serialize)]
struct Reply {
    task_id: String,
    status: &'static str,
    result: Chat,
    metrics: Metrics,
    generated_by_ai: bool,
}

#[derive(Serialize)]
struct Metrics {
    latency_ms: f64,
}

async fn echo(Json(task): Json<Task>) -> Json<Reply> {
    let metrics = Metrics { latency_ms: 0.012 };
    Json(Reply { task_id: task.task_id, status: "success", result: task.payload, metrics, generated_by_ai: true })
}

/// An echo node without any of the protocol: axum as its documentation shows it, the envelope as typed structs.
pub(super) async fn axum() -> Result<(String, JoinHandle<std::io::Result<()>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/v1/task", post(echo));
    Ok((url, tokio::spawn(async move { axum::serve(listener, app).await })))
}

/// An inference server that answers every task alike, for as little CPU as it can.
pub(super) async fn backend() -> Result<(String, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let models: Arc<[u8]> = http::answer("200 OK", r#"{"data":[{"id":"echo-1"}]}"#).into();
    let chat: Arc<[u8]> = http::answer("200 OK", BACKEND_RESULT).into();
    let accept = async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(infer_all(stream, models.clone(), chat.clone()));
        }
    };
    Ok((url, tokio::spawn(accept)))
}

async fn infer_all(mut stream: TcpStream, models: Arc<[u8]>, chat: Arc<[u8]>) -> Result<()> {
    let mut buf = Vec::with_capacity(8 << 10);
    while stream.read_buf(&mut buf).await? > 0 {
        while let Some(request) = http::message(&buf) {
            stream.write_all(if buf.starts_with(b"POST ") { &chat } else { &models }).await?;
            buf.drain(..request.len);
        }
    }
    Ok(())
}

const BACKEND_RESULT: &str = r#"{"id":"c-1","object":"chat.completion","created":1,"model":"echo-1","choices":[{"index":0,"message":{"role":"assistant","content":"A task goes straight from the consumer to the provider, and nobody between the two of them can read a word of it."},"finish_reason":"stop"}],"usage":{"prompt_tokens":210,"completion_tokens":25,"total_tokens":235}}"#;

/// What a node is that knows no protocol at all: an axum server that hands the body on with reqwest, and the answer back.
pub(super) async fn forward(backend: &str) -> Result<(String, JoinHandle<std::io::Result<()>>)> {
    let (client, target) = (bare_client()?, format!("{backend}/v1/chat/completions").parse::<reqwest::Url>()?);
    let hand_on = move |body: Bytes| {
        // The load wants to see which task it was that was answered.
        let task_id = body.slice(..body.len().min(64));
        let request = client.post(target.clone()).header("content-type", "application/json").body(body);
        async move {
            let answer = async { request.send().await?.error_for_status()?.bytes().await };
            let answer = answer.await.map_err(|_| axum::http::StatusCode::BAD_GATEWAY)?;
            Ok::<_, axum::http::StatusCode>([task_id, answer].concat())
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/v1/task", post(hand_on));
    Ok((url, tokio::spawn(async move { axum::serve(listener, app).await })))
}

/// A directory that lists one node, and that node: both answer every question alike, for as little CPU as they can.
pub(super) async fn stub() -> Result<(String, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    // The published client takes 127.1 for a public name; it is the same address.
    let node = format!(
        r#"{{"node_id":"stub","endpoint":"http://127.1:{}","score":0.9,"load":0.0,"available":true,"region":"eu-central"}}"#,
        addr.port()
    );
    let listed: Arc<[u8]> = http::answer("200 OK", &format!(r#"{{"nodes":[{node}],"count":1}}"#)).into();
    let accept = async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            // A client that goes away is no failure of the stub.
            tokio::spawn(answer_all(stream, listed.clone()));
        }
    };
    Ok((format!("http://{addr}"), tokio::spawn(accept)))
}

async fn answer_all(mut stream: TcpStream, listed: Arc<[u8]>) -> Result<()> {
    let mut buf = Vec::with_capacity(8 << 10);
    while stream.read_buf(&mut buf).await? > 0 {
        while let Some(request) = http::message(&buf) {
            if buf.starts_with(b"POST /v1/task ") {
                let task_id = task_id(&buf[request.body_at..request.len]).ok_or("a task without an id")?;
                let body = format!(r#"{{"task_id":"{task_id}",{STUB_RESULT}"#);
                stream.write_all(&http::answer("200 OK", &body)).await?;
            } else if buf.starts_with(b"GET /v1/discover?") {
                stream.write_all(&listed).await?;
            } else {
                // No tickets here: the published client goes on to discovery.
                stream.write_all(&http::answer("404 Not Found", r#"{"error":{"code":"not_found"}}"#)).await?;
            }
            buf.drain(..request.len);
        }
    }
    Ok(())
}

pub(super) const STUB_RESULT: &str = r#""status":"success","result":{"choices":[{"index":0,"message":{"role":"assistant","content":"A task goes straight from the consumer to the provider."},"finish_reason":"stop"}]},"metrics":{"latency_ms":0.01},"generated_by_ai":true}"#;

pub(super) fn task_id(body: &[u8]) -> Option<&str> {
    let key = memchr::memmem::find(body, br#""task_id""#)? + 9;
    let start = key + memchr::memchr(b'"', &body[key..])? + 1;
    let end = start + memchr::memchr(b'"', &body[start..])?;
    std::str::from_utf8(&body[start..end]).ok()
}

fn bare_client() -> Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?)
}

/// One POST of a task's bytes with reqwest, and nothing around it.
pub(super) fn reqwest_post(url: &str) -> Result<impl Operation> {
    let client = bare_client()?;
    let url: reqwest::Url = format!("{url}/v1/task").parse()?;
    let body = Bytes::from(load::envelope("2f1e1f3a-9d0c-4c5e-8b7a-5d2f6a1b3c4d", &load::payload()));
    Ok(operation(move || {
        let request = client.post(url.clone()).header("content-type", "application/json").body(body.clone());
        async move {
            let answer = request.send().await?.error_for_status()?.bytes().await?;
            if answer.is_empty() { Err("an empty answer".into()) } else { Ok(()) }
        }
    }))
}
