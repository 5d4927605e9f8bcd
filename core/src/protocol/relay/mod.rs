//! The relay without sockets: who may be called what, who may bind, who is bound, and which relay a worker turns to.
//!
//! A *relay* lends its address to *workers*, nodes that nobody can reach. A worker binds its id at the relay over a
//! connection of its own; what is sent to the relay under that id goes to the worker.

pub(crate) mod bind;
pub(crate) mod budget;
pub(crate) mod election;
pub(crate) mod liveness;
pub(crate) mod pacing;
pub(crate) mod source;
pub(crate) mod term;

/// Longest id of a worker, in bytes.
const MOST_ID: usize = 128;

/// Whether `id` may name a worker: a letter or digit, then letters, digits, `.`, `_`, `:` and `-`. It stands in paths as it
/// is, so nothing that a path could be made to mean is in it: no slash, no percent, no leading dot.
pub(crate) fn is_worker_id(id: &str) -> bool {
    let mut bytes = id.bytes();
    id.len() <= MOST_ID
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

/// What is asked of a worker by a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    Task,
    Health,
    /// A caller looks for a direct path.
    Punch,
}

/// What a path below `/v1/relay-for/` means, as it came, undecoded: an id and one of two ends, spelled in no other way.
pub(crate) fn read_path(path: &str) -> Option<(&str, Errand)> {
    let (id, end) = path.strip_prefix("/v1/relay-for/")?.split_once('/')?;
    let errand = match end {
        "v1/task" => Errand::Task,
        "iicp/health" => Errand::Health,
        "v1/punch" => Errand::Punch,
        _ => return None,
    };
    is_worker_id(id).then_some((id, errand))
}

/// The path under which a worker is reached at a relay.
pub(crate) fn path_of(worker_id: &str) -> String {
    format!("/v1/relay-for/{worker_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling_and_every_trick_with_it_is_nothing() {
        assert_eq!(read_path("/v1/relay-for/w-1/v1/task"), Some(("w-1", Errand::Task)));
        assert_eq!(read_path("/v1/relay-for/a.B_c:9-/iicp/health"), Some(("a.B_c:9-", Errand::Health)));
        let id = "a".repeat(128);
        assert!(read_path(&format!("{}/v1/task", path_of(&id))).is_some());
        for id in [
            "",
            ".",
            "..",
            "-a",
            ".a",
            "%2e%2e",
            "a%2fb",
            "a%00",
            "a\0",
            "a b",
            "a/b",
            "a//",
            "..%2f..",
            "é",
            "a\\b",
            "a;b",
            "a?b",
            "a#b",
            "http:%2f%2fx",
            "@a",
            "a@b",
            "\u{202e}a",
            "a%",
            "*",
            "a\r\nb",
            "%77-1",
            "w-1%20",
            "~",
        ] {
            assert_eq!(read_path(&format!("/v1/relay-for/{id}/v1/task")), None, "{id:?}");
        }
        assert_eq!(read_path(&format!("/v1/relay-for/{}/v1/task", "a".repeat(129))), None);
        for path in [
            "/v1/relay-for/w-1",
            "/v1/relay-for/w-1/",
            "/v1/relay-for/w-1/v1/task/",
            "/v1/relay-for/w-1//v1/task",
            "/v1/relay-for/w-1/v1/../v1/task",
            "/v1/relay-for/w-1/v1/peers",
            "/v1/relay-for/w-1/metrics",
            "/V1/relay-for/w-1/v1/task",
            "//v1/relay-for/w-1/v1/task",
            "/v1/relay-for//v1/task",
            "/v1/relay-for",
            "http://elsewhere/v1/relay-for/w-1/v1/task",
            "/v1/relay-for/w-1/v1/task;x",
            "/v1/relay-for/w-1/V1/TASK",
        ] {
            assert_eq!(read_path(path), None, "{path:?}");
        }
    }
}
