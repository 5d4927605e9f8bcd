//! A mesh that comes up, is asked and goes: every command that speaks to one, its JSON and its exit codes.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Home, nobody, until};

#[test]
fn a_doctor_says_what_stands_in_the_way_and_what_to_do() {
    let home = Home::new();
    let url = nobody();
    let seen = home.run(&["doctor", "--directory", &url, "--port", "0", "--json"]).with(1).objects();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0]["healthy"], false);
    let check =
        |name: &str| seen[0]["checks"].as_array().unwrap().iter().find(|one| one["check"] == name).cloned().unwrap();
    for name in [
        "dns",
        "tls",
        "certificate",
        "directory",
        "clock",
        "interfaces",
        "gateway",
        "pcp",
        "nat-pmp",
        "upnp",
        "ipv4",
        "ipv6",
        "cgnat",
        "relay",
        "backend",
    ] {
        assert!(!check(name)["said"].as_str().unwrap().is_empty(), "{name}");
    }
    assert_eq!(check("directory")["state"], "failed");
    assert!(check("directory")["fix"].as_str().unwrap().contains("option directory"), "{}", check("directory"));
    let plain = home.run(&["doctor", "--directory", &url, "--port", "0"]).with(1).out;
    assert!(plain.contains("what to do: "), "{plain}");
}

#[test]
fn a_mesh_serves_what_is_asked_in_every_way() {
    let home = Home::new();
    let mesh = home.up();
    let url = &mesh.directory();
    assert_eq!(mesh.ready["node"]["registered"], true);
    let query = |more: &[&str]| home.run(&[&["query", "--directory-url", url], more].concat());

    assert_eq!(query(&["Hello,", "mesh."]).with(0).out, "You said: Hello, mesh.\n");
    let answer = query(&["Hello, mesh.", "--json"]).with(0).objects();
    let [answer] = &answer[..] else { panic!("{answer:?}") };
    assert_eq!(answer["text"], "You said: Hello, mesh.");
    assert_eq!(answer["node_id"], mesh.ready["node"]["node_id"]);
    assert_eq!(answer["sealed"], true);
    assert!(answer["timings_ms"]["total"].as_f64().unwrap() > 0.0 && answer["task_id"].is_string());

    let said =
        home.run_with(&["query", "--directory-url", url, "Explain this:", "-"], "line one\nline two\n").with(0).out;
    assert_eq!(said, "You said: Explain this:\nline one\nline two\n");

    let payload = home.file("task.json", r#"{"messages":[{"role":"user","content":"by file"}]}"#);
    let by_file = query(&["--payload", &format!("@{payload}"), "--json"]).with(0).objects();
    assert_eq!(by_file[0]["result"]["choices"][0]["message"]["content"], "You said: by file");

    let file = home.path().join("answer.txt");
    assert_eq!(query(&["to a file", "-o", file.to_str().unwrap()]).with(0).out, "");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "You said: to a file");

    let table = home.run(&["discover", "--directory-url", url]).with(0).out;
    assert!(table.starts_with("NODE") && table.contains("echo") && table.lines().count() == 2, "{table}");
    let nodes = home.run(&["discover", "--directory-url", url, "--json"]).with(0).objects();
    assert_eq!(nodes[0]["endpoint"], mesh.ready["node"]["url"]);
    assert_eq!(home.run(&["discover", "--directory-url", url, "--intent", "embedding"]).with(0).out, "");

    let (code, stopped) = mesh.stop(Signal::TERM);
    assert_eq!((code, &stopped["finished"], &stopped["signal"]), (Some(0), &json!(true), &json!("SIGTERM")));
    assert_eq!(query(&["anyone?"]).with(3).out, "");
}

