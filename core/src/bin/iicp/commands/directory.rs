use clap::Args;
use serde_json::json;

use super::{DIRECTORY_PORT, directory_defaults};
use crate::Context;
use crate::console::strong;
use crate::failure::Failure;
use crate::service::{self, Running, Stop};
use crate::settings::{Flags, Section, Takes, attach};

pub(crate) const FLAGS: &[Flags] = &[Flags {
    section: Section::Directory,
    prefix: "",
    takes: Takes::All,
    common: &["host", "port", "path", "probe", "limits", "qos_gating"],
}];

const EXAMPLES: &str = "\
Examples:
  iicp directory                           on port 9480, as strict as the public one
  iicp directory --no-probe --no-limits    for development
  iicp directory --port 0 --json           on any free port; its URL is in the first line";

/// Run a directory: who serves what
///
/// It never sees a task. Ctrl-C stops it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Directory {
    #[command(flatten)]
    stop: Stop,
}

pub(crate) fn flags(command: clap::Command) -> clap::Command {
    attach(command, &FLAGS[0], &directory_defaults())
}

pub(crate) async fn run(args: Directory, context: &mut Context) -> Result<(), Failure> {
    let options = context.settings.section(Section::Directory, &directory_defaults())?;
    let console = context.console;
    let start = async move {
        let directory = iicp_core::Directory::bind(options).await?;
        let url = directory.url();
        let named =
            if directory.addr().port() == DIRECTORY_PORT { String::new() } else { format!(" --directory-url {url}") };
        let text = format!("directory at {}\nAsk its nodes with: iicp query{named} \"Hello, mesh.\"", strong(&url));
        console.event("ready", json!({ "directory": url }), &text);
        Ok(Running { node: None, directory: Some(directory), registers: false })
    };
    service::run(context, &args.stop, None, start).await
}
