//! Peers by the thousand who send what is neither a task nor a bind: damaged ones, parts in disorder, noise.

use std::sync::Arc;
use std::time::Duration;

use iicp_core::CHAT;
use iicp_tests::http::{Conn, post};
use iicp_tests::native::{Native, call, frame, hello, kind, map, raw};
use iicp_tests::size;
use iicp_tests::stage_process::StageProcess;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Remote;

/// What the damaged tasks are about: nothing that the node serves, so that no damage makes a task of them that it runs.
const NOBODYS: &str = "urn:iicp:intent:nobody:serves:v1";

const RELAY_BIND: u8 = 0x0b;

/// A cheap source of numbers that are the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % below.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.next(256)).unwrap()
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.next(most)).map(|_| self.byte()).collect()
    }

    /// With a few bytes changed, put in or taken out.
    fn damaged(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..=self.next(4) {
            let at = self.next(bytes.len());
            match self.next(3) {
                0 => bytes[at] = self.byte(),
                1 => bytes.insert(at, self.byte()),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    }

    /// What one peer sends.
    fn peer(&mut self) -> Vec<u8> {
        let task = json!({ "task_id": "t", "intent": NOBODYS, "payload": { "text": "x".repeat(self.next(300)) } });
        match self.next(10) {
            0 => self.bytes(300),
            1 => [&b"IICP"[..], &self.bytes(100)].concat(),
            2 => frame(self.byte(), self.byte(), &self.bytes(200)),
            3 => [hello(), self.damaged(call("c", &task))].concat(),
            4 => {
                let body = ciborium::Value::Bytes(b"{}".to_vec());
                self.damaged(frame(kind::CALL, 0, &map(&[(2, "s".into()), (3, NOBODYS.into()), (5, body)])))
            }
            5 => {
                let total = self.next(5) as u64;
                let parts = (0..6).flat_map(|_| {
                    let data = ciborium::Value::Bytes(self.bytes(60));
                    let seq = self.next(5) as u64;
                    frame(kind::CALL, 2, &map(&[(1, "m".into()), (2, seq.into()), (3, total.into()), (4, data)]))
                });
                [hello(), parts.collect()].concat()
            }
            6 => {
                let length = u32::try_from(self.next(1 << 25)).unwrap();
                [hello(), raw(1, self.byte() % 12, self.byte() % 4, length, &self.bytes(100))].concat()
            }
            7 => {
                let bind = map(&[(1, "w-1".into()), (2, CHAT.into()), (4, "a.b.c".into())]);
                [frame(kind::INIT, 0, &map(&[(1, 1.into())])), self.damaged(frame(RELAY_BIND, 0, &bind))].concat()
            }
            8 => self.damaged(post("/v1/task", "", task.to_string().as_bytes())),
            _ => {
                let chunks = format!("{:x}\r\n{task}\r\n0\r\n\r\n", task.to_string().len());
                self.damaged(
                    format!("POST /v1/task HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunks}").into(),
                )
            }
        }
    }
}

/// Sends something in pieces and goes away in one of the ways that there are.
async fn send(addr: std::net::SocketAddr, bytes: Vec<u8>, cut: usize, way: usize) {
    let mut peer = Native::open(addr).await.unwrap();
    let (first, rest) = bytes.split_at(cut);
    // The node may have hung up by then.
    let _ = peer.send(first).await;
    if way.is_multiple_of(2) {
        tokio::task::yield_now().await;
    }
    let _ = peer.send(rest).await;
    if way != 3 {
        let _ = peer.0.shutdown().await;
        let closed = tokio::time::timeout(Duration::from_secs(30), Conn::over(&mut peer.0).rest()).await;
        closed.expect("whoever says no more is hung up on");
    }
    // Ports are few; who hangs up with a reset leaves none waiting.
    let _ = peer.0.set_zero_linger();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_thousands_who_send_noise_none_runs_a_handler_is_bound_or_leaves_anything_behind() {
    let count = size(2_000_usize, 100_000);
    let faults = std::env::temp_dir().join(format!("iicp-noise-{}", std::process::id()));
    let stage = StageProcess::overheard(env!("CARGO_BIN_EXE_stage"), std::fs::File::create(&faults).unwrap()).unwrap();
    let workers = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let relay = json!({ "port": workers.port(), "ticket_required": true, "ticket_key": "11".repeat(32) });
    let mut node = Remote::on(stage, "echo", json!({ "relay_server": relay }), None).await;
    let (mut noise, at_once) = (Noise(0x9e37_79b9_7f4a_7c15), Arc::new(Semaphore::new(32)));
    let mut peers = JoinSet::new();
    let mut caller = Conn::open(node.addr).await.unwrap();
    let (mut served, mut before) = (0_usize, 0);
    for n in 0..count {
        let bytes = noise.peer();
        let addr = if noise.next(3) == 0 { workers } else { node.addr };
        let (cut, way) = (noise.next(bytes.len()), noise.next(4));
        let room = at_once.clone().acquire_owned().await.unwrap();
        peers.spawn(async move {
            send(addr, bytes, cut, way).await;
            drop(room);
        });
        while let Some(done) = peers.try_join_next() {
            done.unwrap();
        }
        if n % 50 == 0 {
            let task = json!({ "task_id": format!("t-{n}"), "intent": CHAT, "payload": n });
            let answer = tokio::time::timeout(Duration::from_secs(10), caller.post("/v1/task", &task)).await;
            assert_eq!(answer.expect("a lost task").unwrap().json()["result"], n, "others are served all the while");
            served += 1;
        }
        if n == count / 4 {
            before = node.process.memory();
        }
    }
    while let Some(done) = peers.join_next().await {
        done.unwrap();
    }
    let rise = node.process.memory().saturating_sub(before);
    let page = String::from_utf8(caller.get("/metrics").await.unwrap().body).unwrap();
    let ledger = node.stage.call(&json!({ "ledger": {} })).await.unwrap();
    println!(
        "{count} peers who sent no task; {served} tasks of others beside them; {rise} bytes more since the first quarter"
    );
    assert_eq!(ledger["nodes"][0]["started"], served, "nobody else's ran");
    assert!(page.contains("iicp_relay_binds_total{outcome=\"bound\"} 0\n"), "nobody is bound: {page}");
    assert!(rise <= 16 << 20, "{rise} bytes more");
    assert!(node.process.descriptors() < 64, "{} descriptors are left", node.process.descriptors());
    let said = std::fs::read_to_string(&faults).unwrap();
    std::fs::remove_file(&faults).unwrap();
    assert!(!said.contains("panicked"), "{said}");
}
