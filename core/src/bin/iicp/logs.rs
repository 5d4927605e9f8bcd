//! What the library says about its work, on stderr. Only names of this project are let through: what a dependency would
//! say at its lowest level may hold what nobody is to read.

use iicp_core::{Code, Error, Result};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::settings::LOG;

const LEVELS: [LevelFilter; 5] =
    [LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE];

/// Starts the log. `steps` are up from a service's `info` or another command's `warn`, down if negative; with none, the
/// variable `IICP_LOG` is asked: a level, or `iicp::node=debug,iicp=warn`.
///
/// # Errors
/// `CONFIG_INVALID` if the variable cannot be read.
pub(crate) fn start(service: bool, steps: i16, json: bool) -> Result<()> {
    let wanted = std::env::var(LOG).ok().filter(|text| !text.is_empty() && steps == 0);
    let targets = match wanted {
        Some(text) => ours(&text)?,
        None => {
            let usual = if service { 2 } else { 1 };
            let level = usize::try_from((usual + steps).max(0)).unwrap_or(0).min(LEVELS.len() - 1);
            Targets::new().with_target("iicp", LEVELS[level])
        }
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let registry = tracing_subscriber::registry();
    // A second one is a fault of this program that no user can mend, and does no harm.
    let _ = if json {
        registry.with(lines.json().flatten_event(true).with_filter(targets)).try_init()
    } else {
        registry.with(lines.with_ansi(colour).with_target(false).compact().with_filter(targets)).try_init()
    };
    Ok(())
}

fn ours(text: &str) -> Result<Targets> {
    let wrong = || {
        Error::new(
            Code::ConfigInvalid,
            format!(
                "variable {LOG} must be off, error, warn, info, debug or trace, or such as iicp::node=debug,iicp=warn"
            ),
        )
    };
    if let Ok(level) = text.trim().parse::<LevelFilter>() {
        return Ok(Targets::new().with_target("iicp", level));
    }
    let all: Targets = text.parse().map_err(|_| wrong())?;
    let mut kept = Targets::new();
    for (target, level) in all.iter() {
        if target != "iicp" && !target.starts_with("iicp::") && !target.starts_with("iicp_core") {
            return Err(wrong());
        }
        kept = kept.with_target(target.to_owned(), level);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn levels_and_our_own_targets_are_read_and_others_refused() {
        assert!(ours("debug").unwrap().would_enable("iicp::node", &tracing::Level::DEBUG));
        assert!(!ours("debug").unwrap().would_enable("hyper::proto", &tracing::Level::ERROR));
        let some = ours("iicp::node=debug,iicp=warn").unwrap();
        assert!(some.would_enable("iicp::node", &tracing::Level::DEBUG));
        assert!(!some.would_enable("iicp::client", &tracing::Level::INFO));
        for wrong in ["loud", "hyper=trace", "iicp=loud", "debug,hyper"] {
            assert_eq!(ours(wrong).unwrap_err().code(), Code::ConfigInvalid, "{wrong}");
        }
    }
}
