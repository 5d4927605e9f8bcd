//! What the fuzz targets call: hostile requests, read as the routes read them.

use super::form::Form;
use super::record::{MOST_BYTES, Registration};
use super::score::Wish;
use crate::options::is_node_id;
use crate::protocol::risk;

/// A registration that is taken is one that can be kept and shown; one that is not names its faults and quotes nothing.
pub(crate) fn register(body: &[u8]) {
    let Ok(registration) = Registration::read(body) else { return };
    let record = &registration.record;
    assert!(record.weight() <= MOST_BYTES);
    assert!(registration.node_id.as_deref().is_none_or(is_node_id));
    assert!(record.endpoint.starts_with("http://") || record.endpoint.starts_with("https://"));
    assert!(!record.endpoint.contains(char::is_whitespace) && record.endpoint.len() <= 255);
    assert!(record.serving(None).count() > 0);
    assert!(record.serving(None).all(|capability| risk::refusal(&capability.intent).is_none()));
    assert!(record.serving(None).all(|capability| capability.models.len() <= 64));
}

/// A query that is taken asks for what there can be.
pub(crate) fn discover(query: &[u8]) {
    let Ok(query) = std::str::from_utf8(query) else { return };
    let mut form = Form::query(query);
    let wish = Wish::read(&mut form);
    if form.finish().is_err() {
        return;
    }
    assert!((1..=50).contains(&wish.limit));
    assert!(!wish.intent.is_empty() && wish.intent.len() <= 255);
}
