//! An inference server as tests want it: answers in OpenAI's and Anthropic's form, misbehaves when the text of a task says
//! so, and notes what it was asked and what was broken off.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::stage::request::{Request, read_request};

/// What the server says of itself and of its models.
#[derive(Clone, Debug, Default)]
pub struct Face {
    /// What `/v1/models` lists; with nothing, it is not found.
    pub models: Option<Vec<String>>,
    /// Whether Ollama's own paths are there, and which of the models it has loaded.
    pub ollama: Option<Vec<String>>,
    /// The header `server`.
    pub server: String,
    /// The status of `/health`.
    pub health: u16,
    /// The state of every model in LM Studio's own list, if that is there.
    pub lmstudio: Option<String>,
    /// What is answered to all else, in the words of [`StubBackend`].
    pub always: Option<String>,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Log {
    /// By method and path.
    pub requests: BTreeMap<String, u64>,
    /// Tasks that were begun.
    pub started: u64,
    /// Tasks that were answered to the end.
    pub finished: u64,
    /// Tasks whose caller went away before that.
    pub aborted: u64,
    /// The last task: its head and its body.
    pub last: (String, Vec<u8>),
}

impl Log {
    /// The counts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "requests": self.requests, "started": self.started, "finished": self.finished, "aborted": self.aborted,
        })
    }

    /// The last task's body as JSON; null if it is none.
    #[must_use]
    pub fn last_json(&self) -> Value {
        serde_json::from_slice(&self.last.1).unwrap_or_default()
    }
}

#[derive(Default)]
struct Shared {
    face: Mutex<Face>,
    log: Mutex<Log>,
}

/// The server. Dropping it ends it as a crash would.
///
/// The last text of a task (its last message, `prompt` or `input`) tells what becomes of it: `hang`, `reset`, `html`,
/// `sse`, `drip`, `endless`, `big` (100 MB), `cut`, `tools`,
/// `loading` (503 without `retry-after`), `status 503` (or another, with `retry-after: 7`),
/// `status 404 html`. Anything else is echoed.
///
/// With `stream` in a task, the answer comes as events, word by word; `stall`, `dots` (comments alone), `cut`, `garbage` and
/// `error` come after the first word then, and `endless` is as many words as are taken.
pub struct StubBackend {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl StubBackend {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(face: Face) -> io::Result<StubBackend> {
        StubBackend::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), face).await
    }

    /// Starts one at an address.
    ///
    /// # Errors
    /// The system's.
    pub async fn start_at(addr: SocketAddr, face: Face) -> io::Result<StubBackend> {
        let listener = TcpListener::bind(addr).await?;
        let shared = Arc::new(Shared { face: Mutex::new(face), ..Shared::default() });
        let addr = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(StubBackend { addr, shared, accepting })
    }

    /// The address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The URL, without `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it says of itself from now on.
    pub fn face(&self) -> MutexGuard<'_, Face> {
        self.shared.face.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happened so far.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StubBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut conns = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while conns.try_join_next().is_some() {}
        conns.spawn(converse(stream, shared.clone()));
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    while let Ok(Some(request)) = read_request(&mut reading).await {
        let is_task = request.method == "POST";
        note(&shared, |log| {
            *log.requests.entry(format!("{} {}", request.method, request.path)).or_default() += 1;
            if is_task {
                log.started += 1;
                log.last = (String::from_utf8_lossy(&request.head).into_owned(), request.body.clone());
            }
        });
        let face = shared.face.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut one = [0];
        let kept = tokio::select! {
            answered = answer(&mut writing, &request, &face) => answered,
            // Nobody sends anything before the answer is there, so this is the end of the connection.
            _ = reading.read(&mut one) => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        if is_task {
            note(&shared, |log| *(if kept.is_ok() { &mut log.finished } else { &mut log.aborted }) += 1);
        }
        match kept {
            Ok(Keep::Open) => {}
            Ok(Keep::Closed) => return drop(writing.shutdown().await),
            Ok(Keep::Reset) => {
                if let Ok(stream) = writing.reunite(reading.into_inner()) {
                    let _ = stream.set_zero_linger();
                }
                return;
            }
            Err(_) => return,
        }
    }
}

fn note(shared: &Shared, change: impl FnOnce(&mut Log)) {
    change(&mut shared.log.lock().unwrap_or_else(PoisonError::into_inner));
}

/// What becomes of a connection after an answer.
enum Keep {
    Open,
    Closed,
    Reset,
}

