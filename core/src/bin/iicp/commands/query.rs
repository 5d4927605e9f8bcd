use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};
use iicp_core::options::{Chat, Completion, Consensus, Embedding, Moderation, Speech};
use iicp_core::types::{Payload, Qos, TaskResult};
use iicp_core::{CHAT, COMPLETION, Client, Code, EMBEDDING, Error, MODERATION, SPEECH, Task};
use serde_json::{Value, json};

use super::{CLIENT_FLAGS, client, client_defaults, discover, intent};
use crate::Context;
use crate::console::{Console, Progress};
use crate::failure::Failure;
use crate::settings::{Flags, attach};

pub(crate) const FLAGS: &[Flags] = &[CLIENT_FLAGS];

const EXAMPLES: &str = "\
Examples:
  iicp query \"Hello, mesh.\"
  iicp query --model qwen3 --system \"Answer in one word.\" \"Capital of Italy?\"
  git diff | iicp query \"Explain this:\" -
  iicp query --intent embedding \"a text\" --json | jq .vectors
  iicp query --intent speech \"Hello.\" --output hello.wav
  iicp query --intent urn:iicp:intent:x.acme:resize:v1 --payload @task.json";

/// Ask the mesh: send one task to a node that serves it, and write its answer
///
/// The answer goes to stdout as it is, at a terminal that of a chat as it is made; with --json an object with the answer, the node, the time it took and more.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Query {
    /// What is asked. Several words make one text, and `-` stands for what comes from stdin
    #[arg(value_name = "PROMPT")]
    prompt: Vec<String>,
    /// Kind of the task: an intent, or `chat`, `completion`, `embedding`, `moderation`, `speech`
    #[arg(long, default_value = "chat")]
    intent: String,
    /// JSON that is sent as it is, in place of a prompt: text, @FILE, or `-` for stdin
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with_all = ["prompt", "system", "max_tokens", "temperature"])]
    payload: Option<String>,
    /// The model that must answer
    #[arg(long)]
    model: Option<String>,
    /// What the model is told before the prompt (chat)
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of the answer (chat, completion)
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    /// Sampling temperature, 0 to 2 (chat, completion)
    #[arg(long, value_name = "N")]
    temperature: Option<f64>,
    /// The voice, by the backend's name for it (speech)
    #[arg(long, value_name = "NAME")]
    voice: Option<String>,
    /// Where the answer goes; by default stdout
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<PathBuf>,
    /// Quality of service: realtime, interactive, batch or best-effort
    #[arg(long, value_parser = discover::qos)]
    qos: Option<Qos>,
    /// Least reputation of the node, 0 to 1
    #[arg(long, value_name = "N")]
    min_reputation: Option<f64>,
    /// Ask several nodes and take what they agree on: first_completed, majority_of_3 or majority_of_5
    #[arg(long, value_name = "HOW", value_parser = consensus)]
    consensus: Option<Consensus>,
    /// Id of the task; by default a fresh UUID (with --payload)
    #[arg(long, value_name = "ID", requires = "payload")]
    task_id: Option<String>,
    /// Running the task twice does no harm, so it may be sent again when an answer was lost (with --payload)
    #[arg(long, requires = "payload")]
    idempotent: bool,
}

pub(crate) fn flags(command: clap::Command) -> clap::Command {
    attach(command, &FLAGS[0], &client_defaults())
}

fn consensus(text: &str) -> Result<Consensus, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected first_completed, majority_of_3 or majority_of_5".into())
}

/// What came back, ready to be written.
struct Answer {
    task: TaskResult,
    /// For people: text, or bytes that are written as they are.
    plain: Vec<u8>,
    /// Members of the object beside those that every task has.
    json: Value,
}

pub(crate) async fn run(args: Query, context: &mut Context) -> Result<(), Failure> {
    let (client, options) = client(&context.settings)?;
    let most = options.max_request_bytes;
    let output = args.output.clone();
    let console = context.console;
    let asking = async {
        let keyboard =
            args.payload.iter().chain(&args.prompt).any(|word| word == "-") && std::io::stdin().is_terminal();
        if keyboard {
            console.note("reading from the keyboard; Ctrl-D ends it");
        }
        let input = Input::read(&args, most).await?;
        let progress = console.progress("asking the mesh");
        match input {
            Input::Text(text) if is_watched(&args, console) => watch(&client, text, args, progress, console).await,
            input => {
                let answer = ask(&client, args, input).await;
                drop(progress);
                let answer = answer?;
                write(&answer, output.as_deref(), console)?;
                Ok(answer.task)
            }
        }
    };
    let task = tokio::select! {
        task = asking => task?,
        signal = context.signals.next() => return Err(Failure::Interrupted(signal)),
    };
    tracing::info!(
        target: "iicp::query", node_id = %task.node_id, attempts = task.attempts, sealed = task.sealed,
        took = ?task.timings.total, "answered"
    );
    Ok(())
}

