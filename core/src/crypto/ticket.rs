//! What a directory's signed texts must say: dispatch route tickets, as a client reads them, consumer tokens, as a node
//! reads them, and bind tickets, as a relay reads them (specification: dispatch tickets v1, consumer tokens v1).

use serde_json::{Map, Value};

use super::digest::{same, unhex};
use super::token::{Domain, TokenFault, verify};
use crate::error::{Code, Error, Result};

/// For whom a dispatch ticket is.
pub(crate) const TICKET_AUDIENCE: &str = "iicp.directory.dispatch";
/// What a dispatch ticket calls itself.
pub(crate) const TICKET_TYPE: &str = "dispatch-route-ticket";
/// What a relay bind ticket calls itself.
pub(crate) const RELAY_TICKET_TYPE: &str = "relay-bind-ticket";

/// Whom a directory at this URL names as issuer: the URL without its last slash and without `/api`.
pub(crate) fn issuer(directory_url: &str) -> &str {
    let url = directory_url.trim_end_matches('/');
    url.strip_suffix("/api").unwrap_or(url)
}

/// What a dispatch ticket has to agree with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// As [`issuer`] makes it from the directory's URL.
    pub(crate) issuer: &'a str,
    /// The node whose route came with the ticket.
    pub(crate) node_id: &'a str,
    pub(crate) intent: &'a str,
    pub(crate) now_unix_s: u64,
}

/// What is kept of a dispatch ticket that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TicketClaims {
    /// 24 hex digits; the first twelve may be shown.
    pub(crate) jti: String,
    /// The second from which on the ticket is no longer valid.
    pub(crate) exp: u64,
    pub(crate) iat: Option<u64>,
    /// Digest of the policy manifest that the route must come with.
    pub(crate) policy_manifest_sha256: Option<String>,
}

/// What a consumer token has to agree with. Who is not named is not checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpectedCaller<'a> {
    pub(crate) issuer: Option<&'a str>,
    pub(crate) caller: Option<&'a str>,
    /// The node that reads it.
    pub(crate) target: &'a str,
    pub(crate) intent: &'a str,
    pub(crate) now_unix_s: u64,
    /// How long before its beginning and after its end it is still taken, in seconds (specification: 10).
    pub(crate) grace_s: u64,
}

/// What is kept of a consumer token that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerClaims {
    /// Id of the node on whose behalf the task comes.
    pub(crate) caller: String,
    pub(crate) exp: u64,
}

/// What is kept of a bind ticket that was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BindClaims {
    /// Names the ticket, which is good for one bind.
    pub(crate) jti: [u8; 16],
    /// The second from which on the ticket is no longer valid.
    pub(crate) exp: u64,
}

/// Why a signed text is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TicketFault {
    Malformed,
    /// The directory may have a new key.
    Signature,
    Version,
    Type,
    Issuer,
    Audience,
    Caller,
    Node,
    Intent,
    Early,
    Expired,
    TicketId,
    Manifest,
}

impl TicketFault {
    /// Whether it may lie with the judge: that the directory has another key by now, or its clock another time.
    pub(crate) const fn may_be_the_judges(self) -> bool {
        matches!(self, TicketFault::Signature | TicketFault::Early | TicketFault::Expired)
    }

    /// What is wrong, for a message.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            TicketFault::Malformed => "it has not the form of a signed text",
            TicketFault::Signature => "it is not signed with the directory's key",
            TicketFault::Version => "its version is not 1",
            TicketFault::Type => "it is a signed text of another type",
            TicketFault::Issuer => "its issuer is not the directory that was asked",
            TicketFault::Audience => "it is for another audience",
            TicketFault::Caller => "it names no caller, or another one",
            TicketFault::Node => "it is for another node than the route",
            TicketFault::Intent => "it is for another intent",
            TicketFault::Early => "its time has not come",
            TicketFault::Expired => "its time is over, or it has no end",
            TicketFault::TicketId => "its id is not hex digits of the right number",
            TicketFault::Manifest => "its digest of the policy manifest is not 64 hex digits",
        }
    }

    /// The error of a submit whose ticket is not taken.
    pub(crate) fn error(self) -> Error {
        let wire_code = match self {
            TicketFault::Malformed => "IICP-DISPATCH-TICKET-MALFORMED",
            _ => "IICP-DISPATCH-TICKET-UNVERIFIED",
        };
        let what = "the directory's dispatch ticket could not be verified";
        let next = "nothing was sent; check the directory's URL and ask its operator";
        Error::new(Code::TicketRefused, format!("{what}: {}; {next}", self.text())).with_wire_code(wire_code)
    }
}

