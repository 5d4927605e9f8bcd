//! The native transport and streaming, against the same node process.

use super::{Cost, Figure, Rounds, Row, Target, median, rounded};
use crate::Result;
use crate::child::Child;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "native_vs_http",
        unit: "×",
        target: Target::AtMost(0.7),
        what: "client CPU of an unsealed submit over the native transport, over that of one over HTTP to the same node \
               (32 in flight, 1 KB chat)",
        measure: native_vs_http,
    },
    Row {
        name: "stream_chunks_per_cpu_s",
        unit: "1/CPU-s",
        target: Target::AtLeast(200_000.0),
        what: "parts of 64 bytes that a node sends to a Rust client per CPU-second of its process, over HTTP",
        measure: || chunks("http"),
    },
    Row {
        name: "stream_native_chunks_per_cpu_s",
        unit: "1/CPU-s",
        target: Target::AtLeast(200_000.0),
        what: "the same with a client that may take them over the native transport",
        measure: || chunks("native"),
    },
    Row {
        name: "stream_first_chunk",
        unit: "×",
        target: Target::AtMost(1.1),
        what: "median time to the first part of a stream, over that to the whole answer with the same one part",
        measure: first_chunk,
    },
];

/// A directory with a node that it knows both ways to.
fn mesh() -> Result<(Child, Child)> {
    let directory = Child::role("directory", &[])?;
    let node = Child::role("framed-node", &[directory.said("url")?])?;
    Ok((directory, node))
}

fn native_vs_http() -> Result<Figure> {
    const BATCH: u64 = 5_000;
    let (directory, _node) = mesh()?;
    let at = directory.said("url")?;
    let mut native = Child::role("framed-client", &[at, "native", "32"])?;
    let mut http = Child::role("framed-client", &[at, "http", "32"])?;
    let one = |child: &mut Child| Ok(Cost::of(child.run(BATCH)?, BATCH));
    let rounds = Rounds::take(30, || one(&mut native), || one(&mut http))?;
    let value = rounds.median_of(|native, http| native.cpu / http.cpu);
    Ok(Figure { value, seen: rounds.seen("a submit takes natively", "over HTTP") })
}

fn chunks(way: &str) -> Result<Figure> {
    const PARTS: u64 = 100_000;
    let (directory, mut node) = mesh()?;
    let mut client = Child::role("stream-client", &[directory.said("url")?, way])?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..11 {
        let before = node.cpu()?;
        let spent = client.run(PARTS)?;
        // The first only warms up.
        if round > 0 {
            #[allow(clippy::cast_precision_loss)]
            let per_second = |cpu: std::time::Duration| PARTS as f64 / cpu.as_secs_f64();
            ours.push(per_second(node.cpu()? - before));
            theirs.push(per_second(spent.cpu));
        }
    }
    let seen = format!("its client takes {} of them per CPU-second", rounded(median(theirs)));
    Ok(Figure { value: median(ours), seen })
}

fn first_chunk() -> Result<Figure> {
    const BATCH: u64 = 300;
    let (directory, _node) = mesh()?;
    let at = directory.said("url")?;
    let mut parts = Child::role("first-part", &[at, "http", "parts"])?;
    let mut whole = Child::role("first-part", &[at, "http", "whole"])?;
    // What a run tells is a median already.
    let one = |child: &mut Child| Ok(Cost::of(child.run(BATCH)?, 1));
    let rounds = Rounds::take(20, || one(&mut parts), || one(&mut whole))?;
    let wall = |costs: &[Cost]| rounded(median(costs.iter().map(|cost| cost.wall).collect()));
    let seen = format!("{} µs to the part, {} µs to the whole", wall(&rounds.ours), wall(&rounds.theirs));
    Ok(Figure { value: rounds.median_of(|parts, whole| parts.wall / whole.wall), seen })
}
