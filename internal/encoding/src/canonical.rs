//! Writing JSON values in their one canonical form, straight into a CSV value.
//!
//! Canonical means: no white space between tokens; strings with as few escapes as possible and everything else as
//! UTF-8; numbers digit by digit as they were sent, only an exponent is written out (`1.5e3` → `1500`), because readers
//! of the CSV expect none. Nothing passes through a floating-point number. Members keep their order, and all of those
//! with the same name are kept.
//!
//! Input is text that [`crate::scan`] has accepted. Other input gives some output, never a panic.

use std::borrow::Cow;

use crate::csv::{Field, Overflow};
use crate::scan::plain_len;

/// How a value that is a string is written. Strings inside of arrays and objects are always JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strings {
    /// With its quotes and escapes.
    Json,
    /// The text itself.
    Raw,
}

/// Exponents beyond this are left as they are: nobody's digits run that far, and `1e999999999` is short to send.
const MAX_EXPONENT: u32 = 400;

/// Appends one JSON value.
pub(crate) fn write_value(
    field: &mut Field<'_>,
    value: &[u8],
    strings: Strings,
) -> Result<(), Overflow> {
    match value {
        [b'"', content @ .., b'"'] => {
            write_string(field, content, strings);
            Ok(())
        }
        [b'{' | b'[', ..] => write_nested(field, value),
        [b'-' | b'0'..=b'9', ..] => write_number(field, value),
        _ => {
            field.text(value);
            Ok(())
        }
    }
}

/// Appends plain text as a string.
pub(crate) fn write_text(field: &mut Field<'_>, text: &str, strings: Strings) {
    match strings {
        Strings::Raw => field.text(text.as_bytes()),
        Strings::Json => {
            field.quote();
            escape(text, |piece| field.text(piece));
            field.quote();
        }
    }
}

/// The JSON string for a text, with its quotes.
pub(crate) fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    escape(text, |piece| {
        out.push_str(std::str::from_utf8(piece).expect("text is cut at ASCII characters only"));
    });
    out.push('"');
}

/// Appends an array or object.
fn write_nested(field: &mut Field<'_>, value: &[u8]) -> Result<(), Overflow> {
    let mut rest = value;
    while let Some(first) = rest.first() {
        let len = match first {
            b'"' => {
                let content_len = string_len(&rest[1..]);
                write_string(field, &rest[1..=content_len], Strings::Json);
                content_len + 2
            }
            b'-' | b'0'..=b'9' => {
                let is_end =
                    |byte: &u8| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let len = rest.iter().position(is_end).unwrap_or(rest.len());
                write_number(field, &rest[..len])?;
                len
            }
            b' ' | b'\n' | b'\t' | b'\r' => 1,
            other => {
                field.byte(*other);
                1
            }
        };
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(())
}

/// Bytes before the closing quote.
fn string_len(text: &[u8]) -> usize {
    let mut len = 0;
    loop {
        len += plain_len(&text[len..]);
        match text.get(len) {
            None => return text.len(),
            Some(b'"') => return len,
            // The escaped character may be a quote.
            Some(b'\\') => len = (len + 2).min(text.len()),
            Some(_) => len += 1,
        }
    }
}

/// Appends a string, given what is between its quotes.
fn write_string(field: &mut Field<'_>, content: &[u8], strings: Strings) {
    if strings == Strings::Json {
        field.quote();
    }
    let mut rest = content;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        field.text(&rest[..at]);
        let (c, len) = unescape_one(&rest[at..]);
        match strings {
            Strings::Raw => field.char(c),
            Strings::Json => escape(c.encode_utf8(&mut [0; 4]), |piece| field.text(piece)),
        }
        rest = rest.get(at + len..).unwrap_or_default();
    }
    field.text(rest);
    if strings == Strings::Json {
        field.quote();
    }
}

/// Cuts a text into pieces that need no escape and escapes for the rest.
fn escape(text: &str, mut emit: impl FnMut(&[u8])) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_len(rest));
        if !plain.is_empty() {
            emit(plain);
        }
        let Some((byte, tail)) = special.split_first() else {
            return;
        };
        match byte {
            b'"' => emit(b"\\\""),
            b'\\' => emit(b"\\\\"),
            0x08 => emit(b"\\b"),
            b'\t' => emit(b"\\t"),
            b'\n' => emit(b"\\n"),
            0x0c => emit(b"\\f"),
            b'\r' => emit(b"\\r"),
            control => {
                let digit = |nibble: u8| HEX[usize::from(nibble)];
                emit(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    digit(control >> 4),
                    digit(control & 15),
                ]);
            }
        }
        rest = tail;
    }
}

