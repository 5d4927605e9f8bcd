//! Our client and our directory against the published node.

use std::time::Duration;

use iicp_core::options::{ClientOptions, DirectoryOptions, Discover};
use iicp_core::types::TaskResult;
use iicp_core::{CHAT, Client, Code, Directory, Error, Task};
use serde_json::{Value, json};

use crate::directory;
use crate::peer::{Peer, free_port};

/// Our side, and their node.
struct Mesh {
    _directory: Directory,
    client: Client,
    node: Peer,
    endpoint: String,
}

impl Mesh {
    async fn start(options: Value) -> Mesh {
        let directory = directory().await;
        let client = client(&directory);
        let node = Peer::start("peer_node.py").await;
        let endpoint = serve(&node, &directory, options).await;
        Mesh { _directory: directory, client, node, endpoint }
    }

    async fn submit(&self, payload: Value) -> Result<TaskResult, Error> {
        self.client.submit(Task::new(CHAT, payload)).await
    }

    /// How many tasks their handler was given.
    async fn handled(&self) -> usize {
        self.node.ok("seen", json!({})).await["tasks"].as_array().unwrap().len()
    }
}

fn client(directory: &Directory) -> Client {
    let mut options = ClientOptions::default();
    options.directory = directory.url();
    Client::new(options).unwrap()
}

/// Starts their node; `options` replaces what this says.
pub(crate) async fn serve(node: &Peer, directory: &Directory, options: Value) -> String {
    let mut command = json!({
        "directory": directory.url(), "node_id": "peer-node-1", "intent": CHAT, "model": "m-peer",
        "port": free_port(), "max_concurrent": 4, "enable_idempotency": false,
        // Theirs is 30 s, hard-coded; the driver puts this in its place.
        "heartbeat_s": 30,
    });
    command.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    node.ok("serve", command).await["endpoint"].as_str().unwrap().to_owned()
}

/// The node's calls to its directory that were like this.
fn calls<'a>(seen: &'a Value, call: &'a str) -> impl Iterator<Item = &'a Value> + Clone {
    seen["calls"].as_array().unwrap().iter().filter(move |made| made["call"] == call)
}

#[tokio::test]
async fn our_client_finds_their_node_and_gets_its_results() {
    let mesh = Mesh::start(json!({})).await;
    let found = mesh.client.discover(Discover::intent(CHAT)).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].node_id.as_str(), found[0].endpoint.as_str()), ("peer-node-1", mesh.endpoint.as_str()));
    assert_eq!((found[0].models.as_slice(), found[0].region.as_deref()), (&["m-peer".to_owned()][..], Some("eu-lab")));
    assert!(found[0].available && found[0].cx_public_key.is_some());

    // It speaks HTTP/1.0 and closes after every answer.
    for n in 0..5 {
        let done = mesh.submit(json!({ "n": n })).await.unwrap();
        assert!(done.sealed);
        assert_eq!(done.result.json::<Value>().unwrap(), json!({ "echo": { "n": n } }));
        assert_eq!((done.node_id.as_str(), done.attempts), ("peer-node-1", 1));
    }
    let reply = mesh.client.chat("hello").await.unwrap();
    assert_eq!((reply.text(), reply.model.as_deref()), ("echo: hello", Some("m-peer")));
    assert_eq!(reply.usage.map(|usage| usage.total_tokens), Some(5));

    let seen = mesh.node.ok("seen", json!({})).await;
    let trace = &seen["tasks"][5]["trace"]["traceparent"];
    assert_eq!(trace, &json!(reply.task.traceparent), "their handler is given our trace");
    assert_eq!(seen["tasks"][5]["task_id"], reply.task.task_id);
}

#[tokio::test]
async fn tasks_that_run_at_once_on_their_node_get_their_own_results() {
    let mesh = Mesh::start(json!({ "max_concurrent": 8 })).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (client, payload) = (mesh.client.clone(), json!({ "act": "hold", "n": n }));
        tasks.spawn(async move { (n, client.submit(Task::new(CHAT, payload)).await) });
    }
    mesh.node.until("all handlers run", |seen| seen["holding"] == 8).await;
    mesh.node.ok("let_go", json!({})).await;
    while let Some(task) = tasks.join_next().await {
        let (n, done) = task.unwrap();
        assert_eq!(done.unwrap().result.json::<Value>().unwrap(), json!({ "held": n }));
    }
}

