//! Configuration files: which key each leaf of the document belongs to.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::error::ConfigError;
use super::keys::{KeySet, join};

/// Reads the file and calls `set` for every key it gives a value.
pub(super) fn read(
    path: &Path,
    keys: &KeySet,
    set: &mut impl FnMut(usize, Value),
) -> Result<(), ConfigError> {
    let document = parse(path)?;
    Document { path, keys }.visit("", document, set)
}

fn parse(path: &Path) -> Result<Value, ConfigError> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_json = match extension {
        Some("json") => true,
        Some("yml" | "yaml") => false,
        _ => return Err(ConfigError::Extension(path.to_owned())),
    };
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let syntax = |reason: String| ConfigError::Syntax {
        path: path.to_owned(),
        reason,
    };
    if is_json {
        serde_json::from_str(&text).map_err(|error| syntax(error.to_string()))
    } else {
        serde_yaml_ng::from_str(&text).map_err(|error| syntax(error.to_string()))
    }
}

struct Document<'a> {
    path: &'a Path,
    keys: &'a KeySet,
}

impl Document<'_> {
    fn visit(
        &self,
        path: &str,
        value: Value,
        set: &mut impl FnMut(usize, Value),
    ) -> Result<(), ConfigError> {
        if let Some(key) = self.keys.position(path) {
            set(key, value);
            return Ok(());
        }
        let Some(example) = self.keys.first_of_group(path) else {
            return Err(ConfigError::UnknownKey {
                key: path.to_owned(),
                file: self.path.to_owned(),
                nearest: self.keys.nearest_path(path),
            });
        };
        match value {
            // A group whose keys are all commented out, or an empty file.
            Value::Null => Ok(()),
            Value::Object(fields) => fields
                .into_iter()
                .try_for_each(|(name, field)| self.visit(&join(path, &name), field, set)),
            _ => Err(ConfigError::Group {
                key: if path.is_empty() {
                    "the file".to_owned()
                } else {
                    path.to_owned()
                },
                file: self.path.to_owned(),
                example: example.path.clone(),
            }),
        }
    }
}
