use super::*;
use crate::fixture::{Scene, Stage, at, figures, file_id, live, off, slice_id, volume};

fn decision(scene: &Scene, live_volumes: &[u8], now: Timestamp) -> Decision {
    decide(
        &scene.show().picture(),
        &live(live_volumes),
        &Defaults::default(),
        now,
    )
}

fn close(decision: Decision) -> Close {
    match decision {
        Decision::Act(Step::Close(close)) => close,
        other => panic!("the file should be closed, not {other:?}"),
    }
}

/// A sink whose file was opened at 0 s with one slice on volume 1.
fn scene() -> Scene {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1], at(0));
    scene
}

#[test]
fn opens_a_file_on_a_live_volume_for_a_sink_without_one() {
    let scene = Scene::new("raw");
    match decision(&scene, &[3], at(0)) {
        Decision::Act(Step::Open(open)) => assert_eq!(open.volumes, Volumes::New(vec![volume(3)])),
        other => panic!("a file should be opened, not {other:?}"),
    }
}

#[test]
fn opens_on_the_live_ones_of_the_assigned_volumes_only() {
    let mut scene = Scene::new("raw");
    scene.assignment = Some(vec![volume(1), volume(2)]);
    match decision(&scene, &[2, 3], at(0)) {
        Decision::Act(Step::Open(open)) => {
            assert_eq!(open.volumes, Volumes::Assigned(vec![volume(2)]));
        }
        other => panic!("a file should be opened, not {other:?}"),
    }
    assert!(matches!(decision(&scene, &[3], at(0)), Decision::NoVolume));
}

#[test]
fn opens_nothing_for_a_sink_that_takes_no_rows() {
    let mut scene = Scene::new("raw");
    scene.sink.disabled = Some(off());
    assert!(matches!(decision(&scene, &[1], at(0)), Decision::Nothing));
    scene.sink.disabled = None;
    scene.source.deleted = Some(off());
    assert!(matches!(decision(&scene, &[1], at(0)), Decision::Nothing));
}

#[test]
fn leaves_a_file_alone_of_which_no_row_is_known() {
    assert!(matches!(
        decision(&scene(), &[1], at(1_000_000)),
        Decision::Nothing
    ));
}

#[test]
fn closes_file_when_import_interval_reached() {
    let mut scene = scene();
    scene.cross(1, Reason::Interval, figures(3, at(20)));
    match decision(&scene, &[1], at(29)) {
        Decision::Later(later) => assert_eq!(later, at(30)),
        other => panic!("it is not due yet: {other:?}"),
    }
    let close = close(decision(&scene, &[1], at(30)));
    assert_eq!(close.reason, Reason::Interval);
    assert_eq!(close.file.value.id, file_id(1));
    assert_eq!(close.slices.len(), 1);
    assert!(close.next.is_some());
}

#[test]
fn age_counts_from_the_first_record_of_all_slices() {
    let mut scene = scene();
    scene.advance(1, Stage::Uploaded, figures(1, at(2)), at(7));
    let second = Slice {
        id: slice_id(9),
        opened_at: at(7),
        state: State::Writing,
        ..scene.slices[&slice_id(1)].clone()
    };
    scene.slices.insert(second.id, second);
    scene.cross(9, Reason::Interval, figures(1, at(8)));
    assert!(matches!(decision(&scene, &[1], at(11)), Decision::Later(later) if later == at(12)));
    assert_eq!(
        close(decision(&scene, &[1], at(12))).slices.len(),
        1,
        "only writing slices are closed"
    );
}

#[test]
fn sums_sealed_and_reported_slices_but_not_before_the_least_interval() {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1, 2], at(0));
    scene
        .files
        .get_mut(&file_id(1))
        .expect("open")
        .trigger
        .count = 10;
    scene.advance(1, Stage::Uploading, figures(6, at(0)), at(0));
    scene.cross(2, Reason::Count, figures(3, at(0)));
    assert!(
        matches!(decision(&scene, &[1, 2], at(5)), Decision::Later(_)),
        "9 of 10 rows"
    );
    scene.cross(2, Reason::Count, figures(4, at(0)));
    assert_eq!(
        close(decision(&scene, &[1, 2], at(5))).reason,
        Reason::Count
    );
    let held = Timestamp::from_millis(at(0).as_millis() + 500);
    assert!(matches!(decision(&scene, &[1, 2], held), Decision::Later(later) if later == at(1)));
}

#[test]
fn a_changed_definition_closes_the_file_at_once_even_when_empty() {
    let mut scene = scene();
    scene.sink.version.number = 2;
    let close = close(decision(&scene, &[1], at(0)));
    assert_eq!(close.reason, Reason::Definition);
    assert_eq!(
        close
            .next
            .expect("the sink goes on")
            .sink
            .value
            .version
            .number,
        2
    );
}

#[test]
fn deleted_sinks_file_is_closed_without_successor() {
    let mut scene = scene();
    scene.sink.deleted = Some(off());
    // Not even a live volume is needed.
    let close = close(decision(&scene, &[], at(0)));
    assert_eq!(close.reason, Reason::Definition);
    assert!(close.next.is_none());
    assert_eq!(closings(&close, None, at(1))[0].1.successor, None);
}

