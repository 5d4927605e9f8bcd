//! The typed tasks of the well-known intents, and the application's ranking of candidates.

use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::Bridge;
use super::ops::{Op, Outcome};
use super::serve::to_json;
use super::verbs::Finished;
use crate::client::{CandidateRanker, Client, RankChoice, RankRequest};
use crate::error::{Code, Error, Result};
use crate::options::{Completion, Embedding, Moderation, Speech, Transcription, from_json};
use crate::protocol::ranker::read_choice;
use crate::types::{Judgement, Usage};

macro_rules! inferences {
    ($($variant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// Which model task [`Bridge::infer`] runs. Numbers are explicit and never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(i32)]
        pub enum Inference {
            $(#[doc = $text] $variant = $number,)*
        }

        impl Inference {
            /// Every one, in the order of the numbers.
            pub const ALL: &'static [Inference] = &[$(Inference::$variant,)*];

            /// The name that every language shows, such as `EMBEDDING`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Inference::$variant => $name,)* }
            }

            /// One sentence that says what it does.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Inference::$variant => $text,)* }
            }

            /// The number that every language shows.
            #[must_use]
            pub const fn number(self) -> i32 {
                self as i32
            }

            /// The one with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<Inference> {
                match number { $($number => Some(Inference::$variant),)* _ => None }
            }
        }
    };
}

inferences! {
    Completion = 1, "COMPLETION", "Completes a text.";
    Embedding = 2, "EMBEDDING", "Turns texts into vectors.";
    Transcription = 3, "TRANSCRIPTION", "Writes down what is said in a sound file.";
    Speech = 4, "SPEECH", "Speaks a text.";
    Moderation = 5, "MODERATION", "Judges texts.";
}

/// Asks the host by an event of the operation that the ranking is for.
struct ForeignRanker(Arc<Op>);

impl CandidateRanker for ForeignRanker {
    fn rank(&self, request: RankRequest) -> Pin<Box<dyn Future<Output = Result<Option<RankChoice>>> + Send + '_>> {
        Box::pin(async move { self.0.rank(to_json(&request)?).await })
    }
}

/// The host as ranker, if the client was made with `external_ranker`.
pub(super) fn ranker(client: &Client, op: &Arc<Op>) -> Option<Arc<dyn CandidateRanker>> {
    client.asks_the_host().then(|| Arc::new(ForeignRanker(op.clone())) as _)
}

#[derive(Serialize)]
struct Completed<'a> {
    text: &'a str,
    finish_reason: Option<&'a str>,
    usage: Option<Usage>,
    model: Option<&'a str>,
    #[serde(flatten)]
    task: Finished<'a>,
}

#[derive(Serialize)]
struct Embedded<'a> {
    vectors: &'a [Vec<f32>],
    usage: Option<Usage>,
    model: Option<&'a str>,
    #[serde(flatten)]
    task: Finished<'a>,
}

#[derive(Serialize)]
struct Heard<'a> {
    text: &'a str,
    language: Option<&'a str>,
    #[serde(flatten)]
    task: Finished<'a>,
}

#[derive(Serialize)]
struct Spoken<'a> {
    content_type: Option<&'a str>,
    format: Option<&'a str>,
    #[serde(flatten)]
    task: Finished<'a>,
}

#[derive(Serialize)]
struct Judged<'a> {
    results: &'a [Judgement],
    model: Option<&'a str>,
    #[serde(flatten)]
    task: Finished<'a>,
}

/// What is asked, read and checked before the operation starts.
enum Ask {
    Completion(Completion),
    Embedding(Embedding),
    Transcription(Transcription),
    Speech(Speech),
    Moderation(Moderation),
}

impl Ask {
    fn read(kind: Inference, json: &str, body: &[u8]) -> Result<Ask> {
        Ok(match kind {
            Inference::Completion => Ask::Completion(from_json(json)?),
            Inference::Embedding => Ask::Embedding(from_json(json)?),
            Inference::Transcription => {
                // The sound comes as bytes; among the options it would have to be base64.
                let mut options: serde_json::Map<String, Value> = match json.trim() {
                    "" => serde_json::Map::new(),
                    json => serde_json::from_str(json).map_err(|_| {
                        Error::new(Code::ConfigInvalid, "options of a transcription: not an object of names and values")
                    })?,
                };
                if !body.is_empty() {
                    options.insert("audio".into(), STANDARD.encode(body).into());
                }
                Ask::Transcription(from_json(&Value::Object(options).to_string())?)
            }
            Inference::Speech => Ask::Speech(from_json(json)?),
            Inference::Moderation => Ask::Moderation(from_json(json)?),
        })
    }

