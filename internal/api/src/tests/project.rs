//! Tokens and branches of projects that a Storage API knows.

use serde_json::{Value, json};
use stream_model::{ProjectId, Secret};
use stream_target::keboola::{Custody, Options, StorageApi};
use stream_tests_storage_api::{Fault, StorageApi as Double, Tokens};

use super::world::{Base, Client, PATIENCE};
use crate::token::AdminToken;
use crate::{Api, Projects};

const SOURCES: &str = "/v1/branches/default/sources";
const VERIFY: &str = "tokens/verify";

/// Base64 of 32 bytes.
const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// What an API is told of a Storage API.
pub(super) fn projects(double: &Double) -> Projects {
    let address = double.url().parse().expect("a URL");
    let storage_api = StorageApi::new(address, Options::default());
    Projects {
        storage_api: storage_api.expect("no encryption"),
        custody: Custody::new(&Secret::new(KEY.to_owned())).expect("a key"),
    }
}

/// An API for projects 12 and 13.
pub(super) struct World {
    pub(super) base: Base,
    pub(super) api: Api,
    pub(super) double: Double,
    pub(super) tokens: Tokens,
    pub(super) others: Tokens,
    pub(super) client: Client,
}

impl World {
    pub(super) async fn start() -> Self {
        let (base, double) = (Base::start().await, Double::start().await);
        let (tokens, others) = (double.add_project(12), double.add_project(13));
        let api = base.api_with(Some(projects(&double))).await;
        let client = Client {
            address: api.local_addr(),
            token: Some(tokens.admin.clone()),
        };
        Self {
            base,
            api,
            double,
            tokens,
            others,
            client,
        }
    }

    /// A client with another token.
    pub(super) fn with(&self, token: &str) -> Client {
        Client {
            token: Some(token.to_owned()),
            ..self.client.clone()
        }
    }

    pub(super) async fn stop(self) {
        self.api.stop(PATIENCE).await.expect("stopped");
        self.base.background.stop(PATIENCE).await.expect("stopped");
    }
}

fn named(status: u16, name: &str) -> (u16, String) {
    (status, name.to_owned())
}

#[tokio::test]
async fn a_token_is_verified_once_and_opens_its_own_project() {
    let world = World::start().await;
    world
        .client
        .done("POST", SOURCES, json!({"type": "http", "name": "Orders"}))
        .await;
    let bearer = format!("Bearer {}", world.tokens.admin);
    let headers = [("authorization", bearer.as_str())];
    let reply = world.client.send_raw("GET", SOURCES, &headers, "".into());
    let list = reply.await.json();
    assert_eq!(list["projectId"], 12);
    assert_eq!(list["branchId"], 112);
    let source = &list["sources"][0];
    let url = source["http"]["url"].as_str().expect("a URL");
    assert!(url.contains("/stream/12/orders/"), "{url}");
    let by = &source["created"]["by"];
    assert_eq!(by["tokenDesc"], "ann@example.com");
    for field in ["tokenId", "userId", "userName"] {
        assert!(by[field].as_str().is_some_and(|it| !it.is_empty()), "{by}");
    }
    assert_eq!(world.double.calls("GET", VERIFY), 1);
    assert_eq!(world.double.calls("GET", "dev-branches"), 1);
    let recorded = world.base.store.project(ProjectId(12)).await;
    let recorded = recorded.expect("readable").expect("recorded");
    assert_eq!(recorded.default_branch.0, 112);
    // The second token of the project asks for no branch.
    let reader = world.with(&world.tokens.read_only);
    assert_eq!(reader.get(SOURCES).await.status, 200);
    assert_eq!(world.double.calls("GET", "dev-branches"), 1);
    let others = world.with(&world.others.admin);
    let list = others.get(SOURCES).await.json();
    assert_eq!(
        (&list["projectId"], &list["branchId"]),
        (&json!(13), &json!(113))
    );
    assert_eq!(list["sources"], json!([]), "not those of another project");
    world.stop().await;
}

#[tokio::test]
async fn requests_at_the_same_time_share_one_verification() {
    let world = World::start().await;
    let gets = (0..20).map(|_| world.client.get(SOURCES));
    for reply in futures_util::future::join_all(gets).await {
        assert_eq!(reply.status, 200);
    }
    assert_eq!(world.double.calls("GET", VERIFY), 1);
    world.stop().await;
}

