use proptest::prelude::*;

use super::*;

fn convert(data_type: DataType, given: Given<'_>) -> Option<String> {
    let typed = Typed {
        data_type,
        nullable: true,
    };
    let mut out = Vec::new();
    let mut field = Field::open(&mut out, usize::MAX);
    typed.write(&mut field, given).ok()?;
    field.close().ok()?;
    let text = String::from_utf8(out).expect("UTF-8");
    Some(text[1..text.len() - 1].replace("\"\"", "\""))
}

/// Converts JSON, and unless it is null the same as a text.
fn both(data_type: DataType, json: &str) -> Option<String> {
    let converted = convert(data_type, Given::Json(json.as_bytes()));
    assert_eq!(convert(data_type, Given::Text(json)), converted, "{json}");
    let string = format!("\"{json}\"");
    assert_eq!(
        convert(data_type, Given::Json(string.as_bytes())),
        converted,
        "{string}"
    );
    converted
}

#[test]
fn whole_numbers_are_exact() {
    for (given, written) in [
        ("0", "0"),
        ("-0", "0"),
        ("5.0", "5"),
        ("5e3", "5000"),
        ("1.50e1", "15"),
        ("9223372036854775807", "9223372036854775807"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9.223372036854775807e18", "9223372036854775807"),
    ] {
        assert_eq!(both(DataType::Int, given).as_deref(), Some(written));
    }
    for given in [
        "",
        " 5",
        "5 ",
        "+5",
        "007",
        "5.5",
        "1e-1",
        "9223372036854775808",
        "-9223372036854775809",
        "1e19",
        "1e999999999",
        "0x10",
        "true",
        "five",
        "1_000",
        "NaN",
    ] {
        assert_eq!(both(DataType::Int, given), None, "{given}");
    }
}

#[test]
fn decimals_keep_their_digits() {
    for (given, written) in [
        ("0.1000", "0.1000"),
        (
            "-12345678901234567890.123456789",
            "-12345678901234567890.123456789",
        ),
        ("1.5e3", "1500"),
        ("1e-401", "0"),
        ("0e500", "0"),
    ] {
        assert_eq!(both(DataType::Float, given).as_deref(), Some(written));
    }
    for given in [
        "", "inf", "NaN", "1e309", "-1e309", "1e999", ".5", "5.", "1,5", "0x1p3",
    ] {
        assert_eq!(both(DataType::Float, given), None, "{given}");
    }
}

#[test]
fn truth_has_four_spellings() {
    for (given, written) in [
        ("true", "true"),
        ("1", "true"),
        ("false", "false"),
        ("0", "false"),
    ] {
        assert_eq!(both(DataType::Bool, given).as_deref(), Some(written));
    }
    for given in ["", "True", "yes", "on", "2", "1.0", "-0"] {
        assert_eq!(both(DataType::Bool, given), None, "{given}");
    }
}

#[test]
fn times_are_brought_to_utc() {
    for (given, written) in [
        ("2006-01-02T15:04:05Z", "2006-01-02T15:04:05.000000000Z"),
        ("2006-01-02t15:04:05.5z", "2006-01-02T15:04:05.500000000Z"),
        (
            "2006-01-02T15:04:05.123456789+01:00",
            "2006-01-02T14:04:05.123456789Z",
        ),
        (
            "2006-12-31T23:30:00-00:30",
            "2007-01-01T00:00:00.000000000Z",
        ),
        (
            "2004-02-29T00:00:00+00:01",
            "2004-02-28T23:59:00.000000000Z",
        ),
        ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000000000Z"),
        ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000000000Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.000000000Z"),
    ] {
        let converted = convert(DataType::Timestamp, Given::Text(given));
        assert_eq!(converted.as_deref(), Some(written), "{given}");
    }
    for given in [
        "",
        "2006-01-02",
        "2006-01-02T15:04:05",
        "2006-01-02 15:04:05Z",
        "2006-1-2T15:04:05Z",
        "2006-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2006-13-01T00:00:00Z",
        "2006-00-01T00:00:00Z",
        "2006-01-00T00:00:00Z",
        "2006-04-31T00:00:00Z",
        "2006-01-02T24:00:00Z",
        "2006-01-02T23:60:00Z",
        "2006-12-31T23:59:60Z",
        "2006-01-02T15:04:05.Z",
        "2006-01-02T15:04:05.1234567890Z",
        "2006-01-02T15:04:05+1:00",
        "2006-01-02T15:04:05+01:60",
        "2006-01-02T15:04:05+24:00",
        "2006-01-02T15:04:05Zx",
        "0000-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "1136214245",
        "2006-01-02T15:04:0éZ",
        "+006-01-02T15:04:05Z",
    ] {
        assert_eq!(
            convert(DataType::Timestamp, Given::Text(given)),
            None,
            "{given}"
        );
        assert_eq!(
            convert(DataType::Timestamp, Given::Json(b"1136214245")),
            None
        );
    }
}

#[test]
fn json_is_kept_as_json() {
    for (given, written) in [
        (Given::Json(b"\"5\""), "\"5\""),
        (
            Given::Json(b"{ \"b\" : 1e3, \"a\":null }"),
            r#"{"b":1000,"a":null}"#,
        ),
        (Given::Text(" [1, 2]\n"), "[1,2]"),
        (Given::Text(" null "), ""),
    ] {
        assert_eq!(convert(DataType::Json, given).as_deref(), Some(written));
    }
    for text in ["", "{", "abc", "1 2"] {
        assert_eq!(convert(DataType::Json, Given::Text(text)), None, "{text}");
    }
}

#[test]
fn only_null_is_null_and_never_in_a_key() {
    for data_type in DataType::ALL
        .into_iter()
        .filter(|data_type| !data_type.is_string())
    {
        assert_eq!(
            convert(data_type, Given::Json(b"null")).as_deref(),
            Some("")
        );
        assert_eq!(
            convert(data_type, Given::Json(b"\"\"")).as_deref(),
            match data_type {
                DataType::Json => Some("\"\""),
                _ => None,
            }
        );
        let typed = Typed {
            data_type,
            nullable: false,
        };
        let mut out = Vec::new();
        let written = typed.write(&mut Field::open(&mut out, 100), Given::Json(b"null"));
        assert!(matches!(written, Err(Failure::NullKey)));
    }
}

#[test]
fn containers_are_nothing_but_json() {
    for data_type in [
        DataType::Int,
        DataType::Float,
        DataType::Bool,
        DataType::Timestamp,
    ] {
        for json in ["{}", "[1]"] {
            assert_eq!(convert(data_type, Given::Json(json.as_bytes())), None);
        }
    }
}

proptest! {
    #[test]
    fn every_number_of_64_bits_survives(number in any::<i64>()) {
        let text = number.to_string();
        prop_assert_eq!(both(DataType::Int, &text), Some(text));
    }

    #[test]
    fn every_date_survives(millis in -62_167_219_200_000_i64..253_402_300_799_999) {
        let at = stream_model::Timestamp::from_millis(millis);
        let text = String::from_utf8(crate::calendar::Civil::new(at).rfc3339().to_vec()).expect("ASCII");
        let expected = text.replace('Z', "000000Z");
        prop_assert_eq!(convert(DataType::Timestamp, Given::Text(&text)), Some(expected));
    }

    #[test]
    fn no_text_panics(text in any::<String>(), near in "[0-9TZtz:.+\\-é]{0,32}") {
        for data_type in DataType::ALL {
            let _ = convert(data_type, Given::Text(&text));
            let _ = convert(data_type, Given::Text(&near));
        }
    }
}
