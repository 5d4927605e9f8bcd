//! What the benches measure and nobody else can reach. Behind the feature `testing`.

use crate::crypto::cx::{NodeKey, SealingKey};
use crate::crypto::digest::{same, token_hash};
use crate::error::{Code, Error, Result};

/// A node's key as both sides have it.
pub struct Sealed {
    node: NodeKey,
    key: SealingKey,
}

impl Sealed {
    /// Makes a key.
    ///
    /// # Errors
    /// `INTERNAL` without randomness.
    pub fn new() -> Result<Self> {
        let node = NodeKey::generate()?;
        let key = SealingKey::read(&node.public_json(), 0)
            .map_err(|fault| Error::new(Code::Internal, format!("a fresh key is none: {fault}")))?;
        Ok(Sealed { node, key })
    }

    /// Seals a task as a client does and opens it as a node does; the length of what came out.
    ///
    /// # Errors
    /// `INTERNAL` if it does not open.
    pub fn round(&self, task_id: &str, intent: &str, payload: &[u8]) -> Result<usize> {
        let (envelope, _) = self.key.seal(task_id, intent, payload)?;
        let opened = self.node.open(&envelope, task_id, intent);
        let (opened, _) = opened.map_err(|_| Error::new(Code::Internal, "what was sealed does not open"))?;
        Ok(opened.len())
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed")
    }
}

/// A token as a node or directory keeps it.
#[derive(Debug)]
pub struct Kept([u8; 32]);

impl Kept {
    /// Keeps a token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Kept(token_hash(token))
    }

    /// Judges what a caller shows, as it is done at every door.
    #[must_use]
    pub fn is(&self, shown: &str) -> bool {
        same(&self.0, &token_hash(shown))
    }
}
