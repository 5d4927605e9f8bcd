//! Events, and errors as tuples: the cheapest thing that Python can take apart.

use std::borrow::Cow;

use iicp_core::Error;
use iicp_core::bridge::{self, Spelling};
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
        error.message_in(Spelling::Seconds).into_owned(),
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
    receipt: Receipt<'a>,
    sealed: bool,
}

#[derive(Deserialize)]
struct Timings {
    discover: f64,
    select: f64,
    connect: f64,
    first_byte: f64,
    overhead: f64,
    total: f64,
}

#[derive(Deserialize)]
struct Receipt<'a> {
    receipt_version: Cow<'a, str>,
    selection_profile: Cow<'a, str>,
    eligible_candidate_count: usize,
    selected_node_id_prefix: Cow<'a, str>,
    dispatch_ticket_id_prefix: Option<Cow<'a, str>>,
    profile_negotiation: Option<Cow<'a, str>>,
    redaction: Cow<'a, str>,
}

/// The fields of a class, by their interned names.
macro_rules! fields {
    ($py:ident, { $($name:ident: $value:expr,)* }) => {{
        let fields = PyDict::new($py);
        $(fields.set_item(intern!($py, stringify!($name)), $value)?;)*
        fields
    }};
}

/// The fields of a `TaskResult`, of its `Timings` and of its `RoutingReceipt`.
type Fields<'py> = (Bound<'py, PyDict>, Bound<'py, PyDict>, Bound<'py, PyDict>);

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

    /// The fields of a `TaskResult` with this result, but for its timings and its receipt, and the fields of these.
    fn finished<'py>(&self, py: Python<'py>, result: &Bound<'py, PyAny>) -> PyResult<Fields<'py>> {
        let said: Finished<'_> =
            serde_json::from_str(&self.0.json).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let (time, receipt) = (said.timings_ms, said.receipt);
        let timings = fields!(py, {
            discover: time.discover / 1_000.0,
            select: time.select / 1_000.0,
            connect: time.connect / 1_000.0,
            first_byte: time.first_byte / 1_000.0,
            overhead: time.overhead / 1_000.0,
            total: time.total / 1_000.0,
        });
        let receipt = fields!(py, {
            receipt_version: receipt.receipt_version,
            selection_profile: receipt.selection_profile,
            eligible_candidate_count: receipt.eligible_candidate_count,
            selected_node_id_prefix: receipt.selected_node_id_prefix,
            dispatch_ticket_id_prefix: receipt.dispatch_ticket_id_prefix,
            profile_negotiation: receipt.profile_negotiation,
            redaction: receipt.redaction,
        });
        let task = fields!(py, {
            task_id: said.task_id,
            node_id: said.node_id,
            result: result,
            attempts: said.attempts,
            traceparent: said.traceparent,
            sealed: said.sealed,
        });
        Ok((task, timings, receipt))
    }
}
