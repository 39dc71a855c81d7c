//! Forms, against a parser that looks for names one by one and knows no shortcut.

use std::sync::LazyLock;

use stream_encoding::{CompiledMapping, ContentType, MAX_ROW_LEN, MapError};

use super::json::{self, Json};
use super::mapped;

/// The most pairs of brackets of a name.
const MAX_BRACKETS: usize = 64;

static MAPPING: LazyLock<CompiledMapping> = LazyLock::new(|| {
    let whole = serde_json::json!({ "type": "path", "path": "" });
    mapped::compile(&[whole]).expect("a valid mapping")
});

/// The input is a form.
pub fn check(input: &[u8]) {
    let record = mapped::record(ContentType::Form, &[], input);
    match (mapped::map(&MAPPING, &record, MAX_ROW_LEN), parse(input)) {
        (Ok(row), Some(form)) => {
            let values = mapped::values(&row);
            assert_eq!(values, [form.canonical()]);
            assert_eq!(json::parse(values[0].as_bytes()), Some(form), "it is JSON");
        }
        (Err(MapError::MalformedBody { .. }), None) => {}
        (ours, reference) => panic!("{ours:?} but {reference:?}"),
    }
}

enum Node {
    Text(String),
    Container(Vec<(String, Node)>),
}

/// Reads a form. None when a name is nested too deeply.
pub fn parse(input: &[u8]) -> Option<Json> {
    let mut members = Vec::new();
    for pair in input
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let name = decode(halves.next().unwrap_or_default());
        let value = decode(halves.next().unwrap_or_default());
        let keys = keys(&name);
        if keys.len() > MAX_BRACKETS + 1 {
            return None;
        }
        insert(&mut members, &keys, value);
    }
    let members = members
        .into_iter()
        .map(|(name, node)| (name, node.into_json()));
    let form = Json::Object(members.collect());
    // As text it must not be deeper than JSON may be.
    json::parse(form.canonical().as_bytes()).map(|_| form)
}

fn decode(text: &[u8]) -> String {
    let hex = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let digits = (text[at] == b'%' && at + 2 < text.len())
            .then(|| (hex(text[at + 1]), hex(text[at + 2])));
        if let Some((Some(high), Some(low))) = digits {
            bytes.push(high << 4 | low);
            at += 3;
        } else {
            bytes.push(if text[at] == b'+' { b' ' } else { text[at] });
            at += 1;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `a[b][]` → `a`, `b`, and an empty one.
fn keys(name: &str) -> Vec<&str> {
    let Some(open) = name.find('[') else {
        return vec![name];
    };
    if open == 0 || !name.ends_with(']') {
        return vec![name];
    }
    let mut keys = vec![&name[..open]];
    let mut rest = &name[open..];
    while let Some(inside) = rest.strip_prefix('[') {
        let Some(close) = inside.find(']') else {
            return vec![name];
        };
        keys.push(&inside[..close]);
        rest = &inside[close + 1..];
    }
    if rest.is_empty() { keys } else { vec![name] }
}

fn insert(members: &mut Vec<(String, Node)>, keys: &[&str], value: String) {
    let Some((key, below)) = keys.split_first() else {
        return;
    };
    let position = members
        .iter()
        .position(|(name, _)| name == key)
        .unwrap_or_else(|| {
            members.push(((*key).to_owned(), Node::Text(String::new())));
            members.len() - 1
        });
    let node = &mut members[position].1;
    let Some((next, deeper)) = below.split_first() else {
        *node = Node::Text(value);
        return;
    };
    if matches!(node, Node::Text(_)) {
        *node = Node::Container(Vec::new());
    }
    if let Node::Container(inside) = node {
        let appended = next.is_empty().then(|| next_number(inside).to_string());
        let next = appended.as_deref().unwrap_or(next);
        insert(inside, &[&[next], deeper].concat(), value);
    }
}

fn number(name: &str) -> Option<u64> {
    name.parse::<u64>()
        .ok()
        .filter(|number| number.to_string() == name)
}

/// One more than the largest number among the names.
fn next_number(members: &[(String, Node)]) -> u64 {
    let numbers = members.iter().filter_map(|(name, _)| number(name));
    numbers.max().map_or(0, |largest| largest.saturating_add(1))
}

impl Node {
    fn into_json(self) -> Json {
        let members = match self {
            Self::Text(text) => return Json::Text(text),
            Self::Container(members) => members,
        };
        let is_list = (0..)
            .zip(&members)
            .all(|(position, (name, _))| number(name) == Some(position));
        let members = members
            .into_iter()
            .map(|(name, node)| (name, node.into_json()));
        if is_list {
            Json::Array(members.map(|(_, node)| node).collect())
        } else {
            Json::Object(members.collect())
        }
    }
}
