//! The one table of error codes, and the one error type of every face of the library.
//!
//! Numbers are ours, explicit and never reused; the generator copies them into every language. The protocol's own code
//! ("IICP-E021", "capacity_exceeded") travels beside them as [`Error::wire_code`], because the public specification
//! gives some of its numbers two meanings.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

mod spelling;

pub use spelling::Spelling;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal, $retryable:literal, $text:literal;)*) => {
        /// A stable error code. See [`Code::number`], [`Code::name`] and [`Code::text`].
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(i32)]
        pub enum Code {
            $($(#[$doc])* #[doc = $text] $variant = $number,)*
        }

        impl Code {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The name that every language shows, such as `NO_NODES`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// One sentence that says what the code means.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            /// Whether the same call may succeed later without a change by the caller.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Code::$variant => $retryable,)* }
            }

            /// The code with this number, if there is one.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<Code> {
                match number { $($number => Some(Code::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    // 1xxx: the library itself
    Ok = 0, "OK", false, "Success; never carried by an error.";
    Internal = 1001, "INTERNAL", false, "A fault of this library; please report it.";
    Panic = 1002, "PANIC", false, "Code of this library or of a handler panicked; the panic was contained.";
    NullArg = 1003, "NULL_ARG", false, "A required argument was null.";
    InvalidArg = 1004, "INVALID_ARG", false, "An argument has the wrong type or form.";
    Closed = 1005, "CLOSED", false, "The object was closed, or is shutting down.";
    Cancelled = 1006, "CANCELLED", false, "The operation was cancelled by its owner.";
    Timeout = 1007, "TIMEOUT", true, "The caller's deadline passed before there was a result.";
    Forked = 1008, "FORKED", false, "The object was made before a fork(); make a new one in the child.";
    AbiMismatch = 1009, "ABI_MISMATCH", false, "Header and library speak different versions of the C interface.";
    StaleId = 1010, "STALE_ID", false, "The id names nothing that is alive: it was freed, finished or never given out.";
    QueueFull = 1011, "QUEUE_FULL", true, "The event queue has no room for another operation; take events first.";
    Unsupported = 1012, "UNSUPPORTED", false, "This build or this platform cannot do what was asked.";
    // 2xxx: configuration and policy, always before any network is touched
    ConfigInvalid = 2001, "CONFIG_INVALID", false, "An option is unknown, has the wrong type or a value out of range.";
    IntentInvalid = 2002, "INTENT_INVALID", false, "The intent is not a well-formed urn:iicp:intent URN.";
    TimeoutTooLarge = 2003, "TIMEOUT_TOO_LARGE", false, "The timeout is over the cap of 120,000 ms.";
    PolicyRefused = 2004, "POLICY_REFUSED", false, "A routing policy refused the task before anything was sent.";
    EndpointRefused = 2005, "ENDPOINT_REFUSED", false, "The endpoint is not one that may be called.";
    ConfidentialityRequired = 2006, "CONFIDENTIALITY_REQUIRED", false, "The prompt would leave this machine unsealed.";
    PayloadInvalid = 2007, "PAYLOAD_INVALID", false, "The payload is not valid JSON.";
    PayloadTooLarge = 2008, "PAYLOAD_TOO_LARGE", false, "The payload is over the size limit.";
    ConsumerAuthRequired = 2009, "CONSUMER_AUTH_REQUIRED", true, "The client wants a consumer token for the provider, and the directory gave none.";
    RankerRefused = 2010, "RANKER_REFUSED", false, "The application's ranker failed, or chose what is no candidate.";
    ProfileUnsupported = 2011, "PROFILE_UNSUPPORTED", false, "The directory does not support the profile that the call requires.";
    // 3xxx: the directory
    DirectoryUnreachable = 3001, "DIRECTORY_UNREACHABLE", true, "The directory could not be reached, or could not answer.";
    DirectoryRejected = 3002, "DIRECTORY_REJECTED", false, "The directory refused the request.";
    NoNodes = 3003, "NO_NODES", true, "No available node serves the intent with these constraints.";
    DirectoryUnauthorized = 3004, "DIRECTORY_UNAUTHORIZED", false, "The directory did not accept the credential.";
    DirectoryRateLimited = 3005, "DIRECTORY_RATE_LIMITED", true, "The directory asks for a pause.";
    DirectoryMalformed = 3006, "DIRECTORY_MALFORMED", true, "The directory's answer is not one of this protocol.";
    TicketRefused = 3007, "TICKET_REFUSED", false, "The directory's dispatch ticket could not be verified.";
    TicketsUnavailable = 3008, "TICKETS_UNAVAILABLE", false, "The directory has no dispatch tickets, and the client accepts nothing else.";
    // 4xxx: the transport to a node
    Connect = 4001, "CONNECT", true, "No connection to the node; the task was not sent.";
    Tls = 4002, "TLS", false, "The TLS handshake failed; the task was not sent.";
    Lost = 4003, "LOST", true, "The connection broke after the task was sent; it may have run.";
    Malformed = 4004, "MALFORMED", true, "The node's answer is not one of this protocol; the task may have run.";
    ResponseTooLarge = 4005, "RESPONSE_TOO_LARGE", false, "The node's answer is over the size limit; the task may have run.";
    ReplyUnsealed = 4006, "REPLY_UNSEALED", false, "The node's answer is not sealed as agreed, or does not open.";
    // 5xxx: the task, as the provider judged it
    TaskRejected = 5001, "TASK_REJECTED", false, "The provider refused the task.";
    Capacity = 5002, "CAPACITY", true, "Every provider that was asked is at capacity or draining.";
    TaskTimeout = 5003, "TASK_TIMEOUT", true, "The provider did not finish within the task's time.";
    Backend = 5004, "BACKEND", true, "The provider's handler or backend failed.";
    Duplicate = 5005, "DUPLICATE", false, "The provider has seen this task id with other content, or no longer holds its result.";
    UnknownIntent = 5006, "UNKNOWN_INTENT", false, "The provider does not serve the intent.";
    NoConsensus = 5007, "NO_CONSENSUS", true, "Not enough providers gave the same answer.";
    // 6xxx: serving
    Handler = 6001, "HANDLER", false, "The handler returned something that is not a reply.";
    Bind = 6002, "BIND", false, "The address to serve on could not be bound.";
    NodeLocked = 6003, "NODE_LOCKED", false, "Another process, or another node of this one, serves with the same id and state folder.";
    // 7xxx: relay and NAT
    RelayUnreachable = 7001, "RELAY_UNREACHABLE", true, "The relay could not be reached, or does not speak the protocol.";
    RelayRefused = 7002, "RELAY_REFUSED", true, "The relay did not bind this node.";
    // last added: RelayRefused = 7002.
}

impl Code {
    /// The number that every language shows.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.number())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What went wrong, what it was about and what to do next.
///
/// Never holds a token, key, payload or handler argument: messages are made of names, sizes, limits and addresses.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    message: String,
    /// The message with marks, if it names options; see `spelling`.
    marked: Option<String>,
    retryable: bool,
    retry_after: Option<Duration>,
    http_status: Option<u16>,
    wire_code: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error with the code's own retryability and nothing else known about it.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            code,
            message: message.into(),
            marked: None,
            retryable: code.retryable(),
            retry_after: None,
            http_status: None,
            wire_code: None,
            source: None,
        }))
    }

    /// An error whose message names options or times, each between marks: `` `timeout_ms` ``, `` `250 ms` ``. Every
    /// language reads its own names; see [`message_in`](Error::message_in).
    pub(crate) fn of_options(code: Code, marked: impl Into<String>) -> Self {
        let marked = marked.into();
        let mut error = Error::new(code, Spelling::Snake.message(&marked));
        error.0.marked = Some(marked);
        error
    }

    /// A handler's deliberate refusal: unlike any other error of a handler, its message is shown to the caller, and so are
    /// a [wire code](Error::with_wire_code) and a [status](Error::with_http_status) from 400 to 499; without them it is
    /// `rejected` and 422.
    #[must_use]
    pub fn rejected(message: impl Into<String>) -> Self {
        Error::new(Code::TaskRejected, message)
    }

    /// Sets the protocol's own code, as the peer wrote it.
    #[must_use]
    pub fn with_wire_code(mut self, wire_code: impl Into<String>) -> Self {
        self.0.wire_code = Some(wire_code.into());
        self
    }

    /// Sets the HTTP status that the peer answered.
    #[must_use]
    pub fn with_http_status(mut self, status: u16) -> Self {
        self.0.http_status = Some(status);
        self
    }

    /// Sets how long the peer asked to wait.
    #[must_use]
    pub fn with_retry_after(mut self, pause: Duration) -> Self {
        self.0.retry_after = Some(pause);
        self
    }

    /// Overrides the code's own retryability.
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Keeps the underlying error for `std::error::Error::source`.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What happened, what it was about and what to do next, in one or two sentences.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The message with its options called as a language calls them.
    #[must_use]
    pub fn message_in(&self, spelling: Spelling) -> Cow<'_, str> {
        match &self.0.marked {
            Some(marked) if spelling != Spelling::Snake => spelling.message(marked).into(),
            _ => self.message().into(),
        }
    }

    /// Whether the same call may succeed later without a change by the caller.
    #[must_use]
    pub fn retryable(&self) -> bool {
        self.0.retryable
    }

    /// How long the peer asked to wait before trying again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The HTTP status that the peer answered, if the error came as an HTTP answer.
    #[must_use]
    pub fn http_status(&self) -> Option<u16> {
        self.0.http_status
    }

    /// The protocol's own code as the peer wrote it, such as `capacity_exceeded` or `IICP-E021`.
    #[must_use]
    pub fn wire_code(&self) -> Option<&str> {
        self.0.wire_code.as_deref()
    }

    /// The error as JSON, with its options called as Rust calls them; see [`to_json_in`](Error::to_json_in).
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        self.to_json_in(Spelling::Snake)
    }

    /// The error as JSON for the language layers: `code`, `name`, `message`, `retryable`, and where known
    /// `retry_after_ms`, `http_status`, `wire_code`.
    #[must_use]
    pub fn to_json_in(&self, spelling: Spelling) -> serde_json::Value {
        let mut object = serde_json::json!({
            "code": self.code().number(),
            "name": self.code().name(),
            "message": self.message_in(spelling),
            "retryable": self.retryable(),
        });
        if let Some(pause) = self.retry_after() {
            object["retry_after_ms"] = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).into();
        }
        if let Some(status) = self.http_status() {
            object["http_status"] = status.into();
        }
        if let Some(wire_code) = self.wire_code() {
            object["wire_code"] = wire_code.into();
        }
        object
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.code())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.code())
            .field("message", &self.message())
            .field("retryable", &self.retryable())
            .field("http_status", &self.http_status())
            .field("wire_code", &self.wire_code())
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_and_names_are_unique_and_ascending() {
        let numbers: Vec<i32> = Code::ALL.iter().map(|code| code.number()).collect();
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.name()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| Code::from_number(code.number()) == Some(*code)));
        assert_eq!(Code::from_number(1), None);
    }

    #[test]
    fn an_error_shows_its_message_name_and_number() {
        let error = Error::new(Code::NoNodes, "no node serves it").with_wire_code("IICP-E033").with_http_status(503);
        assert_eq!(error.to_string(), "no node serves it (NO_NODES 3003)");
        assert_eq!(error.to_json()["wire_code"], "IICP-E033");
        assert_eq!(error.to_json()["code"], 3003);
        assert!(error.retryable());
    }
}
