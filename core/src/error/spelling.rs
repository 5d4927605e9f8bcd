//! How the languages call an option, and what a message says of it to each of them.
//!
//! A message that names options is written with marks: `` `timeout_ms` `` is an option as the engine calls it, also
//! `` `nat.tunnel` ``; `` `250 ms` `` and `` `1 to 250 ms` `` are times. Nobody sees the marks.

use std::borrow::Cow;

macro_rules! spellings {
    ($($variant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// How a language calls the options of the engine. Numbers are explicit and never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        #[repr(i32)]
        pub enum Spelling {
            $(#[doc = $text] $variant = $number,)*
        }

        impl Spelling {
            /// Every one, in the order of the numbers.
            pub const ALL: &'static [Spelling] = &[$(Spelling::$variant,)*];

            /// The name that the C interface shows, such as `CAMEL`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Spelling::$variant => $name,)* }
            }

            /// One sentence that says how an option is called.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Spelling::$variant => $text,)* }
            }

            /// The number that the C interface shows.
            #[must_use]
            pub const fn number(self) -> i32 {
                self as i32
            }

            /// The one with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<Spelling> {
                match number { $($number => Some(Spelling::$variant),)* _ => None }
            }
        }
    };
}

spellings! {
    Snake = 1, "SNAKE", "As Rust and C: `node_ttl_ms`, and times in milliseconds.";
    Seconds = 2, "SECONDS", "As Python: `node_ttl`, and times in seconds.";
    Camel = 3, "CAMEL", "As TypeScript: `nodeTtlMs`, and times in milliseconds.";
    Pascal = 4, "PASCAL", "As Go: `NodeTTLMs`, and times in milliseconds.";
}

impl Spelling {
    /// The option that the engine calls so.
    #[must_use]
    pub fn option(self, name: &str) -> Cow<'_, str> {
        match self {
            Spelling::Snake => name.into(),
            Spelling::Seconds => name.strip_suffix("_ms").unwrap_or(name).into(),
            Spelling::Camel | Spelling::Pascal => {
                let levels: Vec<String> = name.split('.').map(|level| self.joined(level)).collect();
                levels.join(".").into()
            }
        }
    }

    fn joined(self, name: &str) -> String {
        const INITIALS: [&str; 5] = ["id", "url", "ttl", "tls", "http"];
        let word = |(at, word): (usize, &str)| match (self, word.split_at_checked(1)) {
            (Spelling::Camel, _) if at == 0 => word.to_owned(),
            (Spelling::Pascal, _) if INITIALS.contains(&word) => word.to_uppercase(),
            (_, Some((first, rest))) => first.to_uppercase() + rest,
            (_, None) => word.to_owned(),
        };
        name.split('_').enumerate().map(word).collect()
    }

    /// A number of milliseconds, without its unit.
    fn time(self, millis: u64) -> String {
        let (whole, rest) = (millis / 1_000, millis % 1_000);
        match (self, rest) {
            (Spelling::Seconds, 0) => whole.to_string(),
            (Spelling::Seconds, _) => format!("{whole}.{}", format!("{rest:03}").trim_end_matches('0')),
            _ => millis.to_string(),
        }
    }

    fn unit(self) -> &'static str {
        if self == Spelling::Seconds { "s" } else { "ms" }
    }

    /// The message without its marks. What stands between two of them and is no name and no time stays as it is.
    pub(super) fn message(self, marked: &str) -> String {
        let mut out = String::with_capacity(marked.len());
        let mut rest = marked;
        while let Some((before, after)) = rest.split_once('`') {
            out.push_str(before);
            let said = after.split_once('`').and_then(|(inside, after)| Some((self.marked(inside)?, after)));
            rest = match said {
                Some((said, after)) => {
                    out.push_str(&said);
                    after
                }
                None => {
                    out.push('`');
                    after
                }
            };
        }
        out + rest
    }

    fn marked(self, inside: &str) -> Option<String> {
        if let Some(times) = inside.strip_suffix(" ms") {
            let times: Option<Vec<String>> = times.split(" to ").map(|ms| Some(self.time(ms.parse().ok()?))).collect();
            return Some(format!("{} {}", times?.join(" to "), self.unit()));
        }
        let is_name = inside.starts_with(|c: char| c.is_ascii_lowercase())
            && inside.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.');
        is_name.then(|| self.option(inside).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_reads_its_own_names_and_units() {
        let marked = "option `node_ttl_ms` is `20 ms`; it must be `50 to 3600000 ms`, see `tls.only`";
        for (spelling, message) in [
            (Spelling::Snake, "option node_ttl_ms is 20 ms; it must be 50 to 3600000 ms, see tls.only"),
            (Spelling::Seconds, "option node_ttl is 0.02 s; it must be 0.05 to 3600 s, see tls.only"),
            (Spelling::Camel, "option nodeTtlMs is 20 ms; it must be 50 to 3600000 ms, see tls.only"),
            (Spelling::Pascal, "option NodeTTLMs is 20 ms; it must be 50 to 3600000 ms, see TLS.Only"),
        ] {
            assert_eq!(spelling.message(marked), message);
        }
    }

    #[test]
    fn what_is_no_mark_stays_as_it_is() {
        for text in ["", "a `", "`A_b` and `", "``", "`no name`", "`/tmp/x_y`"] {
            assert_eq!(Spelling::Camel.message(text), text);
        }
        assert_eq!(Spelling::Camel.message("a ` of `state_dir`"), "a ` of stateDir");
    }
}
