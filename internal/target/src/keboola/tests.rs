//! The client against a Storage API in memory.

use stream_model::id::{BranchId, ProjectId};
use stream_model::{ErrorKind, Secret};
use stream_tests_storage_api::{Fault, StorageApi as Double};

use super::{Holder, Options, StorageApi, StorageApiError, TableId};

const VERIFY: &str = "tokens/verify";

struct World {
    double: Double,
    api: StorageApi,
    admin: Secret<String>,
    limited: Secret<String>,
}

async fn world() -> World {
    let double = Double::start().await;
    let tokens = double.add_project(12);
    let address = double.url().parse().expect("a URL");
    World {
        api: StorageApi::new(address, Options::default()).expect("no encryption"),
        double,
        admin: Secret::new(tokens.admin),
        limited: Secret::new(tokens.limited),
    }
}

fn refusal(error: &StorageApiError) -> (u16, &str) {
    let StorageApiError::Refused(refusal) = error else {
        panic!("not a refusal: {error}");
    };
    (refusal.status, &refusal.name)
}

#[tokio::test]
async fn the_index_tokens_and_the_default_branch_are_read() {
    let world = world().await;
    world.api.check().await.expect("there");
    let identity = world.api.verify(&world.admin).await.expect("valid");
    assert_eq!(identity.project, ProjectId(12));
    assert_eq!(identity.description, "ann@example.com");
    let Holder::Person { role, id, name } = identity.holder else {
        panic!("a master token belongs to a person");
    };
    assert_eq!(role, "admin");
    assert!(!id.is_empty() && !name.is_empty());
    let limited = world.api.verify(&world.limited).await.expect("valid");
    assert_eq!(limited.holder, Holder::Limited);
    let branch = world.api.default_branch(&world.admin).await;
    assert_eq!(branch, Ok(BranchId(112)));
}

#[tokio::test]
async fn a_refusal_keeps_its_name_and_loses_the_token() {
    let world = world().await;
    let unknown = Secret::new("12-hunter2".to_owned());
    let error = world.api.verify(&unknown).await.expect_err("unknown");
    assert_eq!(refusal(&error), (401, "storage.tokenInvalid"));
    assert!(error.to_string().ends_with("***"), "{error}");
    let odd = Secret::new("line\nbreak".to_owned());
    let error = world.api.verify(&odd).await.expect_err("no header");
    assert_eq!(refusal(&error), (401, "storage.tokenInvalid"));
    assert_eq!(world.double.calls("GET", VERIFY), 2, "refusals are final");
}

#[tokio::test]
async fn a_look_is_tried_again_until_it_succeeds() {
    let world = world().await;
    for fault in [Fault::Status(502), Fault::Status(429), Fault::CutAfter] {
        let before = world.double.calls("GET", VERIFY);
        world.double.fail("GET", VERIFY, fault, 2);
        world.api.verify(&world.admin).await.expect("at last");
        assert_eq!(world.double.calls("GET", VERIFY) - before, 3, "{fault:?}");
    }
}

#[tokio::test]
async fn what_stays_away_is_unavailable_after_a_few_tries() {
    let world = world().await;
    world.double.fail("GET", VERIFY, Fault::CutBefore, 100);
    let error = world.api.verify(&world.admin).await.expect_err("away");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().starts_with("cannot verify the token"),
        "{error}"
    );
    assert_eq!(world.double.calls("GET", VERIFY), 4);
    let World {
        double, api, admin, ..
    } = world;
    drop(double);
    let error = api.verify(&admin).await.expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn another_server_at_the_address_is_noticed() {
    let double = Double::start().await;
    let api = StorageApi::new(double.url().parse().expect("a URL"), Options::default())
        .expect("no encryption");
    double.fail("GET", "", Fault::Refuse(404, "notFound"), 1);
    let error = api.check().await.expect_err("no index");
    assert!(error.is_not_found(), "{error}");
}

fn table() -> TableId {
    "in.c-shop.orders".parse().expect("a name")
}

#[tokio::test]
async fn buckets_tables_tokens_and_files_are_made_found_and_removed() {
    let world = world().await;
    let project = world.api.project(BranchId(112), &world.admin);
    let table = table();
    assert_eq!(project.bucket(&table).await, Ok(None));
    assert_eq!(project.make_bucket(&table, "for mark-1").await, Ok(true));
    assert_eq!(project.make_bucket(&table, "again").await, Ok(false));
    let bucket = project.bucket(&table).await.expect("readable");
    let description = bucket.and_then(|bucket| bucket.description);
    assert_eq!(description.as_deref(), Some("for mark-1"));
    assert_eq!(project.table(&table).await, Ok(None));
    let made = project.make_table(&table, &["id", "body"], &["id"]).await;
    assert_eq!(made, Ok(true));
    let found = project.table(&table).await.expect("readable");
    let found = found.expect("it is there");
    assert_eq!(found.columns, ["id", "body"]);
    assert_eq!(found.primary_key, ["id"]);
    assert_eq!(project.make_table(&table, &["x"], &[]).await, Ok(false));
    let token = project.make_token(&table, "of mark-1").await.expect("made");
    let tokens = project.tokens_described("mark-1").await;
    assert_eq!(tokens.as_deref(), Ok(&[token.id.clone()][..]));
    let scoped = world.api.project(BranchId(112), &token.secret);
    let file = scoped.prepare_file("rows-mark-1", "mark-1").await;
    let file = file.expect("prepared");
    assert!(!format!("{file:?} {token:?}").contains(&**token.secret.expose()));
    assert!(file.access.expose().contains("key-of-file"));
    assert_eq!(project.files_tagged("mark-1").await, Ok(vec![file.id]));
    for _ in 0..2 {
        project.remove_file(file.id).await.expect("gone");
        project.remove_token(&token.id).await.expect("gone");
        project.remove_table(&table).await.expect("gone");
        project.remove_bucket(&table).await.expect("gone");
    }
    let holdings = world.double.holdings(12);
    assert_eq!(holdings, stream_tests_storage_api::Holdings::default());
}

#[tokio::test]
async fn what_changes_something_is_tried_once_unless_it_certainly_did_nothing() {
    let world = world().await;
    let project = world.api.project(BranchId(112), &world.admin);
    for fault in [Fault::CutAfter, Fault::Status(500)] {
        let before = world.double.calls("POST", "buckets");
        world.double.fail("POST", "buckets", fault, 1);
        let error = project
            .make_bucket(&table(), "x")
            .await
            .expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}");
        assert_eq!(world.double.calls("POST", "buckets") - before, 1);
    }
    world.double.fail("POST", "tokens", Fault::Status(429), 2);
    let made = project.make_token(&table(), "x").await;
    assert!(made.is_ok(), "{made:?}");
    assert_eq!(world.double.calls("POST", "tokens"), 3);
}
