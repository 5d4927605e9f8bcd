//! Several nodes at once: the first result, or the one that enough of them agree on.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::attempt::{Failed, Sent};
use super::candidates::{Chosen, Eligible};
use super::submit::{Submit, worse};
use crate::error::{Code, Error, Result};
use crate::options::Consensus;
use crate::protocol::consensus::{Tally, Verdict};
use crate::types::TaskResult;

impl Submit<'_> {
    /// Sends the task to as many nodes as the consensus wants; who fails is replaced while there is somebody. When it is
    /// decided, the others are dropped, and with that cancelled at the far end.
    pub(super) async fn agree(mut self, mut chosen: Chosen, consensus: Consensus) -> Result<TaskResult> {
        let (nodes, quorum) = consensus.nodes_and_quorum();
        while chosen.routes.len() < nodes {
            let mut eligible = Eligible::default();
            if !self.more(&mut eligible).await {
                break;
            }
            chosen.eligible += eligible.routes.len();
            chosen.routes.append(&mut eligible.routes);
        }
        if chosen.routes.len() < quorum {
            let there = chosen.routes.len();
            return Err(Error::new(
                Code::NoConsensus,
                format!("{quorum} nodes must agree and only {there} could be asked; nothing was sent"),
            )
            .with_wire_code("no_consensus"));
        }
        self.ask_all(&chosen, nodes, quorum).await
    }

    async fn ask_all(&self, chosen: &Chosen, nodes: usize, quorum: usize) -> Result<TaskResult> {
        let ask = |at: usize| async move { (at, self.send(&chosen.routes[at], at).await) };
        let mut waiting = nodes..chosen.routes.len();
        let mut running: FuturesUnordered<_> = (0..nodes.min(chosen.routes.len())).map(ask).collect();
        let mut tally = Tally::new(&self.options.intent, nodes.min(chosen.routes.len()), quorum);
        let mut answers: Vec<(usize, Sent)> = Vec::new();
        let mut last: Option<Failed> = None;
        while let Some((at, outcome)) = running.next().await {
            let mut verdict = Verdict::Pending;
            match outcome {
                Ok(sent) => {
                    verdict = tally.result(at, sent.result.bytes());
                    answers.push((at, sent));
                }
                Err(failed) => {
                    last = Some(worse(last, failed));
                    match waiting.next() {
                        Some(next) => running.push(ask(next)),
                        None => verdict = tally.failure(),
                    }
                }
            }
            match verdict {
                Verdict::Pending => {}
                Verdict::Impossible => break,
                Verdict::Agreed(first) => {
                    let agreed = answers.into_iter().find(|(at, _)| *at == first);
                    let lost = || Error::new(Code::Internal, "an agreed result was lost");
                    let (at, sent) = agreed.ok_or_else(lost)?;
                    return Ok(self.finish(chosen, at, sent, Duration::ZERO));
                }
            }
        }
        match last {
            Some(failed) if answers.is_empty() => Err(failed.error),
            _ => Err(Error::new(
                Code::NoConsensus,
                format!("{} nodes answered, and no {quorum} of them agree", answers.len()),
            )
            .with_wire_code("no_consensus")),
        }
    }
}
