//! Events, and errors as tuples: the cheapest thing that Python can take apart.

use std::borrow::Cow;

use iicp_core::{Error, bridge};
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use serde::Deserialize;

use crate::json;

pyo3::create_exception!(
    iicp_core._native,
    Failure,
    pyo3::exceptions::PyException,
    "A verb was refused. Its arguments are those of an error tuple."
);

/// `(code, message, retryable, retry_after in seconds, http_status, wire_code)`.
type ErrorTuple = (i32, String, bool, Option<f64>, Option<u16>, Option<String>);

fn error_tuple(error: &Error) -> ErrorTuple {
    (
        error.code().number(),
        error.message().to_owned(),
        error.retryable(),
        error.retry_after().map(|pause| pause.as_secs_f64()),
        error.http_status(),
        error.wire_code().map(str::to_owned),
    )
}

/// The error as the exception that the facade turns into one of its own.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn failure(error: Error) -> PyErr {
    Failure::new_err(error_tuple(&error))
}

/// `(kind, tag, event)`: what is looked at first, of every event.
pub(crate) fn event_tuple(py: Python<'_>, event: bridge::Event) -> PyResult<Bound<'_, PyTuple>> {
    (event.kind.number(), event.tag, Event(event)).into_pyobject(py)
}

/// An event. What it carries becomes Python's when it is asked for.
#[pyclass(frozen, module = "iicp_core._native")]
pub(crate) struct Event(bridge::Event);

/// What the engine says of a finished task.
#[derive(Deserialize)]
struct Finished<'a> {
    task_id: Cow<'a, str>,
    node_id: Cow<'a, str>,
    attempts: u32,
    traceparent: Cow<'a, str>,
    timings_ms: Timings,
}

#[derive(Deserialize)]
struct Timings {
    discover: f64,
    total: f64,
}

#[pymethods]
impl Event {
    #[getter]
    fn id(&self) -> u64 {
        self.0.id
    }

    #[getter]
    fn handle(&self) -> u64 {
        self.0.handle
    }

    #[getter]
    fn error(&self) -> Option<ErrorTuple> {
        self.0.error.as_ref().map(error_tuple)
    }

    /// What is said beside the body.
    #[getter]
    fn json<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.json.as_bytes())
    }

    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.body)
    }

    /// The body as a plain value, if it is one.
    fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        json::loads(py, &self.0.body)
    }

    /// The fields of a `TaskResult` with this result, but for its timings, and the fields of these.
    fn finished<'py>(
        &self,
        py: Python<'py>,
        result: &Bound<'py, PyAny>,
    ) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyDict>)> {
        let said: Finished<'_> =
            serde_json::from_str(&self.0.json).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let timings = PyDict::new(py);
        timings.set_item(intern!(py, "discover"), said.timings_ms.discover / 1_000.0)?;
        timings.set_item(intern!(py, "total"), said.timings_ms.total / 1_000.0)?;
        let task = PyDict::new(py);
        task.set_item(intern!(py, "task_id"), said.task_id)?;
        task.set_item(intern!(py, "node_id"), said.node_id)?;
        task.set_item(intern!(py, "result"), result)?;
        task.set_item(intern!(py, "attempts"), said.attempts)?;
        task.set_item(intern!(py, "traceparent"), said.traceparent)?;
        Ok((task, timings))
    }
}