/// What is sent: a text, or JSON.
enum Input {
    Text(String),
    Json(Payload),
}

impl Input {
    async fn read(args: &Query, most: usize) -> Result<Input, Failure> {
        if let Some(payload) = &args.payload {
            let bytes = match payload.strip_prefix('@') {
                _ if payload == "-" => stdin(most).await?,
                Some(path) => file(path, most)?,
                None => payload.clone().into_bytes(),
            };
            return Ok(Input::Json(Payload::from_json(bytes)?));
        }
        if args.prompt.is_empty() {
            return Err(Failure::Usage(
                "there is nothing to ask; give a text, `-` for what comes from stdin, or --payload".into(),
            ));
        }
        let mut words = Vec::new();
        for word in &args.prompt {
            // A second `-` finds stdin at its end.
            words.push(if word == "-" { text(stdin(most).await?)? } else { word.clone() });
        }
        Ok(Input::Text(words.join(if args.prompt.iter().any(|word| word == "-") { "\n" } else { " " })))
    }
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    let text = String::from_utf8(bytes).map_err(|_| Failure::Usage("what came from stdin is not UTF-8 text".into()))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

async fn stdin(most: usize) -> Result<Vec<u8>, Failure> {
    let reading = tokio::task::spawn_blocking(move || capped(std::io::stdin().lock(), "stdin", most));
    reading.await.map_err(|_| Error::new(Code::Internal, "the thread that reads stdin broke down"))?
}

fn file(path: &str, most: usize) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| Failure::Usage(format!("{path} cannot be read: {error}"));
    capped(std::fs::File::open(path).map_err(unreadable)?, path, most)
}

fn capped(from: impl std::io::Read, name: &str, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    from.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Usage(format!("{name} cannot be read: {error}")))?;
    if bytes.len() > most {
        let message = format!("{name} has more than {most} bytes; max_request_bytes of [client] is the limit");
        return Err(Error::new(Code::PayloadTooLarge, message).into());
    }
    Ok(bytes)
}

async fn ask(client: &Client, args: Query, input: Input) -> Result<Answer, Failure> {
    let intent = intent(&args.intent);
    match input {
        Input::Json(payload) => submit(client, &intent, payload, args).await,
        Input::Text(text) => match intent.as_str() {
            CHAT => chat(client, text, args).await,
            COMPLETION => complete(client, text, args).await,
            EMBEDDING => embed(client, text, args).await,
            MODERATION => moderate(client, text, args).await,
            SPEECH => speak(client, text, args).await,
            _ => Err(Failure::Usage(format!("a task of {intent} takes --payload, not a prompt"))),
        },
    }
}

/// Copies what every call of a model may say.
macro_rules! routed {
    ($call:ident, $args:ident) => {
        ($call.model, $call.qos, $call.min_reputation, $call.consensus) =
            ($args.model, $args.qos, $args.min_reputation, $args.consensus);
    };
}

fn chatting(text: String, args: Query) -> Chat {
    let mut chat = args.system.map_or_else(Chat::default, Chat::system).message("user", text);
    (chat.max_tokens, chat.temperature) = (args.max_tokens, args.temperature);
    routed!(chat, args);
    chat
}

async fn chat(client: &Client, text: String, args: Query) -> Result<Answer, Failure> {
    let reply = client.chat(chatting(text, args)).await?;
    let json = json!({
        "text": reply.text(),
        "tool_calls": reply.tool_calls,
        "finish_reason": reply.finish_reason,
        "usage": reply.usage,
        "model": reply.model,
    });
    Ok(Answer { plain: reply.text().into(), json, task: reply.task })
}

/// Whether somebody reads the answer of a chat as it is made.
fn is_watched(args: &Query, console: Console) -> bool {
    let is_whole = console.json || args.output.is_some() || args.consensus.is_some();
    !is_whole && intent(&args.intent) == CHAT && std::io::stdout().is_terminal()
}

/// Chats, and shows the answer as it is made.
async fn watch(
    client: &Client,
    text: String,
    args: Query,
    progress: Progress,
    console: Console,
) -> Result<TaskResult, Failure> {
    let mut progress = Some(progress);
    let mut parts = client.stream(chatting(text, args)).await?;
    let mut last = String::new();
    let ended = loop {
        match parts.next().await {
            Some(Ok(part)) if part.text().is_empty() => {}
            Some(Ok(part)) => {
                drop(progress.take());
                last = part.text();
                console.part(&last)?;
            }
            Some(Err(error)) => break Err(error.into()),
            None => break Ok(parts.about().clone()),
        }
    };
    drop(progress);
    // What comes next begins its own line.
    if !last.is_empty() && !last.ends_with('\n') || last.is_empty() && ended.is_ok() {
        console.part("\n")?;
    }
    ended
}

