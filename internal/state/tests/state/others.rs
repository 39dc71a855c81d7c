//! The schema, volumes, tasks and tokens.

use std::collections::HashSet;

use stream_model::ErrorKind;
use stream_model::definition::Token;
use stream_model::definition::token::Role;
use stream_state::{Incarnation, Mirror, Outputs, StateError, Store, Task, TaskStatus};

use crate::setup::*;
use crate::support::*;

#[tokio::test]
async fn state_of_a_newer_version_is_refused_in_one_sentence() {
    on_every_server(async |mut fixture| {
        fixture.put_raw("schema", r#"{"version":2}"#).await;
        let error = Store::open(fixture.client.clone(), &fixture.namespace)
            .await
            .expect_err("is newer");
        assert!(
            matches!(
                error,
                StateError::NewerFormat {
                    found: 2,
                    supported: 1,
                    ..
                }
            ),
            "{error}"
        );
        fixture.put_raw("schema", "junk").await;
        let error = Store::open(fixture.client.clone(), &fixture.namespace)
            .await
            .expect_err("is damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let error = Store::open(fixture.client.clone(), "/")
            .await
            .expect_err("is empty");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    })
    .await;
}

#[tokio::test]
async fn namespaces_do_not_see_each_other() {
    on_every_server(async |fixture| {
        let other = format!("{}-2", fixture.namespace);
        let other = Store::open(fixture.client.clone(), &other)
            .await
            .expect("opens");
        fixture
            .store
            .create_source(source("a"))
            .await
            .expect("created");
        assert!(other.sources(&branch()).await.expect("listed").is_empty());
        other.create_source(source("a")).await.expect("created");
    })
    .await;
}

#[tokio::test]
async fn every_opening_of_a_volume_gets_another_number() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        assert_eq!(store.incarnation(volume(1)).await.expect("read"), None);
        let node = node("n");
        let raise = || store.raise_incarnation(volume(1), &node);
        let (a, b, c) = tokio::join!(raise(), raise(), raise());
        let numbers: HashSet<u64> = [a, b, c].into_iter().map(|n| n.expect("raised")).collect();
        assert_eq!(numbers, HashSet::from([1, 2, 3]));
    })
    .await;
}

#[tokio::test]
async fn only_the_newest_incarnation_can_say_that_it_recovered() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let first = store
            .raise_incarnation(volume(1), &node("n"))
            .await
            .expect("raised");
        store
            .mark_recovered(volume(1), first)
            .await
            .expect("recovered");
        store
            .mark_recovered(volume(1), first)
            .await
            .expect("is already");
        let second = store
            .raise_incarnation(volume(1), &node("m"))
            .await
            .expect("raised");
        let error = store
            .mark_recovered(volume(1), first)
            .await
            .expect_err("is stale");
        assert!(
            matches!(error, StateError::StaleIncarnation { .. }),
            "{error}"
        );
        let expected = Incarnation {
            number: second,
            node: node("m"),
            recovered: false,
        };
        assert_eq!(
            store.incarnation(volume(1)).await.expect("read"),
            Some(expected)
        );
    })
    .await;
}

fn task(id: &str) -> Task {
    Task {
        id: id.to_owned(),
        kind: "api.create.source".to_owned(),
        created_at: at(0),
        node: None,
        finished_at: None,
        duration_ms: None,
        status: TaskStatus::Processing,
        result: None,
        error: None,
        outputs: Outputs::default(),
    }
}

