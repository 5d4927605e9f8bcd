//! What a reply must be when the task was sealed.

use bytes::Bytes;

use crate::crypto::cx::ReplyKey;
use crate::error::{Code, Error, Result};
use crate::types::Payload;
use crate::wire::task::TaskReply;

/// Reads a 200 of a node into the handler's result. With a key the node had to seal its reply, and a plain one is
/// refused whatever it says: only the node that opened the task can have written a sealed one.
///
/// # Errors
/// `REPLY_UNSEALED` for a plain reply where a sealed one was due (`IICP-CX-RESP-REQUIRED`), or one that does not open to
/// an object (`IICP-CX-RESP-INVALID`); else those of [`TaskReply`].
pub(crate) fn open_reply(task_id: &str, body: &Bytes, key: Option<&ReplyKey>) -> Result<Payload> {
    let outer = TaskReply::read(task_id, body)?;
    let Some(key) = key else { return outer.result() };
    let Some(sealed) = outer.sealed() else {
        return Err(Error::new(
            Code::ReplyUnsealed,
            "the node answered in plain text though its key promises sealed replies; choose another node",
        )
        .with_wire_code("IICP-CX-RESP-REQUIRED"));
    };
    let opened = key.open(task_id, sealed)?;
    if opened.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Error::new(Code::ReplyUnsealed, "the node's sealed reply holds no object")
            .with_wire_code("IICP-CX-RESP-INVALID"));
    }
    TaskReply::read(task_id, &opened)?.result()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::cx::{NodeKey, SealingKey};
    use crate::types::CHAT;
    use crate::wire::sealed::write_sealed_reply;
    use crate::wire::task::write_reply;

    /// A key, and what the node answers with it.
    fn exchange(reply: &[u8]) -> (ReplyKey, Bytes) {
        let node = NodeKey::generate().unwrap();
        let (envelope, key) = SealingKey::read(&node.public_json(), 0).unwrap().seal("t-1", CHAT, b"{}").unwrap();
        let (_, seal) = node.open(&envelope, "t-1", CHAT).unwrap();
        (key, write_sealed_reply("t-1", |out| seal.seal("t-1", reply, out)).unwrap().into())
    }

    #[test]
    fn a_sealed_reply_is_opened_and_read_as_any_other() {
        let (key, body) = exchange(&write_reply("t-1", br#"{"x":1}"#, 1.0));
        assert_eq!(open_reply("t-1", &body, Some(&key)).unwrap().bytes(), &br#"{"x":1}"#[..]);
        let read = |reply: &str| {
            let (key, body) = exchange(reply.as_bytes());
            open_reply("t-1", &body, Some(&key)).map_err(|error| (error.code(), error.wire_code().map(str::to_owned)))
        };
        assert_eq!(read(r#" {"status":"completed","choices":[]}"#).unwrap().bytes(), &br#"{"choices":[]}"#[..]);
        let invalid = || Some("IICP-CX-RESP-INVALID".to_owned());
        for no_object in ["", "7", "[{}]", "null", "\"x\""] {
            assert_eq!(read(no_object).unwrap_err(), (Code::ReplyUnsealed, invalid()), "{no_object}");
        }
        assert_eq!(read("{\"status\":").unwrap_err().0, Code::Malformed);
        assert_eq!(read(r#"{"task_id":"t-2","status":"success","result":1}"#).unwrap_err().0, Code::Malformed);
        assert_eq!(read(r#"{"status":"success","result":{},"error":{"message":"x"}}"#).unwrap_err().0, Code::Backend);
        // An envelope inside an envelope is nobody's reply.
        assert_eq!(read(r#"{"status":"encrypted","iicp_conf_resp":{}}"#).unwrap_err().0, Code::ConfidentialityRequired);
    }

    #[test]
    fn a_plain_reply_is_refused_where_a_sealed_one_is_due() {
        let (key, sealed) = exchange(b"{}");
        for plain in [
            r#"{"task_id":"t-1","status":"success","result":{"canary":1}}"#,
            r#"{"task_id":"t-1","status":"encrypted","result":{"canary":1}}"#,
            r#"{"task_id":"t-1","status":"encrypted","iicp_conf_resp":null}"#,
            r#"{"status":"error","error":{"code":"backend_error","message":"canary"}}"#,
        ] {
            let body = Bytes::from(plain);
            let error = open_reply("t-1", &body, Some(&key)).unwrap_err();
            assert_eq!(error.code(), Code::ReplyUnsealed, "{plain}");
            assert_eq!(error.wire_code(), Some("IICP-CX-RESP-REQUIRED"), "{plain}");
            assert!(!format!("{error:?}").contains("canary") && !error.retryable());
        }
        assert_eq!(open_reply("t-2", &sealed, Some(&key)).unwrap_err().code(), Code::Malformed, "another task's");
        assert_eq!(open_reply("t-1", &sealed, None).unwrap_err().code(), Code::ConfidentialityRequired, "unasked");
    }
}
