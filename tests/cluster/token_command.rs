//! `token create|list|revoke`, while the service runs and while it does not.

use hyper::Method;
use stream_tests::client::{request, send_once};
use stream_tests::service::{Ended, Service};
use stream_tests::setup::Setup;

use crate::new_setup;

async fn token(setup: &Setup, words: &[&str]) -> Ended {
    let words: Vec<&str> = ["token"].iter().chain(words).copied().collect();
    let ended = setup.clone().words(&words).run_to_end().await;
    ended.expect("it ends")
}

/// The status of a request with a token.
async fn status(setup: &Setup, method: Method, token: &str) -> u16 {
    let body = r#"{"type": "http", "name": "Web"}"#;
    let mut call = request(method, "/v1/branches/default/sources", body);
    let bearer = format!("Bearer {token}").parse().expect("a value");
    call.headers_mut().insert("authorization", bearer);
    let reply = send_once(setup.api_address(), call).await;
    reply.expect("an answer").status
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let (_scratch, setup) = new_setup();
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let made = token(&setup, &["create", "read-only", "for", "dashboards"]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let secret = made.stdout.trim();
    assert!(secret.len() > 40 && !made.stderr.contains(secret));
    assert_eq!(status(&setup, Method::GET, secret).await, 200);
    assert_eq!(status(&setup, Method::POST, secret).await, 403);

    let listed = token(&setup, &["list"]).await.stdout;
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(!listed.contains(secret));
    let line = listed.lines().find(|line| line.ends_with("for dashboards"));
    let id = line.and_then(|line| line.split_whitespace().next());
    let id = id.expect("it is listed").to_owned();

    // The state has one owner at a time: without the service it is this command.
    service.stop().await.expect("it stops");
    assert_eq!(token(&setup, &["revoke", &id]).await.code, Some(0));
    let again = token(&setup, &["revoke", &id]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("token list"), "{}", again.stderr);
    service.restart().await.expect("it starts");
    assert_eq!(status(&setup, Method::GET, secret).await, 401);
    service.stop().await.expect("it stops");
    let log = service.log();
    assert!(!log.iter().any(|line| line.contains(secret)));
    service.assert_quiet(&[]);
}
