//! A question to the gateway in one datagram, and its answer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::surroundings::Gateway;
use crate::types::RungReport;
use crate::wire::port_control as wire;
use crate::wire::port_control::{Fault, Given, MOST_BYTES, Nonce, PORT, Wish};

/// First pause before a question is asked again; then twice as long each time.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Answers that are not ours and are still looked at.
const MOST_STRAY: u32 = 64;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    Silent,
    Refused(u8),
}

/// Asks the gateway from one of our addresses until it answers. What others answer is noted, and not taken.
pub(crate) async fn ask<T>(
    gateway: &Gateway,
    from: IpAddr,
    question: &[u8],
    deadline: Instant,
    report: &mut RungReport,
    read: impl Fn(&[u8]) -> Result<T, Fault>,
) -> Result<T, NoAnswer> {
    let to = gateway.at(PORT);
    let Ok(socket) = UdpSocket::bind(SocketAddr::new(from, 0)).await else { return Err(NoAnswer::Silent) };
    let (mut pause, mut stray) = (ASK_AGAIN, 0);
    let mut bytes = [0; MOST_BYTES + 1];
    while Instant::now() < deadline {
        // A gateway that is just starting refuses; that is heard as an error here, and means: later.
        let _ = socket.send_to(question, to).await;
        let until = deadline.min(Instant::now() + pause);
        pause *= 2;
        while let Ok(received) = timeout_at(until, socket.recv_from(&mut bytes)).await {
            let Ok((length, sender)) = received else { continue };
            stray += 1;
            if stray > MOST_STRAY {
                report.say("too many answers that were not asked for");
                return Err(NoAnswer::Silent);
            }
            if sender.ip() != to.ip() || sender.port() != PORT {
                report.say(format!("an answer from {sender}, which is not the gateway, was not taken"));
                continue;
            }
            match read(&bytes[..length]) {
                Ok(answer) => return Ok(answer),
                Err(Fault::NotOurs(why)) => report.say(format!("{why} was not taken")),
                Err(Fault::Refused(number)) => return Err(NoAnswer::Refused(number)),
            }
        }
    }
    Err(NoAnswer::Silent)
}

/// Asks for a mapping, for another lease of it, or for its end, by PCP.
pub(crate) async fn pcp(
    gateway: &Gateway,
    wish: &Wish,
    nonce: &Nonce,
    deadline: Instant,
    report: &mut RungReport,
) -> Result<Given, NoAnswer> {
    let question = wire::write_pcp(wish, nonce);
    ask(gateway, wish.client, &question, deadline, report, |bytes| wire::read_pcp(bytes, wish, nonce)).await
}

/// The same by NAT-PMP.
pub(crate) async fn nat_pmp(
    gateway: &Gateway,
    wish: &Wish,
    deadline: Instant,
    report: &mut RungReport,
) -> Result<Given, NoAnswer> {
    let question = wire::write_nat_pmp(wish);
    ask(gateway, wish.client, &question, deadline, report, |bytes| wire::read_nat_pmp(bytes, wish)).await
}