#[test]
fn a_due_file_waits_while_no_volume_is_live() {
    let mut scene = scene();
    scene.cross(1, Reason::Interval, figures(3, at(0)));
    assert!(matches!(decision(&scene, &[], at(100)), Decision::NoVolume));
}

#[test]
fn successors_are_on_the_same_volume() {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1, 2], at(0));
    scene.cross(1, Reason::Interval, figures(3, at(0)));
    // Volume 2 is away: its slice is closed, and has no successor.
    let close = close(decision(&scene, &[1], at(60)));
    let open = close.next.as_ref().expect("volume 1 is live");
    let (defaults, volumes) = (Defaults::default(), open.volumes.ids());
    let mut random = || [7; 10];
    let next = opening::plan(
        &open.source.value,
        &open.sink.value,
        &defaults,
        volumes,
        at(60),
        &mut random,
    );
    let closings = closings(&close, Some(&next), at(60));
    let successors: Vec<_> = closings
        .iter()
        .map(|(slice, closing)| (slice.value.volume, closing.successor))
        .collect();
    assert_eq!(
        successors,
        [(volume(1), Some(next.slices[0].id)), (volume(2), None)]
    );
}

#[test]
fn a_late_slice_does_not_make_its_new_file_due() {
    let mut scene = scene();
    scene.advance(1, Stage::Uploading, figures(5, at(1)), at(5));
    scene.open_file(2, &[1], at(200));
    scene.slices.get_mut(&slice_id(1)).expect("exists").file = file_id(2);
    assert!(matches!(decision(&scene, &[1], at(300)), Decision::Nothing));
    let moved = scene.slices[&slice_id(1)].clone();
    let upload = stream_model::slice::Event::Upload {
        object: "o".to_owned(),
        at: at(300),
    };
    scene
        .slices
        .insert(moved.id, moved.apply(upload).expect("legal"));
    assert_eq!(
        close(decision(&scene, &[1], at(300))).reason,
        Reason::Interval
    );
}

#[test]
fn finishes_a_closing_that_was_interrupted() {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1, 2], at(0));
    assert!(left_open(&scene.show().picture()).is_empty());
    let reason = Reason::Count;
    scene.files.get_mut(&file_id(1)).expect("open").state =
        file::State::Closing { at: at(5), reason };
    scene.advance(1, Stage::Closing, figures(1, at(0)), at(5));
    scene.open_file(3, &[1, 2], at(5));
    let mut steps = left_open(&scene.show().picture());
    let Some(Step::Finish(finish)) = steps.pop() else {
        panic!("one slice is left");
    };
    assert!(steps.is_empty());
    assert_eq!(finish.file.value.id, file_id(1));
    assert_eq!(finish.reason, reason);
    let [(slice, successor)] = &finish.slices[..] else {
        panic!("one slice is left, not {:?}", finish.slices);
    };
    assert_eq!(slice.value.volume, volume(2));
    let successor = successor.and_then(|id| scene.slices.get(&id));
    let successor = successor.expect("the slice on the same volume");
    assert_eq!((successor.volume, successor.file), (volume(2), file_id(3)));
}

#[test]
fn a_file_whose_volumes_were_forgotten_is_closed_at_once() {
    let mut scene = scene();
    let slice = scene.slices.remove(&slice_id(1)).expect("one slice");
    let forget = stream_model::slice::Event::Forget {
        incarnation: 2,
        at: at(3),
    };
    let slice = slice.apply(forget).expect("given up");
    scene.slices.insert(slice.id, slice);
    scene.assignment = None;
    let close = close(decision(&scene, &[2], at(4)));
    assert_eq!(close.reason, Reason::Drain);
    assert!(close.slices.is_empty() && close.next.is_some());
}

#[test]
fn a_volume_that_is_live_again_gets_its_place_without_waiting_for_rows() {
    let mut scene = scene();
    scene.assignment = Some(vec![volume(1), volume(2)]);
    assert!(matches!(decision(&scene, &[1], at(100)), Decision::Nothing));
    // One that the source does not have makes no difference.
    let other = decision(&scene, &[1, 3], at(100));
    assert!(matches!(other, Decision::Nothing));
    let not_before = {
        let file = &scene.files[&file_id(1)];
        file.trigger.not_before(file.opened_at)
    };
    assert!(not_before > at(0));
    match decision(&scene, &[1, 2], at(0)) {
        Decision::Later(later) => assert_eq!(later, not_before),
        other => panic!("the least interval is not over: {other:?}"),
    }
    let closed = close(decision(&scene, &[1, 2], not_before));
    let next = closed.next.expect("the sink takes rows");
    assert_eq!(next.volumes, Volumes::Assigned(vec![volume(1), volume(2)]));
    scene.cross(1, Reason::Count, figures(3, at(0)));
    let with_rows = close(decision(&scene, &[1, 2], not_before));
    assert!(with_rows.next.is_some());
}
