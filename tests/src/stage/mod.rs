//! The stage: hosts the directory and the nodes of one case at a time, for a runner in any language.
//!
//! A runner starts it as a child process and speaks one JSON object per line with it; `tests/cases/README.md` is the
//! description. Everything listens on loopback and ends with the case.

mod forger;
mod ledger;
mod peer;
mod relaying;
pub(crate) mod request;
mod script;
mod setup;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use iicp_core::options::{DirectoryOptions, NativeTransport, NodeOptions};
use iicp_core::{CHAT, Directory, LiveNode, Node};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::backend::{Face, StubBackend};
use crate::http::{Conn, addr};
use forger::Faults;
use ledger::{Page, traceparents, wait_for};
use peer::Names;
pub use relaying::Relay;
use script::Script;
use setup::{DirectorySetup, NodeSetup, Peer, Setup};

/// One line of a runner.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Command {
    Setup(Box<Setup>),
    Ledger {},
    Await {
        ledger: Value,
        within_ms: u64,
    },
    /// Ends a node at once, as a crash would.
    Stop {
        node: usize,
    },
    StopDirectory {},
    /// Lets a node finish its tasks and leave the directory; returns at once.
    Drain {
        node: usize,
        grace_ms: u64,
    },
    AddNode(Box<NodeSetup>),
    Teardown {},
}

/// The variable that says how the nodes of a stage are reached, see [`Transport`].
pub const TRANSPORT: &str = "IICP_STAGE_TRANSPORT";

/// How real nodes are reached. Scripted ones speak HTTP, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As they are by themselves: they take HTTP and native frames, and clients send them those.
    Native,
    /// Over HTTP alone.
    Http,
    /// Through a relay alone.
    Relay,
}

impl Transport {
    /// What the environment says.
    ///
    /// # Errors
    /// Another word.
    pub fn chosen() -> Result<Transport, String> {
        match std::env::var(TRANSPORT).unwrap_or_default().as_str() {
            "" | "native" => Ok(Transport::Native),
            "http" => Ok(Transport::Http),
            "relay" => Ok(Transport::Relay),
            other => Err(format!("{TRANSPORT} is {other:?}; it may be native, http or relay")),
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Transport::Native => "native",
            Transport::Http => "http",
            Transport::Relay => "relay",
        }
    }
}

/// The stage between two lines.
#[derive(Default)]
pub struct Stage {
    scene: Option<Scene>,
}

impl Stage {
    /// Does what one line says, and returns the line to answer: `{"ok": …}` or `{"error": "…"}`.
    pub async fn line(&mut self, line: &str) -> String {
        let done = match serde_json::from_str(line) {
            Ok(command) => self.command(command).await,
            Err(e) => Err(format!("not a command of the stage: {e}")),
        };
        match done {
            Ok(value) => json!({ "ok": value }).to_string(),
            Err(why) => json!({ "error": why }).to_string(),
        }
    }

    async fn command(&mut self, command: Command) -> Result<Value, String> {
        match command {
            Command::Setup(setup) => {
                // Whatever was there ends first: ports and counts of two cases must not mix.
                self.scene = None;
                let scene = Scene::new(*setup).await?;
                let answer = scene.describe();
                self.scene = Some(scene);
                Ok(answer)
            }
            Command::Teardown {} => {
                self.scene = None;
                Ok(Value::Null)
            }
            Command::Ledger {} => Ok(self.scene()?.ledger()),
            Command::Await { ledger, within_ms } => {
                let scene = self.scene()?;
                wait_for(&ledger, Duration::from_millis(within_ms), &scene.changed, || scene.ledger())
                    .await
                    .map_err(|state| format!("{within_ms} ms later the ledger is still {state}"))
            }
            Command::Stop { node } => {
                std::mem::replace(&mut self.scene()?.party(node)?.role, Role::Gone).end().await;
                Ok(Value::Null)
            }
            Command::StopDirectory {} => {
                std::mem::replace(&mut self.scene()?.directory.role, Role::Gone).end().await;
                Ok(Value::Null)
            }
            Command::Drain { node, grace_ms } => {
                let party = self.scene()?.party(node)?;
                let Role::Node(live) = std::mem::replace(&mut party.role, Role::Gone) else {
                    return Err(format!("node {node} is not a real one that runs"));
                };
                let grace = Duration::from_millis(grace_ms);
                let mut draining = Box::pin(live.shutdown(grace));
                // Once before the answer: from here on the node takes nothing new.
                let _ = poll_fn(|cx| Poll::Ready(draining.as_mut().poll(cx).is_ready())).await;
                let rest = async move {
                    draining.await;
                };
                party.role = Role::Task(Owned::new(rest));
                Ok(Value::Null)
            }
            Command::AddNode(node) => {
                let scene = self.scene()?;
                scene.add(*node).await?;
                Ok(scene.describe())
            }
        }
    }

