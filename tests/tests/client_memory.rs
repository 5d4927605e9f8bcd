//! What an answer without end may cost a client. Alone in its file: it measures its own process.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use iicp_core::options::{ClientOptions, Discover};
use iicp_core::{CHAT, Client, Code, Task};
use iicp_tests::process::Process;
use iicp_tests::stage_process::StageProcess;
use serde_json::{Value, json};

const TEN_GB: u64 = 10_000_000_000;
const MARGIN: u64 = 8 << 20;

async fn scene(setup: Value) -> (StageProcess, Client, u64) {
    let mut stage = StageProcess::start(env!("CARGO_BIN_EXE_stage")).unwrap();
    let scene = stage.call(&json!({ "setup": setup })).await.unwrap();
    let mut options = ClientOptions::default();
    options.directory = scene["directory"].as_str().unwrap().into();
    options.timeout_ms = 60_000;
    let cap = options.max_response_bytes as u64;
    (stage, Client::new(options).unwrap(), cap)
}

#[tokio::test]
async fn an_answer_of_ten_gigabytes_costs_its_cap_and_little_more() {
    // A first call of each kind, so that what is made once is there before the measuring begins.
    let (_stage, warm, _) = scene(json!({ "nodes": [{ "peer": "reset" }] })).await;
    warm.submit(Task::new(CHAT, json!({}))).await.unwrap_err();

    let (_stage, client, cap) = scene(json!({ "nodes": [{ "peer": { "endless": TEN_GB } }] })).await;
    let rise = peak_rise(async {
        let error = client.submit(Task::new(CHAT, json!({}))).await.unwrap_err();
        assert_eq!(error.code(), Code::ResponseTooLarge, "{error}");
    })
    .await;
    assert!(rise <= cap + MARGIN, "{rise} bytes for a cap of {cap}");

    let (_stage, client, _) = scene(json!({ "directory": { "peer": { "endless": TEN_GB } } })).await;
    let rise = peak_rise(async {
        let error = client.discover(Discover::intent(CHAT)).await.unwrap_err();
        assert_eq!(error.code(), Code::DirectoryMalformed, "{error}");
    })
    .await;
    assert!(rise <= (4 << 20) + MARGIN, "{rise} bytes for a directory's 4 MiB");
}

/// Most memory that was held during a call beyond what was held before it. The call ends soon.
async fn peak_rise(call: impl Future<Output = ()>) -> u64 {
    let process = Process::this();
    process.forget_peak();
    let (before, begun) = (process.memory(), Instant::now());
    call.await;
    assert!(begun.elapsed() < Duration::from_secs(20), "the cap was reached long before {:?}", begun.elapsed());
    process.peak_memory().saturating_sub(before)
}
