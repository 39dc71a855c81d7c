//! The state as JSON Lines: one object per key, for programs.

use serde_json::{Value, json};
use stream_model::definition::Source;

use super::picture::{Picture, known};
use super::{Entry, Snapshot, shown_key};
use crate::codec;
use crate::keyspace::Key;
use crate::store::Versioned;

/// What stands for a secret.
const MASK: &str = "***";

/// Every entry as one line, `{"key":…,"revision":…,"value":{…}}`, sorted by key. A value that cannot be read is left out,
/// and `unreadable` says why. Secrets of sources are masked, hashes of tokens shortened.
#[must_use]
pub fn json_lines(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for entry in &snapshot.entries {
        text.push_str(&line(entry).to_string());
        text.push('\n');
    }
    text
}

fn line(entry: &Entry) -> Value {
    let mut line = json!({"key": shown_key(&entry.key), "revision": entry.revision});
    match readable(entry) {
        Ok(value) => line["value"] = value,
        Err(reason) => line["unreadable"] = reason.into(),
    }
    line
}

/// The value, if this version can read it: what it cannot read may hold a secret in a place that it does not know.
fn readable(entry: &Entry) -> Result<Value, String> {
    let (_, findings) = Picture::read(std::slice::from_ref(entry));
    let own = shown_key(&entry.key);
    if let Some(finding) = findings
        .into_iter()
        .find(|finding| finding.is_about_reading(&own))
    {
        return Err(finding.detail);
    }
    let not_json = |_| "it is not JSON".to_owned();
    match known(&entry.key) {
        Some(Key::Source(_) | Key::SourceVersion(..)) => {
            // What this version knows of it, and no more.
            let stored = Versioned::<Source>::decode(&entry.key, &entry.value, entry.revision);
            let source = stored.map_err(|error| error.to_string())?.value;
            let mut value: Value =
                serde_json::from_slice(&codec::encode(&source)).map_err(not_json)?;
            value["kind"]["secret"] = MASK.into();
            Ok(value)
        }
        _ => serde_json::from_slice(&entry.value).map_err(not_json),
    }
}
