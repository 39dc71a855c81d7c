//! One pass over a JSON text that checks it completely and notes where the wanted values are.
//!
//! What is accepted is exactly RFC 8259 in UTF-8, with two limits: at most [`MAX_DEPTH`] nested arrays and objects, and
//! no `\u` escape that is half of a surrogate pair, because such text has no UTF-8 form. Numbers may have any size;
//! nothing here turns them into a binary number.
//!
//! When an object has several members of the same name, the last one counts.

use std::ops::Range;

use crate::canonical;
use crate::selection::{Found, ROOT, Selection};

/// The most arrays and objects that may be open at once.
pub(crate) const MAX_DEPTH: usize = 128;

/// A text that is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not valid JSON, there should be {expected} at byte {offset}")]
pub(crate) struct Malformed {
    /// Bytes before the mistake.
    pub offset: usize,
    /// What should be there.
    pub expected: &'static str,
}

/// Checks `text` and notes where the selected values are.
pub(crate) fn scan(text: &[u8], selection: &Selection, found: &mut Found) -> Result<(), Malformed> {
    check_text(text)?;
    let mut scanner = Scanner {
        text,
        at: 0,
        selection,
        found,
        key: String::new(),
    };
    scanner.whitespace();
    scanner.value((!selection.is_empty()).then_some(ROOT), MAX_DEPTH)?;
    scanner.end()
}

/// Checks `text`, which is to be an array, and returns where its items are; none when there are more than `limit`.
pub(crate) fn items(text: &[u8], limit: usize) -> Result<Option<Vec<Range<usize>>>, Malformed> {
    check_text(text)?;
    let (selection, mut found) = (Selection::default(), Found::new());
    let mut scanner = Scanner {
        text,
        at: 0,
        selection: &selection,
        found: &mut found,
        key: String::new(),
    };
    scanner.whitespace();
    if scanner.peek() != Some(b'[') {
        return Err(scanner.expected("'['"));
    }
    let depth = scanner.deeper(MAX_DEPTH)?;
    scanner.whitespace();
    let mut items = Vec::new();
    let mut more = scanner.peek() != Some(b']');
    if !more {
        scanner.at += 1;
    }
    while more {
        if items.len() == limit {
            return Ok(None);
        }
        let start = scanner.at;
        scanner.value(None, depth)?;
        items.push(start..scanner.at);
        more = scanner.another(b']', "',' or ']'")?;
    }
    scanner.end()?;
    Ok(Some(items))
}

/// What holds for every text, whatever is in it.
fn check_text(text: &[u8]) -> Result<(), Malformed> {
    // Positions are kept in 32 bits.
    if u32::try_from(text.len()).is_err() {
        return Err(Malformed {
            offset: 0,
            expected: "a body of less than 4 GiB",
        });
    }
    // Only strings may hold other characters than ASCII, but one check of everything is the fastest.
    if let Err(error) = std::str::from_utf8(text) {
        return Err(Malformed {
            offset: error.valid_up_to(),
            expected: "text in UTF-8",
        });
    }
    Ok(())
}

/// Whether `text` is one JSON number and nothing else.
pub(crate) fn is_number(text: &[u8]) -> bool {
    let (selection, mut found) = (Selection::default(), Found::new());
    let mut scanner = Scanner {
        text,
        at: 0,
        selection: &selection,
        found: &mut found,
        key: String::new(),
    };
    scanner.number().is_ok() && scanner.at == text.len()
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    selection: &'a Selection,
    found: &'a mut Found,
    /// The last member name that had escapes, decoded. Kept for its memory.
    key: String,
}

/// The text between the quotes of a string.
struct StringToken {
    start: usize,
    end: usize,
    escaped: bool,
}

