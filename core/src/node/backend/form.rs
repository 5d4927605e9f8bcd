//! A multipart form with a sound file, decoded from base64 while it is sent: no second copy of it is held.

use std::borrow::Cow;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::HeaderValue;
use http_body::{Body, Frame, SizeHint};
use uuid::Uuid;

use crate::error::{Code, Error, Result};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// Characters that are decoded at a time: whole groups of four.
const PIECE: usize = 64 << 10;
/// Longest name of a file.
const MOST_NAME: usize = 128;

/// A file and texts beside it.
#[derive(Debug)]
pub(super) struct Form {
    boundary: String,
    head: Bytes,
    /// Good base64 without padding.
    file: Bytes,
    tail: Bytes,
}

impl Form {
    /// A form with a file of this name, given in base64, and texts.
    ///
    /// # Errors
    /// `PAYLOAD_INVALID` if the file is empty or not base64.
    pub(super) fn new(name: &str, file: Bytes, texts: &[(&str, Cow<'_, str>)]) -> Result<Self> {
        let padding = file.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
        let file = file.slice(..file.len() - padding);
        check(&file)?;
        // Nobody can write this into a text before it is drawn.
        let boundary = format!("iicp-{}", Uuid::new_v4().simple());
        let mut head = String::new();
        for (field, text) in texts {
            head.push_str(&format!(
                "--{boundary}\r\ncontent-disposition: form-data; name=\"{field}\"\r\n\r\n{text}\r\n"
            ));
        }
        let name = file_name(name);
        head.push_str(&format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             content-type: application/octet-stream\r\n\r\n"
        ));
        let tail = format!("\r\n--{boundary}--\r\n").into();
        Ok(Form { boundary, head: head.into(), file, tail })
    }

    pub(super) fn mime(&self) -> HeaderValue {
        HeaderValue::from_str(&format!("multipart/form-data; boundary={}", self.boundary))
            .unwrap_or(HeaderValue::from_static("multipart/form-data"))
    }

    /// The form as it goes over the wire.
    pub(super) fn read(&self) -> Sending {
        let length = self.head.len() + self.file.len() * 3 / 4 + self.tail.len();
        Sending { parts: [self.head.clone(), self.file.clone(), self.tail.clone()], left: length as u64 }
    }
}

/// A name that cannot end its header.
fn file_name(name: &str) -> String {
    let tame = |c: char| if c.is_control() || matches!(c, '"' | '\\' | '/') { '_' } else { c };
    let mut out = String::new();
    for c in name.chars().map(tame) {
        if out.len() + c.len_utf8() > MOST_NAME {
            break;
        }
        out.push(c);
    }
    if out.is_empty() { "audio.wav".into() } else { out }
}

fn check(file: &[u8]) -> Result<()> {
    let bad = |why: &str| Err(Error::new(Code::PayloadInvalid, format!("audio of the payload {why}")));
    if file.is_empty() {
        return bad("is empty; it must be a sound file in base64");
    }
    let mut scratch = vec![0; PIECE];
    if file.chunks(PIECE).any(|piece| BASE64.decode_slice(piece, &mut scratch).is_err()) {
        return bad("is not base64");
    }
    Ok(())
}

/// A form on its way: head, file, tail.
pub(super) struct Sending {
    parts: [Bytes; 3],
    left: u64,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(part) = self.parts.iter().position(|part| !part.is_empty()) else { return Poll::Ready(None) };
        let most = if part == 1 { PIECE.min(self.parts[1].len()) } else { self.parts[part].len() };
        let piece = self.parts[part].split_to(most);
        // It was decoded once before.
        let data = if part == 1 { BASE64.decode(&piece).unwrap_or_default().into() } else { piece };
        self.left = self.left.saturating_sub(data.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose;
    use http_body_util::BodyExt as _;

    use super::*;

    async fn sent(form: &Form) -> Vec<u8> {
        let (announced, body) = (form.read().size_hint().exact(), form.read());
        let sent = body.collect().await.unwrap().to_bytes().to_vec();
        assert_eq!(announced, Some(sent.len() as u64));
        sent
    }

    #[tokio::test]
    async fn a_file_of_any_length_goes_out_whole() {
        for length in [1, 2, 3, 48 << 10, (48 << 10) + 1, 200_000] {
            let file: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
            for engine in [general_purpose::STANDARD, general_purpose::STANDARD_NO_PAD] {
                let form = Form::new("a.wav", engine.encode(&file).into(), &[("model", "m".into())]).unwrap();
                let sent = sent(&form).await;
                assert!(sent.windows(file.len()).any(|window| window == file), "{length}");
                let boundary = form.mime().to_str().unwrap().split_once("boundary=").unwrap().1.to_owned();
                assert!(sent.ends_with(format!("--{boundary}--\r\n").as_bytes()));
            }
        }
    }

    #[tokio::test]
    async fn a_name_cannot_write_headers_and_a_text_cannot_end_its_part() {
        let name = "x\"\r\ncontent-type: text/html\r\n\r\n.wav";
        let form = Form::new(name, "AAAA".into(), &[("prompt", "--iicp-0\r\n\r\n".into())]).unwrap();
        let sent = String::from_utf8(sent(&form).await).unwrap();
        assert!(sent.contains("filename=\"x___content-type: text_html____.wav\"\r\n"), "{sent}");
        assert!(!form.boundary.contains("iicp-0\r"));
        assert_eq!(file_name(&"é".repeat(200)).len(), MOST_NAME);
        assert_eq!(file_name(""), "audio.wav");
    }

    #[test]
    fn what_is_no_base64_is_refused_before_anything_is_sent() {
        for bad in ["", "=", "A", "AA-A", "AA A", "AAA==A", "\u{e9}\u{e9}"] {
            assert_eq!(Form::new("a", bad.to_owned().into(), &[]).unwrap_err().code(), Code::PayloadInvalid, "{bad}");
        }
    }
}
