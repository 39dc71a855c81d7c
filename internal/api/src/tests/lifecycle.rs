//! Starting, stopping, and what a crash or an outage leaves.

use std::time::Duration;

use prometheus::Registry;
use serde_json::json;
use stream_model::{BranchId, BranchKey, Clock, ProjectId, SourceKey, Timestamp};
use stream_node::{Shutdown, Tasks};
use stream_state::{Outputs, Task, TaskStatus};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;
use crate::task::{Entity, Kind, Order, Runner, Work, work};

use super::world::{Base, Client, PATIENCE, SINKS, World, sink_body};

fn unfinished(id: &str, created_at: Timestamp) -> Task {
    Task {
        id: id.to_owned(),
        kind: "api.create.source".to_owned(),
        created_at,
        node: None,
        finished_at: None,
        duration_ms: None,
        status: TaskStatus::Processing,
        result: None,
        error: None,
        outputs: Outputs::default(),
    }
}

async fn finished(base: &Base, id: &str) -> Task {
    let wait = async {
        loop {
            let task = base
                .store
                .task(id)
                .await
                .expect("read")
                .expect("there")
                .value;
            if task.status != TaskStatus::Processing {
                return task;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("it is finished")
}

#[tokio::test]
async fn a_stop_answers_no_more_but_finishes_accepted_tasks() {
    let world = World::start().await;
    assert!(world.base.readiness.is_ready());
    world.source("Orders").await;
    let World { base, api, client } = world;
    let address = api.local_addr();
    let gate = base.target.close().await;
    let task = client
        .send("POST", SINKS, Some(sink_body("Raw")))
        .await
        .json();
    base.target.arrived(1).await;
    let release = async {
        // Refused connections show that the stop has begun; the task still waits at the gate.
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        drop(gate);
    };
    let (stopped, ()) = tokio::join!(api.stop(PATIENCE), release);
    stopped.expect("stopped");
    assert!(!base.readiness.is_ready());
    let id = task["taskId"].as_str().expect("an id");
    let task = base
        .store
        .task(id)
        .await
        .expect("read")
        .expect("there")
        .value;
    assert_eq!(task.status, TaskStatus::Success);
    base.background.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test]
async fn a_stop_names_the_task_that_outlasts_its_deadline_and_the_next_start_finishes_it() {
    let world = World::start().await;
    world.source("Orders").await;
    let World { base, api, client } = world;
    let gate = base.target.close().await;
    let task = client
        .send("POST", SINKS, Some(sink_body("Raw")))
        .await
        .json();
    base.target.arrived(1).await;
    let error = api
        .stop(Duration::from_millis(100))
        .await
        .expect_err("it waits at the gate");
    assert_eq!(error.tasks, ["api task"]);
    drop(gate);
    base.clock.advance(Duration::from_secs(1));
    base.register_process("this", base.clock.now()).await;
    let api = base.api().await;
    let id = task["taskId"].as_str().expect("an id");
    assert_eq!(finished(&base, id).await.status, TaskStatus::Error);
    api.stop(PATIENCE).await.expect("stopped");
    base.background.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test]
async fn tasks_of_a_dead_process_are_finished_and_those_of_a_live_one_left() {
    let base = Base::start().await;
    let at = base.clock.now();
    base.store
        .create_task(unfinished("dead", at))
        .await
        .expect("created");
    base.clock.advance(Duration::from_secs(10));
    base.register_process("other", base.clock.now()).await;
    base.clock.advance(Duration::from_secs(10));
    base.store
        .create_task(unfinished("live", base.clock.now()))
        .await
        .expect("created");
    base.clock.advance(Duration::from_secs(10));
    let api = base.api().await;
    let task = finished(&base, "dead").await;
    assert_eq!(task.status, TaskStatus::Error);
    assert!(task.error.expect("a reason").contains("interrupted"));
    assert_eq!(task.duration_ms, Some(30_000));
    let live = base
        .store
        .task("live")
        .await
        .expect("read")
        .expect("there")
        .value;
    assert_eq!(live.status, TaskStatus::Processing);
    api.stop(PATIENCE).await.expect("stopped");
    base.background.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test]
async fn a_task_that_is_older_than_any_can_be_is_finished_without_registrations() {
    let base = Base::start().await;
    let at = base.clock.now();
    base.store
        .create_task(unfinished("old", at))
        .await
        .expect("created");
    base.clock.advance(Duration::from_secs(3_600));
    let api = base.api().await;
    assert_eq!(finished(&base, "old").await.status, TaskStatus::Error);
    api.stop(PATIENCE).await.expect("stopped");
    base.background.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test]
async fn without_the_state_store_requests_are_answered_503_and_may_be_repeated() {
    let world = World::start().await;
    world.source("Orders").await;
    world.base.background.stop(PATIENCE).await.expect("stopped");
    let reply = world.client.get("/v1/branches/default/sources").await;
    assert_eq!(
        reply.refusal(),
        (503, "stream.api.serviceUnavailable".to_owned())
    );
    assert_eq!(reply.header("retry-after"), "1");
    let exception = reply.json()["exceptionId"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert!(exception.starts_with("keboola-stream-api-"), "{exception}");
    let body = Some(json!({"type": "http", "name": "More"}));
    assert_eq!(
        world
            .client
            .send("POST", "/v1/branches/1/sources", body)
            .await
            .status,
        503
    );
    assert_eq!(world.client.get("/health-check").await.status, 200);
    world.api.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test]
async fn work_on_an_entity_waits_for_the_work_before_it() {
    let base = Base::start().await;
    let metrics = Metrics::register(&Registry::new()).expect("a new registry");
    let tasks = Tasks::new("api work", &Shutdown::new());
    let runner = Runner::new(
        base.store.clone(),
        (base.lease.clone(), "api-1".parse().expect("a node id")),
        base.clock.clone(),
        tasks.clone(),
        metrics,
    );
    let (log, mut seen) = mpsc::unbounded_channel();
    let order = |source: &str, work: Work| {
        let branch = BranchKey {
            project: ProjectId(1),
            branch: BranchId(1),
        };
        let key = SourceKey {
            branch,
            source: source.parse().expect("an id"),
        };
        Order {
            kind: Kind::DeleteSource,
            entity: Entity::Source(key),
            url: String::new(),
            work,
            reservation: None,
        }
    };
    let (release, released) = oneshot::channel::<()>();
    let note = |text: &'static str| {
        let log = log.clone();
        work(move |_| async move {
            log.send(text).expect("the test listens");
            Ok("Done.")
        })
    };
    let first = log.clone();
    let held = async move {
        first.send("first begins").expect("the test listens");
        released.await.expect("released");
        first.send("first ends").expect("the test listens");
        Ok("Done.")
    };
    runner
        .start(order("a", work(|_| held)))
        .await
        .expect("accepted");
    runner
        .start(order("a", note("second")))
        .await
        .expect("accepted");
    runner
        .start(order("a", note("third")))
        .await
        .expect("accepted");
    assert_eq!(seen.recv().await, Some("first begins"));
    runner
        .start(order("b", note("other entity")))
        .await
        .expect("accepted");
    assert_eq!(seen.recv().await, Some("other entity"), "the others wait");
    release.send(()).expect("it waits");
    for text in ["first ends", "second", "third"] {
        assert_eq!(seen.recv().await, Some(text));
    }
    tasks.stop(PATIENCE).await.expect("stopped");
    base.background.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test]
async fn of_two_processes_that_create_the_same_sink_one_is_refused_at_once() {
    let world = World::start().await;
    world.source("orders").await;
    let second = world.base.api().await;
    let other = Client {
        address: second.local_addr(),
        token: world.client.token.clone(),
    };
    let gate = world.base.target.close().await;
    let created = world.client.send("POST", SINKS, Some(sink_body("s"))).await;
    assert_eq!(created.status, 202, "{}", created.text);
    world.base.target.arrived(1).await;
    let refusal = other.refused("POST", SINKS, Some(sink_body("s"))).await;
    assert_eq!(refusal, (409, "stream.api.sinkAlreadyExists".to_owned()));
    drop(gate);
    let id = created.json()["taskId"].as_str().expect("an id").to_owned();
    assert_eq!(other.ended(&id).await["status"], "success");
    // The lock is free again: the next task is done by the other process.
    let path = format!("{SINKS}/s");
    let deleted = other
        .finished("DELETE", &path, serde_json::Value::Null)
        .await;
    assert_eq!(deleted["status"], "success", "{deleted}");
    second.stop(PATIENCE).await.expect("stopped");
    world.stop().await.expect("stopped");
}
