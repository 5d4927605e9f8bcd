//! CBOR as the framed transport has it: maps with unsigned integer keys, written deterministically (RFC 8949, 4.2.1).
//!
//! The reader takes any order of keys and values of any kind under keys that it does not know, and looks through those too:
//! nothing is taken whose inside was not found well-formed. It is bounded in depth, in the keys it has to remember, and
//! allocates for nothing but those.

use super::frame::Reason;

/// How deeply a message may be nested, itself included.
pub(crate) const MAX_DEPTH: usize = 32;
/// Most keys that a message may have if the keys of one of its maps are not in order.
const MAX_REMEMBERED_KEYS: usize = 1 << 16;

/// Not CBOR.
const BROKEN: Reason = Reason::CborDecodeError;
/// CBOR, and not what belongs there.
const UNFIT: Reason = Reason::InvalidPayload;

pub(crate) type Result<T> = std::result::Result<T, Reason>;

pub(super) const UINT: u8 = 0;
const NEGATIVE: u8 = 1;
pub(super) const BYTES: u8 = 2;
pub(super) const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

/// What stands before a value: its major type, the low bits, and the number that they lead to.
#[derive(Clone, Copy)]
struct Head {
    major: u8,
    info: u8,
    value: u64,
}

/// What a value is, for those who take more than one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueKind {
    Uint,
    Bytes,
    Text,
    Array,
    Map,
    Bool,
    /// Any number passes for one.
    Float,
    /// Null or undefined.
    Nothing,
    Other,
}

/// A value, or what begins one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Item<'a> {
    Uint(u64),
    /// Minus one, minus this.
    Negative(u64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Array(u64),
    Map(u64),
    Tag,
    Bool(bool),
    Nothing,
    Float(f64),
    Simple,
}

