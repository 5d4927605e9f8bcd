//! The verbs. Options are JSON text and bodies too, both as bytes; everything else is a number.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use iicp_core::bridge::{Bridge, Inference};
use iicp_core::options::from_json;
use iicp_core::{Code, Error, Result};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::event::{event_tuple, failure};
use crate::json::with_text;
use crate::logs::{Line, Logs};

/// The engine of one process; see `iicp_core::bridge::Bridge` for what each verb promises.
#[pyclass(frozen, module = "iicp_core._native")]
pub(crate) struct Engine(Bridge, Arc<Logs>);

/// Seconds as Python has them. A negative or absurd number is no time at all, or for ever.
fn seconds(time: f64) -> Duration {
    Duration::try_from_secs_f64(time).unwrap_or(if time > 0.0 { Duration::MAX } else { Duration::ZERO })
}

/// JSON text as the bridge takes it.
fn text(json: &[u8]) -> Result<&str> {
    std::str::from_utf8(json).map_err(|_| Error::new(Code::ConfigInvalid, "options are not UTF-8; pass JSON text"))
}

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, options: &[u8]) -> PyResult<Self> {
        let logs = Logs::begin();
        py.detach(|| Bridge::new(from_json(text(options)?)?)).map(|bridge| Engine(bridge, logs)).map_err(failure)
    }

    fn shutdown(&self, py: Python<'_>, deadline: f64) -> PyResult<bool> {
        let ended = py.detach(|| self.0.shutdown(seconds(deadline))).map_err(failure);
        self.1.close();
        ended
    }

    /// Waits for what the engine has to say: `(level, target, text)`. Empty when that was all.
    fn logs(&self, py: Python<'_>) -> Vec<Line> {
        py.detach(|| self.1.next())
    }

    fn queue_new(&self, options: &[u8]) -> PyResult<u64> {
        text(options).and_then(from_json).and_then(|options| self.0.queue_new(options)).map_err(failure)
    }

    fn queue_next<'py>(&self, py: Python<'py>, queue: u64, timeout: f64) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let event = py.detach(|| self.0.queue_next(queue, seconds(timeout))).map_err(failure)?;
        event.map(|event| event_tuple(py, event)).transpose()
    }

    fn queue_drain<'py>(&self, py: Python<'py>, queue: u64, most: usize) -> PyResult<Bound<'py, PyList>> {
        let events = self.0.queue_drain(queue, most).map_err(failure)?;
        let list = PyList::empty(py);
        for event in events {
            list.append(event_tuple(py, event)?)?;
        }
        Ok(list)
    }

    fn queue_fd(&self, queue: u64) -> PyResult<i32> {
        self.0.queue_fd(queue).map_err(failure)
    }

    fn queue_close(&self, queue: u64) -> PyResult<()> {
        self.0.queue_close(queue).map_err(failure)
    }

    fn queue_free(&self, queue: u64) -> PyResult<()> {
        self.0.queue_free(queue).map_err(failure)
    }

    fn cancel(&self, operation: u64) -> PyResult<()> {
        self.0.cancel(operation).map_err(failure)
    }

    /// Detached, because it may read the system's certificates.
    fn client_new(&self, py: Python<'_>, options: &[u8]) -> PyResult<u64> {
        py.detach(|| self.0.client_new(text(options)?)).map_err(failure)
    }

    fn client_close(&self, client: u64) -> PyResult<()> {
        self.0.client_close(client).map_err(failure)
    }

    fn discover(&self, client: u64, queue: u64, query: &[u8], tag: u64) -> PyResult<u64> {
        text(query).and_then(|query| self.0.discover(client, queue, query, tag)).map_err(failure)
    }

    /// The body is JSON text, or a plain value.
    fn submit(&self, client: u64, queue: u64, task: &[u8], body: &Bound<'_, PyAny>, tag: u64) -> PyResult<u64> {
        let body = match body.cast_exact::<PyBytes>() {
            Ok(text) => Bytes::copy_from_slice(text.as_bytes()),
            Err(_) => with_text(body, Bytes::copy_from_slice)?,
        };
        text(task).and_then(|task| self.0.submit(client, queue, task, body, tag)).map_err(failure)
    }

    fn chat(&self, client: u64, queue: u64, chat: &[u8], tag: u64) -> PyResult<u64> {
        text(chat).and_then(|chat| self.0.chat(client, queue, chat, tag)).map_err(failure)
    }

    /// The body is JSON text; empty for a chat.
    fn stream(&self, client: u64, queue: u64, ask: &[u8], body: &[u8], tag: u64) -> PyResult<u64> {
        let body = Bytes::copy_from_slice(body);
        text(ask).and_then(|ask| self.0.stream(client, queue, ask, body, tag)).map_err(failure)
    }

    /// Detached, because a sound is long.
    // The bridge's own, and the interpreter.
    #[allow(clippy::too_many_arguments)]
    fn infer(
        &self,
        py: Python<'_>,
        client: u64,
        queue: u64,
        kind: i32,
        ask: &[u8],
        body: &[u8],
        tag: u64,
    ) -> PyResult<u64> {
        let start = || {
            let kind = Inference::from_number(kind)
                .ok_or_else(|| Error::new(Code::InvalidArg, format!("there is no model task {kind}")))?;
            self.0.infer(client, queue, kind, text(ask)?, Bytes::copy_from_slice(body), tag)
        };
        py.detach(start).map_err(failure)
    }

    fn rank_finish(&self, operation: u64, choice: &[u8]) -> PyResult<()> {
        text(choice).and_then(|choice| self.0.rank_finish(operation, choice)).map_err(failure)
    }

    fn directory_bind(&self, queue: u64, options: &[u8], tag: u64) -> PyResult<u64> {
        text(options).and_then(|options| self.0.directory_bind(queue, options, tag)).map_err(failure)
    }

    fn directory_close(&self, directory: u64, queue: u64, grace: f64, tag: u64) -> PyResult<u64> {
        self.0.directory_close(directory, queue, seconds(grace), tag).map_err(failure)
    }

    fn node_serve(&self, queue: u64, options: &[u8], tag: u64) -> PyResult<u64> {
        text(options).and_then(|options| self.0.node_serve(queue, options, tag)).map_err(failure)
    }

    fn node_status<'py>(&self, py: Python<'py>, node: u64) -> PyResult<Bound<'py, PyBytes>> {
        let status = self.0.node_status(node).map_err(failure)?;
        Ok(PyBytes::new(py, status.as_bytes()))
    }

    fn node_nat_report<'py>(&self, py: Python<'py>, node: u64) -> PyResult<Bound<'py, PyBytes>> {
        let report = self.0.node_nat_report(node).map_err(failure)?;
        Ok(PyBytes::new(py, report.as_bytes()))
    }

    fn node_close(&self, node: u64, queue: u64, grace: f64, tag: u64) -> PyResult<u64> {
        self.0.node_close(node, queue, seconds(grace), tag).map_err(failure)
    }

    fn task_chunk(&self, task: u64, about: &[u8], body: &[u8]) -> PyResult<()> {
        let body = Bytes::copy_from_slice(body);
        text(about).and_then(|about| self.0.task_chunk(task, about, body)).map_err(failure)
    }

    fn task_finish(&self, task: u64, about: &[u8], body: &[u8]) -> PyResult<()> {
        let body = Bytes::copy_from_slice(body);
        text(about).and_then(|about| self.0.task_finish(task, about, body)).map_err(failure)
    }

    fn task_fail(&self, task: u64, code: i32, message: &str) -> PyResult<()> {
        self.0.task_fail(task, code, message).map_err(failure)
    }
}
