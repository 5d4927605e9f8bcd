//! The messages of a session, everything but tasks and their answers: greeting, liveness, goodbye, and what a worker binds
//! to a relay with.
//!
//! Fields that are missing or unknown are normal; a field of the wrong kind is not.

use super::cbor::{MapWriter, Reader, Result, ValueKind};
use super::frame::{Kind, Reason, begin, end};

/// Most capabilities, models or the like of which note is taken; further ones are read over.
const MAX_LISTED: usize = 64;
/// Most bytes that a ping may want back.
pub(crate) const MAX_ECHO: usize = 64;
/// The one way to compress there is.
pub(crate) const GZIP: &str = "gzip";

/// Reads a message: a map with integer keys, and nothing behind it.
pub(super) fn read<'a>(payload: &'a [u8], mut field: impl FnMut(u64, &mut Reader<'a>) -> Result<()>) -> Result<()> {
    let mut reader = Reader::new(payload);
    reader.map(|key, value| {
        // What is null is not there.
        if value.peek()? == ValueKind::Nothing { value.skip() } else { field(key, value) }
    })?;
    reader.end()
}

/// Writes a message as one frame.
pub(super) fn write(out: &mut Vec<u8>, kind: Kind, fill: impl FnOnce(&mut MapWriter<'_>)) -> Result<()> {
    let begun = begin(out, kind, 0);
    let mut map = MapWriter::begin(out);
    fill(&mut map);
    map.end();
    end(out, begun)
}

fn texts<'a>(value: &mut Reader<'a>) -> Result<Vec<&'a str>> {
    let mut all = Vec::new();
    value.array(|value| {
        let text = value.text()?;
        if all.len() < MAX_LISTED {
            all.push(text);
        }
        Ok(())
    })?;
    Ok(all)
}

/// What a client says first. It may hold a credential, and so has no `Debug`.
#[derive(Default)]
pub(crate) struct Init<'a> {
    /// Published clients say nothing but this.
    pub(crate) version: Option<u64>,
    pub(crate) min_version: Option<u64>,
    pub(crate) node_id: Option<&'a str>,
    pub(crate) node_token: Option<&'a str>,
    pub(crate) capabilities: Vec<&'a str>,
    pub(crate) compression: Vec<&'a str>,
    pub(crate) max_frame_size: Option<u64>,
}