/// A cursor over one message.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    keys_left: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, keys_left: MAX_REMEMBERED_KEYS }
    }

    /// Fails if there is something behind what was read.
    pub(crate) fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(BROKEN) }
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let n = usize::try_from(n).map_err(|_| BROKEN)?;
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(BROKEN)?;
        self.rest = rest;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head> {
        let first = self.take(1)?[0];
        let (major, info) = (first >> 5, first & 31);
        let value = match info {
            0..24 => u64::from(info),
            24..28 => self.take(1 << (info - 24))?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
            // The protocol forbids values of unknown length; where CBOR has none, it is not even CBOR.
            31 if (BYTES..=MAP).contains(&major) => return Err(UNFIT),
            _ => return Err(BROKEN),
        };
        if major == SIMPLE && info == 24 && value < 32 {
            return Err(BROKEN);
        }
        Ok(Head { major, info, value })
    }

    /// What comes next, without reading it.
    pub(crate) fn peek(&self) -> Result<ValueKind> {
        let first = *self.rest.first().ok_or(BROKEN)?;
        Ok(match (first >> 5, first & 31) {
            (UINT, _) => ValueKind::Uint,
            (BYTES, _) => ValueKind::Bytes,
            (TEXT, _) => ValueKind::Text,
            (ARRAY, _) => ValueKind::Array,
            (MAP, _) => ValueKind::Map,
            (SIMPLE, 20 | 21) => ValueKind::Bool,
            (SIMPLE, 22 | 23) => ValueKind::Nothing,
            (SIMPLE, 25..=27) => ValueKind::Float,
            _ => ValueKind::Other,
        })
    }

    fn expect(&mut self, major: u8) -> Result<u64> {
        let head = self.head()?;
        if head.major == major { Ok(head.value) } else { Err(UNFIT) }
    }

    pub(crate) fn uint(&mut self) -> Result<u64> {
        self.expect(UINT)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.expect(BYTES)?;
        self.take(n)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str> {
        let n = self.expect(TEXT)?;
        std::str::from_utf8(self.take(n)?).map_err(|_| UNFIT)
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        let head = self.head()?;
        match (head.major, head.info) {
            (SIMPLE, 20) => Ok(false),
            (SIMPLE, 21) => Ok(true),
            _ => Err(UNFIT),
        }
    }

    /// Reads a list, each element by `each`.
    pub(crate) fn array(&mut self, mut each: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let n = self.expect(ARRAY)?;
        self.holds(n, 1)?;
        (0..n).try_for_each(|_| each(self))
    }

    /// Reads a map whose keys are unsigned integers; `value` must read the value of the key it is given.
    pub(crate) fn map(&mut self, mut value: impl FnMut(u64, &mut Self) -> Result<()>) -> Result<()> {
        let n = self.expect(MAP)?;
        self.holds(n, 2)?;
        let mut seen = SeenKeys::default();
        for _ in 0..n {
            let key = self.key(&mut seen)?;
            if key.major != UINT {
                return Err(UNFIT);
            }
            value(key.value, self)?;
        }
        seen.end()
    }

    /// Whether there can be so many values of at least so many bytes: nobody counts to 2^64 for a nine-byte message.
    fn holds(&self, n: u64, least: u64) -> Result<()> {
        if n.saturating_mul(least) > self.rest.len() as u64 { Err(BROKEN) } else { Ok(()) }
    }

    /// Reads a key and remembers it as far as it takes to find it again.
    fn key(&mut self, seen: &mut SeenKeys<'a>) -> Result<Head> {
        let start = self.rest;
        let head = self.head()?;
        // Two spellings of one number would be two keys; and what else could be a key, nobody uses.
        let shortest = match head.info {
            0..24 => true,
            24 => head.value >= 24,
            25 => head.value > 0xff,
            26 => head.value > 0xffff,
            _ => head.value > 0xffff_ffff,
        };
        if !shortest {
            return Err(UNFIT);
        }
        match head.major {
            UINT | NEGATIVE => {}
            BYTES => {
                self.take(head.value)?;
            }
            TEXT => {
                std::str::from_utf8(self.take(head.value)?).map_err(|_| UNFIT)?;
            }
            _ => return Err(UNFIT),
        }
        seen.add(head, &start[..start.len() - self.rest.len()], &mut self.keys_left)?;
        Ok(head)
    }

    /// Reads over a value that must be of this kind.
    pub(crate) fn skip_kind(&mut self, kind: ValueKind) -> Result<()> {
        let found = self.peek()?;
        let number = kind == ValueKind::Float && found == ValueKind::Uint;
        if found != kind && !number {
            // Broken is worse than unfit.
            self.skip()?;
            return Err(UNFIT);
        }
        self.skip()
    }

    /// Reads a value, or the beginning of a list, a map or a tagged value.
    pub(super) fn item(&mut self) -> Result<Item<'a>> {
        let head = self.head()?;
        Ok(match head.major {
            UINT => Item::Uint(head.value),
            NEGATIVE => Item::Negative(head.value),
            BYTES => Item::Bytes(self.take(head.value)?),
            TEXT => Item::Text(std::str::from_utf8(self.take(head.value)?).map_err(|_| UNFIT)?),
            ARRAY => Item::Array(head.value),
            MAP => Item::Map(head.value),
            TAG => Item::Tag,
            _ => match head.info {
                20 | 21 => Item::Bool(head.info == 21),
                22 | 23 => Item::Nothing,
                25 => Item::Float(half(head.value)),
                26 => Item::Float(f64::from(f32::from_bits(u32::try_from(head.value).map_err(|_| BROKEN)?))),
                27 => Item::Float(f64::from_bits(head.value)),
                _ => Item::Simple,
            },
        })
    }

    /// Reads over the next value, whatever it is.
    pub(crate) fn skip(&mut self) -> Result<()> {
        // The map that the message is takes one level.
        self.look_through(MAX_DEPTH - 1)
    }

    /// Reads over the next value and gives it as it stands there.
    pub(crate) fn encoded(&mut self) -> Result<&'a [u8]> {
        let start = self.rest;
        self.skip()?;
        Ok(&start[..start.len() - self.rest.len()])
    }

    fn look_through(&mut self, depth: usize) -> Result<()> {
        let head = self.head()?;
        let inside = || depth.checked_sub(1).ok_or(UNFIT);
        match head.major {
            BYTES => {
                self.take(head.value)?;
            }
            TEXT => {
                std::str::from_utf8(self.take(head.value)?).map_err(|_| UNFIT)?;
            }
            ARRAY => {
                let depth = inside()?;
                self.holds(head.value, 1)?;
                for _ in 0..head.value {
                    self.look_through(depth)?;
                }
            }
            MAP => {
                let depth = inside()?;
                self.holds(head.value, 2)?;
                let mut seen = SeenKeys::default();
                for _ in 0..head.value {
                    self.key(&mut seen)?;
                    self.look_through(depth)?;
                }
                seen.end()?;
            }
            TAG => self.look_through(inside()?)?,
            _ => {}
        }
        Ok(())
    }
}

