//! The set of keys, derived from the default value, and how each is spelled in each layer.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::error::ConfigError;

/// Flags that are no keys. A key must not be spelled like them.
pub(super) const RESERVED_FLAGS: [&str; 4] = ["config-file", "dump-config", "help", "version"];

/// One leaf of the configuration.
pub(super) struct Key {
    /// Names of the struct's fields, joined by dots.
    pub(super) path: String,
    pub(super) flag: String,
    pub(super) default: Value,
}

/// Every key, in the order of the struct.
pub(super) struct KeySet {
    keys: Vec<Key>,
    by_path: HashMap<String, usize>,
}

impl KeySet {
    pub(super) fn of<T: Serialize + Default>() -> Result<Self, ConfigError> {
        let mut keys = Vec::new();
        flatten(&to_object(&T::default())?, "", &mut |path, default| {
            keys.push(Key {
                path: path.to_owned(),
                flag: flag_name(path),
                default: default.clone(),
            });
        });
        let set = Self {
            by_path: keys
                .iter()
                .enumerate()
                .map(|(at, key)| (key.path.clone(), at))
                .collect(),
            keys,
        };
        set.assert_unambiguous();
        Ok(set)
    }

    fn assert_unambiguous(&self) {
        let mut spelled: HashMap<&str, &str> = RESERVED_FLAGS
            .iter()
            .map(|flag| (*flag, "a flag of its own"))
            .collect();
        for key in &self.keys {
            let other = spelled.insert(&key.flag, &key.path);
            assert!(
                other.is_none(),
                "key {} is spelled --{} like {}",
                key.path,
                key.flag,
                other.unwrap_or_default()
            );
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    pub(super) fn position(&self, path: &str) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    pub(super) fn get(&self, path: &str) -> Option<&Key> {
        self.position(path).map(|at| &self.keys[at])
    }

    /// The first key of the group `path`; `None` if there is no such group. The empty path is the
    /// group of all.
    pub(super) fn first_of_group(&self, path: &str) -> Option<&Key> {
        self.keys.iter().find(|key| {
            path.is_empty()
                || key
                    .path
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// The known key most like `path`.
    pub(super) fn nearest_path(&self, path: &str) -> String {
        nearest(path, self.keys.iter().map(|key| key.path.as_str())).to_owned()
    }

    /// The known flag most like `flag`, both with their dashes.
    pub(super) fn nearest_flag(&self, flag: &str) -> String {
        let flags = self.keys.iter().map(|key| key.flag.as_str());
        let flags = flags.chain(RESERVED_FLAGS);
        format!("--{}", nearest(flag.trim_start_matches('-'), flags))
    }

    /// The known variable most like `name`.
    pub(super) fn nearest_env(&self, prefix: &str, name: &str) -> String {
        let rest = name
            .strip_prefix(prefix)
            .unwrap_or(name)
            .replace('_', "-")
            .to_lowercase();
        let flags = self.keys.iter().map(|key| key.flag.as_str());
        format!("{prefix}{}", screaming(nearest(&rest, flags)))
    }
}

/// The JSON object that `value` serialises to.
pub(super) fn to_object<T: Serialize>(value: &T) -> Result<Value, ConfigError> {
    match serde_json::to_value(value) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => Err(ConfigError::Struct("it is not an object".to_owned())),
        Err(error) => Err(ConfigError::Struct(error.to_string())),
    }
}

/// Calls `visit` for every leaf: whatever is not an object, and objects without fields.
pub(super) fn flatten(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                assert!(
                    !name.contains('.'),
                    "field {name:?} of {path:?} must not contain a dot"
                );
                flatten(field, &join(path, name), visit);
            }
        }
        leaf => visit(path, leaf),
    }
}

/// The key of the field `name` in the group `path`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    let wanted = wanted.to_lowercase();
    let likeness = |name: &str| {
        let name = name.to_lowercase();
        // A key written at the wrong depth is like the end of the right one.
        let end = name
            .get(name.len().saturating_sub(wanted.len())..)
            .unwrap_or_default();
        let whole = strsim::normalized_damerau_levenshtein(&wanted, &name);
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(&wanted, end))
    };
    known
        .map(|name| (likeness(name), name))
        // The first of several equals: `max_by` would take the last.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map_or("", |(_, name)| name)
}

/// The flag of a key, without dashes in front: `nodeID` → `node-id`, `debugHTTPClient` →
/// `debug-http-client`.
#[must_use]
pub fn flag_name(path: &str) -> String {
    let chars: Vec<char> = path.chars().collect();
    let mut flag = String::with_capacity(path.len() + 8);
    for (at, &char) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| chars[before]);
        let after = chars.get(at + 1);
        // A word starts after a small letter or digit, and at the last capital of a run that small
        // letters follow.
        let starts_word = char.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase()
                    || before.is_ascii_digit()
                    || (before.is_ascii_uppercase() && after.is_some_and(char::is_ascii_lowercase))
            });
        if starts_word {
            flag.push('-');
        }
        flag.push(if char.is_ascii_alphanumeric() {
            char.to_ascii_lowercase()
        } else {
            '-'
        });
    }
    flag
}

/// The variable of a key: `api.publicUrl` → `STREAM_API_PUBLIC_URL`.
#[must_use]
pub fn env_name(prefix: &str, path: &str) -> String {
    format!("{prefix}{}", screaming(&flag_name(path)))
}

pub(super) fn screaming(flag: &str) -> String {
    flag.replace('-', "_").to_uppercase()
}
