use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use iicp_core::options::NodeOptions;
use iicp_core::{Code, Error};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{deepest, directory_defaults, http, node_defaults};
use crate::Context;
use crate::failure::Failure;
use crate::settings::{Flags, Section, Takes, attach};

pub(crate) const FLAGS: &[Flags] =
    &[Flags { section: Section::Node, prefix: "", takes: Takes::Only(&["host", "port"]), common: &["host", "port"] }];

/// More is no health report.
const MOST_BYTES: usize = 256 << 10;
/// Pause before it is asked again.
const ASK_EVERY: Duration = Duration::from_millis(100);

const EXAMPLES: &str = "\
Exit codes:
  0  healthy
  1  not there, or not well
  2  the command line or the configuration

Examples:
  iicp healthcheck                              the node of this machine's configuration
  iicp healthcheck --directory                  its directory
  iicp healthcheck http://127.0.0.1:9484        another one
  iicp healthcheck --wait-ms 30000              wait until it is there
  HEALTHCHECK CMD [\"iicp\", \"healthcheck\"]       in a Dockerfile";

/// Ask a node or a directory whether it is well
///
/// A node that is full, or finishing its tasks before it stops, is well.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Healthcheck {
    /// Base URL of whom to ask; by default where the configured node listens
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Ask where the configured directory listens
    #[arg(long, conflicts_with = "url")]
    directory: bool,
    /// How long to wait for an answer, in milliseconds
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=120_000))]
    timeout_ms: u64,
    /// Ask again for so long, in milliseconds, until it is well
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    wait_ms: u64,
}

pub(crate) fn flags(command: clap::Command) -> clap::Command {
    attach(command, &FLAGS[0], &node_defaults())
}

pub(crate) async fn run(args: Healthcheck, context: &mut Context) -> Result<(), Failure> {
    let mut asked = Asked::default();
    let base = match args.url {
        Some(url) => {
            let node: NodeOptions = context.settings.section(Section::Node, &node_defaults())?;
            asked.trusted_ca = node.trusted_ca;
            url.trim_end_matches('/').to_owned()
        }
        None if args.directory => {
            let directory = context.settings.section(Section::Directory, &directory_defaults())?;
            listening(&directory.host, directory.port, "directory")?
        }
        None => {
            let node: NodeOptions = context.settings.section(Section::Node, &node_defaults())?;
            let base = listening(&node.host, node.port, "node")?;
            asked.takes_tls_only = node.tls.is_some_and(|tls| tls.only);
            if asked.takes_tls_only { base.replacen("http:", "https:", 1) } else { base }
        }
    };
    let url = format!("{base}/iicp/health");
    let (timeout, until) =
        (Duration::from_millis(args.timeout_ms), Instant::now() + Duration::from_millis(args.wait_ms));
    let asking = async {
        loop {
            let late = |_| Err(format!("no answer within {} ms", timeout.as_millis()));
            let report = tokio::time::timeout(timeout, report(&url, &asked)).await.unwrap_or_else(late);
            if report.is_ok() || Instant::now() + ASK_EVERY > until {
                return report;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    let report = tokio::select! {
        report = asking => report,
        signal = context.signals.next() => return Err(Failure::Interrupted(signal)),
    };
    let console = context.console;
    match report {
        Ok(report) => {
            let state = state(&report);
            if console.json {
                console.object(&json!({ "healthy": true, "url": base, "state": state, "report": report }))?;
            } else if !console.quiet {
                console.line(&format!("healthy: {base} ({state})"))?;
            }
            Ok(())
        }
        Err(why) if console.json => {
            console.object(&json!({ "healthy": false, "url": base, "reason": why }))?;
            Err(Failure::Said(1))
        }
        Err(why) => {
            console.line(&format!("unhealthy: {base}: {why}"))?;
            Err(Failure::Said(1))
        }
    }
}

/// The URL of what listens on `host`, from this machine.
fn listening(host: &str, port: u16, what: &str) -> Result<String, Failure> {
    if port == 0 {
        let why = format!("nobody knows the port of a {what} that lets the system choose; give its URL");
        return Err(Error::new(Code::ConfigInvalid, why).into());
    }
    let host = match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => "127.0.0.1".into(),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => "[::1]".into(),
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_owned(),
    };
    Ok(format!("http://{host}:{port}"))
}

/// How whoever is asked is called.
#[derive(Default)]
struct Asked {
    trusted_ca: Option<String>,
    /// It is the node of this machine, and its certificate is for the name that others call it by.
    takes_tls_only: bool,
}

impl Asked {
    fn http(&self) -> Result<reqwest::ClientBuilder, String> {
        Ok(http(self.trusted_ca.as_deref())?.tls_danger_accept_invalid_certs(self.takes_tls_only))
    }
}

/// The report of whoever is well; else what is wrong.
async fn report(url: &str, asked: &Asked) -> Result<Value, String> {
    let client = asked.http()?.redirect(reqwest::redirect::Policy::none()).build().map_err(deepest)?;
    let mut answer = client.get(url).send().await.map_err(deepest)?;
    if !answer.status().is_success() {
        return Err(format!("it answered {}", answer.status()));
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(deepest)? {
        if body.len() + piece.len() > MOST_BYTES {
            return Err("its report does not end".into());
        }
        body.extend_from_slice(&piece);
    }
    let report: Value = serde_json::from_slice(&body).map_err(|_| "its report is not JSON".to_owned())?;
    match report["status"].as_str() {
        Some("ok" | "available" | "healthy") => Ok(report),
        Some(_) => Err("its report says that it is not well".into()),
        None => Err("its report has no status; is this a node or a directory?".into()),
    }
}

/// One word for what a healthy one does.
fn state(report: &Value) -> &'static str {
    if report["role"] == "directory" {
        return "directory";
    }
    match (report["backend_stability"]["backend_state"].as_str(), report["available"].as_bool()) {
        (Some("draining"), _) => "draining",
        (Some("degraded"), _) => "degraded",
        (_, Some(false)) => "busy",
        _ => "available",
    }
}
