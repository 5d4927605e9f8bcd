//! Requests as they come from a socket: read whole, and passed on byte for byte where only their count matters.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ledger::Page;
use super::peer::note;

/// Most bytes of a head or of a body that the stage takes.
const MOST: usize = 256 << 20;

/// One request.
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

/// Reads the next request; none at the end of the connection.
pub(crate) async fn read_request<R: AsyncBufRead + Unpin>(stream: &mut R) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        let n = stream.read_until(b'\n', &mut head).await?;
        if n == 0 || head.len() > MOST {
            return Ok(None);
        }
        if matches!(&head[before..], b"\r\n" | b"\n") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = |wanted: &str| {
        let mut pairs = text.lines().skip(1).filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim().to_owned())
    };
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length.min(MOST)];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request {
        method: method.to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        traceparent: header("traceparent"),
        head,
        body,
    }))
}

/// Stands before the real directory and notes what the client asks of it.
pub(super) async fn listen_in(listener: TcpListener, directory: SocketAddr, page: Page) {
    let mut conns = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while conns.try_join_next().is_some() {}
        let page = page.clone();
        page.note(|counts| counts.connections += 1);
        conns.spawn(async move {
            let _ = pass_on(client, directory, &page).await;
        });
    }
}

async fn pass_on(client: TcpStream, directory: SocketAddr, page: &Page) -> io::Result<()> {
    let (mut answers, mut requests) = TcpStream::connect(directory).await?.into_split();
    let (from_client, mut to_client) = client.into_split();
    let mut from_client = BufReader::new(from_client);
    let asking = async {
        while let Some(request) = read_request(&mut from_client).await? {
            note(page, &request);
            requests.write_all(&request.head).await?;
            requests.write_all(&request.body).await?;
        }
        requests.shutdown().await
    };
    let answering = tokio::io::copy(&mut answers, &mut to_client);
    // Either side may end it.
    tokio::select! {
        ended = asking => ended,
        ended = answering => ended.map(|_| ()),
    }
}