    fn scene(&mut self) -> Result<&mut Scene, String> {
        self.scene.as_mut().ok_or_else(|| "nothing is set up".into())
    }
}

/// Everything behind the network of one case. Dropping it ends all of it.
struct Scene {
    changed: Arc<Notify>,
    directory: Party,
    /// Where the stage's own nodes register; empty if nowhere.
    register_at: String,
    /// What the directory gave to scripted nodes, by their ids: whoever comes back as one of them begins anew.
    tokens: HashMap<String, String>,
    nodes: Vec<Party>,
    transport: Transport,
    /// There if nodes are reached through it.
    relay: Option<Relay>,
}

/// One address and who is behind it.
struct Party {
    id: String,
    url: String,
    page: Page,
    role: Role,
    backend: Option<StubBackend>,
}

impl Party {
    fn new(id: String, url: String, page: Page, role: Role) -> Party {
        Party { id, url, page, role, backend: None }
    }
}

enum Role {
    Task(Owned),
    /// The real directory, and who listens in on it.
    Directory {
        _directory: Directory,
        _listener: Owned,
    },
    Node(LiveNode),
    /// A bound port that nobody listens on.
    Closed {
        _socket: TcpSocket,
    },
    Elsewhere,
    Gone,
}

impl Role {
    /// Ends it as a crash would. Afterwards nobody connects to a peer of ours any more, however busy the machine is.
    async fn end(self) {
        if let Role::Task(mut task) = self {
            task.0.abort();
            let _ = (&mut task.0).await;
        }
    }
}

/// A task that ends with its owner.
struct Owned(JoinHandle<()>);

