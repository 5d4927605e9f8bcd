//! What it costs to be safe: tickets, sealing, the guard.

use std::hint::black_box;
use std::time::{Duration, Instant};

use iicp_core::measured::Sealed;
use iicp_core::options::ClientOptions;
use iicp_core::types::Payload;
use iicp_core::{CHAT, Client, Task};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::SecureRandom as _;
use rustix::time::{ClockId, clock_gettime};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{Cost, Figure, Rounds, Row, Target, median, node_with_directory};
use crate::child::{Child, Spent};
use crate::{Result, load};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "cx_vs_primitives",
        unit: "×",
        target: Target::AtMost(1.2),
        what: "CPU of sealing and opening a task of 1 KB over that of the bare primitives",
        measure: cx,
    },
    Row {
        name: "full_submit_vs_plain",
        unit: "×",
        target: Target::AtMost(2.0),
        what: "CPU per submit with tickets, sealing and guard over that of a plain one plus the primitives (32 in flight)",
        measure: full_submit,
    },
    Row {
        name: "slow_node_hol",
        unit: "×",
        target: Target::AtMost(1.2),
        what: "median latency of 64 submits in flight with one slow node among four over that without",
        measure: slow_node,
    },
    Row {
        name: "rss_growth_kb_100k",
        unit: "kB",
        target: Target::AtMost(2_048.0),
        what: "growth of a client's resident memory over 100,000 submits with tickets and sealing, after 20,000",
        measure: growth,
    },
];

const TASK_ID: &str = "2f1e1f3a-9d0c-4c5e-8b7a-5d2f6a1b3c4d";

/// CPU of this thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn spent(count: u64, mut once: impl FnMut() -> Result<()>) -> Result<Cost> {
    let (cpu, wall) = (thread_cpu(), Instant::now());
    for _ in 0..count {
        once()?;
    }
    Ok(Cost::of(Spent { cpu: thread_cpu() - cpu, wall: wall.elapsed() }, count))
}

/// The key for one direction, as IICP-CX derives it.
fn key(shared: &[u8], nonce: &[u8; 12], info: &[&[u8]]) -> Result<LessSafeKey> {
    let prk = Salt::new(HKDF_SHA256, nonce).extract(shared);
    let mut bytes = [0; 32];
    prk.expand(info, HKDF_SHA256).and_then(|okm| okm.fill(&mut bytes)).map_err(|_| "no key")?;
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| "no key")?))
}

/// What both sides cannot do without: a fresh key pair, the agreement on either side, HKDF and AES-GCM.
struct Primitives {
    private: StaticSecret,
    public: PublicKey,
    random: ring::rand::SystemRandom,
}

impl Primitives {
    fn new() -> Result<Self> {
        let random = ring::rand::SystemRandom::new();
        let mut seed = [0; 32];
        random.fill(&mut seed).map_err(|_| "no randomness")?;
        let private = StaticSecret::from(seed);
        let public = PublicKey::from(&private);
        Ok(Primitives { private, public, random })
    }

    /// The client's half: seals, and has what it takes to open the answer.
    fn seal(&self, payload: &[u8]) -> Result<(PublicKey, [u8; 12], Vec<u8>)> {
        let (mut seed, mut nonce) = ([0; 32], [0; 12]);
        self.random.fill(&mut seed).map_err(|_| "no randomness")?;
        self.random.fill(&mut nonce).map_err(|_| "no randomness")?;
        let ephemeral = StaticSecret::from(seed);
        let shared = ephemeral.diffie_hellman(&self.public);
        let key = key(shared.as_bytes(), &nonce, &[b"IICP-CX-v1", TASK_ID.as_bytes(), CHAT.as_bytes()])?;
        let mut body = payload.to_vec();
        let aad = Aad::from(format!("{TASK_ID}|{CHAT}"));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body).map_err(|_| "not sealed")?;
        Ok((PublicKey::from(&ephemeral), nonce, body))
    }

    fn open(&self, (ephemeral, nonce, mut body): (PublicKey, [u8; 12], Vec<u8>)) -> Result<usize> {
        let shared = self.private.diffie_hellman(&ephemeral);
        let key = key(shared.as_bytes(), &nonce, &[b"IICP-CX-v1", TASK_ID.as_bytes(), CHAT.as_bytes()])?;
        let aad = Aad::from(format!("{TASK_ID}|{CHAT}"));
        let opened =
            key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut body).map_err(|_| "not opened")?;
        Ok(opened.len())
    }
}

