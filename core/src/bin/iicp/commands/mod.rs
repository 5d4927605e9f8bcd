//! One file per command. Each says which flags it takes from the library's options, and does its work.

pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod directory;
pub(crate) mod discover;
pub(crate) mod doctor;
pub(crate) mod healthcheck;
pub(crate) mod query;
pub(crate) mod serve;
pub(crate) mod up;

use iicp_core::options::{ClientOptions, DirectoryOptions, NodeOptions};
use iicp_core::{CHAT, COMPLETION, Client, EMBEDDING, MODERATION, SPEECH, TRANSCRIPTION};

use crate::failure::Failure;
use crate::settings::{Flags, Mistake, Section, Settings, Takes};

/// The port that the published command serves on.
const NODE_PORT: u16 = 9484;
/// The port that clients look for a directory on.
const DIRECTORY_PORT: u16 = 9480;

/// What `-h` shows of a client's options.
const CLIENT_FLAGS: Flags = Flags {
    section: Section::Client,
    prefix: "",
    takes: Takes::AllBut(&["external_ranker"]),
    common: &["directory", "region", "timeout_ms", "routing_policy.profile", "allow_private_endpoints"],
};

/// The client's options, as good as a client needs them.
pub(crate) fn client_options(settings: &Settings) -> Result<ClientOptions, Vec<Mistake>> {
    settings.section_for(Section::Client, &client_defaults(), |options| Client::new(options.clone()).map(drop))
}

/// A client as the settings say, and its options.
pub(crate) fn client(settings: &Settings) -> Result<(Client, ClientOptions), Failure> {
    let options: ClientOptions = settings.section(Section::Client, &client_defaults())?;
    match Client::new(options.clone()) {
        Ok(client) => Ok((client, options)),
        // Once more, to find what is to blame.
        Err(error) => Err(client_options(settings).err().map_or_else(|| error.into(), Failure::from)),
    }
}

/// What was at the bottom of a call that failed: what stands above it tells the URL, which the caller knows.
#[allow(clippy::needless_pass_by_value)] // as map_err has it
fn deepest(error: reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// An HTTP client that stands for nobody in the mesh, with the authorities in `trusted_ca` (a PEM file, or its text) beside the
/// system's.
fn http(trusted_ca: Option<&str>) -> Result<reqwest::ClientBuilder, String> {
    // This is no library: what its process uses for TLS is its own affair.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy();
    let Some(given) = trusted_ca else { return Ok(builder) };
    let pem = if given.contains("-----BEGIN ") {
        given.as_bytes().to_vec()
    } else {
        std::fs::read(given).map_err(|error| format!("{given} cannot be read: {error}"))?
    };
    Ok(builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem).map_err(deepest)?))
}

/// What the command sets for a client where nobody says otherwise.
pub(crate) fn client_defaults() -> ClientOptions {
    ClientOptions::default()
}

/// The same for a node.
pub(crate) fn node_defaults() -> NodeOptions {
    let mut options = NodeOptions::default();
    options.port = NODE_PORT;
    options.directory = client_defaults().directory;
    options.intents = vec![CHAT.into()];
    options
}

/// The same for a directory.
pub(crate) fn directory_defaults() -> DirectoryOptions {
    let mut options = DirectoryOptions::default();
    options.port = DIRECTORY_PORT;
    options
}

/// The intent that a short word stands for: `chat`, or `llm:chat:v1` without its beginning.
pub(crate) fn intent(word: &str) -> String {
    const SHORT: [(&str, &str); 6] = [
        ("chat", CHAT),
        ("completion", COMPLETION),
        ("embedding", EMBEDDING),
        ("moderation", MODERATION),
        ("speech", SPEECH),
        ("transcription", TRANSCRIPTION),
    ];
    match SHORT.iter().find(|(short, _)| *short == word) {
        Some((_, intent)) => (*intent).to_owned(),
        None if word.contains(':') && !word.starts_with("urn:") => format!("urn:iicp:intent:{word}"),
        None => word.to_owned(),
    }
}
