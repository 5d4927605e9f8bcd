//! Nothing secret is ever said: not in an error, a debug output or a log line, at any level. Alone in its file: it listens to everything
//! that the process logs.

#![allow(clippy::unwrap_used)]

mod consumer;

use std::fmt::Write as _;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use iicp_core::options::{Chat, ClientOptions, DirectoryOptions, Discover, NodeOptions, from_json};
use iicp_core::types::Payload;
use iicp_core::{CHAT, Client, Directory, Error, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::http::{Conn, post};
use iicp_tests::stage_process::StageProcess;
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// What must never be said. Every payload, token, key and private text of this test is made of it.
const CANARY: &str = "canary";

/// Everything that was said in this process.
fn said() -> &'static Mutex<String> {
    static SAID: OnceLock<Mutex<String>> = OnceLock::new();
    SAID.get_or_init(Mutex::default)
}

fn say(text: &str) {
    let mut said = said().lock().unwrap();
    said.push_str(text);
    said.push('\n');
}

/// Every way in which a caller may show an error.
fn show(error: &Error) {
    say(&format!("{error} | {error:?} | {error:#?} | {} | {}", error.message(), error.to_json()));
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        say(&format!("{inner} | {inner:?}"));
        source = inner.source();
    }
}

/// Writes down every span and event of `tracing`, and every record of `log`, which the HTTP stack uses.
struct Listener;

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = format!("span {} {}", span.metadata().target(), span.metadata().name());
        span.record(&mut Fields(&mut line));
        say(&line);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut line = String::from("record");
        values.record(&mut Fields(&mut line));
        say(&line);
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = format!("{} {}", event.metadata().level(), event.metadata().target());
        event.record(&mut Fields(&mut line));
        say(&line);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl log::Log for Listener {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        say(&format!("{} {} {}", record.level(), record.target(), record.args()));
    }

    fn flush(&self) {}
}

#[tokio::test]
async fn no_payload_token_key_or_private_text_is_ever_said() {
    tracing::subscriber::set_global_default(Listener).unwrap();
    log::set_boxed_logger(Box::new(Listener)).unwrap();
    log::set_max_level(log::LevelFilter::Trace);

    before_any_network().await;
    let node = a_node_that_fails_in_every_way().await;
    ask_badly(&node).await;
    let directory = a_directory_that_gives_out_secrets().await;
    drop((node, directory));
    let secrets = consumer::lives_with_secrets().await;

    let said = said().lock().unwrap().clone();
    let leaks: Vec<&str> = said.lines().filter(|line| line.to_lowercase().contains(CANARY)).collect();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    // Tokens and tickets come from the directory, and cannot be made of the canary.
    for secret in secrets {
        let leaks: Vec<&str> = said.lines().filter(|line| line.contains(&secret)).collect();
        assert!(leaks.is_empty(), "{secret} in {}", leaks.join("\n"));
    }
    // That the listener hears what there is to hear is what makes its silence on secrets say something.
    for heard in [&*format!("{} iicp::node", Level::WARN), "iicp::client", "reqwest", "code=BACKEND 5004", "registered"]
    {
        assert!(said.contains(heard), "nothing of {heard} in\n{said}");
    }
}

/// Options and payloads that are refused.
async fn before_any_network() {
    let options = |json: Value| from_json::<ClientOptions>(&json.to_string()).and_then(Client::new).unwrap_err();
    show(&options(json!({ "directory": format!("http://user:{CANARY}@127.0.0.1:1") })));
    show(&options(json!({ "directory": format!("http://127.0.0.1:1/?token={CANARY}") })));
    show(&options(json!({ "directory": format!("http://127.0.0.1:{CANARY}") })));
    show(&options(json!({ "timeout_ms": CANARY })));
    show(&from_json::<Chat>(&json!({ "messages": [{ "role": CANARY, "content": CANARY }] }).to_string()).unwrap_err());
    show(&from_json::<Chat>(&json!({ "messages": CANARY }).to_string()).unwrap_err());
    for broken in [r#"{"canary": "canary"#, r#"["canary", canary]"#, "\"canary\u{1}\"", "canary"] {
        show(&Payload::from_json(broken.as_bytes().to_vec()).unwrap_err());
    }
    show(&Payload::from(json!({ "a": CANARY })).json::<u64>().unwrap_err());
    show(&Reply::json_bytes(CANARY).unwrap_err());
    let payload = Payload::from(json!({ "secret": CANARY }));
    say(&format!("{:?} {:?} {:?}", Task::new(CHAT, payload.clone()), Reply::from(payload), Chat::user(CANARY)));
}

