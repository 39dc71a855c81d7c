//! Requests with many records.

use super::*;

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const CSV: (&str, &str) = ("content-type", "text/csv; charset=utf-8");
const ARRAY: &str = "/stream/1/orders/secret?batch=true";

#[tokio::test]
async fn every_line_is_a_record_and_one_answer_is_for_all() {
    let server = Server::start(vec![body_sink("a", 1), path_sink("b", 1, "x")]).await;
    let body = "{\"x\":\"1\"}\n\n{\"x\":\"2\"}\r\n{\"x\":\"3\"}";
    let answer = server.request("POST", PATH, NDJSON, body).await;
    let expected = json!({
        "statusCode": 200, "message": "Accepted 3 of 3 records.", "accepted": 3, "rejected": 0,
    });
    assert_eq!((answer.status(), answer.json()), (200, expected));
    assert_eq!(answer.header("x-stream-durability"), Some("disk"));
    let position = format!("a={}:1, b={}:1", slice(1), slice(2));
    assert_eq!(answer.header("x-stream-position"), Some(&*position));
    assert_eq!(
        server.rig.volume.rows(slice(2)),
        [r#""1""#, r#""2""#, r#""3""#]
    );
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 3);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn items_of_an_array_are_records_only_when_asked_for() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let answer = server.request("POST", ARRAY, JSON, "[1, 2]").await;
    assert_eq!(
        (answer.status(), answer.json()["accepted"].clone()),
        (200, json!(2))
    );
    assert_eq!(server.post("[1, 2]").await.text(), "OK");
    assert_eq!(
        server.rig.volume.rows(slice(1)),
        [r#""1""#, r#""2""#, r#""[1, 2]""#]
    );
}

#[tokio::test]
async fn rows_of_csv_are_records_under_the_names_of_the_header() {
    let server = Server::start(vec![path_sink("a", 1, "full name")]).await;
    let body = "id,full name\n1,Ada\n2\n3,\"Grace \"\"H\"\"\"\n";
    let answer = server.request("POST", PATH, CSV, body).await;
    let expected = json!({
        "statusCode": 207, "error": "stream.in.partiallyRejected",
        "message": "Accepted 2 of 3 records.", "accepted": 2, "rejected": 1,
        "records": [{
            "index": 1, "statusCode": 422, "error": "stream.in.unprocessableContent",
            "message": "the body cannot be read: the row has 1 values and the header has 2.",
        }],
    });
    assert_eq!((answer.status(), answer.json()), (207, expected));
    assert_eq!(
        server.rig.volume.rows(slice(1)),
        [r#""Ada""#, r#""Grace ""H""""#]
    );
}

#[tokio::test]
async fn a_record_that_a_sink_refuses_is_named_and_the_others_are_in() {
    let server = Server::start(vec![body_sink("a", 1), path_sink("b", 1, "x")]).await;
    let body = "{\"x\":1}\n{\"y\":1}\nnot json\n{\"x\":2}\n";
    let answer = server.request("POST", PATH, NDJSON, body).await;
    assert_eq!(answer.status(), 207);
    let json = answer.json();
    assert_eq!(
        (&json["accepted"], &json["rejected"]),
        (&json!(2), &json!(2))
    );
    let first = &json["records"][0];
    assert_eq!(first["index"], 1);
    assert_eq!(first["error"], "stream.in.unprocessableContent");
    assert_eq!(
        (&first["sinkId"], &first["column"]),
        (&json!("b"), &json!("c"))
    );
    assert!(
        first["message"]
            .as_str()
            .is_some_and(|message| message.starts_with(r#"Sink "b": column "c""#)),
        "{first}"
    );
    assert_eq!(json["records"][1]["index"], 2);
    // Sink a takes any body.
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 4);
    assert_eq!(server.rig.volume.rows(slice(2)).len(), 2);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn without_an_accepted_record_the_status_says_whose_fault_it_is() {
    let server = Server::start(vec![path_sink("a", 1, "x")]).await;
    let send = async || {
        server
            .request("POST", PATH, NDJSON, "{}\n{\"y\":1}\n")
            .await
    };
    let answer = send().await;
    assert_eq!(answer.error(), error(422, "unprocessableContent"));
    assert_eq!(
        (
            answer.header("retry-after"),
            answer.header("x-stream-durability")
        ),
        (None, None)
    );
    let good = "{\"x\":1}\n{\"x\":2}\n";
    let refuse = Act::Refuse(RefusalReason::DiskFull);
    server.rig.volume.script([refuse]);
    let answer = server.request("POST", PATH, NDJSON, good).await;
    assert_eq!(answer.error(), error(507, "insufficientStorage"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.json()["rejected"], 2);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn a_batch_without_records_is_accepted() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    for (path, header, body) in [
        (PATH, NDJSON, "\n"),
        (ARRAY, JSON, "[]"),
        (PATH, CSV, "a,b\n"),
    ] {
        let answer = server.request("POST", path, header, body).await;
        assert_eq!(
            (answer.status(), answer.json()["accepted"].clone()),
            (200, json!(0))
        );
    }
}

#[tokio::test]
async fn what_cannot_be_taken_apart_is_refused_as_a_whole() {
    let server = Server::with(vec![body_sink("a", 1)], 25_000, Rig::new()).await;
    let send = async |path, header, body: &str| {
        let answer = server.request("POST", path, header, body).await;
        answer.error()
    };
    assert_eq!(send(ARRAY, JSON, "[1, 2").await, error(400, "badRequest"));
    assert_eq!(send(ARRAY, JSON, "{}").await, error(400, "badRequest"));
    assert_eq!(
        send(PATH, CSV, "a,a\n1,2\n").await,
        error(400, "badRequest")
    );
    let many = "1\n".repeat(10_001);
    assert_eq!(send(PATH, NDJSON, &many).await, error(413, "bodyTooLarge"));
    let long = " ".repeat(100_001);
    assert_eq!(send(PATH, NDJSON, &long).await, error(413, "bodyTooLarge"));
    assert!(server.rig.volume.rows(slice(1)).is_empty());
    assert_eq!(server.rig.admission.used(), 0);
    // The limit of a body with one record is another.
    assert_eq!(
        server.post(&long[..25_001]).await.error(),
        error(413, "bodyTooLarge")
    );
    let full = "1\n".repeat(10_000);
    assert_eq!(
        server.request("POST", PATH, NDJSON, &full).await.status(),
        200
    );
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 10_000);
}

#[tokio::test]
async fn a_batch_that_does_not_fit_into_memory_leaves_nothing_behind() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let free = &server.rig.admission;
    // The records need half a MiB beside their bytes.
    let taken = free
        .reserve((64 << 20) - 100_000)
        .expect("nothing else is under way");
    let before = free.used();
    let body = "1\n".repeat(1000);
    let answer = server.request("POST", PATH, NDJSON, &body).await;
    assert_eq!(answer.error(), error(503, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(server.rig.volume.rows(slice(1)).is_empty());
    assert_eq!(free.used(), before);
    drop(taken);
    assert_eq!(
        server.request("POST", PATH, NDJSON, &body).await.status(),
        200
    );
}

#[tokio::test]
async fn the_headers_of_the_request_belong_to_all_its_records() {
    let headers = sink("a", 1, ColumnKind::Headers);
    let server = Server::start(vec![headers]).await;
    let request = Request::post(PATH)
        .header("content-type", "application/x-ndjson")
        .header("x-tenant", "t1");
    let body = Full::new(Bytes::from_static(b"1\n2\n"));
    let answer = server.send(request.body(body).expect("valid")).await;
    assert_eq!(answer.status(), 200);
    let rows = server.rig.volume.rows(slice(1));
    assert_eq!(rows.len(), 2);
    assert!(
        rows.iter()
            .all(|row| row.contains(r#"""X-Tenant"":""t1"""#)),
        "{rows:?}"
    );
}

#[tokio::test]
async fn a_compressed_batch_is_limited_by_what_it_holds() {
    let server = Server::with(vec![body_sink("a", 1)], 1000, Rig::new()).await;
    let send = async |records: usize| {
        let level = stream_model::level::Compression::Gzip { level: 1 };
        let body = stream_encoding::Encoder::new(level)
            .frame("12345678\n".repeat(records).as_bytes())
            .expect("memory");
        let request = Request::post(PATH)
            .header("content-type", "application/x-ndjson")
            .header("content-encoding", "gzip");
        server
            .send(request.body(Full::new(body)).expect("valid"))
            .await
    };
    assert_eq!(send(444).await.json()["accepted"], 444);
    assert_eq!(send(445).await.error(), error(413, "bodyTooLarge"));
}