async fn answer(out: &mut OwnedWriteHalf, request: &Request, face: &Face) -> io::Result<Keep> {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let listed = |names: &[String], key: &str, name: &str| json!({ key: names.iter().map(|model| json!({ name: model })).collect::<Vec<_>>() });
    let said = told(&request.body, &body);
    match (&*request.method, &*request.path) {
        _ if face.always.is_some() => misbehave(out, face.always.as_deref().unwrap_or_default(), face).await,
        ("GET", "/v1/models") if face.models.is_some() => {
            let models = face.models.as_deref().unwrap_or_default();
            whole(out, 200, "application/json", &listed(models, "data", "id").to_string().into_bytes(), face).await
        }
        ("GET", "/api/tags") if face.ollama.is_some() => {
            let models = face.models.as_deref().unwrap_or_default();
            whole(out, 200, "application/json", &listed(models, "models", "name").to_string().into_bytes(), face).await
        }
        ("GET", "/api/ps") if face.ollama.is_some() => {
            let loaded = face.ollama.as_deref().unwrap_or_default();
            whole(out, 200, "application/json", &listed(loaded, "models", "name").to_string().into_bytes(), face).await
        }
        ("GET", "/api/v1/models") if face.lmstudio.is_some() => {
            let state = |name: &String| json!({ "key": name, "state": face.lmstudio });
            let models: Vec<Value> = face.models.iter().flatten().map(state).collect();
            whole(out, 200, "application/json", json!({ "models": models }).to_string().as_bytes(), face).await
        }
        ("GET", "/health") if face.health != 0 => whole(out, face.health, "application/json", b"{}", face).await,
        ("POST", path) if body["stream"] == true && streams(path) && !is_trick_at_once(&said) => {
            parts(out, path, &body, &said).await
        }
        ("POST", path) => match reply(path, &body, &said) {
            Some((content_type, reply)) if !is_trick(&said) => whole(out, 200, content_type, &reply, face).await,
            Some(_) => misbehave(out, &said, face).await,
            None => misbehave(out, "status 404 html", face).await,
        },
        _ => misbehave(out, "status 404 html", face).await,
    }
}

/// The last text of a task.
fn told(raw: &[u8], body: &Value) -> String {
    let last = &body["messages"].as_array().and_then(|messages| messages.last()).map(|last| &last["content"]);
    let content = last.unwrap_or(&Value::Null);
    let part = content.as_array().and_then(|parts| parts.iter().rev().find_map(|part| part["text"].as_str()));
    let text = content.as_str().or(part).or(body["prompt"].as_str()).or(body["input"].as_str());
    // A form's file.
    text.map_or_else(|| String::from_utf8_lossy(raw).into_owned(), str::to_owned)
}

fn is_trick(said: &str) -> bool {
    let word = said.split(' ').next().unwrap_or_default();
    ["hang", "reset", "html", "sse", "drip", "endless", "big", "cut", "tools", "loading", "status"].contains(&word)
}

/// Whether an interface can stream.
fn streams(path: &str) -> bool {
    ["/v1/chat/completions", "/v1/completions", "/v1/messages"].contains(&path)
}

/// Tricks that come instead of a stream.
fn is_trick_at_once(said: &str) -> bool {
    ["hang", "reset", "html", "status", "once"].contains(&said.split(' ').next().unwrap_or_default())
}

/// The right answer in parts, or one that breaks off.
async fn parts(out: &mut OwnedWriteHalf, path: &str, body: &Value, said: &str) -> io::Result<Keep> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    out.write_all(head.as_bytes()).await?;
    let is_message = path == "/v1/messages";
    if is_message {
        let message =
            json!({ "id": "msg_1", "model": body["model"], "usage": { "input_tokens": 3, "output_tokens": 1 } });
        event(out, is_message, json!({ "type": "message_start", "message": message })).await?;
        event(out, is_message, json!({ "type": "ping" })).await?;
    }
    let delta = |word: &str| match path {
        "/v1/messages" => {
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": word } })
        }
        "/v1/completions" => json!({ "choices": [{ "index": 0, "text": word }] }),
        _ => {
            json!({ "id": "c-1", "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": { "content": word } }] })
        }
    };
    let mut words = said.split_inclusive(' ');
    let first = words.next().unwrap_or_default();
    event(out, is_message, delta(first)).await?;
    match first.trim() {
        "stall" => std::future::pending().await,
        "dots" => loop {
            out.write_all(b": still there\n\n").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        },
        "endless" => loop {
            event(out, is_message, delta(&"x".repeat(1000))).await?;
        },
        "cut" => return Ok(Keep::Closed),
        "garbage" => out.write_all(b"data: {nope\n\n").await?,
        "error" => event(out, is_message, json!({ "type": "error", "error": { "message": "a canary" } })).await?,
        _ => {}
    }
    for word in words {
        event(out, is_message, delta(word)).await?;
    }
    if is_message {
        let delta = json!({ "stop_reason": "end_turn" });
        event(out, is_message, json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": 4 } }))
            .await?;
        event(out, is_message, json!({ "type": "message_stop" })).await?;
    } else {
        let usage = json!({ "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7 });
        let finish = json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }]);
        event(out, is_message, json!({ "choices": finish, "model": body["model"] })).await?;
        event(out, is_message, json!({ "choices": [], "usage": usage, "model": body["model"] })).await?;
        out.write_all(b"data: [DONE]\n\n").await?;
    }
    Ok(Keep::Closed)
}

