//! Bytes of a connection into whole messages: parted, compressed or as they are.

use bytes::{Buf as _, Bytes, BytesMut};

use super::fragment::Reassembly;
use super::frame::{COMPRESSED, CustomKinds, FRAGMENTED, HEADER_BYTES, Header, Kind, NotIicp, Reason};
use super::gzip::inflate;

/// A message, whole and inflated.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) payload: Bytes,
}

/// Why nothing more is read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another protocol: closed without a word.
    NotIicp,
    /// Closed with a reason.
    Close(Reason),
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Fault {
        Fault::Close(reason)
    }
}

impl From<NotIicp> for Fault {
    fn from(_: NotIicp) -> Fault {
        Fault::NotIicp
    }
}

/// What a connection has to remember between its messages.
#[derive(Default)]
pub(crate) struct Inbound {
    /// Custom types that were agreed on.
    pub(crate) agreed: CustomKinds,
    /// Whether messages in parts are taken: not before the peer has introduced itself.
    pub(crate) parts: bool,
    /// Whether compressed messages are refused: the peer was not told that it may send any.
    pub(crate) uncompressed: bool,
    /// Made when the first part comes; few peers send any.
    reassembly: Option<Box<Reassembly>>,
}

impl Inbound {
    /// Takes the next whole message from what has arrived. Bytes of a frame are looked at once it is whole; its header as
    /// soon as it is there.
    ///
    /// # Errors
    /// What is wrong with the frame; nothing more can be read.
    pub(crate) fn next(&mut self, arrived: &mut BytesMut, now_ms: u64) -> Result<Option<Message>, Fault> {
        while let Some((header, kind)) = self.header(arrived)? {
            let length = header.length as usize;
            if arrived.len() < HEADER_BYTES + length {
                return Ok(None);
            }
            arrived.advance(HEADER_BYTES);
            let payload = arrived.split_to(length).freeze();
            let (flags, payload) = match header.flags & FRAGMENTED {
                0 => (header.flags, payload),
                _ => match self.part(kind, header.flags, &payload, now_ms)? {
                    Some(whole) => whole,
                    None => continue,
                },
            };
            let payload = match flags & COMPRESSED {
                0 => payload,
                _ if self.uncompressed => return Err(Reason::ProtocolError.into()),
                _ => inflate(&payload)?.into(),
            };
            return Ok(Some(Message { kind, payload }));
        }
        Ok(None)
    }

    /// The header of the frame that has begun, if it is whole and the frame may be read.
    fn header(&self, arrived: &BytesMut) -> Result<Option<(Header, Kind)>, Fault> {
        let Some(header) = arrived.first_chunk::<HEADER_BYTES>() else {
            let known = arrived.len().min(super::frame::MAGIC.len());
            return if arrived[..known] == super::frame::MAGIC[..known] { Ok(None) } else { Err(Fault::NotIicp) };
        };
        let header = Header::read(header)?;
        let kind = header.judge(self.agreed)?;
        Ok(Some((header, kind)))
    }

    fn part(&mut self, kind: Kind, flags: u8, payload: &[u8], now_ms: u64) -> Result<Option<(u8, Bytes)>, Reason> {
        if !self.parts {
            return Err(Reason::ProtocolError);
        }
        let reassembly = self.reassembly.get_or_insert_default();
        let whole = reassembly.add(kind, flags, payload, now_ms)?;
        if reassembly.is_empty() {
            self.reassembly = None;
        }
        Ok(whole.map(|(flags, whole)| (flags, whole.into())))
    }

    /// How many bytes the frame that has begun still wants, as far as its header says.
    pub(crate) fn missing(&self, arrived: &BytesMut) -> usize {
        let whole = match self.header(arrived) {
            Ok(Some((header, _))) => HEADER_BYTES + header.length as usize,
            _ => HEADER_BYTES,
        };
        whole.saturating_sub(arrived.len())
    }

    /// # Errors
    /// `FragmentTimeout` if a message in parts has been incomplete for too long.
    pub(crate) fn check_time(&self, now_ms: u64) -> Result<(), Reason> {
        self.reassembly.as_ref().map_or(Ok(()), |reassembly| reassembly.check_time(now_ms))
    }

    /// Bytes held of messages that are not whole.
    pub(crate) fn held(&self) -> usize {
        self.reassembly.as_ref().map_or(0, |reassembly| reassembly.held())
    }
}
