//! Lines that lose packets, bring them late, twice or out of order, or carry few of them: in a network namespace, so that
//! nobody else's suffer.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use iicp_core::options::{NativeTransport, NodeOptions};
use iicp_core::{Code, EMBEDDING, Inbound, LiveNode, Node, Reply, Task};
use iicp_tests::size;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{client, directory};

/// A line between callers and their node.
#[derive(Clone, Copy, Debug)]
enum Line {
    /// Drops what this rule matches.
    Loses(&'static str),
    /// Takes so many milliseconds one way, brings so many of a hundred packets twice and as many at once, before those that were
    /// sent earlier, and carries so much.
    Slow { delay_ms: u32, odd: u32, rate: Option<&'static str> },
}

const fn far(delay_ms: u32) -> Line {
    Line::Slow { delay_ms, odd: 0, rate: None }
}

/// What they are called, and whether every task must be done all the same.
const LINES: [(&str, Line, bool); 9] = [
    ("1 % lost", Line::Loses("numgen random mod 100 < 1"), true),
    ("5 % lost", Line::Loses("numgen random mod 100 < 5"), true),
    ("20 % lost", Line::Loses("numgen random mod 100 < 20"), false),
    // Ten in a row of every forty.
    ("25 % lost in bursts", Line::Loses("numgen inc mod 40 < 10"), false),
    ("50 ms there and back", far(25), true),
    ("150 ms there and back", far(75), true),
    ("300 ms there and back", far(150), true),
    ("5 % twice, 5 % out of order", Line::Slow { delay_ms: 25, odd: 5, rate: None }, true),
    ("1 Mbit/s", Line::Slow { delay_ms: 25, odd: 0, rate: Some("1mbit") }, true),
];

/// Set in the process that has a namespace to itself.
const ALONE: &str = "IICP_TEST_LOSES_PACKETS";
/// The two ends of a slow line. The same machine has them, which nobody on it can tell.
const ENDS: [&str; 2] = ["5.5.1.1", "5.5.1.2"];

/// A command that must succeed.
fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(status.success(), "{program} {args:?}");
}

/// A line that is there until this is dropped.
enum Laid {
    Table,
    Interface(Child),
}

impl Line {
    fn lay(self) -> Laid {
        let Line::Slow { delay_ms, odd, rate } = self else {
            let Line::Loses(rule) = self else { unreachable!() };
            let chain = format!("chain in {{ type filter hook input priority 0; {rule} drop; }}");
            run("nft", &[&format!("table inet loss {{ {chain}; }}")]);
            return Laid::Table;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slow_line.py");
        let mut line = Command::new("python3")
            .arg(script)
            .args(["far", ENDS[0], ENDS[1], &delay_ms.to_string(), &odd.to_string(), &odd.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(line.stdout.as_mut().unwrap(), &mut ready).unwrap();
        if let Some(rate) = rate {
            let shape = ["rate", rate, "burst", "5kb", "latency", "400ms"];
            run("tc", &[&["qdisc", "add", "dev", "far", "root", "tbf"][..], &shape].concat());
        }
        Laid::Interface(line)
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        match self {
            Laid::Table => run("nft", &["delete table inet loss"]),
            Laid::Interface(line) => drop((line.kill(), line.wait())),
        }
    }
}

#[test]
#[ignore = "makes a network namespace, which needs root; part of --with soak"]
fn k9_over_lines_that_lose_packets_tasks_end_in_time_and_no_bytes_are_taken_for_others() {
    const NAME: &str = "lines::k9_over_lines_that_lose_packets_tasks_end_in_time_and_no_bytes_are_taken_for_others";
    if std::env::var_os(ALONE).is_none() {
        // Its loopback is its own, so that nobody else's packets are lost.
        let this = std::env::current_exe().unwrap();
        let mut alone = Command::new("unshare");
        let alone = alone.arg("--net").arg(this).args(["--exact", NAME, "--include-ignored", "--nocapture"]);
        assert!(alone.env(ALONE, "1").status().unwrap().success());
        return;
    }
    run("ip", &["link", "set", "lo", "up"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for (name, line, all) in LINES {
            let (begun, (done, late)) = (Instant::now(), over(name, line, all).await);
            println!("{name}: {done} tasks were done in {:?}, the others ended with {late:?}", begun.elapsed());
        }
    });
}

/// A node that is called over the line.
async fn node(line: Line, directory: String) -> LiveNode {
    let mut options = NodeOptions::default();
    (options.intents, options.directory) = (vec![EMBEDDING.into()], directory);
    options.max_concurrent = 64;
    if matches!(line, Line::Slow { .. }) {
        let port = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
        (options.host, options.port) = ("0.0.0.0".into(), port);
        options.endpoint = Some(format!("http://{}:{port}", ENDS[1]));
        // Plain text, since no packet leaves the machine.
        options.native = NativeTransport::Any;
    }
    Node::bind(options).await.unwrap().serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap()
}

/// Tasks from eight callers at once, over HTTP and natively.
async fn over(name: &str, line: Line, all: bool) -> (usize, Vec<Code>) {
    const DEADLINE: Duration = Duration::from_secs(20);
    let directory = directory().await;
    let laid = line.lay();
    let node = node(line, directory.url()).await;
    // Where much is lost, a task takes seconds; where it is far to go, a good part of one.
    let count = match line {
        Line::Loses(_) if all => size(10, 250),
        Line::Loses(_) => size(10, 40),
        Line::Slow { .. } => size(10, 100),
    };
    let mut callers = JoinSet::new();
    for lane in 0..8 {
        let way = [NativeTransport::Any, NativeTransport::Off][lane % 2];
        let client = client(&directory.url(), |options| options.native = way);
        callers.spawn(async move {
            let (mut done, mut late) = (0, Vec::new());
            for n in 0..count {
                let payload = json!({ "id": format!("{lane}-{n}"), "text": "x".repeat(n % 7 * 1_000) });
                let (task, begun) = (Task::new(EMBEDDING, payload.clone()).idempotent(true), Instant::now());
                match client.submit(task.timeout(DEADLINE)).await {
                    Ok(answer) => {
                        assert_eq!(answer.result.json::<Value>().unwrap(), payload, "nobody's but its own");
                        done += 1;
                    }
                    Err(error) => late.push(error.code()),
                }
                assert!(begun.elapsed() < DEADLINE + Duration::from_secs(3), "after {:?}", begun.elapsed());
            }
            (done, late)
        });
    }
    let (mut done, mut late) = (0, Vec::new());
    while let Some(caller) = callers.join_next().await {
        let (some, others) = caller.unwrap();
        done += some;
        late.extend(others);
    }
    drop((node, laid));
    assert!(done > 0 && (!all || late.is_empty()), "{name}: {late:?}");
    let typed = [Code::Timeout, Code::TaskTimeout, Code::Connect, Code::Lost, Code::DirectoryUnreachable];
    assert!(late.iter().all(|code| typed.contains(code)), "{name}: {late:?}");
    (done, late)
}
