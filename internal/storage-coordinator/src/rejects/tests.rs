use stream_model::level::Durability;
use stream_model::slice::Kind;

use super::*;
use crate::fixture::*;

/// What is done: slices that are opened by volume, closed ones by number and whether something takes their place.
fn steps(scene: &Scene, live: &Surroundings, now: i64) -> Vec<(&'static str, u8, bool)> {
    let shown = scene.show();
    let decision = decide(&shown.picture(), live, at(now));
    let mut steps = Vec::new();
    for step in decision.steps {
        match step {
            Step::Open { volumes, .. } => {
                let opened = volumes.iter().map(|on| ("open", on.to_bytes()[0], true));
                steps.extend(opened);
            }
            Step::Close { slice, next, .. } => {
                let goes_on = matches!(next, Next::Like(_));
                steps.push(("close", slice.value.id.to_bytes()[0], goes_on));
            }
        }
    }
    steps.sort_unstable();
    steps
}

fn later(scene: &Scene, now: i64) -> Option<Timestamp> {
    let shown = scene.show();
    decide(&shown.picture(), &live(&[1, 2]), at(now)).later
}

/// File 1 with slices 1 and 2, and slices 3 and 4 of rejected records, on volumes 1 and 2.
fn scene() -> Scene {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1, 2], at(0));
    scene.open_rejects(&[1, 2], at(0));
    scene
}

#[test]
fn a_missing_slice_is_opened_on_live_volumes_of_this_file_and_the_next() {
    let mut scene = Scene::new("raw");
    let all = live(&[1, 2, 3]);
    assert_eq!(steps(&scene, &all, 1), [], "there is no file yet");
    scene.open_file(1, &[1, 2], at(0));
    assert_eq!(
        steps(&scene, &all, 1),
        [("open", 1, true), ("open", 2, true)]
    );
    scene.open_rejects(&[1], at(0));
    assert_eq!(steps(&scene, &all, 1), [("open", 2, true)]);
    assert_eq!(steps(&scene, &live(&[1]), 1), [], "nobody would serve it");
    scene.assignment = Some(vec![volume(1), volume(3)]);
    assert_eq!(
        steps(&scene, &all, 1),
        [("open", 2, true), ("open", 3, true)]
    );
}

#[test]
fn nothing_is_done_without_records() {
    let scene = scene();
    assert_eq!(steps(&scene, &live(&[1, 2]), 1_000_000), []);
    assert_eq!(later(&scene, 1_000_000), None);
}

#[test]
fn a_full_slice_is_rotated_when_its_least_interval_is_over() {
    let mut scene = scene();
    scene.cross(3, Reason::Size, figures(9, at(5)));
    assert_eq!(steps(&scene, &live(&[1, 2]), 59), []);
    assert_eq!(later(&scene, 59), Some(at(60)));
    assert_eq!(steps(&scene, &live(&[2]), 60), [], "nobody would seal it");
    assert_eq!(steps(&scene, &live(&[1, 2]), 60), [("close", 3, true)]);
    // Batches are refused until it is rotated.
    scene.cross(4, Reason::Sessions, figures(9, at(5)));
    assert_eq!(steps(&scene, &live(&[1, 2]), 6), [("close", 4, true)]);
}

#[test]
fn the_end_of_a_sink_ends_its_rejects_whatever_its_file_does() {
    let mut deleted = scene();
    deleted.sink.deleted = Some(off());
    let mut disabled = scene();
    disabled.source.disabled = Some(off());
    for scene in [deleted, disabled] {
        let all = live(&[1, 2]);
        assert_eq!(
            steps(&scene, &all, 1),
            [("close", 3, false), ("close", 4, false)]
        );
    }
}

#[test]
fn a_volume_that_the_sink_has_left_takes_no_more() {
    let mut scene = scene();
    scene.assignment = Some(vec![volume(1)]);
    let all = live(&[1, 2]);
    assert_eq!(steps(&scene, &all, 1), [], "the file is still there");
    scene.close(1, at(10));
    scene.open_file(2, &[1], at(10));
    assert_eq!(steps(&scene, &all, 11), [("close", 4, false)]);
}

#[test]
fn a_slice_follows_the_promise_of_the_rows_beside_it() {
    let mut scene = scene();
    let rows = scene.slices.get_mut(&slice_id(1)).expect("exists");
    rows.durability = Durability::Cache;
    assert_eq!(steps(&scene, &live(&[1, 2]), 1), [("close", 3, true)]);
    let shown = scene.show();
    let decision = decide(&shown.picture(), &live(&[1, 2]), at(1));
    let [
        Step::Close {
            slice,
            next: Next::Like(Some(rows)),
            ..
        },
    ] = &decision.steps[..]
    else {
        panic!("{decision:?}");
    };
    let trigger = rejects::default_trigger();
    let next = rejects::successor(&slice.value, Some(&rows.value), trigger, at(1), [1; 10]);
    assert_eq!(
        (next.kind, next.durability),
        (Kind::Rejects, Durability::Cache)
    );
}

#[test]
fn of_two_slices_for_the_same_records_the_newer_one_stays() {
    let mut scene = scene();
    scene.open_rejects(&[1], at(1));
    assert_eq!(steps(&scene, &live(&[1, 2]), 2), [("close", 3, false)]);
}

#[test]
fn files_do_not_notice_rejects() {
    let mut scene = scene();
    scene.cross(3, Reason::Count, figures(1_000_000, at(0)));
    let shown = scene.show();
    let picture = shown.picture();
    let file = picture.current().expect("writing");
    assert_eq!(picture.known(&file.value).slices, 0);
    assert_eq!(picture.slices(file.value.id).count(), 2);
    assert_eq!(picture.crossed().count(), 0);
}
