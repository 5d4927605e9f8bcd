//! The published black-box runner against our directory, as its operator would run it.

use std::process::Output;

use iicp_core::options::DirectoryOptions;
use iicp_tests::http::{Conn, addr};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::peer::{INSTALL, PATIENCE};

/// What a profile came to: cases, those that passed, and the ids of those that did not.
async fn run(target: &str, profile: &str) -> (u64, u64, Vec<String>) {
    let runner = iicp_tests::root().join("target/venv-peer/bin/iicp-conformance");
    let running = Command::new(runner)
        .args(["run", "--target", target, "--profile", profile, "--timeout", "30"])
        .env_clear()
        .kill_on_drop(true)
        .output();
    let Output { stdout, stderr, .. } =
        timeout(PATIENCE, running).await.expect("the runner ends").unwrap_or_else(|e| panic!("{INSTALL} ({e})"));
    let result: Value = serde_json::from_slice(&stdout)
        .unwrap_or_else(|e| panic!("the runner says no result ({e}): {}", String::from_utf8_lossy(&stderr)));
    assert_eq!((&result["runner_version"], &result["profile"]), (&json!("0.3.0"), &json!(profile)));
    let cases = result["results"].as_array().unwrap();
    let failed = cases.iter().filter(|case| case["outcome"] != "pass").map(Value::to_string).collect();
    let summary = &result["summary"];
    assert_eq!(summary["total"], cases.len());
    (summary["total"].as_u64().unwrap(), summary["passed"].as_u64().unwrap(), failed)
}

#[tokio::test]
async fn the_published_conformance_runner_passes_every_case() {
    let directory = crate::directory().await;
    // The profile of tickets wants a route, and brings none.
    let node = json!({
        "node_id": "conformance-node", "endpoint": "http://127.0.0.1:9600", "region": "eu",
        "capabilities": [{ "intent": iicp_core::CHAT, "models": ["m"] }],
        "limits": { "max_concurrent": 1, "tokens_per_min": 1000 },
    });
    let mut conn = Conn::open(addr(&directory.url())).await.unwrap();
    assert_eq!(conn.post("/v1/register", &node).await.unwrap().status, 201);
    for (profile, cases) in [("directory-public-v1", 10), ("directory-dispatch-v1", 5), ("directory-lifecycle-v1", 6)] {
        assert_eq!(run(&directory.url(), profile).await, (cases, cases, Vec::new()), "{profile}");
    }
}

#[tokio::test]
async fn the_published_conformance_runner_passes_every_public_case_with_limits_and_gating_on() {
    let mut options = DirectoryOptions::default();
    options.probe = false;
    let directory = iicp_core::Directory::bind(options).await.unwrap();
    for (profile, cases) in [("directory-public-v1", 10), ("directory-lifecycle-v1", 6)] {
        assert_eq!(run(&directory.url(), profile).await, (cases, cases, Vec::new()), "{profile}");
    }
    // Without a route there is no ticket: the runner counts, so its counts are worth something.
    let (cases, passed, failed) = run(&directory.url(), "directory-dispatch-v1").await;
    assert_eq!((cases, passed), (5, 4), "{failed:?}");
    assert!(failed[0].contains("DIR-DISPATCH-01"), "{failed:?}");
}
