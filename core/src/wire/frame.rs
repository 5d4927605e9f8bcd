//! The header that every frame begins with, and why a connection is closed.

use std::fmt;

/// What every frame begins with.
pub(crate) const MAGIC: [u8; 4] = *b"IICP";
pub(crate) const HEADER_BYTES: usize = 12;
/// The only version there is.
pub(crate) const VERSION: u8 = 1;
/// Most bytes behind a header that we read.
pub(crate) const MAX_PAYLOAD: usize = 16 << 20;
/// Most bytes behind a header that we write: published nodes count the header too.
pub(crate) const MAX_SENT_PAYLOAD: usize = MAX_PAYLOAD - HEADER_BYTES;

/// The payload is compressed with gzip.
pub(crate) const COMPRESSED: u8 = 1;
/// The payload is a part of a message.
pub(crate) const FRAGMENTED: u8 = 2;

/// Why a connection is closed, as the other side is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Graceful,
    UnknownType,
    UnsupportedExtension,
    FrameTooLarge,
    PayloadTooLarge,
    VersionMismatch,
    VersionTooOld,
    AuthFailed,
    IdleTimeout,
    InitTimeout,
    ReadTimeout,
    ProtocolError,
    InvalidFrame,
    InvalidVersion,
    InvalidType,
    InvalidPayload,
    CborDecodeError,
    FragmentTimeout,
    FragmentLimitExceeded,
    ReassemblyLimitExceeded,
}

impl Reason {
    const ALL: [Reason; 20] = [
        Reason::Graceful,
        Reason::UnknownType,
        Reason::UnsupportedExtension,
        Reason::FrameTooLarge,
        Reason::PayloadTooLarge,
        Reason::VersionMismatch,
        Reason::VersionTooOld,
        Reason::AuthFailed,
        Reason::IdleTimeout,
        Reason::InitTimeout,
        Reason::ReadTimeout,
        Reason::ProtocolError,
        Reason::InvalidFrame,
        Reason::InvalidVersion,
        Reason::InvalidType,
        Reason::InvalidPayload,
        Reason::CborDecodeError,
        Reason::FragmentTimeout,
        Reason::FragmentLimitExceeded,
        Reason::ReassemblyLimitExceeded,
    ];

    /// Reads the word that a peer closed with; none for one that nobody knows.
    pub(crate) fn parse(word: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Reason::Graceful => "graceful",
            Reason::UnknownType => "unknown_type",
            Reason::UnsupportedExtension => "unsupported_extension",
            Reason::FrameTooLarge => "frame_too_large",
            Reason::PayloadTooLarge => "payload_too_large",
            Reason::VersionMismatch => "version_mismatch",
            Reason::VersionTooOld => "version_too_old",
            Reason::AuthFailed => "auth_failed",
            Reason::IdleTimeout => "idle_timeout",
            Reason::InitTimeout => "init_timeout",
            Reason::ReadTimeout => "read_timeout",
            Reason::ProtocolError => "protocol_error",
            Reason::InvalidFrame => "invalid_frame",
            Reason::InvalidVersion => "invalid_version",
            Reason::InvalidType => "invalid_type",
            Reason::InvalidPayload => "invalid_payload",
            Reason::CborDecodeError => "cbor_decode_error",
            Reason::FragmentTimeout => "fragment_timeout",
            Reason::FragmentLimitExceeded => "fragment_limit_exceeded",
            Reason::ReassemblyLimitExceeded => "reassembly_limit_exceeded",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a frame is, by its type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Init,
    Ack,
    Discover,
    SubProtocol,
    Call,
    Response,
    Close,
    Feedback,
    Ping,
    Pong,
    /// On the relay port, what a worker binds with.
    Control,
    /// On the relay port, the answer to that.
    Advertise,
    Observe,
    Telemetry,
    /// One of the types from 0xF0 that two peers have agreed on.
    Custom(u8),
}

impl Kind {
    /// In the order of their bytes, from 1.
    const CORE: [Kind; 14] = [
        Kind::Init,
        Kind::Ack,
        Kind::Discover,
        Kind::SubProtocol,
        Kind::Call,
        Kind::Response,
        Kind::Close,
        Kind::Feedback,
        Kind::Ping,
        Kind::Pong,
        Kind::Control,
        Kind::Advertise,
        Kind::Observe,
        Kind::Telemetry,
    ];
    pub(crate) const RELAY_BIND: Kind = Kind::Control;
    pub(crate) const RELAY_ACK: Kind = Kind::Advertise;

