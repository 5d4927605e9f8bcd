//! The consumer: discover nodes, select one, submit a task to it, chat.

mod attempt;
mod candidates;
mod consensus;
mod natively;
mod ranker;
mod stream;
mod submit;
mod task;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

pub use ranker::{CandidateEvidence, CandidateRanker, RankChoice, RankMode, RankRequest};
pub use stream::TaskStream;
pub use task::Task;

use crate::discovery::consumer_tokens::ConsumerTokens;
use crate::discovery::directory_client::DirectoryClient;
use crate::discovery::routes::Routes;
use crate::error::{Code, Error, Result};
use crate::options::{
    Chat, ClientOptions, Completion, Discover, Embedding, Moderation, Speech, TaskOptions, Transcription, Validate as _,
};
#[cfg(feature = "punch")]
use crate::options::{NativeTransport, Punch};
use crate::protocol::breaker::Breakers;
#[cfg(feature = "punch")]
use crate::punch::Direct;
use crate::runtime::TaskGroup;
use crate::transport::http_client::HttpClient;
use crate::transport::native_client::NativeClient;
use crate::transport::trust::Trust;
use crate::types::{
    ChatReply, CompletionReply, EmbeddingReply, ModerationReply, NodeInfo, SpeechReply, TaskResult, Traceparent,
    TranscriptionReply,
};
use submit::{Body, Submit};

/// What [`Client::stream`] takes.
#[derive(Debug)]
#[non_exhaustive]
pub enum Streamed {
    /// Any task.
    Task(Task),
    /// A chat with a language model.
    Chat(Chat),
}

impl From<Task> for Streamed {
    fn from(task: Task) -> Self {
        Streamed::Task(task)
    }
}

impl<C: Into<Chat>> From<C> for Streamed {
    fn from(chat: C) -> Self {
        Streamed::Chat(chat.into())
    }
}

/// A consumer of the mesh. Cloning gives another handle to the same connections and routes; every call may be made
/// concurrently, and dropping the future of a call cancels it at the far end.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    options: ClientOptions,
    http: HttpClient,
    native: NativeClient,
    /// Paths past NATs to nodes that are behind a relay.
    #[cfg(feature = "punch")]
    direct: Option<Direct>,
    routes: Arc<Routes>,
    tokens: ConsumerTokens,
    breakers: Mutex<Breakers>,
    ranker: Option<Arc<dyn CandidateRanker>>,
    started: Instant,
    /// Whether it was logged that tasks go out unsealed.
    said_unsealed: AtomicBool,
    group: TaskGroup,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.group.abort();
    }
}

impl Client {
    /// Checks the options. Nothing is sent before the first call.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, also for a `trusted_ca` that cannot be read, or `TIMEOUT_TOO_LARGE`; `ENDPOINT_REFUSED` for a directory that nobody can call, such as `0.0.0.0`.
    pub fn new(options: ClientOptions) -> Result<Self> {
        Client::build(options, None)
    }