impl Scanner<'_> {
    fn expected(&self, expected: &'static str) -> Malformed {
        Malformed {
            offset: self.at,
            expected,
        }
    }

    /// Takes what may follow the value.
    fn end(&mut self) -> Result<(), Malformed> {
        self.whitespace();
        if self.at < self.text.len() {
            return Err(self.expected("the end of the body"));
        }
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes one value. `node` is its place in the selection, when it or something inside may be wanted.
    fn value(&mut self, node: Option<usize>, depth: usize) -> Result<(), Malformed> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string().map(drop)?,
            Some(b'{') => self.object(node, depth)?,
            Some(b'[') => self.array(node, depth)?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word(b"true")?,
            Some(b'f') => self.word(b"false")?,
            Some(b'n') => self.word(b"null")?,
            _ => return Err(self.expected("a value")),
        }
        if let Some(slot) = node.and_then(|node| self.selection.slot(node)) {
            self.found.set(slot, start..self.at);
        }
        Ok(())
    }

    fn object(&mut self, node: Option<usize>, depth: usize) -> Result<(), Malformed> {
        let depth = self.deeper(depth)?;
        let node = node.filter(|node| self.selection.has_members(*node));
        self.whitespace();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a member name in double quotes"));
            }
            let name = self.string()?;
            self.whitespace();
            if self.peek() != Some(b':') {
                return Err(self.expected("':'"));
            }
            self.at += 1;
            self.whitespace();
            let member = node.and_then(|node| self.member(node, &name));
            self.value(member, depth)?;
            if !self.another(b'}', "',' or '}'")? {
                return Ok(());
            }
        }
    }

    /// The place of a member in the selection. What an earlier member of the same name left there is forgotten.
    fn member(&mut self, node: usize, name: &StringToken) -> Option<usize> {
        let raw = &self.text[name.start..name.end];
        let member = if name.escaped {
            self.key.clear();
            canonical::unescape(raw, &mut self.key);
            self.selection.member(node, self.key.as_bytes())?
        } else {
            self.selection.member(node, raw)?
        };
        self.found.forget(self.selection.slots_below(member));
        Some(member)
    }

    fn array(&mut self, node: Option<usize>, depth: usize) -> Result<(), Malformed> {
        let depth = self.deeper(depth)?;
        let node = node.filter(|node| self.selection.has_items(*node));
        self.whitespace();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        let mut index = 0;
        loop {
            let item = node.and_then(|node| self.selection.item(node, index));
            self.value(item, depth)?;
            if !self.another(b']', "',' or ']'")? {
                return Ok(());
            }
            // The text has less than 4 GiB, so there are fewer items.
            index += 1;
        }
    }

    /// Takes the opening bracket.
    fn deeper(&mut self, depth: usize) -> Result<usize, Malformed> {
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| self.expected("nothing nested deeper than 128 levels"))?;
        self.at += 1;
        Ok(depth)
    }

    /// Takes what follows a member or an item: true for a comma, false for the closing bracket.
    fn another(&mut self, close: u8, expected: &'static str) -> Result<bool, Malformed> {
        self.whitespace();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.whitespace();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.expected(expected)),
        }
    }

    fn string(&mut self) -> Result<StringToken, Malformed> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_len(&self.text[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(StringToken {
                        start,
                        end: self.at - 1,
                        escaped,
                    });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.expected("no control character inside a string")),
                None => return Err(self.expected("the closing '\"' of a string")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        const PAIR: &str = "the second half of a surrogate pair";
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match self.code_unit()? {
                0xD800..=0xDBFF if self.text[self.at..].starts_with(b"\\u") => {
                    match self.code_unit()? {
                        0xDC00..=0xDFFF => Ok(()),
                        _ => Err(self.expected(PAIR)),
                    }
                }
                0xD800..=0xDBFF => Err(self.expected(PAIR)),
                0xDC00..=0xDFFF => Err(self.expected("no second half of a surrogate pair alone")),
                _ => Ok(()),
            },
            _ => Err(self.expected("a valid escape sequence")),
        }
    }

    /// Takes `\uXXXX`.
    fn code_unit(&mut self) -> Result<u32, Malformed> {
        let unit = canonical::code_unit(&self.text[self.at..])
            .ok_or_else(|| self.expected("\\u with four hexadecimal digits"))?;
        self.at += 6;
        Ok(unit)
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            Err(self.expected("a digit"))
        } else {
            Ok(())
        }
    }

    fn word(&mut self, word: &'static [u8]) -> Result<(), Malformed> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(())
    }
}

