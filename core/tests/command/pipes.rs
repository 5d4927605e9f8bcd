//! In a pipe: plain text, nothing that belongs on a terminal, and no complaint when the reader has enough.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{Ended, Home, Service};

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let home = Home::new();
    for arguments in [&["config", "show", "--origin"][..], &["config", "schema"], &["completion", "bash"], &["--help"]]
    {
        let mut child = home.iicp(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Gone before the first byte.
        drop(child.stdout.take());
        Ended::from(child.wait_with_output().unwrap()).with(0);
    }
}

#[test]
fn a_service_whose_output_nobody_reads_goes_on_serving() {
    let home = Home::new();
    let mut command = home.iicp(&["up", "--port", "0", "--directory-port", "0", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut ready = String::new();
    out.read_line(&mut ready).unwrap();
    drop(out);
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let url = ready["directory"].as_str().unwrap();
    assert_eq!(home.run(&["query", "still there?", "--directory-url", url]).with(0).out, "You said: still there?\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_output_that_is_full_is_a_failure() {
    let home = Home::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = home.iicp(&["config", "show"]);
    let ended = Ended::from(command.stdout(full).stderr(Stdio::piped()).output().unwrap()).with(1);
    assert!(ended.err.contains("the output cannot be written"), "{}", ended.err);
}

#[test]
fn nothing_of_a_terminal_is_in_a_pipe() {
    let home = Home::new();
    let mesh = home.up();
    let url = &mesh.directory();
    let away = crate::support::nobody();
    let all = [
        home.run(&["query", "hi", "--directory-url", url, "-vv"]).with(0),
        home.run(&["query", "hi", "--directory-url", &away]).with(3),
        home.run(&["discover", "--directory-url", url]).with(0),
        home.run(&["config", "show", "--origin"]).with(0),
        home.run(&["--help"]).with(0),
        home.run(&["nonsense"]).with(2),
    ];
    for ended in all {
        assert!(!ended.out.contains('\x1b') && !ended.err.contains('\x1b'), "{ended:?}");
    }
}

#[test]
fn a_log_is_on_stderr_and_holds_no_prompt() {
    let home = Home::new();
    let mut command = home.iicp(&["up", "--port", "0", "--directory-port", "0", "--json"]);
    command.env("IICP_LOG", "trace");
    let mut service = Service::start(command);
    let url = service.directory();
    let mut query = home.iicp(&["query", "canary-4711", "--directory-url", &url, "--json", "-vvv"]);
    query.stdout(Stdio::piped());
    let asked = Ended::from(query.output().unwrap()).with(0);
    assert!(asked.err.contains("answered") && !asked.err.contains("canary"), "{}", asked.err);
    for line in asked.err.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    service.signal(Signal::TERM);
    let mut log = String::new();
    service.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("\"registered\"") && !log.contains("canary"), "{log}");

    let mut loud = home.iicp(&["discover", "--directory-url", &url]);
    loud.env("IICP_LOG", "hyper=trace");
    assert!(crate::support::ended(loud).with(2).err.contains("IICP_LOG"));
}

#[test]
fn completions_are_programs_of_their_shells() {
    let home = Home::new();
    for (shell, check) in [("bash", &["-n"][..]), ("zsh", &["-n"]), ("fish", &["--no-execute"])] {
        let script = home.run(&["completion", shell]).with(0).out;
        for word in ["query", "healthcheck", "max-concurrent", "routing-profile"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let mut command = Command::new(shell);
        command.args(check).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            // Who has not that shell has no use for its completions; bash every developer of this project has.
            Err(error) if shell != "bash" && error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{shell}: {error}"),
        };
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let checked = Ended::from(child.wait_with_output().unwrap()).with(0);
        assert!(checked.err.is_empty(), "{shell}: {}", checked.err);
    }
    home.run(&["completion", "cmd.exe"]).with(2);
}

#[test]
fn bash_completes_commands_flags_and_their_words() {
    let home = Home::new();
    let script = home.file("iicp.bash", &home.run(&["completion", "bash"]).with(0).out);
    let complete = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let program = format!(
            "source {script}; COMP_WORDS=({line}); [ -n '{last}' ] || COMP_WORDS+=(''); COMP_CWORD={at}; \
             _iicp iicp '{last}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            last = words[words.len() - 1],
            before = words[words.len() - 2],
            at = words.len() - 1,
        );
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", &program]);
        crate::support::ended(command).with(0).out
    };
    assert_eq!(complete("iicp he").lines().collect::<Vec<_>>(), ["healthcheck", "help"]);
    assert!(complete("iicp query --time").contains("--timeout-ms"));
    assert!(complete("iicp query --routing-profile eu").contains("eu_restricted"));
}