/// Decodes what is between the quotes of a string.
pub(crate) fn unescape(content: &[u8], out: &mut String) {
    let mut rest = content;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.push_str(&String::from_utf8_lossy(&rest[..at]));
        let (c, len) = unescape_one(&rest[at..]);
        out.push(c);
        rest = rest.get(at + len..).unwrap_or_default();
    }
    out.push_str(&String::from_utf8_lossy(rest));
}

/// Decodes the escape sequence at the start and returns its length. What the scanner would refuse becomes U+FFFD.
fn unescape_one(text: &[u8]) -> (char, usize) {
    let c = match text.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unescape_code_point(text),
        Some(other) => char::from(*other),
        None => char::REPLACEMENT_CHARACTER,
    };
    (c, 2)
}

fn unescape_code_point(text: &[u8]) -> (char, usize) {
    let invalid = (char::REPLACEMENT_CHARACTER, 6);
    let Some(high) = code_unit(text) else {
        return invalid;
    };
    if let Some(c) = char::from_u32(high) {
        return (c, 6);
    }
    let Some(low) = text.get(6..).and_then(code_unit) else {
        return invalid;
    };
    match (high, low) {
        (0xD800..=0xDBFF, 0xDC00..=0xDFFF) => {
            let code_point = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            (
                char::from_u32(code_point).unwrap_or(char::REPLACEMENT_CHARACTER),
                12,
            )
        }
        _ => invalid,
    }
}

/// The number in a `\uXXXX` at the start.
pub(crate) fn code_unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| {
        Some(unit * 16 + char::from(*digit).to_digit(16)?)
    })
}

fn write_number(field: &mut Field<'_>, number: &[u8]) -> Result<(), Overflow> {
    if memchr::memchr2(b'e', b'E', number).is_none() {
        field.text(number);
        return Ok(());
    }
    // Six bytes become four hundred here: a body of such numbers must not fill the memory before anyone looks.
    field.check()?;
    let text = std::str::from_utf8(number).ok();
    match text.and_then(without_exponent) {
        Some(expanded) => field.text(expanded.as_bytes()),
        None => field.text(number),
    }
    Ok(())
}