/// Handlers whose failures are private, and a client that meets them.
async fn a_node_that_fails_in_every_way() -> LiveNode {
    let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = directory.url();
    let handler = async |task: Inbound| {
        say(&format!("{task:?} {:?}", task.caller));
        match task.json::<Value>()?["do"].as_str() {
            Some("fail") => Err(Error::new(iicp_core::Code::Backend, CANARY).with_wire_code(CANARY)),
            Some("typed") => task.json::<Vec<u64>>().map(|_| Reply::chat("")),
            Some("panic") => std::panic::resume_unwind(Box::new(CANARY)),
            Some("no json") => Reply::json_bytes(CANARY),
            _ => Ok(Reply::chat(CANARY)),
        }
    };
    let node = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
    say(&format!("{node:?}"));

    let client = client(&json!(directory.url()));
    say(&format!("{client:?}"));
    for told in ["fail", "typed", "panic", "no json"] {
        let payload = json!({ "do": told, "secret": CANARY });
        show(&client.submit(Task::new(CHAT, payload)).await.unwrap_err());
    }
    let done = client.submit(Task::new(CHAT, json!({ "secret": CANARY }))).await.unwrap();
    say(&format!("{done:?}"));
    say(&format!("{:?}", client.chat(CANARY).await.unwrap()));
    say(&format!("{:?}", client.discover(Discover::intent(CHAT)).await.unwrap().len()));
    node
}

/// Requests that a node refuses. What it answers is said as well: it may end in anybody's log.
async fn ask_badly(node: &LiveNode) {
    let mut conn = Conn::open(node.addr()).await.unwrap();
    let bodies = [
        CANARY.to_owned(),
        json!({ "task_id": CANARY.repeat(50), "intent": CHAT, "payload": {} }).to_string(),
        json!({ "task_id": "t", "intent": CANARY, "payload": {} }).to_string(),
        json!({ "task_id": "t", "intent": CHAT, "payload": null, "iicp_conf": { "key": CANARY } }).to_string(),
        json!({ "task_id": "t", "intent": CHAT, "payload": { "secret": CANARY }, "constraints": { "timeout_ms": CANARY } }).to_string(),
        json!({ "task_id": "t", "intent": CHAT, "auth": { "node_token": CANARY } }).to_string(),
    ];
    for body in bodies {
        let headers =
            format!("authorization: Bearer {CANARY}\r\nx-iicp-consumer-token: {CANARY}\r\ncookie: {CANARY}\r\n");
        conn.write(&post("/v1/task", &headers, body.as_bytes())).await.unwrap();
        say(&format!("{:?}", conn.answer().await.unwrap()));
    }
    for path in ["/canary", "/iicp/health?token=canary", "/metrics"] {
        say(&format!("{:?}", conn.get(path).await.unwrap()));
    }
}

/// A directory whose every answer holds a secret, and a node and a client that live with it.
async fn a_directory_that_gives_out_secrets() -> StageProcess {
    let tokens = json!({ "node_token": "canary-token", "node_hmac_key": "canary-key", "jwt_token": "canary-jwt", "next_heartbeat_ms": 50 });
    let page = |status: u16, body: Value| json!({ "answer": { "status": status, "body": { "json": body } } });
    // It takes the node, challenges it, forgets it, and then answers with whatever it was sent.
    let peer = json!([
        page(201, tokens.clone()),
        page(200, json!({ "ok": true, "challenge": "canary-challenge", "next_heartbeat_ms": 50 })),
        page(401, json!({ "error": { "code": "unauthorized", "message": "no" } })),
        page(201, tokens),
        page(500, json!({ "token": "canary-token" })),
        { "answer": { "content_type": "text/html", "body": "<html>canary-token</html>" } },
        "reset",
        { "raw": "canary-token canary-key\r\n\r\n" }
    ]);
    let mut stage = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
    let scene = stage.call(&json!({ "setup": { "directory": { "peer": peer } } })).await.unwrap();
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.directory = scene["directory"].as_str().unwrap().into();
    let node = Node::bind(options).await.unwrap();
    let node = node.serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap();
    let wanted =
        json!({ "directory": { "requests": { "POST /v1/register": 2, "POST /v1/heartbeat": { "at_least": 5 } } } });
    stage.wait_for(wanted, Duration::from_secs(20)).await.unwrap();
    let client = client(&scene["directory"]);
    for _ in 0..3 {
        show(&client.submit(Task::new(CHAT, json!({ "secret": CANARY }))).await.unwrap_err());
    }
    let begun = Instant::now();
    node.shutdown(Duration::from_secs(5)).await;
    assert!(begun.elapsed() < Duration::from_secs(15));
    stage
}

fn client(directory: &Value) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.as_str().unwrap().into();
    Client::new(options).unwrap()
}
