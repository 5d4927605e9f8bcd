//! What a case asks the stage to set up. `tests/cases/README.md` says it in words.

use std::collections::BTreeMap;

use iicp_core::options::{BackendOptions, DirectoryOptions, NodeOptions};
use serde::Deserialize;

use super::forger::Faults;

/// Everything behind the network of one case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setup {
    #[serde(default)]
    pub(super) directory: DirectorySetup,
    #[serde(default)]
    pub(super) nodes: Vec<NodeSetup>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DirectorySetup {
    /// The real one, with these options over those of `DirectoryOptions::loopback()`.
    Embedded(#[serde(deserialize_with = "over_loopback")] DirectoryOptions),
    /// The real one, for development, behind somebody who signs tickets and tokens in its place.
    Forged(Faults),
    /// Of another stage.
    At(String),
    Peer(Peer),
    /// An address where nobody listens.
    Closed,
}

impl Default for DirectorySetup {
    fn default() -> Self {
        DirectorySetup::Embedded(DirectoryOptions::loopback())
    }
}

fn over_loopback<'de, D: serde::Deserializer<'de>>(d: D) -> Result<DirectoryOptions, D::Error> {
    let given = serde_json::Map::deserialize(d)?;
    let mut options = serde_json::to_value(DirectoryOptions::loopback()).map_err(serde::de::Error::custom)?;
    for (name, value) in given {
        options[name] = value;
    }
    serde_json::from_value(options).map_err(serde::de::Error::custom)
}

/// A node: a real one with a scripted handler or a scripted backend, or a peer that speaks HTTP as it likes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeSetup {
    #[serde(default)]
    pub(super) handler: Option<HandlerSetup>,
    #[serde(default)]
    pub(super) peer: Option<Peer>,
    #[serde(default)]
    pub(super) backend: Option<BackendSetup>,
    /// Of a real node; of a peer, what it is registered with.
    #[serde(default)]
    pub(super) options: NodeOptions,
}

/// The inference server of a real node, whose tasks tell it what to do.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendSetup {
    pub(super) models: Vec<String>,
    /// Over those of the library; `url` is the stage's.
    #[serde(default)]
    pub(super) options: BackendOptions,
}

/// What a real node's handler does.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HandlerSetup {
    /// Returns the payload.
    Echo,
    /// The same, and nothing of it is noted: who counts bytes sends a million tasks.
    Unlisted,
    /// Returns the last message as a chat completion.
    ChatEcho,
    /// Returns this.
    Returns(serde_json::Value),
    /// Returns the roles of the messages as a chat completion, such as `system,user`.
    Roles,
    /// Returns `{"run": n}`, the number of this run on this node.
    Count,
    /// Returns the payload after so many milliseconds.
    Slow(u64),
    /// Never returns.
    Hang,
    /// Returns an error whose message must not reach the caller.
    Fail,
    /// Returns a refusal whose message must reach the caller.
    Reject(String),
    Panic,
    /// Returns what is no JSON.
    WrongType,
    /// Gives these parts, so many times over, and then ends as another handler would.
    Parts {
        each: Vec<serde_json::Value>,
        #[serde(default = "once")]
        times: usize,
        #[serde(default)]
        then: Option<Box<HandlerSetup>>,
    },
    /// Does what the payload's field `do` names, in the form of this list.
    AsTold,
}

fn once() -> usize {
    1
}

/// A peer that behaves so on its first request, its second, and so on; the last one stays.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Peer {
    Each(Vec<Behaviour>),
    Always(Behaviour),
}

impl Peer {
    /// The behaviour on the request with this number, counted from 0.
    pub(super) fn behaviour(&self, request: usize) -> &Behaviour {
        match self {
            Peer::Always(behaviour) => behaviour,
            Peer::Each(list) => list.get(request).or(list.last()).unwrap_or(&Behaviour::Silent),
        }
    }

    /// Whether nobody shall listen at all.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Peer::Always(Behaviour::Closed))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Behaviour {
    /// Nobody listens; only as the peer's one behaviour.
    Closed,
    /// Reads and never answers.
    Silent,
    /// Reads the request and resets the connection.
    Reset,
    /// One HTTP answer, right or wrong.
    Answer(Answer),
    /// A task's reply as it should be, with this result.
    Task(serde_json::Value),
    /// These bytes, then the end of the connection.
    Raw(Text),
    /// A 200 whose body is so many bytes of JSON string.
    Endless(u64),
    /// A 200 whose body comes one byte at a time, so many milliseconds apart, for ever.
    Drip(u64),
    /// Interim answers (100 Continue) for ever.
    Interim,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: String,
    pub(super) headers: BTreeMap<String, String>,
    /// So many more headers of 8 bytes each.
    pub(super) more_headers: u32,
    pub(super) body: Text,
    /// The length that is declared instead of the body's own; the connection ends after the body.
    pub(super) content_length: Option<u64>,
}

impl Default for Answer {
    fn default() -> Self {
        Answer {
            status: 200,
            content_type: "application/json".into(),
            headers: BTreeMap::new(),
            more_headers: 0,
            body: Text::Piece(Piece::Plain(String::new())),
            content_length: None,
        }
    }
}

/// Bytes: text in which `$task_id`, `$node0_id` and `$node0_url` (and so on) are replaced, or pieces of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    Piece(Piece),
    Pieces(Vec<Piece>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Piece {
    Plain(String),
    Repeat {
        repeat: String,
        times: usize,
    },
    Hex {
        hex: String,
    },
    /// Written as JSON text.
    Json {
        json: serde_json::Value,
    },
}

impl Text {
    /// The bytes, with `replace` applied to all that is text.
    pub(super) fn bytes(&self, replace: &dyn Fn(&str) -> String) -> Vec<u8> {
        let pieces = match self {
            Text::Piece(piece) => std::slice::from_ref(piece),
            Text::Pieces(pieces) => pieces,
        };
        pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Plain(text) => replace(text).into_bytes(),
                Piece::Repeat { repeat, times } => repeat.repeat(*times).into_bytes(),
                Piece::Json { json } => replace(&json.to_string()).into_bytes(),
                Piece::Hex { hex } => {
                    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
                    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | *digit as u8)).collect()
                }
            })
            .collect()
    }
}
