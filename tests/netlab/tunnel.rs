//! Somebody else's tunnel: its edge outside, which has the name and the certificate, and the program at home that leads from there to
//! the node. It speaks as `cloudflared` does to whoever starts it; what it speaks with its edge is its own.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iicp_tests::tls::Authority;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::mesh::{Mesh, Row};
use crate::program::Program;
use crate::world::{Plan, RELAYS};
use crate::{Outcome, say};

/// The edge, and the name that it gives to everything that it leads to.
pub(crate) const EDGE: &str = RELAYS[1];
pub(crate) const NAME: &str = "lab-1.trycloudflare.com";
/// Where the program at home connects to.
const INNER: u16 = 7_844;
/// Connections that it holds ready.
const READY: usize = 8;

/// Until a node that has to ask for a tunnel is reached: the whole ladder, then the tunnel.
const OPENED: Duration = Duration::from_secs(30);
/// The same after the tunnel was lost: no other is asked for in the first two minutes.
const OPENED_AGAIN: Duration = Duration::from_secs(180);

/// The edge: what comes by TLS goes on over the connections that the program holds ready.
pub(crate) async fn edge(options: &Value) -> Outcome {
    let text = |name: &str| options[name].as_str().unwrap_or_default().as_bytes().to_vec();
    let certificate = CertificateDer::from_pem_slice(&text("certificate")).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&text("key")).map_err(|e| e.to_string())?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(|e| e.to_string())?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let bind = async |port| TcpListener::bind(("0.0.0.0", port)).await.map_err(|e| format!("the edge: {e}"));
    let (outer, inner) = (bind(443).await?, bind(INNER).await?);
    let (ready, waiting) = mpsc::channel::<TcpStream>(64);
    let waiting = Arc::new(Mutex::new(waiting));
    say(&json!({ "ready": NAME }).to_string());
    tokio::spawn(async move {
        while let Ok((stream, _)) = inner.accept().await {
            let _ = ready.send(stream).await;
        }
    });
    while let Ok((stream, _)) = outer.accept().await {
        let (acceptor, waiting) = (acceptor.clone(), waiting.clone());
        tokio::spawn(async move {
            let mut outside = acceptor.accept(stream).await.ok()?;
            let next = timeout(Duration::from_secs(5), async { waiting.lock().await.recv().await });
            copy_bidirectional(&mut outside, &mut next.await.ok()??).await.ok()
        });
    }
    Ok(())
}

/// The program at home, told as `cloudflared` is: `tunnel … --url URL`.
#[allow(clippy::print_stderr)]
pub(crate) async fn connector(arguments: &[String]) -> Outcome {
    let url = arguments.iter().skip_while(|argument| *argument != "--url").nth(1).ok_or("no --url")?;
    let local = url.strip_prefix("http://").ok_or("no http:// in --url")?.to_owned();
    eprintln!("INF Requesting new quick Tunnel on trycloudflare.com... (https://api.trycloudflare.com/tunnel)");
    eprintln!("INF |  https://{NAME}  |");
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..READY {
        let local = local.clone();
        all.spawn(async move {
            loop {
                if let Ok(mut edge) = TcpStream::connect((EDGE, INNER)).await
                    && edge.peek(&mut [0]).await.is_ok_and(|length| length > 0)
                    && let Ok(mut node) = TcpStream::connect(&local).await
                {
                    let _ = copy_bidirectional(&mut edge, &mut node).await;
                } else {
                    sleep(Duration::from_millis(200)).await;
                }
            }
        });
    }
    all.join_all().await;
    Ok(())
}

/// A closed home whose operator asked for a tunnel, and has the program.
struct Tunnelled {
    mesh: Mesh,
    node: Program,
    edge: Program,
    up: Duration,
}

fn tunnelled() -> Outcome<(Tunnelled, Duration)> {
    let mut mesh = Mesh::build(Plan::home("home"), 0)?;
    let authority = Authority::new().map_err(|e| e.to_string())?;
    let pair = authority.issue(&[NAME]).map_err(|e| e.to_string())?;
    let edge = json!({ "certificate": pair.certificate, "key": pair.key });
    let edge = Program::start(&mesh.world.relays[1], "edge", &edge)?.ready(Duration::from_secs(10))?;
    mesh.trusting(&authority.pem())?;
    let program = mesh.world.folder("bin")? + "/cloudflared";
    let lab = std::env::current_exe().map_err(|e| e.to_string())?;
    let script = format!("#!/bin/sh\nexec {} inside cloudflared \"$@\"\n", lab.display());
    std::fs::write(&program, script).map_err(|e| e.to_string())?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).map_err(|e| e.to_string())?;
    let mut options = mesh.node_options();
    options["nat"] = json!({ "tunnel": "quick", "tunnel_program": program, "relay": false });
    options["trusted_ca"] = authority.pem().into();
    let begun = Instant::now();
    let node = mesh.node(&options)?;
    let up = begun.elapsed();
    let mut all = Tunnelled { mesh, node, edge, up };
    all.reached(OPENED)?;
    Ok((all, begun.elapsed()))
}

impl Tunnelled {
    fn reached(&mut self, within: Duration) -> Outcome {
        let answered = self.mesh.answer(within);
        let row = self.mesh.row(&mut self.node, self.up, None)?;
        answered.map_err(|e| format!("{e}\n{}", row.report))?;
        self.mesh.rung(&mut self.node, &["quick_tunnel"], Duration::from_secs(10)).map(drop)
    }

    /// Processes of the tunnel's program, in the node's home.
    fn programs(&self) -> Vec<String> {
        let pids = self.mesh.world.node.command("pgrep").args(["-f", "inside cloudflared"]).output();
        let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        // All processes of the machine are seen there: those of other labs too.
        let is_ours = |pid: &&str| {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
            of(pid).is_some() && of(pid) == self.mesh.world.node.within(|| of("thread-self")).ok().flatten()
        };
        pids.lines().filter(is_ours).map(str::to_owned).collect()
    }

    fn end(mut self, answered: Duration) -> Outcome<Row> {
        let row = self.mesh.row(&mut self.node, self.up, Some(answered))?;
        if row.endpoint != format!("https://{NAME}") || row.method != "external_tunnel" {
            return Err(format!("registered as {} by {}:\n{}", row.endpoint, row.method, row.report));
        }
        self.node.end(Duration::from_secs(15))?;
        drop(self.edge);
        Ok(row)
    }
}

/// Nothing leads home but the tunnel; the program ends with the node.
pub(crate) fn opened() -> Outcome<Row> {
    let (all, answered) = tunnelled()?;
    if all.programs().len() != 1 {
        return Err(format!("the program runs as {:?}", all.programs()));
    }
    let of = std::fs::read_link(format!("/proc/{}/ns/net", all.programs()[0])).map_err(|e| e.to_string())?;
    let row = all.end(answered)?;
    let left =
        std::process::Command::new("pgrep").args(["-f", "inside cloudflared"]).output().map_err(|e| e.to_string())?;
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    if left.lines().any(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other == of)) {
        return Err("the program outlived the node".into());
    }
    Ok(row)
}

/// The program dies; another tunnel is opened, and not sooner than its owner wants to be asked.
pub(crate) fn lost() -> Outcome<Row> {
    let (mut all, _) = tunnelled()?;
    let killed =
        std::process::Command::new("kill").arg("-9").args(all.programs()).status().map_err(|e| e.to_string())?;
    if !killed.success() {
        return Err("the program was not there to be killed".into());
    }
    let since = Instant::now();
    all.reached(OPENED_AGAIN)?;
    all.end(since.elapsed())
}