/// A number of half precision: a sign, five bits of exponent, ten of fraction.
fn half(bits: u64) -> f64 {
    let fraction = f64::from(u32::try_from(bits & 0x3ff).unwrap_or_default());
    let size = match bits >> 10 & 0x1f {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (fraction + 1024.0) * 2_f64.powi(i32::try_from(exponent).unwrap_or_default() - 25),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

/// The keys of one map, as they are written. A map whose keys are in order never needs to look at them again.
#[derive(Default)]
struct SeenKeys<'a> {
    /// The protocol's own keys, a bit for each.
    small: u64,
    last: &'a [u8],
    others: Vec<&'a [u8]>,
    unordered: bool,
}

impl<'a> SeenKeys<'a> {
    fn add(&mut self, head: Head, key: &'a [u8], left: &mut usize) -> Result<()> {
        if head.major == UINT && head.value < 64 {
            let bit = 1 << head.value;
            let twice = self.small & bit != 0;
            self.small |= bit;
            return if twice { Err(UNFIT) } else { Ok(()) };
        }
        self.unordered |= key <= self.last;
        self.last = key;
        match left.checked_sub(1) {
            Some(fewer) => {
                *left = fewer;
                self.others.push(key);
                Ok(())
            }
            None if self.unordered => Err(UNFIT),
            None => Ok(()),
        }
    }

    fn end(mut self) -> Result<()> {
        if !self.unordered {
            return Ok(());
        }
        self.others.sort_unstable();
        if self.others.windows(2).any(|pair| pair[0] == pair[1]) { Err(UNFIT) } else { Ok(()) }
    }
}

/// Writes one map: keys ascending, values in their shortest form, as the deterministic encoding wants it. A value that is
/// `None` is left out with its key.
pub(crate) struct MapWriter<'b> {
    out: &'b mut Vec<u8>,
    /// Where the map's own head stands, which says how many entries there are.
    at: usize,
    entries: u8,
    #[cfg(debug_assertions)]
    last: Option<u64>,
}

/// Most entries of a map whose head is one byte; no message of the protocol has more.
const MOST_ENTRIES: u8 = 23;

impl<'b> MapWriter<'b> {
    pub(crate) fn begin(out: &'b mut Vec<u8>) -> Self {
        let at = out.len();
        out.push(MAP << 5);
        MapWriter {
            out,
            at,
            entries: 0,
            #[cfg(debug_assertions)]
            last: None,
        }
    }

    fn key(&mut self, key: u64) {
        #[cfg(debug_assertions)]
        {
            assert!(self.last.is_none_or(|last| last < key) && self.entries < MOST_ENTRIES, "keys ascend, and are few");
            self.last = Some(key);
        }
        self.entries += 1;
        write_head(self.out, UINT, key);
    }

    pub(crate) fn uint(&mut self, key: u64, value: impl Into<Option<u64>>) -> &mut Self {
        let Some(value) = value.into() else { return self };
        self.key(key);
        write_head(self.out, UINT, value);
        self
    }

    pub(crate) fn bool(&mut self, key: u64, value: impl Into<Option<bool>>) -> &mut Self {
        let Some(value) = value.into() else { return self };
        self.key(key);
        self.out.push(SIMPLE << 5 | 20 | u8::from(value));
        self
    }