async fn complete(client: &Client, prompt: String, args: Query) -> Result<Answer, Failure> {
    let mut completion = Completion::default();
    (completion.prompt, completion.max_tokens, completion.temperature) = (prompt, args.max_tokens, args.temperature);
    routed!(completion, args);
    let reply = client.complete(completion).await?;
    let json = json!({
        "text": reply.text, "finish_reason": reply.finish_reason, "usage": reply.usage, "model": reply.model,
    });
    Ok(Answer { plain: reply.text.into(), json, task: reply.task })
}

async fn embed(client: &Client, text: String, args: Query) -> Result<Answer, Failure> {
    let mut embedding = Embedding::default();
    embedding.input = vec![text];
    routed!(embedding, args);
    let reply = client.embed(embedding).await?;
    let lines: Vec<String> = reply.vectors.iter().map(|vector| json!(vector).to_string()).collect();
    let json = json!({ "vectors": reply.vectors, "usage": reply.usage, "model": reply.model });
    Ok(Answer { plain: lines.join("\n").into(), json, task: reply.task })
}

async fn moderate(client: &Client, text: String, args: Query) -> Result<Answer, Failure> {
    let mut moderation = Moderation::default();
    moderation.input = vec![text];
    routed!(moderation, args);
    let reply = client.moderate(moderation).await?;
    let line = |flagged: bool, categories: Vec<&str>| match (flagged, categories.join(", ")) {
        (true, categories) if !categories.is_empty() => format!("flagged: {categories}"),
        (true, _) => "flagged".into(),
        (false, _) => "not flagged".into(),
    };
    let lines: Vec<String> = reply
        .results
        .iter()
        .map(|one| {
            line(one.flagged, one.categories.iter().filter(|(_, is)| **is).map(|(name, _)| name.as_str()).collect())
        })
        .collect();
    let results: Vec<Value> = reply
        .results
        .iter()
        .map(|one| json!({ "flagged": one.flagged, "categories": one.categories, "category_scores": one.category_scores }))
        .collect();
    Ok(Answer {
        plain: lines.join("\n").into(),
        json: json!({ "results": results, "model": reply.model }),
        task: reply.task,
    })
}

async fn speak(client: &Client, text: String, args: Query) -> Result<Answer, Failure> {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(Failure::Usage("sound does not belong on a terminal; name a file with --output".into()));
    }
    let mut speech = Speech::default();
    (speech.input, speech.voice) = (text, args.voice);
    routed!(speech, args);
    let reply = client.speak(speech).await?;
    let json = json!({ "bytes": reply.audio.len(), "content_type": reply.content_type, "format": reply.format });
    Ok(Answer { plain: reply.audio.to_vec(), json, task: reply.task })
}

async fn submit(client: &Client, intent: &str, payload: Payload, args: Query) -> Result<Answer, Failure> {
    let mut task = Task::new(intent, payload).idempotent(args.idempotent);
    let options = &mut task.options;
    (options.model, options.qos, options.min_reputation) = (args.model, args.qos, args.min_reputation);
    (options.task_id, options.consensus) = (args.task_id, args.consensus);
    let task = client.submit(task).await?;
    Ok(Answer { plain: task.result.bytes().to_vec(), json: json!({}), task })
}

fn write(answer: &Answer, output: Option<&Path>, console: Console) -> Result<(), Failure> {
    if let Some(path) = output {
        let unwritten =
            |error| std::io::Error::new(std::io::Error::kind(&error), format!("{}: {error}", path.display()));
        std::fs::write(path, &answer.plain).map_err(|error| Failure::Output(unwritten(error)))?;
    }
    if console.json {
        return Ok(console.object(&object(answer)?)?);
    }
    match output {
        Some(_) => Ok(()),
        None => Ok(console.answer(&answer.plain)?),
    }
}

fn object(answer: &Answer) -> Result<Value, Failure> {
    let Answer { task, json, .. } = answer;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mut object = json.clone();
    object["node_id"] = task.node_id.as_str().into();
    object["task_id"] = task.task_id.as_str().into();
    object["attempts"] = task.attempts.into();
    object["sealed"] = task.sealed.into();
    object["traceparent"] = task.traceparent.as_str().into();
    object["timings_ms"] = json!({
        "discover": ms(task.timings.discover), "select": ms(task.timings.select), "connect": ms(task.timings.connect),
        "first_byte": ms(task.timings.first_byte), "overhead": ms(task.timings.overhead), "total": ms(task.timings.total),
    });
    object["receipt"] = serde_json::to_value(&task.receipt).unwrap_or_default();
    object["result"] = task.result.json()?;
    Ok(object)
}
