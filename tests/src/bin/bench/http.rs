//! As much HTTP/1.1 as the load and the stub need: a message is complete when its content-length is there.

use std::net::SocketAddr;

use crate::Result;

/// A whole message at the start of a buffer.
pub(crate) struct Message {
    pub(crate) body_at: usize,
    pub(crate) len: usize,
    /// The peer closes the connection after it.
    pub(crate) last: bool,
}

/// The message at the start of `buf`, if all of it is there.
pub(crate) fn message(buf: &[u8]) -> Option<Message> {
    let body_at = memchr::memmem::find(buf, b"\r\n\r\n")? + 4;
    let mut message = Message { body_at, len: body_at, last: buf.starts_with(b"HTTP/1.0") };
    for line in buf[..body_at].split(|b| *b == b'\n').skip(1) {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            message.len = body_at + std::str::from_utf8(value).ok()?.parse::<usize>().ok()?;
        } else if name.eq_ignore_ascii_case(b"connection") {
            message.last = value.eq_ignore_ascii_case(b"close");
        }
    }
    (buf.len() >= message.len).then_some(message)
}

/// A request with a JSON body.
pub(crate) fn post(addr: SocketAddr, path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// An answer with a JSON body.
pub(crate) fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// Refuses an answer that is not a 2xx.
pub(crate) fn check_status(answer: &[u8]) -> Result<()> {
    if answer.get(9) == Some(&b'2') {
        return Ok(());
    }
    Err(format!("answered {:?}", String::from_utf8_lossy(&answer[..answer.len().min(600)])).into())
}

/// The socket behind a base URL on this machine.
pub(crate) fn addr_of(url: &str) -> Result<SocketAddr> {
    let port = url.trim_end_matches("/api").rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    Ok(SocketAddr::from(([127, 0, 0, 1], port.ok_or_else(|| format!("{url} has no port"))?)))
}