#[tokio::test]
async fn a_failure_of_their_handler_is_a_backend_error_and_is_sent_again_only_if_that_does_no_harm() {
    let mesh = Mesh::start(json!({})).await;
    // It answers 500 with a page of HTML that quotes the handler.
    let error = mesh.submit(json!({ "act": "fail" })).await.unwrap_err();
    assert_eq!((error.code(), error.http_status()), (Code::Backend, Some(500)));
    assert!(!format!("{error:?} {error}").contains("secret"), "{error:?}");
    assert_eq!(mesh.handled().await, 1);

    let task = Task::new(CHAT, json!({ "act": "fail" })).idempotent(true);
    assert_eq!(mesh.client.submit(task).await.unwrap_err().code(), Code::Backend);
    assert_eq!(mesh.handled().await, 4, "three attempts, as max_attempts says");
}

#[tokio::test]
async fn a_503_of_their_node_after_its_handler_ran_does_not_run_the_task_twice() {
    let mesh = Mesh::start(json!({})).await;
    // A handler's error with the word "closed" in it is taken for a shutdown of the node: 503, and HTML.
    let error = mesh.submit(json!({ "act": "close" })).await.unwrap_err();
    assert_eq!((error.code(), error.http_status()), (Code::Backend, Some(503)));
    assert_eq!(mesh.handled().await, 1);
}

#[tokio::test]
async fn their_odd_successes_are_read_for_what_they_are() {
    let mesh = Mesh::start(json!({})).await;
    // A failed backend is a 200 with status "completed".
    let error = mesh.submit(json!({ "act": "backend" })).await.unwrap_err();
    assert_eq!((error.code(), error.http_status()), (Code::Backend, Some(200)));
    assert_eq!(mesh.handled().await, 1);
    // A handler's fields beside the envelope's, and none at all.
    let merged = mesh.submit(json!({ "act": "merge" })).await.unwrap();
    assert_eq!(merged.result.json::<Value>().unwrap(), json!({ "choices": [], "merged": true }));
    let nothing = mesh.submit(json!({ "act": "nothing" })).await.unwrap();
    assert_eq!(&nothing.result.bytes()[..], b"null");
}

#[tokio::test]
async fn their_full_node_is_waited_for_as_it_asks_and_named_when_there_is_no_time() {
    let mesh = Mesh::start(json!({ "max_concurrent": 1 })).await;
    let client = mesh.client.clone();
    let held = tokio::spawn(async move { client.submit(Task::new(CHAT, json!({ "act": "hold" }))).await });
    mesh.node.until("the handler runs", |seen| seen["holding"] == 1).await;

    let hurried = Task::new(CHAT, json!({})).timeout(Duration::from_millis(1500));
    let error = mesh.client.submit(hurried).await.unwrap_err();
    assert_eq!((error.code(), error.wire_code()), (Code::Capacity, Some("IICP-E021")), "{error}");
    assert_eq!((error.http_status(), error.retry_after()), (Some(429), Some(Duration::from_secs(2))));
    assert!(error.retryable());

    let refusals = |seen: &Value| seen["answers"].as_array().unwrap().iter().filter(|status| **status == 429).count();
    let let_go = async {
        mesh.node.until("a second refusal", |seen| refusals(seen) == 2).await;
        mesh.node.ok("let_go", json!({})).await;
    };
    let (done, ()) = tokio::join!(mesh.submit(json!({ "n": 1 })), let_go);
    let done = done.unwrap();
    assert_eq!(done.result.json::<Value>().unwrap(), json!({ "echo": { "n": 1 } }));
    assert_eq!(done.attempts, 2);
    assert!(held.await.unwrap().is_ok());
}

#[tokio::test]
async fn their_refusal_of_a_used_task_id_is_a_duplicate() {
    let mesh = Mesh::start(json!({ "enable_idempotency": true })).await;
    let task = || Task::new(CHAT, json!({})).task_id("used-once");
    mesh.client.submit(task()).await.unwrap();
    let error = mesh.client.submit(task()).await.unwrap_err();
    assert_eq!((error.code(), error.wire_code()), (Code::Duplicate, Some("IICP-E010")));
}

