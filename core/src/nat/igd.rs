//! A gateway that is asked by UPnP: found, described, called. Only the gateway itself is believed, and only ever called.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout_at};
use url::Url;

use super::surroundings::{Gateway, with_scope};
use crate::types::RungReport;
use crate::wire::upnp::{self, Answer, Description, MOST_ANSWER, MOST_ANSWERS, Service, TARGETS, place};
use crate::wire::xml::{Element, MOST_BYTES};

/// When the search is sent, from its beginning: datagrams get lost, and gateways wake up slowly.
const SEARCHES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(400), Duration::from_millis(1_200), Duration::from_millis(2_500)];
/// Longest wait for one answer of the gateway.
const PATIENCE: Duration = Duration::from_secs(3);
const SSDP: u16 = 1900;
const EVERYBODY4: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const EVERYBODY6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc);

/// A gateway that speaks UPnP.
#[derive(Clone, Debug)]
pub(crate) struct Igd {
    pub(crate) can: Description,
    /// Number of the interface that it is at.
    scope: u32,
    /// The address of ours that it is asked from.
    from: IpAddr,
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The gateway's own code and words.
    Code(u16, String),
    /// No answer, or none that can be read.
    Broken(String),
}

/// Looks for the gateway's own word on UPnP, first from the gateway alone, then from everybody on its network.
pub(crate) async fn find(gateway: &Gateway, from: IpAddr, deadline: Instant, report: &mut RungReport) -> Option<Igd> {
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).await.ok()?;
    let everybody: SocketAddr = match from {
        IpAddr::V4(ours) => {
            let _ = socket2::SockRef::from(&socket).set_multicast_if_v4(&ours);
            (EVERYBODY4, SSDP).into()
        }
        IpAddr::V6(_) => {
            let _ = socket2::SockRef::from(&socket).set_multicast_if_v6(gateway.scope);
            SocketAddrV6::new(EVERYBODY6, SSDP, 0, gateway.scope).into()
        }
    };
    let (begun, mut answers, mut bytes) = (Instant::now(), 0, [0; MOST_ANSWER + 1]);
    let mut seen = Vec::new();
    for (round, after) in SEARCHES.into_iter().enumerate() {
        if begun + after > deadline {
            break;
        }
        sleep_until(begun + after).await;
        for target in TARGETS {
            let host = if from.is_ipv4() { "239.255.255.250" } else { "[FF02::C]" };
            let search = upnp::search(host, target);
            let _ = socket.send_to(search.as_bytes(), gateway.at(SSDP)).await;
            let _ = socket.send_to(search.as_bytes(), everybody).await;
        }
        let until = SEARCHES.get(round + 1).map_or(deadline, |next| deadline.min(begun + *next));
        while let Ok(received) = timeout_at(until, socket.recv_from(&mut bytes)).await {
            let Ok((length, sender)) = received else { continue };
            answers += 1;
            if answers > MOST_ANSWERS * TARGETS.len() {
                report.say("too many answers to the search");
                return None;
            }
            let Some(at) = judged(gateway, from, sender, &bytes[..length], report) else { continue };
            if seen.contains(&at) {
                continue;
            }
            match describe(gateway, from, &at, deadline).await {
                Ok(igd) => return Some(igd),
                Err(why) => report.say(why),
            }
            seen.push(at);
        }
    }
    None
}

/// Whether an answer comes from the gateway and leads to it.
fn judged(gateway: &Gateway, from: IpAddr, sender: SocketAddr, answer: &[u8], report: &mut RungReport) -> Option<Url> {
    if !is_gateway(gateway, from, sender.ip()) {
        report.say(format!("an answer to the search from {}, which is not the gateway, was not followed", sender.ip()));
        return None;
    }
    if answer.len() > MOST_ANSWER {
        report.say("an oversized answer to the search was not read");
        return None;
    }
    let location = upnp::location(answer)?;
    match place(&location) {
        Some((url, ip, _)) if is_gateway(gateway, from, ip) => Some(url),
        _ => {
            let location = upnp::shown(&location);
            report.say(format!("the gateway's answer leads to {location}, which is not the gateway; not followed"));
            None
        }
    }
}

/// Whether an address is the gateway's. It has several in IPv6: all that begin as ours do are on its network.
fn is_gateway(gateway: &Gateway, from: IpAddr, ip: IpAddr) -> bool {
    match (ip, from) {
        (IpAddr::V6(ip), IpAddr::V6(ours)) => {
            IpAddr::V6(ip) == gateway.ip || (ip != ours && ip.segments()[..4] == ours.segments()[..4])
        }
        _ => ip == gateway.ip,
    }
}

async fn describe(gateway: &Gateway, from: IpAddr, at: &Url, deadline: Instant) -> Result<Igd, String> {
    let (status, document) = exchange(gateway.scope, from, at, Method::GET, None, deadline).await?;
    if status != 200 {
        return Err(format!("the gateway's description is not there ({status})"));
    }
    let mut can = upnp::description(&document, at)?;
    let is_own =
        |service: &Service| place(service.control.as_str()).is_some_and(|(_, ip, _)| is_gateway(gateway, from, ip));
    for service in [&mut can.mapper, &mut can.firewall] {
        if service.take_if(|service| !is_own(service)).is_some() {
            return Err("the gateway's description leads to another machine; not followed".to_owned());
        }
    }
    Ok(Igd { can, scope: gateway.scope, from })
}

