//! Every pair of languages: the client of one with the node of the other.
//!
//! ```sh
//! pairs rust=target/debug/mate c=target/c/mate …      # NAME=COMMAND, its words apart by spaces
//! ```
//!
//! `IICP_STAGE_TRANSPORT` says how the nodes are reached, as it does for the cases.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use iicp_core::Directory;
use iicp_core::options::DirectoryOptions;
use iicp_tests::stage::{Relay, Transport};
use serde_json::{Value, json};

type Result<T, E = String> = std::result::Result<T, E>;

/// Longest wait for a line that should come at once.
const PATIENCE: Duration = Duration::from_secs(30);

type Check = fn(&mut Pair) -> Result<()>;

/// What every pair must do.
const CHECKS: &[(&str, Check)] = &[
    ("echo", echo),
    ("fail", fail),
    ("throw", throw),
    ("slow", slow),
    ("deadline", deadline),
    ("cancel", cancel),
    ("over-capacity", over_capacity),
    ("stream", stream),
    ("stream-whole", stream_whole),
    ("stream-once", stream_once),
    ("stream-left", stream_left),
];

/// A language's node and client in a process of their own.
struct Mate {
    name: String,
    intent: String,
    node_id: String,
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    /// Answers that came before they were asked for.
    early: HashMap<u64, Value>,
}

impl Mate {
    /// `options` are those that its node has beside its own, as JSON.
    fn start(name: &str, command: &str, directory: &str, options: &str) -> Result<Mate> {
        let intent = format!("urn:iicp:intent:pair:{name}:v1");
        let mut words = command.split(' ');
        let mut process = Command::new(words.next().unwrap_or_default())
            .args(words)
            .args([directory, &intent, options])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{name}: {command} could not be started ({e}); its layer's run script builds it"))?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (say, lines) = channel();
        std::thread::spawn(move || {
            for line in output.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(|line| line.ok()) {
                let Ok(line) = serde_json::from_str(&line) else { return };
                let _ = say.send(line);
            }
        });
        let mut mate =
            Mate { name: name.into(), intent, node_id: String::new(), process, input, lines, early: HashMap::new() };
        let ready = mate.line()?;
        mate.node_id = ready["ready"].as_str().ok_or_else(|| format!("{name} began with {ready}"))?.into();
        Ok(mate)
    }

    fn line(&self) -> Result<Value> {
        self.lines.recv_timeout(PATIENCE).map_err(|e| format!("{} said nothing: {e}", self.name))
    }

    fn tell(&mut self, command: &Value) -> Result<()> {
        let input = self.input.as_mut().ok_or("told after its end")?;
        writeln!(input, "{command}").map_err(|e| format!("{} does not listen: {e}", self.name))
    }

    fn answer(&mut self, id: u64) -> Result<Value> {
        loop {
            if let Some(answer) = self.early.remove(&id) {
                return Ok(answer);
            }
            let line = self.line()?;
            let of = line["id"].as_u64().ok_or_else(|| format!("{} answered {line}", self.name))?;
            self.early.insert(of, line);
        }
    }

    /// Closes its input and waits for its end.
    fn end(&mut self) -> Result<()> {
        drop(self.input.take());
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.process.try_wait().map_err(|e| e.to_string())? {
                return if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", self.name)) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{} did not end after its input did", self.name))
    }
}

impl Drop for Mate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The client of one mate with the node of another, maybe the same.
struct Pair<'a> {
    mates: &'a mut [Mate],
    client: usize,
    node: usize,
    last: &'a mut u64,
}

