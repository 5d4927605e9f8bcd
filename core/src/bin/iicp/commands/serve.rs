use clap::Args;
use iicp_core::Node;
use iicp_core::options::NodeOptions;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::node_defaults;
use crate::Context;
use crate::console::{faint, strong};
use crate::echo::{MODEL, echo};
use crate::failure::Failure;
use crate::service::{self, Running, Stop};
use crate::settings::{Flags, Section, Takes, attach};

pub(crate) const FLAGS: &[Flags] = &[Flags {
    section: Section::Node,
    prefix: "",
    takes: Takes::All,
    common: &[
        "auth",
        "backend.api_key",
        "backend.kind",
        "backend.model",
        "backend.url",
        "directory",
        "endpoint",
        "host",
        "intents",
        "max_concurrent",
        "models",
        "node_id",
        "port",
        "region",
        "state_dir",
        "tls.certificate",
        "tls.key",
    ],
}];

const EXAMPLES: &str = "\
Examples:
  iicp serve --backend ollama
  iicp serve --backend openai_compat --backend-url http://127.0.0.1:8000/v1 --model qwen3
  iicp serve --config /etc/iicp/config.toml
  iicp serve --backend ollama --tls-certificate fullchain.pem --tls-key privkey.pem --endpoint https://node.example.com:9484
  iicp serve --echo --directory-url \"\"      nothing but this machine: no model, no directory

A key of the backend is better off in IICP_BACKEND_API_KEY, or in a file that IICP_BACKEND_API_KEY_FILE names, than on a
command line that every process can read.";

/// Serve tasks with a backend, and keep the node registered with a directory
///
/// The backend is an inference server such as vLLM, llama.cpp or Ollama; its models are found by asking it. Ctrl-C or SIGTERM
/// lets running tasks finish, takes the node out of the directory and ends with 0.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Repeat what is asked, in place of a backend
    #[arg(long)]
    echo: bool,
    /// Serve without registering; the same as --directory-url ""
    #[arg(long)]
    skip_registration: bool,
    #[command(flatten)]
    stop: Stop,
}

/// What the command sets for a node where nobody says otherwise.
fn base(echo: bool) -> NodeOptions {
    let mut base = node_defaults();
    if echo {
        base.models = vec![MODEL.into()];
    } else {
        // What a backend serves, it says itself.
        base.intents.clear();
    }
    base
}

pub(crate) fn flags(command: clap::Command) -> clap::Command {
    attach(command, &FLAGS[0], &base(false))
}

pub(crate) async fn run(args: Serve, context: &mut Context) -> Result<(), Failure> {
    if args.echo && context.settings.gives(Section::Node, "backend") {
        return Err(Failure::Usage("--echo stands in place of a backend, and a backend is set as well".into()));
    }
    if !args.echo && !context.settings.gives(Section::Node, "backend") {
        let why =
            "there is nothing to serve with; name an inference server by --backend and --backend-url, or try --echo";
        return Err(Failure::Usage(why.into()));
    }
    let mut options = context.settings.section(Section::Node, &base(args.echo))?;
    if args.skip_registration {
        options.directory.clear();
    }
    let (console, directory) = (context.console, options.directory.clone());
    let stop = CancellationToken::new();
    let told = stop.clone();
    let start = async move {
        let (intents, models) = (options.intents.clone(), options.models.clone());
        let backend = options.backend.as_ref().and_then(|backend| backend.url.clone());
        let node = Node::bind(options).await?.until(told.clone().cancelled_owned());
        let progress = console.progress("asking backend and directory");
        let node = if args.echo { node.serve(echo).await? } else { node.serve_backend().await? };
        drop(progress);
        let registers = !directory.is_empty();
        let facts = json!({
            "node": { "node_id": node.node_id(), "url": node.url(), "registered": node.is_registered() },
            "directory": registers.then_some(&directory),
            "backend": backend,
            "intents": intents,
            "models": models,
        });
        let place = match (registers, node.is_registered()) {
            (false, _) => "registered nowhere".to_owned(),
            (true, true) => format!("registered with {directory}"),
            (true, false) => format!("not registered yet with {directory}; trying again"),
        };
        let text = format!("node at {} {}\n{place}", strong(&node.url()), faint(node.node_id()));
        if !told.is_cancelled() {
            console.event("ready", facts, &text);
        }
        Ok(Running { node: Some(node), directory: None, registers })
    };
    service::run(context, &args.stop, Some(stop), start).await
}
