//! Everything in the state, looked at past the service: nothing without what it belongs to, nothing half there, nothing held.

use std::collections::BTreeMap;

use serde_json::Value;

type State = BTreeMap<String, Value>;

/// What is wrong with the state when nobody works on it and there is a volume.
pub fn faults(state: &State) -> Vec<String> {
    let mut faults = Vec::new();
    for (key, value) in state {
        let segments: Vec<&str> = key.split('/').collect();
        match segments.as_slice() {
            ["lock", ..] => faults.push(format!("{key} is held")),
            ["entity", "source" | "sink", ..] if !value["purging"].is_null() => {
                faults.push(format!("{key} is not purged yet"));
            }
            ["task", ..] if value["status"] == "processing" => {
                faults.push(format!("{key} is not finished"));
            }
            ["entity", "source", source @ ..] => {
                let source = source.join("/");
                check_version(state, "source", &source, value, &mut faults);
            }
            ["entity", "sink", sink @ ..] => {
                let sink = sink.join("/");
                check_version(state, "sink", &sink, value, &mut faults);
                check_parent(state, key, "source", &parent(&sink), &mut faults);
                check_files(state, &sink, value, &mut faults);
            }
            ["entity", "assignment", source @ ..] => {
                check_parent(state, key, "source", &source.join("/"), &mut faults);
            }
            [
                "entity",
                "current" | "removed" | "rejectsremoved",
                sink @ ..,
            ] => {
                check_parent(state, key, "sink", &sink.join("/"), &mut faults);
            }
            ["entity", "dropping", _] => faults.push(format!("{key} marks a table still")),
            // A note of a slice outlives its sink.
            ["entity", "purged", ..] => {}
            ["entity", "cleared", sink @ ..] => {
                check_parent(state, key, "sink", &sink.join("/"), &mut faults);
            }
            ["entity", _, of_sink @ ..] | ["version", "sink", of_sink @ ..] => {
                check_parent(state, key, "sink", &parent(&of_sink.join("/")), &mut faults);
            }
            ["version", "source", of_source @ ..] => {
                let source = parent(&of_source.join("/"));
                check_parent(state, key, "source", &source, &mut faults);
            }
            _ => {}
        }
    }
    faults
}

/// All but the last segment.
fn parent(path: &str) -> String {
    let end = path.rfind('/').unwrap_or(0);
    path[..end].to_owned()
}

fn check_parent(state: &State, key: &str, kind: &str, parent: &str, faults: &mut Vec<String>) {
    if !state.contains_key(&format!("entity/{kind}/{parent}")) {
        faults.push(format!("{key} belongs to no {kind}"));
    }
}

/// The newest version of a definition is kept, and there is no later one.
fn check_version(
    state: &State,
    kind: &str,
    path: &str,
    definition: &Value,
    faults: &mut Vec<String>,
) {
    let versions = format!("version/{kind}/{path}/");
    let kept = state.keys().filter_map(|key| {
        let number = key.strip_prefix(&versions)?;
        number.parse::<u64>().ok()
    });
    let (newest, own) = (kept.max(), definition["version"]["number"].as_u64());
    if newest != own || own.is_none() {
        faults.push(format!(
            "{kind} {path} has version {own:?}, kept is {newest:?}"
        ));
    }
}

fn is_live(definition: &Value) -> bool {
    definition["deleted"].is_null() && definition["disabled"].is_null()
}

/// A sink that takes rows has one writing file with a writing slice; another one has none.
fn check_files(state: &State, path: &str, sink: &Value, faults: &mut Vec<String>) {
    let under = |kind: &str| {
        let prefix = format!("entity/{kind}/{path}/");
        let of_sink = state
            .iter()
            .filter(move |(key, _)| key.starts_with(&prefix));
        let writing = of_sink.filter(|(_, value)| value["state"]["name"] == "writing");
        writing.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let files = under("file");
    let current = state.get(&format!("entity/current/{path}"));
    if !is_live(sink) {
        if !files.is_empty() || current.is_some() {
            faults.push(format!(
                "sink {path} is off and {} files write",
                files.len()
            ));
        }
        return;
    }
    let [file] = files.as_slice() else {
        faults.push(format!("{} files of sink {path} write", files.len()));
        return;
    };
    if current.is_none_or(|current| current["file"] != file["id"]) {
        faults.push(format!("current of sink {path} is {current:?}"));
    }
    if file["mappingVersion"] != sink["version"]["number"] {
        faults.push(format!("the file of sink {path} is of an earlier version"));
    }
    let slices = under("slice");
    let mut slices = slices.iter().filter(|slice| slice["file"] == file["id"]);
    if slices.next().is_none() {
        faults.push(format!("no slice of the file of sink {path} writes"));
    }
}

#[test]
fn finds_what_is_wrong() {
    let [source, sink] = ["1/1/a", "1/1/a/b"];
    let file = "0190000000007000800000000000000f";
    let whole: State = [
        (
            format!("entity/source/{source}"),
            serde_json::json!({"version": {"number": 1}}),
        ),
        (format!("version/source/{source}/0000000001"), Value::Null),
        (
            format!("entity/sink/{sink}"),
            serde_json::json!({"version": {"number": 2}}),
        ),
        (format!("version/sink/{sink}/0000000001"), Value::Null),
        (format!("version/sink/{sink}/0000000002"), Value::Null),
        (
            format!("entity/file/{sink}/{file}"),
            serde_json::json!({"id": file, "mappingVersion": 2, "state": {"name": "writing"}}),
        ),
        (
            format!("entity/current/{sink}"),
            serde_json::json!({"file": file}),
        ),
        (
            format!("entity/slice/{sink}/{file}"),
            serde_json::json!({"file": file, "state": {"name": "writing"}}),
        ),
        (
            "task/a/b".to_owned(),
            serde_json::json!({"status": "success"}),
        ),
    ]
    .into();
    assert_eq!(faults(&whole), Vec::<String>::new());
    // Each of these is needed, except for what only says what was.
    for key in whole.keys().filter(|key| {
        !key.starts_with("task/") && !key.ends_with("/0000000001") || key.contains("source")
    }) {
        let mut less = whole.clone();
        less.remove(key);
        assert!(!faults(&less).is_empty(), "without {key}");
    }
    for (key, value) in [
        ("lock/sink/1/1/a/b".to_owned(), Value::Null),
        (
            "task/a/c".to_owned(),
            serde_json::json!({"status": "processing"}),
        ),
        (format!("version/sink/{sink}/0000000003"), Value::Null),
        (format!("entity/slice/1/1/a/c/{file}"), Value::Null),
        ("entity/assignment/1/1/c".to_owned(), Value::Null),
        (
            format!("entity/sink/{sink}"),
            serde_json::json!({"version": {"number": 2}, "deleted": {"directly": true}}),
        ),
        (
            format!("entity/file/{sink}/0190000000007000800000000000000e"),
            serde_json::json!({"state": {"name": "writing"}}),
        ),
    ] {
        let mut more = whole.clone();
        more.insert(key.clone(), value);
        assert!(!faults(&more).is_empty(), "with {key}");
    }
}
