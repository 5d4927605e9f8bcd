//! A gateway after a script: it has the errors that a good one does not have, and those that a bad one means.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::place::Place;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The first port that is asked for is taken (718).
    Taken,
    /// It opens ports for ever only (725).
    ForEver,
    /// It maps a port to the same port only (724), and the port is taken.
    SamePort,
    /// It says yes and maps nothing.
    Lies,
    /// Its description is made of entities of its own.
    Bomb,
    /// Its description does not end.
    Endless,
    /// Its answer to the search leads to another machine.
    Elsewhere,
    /// Its PCP answers have a nonce of their own, and it has no UPnP.
    WrongNonce,
    /// Its PCP answers give no time, and it has no UPnP.
    NoTime,
    /// It takes the connection and says nothing.
    Silent,
}

/// What was asked of it.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// In words, in order.
    actions: Vec<String>,
    /// The outer and the inner ports of what is open.
    open: HashMap<u16, u16>,
}

impl Asked {
    /// What it was asked, in order.
    #[must_use]
    pub fn actions(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).actions.clone()
    }

    /// Ports that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open.len()
    }

    fn note(&self, action: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).actions.push(action.to_owned());
    }
}

/// The scripted gateway.
#[derive(Clone)]
pub struct Igd {
    /// Where it runs.
    pub place: Place,
    /// Its address inside, where it is asked.
    pub inside: Ipv4Addr,
    /// The address that it says it has outside.
    pub outer: Ipv4Addr,
    /// What is wrong with it.
    pub trouble: Trouble,
    /// What it was asked.
    pub asked: Asked,
}