impl From<TokenFault> for TicketFault {
    fn from(fault: TokenFault) -> Self {
        match fault {
            TokenFault::Malformed => TicketFault::Malformed,
            TokenFault::Signature => TicketFault::Signature,
        }
    }
}

/// Checks a dispatch ticket: signature first, then every claim. There is no grace at its end.
pub(crate) fn verify_ticket(
    text: &str,
    public_key: &[u8; 32],
    expected: Expected<'_>,
) -> Result<TicketClaims, TicketFault> {
    let claims = verify(Domain::DispatchTicket, public_key, text)?;
    let says = |name, wanted: &str, fault| claim_is(&claims, name, wanted).then_some(()).ok_or(fault);
    check_version(&claims)?;
    says("typ", TICKET_TYPE, TicketFault::Type)?;
    says("iss", expected.issuer, TicketFault::Issuer)?;
    says("aud", TICKET_AUDIENCE, TicketFault::Audience)?;
    says("node_id", expected.node_id, TicketFault::Node)?;
    says("intent", expected.intent, TicketFault::Intent)?;
    let exp = claims.get("exp").and_then(Value::as_u64).filter(|exp| *exp > expected.now_unix_s);
    let jti = claims.get("jti").and_then(Value::as_str).filter(|jti| unhex::<12>(jti).is_some());
    let policy_manifest_sha256 = match claims.get("policy_manifest_sha256") {
        None | Some(Value::Null) => None,
        Some(Value::String(digest)) if unhex::<32>(digest).is_some() => Some(digest.clone()),
        Some(_) => return Err(TicketFault::Manifest),
    };
    Ok(TicketClaims {
        exp: exp.ok_or(TicketFault::Expired)?,
        jti: jti.ok_or(TicketFault::TicketId)?.to_owned(),
        iat: claims.get("iat").and_then(Value::as_u64),
        policy_manifest_sha256,
    })
}

/// Checks a consumer token: signature first, then every claim.
pub(crate) fn verify_consumer_token(
    text: &str,
    public_key: &[u8; 32],
    expected: ExpectedCaller<'_>,
) -> Result<ConsumerClaims, TicketFault> {
    let claims = verify(Domain::ConsumerToken, public_key, text)?;
    let text = |name| claims.get(name).and_then(Value::as_str);
    check_version(&claims)?;
    if expected.issuer.is_some_and(|issuer| !claim_is(&claims, "iss", issuer)) {
        return Err(TicketFault::Issuer);
    }
    if !claim_is(&claims, "aud", expected.target) {
        return Err(TicketFault::Audience);
    }
    let caller = text("sub").filter(|sub| !sub.is_empty() && expected.caller.is_none_or(|caller| caller == *sub));
    if !claim_is(&claims, "intent", "*") && !claim_is(&claims, "intent", expected.intent) {
        return Err(TicketFault::Intent);
    }
    let latest = expected.now_unix_s.saturating_add(expected.grace_s);
    let begun = |iat: &Value| iat.is_null() || iat.as_u64().is_some_and(|iat| iat <= latest);
    if !claims.get("iat").is_none_or(begun) {
        return Err(TicketFault::Early);
    }
    let exp = claims.get("exp").and_then(Value::as_u64);
    Ok(ConsumerClaims {
        caller: caller.ok_or(TicketFault::Caller)?.to_owned(),
        exp: exp
            .filter(|exp| exp.saturating_add(expected.grace_s) > expected.now_unix_s)
            .ok_or(TicketFault::Expired)?,
    })
}

