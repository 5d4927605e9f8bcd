//! The street with its directory, relay and consumer, and a home with a node that may be closed to all of it.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use iicp_core::options::{NodeOptions, RelayServerOptions};
use iicp_core::types::NatReport;
use iicp_core::{CHAT, EMBEDDING, Inbound, Node, Reply};
use iicp_tests::netlab::gateway::{Kind, rules};
use iicp_tests::netlab::place::{Lab, Place};
use iicp_tests::netlab::street::{DIRECTORY, Registered, ask, directory};
use tokio::sync::oneshot;

/// What the node serves; the relay serves something else.
pub(crate) const INTENT: &str = EMBEDDING;
/// The node's address at home.
pub(crate) const AT_HOME: &str = "192.168.77.10";
/// The gateway's addresses.
pub(crate) const INSIDE: &str = "192.168.77.1";
pub(crate) const OUTSIDE: &str = "5.5.1.2";

/// The open network.
pub(crate) struct Street {
    pub(crate) lab: Lab,
    pub(crate) street: Place,
    pub(crate) consumer: Place,
    pub(crate) registered: Registered,
}

impl Street {
    /// With a directory, a relay and a consumer.
    pub(crate) fn new() -> Self {
        let mut lab = Lab::new();
        let (street, consumer, relay) = (lab.place("street"), lab.place("consumer"), lab.place("relay"));
        street.ip("addr add 5.5.0.1/32 dev lo");
        street.ip("addr add 2a00:5500::1/128 dev lo");
        lab.wire(
            (&street, "con", &["5.5.9.1/24", "2a00:5509::1/64"]),
            (&consumer, "out", &["5.5.9.2/24", "2a00:5509::2/64"]),
        );
        lab.wire(
            (&street, "rel", &["5.5.8.1/24", "2a00:5508::1/64"]),
            (&relay, "out", &["5.5.8.2/24", "2a00:5508::2/64"]),
        );
        for place in [&consumer, &relay] {
            let net = if place.name.ends_with("relay") { 8 } else { 9 };
            place.ip(&format!("route add default via 5.5.{net}.1"));
            place.ip(&format!("-6 route add default via 2a00:550{net}::1"));
        }
        let registered = Registered::default();
        let (ready, begun) = mpsc::channel();
        let desk = registered.clone();
        street.spawn(move || directory(desk, ready));
        begun.recv().unwrap();
        let (ready, begun) = mpsc::channel();
        relay.spawn(move || lend(ready));
        begun.recv().unwrap();
        Street { lab, street, consumer, registered }
    }

    /// A home behind a gateway with an address of the street.
    pub(crate) fn home(&mut self, kind: Kind) -> (Place, Place) {
        let (gateway, node) = (self.lab.place("gateway"), self.lab.place("node"));
        self.lab.wire((&self.street, "home", &["5.5.1.1/24"]), (&gateway, "wan", &["5.5.1.2/24"]));
        self.lab.wire((&gateway, "lan", &["192.168.77.1/24"]), (&node, "eth0", &["192.168.77.10/24"]));
        gateway.ip("route add default via 5.5.1.1");
        node.ip("route add default via 192.168.77.1");
        node.ip("route add 239.0.0.0/8 dev eth0");
        gateway.rules(&rules(kind, AT_HOME));
        (gateway, node)
    }

    /// Asks the mesh for the node until it answers; how long that took.
    pub(crate) fn answer_within(&self, limit: Duration) -> Result<Duration, String> {
        let begun = Instant::now();
        loop {
            let asked = self.consumer.spawn(|| ask(INTENT)).join().unwrap_or_else(|_| Err("it broke down".into()));
            match asked {
                Ok(_) => return Ok(begun.elapsed()),
                Err(why) if begun.elapsed() > limit => return Err(why),
                Err(_) => std::thread::sleep(Duration::from_millis(300)),
            }
        }
    }
}

async fn lend(ready: mpsc::Sender<()>) {
    let mut options = NodeOptions::default();
    options.intents = vec![CHAT.into()];
    options.node_id = Some("relay-1".into());
    options.host = "0.0.0.0".into();
    options.port = 9484;
    options.endpoint = Some("http://5.5.8.2:9484".into());
    options.directory = DIRECTORY.into();
    let mut relay = RelayServerOptions::default();
    relay.ticket_required = Some(false);
    options.relay_server = Some(relay);
    let node = Node::bind(options).await.unwrap();
    let _live = node.serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap();
    let _ = ready.send(());
    std::future::pending::<()>().await;
}

/// A node that runs at its place until it is told to leave.
pub(crate) struct Running {
    reports: mpsc::Receiver<NatReport>,
    ask: tokio::sync::mpsc::UnboundedSender<()>,
    leave: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// How long it took until it served.
    pub(crate) took: Duration,
}

impl Running {
    /// Starts the node `node-1`.
    pub(crate) fn start(place: &Place, change: impl FnOnce(&mut NodeOptions)) -> Self {
        let mut options = NodeOptions::default();
        options.intents = vec![INTENT.into()];
        options.node_id = Some("node-1".into());
        options.host = "::".into();
        options.port = 9484;
        options.directory = DIRECTORY.into();
        change(&mut options);
        let begun = Instant::now();
        let (ready, served) = mpsc::channel();
        let (report, reports) = mpsc::channel();
        let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let (leave, left) = oneshot::channel();
        let thread = place.spawn(move || async move {
            let node = Node::bind(options).await.unwrap();
            let live = node.serve(async |task: Inbound| Ok(Reply::from(task.payload))).await.unwrap();
            let _ = ready.send(());
            let mut left = left;
            loop {
                tokio::select! {
                    _ = &mut left => break,
                    Some(()) = asked.recv() => { let _ = report.send(live.nat_report()); }
                }
            }
            live.shutdown(Duration::from_secs(10)).await;
        });
        served.recv().unwrap();
        Running { reports, ask, leave: Some(leave), thread: Some(thread), took: begun.elapsed() }
    }

    pub(crate) fn report(&self) -> NatReport {
        let _ = self.ask.send(());
        self.reports.recv().unwrap()
    }

    /// Waits until a report is as it should be.
    pub(crate) fn report_when(&self, limit: Duration, is_so: impl Fn(&NatReport) -> bool) -> NatReport {
        let until = Instant::now() + limit;
        loop {
            let report = self.report();
            if is_so(&report) || Instant::now() > until {
                return report;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Leaves the mesh, and waits until all of it is gone.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(leave) = self.leave.take() {
            let _ = leave.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
