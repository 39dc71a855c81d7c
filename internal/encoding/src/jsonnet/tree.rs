//! From JSON text to the values of Jsonnet.

use std::collections::BTreeMap;

use jrsonnet_evaluator::{ObjValueBuilder, Val};

use crate::canonical;
use crate::scan::plain_len;

/// A number that no double can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfRange;

/// The value of a JSON text that [`crate::scan`] has accepted.
pub(super) fn value(text: &[u8]) -> Result<Val, OutOfRange> {
    Reader { text, at: 0 }.value()
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Skips what separates values, and shows the next byte.
    fn next(&mut self) -> u8 {
        while let Some(b' ' | b'\n' | b'\t' | b'\r' | b',' | b':') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied().unwrap_or(b']')
    }

    /// Takes one value. The depth is bounded by the scanner.
    fn value(&mut self) -> Result<Val, OutOfRange> {
        match self.next() {
            b'"' => Ok(Val::string(self.string())),
            b'{' => self.object(),
            b'[' => self.array(),
            b't' => Ok(self.word("true", Val::Bool(true))),
            b'f' => Ok(self.word("false", Val::Bool(false))),
            b'n' => Ok(self.word("null", Val::Null)),
            _ => self.number(),
        }
    }

    fn word(&mut self, word: &str, value: Val) -> Val {
        self.at += word.len();
        value
    }

    fn object(&mut self) -> Result<Val, OutOfRange> {
        self.at += 1;
        // Of equal names the last one counts.
        let mut members = BTreeMap::new();
        while self.next() == b'"' {
            let name = self.string();
            members.insert(name, self.value()?);
        }
        self.at += 1;
        let mut object = ObjValueBuilder::with_capacity(members.len());
        for (name, value) in members {
            object.field(name.as_str()).value(value);
        }
        Ok(Val::Obj(object.build()))
    }

    fn array(&mut self) -> Result<Val, OutOfRange> {
        self.at += 1;
        let mut items = Vec::new();
        while self.next() != b']' {
            items.push(self.value()?);
        }
        self.at += 1;
        Ok(Val::arr(items))
    }

    fn number(&mut self) -> Result<Val, OutOfRange> {
        let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let rest = &self.text[self.at..];
        let len = rest.iter().take_while(|byte| is_part(byte)).count();
        self.at += len.max(1);
        let number: f64 = std::str::from_utf8(&rest[..len])
            .ok()
            .and_then(|number| number.parse().ok())
            .ok_or(OutOfRange)?;
        Val::try_num(number).map_err(|_| OutOfRange)
    }

    /// Takes a string.
    fn string(&mut self) -> String {
        let start = self.at + 1;
        let mut end = start;
        loop {
            end += plain_len(self.text.get(end..).unwrap_or_default());
            match self.text.get(end) {
                None | Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        let end = end.min(self.text.len());
        self.at = end + 1;
        let mut text = String::with_capacity(end - start);
        canonical::unescape(&self.text[start..end], &mut text);
        text
    }
}
