use std::fmt::Write as _;

use clap::Args;
use iicp_core::options::{DirectoryOptions, NodeOptions};
use iicp_core::{Code, Directory, Node};
use serde_json::json;

use super::{DIRECTORY_PORT, node_defaults};
use crate::Context;
use crate::console::{faint, good, strong};
use crate::echo::{MODEL, echo};
use crate::failure::Failure;
use crate::service::{self, Running, Stop};
use crate::settings::{Flags, Section, Takes, attach};

pub(crate) const FLAGS: &[Flags] = &[
    Flags {
        section: Section::Node,
        prefix: "",
        // The mesh stays on this machine.
        takes: Takes::AllBut(&["directory", "endpoint", "host"]),
        common: &["backend.kind", "backend.model", "backend.url", "intents", "max_concurrent", "models", "port"],
    },
    Flags { section: Section::Directory, prefix: "directory-", takes: Takes::AllBut(&["host"]), common: &["port"] },
];

const EXAMPLES: &str = "\
Examples:
  iicp up                           a mesh whose node repeats what it is told
  iicp up --backend ollama          one that serves the models of an inference server
  iicp up --json                    for scripts: the first line says where everything is
  iicp up --port 0 --directory-port 0   on any free ports";

/// Start a mesh on this machine: a directory, and a node that serves
///
/// Nothing of it can be reached from elsewhere. Ctrl-C stops it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Up {
    #[command(flatten)]
    stop: Stop,
}

fn directory_base() -> DirectoryOptions {
    let mut options = DirectoryOptions::loopback();
    options.port = DIRECTORY_PORT;
    options
}

pub(crate) fn flags(command: clap::Command) -> clap::Command {
    attach(attach(command, &FLAGS[0], &node_defaults()), &FLAGS[1], &directory_base())
}

pub(crate) async fn run(args: Up, context: &mut Context) -> Result<(), Failure> {
    let mut base = node_defaults();
    let backend = context.settings.gives(Section::Node, "backend");
    if backend {
        base.intents.clear();
    } else {
        base.models = vec![MODEL.into()];
    }
    let mut node = context.settings.section(Section::Node, &base)?;
    let mut directory = context.settings.section(Section::Directory, &directory_base())?;
    directory.host = "127.0.0.1".into();
    (node.host, node.endpoint) = ("127.0.0.1".into(), None);
    // Only a port that somebody asked for must be that one.
    let fixed = (context.settings.gives(Section::Directory, "port"), context.settings.gives(Section::Node, "port"));
    let console = context.console;
    let start = async move {
        let directory = bind_directory(directory, fixed.0).await?;
        node.directory = directory.url();
        let (intents, models) = (node.intents.clone(), node.models.clone());
        let node = bind_node(node, fixed.1).await?;
        let node = if backend { node.serve_backend().await? } else { node.serve(echo).await? };
        let facts = json!({
            "directory": directory.url(),
            "node": { "node_id": node.node_id(), "url": node.url(), "registered": node.is_registered() },
            "intents": intents,
            "models": models,
        });
        let served = match (backend, models.is_empty()) {
            (true, true) => "what its backend has".to_owned(),
            _ => [intents.join(", "), faint(&format!("by {}", models.join(", ")))].join(" ").trim_start().to_owned(),
        };
        console.event("ready", facts, &welcome(&directory, &node.url(), node.node_id(), &served));
        Ok(Running { node: Some(node), directory: Some(directory), registers: true })
    };
    service::run(context, &args.stop, None, start).await
}

async fn bind_directory(mut options: DirectoryOptions, fixed: bool) -> Result<Directory, Failure> {
    match Directory::bind(options.clone()).await {
        Err(error) if error.code() == Code::Bind && !fixed => {
            options.port = 0;
            Ok(Directory::bind(options).await?)
        }
        bound => Ok(bound?),
    }
}

async fn bind_node(mut options: NodeOptions, fixed: bool) -> Result<Node, Failure> {
    match Node::bind(options.clone()).await {
        Err(error) if error.code() == Code::Bind && !fixed => {
            options.port = 0;
            Ok(Node::bind(options).await?)
        }
        bound => Ok(bound?),
    }
}

/// What a newcomer sees: where everything is, and what to paste.
fn welcome(directory: &Directory, node: &str, node_id: &str, served: &str) -> String {
    let url = directory.url();
    let named =
        if directory.addr().port() == DIRECTORY_PORT { String::new() } else { format!(" --directory-url {url}") };
    let mut text = String::new();
    let rows = [
        ("directory", strong(&url)),
        ("node", format!("{} {}", strong(node), faint(node_id))),
        ("serves", served.to_owned()),
    ];
    let _ = writeln!(text, "{}\n", good("A mesh on this machine is ready."));
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<10} {value}");
    }
    let _ = writeln!(
        text,
        "\nAsk it, from another terminal:\n\n  {}",
        strong(&format!("iicp query{named} \"Hello, mesh.\""))
    );
    let _ = writeln!(text, "\nor from a program:\n");
    for (language, line) in snippets(&url) {
        let _ = writeln!(text, "  {language:<11} {line}");
    }
    text.push_str("\nCtrl-C stops it.");
    text
}

/// What each language's client is made with.
fn snippets(url: &str) -> [(&'static str, String); 5] {
    [
        ("Python", format!("iicp_core.sync.Client(directory=\"{url}\").chat(\"Hello, mesh.\").text")),
        ("TypeScript", format!("(await new Client({{ directory: \"{url}\" }}).chat(\"Hello, mesh.\")).text")),
        ("Go", format!("iicp.NewClient(iicp.ClientOptions{{Directory: \"{url}\"}})")),
        ("Rust", format!("Client::new(from_json(r#\"{{\"directory\":\"{url}\"}}\"#)?)?.chat(\"Hello, mesh.\").await?")),
        (
            "C",
            format!("iicp_client_new(runtime, iicp_text(\"{{\\\"directory\\\":\\\"{url}\\\"}}\"), &client, &error);"),
        ),
    ]
}
