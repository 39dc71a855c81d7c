//! From raw values to a struct: texts of variables and flags become what the struct's fields ask
//! for.
//!
//! A text has no type of its own. Guessing one from its looks would turn the password `0123` into a
//! number; therefore the field decides: asked for a string it stays as it is, asked for a number it
//! is parsed, asked for a list it is split. Values from files have the types of their format and
//! are taken strictly.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// A value as its layer has it.
pub(super) enum Raw {
    /// From a file, or the default.
    Json(Value),
    /// From a variable or a flag.
    Text(String),
}

impl Raw {
    /// The value for people: a text is shown as the kind of value that the default is, if it can
    /// be.
    pub(super) fn shown(&self, default: &Value) -> Value {
        match self {
            Self::Json(value) => value.clone(),
            Self::Text(text) => guess(text, default),
        }
    }
}

fn guess(text: &str, default: &Value) -> Value {
    let as_text = || Value::String(text.to_owned());
    match default {
        Value::Bool(_) => parse_bool(text).map_or_else(as_text, Value::Bool),
        Value::Number(_) => match serde_json::from_str(text.trim()) {
            Ok(number @ Value::Number(_)) => number,
            _ => as_text(),
        },
        Value::Array(items) => {
            let kind = items.first().unwrap_or(&Value::Null);
            split(text).map(|item| guess(item, kind)).collect()
        }
        Value::Object(_) => serde_json::from_str(text).unwrap_or_else(|_| as_text()),
        Value::Null if text.is_empty() => Value::Null,
        Value::Null | Value::String(_) => as_text(),
    }
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Turns leaves (key, value, default) into a struct. The error is the key and what is wrong with
/// its value.
pub(super) fn deserialize<'a, T: DeserializeOwned>(
    leaves: impl Iterator<Item = (&'a str, &'a Raw, &'a Value)>,
) -> Result<T, (String, String)> {
    let mut root = Group::default();
    for (path, raw, default) in leaves {
        root.insert(path, Leaf { raw, default });
    }
    T::deserialize(root).map_err(|mut fault| {
        fault.path.reverse();
        (fault.path.join("."), fault.reason)
    })
}

/// What is wrong, and where; the innermost name comes first.
#[derive(Debug)]
struct Fault {
    path: Vec<String>,
    reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self {
            path: Vec::new(),
            reason: reason.to_string(),
        }
    }
}

#[derive(Clone, Copy)]
struct Leaf<'a> {
    raw: &'a Raw,
    default: &'a Value,
}

enum Node<'a> {
    Group(Group<'a>),
    Leaf(Leaf<'a>),
}

#[derive(Default)]
struct Group<'a> {
    fields: Vec<(&'a str, Node<'a>)>,
}

impl<'a> Group<'a> {
    fn insert(&mut self, path: &'a str, leaf: Leaf<'a>) {
        let Some((name, rest)) = path.split_once('.') else {
            self.fields.push((path, Node::Leaf(leaf)));
            return;
        };
        // Leaves of one group follow each other, so it is the last field if it is there.
        if let Some((last, Node::Group(group))) = self.fields.last_mut()
            && *last == name
        {
            group.insert(rest, leaf);
            return;
        }
        let mut group = Group::default();
        group.insert(rest, leaf);
        self.fields.push((name, Node::Group(group)));
    }

    fn into_access(self) -> Fields<'a> {
        Fields {
            rest: self.fields.into_iter(),
            current: None,
        }
    }
}

impl<'de> Deserializer<'de> for Group<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_map(self.into_access())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(MapAccessDeserializer::new(self.into_access()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Fields<'a> {
    rest: std::vec::IntoIter<(&'a str, Node<'a>)>,
    current: Option<(&'a str, Node<'a>)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Fault> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (name, node) = self.current.take().expect("serde asks for the key first");
        let outcome = match node {
            Node::Group(group) => seed.deserialize(group),
            Node::Leaf(Leaf {
                raw: Raw::Json(value),
                ..
            }) => seed.deserialize(value.clone()).map_err(Fault::custom),
            Node::Leaf(Leaf {
                raw: Raw::Text(text),
                default,
            }) => seed.deserialize(Text { text, default }),
        };
        outcome.map_err(|mut fault| {
            fault.path.push(name.to_owned());
            fault
        })
    }
}

/// A text that becomes what is asked for.
#[derive(Clone, Copy)]
struct Text<'a> {
    text: &'a str,
    default: &'a Value,
}

macro_rules! parse_number {
    ($($deserialize:ident $visit:ident $expected:literal)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let number = self.text.trim().parse().map_err(|_| self.refuse($expected))?;
            visitor.$visit(number)
        }
    )*};
}

impl Text<'_> {
    fn refuse(self, expected: &str) -> Fault {
        Fault::custom(format_args!("{:?} is not {expected}", self.text))
    }
}

impl<'de> Deserializer<'de> for Text<'_> {
    type Error = Fault;

    /// The field does not say what it is, as in untagged enums; the default has to serve as a hint.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = guess(self.text, self.default);
        value.deserialize_any(visitor).map_err(Fault::custom)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_bool(parse_bool(self.text).ok_or_else(|| self.refuse("true or false"))?)
    }

    parse_number! {
        deserialize_i8 visit_i8 "a whole number from -128 to 127"
        deserialize_i16 visit_i16 "a whole number from -32768 to 32767"
        deserialize_i32 visit_i32 "a whole number"
        deserialize_i64 visit_i64 "a whole number"
        deserialize_i128 visit_i128 "a whole number"
        deserialize_u8 visit_u8 "a whole number from 0 to 255"
        deserialize_u16 visit_u16 "a whole number from 0 to 65535"
        deserialize_u32 visit_u32 "a whole number from 0"
        deserialize_u64 visit_u64 "a whole number from 0"
        deserialize_u128 visit_u128 "a whole number from 0"
        deserialize_f32 visit_f32 "a number"
        deserialize_f64 visit_f64 "a number"
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text)
    }

    /// An empty variable means "not set", as in compose files that pass variables on.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.text.is_empty() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.text.is_empty() {
            visitor.visit_unit()
        } else {
            Err(self.refuse("empty"))
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let kind = match self.default {
            Value::Array(items) => items.first().unwrap_or(&Value::Null),
            _ => &Value::Null,
        };
        visitor.visit_seq(Items {
            texts: split(self.text),
            kind,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    /// Groups that are optional as a whole, and maps: JSON is the only way to write them in one
    /// text.
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value: Value =
            serde_json::from_str(self.text).map_err(|_| self.refuse("a JSON object"))?;
        value.deserialize_map(visitor).map_err(Fault::custom)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let name: StrDeserializer<'_, Fault> = self.text.into_deserializer();
        visitor.visit_enum(name)
    }

    forward_to_deserialize_any! { bytes byte_buf unit_struct ignored_any }
}

struct Items<'a, I> {
    texts: I,
    kind: &'a Value,
}

impl<'de, 'a, I: Iterator<Item = &'a str>> SeqAccess<'de> for Items<'a, I> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(text) = self.texts.next() else {
            return Ok(None);
        };
        seed.deserialize(Text {
            text,
            default: self.kind,
        })
        .map(Some)
    }
}
