//! Many calls at the same time, answered in any order and spoilt in every way (S8).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ciborium::Value as Cbor;
use iicp_core::{CHAT, Code, Task};
use iicp_tests::native::{CALLS, Frame, Native, kind};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Mesh, Serving, ack, parted, response, soon};

/// Numbers that look random, the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }
}

fn whole(session: &Cbor, call_id: &Cbor, task_id: &str, n: &Value) -> Vec<u8> {
    let reply = json!({ "task_id": task_id, "status": "success", "result": { "n": n } }).to_string();
    let body = Cbor::Bytes(reply.into_bytes());
    let names = [(1, 1.into()), (2, session.clone()), (3, call_id.clone()), (4, Cbor::from("success"))];
    response(&[&names[..], &[(5, body), (12, true.into())]].concat())
}

/// What a round of calls is spoilt with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spoilt {
    Not,
    SecondAnswer,
    PartAfterTheEnd,
    NobodysCall,
    AnothersSession,
}

/// Serves rounds of calls: when all of a round are there, they are answered in an order that looks random, and spoilt.
fn rounds(
    of: usize,
    seed: u64,
    spoilt: Spoilt,
    goodbyes: Arc<Mutex<Vec<String>>>,
) -> impl Fn(Native) -> Serving + Send {
    move |mut native| {
        let goodbyes = goodbyes.clone();
        Box::pin(async move {
            let mut dice = Dice(seed);
            let (mut calls, mut acquainted): (Vec<Frame>, bool) = (Vec::new(), false);
            while let Ok(Some(frame)) = native.next().await {
                match frame.kind {
                    kind::INIT => {
                        let ours = Cbor::Array(vec![CALLS.into()]);
                        let _ = native.send(&ack(&[(1, 1.into()), (2, "node-1".into()), (3, ours)])).await;
                    }
                    kind::CALL if !std::mem::replace(&mut acquainted, true) => {
                        let n = frame.json()["payload"]["n"].clone();
                        let _ = native.send(&whole(&frame.get(2), &frame.get(15), &frame.text(24), &n)).await;
                    }
                    kind::CALL => calls.push(frame),
                    kind::CLOSE => goodbyes.lock().unwrap().push(frame.text(1)),
                    _ => {}
                }
                if calls.len() < of {
                    continue;
                }
                let at = dice.roll(of);
                let mut out = Vec::new();
                for answered in 0..of {
                    let call = calls.swap_remove(dice.roll(calls.len()));
                    let (session, id, n) = (call.get(2), call.get(15), call.json()["payload"]["n"].clone());
                    out.extend(whole(&session, &id, &call.text(24), &n));
                    if answered == at {
                        out.extend(match spoilt {
                            Spoilt::Not => Vec::new(),
                            Spoilt::SecondAnswer => whole(&session, &id, &call.text(24), &json!("second")),
                            Spoilt::PartAfterTheEnd => parted(&id, b"late"),
                            Spoilt::NobodysCall => {
                                whole(&session, &"e0000000-0000-4000-8000-000000000001".into(), "t", &json!("nobody's"))
                            }
                            Spoilt::AnothersSession => {
                                let other = calls.last().unwrap_or(&call);
                                whole(&"another".into(), &other.get(15), &other.text(24), &json!("forged"))
                            }
                        });
                    }
                }
                // Cut anywhere, as a network cuts.
                let mut rest = &out[..];
                while !rest.is_empty() {
                    let (piece, left) = rest.split_at((1 + dice.roll(700)).min(rest.len()));
                    if native.send(piece).await.is_err() {
                        break;
                    }
                    rest = left;
                }
            }
        })
    }
}

#[tokio::test]
async fn a_thousand_calls_in_any_order_get_their_own_answers_and_nothing_that_is_not_theirs() {
    const ROUND: usize = 50;
    let (mut answered, mut lost) = (0, 0);
    for (seed, spoilt) in
        [Spoilt::Not, Spoilt::SecondAnswer, Spoilt::PartAfterTheEnd, Spoilt::NobodysCall, Spoilt::AnothersSession]
            .into_iter()
            .cycle()
            .take(20)
            .enumerate()
    {
        let goodbyes = Arc::new(Mutex::new(Vec::new()));
        let seed = 0x9e37_79b9_7f4a_7c15 ^ u64::try_from(seed).unwrap();
        let mesh = Mesh::start(rounds(ROUND, seed, spoilt, goodbyes.clone())).await;
        // The connection is there before the round, or the first of it might go over HTTP.
        while mesh.submit(json!({ "n": "first" })).await.unwrap() != json!({ "n": "first" }) {}
        let _ = mesh.tap.take();
        let mut calls = JoinSet::new();
        for n in 0..ROUND {
            let client = mesh.client.clone();
            calls.spawn(async move { (n, client.submit(Task::new(CHAT, json!({ "n": n }))).await) });
        }
        let mut failed = 0;
        while let Some(done) = soon("an end", calls.join_next()).await {
            match done.unwrap() {
                (n, Ok(done)) => {
                    assert_eq!(done.result.json::<Value>().unwrap(), json!({ "n": n }), "{spoilt:?}: another's answer");
                    answered += 1;
                }
                (_, Err(error)) => {
                    assert_eq!(error.code(), Code::Lost, "{spoilt:?}: {error}");
                    failed += 1;
                }
            }
        }
        assert_eq!(mesh.tap.take().matches("POST /v1/task").count(), 0, "{spoilt:?}: one was sent again");
        if spoilt == Spoilt::Not {
            assert_eq!(failed, 0);
        } else {
            let said = soon("a goodbye", async {
                loop {
                    if let Some(said) = goodbyes.lock().unwrap().first().cloned() {
                        return said;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            assert_eq!(said.await, "protocol_error", "{spoilt:?}");
        }
        lost += failed;
    }
    assert_eq!(answered + lost, 20 * ROUND);
    println!("{answered} calls got their answers, {lost} were lost with their spoilt connections, none got another's");
}
