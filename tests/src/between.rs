//! Somebody between a client and a real directory: passes on, keeps silent, answers nonsense, shows another clock, and
//! signs tickets and consumer tokens anew, as a test says while it runs.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::http::{Answer, Conn};

/// How requests are met.
#[derive(Clone, Debug)]
pub enum Mood {
    /// As the directory does.
    Passing,
    /// Read, and never answered.
    Silent,
    /// Answered with this status and text.
    Says(u16, &'static str),
    /// Passed on after this time.
    Slow(Duration),
    /// Read, and the connection closed.
    HangsUp,
}

/// A request, and what it was answered with.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it was answered.
    pub at: Instant,
    /// Method and path.
    pub what: String,
    /// Its body; null if that is no JSON.
    pub body: Value,
    /// Status of the answer; 0 if there was none.
    pub status: u16,
    /// Body of the answer; null if that is no JSON.
    pub answer: Value,
}

impl Seen {
    /// Whether it asked for this, such as `POST /v1/register`.
    #[must_use]
    pub fn is(&self, what: &str) -> bool {
        self.what == what
    }
}

/// Requests that are remembered.
const MOST_SEEN: usize = 100_000;

/// What is done to what the directory answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Seconds by which the directory's clock is ahead: in what it signs.
    pub signed_ahead_s: i64,
    /// The same, in the `Date` of its answers.
    pub shown_ahead_s: i64,
    /// How long tickets and tokens are good; as the directory says if none.
    pub lasts_s: Option<i64>,
}

type ChangeNode = Box<dyn Fn(&mut Value) + Send + Sync>;

struct Shared {
    nodes: OnceLock<ChangeNode>,
    directory: Mutex<SocketAddr>,
    mood: Mutex<(Mood, Clock)>,
    key: Ed25519KeyPair,
    requests: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    signed: Mutex<Vec<String>>,
}

