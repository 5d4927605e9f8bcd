//! The load: tasks with unique ids over keep-alive connections, prebuilt but for the id.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::child::{Child, Spent};
use crate::{Result, http};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// From telling a load to run, or to pause, until it does.
const SETTLE: Duration = Duration::from_millis(15);
const ID_LEN: usize = 36;
const PLACEHOLDER: &str = "00000000-0000-4000-8000-000000000000";

/// A chat payload of about 1 KB.
pub(crate) fn payload() -> String {
    let prompt = "Describe how a task finds its way from a consumer to a provider, and who may read it. ".repeat(9);
    serde_json::json!({
        "model": "echo-1",
        "messages": [
            { "role": "system", "content": "You answer in one paragraph of plain words, without lists or headings." },
            { "role": "user", "content": prompt },
        ],
        "max_tokens": 256,
        "temperature": 0.7,
    })
    .to_string()
}

/// A task around a payload, as a client writes it.
pub(crate) fn envelope(task_id: &str, payload: &str) -> String {
    let intent = iicp_core::CHAT;
    format!(r#"{{"task_id":"{task_id}","intent":"{intent}","constraints":{{"timeout_ms":30000}},"payload":{payload}}}"#)
}

/// Load on one server, made by a thread of its own: connections that send one task after the other while it runs.
pub(crate) struct Load {
    shared: Arc<Shared>,
    mode: watch::Sender<Mode>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Paused,
    Running,
    Ended,
}

/// Whatever spends CPU time on a load.
pub(crate) trait Spends {
    /// Its CPU time so far.
    fn cpu(&mut self) -> Result<Duration>;
}

impl Spends for Child {
    fn cpu(&mut self) -> Result<Duration> {
        Child::cpu(self)
    }
}

/// One task's request, but for its id.
#[derive(Clone)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    /// Where the id stands; as the nonce it is good once as well.
    ids_at: Vec<usize>,
}

impl Request {
    /// A task for whom stands behind `path`.
    pub(crate) fn new(addr: SocketAddr, path: &str, headers: &str, task: &str) -> Result<Self> {
        let trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
        let bytes = http::post(addr, path, &format!("{trace}{headers}"), task);
        let ids_at: Vec<usize> = memchr::memmem::find_iter(&bytes, PLACEHOLDER.as_bytes()).collect();
        if ids_at.is_empty() {
            return Err("no task id in the request".into());
        }
        Ok(Request { bytes, ids_at })
    }

    /// The usual task.
    pub(crate) fn chat(addr: SocketAddr, path: &str) -> Result<Self> {
        Self::new(addr, path, "", &envelope(PLACEHOLDER, &payload()))
    }

    /// Takes an id that was not used before, and says where it stands.
    pub(crate) fn renew(&mut self) -> std::ops::Range<usize> {
        let id = self.ids_at[0]..self.ids_at[0] + ID_LEN;
        write_id(&mut self.bytes[id.clone()]);
        for again in &self.ids_at[1..] {
            self.bytes.copy_within(id.clone(), *again);
        }
        id
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

struct Shared {
    addr: SocketAddr,
    done: AtomicU64,
    failed: AtomicBool,
}

/// What a server did between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) tasks: u64,
    pub(crate) spent: Spent,
}

impl Load {
    /// Connects to a server; nothing is sent yet.
    pub(crate) fn on(server: &Child, connections: usize) -> Result<Self> {
        Self::with(server, connections, "", false)
    }