impl<'a> Init<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let mut init = Init::default();
        read(payload, |key, value| {
            match key {
                1 => init.version = Some(value.uint()?),
                2 => init.min_version = Some(value.uint()?),
                3 => init.node_id = Some(value.text()?),
                4 => init.node_token = Some(value.text()?),
                5 => init.capabilities = texts(value)?,
                6 => init.compression = texts(value)?,
                7 => init.max_frame_size = Some(value.uint()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(init)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        write(out, Kind::Init, |map| {
            map.uint(1, self.version)
                .uint(2, self.min_version)
                .text(3, self.node_id)
                .text(4, self.node_token)
                .texts(5, self.min_version.map(|_| &self.capabilities[..]))
                .texts(6, some(&self.compression))
                .uint(7, self.max_frame_size);
        })
    }
}

fn some<T>(list: &[T]) -> Option<&[T]> {
    (!list.is_empty()).then_some(list)
}

/// What a server answers to that.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ack<'a> {
    pub(crate) version: Option<u64>,
    pub(crate) node_id: Option<&'a str>,
    /// Published servers leave it out, and everything below.
    pub(crate) capabilities: Option<Vec<&'a str>>,
    pub(crate) compression: Option<&'a str>,
    pub(crate) max_frame_size: Option<u64>,
    pub(crate) server_time: Option<u64>,
}

impl<'a> Ack<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let mut ack = Ack::default();
        read(payload, |key, value| {
            match key {
                1 => ack.version = Some(value.uint()?),
                2 => ack.node_id = Some(value.text()?),
                3 => ack.capabilities = Some(texts(value)?),
                4 => ack.compression = Some(value.text()?),
                5 => ack.max_frame_size = Some(value.uint()?),
                6 => ack.server_time = Some(value.uint()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(ack)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        write(out, Kind::Ack, |map| {
            map.uint(1, self.version)
                .text(2, self.node_id)
                .texts(3, self.capabilities.as_deref())
                .text(4, self.compression)
                .uint(5, self.max_frame_size)
                .uint(6, self.server_time);
        })
    }
}

/// Reads what a ping wants back, or a pong brings: nothing, if it holds nothing.
pub(crate) fn read_echo(payload: &[u8]) -> Result<Option<&[u8]>> {
    let mut echo = None;
    if payload.is_empty() {
        return Ok(None);
    }
    read(payload, |key, value| {
        match key {
            1 => echo = Some(value.bytes()?),
            _ => value.skip()?,
        }
        Ok(())
    })?;
    if echo.is_some_and(|echo| echo.len() > MAX_ECHO) { Err(Reason::InvalidPayload) } else { Ok(echo) }
}

/// Writes a ping or a pong.
pub(crate) fn write_echo(out: &mut Vec<u8>, kind: Kind, echo: Option<&[u8]>) -> Result<()> {
    write(out, kind, |map| {
        map.bytes(1, echo);
    })
}

/// Why the other side closes. Published peers give no reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Close<'a> {
    pub(crate) reason: Option<&'a str>,
    pub(crate) message: Option<&'a str>,
}

impl<'a> Close<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let mut close = Close::default();
        if payload.is_empty() {
            return Ok(close);
        }
        read(payload, |key, value| {
            match key {
                1 => close.reason = Some(value.text()?),
                2 => close.message = Some(value.text()?),
                3 => value.skip_kind(ValueKind::Text)?,
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(close)
    }
}

/// Writes why we close.
pub(crate) fn write_close(out: &mut Vec<u8>, reason: Reason, message: Option<&str>) -> Result<()> {
    write(out, Kind::Close, |map| {
        map.text(1, reason.as_str()).text(2, message);
    })
}

/// Reads which call is to end; between peers that agreed on it.
pub(crate) fn read_cancel(payload: &[u8]) -> Result<&str> {
    let mut call_id = None;
    read(payload, |key, value| {
        match key {
            1 => call_id = Some(value.text()?),
            _ => value.skip()?,
        }
        Ok(())
    })?;
    call_id.ok_or(Reason::InvalidPayload)
}

/// Writes which call is to end.
pub(crate) fn write_cancel(out: &mut Vec<u8>, kind: Kind, call_id: &str) -> Result<()> {
    write(out, kind, |map| {
        map.text(1, call_id);
    })
}

/// The intent of a query for nodes, and its session: published clients have a session under 2 and the intent under 3, the
/// specification has the intent under 1 and a limit under 2.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Discover<'a> {
    pub(crate) intent: Option<&'a str>,
    pub(crate) session_id: Option<&'a str>,
}

impl<'a> Discover<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let (mut discover, mut region) = (Discover::default(), None);
        read(payload, |key, value| {
            match (key, value.peek()?) {
                (1, _) => discover.intent = Some(value.text()?),
                (2, ValueKind::Text) => discover.session_id = Some(value.text()?),
                (2, _) => value.skip_kind(ValueKind::Uint)?,
                (3, _) => region = Some(value.text()?),
                (4, _) => value.skip_kind(ValueKind::Array)?,
                (5, _) => value.skip_kind(ValueKind::Float)?,
                _ => value.skip()?,
            }
            Ok(())
        })?;
        if discover.session_id.is_some() && discover.intent.is_none() {
            discover.intent = region;
        }
        Ok(discover)
    }

    /// Writes the answer that published nodes give: none but themselves, and so no node.
    pub(crate) fn write_answer(&self, out: &mut Vec<u8>) -> Result<()> {
        write(out, Kind::Response, |map| {
            map.text(2, self.session_id).text(3, self.intent).texts(20, &[][..]);
        })
    }
}