    async fn run(self, client: Client, ranker: Option<Arc<dyn CandidateRanker>>) -> Result<Outcome> {
        match self {
            Ask::Completion(ask) => {
                let reply = client.complete_ranked(ask, ranker).await?;
                let (finish_reason, model) = (reply.finish_reason.as_deref(), reply.model.as_deref());
                let said = Completed {
                    text: &reply.text,
                    finish_reason,
                    usage: reply.usage,
                    model,
                    task: (&reply.task).into(),
                };
                Ok(outcome(to_json(&said)?, reply.task.result.into_bytes()))
            }
            Ask::Embedding(ask) => {
                let reply = client.embed_ranked(ask, ranker).await?;
                let model = reply.model.as_deref();
                let said = Embedded { vectors: &reply.vectors, usage: reply.usage, model, task: (&reply.task).into() };
                Ok(outcome(to_json(&said)?, reply.task.result.into_bytes()))
            }
            Ask::Transcription(ask) => {
                let reply = client.transcribe_ranked(ask, ranker).await?;
                let language = reply.language.as_deref();
                let said = Heard { text: &reply.text, language, task: (&reply.task).into() };
                Ok(outcome(to_json(&said)?, reply.task.result.into_bytes()))
            }
            Ask::Speech(ask) => {
                let reply = client.speak_ranked(ask, ranker).await?;
                let (content_type, format) = (reply.content_type.as_deref(), reply.format.as_deref());
                let json = to_json(&Spoken { content_type, format, task: (&reply.task).into() })?;
                Ok(outcome(json, reply.audio))
            }
            Ask::Moderation(ask) => {
                let reply = client.moderate_ranked(ask, ranker).await?;
                let model = reply.model.as_deref();
                let said = Judged { results: &reply.results, model, task: (&reply.task).into() };
                Ok(outcome(to_json(&said)?, reply.task.result.into_bytes()))
            }
        }
    }
}

fn outcome(json: String, body: Bytes) -> Outcome {
    Outcome { json, body, ..Outcome::default() }
}

impl Bridge {
    /// Runs a model task of a well-known intent. `ask_json` are its options; of a transcription, `body` is the sound file,
    /// else it is empty. `DONE.json` is that of [`Bridge::submit`] with, besides:
    ///
    /// * a completion: `text`, `finish_reason`, `usage`, `model`;
    /// * an embedding: `vectors`, `usage`, `model`;
    /// * a transcription: `text`, `language`;
    /// * a speech: `content_type`, `format`, and `DONE.body` is the sound file;
    /// * a moderation: `results` (`flagged`, `categories`, `category_scores`), `model`.
    ///
    /// Else `DONE.body` is the provider's whole reply.
    ///
    /// # Errors
    /// 2xxx for the options; `QUEUE_FULL`, `STALE_ID`, `CLOSED`, `FORKED`.
    #[allow(clippy::needless_pass_by_value)]
    pub fn infer(
        &self,
        client: u64,
        queue: u64,
        kind: Inference,
        ask_json: &str,
        body: Bytes,
        tag: u64,
    ) -> Result<u64> {
        let tables = self.open()?;
        let caller = tables.clients.get(client)?;
        let ask = Ask::read(kind, ask_json, &body)?;
        let seat = tables.queues.get(queue)?.promise()?;
        self.launch(seat, tag, client, |op| {
            let ranker = ranker(&caller, op);
            ask.run(caller, ranker)
        })
    }

    /// Answers a `RANK` event by its `id`: `{"candidate_ref", "policy_id", "mode": "normal" | "exploration"}`, or nothing
    /// (empty or `null`) to keep the built-in order, or `{"error": "why"}` to refuse the task.
    ///
    /// # Errors
    /// `INVALID_ARG` if the answer is none of these: the task is refused then; `STALE_ID` if the operation does not ask,
    /// or no longer; `CLOSED`, `FORKED`.
    pub fn rank_finish(&self, operation: u64, choice_json: &str) -> Result<()> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Refusal {
            error: String,
        }
        let op = self.open()?.operations.get(operation)?;
        if choice_json.trim().is_empty() {
            return op.ranked(Ok(None));
        }
        if let Ok(Refusal { error }) = serde_json::from_str(choice_json) {
            return op.ranked(Err(Error::new(Code::RankerRefused, error)));
        }
        match read_choice(choice_json.as_bytes()) {
            Ok(choice) => op.ranked(Ok(choice)),
            Err(error) => {
                op.ranked(Err(error))?;
                Err(Error::of_options(
                    Code::InvalidArg,
                    "a ranker answers with `candidate_ref`, `policy_id` and mode, or null",
                ))
            }
        }
    }
}