impl Pair<'_> {
    fn next(&mut self) -> u64 {
        *self.last += 1;
        *self.last
    }

    fn submit(&mut self, payload: Value, timeout_ms: u64) -> Result<u64> {
        let (id, intent) = (self.next(), self.mates[self.node].intent.clone());
        let command = json!({ "id": id, "intent": intent, "payload": payload, "timeout_ms": timeout_ms });
        self.mates[self.client].tell(&command)?;
        Ok(id)
    }

    /// A task whose parts the client takes, at most `take`; its payload is then the list of them.
    fn stream(&mut self, payload: Value, take: u64) -> Result<u64> {
        let (id, intent) = (self.next(), self.mates[self.node].intent.clone());
        let command = json!({ "id": id, "intent": intent, "payload": payload, "timeout_ms": 30_000, "take": take });
        self.mates[self.client].tell(&command)?;
        Ok(id)
    }

    fn answer(&mut self, id: u64) -> Result<Value> {
        self.mates[self.client].answer(id)
    }

    fn expect(&mut self, id: u64, wanted: &Value) -> Result<()> {
        let answer = self.answer(id)?;
        let (key, value) = wanted.as_object().and_then(|wanted| wanted.iter().next()).ok_or("expects nothing")?;
        let fits = match value {
            Value::Array(any) => any.contains(&answer[key]),
            value => answer[key] == *value,
        };
        if fits { Ok(()) } else { Err(format!("wanted {wanted}, got {answer}")) }
    }

    /// Expects a stream's parts, as the list that they are.
    fn parts(&mut self, id: u64, parts: Value) -> Result<()> {
        self.expect(id, &json!({ "payload": [parts] }))
    }

    fn cancel(&mut self, id: u64) -> Result<()> {
        self.mates[self.client].tell(&json!({ "cancel": id }))
    }

    /// How many tasks the node's handler began, and how many of them saw their end coming.
    fn seen(&mut self) -> Result<(u64, u64)> {
        let id = self.next();
        let node = &mut self.mates[self.node];
        node.tell(&json!({ "id": id, "status": true }))?;
        let status = node.answer(id)?;
        let number = |key: &str| status[key].as_u64().ok_or_else(|| format!("{} has no {key}: {status}", node.name));
        Ok((number("seen")?, number("cancelled")?))
    }

    fn until(&mut self, what: &str, holds: impl Fn((u64, u64)) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.seen()?;
            if holds(seen) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!(
                    "{what} did not happen: the handler began {} tasks, {} were cancelled",
                    seen.0, seen.1
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn echo(pair: &mut Pair) -> Result<()> {
    let value = json!(["Grüße, 網", 1.5, -7, null, true, { "deep": [[]] }]);
    let id = pair.submit(json!({ "do": "echo", "value": value }), 10_000)?;
    pair.expect(id, &json!({ "payload": { "echo": value } }))
}

fn fail(pair: &mut Pair) -> Result<()> {
    let id = pair.submit(json!({ "do": "fail" }), 10_000)?;
    pair.expect(id, &json!({ "error": "TASK_REJECTED" }))
}

fn throw(pair: &mut Pair) -> Result<()> {
    let id = pair.submit(json!({ "do": "throw" }), 10_000)?;
    pair.expect(id, &json!({ "error": "BACKEND" }))
}

fn slow(pair: &mut Pair) -> Result<()> {
    let id = pair.submit(json!({ "do": "slow", "ms": 200 }), 10_000)?;
    pair.expect(id, &json!({ "payload": { "slept": 200 } }))
}

fn deadline(pair: &mut Pair) -> Result<()> {
    let (_, cancelled) = pair.seen()?;
    let id = pair.submit(json!({ "do": "slow", "ms": 50_000 }), 1_000)?;
    pair.expect(id, &json!({ "error": ["TIMEOUT", "TASK_TIMEOUT"] }))?;
    pair.until("the end of a task that was too slow", |seen| seen.1 > cancelled)
}

fn cancel(pair: &mut Pair) -> Result<()> {
    let (begun, cancelled) = pair.seen()?;
    let id = pair.submit(json!({ "do": "wait" }), 60_000)?;
    pair.until("the beginning of a task", |seen| seen.0 > begun)?;
    pair.cancel(id)?;
    pair.expect(id, &json!({ "error": "CANCELLED" }))?;
    pair.until("the far end's cancellation", |seen| seen.1 > cancelled)
}

fn over_capacity(pair: &mut Pair) -> Result<()> {
    let (begun, cancelled) = pair.seen()?;
    let waiting = [pair.submit(json!({ "do": "wait" }), 60_000)?, pair.submit(json!({ "do": "wait" }), 60_000)?];
    pair.until("the beginning of two tasks", |seen| seen.0 == begun + 2)?;
    let id = pair.submit(json!({ "do": "echo", "value": 0 }), 1_000)?;
    pair.expect(id, &json!({ "error": "CAPACITY" }))?;
    for id in waiting {
        pair.cancel(id)?;
        pair.expect(id, &json!({ "error": "CANCELLED" }))?;
    }
    pair.until("the far end's cancellation", |seen| seen.1 == cancelled + 2)?;
    let id = pair.submit(json!({ "do": "echo", "value": 1 }), 10_000)?;
    pair.expect(id, &json!({ "payload": { "echo": 1 } }))
}

fn stream(pair: &mut Pair) -> Result<()> {
    let id = pair.stream(json!({ "do": "count", "to": 100 }), 1_000)?;
    pair.parts(id, (0..100).collect())
}

fn stream_whole(pair: &mut Pair) -> Result<()> {
    let id = pair.submit(json!({ "do": "count", "to": 3 }), 10_000)?;
    pair.expect(id, &json!({ "payload": { "chunks": [0, 1, 2] } }))
}

fn stream_once(pair: &mut Pair) -> Result<()> {
    let id = pair.stream(json!({ "do": "echo", "value": "once" }), 1_000)?;
    pair.parts(id, json!([{ "echo": "once" }]))
}

fn stream_left(pair: &mut Pair) -> Result<()> {
    let (_, cancelled) = pair.seen()?;
    let id = pair.stream(json!({ "do": "drip" }), 1)?;
    pair.parts(id, json!([0]))?;
    pair.until("the end of a stream that was left", |seen| seen.1 > cancelled)
}

/// One line of the matrix for every client; the failures below it.
fn run(mates: &mut [Mate]) -> Vec<String> {
    let names: Vec<String> = mates.iter().map(|mate| mate.name.clone()).collect();
    let (mut last, mut failures) = (0, Vec::new());
    print(&format!("{:<16}{}", "client \\ node", names.iter().map(|name| format!("{name:<12}")).collect::<String>()));
    for client in 0..mates.len() {
        let mut line = format!("{:<16}", names[client]);
        for node in 0..mates.len() {
            let mut passed = 0;
            for (check, does) in CHECKS {
                match does(&mut Pair { mates, client, node, last: &mut last }) {
                    Ok(()) => passed += 1,
                    Err(why) => failures.push(format!("{} → {}: {check}: {why}", names[client], names[node])),
                }
            }
            line += &format!("{:<12}", format!("{passed}/{}", CHECKS.len()));
        }
        print(line.trim_end());
    }
    failures.extend(mates.iter_mut().filter_map(|mate| mate.end().err()));
    failures
}

fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let pairs = || -> Result<Vec<String>> {
        let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
        let directory = runtime.block_on(Directory::bind(DirectoryOptions::loopback())).map_err(|e| e.to_string())?;
        let mut mates = Vec::new();
        if std::env::args().len() < 2 {
            return Err("usage: pairs NAME=COMMAND...".into());
        }
        let transport = Transport::chosen()?;
        let relay = match transport {
            Transport::Relay => Some(runtime.block_on(Relay::start())?),
            Transport::Native | Transport::Http => None,
        };
        let options = match (&relay, transport) {
            (Some(relay), _) => json!({ "relay_worker": relay.worker() }),
            (None, Transport::Http) => json!({ "native": "off" }),
            (None, _) => json!({ "native": "auto" }),
        };
        for arg in std::env::args().skip(1) {
            let (name, command) = arg.split_once('=').ok_or("usage: pairs NAME=COMMAND...")?;
            let mate = Mate::start(name, command, &directory.url(), &options.to_string())?;
            if let Some(relay) = &relay {
                runtime.block_on(relay.reached(&mate.node_id, &directory.url()))?;
            }
            mates.push(mate);
        }
        Ok(run(&mut mates))
    };
    let failures = pairs().unwrap_or_else(|why| vec![why]);
    for failure in &failures {
        print(&format!("FAILED {failure}"));
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