    /// The same, with more headers (whole lines), and with a nonce in every task.
    pub(crate) fn with(server: &Child, connections: usize, headers: &str, nonce: bool) -> Result<Self> {
        let addr = http::addr_of(server.said("url")?)?;
        let mut task = envelope(PLACEHOLDER, &payload());
        if nonce {
            task.insert_str(1, &format!(r#""nonce":"{PLACEHOLDER}","#));
        }
        Self::of(addr, connections, &[Request::new(addr, "/v1/task", headers, &task)?])
    }

    /// With requests of one's own, which the connections share out.
    pub(crate) fn of(addr: SocketAddr, connections: usize, requests: &[Request]) -> Result<Self> {
        let shared = Arc::new(Shared { addr, done: AtomicU64::new(0), failed: AtomicBool::new(false) });
        let requests: Vec<Request> = requests.iter().cycle().take(connections).cloned().collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mode, told) = watch::channel(Mode::Paused);
        let senders_shared = shared.clone();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut senders = tokio::task::JoinSet::new();
                for request in requests {
                    let (shared, told) = (senders_shared.clone(), told.clone());
                    senders.spawn(async move {
                        let outcome = shared.send(request, told).await;
                        shared.failed.fetch_or(outcome.is_err(), Relaxed);
                        outcome
                    });
                }
                senders.join_all().await.into_iter().collect()
            })
        });
        Ok(Load { shared, mode, thread: Some(thread) })
    }

    /// Loads the server for a while and says what it spent.
    ///
    /// # Errors
    /// The first task that was not answered as it should be.
    pub(crate) fn watch(&mut self, server: &mut impl Spends, how_long: Duration) -> Result<Window> {
        self.mode.send_replace(Mode::Running);
        std::thread::sleep(SETTLE);
        let (tasks, cpu, since) = (self.shared.done.load(Relaxed), server.cpu()?, Instant::now());
        std::thread::sleep(how_long);
        let (tasks_then, cpu_then, then) = (self.shared.done.load(Relaxed), server.cpu()?, Instant::now());
        self.mode.send_replace(Mode::Paused);
        std::thread::sleep(SETTLE);
        if self.shared.failed.load(Relaxed) {
            return self.end().and(Err("the load failed".into()));
        }
        let spent = Spent { cpu: cpu_then.saturating_sub(cpu), wall: then - since };
        Ok(Window { tasks: tasks_then - tasks, spent })
    }

    fn end(&mut self) -> Result<()> {
        self.mode.send_replace(Mode::Ended);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| "the load panicked")?
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Its failure was told by the window in which it happened.
        let _ = self.end();
    }
}

impl Shared {
    async fn send(&self, mut request: Request, mut told: watch::Receiver<Mode>) -> Result<()> {
        let mut answer = Vec::with_capacity(8 << 10);
        let mut open: Option<TcpStream> = None;
        loop {
            let mode = *told.borrow_and_update();
            match mode {
                Mode::Running => {}
                Mode::Paused => {
                    told.changed().await?;
                    continue;
                }
                Mode::Ended => return Ok(()),
            }
            let mut stream = match open.take() {
                Some(stream) => stream,
                None => TcpStream::connect(self.addr).await?,
            };
            let id = request.renew();
            let exchange = exchange(&mut stream, request.bytes(), id, &mut answer);
            let last =
                tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| format!("no answer in {PATIENCE:?}"))??;
            self.done.fetch_add(1, Relaxed);
            open = (!last).then_some(stream);
        }
    }
}

async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    id: std::ops::Range<usize>,
    answer: &mut Vec<u8>,
) -> Result<bool> {
    stream.write_all(request).await?;
    answer.clear();
    loop {
        if stream.read_buf(answer).await? == 0 {
            return Err("the connection was closed inside an answer".into());
        }
        let Some(whole) = http::message(answer) else { continue };
        http::check_status(answer)?;
        if memchr::memmem::find(&answer[whole.body_at..whole.len], &request[id]).is_none() {
            return Err("the answer is about another task".into());
        }
        return Ok(whole.last);
    }
}

/// Writes an id that was not used before, in the form of a random UUID.
fn write_id(out: &mut [u8]) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Relaxed);
    let seed = u64::from(std::process::id()) << 40;
    let (high, low) = (mix(n ^ seed), mix(n.wrapping_add(seed).rotate_left(32)));
    // The dashes, the version and the variant stay as they are.
    for (nth, at) in (0..ID_LEN).filter(|at| ![8, 13, 14, 18, 19, 23].contains(at)).enumerate() {
        let word = if nth < 16 { high } else { low };
        out[at] = b"0123456789abcdef"[(word >> (nth % 16 * 4)) as usize & 15];
    }
}

/// The finaliser of splitmix64: every input has an output of its own.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}