    pub(crate) fn bytes<'v>(&mut self, key: u64, value: impl Into<Option<&'v [u8]>>) -> &mut Self {
        let Some(value) = value.into() else { return self };
        self.key(key);
        write_head(self.out, BYTES, value.len() as u64);
        self.out.extend_from_slice(value);
        self
    }

    pub(crate) fn text<'v>(&mut self, key: u64, value: impl Into<Option<&'v str>>) -> &mut Self {
        let Some(value) = value.into() else { return self };
        self.key(key);
        write_text(self.out, value);
        self
    }

    pub(crate) fn texts<'v>(&mut self, key: u64, values: impl Into<Option<&'v [&'v str]>>) -> &mut Self {
        let Some(values) = values.into() else { return self };
        self.key(key);
        write_head(self.out, ARRAY, values.len() as u64);
        for value in values {
            write_text(self.out, value);
        }
        self
    }

    /// A value that is CBOR already.
    pub(crate) fn encoded(&mut self, key: u64, value: &[u8]) -> &mut Self {
        self.key(key);
        self.out.extend_from_slice(value);
        self
    }

    pub(crate) fn map<T>(&mut self, key: u64, value: Option<T>, fill: impl FnOnce(&mut MapWriter<'_>, T)) -> &mut Self {
        let Some(value) = value else { return self };
        self.key(key);
        let mut inside = MapWriter::begin(self.out);
        fill(&mut inside, value);
        inside.end();
        self
    }

    pub(crate) fn end(&mut self) {
        self.out[self.at] = MAP << 5 | self.entries.min(MOST_ENTRIES);
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    write_head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Writes a head in its shortest form.
// Every cast is of a value that was found to fit.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn write_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    match value {
        0..24 => out.push(major | value as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, value as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(hex: &str) -> Result<()> {
        let bytes = bytes(hex);
        let mut reader = Reader::new(&bytes);
        reader.map(|_, reader| reader.skip())?;
        reader.end()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn any_order_and_any_kind_of_value_is_read() {
        for hex in [
            "a0",
            "a1000a",
            "a20f610302f6",
            "a101a2616101616202",
            "a101a2616202616101",
            "a101fb3ff199999999999a",
            "a101c11a514b67b0",
            "a101f0",
            "a101f820",
            "a1017903e8".to_owned().as_str(),
        ] {
            let longer = if hex.ends_with("03e8") { format!("{hex}{}", "61".repeat(1000)) } else { hex.into() };
            assert_eq!(read(&longer), Ok(()), "{hex}");
        }
    }

    #[test]
    fn what_is_not_cbor_and_what_does_not_belong_are_told_apart() {
        for (hex, reason) in [
            ("", BROKEN),
            ("a1", BROKEN),
            ("a101", BROKEN),
            ("a10162", BROKEN),
            ("a0a0", BROKEN),
            ("a1011c", BROKEN),
            ("a101f818", BROKEN),
            ("a101ff", BROKEN),
            ("bb0000000100000000", BROKEN),
            ("a1019bffffffffffffffff", BROKEN),
            ("a1015bffffffffffffffff00", BROKEN),
            ("80", UNFIT),
            ("a1613100", UNFIT),
            ("a12000", UNFIT),
            ("a1f500", UNFIT),
            ("bf0100ff", UNFIT),
            ("a1019f00ff", UNFIT),
            ("a1015f4100ff", UNFIT),
            ("a10162c328", UNFIT),
        ] {
            assert_eq!(read(hex), Err(reason), "{hex}");
        }
    }

    #[test]
    fn a_key_comes_once_however_it_is_spelled_and_however_deep() {
        for hex in [
            "a201000100",
            "a2010018010a",
            "a11800a0",
            "a2186400186400",
            "a101a2616101616102",
            "a101a3616201616101616202",
            "a101a2410001410001",
            "a101a220002000",
        ] {
            assert_eq!(read(hex), Err(UNFIT), "{hex}");
        }
    }

    #[test]
    fn nesting_ends_at_its_bound() {
        let nested = |levels: usize, open: &str| format!("a101{}00", open.repeat(levels));
        for open in ["81", "a100", "c1"] {
            assert_eq!(read(&nested(MAX_DEPTH - 1, open)), Ok(()), "{open}");
            assert_eq!(read(&nested(MAX_DEPTH, open)), Err(UNFIT), "{open}");
        }
        assert_eq!(read(&nested(1_000_000, "81")), Err(UNFIT));
    }

    #[test]
    fn a_million_keys_are_read_in_order_and_refused_in_disorder() {
        let map = |keys: &mut dyn Iterator<Item = u32>| {
            let mut out = vec![0xa1, 1, 0xba];
            out.extend_from_slice(&1_000_000_u32.to_be_bytes());
            keys.for_each(|key| {
                write_head(&mut out, UINT, u64::from(key) + 64);
                out.push(0xf6);
            });
            let mut reader = Reader::new(&out);
            reader.map(|_, reader| reader.skip())
        };
        assert_eq!(map(&mut (0..1_000_000)), Ok(()));
        assert_eq!(map(&mut (0..1_000_000).rev()), Err(UNFIT));
    }

    #[test]
    fn what_is_written_is_deterministic() {
        let mut out = Vec::new();
        let mut map = MapWriter::begin(&mut out);
        map.uint(1, 1).text(2, "é").texts(3, &["a"][..]).text(4, None).bytes(5, &[0; 24][..]).bool(12, true);
        map.map(13, Some(300), |inside, value| {
            inside.uint(2, value);
        });
        map.uint(20, 70_000).encoded(24, &[0xf6]).uint(300, 1 << 40);
        map.end();
        let zeros = "00".repeat(24);
        let expected = format!(
            "a9010102 62c3a9 0381 6161 055818{zeros} 0cf5 0da1 0219012c 141a00011170 1818f6 19012c1b0000010000000000"
        );
        assert_eq!(out, bytes(&expected.replace(' ', "")));
        let value: ciborium::Value = ciborium::from_reader(&out[..]).unwrap();
        let mut again = Vec::new();
        ciborium::into_writer(&value, &mut again).unwrap();
        assert_eq!(out, again, "the shortest form of everything");
    }
}
