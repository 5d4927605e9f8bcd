//! The command `iicp`: the library in the hands of people who write no code. It uses what the crate offers to everyone.

mod cli;
mod commands;
mod console;
mod echo;
mod failure;
mod logs;
mod service;
mod settings;
mod signals;
mod supervisor;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches as _};
use iicp_core::{Code, Error};
use tokio::runtime::{Builder, Runtime};

use cli::{Cli, Command};
use commands::{completion, config, directory, discover, doctor, healthcheck, query, serve, up};
use console::Console;
use failure::Failure;
use settings::{Flags, Settings};
use signals::Signals;

/// What a command works with.
#[derive(Debug)]
struct Context {
    console: Console,
    settings: Settings,
    signals: Signals,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed = cli::command()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return not_understood(&error, &arguments),
    };
    let console = Console { json: cli.global.json, quiet: cli.global.quiet > 0 };
    match run(cli, &matches, console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            console.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help and version are written and are no failure; the rest is.
fn not_understood(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if error.use_stderr() && arguments.iter().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let why = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        Console { json: true, quiet: false }.failure(&Failure::Usage(why.to_owned()));
    } else {
        // Nobody to read it, nobody to miss it.
        let _ = error.print();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn run(cli: Cli, matches: &ArgMatches, console: Console) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let given = matches.subcommand().map_or(matches, |(_, given)| given);
    let settings = |flags: &[Flags]| Settings::read(global.config.as_deref(), given, flags);
    let service = matches!(command, Command::Directory(_) | Command::Serve(_));
    logs::start(service, i16::from(global.verbose) - i16::from(global.quiet), global.json)?;
    match command {
        Command::Up(args) => live(console, settings(up::FLAGS), async |context| up::run(args, context).await),
        Command::Serve(args) => live(console, settings(serve::FLAGS), async |context| serve::run(args, context).await),
        Command::Directory(args) => {
            live(console, settings(directory::FLAGS), async |context| directory::run(args, context).await)
        }
        Command::Query(args) => brief(console, settings(query::FLAGS), async |context| query::run(args, context).await),
        Command::Discover(args) => {
            brief(console, settings(discover::FLAGS), async |context| discover::run(args, context).await)
        }
        Command::Doctor(args) => {
            brief(console, settings(doctor::FLAGS), async |context| doctor::run(args, context).await)
        }
        Command::Healthcheck(args) => {
            brief(console, settings(healthcheck::FLAGS), async |context| healthcheck::run(args, context).await)
        }
        Command::Config(args) => config::run(args, &global.config, console),
        Command::Completion(args) => completion::run(&args),
    }
}

/// Runs a command that serves: with a thread per core.
fn live<F>(console: Console, settings: Settings, command: F) -> Result<(), Failure>
where
    F: AsyncFnOnce(&mut Context) -> Result<(), Failure>,
{
    drive(Builder::new_multi_thread(), console, settings, command)
}

/// Runs a command that is done soon: on this thread.
fn brief<F>(console: Console, settings: Settings, command: F) -> Result<(), Failure>
where
    F: AsyncFnOnce(&mut Context) -> Result<(), Failure>,
{
    drive(Builder::new_current_thread(), console, settings, command)
}

fn drive<F>(mut builder: Builder, console: Console, settings: Settings, command: F) -> Result<(), Failure>
where
    F: AsyncFnOnce(&mut Context) -> Result<(), Failure>,
{
    settings.warnings().iter().for_each(|warning| console.warning(warning));
    let no_runtime = |error: std::io::Error| {
        Failure::from(Error::new(Code::Internal, format!("the system gives no runtime: {error}")).with_source(error))
    };
    let runtime: Runtime = builder.enable_all().build().map_err(no_runtime)?;
    let outcome = runtime.block_on(async {
        // First of all, so that no request to stop is missed.
        let signals = Signals::new().map_err(no_runtime)?;
        command(&mut Context { console, settings, signals }).await
    });
    // A thread that waits for the keyboard waits for ever.
    runtime.shutdown_background();
    outcome
}
