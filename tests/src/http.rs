//! HTTP by hand: sends exactly the bytes that a test wants to send, and reads one answer.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// One answer.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header with this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

/// A connection that lives from one exchange to the next.
#[derive(Debug)]
pub struct Conn<Io = TcpStream>(BufReader<Io>);

impl Conn {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub async fn open(addr: SocketAddr) -> io::Result<Conn> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Conn(BufReader::new(stream)))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Conn<Io> {
    /// Over a connection that is there already.
    #[must_use]
    pub fn over(stream: Io) -> Conn<Io> {
        Conn(BufReader::new(stream))
    }

    /// The socket.
    pub fn socket(&mut self) -> &mut Io {
        self.0.get_mut()
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The system's.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes).await?;
        self.0.get_mut().flush().await
    }

    /// Sends a request with a JSON body, and reads the answer.
    ///
    /// # Errors
    /// The system's, and an answer that is no HTTP.
    pub async fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        self.write(&post(path, "", body.to_string().as_bytes())).await?;
        self.answer().await
    }

    /// Sends a request without a body, and reads the answer.
    ///
    /// # Errors
    /// The system's, and an answer that is no HTTP.
    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.write(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
        self.answer().await
    }

    /// Reads one answer, interim ones left out.
    ///
    /// # Errors
    /// The system's, `UnexpectedEof` when the peer closed, `InvalidData` for what is no HTTP.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        loop {
            let (status, headers) = self.head().await?;
            if (100..200).contains(&status) {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new() };
            let length = answer.header("content-length").map(|length| length.parse::<usize>().map_err(|_| no_http()));
            match length.transpose()? {
                _ if matches!(status, 204 | 304) => {}
                Some(length) => {
                    answer.body.resize(length, 0);
                    self.0.read_exact(&mut answer.body).await?;
                }
                None => {
                    self.0.read_to_end(&mut answer.body).await?;
                }
            }
            return Ok(answer);
        }
    }

    /// Reads the head of an answer.
    ///
    /// # Errors
    /// As [`Conn::answer`].
    pub async fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let status_line = self.line().await?;
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok((status.ok_or_else(no_http)?, headers))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Everything that still comes until the peer closes; a reset is an end as well.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
        rest
    }
}

fn no_http() -> io::Error {
    ErrorKind::InvalidData.into()
}

/// The bytes of a POST with a JSON body; `headers` are whole lines.
#[must_use]
pub fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The address in a URL of the kind that the stage gives out.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn addr(url: &str) -> SocketAddr {
    let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    host.and_then(|host| host.parse().ok()).unwrap_or_else(|| panic!("{url} is not http://<ip>:<port>"))
}
