//! Replaces the model name in a body and keeps every other byte (V2).

use std::borrow::Cow;
use std::ops::Range;

use super::json::Cursor;
use super::peek::ModelSpans;

/// A body in pieces that are sent one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spliced<'a> {
    /// The pieces in order.
    pub(crate) parts: Vec<Cow<'a, [u8]>>,
}

impl Spliced<'_> {
    /// Length of the whole body.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// The whole body in one piece.
    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.parts.concat()
    }
}

/// Replaces every top-level `model` string by `model`, so that readers of the result agree on the
/// model even if the key is repeated. A body without `model`, or with one that is not a string, is
/// returned unchanged.
pub(crate) fn replace_model<'a>(body: &'a [u8], models: &ModelSpans, model: &str) -> Spliced<'a> {
    let text = serde_json::Value::from(model).to_string().into_bytes();
    if models.more {
        return Spliced { parts: vec![Cow::Owned(replace_many(body, &text))] };
    }
    let mut parts = Vec::with_capacity(models.first.len() * 2 + 1);
    let mut done = 0;
    for span in &models.first {
        parts.push(Cow::Borrowed(body.get(done..span.start).unwrap_or_default()));
        parts.push(Cow::Owned(text.clone()));
        done = span.end;
    }
    parts.push(Cow::Borrowed(body.get(done..).unwrap_or_default()));
    Spliced { parts }
}

/// Makes one copy, because a hostile body could make a list of pieces long.
fn replace_many(body: &[u8], text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut done = 0;
    let mut copy = |span: Range<usize>, text: &[u8]| {
        out.extend_from_slice(body.get(done..span.start).unwrap_or_default());
        out.extend_from_slice(text);
        done = span.end;
    };
    let _end = Cursor::new(body).members(|cursor, key| match key.name().as_ref() {
        b"model" => {
            if let Some(found) = cursor.text()? {
                copy(found.span, text);
            }
            Some(())
        }
        _ => cursor.skip(),
    });
    copy(body.len()..body.len(), b"");
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::*;
    use crate::http::peek::peek;
    use crate::testing::chance::{Random, rounds};

    fn splice(body: &str, model: &str) -> String {
        let spliced = replace_model(body.as_bytes(), &peek(body.as_bytes()).models, model);
        assert_eq!(spliced.len(), spliced.to_vec().len());
        String::from_utf8(spliced.to_vec()).unwrap()
    }

    #[test]
    fn only_the_bytes_of_the_name_change() {
        #[rustfmt::skip] // one row a line
        let rows = [
            ("V2", r#"{ "model" :	"a" , "x":1}"#, r#"{ "model" :	"glm" , "x":1}"#),
            ("V2 escapes in the key", r#"{"mod\u0065l":"a\"b"}"#, r#"{"mod\u0065l":"glm"}"#),
            ("V2 every duplicate", r#"{"model":"a","x":{},"model":"b"}"#, r#"{"model":"glm","x":{},"model":"glm"}"#),
            ("V2 nested ones stay", r#"{"messages":[{"model":"a"}],"tools":{"model":"b"}}"#, r#"{"messages":[{"model":"a"}],"tools":{"model":"b"}}"#),
            ("V2 text stays", r#"{"system":"\"model\":\"a\"","model":"b"}"#, r#"{"system":"\"model\":\"a\"","model":"glm"}"#),
            ("V2 no string", r#"{"model":null}"#, r#"{"model":null}"#),
            ("V2 none", r#"{}"#, r#"{}"#),
            ("V2 no object", r#"["model","a"]"#, r#"["model","a"]"#),
            ("V2 broken behind it", r#"{"model":"a","x"#, r#"{"model":"glm","x"#),
        ];
        for (rule, body, expected) in rows {
            assert_eq!(splice(body, "glm"), expected, "{rule}");
        }
        assert_eq!(
            splice(r#"{"model":"a"}"#, "g\"\\\n你"),
            r#"{"model":"g\"\\\n你"}"#,
            "V2 the new name is escaped"
        );
    }

    #[test]
    fn many_duplicates() {
        let body = format!("{{{}\"model\":7}}", r#""model":"a", "x":[1],"#.repeat(1_000));
        assert_eq!(splice(&body, "glm"), body.replace("\"a\"", "\"glm\""), "V2");
    }

    #[test]
    fn a_reader_finds_the_same_document_otherwise() {
        let mut random = Random::new(21);
        let mut replaced = 0;
        for _ in rounds(5_000) {
            let body = random.object(4);
            let mut expected: Value = serde_json::from_str(&body).unwrap();
            let spliced = splice(&body, "glm-5.3");
            let got: Value = serde_json::from_str(&spliced).unwrap();
            if let Some(model) = expected.get_mut("model").filter(|model| model.is_string()) {
                *model = Value::from("glm-5.3");
                replaced += 1;
            }
            assert_eq!(got, expected, "{body}\n{spliced}");
            let restored = peek(spliced.as_bytes()).models;
            let originals = peek(body.as_bytes()).models;
            let mut back = spliced.clone();
            for (now, before) in restored.first.iter().zip(&originals.first).rev() {
                back.replace_range(now.clone(), &body[before.clone()]);
            }
            assert_eq!(back, body, "every other byte is as it was");
        }
        assert!(replaced > 500, "the generator draws what is looked for");
    }

    #[test]
    fn of_a_broken_body_nothing_else_changes_either() {
        let mut random = Random::new(22);
        let mut replaced = 0;
        for _ in rounds(5_000) {
            let text = random.object(3);
            let body = random.broken(&text);
            let spans = peek(&body).models;
            let spliced = replace_model(&body, &spans, "glm").to_vec();
            let mut expected = body.clone();
            for span in spans.first.iter().rev() {
                expected.splice(span.clone(), *b"\"glm\"");
            }
            assert!(!spans.more, "so few fit into the list");
            assert_eq!(spliced, expected, "V2 {body:?}");
            replaced += spans.first.len();
        }
        assert!(replaced > 200, "the generator draws what is looked for");
    }
}
