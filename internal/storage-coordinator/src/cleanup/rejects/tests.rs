use super::*;
use crate::fixture::*;

const DAY: i64 = 24 * 3600;

/// Slices 2, 3 … of rejected records, uploaded one second after the other with so many records.
fn scene(records: &[u64]) -> Scene {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1], at(0));
    for (number, records) in (2..).zip(records) {
        scene.open_rejects(&[1], at(0));
        let figures = match records {
            0 => stream_model::statistics::Figures::default(),
            records => figures(*records, at(0)),
        };
        scene.advance(number, Stage::Uploaded, figures, at(i64::from(number)));
    }
    scene
}

fn kept(days: u64, objects_per_sink: usize) -> RejectsKept {
    RejectsKept {
        retention: Duration::from_secs(days * 24 * 3600),
        objects_per_sink,
    }
}

fn gone(scene: &Scene, live: &Surroundings, kept: &RejectsKept, now: i64) -> Vec<(u8, Why)> {
    let shown = scene.show();
    let gone = expired(&shown.picture(), live, kept, at(now));
    let mut gone: Vec<_> = gone
        .iter()
        .map(|gone| (gone.slice.value.id.to_bytes()[0], gone.why))
        .collect();
    gone.sort_unstable_by_key(|(number, _)| *number);
    gone
}

#[test]
fn an_object_stays_for_the_retention_and_not_longer() {
    let (scene, around, kept) = (scene(&[5]), live(&[1]), kept(30, 10));
    assert_eq!(gone(&scene, &around, &kept, 2 + 30 * DAY - 1), []);
    assert_eq!(gone(&scene, &around, &kept, 2 + 30 * DAY), [(2, Why::Age)]);
}

#[test]
fn what_is_empty_goes_when_it_was_seen() {
    let (scene, kept) = (scene(&[0]), kept(30, 10));
    assert_eq!(gone(&scene, &live(&[1]), &kept, 121), []);
    assert_eq!(gone(&scene, &live(&[1]), &kept, 122), [(2, Why::Empty)]);
    assert_eq!(gone(&scene, &live(&[]), &kept, 122), [], "not released yet");
    assert_eq!(
        gone(&scene, &live(&[]), &kept, 2 + 7 * DAY),
        [(2, Why::Empty)]
    );
}

#[test]
fn of_too_many_the_oldest_go_and_empty_ones_do_not_count() {
    let (scene, around) = (scene(&[1, 0, 1, 1]), live(&[1]));
    let number = |n| (n, Why::Number);
    let empty = (3, Why::Empty);
    assert_eq!(gone(&scene, &around, &kept(30, 3), DAY), [empty]);
    assert_eq!(gone(&scene, &around, &kept(30, 2), DAY), [number(2), empty]);
    assert_eq!(
        gone(&scene, &around, &kept(30, 1), DAY),
        [number(2), empty, number(4)]
    );
}

#[test]
fn what_is_not_uploaded_never_goes() {
    let mut scene = scene(&[]);
    scene.open_rejects(&[1], at(0));
    scene.open_rejects(&[1], at(0));
    scene.open_rejects(&[1], at(0));
    scene.advance(3, Stage::Closing, figures(1, at(0)), at(1));
    scene.advance(4, Stage::Uploading, figures(1, at(0)), at(1));
    assert_eq!(gone(&scene, &live(&[1]), &kept(1, 0), 1000 * DAY), []);
}
