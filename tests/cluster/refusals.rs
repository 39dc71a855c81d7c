//! Requests that the service cannot carry out are answered with a name and a sentence, and change nothing.

use hyper::Method;
use serde_json::{Value, json};
use stream_tests::client::{Api, request, send_once, sink};
use stream_tests::table::Tables;

use crate::start::with_sink;

#[tokio::test]
async fn wrong_calls_of_the_api_are_answered_with_a_name_and_a_sentence() {
    let (_scratch, mut service, api, source) = with_sink().await;
    let sources = "/v1/branches/default/sources";
    let sinks = format!("{sources}/{}/sinks", source.id);
    let template = json!({"language": "jsonnet", "content": "Boddy('a')"});
    let columns = |column: Value| sink("new", &[column]).to_string();
    let body = json!({"type": "body", "name": "body"});
    let cases: [(&str, String, u16, &str, &[&str]); 7] = [
        (
            &sinks,
            "{\"type\":".to_owned(),
            400,
            "badRequest",
            &["not valid JSON"],
        ),
        (
            &sinks,
            columns(json!({"type": "template", "name": "T", "template": template})),
            400,
            "badRequest",
            &["\"T\"", "Boddy"],
        ),
        (
            &sinks,
            columns(json!({"type": "uid", "name": "id"})),
            400,
            "invalidEnumValue",
            &["uid", "\"uuid\"", "\"template\""],
        ),
        (
            &sinks,
            columns(json!({"type": "path", "name": "p", "path": "a..b"})),
            400,
            "badRequest",
            &["\"p\"", "a..b"],
        ),
        (
            &sinks,
            sink("orders", &[body]).to_string(),
            409,
            "sinkAlreadyExists",
            &["orders"],
        ),
        (
            sources,
            json!({"type": "http"}).to_string(),
            400,
            "missingField",
            &["name"],
        ),
        (
            "/v1/branches/default/nothing",
            "{}".to_owned(),
            404,
            "endpointNotFound",
            &[],
        ),
    ];
    for (path, body, status, error, words) in cases {
        let reply = api
            .call_text(Method::POST, path, body.clone())
            .await
            .expect("an answer");
        let message = reply.message();
        assert_eq!(
            (reply.status, reply.error()),
            (status, format!("stream.api.{error}")),
            "{body}: {message}"
        );
        for word in words {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

#[tokio::test]
async fn a_wrong_token_and_none_are_told_apart() {
    let (_scratch, mut service, api, _) = with_sink().await;
    let sources = "/v1/branches/default/sources";
    for (token, status, error) in [
        (Some("wrong".to_owned()), 401, "stream.api.unauthorized"),
        (None, 400, "stream.api.missingField"),
    ] {
        let stranger = Api {
            token,
            ..api.clone()
        };
        let reply = stranger
            .call(Method::GET, sources, &Value::Null)
            .await
            .expect("an answer");
        assert_eq!((reply.status, reply.error().as_str()), (status, error));
        assert!(reply.message().contains("token"), "{}", reply.message());
    }
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

#[tokio::test]
async fn records_that_cannot_be_taken_are_refused_and_not_written() {
    let (_scratch, mut service, _, source) = with_sink().await;
    let address = service.setup().source_address();
    let (good, unknown) = (source.path.clone(), format!("{}x", source.path));
    let cases: [(Method, &str, &str, String, u16, &str); 6] = [
        (
            Method::POST,
            &good,
            "application/json",
            " ".repeat((1 << 20) + 1),
            413,
            "bodyTooLarge",
        ),
        (
            Method::POST,
            &good,
            "application/json",
            "{\"total\"".to_owned(),
            422,
            "unprocessableContent",
        ),
        (
            Method::POST,
            &good,
            "application/json",
            "{}".to_owned(),
            422,
            "unprocessableContent",
        ),
        (
            Method::POST,
            &good,
            "text/plain",
            "total".to_owned(),
            415,
            "unsupportedMediaType",
        ),
        (
            Method::POST,
            &unknown,
            "application/json",
            "{}".to_owned(),
            404,
            "noSourceFound",
        ),
        (
            Method::POST,
            "/other",
            "application/json",
            "{}".to_owned(),
            404,
            "routeNotFound",
        ),
    ];
    for (method, path, content_type, body, status, error) in cases {
        let mut record = request(method, path, body);
        record
            .headers_mut()
            .insert("content-type", content_type.parse().expect("valid"));
        let reply = send_once(address, record).await.expect("an answer");
        let found = (reply.status, reply.error());
        assert_eq!(
            found,
            (status, format!("stream.in.{error}")),
            "{}",
            reply.message()
        );
        assert!(!reply.message().is_empty());
    }
    service.stop().await.expect("it stops");
    let tables =
        Tables::open(&service.setup().tables()).expect("the table was created with the sink");
    assert_eq!(tables.rows("orders").expect("it is there"), 0);
    service.assert_quiet(&[]);
}
