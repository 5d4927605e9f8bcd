//! A gateway that does what it is told, for what no honest one does: errors of every kind, lies, and attacks on who asks.
//!
//! It speaks SSDP, UPnP, NAT-PMP and PCP, and opens ports as real ones do: by rules of nft, if it opens any.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{Outcome, mdns, say};

const HTTP: u16 = 5_000;
const ANY_GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// Connections that are answered at the same time; none of them is worth more.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it does. By default it is honest, and has UPnP only.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Script {
    /// Its address inside.
    ours: Ipv4Addr,
    /// The address outside that it tells.
    wan: Ipv4Addr,
    ssdp: bool,
    /// How often it answers each search.
    answers: u32,
    /// Says by mDNS that the mesh is at this address, and listens who else speaks it.
    mdns: Option<Ipv4Addr>,
    /// Where SSDP says that the description is.
    location: Option<String>,
    description: Description,
    version: u8,
    /// Whether it opens what it says that it opens.
    opens: bool,
    /// External ports that somebody else has (718).
    taken: Vec<u16>,
    /// Leases only without an end (725).
    permanent_only: bool,
    /// External ports only as internal ones (724).
    same_port_only: bool,
    /// Refuses every mapping with this.
    refuses: Option<u16>,
    /// Gives no lease for longer, in seconds; by UPnP without saying so.
    longest_lease: Option<u32>,
    pcp: Option<PortControl>,
    nat_pmp: Option<PortControl>,
}

/// What of its description is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Description {
    #[default]
    Good,
    /// Entities that grow to gigabytes.
    Bomb,
    /// No end.
    Endless,
    /// Elements in elements without an end.
    Deep,
    /// A byte now and then.
    Slow,
    /// Its control is at another host.
    Elsewhere,
    /// It is at another host itself, and who asks is sent there.
    Redirect,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PortControl {
    result: u8,
    wrong_nonce: bool,
    no_lifetime: bool,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            ours: Ipv4Addr::new(192, 168, 77, 1),
            wan: Ipv4Addr::new(5, 5, 10, 2),
            ssdp: true,
            answers: 1,
            mdns: None,
            location: None,
            description: Description::Good,
            version: 2,
            opens: true,
            taken: Vec::new(),
            permanent_only: false,
            same_port_only: false,
            refuses: None,
            longest_lease: None,
            pcp: None,
            nat_pmp: None,
        }
    }
}

/// Whom an external port leads to.
#[derive(Debug, Serialize)]
struct Mapping {
    client: Ipv4Addr,
    port: u16,
    /// When its time is over, if it was not given for ever.
    #[serde(skip)]
    until: Option<Instant>,
}

#[derive(Debug, Default, Serialize)]
struct Book {
    mappings: BTreeMap<u16, Mapping>,
    asked: HashMap<String, u64>,
    /// Mappings whose time was over.
    expired: u64,
    /// What others said by mDNS.
    heard: u64,
    #[serde(skip)]
    refuses: Option<u16>,
    #[serde(skip)]
    taken: Vec<u16>,
}

/// What it is told while it runs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Told {
    /// From now on it refuses every mapping with this.
    refuses: Option<u16>,
    /// An external port that another machine gets, whoever had it.
    conflict: Option<u16>,
    /// Forgets what it has heard.
    deaf: bool,
}

/// The machine that gets it.
const ANOTHER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 99);
/// How often it looks which mappings have had their time.
const SWEEP: Duration = Duration::from_millis(100);

struct Igd {
    script: Script,
    book: Mutex<Book>,
    begun: Instant,
}

/// Serves until its input ends; every line is answered with what it has opened and what it was asked.
pub(crate) fn run(script: &str) -> Outcome {
    let script: Script = serde_json::from_str(script).map_err(|e| e.to_string())?;
    let book = Book { refuses: script.refuses, taken: script.taken.clone(), ..Book::default() };
    let igd = Arc::new(Igd { script, book: Mutex::new(book), begun: Instant::now() });
    let ours = igd.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(SWEEP);
            ours.sweep();
        }
    });
    let shown = |e: std::io::Error| e.to_string();
    let http = TcpListener::bind(("0.0.0.0", HTTP)).map_err(shown)?;
    let ours = igd.clone();
    std::thread::spawn(move || {
        for stream in http.incoming().flatten() {
            let igd = ours.clone();
            // However this ends, it is the peer's to judge.
            std::thread::spawn(move || drop(igd.answer(stream)));
        }
    });
    if igd.script.ssdp {
        let socket = UdpSocket::bind(("0.0.0.0", 1_900)).map_err(shown)?;
        socket.join_multicast_v4(&ANY_GROUP, &igd.script.ours).map_err(shown)?;
        let igd = igd.clone();
        std::thread::spawn(move || igd.be_found(&socket));
    }
    if let Some(mesh) = igd.script.mdns {
        let igd = igd.clone();
        mdns::spoof(igd.script.ours, mesh, move || igd.book().heard += 1).map_err(shown)?;
    }
    if igd.script.pcp.is_some() || igd.script.nat_pmp.is_some() {
        let socket = UdpSocket::bind(("0.0.0.0", 5_351)).map_err(shown)?;
        let igd = igd.clone();
        std::thread::spawn(move || igd.control(&socket));
    }
    say(&json!({ "ready": "gateway" }).to_string());
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        igd.hear(serde_json::from_str(&line).map_err(|e| e.to_string())?);
        say(&json!(*igd.book()).to_string());
    }
    say(&json!({ "finished": true }).to_string());
    Ok(())
}