/// How many bytes from the start have no meaning of their own inside a JSON string: no quote, backslash or control
/// character.
pub(crate) fn plain_len(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at once: `x - ONES & !x & HIGH` has the high bit of each byte of x that is zero. A borrow can set
    // bits above the first such byte only, and the first is all that is used.
    let zero = |x: u64| x.wrapping_sub(ONES) & !x;
    let (words, _) = text.as_chunks::<8>();
    for (position, bytes) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let backslash = zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let special = (quote | backslash | control) & HIGH;
        if special != 0 {
            return position * 8 + usize::try_from(special.trailing_zeros() / 8).unwrap_or(0);
        }
    }
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let checked = words.len() * 8;
    text[checked..]
        .iter()
        .position(is_special)
        .map_or(text.len(), |position| checked + position)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path;

    fn check(text: &[u8]) -> Result<(), Malformed> {
        scan(text, &Selection::default(), &mut Found::new())
    }

    /// The values at the paths, as they stand in the text.
    fn find<'a>(text: &'a str, paths: &[&str]) -> Vec<Option<&'a str>> {
        let mut selection = Selection::default();
        let nodes: Vec<_> = paths
            .iter()
            .map(|p| selection.add(&path::parse(p).expect("valid path")))
            .collect();
        selection.finish();
        let mut found = Found::new();
        scan(text.as_bytes(), &selection, &mut found).expect("valid JSON");
        let value = |node: &usize| found.value(selection.slot(*node)?, text.as_bytes());
        nodes
            .iter()
            .map(|node| value(node).map(|raw| std::str::from_utf8(raw).expect("UTF-8")))
            .collect()
    }

    /// What serde_json thinks. It limits numbers to the range of a double and we do not, so those are judged by
    /// syntax only.
    fn serde_accepts(text: &[u8]) -> bool {
        match serde_json::from_slice::<serde_json::Value>(text) {
            Ok(_) => true,
            Err(error) if error.to_string().contains("out of range") => {
                serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok()
            }
            Err(_) => false,
        }
    }

    #[test]
    fn finds_values_at_paths() {
        let text = r#" { "a" : [ 1 , {"b":"x"} ] , "c" : null, "d": {"e": {}}, "" : 7 } "#;
        assert_eq!(
            find(
                text,
                &[
                    "a[0]", "a[1].b", "a[1]", "a[2]", "c", "d.e", "d.e.f", "a.b", "c.x"
                ]
            ),
            [
                Some("1"),
                Some("\"x\""),
                Some("{\"b\":\"x\"}"),
                None,
                Some("null"),
                Some("{}"),
                None,
                None,
                None,
            ]
        );
        assert_eq!(find(text, &[""]), [Some(text.trim())]);
        assert_eq!(
            find("[[5]]", &["[0][0]", "[0]", "[1]"]),
            [Some("5"), Some("[5]"), None]
        );
    }

    #[test]
    fn last_duplicate_wins_together_with_what_is_inside() {
        let paths = ["a", "a.b", "a.c"];
        let text = r#"{"a":{"b":1,"c":2},"a":{"b":3}}"#;
        assert_eq!(find(text, &paths), [Some("{\"b\":3}"), Some("3"), None]);
        assert_eq!(
            find(r#"{"a":{"b":1},"\u0061":0}"#, &paths),
            [Some("0"), None, None]
        );
    }

    #[test]
    fn escaped_names_are_compared_decoded() {
        let text = r#"{"\u00e9\n":1,"a\/b":2,"\ud83d\ude00":3}"#;
        assert_eq!(
            find(text, &["é\n", "a/b", "😀"]),
            [Some("1"), Some("2"), Some("3")]
        );
    }

    #[test]
    fn many_keys_are_all_found() {
        let names: Vec<String> = (0..90).map(|n| format!("key{n}")).collect();
        let members: Vec<String> = names
            .iter()
            .rev()
            .map(|n| format!("\"{n}\":\"{n}\""))
            .collect();
        let text = format!("{{{}}}", members.join(","));
        let paths: Vec<&str> = names.iter().map(String::as_str).collect();
        let values: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
        let expected: Vec<_> = values.iter().map(|v| Some(v.as_str())).collect();
        assert_eq!(find(&text, &paths), expected);
    }

    #[test]
    fn says_where_the_mistake_is() {
        for (text, offset, expected) in [
            ("", 0, "a value"),
            ("{\"a\" 1}", 5, "':'"),
            ("[1 2]", 3, "',' or ']'"),
            ("{} x", 3, "the end of the body"),
            ("\"a\n\"", 2, "no control character inside a string"),
            ("\"\\x\"", 1, "a valid escape sequence"),
            ("01", 1, "the end of the body"),
            ("-", 1, "a digit"),
            ("{'a':1}", 1, "a member name in double quotes"),
        ] {
            assert_eq!(
                check(text.as_bytes()),
                Err(Malformed { offset, expected }),
                "{text}"
            );
        }
        assert_eq!(
            check(b"\"\xff\"").map_err(|e| e.expected),
            Err("text in UTF-8")
        );
    }

    #[test]
    fn nesting_is_limited() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| {
                let inner = if open == "[" { "" } else { "0" };
                [open.repeat(depth), inner.to_owned(), close.repeat(depth)].concat()
            };
            assert_eq!(check(nested(MAX_DEPTH).as_bytes()), Ok(()));
            assert!(check(nested(MAX_DEPTH + 1).as_bytes()).is_err());
            assert!(check(nested(200_000).as_bytes()).is_err());
            assert!(serde_accepts(nested(MAX_DEPTH - 1).as_bytes()));
        }
    }

    #[test]
    fn surrogates_come_in_pairs() {
        for text in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\ud800""#,
            r#""\ud800x""#,
            r#""\ud800\n""#,
            r#""\ud800\u0041""#,
            r#""\u12"#,
            r#""\u123g""#,
            r#""\ud83d\ude00""#,
            r#""\uD83D\uDE00""#,
        ] {
            assert_eq!(
                check(text.as_bytes()).is_ok(),
                serde_accepts(text.as_bytes()),
                "{text}"
            );
        }
    }

    #[test]
    fn plain_text_ends_at_the_first_special_byte_wherever_it_is() {
        for special in [b'"', b'\\', 0, 0x1f] {
            for position in 0..40 {
                let mut text = "aé~\u{7f} €😀".repeat(5).into_bytes();
                text[position] = special;
                text[position + 1] = special;
                assert_eq!(plain_len(&text), position, "{special}");
            }
        }
        assert_eq!(
            plain_len("é €😀\u{80}abc".as_bytes()),
            "é €😀\u{80}abc".len()
        );
        assert_eq!(plain_len(b""), 0);
    }

    /// Texts that are JSON, or nearly.
    fn json_like() -> impl Strategy<Value = Vec<u8>> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"\\u0041\"",
            "\"\\ud800\"",
            "1",
            "-0.5e+3",
            "01",
            "1.",
            "1e",
            "-",
            "true",
            "nul",
            "null",
            " ",
            "\n",
            "\u{b}",
            "\"é\"",
            "\"\\q\"",
            "\"",
            "1e999",
        ]);
        prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat().into_bytes())
    }

    pub(crate) fn json_value() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "[ -~\n\t\u{0}é€😀\"\\\\]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec(("[ab\"\\\\é]{0,2}", inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn agrees_with_serde_json_on_random_texts(text in json_like()) {
            prop_assert_eq!(check(&text).is_ok(), serde_accepts(&text), "{:?}", text);
        }

        #[test]
        fn agrees_with_serde_json_on_damaged_texts(
            value in json_value(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..3),
            pretty in any::<bool>(),
        ) {
            let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
            let mut text = text.expect("serialises");
            for (at, byte, how) in damage {
                let at = at.index(text.len().max(1));
                match how {
                    0 if at < text.len() => text[at] = byte,
                    1 if at < text.len() => drop(text.remove(at)),
                    2 => text.truncate(at),
                    _ => text.insert(at.min(text.len()), byte),
                }
            }
            prop_assert_eq!(check(&text).is_ok(), serde_accepts(&text), "{:?}", text);
        }
    }
}
