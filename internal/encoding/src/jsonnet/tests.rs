use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use proptest::prelude::*;
use stream_model::definition::mapping::{
    Column, ColumnKind, DataType, Mapping, Template as Definition,
};
use stream_model::level::Compression;

use super::evaluator::Evaluator;
use super::*;
use crate::record::{ContentType, Headers, Record};
use crate::scan::tests::json_value;
use crate::{CompiledMapping, RowReader, RowValues, Rows};

fn record(content_type: ContentType, body: &str) -> Record {
    let headers: [(&str, &[u8]); 2] = [("x-b", b"say \"hi\""), ("content-type", b"text/plain")];
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

fn column(name: &str, content: &str, raw_string: bool) -> Column {
    let template = Definition {
        language: "jsonnet".to_owned(),
        content: content.to_owned(),
    };
    Column {
        kind: ColumnKind::Template {
            template,
            raw_string,
        },
        name: name.to_owned(),
        primary_key: false,
        data_type: DataType::String,
    }
}

fn compile(contents: &[&str], raw_string: bool) -> CompiledMapping {
    let columns = contents.iter().enumerate();
    let columns = columns.map(|(n, content)| column(&format!("c{n}"), content, raw_string));
    CompiledMapping::compile(&Mapping {
        columns: columns.collect(),
    })
    .expect("compiles")
}

fn define(evaluator: &mut Evaluator, templates: &Templates) -> Answer {
    let contents: Vec<String> = templates.contents().map(str::to_owned).collect();
    evaluator.define(templates.id(), &contents)
}

/// Maps a record with an evaluator, as the two processes do.
fn map_with(
    evaluator: &mut Evaluator,
    mapping: &CompiledMapping,
    record: &Record,
) -> Result<Vec<String>, MapError> {
    let mut values = Vec::new();
    if let Some(templates) = mapping.templates() {
        assert_eq!(define(evaluator, templates), Answer::Defined);
        let mut failure = None;
        let answered = evaluator.evaluate(templates.id(), record.clone(), |answer| {
            match answer {
                Answer::Value(json) => values.push(json.into()),
                Answer::Failed(reason) => failure = Some(reason),
                other => panic!("{other:?}"),
            }
            Ok(())
        });
        answered.expect("the templates are defined");
        if let Some(failure) = failure {
            return Err(templates.failed(values.len(), failure, 77));
        }
    }
    let mut rows = Rows::new();
    let values = TemplateValues::new(values);
    mapping.map_with(record, Some(&values), &mut rows, &mut || [7; 10])?;
    let mut reader = RowReader::new(Compression::None, mapping.columns(), rows.as_bytes());
    let mut row = RowValues::new();
    assert!(reader.next(&mut row).expect("valid CSV"));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("always UTF-8");
    Ok(row.iter().map(text).collect())
}

/// The value of one template, as JSON and raw.
fn values(content: &str, record: &Record) -> (String, String) {
    let value = |raw_string| {
        let mapping = compile(&[content], raw_string);
        assert!(
            mapping.templates().is_some(),
            "{content} is for the interpreter"
        );
        let values = map_with(&mut Evaluator::new(), &mapping, record);
        values.expect(content).remove(0)
    };
    (value(false), value(true))
}

fn failure(content: &str, record: &Record) -> MapError {
    map_with(&mut Evaluator::new(), &compile(&[content], false), record).expect_err(content)
}

fn invalid(content: &str) -> String {
    let mapping = compile(&["1 + 1", content], false);
    let templates = mapping.templates().expect("for the interpreter");
    match define(&mut Evaluator::new(), templates) {
        Answer::Invalid {
            position: 1,
            message,
        } => message,
        other => panic!("{content}: {other:?}"),
    }
}

#[test]
fn every_function_sees_the_record() {
    let record = json(r#"{"a":{"b":["x\"",2.5]},"n":null,"t":true,"s":"é"}"#);
    for (content, encoded, raw) in [
        (
            "[Body()]",
            r#"[{"a":{"b":["x\"",2.5]},"n":null,"s":"é","t":true}]"#,
            r#"[{"a":{"b":["x\"",2.5]},"n":null,"s":"é","t":true}]"#,
        ),
        ("Body('a.b[0]') + '!'", r#""x\"!""#, "x\"!"),
        ("Body(path='a.b[1]') * 2", "5", "5"),
        ("Body('x', 'none') + ''", "\"none\"", "none"),
        ("[Body('n'), Body('x', null)]", "[null,null]", "[null,null]"),
        ("Body('x', Body('s')) + std.length('äö')", "\"é2\"", "é2"),
        ("if Body('t') then 'yes' else 'no'", "\"yes\"", "yes"),
        ("std.length(BodyStr())", "49", "49"),
        ("Header()['X-B'] + ''", r#""say \"hi\"""#, "say \"hi\""),
        (
            "'<' + Header('x-b') + '>'",
            r#""<say \"hi\">""#,
            "<say \"hi\">",
        ),
        ("Header('x-none', 1) + 1", "2", "2"),
        (
            "std.split(HeaderStr(), '\\n')",
            r#"["Content-Type: text/plain","X-B: say \"hi\"",""]"#,
            r#"["Content-Type: text/plain","X-B: say \"hi\"",""]"#,
        ),
        ("'ip ' + Ip()", "\"ip 1.2.3.4\"", "ip 1.2.3.4"),
        (
            "Now() + ' ' + Now('%Y')",
            "\"2006-01-02T15:04:05.007000Z 2006\"",
            "2006-01-02T15:04:05.007000Z 2006",
        ),
        (
            "local o = {z: 1, a: self.z + 1}; o",
            r#"{"a":2,"z":1}"#,
            r#"{"a":2,"z":1}"#,
        ),
        ("'%05.1f' % 2.5", "\"002.5\"", "002.5"),
        (
            "1e20 + 0.5",
            "100000000000000000000",
            "100000000000000000000",
        ),
    ] {
        let expected = (encoded.to_owned(), raw.to_owned());
        assert_eq!(values(content, &record), expected, "{content}");
    }
}

#[test]
fn arithmetic_is_double_and_a_plain_body_keeps_its_digits() {
    let record = json(r#"{"id":12345678901234567890}"#);
    let mapping = compile(&["Body('id')"], false);
    assert!(mapping.templates().is_none(), "no interpreter");
    let native = map_with(&mut Evaluator::new(), &mapping, &record);
    assert_eq!(native, Ok(vec!["12345678901234567890".to_owned()]));
    assert_eq!(values("Body('id') + 0", &record).0, "12345678901234567000");
    let error = failure("Body('x') + 1", &json(r#"{"x":1e999}"#));
    assert!(matches!(error, MapError::Template { .. }), "{error}");
}

#[test]
fn what_is_missing_or_malformed_is_told_as_for_a_path() {
    let column = || "c0".to_owned();
    let record = json(r#"{"a":1}"#);
    let (path, header) = ("x.y".to_owned(), "X-None".to_owned());
    let error = MapError::MissingPath {
        column: column(),
        path,
    };
    assert_eq!(failure("Body('x.y') + 1", &record), error);
    let error = MapError::MissingHeader {
        column: column(),
        header,
    };
    assert_eq!(failure("Header('x-none') + 1", &record), error);
    for content in ["[Body()]", "Body('a', 1) + 1"] {
        let opaque = self::record(ContentType::Other, "{}");
        let error = MapError::NotStructured { column: column() };
        assert_eq!(failure(content, &opaque), error);
        let error = failure(content, &json("{\"secret\""));
        assert!(matches!(error, MapError::MalformedBody { .. }));
        assert!(!error.to_string().contains("secret"));
    }
    // Nobody looks inside.
    assert_eq!(
        values("std.length(BodyStr()) + 1", &json("{")).0,
        "2".to_owned()
    );
    // A failure of one record is not the next one's.
    let mapping = compile(&["Body('a') + 1"], false);
    let mut evaluator = Evaluator::new();
    assert!(map_with(&mut evaluator, &mapping, &json("{}")).is_err());
    let next = map_with(&mut evaluator, &mapping, &record);
    assert_eq!(next, Ok(vec!["2".to_owned()]));
}

#[test]
fn forms_are_read_as_natively() {
    let record = record(ContentType::Form, "a=1&b[]=x&b[]=y");
    assert_eq!(
        values("Body('a') + std.join('-', Body('b'))", &record).1,
        "1x-y"
    );
}

#[test]
fn failures_have_a_place() {
    for (content, message) in [
        ("error 'no ' + Body('a')", "1:1-6 runtime error: no 1"),
        ("{}.x", "no such field: x"),
        ("'é' + Body(7)", "type error: expected string, got number"),
        ("import 'x'", "imports are not supported"),
        ("importstr '/etc/passwd'", "imports are not supported"),
        ("std.extVar('x')", "external variable is not defined: x"),
        ("function(x) x", "tried to manifest function"),
        ("local f(x) = f(x + 1); f(1)", "stack overflow"),
        ("Body('a..b' + '')", "path \"a..b\" is invalid"),
        (
            "Now('%Q' + '')",
            "the format of Now has an unknown directive",
        ),
    ] {
        match failure(content, &json(r#"{"a":1}"#)) {
            MapError::Template {
                column,
                message: said,
            } => {
                assert!(said.contains(message), "{content}: {said}");
                assert_eq!(column, "c0");
                assert!(!said.contains('\n'), "{said:?}");
            }
            other => panic!("{content}: {other}"),
        }
    }
}

#[test]
fn templates_that_do_not_compile_are_told_with_their_place() {
    for (content, message) in [
        ("Invalid()", "1:1-8 undefined local: Invalid"),
        ("local x = 1;\n  'é' + y", "2:9-10 undefined local: y"),
        ("1 +", "1:4 syntax error: unexpected end of file"),
    ] {
        assert_eq!(invalid(content), message, "{content}");
    }
}

#[test]
fn values_longer_than_any_row_are_refused() {
    let error = failure("std.repeat('x', 3000000)", &json("{}"));
    assert_eq!(error, MapError::RowTooLong { limit: 77 });
}

#[test]
fn memory_stays_flat_while_templates_refer_to_themselves() {
    let mapping = compile(&["local o = {a: Body('a'), b: self.a}; o.b"], false);
    let mut evaluator = Evaluator::new();
    let record = json(r#"{"a":"x"}"#);
    let tracked = |evaluator: &mut Evaluator| {
        for _ in 0..RECORDS {
            map_with(evaluator, &mapping, &record).expect("maps");
        }
        jrsonnet_gcmodule::count_thread_tracked()
    };
    const RECORDS: usize = 300;
    let before = tracked(&mut evaluator);
    let after = tracked(&mut evaluator);
    assert!(after <= before + RECORDS, "{before} {after}");
}

#[test]
fn headers_are_only_asked_for_when_a_template_can_call_them() {
    assert!(compile(&["1 + std.length(Header())"], false).needs_headers());
    assert!(!compile(&["1 + Body('a')"], false).needs_headers());
}

#[test]
fn without_values_a_mapping_says_so() {
    let mapping = compile(&["1 + 1"], false);
    let error = mapping.map(&json("{}"), &mut Rows::new(), &mut || [0; 10]);
    let column = "c0".to_owned();
    assert_eq!(error, Err(MapError::NotEvaluated { column }));
}

fn read_frame(socket: &mut UnixStream) -> Vec<u8> {
    let mut len = [0; 4];
    socket.read_exact(&mut len).expect("a frame");
    let mut message = vec![0; u32::from_le_bytes(len) as usize];
    socket.read_exact(&mut message).expect("a whole frame");
    message
}

#[test]
fn a_process_serves_until_its_parent_is_gone() {
    let (mut parent, child) = UnixStream::pair().expect("a pair");
    let output = child.try_clone().expect("another handle");
    let serving = std::thread::spawn(move || serve(child, output));
    assert_eq!(read_frame(&mut parent), HELLO);
    let mapping = compile(&["Body('a') + 1", "Ip() + ''", "error 'x'"], false);
    let templates = mapping.templates().expect("for the interpreter");
    let record = json(r#"{"a":1}"#);
    let mut request = Request::define(templates);
    request.extend(Request::evaluate(templates.id(), &record));
    request.extend(Request::forget(templates.id()));
    parent.write_all(&request).expect("taken");
    let mut answer = || Answer::decode(&read_frame(&mut parent)).expect("an answer");
    assert_eq!(answer(), Answer::Defined);
    assert_eq!(answer(), Answer::Value(b"2".to_vec()));
    assert_eq!(answer(), Answer::Value(b"\"1.2.3.4\"".to_vec()));
    let message = "1:1-6 runtime error: x".to_owned();
    let failed = Answer::Failed(TemplateFailure::Failed(message));
    assert_eq!(answer(), failed);
    drop(parent);
    serving.join().expect("no panic").expect("an orderly end");
}

#[test]
fn bytes_that_are_no_message_do_not_panic() {
    let (mut parent, child) = UnixStream::pair().expect("a pair");
    let output = child.try_clone().expect("another handle");
    let serving = std::thread::spawn(move || serve(child, output));
    parent.write_all(&[1, 0, 0, 0, 9]).expect("taken");
    let ended = serving.join().expect("no panic").expect_err("refused");
    assert_eq!(ended.kind(), std::io::ErrorKind::InvalidData);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// But for numbers, and for the order of members, which Jsonnet sorts.
    #[test]
    fn the_interpreter_and_the_native_path_agree(value in json_value(), form in any::<bool>()) {
        let record = if form {
            record(ContentType::Form, "a[b]=1&a[c][]=%C3%A9&d=")
        } else {
            json(&value.to_string())
        };
        let native = compile(&["Body('', null)", "Body('a', null)", "Body('a.b', 'd')"], false);
        prop_assert!(native.templates().is_none());
        let interpreted = ["local x = Body(); x", "local x = Body('a', null); x", "local x = Body('a.b', 'd'); x"];
        let interpreted = compile(&interpreted, false);
        let mut evaluator = Evaluator::new();
        let native = map_with(&mut evaluator, &native, &record).expect("maps");
        let interpreted = map_with(&mut evaluator, &interpreted, &record).expect("maps");
        for (native, interpreted) in native.iter().zip(&interpreted) {
            let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
            prop_assert!(same(&parsed(native), &parsed(interpreted)), "{native} {interpreted}");
        }
    }

    #[test]
    fn messages_survive(body in prop::collection::vec(any::<u8>(), 0..60), id in any::<u64>(), cut in 0_usize..40, millis in any::<i64>()) {
        let mut record = json("");
        record.body = Bytes::from(body);
        record.received_at = stream_model::Timestamp::from_millis(millis);
        let frame = Request::evaluate(id, &record);
        prop_assert_eq!(u32::from_le_bytes(frame[..4].try_into().expect("four")) as usize, frame.len() - 4);
        match Request::decode(&frame[4..]) {
            Ok(Request::Evaluate { id: read, record: other }) => {
                prop_assert_eq!(read, id);
                prop_assert_eq!(other.body, record.body);
                prop_assert_eq!(other.received_at, record.received_at);
                prop_assert_eq!(other.headers.iter().collect::<Vec<_>>(), record.headers.iter().collect::<Vec<_>>());
            }
            other => prop_assert!(false, "{other:?}"),
        }
        let short = &frame[4..frame.len() - 1 - cut.min(frame.len() - 5)];
        prop_assert!(Request::decode(short).is_err());
        let _ = Answer::decode(short);
    }
}

fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(a), Number(b)) => a.as_f64() == b.as_f64(),
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Object(a), Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}