impl Owned {
    fn new(future: impl Future<Output = ()> + Send + 'static) -> Owned {
        Owned(tokio::spawn(future))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Scene {
    async fn new(setup: Setup) -> Result<Scene, String> {
        let changed = Arc::new(Notify::new());
        let page = Page::new(&changed);
        let nobody = Party::new(String::new(), String::new(), page.clone(), Role::Gone);
        let transport = Transport::chosen()?;
        let relay = if transport == Transport::Relay { Some(Relay::start().await?) } else { None };
        let mut scene = Scene {
            changed,
            directory: nobody,
            register_at: String::new(),
            tokens: HashMap::new(),
            nodes: Vec::new(),
            transport,
            relay,
        };
        // A scripted directory may name the nodes in its answers, so it comes after them; a real one before.
        let scripted = match setup.directory {
            DirectorySetup::Embedded(options) => {
                scene.directory = scene.embedded(options, page.clone(), None).await?;
                None
            }
            DirectorySetup::Forged(faults) => {
                scene.directory = scene.embedded(DirectoryOptions::loopback(), page.clone(), Some(faults)).await?;
                None
            }
            DirectorySetup::At(url) => {
                scene.register_at.clone_from(&url);
                scene.directory = Party::new(String::new(), url, page.clone(), Role::Elsewhere);
                None
            }
            DirectorySetup::Closed => Some(Peer::Always(setup::Behaviour::Closed)),
            DirectorySetup::Peer(peer) => Some(peer),
        };
        for node in setup.nodes {
            scene.add(node).await?;
        }
        if let Some(peer) = scripted {
            let names = scene.names();
            scene.directory = raise(String::new(), peer, names, page).await?;
        }
        Ok(scene)
    }

    async fn embedded(
        &mut self,
        options: DirectoryOptions,
        page: Page,
        faults: Option<Faults>,
    ) -> Result<Party, String> {
        let directory = Directory::bind(options).await.map_err(|e| e.to_string())?;
        self.register_at = directory.url();
        let listener = listen().await?;
        let url = url_of(listener.local_addr().map_err(|e| e.to_string())?);
        let listener = match faults {
            None => Owned::new(request::listen_in(listener, directory.addr(), page.clone())),
            Some(faults) => Owned::new(forger::serve(listener, directory.addr(), faults, page.clone())),
        };
        let role = Role::Directory { _directory: directory, _listener: listener };
        Ok(Party::new(String::new(), url, page, role))
    }

    async fn add(&mut self, setup: NodeSetup) -> Result<(), String> {
        let NodeSetup { handler, peer, backend, mut options } = setup;
        let number = self.nodes.len();
        if self.transport == Transport::Http {
            options.native = NativeTransport::Off;
        }
        if options.intents.is_empty() && backend.is_none() {
            options.intents = vec![CHAT.into()];
        }
        let id = options.node_id.get_or_insert_with(|| format!("node-{number}")).clone();
        let page = Page::new(&self.changed);
        let party = match (handler, peer, backend) {
            (Some(setup), None, None) => {
                options.directory.clone_from(&self.register_at);
                if let Some(token) = self.tokens.remove(&id) {
                    deregister(&self.register_at, &id, &token).await?;
                }
                let relay = self.lead(&mut options);
                let node = Node::bind(options).await.map_err(|e| e.to_string())?;
                let live = node.serve(Script { setup, page: page.clone() }).await.map_err(|e| e.to_string())?;
                self.reached(&live, relay).await?;
                Party::new(id, live.url(), page, Role::Node(live))
            }
            (None, None, Some(setup)) => {
                options.directory.clone_from(&self.register_at);
                let face = Face { models: Some(setup.models), ..Face::default() };
                let backend = StubBackend::start(face).await.map_err(|e| e.to_string())?;
                options.backend = Some(setup.options).map(|mut options| {
                    options.url = Some(backend.url());
                    options
                });
                let relay = self.lead(&mut options);
                let node = Node::bind(options).await.map_err(|e| e.to_string())?;
                let live = node.serve_backend().await.map_err(|e| e.to_string())?;
                self.reached(&live, relay).await?;
                Party { id, url: live.url(), page, role: Role::Node(live), backend: Some(backend) }
            }
            (None, Some(peer), None) => {
                let party = raise(id, peer, self.names(), page).await?;
                if !self.register_at.is_empty() {
                    let url = options.endpoint.clone().unwrap_or_else(|| party.url.clone());
                    let token = register(&self.register_at, &party.id, &url, &options).await?;
                    self.tokens.insert(party.id.clone(), token);
                }
                party
            }
            _ => return Err(format!("node {number} needs a handler, a backend or a peer")),
        };
        self.nodes.push(party);
        Ok(())
    }

    /// Has a node reached as this stage has it. One with a certificate of its own stays where it listens: whoever comes
    /// through a relay sees the relay's certificate and never the node's.
    fn lead(&self, options: &mut NodeOptions) -> Option<&Relay> {
        let relay = self.relay.as_ref().filter(|_| options.tls.is_none())?;
        relay.lead(options);
        Some(relay)
    }

    /// Waits until a node can be called, if that is through a relay.
    async fn reached(&self, node: &LiveNode, relay: Option<&Relay>) -> Result<(), String> {
        match relay {
            Some(relay) => relay.reached(node.node_id(), &self.register_at).await,
            None => Ok(()),
        }
    }

    /// Replaces `$node0_id`, `$node0_url` and so on, for the nodes that there are now.
    fn names(&self) -> Names {
        let nodes: Vec<(String, String)> = self.nodes.iter().map(|node| (node.id.clone(), node.url.clone())).collect();
        Arc::new(move |text| {
            nodes.iter().enumerate().fold(text.to_owned(), |text, (n, (id, url))| {
                text.replace(&format!("$node{n}_id"), id).replace(&format!("$node{n}_url"), url)
            })
        })
    }

    fn party(&mut self, node: usize) -> Result<&mut Party, String> {
        self.nodes.get_mut(node).ok_or_else(|| format!("there is no node {node}"))
    }

    fn describe(&self) -> Value {
        let nodes: Vec<Value> = self.nodes.iter().map(|node| json!({ "node_id": node.id, "url": node.url })).collect();
        json!({ "directory": self.directory.url, "nodes": nodes })
    }

    fn ledger(&self) -> Value {
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|node| {
                let mut counts = node.page.to_json();
                if let Role::Node(live) = &node.role {
                    counts["active_jobs"] = live.active_jobs().into();
                    counts["registered"] = live.is_registered().into();
                }
                if let Some(backend) = &node.backend {
                    counts["backend"] = backend.log().to_json();
                }
                counts
            })
            .collect();
        let pages = self.nodes.iter().map(|node| &node.page).chain([&self.directory.page]);
        json!({ "directory": self.directory.page.to_json(), "nodes": nodes, "traceparents": traceparents(pages) })
    }
}

/// Puts a scripted peer on an address of its own.
async fn raise(id: String, peer: Peer, names: Names, page: Page) -> Result<Party, String> {
    if peer.is_closed() {
        let socket = TcpSocket::new_v4().map_err(|e| e.to_string())?;
        socket.bind(loopback()).map_err(|e| e.to_string())?;
        let url = url_of(socket.local_addr().map_err(|e| e.to_string())?);
        return Ok(Party::new(id, url, page, Role::Closed { _socket: socket }));
    }
    let listener = listen().await?;
    let url = url_of(listener.local_addr().map_err(|e| e.to_string())?);
    let role = Role::Task(Owned::new(peer::serve(listener, peer, names, page.clone())));
    Ok(Party::new(id, url, page, role))
}

/// Registers a peer as a node would register itself; gives the token.
async fn register(directory: &str, node_id: &str, url: &str, options: &NodeOptions) -> Result<String, String> {
    let capabilities: Vec<Value> = options
        .intents
        .iter()
        .map(|intent| {
            json!({
                "intent": intent, "models": options.models, "max_tokens": options.max_tokens,
                // What they answer is what is tested, also where they answer as events.
                "supported_profiles": ["urn:iicp:profile:service-lifecycle:v1"],
            })
        })
        .collect();
    let body = json!({
        "node_id": node_id,
        "endpoint": url,
        "region": options.region,
        "capabilities": capabilities,
        "limits": { "max_concurrent": options.max_concurrent, "tokens_per_min": options.tokens_per_min },
        // Directories rank a node without a key lower. The private half is in `tests/vectors/cx-v1.json`; no feature is named, so a
        // plain reply is in order.
        "cx_public_key": {
            "algorithm": "X25519",
            "encoding": "base64url",
            "key": "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw",
            "key_id": "cx-aaa8fff703b50b22",
        },
    });
    let mut conn = Conn::open(addr(directory)).await.map_err(|e| e.to_string())?;
    match conn.post("/v1/register", &body).await {
        Ok(answer) if answer.status == 201 => Ok(answer.json()["node_token"].as_str().unwrap_or_default().to_owned()),
        other => Err(format!("the registration of {node_id} was answered with {other:?}")),
    }
}

/// Takes a scripted node out of the directory, which would not let another key take its place.
async fn deregister(directory: &str, node_id: &str, token: &str) -> Result<(), String> {
    let body = json!({ "node_id": node_id }).to_string();
    let request = format!(
        "DELETE /v1/register HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut conn = Conn::open(addr(directory)).await.map_err(|e| e.to_string())?;
    conn.write(request.as_bytes()).await.map_err(|e| e.to_string())?;
    match conn.answer().await {
        Ok(answer) if answer.status < 300 => Ok(()),
        other => Err(format!("the end of {node_id}'s registration was answered with {other:?}")),
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn listen() -> Result<TcpListener, String> {
    TcpListener::bind(loopback()).await.map_err(|e| e.to_string())
}

fn url_of(addr: SocketAddr) -> String {
    format!("http://{addr}")
}