#[tokio::test]
async fn tasks_are_found_by_whole_segments_and_replaced_by_comparison() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let id = "api.create.source/1/orders/2026-01-01T00:00:00.000Z_abcde";
        let created = store.create_task(task(id)).await.expect("created");
        store
            .create_task(task("api.create.source/1/orders-2/x"))
            .await
            .expect("created");
        let again = store.create_task(task(id)).await.expect_err("exists");
        assert_eq!(again.kind(), ErrorKind::Conflict);
        let listed = store
            .tasks("api.create.source/1/orders")
            .await
            .expect("listed");
        assert_eq!(listed, std::slice::from_ref(&created));
        assert_eq!(store.tasks("").await.expect("listed").len(), 2);

        let done = Task {
            status: TaskStatus::Success,
            duration_ms: Some(12),
            ..task(id)
        };
        let updated = store
            .update_task(&created, done.clone())
            .await
            .expect("updated");
        assert_eq!(store.task(id).await.expect("read"), Some(updated.clone()));
        assert_conflict(store.update_task(&created, done).await, "task/");
        assert_conflict(store.remove_task(&created).await, "task/");
        store.remove_task(&updated).await.expect("removed");
        assert_eq!(store.task(id).await.expect("read"), None);
        for bad in ["", "/a", "a//b", "a\0b"] {
            assert!(store.create_task(task(bad)).await.is_err(), "{bad:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn tokens_are_found_by_hash_until_revoked() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let token = Token {
            id: "t1".to_owned(),
            description: "test".to_owned(),
            role: Role::Admin,
            created_at: at(0),
        };
        let hash = "ab".repeat(32);
        store
            .create_token(&hash, token.clone())
            .await
            .expect("created");
        assert_eq!(
            store.find_token(&hash).await.expect("read"),
            Some(token.clone())
        );
        assert_eq!(
            store.find_token(&"cd".repeat(32)).await.expect("read"),
            None
        );
        assert_eq!(store.find_token("../schema").await.expect("read"), None);
        let tokens = store.tokens().await.expect("listed");
        assert_eq!(tokens, std::slice::from_ref(&token));
        let secret = "not-a-hash-but-the-token";
        let error = store
            .create_token(secret, token)
            .await
            .expect_err("no hash");
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
        store.revoke_token("t1").await.expect("revoked");
        assert_eq!(store.find_token(&hash).await.expect("read"), None);
        let gone = store.revoke_token("t1").await.expect_err("is gone");
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    })
    .await;
}

#[tokio::test]
async fn an_unreadable_entry_is_left_out_of_lists_and_named_when_asked_for() {
    on_every_server(async |mut fixture| {
        fixture
            .store
            .create_source(source("a"))
            .await
            .expect("created");
        fixture.put_raw("entity/source/1/1/b", r#"{"v":7}"#).await;
        fixture.put_raw("entity/source/1/1/c", "\u{0}").await;
        let store = &fixture.store;
        assert_eq!(store.sources(&branch()).await.expect("listed").len(), 1);
        let newer = store.source(&source_key("b")).await.expect_err("newer");
        assert!(newer.to_string().contains("entity/source/1/1/b"), "{newer}");
        let damaged = store.source(&source_key("c")).await.expect_err("damaged");
        assert_eq!(damaged.kind(), ErrorKind::Corrupt);
        store
            .create_source(source("d"))
            .await
            .expect("others go on");
    })
    .await;
}

#[tokio::test]
async fn fields_of_a_later_version_survive_what_this_one_writes_over_them() {
    on_every_server(async |mut fixture| {
        let open = open(&fixture.store).await;
        let store = fixture.store.clone();
        let slice_key = format!("entity/slice/{}/{}", open.sink.value.key, slice_id(1));
        for key in ["entity/source/1/1/orders", &slice_key] {
            let mut value = fixture.raw(key).await;
            value["later"] = serde_json::json!({"deep": [1, 2]});
            fixture.put_raw(key, &value.to_string()).await;
        }

        let renamed = store
            .update_source(&source_key("orders"), |mut source| {
                source.name = "renamed".to_owned();
                source.version.number += 1;
                Ok::<_, StateError>(source)
            })
            .await;
        renamed.expect("updated");
        for key in [
            "entity/source/1/1/orders",
            "version/source/1/1/orders/0000000002",
        ] {
            let value = fixture.raw(key).await;
            assert_eq!(value["name"], "renamed", "{key}");
            assert_eq!(value["later"]["deep"][1], 2, "{key}");
        }

        // The value comes from the mirror, as it does for those who close slices.
        let (mirror, _task) = Mirror::start(&store).await.expect("starts");
        let known = mirror.read(|topology| topology.slice(slice_id(1)).cloned());
        let known = known.expect("mirrored");
        let next = slice(&open.file.value, slice_id(2), volume(1));
        let rotated = store
            .rotate_slice(&open.file, &known, closing(Some(slice_id(2))), next)
            .await
            .expect("rotated");
        let sealed = store
            .seal_slice(&rotated.closed, seal(3, open.incarnation), open.incarnation)
            .await;
        sealed.expect("sealed");
        let value = fixture.raw(&slice_key).await;
        assert_eq!(value["state"]["name"], "uploading");
        assert_eq!(value["later"]["deep"][1], 2);
    })
    .await;
}