    fn from_byte(byte: u8, agreed: CustomKinds) -> Result<Kind, Reason> {
        match byte {
            0x00 | 0xff => Err(Reason::InvalidType),
            0x01..=0x0e => Ok(Kind::CORE[usize::from(byte) - 1]),
            0x0f..=0xef => Err(Reason::UnknownType),
            0xf0..=0xfe if agreed.0 & (1 << (byte - 0xf0)) != 0 => Ok(Kind::Custom(byte)),
            0xf0..=0xfe => Err(Reason::UnsupportedExtension),
        }
    }

    pub(crate) const fn byte(self) -> u8 {
        match self {
            Kind::Init => 0x01,
            Kind::Ack => 0x02,
            Kind::Discover => 0x03,
            Kind::SubProtocol => 0x04,
            Kind::Call => 0x05,
            Kind::Response => 0x06,
            Kind::Close => 0x07,
            Kind::Feedback => 0x08,
            Kind::Ping => 0x09,
            Kind::Pong => 0x0a,
            Kind::Control => 0x0b,
            Kind::Advertise => 0x0c,
            Kind::Observe => 0x0d,
            Kind::Telemetry => 0x0e,
            Kind::Custom(byte) => byte,
        }
    }
}

/// Which of the types from 0xF0 were agreed on, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CustomKinds(pub(crate) u16);

/// The first twelve bytes of a frame, as they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u8,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) length: u32,
}

/// The bytes are of some other protocol. Who speaks it gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotIicp;

impl Header {
    pub(crate) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Header, NotIicp> {
        let [a, b, c, d, version, kind, flags, _reserved, length @ ..] = *bytes;
        if [a, b, c, d] != MAGIC {
            return Err(NotIicp);
        }
        Ok(Header { version, kind, flags, length: u32::from_be_bytes(length) })
    }

    /// Whether the frame may be read at all, before a byte of it is.
    pub(crate) fn judge(&self, agreed: CustomKinds) -> Result<Kind, Reason> {
        // The upper half of the byte is reserved.
        match self.version & 0x0f {
            0 => return Err(Reason::InvalidVersion),
            VERSION => {}
            _ => return Err(Reason::VersionMismatch),
        }
        let kind = Kind::from_byte(self.kind, agreed)?;
        if self.length as usize > MAX_PAYLOAD {
            return Err(Reason::FrameTooLarge);
        }
        if self.length == 0 && matches!(kind, Kind::Call | Kind::Response) {
            return Err(Reason::InvalidFrame);
        }
        Ok(kind)
    }
}

/// Begins a frame; [`end`] says how long it became.
pub(crate) fn begin(out: &mut Vec<u8>, kind: Kind, flags: u8) -> usize {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, kind.byte(), flags, 0, 0, 0, 0, 0]);
    out.len()
}

/// Ends the frame that [`begin`] began.
///
/// # Errors
/// `FrameTooLarge`, and nothing is left of the frame, if it is more than a published node reads.
pub(crate) fn end(out: &mut Vec<u8>, begun: usize) -> Result<(), Reason> {
    match u32::try_from(out.len() - begun) {
        Ok(length) if length as usize <= MAX_SENT_PAYLOAD => {
            out[begun - 4..begun].copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(begun - HEADER_BYTES);
            Err(Reason::FrameTooLarge)
        }
    }
}
