use stream_model::file::Event;

use stream_model::Timestamp;
use stream_model::retry::Retry;

use super::turn::{Decision, decide};
use crate::fixture::{Scene, Stage, at, figures, file_id, slice_id};

fn decision(scene: &Scene, now: Timestamp) -> Decision {
    decide(&scene.show().picture(), now)
}

/// Two closed files with two slices each, 1 2 and 3 4, and a writing one.
fn scene(sink: &str) -> Scene {
    let mut scene = Scene::new(sink);
    for (file, opened) in [(1, 0), (2, 10)] {
        scene.open_file(file, &[1, 2], at(opened));
        scene.close(file, at(opened + 10));
    }
    scene.open_file(3, &[1, 2], at(20));
    scene
}

fn upload(scene: &mut Scene, slices: &[u8]) {
    for slice in slices {
        scene.advance(*slice, Stage::Uploaded, figures(5, at(1)), at(20));
    }
}

fn begun(decision: &Decision) -> Vec<stream_model::FileId> {
    decision
        .begin
        .iter()
        .map(|whole| whole.file.value.id)
        .collect()
}

fn turn(decision: &Decision) -> Option<stream_model::FileId> {
    decision.import.as_ref().map(|whole| whole.file.value.id)
}

#[test]
fn import_waits_for_all_slices() {
    let mut scene = scene("raw");
    upload(&mut scene, &[1]);
    scene.advance(2, Stage::Uploading, figures(5, at(1)), at(20));
    assert!(begun(&decision(&scene, at(21))).is_empty());
    let mut uploaded = scene.clone();
    let slice = uploaded.slices[&slice_id(2)].clone();
    let event = stream_model::slice::Event::Upload {
        object: "o".to_owned(),
        at: at(21),
    };
    uploaded
        .slices
        .insert(slice.id, slice.apply(event).expect("legal"));
    assert_eq!(begun(&decision(&uploaded, at(21))), [file_id(1)]);
}

#[test]
fn one_file_of_a_sink_has_its_turn_the_oldest_first() {
    let mut scene = scene("raw");
    upload(&mut scene, &[1, 2, 3, 4]);
    assert_eq!(begun(&decision(&scene, at(21))), [file_id(1), file_id(2)]);
    scene.apply(2, Event::Import { at: at(21) });
    scene.apply(1, Event::Import { at: at(21) });
    assert_eq!(turn(&decision(&scene, at(22))), Some(file_id(1)));
    scene.apply(
        1,
        Event::Complete {
            at: at(22),
            rows: 10,
        },
    );
    assert_eq!(turn(&decision(&scene, at(22))), Some(file_id(2)));
}

#[test]
fn files_that_nothing_imports_stay_in_staging() {
    let mut scene = scene("raw");
    upload(&mut scene, &[1, 2, 3, 4]);
    let decided = || decision(&scene, at(21));
    assert_eq!(begun(&decided().without(|_| false)).len(), 2);
    assert!(begun(&decided().without(|_| true)).is_empty());
    scene.apply(1, Event::Import { at: at(21) });
    let decided = || decision(&scene, at(22));
    assert!(turn(&decided().without(|_| false)).is_some());
    assert_eq!(turn(&decided().without(|_| true)), None);
}

#[test]
fn with_a_primary_key_a_later_file_never_passes_an_earlier_one() {
    for (sink, passes) in [("raw", true), ("raw-keyed", false)] {
        let mut scene = scene(sink);
        upload(&mut scene, &[3, 4]);
        scene.apply(2, Event::Import { at: at(21) });
        assert_eq!(
            turn(&decision(&scene, at(22))).is_some(),
            passes,
            "{sink} waits for slices"
        );
        upload(&mut scene, &[1, 2]);
        scene.apply(1, Event::Import { at: at(21) });
        let failed = scene.files.get_mut(&file_id(1)).expect("exists");
        failed.retry = Some(Retry::next(None, "away".to_owned(), at(21)));
        let decision = decision(&scene, at(21));
        assert_eq!(turn(&decision).is_some(), passes, "{sink} after a failure");
        assert_eq!(decision.later, Some(at(22)));
    }
}

#[test]
fn a_failed_file_is_tried_again_when_its_pause_is_over() {
    let mut scene = scene("raw-keyed");
    upload(&mut scene, &[1, 2]);
    scene.apply(1, Event::Import { at: at(21) });
    let file = scene.files.get_mut(&file_id(1)).expect("exists");
    file.retry = Some(Retry::next(None, "away".to_owned(), at(30)));
    assert_eq!(turn(&decision(&scene, at(30))), None);
    assert_eq!(turn(&decision(&scene, at(31))), Some(file_id(1)));
}

#[test]
fn rows_are_read_in_the_order_in_which_slices_were_opened() {
    let mut scene = Scene::new("raw-keyed");
    scene.open_file(1, &[1, 2], at(0));
    scene
        .slices
        .get_mut(&slice_id(1))
        .expect("exists")
        .opened_at = at(5);
    scene.close(1, at(10));
    upload(&mut scene, &[1]);
    scene.advance(2, Stage::Uploaded, figures(0, at(1)), at(10));
    let decision = decision(&scene, at(11));
    let slices: Vec<_> = decision.begin[0]
        .slices
        .iter()
        .map(|slice| slice.value.id)
        .collect();
    assert_eq!(slices, [slice_id(2), slice_id(1)]);
    let staged = decision.begin[0].staged();
    assert_eq!(staged.len(), 1, "a slice without rows has no object");
    assert_eq!(staged[0].id, slice_id(1));
}

#[test]
fn a_late_slice_moves_out_of_the_way_of_the_others() {
    let mut scene = scene("raw");
    upload(&mut scene, &[1]);
    scene.advance(2, Stage::Closing, figures(5, at(1)), at(10));
    let early = decision(&scene, at(129));
    assert!(early.moves.is_empty());
    assert_eq!(early.later, Some(at(130)));
    let late = decision(&scene, at(130));
    assert_eq!(late.moves.len(), 1);
    assert_eq!(late.moves[0].slice.value.id, slice_id(2));
    assert_eq!(late.moves[0].to.value.id, file_id(3));
}

#[test]
fn a_late_slice_stays_where_moving_it_is_wrong_or_useless() {
    let mut keyed = scene("raw-keyed");
    upload(&mut keyed, &[1]);
    keyed.advance(2, Stage::Closing, figures(5, at(1)), at(10));
    assert!(
        decision(&keyed, at(500)).moves.is_empty(),
        "rows of a keyed table stay in order"
    );
    let mut alone = scene("raw");
    for slice in [1, 2, 3, 4] {
        alone.advance(slice, Stage::Closing, figures(5, at(1)), at(10));
    }
    assert!(
        decision(&alone, at(500)).moves.is_empty(),
        "no row waits for it"
    );
    let mut changed = scene("raw");
    upload(&mut changed, &[1]);
    changed.advance(2, Stage::Closing, figures(5, at(1)), at(10));
    changed
        .files
        .get_mut(&file_id(3))
        .expect("exists")
        .mapping_version = 2;
    assert!(
        decision(&changed, at(500)).moves.is_empty(),
        "the next file has another definition"
    );
}
