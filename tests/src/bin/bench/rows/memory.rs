//! What a node holds when nothing happens.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::{Figure, Row, Target, node_with_directory};
use crate::child::Child;
use crate::load::Load;
use crate::{Result, http};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "idle_rss_mb",
        unit: "MB",
        target: Target::AtMost(15.0),
        what: "resident memory of a registered node that no one has asked anything yet",
        measure: idle,
    },
    Row {
        name: "conn_rss_kb",
        unit: "kB",
        target: Target::AtMost(12.0),
        what: "resident memory of a node per idle keep-alive connection, of 5,000 that made one request each",
        measure: connections,
    },
    Row {
        name: "receipts_rss_mb",
        unit: "MB",
        target: Target::AtMost(2.0),
        what: "growth of a node's resident memory over 100,000 tasks for which it asks for credits, first with its directory \
               there, then away",
        measure: receipts,
    },
];

const CONNECTIONS: usize = 5_000;

fn idle() -> Result<Figure> {
    let (_directory, node) = node_with_directory()?;
    let resident = node.resident()?;
    #[allow(clippy::cast_precision_loss)]
    let value = resident as f64 / 1e6;
    Ok(Figure { value, seen: format!("{} descriptors are open", node.descriptors()?) })
}

fn connections() -> Result<Figure> {
    let (_directory, node) = node_with_directory()?;
    // What the first requests need once is not a connection's.
    drop(ask_for_health(&node, 64)?);
    wait_for_descriptors(&node, |now| now < 64)?;
    let (resident, descriptors) = (node.resident()?, node.descriptors()?);
    let held = ask_for_health(&node, CONNECTIONS)?;
    let (resident_then, descriptors_then) = (node.resident()?, node.descriptors()?);
    drop(held);
    #[allow(clippy::cast_precision_loss)]
    let per_connection = |n: u64| n as f64 / CONNECTIONS as f64;
    let each = per_connection((descriptors_then - descriptors) as u64);
    if each > 1.001 {
        return Err(format!("a connection takes {each} descriptors, not one").into());
    }
    let value = per_connection(resident_then.saturating_sub(resident)) / 1e3;
    Ok(Figure { value, seen: format!("each takes {each} descriptors") })
}

fn receipts() -> Result<Figure> {
    let directory = Child::role("directory", &[])?;
    let mut node = Child::role("earning-node", &[directory.said("url")?])?;
    let mut load = Load::on(&node, 32)?;
    // The queue is full long before this, and is never fuller.
    serve(&mut load, &mut node, 20_000)?;
    let resident = node.resident()?;
    let mut tasks = serve(&mut load, &mut node, 50_000)?;
    drop(directory);
    tasks += serve(&mut load, &mut node, 50_000)?;
    #[allow(clippy::cast_precision_loss)]
    let value = node.resident()?.saturating_sub(resident) as f64 / 1e6;
    Ok(Figure { value, seen: format!("{tasks} tasks were served; {}", told_of_receipts(&node)?) })
}

/// Has the node serve at least so many tasks.
fn serve(load: &mut Load, node: &mut Child, least: u64) -> Result<u64> {
    let mut tasks = 0;
    while tasks < least {
        tasks += load.watch(node, Duration::from_millis(500))?.tasks;
    }
    Ok(tasks)
}

/// What the node's metrics say of its receipts.
fn told_of_receipts(node: &Child) -> Result<String> {
    let addr = http::addr_of(node.said("url")?)?;
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    let counted: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("iicp_credit_receipts_total{outcome=\"")?.split_once("\"} "))
        .map(|(outcome, count)| format!("{count} {outcome}"))
        .collect();
    if counted.first().is_none_or(|sent| sent.starts_with("0 ")) {
        return Err("no receipt was sent".into());
    }
    Ok(format!("receipts: {}", counted.join(", ")))
}

/// Opens connections that ask for health once and stay.
fn ask_for_health(node: &Child, count: usize) -> Result<Vec<TcpStream>> {
    let addr = http::addr_of(node.said("url")?)?;
    let request = format!("GET /iicp/health HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request.as_bytes())?;
        let (mut answer, mut read) = ([0; 4096], 0);
        while http::message(&answer[..read]).is_none() {
            match stream.read(&mut answer[read..])? {
                0 => return Err("the connection was closed inside an answer".into()),
                n => read += n,
            }
        }
        http::check_status(&answer)?;
        held.push(stream);
    }
    Ok(held)
}

fn wait_for_descriptors(node: &Child, enough: impl Fn(usize) -> bool) -> Result<()> {
    for _ in 0..1_000 {
        if enough(node.descriptors()?) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err("the node does not let go of closed connections".into())
}
