//! A node stays in its directory, or comes back to it, whatever becomes of the directory (K7, K8, K12, S37): an hour of
//! trouble, with a beat of 100 ms in the place of 30 s, on real sockets. What arrived is in the ledger of who stands between.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iicp_core::options::{AvailabilityWindow, ClientOptions, DirectoryOptions, NodeOptions, NodePricing};
use iicp_core::types::Chunk;
use iicp_core::{CHAT, Client, Code, Directory, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::between::{Between, Clock, Mood, Seen};
use iicp_tests::http::{Answer, Conn, addr};
use serde_json::json;

const BEAT: Duration = Duration::from_millis(100);
/// A node that does not come back is found out by this; it takes a tenth.
const PATIENCE: Duration = Duration::from_secs(15);

/// What no other call gives.
fn fresh() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn directory() -> Directory {
    let mut options = DirectoryOptions::loopback();
    options.heartbeat_ms = 100;
    // As in the world: three beats.
    options.node_ttl_ms = 300;
    Directory::bind(options).await.unwrap()
}

fn options(between: &Between) -> NodeOptions {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.models = vec!["m".into()];
    options.directory = between.url();
    options
}

async fn serve(options: NodeOptions) -> iicp_core::Result<LiveNode> {
    Node::bind(options).await?.serve(async |task: Inbound| Ok(Reply::from(task.payload).tokens_used(5))).await
}

/// Runs one task on the node itself; the directory has no part in it.
async fn task(node: &LiveNode) -> Answer {
    let task = json!({ "task_id": fresh(), "intent": CHAT, "payload": { "n": 1 } });
    Conn::open(node.addr()).await.unwrap().post("/v1/task", &task).await.unwrap()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Ids of the nodes that the directory lists now.
async fn listed(directory: &Directory) -> Vec<String> {
    let mut conn = Conn::open(addr(&directory.url())).await.unwrap();
    let answer = conn.get(&format!("/v1/discover?intent={CHAT}")).await.unwrap().json();
    answer["nodes"].as_array().unwrap().iter().map(|node| node["node_id"].as_str().unwrap().to_owned()).collect()
}

async fn until_listed(directory: &Directory, node: &LiveNode) {
    until("listing the node", async || listed(directory).await.contains(&node.node_id().to_owned())).await;
}

fn asked(seen: &[Seen], what: &str) -> usize {
    seen.iter().filter(|seen| seen.is(what)).count()
}

#[tokio::test]
async fn k7_k8_k12_a_node_stays_registered_through_an_hour_of_trouble_and_loses_no_outcome() {
    let mut directories = vec![directory().await];
    let between = Between::start(addr(&directories[0].url())).await.unwrap();
    // Away at the start: the node begins all the same.
    between.set_mood(Mood::HangsUp);
    let node = serve(options(&between)).await.unwrap();
    assert!(!node.is_registered());
    let mut served = 0;
    between.set_mood(Mood::Passing);
    until_listed(&directories[0], &node).await;
    let trouble: Vec<(&str, Mood)> = vec![
        ("hangs up", Mood::HangsUp),
        ("fails", Mood::Says(500, "<html>out of order</html>")),
        ("is a web page", Mood::Says(200, "<html>welcome</html>")),
        ("is a gateway", Mood::Says(502, "")),
        ("asks for a pause", Mood::Says(429, r#"{"error":"IICP-E034","message":"slow down","retry_after":1}"#)),
        ("asks for a day", Mood::Says(503, r#"{"error":{"code":"x","message":"y","retry_after_seconds":1}}"#)),
        ("is full of nulls", Mood::Says(404, r#"{"error":null}"#)),
        ("knows no token", Mood::Says(401, r#"{"error":{"code":"unauthorized","message":"no"}}"#)),
        ("has forgotten", Mood::Says(410, "")),
        ("is silent", Mood::Silent),
    ];
    while asked(&between.seen(), "POST /v1/heartbeat") < 120 {
        for (what, mood) in &trouble {
            if matches!(mood, Mood::Silent) && between.seen().len() > 200 {
                // Five seconds each time; once is enough.
                continue;
            }
            between.set_mood(mood.clone());
            let before = between.seen().len();
            // Longer than it takes to be forgotten, and some work meanwhile.
            let end = Instant::now() + BEAT * 5;
            while Instant::now() < end || between.seen().len() == before {
                assert_eq!(task(&node).await.status, 200, "while the directory {what}");
                served += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            between.set_mood(Mood::Passing);
            let back = between.seen().len();
            until_listed(directories.last().unwrap(), &node).await;
            until("being registered", async || node.is_registered()).await;
            let needed = between.seen().len() - back;
            // One that was on its way, a report, a registration, and the report after it.
            assert!(needed <= 5, "{needed} requests after the directory {what}: {:#?}", &between.seen()[back..]);
        }
        // Another directory in its place: it knows nobody, and signs with other keys.
        let other = directory().await;
        between.set_directory(addr(&other.url()));
        until_listed(&other, &node).await;
        directories.push(other);
        // A clock that jumps, there or here, moves nothing: leases are counted, not dated.
        for ahead_s in [3_600, -3_600, 10 * 365 * 86_400] {
            between.set_clock(Clock { shown_ahead_s: ahead_s, ..Clock::default() });
            let beats = asked(&between.seen(), "POST /v1/heartbeat");
            until("three more beats", async || asked(&between.seen(), "POST /v1/heartbeat") >= beats + 3).await;
            assert!(node.is_registered(), "{ahead_s}");
        }
        between.set_clock(Clock::default());
    }
    assert!(node.shutdown(Duration::from_secs(5)).await);
    let seen = between.seen();
    assert_eq!(asked(&seen, "DELETE /v1/register"), 1, "it said farewell");
    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    for beat in seen.iter().filter(|seen| seen.is("POST /v1/heartbeat")) {
        let count = beat.body["metrics"]["tasks_success"].as_u64().unwrap_or_default();
        assert!(count <= 1_000);
        let Some(id) = beat.body["metrics_batch_id"].as_str() else { continue };
        if beat.status == 200 && beat.answer["metrics_batch_accepted"] == id {
            let earlier = taken.insert(id.to_owned(), count);
            assert!(earlier.is_none_or(|earlier| earlier == count), "the same id with other content");
        }
    }
    assert_eq!(taken.values().sum::<u64>(), served, "every task is reported, none twice");
    let beats = seen.iter().filter(|seen| seen.status == 200 && seen.is("POST /v1/heartbeat"));
    let proven = beats.clone().filter(|beat| beat.answer["challenge_verified"] == true).count();
    let wrong = beats.filter(|beat| beat.answer["challenge_verified"] == false).count();
    assert!(proven > 20 && wrong == 0, "{proven} challenges were answered rightly, {wrong} wrongly");
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        Folder(std::env::temp_dir().join(format!("iicp-node-{}", fresh())))
    }

    fn text(&self) -> Option<String> {
        Some(self.0.to_str().unwrap().to_owned())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn k8_a_node_that_is_started_again_is_the_same_and_proves_it() {
    let real = directory().await;
    let between = Between::start(addr(&real.url())).await.unwrap();
    let folder = Folder::new();
    let mut options = options(&between);
    options.state_dir = folder.text();
    let mut id = None;
    for start in 0..4 {
        // Dropping is no farewell: the directory still has it.
        let node = serve(options.clone()).await.unwrap();
        assert!(node.is_registered());
        assert_eq!(*id.get_or_insert(node.node_id().to_owned()), node.node_id(), "start {start}");
        let refused = Node::bind(options.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::NodeLocked, "{refused}");
    }
    let registrations: Vec<Seen> = between.seen().into_iter().filter(|seen| seen.is("POST /v1/register")).collect();
    assert_eq!(registrations.len(), 4);
    for pair in registrations.windows(2) {
        assert_eq!(pair[1].body["current_node_token"], pair[0].answer["node_token"]);
        assert_eq!(pair[1].body["node_hmac_key"], pair[0].answer["node_hmac_key"]);
        assert_eq!(pair[1].answer["node_hmac_key"], pair[0].answer["node_hmac_key"]);
        assert_eq!(pair[1].answer["recovered"], true);
    }
    // Another directory learns nothing of what this one gave.
    let other = Between::start(addr(&real.url())).await.unwrap();
    options.directory = other.url();
    drop(serve(options).await.unwrap());
    let told = &other.seen()[0].body;
    assert!(told["current_node_token"].is_null() && told["node_hmac_key"].is_null(), "{told:#}");
}

#[tokio::test]
async fn a_client_follows_its_only_node_to_another_port() {
    // A directory that remembers long, as in the world: it lists the node at its old place until it comes back.
    let real = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
    let folder = Folder::new();
    let mut options = NodeOptions::default();
    (options.intents, options.directory, options.state_dir) = (vec![CHAT.into()], real.url(), folder.text());
    let start = async || serve(options.clone()).await.unwrap();
    let mut client = ClientOptions::default();
    client.directory = real.url();
    let client = Client::new(client).unwrap();
    // A connection that breaks leaves open whether the task ran; it may run again.
    let task = || Task::new(CHAT, json!({ "n": 1 })).timeout(Duration::from_secs(5)).idempotent(true);
    let ask = async || client.submit(task()).await;

    let first = start().await;
    ask().await.unwrap();
    drop(first);
    let second = start().await;
    ask().await.expect("the first task after the move");
    drop(second);
    // Long enough for its circuit to open, which stays so for half a minute.
    for _ in 0..8 {
        assert!(ask().await.is_err(), "nobody is there");
    }
    let _third = start().await;
    until("following the node", async || ask().await.is_ok()).await;
}

#[tokio::test]
async fn s23_a_node_whose_state_cannot_be_written_any_more_goes_on() {
    let real = directory().await;
    let between = Between::start(addr(&real.url())).await.unwrap();
    let folder = Folder::new();
    let mut options = options(&between);
    options.state_dir = folder.text();
    let node = serve(options).await.unwrap();
    std::fs::remove_dir_all(folder.0.join("nodes")).unwrap();
    std::fs::write(folder.0.join("nodes"), "a file in the way").unwrap();
    between.set_mood(Mood::Says(401, "{}"));
    until("noticing that it is forgotten", async || !node.is_registered()).await;
    between.set_mood(Mood::Passing);
    until_listed(&real, &node).await;
    assert_eq!(task(&node).await.status, 200);
    assert!(node.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_price_is_signed_as_soon_as_there_is_a_key_and_live_models_are_reported() {
    let real = directory().await;
    let between = Between::start(addr(&real.url())).await.unwrap();
    let mut options = options(&between);
    options.pricing = Some(NodePricing::default());
    let node = serve(options).await.unwrap();
    let beats = async || asked(&between.seen(), "POST /v1/heartbeat") >= 3;
    until("three beats", beats).await;
    let seen = between.seen();
    let key = seen[0].answer["node_hmac_key"].as_str().unwrap();
    assert_eq!(seen[0].body["pricing"], json!({ "credit_cost_multiplier": 1, "pricing_model": "per_token" }));
    let signature = hmac(key, r#"{"credit_cost_multiplier":1,"pricing_model":"per_token"}"#);
    assert_eq!(seen[1].body["pricing"]["declaration_signature"], signature);
    assert!(seen[2].body["pricing"].is_null(), "once");
    assert_eq!(seen[1].body["health_models"], json!(["m"]));
    assert_eq!(seen[1].body["backend_stability"], json!({ "backend_state": "ok", "reason_class": "ok" }));
    drop(node);
}

fn hmac(key: &str, text: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.as_bytes());
    ring::hmac::sign(&key, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn credits_are_asked_for_once_per_task_whatever_becomes_of_the_directory() {
    let real = directory().await;
    let between = Between::start(addr(&real.url())).await.unwrap();
    let mut options = options(&between);
    options.receipts = true;
    let node = serve(options).await.unwrap();
    let awarded = || {
        let seen = between.seen().into_iter();
        seen.filter(|seen| seen.is("POST /v1/credits/award") && seen.status == 200).collect::<Vec<_>>()
    };
    assert_eq!(task(&node).await.status, 200);
    until("the first receipt", async || awarded().len() == 1).await;
    // Away and back, and as somebody else who knows neither token nor key.
    between.set_mood(Mood::Says(503, "{}"));
    for _ in 0..5 {
        assert_eq!(task(&node).await.status, 200);
    }
    let other = directory().await;
    between.set_directory(addr(&other.url()));
    between.set_mood(Mood::Passing);
    until("the other receipts", async || awarded().len() == 6).await;
    // The last task's arrives before the farewell.
    assert_eq!(task(&node).await.status, 200);
    assert!(node.shutdown(Duration::from_secs(5)).await);
    let awarded = awarded();
    let nonces: BTreeSet<&str> = awarded.iter().map(|seen| seen.body["nonce"].as_str().unwrap()).collect();
    assert_eq!((awarded.len(), nonces.len()), (7, 7));
    let keys: Vec<String> =
        between.seen().iter().filter_map(|seen| Some(seen.answer["node_hmac_key"].as_str()?.to_owned())).collect();
    for Seen { body, .. } in &awarded {
        assert_eq!((&body["tokens_used"], &body["reason"]), (&json!(5), &json!("task_completion")));
        let part = |name: &str| body[name].as_str().unwrap();
        let text = format!("{}:5:::{}:{}", part("task_id"), part("nonce"), part("response_hash"));
        assert!(keys.iter().any(|key| hmac(key, &text) == part("signature")));
        assert_eq!(part("nonce").len(), 32);
        assert!(part("expires_at").ends_with('Z'), "{body}");
    }
}

#[tokio::test]
async fn a_streamed_task_earns_what_the_same_task_in_one_piece_does() {
    let real = directory().await;
    let between = Between::start(addr(&real.url())).await.unwrap();
    let mut options = options(&between);
    options.receipts = true;
    let handler = async |_: Inbound| {
        let parts = [json!("Hel").into(), Chunk::from(json!("lo")).tokens_used(7)];
        Ok(Reply::stream(futures_util::stream::iter(parts.map(Ok))))
    };
    let node = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
    until_listed(&real, &node).await;
    let mut options = ClientOptions::default();
    options.directory = real.url();
    let client = Client::new(options).unwrap();
    let whole = client.submit(Task::new(CHAT, json!({}))).await.unwrap();
    assert_eq!(whole.result.json::<String>().unwrap(), "Hello");
    let mut stream = client.stream(Task::new(CHAT, json!({}))).await.unwrap();
    let mut parts = 0;
    while let Some(part) = stream.next().await {
        part.unwrap();
        parts += 1;
    }
    assert_eq!(parts, 2);
    // Who leaves a stream half-way was not served, and pays nothing.
    let mut left = client.stream(Task::new(CHAT, json!({}))).await.unwrap();
    left.next().await.unwrap().unwrap();
    drop(left);
    assert!(node.shutdown(Duration::from_secs(5)).await);
    let awarded: Vec<Seen> = between.seen().into_iter().filter(|seen| seen.is("POST /v1/credits/award")).collect();
    assert!(awarded.len() >= 2, "{awarded:?}");
    for Seen { body, status, .. } in &awarded {
        assert_eq!(
            (status, &body["tokens_used"], &body["response_hash"]),
            (&200, &json!(7), &awarded[0].body["response_hash"])
        );
    }
}

#[tokio::test]
async fn nobody_is_asked_for_credits_unless_the_operator_wants_it() {
    let real = directory().await;
    let between = Between::start(addr(&real.url())).await.unwrap();
    let node = serve(options(&between)).await.unwrap();
    assert_eq!(task(&node).await.status, 200);
    assert!(node.shutdown(Duration::from_secs(5)).await);
    assert_eq!(asked(&between.seen(), "POST /v1/credits/award"), 0);
    let seen = between.seen();
    let last = seen.iter().rfind(|seen| seen.is("POST /v1/heartbeat")).unwrap();
    assert_eq!((&last.body["available"], &last.body["metrics"]["tasks_success"]), (&json!(false), &json!(1)));
}

#[tokio::test]
async fn a_share_of_the_node_is_what_it_lets_in_and_what_it_tells() {
    let real = directory().await;
    let between = Between::start(addr(&real.url())).await.unwrap();
    let mut options = options(&between);
    options.max_concurrent = 8;
    let mut window = AvailabilityWindow::default();
    window.share = 0.25;
    options.availability = vec![window];
    let node = serve(options.clone()).await.unwrap();
    let health = Conn::open(node.addr()).await.unwrap().get("/iicp/health").await.unwrap().json();
    assert_eq!((&health["max_concurrent"], &health["effective_max_concurrent"]), (&json!(8), &json!(2)));
    until("a beat", async || asked(&between.seen(), "POST /v1/heartbeat") > 0).await;
    let seen = between.seen();
    assert_eq!(seen[0].body["limits"]["max_concurrent"], 8);
    assert_eq!((&seen[1].body["max_concurrent"], &seen[1].body["available"]), (&json!(2), &json!(true)));
    drop(node);
    options.availability[0].share = 0.0;
    let node = serve(options).await.unwrap();
    assert_eq!(task(&node).await.status, 429);
    let health = Conn::open(node.addr()).await.unwrap().get("/iicp/health").await.unwrap().json();
    assert_eq!((&health["effective_max_concurrent"], &health["available"]), (&json!(0), &json!(false)));
}
