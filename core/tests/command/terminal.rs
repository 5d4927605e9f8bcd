//! At a terminal: colour, movement, and Ctrl-C as the keyboard sends it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{Home, until};

const CTRL_C: &[u8] = b"\x03";

/// A terminal with the command in the foreground.
pub(crate) struct Terminal {
    keyboard: File,
    child: Child,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    pub(crate) fn start(home: &Home, arguments: &[&str], environment: &[(&str, &str)]) -> Terminal {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let open = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        // Makes the terminal the one whose Ctrl-C the command gets.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", env!("CARGO_BIN_EXE_iicp")]).args(arguments);
        home.own(&mut command);
        command.env("TERM", "xterm-256color").envs(environment.iter().copied());
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn();
        let child = child.expect("setsid is part of util-linux; install that");
        // Else the terminal would stay open for as long as this process has it.
        drop(command);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let keyboard = File::from(keyboard);
        let (mut output, shown) = (keyboard.try_clone().unwrap(), screen.clone());
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // It ends with an error when the last process that had the terminal is gone.
            while let Ok(length @ 1..) = output.read(&mut piece) {
                shown.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Terminal { keyboard, child, screen, reader: Some(reader) }
    }

    pub(crate) fn shows(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        until(&format!("{text:?} on the screen"), || self.shows().contains(text));
    }

    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    /// Waits for the end: exit code, and all that was shown.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut code = None;
        until("the end of the command", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        self.reader.take().unwrap().join().unwrap();
        (code.unwrap().code(), self.shows())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_mesh_comes_up_says_what_to_paste_and_goes_with_ctrl_c() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["up", "--port", "0", "--directory-port", "0"], &[]);
    terminal.wait_for("Ctrl-C stops it.");
    let shown = terminal.shows();
    for pasted in ["iicp query --directory-url http://127.0.0.1:", "Python", "TypeScript", "Go", "Rust", "C "] {
        assert!(shown.contains(pasted), "{pasted}\n{shown}");
    }
    assert!(shown.contains("\x1b["), "no colour at a terminal: {shown:?}");
    terminal.press(CTRL_C);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("stopped; every task was finished"), "{shown}");
}

#[test]
fn what_takes_time_moves_and_leaves_nothing_behind() {
    let home = Home::new();
    let (directory, url) = crate::support::silent();
    let mut terminal = Terminal::start(&home, &["query", "hi", "--directory-url", &url], &[]);
    terminal.wait_for("asking the mesh");
    terminal.press(CTRL_C);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(130), "{shown}");
    assert!(shown.ends_with("\r\x1b[K"), "the line is still there: {shown:?}");
    drop(directory);
}

#[test]
fn ctrl_c_stops_a_query_that_still_reads_the_keyboard() {
    let home = Home::new();
    let mut terminal = Terminal::start(&home, &["query", "-"], &[]);
    terminal.wait_for("Ctrl-D");
    terminal.press(b"half a lin");
    terminal.press(CTRL_C);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(130), "{shown}");
}

#[test]
fn no_colour_is_shown_to_who_wants_none() {
    let home = Home::new();
    for environment in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let terminal =
            Terminal::start(&home, &["query", "hi", "--directory-url", &crate::support::nobody()], &[environment]);
        let (code, shown) = terminal.end();
        assert_eq!(code, Some(3), "{shown}");
        assert!(shown.contains("error: ") && shown.contains("DIRECTORY_UNREACHABLE 3001"), "{shown}");
        assert!(!shown.contains('\x1b'), "{environment:?}: {shown:?}");
    }
}

#[test]
fn at_a_terminal_a_chat_is_shown_as_it_is_made() {
    use futures_util::stream;
    use iicp_core::options::{DirectoryOptions, NodeOptions};
    use iicp_core::types::Chunk;
    use iicp_core::{CHAT, Directory, Inbound, Node, Reply, Result};

    let home = Home::new();
    let threads = tokio::runtime::Runtime::new().unwrap();
    let go_on = Arc::new(tokio::sync::Notify::new());
    let waits = go_on.clone();
    let (directory, _node) = threads.block_on(async {
        let directory = Directory::bind(DirectoryOptions::loopback()).await.unwrap();
        let mut options = NodeOptions::default();
        (options.intents, options.directory) = (vec![CHAT.into()], directory.url());
        let answer = move |_: Inbound| {
            let waits = waits.clone();
            async move {
                Result::<Reply>::Ok(Reply::stream(stream::unfold(0, move |n| {
                    let waits = waits.clone();
                    async move {
                        if n > 0 {
                            waits.notified().await;
                        }
                        (n < 3).then(|| (Ok(Chunk::delta(["one ", "two ", "\u{1b}[2J"][n])), n + 1))
                    }
                })))
            }
        };
        let node = Node::bind(options).await.unwrap().serve(answer).await.unwrap();
        (directory, node)
    });
    let url = directory.url();
    let arguments = ["query", "count", "--directory-url", &url];
    let terminal = Terminal::start(&home, &arguments, &[("NO_COLOR", "1")]);
    terminal.wait_for("one ");
    assert!(!terminal.shows().contains("two"));
    go_on.notify_one();
    terminal.wait_for("one two ");
    go_on.notify_one();
    terminal.wait_for("[2J");
    go_on.notify_one();
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.ends_with("one two \u{fffd}[2J\r\n"), "{shown:?}");
}

#[test]
fn an_answer_cannot_take_hold_of_the_terminal() {
    let home = Home::new();
    let mesh = home.up();
    let evil = "clear \x1b[2J, title \x1b]0;mine\x07, done";
    let arguments = ["query", evil, "--directory-url", &mesh.directory()];
    let (code, shown) = Terminal::start(&home, &arguments, &[("NO_COLOR", "1")]).end();
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("You said: clear \u{fffd}[2J") && !shown.contains('\x07'), "{shown:?}");
    // In a pipe it is what the node said.
    assert_eq!(home.run(&arguments).with(0).out, format!("You said: {evil}\n"));
}