/// So that nothing is left out because nobody looks at it.
fn keep(length: usize) {
    black_box(length);
}

fn cx() -> Result<Figure> {
    let (ours, theirs, payload) = (Sealed::new()?, Primitives::new()?, load::payload());
    let rounds = Rounds::take(
        40,
        || spent(500, || ours.round(TASK_ID, CHAT, payload.as_bytes()).map(keep).map_err(Into::into)),
        || spent(500, || theirs.open(theirs.seal(payload.as_bytes())?).map(keep)),
    )?;
    let value = rounds.median_of(|ours, theirs| ours.cpu / theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("sealing and opening takes", "the primitives") })
}

/// Both sides of a submit: the client's process and the node's.
fn full_submit() -> Result<Figure> {
    const BATCH: u64 = 2_000;
    let (directory, _node) = node_with_directory()?;
    let stub = Child::role("stub", &[])?;
    let mut ours = Child::role("whole-client", &[directory.said("url")?, "32"])?;
    let mut plain = Child::role("client", &[stub.said("url")?, "32"])?;
    // A client seals the task and opens an answer of about the same size: one agreement, two keys, two passes.
    let (primitives, payload) = (Primitives::new()?, load::payload());
    let half = || {
        let (_, nonce, mut body) = primitives.seal(payload.as_bytes())?;
        let key = key(&[7; 32], &nonce, &[b"IICP-CX-RESP-v1", TASK_ID.as_bytes()])?;
        let aad = Aad::from(format!("{TASK_ID}|resp"));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body).map_err(|_| "not sealed")?;
        black_box(body);
        Ok(())
    };
    let rounds = Rounds::take(
        30,
        || Ok(Cost::of(ours.run(BATCH)?, BATCH)),
        || {
            let (plain, half) = (Cost::of(plain.run(BATCH)?, BATCH), spent(500, half)?);
            Ok(Cost { cpu: plain.cpu + half.cpu, wall: plain.wall + half.wall })
        },
    )?;
    let value = rounds.median_of(|ours, theirs| ours.cpu / theirs.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes", "a plain one with the primitives") })
}

/// Keeps 64 submits in flight until each lane has made so many, and tells how long each took.
async fn latencies(client: &Client, each: usize) -> Result<Vec<f64>> {
    let payload = Payload::from_json(load::payload())?;
    let mut lanes = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (client, payload) = (client.clone(), payload.clone());
        lanes.spawn(async move {
            let mut took = Vec::with_capacity(each);
            for _ in 0..each {
                let begun = Instant::now();
                client.submit(Task::new(CHAT, payload.clone())).await?;
                took.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            Ok::<Vec<f64>, iicp_core::Error>(took)
        });
    }
    let mut all = Vec::new();
    for lane in lanes.join_all().await {
        all.append(&mut lane?);
    }
    Ok(all)
}

fn slow_node() -> Result<Figure> {
    let mesh = |slow: bool| -> Result<(Vec<Child>, Client)> {
        let directory = Child::role("directory", &[])?;
        let url = directory.said("url")?.to_owned();
        let mut all = vec![directory];
        for number in 0..4 {
            all.push(match slow && number == 0 {
                true => Child::role("slow-node", &[&url, "300"])?,
                false => Child::role("node", &[&url])?,
            });
        }
        let mut options = ClientOptions::default();
        options.directory = url;
        Ok((all, Client::new(options)?))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let _inside = runtime.enter();
    let ((_all, with), (_others, without)) = (mesh(true)?, mesh(false)?);
    // Until the routes are held.
    for client in [&with, &without] {
        runtime.block_on(latencies(client, 3))?;
    }
    let mut ratios = Vec::new();
    let (mut slow, mut fast) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        let (a, b) =
            (median(runtime.block_on(latencies(&with, 10))?), median(runtime.block_on(latencies(&without, 10))?));
        ratios.push(a / b);
        slow.push(a);
        fast.push(b);
    }
    let seen = format!("{:.0} µs with the slow node, {:.0} µs without", median(slow), median(fast));
    Ok(Figure { value: median(ratios), seen })
}

fn growth() -> Result<Figure> {
    let (directory, _node) = node_with_directory()?;
    let mut client = Child::role("whole-client", &[directory.said("url")?, "32"])?;
    client.run(20_000)?;
    let before = client.resident()?;
    client.run(100_000)?;
    let after = client.resident()?;
    #[allow(clippy::cast_precision_loss)]
    let value = after.saturating_sub(before) as f64 / 1e3;
    Ok(Figure { value, seen: format!("{} kB before", before / 1_000) })
}
