//! Texts and numbers of the kinds that break things.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::Json;

const WORDS: &[&str] = &[
    "order", "fix", "the", "invoice", "branch", "merge", "paid", "customer", "a", "of", "to",
    "review", "retry", "shipment", "deploy", "please", "thanks", "again", "failed", "build",
    "release", "number", "total", "urgent",
];

/// What stands in real messages and goes wrong somewhere between JSON, CSV and a table.
const AWKWARD: &[&str] = &[
    "příliš žluťoučký kůň",
    "Größe: 5 µm² – ‚ungefähr‘",
    "日本語のテキスト、改行なし",
    "שלום עולם (2024)",
    "مرحبا بالعالم ١٢٣",
    "\u{202e}right to left override\u{202c}",
    "👩\u{200d}👩\u{200d}👧\u{200d}👦 and 🏳\u{fe0f}\u{200d}🌈",
    "e\u{301}a\u{308}\u{323}n\u{303}",
    "zero\u{200b}width\u{feff}",
    "\u{10ffff}\u{fffd}\u{e000}",
    "\u{2028}line\u{2029}separators",
    "quote \" and \"\" twice",
    "\",\"",
    "\"\n\"",
    "it's; a, b",
    "line one\nline two\r\nline three\rend",
    "\ttab\u{b}vertical\u{c}feed\u{8}back",
    "\u{0}\u{1}\u{2}\u{1b}[31m\u{1f}\u{7f}\u{85}",
    "C:\\path\\new\\u0041\\",
    "\\\"",
    "{\"json\": [\"inside\", null]}",
    "<script>alert('x')</script>&amp;",
    "=1+1",
    "NULL",
    "007",
    "1e3",
    "true",
    " padded ",
    "https://example.com/a?b=c&d=%20#e",
];

/// A phrase of some words, now and then with something awkward in it, and sometimes empty.
pub(super) fn phrase(rng: &mut StdRng, words: usize) -> String {
    if rng.random_ratio(1, 15) {
        return String::new();
    }
    let mut parts = Vec::with_capacity(words);
    for _ in 0..rng.random_range(1..=words) {
        let from = if rng.random_ratio(1, 8) {
            AWKWARD
        } else {
            WORDS
        };
        parts.push(*from.choose(rng).expect("the list is not empty"));
    }
    parts.join(" ")
}

/// A name of a person or a thing.
pub(super) fn name(rng: &mut StdRng) -> String {
    phrase(rng, 3)
}

/// Text of about so many bytes that does not grow much when it is escaped.
pub(super) fn filler(rng: &mut StdRng, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(WORDS.choose(rng).expect("the list is not empty"));
        text.push_str(if rng.random_ratio(1, 12) { "\n" } else { " " });
    }
    text.truncate(bytes);
    text
}

/// A number as senders write them: identifiers of 64 bits, amounts, floats with their zeroes, exponents.
pub(super) fn number(rng: &mut StdRng) -> Json {
    match rng.random_range(0..10) {
        0 => Json::number(rng.random_range(9_007_199_254_740_993..=i64::MAX)),
        1 => Json::number(u64::MAX),
        2 => Json::number(i64::MIN),
        3 => Json::number("-0"),
        4 => Json::number(format!(
            "{}.{:02}",
            rng.random_range(-9_999..9_999),
            rng.random_range(0..100)
        )),
        5 => Json::number("123456789012345678901234567890.10"),
        6 => Json::number("0.000000000000000000012300"),
        7 => {
            let (digits, zeroes) = (rng.random_range(1..1_000), rng.random_range(0..20));
            let e = if rng.random_bool(0.5) { "e" } else { "E+" };
            let written = format!("{digits}{}", "0".repeat(zeroes));
            Json::Number {
                sent: format!("{digits}{e}{zeroes}"),
                written,
            }
        }
        _ => Json::number(rng.random_range(-100..100_000)),
    }
}

/// The value of a header: no line ends, no white space around it.
pub(super) fn header_value(rng: &mut StdRng) -> String {
    let values = [
        "x",
        "a \"quoted\" note",
        "back\\slash, comma; semicolon",
        "tab\there",
        "žluťoučký 日本",
        "=1",
    ];
    (*values.choose(rng).expect("the list is not empty")).to_owned()
}