#[test]
fn a_node_serves_every_intent_that_it_was_told_to() {
    let home = Home::new();
    let vendor = "urn:iicp:intent:x.acme:resize:v1";
    let mesh = home.serve(&[
        "up",
        "--port",
        "0",
        "--directory-port",
        "0",
        "--intent",
        vendor,
        "--intent",
        "urn:iicp:intent:llm:completion:v1",
    ]);
    let url = &mesh.directory();
    let done = home.run(&["query", "--directory-url", url, "--intent", vendor, "--payload", r#"{"width":7}"#]).with(0);
    assert_eq!(done.out, "{\"width\":7}\n");
    let done = home.run(&["query", "--directory-url", url, "--intent", "completion", "Once upon"]).with(0);
    assert_eq!(done.out, "Once upon\n");
    let refused = home.run(&["query", "--directory-url", url, "--intent", vendor, "a prompt"]).with(2);
    assert!(refused.err.contains("--payload"), "{}", refused.err);
}

#[test]
fn a_directory_that_is_away_has_its_own_exit_code_and_a_hint() {
    let home = Home::new();
    let url = nobody();
    let away = home.run(&["query", "hi", "--directory-url", &url]).with(3);
    assert!(away.out.is_empty() && away.err.contains("iicp up") && away.err.contains("3001"), "{}", away.err);
    let away = home.run(&["query", "hi", "--directory-url", &url, "--json"]).with(3);
    assert_eq!((&away.errors()[0]["name"], &away.errors()[0]["code"]), (&json!("DIRECTORY_UNREACHABLE"), &json!(3001)));
    home.run(&["discover", "--directory-url", &url]).with(3);
}

#[test]
fn what_cannot_be_asked_is_refused_before_anyone_is() {
    let home = Home::new();
    for (arguments, code, name) in [
        (&["query"][..], 2, "INVALID_ARG"),
        (&["query", "--payload", "{"], 2, "PAYLOAD_INVALID"),
        (&["query", "--payload", "@nowhere.json"], 2, "INVALID_ARG"),
        (&["query", "hi", "--intent", "not an intent", "--payload", "1"], 2, "INVALID_ARG"),
        (&["query", "--intent", "not an intent", "--payload", "1"], 2, "INTENT_INVALID"),
        (&["query", "hi", "--temperature", "9"], 2, "CONFIG_INVALID"),
        (&["query", "hi", "--timeout-ms", "120001"], 2, "TIMEOUT_TOO_LARGE"),
        (&["query", "hi", "--qos", "fast"], 2, "INVALID_ARG"),
        (&["discover", "--limit", "51"], 2, "CONFIG_INVALID"),
        (&["query", "hi", "--no-such-flag"], 2, "INVALID_ARG"),
        (&["qeury", "hi"], 2, "INVALID_ARG"),
    ] {
        let refused = home.run(&[arguments, &["--json"]].concat()).with(code);
        assert!(refused.out.is_empty(), "{arguments:?}: {}", refused.out);
        let errors = refused.errors();
        assert_eq!(errors.len(), 1, "{arguments:?}: {}", refused.err);
        assert_eq!(errors[0]["name"], name, "{arguments:?}: {}", refused.err);
        // And in words.
        assert!(home.run(arguments).with(code).err.starts_with("error: "), "{arguments:?}");
    }
    let big = home.run_with(&["query", "-", "--max-request-bytes", "1024", "--json"], &"a".repeat(2000)).with(2);
    assert_eq!(big.errors()[0]["name"], "PAYLOAD_TOO_LARGE");
}

#[test]
fn a_busy_port_is_a_failure_of_serving() {
    let home = Home::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for arguments in [
        &["directory", "--port", &port][..],
        &["up", "--port", &port, "--directory-port", "0"],
        &["up", "--port", "0", "--directory-port", &port],
    ] {
        let busy = home.run(&[arguments, &["--json"]].concat()).with(6);
        assert_eq!(busy.errors()[0]["name"], "BIND", "{arguments:?}: {}", busy.err);
        assert!(busy.out.is_empty(), "{arguments:?}: {}", busy.out);
    }
}

#[test]
fn health_is_an_exit_code() {
    let home = Home::new();
    let mesh = home.up();
    let node = mesh.ready["node"]["url"].as_str().unwrap().to_owned();
    let port = node.rsplit(':').next().unwrap();
    assert!(home.run(&["healthcheck", &node]).with(0).out.starts_with("healthy: "));
    let report = home.run(&["healthcheck", "--port", port, "--json"]).with(0).objects();
    assert_eq!((&report[0]["healthy"], &report[0]["state"]), (&json!(true), &json!("available")));
    // As a container has it: the same variables for the node and for the question about it.
    let mut by_variable = home.iicp(&["healthcheck"]);
    by_variable.env("IICP_NODE_PORT", port).env("IICP_NODE_HOST", "0.0.0.0");
    crate::support::ended(by_variable).with(0);
    let report = home.run(&["healthcheck", &mesh.directory(), "--json"]).with(0).objects();
    assert_eq!(report[0]["state"], "directory");

    let gone = home.run(&["healthcheck", &nobody(), "--json"]).with(1).objects();
    assert_eq!(gone[0]["healthy"], false);
    home.run(&["healthcheck", "--port", "0"]).with(2);
    home.run(&["healthcheck", "--port", "many"]).with(2);
    for answer in [
        "HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n{\"status\":\"broken\"}",
    ] {
        let url = says(answer);
        assert!(home.run(&["healthcheck", &url]).with(1).out.starts_with("unhealthy: "), "{answer:?}");
    }
    let (listener, silent) = crate::support::silent();
    let late = home.run(&["healthcheck", &silent, "--timeout-ms", "100"]).with(1).out;
    assert!(late.contains("no answer within 100 ms"), "{late}");
    drop(listener);

    // Who is not there yet may be waited for.
    let port = nobody().rsplit(':').next().unwrap().to_owned();
    let mut waiting = home.iicp(&["healthcheck", "--port", &port, "--wait-ms", "30000"]);
    let waiting = waiting.stdout(Stdio::null()).spawn();
    let late = home.serve(&["up", "--port", &port, "--directory-port", "0"]);
    assert_eq!(waiting.unwrap().wait().unwrap().code(), Some(0));
    drop(late);
}

/// Answers one request with this text.
fn says(answer: &'static str) -> String {
    let (listener, url) = crate::support::silent();
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let _ = peer.read(&mut [0; 1024]);
        let _ = peer.write_all(answer.as_bytes());
    });
    url
}

