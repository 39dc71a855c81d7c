//! The layers put on top of each other: for every key the winning value and where it came from.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ConfigError;
use super::flags::ParsedFlags;
use super::keys::{Key, KeySet, env_name, flag_name, to_object};
use super::value::{self, Raw};
use super::{DumpFormat, MASK, file};

/// Which layer gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is the default.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Env(String),
    /// This flag, without its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// One key with its value, for people. Secrets are masked.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Its value, `*****` for a secret that is set.
    pub value: Value,
    /// Where the value came from.
    pub origin: Origin,
}

/// The configuration of this process, before it is turned into a struct.
pub struct Layers {
    keys: KeySet,
    /// One for each key, at the same position.
    values: Vec<(Raw, Origin)>,
    secrets: HashSet<String>,
    warnings: Vec<String>,
}

impl fmt::Debug for Layers {
    /// Without values: some are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |(at, key): (usize, &Key)| {
            let origin = &self.values[at].1;
            (*origin != Origin::Default).then(|| (key.path.clone(), origin.to_string()))
        };
        f.debug_map()
            .entries(self.keys.iter().enumerate().filter_map(set))
            .finish()
    }
}

impl Layers {
    /// Puts together the defaults of `T`, the files named by flag (else by `<prefix>CONFIG_FILE`,
    /// by comma), the variables that start with `env_prefix`, and the flags.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or sets an unknown key, a variable of ours that is not text, or a
    /// flag of another struct.
    pub fn collect<T: Serialize + Default>(
        env_prefix: &str,
        env: impl Iterator<Item = (OsString, OsString)>,
        flags: &ParsedFlags,
    ) -> Result<Self, ConfigError> {
        let keys = KeySet::of::<T>()?;
        let default = |key: &Key| (Raw::Json(key.default.clone()), Origin::Default);
        let values = keys.iter().map(default).collect();
        let mut layers = Self {
            keys,
            values,
            secrets: HashSet::new(),
            warnings: Vec::new(),
        };
        let env = Environment::read(env_prefix, env)?;
        let files = if flags.config_files.is_empty() {
            &env.config_files
        } else {
            &flags.config_files
        };
        for file in files {
            layers.add_file(file.clone())?;
        }
        layers.add_env(env_prefix, env.variables);
        layers.add_flags(&flags.flags)?;
        Ok(layers)
    }

    /// Declares keys whose values must never be seen.
    ///
    /// # Panics
    ///
    /// When there is no such key: a misspelled one would be shown.
    #[must_use]
    pub fn with_secrets(mut self, keys: &[&str]) -> Self {
        for key in keys {
            assert!(self.keys.get(key).is_some(), "secret {key} is not a key");
            self.secrets.insert((*key).to_owned());
        }
        self
    }

