//! JSON straight from and into Python's own types, for what nearly all of it is made of.
//!
//! What is more than that (subclasses, whole numbers beyond 64 bits, half a surrogate pair) is refused here and left to
//! Python's `json`, which also finds the words for what is wrong. So the two never disagree.

use std::cell::Cell;
use std::fmt;

use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyNone, PyString, PyTuple};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Deeper values are Python's to judge.
const MOST_DEPTH: usize = 128;

/// Bytes that a thread keeps to write the next text into.
const MOST_ROOM: usize = 64 << 10;

pyo3::create_exception!(iicp_core._native, NotPlain, PyValueError, "What Python's own json has to write or read.");

/// JSON text of a plain value.
#[pyfunction]
pub(crate) fn dumps<'py>(py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    with_text(value, |text| PyBytes::new(py, text))
}

/// Uses the JSON text of a plain value.
pub(crate) fn with_text<T>(value: &Bound<'_, PyAny>, using: impl FnOnce(&[u8]) -> T) -> PyResult<T> {
    thread_local! {
        // Room that is there already: a kilobyte is where malloc becomes slow.
        static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut out = ROOM.take();
    out.clear();
    let used = write(value, &mut out, 0).map(|()| using(&out));
    if out.capacity() <= MOST_ROOM {
        ROOM.set(out);
    }
    used.ok_or_else(|| NotPlain::new_err("not a plain value"))
}

/// A plain value from JSON text.
#[pyfunction]
pub(crate) fn loads<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Plain(py).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    // Without the reason, which may quote the text.
    read.map_err(|_| NotPlain::new_err("not a plain value"))
}

fn write(value: &Bound<'_, PyAny>, out: &mut Vec<u8>, depth: usize) -> Option<()> {
    if let Ok(text) = value.cast_exact::<PyString>() {
        return write_string(text, out);
    }
    if let Ok(number) = value.cast_exact::<PyInt>() {
        return serde_json::to_writer(out, &number.extract::<i64>().ok()?).ok();
    }
    if let Ok(object) = value.cast_exact::<PyDict>() {
        return write_object(object, out, depth);
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        return write_items(list.iter(), out, depth);
    }
    if let Ok(number) = value.cast_exact::<PyFloat>() {
        let number = number.extract::<f64>().ok().filter(|number| number.is_finite())?;
        return serde_json::to_writer(out, &number).ok();
    }
    if let Ok(flag) = value.cast_exact::<PyBool>() {
        out.extend_from_slice(if flag.is_true() { b"true" } else { b"false" });
        return Some(());
    }
    if value.is_none() {
        out.extend_from_slice(b"null");
        return Some(());
    }
    write_items(value.cast_exact::<PyTuple>().ok()?.iter(), out, depth)
}

fn write_string(text: &Bound<'_, PyString>, out: &mut Vec<u8>) -> Option<()> {
    let text = text.to_str().ok()?;
    // Looks at every byte, as that is what a processor does sixteen or more at a time.
    if text.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\')) {
        return serde_json::to_writer(out, text).ok();
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
    Some(())
}

fn write_object(object: &Bound<'_, PyDict>, out: &mut Vec<u8>, depth: usize) -> Option<()> {
    if depth == MOST_DEPTH {
        return None;
    }
    out.push(b'{');
    for (at, (name, value)) in object.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_string(name.cast_exact::<PyString>().ok()?, out)?;
        out.push(b':');
        write(&value, out, depth + 1)?;
    }
    out.push(b'}');
    Some(())
}

fn write_items<'py>(items: impl Iterator<Item = Bound<'py, PyAny>>, out: &mut Vec<u8>, depth: usize) -> Option<()> {
    if depth == MOST_DEPTH {
        return None;
    }
    out.push(b'[');
    for (at, value) in items.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(&value, out, depth + 1)?;
    }
    out.push(b']');
    Some(())
}

/// Makes Python's values of what a reader finds.
#[derive(Clone, Copy)]
struct Plain<'py>(Python<'py>);

impl<'py> Plain<'py> {
    fn made<E: Error>(self, value: impl IntoPyObject<'py>) -> Result<Bound<'py, PyAny>, E> {
        value.into_bound_py_any(self.0).map_err(|_| E::custom("Python has no memory for it"))
    }
}

impl<'de, 'py> DeserializeSeed<'de> for Plain<'py> {
    type Value = Bound<'py, PyAny>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, 'py> Visitor<'de> for Plain<'py> {
    type Value = Bound<'py, PyAny>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(PyNone::get(self.0).to_owned().into_any())
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Self::Value, E> {
        self.made(flag)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        self.made(number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        self.made(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        // So comes also a whole number beyond 64 bits, and `-0`, which is one to Python.
        if number.abs() >= 9e18 || (number == 0.0 && number.is_sign_negative()) {
            return Err(E::custom("maybe a whole number"));
        }
        self.made(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(PyString::new(self.0, text).into_any())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let list = PyList::empty(self.0);
        while let Some(item) = items.next_element_seed(self)? {
            list.append(item).map_err(A::Error::custom)?;
        }
        Ok(list.into_any())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let object = PyDict::new(self.0);
        while let Some(name) = items.next_key_seed(self)? {
            let value = items.next_value_seed(self)?;
            object.set_item(name, value).map_err(A::Error::custom)?;
        }
        Ok(object.into_any())
    }
}
