//! The command line: what is written here, and the flags that each command takes from the library's options.

use std::path::PathBuf;

use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueHint};

use crate::commands::{completion, config, directory, discover, doctor, healthcheck, query, serve, up};
use crate::failure::EXIT_CODES;

const EXAMPLES: &str = "\
Examples:
  iicp up                                    a mesh on this machine, to try things out
  iicp query \"Hello, mesh.\"                  ask it
  iicp serve --backend ollama                serve models of this machine
  git diff | iicp query \"Explain this:\" -    ask about what a pipe brings
  iicp discover --json                       who serves, for scripts
  iicp config show --origin                  every setting, and where it came from";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Serve AI tasks on the IICP mesh, and ask for them.
#[derive(Debug, Parser)]
#[command(name = "iicp", version, styles = STYLES, max_term_width = 120, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "General options")]
pub(crate) struct Global {
    /// Configuration file [default: ~/.config/iicp/config.toml, or /etc/iicp/config.toml] [variable: IICP_CONFIG_FILE]
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Write results, events and errors as JSON, one object per line
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more; twice for still more [variable: IICP_LOG]
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say less: results and errors only
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    pub quiet: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(up::Up),
    Serve(serve::Serve),
    Query(query::Query),
    Discover(discover::Discover),
    Directory(directory::Directory),
    Doctor(doctor::Doctor),
    Healthcheck(healthcheck::Healthcheck),
    Config(config::Config),
    Completion(completion::Completion),
}

/// The whole command line, with the flags that the library's options give.
pub(crate) fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("up", up::flags)
        .mut_subcommand("serve", serve::flags)
        .mut_subcommand("query", query::flags)
        .mut_subcommand("discover", discover::flags)
        .mut_subcommand("directory", directory::flags)
        .mut_subcommand("doctor", doctor::flags)
        .mut_subcommand("healthcheck", healthcheck::flags)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
