//! Two ledgers, the caller's and the nodes', after parts of a mesh were killed at random points: each task ended once, in
//! time, and none ran twice that must not. `tests/run --with soak` does the same for longer and with more.

#![allow(clippy::unwrap_used)]

mod mesh;
mod starved;

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use iicp_tests::size;
use mesh::{Folder, Mesh};
use serde_json::Value;

/// The consumer's deadline, and the second that may be added to it.
const MOST_MS: u64 = 3_000 + 1_000;

/// What the caller noted of a task.
#[derive(Debug, Default)]
struct Account {
    idempotent: bool,
    ends: Vec<(String, u64)>,
    runs: usize,
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // What is being written just now is no line yet.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ledgers(folder: &Folder) -> HashMap<String, Account> {
    let mut accounts: HashMap<String, Account> = HashMap::new();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for line in lines(folder.path("caller")) {
        if line["begun"].is_string() {
            accounts.entry(text(&line["begun"])).or_default().idempotent = line["idempotent"] == true;
        } else {
            let end = (text(&line["as"]), line["ms"].as_u64().unwrap());
            accounts.get_mut(line["ended"].as_str().unwrap()).expect("an end without a beginning").ends.push(end);
        }
    }
    for line in lines(folder.path("nodes")) {
        accounts.get_mut(line["ran"].as_str().unwrap()).expect("a task that nobody sent").runs += 1;
    }
    accounts
}

/// A number that nobody foresees, below `most`.
fn random(most: u64) -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish() % most
}

#[tokio::test]
async fn k1_k4_s9_whoever_is_killed_each_task_ends_once_in_time_and_runs_once_unless_idempotent() {
    let wanted = size(500, 10_000);
    let mut mesh = Mesh::start("ledger").await;
    let mut relayed = mesh.workers(true, 0, 2).await;
    let mut direct = mesh.workers(false, 2, 1).await;
    mesh.all_bound(2, Duration::from_secs(30)).await;
    let mut generation = 0;
    let mut consumer = mesh.consumer(generation).await;
    let mut kills: HashMap<&str, u32> = HashMap::new();
    let (begun, mut victims) = (Instant::now(), (0..5).cycle());
    loop {
        tokio::time::sleep(Duration::from_millis(100 + random(900))).await;
        // Each in turn, at points that nobody chose.
        let name = match victims.next().unwrap() {
            0 => {
                relayed.kill().await;
                relayed.start_again().await;
                "worker"
            }
            1 => {
                mesh.relay.kill().await;
                tokio::time::sleep(Duration::from_millis(random(500))).await;
                mesh.relay.start_again().await;
                "relay"
            }
            2 => {
                mesh.directory.kill().await;
                tokio::time::sleep(Duration::from_millis(random(500))).await;
                mesh.directory.start_again().await;
                "directory"
            }
            3 => {
                direct.kill().await;
                direct.start_again().await;
                "node"
            }
            _ => {
                consumer.kill().await;
                generation += 1;
                consumer = mesh.consumer(generation).await;
                "consumer"
            }
        };
        *kills.entry(name).or_default() += 1;
        let ended = lines(mesh.folder.path("caller")).iter().filter(|line| line["ended"].is_string()).count();
        if ended >= wanted && kills.len() == 5 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(size(120, 1_500)), "{ended} tasks have ended");
    }
    // Nobody is killed any more: whoever was comes back.
    mesh.all_bound(2, Duration::from_secs(30)).await;
    mesh.serves_again(Duration::from_secs(30)).await;
    consumer.end().await;
    let last = format!("c{generation}-");
    let accounts = ledgers(&mesh.folder);
    let (mut results, mut errors): (usize, HashMap<&str, usize>) = (0, HashMap::new());
    for (id, account) in &accounts {
        let Account { idempotent, ends, runs } = account;
        match ends.as_slice() {
            // A caller that was killed heard of nothing that was under way.
            [] => assert!(!id.starts_with(&last), "{id} was lost"),
            [(end, ms)] => {
                assert!(*ms <= MOST_MS, "{id} took {ms} ms");
                match &**end {
                    "result" => {
                        results += 1;
                        assert!(*runs >= 1, "{id} has a result that nobody made");
                    }
                    error if error.starts_with("the result") => panic!("{id}: {error}"),
                    error if error.starts_with("MALFORMED") => panic!("{id}: who is gone has said nothing wrong"),
                    error => *errors.entry(error).or_default() += 1,
                }
            }
            more => panic!("{id} ended {} times", more.len()),
        }
        assert!(*idempotent || *runs <= 1, "{id} ran {runs} times");
    }
    // In between they were served; it was half of them when this was written.
    assert!(results * 5 >= accounts.len(), "{results} results of {} tasks: {errors:?}", accounts.len());
    println!("{} tasks, {results} results, errors: {errors:?}, killed: {kills:?}", accounts.len());
}

#[tokio::test]
async fn k4_s31_workers_are_back_after_their_relay_was_killed() {
    let (hosts, each) = size((1, 100), (4, 500));
    let mut mesh = Mesh::start("herd").await;
    let mut workers = Vec::new();
    for host in 0..hosts {
        workers.push(mesh.workers(true, host * each, each).await);
    }
    mesh.all_bound(hosts * each, Duration::from_secs(60)).await;
    mesh.relay.kill().await;
    tokio::time::sleep(Duration::from_secs(size(1, 5))).await;
    mesh.relay.start_again().await;
    let begun = Instant::now();
    let first = async {
        loop {
            for n in 0..hosts * each {
                if mesh.is_bound(n).await {
                    return begun.elapsed();
                }
            }
        }
    };
    let first = tokio::time::timeout(Duration::from_secs(30), first).await.expect("nobody came back");
    let all = first + mesh.all_bound(hosts * each, Duration::from_secs(30)).await;
    println!("the first of {} workers was back after {first:?}, all after {all:?}", hosts * each);
    // Three times what is promised of the first: other work goes on.
    assert!(first < Duration::from_secs(9) && all < Duration::from_secs(30), "{first:?}, {all:?}");
}
