use stream_model::file::Event;

use super::*;
use crate::fixture::{Scene, Stage, at, figures, file_id, live};

/// Five imported files, the last one imported at 50 s.
fn scene() -> Scene {
    let mut scene = Scene::new("raw");
    for number in 1..=5_u8 {
        let now = at(i64::from(number) * 10);
        scene.open_file(number, &[1], now);
        scene.advance(number, Stage::Uploaded, figures(5, now), now);
        scene.close(number, now);
        scene.apply(number, Event::Import { at: now });
        scene.apply(number, Event::Complete { at: now, rows: 5 });
    }
    scene
}

fn list(scene: &Scene, live_volumes: &[u8], now: Timestamp) -> Vec<(FileId, Records)> {
    let options = CleanupOptions {
        archived_files_per_sink: 2,
        ..CleanupOptions::default()
    };
    let shown = scene.show();
    let expired = expired(&shown.picture(), &live(live_volumes), &options, now);
    expired
        .into_iter()
        .map(|expired| (expired.whole.file.value.id, expired.records))
        .collect()
}

#[test]
fn the_newest_keep_their_records_and_their_objects_for_the_retention() {
    let scene = scene();
    let removed = [3, 2, 1].map(|number| (file_id(number), Records::Remove));
    let early = list(&scene, &[1], at(129));
    assert!(early.is_empty(), "not everybody has seen it");
    let found = list(&scene, &[1], at(150));
    assert_eq!(found, removed, "within the retention");
    let mut all = vec![(file_id(5), Records::Keep), (file_id(4), Records::Keep)];
    all.extend(removed);
    assert_eq!(list(&scene, &[1], at(4_000)), all);
}

#[test]
fn files_that_are_not_imported_never_expire() {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1], at(0));
    scene.advance(1, Stage::Uploaded, figures(5, at(0)), at(1));
    scene.close(1, at(1));
    assert!(list(&scene, &[1], at(100_000_000)).is_empty());
    scene.apply(1, Event::Import { at: at(2) });
    assert!(list(&scene, &[1], at(100_000_000)).is_empty());
}

#[test]
fn records_wait_for_an_absent_volume_but_not_for_ever() {
    let scene = scene();
    assert!(
        list(&scene, &[], at(4_000))
            .iter()
            .all(|(_, records)| *records == Records::Keep)
    );
    let week = at(7 * 24 * 3600 + 10);
    assert_eq!(
        list(&scene, &[], week).last(),
        Some(&(file_id(1), Records::Remove))
    );
}

#[test]
fn tasks_stay_for_an_hour_or_two_days() {
    let options = CleanupOptions::default();
    let task = |status, finished_at| Task {
        id: "t".to_owned(),
        kind: "api.create.sink".to_owned(),
        created_at: at(0),
        node: None,
        finished_at,
        duration_ms: None,
        status,
        result: None,
        error: None,
        outputs: stream_state::Outputs::default(),
    };
    let success = task(TaskStatus::Success, Some(at(10)));
    assert!(!is_task_expired(&success, &options, at(3_609)));
    assert!(is_task_expired(&success, &options, at(3_610)));
    for stuck in [
        task(TaskStatus::Error, Some(at(0))),
        task(TaskStatus::Processing, None),
    ] {
        assert!(!is_task_expired(&stuck, &options, at(48 * 3600 - 1)));
        assert!(is_task_expired(&stuck, &options, at(48 * 3600)));
    }
}
