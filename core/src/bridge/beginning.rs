//! A node that begins. It is not stopped in the middle: what it has taken from a directory or a gateway by then, it gives back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ops::panic_error;
use super::serve::ForeignHandler;
use crate::error::Result;
use crate::node::{LiveNode, Node};
use crate::options::NodeOptions;

/// How long a node that nobody wants any more has for its farewell.
const FAREWELL: Duration = Duration::from_secs(3);

/// Between who makes a node and who waits for it, each of which may be gone before the other.
#[derive(Clone)]
pub(super) struct Beginning {
    made: Arc<Mutex<Option<Result<LiveNode>>>>,
    is_over: Arc<Notify>,
    /// Nobody waits for the node: it was taken, or is not wanted any more.
    done: CancellationToken,
}

impl Beginning {
    pub(super) fn new() -> Self {
        Beginning { made: Arc::default(), is_over: Arc::default(), done: CancellationToken::new() }
    }

    /// Makes the node, and takes it down again if nobody took it.
    pub(super) async fn run(self, options: NodeOptions, handler: ForeignHandler) {
        let Beginning { made, is_over, done } = self;
        {
            // Also if this panics, or is dropped.
            let _over = Over(is_over);
            let node = begin(options, handler, done.clone()).await;
            *made.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
        }
        done.cancelled().await;
        let left = made.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Ok(node)) = left {
            node.shutdown(FAREWELL).await;
        }
    }

    /// The node, when it serves. Dropping this says that it is not wanted, even if it was never polled.
    pub(super) fn node(&self) -> impl Future<Output = Result<LiveNode>> + Send + use<> {
        let Beginning { made, is_over, done } = self.clone();
        let done = done.drop_guard();
        async move {
            let _done = done;
            is_over.notified().await;
            let made = made.lock().unwrap_or_else(PoisonError::into_inner).take();
            made.unwrap_or_else(|| Err(panic_error()))
        }
    }
}

async fn begin(options: NodeOptions, handler: ForeignHandler, unwanted: CancellationToken) -> Result<LiveNode> {
    let has_backend = options.backend.is_some();
    let node = Node::bind(options).await?.until(unwanted.cancelled_owned());
    if has_backend { node.serve_backend().await } else { node.serve(handler).await }
}

struct Over(Arc<Notify>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
