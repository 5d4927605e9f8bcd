//! Messages in parts: put together under every bound that there is, and parted for those who take them.

use std::collections::BTreeMap;

use super::cbor::{MapWriter, Reader};
use super::frame::{FRAGMENTED, Kind, MAX_PAYLOAD, Reason, begin, end};

/// Most parts of a message.
pub(crate) const MAX_FRAGMENTS: u64 = 256;
/// Most messages of a connection that are not whole yet.
pub(crate) const MAX_INCOMPLETE: usize = 64;
/// Most bytes of those messages together.
pub(crate) const MAX_HELD: usize = 64 << 20;
/// How long a message may take from its first part to its last.
pub(crate) const TIMEOUT_MS: u64 = 30_000;
/// Bytes of a message in one part. A message of the largest size has as many parts as there may be.
pub(crate) const PART: usize = 64 << 10;
/// Most bytes of a message's id: twice a UUID's.
const MAX_ID: usize = 72;
/// What a part costs beside its bytes, so that empty ones are not for nothing.
const PART_COST: usize = 64;

/// One part, as it came.
struct Part<'a> {
    id: &'a str,
    seq: u64,
    total: u64,
    data: &'a [u8],
}

impl<'a> Part<'a> {
    fn read(payload: &'a [u8]) -> Result<Self, Reason> {
        let (mut id, mut seq, mut total, mut data) = (None, None, None, None);
        let mut reader = Reader::new(payload);
        reader.map(|key, value| {
            match key {
                1 => id = Some(value.text()?),
                2 => seq = Some(value.uint()?),
                3 => total = Some(value.uint()?),
                4 => data = Some(value.bytes()?),
                _ => drop(value.skip()?),
            }
            Ok(())
        })?;
        reader.end()?;
        let (Some(id), Some(seq), Some(total), Some(data)) = (id, seq, total, data) else {
            return Err(Reason::InvalidPayload);
        };
        if total > MAX_FRAGMENTS {
            return Err(Reason::FragmentLimitExceeded);
        }
        if id.is_empty() || id.len() > MAX_ID || seq >= total {
            return Err(Reason::InvalidPayload);
        }
        Ok(Part { id, seq, total, data })
    }
}

/// A message of which some parts have come.
struct Incomplete {
    kind: Kind,
    flags: u8,
    total: u64,
    since_ms: u64,
    /// The parts from the first on.
    whole: Vec<u8>,
    /// How many those are.
    next: u64,
    /// Parts that came before their turn.
    early: BTreeMap<u64, Box<[u8]>>,
    early_bytes: usize,
}

impl Incomplete {
    fn bytes(&self) -> usize {
        self.whole.len() + self.early_bytes
    }

    fn held(&self) -> usize {
        self.bytes() + PART_COST * (self.early.len() + 1)
    }

    fn add(&mut self, seq: u64, data: &[u8]) -> Result<(), Reason> {
        if self.bytes() + data.len() > MAX_PAYLOAD {
            return Err(Reason::FrameTooLarge);
        }
        if seq < self.next || self.early.contains_key(&seq) {
            return Err(Reason::InvalidPayload);
        }
        if seq > self.next {
            self.early_bytes += data.len();
            self.early.insert(seq, data.into());
            return Ok(());
        }
        self.whole.extend_from_slice(data);
        self.next += 1;
        while let Some(data) = self.early.remove(&self.next) {
            self.early_bytes -= data.len();
            self.whole.extend_from_slice(&data);
            self.next += 1;
        }
        Ok(())
    }
}

/// The messages of one connection that are not whole yet.
#[derive(Default)]
pub(crate) struct Reassembly {
    incomplete: BTreeMap<Box<str>, Incomplete>,
    held: usize,
}

impl Reassembly {
    /// Takes the payload of a frame that is a part; gives the message if it is whole now.
    ///
    /// # Errors
    /// Every one ends the connection, and with it everything that is held here.
    pub(crate) fn add(
        &mut self,
        kind: Kind,
        flags: u8,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Option<(u8, Vec<u8>)>, Reason> {
        self.check_time(now_ms)?;
        let part = Part::read(payload)?;
        let flags = flags & !FRAGMENTED;
        if !self.incomplete.contains_key(part.id) {
            if self.incomplete.len() >= MAX_INCOMPLETE {
                return Err(Reason::ReassemblyLimitExceeded);
            }
            let fresh = Incomplete {
                kind,
                flags,
                total: part.total,
                since_ms: now_ms,
                whole: Vec::new(),
                next: 0,
                early: BTreeMap::new(),
                early_bytes: 0,
            };
            self.held += fresh.held();
            self.incomplete.insert(part.id.into(), fresh);
        }
        let Some(message) = self.incomplete.get_mut(part.id) else { return Err(Reason::InvalidPayload) };
        if (message.kind, message.flags, message.total) != (kind, flags, part.total) {
            return Err(Reason::InvalidPayload);
        }
        if self.held + part.data.len() > MAX_HELD {
            return Err(Reason::ReassemblyLimitExceeded);
        }
        self.held -= message.held();
        message.add(part.seq, part.data)?;
        self.held += message.held();
        if message.next < message.total {
            return Ok(None);
        }
        let whole = self.incomplete.remove(part.id);
        Ok(whole.map(|message| {
            self.held -= message.held();
            (message.flags, message.whole)
        }))
    }

    /// # Errors
    /// `FragmentTimeout` if a message has been incomplete for too long.
    pub(crate) fn check_time(&self, now_ms: u64) -> Result<(), Reason> {
        let late = |message: &Incomplete| now_ms.saturating_sub(message.since_ms) > TIMEOUT_MS;
        if self.incomplete.values().any(late) { Err(Reason::FragmentTimeout) } else { Ok(()) }
    }

    /// Whether there is nothing to wait for.
    pub(crate) fn is_empty(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// Bytes that are held.
    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

/// Writes one part of a message as a frame. `flags` are the message's.
pub(crate) fn write_part(
    out: &mut Vec<u8>,
    kind: Kind,
    flags: u8,
    id: &str,
    seq: usize,
    message: &[u8],
) -> Result<(), Reason> {
    let data = message.chunks(PART).nth(seq).unwrap_or_default();
    let begun = begin(out, kind, flags | FRAGMENTED);
    let mut map = MapWriter::begin(out);
    map.text(1, id).uint(2, seq as u64).uint(3, parts(message) as u64).bytes(4, data).end();
    end(out, begun)
}

/// How many parts a message has.
pub(crate) fn parts(message: &[u8]) -> usize {
    message.len().div_ceil(PART)
}
