//! Dry runs of mappings.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::world::{Reply, SINKS, World};

const TEST: &str = "/v1/branches/default/sources/orders/test";

fn sink(name: &str, columns: &Value) -> Value {
    json!({
        "type": "table", "name": name,
        "table": {"type": "sqlite", "tableId": format!("table {name}"), "mapping": {"columns": columns}},
    })
}

async fn world(sinks: &[(&str, Value)]) -> World {
    let world = World::start().await;
    world.source("Orders").await;
    for (name, columns) in sinks {
        world.client.done("POST", SINKS, sink(name, columns)).await;
    }
    world
}

impl World {
    async fn try_out(&self, query: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let token = self.client.token.clone().expect("a token");
        let mut all = vec![("x-storageapi-token", token.as_str())];
        all.extend(headers);
        let path = format!("{TEST}{query}");
        let body = bytes::Bytes::copy_from_slice(body);
        self.client.send_raw("POST", &path, &all, body).await
    }
}

/// Names and values of a row.
fn row(tables: &Value, table: usize, row: usize) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let columns = tables["tables"][table]["rows"][row]["columns"].as_array();
    let columns = columns.expect("a row").iter();
    columns
        .map(|column| (text(&column["name"]), text(&column["value"])))
        .collect()
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn every_sink_shows_its_row_and_nothing_is_stored() {
    let all = json!([
        {"type": "datetime", "name": "at"},
        {"type": "ip", "name": "ip"},
        {"type": "headers", "name": "headers"},
        {"type": "body", "name": "body"},
        {"type": "path", "name": "path", "path": "a.b"},
        {"type": "template", "name": "sum", "template": {"language": "jsonnet", "content": "Body('n') + 1"}},
    ]);
    let raw = json!([{"type": "path", "name": "b", "path": "a.b", "rawString": true}]);
    let world = world(&[("full", all), ("raw", raw)]).await;
    world
        .client
        .done("PUT", &format!("{SINKS}/raw/disable"), Value::Null)
        .await;
    let body = br#"{"a":{"b":"\"x\""},"n":41}"#;
    let headers = [JSON, ("x-forwarded-for", "203.0.113.9, 10.0.0.1")];
    let reply = world.try_out("", &headers, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let answer = reply.json();
    assert_eq!(
        (
            &answer["projectId"],
            &answer["branchId"],
            &answer["sourceId"]
        ),
        (&json!(1), &json!(1), &json!("orders"))
    );
    let full = row(&answer, 0, 0);
    let shown = |name: &str| {
        let column = full.iter().find(|(column, _)| column == name);
        column.expect("a column").1.clone()
    };
    assert_eq!(shown("at"), "2026-01-01T00:00:00.000Z");
    assert_eq!(shown("ip"), "203.0.113.9");
    let sent = r#"{"Content-Length":"26","Content-Type":"application/json","X-Forwarded-For":"203.0.113.9, 10.0.0.1"}"#;
    assert_eq!(shown("headers"), sent, "no token, no host");
    assert_eq!(shown("body"), String::from_utf8_lossy(body));
    assert_eq!(shown("path"), r#""\"x\"""#);
    assert_eq!(shown("sum"), "42");
    let disabled = &answer["tables"][1];
    assert_eq!(
        (&disabled["sinkId"], &disabled["tableId"]),
        (&json!("raw"), &json!("table raw"))
    );
    assert_eq!(row(&answer, 1, 0), [("b".to_owned(), "\"x\"".to_owned())]);
    let total = world
        .client
        .get(&format!("{SINKS}/full/statistics/total"))
        .await;
    assert_eq!(total.json()["total"]["recordsCount"], 0);
}

#[tokio::test]
async fn a_bearer_token_is_not_shown_and_another_authorization_is() {
    let columns = json!([{"type": "headers", "name": "headers"}]);
    let world = world(&[("h", columns)]).await;
    let shown = |reply: Reply| row(&reply.json(), 0, 0).remove(0).1;
    let basic = world
        .try_out("", &[("authorization", "Basic abc")], b"x")
        .await;
    let basic = shown(basic);
    assert_eq!(
        basic,
        r#"{"Authorization":"Basic abc","Content-Length":"1"}"#
    );
    let bearer = format!("Bearer {}", world.client.token.clone().expect("a token"));
    let headers = [("authorization", bearer.as_str())];
    let reply = world
        .client
        .send_raw("POST", TEST, &headers, "x".into())
        .await;
    assert_eq!(shown(reply), r#"{"Content-Length":"1"}"#);
}

#[tokio::test]
async fn a_refused_record_names_sink_and_column() {
    let columns = json!([{"type": "path", "name": "id", "path": "order.id", "dataType": "int"}]);
    let template = json!([{"type": "template", "name": "t", "template": {"language": "jsonnet", "content": "local f(x) = if x == 0 then error 'no' else x; f(Body('n'))"}}]);
    let world = world(&[("a", columns), ("b", template)]).await;
    for (body, parts) in [
        (&b"{}"[..], ["\"a\"", "\"id\"", "order.id"]),
        (br#"{"order":{"id":"x"}}"#, ["\"a\"", "\"id\"", "int"]),
        (br#"{"order":{"id":1},"n":0}"#, ["\"b\"", "\"t\"", "no"]),
        (b"{", ["Sink", "\"a\"", "cannot be read"]),
    ] {
        let reply = world.try_out("", &[JSON], body).await;
        assert_eq!(
            reply.refusal(),
            (422, "stream.api.unprocessableContent".to_owned())
        );
        let message = reply.json()["message"].to_string().replace("\\\"", "\"");
        for part in parts {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
    let text = world
        .try_out("", &[("content-type", "text/plain")], b"{}")
        .await;
    assert_eq!(text.status, 422, "the column looks into the body");
    let lines = [("content-type", "application/x-ndjson")];
    let reply = world
        .try_out("", &lines, b"{\"order\":{\"id\":1},\"n\":1}\n{}\n")
        .await;
    assert_eq!(reply.status, 422);
    assert!(reply.text.contains("record 1"), "{}", reply.text);
}

#[tokio::test]
async fn a_body_with_many_records_makes_as_many_rows() {
    let columns = json!([{"type": "path", "name": "n", "path": "n", "rawString": true}]);
    let world = world(&[("a", columns)]).await;
    let values = |reply: &Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text);
        let tables = reply.json();
        let rows = tables["tables"][0]["rows"].as_array().map(Vec::len);
        (0..rows.expect("rows"))
            .map(|at| row(&tables, 0, at).remove(0).1)
            .collect::<Vec<_>>()
    };
    let lines = world
        .try_out(
            "",
            &[("content-type", "application/x-ndjson")],
            b"{\"n\":1}\n\n{\"n\":2}",
        )
        .await;
    assert_eq!(values(&lines), ["1", "2"]);
    let array = world
        .try_out("?batch=true", &[JSON], br#"[{"n":3},{"n":4}]"#)
        .await;
    assert_eq!(values(&array), ["3", "4"]);
    let csv = world
        .try_out("", &[("content-type", "text/csv")], b"n,m\n5,x\n6,y\n")
        .await;
    assert_eq!(values(&csv), ["5", "6"]);
    let ragged = world
        .try_out("", &[("content-type", "text/csv")], b"n,m\n5,x\n6\n")
        .await;
    assert_eq!(ragged.refusal().0, 422);
    let broken = world.try_out("?batch=true", &[JSON], b"[{}").await;
    assert_eq!(broken.refusal(), (400, "stream.api.badRequest".to_owned()));
}

#[tokio::test]
async fn encoded_bodies_are_decoded_within_the_limits_of_the_source() {
    let columns = json!([{"type": "body", "name": "b"}]);
    let world = world(&[("a", columns)]).await;
    let packed = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    };
    let gzip = [("content-encoding", "gzip")];
    let reply = world.try_out("", &gzip, &packed(b"text")).await;
    assert_eq!(row(&reply.json(), 0, 0)[0].1, "text");
    let bomb = world
        .try_out("", &gzip, &packed(&vec![b'0'; 1 << 20]))
        .await;
    assert_eq!(bomb.refusal(), (413, "stream.api.bodyTooLarge".to_owned()));
    let plain = world.try_out("", &[], &vec![b'0'; (64 << 10) + 1]).await;
    assert_eq!(plain.refusal().0, 413);
    let damaged = world.try_out("", &gzip, b"text").await;
    assert_eq!(damaged.refusal(), (400, "stream.api.badRequest".to_owned()));
    let unknown = world
        .try_out("", &[("content-encoding", "br")], b"text")
        .await;
    assert_eq!(
        unknown.refusal(),
        (415, "stream.api.unsupportedMediaType".to_owned())
    );
}

#[tokio::test]
async fn a_dry_run_needs_a_source_and_a_known_signal() {
    let world = world(&[]).await;
    let empty = world.try_out("?signal=logs", &[], b"").await;
    assert_eq!((empty.status, &empty.json()["tables"]), (200, &json!([])));
    let refused = world.try_out("?signal=smoke", &[], b"").await.refusal();
    assert_eq!(refused, (400, "stream.api.invalidEnumValue".to_owned()));
    let path = "/v1/branches/default/sources/none/test";
    let refused = world.client.refused("POST", path, None).await;
    assert_eq!(refused, (404, "stream.api.sourceNotFound".to_owned()));
}

#[tokio::test]
async fn rows_that_do_not_fit_into_an_answer_are_refused() {
    let columns: Vec<Value> = (0..40)
        .map(|column| json!({"type": "body", "name": format!("c{column}")}))
        .collect();
    let world = world(&[("a", json!(columns))]).await;
    let lines = "x".repeat(20_000) + "\n";
    let lines = lines.repeat(30);
    let ndjson = [("content-type", "application/x-ndjson")];
    let reply = world.try_out("", &ndjson, lines.as_bytes()).await;
    assert_eq!(reply.refusal(), (413, "stream.api.bodyTooLarge".to_owned()));
}
