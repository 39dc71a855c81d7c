use super::*;
use crate::fixture::{Scene, at, figures, file_id, live, slice_id};
use stream_model::unit::Interval;

fn decision(scene: &Scene, live_volumes: &[u8], now: Timestamp) -> Decision {
    let shown = scene.show();
    let picture = shown.picture();
    let (slice, crossed) = picture.crossed().next().expect("a slice was reported");
    decide(
        &picture,
        slice,
        crossed,
        &live(live_volumes),
        &Defaults::default(),
        now,
    )
}

/// A sink whose slice was opened at 0 s, reported to have reached its upload interval at 6 s.
fn scene() -> Scene {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1], at(0));
    scene.cross(1, Reason::Interval, figures(3, at(1)));
    scene
}

fn is_rotated(decision: &Decision) -> bool {
    matches!(decision, Decision::Act(step) if step.slice.value.id == slice_id(1))
}

#[test]
fn rotates_slice_when_upload_interval_reached() {
    assert!(is_rotated(&decision(&scene(), &[1], at(6))));
}

#[test]
fn rotates_slice_when_count_reached_but_not_before_min_interval() {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1], at(0));
    scene.cross(1, Reason::Count, figures(10_000, at(0)));
    let early = Timestamp::from_millis(at(0).as_millis() + 300);
    assert!(matches!(decision(&scene, &[1], early), Decision::Later(later) if later == at(1)));
    assert!(is_rotated(&decision(&scene, &[1], at(1))));
}

#[test]
fn leaves_the_slice_of_a_due_file_to_the_file_rotation() {
    assert!(matches!(
        decision(&scene(), &[1], at(11)),
        Decision::Nothing
    ));
}

#[test]
fn leaves_slices_of_volumes_without_a_writer_alone() {
    assert!(matches!(decision(&scene(), &[2], at(6)), Decision::Nothing));
}

#[test]
fn a_slice_of_a_held_file_waits_for_its_own_upload_limit() {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1], at(0));
    let file = scene.files.get_mut(&file_id(1)).expect("open");
    file.trigger.count = 1;
    file.trigger.min_interval = Interval::from_secs(60);
    scene.cross(1, Reason::Count, figures(1, at(0)));
    assert!(
        matches!(decision(&scene, &[1], at(2)), Decision::Later(later) if later == at(5)),
        "one row is no reason to upload"
    );
    assert!(is_rotated(&decision(&scene, &[1], at(5))));
}

#[test]
fn a_slice_with_too_many_sessions_is_rotated_whatever_its_size() {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1], at(0));
    scene.cross(1, Reason::Sessions, figures(64, at(1)));
    assert!(is_rotated(&decision(&scene, &[1], at(2))));
}

#[test]
fn slices_of_an_older_definition_are_left_to_the_file_rotation() {
    let mut scene = scene();
    scene.sink.version.number = 2;
    assert!(matches!(decision(&scene, &[1], at(6)), Decision::Nothing));
}