impl Igd {
    /// Calls an action of a service.
    pub(crate) async fn call(
        &self,
        service: &Service,
        action: &str,
        arguments: &[(&str, String)],
        deadline: Instant,
    ) -> Result<Element, Failure> {
        let body = upnp::call(service, action, arguments);
        let soap = Some((format!("\"{}#{action}\"", service.kind), body));
        let answered = exchange(self.scope, self.from, &service.control, Method::POST, soap, deadline).await;
        let (status, document) = answered.map_err(Failure::Broken)?;
        match upnp::answer(&document, action) {
            Ok(Answer::Done(done)) if status == 200 => Ok(done),
            Ok(Answer::Failed(code, said)) => Err(Failure::Code(code, said)),
            Ok(Answer::Done(_)) => Err(Failure::Broken(format!("the gateway answered {action} with {status}"))),
            Err(why) if status == 200 => Err(Failure::Broken(why)),
            Err(_) => Err(Failure::Broken(format!("the gateway answered {action} with {status}"))),
        }
    }
}

/// One request on one connection; nothing is followed, and no more is read than a gateway has to say.
async fn exchange(
    scope: u32,
    from: IpAddr,
    at: &Url,
    method: Method,
    soap: Option<(String, String)>,
    deadline: Instant,
) -> Result<(u16, Bytes), String> {
    let deadline = deadline.min(Instant::now() + PATIENCE);
    let talking = async {
        let (_, ip, port) = place(at.as_str()).ok_or("no place to call")?;
        let socket = if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(|_| "no socket to be had")?;
        let ours = SocketAddr::new(from, 0);
        socket.bind(ours).map_err(|_| "this machine's address is gone")?;
        let stream =
            socket.connect(with_scope(ip, port, scope)).await.map_err(|_| "the gateway refuses the connection")?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(16 << 10)
            .max_headers(64)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| "the gateway hangs up")?;
        let authority = at.authority().to_owned();
        let mut request = Request::builder().method(method).uri(at.path()).header(HOST, authority);
        let mut body = String::new();
        if let Some((action, envelope)) = soap {
            request = request.header("SOAPAction", action).header(CONTENT_TYPE, "text/xml; charset=\"utf-8\"");
            body = envelope;
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|_| "the gateway's place is none")?;
        let reading = async {
            let answer = sender.send_request(request).await.map_err(|_| "the gateway answers no HTTP")?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
            let body = body.map_err(|_| "the gateway's answer breaks off, or is over 256 KiB")?;
            Ok::<_, &'static str>((status, body.to_bytes()))
        };
        // The connection lives as long as somebody reads from it, and no longer.
        let mut connection = std::pin::pin!(connection);
        let mut reading = std::pin::pin!(reading);
        let mut is_over = false;
        std::future::poll_fn(|context| {
            if !is_over {
                is_over = connection.as_mut().poll(context).is_ready();
            }
            reading.as_mut().poll(context)
        })
        .await
    };
    match timeout_at(deadline, talking).await {
        Ok(result) => result.map_err(|why: &'static str| why.to_owned()),
        Err(_) => Err("the gateway does not answer in time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const OURS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const GOOD: &str = "<root><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
                        <controlURL>/c</controlURL></service></root>";

    /// A gateway that says this to whoever asks, then no more.
    async fn described(answer: &[u8]) -> (Result<Igd, String>, Duration) {
        let listener = TcpListener::bind((OURS, 0)).await.unwrap();
        let at = Url::parse(&format!("http://{}/root.xml", listener.local_addr().unwrap())).unwrap();
        let answer = answer.to_vec();
        let gateway = Gateway { ip: OURS, scope: 0, interface: "lo".into(), ours: OURS };
        let says = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4_096]).await;
            let _ = stream.write_all(&answer).await;
            std::future::pending::<()>().await
        };
        let begun = Instant::now();
        tokio::select! {
            igd = describe(&gateway, OURS, &at, begun + Duration::from_secs(60)) => (igd, begun.elapsed()),
            () = says => unreachable!(),
        }
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_http_of_a_gateway_costs_time_and_nothing_else() {
        let whole = |head: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").into_bytes();
        let good = whole(&format!("Content-Length: {}", GOOD.len()), GOOD);
        assert!(described(&good).await.0.unwrap().can.mapper.is_some(), "else nothing is shown below");
        let long = "a".repeat(200_000);
        let headers = "X: y\r\n".repeat(1_000);
        let chunked = |chunk: &str| whole("Transfer-Encoding: chunked", &format!("{chunk}\r\n{GOOD}\r\n0\r\n\r\n"));
        let mut bad = vec![
            b"HTTP/1.1 200".to_vec(),
            b"\x16\x03\x01\x02\x00".to_vec(),
            format!("HTTP/1.1 200 {long}\r\n\r\n").into_bytes(),
            whole(&format!("X: {long}"), GOOD),
            whole(headers.trim_end(), GOOD),
            whole("Content-Length: -1", GOOD),
            whole("Content-Length: 99999999999999999999", GOOD),
            whole(&format!("Content-Length: {0}\r\nContent-Length: 1{0}", GOOD.len()), GOOD),
            whole(&format!("Content-Length: {}", GOOD.len() + 1), GOOD),
            whole("Content-Length: 300000", &long.repeat(2)),
            format!("HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: {}\r\n\r\n{GOOD}", GOOD.len())
                .into(),
        ];
        bad.extend(["-1", "ffffffffffffffff", "ffffffffffffffffff", "x", "", "80000000"].map(chunked));
        let answers = bad.iter().map(|answer| async move { (answer, described(answer).await) });
        for (answer, (igd, took)) in futures_util::future::join_all(answers).await {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
            assert!(igd.is_err(), "{shown}");
            assert!(took < 3 * PATIENCE, "{shown}: {took:?}");
        }
    }
}
