//! The stage as a program: one JSON object per line in, one per line out, until the input ends.

#![allow(clippy::print_stdout)]

use std::io::Write as _;

use iicp_tests::stage::Stage;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut stage = Stage::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = stage.line(&line).await;
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
