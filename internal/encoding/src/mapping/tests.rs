use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use proptest::prelude::*;
use stream_model::ErrorKind;
use stream_model::Timestamp;
use stream_model::definition::mapping::{ColumnKind, DataType, Template as Definition};
use stream_model::level::Compression;

use super::*;
use crate::path::{self, Step};
use crate::record::Headers;
use crate::scan::tests::json_value;
use crate::{MAX_ROW_LEN, RowReader, RowValues};

fn column(name: &str, kind: ColumnKind) -> Column {
    Column {
        kind,
        name: name.to_owned(),
        primary_key: false,
        data_type: DataType::String,
    }
}

fn path(path: &str) -> ColumnKind {
    ColumnKind::Path {
        path: path.to_owned(),
        default_value: None,
        raw_string: false,
    }
}

fn path_or(path: &str, default: &str, raw_string: bool) -> ColumnKind {
    let default_value = Some(default.to_owned());
    ColumnKind::Path {
        path: path.to_owned(),
        default_value,
        raw_string,
    }
}

fn raw_path(path: &str) -> ColumnKind {
    ColumnKind::Path {
        path: path.to_owned(),
        default_value: None,
        raw_string: true,
    }
}

fn template(content: &str, raw_string: bool) -> ColumnKind {
    let template = Definition {
        language: "jsonnet".to_owned(),
        content: content.to_owned(),
    };
    ColumnKind::Template {
        template,
        raw_string,
    }
}

fn compile(kinds: Vec<ColumnKind>) -> Result<CompiledMapping, CompileError> {
    let named = |(position, kind)| column(&format!("c{position}"), kind);
    CompiledMapping::compile(&Mapping {
        columns: kinds.into_iter().enumerate().map(named).collect(),
    })
}

