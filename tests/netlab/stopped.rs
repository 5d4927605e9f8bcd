//! The command, asked to stop as supervisors ask: whatever it does just then, nothing of it stays in a gateway.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Outcome;
use crate::events::Event;
use crate::inside::DIRECTORY_PORT;
use crate::mesh::{Mesh, Row};
use crate::program::Program;
use crate::rules::Nat;
use crate::world::{DIRECTORY, DIRECTORY6, Igd, Plan};

const START: Duration = Duration::from_secs(30);
/// Longest that a gateway is waited for when the command stops, with as much again for a busy machine.
const STOP: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) const ALL: &[Event] = &[
    ("SIGTERM, UPnP", true, || stopped(Plan { igd: Some(Igd::Upnp2), rungs: &["upnp"], ..Plan::home("home") })),
    ("SIGTERM, NAT-PMP", false, || stopped(Plan { igd: Some(Igd::NatPmp), rungs: &["nat_pmp"], ..Plan::home("home") })),
    ("SIGTERM, PCP", true, || stopped(Plan { igd: Some(Igd::Pcp), rungs: &["pcp"], ..Plan::home("home") })),
    ("SIGTERM, pinhole", false, || {
        stopped(Plan {
            ipv6_only: true,
            nat: Some(Nat::Routed),
            igd: Some(Igd::Any),
            rungs: &["ipv6_pinhole"],
            ..Plan::home("home")
        })
    }),
    ("SIGTERM, starting", true, || stopped_in_doubt(false)),
    ("SIGTERM, climbing", false, || stopped_in_doubt(true)),
];

/// The command as it is installed, with what it does by itself.
fn serve(mesh: &Mesh) -> Outcome<Program> {
    let six = mesh.world.plan.ipv6_only;
    let directory = if six {
        format!("http://[{DIRECTORY6}]:{DIRECTORY_PORT}")
    } else {
        format!("http://{DIRECTORY}:{DIRECTORY_PORT}")
    };
    let host = if six { "::" } else { "0.0.0.0" };
    let arguments = ["serve", "--echo", "--node-id", "node-1", "--host", host, "--directory-url", &directory];
    Program::iicp(&mesh.world.node, &arguments, &mesh.world.folder("command")?)
}

/// The gateway has opened a port for the command and is as before once that was told to stop.
fn stopped(plan: Plan) -> Outcome<Row> {
    let mut mesh = Mesh::build(plan, 0)?;
    let before = mesh.rules()?;
    let begun = Instant::now();
    let command = serve(&mesh)?;
    command.event("ready", START)?;
    let up = begun.elapsed();
    let registered = mesh.registered()?;
    let endpoint = registered["endpoint"].as_str().unwrap_or_default().to_owned();
    let place: SocketAddr =
        endpoint.trim_start_matches("http://").parse().map_err(|_| format!("registered as {registered}"))?;
    let health = mesh.world.consumer.within(|| health(place))?.map_err(|e| format!("{place}: {e}"))?;
    if !health.contains("node-1") || mesh.rules()? == before {
        return Err(format!("the gateway has opened nothing for {endpoint}: {health}"));
    }
    let begun = Instant::now();
    command.terminate(STOP)?;
    let took = begun.elapsed();
    let after = mesh.rules()?;
    if before != after {
        return Err(format!("something stayed in the gateway: before\n{before:?}\nafter\n{after:?}"));
    }
    crate::say(&format!("         ended {:.1} s after it was told to", took.as_secs_f32()));
    let method = registered["transport_method"].as_str().unwrap_or("none").to_owned();
    let rung = plan.rungs.first().copied().unwrap_or_default().to_owned();
    Ok(Row { rung, endpoint, method, up, answered: Some(up), report: String::new(), climb: up })
}

/// The gateway says that it has opened a port, and the node is just looking whether that is true when it is told to stop: while
/// it starts, or later, when it looks for a better way than the relay that it has.
fn stopped_in_doubt(again: bool) -> Outcome<Row> {
    let mut mesh = Mesh::build(Plan::home("home"), usize::from(again))?;
    let space = mesh.world.gateway(0).ok_or("there is no gateway")?;
    let mut gateway = Program::start(space, "gateway", &json!({ "opens": false }))?.ready(START)?;
    let begun = Instant::now();
    let command = serve(&mesh)?;
    if again {
        command.event("ready", START)?;
    }
    let up = begun.elapsed();
    let opened = |gateway: &mut Program| -> Outcome<bool> {
        let told = gateway.ask(&json!({}), START)?;
        Ok(told["mappings"].as_object().is_some_and(|mappings| !mappings.is_empty()))
    };
    while !opened(&mut gateway)? {
        if begun.elapsed() > START {
            return Err("the gateway was not asked for a port".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    command.terminate(STOP)?;
    if opened(&mut gateway)? {
        return Err("a port that was opened just before stayed open".into());
    }
    let registered = mesh.registered()?;
    let text = |name: &str| registered[name].as_str().unwrap_or("none").to_owned();
    let rung = if again { "relay" } else { "none" }.to_owned();
    let (endpoint, method) = (text("endpoint"), text("transport_method"));
    Ok(Row { rung, endpoint, method, up, answered: None, report: String::new(), climb: up })
}

/// What a place says of itself.
fn health(place: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&place, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET /iicp/health HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(1 << 16).read_to_string(&mut answer)?;
    Ok(answer)
}
