//! Parses the JSON of our own documents (state file, status, control messages).
//!
//! A struct that serde reads from text is compiled together with the parser, and once more for a
//! list in place of the object. Here the text is parsed into a value first and structs are read
//! only from objects, which makes the binary smaller.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeOwned, Deserializer, Error as _, Expected, IntoDeserializer, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// Parses a document.
///
/// # Errors
/// The text is not JSON, or does not have this shape.
pub(crate) fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    T::deserialize(Part(serde_json::from_slice(json)?))
}

/// A part of a document, or the whole.
struct Part(Value);

impl IntoDeserializer<'_, Error> for Part {
    type Deserializer = Part;

    fn into_deserializer(self) -> Part {
        self
    }
}

impl<'de> Deserializer<'de> for Part {
    type Error = Error;

    /// Strings, numbers, booleans, and types that accept anything.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(flag),
            Value::String(text) => visitor.visit_string(text),
            Value::Number(number) => number.deserialize_any(visitor),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Value::Array(items) = self.0 else { return Err(wrong_kind(&self.0, &visitor)) };
        let mut items = SeqDeserializer::new(items.into_iter().map(Part));
        let read = visitor.visit_seq(&mut items)?;
        // A fixed-length array does not consume surplus elements.
        items.end()?;
        Ok(read)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Value::Object(members) = self.0 else { return Err(wrong_kind(&self.0, &visitor)) };
        let members = members.into_iter().map(|(name, value)| (name, Part(value)));
        visitor.visit_map(MapDeserializer::new(members))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _members: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct tuple_struct enum identifier
    }
}

fn wrong_kind(found: &Value, expected: &dyn Expected) -> Error {
    let found = match found {
        Value::Null => Unexpected::Unit,
        Value::Bool(flag) => Unexpected::Bool(*flag),
        Value::String(text) => Unexpected::Str(text),
        Value::Number(_) => Unexpected::Other("number"),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    };
    Error::invalid_type(found, expected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Document {
        flag: bool,
        count: u16,
        change: i64,
        share: f64,
        text: Option<String>,
        pair: [u64; 2],
        parts: Vec<Document>,
        rest: serde_json::Map<String, Value>,
    }

    #[test]
    fn every_kind_of_value_is_read_as_serde_json_reads_it() {
        let json = r#"{"flag": true, "count": 7, "change": -7, "share": 2, "text": "a", "pair": [1, 2],
            "parts": [{}, {"share": 0.5, "text": null}], "rest": {"a": [1, {"b": null}]},
            "unknown": {"flag": 1}}"#;
        assert_eq!(read::<Document>(json.as_bytes()).unwrap(), serde_json::from_str(json).unwrap());
    }

    #[test]
    fn what_has_another_shape_is_an_error() {
        for (json, words) in [
            ("", "EOF"),
            ("[]", "invalid type: sequence, expected struct Document"),
            ("null", "invalid type: null, expected struct Document"),
            (r#"{"flag": 1}"#, "integer `1`, expected a boolean"),
            (r#"{"count": 70000}"#, "expected u16"),
            (r#"{"count": {}}"#, "invalid type: map, expected u16"),
            (r#"{"parts": {}}"#, "invalid type: map, expected a sequence"),
            (r#"{"parts": [[]]}"#, "invalid type: sequence, expected struct Document"),
            (r#"{"pair": [1]}"#, "invalid length 1"),
            (r#"{"pair": [1, 2, 3]}"#, "invalid length 3"),
        ] {
            let error = read::<Document>(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