fn record(content_type: ContentType, body: &str) -> Record {
    let headers: [(&str, &[u8]); 3] = [
        ("x-b", b"say \"hi\""),
        ("content-type", b"text/plain"),
        ("X-B", b"ignored"),
    ];
    Record {
        received_at: "2006-01-02T15:04:05.007Z".parse().expect("valid time"),
        client_ip: IpAddr::V4(Ipv4Addr::new(1, 2, 3, 4)),
        headers: Headers::new(headers.into_iter()),
        content_type,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn json(body: &str) -> Record {
    record(ContentType::Json, body)
}

/// Maps one record and reads the row back.
fn map(kinds: Vec<ColumnKind>, record: &Record) -> Result<Vec<String>, MapError> {
    let mapping = compile(kinds).expect("valid mapping");
    let mut rows = Rows::new();
    mapping.map(record, &mut rows, &mut || [7; 10])?;
    assert_eq!(rows.rows(), 1);
    let mut reader = RowReader::new(Compression::None, mapping.columns(), rows.as_bytes());
    let mut row = RowValues::new();
    assert!(reader.next(&mut row).expect("valid CSV"));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("always UTF-8");
    Ok(row.iter().map(text).collect())
}

/// Maps one record to one column.
fn value(kind: ColumnKind, record: &Record) -> Result<String, MapError> {
    map(vec![kind], record).map(|mut values| values.remove(0))
}

#[test]
fn plain_columns() {
    let record = record(ContentType::Other, "a,\"b\"\nc");
    let columns = vec![
        ColumnKind::Uuid,
        ColumnKind::Datetime,
        ColumnKind::Ip,
        ColumnKind::Body,
        ColumnKind::Headers,
    ];
    assert_eq!(
        map(columns, &record).expect("row"),
        [
            uuid::Builder::from_unix_timestamp_millis(1_136_214_245_007, &[7; 10])
                .into_uuid()
                .to_string(),
            "2006-01-02T15:04:05.007Z".to_owned(),
            "1.2.3.4".to_owned(),
            "a,\"b\"\nc".to_owned(),
            r#"{"Content-Type":"text/plain","X-B":"say \"hi\""}"#.to_owned(),
        ]
    );
}

#[test]
fn the_csv_is_quoted_throughout() {
    let mapping = compile(vec![
        ColumnKind::Ip,
        path("a"),
        raw_path("a"),
        path_or("b", "", true),
    ]);
    let mut rows = Rows::new();
    let record = json(r#"{"a":"x\"y"}"#);
    let mapping = mapping.expect("valid");
    for _ in 0..2 {
        mapping
            .map(&record, &mut rows, &mut || [0; 10])
            .expect("row");
    }
    let row = "\"1.2.3.4\",\"\"\"x\\\"\"y\"\"\",\"x\"\"y\",\"\"\n";
    assert_eq!(
        std::str::from_utf8(rows.as_bytes()),
        Ok(row.repeat(2).as_str())
    );
    assert_eq!(rows.rows(), 2);
}

#[test]
fn uuids_are_version_7_of_the_arrival_with_fresh_random_bytes_each() {
    let mapping = compile(vec![ColumnKind::Uuid, ColumnKind::Uuid]).expect("valid");
    let mut rows = Rows::new();
    let mut calls = 0_u8;
    let mut ids = || {
        calls += 1;
        [calls; 10]
    };
    mapping.map(&json(""), &mut rows, &mut ids).expect("row");
    assert_eq!(calls, 2);
    let text = std::str::from_utf8(rows.as_bytes()).expect("ASCII");
    let ids: Vec<uuid::Uuid> = text
        .trim_end()
        .split(',')
        .map(|id| uuid::Uuid::try_parse(id.trim_matches('"')).expect("a UUID"))
        .collect();
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        assert_eq!(id.get_version_num(), 7);
        let millis = id.as_u128() >> 80;
        assert_eq!(millis, 1_136_214_245_007);
    }
}

#[test]
fn addresses_of_both_families() {
    let mut record = json("");
    for (ip, text) in [
        (Ipv6Addr::LOCALHOST, "::1"),
        (Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped(), "10.0.0.1"),
        (
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            "2001:db8::1",
        ),
    ] {
        record.client_ip = IpAddr::V6(ip);
        assert_eq!(value(ColumnKind::Ip, &record).as_deref(), Ok(text));
        assert_eq!(
            value(template("Ip()", false), &record),
            Ok(format!("\"{text}\""))
        );
        assert_eq!(value(template("Ip()", true), &record).as_deref(), Ok(text));
    }
}

#[test]
fn paths_in_json() {
    let record = json(
        r#"{ "s": "caf\u00e9 \"x\"", "n": 1.50, "e": 1e3, "z": null, "o": { "k" : [ 1, "\u0041" ] }, "b": true }"#,
    );
    for (path, encoded, raw) in [
        ("s", r#""café \"x\"""#, r#"café "x""#),
        ("n", "1.50", "1.50"),
        ("e", "1000", "1000"),
        ("z", "null", "null"),
        ("b", "true", "true"),
        ("o", r#"{"k":[1,"A"]}"#, r#"{"k":[1,"A"]}"#),
        ("o.k[1]", "\"A\"", "A"),
        (
            "",
            r#"{"s":"café \"x\"","n":1.50,"e":1000,"z":null,"o":{"k":[1,"A"]},"b":true}"#,
            r#"{"s":"café \"x\"","n":1.50,"e":1000,"z":null,"o":{"k":[1,"A"]},"b":true}"#,
        ),
    ] {
        assert_eq!(
            value(self::path(path), &record).as_deref(),
            Ok(encoded),
            "{path}"
        );
        assert_eq!(value(raw_path(path), &record).as_deref(), Ok(raw), "{path}");
        assert_eq!(
            value(path_or(path, "unused", true), &record).as_deref(),
            Ok(raw),
            "{path}"
        );
    }
}

#[test]
fn a_body_need_not_be_an_object() {
    assert_eq!(value(path(""), &json(" 42 ")).as_deref(), Ok("42"));
    assert_eq!(value(raw_path(""), &json("\"a\"")).as_deref(), Ok("a"));
    assert_eq!(value(path("[1]"), &json("[1,2]")).as_deref(), Ok("2"));
    assert!(matches!(
        value(path("a"), &json("42")),
        Err(MapError::MissingPath { .. })
    ));
}

#[test]
fn defaults_take_the_place_of_missing_values() {
    let record = json(r#"{"a":{"b":null}}"#);
    for missing in ["x", "a.x", "a[0]", "a.b.c"] {
        assert_eq!(
            value(path_or(missing, "d\"é", true), &record).as_deref(),
            Ok("d\"é")
        );
        assert_eq!(
            value(path_or(missing, "d\"é", false), &record).as_deref(),
            Ok("\"d\\\"é\"")
        );
        assert_eq!(
            value(path_or(missing, "", true), &record).as_deref(),
            Ok("")
        );
        assert_eq!(
            value(path_or(missing, "", false), &record).as_deref(),
            Ok("\"\"")
        );
        let error = value(path(missing), &record).expect_err("no default");
        assert_eq!(
            error,
            MapError::MissingPath {
                column: "c0".to_owned(),
                path: missing.to_owned()
            }
        );
        assert_eq!(
            (error.column(), error.kind()),
            (Some("c0"), ErrorKind::Invalid)
        );
    }
    // A value that is there is not missing, even when it is null.
    assert_eq!(
        value(path_or("a.b", "d", true), &record).as_deref(),
        Ok("null")
    );
}

#[test]
fn forms_are_read_like_json() {
    let record = record(ContentType::Form, "a=1&b[]=x&b[]=y+z&c[d][e]=%22");
    for (path, expected) in [
        ("a", "\"1\""),
        ("b[1]", "\"y z\""),
        ("b", r#"["x","y z"]"#),
        ("c.d.e", "\"\\\"\""),
        ("", r#"{"a":"1","b":["x","y z"],"c":{"d":{"e":"\""}}}"#),
    ] {
        assert_eq!(
            value(self::path(path), &record).as_deref(),
            Ok(expected),
            "{path}"
        );
    }
    assert_eq!(value(raw_path("c.d.e"), &record).as_deref(), Ok("\""));
    assert!(matches!(
        value(path("b[2]"), &record),
        Err(MapError::MissingPath { .. })
    ));
    let deep = format!("a{}=1", "[b]".repeat(1_000));
    let error = value(path("a"), &self::record(ContentType::Form, &deep)).expect_err("too deep");
    assert!(matches!(error, MapError::MalformedBody { .. }));
}

#[test]
fn opaque_bodies_have_no_inside() {
    let record = record(ContentType::Other, "{}");
    for kind in [
        path(""),
        path_or("a", "", true),
        template("Body()", false),
        template("Body('a', 1)", true),
    ] {
        let error = map(vec![ColumnKind::Ip, kind], &record).expect_err("opaque");
        assert_eq!(
            error,
            MapError::NotStructured {
                column: "c1".to_owned()
            }
        );
        assert_eq!(error.column(), Some("c1"));
    }
    for content in [
        "BodyStr()",
        "Header()",
        "HeaderStr()",
        "Ip()",
        "Now()",
        "Header('X-B')",
    ] {
        value(template(content, false), &record).expect(content);
    }
}

#[test]
fn malformed_bodies_are_refused_only_when_someone_looks_inside() {
    for body in ["", "{", "{\"a\":1,}", "{\"a\":1} x", "\"\\ud800\""] {
        let error = value(path_or("a", "d", true), &json(body)).expect_err(body);
        assert!(matches!(error, MapError::MalformedBody { .. }), "{error:?}");
        assert_eq!((error.column(), error.kind()), (None, ErrorKind::Invalid));
        assert_eq!(value(ColumnKind::Body, &json(body)).as_deref(), Ok(body));
        assert_eq!(
            value(template("BodyStr()", true), &json(body)).as_deref(),
            Ok(body)
        );
    }
    let error = value(path("a"), &json("{\"secret\" 1}")).expect_err("malformed");
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn bytes_that_are_not_text_are_replaced() {
    let mut record = record(ContentType::Json, "");
    record.body = Bytes::from_static(b"\"a\xff\"");
    assert_eq!(
        value(ColumnKind::Body, &record).as_deref(),
        Ok("\"a\u{fffd}\"")
    );
    assert!(matches!(
        value(path(""), &record),
        Err(MapError::MalformedBody { .. })
    ));
}

#[test]
fn templates() {
    let record = json(r#"{"a":{"b.c":["x\"",2]},"n":null}"#);
    for (content, encoded, raw) in [
        (
            "Body()",
            r#"{"a":{"b.c":["x\"",2]},"n":null}"#,
            r#"{"a":{"b.c":["x\"",2]},"n":null}"#,
        ),
        ("Body('a')['b.c'][0]", r#""x\"""#, "x\""),
        ("Body('a')['b.c'][1]", "2", "2"),
        ("Body('n')", "null", "null"),
        ("Body('x', 'd\"')", r#""d\"""#, "d\""),
        ("Body('x', 1.50e1)", "15.0", "15.0"),
        ("Body('x', null)", "null", "null"),
        (
            "BodyStr()",
            r#""{\"a\":{\"b.c\":[\"x\\\"\",2]},\"n\":null}""#,
            r#"{"a":{"b.c":["x\"",2]},"n":null}"#,
        ),
        ("Header('x-b')", r#""say \"hi\"""#, "say \"hi\""),
        ("Header('X-C', 'none')", "\"none\"", "none"),
        ("Header('X-C', false)", "false", "false"),
        (
            "Header()",
            r#"{"Content-Type":"text/plain","X-B":"say \"hi\""}"#,
            r#"{"Content-Type":"text/plain","X-B":"say \"hi\""}"#,
        ),
        (
            "HeaderStr()",
            r#""Content-Type: text/plain\nX-B: say \"hi\"\n""#,
            "Content-Type: text/plain\nX-B: say \"hi\"\n",
        ),
        ("Ip()", "\"1.2.3.4\"", "1.2.3.4"),
        (
            "Now()",
            "\"2006-01-02T15:04:05.007000Z\"",
            "2006-01-02T15:04:05.007000Z",
        ),
        ("Now('%Y \"%m\"')", r#""2006 \"01\"""#, "2006 \"01\""),
    ] {
        assert_eq!(
            value(template(content, false), &record).as_deref(),
            Ok(encoded),
            "{content}"
        );
        assert_eq!(
            value(template(content, true), &record).as_deref(),
            Ok(raw),
            "{content}"
        );
    }
}

#[test]
fn templates_without_default_reject_what_is_missing() {
    let record = json(r#"{"a":{}}"#);
    assert_eq!(
        value(template("Body('a')['b.c']", false), &record),
        Err(MapError::MissingPath {
            column: "c0".to_owned(),
            path: r#"a["b.c"]"#.to_owned()
        })
    );
    let error = value(template("Header('x-none')", false), &record).expect_err("missing");
    assert_eq!(
        error,
        MapError::MissingHeader {
            column: "c0".to_owned(),
            header: "X-None".to_owned()
        }
    );
    assert_eq!(
        (error.column(), error.kind()),
        (Some("c0"), ErrorKind::Invalid)
    );
}

#[test]
fn a_record_that_fails_leaves_no_trace() {
    let mapping = compile(vec![ColumnKind::Body, path("a")]).expect("valid");
    let mut rows = Rows::new();
    mapping
        .map(&json(r#"{"a":1}"#), &mut rows, &mut || [0; 10])
        .expect("row");
    let before = rows.as_bytes().to_vec();
    for body in [r#"{"b":1}"#, "{"] {
        mapping
            .map(&json(body), &mut rows, &mut || [0; 10])
            .expect_err(body);
        assert_eq!((rows.as_bytes(), rows.rows()), (&before[..], 1));
    }
}

#[test]
fn rows_longer_than_the_limit_are_refused() {
    let mapping = compile(vec![ColumnKind::Body, ColumnKind::Ip]).expect("valid");
    let overhead = "\"\",\"1.2.3.4\"\n".len();
    let mut rows = Rows::with_row_limit(100);
    let mut refused_at = |len: usize| {
        let before = rows.len();
        let result = mapping.map(&json(&"x".repeat(len)), &mut rows, &mut || [0; 10]);
        assert!(result.is_ok() || rows.len() == before);
        result.err()
    };
    assert_eq!(refused_at(100 - overhead), None);
    // The limit is for each row, not for all of them.
    assert_eq!(refused_at(100 - overhead), None);
    for len in [100 - overhead + 1, 95, 1_000] {
        assert_eq!(
            refused_at(len),
            Some(MapError::RowTooLong { limit: 100 }),
            "{len}"
        );
    }

    let bomb = format!("[{}0]", "1e400,".repeat(100_000));
    let columns = (0..MAX_COLUMNS).map(|_| path("")).collect();
    let error = map(columns, &json(&bomb)).expect_err("bomb");
    assert_eq!(error, MapError::RowTooLong { limit: MAX_ROW_LEN });
}

#[test]
fn says_what_it_reads() {
    for (kind, headers) in [
        (ColumnKind::Headers, true),
        (template("Header()", false), true),
        (template("Header('a', 1)", false), true),
        (template("HeaderStr()", false), true),
        (template("Body()", false), false),
        (ColumnKind::Ip, false),
    ] {
        let mapping = compile(vec![ColumnKind::Uuid, kind]).expect("valid");
        assert_eq!((mapping.needs_headers(), mapping.columns()), (headers, 2));
    }
}

fn compile_named(names: &[&str]) -> Result<usize, CompileError> {
    let columns = names
        .iter()
        .map(|name| column(name, ColumnKind::Ip))
        .collect();
    CompiledMapping::compile(&Mapping { columns }).map(|mapping| mapping.columns())
}

fn compile_error(kind: ColumnKind) -> CompileError {
    compile(vec![kind]).map(|_| ()).expect_err("a mistake")
}

#[test]
fn a_mapping_has_1_to_100_columns() {
    assert_eq!(compile_named(&[]), Err(CompileError::NoColumns));
    assert_eq!(
        compile(vec![ColumnKind::Ip; 100])
            .expect("the most")
            .columns(),
        100
    );
    let error = compile(vec![ColumnKind::Ip; 101]).expect_err("too many");
    assert_eq!(error, CompileError::TooManyColumns { count: 101 });
}

#[test]
fn column_names_fit_every_target() {
    let column = |name: &str| name.to_owned();
    assert_eq!(
        compile_named(&["a", ""]),
        Err(CompileError::EmptyName { position: 2 })
    );
    for names in [["a", "b", "a"], ["a", "b", "A"]] {
        let error = CompileError::DuplicateName {
            column: column(names[2]),
        };
        assert_eq!(compile_named(&names), Err(error));
    }
    assert_eq!(compile_named(&[&"n".repeat(63), "é"]), Ok(2));
    let long = "é".repeat(32);
    let error = CompileError::NameTooLong {
        column: long.clone(),
        len: 64,
    };
    assert_eq!(compile_named(&[&long]), Err(error));
    let error = CompileError::NameCharacter {
        column: column("a\0"),
    };
    assert_eq!(compile_named(&["a\0"]), Err(error));
}

#[test]
fn paths_and_templates_with_mistakes_do_not_compile() {
    let column = || "c0".to_owned();
    let invalid_path = |kind| match compile_error(kind) {
        CompileError::Path { column, path, .. } => (column, path),
        other => panic!("{other:?}"),
    };
    assert_eq!(invalid_path(path("a..b")), (column(), "a..b".to_owned()));
    assert_eq!(
        invalid_path(template("Body('[')", false)),
        (column(), "[".to_owned())
    );
    let error = compile_error(template("Ip(1)", false));
    assert!(matches!(error, CompileError::Template { .. }));
}

#[test]
fn templates_are_jsonnet_of_limited_length() {
    let column = || "c0".to_owned();
    let error = CompileError::TemplateLength {
        column: column(),
        len: 0,
    };
    assert_eq!(compile_error(template("", false)), error);
    let spaces = |count| template(&format!("Ip(){}", " ".repeat(count)), false);
    let error = CompileError::TemplateLength {
        column: column(),
        len: 4097,
    };
    assert_eq!(compile_error(spaces(4093)), error);
    compile(vec![spaces(4092)]).expect("the longest");
    let lua = Definition {
        language: "lua".to_owned(),
        content: "x".to_owned(),
    };
    let error = compile_error(ColumnKind::Template {
        template: lua,
        raw_string: false,
    });
    assert_eq!(
        error,
        CompileError::Language {
            column: column(),
            language: "lua".to_owned()
        }
    );
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn error_texts_name_the_column_and_what_to_do() {
    let error = compile(vec![template("Ip(1)", false)]).expect_err("a mistake");
    assert_eq!(
        error.to_string(),
        "column \"c0\": the template is invalid: BodyStr, HeaderStr and Ip take no arguments; remove them"
    );
    let error = value(path("a.b"), &json("{}")).expect_err("missing");
    assert_eq!(
        error.to_string(),
        "column \"c0\": the body has no value at path \"a.b\" and the column has no default"
    );
}

#[test]
fn mappings_are_shared_by_threads_and_the_rest_moves_between_them() {
    fn shared<T: Send + Sync>() {}
    fn movable<T: Send>() {}
    shared::<CompiledMapping>();
    shared::<Record>();
    movable::<Rows>();
    movable::<crate::Encoder>();
    movable::<RowReader<std::io::Empty>>();
}

fn typed(kind: ColumnKind, data_type: DataType) -> Column {
    Column {
        data_type,
        ..column("c", kind)
    }
}

fn map_typed(column: Column, record: &Record) -> Result<String, MapError> {
    let columns = vec![column];
    let mapping = CompiledMapping::compile(&Mapping { columns }).expect("valid mapping");
    let mut rows = Rows::new();
    mapping.map(record, &mut rows, &mut || [7; 10])?;
    let text = std::str::from_utf8(rows.as_bytes())
        .expect("UTF-8")
        .trim_end();
    Ok(text[1..text.len() - 1].replace("\"\"", "\""))
}

#[test]
fn values_of_a_data_type_are_converted_or_refused() {
    use DataType::{Bool, Float, Int, Json, Timestamp};
    let record = json(
        r#"{"i":1e3,"s":"7","n":null,"t":"2006-01-02T15:04:05+01:00","o":{ "a" : 1 },"b":true}"#,
    );
    for (kind, data_type, written) in [
        (path("i"), Int, "1000"),
        (raw_path("s"), Int, "7"),
        (path("s"), Float, "7"),
        (path("n"), Int, ""),
        (path("b"), Bool, "true"),
        (path("t"), Timestamp, "2006-01-02T14:04:05.000000000Z"),
        (path("o"), Json, r#"{"a":1}"#),
        (path("s"), Json, r#""7""#),
        (path_or("x", "", false), Int, ""),
        (path_or("x", "0", true), Int, "0"),
        (path_or("x", "[]", false), Json, "[]"),
        (template("Body('x', null)", false), Int, ""),
        (template("Body('x', 1.0)", false), Int, "1"),
        (template("Header('x-none', '5')", false), Int, "5"),
        (template("Now('%s')", false), Int, "1136214245"),
        (
            template("Now()", true),
            Timestamp,
            "2006-01-02T15:04:05.007000000Z",
        ),
        (
            ColumnKind::Datetime,
            Timestamp,
            "2006-01-02T15:04:05.007000000Z",
        ),
        (
            ColumnKind::Headers,
            Json,
            r#"{"Content-Type":"text/plain","X-B":"say \"hi\""}"#,
        ),
        (
            template("BodyStr()", false),
            Json,
            r#"{"i":1000,"s":"7","n":null,"t":"2006-01-02T15:04:05+01:00","o":{"a":1},"b":true}"#,
        ),
    ] {
        let column = typed(kind, data_type);
        assert_eq!(
            map_typed(column.clone(), &record).as_deref(),
            Ok(written),
            "{column:?}"
        );
    }
}

#[test]
fn values_of_another_data_type_are_refused_with_their_column() {
    use DataType::{Bool, Float, Int, Timestamp};
    let record = json(r#"{"i":1e3,"t":"2006-01-02T15:04:05+01:00","o":{},"n":null}"#);
    for (kind, data_type) in [
        (path("o"), Int),
        (path("t"), Int),
        (path("i"), Bool),
        (path("i"), Timestamp),
        (template("Header('x-b')", false), Float),
    ] {
        let error = map_typed(typed(kind, data_type), &record).expect_err("does not convert");
        let MapError::DataType {
            column,
            data_type: name,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((column.as_str(), *name), ("c", data_type.as_str()));
        assert!(
            !error.to_string().contains("2006-01-02T15:04:05+01:00"),
            "{error}"
        );
    }
    assert!(matches!(
        map_typed(typed(path("x"), Int), &record),
        Err(MapError::MissingPath { .. })
    ));
    let key = Column {
        primary_key: true,
        ..typed(path("n"), Int)
    };
    let error = map_typed(key, &record).expect_err("NULL in a key");
    let column = "c".to_owned();
    assert_eq!(error, MapError::NullKey { column });
    assert_eq!(error.column(), Some("c"));
}

#[test]
fn data_types_that_never_fit_do_not_compile() {
    use DataType::{Int, Json, Timestamp};
    let compile = |column| {
        CompiledMapping::compile(&Mapping {
            columns: vec![column],
        })
    };
    for (kind, data_type) in [
        (ColumnKind::Uuid, Json),
        (ColumnKind::Ip, Int),
        (template("Ip()", false), Json),
        (ColumnKind::Datetime, Int),
        (ColumnKind::Headers, Timestamp),
        (template("Header()", false), Int),
        (raw_path("a"), Json),
    ] {
        let error = compile(typed(kind, data_type))
            .map(|_| ())
            .expect_err("never fits");
        assert!(matches!(error, CompileError::DataType { .. }), "{error}");
    }
    for kind in [
        path_or("a", "x", false),
        template("Body('a', true)", false),
        template("Header('a', '')", false),
    ] {
        let error = compile(typed(kind, Int))
            .map(|_| ())
            .expect_err("no such default");
        assert!(matches!(error, CompileError::DefaultType { .. }), "{error}");
    }
    let key = Column {
        primary_key: true,
        ..typed(path_or("a", "", false), Int)
    };
    let error = CompileError::NullKeyDefault {
        column: "c".to_owned(),
    };
    assert_eq!(compile(key).map(|_| ()), Err(error));
}

/// What a path leads to, told by serde_json.
fn reference<'a>(value: &'a serde_json::Value, steps: &[Step]) -> Option<&'a serde_json::Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.as_object()?.get(&**key),
        Step::Index(index) => value.as_array()?.get(usize::try_from(*index).ok()?),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn paths_lead_where_serde_json_says(
        value in json_value(),
        paths in prop::collection::vec("(|[ab]|\\[[0-2]\\])((\\.[ab\u{e9}]{1,2})|(\\[[0-2]\\])){0,3}", 1..8),
        pretty in any::<bool>(),
    ) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let record = json(&text.expect("serialises"));
        let paths: Vec<_> = paths.into_iter().filter(|p| path::parse(p).is_ok()).collect();
        prop_assume!(!paths.is_empty());
        let expected = |raw_string: bool| -> Vec<String> {
            paths.iter().map(|p| match reference(&value, &path::parse(p).expect("filtered")) {
                None if raw_string => "missing".to_owned(),
                None => "\"missing\"".to_owned(),
                Some(serde_json::Value::String(text)) if raw_string => text.clone(),
                Some(found) => serde_json::to_string(found).expect("serialises"),
            }).collect()
        };
        for raw_string in [false, true] {
            let columns = paths.iter().map(|p| path_or(p, "missing", raw_string)).collect();
            prop_assert_eq!(map(columns, &record).expect("row"), expected(raw_string));
        }
    }

    #[test]
    fn no_body_panics(
        body in prop::collection::vec(any::<u8>(), 0..80),
        content_type in prop::sample::select(vec![ContentType::Json, ContentType::Form, ContentType::Other]),
        millis in any::<i64>(),
    ) {
        let mut record = record(content_type, "");
        record.body = Bytes::from(body);
        record.received_at = Timestamp::from_millis(millis);
        for columns in [
            vec![ColumnKind::Uuid, ColumnKind::Datetime, ColumnKind::Body, template("Now()", false)],
            vec![path_or("a", "", true), path_or("", "", false)],
        ] {
            let _ = map(columns, &record);
        }
    }
}