#[tokio::test]
async fn a_refused_token_is_asked_about_again() {
    let world = World::start().await;
    let stranger = world.with("12-made-up");
    for _ in 0..2 {
        let reply = stranger.get(SOURCES).await;
        assert_eq!(reply.refusal(), named(401, "storage.tokenInvalid"));
        assert!(!reply.text.contains("made-up"), "{}", reply.text);
    }
    assert_eq!(world.double.calls("GET", VERIFY), 2);
    world
        .double
        .fail("GET", VERIFY, Fault::Refuse(403, "accessDenied"), 1);
    let reply = stranger.get(SOURCES).await;
    assert_eq!(reply.refusal(), named(403, "accessDenied"));
    assert_eq!(reply.json()["exceptionId"], "double-1");
    world.stop().await;
}

#[tokio::test]
async fn a_verified_token_is_believed_for_a_minute_without_the_storage_api() {
    let world = World::start().await;
    assert_eq!(world.client.get(SOURCES).await.status, 200);
    world.double.forget_token(&world.tokens.admin);
    world.double.fail("GET", "", Fault::CutBefore, usize::MAX);
    assert_eq!(world.client.get(SOURCES).await.status, 200);
    let reply = world.with(&world.tokens.read_only).get(SOURCES).await;
    assert_eq!(reply.refusal(), named(503, "stream.api.serviceUnavailable"));
    assert_eq!(reply.header("retry-after"), "1");
    assert!(reply.text.contains("verify the token"), "{}", reply.text);
    world.double.heal();
    let reply = world.with(&world.tokens.read_only).get(SOURCES).await;
    assert_eq!(reply.status, 200, "the outage is not remembered");
    world.stop().await;
}

#[tokio::test]
async fn only_people_may_ask_and_only_admins_may_change() {
    let world = World::start().await;
    let limited = world.with(&world.tokens.limited);
    let refused = limited.refused("GET", SOURCES, None).await;
    assert_eq!(refused, named(401, "stream.api.masterTokenRequired"));
    let reader = world.with(&world.tokens.read_only);
    let body = json!({"type": "http", "name": "Orders"});
    let refused = reader.refused("POST", SOURCES, Some(body)).await;
    assert_eq!(refused, named(403, "stream.api.forbidden"));
    let programmatic = world.with("kbc_at_secret");
    let refused = programmatic.refused("GET", SOURCES, None).await;
    assert_eq!(refused, named(400, "stream.api.missingField"));
    assert_eq!(
        world.double.calls("GET", VERIFY),
        2,
        "that one is not sent there"
    );
    world.stop().await;
}

#[tokio::test]
async fn only_the_default_branch_can_be_used() {
    let world = World::start().await;
    let list = world.client.get("/v1/branches/112/sources").await;
    assert_eq!(list.status, 200);
    for branch in ["113", "1", "main"] {
        let path = format!("/v1/branches/{branch}/sources");
        let refused = world.client.refused("GET", &path, None).await;
        assert_eq!(refused, named(404, "stream.api.branchNotFound"));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_task_is_shown_to_its_own_project_only() {
    let world = World::start().await;
    let body = json!({"type": "http", "name": "Orders"});
    let task = world.client.done("POST", SOURCES, body).await;
    let path = format!("/v1/tasks/{}", task["taskId"].as_str().expect("an id"));
    assert_eq!(world.client.get(&path).await.status, 200);
    let others = world.with(&world.others.admin);
    let refused = others.refused("GET", &path, None).await;
    assert_eq!(refused, named(404, "stream.api.taskNotFound"));
    world.stop().await;
}

#[tokio::test]
async fn the_whole_installation_is_shown_to_its_operator_only() {
    let world = World::start().await;
    let AdminToken::Created(token) = world.base.admin_token().await else {
        panic!("a new installation gets a token");
    };
    let operator = world.with(token.expose());
    for path in ["/v1/status", "/v1/diagnose"] {
        assert_eq!(operator.get(path).await.status, 200);
        let refused = world.client.refused("GET", path, None).await;
        assert_eq!(refused, named(403, "stream.api.forbidden"));
    }
    let reply = operator.send("GET", SOURCES, None::<Value>).await;
    assert_eq!(reply.refusal(), named(401, "storage.tokenInvalid"));
    world.stop().await;
}