impl Igd {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: &str) {
        *self.book().asked.entry(what.to_owned()).or_default() += 1;
    }

    fn hear(&self, told: Told) {
        let mut book = self.book();
        book.refuses = told.refuses.or(book.refuses);
        if told.deaf {
            book.heard = 0;
        }
        if let Some(port) = told.conflict {
            book.taken.push(port);
            book.mappings.insert(port, Mapping { client: ANOTHER, port, until: None });
            drop(book);
            self.apply();
        }
    }

    /// Closes what has had its time.
    fn sweep(&self) {
        let mut book = self.book();
        let before = book.mappings.len();
        let now = Instant::now();
        book.mappings.retain(|_, mapping| mapping.until.is_none_or(|until| now < until));
        let gone = before - book.mappings.len();
        book.expired += u64::try_from(gone).unwrap_or(u64::MAX);
        drop(book);
        if gone > 0 {
            self.apply();
        }
    }

    fn be_found(&self, socket: &UdpSocket) {
        let mut request = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut request) {
            let text = String::from_utf8_lossy(&request[..n]).into_owned();
            let target = text.lines().find_map(|line| line.strip_prefix("ST:")).map(str::trim).unwrap_or_default();
            if !text.starts_with("M-SEARCH") || !(target.contains("InternetGatewayDevice") || target.contains("WANIP"))
            {
                continue;
            }
            self.note("search");
            let location = format!("http://{}:{HTTP}/root.xml", self.script.ours);
            let location = self.script.location.as_ref().unwrap_or(&location);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {target}\r\nUSN: uuid:1::{target}\r\nEXT:\r\n\
                 SERVER: scripted\r\nLOCATION: {location}\r\n\r\n"
            );
            for _ in 0..self.script.answers {
                let _ = socket.send_to(answer.as_bytes(), from);
            }
        }
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let from = stream.peer_addr()?.ip();
        let (head, body) = read(&mut stream)?;
        if head.starts_with("GET ") {
            self.note("description");
            return self.describe(&mut stream);
        }
        let action = head.lines().find(|line| line.to_ascii_lowercase().starts_with("soapaction"));
        let action = action.and_then(|line| line.split('#').nth(1)).map(|rest| rest.trim_matches(['"', ' ', '\r']));
        let action = action.unwrap_or_default().to_owned();
        self.note(&action);
        let (status, body) = match self.act(&action, &body, from) {
            Ok(arguments) => (200, format!("<u:{action}Response xmlns:u=\"u\">{arguments}</u:{action}Response>")),
            Err(code) => (
                500,
                format!(
                    "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
                     <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
                     <errorDescription>as told</errorDescription></UPnPError></detail></s:Fault>"
                ),
            ),
        };
        let body = format!(
            "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{body}\
             </s:Body></s:Envelope>"
        );
        whole(&mut stream, status, &body)
    }

    fn describe(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let version = self.script.version;
        let control = match self.script.description {
            Description::Elsewhere => "http://5.5.2.2:5000/ctl",
            _ => "/ctl",
        };
        let good = format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device>\
             <deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:{version}</deviceType><deviceList><device>\
             <deviceType>urn:schemas-upnp-org:device:WANDevice:{version}</deviceType><deviceList><device>\
             <deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:{version}</deviceType><serviceList><service>\
             <serviceType>urn:schemas-upnp-org:service:WANIPConnection:{version}</serviceType>\
             <serviceId>urn:upnp-org:serviceId:WANIPConn1</serviceId><controlURL>{control}</controlURL>\
             <eventSubURL>/evt</eventSubURL><SCPDURL>/scpd.xml</SCPDURL></service></serviceList></device></deviceList>\
             </device></deviceList></device></root>"
        );
        let repeat = |stream: &mut TcpStream, text: &str, pause: Duration| -> std::io::Result<()> {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nConnection: close\r\n\r\n<root>")?;
            for _ in 0..4_000_000 {
                stream.write_all(text.as_bytes())?;
                std::thread::sleep(pause);
            }
            Ok(())
        };
        match self.script.description {
            Description::Good | Description::Elsewhere => whole(stream, 200, &good),
            Description::Redirect => stream.write_all(
                b"HTTP/1.1 307 X\r\nLocation: http://5.5.2.2:5000/root.xml\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            ),
            Description::Bomb => {
                let mut entities = String::from("<!ENTITY a0 \"bomb\">");
                for n in 1..10 {
                    entities += &format!("<!ENTITY a{n} \"{}\">", format!("&a{};", n - 1).repeat(10));
                }
                let root = good.split_once("?>").map_or("", |(_, root)| root).replace("/ctl", "&a9;");
                whole(stream, 200, &format!("<?xml version=\"1.0\"?><!DOCTYPE root [{entities}]>{root}"))
            }
            Description::Endless => repeat(stream, "<serviceType>urn:x</serviceType>", Duration::ZERO),
            Description::Deep => repeat(stream, "<device>", Duration::ZERO),
            Description::Slow => repeat(stream, " ", Duration::from_millis(200)),
        }
    }

    fn act(&self, action: &str, body: &str, from: IpAddr) -> Result<String, u16> {
        let value = |name: &str| -> Option<String> {
            let rest = body.split_once(&format!("<{name}>"))?.1;
            Some(rest.split('<').next()?.to_owned())
        };
        let number = |name: &str| value(name).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        let port = |name: &str| u16::try_from(number(name)).unwrap_or(0);
        match action {
            "GetExternalIPAddress" => Ok(format!("<NewExternalIPAddress>{}</NewExternalIPAddress>", self.script.wan)),
            "GetStatusInfo" => {
                Ok("<NewConnectionStatus>Connected</NewConnectionStatus><NewUptime>1</NewUptime>".into())
            }
            "AddPortMapping" | "AddAnyPortMapping" => {
                let (mut external, internal) = (port("NewExternalPort"), port("NewInternalPort"));
                let lease = number("NewLeaseDuration");
                let client: IpAddr = value("NewInternalClient").and_then(|ip| ip.parse().ok()).ok_or(402_u16)?;
                if action == "AddAnyPortMapping" && self.script.version < 2 {
                    return Err(401);
                }
                if client != from {
                    return Err(606);
                }
                let (refuses, is_taken) = {
                    let book = self.book();
                    (book.refuses, book.taken.contains(&external))
                };
                match refuses {
                    Some(code) => return Err(code),
                    None if self.script.permanent_only && lease != 0 => return Err(725),
                    None if self.script.same_port_only && external != internal => return Err(724),
                    None => {}
                }
                if is_taken {
                    if action == "AddPortMapping" {
                        return Err(718);
                    }
                    external = 40_404;
                }
                self.open(external, client, internal, lease);
                Ok(if action == "AddAnyPortMapping" {
                    format!("<NewReservedPort>{external}</NewReservedPort>")
                } else {
                    String::new()
                })
            }
            "GetSpecificPortMappingEntry" => {
                let book = self.book();
                let Mapping { client, port, until } = book.mappings.get(&port("NewExternalPort")).ok_or(714_u16)?;
                let lease = until.map_or(0, |until| until.saturating_duration_since(Instant::now()).as_secs());
                Ok(format!(
                    "<NewInternalPort>{port}</NewInternalPort><NewInternalClient>{client}</NewInternalClient>\
                     <NewEnabled>1</NewEnabled><NewPortMappingDescription>x</NewPortMappingDescription>\
                     <NewLeaseDuration>{lease}</NewLeaseDuration>"
                ))
            }
            "DeletePortMapping" => {
                let removed = self.book().mappings.remove(&port("NewExternalPort"));
                self.apply();
                removed.map(|_| String::new()).ok_or(714)
            }
            _ => Err(401),
        }
    }

    fn control(&self, socket: &UdpSocket) {
        let mut request = [0; 1100];
        while let Ok((n, from)) = socket.recv_from(&mut request) {
            let request = &request[..n];
            let answer = match request.first() {
                Some(0) => self.script.nat_pmp.clone().and_then(|script| self.nat_pmp(&script, request, from.ip())),
                Some(2) => self.script.pcp.clone().and_then(|script| self.pcp(&script, request, from.ip())),
                _ => None,
            };
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    fn nat_pmp(&self, script: &PortControl, request: &[u8], from: IpAddr) -> Option<Vec<u8>> {
        let mut answer = vec![0, request.get(1)? + 128, 0, self.result(script, request[1])];
        answer.extend(self.epoch());
        if request[1] == 0 {
            self.note("nat_pmp address");
            answer.extend(self.script.wan.octets());
            return Some(answer);
        }
        self.note("nat_pmp map");
        let word = |at: usize| Some(u16::from_be_bytes([*request.get(at)?, *request.get(at + 1)?]));
        let (internal, external) = (word(4)?, word(6)?);
        let asked = u32::from_be_bytes(request.get(8..12)?.try_into().ok()?);
        let lifetime = self.lifetime(script, asked);
        self.port_control(answer[3], from, internal, external, lifetime);
        answer.extend(internal.to_be_bytes());
        answer.extend(external.to_be_bytes());
        answer.extend(lifetime.to_be_bytes());
        Some(answer)
    }

    fn pcp(&self, script: &PortControl, request: &[u8], from: IpAddr) -> Option<Vec<u8>> {
        self.note("pcp");
        let asked = u32::from_be_bytes(request.get(4..8)?.try_into().ok()?);
        let lifetime = self.lifetime(script, asked);
        let mut answer = vec![2, request.get(1)? + 128, 0, self.result(script, 1)];
        answer.extend(lifetime.to_be_bytes());
        answer.extend(self.epoch());
        answer.extend([0; 12]);
        let mut nonce = request.get(24..36)?.to_vec();
        if script.wrong_nonce {
            nonce.iter_mut().for_each(|byte| *byte ^= 0xff);
        }
        answer.extend(nonce);
        answer.extend(request.get(36..44)?);
        let word = |at: usize| Some(u16::from_be_bytes([*request.get(at)?, *request.get(at + 1)?]));
        let (internal, external) = (word(40)?, word(42)?);
        self.port_control(answer[3], from, internal, if external == 0 { internal } else { external }, lifetime);
        answer.extend(self.script.wan.to_ipv6_mapped().octets());
        Some(answer)
    }

    /// Seconds since it forgot everything.
    fn epoch(&self) -> [u8; 4] {
        u32::try_from(self.begun.elapsed().as_secs()).unwrap_or(u32::MAX).to_be_bytes()
    }

    /// What it says to a question; that for its address is never refused by what refuses mappings.
    fn result(&self, script: &PortControl, asked: u8) -> u8 {
        const NOT_AUTHORIZED: u8 = 2;
        if asked != 0 && self.book().refuses.is_some() { NOT_AUTHORIZED } else { script.result }
    }

    fn lifetime(&self, script: &PortControl, asked: u32) -> u32 {
        if script.no_lifetime { 0 } else { asked.min(self.script.longest_lease.unwrap_or(u32::MAX)) }
    }

    fn port_control(&self, result: u8, from: IpAddr, internal: u16, external: u16, lifetime: u32) {
        if result == 0 && lifetime > 0 {
            self.open(external, from, internal, lifetime);
        } else if lifetime == 0 {
            self.book().mappings.retain(|_, mapping| mapping.client != from || mapping.port != internal);
            self.apply();
        }
    }

    fn open(&self, external: u16, client: IpAddr, port: u16, lease: u32) {
        if let IpAddr::V4(client) = client {
            let lease = lease.min(self.script.longest_lease.unwrap_or(u32::MAX));
            let until = (lease != 0).then(|| Instant::now() + Duration::from_secs(lease.into()));
            self.book().mappings.insert(external, Mapping { client, port, until });
        }
        self.apply();
    }

    /// Has nft do what the book says.
    fn apply(&self) {
        if !self.script.opens {
            return;
        }
        let mut rules = String::from("flush chain inet filter prerouting_miniupnpd\n");
        for (external, Mapping { client, port, .. }) in &self.book().mappings {
            let rule = format!("tcp dport {external} dnat ip to {client}:{port}");
            rules += &format!("add rule inet filter prerouting_miniupnpd {rule}\n");
        }
        if let Ok(mut nft) = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn() {
            if let Some(mut input) = nft.stdin.take() {
                let _ = input.write_all(rules.as_bytes());
            }
            let _ = nft.wait();
        }
    }
}

fn whole(stream: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} X\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nConnection: close\r\n");
    stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

/// One request: its head, and its body.
fn read(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    let mut request = Vec::new();
    let mut byte = [0; 4096];
    loop {
        let n = stream.read(&mut byte)?;
        request.extend(&byte[..n]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok((head.to_owned(), body.to_owned()));
            }
        }
        if n == 0 || request.len() > 1 << 20 {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
}
