//! Times as the protocol writes them: RFC 3339, to the second.

use jiff::Timestamp;

/// Seconds since 1970 of a time such as `2026-01-31T12:00:00Z`, with a fraction, which is cut off, or another offset if
/// need be. None for everything else.
pub(crate) fn unix_seconds(text: &str) -> Option<i64> {
    // jiff reads more spellings than RFC 3339 has.
    let is = |(at, any): (usize, &[u8])| text.as_bytes().get(at).is_some_and(|b| any.contains(b));
    let marks = [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")];
    let zoned = matches!(text.as_bytes(), [.., b'Z' | b'z'] | [.., b'+' | b'-', _, _, b':', _, _]);
    if !zoned || !marks.into_iter().all(is) {
        return None;
    }
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// A moment in that form; the last one that has it for those after.
pub(crate) fn rfc3339(unix_s: u64) -> String {
    let moment = i64::try_from(unix_s).ok().and_then(|s| Timestamp::from_second(s).ok());
    moment.unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_peers_write_it_and_nothing_else_is() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2026-11-27T15:56:28Z", 1_795_794_988),
            ("2026-11-27t15:56:28.123456+00:00", 1_795_794_988),
            ("2026-11-27 17:26:28+01:30", 1_795_794_988),
            ("2024-02-29T00:00:00Z", 1_709_164_800),
            ("2000-02-29t23:59:59z", 951_868_799),
            ("1900-03-01T00:00:00Z", -2_203_891_200),
            ("2000-12-31T23:59:59-00:01", 978_307_259),
        ] {
            assert_eq!(unix_seconds(text), Some(seconds), "{text}");
        }
        for bad in [
            "",
            "soon",
            "2026-11-27",
            "2026-11-27T15:56:28",
            "2026-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2026-11-27T15:56Z",
            "20261127T155628Z",
            "2026-11-27T15:56:28Z[UTC]",
            "1900-02-29T12:00:00Z",
            "2026-08-14T24:00:00Z",
            "2026-08-14T12:00:00.Z",
            "2026-11-27T15:56:28+1",
            "2026-11-27T15:56:28+2:00",
            "2026-11-27T15:56:28+0200",
            "2026-08-14T12:00:00Zx",
            "+026-08-14T12:00:00Z",
            "2026-11-27T15:56:28\u{e9}",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(unix_seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for unix_s in [0, 1_795_794_988, 253_402_207_200] {
            assert_eq!(unix_seconds(&rfc3339(unix_s)), i64::try_from(unix_s).ok());
        }
        assert_eq!(rfc3339(u64::MAX).get(..4), Some("9999"));
    }
}
