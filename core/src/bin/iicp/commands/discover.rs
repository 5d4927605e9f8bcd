use clap::Args;
use iicp_core::options::Discover as Query;
use iicp_core::types::{NodeInfo, Qos};
use iicp_core::{Code, Error};

use super::{CLIENT_FLAGS, client, client_defaults, intent};
use crate::Context;
use crate::console::{faint, printable, strong};
use crate::failure::Failure;
use crate::settings::{Flags, attach};

pub(crate) const FLAGS: &[Flags] = &[CLIENT_FLAGS];

const EXAMPLES: &str = "\
Examples:
  iicp discover                            who serves chats
  iicp discover --intent embedding         who serves another intent
  iicp discover --json | jq -r .endpoint   for scripts: one node per line";

/// List the nodes that serve an intent, best first
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Discover {
    /// What they must serve: an intent, or `chat`, `completion`, `embedding`, `moderation`, `speech`, `transcription`
    #[arg(long, default_value = "chat")]
    intent: String,
    /// The model that they must serve
    #[arg(long)]
    model: Option<String>,
    /// Quality of service that they must be fit for: realtime, interactive, batch or best-effort
    #[arg(long, value_parser = qos)]
    qos: Option<Qos>,
    /// Least reputation, 0 to 1
    #[arg(long, value_name = "N")]
    min_reputation: Option<f64>,
    /// Most nodes to list, 1 to 50
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: u32,
    /// List only nodes that a browser can call
    #[arg(long)]
    browser_usable_only: bool,
}

pub(crate) fn flags(command: clap::Command) -> clap::Command {
    attach(command, &FLAGS[0], &client_defaults())
}

pub(crate) fn qos(text: &str) -> Result<Qos, String> {
    let words = || Qos::ALL.map(Qos::as_str).join(", ");
    Qos::parse(text).ok_or_else(|| format!("expected one of {}", words()))
}

pub(crate) async fn run(args: Discover, context: &mut Context) -> Result<(), Failure> {
    let (client, _) = client(&context.settings)?;
    let mut query = Query::intent(intent(&args.intent)).limit(args.limit);
    (query.model, query.qos, query.min_reputation) = (args.model, args.qos, args.min_reputation);
    query.browser_usable_only = args.browser_usable_only;
    let wanted = query.intent.clone();

    let progress = context.console.progress("asking the directory");
    let nodes = tokio::select! {
        nodes = client.discover(query) => nodes?,
        signal = context.signals.next() => return Err(Failure::Interrupted(signal)),
    };
    drop(progress);
    if context.console.json {
        for node in &nodes {
            let object = serde_json::to_value(node).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
            context.console.object(&object)?;
        }
    } else {
        for line in table(&nodes) {
            context.console.line(&line)?;
        }
    }
    if nodes.is_empty() {
        context.console.note(&format!("no node serves {wanted}"));
    }
    Ok(())
}

/// A line for the heads, if there is a node, and one per node.
fn table(nodes: &[NodeInfo]) -> Vec<String> {
    let share = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
    let mut rows = vec![["NODE", "SCORE", "LOAD", "REGION", "MODELS", "ENDPOINT"].map(String::from)];
    rows.extend(nodes.iter().map(|node| {
        let models = if node.models.is_empty() { "-".into() } else { node.models.join(",") };
        let region = node.region.clone().unwrap_or_else(|| "-".into());
        [node.node_id.clone(), share(Some(node.score)), share(node.load), region, models, node.endpoint.clone()]
            .map(|cell| printable(&cell).replace('\n', " "))
    }));
    let widths: [usize; 6] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let line = |(at, row): (usize, &[String; 6])| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let line = cells.join("  ").trim_end().to_owned();
        let available = at == 0 || nodes[at - 1].available;
        if at == 0 {
            strong(&line)
        } else if available {
            line
        } else {
            faint(&line)
        }
    };
    if nodes.is_empty() { Vec::new() } else { rows.iter().enumerate().map(line).collect() }
}
