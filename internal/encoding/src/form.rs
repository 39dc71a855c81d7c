//! Form bodies: `a=1&b[]=x&c[d][e]=y`.
//!
//! A form is rendered as JSON text and then treated like any JSON body, so that both mean the same to a mapping. All
//! values are strings. The rules:
//!
//! * `a[b]=x` is a member of an object, `a[]=x` appends to a list. A container whose keys are 0, 1, 2, … in this order
//!   becomes an array, any other an object. The form itself is always an object.
//! * The last value of a name wins; a value that was a text gives way to a container and the other way round.
//! * `+` is a space. A `%` without two hexadecimal digits stays as it is, as browsers do it. What is not UTF-8 after
//!   decoding becomes U+FFFD.
//! * A name with brackets that do not match (`a[b`, `[a]`, `a[b]c`) is taken literally.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::canonical::push_json_string;

/// The most pairs of brackets of a name.
const MAX_BRACKETS: usize = 64;

/// A name nested too deeply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name of the form has more than {MAX_BRACKETS} pairs of brackets")]
pub(crate) struct TooDeep;

/// Renders a form as a JSON object.
pub(crate) fn to_json(body: &[u8]) -> Result<String, TooDeep> {
    let mut form = Container::default();
    for pair in body
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        let equals = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        let name = decode(&pair[..equals]);
        let value = decode(pair.get(equals + 1..).unwrap_or_default());
        let (first, brackets) = split_name(&name);
        if brackets.len() > MAX_BRACKETS {
            return Err(TooDeep);
        }
        form.insert(Some(first), &brackets, value);
    }
    let mut json = String::with_capacity(body.len() + 16);
    form.write_object(&mut json);
    Ok(json)
}

fn decode(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let (byte, len) = match first {
            b'+' => (b' ', 1),
            b'%' => hex_byte(tail).map_or((b'%', 1), |byte| (byte, 3)),
            other => (*other, 1),
        };
        bytes.push(byte);
        rest = &rest[len..];
    }
    match String::from_utf8_lossy(&bytes) {
        Cow::Owned(text) => text,
        Cow::Borrowed(_) => String::from_utf8(bytes).unwrap_or_default(),
    }
}

