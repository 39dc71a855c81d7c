//! Tokens.

use std::time::Duration;

use serde_json::json;
use stream_model::definition::Token;
use stream_model::definition::token::{Role, token_hash};
use stream_model::{Clock, Secret};

use super::world::{Base, World};
use crate::token::{AdminToken, generate};

const SOURCES: &str = "/v1/branches/default/sources";

async fn new_token(world: &World, role: Role) -> String {
    let token = generate();
    let record = Token {
        id: "abc".to_owned(),
        description: "of a test".to_owned(),
        role,
        created_at: world.base.clock.now(),
    };
    let stored = world
        .base
        .store
        .create_token(&token_hash(&token), record)
        .await;
    stored.expect("stored");
    token.expose().clone()
}

#[tokio::test]
async fn a_request_needs_a_known_token_in_either_header() {
    let world = World::start().await;
    let client = &world.client;
    let token = client.token.clone().expect("a token");
    let bearer = format!("Bearer {token}");
    for (headers, status) in [
        (vec![], 400),
        (vec![("x-storageapi-token", "made-up")], 401),
        (vec![("x-storageapi-token", token.as_str())], 200),
        (vec![("authorization", bearer.as_str())], 200),
        (vec![("authorization", token.as_str())], 400),
    ] {
        let reply = client.send_raw("GET", SOURCES, &headers, "".into()).await;
        assert_eq!(reply.status, status, "{headers:?}");
        assert!(!reply.text.contains("made-up"), "a token is never shown");
    }
    let reply = client.send_raw("GET", SOURCES, &[], "".into()).await;
    assert_eq!(reply.refusal(), (400, "stream.api.missingField".to_owned()));
    let reply = client
        .send_raw("GET", SOURCES, &[("x-storageapi-token", "x")], "".into())
        .await;
    assert_eq!(reply.refusal(), (401, "stream.api.unauthorized".to_owned()));
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_read_only_token_works_at_once_and_changes_nothing() {
    let world = World::start().await;
    let mut reader = world.client.clone();
    reader.token = Some("unknown until now".to_owned());
    assert_eq!(reader.get(SOURCES).await.status, 401);
    reader.token = Some(new_token(&world, Role::ReadOnly).await);
    assert_eq!(reader.get(SOURCES).await.status, 200);
    let forbidden = (403, "stream.api.forbidden".to_owned());
    let body = json!({"type": "http", "name": "Orders"});
    assert_eq!(reader.refused("POST", SOURCES, Some(body)).await, forbidden);
    world.source("Orders").await;
    let path = format!("{SOURCES}/orders");
    assert_eq!(reader.refused("DELETE", &path, None).await, forbidden);
    let settings = format!("{path}/settings");
    assert_eq!(
        reader.refused("PATCH", &settings, Some(json!({}))).await,
        forbidden
    );
    assert_eq!(reader.get(&path).await.status, 200);
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_revoked_token_works_for_a_minute_at_most() {
    let world = World::start().await;
    let mut client = world.client.clone();
    client.token = Some(new_token(&world, Role::Admin).await);
    assert_eq!(client.get(SOURCES).await.status, 200);
    world.base.store.revoke_token("abc").await.expect("revoked");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    assert_eq!(client.get(SOURCES).await.status, 401);
    assert_eq!(
        world.client.get(SOURCES).await.status,
        200,
        "others are looked up again"
    );
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn the_first_admin_token_is_made_once() {
    let base = Base::start().await;
    let AdminToken::Created(token) = base.admin_token().await else {
        panic!("it is new")
    };
    let file = std::fs::read_to_string(base.dir.path().join("admin-token")).expect("a file");
    assert_eq!(file.trim(), token.expose());
    assert_eq!(base.admin_token().await, AdminToken::Existing);
    assert_eq!(base.store.tokens().await.expect("listed").len(), 1);
    let found = base
        .store
        .find_token(&token_hash(&token))
        .await
        .expect("read")
        .expect("there");
    assert_eq!(found.role, Role::Admin);
}

#[tokio::test]
async fn a_kept_admin_token_is_valid_again_after_the_state_was_lost() {
    let base = Base::start().await;
    let kept = generate();
    std::fs::write(base.dir.path().join("admin-token"), kept.expose()).expect("written");
    assert_eq!(base.admin_token().await, AdminToken::Existing);
    assert!(
        base.store
            .find_token(&token_hash(&kept))
            .await
            .expect("read")
            .is_some()
    );
}

#[tokio::test]
async fn a_revoked_admin_token_stays_revoked_while_there_is_another() {
    let world = World::start().await;
    new_token(&world, Role::Admin).await;
    let first = Secret::new(world.client.token.clone().expect("a token"));
    let hash = token_hash(&first);
    let record = world
        .base
        .store
        .find_token(&hash)
        .await
        .expect("read")
        .expect("there");
    world
        .base
        .store
        .revoke_token(&record.id)
        .await
        .expect("revoked");
    assert_eq!(world.base.admin_token().await, AdminToken::Existing);
    assert!(
        world
            .base
            .store
            .find_token(&hash)
            .await
            .expect("read")
            .is_none()
    );
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn whoever_tries_tokens_is_slowed_down_and_others_are_not() {
    let world = World::start().await;
    let token = world.client.token.clone().expect("a token");
    let ask = async |token: &str, address: &str| {
        let headers = [("x-storageapi-token", token), ("x-forwarded-for", address)];
        let reply = world.client.send_raw("GET", SOURCES, &headers, "".into());
        reply.await
    };
    assert_eq!(ask(&token, "2001:db8::1").await.status, 200);
    // While a thread is at work, paused time stands still.
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = tokio::task::spawn_blocking(move || ended.recv());
    tokio::time::pause();
    for _ in 0..10 {
        assert_eq!(ask("made-up", "2001:db8::2").await.status, 401);
    }
    let limited = ask("made-up", "2001:db8::3").await;
    assert_eq!(
        limited.refusal(),
        (429, "stream.api.rateLimited".to_owned())
    );
    let seconds: u64 = limited.header("retry-after").parse().expect("seconds");
    assert!((1..=6).contains(&seconds), "{seconds}");
    let unseen = new_token(&world, Role::Admin).await;
    assert_eq!(
        ask(&unseen, "2001:db8::1").await.status,
        429,
        "not even a good one"
    );
    assert_eq!(
        ask(&token, "2001:db8::1").await.status,
        200,
        "it was good before"
    );
    assert_eq!(
        ask(&unseen, "2001:db8:0:1::1").await.status,
        200,
        "from elsewhere"
    );
    assert_eq!(
        ask(&unseen, "2001:db8::1").await.status,
        200,
        "known by now"
    );
    tokio::time::resume();
    drop(end);
    assert!(thread.await.expect("no panic").is_err(), "nothing was sent");
    world.stop().await.expect("stopped");
}