#[tokio::test]
async fn a_task_that_outlives_our_deadline_ends_with_it_and_their_node_goes_on() {
    let mesh = Mesh::start(json!({})).await;
    // It enforces no timeout of the caller.
    let task = Task::new(CHAT, json!({ "act": "hold" })).timeout(Duration::from_millis(500));
    let error = mesh.client.submit(task).await.unwrap_err();
    assert_eq!(error.code(), Code::Timeout);
    mesh.node.ok("let_go", json!({})).await;
    mesh.submit(json!({})).await.unwrap();
}

#[tokio::test]
async fn their_node_reports_meets_our_challenge_and_has_its_outcomes_taken() {
    let mesh = Mesh::start(json!({ "heartbeat_s": 0.1 })).await;
    mesh.submit(json!({})).await.unwrap();
    mesh.submit(json!({ "act": "fail" })).await.unwrap_err();
    let met = |beat: &&Value| beat["challenge_verified"] == true;
    let verified = |seen: &Value| calls(seen, "POST /v1/heartbeat").filter(met).count();
    let reported = |seen: &Value| {
        let taken = calls(seen, "POST /v1/heartbeat").filter(|beat| beat["metrics_taken"] == true);
        let sum = |of: &str| taken.clone().filter_map(|beat| beat["metrics"][of].as_u64()).sum::<u64>();
        (sum("tasks_success"), sum("tasks_failed"))
    };
    let seen =
        mesh.node.until("three verified challenges", |seen| verified(seen) >= 3 && reported(seen) == (1, 1)).await;
    for beat in calls(&seen, "POST /v1/heartbeat") {
        assert_eq!(beat["status"], 200);
        assert_ne!(beat["challenge_verified"], false, "{beat}");
    }
    // It asks the directory now and then whether it is still known, and registers again if not.
    let known =
        mesh.node.until("a look-up", |seen| calls(seen, "GET /v1/registry/nodes/peer-node-1").count() > 0).await;
    assert!(calls(&known, "GET /v1/registry/nodes/peer-node-1").all(|look| look["status"] == 200), "{known:#}");
    assert_eq!(calls(&known, "POST /v1/register").count(), 1, "{known:#}");
}

#[tokio::test]
async fn their_node_comes_back_to_a_directory_that_forgot_it_and_leaves_when_told() {
    let mut options = DirectoryOptions::loopback();
    options.port = free_port();
    let directory = Directory::bind(options.clone()).await.unwrap();
    let node = Peer::start("peer_node.py").await;
    let endpoint = serve(&node, &directory, json!({ "heartbeat_s": 0.1 })).await;
    // A directory in memory forgets everybody when it is started again.
    assert!(directory.shutdown(Duration::from_secs(5)).await);
    let directory = Directory::bind(options).await.unwrap();
    let client = client(&directory);

    let registrations = |seen: &Value| calls(seen, "POST /v1/register").count();
    node.until("a second registration", |seen| registrations(seen) == 2).await;
    let found = client.discover(Discover::intent(CHAT)).await.unwrap();
    assert_eq!(found[0].endpoint, endpoint);
    client.submit(Task::new(CHAT, json!({}))).await.unwrap();
    // It signs with the first key that it ever got, so it fails every challenge from now on; that must not cost it.
    let unmet = |beat: &&Value| beat["challenge_verified"] == false;
    let seen = node
        .until("reports to the new directory", |seen| calls(seen, "POST /v1/heartbeat").filter(unmet).count() >= 2)
        .await;
    assert!(calls(&seen, "POST /v1/heartbeat").filter(unmet).all(|beat| beat["status"] == 200), "{seen:#}");
    assert_eq!(registrations(&seen), 2, "{seen:#}");

    node.ok("deregister", json!({})).await;
    assert!(client.discover(Discover::intent(CHAT)).await.unwrap().is_empty());
    let gone = self::client(&directory).submit(Task::new(CHAT, json!({}))).await.unwrap_err();
    assert_eq!(gone.code(), Code::NoNodes);
}

#[tokio::test]
async fn their_node_leaves_our_directory_when_it_stops() {
    let mesh = Mesh::start(json!({})).await;
    mesh.node.ok("stop", json!({})).await;
    assert!(mesh.client.discover(Discover::intent(CHAT)).await.unwrap().is_empty());
    let seen = mesh.node.ok("seen", json!({})).await;
    assert_eq!(calls(&seen, "DELETE /v1/register").map(|call| &call["status"]).collect::<Vec<_>>(), [200]);
}