fn hex_byte(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// `a[b][]` → `a` and `[Some(b), None]`.
fn split_name(name: &str) -> (&str, Vec<Option<&str>>) {
    let literal = (name, Vec::new());
    let Some(open) = name.find('[').filter(|open| *open > 0) else {
        return literal;
    };
    let (first, mut rest) = name.split_at(open);
    let mut brackets = Vec::new();
    while !rest.is_empty() {
        let Some((key, tail)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
            return literal;
        };
        brackets.push(if key.is_empty() { None } else { Some(key) });
        rest = tail;
    }
    (first, brackets)
}

enum Node {
    Text(String),
    Container(Container),
}

#[derive(Default)]
struct Container {
    /// In the order of first appearance.
    members: Vec<(String, Node)>,
    positions: HashMap<String, usize>,
    /// The key of the next `[]`: one more than the largest number among the keys.
    next: u64,
    /// Some key was not the number of its position.
    has_names: bool,
}

impl Container {
    /// Puts a value below `key`, at the place that `brackets` say. The depth was checked.
    fn insert(&mut self, key: Option<&str>, brackets: &[Option<&str>], value: String) {
        let member = self.member(key);
        let Some((next, brackets)) = brackets.split_first() else {
            *member = Node::Text(value);
            return;
        };
        if matches!(member, Node::Text(_)) {
            *member = Node::Container(Self::default());
        }
        if let Node::Container(container) = member {
            container.insert(*next, brackets, value);
        }
    }

    /// The member with that key, new when there is none. Without a key: a new last one.
    fn member(&mut self, key: Option<&str>) -> &mut Node {
        let key = key.map_or_else(|| self.next.to_string(), str::to_owned);
        let position = *self.positions.entry(key).or_insert_with_key(|key| {
            let position = self.members.len();
            let number = key
                .parse::<u64>()
                .ok()
                .filter(|number| number.to_string() == *key);
            if let Some(number) = number {
                self.next = self.next.max(number.saturating_add(1));
            }
            self.has_names |= number != u64::try_from(position).ok();
            self.members.push((key.clone(), Node::Text(String::new())));
            position
        });
        &mut self.members[position].1
    }

    fn write(&self, json: &mut String) {
        if self.has_names {
            return self.write_object(json);
        }
        json.push('[');
        for (position, (_, node)) in self.members.iter().enumerate() {
            if position > 0 {
                json.push(',');
            }
            node.write(json);
        }
        json.push(']');
    }

    fn write_object(&self, json: &mut String) {
        json.push('{');
        for (position, (key, node)) in self.members.iter().enumerate() {
            if position > 0 {
                json.push(',');
            }
            push_json_string(json, key);
            json.push(':');
            node.write(json);
        }
        json.push('}');
    }
}

impl Node {
    fn write(&self, json: &mut String) {
        match self {
            Self::Text(text) => push_json_string(json, text),
            Self::Container(container) => container.write(json),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_become_objects() {
        for (form, json) in [
            ("", "{}"),
            ("&&", "{}"),
            ("a=1&b=2", r#"{"a":"1","b":"2"}"#),
            ("a=1&a=2", r#"{"a":"2"}"#),
            ("a", r#"{"a":""}"#),
            ("=x", r#"{"":"x"}"#),
            ("a=b=c", r#"{"a":"b=c"}"#),
            ("a=1&a[]=x&b[c][d]=y", r#"{"a":["x"],"b":{"c":{"d":"y"}}}"#),
            ("a[]=x&a=1", r#"{"a":"1"}"#),
            ("a[]=x&a[]=y", r#"{"a":["x","y"]}"#),
            ("a[0]=x&a[1]=y", r#"{"a":["x","y"]}"#),
            ("a[1]=x&a[0]=y", r#"{"a":{"1":"x","0":"y"}}"#),
            ("a[5]=x&a[]=y", r#"{"a":{"5":"x","6":"y"}}"#),
            ("a[]=x&a[k]=y&a[]=z", r#"{"a":{"0":"x","k":"y","1":"z"}}"#),
            ("a[00]=x", r#"{"a":{"00":"x"}}"#),
            ("a[][b]=1&a[][b]=2", r#"{"a":[{"b":"1"},{"b":"2"}]}"#),
            (
                "a[18446744073709551615]=x&a[]=y",
                r#"{"a":{"18446744073709551615":"y"}}"#,
            ),
            ("0=x&1=y", r#"{"0":"x","1":"y"}"#),
            (
                "a[b=1&[c]=2&d[e]f=3&g]=4",
                r#"{"a[b":"1","[c]":"2","d[e]f":"3","g]":"4"}"#,
            ),
            (
                "a+b=%41%zz%4&c%5Bd%5D=%C3%A9%ff",
                "{\"a b\":\"A%zz%4\",\"c\":{\"d\":\"é\u{fffd}\"}}",
            ),
            ("q=%22%5C%0A", r#"{"q":"\"\\\n"}"#),
        ] {
            assert_eq!(to_json(form.as_bytes()).as_deref(), Ok(json), "{form}");
        }
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |depth| format!("a{}=1", "[x]".repeat(depth));
        assert!(to_json(nested(MAX_BRACKETS).as_bytes()).is_ok());
        assert_eq!(to_json(nested(300_000).as_bytes()), Err(TooDeep));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn the_result_is_always_json(form in prop::collection::vec(
            prop_oneof![
                prop::sample::select(b"ab01[]=&&%+".to_vec()),
                any::<u8>(),
            ],
            0..60,
        )) {
            let json = to_json(&form).expect("short forms are not deep");
            let value: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
            prop_assert!(value.is_object());
        }
    }
}