/// Checks a relay's bind ticket: signature first, then the claims that published relays look at. Version and issuer are
/// not among them: directories differ in both, and the key says who signed. `relay_id` is the reader's own id; a ticket for
/// any relay is good too. There is no grace at its end.
pub(crate) fn verify_bind_ticket(
    text: &str,
    public_key: &[u8; 32],
    worker_id: &str,
    relay_id: &str,
    now_unix_s: u64,
) -> Result<BindClaims, TicketFault> {
    let claims = verify(Domain::RelayBind, public_key, text)?;
    let says = |name, wanted: &str, fault| claim_is(&claims, name, wanted).then_some(()).ok_or(fault);
    says("typ", RELAY_TICKET_TYPE, TicketFault::Type)?;
    says("sub", worker_id, TicketFault::Node)?;
    if !claim_is(&claims, "aud", "*") {
        says("aud", relay_id, TicketFault::Audience)?;
    }
    let exp = claims.get("exp").and_then(Value::as_u64).filter(|exp| *exp > now_unix_s);
    let jti = claims.get("jti").and_then(Value::as_str).and_then(unhex::<16>);
    Ok(BindClaims { exp: exp.ok_or(TicketFault::Expired)?, jti: jti.ok_or(TicketFault::TicketId)? })
}

fn check_version(claims: &Map<String, Value>) -> Result<(), TicketFault> {
    (claims.get("v").and_then(Value::as_u64) == Some(1)).then_some(()).ok_or(TicketFault::Version)
}

fn claim_is(claims: &Map<String, Value>, name: &str, wanted: &str) -> bool {
    claims.get(name).and_then(Value::as_str) == Some(wanted)
}

/// Holds the route to the policy manifest that the ticket was issued for. A ticket without a digest binds to none.
///
/// # Errors
/// `TICKET_REFUSED`.
pub(crate) fn check_manifest(claims: &TicketClaims, manifest: Option<&Value>) -> Result<()> {
    let Some(bound) = &claims.policy_manifest_sha256 else { return Ok(()) };
    let shown = manifest.and_then(|manifest| manifest.pointer("/verification/canonical_sha256")?.as_str());
    if shown.is_some_and(|shown| same(shown.as_bytes(), bound.as_bytes())) {
        return Ok(());
    }
    Err(Error::new(
        Code::TicketRefused,
        "the dispatch ticket is bound to a policy manifest that the route does not come with; nothing was sent; ask \
         the directory's operator",
    )
    .with_wire_code("IICP-POLICY-MANIFEST-BINDING-MISMATCH"))
}

#[cfg(test)]
mod tests {
    use super::super::token::TokenSigner;
    use super::*;
    use crate::types::CHAT;
    use serde_json::json;

    const DIRECTORY: &str = "http://127.0.0.1:9480";

