//! What a relay, and a node that is reached through one, are made with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Validate, in_range};
use crate::error::{Code, Error, Result};

/// The port that published relays listen on for workers. No directory says another one.
pub(crate) const RELAY_PORT: u16 = 9485;

/// How a node lends its address to workers that nobody can reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RelayServerOptions {
    /// Address on which workers are accepted; by default the node's host. One that stands for all addresses of the machine,
    /// or for the machine itself, is listened on in IPv4 and in IPv6.
    pub host: Option<String>,
    /// Port on which workers are accepted; 0 lets the system choose. Directories tell nobody about another one than 9485.
    pub port: u16,
    /// Whether workers need a ticket of the directory; by default they do unless they are accepted on this machine only.
    pub ticket_required: Option<bool>,
    /// Key that tickets are verified with, 64 hex digits; by default the directory's, which is asked for and followed when it
    /// changes.
    pub ticket_key: Option<String>,
    /// Whether workers with a connection are taken over TLS only. By default plain text is taken too: published workers speak
    /// nothing else. The port takes both; a relay's key is made once, kept in `state_dir`, and known by its hash.
    pub tls_required: bool,
    /// Workers that may be bound at the same time.
    pub max_workers: usize,
    /// The same for one source: an IPv4 /24 or an IPv6 /48.
    pub max_workers_per_source: usize,
    /// Binds in a minute: of one worker, and of one source for workers without a ticket; 0: any number.
    pub binds_per_minute: u32,
    /// Calls that may be under way at the same time.
    pub max_calls: usize,
    /// The same for one source of callers.
    pub max_calls_per_source: usize,
    /// The same for one worker.
    pub max_calls_per_worker: usize,
    /// Bytes of tasks that may be under way at the same time, and as many of answers.
    pub max_bytes: usize,
    /// Bytes of tasks under way for one source of callers.
    pub max_bytes_per_source: usize,
    /// Bytes of tasks under way for one worker. A task that is alone may be larger.
    pub max_bytes_per_worker: usize,
    /// How long a worker may be bound, in milliseconds, before it has to prove again who it is; 0: any time. Our own workers
    /// bind anew beside what is under way; others are let go when nothing is, and come again.
    pub max_session_ms: u64,
    /// Bytes of tasks and answers that a worker may carry before the same; 0: any number.
    pub max_session_bytes: u64,
    /// Longest wait for a worker's answer, in milliseconds; a task that asks for less gets less.
    pub call_timeout_ms: u64,
    /// Silence after which a worker is asked whether it is there, in milliseconds.
    pub ping_interval_ms: u64,
    /// Wait for its answer, in milliseconds.
    pub pong_timeout_ms: u64,
    /// Silence after which a worker of the published kind, which never answers, is taken for gone, in milliseconds.
    pub silence_timeout_ms: u64,
}

impl Default for RelayServerOptions {
    fn default() -> Self {
        RelayServerOptions {
            host: None,
            port: RELAY_PORT,
            ticket_required: None,
            ticket_key: None,
            tls_required: false,
            max_workers: 10_000,
            max_workers_per_source: 1_024,
            binds_per_minute: 30,
            max_calls: 16_384,
            max_calls_per_source: 1_024,
            max_calls_per_worker: 256,
            max_bytes: 256 << 20,
            max_bytes_per_source: 64 << 20,
            max_bytes_per_worker: 4 << 20,
            max_session_ms: 86_400_000,
            max_session_bytes: 0,
            call_timeout_ms: super::MAX_TIMEOUT_MS,
            ping_interval_ms: 15_000,
            pong_timeout_ms: 5_000,
            silence_timeout_ms: 90_000,
        }
    }
}

impl Validate for RelayServerOptions {
    const WHAT: &'static str = "a relay";

    fn validate(&self) -> Result<()> {
        if let Some(host) = &self.host {
            super::check_names(Self::WHAT, "host", &[host], 253)?;
        }
        if self.ticket_key.as_deref().is_some_and(|key| !is_key(key)) {
            return Err(Error::of_options(
                Code::ConfigInvalid,
                "option `ticket_key` of a relay must be 64 lower-case hex digits",
            ));
        }
        in_range(Self::WHAT, "max_workers", self.max_workers, 1, 1 << 20)?;
        in_range(Self::WHAT, "max_workers_per_source", self.max_workers_per_source, 1, 1 << 20)?;
        in_range(Self::WHAT, "binds_per_minute", self.binds_per_minute, 0, 1 << 20)?;
        in_range(Self::WHAT, "max_calls", self.max_calls, 1, 1 << 20)?;
        in_range(Self::WHAT, "max_calls_per_source", self.max_calls_per_source, 1, 1 << 20)?;
        in_range(Self::WHAT, "max_calls_per_worker", self.max_calls_per_worker, 1, 1 << 16)?;
        in_range(Self::WHAT, "max_bytes", self.max_bytes, 1 << 16, 1 << 36)?;
        in_range(Self::WHAT, "max_bytes_per_source", self.max_bytes_per_source, 1 << 16, 1 << 36)?;
        in_range(Self::WHAT, "max_bytes_per_worker", self.max_bytes_per_worker, 1 << 16, 1 << 32)?;
        in_range(Self::WHAT, "max_session_ms", self.max_session_ms, 0, 30 * 86_400_000)?;
        in_range(Self::WHAT, "max_session_bytes", self.max_session_bytes, 0, 1 << 50)?;
        in_range(Self::WHAT, "call_timeout_ms", self.call_timeout_ms, 100, 600_000)?;
        in_range(Self::WHAT, "ping_interval_ms", self.ping_interval_ms, 500, 600_000)?;
        in_range(Self::WHAT, "pong_timeout_ms", self.pong_timeout_ms, 500, 600_000)?;
        in_range(Self::WHAT, "silence_timeout_ms", self.silence_timeout_ms, 1_000, 3_600_000)
    }
}