/// What a worker asks of a relay. It holds a ticket, and so has no `Debug`.
#[derive(Default)]
pub(crate) struct RelayBind<'a> {
    pub(crate) worker_id: &'a str,
    pub(crate) intent: Option<&'a str>,
    pub(crate) models: Vec<&'a str>,
    pub(crate) ticket: Option<&'a str>,
}

impl<'a> RelayBind<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let mut bind = RelayBind::default();
        read(payload, |key, value| {
            match (key, value.peek()?) {
                (1, ValueKind::Bytes) => {
                    bind.worker_id = std::str::from_utf8(value.bytes()?).map_err(|_| Reason::InvalidPayload)?;
                }
                (1, _) => bind.worker_id = value.text()?,
                (2, _) => bind.intent = Some(value.text()?),
                (3, _) => bind.models = texts(value)?,
                (4, _) => bind.ticket = Some(value.text()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        if bind.worker_id.is_empty() { Err(Reason::InvalidPayload) } else { Ok(bind) }
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        write(out, Kind::RELAY_BIND, |map| {
            map.text(1, self.worker_id).text(2, self.intent).texts(3, &self.models[..]).text(4, self.ticket);
        })
    }
}

/// What the relay answers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RelayAck<'a> {
    pub(crate) ok: bool,
    pub(crate) worker_id: Option<&'a str>,
    /// Why not.
    pub(crate) reason: Option<&'a str>,
    /// Where the relay takes tasks for the worker.
    pub(crate) http_port: Option<u64>,
}

impl<'a> RelayAck<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let mut ack = RelayAck::default();
        read(payload, |key, value| {
            match key {
                1 => ack.ok = value.text()? == "ok",
                2 => ack.worker_id = Some(value.text()?),
                3 => ack.reason = Some(value.text()?),
                4 => ack.http_port = Some(value.uint()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(ack)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        write(out, Kind::RELAY_ACK, |map| {
            map.text(1, if self.ok { "ok" } else { "error" })
                .text(2, self.worker_id)
                .text(3, self.reason)
                .uint(4, self.http_port);
        })
    }
}

/// Checks a message that nothing here acts on: it must be well-formed all the same.
pub(crate) fn check(kind: Kind, payload: &[u8]) -> Result<()> {
    use ValueKind::{Array, Float, Map, Text, Uint};
    let fields: &[(u64, ValueKind)] = match kind {
        Kind::SubProtocol => &[(1, Text), (2, Text), (3, Map), (4, Text)],
        Kind::Feedback => &[(1, Text), (2, Float), (3, Uint), (4, Text), (5, Text)],
        Kind::Control => &[(1, Text), (2, Uint), (3, Uint), (4, Text)],
        Kind::Advertise => &[(1, Text), (2, Array), (3, Float), (4, Text), (5, Text), (6, Float)],
        Kind::Observe => &[(1, Text), (2, Text), (3, Text), (4, Map), (5, Uint)],
        Kind::Telemetry => &[(1, Text), (2, Uint), (3, Map)],
        _ => &[],
    };
    read(payload, |key, value| match (kind, key) {
        (Kind::Telemetry, 4) => exactly::<16>(value).map(drop),
        (Kind::Telemetry, 5) => exactly::<8>(value).map(drop),
        _ => match fields.iter().find(|(known, _)| *known == key) {
            Some((_, wanted)) => value.skip_kind(*wanted),
            None => value.skip(),
        },
    })
}

/// Reads bytes that must be so many.
pub(super) fn exactly<'a, const N: usize>(value: &mut Reader<'a>) -> Result<&'a [u8; N]> {
    value.bytes()?.try_into().map_err(|_| Reason::InvalidPayload)
}