async fn event(out: &mut OwnedWriteHalf, is_named: bool, data: Value) -> io::Result<()> {
    let name = if is_named { format!("event: {}\n", data["type"].as_str().unwrap_or_default()) } else { String::new() };
    out.write_all(format!("{name}data: {data}\n\n").as_bytes()).await
}

/// The right answer.
fn reply(path: &str, body: &Value, said: &str) -> Option<(&'static str, Vec<u8>)> {
    let model = &body["model"];
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7 });
    let reply = match path {
        "/v1/chat/completions" => {
            let message = json!({ "role": "assistant", "content": said });
            let choices = json!([{ "index": 0, "message": message, "finish_reason": "stop" }]);
            json!({ "id": "c-1", "object": "chat.completion", "model": model, "choices": choices, "usage": usage })
        }
        "/v1/completions" => json!({ "choices": [{ "index": 0, "text": said }], "model": model, "usage": usage }),
        "/v1/embeddings" => {
            json!({ "data": [{ "index": 0, "embedding": [0.5, 1.0] }], "model": model, "usage": usage })
        }
        "/v1/moderations" => json!({ "results": [{ "flagged": false, "categories": {}, "category_scores": {} }] }),
        "/v1/audio/transcriptions" => json!({ "text": format!("{} bytes of a form", said.len()) }),
        "/v1/audio/speech" => return Some(("audio/wav", b"RIFF....".to_vec())),
        "/v1/messages" => json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": model, "stop_reason": "end_turn",
            "content": [{ "type": "text", "text": said }], "usage": { "input_tokens": 3, "output_tokens": 4 },
        }),
        _ => return None,
    };
    Some(("application/json", reply.to_string().into_bytes()))
}

/// What llama.cpp says while it reads a model.
const LOADING: &[u8] = br#"{"error":{"code":503,"message":"Loading model""#;

async fn misbehave(out: &mut OwnedWriteHalf, said: &str, face: &Face) -> io::Result<Keep> {
    const CANARY: &str = r#"{"error":{"message":"a canary that only the operator may see"}}"#;
    const OPEN_END: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"a\":\"";
    let mut words = said.split(' ');
    match words.next().unwrap_or_default() {
        "hang" => std::future::pending().await,
        "reset" => Ok(Keep::Reset),
        "html" => whole(out, 200, "text/html", b"<html>a canary</html>", face).await,
        "sse" => whole(out, 200, "text/event-stream", b"data: {\"choices\":[]}\n\ndata: [DONE]\n\n", face).await,
        "loading" => whole(out, 503, "application/json", &[LOADING, b"}}"].concat(), face).await,
        "tools" => {
            let call = json!({ "id": "c1", "type": "function", "function": { "name": "look", "arguments": "{}" } });
            let message = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
            let reply = json!({ "choices": [{ "index": 0, "message": message, "finish_reason": "tool_calls" }] });
            whole(out, 200, "application/json", reply.to_string().as_bytes(), face).await
        }
        "status" => {
            let status = words.next().and_then(|status| status.parse().ok()).unwrap_or(500);
            match words.next() {
                Some("html") => whole(out, status, "text/html", b"<html>a canary</html>", face).await,
                _ => whole(out, status, "application/json", CANARY.as_bytes(), face).await,
            }
        }
        "cut" => {
            out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{\"choices\":[").await?;
            Ok(Keep::Closed)
        }
        "drip" => {
            out.write_all(OPEN_END).await?;
            loop {
                out.write_all(b"a").await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        trick => {
            // Declared at once, or found out on the way.
            if trick == "big" {
                out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n{\"a\":\"").await?;
            } else {
                out.write_all(OPEN_END).await?;
            }
            loop {
                out.write_all(&[b'a'; 64 << 10]).await?;
            }
        }
    }
}

async fn whole(
    out: &mut OwnedWriteHalf,
    status: u16,
    content_type: &str,
    body: &[u8],
    face: &Face,
) -> io::Result<Keep> {
    let mut head =
        format!("HTTP/1.1 {status} Stub\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n", body.len());
    if !face.server.is_empty() {
        head.push_str(&format!("server: {}\r\n", face.server));
    }
    if face.lmstudio.is_some() {
        head.push_str("x-powered-by: Express\r\n");
    }
    if status >= 400 && !body.starts_with(LOADING) {
        head.push_str("retry-after: 7\r\n");
    }
    head.push_str("\r\n");
    out.write_all(&[head.as_bytes(), body].concat()).await?;
    Ok(Keep::Open)
}