/// How a node that nobody can reach is reached through a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RelayWorkerOptions {
    /// Where a relay accepts workers, as `host:port` or a host alone; by default relays are asked of the directory, and the
    /// one with the least load is taken. Who names one gets no other.
    pub relay: Option<String>,
    /// Key that the relay of the option `relay` is known by, 64 hex digits (SHA-256 of its `SubjectPublicKeyInfo`): it is
    /// called over TLS then. By default such a relay is called in plain text; one that the directory names is known by the
    /// key that stands there, and called over TLS if there is one.
    pub relay_key: Option<String>,
    /// Relays to be bound at, 1 or 2: with 2, tasks go on at once when the first is lost. Needs relays that the directory
    /// names.
    pub relays: u32,
    /// Silence after which the relay is asked whether it is there, in milliseconds.
    pub ping_interval_ms: u64,
    /// Wait for its answer, in milliseconds.
    pub pong_timeout_ms: u64,
}

impl Default for RelayWorkerOptions {
    fn default() -> Self {
        RelayWorkerOptions { relay: None, relay_key: None, relays: 1, ping_interval_ms: 15_000, pong_timeout_ms: 5_000 }
    }
}

impl Validate for RelayWorkerOptions {
    const WHAT: &'static str = "a relay's worker";

    fn validate(&self) -> Result<()> {
        if let Some(relay) = &self.relay {
            super::check_names(Self::WHAT, "relay", &[relay], 300)?;
            relay_place(relay).ok_or_else(|| {
                Error::of_options(
                    Code::ConfigInvalid,
                    "option `relay` of a relay's worker must be host:port, or a host",
                )
            })?;
        }
        if self.relay_key.as_deref().is_some_and(|key| self.relay.is_none() || !is_key(key)) {
            let message = "option `relay_key` of a relay's worker must be 64 lower-case hex digits, beside `relay`";
            return Err(Error::of_options(Code::ConfigInvalid, message));
        }
        in_range(Self::WHAT, "relays", self.relays, 1, if self.relay.is_some() { 1 } else { 2 })?;
        in_range(Self::WHAT, "ping_interval_ms", self.ping_interval_ms, 500, 600_000)?;
        in_range(Self::WHAT, "pong_timeout_ms", self.pong_timeout_ms, 500, 600_000)
    }
}

fn is_key(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Reads `host:port`, or a host that is asked on the usual port. An IPv6 address with a port stands in brackets.
pub(crate) fn relay_place(text: &str) -> Option<(url::Host, u16)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (format!("[{host}]"), port),
        None if text.matches(':').count() > 1 => (format!("[{text}]"), ""),
        None => text.find(':').map_or((text.to_owned(), ""), |at| (text[..at].to_owned(), &text[at..])),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if port.is_empty() => RELAY_PORT,
        None => return None,
    };
    Some((url::Host::parse(&host).ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relays_place_is_a_host_and_perhaps_a_port() {
        let read = |text| relay_place(text).map(|(host, port)| format!("{host} {port}"));
        for (text, wanted) in [
            ("relay.example", "relay.example 9485"),
            ("relay.example:80", "relay.example 80"),
            ("192.0.2.7:1", "192.0.2.7 1"),
            ("2001:db8::1", "[2001:db8::1] 9485"),
            ("[2001:db8::1]", "[2001:db8::1] 9485"),
            ("[2001:db8::1]:7", "[2001:db8::1] 7"),
        ] {
            assert_eq!(read(text).as_deref(), Some(wanted), "{text}");
        }
        for text in ["", ":7", "h:", "h:0", "h:65536", "h:x", "[::1]7", "[h]:7", "http://h:7", "h/x", "a b", "u@h"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_a_relay_cannot_be_is_refused() {
        assert!(RelayServerOptions::default().validate().is_ok());
        assert!(RelayWorkerOptions::default().validate().is_ok());
        let key = |key: &str| RelayServerOptions { ticket_key: Some(key.into()), ..Default::default() }.validate();
        assert!(key(&"0a".repeat(32)).is_ok());
        for bad in ["", "0A", &"0A".repeat(32), &"0a".repeat(31)] {
            assert_eq!(key(bad).unwrap_err().code(), Code::ConfigInvalid);
        }
        let named = RelayWorkerOptions { relay: Some("relay.example".into()), relays: 2, ..Default::default() };
        assert_eq!(named.validate().unwrap_err().code(), Code::ConfigInvalid, "a second relay has to be elected");
        let pinned = |relay: Option<&str>, key: &str| RelayWorkerOptions {
            relay: relay.map(str::to_owned),
            relay_key: Some(key.into()),
            ..Default::default()
        };
        assert!(pinned(Some("relay.example"), &"0a".repeat(32)).validate().is_ok());
        for (relay, key) in [(None, "0a".repeat(32)), (Some("relay.example"), "0A".repeat(32))] {
            assert_eq!(pinned(relay, &key).validate().unwrap_err().code(), Code::ConfigInvalid);
        }
    }
}
