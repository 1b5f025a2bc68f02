//! JSON documents of our own, by their fields: the state file, and the status that one maxpool tells another.
//!
//! [`shape!`](crate::config::shape) defines a struct together with its document. The derives of serde would write every field's code once
//! more for every struct: a twentieth of the program. Here a field is a row of a table. A field that a document does not have keeps its
//! default, and one that the struct does not have is passed over, so that documents of other versions can be read.

use std::fmt;
use std::slice;

use serde_json::{Map, Value};

/// A value with a place in a document.
pub(crate) trait Shape {
    /// Its JSON.
    fn to_json(&self) -> Value;

    /// Becomes what `value` says.
    ///
    /// # Errors
    /// It is of another type; the value may be half taken then.
    fn take(&mut self, value: &Value) -> Result<(), Mismatch>;
}

/// A document that does not fit, and where: `accounts: quota: expected a number`.
#[derive(Debug)]
pub(crate) struct Mismatch(String);

impl Mismatch {
    /// What should have been there.
    pub(crate) fn expected(what: &str) -> Mismatch {
        Mismatch(format!("expected {what}"))
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

/// Defines structs whose fields are those of a JSON object in camel case; `field as "name"` gives one a name of its own.
macro_rules! shape {
    ($($(#[$meta:meta])* struct $name:ident {
        $($(#[$field_meta:meta])* $field:ident $(as $own:literal)?: $type:ty,)*
    })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub(crate) struct $name { $($(#[$field_meta])* pub(crate) $field: $type,)* }

        impl $name {
            const FIELDS: &[&str] = &[$($crate::config::shape::name!($field $($own)?),)*];
        }

        impl $crate::config::shape::Shape for $name {
            fn to_json(&self) -> serde_json::Value {
                let mut object = $crate::config::shape::Writer::new(Self::FIELDS);
                $(object.put(&self.$field);)*
                object.finish()
            }

            fn take(&mut self, value: &serde_json::Value) -> std::result::Result<(), $crate::config::shape::Mismatch> {
                let mut object = $crate::config::shape::Reader::new(Self::FIELDS, value);
                $(object.take(&mut self.$field);)*
                object.finish()
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&$crate::config::shape::Shape::to_json(self), to)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<$name, D::Error> {
                let mut read = $name::default();
                let value = serde_json::Value::deserialize(from)?;
                $crate::config::shape::Shape::take(&mut read, &value).map_err(serde::de::Error::custom)?;
                Ok(read)
            }
        }
    )*};
}

/// A field's name in its document, or the field's own name.
macro_rules! name {
    ($field:ident $own:literal) => {
        $own
    };
    ($field:ident) => {
        stringify!($field)
    };
}

pub(crate) use {name, shape};

/// An object that is being written, field by field in the order of their names. Not inlined: a call for each field is the table.
pub(crate) struct Writer {
    names: slice::Iter<'static, &'static str>,
    members: Map<String, Value>,
}

impl Writer {
    /// Begins an object of these fields.
    pub(crate) fn new(fields: &'static [&'static str]) -> Writer {
        Writer {
            names: fields.iter(),
            members: Map::new(),
        }
    }

    /// The next field.
    #[inline(never)]
    pub(crate) fn put(&mut self, field: &dyn Shape) {
        if let Some(name) = self.names.next() {
            self.members.insert(camel_case(name), field.to_json());
        }
    }

    /// The whole object.
    #[inline(never)]
    pub(crate) fn finish(self) -> Value {
        Value::Object(self.members)
    }
}

/// An object that is being read into fields, in the order of their names; after the first that does not fit the rest is left alone.
pub(crate) struct Reader<'a> {
    names: slice::Iter<'static, &'static str>,
    members: Result<&'a Map<String, Value>, Mismatch>,
}

impl<'a> Reader<'a> {
    /// Begins to read `value` as an object of these fields.
    #[inline(never)]
    pub(crate) fn new(fields: &'static [&'static str], value: &'a Value) -> Reader<'a> {
        let members = value.as_object();
        Reader {
            names: fields.iter(),
            members: members.ok_or_else(|| Mismatch::expected("an object")),
        }
    }

    /// Gives the next field what the object says of it.
    #[inline(never)]
    pub(crate) fn take(&mut self, field: &mut dyn Shape) {
        let Some(name) = self.names.next().map(|name| camel_case(name)) else {
            return;
        };
        if let Ok(members) = &self.members
            && let Some(value) = members.get(&name)
            && let Err(mismatch) = field.take(value)
        {
            self.members = Err(Mismatch(format!("{name}: {mismatch}")));
        }
    }

    /// Whether everything fitted.
    #[inline(never)]
    pub(crate) fn finish(self) -> Result<(), Mismatch> {
        self.members.map(|_| ())
    }
}

/// `last_used` as `lastUsed`.
fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let mut camel = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut letters = part.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

impl Shape for String {
    fn to_json(&self) -> Value {
        Value::from(self.as_str())
    }

    fn take(&mut self, value: &Value) -> Result<(), Mismatch> {
        let text = value.as_str().ok_or_else(|| Mismatch::expected("a text"))?;
        text.clone_into(self);
        Ok(())
    }
}

/// Leaves that serde_json reads by itself.
macro_rules! leaf {
    ($($type:ty: $read:expr, $what:literal;)*) => {$(
        impl Shape for $type {
            fn to_json(&self) -> Value {
                Value::from(*self)
            }

            fn take(&mut self, value: &Value) -> Result<(), Mismatch> {
                let read: fn(&Value) -> Option<$type> = $read;
                *self = read(value).ok_or_else(|| Mismatch::expected($what))?;
                Ok(())
            }
        }
    )*};
}

leaf! {
    bool: Value::as_bool, "true or false";
    f64: Value::as_f64, "a number";
    i64: Value::as_i64, "a whole number";
    u64: Value::as_u64, "a whole number that is not negative";
    u32: |value| value.as_u64()?.try_into().ok(), "a number below 2^32";
    u16: |value| value.as_u64()?.try_into().ok(), "a number below 65,536";
}

impl Shape for usize {
    fn to_json(&self) -> Value {
        Value::from(*self)
    }

    fn take(&mut self, value: &Value) -> Result<(), Mismatch> {
        let read = value.as_u64().and_then(|number| number.try_into().ok());
        *self = read.ok_or_else(|| Mismatch::expected("a whole number that is not negative"))?;
        Ok(())
    }
}

impl Shape for Map<String, Value> {
    fn to_json(&self) -> Value {
        Value::Object(self.clone())
    }

    fn take(&mut self, value: &Value) -> Result<(), Mismatch> {
        let object = value
            .as_object()
            .ok_or_else(|| Mismatch::expected("an object"))?;
        object.clone_into(self);
        Ok(())
    }
}

/// Unknown is `null`.
impl<T: Shape + Default> Shape for Option<T> {
    fn to_json(&self) -> Value {
        self.as_ref().map_or(Value::Null, Shape::to_json)
    }

    fn take(&mut self, value: &Value) -> Result<(), Mismatch> {
        if value.is_null() {
            *self = None;
            return Ok(());
        }
        self.insert(T::default()).take(value)
    }
}

impl<T: Shape + Default> Shape for Vec<T> {
    fn to_json(&self) -> Value {
        list(&mut self.iter().map(|element| element as &dyn Shape))
    }

    fn take(&mut self, value: &Value) -> Result<(), Mismatch> {
        self.clear();
        for value in elements(value)? {
            self.push(T::default());
            if let Some(element) = self.last_mut() {
                element.take(value)?;
            }
        }
        Ok(())
    }
}

/// Not inlined: every list of ours is written here.
#[inline(never)]
fn list(elements: &mut dyn Iterator<Item = &dyn Shape>) -> Value {
    Value::Array(elements.map(Shape::to_json).collect())
}

fn elements(value: &Value) -> Result<&[Value], Mismatch> {
    let list = value.as_array().map(Vec::as_slice);
    list.ok_or_else(|| Mismatch::expected("a list"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    shape! {
        struct Outer {
            plain: u64,
            two_words: Option<String>,
            unified5h_raw: f64,
            kind as "type": String,
            inner: Vec<Inner>,
        }

        struct Inner {
            yes: bool,
            code: Option<u16>,
            free: Map<String, Value>,
        }
    }

    #[test]
    fn fields_stand_in_order_under_their_names() {
        let outer = Outer {
            plain: 3,
            kind: "x".into(),
            inner: vec![Inner::default()],
            ..Outer::default()
        };
        assert_eq!(
            serde_json::to_string(&outer).unwrap(),
            r#"{"plain":3,"twoWords":null,"unified5hRaw":0.0,"type":"x","inner":[{"yes":false,"code":null,"free":{}}]}"#
        );
        let text = serde_json::to_string(&outer).unwrap();
        assert_eq!(serde_json::from_str::<Outer>(&text).unwrap(), outer);
    }

    #[test]
    fn what_is_missing_keeps_its_default_and_what_is_unknown_is_passed_over() {
        let read: Outer = serde_json::from_value(json!({"twoWords": "a", "future": [1]})).unwrap();
        let expected = Outer {
            two_words: Some("a".into()),
            ..Outer::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn another_type_is_an_error_that_says_where() {
        let rows = [
            (json!([]), "expected an object"),
            (json!({"plain": -1}), "plain: expected a whole number"),
            (json!({"plain": null}), "plain: expected a whole number"),
            (json!({"twoWords": 1}), "twoWords: expected a text"),
            (
                json!({"unified5hRaw": "1"}),
                "unified5hRaw: expected a number",
            ),
            (json!({"inner": {}}), "inner: expected a list"),
            (
                json!({"inner": [{"yes": 0}]}),
                "inner: yes: expected true or false",
            ),
            (
                json!({"inner": [{"code": 65_536}]}),
                "inner: code: expected a number below 65,536",
            ),
        ];
        for (document, words) in rows {
            let error = serde_json::from_value::<Outer>(document).unwrap_err();
            assert!(error.to_string().starts_with(words), "{error}");
        }
    }
}
