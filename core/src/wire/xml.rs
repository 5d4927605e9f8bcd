//! As much XML as gateways speak: elements and text. What a bomb is made of (document types, entities of one's own, depth,
//! size) is refused, not read.

use std::fmt;

/// Largest document.
pub(crate) const MOST_BYTES: usize = 256 << 10;
const MOST_DEPTH: usize = 16;
const MOST_ELEMENTS: usize = 4_096;
const MOST_NAME: usize = 128;

/// An element: its name without prefix, its own text, and what it holds. Attributes tell nothing that is needed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

/// Why a document is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault(&'static str);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Element {
    /// The first child of this name.
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of this name, without the space around it.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }

    /// This element and all below it.
    pub(crate) fn all(&self) -> Vec<&Element> {
        let mut found = vec![self];
        let mut next = 0;
        while let Some(element) = found.get(next).copied() {
            found.extend(&element.children);
            next += 1;
        }
        found
    }
}

/// Reads a document.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(document: &[u8]) -> Result<Element, Fault> {
    if document.len() > MOST_BYTES {
        return Err(Fault("over 256 KiB"));
    }
    let text = std::str::from_utf8(document).map_err(|_| Fault("no UTF-8"))?;
    // The outermost stands for the document itself.
    let mut open = vec![Element::default()];
    let mut elements = 0;
    let mut rest = text.trim_start_matches('\u{feff}');
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        add_text(&mut open, before)?;
        rest = step(tag, &mut open, &mut elements)?;
    }
    if open.len() != 1 || !rest.trim().is_empty() {
        return Err(Fault("it ends before its last element does"));
    }
    let mut roots = open.pop().map(|document| document.children).unwrap_or_default();
    if roots.len() == 1 { roots.pop().ok_or(Fault("empty")) } else { Err(Fault("not one element at the top")) }
}

/// Takes what begins with `<`, and gives back what follows.
fn step<'a>(tag: &'a str, open: &mut Vec<Element>, elements: &mut usize) -> Result<&'a str, Fault> {
    let after = |text: &'a str, end: &str| text.find(end).map(|at| &text[at + end.len()..]);
    if let Some(comment) = tag.strip_prefix("<!--") {
        return after(comment, "-->").ok_or(Fault("a comment without end"));
    }
    if let Some(data) = tag.strip_prefix("<![CDATA[") {
        let end = data.find("]]>").ok_or(Fault("a section without end"))?;
        open.last_mut().ok_or(Fault("text outside"))?.text.push_str(&data[..end]);
        return Ok(&data[end + 3..]);
    }
    if tag.starts_with("<!") {
        return Err(Fault("it declares a document type, as bombs do"));
    }
    if let Some(instruction) = tag.strip_prefix("<?") {
        return after(instruction, "?>").ok_or(Fault("an instruction without end"));
    }
    let end = tag_end(tag).ok_or(Fault("a tag without end"))?;
    let (inside, rest) = (&tag[1..end], &tag[end + 1..]);
    if let Some(name) = inside.strip_prefix('/') {
        close(open, name)?;
        return Ok(rest);
    }
    *elements += 1;
    if *elements > MOST_ELEMENTS || open.len() > MOST_DEPTH {
        return Err(Fault("more or deeper elements than a gateway has"));
    }
    let is_empty = inside.ends_with('/');
    let name = local(inside.trim_end_matches('/'))?;
    open.push(Element { name: name.to_owned(), ..Element::default() });
    if is_empty {
        close(open, name)?;
    }
    Ok(rest)
}

/// Where a tag ends: a bracket inside quotes does not end it.
fn tag_end(tag: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in tag.bytes().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(begun), byte) if begun == byte => quote = None,
            _ => {}
        }
    }
    None
}

/// The name of a tag without its prefix.
fn local(inside: &str) -> Result<&str, Fault> {
    let name = inside.split_ascii_whitespace().next().unwrap_or_default();
    let name = name.rsplit(':').next().unwrap_or_default();
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.') || !byte.is_ascii();
    if name.is_empty() || name.len() > MOST_NAME || !name.bytes().all(good) {
        return Err(Fault("a tag without a name"));
    }
    Ok(name)
}

fn close(open: &mut Vec<Element>, name: &str) -> Result<(), Fault> {
    let name = local(name)?;
    let closed = open.pop().filter(|element| element.name == name && !open.is_empty());
    let (Some(closed), Some(parent)) = (closed, open.last_mut()) else {
        return Err(Fault("an end where nothing of that name began"));
    };
    parent.children.push(closed);
    Ok(())
}

fn add_text(open: &mut [Element], text: &str) -> Result<(), Fault> {
    let is_outside = open.len() == 1;
    if is_outside && !text.trim().is_empty() {
        return Err(Fault("text outside of its element"));
    }
    let Some(element) = open.last_mut() else { return Ok(()) };
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        element.text.push_str(&rest[..at]);
        let (name, after) = rest[at + 1..].split_once(';').ok_or(Fault("a reference without end"))?;
        element.text.push(entity(name).ok_or(Fault("an entity of its own, as bombs have"))?);
        rest = after;
    }
    element.text.push_str(rest);
    Ok(())
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ if name.len() > 9 => None,
        _ => {
            let number = name.strip_prefix('#')?;
            let number = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(number.ok()?)
        }
    }
}

/// Text as it may stand between tags.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_their_text_are_read() {
        let text = "\u{feff}<?xml version=\"1.0\"?>\n<!-- x --><s:root a=\"1 > 0\" b='/'><a> 1 &amp; 2 </a><b/><a><![CDATA[<c>]]></a></s:root>\n";
        let root = read(text.as_bytes()).unwrap();
        assert_eq!(root.name, "root");
        assert_eq!(root.text_of("a"), Some("1 & 2"));
        assert_eq!(root.text_of("b"), None);
        assert_eq!(root.children[2].text, "<c>");
        assert_eq!(root.all().len(), 4);
    }

    #[test]
    fn what_bombs_are_made_of_is_refused() {
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><x>&b;</x>";
        let deep = format!("{}{}", "<a>".repeat(17), "</a>".repeat(17));
        let wide = format!("<a>{}</a>", "<b/>".repeat(MOST_ELEMENTS));
        let large = format!("<a>{}</a>", "x".repeat(MOST_BYTES));
        for bad in [bomb, &deep, &wide, &large, "<x>&lol;</x>", "<x>&#x110000;</x>", "<x>&amp</x>"] {
            assert!(read(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(80)]);
        }
        assert!(read(format!("{}{}", "<a>".repeat(16), "</a>".repeat(16)).as_bytes()).is_ok());
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for bad in [
            "",
            "x",
            "<a>",
            "</a>",
            "<a></b>",
            "<a><b></a></b>",
            "<a/><b/>",
            "<a/>x",
            "<>",
            "<a",
            "<!--",
            "<a b='></a>",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read(b"<a>\xff</a>").is_err());
    }
}
