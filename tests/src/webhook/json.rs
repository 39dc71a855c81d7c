//! A JSON value that knows how it was sent and how it must be written.

use std::fmt::Write;

use rand::RngExt;
use rand::rngs::StdRng;

/// A JSON value. Names of the members of an object are all different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// null
    Null,
    /// true or false
    Bool(bool),
    /// A number, digit by digit.
    Number {
        /// As it stands in the body.
        sent: String,
        /// As it must stand in a table: the same digits, without an exponent.
        written: String,
    },
    /// A string.
    Text(String),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

/// One step from a value into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The member of an object.
    Key(&'static str),
    /// The item of an array.
    Item(usize),
}

/// How a sender lays out its JSON.
#[derive(Debug, Clone, Copy)]
enum Space {
    None,
    AfterSeparators,
    Lines,
}

/// How a sender writes characters.
#[derive(Debug, Clone, Copy)]
enum Escapes {
    /// Only what must be escaped.
    Few,
    /// Everything outside of ASCII.
    NonAscii,
    /// Everything outside of ASCII, slashes, and some letters.
    Many,
}

impl Json {
    /// A number that is written as it is sent.
    pub fn number(digits: impl ToString) -> Self {
        let digits = digits.to_string();
        Self::Number {
            sent: digits.clone(),
            written: digits,
        }
    }

    /// A string.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// An object.
    pub fn object<const N: usize>(members: [(&str, Self); N]) -> Self {
        Self::Object(
            members
                .map(|(name, value)| (name.to_owned(), value))
                .to_vec(),
        )
    }

    /// The value at the end of `steps`.
    #[must_use]
    pub fn at(&self, steps: &[Step]) -> Option<&Self> {
        let Some((step, rest)) = steps.split_first() else {
            return Some(self);
        };
        let next = match (step, self) {
            (Step::Key(key), Self::Object(members)) => members
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            (Step::Item(item), Self::Array(items)) => items.get(*item),
            _ => None,
        };
        next?.at(rest)
    }

    /// The value in the one form in which it must stand in a table: no white space, few escapes, all digits.
    #[must_use]
    pub fn written(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number { written, .. } => out.push_str(written),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::Array(items) => {
                out.push('[');
                for (position, item) in items.iter().enumerate() {
                    out.push_str(if position > 0 { "," } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (position, (name, value)) in members.iter().enumerate() {
                    out.push_str(if position > 0 { "," } else { "" });
                    out.push_str(&quoted(name));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// The value the way some sender would send it: laid out and escaped by its taste.
    #[must_use]
    pub fn sent(&self, rng: &mut StdRng) -> String {
        let space = match rng.random_range(0..6) {
            0 => Space::AfterSeparators,
            1 => Space::Lines,
            _ => Space::None,
        };
        let escapes = match rng.random_range(0..6) {
            0 => Escapes::NonAscii,
            1 => Escapes::Many,
            _ => Escapes::Few,
        };
        let mut out = String::new();
        Sender {
            space,
            escapes,
            rng,
            out: &mut out,
            depth: 0,
        }
        .value(self);
        out
    }
}

struct Sender<'a> {
    space: Space,
    escapes: Escapes,
    rng: &'a mut StdRng,
    out: &'a mut String,
    depth: usize,
}

impl Sender<'_> {
    fn value(&mut self, value: &Json) {
        match value {
            Json::Null => self.out.push_str("null"),
            Json::Bool(value) => self.out.push_str(if *value { "true" } else { "false" }),
            Json::Number { sent, .. } => self.out.push_str(sent),
            Json::Text(text) => self.text(text),
            Json::Array(items) => {
                self.open('[');
                for (position, item) in items.iter().enumerate() {
                    self.separate(position);
                    self.value(item);
                }
                self.close(']', items.is_empty());
            }
            Json::Object(members) => {
                self.open('{');
                for (position, (name, value)) in members.iter().enumerate() {
                    self.separate(position);
                    self.text(name);
                    self.out.push(':');
                    if !matches!(self.space, Space::None) {
                        self.out.push(' ');
                    }
                    self.value(value);
                }
                self.close('}', members.is_empty());
            }
        }
    }

    fn open(&mut self, bracket: char) {
        self.out.push(bracket);
        self.depth += 1;
    }

    fn separate(&mut self, position: usize) {
        if position > 0 {
            self.out.push(',');
        }
        match self.space {
            Space::None => {}
            Space::AfterSeparators => self.out.push_str(if position > 0 { " " } else { "" }),
            Space::Lines => self.line(),
        }
    }

    fn close(&mut self, bracket: char, is_empty: bool) {
        self.depth -= 1;
        if matches!(self.space, Space::Lines) && !is_empty {
            self.line();
        }
        self.out.push(bracket);
    }

    fn line(&mut self) {
        self.out.push_str(if self.rng.random_ratio(1, 20) {
            "\r\n"
        } else {
            "\n"
        });
        self.out.extend(std::iter::repeat_n("\t", self.depth));
    }

    fn text(&mut self, text: &str) {
        // A long text must not outgrow the limit of a body.
        let letters = matches!(self.escapes, Escapes::Many) && text.len() < 4_096;
        self.out.push('"');
        for c in text.chars() {
            let freely = match c {
                _ if !c.is_ascii() => !matches!(self.escapes, Escapes::Few),
                _ => letters && c.is_alphabetic() && self.rng.random_ratio(1, 9),
            };
            match c {
                _ if freely => self.code_units(c),
                '/' if matches!(self.escapes, Escapes::Many) => self.out.push_str("\\/"),
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' if self.rng.random_bool(0.5) => self.out.push_str("\\n"),
                '\0'..'\u{20}' => self.code_units(c),
                _ => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    /// `\uXXXX`, two of them beyond the basic plane.
    fn code_units(&mut self, c: char) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let digits = format!("{unit:04x}");
            let digits = if self.rng.random_bool(0.5) {
                digits.to_uppercase()
            } else {
                digits
            };
            self.out.push_str("\\u");
            self.out.push_str(&digits);
        }
    }
}

/// A string in its one written form.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..'\u{20}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String cannot fail");
            }
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lead_into_a_value() {
        let value = Json::object([(
            "a",
            Json::Array(vec![Json::Null, Json::object([("b", Json::number(1))])]),
        )]);
        let steps = [Step::Key("a"), Step::Item(1), Step::Key("b")];
        assert_eq!(value.at(&steps), Some(&Json::number(1)));
        assert_eq!(value.at(&[Step::Key("a"), Step::Item(2)]), None);
        assert_eq!(value.at(&[Step::Item(0)]), None);
        assert_eq!(value.at(&[]), Some(&value));
    }

    #[test]
    fn the_written_form_is_compact() {
        let value = Json::object([
            ("é\"", Json::text("a\\\n\u{1}\u{1f}\u{7f}😀/")),
            ("e", Json::Array(vec![])),
            (
                "n",
                Json::Number {
                    sent: "12e2".to_owned(),
                    written: "1200".to_owned(),
                },
            ),
        ]);
        assert_eq!(
            value.written(),
            "{\"é\\\"\":\"a\\\\\\n\\u0001\\u001f\u{7f}😀/\",\"e\":[],\"n\":1200}"
        );
    }
}