/// The one between. Dropping it closes all connections, and nobody listens any more.
pub struct Between {
    addr: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for Between {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Between {
    /// Listens before the directory at this address.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(directory: SocketAddr) -> io::Result<Between> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mood = Mutex::new((Mood::Passing, Clock::default()));
        let shared = Arc::new(Shared {
            nodes: OnceLock::new(),
            directory: Mutex::new(directory),
            mood,
            key,
            requests: AtomicUsize::new(0),
            seen: Mutex::default(),
            signed: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Ok(Between { addr, shared, serving })
    }

    /// Where a client finds it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Meets requests like this from now on.
    pub fn set_mood(&self, mood: Mood) {
        self.shared.mood().0 = mood;
    }

    /// Passes on to another directory from now on.
    pub fn set_directory(&self, directory: SocketAddr) {
        *self.shared.directory.lock().unwrap_or_else(PoisonError::into_inner) = directory;
    }

    /// Shows and signs by this clock from now on.
    pub fn set_clock(&self, clock: Clock) {
        self.shared.mood().1 = clock;
    }

    /// Changes every node that the directory lists or discloses. Only the first word counts.
    pub fn set_nodes(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        let _ = self.shared.nodes.set(Box::new(change));
    }

    /// Refuses connections from now on, and breaks those that are open.
    pub async fn leave(&mut self) {
        self.serving.abort();
        // The listener is closed when the task is gone.
        let _ = (&mut self.serving).await;
    }

    /// Every ticket and token that was signed until now.
    #[must_use]
    pub fn signed(&self) -> Vec<String> {
        self.shared.signed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every request that was dealt with until now, and its answer.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests until now.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.requests.load(SeqCst)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut conns = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while conns.try_join_next().is_some() {}
        let shared = shared.clone();
        conns.spawn(async move {
            // However a conversation ends, it is the client's to judge.
            let _ = shared.converse(client).await;
        });
    }
}

impl Shared {
    fn mood(&self) -> MutexGuard<'_, (Mood, Clock)> {
        self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn converse(&self, client: TcpStream) -> io::Result<()> {
        let mut client = BufReader::new(client);
        while let Some((path, request)) = read_request(&mut client).await? {
            self.requests.fetch_add(1, SeqCst);
            let (mood, clock) = self.mood().clone();
            let (status, body) = match mood {
                Mood::Silent => {
                    self.note(&request, 0, b"");
                    std::future::pending().await
                }
                Mood::HangsUp => {
                    self.note(&request, 0, b"");
                    return Ok(());
                }
                Mood::Says(status, text) => (status, text.as_bytes().to_vec()),
                mood => {
                    if let Mood::Slow(pause) = mood {
                        tokio::time::sleep(pause).await;
                    }
                    let directory = *self.directory.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut directory = Conn::open(directory).await?;
                    directory.write(&request).await?;
                    let answer = directory.answer().await?;
                    (answer.status, self.rewrite(&path, answer, clock))
                }
            };
            self.note(&request, status, &body);
            let date = httpdate(clock.shown_ahead_s);
            let head = format!(
                "HTTP/1.1 {status} Between\r\ncontent-type: application/json\r\ndate: {date}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            client.get_mut().write_all(&[head.as_bytes(), &body].concat()).await?;
        }
        Ok(())
    }

    fn note(&self, request: &[u8], status: u16, answer: &[u8]) {
        let end = request.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(request.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&request[..end]);
        let mut words = head.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let what = format!("{method} {}", target.split('?').next().unwrap_or_default());
        let json = |text: &[u8]| serde_json::from_slice(text).unwrap_or_default();
        let seen = Seen { at: Instant::now(), what, body: json(&request[end..]), status, answer: json(answer) };
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MOST_SEEN {
            all.push(seen);
        }
    }

    fn rewrite(&self, path: &str, answer: Answer, clock: Clock) -> Vec<u8> {
        let mut json = answer.json();
        if let Some(change) = self.nodes.get() {
            let listed = json["nodes"].as_array_mut().into_iter().flatten();
            listed.for_each(change);
            if json["route"].is_object() {
                change(&mut json["route"]);
            }
        }
        let (field, domain) = match path.rsplit('/').next() {
            Some("directory-key") => {
                json["public_key"] = hex(self.key.public_key().as_ref()).into();
                return json.to_string().into_bytes();
            }
            Some("ticket") => ("ticket", "iicp:dispatch-route-ticket:v1\n"),
            Some("consumer-token") => ("token", "iicp:consumer-token:v1\n"),
            _ => return json.to_string().into_bytes(),
        };
        let Some(text) = json[field].as_str() else { return answer.body };
        let claims = text.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).unwrap_or_default();
        let mut claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
        let issued = claims["iat"].as_i64().unwrap_or_default();
        let lasts = clock.lasts_s.unwrap_or(claims["exp"].as_i64().unwrap_or_default() - issued);
        claims["iat"] = (issued + clock.signed_ahead_s).into();
        claims["exp"] = (issued + clock.signed_ahead_s + lasts).into();
        let text = URL_SAFE_NO_PAD.encode(claims.to_string());
        let signature = self.key.sign(format!("{domain}{text}").as_bytes());
        let signed = format!("{text}.{}", hex(signature.as_ref()));
        self.signed.lock().unwrap_or_else(PoisonError::into_inner).push(signed.clone());
        json[field] = signed.into();
        json.to_string().into_bytes()
    }
}

/// Reads one request: its path without the query, and all its bytes; none at the end of the connection.
///
/// # Errors
/// The system's, and a body without an end.
pub async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut request = Vec::new();
    loop {
        let before = request.len();
        if stream.read_until(b'\n', &mut request).await? == 0 {
            return Ok(None);
        }
        if &request[before..] == b"\r\n" {
            break;
        }
    }
    let head = String::from_utf8_lossy(&request).into_owned();
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let end = request.len();
    request.resize(end + length.unwrap_or(0), 0);
    stream.read_exact(&mut request[end..]).await?;
    let path = head.split_whitespace().nth(1).and_then(|target| target.split('?').next()).unwrap_or_default();
    Ok(Some((path.to_owned(), request)))
}

fn httpdate(ahead_s: i64) -> String {
    let now = std::time::SystemTime::now();
    let shift = Duration::from_secs(ahead_s.unsigned_abs());
    ::httpdate::fmt_http_date(if ahead_s < 0 { now - shift } else { now + shift })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
