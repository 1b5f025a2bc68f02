//! Keeps credentials out of an error event in the middle of a good stream (SPEC D4).
//!
//! The content of a good answer passes through untouched and at once. An upstream that fails after
//! its first byte reports that in an event of the stream, which may quote the credential that it
//! was given and may be cut off anywhere. So an event that begins as an error is held until it is
//! complete, and is sent without secrets. An incomplete line that may become the start of one is
//! held too. Everything else costs one search for a word.

use std::borrow::Cow;

use memchr::memmem;

use crate::config::masking;

/// The state of one stream.
#[derive(Debug, Default)]
pub(crate) struct ErrorEvents {
    held: Vec<u8>,
    /// The held bytes start an error event.
    is_error: bool,
    /// The last bytes sent ended inside a line.
    is_in_line: bool,
}

impl ErrorEvents {
    /// Takes the next bytes and passes to `out` what may be sent.
    pub(crate) fn feed<E>(
        &mut self,
        bytes: &[u8],
        mut out: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let held = std::mem::take(&mut self.held);
        let all = match held.is_empty() {
            true => Cow::Borrowed(bytes),
            false => Cow::Owned([&held[..], bytes].concat()),
        };
        let mut rest: &[u8] = &all;
        while !rest.is_empty() {
            if self.is_error {
                let Some(end) = end_of_event(rest)
                    .or_else(|| (rest.len() > EVENT_BYTES_MAX).then_some(rest.len()))
                else {
                    self.held = rest.to_vec();
                    return Ok(());
                };
                self.is_error = false;
                self.is_in_line = false;
                let event = &rest[..end];
                out(masking::bytes(event).as_deref().unwrap_or(event))?;
                rest = &rest[end..];
                continue;
            }
            let start = self.error_start(rest);
            let tail = start.unwrap_or_else(|| self.doubtful_tail(rest));
            let (certain, doubtful) = rest.split_at(tail);
            if let Some(last) = certain.last() {
                self.is_in_line = !is_line_end(*last);
                out(certain)?;
            }
            if start.is_none() {
                self.held = doubtful.to_vec();
                return Ok(());
            }
            self.is_error = true;
            rest = doubtful;
        }
        Ok(())
    }

    /// The bytes held at the end of the stream. The last line of a truncated error is not sent: it
    /// may end inside a secret, which could then not be recognized.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let mut held = std::mem::take(&mut self.held);
        if self.is_error {
            held.truncate(line_start(&held));
        }
        self.is_error = false;
        masking::bytes(&held).unwrap_or(held)
    }

    /// Where an error event starts.
    fn error_start(&self, text: &[u8]) -> Option<usize> {
        let mut hits = memmem::find_iter(text, b"error");
        hits.find_map(|hit| {
            let start = line_start(&text[..hit]);
            let begins_here = start > 0 || !self.is_in_line;
            (begins_here && BEGINNINGS.iter().any(|begin| text[start..].starts_with(begin)))
                .then_some(start)
        })
    }

    /// The start of a line that may become the first of an error event; the end of the text if
    /// there is none.
    fn doubtful_tail(&self, text: &[u8]) -> usize {
        let start = line_start(text);
        let tail = &text[start..];
        let begins_here = start > 0 || !self.is_in_line;
        let may_become = |begin: &&[u8]| begin.len() > tail.len() && begin.starts_with(tail);
        if begins_here && !tail.is_empty() && BEGINNINGS.iter().any(may_become) {
            start
        } else {
            text.len()
        }
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn line_start(text: &[u8]) -> usize {
    memchr::memrchr2(b'\n', b'\r', text).map_or(0, |end| end + 1)
}

/// The end of the event, including its empty line.
fn end_of_event(text: &[u8]) -> Option<usize> {
    let ends = [&b"\n\n"[..], b"\r\n\r\n", b"\r\r"];
    ends.iter().filter_map(|end| Some(memmem::find(text, end)? + end.len())).min()
}

/// How an error event starts, with or without the name that the API gives it.
const BEGINNINGS: [&[u8]; 8] = [
    b"event: error",
    b"event:error",
    b"data: {\"type\":\"error\"",
    b"data: {\"type\": \"error\"",
    b"data:{\"type\":\"error\"",
    b"data: {\"error\"",
    b"data:{\"error\"",
    b"data: { \"error\"",
];
/// The API's errors are shorter.
const EVENT_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Secret;

    fn through(pieces: &[&[u8]]) -> String {
        let mut events = ErrorEvents::default();
        let mut out = Vec::new();
        for piece in pieces {
            let passed: Result<(), ()> = events.feed(piece, |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            });
            passed.unwrap();
        }
        out.extend_from_slice(&events.finish());
        String::from_utf8(out).unwrap()
    }

    const GOOD: &str = "event: message_start\ndata: {\"n\":\"guard-secret-0001\"}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n";

    #[test]
    fn d4_an_error_in_mid_stream_is_masked_wherever_it_is_cut() {
        drop(Secret::new("guard-secret-0001"));
        for error in [
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"bad guard-secret-0001\"}}\n\n",
            "event:error\r\ndata: {\"message\":\"guard-secret-0001\"}\r\n\r\n",
            "data: {\"type\":\"error\",\"error\":{\"message\":\"guard-secret-00\\u00301\"}}\n\n",
        ] {
            let whole = format!("{GOOD}{error}{GOOD}");
            let expected = format!(
                "{GOOD}{}{GOOD}",
                error
                    .replace("guard-secret-0001", "[masked]")
                    .replace("guard-secret-00\\u00301", "[masked]")
            );
            let bytes = whole.as_bytes();
            for cut in 0..bytes.len() {
                assert_eq!(through(&[&bytes[..cut], &bytes[cut..]]), expected, "cut at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(through(&single), expected);
        }
        let torn = "event: error\ndata: {\"message\":\"guard-secret-0001";
        for end in 14..=torn.len() {
            assert_eq!(through(&[&torn.as_bytes()[..end]]), "event: error\n", "cut at {end}");
        }
    }

    #[test]
    fn good_events_go_out_at_once_and_as_they_are() {
        drop(Secret::new("guard-secret-0001"));
        for text in [GOOD, "data: an error\n\n", "data: {\"text\":\"event: error\"}\n\n", "error"] {
            let mut events = ErrorEvents::default();
            let mut out = Vec::new();
            let passed: Result<(), ()> = events.feed(text.as_bytes(), |bytes| {
                out.extend_from_slice(bytes);
                Ok(())
            });
            passed.unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
