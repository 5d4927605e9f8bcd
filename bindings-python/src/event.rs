//! Events and errors as tuples: the cheapest thing that Python can take apart.

use iicp_core::Error;
use iicp_core::bridge::Event;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

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

/// `(kind, id, tag, handle, json, body, error)`; an error is a tuple too, or none.
pub(crate) fn event_tuple<'py>(py: Python<'py>, event: &Event) -> PyResult<Bound<'py, PyTuple>> {
    (
        event.kind.number(),
        event.id,
        event.tag,
        event.handle,
        PyBytes::new(py, event.json.as_bytes()),
        PyBytes::new(py, &event.body),
        event.error.as_ref().map(error_tuple),
    )
        .into_pyobject(py)
}
