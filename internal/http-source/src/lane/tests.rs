//! The append protocol, fault by fault.

use stream_model::Timestamp;
use stream_model::level::Durability;
use stream_storage::wire::RefusalReason;

use super::*;
use crate::completion::{Failure, Shortage};
use crate::route::{Fate, Ready, Route, State, VolumeRoute};
use crate::testing::{
    Act, ModelDirectory, ModelVolume, Rig, TIMEOUT, body_sink, path_sink, slice, source, target,
    template_sink, volume_id,
};

const WRITTEN: Result<Durability, Failure> = Ok(Durability::Disk);

fn quoted(bodies: &[&str]) -> Vec<String> {
    bodies.iter().map(|body| format!("\"{body}\"")).collect()
}

/// Larger than what a second batch needs to be sent.
fn large(name: &str) -> String {
    name.repeat(SECOND_BATCH_BYTES)
}

#[tokio::test(start_paused = true)]
async fn records_that_wait_for_one_commit_share_a_batch() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let first = rig.append("1");
    rig.volume.received(1).await;
    let rest: Vec<_> = ["2", "3"].map(|body| rig.append(body)).into();
    rig.volume.release();
    assert_eq!(first.outcome().await.written, WRITTEN);
    for ticket in &rest {
        assert_eq!(ticket.outcome().await.written, WRITTEN);
    }
    let frames = rig.volume.with(|state| state.frames.clone());
    let expected = [
        (slice(1), 1, "\"1\"\n".to_owned()),
        (slice(1), 2, "\"2\"\n\"3\"\n".to_owned()),
    ];
    assert_eq!(frames, expected);
    assert_eq!((rig.lane.outstanding(), rig.admission.used()), (0, 0));
}

/// The ledger counts the rows of a part in one hour.
#[tokio::test(start_paused = true)]
async fn a_batch_has_records_of_one_hour() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let hour = 3_600_000;
    let appended = [
        ("0", 0),
        ("1", hour - 2),
        ("2", hour - 1),
        ("3", hour),
        ("4", 2 * hour - 1),
        // It took longer to arrive than the one before.
        ("5", hour - 1),
    ];
    let tickets = appended.map(|(body, at)| rig.append_at(body, Timestamp::from_millis(at)));
    rig.volume.release();
    for ticket in tickets {
        assert_eq!(ticket.outcome().await.written, WRITTEN);
    }
    let frames = rig.volume.with(|state| state.frames.clone());
    let frames = frames.iter().map(|(_, _, rows)| rows.replace('\n', " "));
    let expected = [r#""0" "1" "2" "#, r#""3" "4" "#, r#""5" "#];
    assert_eq!(frames.collect::<Vec<_>>(), expected);
}

/// In real time: the evaluator is a thread, and the clock of a test would run ahead of it.
#[tokio::test]
async fn records_that_meet_a_new_mapping_are_evaluated_by_its_templates() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let first = rig.append(r#"{"n":1}"#);
    rig.volume.received(1).await;
    let (second, refused) = (rig.append(r#"{"n":2}"#), rig.append("{}"));
    rig.volume.seal(slice(1), Some(slice(2)));
    rig.route(vec![template_sink("a", 2, "Body('n') + 1")], &[slice(2)]);
    rig.volume.release();
    for ticket in [&first, &second] {
        let outcome = ticket.outcome().await;
        assert_eq!(outcome.written, WRITTEN);
        assert!(ticket.rejections(outcome).is_empty());
    }
    let outcome = refused.outcome().await;
    let rejection = &refused.rejections(outcome)[0];
    assert!(
        rejection
            .error
            .to_string()
            .contains("no value at path \"n\"")
    );
    assert_eq!(rig.volume.rows(slice(1)), quoted(&[]));
    assert_eq!(rig.volume.rows(slice(2)), quoted(&["2", "3"]));
    // And back to one that needs none.
    rig.volume.seal(slice(2), Some(slice(3)));
    rig.route(vec![body_sink("a", 3)], &[slice(3)]);
    assert_eq!(rig.append("x").outcome().await.written, WRITTEN);
    assert_eq!(rig.volume.rows(slice(3)), quoted(&["x"]));
}

#[tokio::test(start_paused = true)]
async fn lost_answer_of_a_written_batch_is_acknowledged_from_the_sealed_slice_and_not_sent_again() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    rig.volume.script([Act::LoseAnswer]);
    let ticket = rig.append("1");
    rig.volume.received(1).await;
    rig.volume.with(|state| state.down = true);
    rig.volume.release();
    rig.volume.seal(slice(1), Some(slice(2)));
    rig.route(vec![body_sink("a", 1)], &[slice(2)]);
    rig.volume.with(|state| state.down = false);
    assert_eq!(ticket.outcome().await.written, WRITTEN);
    assert_eq!(rig.append("2").outcome().await.written, WRITTEN);
    assert_eq!(rig.volume.rows(slice(1)), quoted(&["1"]));
    assert_eq!(rig.volume.rows(slice(2)), quoted(&["2"]));
}

#[tokio::test(start_paused = true)]
async fn lost_batch_is_sent_to_the_successor_once() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.append("0").outcome().await;
    rig.volume.hold();
    rig.volume.script([Act::LoseBatch]);
    let ticket = rig.append("1");
    rig.volume.received(2).await;
    rig.volume.seal(slice(1), Some(slice(2)));
    rig.route(vec![body_sink("a", 1)], &[slice(2)]);
    rig.volume.release();
    assert_eq!(ticket.outcome().await.written, WRITTEN);
    assert_eq!(rig.volume.rows(slice(1)), quoted(&["0"]));
    assert_eq!(rig.volume.rows(slice(2)), quoted(&["1"]));
}