    /// A client whose candidates the application ranks, after every rule has been applied and before anything is sent.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_ranker(options: ClientOptions, ranker: impl CandidateRanker) -> Result<Self> {
        Client::build(options, Some(Arc::new(ranker)))
    }

    fn build(options: ClientOptions, ranker: Option<Arc<dyn CandidateRanker>>) -> Result<Self> {
        options.validate()?;
        let http = HttpClient::trusting(Trust::with(options.trusted_ca.as_deref())?)?;
        let directory = DirectoryClient::new(http.clone(), &options.directory)?;
        let group = TaskGroup::new();
        let native = NativeClient::new(options.native, &http, group.clone());
        #[cfg(feature = "punch")]
        let direct = (options.punch == Punch::Auto && options.native != NativeTransport::Off)
            .then(|| Direct::new(http.clone(), group.clone()));
        let ttl = Duration::from_millis(options.route_ttl_ms);
        let routes =
            Routes::new(directory, options.route_discovery, options.allow_private_endpoints, ttl, group.clone());
        let open_for = Duration::from_millis(options.breaker_open_ms);
        let breakers = Mutex::new(Breakers::new(options.breaker_failures, open_for));
        let tokens = ConsumerTokens::new(&options);
        Ok(Client(Arc::new(Inner {
            options,
            http,
            native,
            #[cfg(feature = "punch")]
            direct,
            routes,
            tokens,
            breakers,
            ranker,
            started: Instant::now(),
            said_unsealed: AtomicBool::new(false),
            group,
        })))
    }

    /// Asks the directory for nodes, best first. Always asks; nothing is held back for later.
    ///
    /// # Errors
    /// `INTENT_INVALID`, `CONFIG_INVALID` or `POLICY_REFUSED` before any network; then 3xxx. No node at all is an empty
    /// list.
    pub async fn discover(&self, mut query: Discover) -> Result<Vec<NodeInfo>> {
        query.validate()?;
        crate::protocol::risk::check_intent(&query.intent)?;
        let options = &self.0.options;
        query.region = query.region.or_else(|| options.region.clone());
        query.profile_request = query.profile_request.or_else(|| options.profile_request.clone());
        let deadline = Instant::now() + Duration::from_millis(options.timeout_ms);
        let directory = self.0.routes.directory();
        let mut nodes = directory.discover(&query, Some(&Traceparent::random()), deadline).await?.nodes;
        let https = |node: &NodeInfo| node.endpoint.starts_with("https:");
        nodes.retain(|node| !query.browser_usable_only || node.browser_usable.unwrap_or_else(|| https(node)));
        Ok(nodes)
    }

    /// Submits a task to a node that takes it, and waits for the result.
    ///
    /// The task is sealed to the node. It is sent again, with the same id and within the same deadline, when it provably
    /// did not run (no connection, node at capacity), and when it may have run only if it is idempotent.
    ///
    /// # Errors
    /// 2xxx before the task leaves this process; `NO_NODES` and other 3xxx from the directory; 4xxx from the transport;
    /// 5xxx from the provider; `TIMEOUT` when the deadline passed.
    pub async fn submit(&self, task: Task) -> Result<TaskResult> {
        self.run(task.options, Body::Fixed(task.payload), None).await
    }

    /// Chats with a language model: a text, or a [`Chat`] with messages and options.
    ///
    /// # Errors
    /// As [`Client::submit`]; `MALFORMED` if the result holds no message.
    pub async fn chat(&self, chat: impl Into<Chat>) -> Result<ChatReply> {
        self.chat_ranked(chat.into(), None).await
    }

    /// Submits a task or a chat (a text, a [`Chat`] or a [`Task`]) whose result comes in parts as the provider makes them.
    /// Returns with the first part; from then on the task goes to no other node.
    ///
    /// The task's time is for the whole stream, and between two signs of life of the provider at most `idle_timeout_ms`
    /// may pass. A provider that does not stream gives its whole result as one part.
    ///
    /// # Errors
    /// As [`Client::submit`], and `CONFIG_INVALID` for a task with `consensus`. Later failures come from
    /// [`TaskStream::next`].
    pub async fn stream(&self, ask: impl Into<Streamed>) -> Result<TaskStream> {
        self.stream_ranked(ask.into(), None).await
    }

    pub(crate) async fn stream_ranked(
        &self,
        ask: Streamed,
        ranker: Option<Arc<dyn CandidateRanker>>,
    ) -> Result<TaskStream> {
        let (options, body) = match ask {
            Streamed::Task(task) => (task.options, Body::Fixed(task.payload)),
            Streamed::Chat(chat) => {
                chat.validate()?;
                let identity = chat.runtime_identity;
                let (options, fields) = chat.into_task();
                (options, Body::chat(fields, identity))
            }
        };
        let ranker = ranker.or_else(|| self.0.ranker.clone());
        let submit = Submit::new(&self.0, options, body, ranker)?;
        let (deadline, timeout) = (submit.deadline(), submit.timeout());
        tokio::time::timeout_at(deadline, submit.stream()).await.unwrap_or_else(|_| Err(out_of_time(timeout)))
    }

    pub(crate) async fn chat_ranked(&self, chat: Chat, ranker: Option<Arc<dyn CandidateRanker>>) -> Result<ChatReply> {
        chat.validate()?;
        let identity = chat.runtime_identity;
        let (options, payload) = chat.into_task();
        ChatReply::read(self.run(options, Body::chat(payload, identity), ranker).await?)
    }

    pub(crate) async fn submit_ranked(
        &self,
        task: Task,
        ranker: Option<Arc<dyn CandidateRanker>>,
    ) -> Result<TaskResult> {
        self.run(task.options, Body::Fixed(task.payload), ranker).await
    }

    /// Whether the client was made to have its candidates ranked by who made it.
    pub(crate) fn asks_the_host(&self) -> bool {
        self.0.options.external_ranker
    }

    async fn run(
        &self,
        options: TaskOptions,
        body: Body,
        ranker: Option<Arc<dyn CandidateRanker>>,
    ) -> Result<TaskResult> {
        let ranker = ranker.or_else(|| self.0.ranker.clone());
        let submit = Submit::new(&self.0, options, body, ranker)?;
        let (deadline, timeout) = (submit.deadline(), submit.timeout());
        // Every part has the deadline too; this is the one that cannot be forgotten.
        tokio::time::timeout_at(deadline, submit.run()).await.unwrap_or_else(|_| Err(out_of_time(timeout)))
    }
}

/// Defines the calls of the other well-known intents, which differ in nothing but their types.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident: $ask:ident -> $reply:ident, $ranked:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// As [`Client::submit`]; `MALFORMED` if the result does not hold what was asked for.
                pub async fn $name(&self, ask: $ask) -> Result<$reply> {
                    self.$ranked(ask, None).await
                }

                pub(crate) async fn $ranked(
                    &self,
                    ask: $ask,
                    ranker: Option<Arc<dyn CandidateRanker>>,
                ) -> Result<$reply> {
                    ask.validate()?;
                    let (options, payload) = ask.into_task();
                    $reply::read(self.run(options, Body::fields(payload), ranker).await?)
                }
            )*
        }
    };
}

calls! {
    /// Completes a text.
    complete: Completion -> CompletionReply, complete_ranked;
    /// Turns texts into vectors.
    embed: Embedding -> EmbeddingReply, embed_ranked;
    /// Writes down what is said in a sound file.
    transcribe: Transcription -> TranscriptionReply, transcribe_ranked;
    /// Speaks a text.
    speak: Speech -> SpeechReply, speak_ranked;
    /// Judges texts.
    moderate: Moderation -> ModerationReply, moderate_ranked;
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("directory", &self.0.options.directory).finish_non_exhaustive()
    }
}

fn out_of_time(timeout: Duration) -> Error {
    Error::of_options(Code::Timeout, format!("no result within `{} ms`; give the task more time", timeout.as_millis()))
}
