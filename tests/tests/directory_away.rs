//! A client does not need its directory all the time, nor one whose clock is right.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions, RouteDiscovery};
use iicp_core::types::TaskResult;
use iicp_core::{CHAT, Client, Code, Directory, Error, Inbound, LiveNode, Node, Reply, Result, Task};
use iicp_tests::between::{Between, Clock, Mood};
use iicp_tests::http::addr;
use serde_json::{Value, json};

/// A node, and a directory that a client reaches only through somebody else.
struct Mesh {
    _directory: Directory,
    node: LiveNode,
    between: Between,
}

impl Mesh {
    async fn start() -> Mesh {
        let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
        let mut options = NodeOptions::default();
        options.intents = vec![CHAT.into()];
        options.directory = directory.url();
        let node = Node::bind(options).await.unwrap();
        let handler = async |task: Inbound| match task.json::<Value>()?["fail"] {
            Value::Bool(true) => Err(Error::new(Code::Backend, "as told")),
            _ => Ok(Reply::from(task.payload)),
        };
        let node = node.serve(handler).await.unwrap();
        assert!(node.is_registered());
        let between = Between::start(addr(&directory.url())).await.unwrap();
        Mesh { _directory: directory, node, between }
    }

    fn client(&self, mode: RouteDiscovery) -> Client {
        let mut options = ClientOptions::default();
        options.directory = self.between.url();
        options.route_discovery = mode;
        options.route_ttl_ms = 100;
        Client::new(options).unwrap()
    }
}

async fn submit(client: &Client) -> Result<TaskResult> {
    client.submit(Task::new(CHAT, json!({ "n": 1 })).timeout(Duration::from_secs(4))).await
}

/// What a directory may be, other than there.
#[derive(Clone, Copy, Debug)]
enum Away {
    Refusing,
    Silent,
    Failing,
    Garbage,
    Slow,
}

/// Learns a route, waits until it is over, takes the directory away and sends tasks.
async fn goes_on(mode: RouteDiscovery, away: Away) {
    let mut mesh = Mesh::start().await;
    // Tickets that are good for one second more than a client spares.
    mesh.between.set_clock(Clock { lasts_s: Some(11), ..Clock::default() });
    let client = mesh.client(mode);
    let first = submit(&client).await.unwrap();
    assert_eq!(first.receipt.dispatch_ticket_id_prefix.is_some(), mode == RouteDiscovery::Ticketed);
    match away {
        Away::Refusing => mesh.between.leave().await,
        Away::Silent => mesh.between.set_mood(Mood::Silent),
        Away::Failing => mesh.between.set_mood(Mood::Says(500, "<html>out of order</html>")),
        Away::Garbage => mesh.between.set_mood(Mood::Says(200, r#"{"nodes":[{"#)),
        Away::Slow => mesh.between.set_mood(Mood::Slow(Duration::from_secs(30))),
    }
    let asked = mesh.between.requests();
    // Past the end of the ticket, and of the list with its time of grace: the directory has to be asked.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for n in 0..5 {
        let begun = Instant::now();
        // Several at once: only one of them asks.
        let (done, other) = tokio::join!(submit(&client), submit(&client));
        assert!(other.is_ok(), "task {n}, {mode:?}, {away:?}: {other:?}");
        let done = done.unwrap_or_else(|error| panic!("task {n}, {mode:?}, {away:?}: {error}"));
        assert_eq!(done.node_id, mesh.node.node_id());
        assert!(begun.elapsed() < Duration::from_secs(4), "task {n}, {mode:?}, {away:?}");
    }
    // A task that fails is no reason to forget who is there.
    let failing = Task::new(CHAT, json!({ "fail": true })).idempotent(true).timeout(Duration::from_secs(4));
    let error = client.submit(failing).await.unwrap_err();
    assert_eq!(error.code(), Code::Backend, "{mode:?}, {away:?}: {error}");
    submit(&client).await.unwrap_or_else(|error| panic!("after a failure, {mode:?}, {away:?}: {error}"));
    if !matches!(away, Away::Refusing) {
        assert!(mesh.between.requests() > asked, "{mode:?}, {away:?}: nobody asked, so nothing was tried here");
    }
}

/// Every way side by side: most of the time is waiting.
async fn goes_on_whatever_the_directory_does(mode: RouteDiscovery) {
    let mut all = tokio::task::JoinSet::new();
    for away in [Away::Refusing, Away::Silent, Away::Failing, Away::Garbage, Away::Slow] {
        all.spawn(goes_on(mode, away));
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn k7_a_client_with_a_list_goes_on_without_an_error_while_its_directory_is_away() {
    goes_on_whatever_the_directory_does(RouteDiscovery::Legacy).await;
}

#[tokio::test]
async fn k7_a_client_with_ticketed_routes_goes_on_without_an_error_while_its_directory_is_away() {
    goes_on_whatever_the_directory_does(RouteDiscovery::Ticketed).await;
}

#[tokio::test]
async fn k7_a_client_that_holds_nothing_says_that_the_directory_is_away() {
    let mesh = Mesh::start().await;
    mesh.between.set_mood(Mood::Says(500, "{}"));
    assert_eq!(submit(&mesh.client(RouteDiscovery::Auto)).await.unwrap_err().code(), Code::DirectoryUnreachable);
}

#[tokio::test]
async fn k12_tickets_of_a_directory_whose_clock_is_an_hour_off_are_taken() {
    for ahead_s in [3_600, -3_600] {
        let mesh = Mesh::start().await;
        mesh.between.set_clock(Clock { signed_ahead_s: ahead_s, shown_ahead_s: ahead_s, lasts_s: None });
        let client = mesh.client(RouteDiscovery::Ticketed);
        for _ in 0..3 {
            let done = submit(&client).await.unwrap_or_else(|error| panic!("{ahead_s} s ahead: {error}"));
            assert!(done.receipt.dispatch_ticket_id_prefix.is_some() && done.sealed, "{ahead_s}");
        }
    }
}

#[tokio::test]
async fn k12_a_ticket_that_is_over_by_its_directorys_own_clock_is_refused() {
    let mesh = Mesh::start().await;
    mesh.between.set_clock(Clock { signed_ahead_s: -3_600, shown_ahead_s: 0, lasts_s: None });
    let error = submit(&mesh.client(RouteDiscovery::Ticketed)).await.unwrap_err();
    assert_eq!(error.code(), Code::TicketRefused, "{error}");
}

#[tokio::test]
async fn k12_a_route_is_used_for_as_long_as_its_ticket_lasts_whatever_the_clock_shows() {
    let mesh = Mesh::start().await;
    mesh.between.set_clock(Clock { signed_ahead_s: 3_600, shown_ahead_s: 3_600, lasts_s: Some(60) });
    let client = mesh.client(RouteDiscovery::Ticketed);
    let first = submit(&client).await.unwrap().receipt.dispatch_ticket_id_prefix;
    // The clock jumps back by two hours; nothing that is held is over because of it.
    mesh.between.set_clock(Clock { signed_ahead_s: -3_600, shown_ahead_s: -3_600, lasts_s: Some(60) });
    let second = submit(&client).await.unwrap().receipt.dispatch_ticket_id_prefix;
    assert_eq!(first, second);
}