#[tokio::test(start_paused = true)]
async fn refused_write_is_tried_again_with_the_same_rows() {
    for reason in [
        RefusalReason::WriteFailed,
        RefusalReason::UnknownSlice(slice(1)),
        RefusalReason::TooManySessions(slice(1)),
        RefusalReason::OutOfOrder,
        RefusalReason::Superseded,
    ] {
        let rig = Rig::new();
        rig.route(vec![body_sink("a", 1)], &[slice(1)]);
        rig.volume
            .script([Act::Refuse(reason), Act::Refuse(reason)]);
        let ticket = rig.append("1");
        assert_eq!(ticket.outcome().await.written, WRITTEN, "{reason}");
        assert_eq!(rig.volume.rows(slice(1)), quoted(&["1"]), "{reason}");
        assert_eq!(rig.volume.with(|state| state.frames.len()), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_waiting_does_not_cure_is_answered_at_once() {
    for (reason, failure) in [
        (
            RefusalReason::DiskFull,
            Failure::InsufficientStorage(Shortage::Disk),
        ),
        (
            RefusalReason::VolumeFull,
            Failure::InsufficientStorage(Shortage::Volume),
        ),
        (
            RefusalReason::SinkFull(slice(1)),
            Failure::InsufficientStorage(Shortage::Sink),
        ),
        (RefusalReason::Overloaded, Failure::Overloaded),
        (RefusalReason::Stopping, Failure::Shutdown),
        (RefusalReason::Malformed("x"), Failure::Internal),
    ] {
        let rig = Rig::new();
        rig.route(vec![body_sink("a", 1)], &[slice(1)]);
        rig.volume.script([Act::Refuse(reason)]);
        let start = Instant::now();
        assert_eq!(
            rig.append("1").outcome().await.written,
            Err(failure),
            "{reason}"
        );
        assert_eq!(start.elapsed(), Duration::ZERO, "{reason}");
        assert_eq!(rig.append("2").outcome().await.written, WRITTEN, "{reason}");
        assert_eq!(rig.volume.rows(slice(1)), quoted(&["2"]), "{reason}");
        assert_eq!(rig.admission.used(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn records_are_mapped_again_when_the_successor_has_another_mapping() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let warm = rig.append("0");
    rig.volume.received(1).await;
    let good = rig.append(r#"{"x":"1"}"#);
    let bad = rig.append(r#"{"y":"2"}"#);
    let other = rig.append(r#"{"x":"3"}"#);
    // The batch of the first record is refused as well.
    rig.volume.seal(slice(1), Some(slice(2)));
    rig.route(vec![path_sink("a", 2, "x")], &[slice(2)]);
    rig.volume.release();
    assert_eq!(warm.outcome().await.rejected.len(), 1, "0 has no member x");
    for ticket in [&good, &bad, &other] {
        assert_eq!(ticket.outcome().await.written, WRITTEN);
    }
    assert!(good.rejections(good.outcome().await).is_empty());
    assert_eq!(bad.rejections(bad.outcome().await).len(), 1);
    assert_eq!(bad.outcome().await.plan.sinks[0].mapping_version, 2);
    assert!(rig.volume.rows(slice(1)).is_empty());
    assert_eq!(rig.volume.rows(slice(2)), quoted(&["1", "3"]));
}

#[tokio::test(start_paused = true)]
async fn one_sealed_slice_of_three_keeps_the_batch_out_of_all() {
    let rig = Rig::new();
    let sinks = || vec![body_sink("a", 1), body_sink("b", 1), body_sink("c", 1)];
    rig.route(sinks(), &[slice(1), slice(2), slice(3)]);
    rig.append("0").outcome().await;
    rig.volume.seal(slice(2), Some(slice(4)));
    rig.volume.hold();
    let ticket = rig.append("1");
    rig.volume.received(2).await;
    rig.volume.release();
    // Nothing can be sent until the mirror shows the successor.
    for _ in 0..3 {
        rig.directory.announce();
        tokio::time::advance(Duration::from_millis(200)).await;
    }
    assert_eq!(rig.volume.rows(slice(1)), quoted(&["0"]));
    assert_eq!(rig.volume.rows(slice(3)), quoted(&["0"]));
    rig.route(sinks(), &[slice(1), slice(4), slice(3)]);
    assert_eq!(ticket.outcome().await.written, WRITTEN);
    assert_eq!(rig.volume.rows(slice(1)), quoted(&["0", "1"]));
    assert_eq!(rig.volume.rows(slice(2)), quoted(&["0"]));
    assert_eq!(rig.volume.rows(slice(3)), quoted(&["0", "1"]));
    assert_eq!(rig.volume.rows(slice(4)), quoted(&["1"]));
}

#[tokio::test(start_paused = true)]
async fn batches_behind_a_refused_one_follow_it_in_order() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let first = rig.append("1");
    rig.volume.received(1).await;
    let second = rig.append(&large("2"));
    rig.volume.received(2).await;
    rig.volume.script([Act::Refuse(RefusalReason::WriteFailed)]);
    rig.volume.release();
    assert_eq!(first.outcome().await.written, WRITTEN);
    assert_eq!(second.outcome().await.written, WRITTEN);
    let frames = rig.volume.with(|state| state.frames.clone());
    let order: Vec<_> = frames
        .iter()
        .map(|(_, seq, text)| (*seq, &text[..2]))
        .collect();
    assert_eq!(order, [(1, "\"1"), (2, "\"2")]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_with_two_batches_settles_each_by_its_number() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let first = rig.append("1");
    rig.volume.received(1).await;
    let second = rig.append(&large("2"));
    rig.volume.received(2).await;
    rig.volume.script([Act::LoseAnswer]);
    rig.volume.release();
    assert_eq!(first.outcome().await.written, WRITTEN);
    assert_eq!(second.outcome().await.written, WRITTEN);
    let rows = rig.volume.rows(slice(1));
    assert_eq!(rows, quoted(&["1", &large("2")]));
}

#[tokio::test(start_paused = true)]
async fn unresolved_at_the_deadline_is_said_so_and_never_sent_elsewhere() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    rig.volume.script([Act::LoseBatch]);
    let ticket = rig.append("1");
    rig.volume.received(1).await;
    rig.volume.with(|state| state.down = true);
    rig.volume.release();
    rig.route(vec![body_sink("a", 1)], &[slice(2)]);
    let late = rig.append("2");
    let start = Instant::now();
    assert_eq!(ticket.outcome().await.written, Err(Failure::OutcomeUnknown));
    assert!(start.elapsed() >= TIMEOUT, "it is tried until the deadline");
    assert_eq!(
        late.outcome().await.written,
        Err(Failure::VolumeUnavailable)
    );
    rig.volume.with(|state| state.down = false);
    assert_eq!(rig.append("3").outcome().await.written, WRITTEN);
    assert!(rig.volume.rows(slice(1)).is_empty());
    assert_eq!(rig.volume.rows(slice(2)), quoted(&["3"]));
    assert_eq!(rig.metrics.unknown_outcomes.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_never_answers_is_asked_on_a_new_connection_before_its_numbers_are_used() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.script([Act::Hang]);
    let ticket = rig.append("1");
    assert_eq!(ticket.outcome().await.written, Err(Failure::OutcomeUnknown));
    assert_eq!(rig.append("2").outcome().await.written, WRITTEN);
    assert_eq!(rig.volume.rows(slice(1)), quoted(&["2"]));
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_left_the_volume_is_settled_by_its_record() {
    for (written, act) in [(true, Act::LoseAnswer), (false, Act::LoseBatch)] {
        let rig = Rig::new();
        rig.route(vec![body_sink("a", 1)], &[slice(1)]);
        rig.volume.hold();
        rig.volume.script([act]);
        let ticket = rig.append("1");
        rig.volume.received(1).await;
        rig.volume.release();
        let last = rig.volume.seal(slice(1), Some(slice(2)));
        rig.volume.forget(slice(1));
        rig.route(vec![body_sink("a", 1)], &[slice(2)]);
        assert_eq!(last, u64::from(written));
        // Until the record says so, nobody knows.
        for _ in 0..10 {
            tokio::time::advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
        }
        assert!(rig.volume.rows(slice(2)).is_empty());
        rig.directory.set_fate(slice(1), Fate::Sealed { last });
        assert_eq!(ticket.outcome().await.written, WRITTEN);
        assert_eq!(rig.volume.rows(slice(2)).len(), usize::from(!written));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slice_whose_record_is_gone_stays_unknown_until_the_deadline() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    rig.volume.script([Act::LoseAnswer]);
    let ticket = rig.append("1");
    rig.volume.received(1).await;
    rig.volume.release();
    rig.volume.forget(slice(1));
    rig.directory.set_fate(slice(1), Fate::Gone);
    rig.route(vec![body_sink("a", 1)], &[slice(2)]);
    assert_eq!(ticket.outcome().await.written, Err(Failure::OutcomeUnknown));
    assert!(rig.volume.rows(slice(2)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_comes_back_goes_on_with_the_next_number() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    assert_eq!(rig.append("1").outcome().await.written, WRITTEN);
    rig.route(vec![body_sink("a", 1)], &[slice(2)]);
    assert_eq!(rig.append("2").outcome().await.written, WRITTEN);
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    assert_eq!(rig.append("3").outcome().await.written, WRITTEN);
    assert_eq!(rig.volume.rows(slice(1)), quoted(&["1", "3"]));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_disabled_meanwhile_gets_nothing() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    for (state, failure) in [
        (State::Disabled, Failure::DisabledSource),
        (State::NoEnabledSink, Failure::NoEnabledSink),
    ] {
        rig.route(vec![body_sink("a", 1)], &[slice(1)]);
        let ticket = rig.append("1");
        let secret = stream_model::Secret::new("s".to_owned());
        rig.directory.set_route(Route {
            source: source(),
            secret,
            state,
        });
        assert_eq!(ticket.outcome().await.written, Err(failure));
    }
    assert!(rig.volume.rows(slice(1)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_moves_to_another_volume_when_the_first_is_full_or_drained() {
    let directory = ModelDirectory::new();
    let rig = Rig::with(ModelVolume::new(1), directory.clone(), 1);
    let other = Rig::with(ModelVolume::new(2), directory, 2);
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    rig.volume.script([Act::Refuse(RefusalReason::DiskFull)]);
    let ticket = rig.append("1");
    rig.volume.received(1).await;
    // The route that the lane looks at when the refusal comes lists the other volume only.
    other.route(vec![body_sink("a", 1)], &[slice(2)]);
    rig.volume.release();
    assert_eq!(ticket.outcome().await.written, WRITTEN);
    assert_eq!(other.volume.rows(slice(2)), quoted(&["1"]));
    assert!(rig.lane.is_resting());
    assert_eq!((rig.lane.outstanding(), other.lane.outstanding()), (0, 0));
}

/// Two volumes for the same source, each with a lane.
fn two_volumes() -> (Rig, Rig) {
    let directory = ModelDirectory::new();
    let rig = Rig::with(ModelVolume::new(1), directory.clone(), 1);
    let other = Rig::with(ModelVolume::new(2), directory, 2);
    rig.volume.open_slice(slice(1));
    other.volume.open_slice(slice(2));
    let volumes = [(1, &rig), (2, &other)].map(|(id, rig)| VolumeRoute {
        volume: volume_id(id),
        lane: rig.lane.clone(),
        targets: [target(slice(id))].into(),
        rejects: [None].into(),
    });
    rig.directory.set_route(Route {
        source: source(),
        secret: stream_model::Secret::new("s".to_owned()),
        state: State::Ready(Ready {
            plan: Arc::new(Plan::new(vec![body_sink("a", 1)])),
            volumes: volumes.to_vec(),
            keys: Arc::default(),
        }),
    });
    (rig, other)
}

#[tokio::test(start_paused = true)]
async fn what_a_failing_disk_refuses_another_volume_takes_at_once() {
    let (rig, other) = two_volumes();
    rig.volume.script([Act::Refuse(RefusalReason::WriteFailed)]);
    let start = Instant::now();
    let ticket = rig.append("1");
    assert_eq!(ticket.outcome().await.written, WRITTEN);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(other.volume.rows(slice(2)), quoted(&["1"]));
    assert!(rig.volume.rows(slice(1)).is_empty() && rig.lane.is_resting());
}

#[tokio::test(start_paused = true)]
async fn records_do_not_wait_for_what_became_of_others_on_a_volume_that_is_gone() {
    let (rig, other) = two_volumes();
    rig.volume.hold();
    rig.volume.script([Act::LoseBatch]);
    let lost = rig.append("1");
    rig.volume.received(1).await;
    let waiting = rig.append("2");
    let start = Instant::now();
    rig.volume.with(|state| state.down = true);
    rig.volume.release();
    assert_eq!(waiting.outcome().await.written, WRITTEN);
    assert!(start.elapsed() < Duration::from_millis(200));
    assert_eq!(other.volume.rows(slice(2)), quoted(&["2"]));
    assert_eq!(lost.outcome().await.written, Err(Failure::OutcomeUnknown));
}

#[tokio::test(start_paused = true)]
async fn stopping_writes_what_was_taken_and_then_takes_nothing() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let first = rig.append("1");
    rig.volume.received(1).await;
    let second = rig.append("2");
    rig.stop.cancel();
    rig.volume.release();
    assert_eq!(first.outcome().await.written, WRITTEN);
    assert_eq!(second.outcome().await.written, WRITTEN);
    rig.task.await.expect("the lane ends");
    assert!(rig.lane.has_ended());
    assert_eq!(rig.volume.rows(slice(1)), quoted(&["1", "2"]));
}

#[tokio::test(start_paused = true)]
async fn a_cut_lane_tells_what_was_sent_from_what_was_not() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let sent = rig.append("1");
    rig.volume.received(1).await;
    let gathered = rig.append("2");
    rig.task.abort();
    assert_eq!(sent.outcome().await.written, Err(Failure::OutcomeUnknown));
    assert_eq!(gathered.outcome().await.written, Err(Failure::Shutdown));
    assert_eq!(rig.admission.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_retired_lane_ends_when_empty_and_can_be_revived_before() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.hold();
    let ticket = rig.append("1");
    rig.volume.received(1).await;
    assert!(rig.lane.retire());
    assert!(rig.lane.revive());
    assert!(rig.lane.retire());
    rig.volume.release();
    assert_eq!(ticket.outcome().await.written, WRITTEN);
    rig.task.await.expect("the lane ends");
    assert!(!rig.lane.revive());
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_already_is_not_given_up_before_its_deadline() {
    let rig = Rig::new();
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.volume.script([Act::Refuse(RefusalReason::DiskFull); 5]);
    let ticket = rig.append_answering("1", Answering::AtOnce);
    assert_eq!(ticket.outcome().await.written, WRITTEN);
    rig.volume.with(|state| state.down = true);
    rig.link.lose(u64::MAX);
    let lost = rig.append_answering("2", Answering::AtOnce);
    assert_eq!(
        lost.outcome().await.written,
        Err(Failure::VolumeUnavailable)
    );
    assert_eq!(rig.metrics.lost_records.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_moves_when_its_volume_is_drained() {
    let directory = ModelDirectory::new();
    let rig = Rig::with(ModelVolume::new(1), directory.clone(), 1);
    let other = Rig::with(ModelVolume::new(2), directory, 2);
    rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    rig.append("0").outcome().await;
    rig.volume.hold();
    let ticket = rig.append("1");
    rig.volume.received(2).await;
    rig.volume.seal(slice(1), None);
    other.route(vec![body_sink("a", 1)], &[slice(2)]);
    rig.volume.release();
    assert_eq!(ticket.outcome().await.written, WRITTEN);
    assert_eq!(other.volume.rows(slice(2)), quoted(&["1"]));
}
