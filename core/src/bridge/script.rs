//! Operations that do as they are told, so that tests reach every way in which an operation can end.

use bytes::Bytes;
use serde::Deserialize;

use super::Bridge;
use super::ops::Outcome;
use crate::error::{Code, Error, Result};

/// What a scripted operation does, in this order.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Script {
    /// Chunks to push.
    chunks: u32,
    /// Bytes of every chunk.
    chunk_bytes: usize,
    /// Panic when this many chunks were pushed.
    panic_after: Option<u32>,
    /// Never finish.
    hang: bool,
    /// Fail with the code of this number.
    fail_code: Option<i32>,
}

impl Bridge {
    /// Starts an operation that does what a script says: `{"chunks": 3, "chunk_bytes": 10, "panic_after": 2, "hang": true,
    /// "fail_code": 4001}`, everything optional. For tests of the language layers.
    ///
    /// # Errors
    /// `CONFIG_INVALID`, and what every verb refuses.
    pub fn script(&self, queue: u64, script_json: &str, tag: u64) -> Result<u64> {
        let script: Script = match script_json {
            "" => Script::default(),
            text => serde_json::from_str(text)
                .map_err(|e| Error::new(Code::ConfigInvalid, format!("a scripted operation: {e}")))?,
        };
        let tables = self.open()?;
        let seat = tables.queues.get(queue)?.promise()?;
        self.launch(seat, tag, 0, |op| {
            let op = op.clone();
            async move {
                let body = Bytes::from(vec![b'x'; script.chunk_bytes]);
                for number in 0..script.chunks {
                    assert!(script.panic_after != Some(number), "as the script says");
                    op.chunk(format!(r#"{{"seq":{number}}}"#), body.clone()).await?;
                }
                assert!(script.panic_after.is_none_or(|after| after < script.chunks), "as the script says");
                if script.hang {
                    std::future::pending::<()>().await;
                }
                match script.fail_code.and_then(Code::from_number) {
                    Some(code) => Err(Error::new(code, "as the script says")),
                    None => Ok(Outcome { json: format!(r#"{{"chunks":{}}}"#, script.chunks), ..Outcome::default() }),
                }
            }
        })
    }
}
