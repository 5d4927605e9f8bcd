//! What a provider, or a model server, sends as a stream of events.

use super::{is_json, seed, split};
use crate::protocol::lifecycle::{Lifecycle, Taken};
use crate::wire::events::{Carried, Event, EventName, EventReader, TaskEvent, write_event};

const MOST: usize = 4 << 10;

/// The data of every event, if the bytes arrive in steps of this many.
fn read(stream: &[u8], step: usize) -> Result<Vec<Vec<u8>>, ()> {
    let mut reader = EventReader::new(MOST);
    let mut events = Vec::new();
    for bytes in stream.chunks(step) {
        reader.push(bytes);
        while let Some(data) = reader.next().map_err(drop)? {
            assert!(data.len() <= MOST);
            events.push(data.to_vec());
        }
    }
    Ok(events)
}

/// However the bytes are cut, the events are the same; they keep their order and end once.
pub(super) fn run(data: &[u8]) {
    let (mode, stream) = split(data);
    let (whole, cut) = (read(stream, MOST), read(stream, usize::from(mode).max(1)));
    // Where a stream is too large is seen earlier or later; what was read until then is the same.
    let (Ok(whole), Ok(cut)) = (whole, cut) else { return };
    assert_eq!(whole, cut);
    let mut task = Lifecycle::default();
    let mut last = None;
    for data in &whole {
        let Ok(event) = TaskEvent::read(data) else { return };
        let Some(name) = event.name() else { return };
        let ended = task.has_ended();
        match task.take(event.task_id == "t-1", event.sequence, name, event.is_final) {
            Ok(Taken::Next) => {
                assert_eq!(event.sequence, last.map_or(0, |last| last + 1));
                assert_eq!(task.has_ended(), event.is_final);
                last = Some(event.sequence);
            }
            // Whatever it says the second time, it changes nothing.
            Ok(Taken::Again) => {
                assert!(Some(event.sequence) <= last);
                assert_eq!(task.has_ended(), ended);
            }
            Err(_) => return,
        }
        if let Some(result) = event.result {
            assert!(is_json(result.get().as_bytes()));
            let mut out = Vec::new();
            let carried = Carried::Result(result.get().to_owned().into());
            write_event(&mut out, "t-1", &Event { sequence: event.sequence, name, carried, tokens_used: 0 });
            assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 2, "an event is one line and an empty one");
        }
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    for (sequence, name, carried) in [
        (0, EventName::Accepted, Carried::Salt([7; 12])),
        (1, EventName::Partial, Carried::Result(r#"{"choices":[{"delta":{"content":"a"}}]}"#.into())),
        (2, EventName::Partial, Carried::Part(b"sealed".to_vec())),
        (3, EventName::Completed, Carried::Nothing),
    ] {
        write_event(&mut whole, "t-1", &Event { sequence, name, carried, tokens_used: sequence });
    }
    vec![
        seed(1, &whole),
        seed(7, &whole),
        seed(3, b": still there\r\ndata: {\"task_id\":\"t-1\",\"sequence\":0,\ndata: \"state\":\"expired\",\"is_final\":true}\n\n"),
        seed(2, b"data: {\"choices\":[]}\n\ndata: [DONE]\n\n"),
    ]
}
