//! Asked to stop: at every stage, once and twice, and what a supervisor is told.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use iicp_core::options::{DirectoryOptions, NodeOptions};
use iicp_core::{CHAT, Directory, Inbound, LiveNode, Node, Reply, Result};
use rustix::process::Signal;

use crate::support::{Home, LONG, Service, silent, until};

/// A mesh in this process whose node works until it is cancelled.
struct Busy {
    runtime: tokio::runtime::Runtime,
    directory: Option<Directory>,
    node: Option<LiveNode>,
    begun: Arc<AtomicUsize>,
    cancelled: Arc<AtomicUsize>,
}

impl Busy {
    fn new() -> Busy {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (begun, cancelled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let handler = {
            let (begun, cancelled) = (begun.clone(), cancelled.clone());
            move |_task: Inbound| {
                let guard = Counts(cancelled.clone());
                begun.fetch_add(1, Ordering::SeqCst);
                async move {
                    tokio::time::sleep(10 * LONG).await;
                    drop(guard);
                    Result::Ok(Reply::chat("late"))
                }
            }
        };
        let (directory, node) = runtime.block_on(async {
            let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
            let mut options = NodeOptions::default();
            (options.intents, options.directory) = (vec![CHAT.into()], directory.url());
            let node = Node::bind(options).await.unwrap().serve(handler).await.unwrap();
            (directory, node)
        });
        Busy { runtime, directory: Some(directory), node: Some(node), begun, cancelled }
    }

    fn url(&self) -> String {
        self.directory.as_ref().map(Directory::url).unwrap()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.node.take());
        drop(self.directory.take());
    }
}

/// Counts when it is dropped.
struct Counts(Arc<AtomicUsize>);

impl Drop for Counts {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_query_that_is_stopped_while_the_node_works_frees_the_node() {
    let home = Home::new();
    let mesh = Busy::new();
    for (nth, (signal, code)) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)].into_iter().enumerate() {
        let mut command =
            home.iicp(&["query", "hi", "--timeout-ms", "120000", "--directory-url", &mesh.url(), "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until("the node works", || mesh.begun.load(Ordering::SeqCst) == nth + 1);
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let ended = crate::support::Ended::from(child.wait_with_output().unwrap()).with(code);
        assert_eq!(ended.errors()[0]["name"], "CANCELLED", "{}", ended.err);
        until("the node stops working", || mesh.cancelled.load(Ordering::SeqCst) == nth + 1);
    }
}

#[test]
fn a_query_is_stopped_while_the_directory_is_asked() {
    let home = Home::new();
    let (listener, url) = silent();
    for command in ["query", "discover"] {
        let mut started = home.iicp(&[command, "--directory-url", &url]);
        if command == "query" {
            started.arg("hi");
        }
        let child = started.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It has connected, so it waits for an answer.
        let (peer, _) = listener.accept().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
        crate::support::Ended::from(child.wait_with_output().unwrap()).with(130);
        drop(peer);
    }
}

#[test]
fn a_result_that_is_late_has_the_exit_code_of_no_result() {
    let home = Home::new();
    let mesh = Busy::new();
    let late = home.run(&["query", "hi", "--timeout-ms", "300", "--directory-url", &mesh.url(), "--json"]);
    let code = late.code.unwrap();
    let number = late.errors()[0]["code"].as_i64().unwrap();
    // The node or the client says so first; both are about time.
    assert!([1007, 5003].contains(&number) && i64::from(code) == number / 1000, "{late:?}");
}

#[test]
fn a_supervisor_hears_when_it_is_ready_alive_and_stopping() {
    let home = Home::new();
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let hear = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let mut command = home.iicp(&["up", "--port", "0", "--directory-port", "0", "--json"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", Duration::from_millis(200).as_micros().to_string());
    let mut service = Service::start(command);
    assert!(hear().starts_with("READY=1\nSTATUS="));
    assert_eq!((hear(), hear()), ("WATCHDOG=1".into(), "WATCHDOG=1".into()));
    service.signal(Signal::TERM);
    let mut told = hear();
    while told == "WATCHDOG=1" {
        told = hear();
    }
    assert!(told.starts_with("STOPPING=1"), "{told}");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_watchdog_of_another_process_is_none_of_ours() {
    let home = Home::new();
    let path = home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = home.iicp(&["directory", "--port", "0", "--json"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000").env("WATCHDOG_PID", "1");
    let service = Service::start(command);
    assert_eq!(service.stop(Signal::TERM).0, Some(0));
    socket.set_nonblocking(true).unwrap();
    let mut heard = Vec::new();
    let mut message = [0; 256];
    while let Ok(length) = socket.recv(&mut message) {
        heard.push(String::from_utf8_lossy(&message[..length]).into_owned());
    }
    assert!(heard.len() == 2 && !heard.iter().any(|told| told.contains("WATCHDOG")), "{heard:?}");
}
