//! What a worker reads of its relay.

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::wire::frame::{HEADER_BYTES, Header, Kind};
use crate::wire::relay::{self as words, Hello, MOST_BESIDE, Outline};

/// Read at once.
const CHUNK: usize = 64 << 10;

/// What has arrived.
pub(super) enum Arrived {
    Frame(Kind, Bytes),
    /// A call whose task is larger than this node takes; its name.
    TooLarge(String),
}

/// Frames as they arrive. Memory grows with what is there, not with what is announced.
pub(super) struct Frames<R> {
    reader: R,
    arrived: BytesMut,
    most: usize,
    skipping: Option<Skipping>,
    pub(super) hello: Hello,
}

/// A call that is too large: its task is thrown away as it arrives, and its name stands behind that.
struct Skipping {
    body: usize,
    rest: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// `most_body` is the largest task that is read.
    pub(super) fn new(reader: R, most_body: usize) -> Self {
        let most = most_body + MOST_BESIDE;
        Frames { reader, arrived: BytesMut::new(), most, skipping: None, hello: Hello::default() }
    }

    /// What comes next; none if the connection is over, or what comes is no frame. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Option<Arrived> {
        loop {
            let missing = if self.skipping.is_some() {
                match self.skip()? {
                    Ok(call) => return Some(Arrived::TooLarge(call)),
                    Err(missing) => missing,
                }
            } else {
                match self.arrived.first_chunk::<HEADER_BYTES>() {
                    None => HEADER_BYTES - self.arrived.len(),
                    Some(head) => {
                        let header = Header::read(head).ok()?;
                        let length = usize::try_from(header.length).ok()?;
                        if length > self.most {
                            match self.begin_to_skip(&header, length)? {
                                Ok(()) => continue,
                                Err(missing) => missing,
                            }
                        } else if self.arrived.len() >= HEADER_BYTES + length {
                            self.arrived.advance(HEADER_BYTES);
                            let payload = self.arrived.split_to(length).freeze();
                            // A published relay may know kinds of frames that we do not.
                            let Ok(kind) = header.judge(self.hello.words()) else { continue };
                            return Some(Arrived::Frame(kind, payload));
                        } else {
                            HEADER_BYTES + length - self.arrived.len()
                        }
                    }
                }
            };
            self.arrived.reserve(missing.min(CHUNK));
            if self.reader.read_buf(&mut self.arrived).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Finds out what of a frame that is too large is a task; `Err` says how many bytes are missing for that. None if it is
    /// no call.
    fn begin_to_skip(&mut self, header: &Header, length: usize) -> Option<Result<(), usize>> {
        if header.judge(self.hello.words()) != Ok(Kind::Call) {
            return None;
        }
        let Some(begin) = self.arrived.get(HEADER_BYTES..HEADER_BYTES + Outline::BYTES) else {
            return Some(Err(HEADER_BYTES + Outline::BYTES - self.arrived.len()));
        };
        let Outline { front, body } = Outline::read(begin)?;
        let rest = length.checked_sub(front + body).filter(|rest| *rest <= MOST_BESIDE)?;
        self.arrived.advance(HEADER_BYTES + front);
        self.skipping = Some(Skipping { body, rest });
        Some(Ok(()))
    }

    /// Throws away what has arrived of a task; the name of its call when all of it has, or how many bytes are missing.
    fn skip(&mut self) -> Option<Result<String, usize>> {
        let Some(Skipping { body, rest }) = &mut self.skipping else { return None };
        let n = self.arrived.len().min(*body);
        self.arrived.advance(n);
        *body -= n;
        if *body > 0 || self.arrived.len() < *rest {
            return Some(Err(*body + *rest - self.arrived.len()));
        }
        let rest = self.arrived.split_to(*rest);
        self.skipping = None;
        words::call_of_rest(&rest).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::relay::{Facts, write_call};
    use tokio::io::AsyncWriteExt as _;
    use uuid::Uuid;

    fn call(body: usize) -> (Uuid, Vec<u8>) {
        let call = Uuid::new_v4();
        let facts = Facts { consumer_token: Some("c".repeat(300)), traceparent: Some("t".into()), ..Facts::default() };
        (call, write_call(call, &Bytes::from(vec![b'x'; body]), &facts).concat())
    }

    #[tokio::test]
    async fn of_a_task_that_is_too_large_only_the_calls_name_is_kept() {
        let (large, mut bytes) = call(200_000);
        let (small, more) = call(100);
        bytes.extend(more);
        // However it is cut.
        for chunk in [1, 7, 65_536] {
            let (mut writer, reader) = tokio::io::duplex(chunk);
            let sent = bytes.clone();
            tokio::spawn(async move { writer.write_all(&sent).await });
            let mut frames = Frames::new(reader, 1_000);
            let Some(Arrived::TooLarge(name)) = frames.next().await else { panic!("it is not too large") };
            assert_eq!(name, large.to_string());
            assert!(frames.arrived.capacity() <= 2 * CHUNK, "{} bytes are held", frames.arrived.capacity());
            let Some(Arrived::Frame(Kind::Call, payload)) = frames.next().await else { panic!("the next is lost") };
            assert_eq!(words::Call::read(&payload).unwrap().call, small.to_string());
            assert!(frames.next().await.is_none());
        }
    }

    #[tokio::test]
    async fn what_is_too_large_and_no_call_ends_the_session() {
        let (_, mut bytes) = call(200_000);
        bytes[5] = Kind::Ping.byte();
        assert!(Frames::new(&bytes[..], 1_000).next().await.is_none());
        let (_, mut bytes) = call(200_000);
        bytes[HEADER_BYTES + 1] = 15;
        assert!(Frames::new(&bytes[..], 1_000).next().await.is_none(), "the task does not stand first");
        let (_, mut bytes) = call(200_000);
        bytes[HEADER_BYTES + 4] = 0;
        assert!(Frames::new(&bytes[..], 1_000).next().await.is_none(), "too much stands behind the task");
    }
}