#[test]
fn a_directory_by_itself_takes_nodes_and_loses_them() {
    let home = Home::new();
    let directory = home.serve(&["directory", "--port", "0", "--no-probe", "--no-limits", "--no-qos-gating"]);
    let url = directory.directory();
    let empty = home.run(&["query", "hi", "--directory-url", &url, "--json"]).with(3);
    assert_eq!(empty.errors()[0]["name"], "NO_NODES");
    let (code, stopped) = directory.stop(Signal::INT);
    assert_eq!((code, &stopped["finished"]), (Some(0), &Value::Bool(true)));
    until("the port is free again", || home.run(&["healthcheck", &url]).code == Some(1));
}

#[test]
fn version_and_help_are_no_failures() {
    let home = Home::new();
    let version = home.run(&["--version"]).with(0).out;
    assert_eq!(version, format!("iicp {}\n", env!("CARGO_PKG_VERSION")));
    for command in ["up", "query", "discover", "directory", "doctor", "healthcheck", "config", "completion"] {
        let short = home.run(&[command, "-h"]).with(0).out;
        let long = home.run(&[command, "--help"]).with(0).out;
        assert!(short.contains("Usage: iicp") && short.contains("Examples:"), "{command}: {short}");
        assert!(long.len() >= short.len(), "{command}");
    }
    assert!(home.run(&["--help"]).with(0).out.contains("Exit codes:"));
    home.run(&[]).with(2);
}