impl Igd {
    /// Runs until the process ends.
    ///
    /// # Panics
    /// If its ports are taken.
    pub fn start(self) {
        let (ready, begun) = std::sync::mpsc::channel();
        let place = self.place.clone();
        place.spawn(move || async move {
            let search = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 1900)).await.unwrap_or_else(|e| panic!("1900: {e}"));
            let _ = search.join_multicast_v4(Ipv4Addr::new(239, 255, 255, 250), self.inside);
            let small = UdpSocket::bind((self.inside, 5351)).await.unwrap_or_else(|e| panic!("5351: {e}"));
            let http = TcpListener::bind((self.inside, 5000)).await.unwrap_or_else(|e| panic!("5000: {e}"));
            let _ = ready.send(());
            tokio::join!(self.answer_searches(search), self.answer_pcp(small), self.answer_http(http));
        });
        let _ = begun.recv();
    }

    async fn answer_searches(&self, socket: UdpSocket) {
        let mut bytes = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut bytes).await {
            if matches!(self.trouble, Trouble::WrongNonce | Trouble::NoTime) {
                continue;
            }
            let host = if self.trouble == Trouble::Elsewhere { Ipv4Addr::new(5, 5, 0, 1) } else { self.inside };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nUSN: uuid:x\r\nLOCATION: http://{host}:5000/desc.xml\r\n\r\n"
            );
            let _ = socket.send_to(answer.as_bytes(), from).await;
        }
    }

    async fn answer_pcp(&self, socket: UdpSocket) {
        let mut bytes = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
            let speaks = matches!(self.trouble, Trouble::WrongNonce | Trouble::NoTime);
            if !speaks || length < 60 || bytes[0] != 2 {
                continue;
            }
            let mut answer = bytes[..60].to_vec();
            answer[1] |= 0x80;
            answer[8..24].fill(0);
            if self.trouble == Trouble::WrongNonce {
                answer[24] ^= 0xff;
            } else {
                answer[4..8].fill(0);
            }
            answer[54..56].fill(0xff);
            answer[56..60].copy_from_slice(&self.outer.octets());
            let _ = socket.send_to(&answer, from).await;
        }
    }

    async fn answer_http(&self, listener: TcpListener) {
        while let Ok((stream, from)) = listener.accept().await {
            let served = self.serve(stream, from);
            if self.trouble == Trouble::Endless {
                let _ = tokio::time::timeout(std::time::Duration::from_secs(20), served).await;
            } else {
                served.await;
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream, from: SocketAddr) {
        let mut request = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let Ok(Ok(length)) = tokio::time::timeout(std::time::Duration::from_secs(2), stream.read(&mut piece)).await
            else {
                return;
            };
            request.extend_from_slice(&piece[..length]);
            let text = String::from_utf8_lossy(&request);
            let is_whole = text.starts_with("GET") && text.contains("\r\n\r\n") || text.contains("</s:Envelope>");
            if length == 0 || is_whole {
                break;
            }
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        if self.trouble == Trouble::Silent {
            self.asked.note("connection");
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            return;
        }
        let (status, body) = if text.starts_with("GET") {
            (200, self.description())
        } else {
            self.act(&text, from).map_or_else(|code| (500, fault(code)), |body| (200, body))
        };
        let length = if self.trouble == Trouble::Endless { "" } else { &format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\nConnection: close\r\n{length}\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(body.as_bytes()).await;
        if self.trouble == Trouble::Endless {
            while stream.write_all(&[b' '; 65_536]).await.is_ok() {}
        }
    }

    fn description(&self) -> String {
        self.asked.note("description");
        if self.trouble == Trouble::Bomb {
            let mut entities = String::from("<!ENTITY a0 \"aaaaaaaaaa\">");
            for level in 1..10 {
                entities += &format!("<!ENTITY a{level} \"{}\">", format!("&a{};", level - 1).repeat(10));
            }
            return format!("<!DOCTYPE root [{entities}]><root>&a9;</root>");
        }
        "<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList><service>\
         <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL>\
         </service></serviceList></device></root>"
            .into()
    }

    fn act(&self, request: &str, from: SocketAddr) -> Result<String, u16> {
        let argument = |name: &str| {
            let (_, rest) = request.split_once(&format!("<{name}>"))?;
            Some(rest.split_once('<')?.0.to_owned())
        };
        let number = |name: &str| argument(name).and_then(|text| text.parse::<u16>().ok()).unwrap_or(0);
        let action = request.split_once('#').and_then(|(_, rest)| rest.split_once('"')).map_or("", |(name, _)| name);
        self.asked.note(action);
        let port = number("NewExternalPort");
        let mut state = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = |body: &str| {
            Ok(format!(
                "<s:Envelope xmlns:s=\"x\"><s:Body><u:{action}Response xmlns:u=\"y\">{body}</u:{action}Response></s:Body></s:Envelope>"
            ))
        };
        match action {
            "GetExternalIPAddress" => done(&format!("<NewExternalIPAddress>{}</NewExternalIPAddress>", self.outer)),
            "AddPortMapping" => {
                let is_first = state.actions.iter().filter(|action| *action == "AddPortMapping").count() == 1;
                match self.trouble {
                    Trouble::Taken if is_first => return Err(718),
                    Trouble::SamePort => return Err(724),
                    Trouble::ForEver if argument("NewLeaseDuration").as_deref() != Some("0") => return Err(725),
                    Trouble::Lies => return done(""),
                    _ => {}
                }
                let inner = number("NewInternalPort");
                state.open.insert(port, inner);
                let to = SocketAddr::new(from.ip(), inner);
                let rule =
                    format!("add rule inet filter prerouting_miniupnpd iifname wan tcp dport {port} dnat ip to {to}");
                self.place.rules(&rule);
                done("")
            }
            "GetSpecificPortMappingEntry" => match state.open.get(&port) {
                Some(inner) => done(&format!(
                    "<NewInternalPort>{inner}</NewInternalPort><NewInternalClient>{}</NewInternalClient>",
                    from.ip()
                )),
                None => Err(714),
            },
            "DeletePortMapping" => {
                state.open.remove(&port).ok_or(714u16)?;
                self.place.rules("flush chain inet filter prerouting_miniupnpd");
                done("")
            }
            _ => Err(401),
        }
    }
}

fn fault(code: u16) -> String {
    format!(
        "<s:Envelope xmlns:s=\"x\"><s:Body><s:Fault><detail><UPnPError><errorCode>{code}</errorCode>\
         <errorDescription>scripted</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>"
    )
}
