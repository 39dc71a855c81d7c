use stream_model::purge::Rows;

use super::*;
use crate::fixture::*;

const DAY: i64 = 24 * 3600;

/// Slice 2, which was taken out at second 10.
fn note(stage: Stage) -> Purged {
    let mut scene = Scene::new("raw");
    scene.open_file(1, &[1], at(0));
    scene.open_rejects(&[1], at(0));
    scene.advance(2, stage, figures(3, at(0)), at(5));
    let shown = scene.show();
    let slice = shown.picture().rejects().next().expect("one").value.clone();
    Purged {
        slice,
        purge: at(9),
        at: at(10),
        rows: Rows::Discarded,
    }
}

#[test]
fn a_note_stays_until_its_volume_and_everybody_else_has_seen_it() {
    let note = Arc::new(Versioned::new(note(Stage::Uploaded), 1));
    let source = stream_state::SourceNode::default();
    let mut sink = stream_state::SinkNode::default();
    sink.purged.insert(note.value.slice.id, note);
    let picture = Picture::new(&source, &sink);
    let seen = |volumes: &[u8], now| seen(&picture, &live(volumes), at(now)).len();
    assert_eq!(seen(&[1], 10 + 119), 0);
    assert_eq!(seen(&[1], 10 + 120), 1);
    assert_eq!(seen(&[2], 10 + 120), 0, "it may come back");
    assert_eq!(seen(&[2], 10 + 7 * DAY), 1);
}

#[test]
fn the_object_of_an_upload_under_way_is_found_too() {
    let uploaded = note(Stage::Uploaded).slice;
    assert_eq!(object(&uploaded).as_deref(), uploaded.object());
    let sealed = note(Stage::Uploading).slice;
    let name = object(&sealed).expect("it has rows");
    assert!(name.contains(&sealed.id.to_string()), "{name}");
    assert!(name.starts_with("rejects/"), "{name}");
    assert_eq!(object(&note(Stage::Closing).slice), None);
}