    fn expected() -> Expected<'static> {
        Expected { issuer: DIRECTORY, node_id: "n-1", intent: CHAT, now_unix_s: 1000 }
    }

    fn ticket() -> Value {
        json!({
            "v": 1, "typ": TICKET_TYPE, "iss": DIRECTORY, "aud": TICKET_AUDIENCE, "jti": "0123456789abcdef01234567",
            "node_id": "n-1", "intent": CHAT, "iat": 999, "exp": 1001,
        })
    }

    fn with(mut claims: Value, name: &str, value: Value) -> Value {
        claims[name] = value;
        claims
    }

    #[test]
    fn a_ticket_is_taken_when_every_claim_agrees_and_each_fault_has_its_name() {
        let signer = TokenSigner::random().unwrap();
        let check = |claims: &Value| {
            let text = signer.sign(Domain::DispatchTicket, claims).unwrap();
            verify_ticket(&text, &signer.public_key(), expected())
        };
        let good = check(&ticket()).unwrap();
        assert_eq!((good.exp, good.iat, good.policy_manifest_sha256), (1001, Some(999), None));
        let digest = "a".repeat(64);
        let bound = check(&with(ticket(), "policy_manifest_sha256", json!(digest))).unwrap();
        assert_eq!(bound.policy_manifest_sha256, Some(digest));
        for (name, value, fault) in [
            ("v", json!(2), TicketFault::Version),
            ("v", json!("1"), TicketFault::Version),
            ("typ", json!("relay"), TicketFault::Type),
            ("iss", json!("http://127.0.0.1:9480/"), TicketFault::Issuer),
            ("aud", json!([TICKET_AUDIENCE]), TicketFault::Audience),
            ("node_id", json!("n-2"), TicketFault::Node),
            ("intent", json!("*"), TicketFault::Intent),
            ("exp", json!(1000), TicketFault::Expired),
            ("exp", json!("2000"), TicketFault::Expired),
            ("exp", Value::Null, TicketFault::Expired),
            ("jti", json!("0123456789ABCDEF01234567"), TicketFault::TicketId),
            ("jti", json!("0123"), TicketFault::TicketId),
            ("policy_manifest_sha256", json!("xyz"), TicketFault::Manifest),
            ("policy_manifest_sha256", json!(7), TicketFault::Manifest),
        ] {
            assert_eq!(check(&with(ticket(), name, value)), Err(fault), "{name}");
        }
    }

    #[test]
    fn a_strange_key_is_told_from_a_strange_form_and_no_message_quotes_the_ticket() {
        let (signer, other) = (TokenSigner::random().unwrap(), TokenSigner::random().unwrap());
        let text = signer.sign(Domain::DispatchTicket, &ticket()).unwrap();
        assert_eq!(verify_ticket(&text, &other.public_key(), expected()), Err(TicketFault::Signature));
        assert_eq!(verify_ticket("not-a-ticket", &other.public_key(), expected()), Err(TicketFault::Malformed));
        let error = TicketFault::Signature.error();
        assert_eq!(error.code(), Code::TicketRefused);
        assert_eq!(error.wire_code(), Some("IICP-DISPATCH-TICKET-UNVERIFIED"));
        assert_eq!(TicketFault::Malformed.error().wire_code(), Some("IICP-DISPATCH-TICKET-MALFORMED"));
    }

    #[test]
    fn the_issuer_is_the_directory_without_its_api() {
        for url in [DIRECTORY, "http://127.0.0.1:9480/", "http://127.0.0.1:9480/api", "http://127.0.0.1:9480/api/"] {
            assert_eq!(issuer(url), DIRECTORY);
        }
        assert_eq!(issuer("https://d.example/mesh/api"), "https://d.example/mesh");
    }

    #[test]
    fn a_bound_manifest_must_be_the_one_of_the_route() {
        let claims = |digest: Option<&str>| TicketClaims {
            jti: String::new(),
            exp: 0,
            iat: None,
            policy_manifest_sha256: digest.map(str::to_owned),
        };
        let manifest = json!({"verification": {"canonical_sha256": "abc"}});
        assert!(check_manifest(&claims(None), None).is_ok());
        assert!(check_manifest(&claims(Some("abc")), Some(&manifest)).is_ok());
        for other in [None, Some(&json!({})), Some(&json!({"verification": {"canonical_sha256": "abd"}}))] {
            let error = check_manifest(&claims(Some("abc")), other).unwrap_err();
            assert_eq!(error.wire_code(), Some("IICP-POLICY-MANIFEST-BINDING-MISMATCH"));
        }
    }

    #[test]
    fn a_bind_ticket_proves_one_worker_to_one_relay_for_a_while() {
        let signer = TokenSigner::random().unwrap();
        let jti = "0123456789abcdef0123456789abcdef";
        let ticket = json!({"typ": RELAY_TICKET_TYPE, "jti": jti, "sub": "w-1", "aud": "r-1", "exp": 1001});
        let check = |claims: &Value| {
            let text = signer.sign(Domain::RelayBind, claims).unwrap();
            verify_bind_ticket(&text, &signer.public_key(), "w-1", "r-1", 1000)
        };
        let taken = BindClaims { jti: unhex(jti).unwrap(), exp: 1001 };
        assert_eq!(check(&ticket), Ok(taken));
        assert_eq!(check(&with(ticket.clone(), "aud", json!("*"))), Ok(taken), "any relay");
        for (name, value, fault) in [
            ("typ", json!("dispatch-route-ticket"), TicketFault::Type),
            ("sub", json!("w-2"), TicketFault::Node),
            ("sub", json!(""), TicketFault::Node),
            ("aud", json!("r-2"), TicketFault::Audience),
            ("aud", Value::Null, TicketFault::Audience),
            ("exp", json!(1000), TicketFault::Expired),
            ("exp", json!("2000"), TicketFault::Expired),
            ("jti", Value::Null, TicketFault::TicketId),
            ("jti", json!("0123456789ABCDEF0123456789ABCDEF"), TicketFault::TicketId),
            ("jti", json!("0123456789abcdef01234567"), TicketFault::TicketId),
        ] {
            assert_eq!(check(&with(ticket.clone(), name, value)), Err(fault), "{name}");
        }
        let text = signer.sign(Domain::RelayBind, &ticket).unwrap();
        let other = TokenSigner::random().unwrap().public_key();
        assert_eq!(verify_bind_ticket(&text, &other, "w-1", "r-1", 1000), Err(TicketFault::Signature));
        let token = signer.sign(Domain::ConsumerToken, &ticket).unwrap();
        let read = verify_bind_ticket(&token, &signer.public_key(), "w-1", "r-1", 1000);
        assert_eq!(read, Err(TicketFault::Signature), "a consumer token is no bind ticket");
    }

    #[test]
    fn a_consumer_token_names_its_caller_to_one_node_for_a_while() {
        let signer = TokenSigner::random().unwrap();
        let expected = ExpectedCaller {
            issuer: Some(DIRECTORY),
            caller: None,
            target: "n-1",
            intent: CHAT,
            now_unix_s: 1000,
            grace_s: 10,
        };
        let token = json!({"v": 1, "iss": DIRECTORY, "sub": "c-1", "aud": "n-1", "intent": "*", "exp": 991});
        let check = |claims: &Value, expected| {
            let text = signer.sign(Domain::ConsumerToken, claims).unwrap();
            verify_consumer_token(&text, &signer.public_key(), expected)
        };
        assert_eq!(check(&token, expected), Ok(ConsumerClaims { caller: "c-1".into(), exp: 991 }));
        let strict = ExpectedCaller { caller: Some("c-2"), ..expected };
        assert_eq!(check(&token, strict), Err(TicketFault::Caller));
        for (name, value, fault) in [
            ("v", json!(0), TicketFault::Version),
            ("iss", json!("http://elsewhere"), TicketFault::Issuer),
            ("sub", json!(""), TicketFault::Caller),
            ("aud", json!("n-2"), TicketFault::Audience),
            ("intent", json!("urn:iicp:intent:llm:embedding:v1"), TicketFault::Intent),
            ("exp", json!(990), TicketFault::Expired),
            ("iat", json!(1011), TicketFault::Early),
            ("iat", json!("1000"), TicketFault::Early),
            ("iat", json!(-1), TicketFault::Early),
        ] {
            assert_eq!(check(&with(token.clone(), name, value), expected), Err(fault), "{name}");
        }
        assert!(check(&with(token.clone(), "iat", json!(1010)), expected).is_ok());
        let ticket = signer.sign(Domain::DispatchTicket, &token).unwrap();
        assert_eq!(
            verify_consumer_token(&ticket, &signer.public_key(), expected),
            Err(TicketFault::Signature),
            "a ticket is no token"
        );
    }
}