    /// The configuration as the struct `T`. Its own defaults fill nothing in: every key has a value
    /// here.
    ///
    /// # Errors
    ///
    /// The first value that its key does not take, with the key and where the value came from.
    pub fn extract<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let leaves = self.keys.iter().zip(&self.values);
        let leaves = leaves.map(|(key, (raw, _))| (key.path.as_str(), raw, &key.default));
        value::deserialize(leaves).map_err(|(key, reason)| {
            let reason = if self.secrets.contains(&key) {
                "the value is not accepted (it is a secret and not shown)".to_owned()
            } else {
                reason
            };
            ConfigError::Value {
                origin: self.origin(&key),
                key,
                reason,
            }
        })
    }

    /// Where the value of `key` came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.keys
            .position(key)
            .map_or(Origin::Default, |at| self.values[at].1.clone())
    }

    /// Every key as given, in the order of the struct.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let entry =
            |(key, (raw, _)): (&Key, &(Raw, Origin))| self.entry(key, raw.shown(&key.default));
        self.keys.iter().zip(&self.values).map(entry).collect()
    }

    /// Every key with the value it has in `effective`: the extracted struct, after defaults that
    /// depend on other keys have been filled in.
    ///
    /// # Errors
    ///
    /// When the struct cannot be serialised.
    pub fn entries_of<T: Serialize>(&self, effective: &T) -> Result<Vec<Entry>, ConfigError> {
        let object = to_object(effective)?;
        let value_of = |key: &Key| {
            key.path
                .split('.')
                .try_fold(&object, |value, name| value.get(name))
                .cloned()
        };
        let entry = |key: &Key| self.entry(key, value_of(key).unwrap_or_default());
        Ok(self.keys.iter().map(entry).collect())
    }

    /// What is odd but not wrong, for the log: variables that start with the prefix and are no
    /// keys.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn entry(&self, key: &Key, value: Value) -> Entry {
        let is_set = !matches!(&value, Value::Null) && value != Value::String(String::new());
        let masked = is_set && self.secrets.contains(&key.path);
        let value = if masked {
            Value::String(MASK.to_owned())
        } else {
            value
        };
        Entry {
            key: key.path.clone(),
            value,
            origin: self.origin(&key.path),
        }
    }

    fn add_file(&mut self, path: PathBuf) -> Result<(), ConfigError> {
        let values = &mut self.values;
        file::read(&path, &self.keys, &mut |at, value| {
            values[at] = (Raw::Json(value), Origin::File(path.clone()));
        })
    }

    fn add_env(&mut self, prefix: &str, variables: Vec<(String, String)>) {
        for (name, text) in variables {
            let key = self
                .keys
                .iter()
                .position(|key| env_name(prefix, &key.path) == name);
            if let Some(at) = key {
                self.values[at] = (Raw::Text(text), Origin::Env(name));
            } else if !is_service_link(&name, &text) {
                let nearest = self.keys.nearest_env(prefix, &name);
                self.warnings.push(format!(
                    "environment variable {name} is not a setting; did you mean {nearest}?"
                ));
            }
        }
    }

    fn add_flags(&mut self, flags: &BTreeMap<String, String>) -> Result<(), ConfigError> {
        for (key, text) in flags {
            let flag = flag_name(key);
            let Some(at) = self.keys.position(key) else {
                // Parsed with the keys of another struct, or not parsed at all.
                let nearest = self.keys.nearest_flag(&flag);
                return Err(ConfigError::UnknownFlag {
                    flag: format!("--{flag}"),
                    nearest,
                });
            };
            self.values[at] = (Raw::Text(text.clone()), Origin::Flag(flag));
        }
        Ok(())
    }
}

/// The variables that are ours.
struct Environment {
    config_files: Vec<PathBuf>,
    /// Sorted by name, so that warnings have an order.
    variables: Vec<(String, String)>,
}

impl Environment {
    fn read(
        prefix: &str,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let config_file = env_name(prefix, "config-file");
        let mut read = Self {
            config_files: Vec::new(),
            variables: Vec::new(),
        };
        for (name, value) in env {
            // A name that is not text cannot be one of ours.
            let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else {
                continue;
            };
            let Ok(value) = value.into_string() else {
                return Err(ConfigError::NotText(name.to_owned()));
            };
            if name == config_file {
                let files = value
                    .split(',')
                    .map(str::trim)
                    .filter(|file| !file.is_empty());
                read.config_files = files.map(PathBuf::from).collect();
            } else {
                read.variables.push((name.to_owned(), value));
            }
        }
        read.variables.sort_unstable();
        Ok(read)
    }
}

/// Kubernetes sets variables such as `STREAM_API_SERVICE_HOST` for every service of the namespace,
/// so that a service called `stream-api` would cause a page of warnings.
fn is_service_link(name: &str, text: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT") && (text.starts_with("tcp://") || text.starts_with("udp://")))
        || [
            "_TCP_ADDR",
            "_TCP_PORT",
            "_TCP_PROTO",
            "_UDP_ADDR",
            "_UDP_PORT",
            "_UDP_PROTO",
        ]
        .iter()
        .any(|end| name.ends_with(end))
}

/// Writes entries as one nested document.
#[must_use]
pub fn dump(entries: &[Entry], format: DumpFormat) -> String {
    let mut document = Map::new();
    for entry in entries {
        let mut group = &mut document;
        let (groups, name) = match entry.key.rsplit_once('.') {
            Some((groups, name)) => (Some(groups), name),
            None => (None, entry.key.as_str()),
        };
        for part in groups.into_iter().flat_map(|groups| groups.split('.')) {
            let next = group
                .entry(part)
                .or_insert_with(|| Value::Object(Map::new()));
            group = next
                .as_object_mut()
                .expect("a key is never a group as well");
        }
        group.insert(name.to_owned(), entry.value.clone());
    }
    match format {
        DumpFormat::Json => {
            let mut text =
                serde_json::to_string_pretty(&document).expect("a JSON value serialises");
            text.push('\n');
            text
        }
        DumpFormat::Yaml => {
            serde_yaml_ng::to_string(&document).expect("a JSON value can be written as YAML")
        }
    }
}
