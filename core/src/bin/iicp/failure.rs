//! How a command ends other than well, and the exit code that says so.

use iicp_core::{Code, Error};
use serde_json::{Value, json};

use crate::settings::Mistake;
use crate::signals::Signal;

/// What `--help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done; also a service that was asked to stop, and a reader that had enough
  1    a fault, no result in time, or an unhealthy node (`healthcheck`)
  2    the command line, the configuration, the task's form, or a policy
  3    the directory: away, refusing, or without a node for the task
  4    the way to the node: no connection, TLS, a lost or unreadable answer
  5    the provider refused the task or failed
  6    serving: the address is in use, or not to be had
  7    relay and NAT
  130  interrupted (Ctrl-C); 143: terminated

2 to 7 are the first digits of the error's own number, such as 3003 NO_NODES.";

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the library says.
    Library(Error),
    /// What is wrong with the configuration.
    Configuration(Vec<Mistake>),
    /// What is wrong with the command line, beyond what its parser sees.
    Usage(String),
    /// Whoever read our output went away.
    ReaderGone,
    /// The output cannot be written.
    Output(std::io::Error),
    /// Asked to stop before there was a result.
    Interrupted(Signal),
    /// Said already; only the exit code is left.
    Said(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Library(error)
    }
}

impl From<Vec<Mistake>> for Failure {
    fn from(mistakes: Vec<Mistake>) -> Self {
        Failure::Configuration(mistakes)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Failure::Output(error),
        }
    }
}

impl Failure {
    /// See [`EXIT_CODES`].
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Library(error) => family(error.code()),
            Failure::Configuration(_) | Failure::Usage(_) => 2,
            Failure::ReaderGone => 0,
            Failure::Output(_) => 1,
            Failure::Interrupted(signal) => signal.exit_code(),
            Failure::Said(code) => *code,
        }
    }

    /// The failure as one or more objects; none if there is nothing to say.
    pub(crate) fn json(&self) -> Vec<Value> {
        let error = |error: Value| json!({ "error": error });
        match self {
            Failure::Library(failed) => vec![error(failed.to_json())],
            Failure::Configuration(mistakes) => mistakes.iter().map(|mistake| error(mistake.json())).collect(),
            Failure::Usage(why) => vec![error(Error::new(Code::InvalidArg, why).to_json())],
            Failure::Output(why) => vec![error(Error::new(Code::Internal, unwritten(why)).to_json())],
            Failure::Interrupted(signal) => {
                vec![error(Error::new(Code::Cancelled, format!("stopped by {}", signal.name())).to_json())]
            }
            Failure::ReaderGone | Failure::Said(_) => Vec::new(),
        }
    }
}

pub(crate) fn unwritten(why: &std::io::Error) -> String {
    format!("the output cannot be written: {why}")
}

/// The first digit of the code's number.
fn family(code: Code) -> u8 {
    u8::try_from(code.number() / 1000).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_exit_code_that_help_explains() {
        for code in Code::ALL.iter().filter(|code| **code != Code::Ok) {
            let exit = Failure::Library(Error::new(*code, "")).exit_code();
            assert!((1..=7).contains(&exit), "{code}: {exit}");
            assert!(EXIT_CODES.contains(&format!("\n  {exit}    ")), "{code}: {exit} is not explained");
        }
        assert_eq!(Failure::from(Error::new(Code::NoNodes, "")).exit_code(), 3);
        assert_eq!(Failure::from(Error::new(Code::Bind, "")).exit_code(), 6);
    }
}
