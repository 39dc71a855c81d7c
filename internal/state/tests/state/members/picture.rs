//! A mirror shows one revision as a whole, whatever happens to the connection that feeds it.

use stream_model::file;
use stream_model::slice;
use stream_state::{Mirror, SinkNode, Topology};

use super::history::History;

/// Looks at each new picture, for ever.
pub(super) async fn look_for_tears(mirror: &Mirror, history: &History) {
    let mut revisions = mirror.subscribe();
    let mut before = 0;
    loop {
        revisions.borrow_and_update();
        let (revision, tears) = mirror.read(|topology| (topology.revision, tears(topology)));
        if revision < before {
            history.problem(format!("a mirror went from {before} back to {revision}"));
        }
        before = revision;
        for tear in tears {
            history.problem(format!(
                "the picture of revision {revision} is torn: {tear}"
            ));
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

fn tears(topology: &Topology) -> Vec<String> {
    let mut tears = Vec::new();
    for (key, source) in &topology.sources {
        if !source.unreadable.is_empty() {
            tears.push(format!("{key}: unreadable {:?}", source.unreadable));
        }
        for (sink, node) in &source.sinks {
            let found = tears_of(node).into_iter();
            tears.extend(found.map(|tear| format!("{key}/{sink}: {tear}")));
        }
    }
    tears
}

fn tears_of(node: &SinkNode) -> Vec<String> {
    let mut tears = Vec::new();
    let writing = |file: &file::File| file.state == file::State::Writing;
    let files: Vec<_> = node
        .files
        .values()
        .filter(|file| writing(&file.value))
        .map(|file| file.value.id)
        .collect();
    if files != node.current.into_iter().collect::<Vec<_>>() {
        tears.push(format!(
            "{:?} is current, writing are {files:?}",
            node.current
        ));
    }
    for slice in node.slices.values().map(|slice| &slice.value) {
        let id = slice.id;
        let Some(file) = node.files.get(&slice.file).map(|file| &file.value) else {
            tears.push(format!("slice {id} without its file"));
            continue;
        };
        let is_writing = slice.state == slice::State::Writing;
        if is_writing && !writing(file) {
            tears.push(format!("slice {id} is writing in a closed file"));
        }
        let successor = slice.closing().and_then(|closing| closing.successor);
        if successor.is_some_and(|next| !node.slices.contains_key(&next)) {
            tears.push(format!("slice {id} without its successor"));
        }
        let in_target = matches!(
            file.state,
            file::State::Importing { .. } | file::State::Imported { .. }
        );
        if in_target && !slice.is_uploaded() {
            tears.push(format!("slice {id} is not uploaded and its file imported"));
        }
    }
    for id in files {
        let slices = node.slices.values().filter(|slice| slice.value.file == id);
        let writing = slices.filter(|slice| slice.value.state == slice::State::Writing);
        if writing.count() != node.files[&id].value.volumes.len() {
            tears.push(format!(
                "file {id} has not one writing slice on each volume"
            ));
        }
    }
    for id in node.crossed.keys() {
        let slice = node.slices.get(id).map(|slice| &slice.value.state);
        if slice != Some(&slice::State::Writing) {
            tears.push(format!("slice {id} has reached a limit and is {slice:?}"));
        }
    }
    tears
}