/// `-1.25e1` → `-12.5`; a number that has no exponent stays as it is. None when the exponent is too large.
pub(crate) fn without_exponent(number: &str) -> Option<Cow<'_, str>> {
    if !number.is_ascii() {
        return None;
    }
    let Some((mantissa, exponent)) = number.split_once(['e', 'E']) else {
        return Some(Cow::Borrowed(number));
    };
    let exponent: i32 = exponent
        .parse()
        .ok()
        .filter(|e: &i32| e.unsigned_abs() <= MAX_EXPONENT)?;
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [integer, fraction].concat();
    let shift = usize::try_from(exponent.unsigned_abs()).ok()?;
    let (before, after) = if exponent < 0 {
        let padded = ["0".repeat(shift), digits].concat();
        let (before, after) = padded.split_at(integer.len());
        (before.to_owned(), after.to_owned())
    } else {
        let padded = [digits, "0".repeat(shift.saturating_sub(fraction.len()))].concat();
        let (before, after) = padded.split_at(integer.len() + shift);
        (before.to_owned(), after.to_owned())
    };
    let before = match before.trim_start_matches('0') {
        "" => "0",
        significant => significant,
    };
    let point = if after.is_empty() { "" } else { "." };
    Some(Cow::Owned([sign, before, point, &after].concat()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scan::tests::json_value;

    /// Writes a value and reads the CSV value back.
    fn canonical(value: &str, strings: Strings) -> String {
        let mut out = Vec::new();
        let mut field = Field::open(&mut out, usize::MAX);
        write_value(&mut field, value.as_bytes(), strings).expect("no limit");
        field.close().expect("no limit");
        let text = String::from_utf8(out).expect("UTF-8");
        text[1..text.len() - 1].replace("\"\"", "\"")
    }

    #[test]
    fn white_space_goes_and_order_stays() {
        let text = " { \"b\" : [ 1 , 2 ] ,\n\t\"a\" : { } , \"b\" : \" x  y \" } ";
        let compact = r#"{"b":[1,2],"a":{},"b":" x  y "}"#;
        assert_eq!(canonical(text.trim(), Strings::Json), compact);
        assert_eq!(canonical(text.trim(), Strings::Raw), compact);
    }

    #[test]
    fn strings_have_the_fewest_escapes() {
        let text = r#""\u0041\/\"\\\n\u0001\u001F\u00e9\ud83d\ude00é\u007f""#;
        assert_eq!(
            canonical(text, Strings::Json),
            "\"A/\\\"\\\\\\n\\u0001\\u001fé😀é\u{7f}\""
        );
        assert_eq!(
            canonical(text, Strings::Raw),
            "A/\"\\\n\u{1}\u{1f}é😀é\u{7f}"
        );
        assert_eq!(canonical(r#""""#, Strings::Json), "\"\"");
        assert_eq!(canonical(r#""""#, Strings::Raw), "");
        assert_eq!(
            canonical(r#"["\u0041",{"\"":"\\"}]"#, Strings::Raw),
            r#"["A",{"\"":"\\"}]"#
        );
    }

    #[test]
    fn numbers_keep_their_digits_and_lose_their_exponent() {
        for (number, written) in [
            (
                "123456789012345678901234567890.10",
                "123456789012345678901234567890.10",
            ),
            ("-0", "-0"),
            ("1e3", "1000"),
            ("1E+3", "1000"),
            ("1.5e3", "1500"),
            ("1.50e1", "15.0"),
            ("-1.25e1", "-12.5"),
            ("1.0e1", "10"),
            ("15e-1", "1.5"),
            ("1.5e-3", "0.0015"),
            ("100e-2", "1.00"),
            ("0e5", "0"),
            ("-0.0e1", "-0"),
            ("0.001e2", "0.1"),
            ("1e0", "1"),
            ("1.5e-0", "1.5"),
            ("1e-401", "1e-401"),
            ("1e99999999999999999999", "1e99999999999999999999"),
        ] {
            assert_eq!(canonical(number, Strings::Json), written, "{number}");
            assert_eq!(
                canonical(&format!("[{number}]"), Strings::Json),
                format!("[{written}]")
            );
        }
        assert_eq!(canonical("1e400", Strings::Raw).len(), 401);
        assert_eq!(canonical("1e-400", Strings::Raw).len(), 402);
    }

    #[test]
    fn words_stay() {
        for word in ["null", "true", "false"] {
            assert_eq!(canonical(word, Strings::Raw), word);
        }
    }

    #[test]
    fn a_body_of_exponents_stops_at_the_limit() {
        let value = format!("[{}0]", "1e400,".repeat(10_000));
        let mut out = Vec::new();
        let mut field = Field::open(&mut out, 1_000);
        assert_eq!(
            write_value(&mut field, value.as_bytes(), Strings::Json),
            Err(Overflow)
        );
        assert!(out.len() < 2_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn equals_the_compact_form_of_serde_json(value in json_value()) {
            let pretty = serde_json::to_string_pretty(&value).expect("serialises");
            let compact = serde_json::to_string(&value).expect("serialises");
            prop_assert_eq!(canonical(&pretty, Strings::Json), compact.clone());
            prop_assert_eq!(canonical(&compact, Strings::Json), compact);
        }

        #[test]
        fn texts_become_the_same_string_as_in_serde_json(text in any::<String>()) {
            let mut json = String::new();
            push_json_string(&mut json, &text);
            prop_assert_eq!(&json, &serde_json::to_string(&text).expect("serialises"));
            prop_assert_eq!(canonical(&json, Strings::Raw), text.clone());
            let mut decoded = String::new();
            unescape(&json.as_bytes()[1..json.len() - 1], &mut decoded);
            prop_assert_eq!(decoded, text);
        }

        #[test]
        fn exponents_do_not_change_the_value(mantissa in -99_999_i64..99_999, scale in 0_i32..6, exponent in -9_i32..9) {
            let number = format!("{}e{exponent}", mantissa as f64 / 10_f64.powi(scale));
            let written = canonical(&number, Strings::Json);
            prop_assert!(!written.contains('e'));
            let (a, b): (f64, f64) = (number.parse().expect("number"), written.parse().expect("number"));
            prop_assert_eq!(a, b);
        }

        #[test]
        fn other_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), open in 0..5_u8) {
            let mut value = vec![b"\"[{-x"[usize::from(open)]];
            value.extend(bytes);
            let mut out = Vec::new();
            let mut field = Field::open(&mut out, usize::MAX);
            let _ = write_value(&mut field, &value, Strings::Raw);
        }
    }
}
