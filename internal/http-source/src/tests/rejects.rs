//! What sinks reject is kept, in the same batch as what the others take.

use stream_encoding::{REJECT_COLUMNS, RowReader, RowValues};
use stream_model::SliceId;
use stream_model::level::Compression;

use super::*;

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// Two sinks that want different values: their slices are 1 and 2, those of rejected records 11 and 12.
fn sinks() -> Vec<PlannedSink> {
    vec![path_sink("a", 1, "x"), path_sink("b", 1, "y")]
}

async fn server() -> Server {
    let server = Server::start(sinks()).await;
    keep(&server.rig, sinks());
    server
}

fn keep(rig: &Rig, sinks: Vec<PlannedSink>) {
    let slices = |from: u8| -> Vec<SliceId> { (from..).take(sinks.len()).map(slice).collect() };
    let (rows, rejects) = (slices(1), slices(11));
    rig.route_keeping(sinks, &rows, &rejects);
}

/// The rejected records in a slice, each with its values by column.
fn rejects(server: &Server, id: SliceId) -> Vec<Value> {
    let rows = server.rig.volume.rows(id);
    let csv: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut reader = RowReader::new(Compression::None, REJECT_COLUMNS.len(), csv.as_bytes());
    let (mut row, mut rows) = (RowValues::new(), Vec::new());
    while reader.next(&mut row).expect("whole rows") {
        let values = row.iter().map(|value| String::from_utf8_lossy(value));
        let pairs = REJECT_COLUMNS.iter().zip(values);
        let pairs = pairs.map(|(name, value)| ((*name).to_owned(), Value::from(value)));
        rows.push(Value::Object(pairs.collect()));
    }
    rows
}

fn bodies(server: &Server, id: SliceId) -> Vec<String> {
    let rows = rejects(server, id);
    let bodies = rows.iter().map(|row| row["body"].as_str());
    bodies.map(|body| body.expect("text").to_owned()).collect()
}

