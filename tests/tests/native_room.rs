//! A native caller who makes no room for the parts of an answer: what it costs the node, and for how long.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use ciborium::Value as Cbor;
use iicp_core::options::NodeOptions;
use iicp_core::{CHAT, Inbound, Node, Reply};
use iicp_tests::native::{Native, frame, kind, map};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

#[tokio::test]
async fn a_caller_who_makes_no_room_holds_a_slot_no_longer_than_its_task_may_take() {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    let endless = |_task: Inbound| async {
        let parts = futures_util::stream::repeat_with(|| Ok(json!("x".repeat(8 << 10))));
        Ok(Reply::stream(parts))
    };
    let node = Node::bind(options).await.unwrap().serve(endless).await.unwrap();
    let mut native = Native::greet(node.addr()).await.unwrap();
    let task = json!({ "task_id": "t-1", "intent": CHAT, "payload": {}, "constraints": { "timeout_ms": 2000 } });
    let body = Cbor::Bytes(task.to_string().into_bytes());
    let call = map(&[(1, 1.into()), (2, "s-1".into()), (5, body), (15, "c-1".into()), (106, 1.into())]);
    native.send(&frame(kind::CALL, 0, &call)).await.unwrap();
    let mut taken = Vec::new();
    let mut part = soon("a part", native.next()).await.unwrap().unwrap();
    assert_eq!(part.kind, kind::PART);
    taken.extend(part.get(5).into_bytes().unwrap());
    assert_eq!(node.active_jobs(), 1);
    // The window fills up, and the task's time runs out.
    soon("the slot", async {
        while node.active_jobs() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // Who makes room after all hears how it ended.
    let mut room = 0;
    loop {
        if taken.len() >= room {
            let credit = map(&[(1, (128 << 10).into()), (15, "c-1".into())]);
            native.send(&frame(kind::CREDIT, 0, &credit)).await.unwrap();
            room = taken.len() + (128 << 10);
        }
        part = soon("what is left", native.next()).await.unwrap().unwrap();
        if part.kind != kind::PART {
            break;
        }
        taken.extend(part.get(5).into_bytes().unwrap());
    }
    assert_eq!((part.kind, part.text(4).as_str()), (kind::RESPONSE, "success"), "the parts were all");
    let taken = String::from_utf8(taken).unwrap();
    let last = taken.lines().rfind(|line| line.starts_with("data:")).unwrap();
    let last: Value = serde_json::from_str(last.strip_prefix("data:").unwrap()).unwrap();
    assert_eq!((last["event"].as_str(), last["is_final"].as_bool()), (Some("timed_out"), Some(true)), "{last}");
}
