//! A node with a backend: what it says of one that is there, that is dead, or that was never named, and how tasks end.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Ended, Home, Service, nobody, until};

/// An inference server with one model. It answers chats, or keeps them waiting until it shall.
struct Backend {
    url: String,
    answers: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    /// Requests that their client gave up.
    left: Arc<AtomicUsize>,
}

impl Backend {
    fn new(answers: bool) -> Backend {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (asked, left) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (answers, counts) = (Arc::new(AtomicBool::new(answers)), (asked.clone(), left.clone()));
        let told = answers.clone();
        std::thread::spawn(move || {
            for peer in listener.incoming().map_while(Result::ok) {
                let (answers, counts) = (told.clone(), counts.clone());
                std::thread::spawn(move || serve(peer, &answers, &counts.0, &counts.1));
            }
        });
        Backend { url, answers, asked, left }
    }
}

/// One request per connection is enough here.
fn serve(mut peer: TcpStream, answers: &AtomicBool, asked: &AtomicUsize, left: &AtomicUsize) {
    let mut request = vec![0; 64 << 10];
    let length = peer.read(&mut request).unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let body = if request.starts_with("GET /v1/models") {
        json!({ "object": "list", "data": [{ "id": "tiny", "object": "model" }] })
    } else if request.starts_with("POST /v1/chat/completions") {
        asked.fetch_add(1, Ordering::SeqCst);
        peer.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        while !answers.load(Ordering::SeqCst) {
            match peer.read(&mut [0; 4096]) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => {
                    left.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
        }
        let message = json!({ "role": "assistant", "content": "tiny says hello" });
        json!({ "model": "tiny", "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }] })
    } else {
        json!({ "status": "ok" })
    };
    let body = body.to_string();
    let _ = write!(
        peer,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
}

fn directory(home: &Home) -> Service {
    home.serve(&["directory", "--port", "0", "--no-probe", "--no-limits", "--no-qos-gating"])
}

#[test]
fn a_backend_is_served_by_flags_by_file_and_by_variables() {
    let home = Home::new();
    let backend = Backend::new(true);
    let directory = directory(&home);
    let mesh = &directory.directory();
    let asks = || home.run(&["query", "hi", "--directory-url", mesh]).with(0).out;

    let flags = ["--backend", "openai_compat", "--backend-url", &backend.url, "--directory-url", mesh, "--port", "0"];
    let node = home.serve(&[&["serve"], &flags[..]].concat());
    assert_eq!(node.ready["node"]["registered"], true);
    assert_eq!(asks(), "tiny says hello\n");
    let nodes = home.run(&["discover", "--directory-url", mesh, "--json"]).with(0).objects();
    assert_eq!(nodes[0]["models"], json!(["tiny"]));
    assert_eq!(node.stop(Signal::TERM).0, Some(0));
    // It took its leave.
    assert_eq!(home.run(&["discover", "--directory-url", mesh]).with(0).out, "");

    let file = home.file(
        "node.toml",
        &format!("[node]\nport = 0\ndirectory = \"{mesh}\"\n[node.backend]\nurl = \"{}\"\n", backend.url),
    );
    let node = home.serve(&["serve", "--config", &file]);
    assert_eq!(asks(), "tiny says hello\n");
    assert_eq!(node.stop(Signal::INT).0, Some(0));

    let mut command = home.iicp(&["serve", "--json"]);
    command.env("IICP_BACKEND_URL", &backend.url).env("IICP_DIRECTORY_URL", mesh).env("IICP_NODE_PORT", "0");
    command.env("IICP_BACKEND_TYPE", "vllm").env("IICP_BACKEND_MODEL", "tiny");
    let node = Service::start(command);
    assert_eq!(asks(), "tiny says hello\n");
    drop(node);
}

#[test]
fn a_mesh_of_this_machine_serves_a_backend_too() {
    let home = Home::new();
    let backend = Backend::new(true);
    let mesh = home.serve(&["up", "--port", "0", "--directory-port", "0", "--backend-url", &backend.url]);
    let said =
        home.run(&["query", "hi", "--model", "tiny", "--directory-url", &mesh.directory(), "--json"]).with(0).objects();
    assert_eq!((&said[0]["text"], &said[0]["model"]), (&json!("tiny says hello"), &json!("tiny")));
}

#[test]
fn a_dead_backend_is_the_providers_failure() {
    let home = Home::new();
    let mesh = home.serve(&[
        "up",
        "--port",
        "0",
        "--directory-port",
        "0",
        "--backend-url",
        &format!("{}/v1", nobody()),
        "--intent",
        "urn:iicp:intent:llm:chat:v1",
        "--model",
        "tiny",
    ]);
    let failed = home.run(&["query", "hi", "--directory-url", &mesh.directory(), "--json"]);
    let number = failed.errors()[0]["code"].as_i64().unwrap();
    // The node refuses what it cannot run, or says that its backend failed.
    assert!((5000..6000).contains(&number) && i64::from(failed.code.unwrap()) == number / 1000, "{failed:?}");
    assert_eq!(mesh.stop(Signal::TERM).0, Some(0));
}

#[test]
fn a_directory_that_is_away_is_found_when_it_comes() {
    let home = Home::new();
    let url = nobody();
    let port = url.rsplit(':').next().unwrap();
    let mut node = home.serve(&["serve", "--echo", "--port", "0", "--directory-url", &url]);
    assert_eq!(node.ready["node"]["registered"], false);
    let directory = home.serve(&["directory", "--port", port, "--no-probe", "--no-limits", "--no-qos-gating"]);
    let registered = node.event("registered");
    assert_eq!(registered["node_id"], node.ready["node"]["node_id"]);
    assert_eq!(home.run(&["query", "hi", "--directory-url", &url]).with(0).out, "You said: hi\n");
    assert_eq!(node.stop(Signal::TERM).0, Some(0));
    drop(directory);
}

#[test]
fn a_provider_that_is_killed_comes_back_as_the_same_node() {
    let home = Home::new();
    let directory = directory(&home);
    let mesh = directory.directory();
    let kept = home.path().join("state").display().to_string();
    let start = || home.serve(&["serve", "--echo", "--port", "0", "--directory-url", &mesh, "--state-dir", &kept]);
    let id = |node: &Service| node.ready["node"]["node_id"].as_str().unwrap().to_owned();
    let mut node = start();
    let first = id(&node);
    for _ in 0..3 {
        node.signal(Signal::KILL);
        node.child.wait().unwrap();
        node = start();
        assert_eq!((id(&node), &node.ready["node"]["registered"]), (first.clone(), &json!(true)));
    }
    let listed = home.run(&["discover", "--directory-url", &mesh, "--json"]).with(0).objects();
    let ids: Vec<&Value> = listed.iter().map(|node| &node["node_id"]).collect();
    assert_eq!(ids, [&json!(first)], "one node, not four");
    // What its callers seal to is its key still.
    assert_eq!(home.run(&["query", "hi", "--directory-url", &mesh]).with(0).out, "You said: hi\n");
}

#[test]
fn a_node_may_serve_without_a_directory() {
    let home = Home::new();
    for flags in [&["--directory-url", ""][..], &["--skip-registration"]] {
        let node = home.serve(&[&["serve", "--echo", "--port", "0"], flags].concat());
        assert_eq!(node.ready["directory"], Value::Null);
        home.run(&["healthcheck", node.ready["node"]["url"].as_str().unwrap()]).with(0);
        assert_eq!(node.stop(Signal::TERM).0, Some(0));
    }
}

#[test]
fn running_tasks_are_finished_within_the_bound_and_at_once_when_asked_twice() {
    let home = Home::new();
    for (drain_ms, twice) in [("300", false), ("600000", true)] {
        let backend = Backend::new(false);
        let mut mesh = home.serve(&[
            "up",
            "--port",
            "0",
            "--directory-port",
            "0",
            "--backend-url",
            &backend.url,
            "--drain-ms",
            drain_ms,
        ]);
        let mut query = home.iicp(&["query", "hi", "--directory-url", &mesh.directory(), "--timeout-ms", "120000"]);
        let query = query.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the backend is asked", || backend.asked.load(Ordering::SeqCst) > 0);
        mesh.signal(Signal::TERM);
        assert_eq!(mesh.event("stopping")["running_tasks"], 1);
        if twice {
            mesh.signal(Signal::INT);
        }
        assert_eq!(mesh.event("stopped")["finished"], false);
        assert_eq!(mesh.child.wait().unwrap().code(), Some(if twice { 130 } else { 0 }));
        // Who asked is not left waiting, and the backend is told that nobody wants the answer.
        assert_ne!(Ended::from(query.wait_with_output().unwrap()).code, Some(0));
        until("the backend is left", || backend.left.load(Ordering::SeqCst) > 0);
    }
}

#[test]
fn a_node_that_is_asked_to_stop_leaves_takes_nothing_more_and_ends_well_when_its_tasks_have() {
    let home = Home::new();
    let (backend, directory) = (Backend::new(false), directory(&home));
    let mesh = &directory.directory();
    let flags = ["--backend", "vllm", "--backend-url", &backend.url, "--directory-url", mesh, "--port", "0"];
    let mut node = home.serve(&[&["serve", "--drain-ms", "60000"], &flags[..]].concat());
    let url = node.ready["node"]["url"].as_str().unwrap().to_owned();
    let mut query = home.iicp(&["query", "hi", "--directory-url", mesh, "--timeout-ms", "60000"]);
    let query = query.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the backend is asked", || backend.asked.load(Ordering::SeqCst) > 0);
    node.signal(Signal::TERM);
    assert_eq!(node.event("stopping")["running_tasks"], 1);
    until("its health says so", || {
        home.run(&["healthcheck", &url, "--json"]).with(0).objects()[0]["state"] == "draining"
    });
    until("nobody finds it", || home.run(&["discover", "--directory-url", mesh]).with(0).out.is_empty());
    // Who has its address still is told to go elsewhere.
    let task = json!({ "task_id": "late", "intent": "urn:iicp:intent:llm:chat:v1", "payload": { "messages": [] } });
    let refused = posted(&url, &task.to_string());
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: "), "{refused}");
    backend.answers.store(true, Ordering::SeqCst);
    assert_eq!(node.event("stopped")["finished"], true);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    let answered = Ended::from(query.wait_with_output().unwrap()).with(0);
    assert_eq!(answered.out, "tiny says hello\n", "what was running has its answer");
    assert_eq!(backend.asked.load(Ordering::SeqCst), 1);
    TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap_err();
}

/// What a node answers to a task.
fn posted(url: &str, task: &str) -> String {
    let mut node = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    write!(
        node,
        "POST /v1/task HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{task}",
        task.len()
    )
    .unwrap();
    let mut answer = String::new();
    node.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_node_without_anything_to_serve_with_is_refused() {
    let home = Home::new();
    for (arguments, name, words) in [
        (&["serve"][..], "INVALID_ARG", "--backend"),
        (&["serve", "--echo", "--backend", "vllm"], "INVALID_ARG", "--echo"),
        (&["serve", "--backend", "openai_compat"], "CONFIG_INVALID", "url"),
        (&["serve", "--backend", "ollma"], "INVALID_ARG", "ollama"),
        (&["serve", "--backend-url", "ftp://x"], "CONFIG_INVALID", "neither http nor https"),
    ] {
        let refused = home.run(&[arguments, &["--json"]].concat()).with(2);
        let error = &refused.errors()[0];
        assert!(error["name"] == name, "{arguments:?}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{arguments:?}: {error}");
    }
}

#[test]
fn a_key_of_a_backend_is_seen_by_nobody_else() {
    let home = Home::new();
    let backend = Backend::new(true);
    let secret = home.file("key", "sk-canary\n");
    let mut command =
        home.iicp(&["up", "--port", "0", "--directory-port", "0", "--json", "--backend-url", &backend.url]);
    command.env("IICP_BACKEND_API_KEY_FILE", &secret).env("IICP_LOG", "trace");
    let mut mesh = Service::start(command);
    home.run(&["query", "hi", "--directory-url", &mesh.directory()]).with(0);
    mesh.signal(Signal::TERM);
    let stopped = mesh.event("stopped");
    let mut log = String::new();
    mesh.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(
        !log.contains("canary")
            && !mesh.ready.to_string().contains("canary")
            && !stopped.to_string().contains("canary"),
        "{log}"
    );
}