#[tokio::test]
async fn a_record_that_one_sink_refuses_is_kept_there_with_all_that_is_known() {
    let server = server().await;
    let answer = server.post(r#"{"x":1}"#).await;
    assert_eq!(answer.status(), 422);
    let position = format!("a={}:1", slice(1));
    assert_eq!(answer.header("x-stream-position"), Some(&*position));
    let kept = format!("b={}:1", slice(12));
    assert_eq!(answer.header("x-stream-rejected"), Some(&*kept));
    assert_eq!(server.rig.volume.rows(slice(1)), [r#""1""#]);
    assert!(server.rig.volume.rows(slice(11)).is_empty());
    let id = answer.header("x-request-id").expect("named").to_owned();
    let expected = json!({
        "receivedAt": "1970-01-01T00:00:00.000Z", "requestId": id, "source": "", "sink": "b",
        "recordIndex": "0", "error": "stream.in.unprocessableContent", "column": "c",
        "message": "column \"c\": the body has no value at path \"y\" and the column has no default.",
        "clientIp": "127.0.0.1", "contentType": JSON.1, "bodyBytes": "7", "bodyEncoding": "text",
        "body": r#"{"x":1}"#,
    });
    assert_eq!(rejects(&server, slice(12)), [expected]);
    let metrics = &server.rig.metrics;
    assert_eq!(
        (metrics.rejects.kept.get(), metrics.rejects.unkept.get()),
        (1, 0)
    );
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn a_record_that_all_sinks_refuse_is_kept_in_each_before_the_answer() {
    let server = server().await;
    let answer = server.post("no json").await;
    assert_eq!(
        (answer.status(), answer.header("x-stream-position")),
        (422, None)
    );
    assert_eq!(
        answer.header("x-stream-durability"),
        None,
        "no sink holds it"
    );
    let kept = format!("a={}:1, b={}:1", slice(11), slice(12));
    assert_eq!(answer.header("x-stream-rejected"), Some(&*kept));
    for id in [slice(11), slice(12)] {
        assert_eq!(bodies(&server, id), ["no json"]);
    }
    // What is not kept is not rejected: it may be sent again.
    server
        .rig
        .volume
        .script([Act::Refuse(RefusalReason::DiskFull)]);
    let answer = server.post("no json").await;
    assert_eq!(answer.error(), error(507, "insufficientStorage"));
    assert_eq!(answer.header("x-stream-rejected"), None);
    assert_eq!(bodies(&server, slice(11)).len(), 1);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn of_many_records_each_rejected_one_is_kept_under_its_number() {
    let server = server().await;
    let body = "{\"x\":1,\"y\":2}\n{\"x\":3}\n\n[]\n";
    let answer = server.request("POST", PATH, NDJSON, body).await;
    assert_eq!(answer.status(), 207);
    let kept = format!("b={}:1, a={}:1, b={}:1", slice(12), slice(11), slice(12));
    let header = answer.header("x-stream-rejected").expect("named");
    assert!(
        kept.contains(header.split(", ").next().expect("one")),
        "{header}"
    );
    let places: std::collections::BTreeSet<&str> = header.split(", ").collect();
    assert_eq!(places.len(), 2, "{header}");
    let numbers = |id| -> Vec<(String, String)> {
        let text = |row: &Value, name: &str| row[name].as_str().expect("text").to_owned();
        let rows = rejects(&server, id);
        rows.iter()
            .map(|row| (text(row, "recordIndex"), text(row, "body")))
            .collect()
    };
    let pair = |n: &str, body: &str| (n.to_owned(), body.to_owned());
    assert_eq!(numbers(slice(11)), [pair("2", "[]")]);
    assert_eq!(
        numbers(slice(12)),
        [pair("1", "{\"x\":3}"), pair("2", "[]")]
    );
    assert_eq!(rejects(&server, slice(12))[0]["contentType"], NDJSON.1);
}

#[tokio::test]
async fn what_is_no_record_is_kept_as_it_came() {
    let server = server().await;
    let csv = ("content-type", "text/csv");
    let answer = server.request("POST", PATH, csv, "x,y\n1,2\n3;4\n").await;
    assert_eq!(
        (answer.status(), answer.json()["accepted"].clone()),
        (207, json!(1))
    );
    for id in [slice(11), slice(12)] {
        assert_eq!(bodies(&server, id), ["3;4"]);
    }
    // Alone, it is written before it is answered, too.
    server
        .rig
        .volume
        .script([Act::Refuse(RefusalReason::DiskFull)]);
    let answer = server.request("POST", PATH, csv, "x,y\n3;4\n").await;
    assert_eq!(answer.error(), error(507, "insufficientStorage"));
    let answer = server.request("POST", PATH, csv, "x,y\n3;4\n").await;
    assert_eq!(answer.error(), error(422, "unprocessableContent"));
    assert_eq!(bodies(&server, slice(11)).len(), 2);
}

#[tokio::test]
async fn without_a_place_for_it_a_rejected_record_is_answered_and_counted() {
    let server = Server::start(sinks()).await;
    assert_eq!(server.post(r#"{"x":1}"#).await.status(), 422);
    assert_eq!(server.rig.metrics.rejects.unkept.get(), 1);
    let answer = server.post("no json").await;
    assert_eq!(
        (answer.status(), answer.header("x-stream-rejected")),
        (422, None)
    );
    let metrics = &server.rig.metrics;
    assert_eq!(
        (metrics.rejects.kept.get(), metrics.rejects.unkept.get()),
        (0, 3)
    );
    assert_eq!(server.rig.volume.rows(slice(1)), [r#""1""#]);
}

#[tokio::test]
async fn a_batch_that_is_mapped_again_rejects_what_the_new_mapping_rejects() {
    let server = server().await;
    let rig = &server.rig;
    rig.volume.hold();
    let first = rig.append(r#"{"x":0,"y":0}"#);
    rig.volume.received(1).await;
    // Waits behind the first, mapped as sink a wants x.
    let (good, bad) = (
        rig.append(r#"{"z":1,"y":1}"#),
        rig.append(r#"{"x":2,"y":2}"#),
    );
    let changed = vec![path_sink("a", 2, "z"), path_sink("b", 1, "y")];
    rig.route_keeping(changed, &[slice(3), slice(2)], &[slice(11), slice(12)]);
    rig.volume.release();
    first.outcome().await;
    assert!(good.rejections(good.outcome().await).is_empty());
    assert_eq!(bad.rejections(bad.outcome().await).len(), 1);
    assert_eq!(rig.volume.rows(slice(3)), [r#""1""#]);
    assert_eq!(bodies(&server, slice(11)), [r#"{"x":2,"y":2}"#]);
    assert_eq!(rig.volume.rows(slice(2)).len(), 3);
    assert_eq!(rig.admission.used(), 0);
}

#[tokio::test]
async fn rejects_follow_their_slice_to_its_successor() {
    let server = server().await;
    let rig = &server.rig;
    server.post("no json").await;
    rig.volume.seal(slice(11), Some(slice(21)));
    rig.route_keeping(sinks(), &[slice(1), slice(2)], &[slice(21), slice(12)]);
    let answer = server.post("no json either").await;
    let kept = format!("a={}:1, b={}:2", slice(21), slice(12));
    assert_eq!(answer.header("x-stream-rejected"), Some(&*kept));
    assert_eq!(bodies(&server, slice(21)), ["no json either"]);
    assert_eq!(bodies(&server, slice(12)), ["no json", "no json either"]);
}

#[tokio::test]
async fn a_rejected_record_needs_memory_like_any_other() {
    let server = server().await;
    let long = format!("no json {}", "x".repeat(100_000));
    server.rig.volume.hold();
    let received = server.rig.volume.received(1);
    let answered = server.post(&long);
    let (answer, ()) = tokio::join!(answered, async {
        received.await;
        assert!(server.rig.admission.used() > 3 * long.len());
        server.rig.volume.release();
    });
    assert_eq!(answer.status(), 422);
    assert_eq!(server.rig.admission.used(), 0);
}
