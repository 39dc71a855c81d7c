//! Settings of a source or sink that differ from the defaults.
//!
//! A sink's own setting beats its source's, which beats the configuration. Settings below `source.` are of sources only. Values are kept in the form in which clients
//! write them (`"30s"`, `"5MB"`, `1000`, `true`) and are checked by [`Settings::set`] before they are stored.

mod catalogue;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::idempotency::KeyMode;
use crate::level::{Compression, Durability, Levels};
use crate::rate::RateLimit;
use crate::unit::{ByteSize, Interval};

pub use catalogue::Catalogue;

/// Changed settings by full key, for example `storage.level.staging.upload.trigger.count`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(BTreeMap<String, Value>);

/// A setting that can be shown, and mostly changed.
#[derive(Debug)]
pub struct Spec {
    /// Full key.
    pub key: &'static str,
    /// JSON type of the value.
    pub kind: Kind,
    /// What it means, for people.
    pub description: &'static str,
    /// The accepted range in words; empty when the type says it all.
    pub validation: &'static str,
    /// Cannot be changed through the API.
    pub protected: bool,
    get: fn(&Levels) -> Value,
    set: fn(&mut Levels, &Value) -> Result<(), String>,
}

/// JSON type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Int,
    /// A text, also for sizes and durations.
    String,
    /// True or false.
    Bool,
    /// A list of texts.
    StringList,
}

impl Kind {
    /// The name used in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::String => "string",
            Self::Bool => "bool",
            Self::StringList => "[]string",
        }
    }
}

/// A setting that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting.
    #[error("there is no setting {key:?}")]
    Unknown {
        /// The key.
        key: String,
    },
    /// It cannot be changed through the API.
    #[error("setting {key:?} cannot be changed through the API")]
    Protected {
        /// The key.
        key: String,
    },
    /// The value has the wrong type or is out of range.
    #[error("setting {key:?} {reason}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with the value.
        reason: String,
    },
}

/// The path of the idempotency key in a record. Of a source only.
pub const KEY_PATH: &str = "idempotency.keyPath";
/// What becomes of idempotency keys whose volume is away. Of a source only.
pub const KEY_MODE: &str = "idempotency.mode";
/// The longest such path, in characters.
const MAX_KEY_PATH: usize = 256;

const COUNT_RANGE: std::ops::RangeInclusive<u64> = 1..=10_000_000;

const BYTES_PER_SECOND: &str = "source.http.rateLimit.bytesPerSecond";
const RECORDS_PER_SECOND: &str = "source.http.rateLimit.recordsPerSecond";

/// All settings, sorted by key.
pub const SPECS: &[Spec] = &[
    Spec {
        key: KEY_PATH,
        kind: Kind::String,
        description: "Where in a record its idempotency key is. Records of the source with the same value there are written once. Empty: keys come with requests, in the header Idempotency-Key.",
        validation: "empty, or a path as in a column, at most 256 characters; of sources only",
        protected: false,
        get: |levels| levels.key_path.clone().into(),
        set: |levels, value| {
            let path = value.as_str().ok_or("must be a text")?;
            if path.chars().count() > MAX_KEY_PATH {
                return Err("must have at most 256 characters".to_owned());
            }
            path.clone_into(&mut levels.key_path);
            Ok(())
        },
    },
    Spec {
        key: KEY_MODE,
        kind: Kind::String,
        description: "What becomes of idempotency keys whose volume is away. strict: they are refused until it is back. available: after a while other volumes take them over, which know nothing of keys used before.",
        validation: "strict or available; of sources only",
        protected: false,
        get: |levels| levels.key_mode.as_str().into(),
        set: |levels, value| {
            let mode = value.as_str().and_then(KeyMode::named);
            levels.key_mode = mode.ok_or("must be \"strict\" or \"available\"")?;
            Ok(())
        },
    },
    Spec {
        key: BYTES_PER_SECOND,
        kind: Kind::String,
        description: "Bytes of bodies that each process takes for the source in a second. More are refused with 429.",
        validation: "0B (no limit), or 1KB to 10GB",
        protected: false,
        get: |levels| ByteSize(levels.rate.bytes_or_zero()).to_string().into(),
        set: |levels, value| {
            levels.rate = RateLimit::new(levels.rate.records_or_zero(), byte_rate(value)?);
            Ok(())
        },
    },
    Spec {
        key: RECORDS_PER_SECOND,
        kind: Kind::Int,
        description: "Records that each process takes for the source in a second. More are refused with 429.",
        validation: "0 (no limit) to 10000000",
        protected: false,
        get: |levels| levels.rate.records_or_zero().into(),
        set: |levels, value| {
            levels.rate = RateLimit::new(record_rate(value)?, levels.rate.bytes_or_zero());
            Ok(())
        },
    },
    Spec {
        key: "storage.level.local.encoding.compression.type",
        kind: Kind::String,
        description: "Compression of slices.",
        validation: "zstd, gzip or none",
        protected: true,
        get: |levels| match levels.local.compression {
            Compression::None => "none".into(),
            Compression::Gzip { .. } => "gzip".into(),
            Compression::Zstd { .. } => "zstd".into(),
        },
        set: protected,
    },
    Spec {
        key: "storage.level.local.encoding.compression.zstd.level",
        kind: Kind::Int,
        description: "Effort of the zstd compression: higher is smaller and slower.",
        validation: "1 to 19",
        protected: true,
        get: |levels| match levels.local.compression {
            Compression::Zstd { level } => level.into(),
            Compression::None | Compression::Gzip { .. } => 1.into(),
        },
        set: protected,
    },
    Spec {
        key: "storage.level.local.encoding.sync.mode",
        kind: Kind::String,
        description: "Where a record must be before the request is answered: on the disk, or in the cache of the operating system.",
        validation: "disk or cache",
        protected: true,
        get: |levels| match levels.local.durability {
            Durability::Disk | Durability::Memory => "disk".into(),
            Durability::Cache => "cache".into(),
        },
        set: protected,
    },
    Spec {
        key: "storage.level.local.encoding.sync.wait",
        kind: Kind::Bool,
        description: "Whether the answer waits until the record is where the sync mode says. Without waiting, requests are answered 202.",
        validation: "",
        protected: false,
        get: |levels| (levels.local.durability != Durability::Memory).into(),
        set: |levels, value| {
            let wait = value.as_bool().ok_or("must be true or false")?;
            levels.local.durability = match (wait, levels.local.durability) {
                (false, _) => Durability::Memory,
                (true, Durability::Memory) => Durability::Disk,
                (true, durability) => durability,
            };
            Ok(())
        },
    },
    Spec {
        key: "storage.level.local.volume.assignment.count",
        kind: Kind::Int,
        description: "On how many volumes the rows of a source are spread.",
        validation: "1 to 100",
        protected: true,
        get: |levels| levels.local.assignment.count.into(),
        set: protected,
    },
    Spec {
        key: "storage.level.local.volume.assignment.preferredTypes",
        kind: Kind::StringList,
        description: "Types of volumes, the most preferred first.",
        validation: "one type at least",
        protected: true,
        get: |levels| levels.local.assignment.preferred_types.clone().into(),
        set: protected,
    },
    Spec {
        key: "storage.level.staging.upload.trigger.count",
        kind: Kind::Int,
        description: "Rows in a slice at which it is uploaded.",
        validation: "1 to 10000000",
        protected: false,
        get: |levels| levels.upload.count.into(),
        set: |levels, value| {
            levels.upload.count = count(value)?;
            Ok(())
        },
    },
    Spec {
        key: "storage.level.staging.upload.trigger.interval",
        kind: Kind::String,
        description: "Age of the first record in a slice at which it is uploaded.",
        validation: "1s to 30m",
        protected: false,
        get: |levels| levels.upload.interval.to_string().into(),
        set: |levels, value| {
            levels.upload.interval = interval(value, "1s", "30m")?;
            Ok(())
        },
    },
    Spec {
        key: "storage.level.staging.upload.trigger.size",
        kind: Kind::String,
        description: "Compressed size of a slice at which it is uploaded.",
        validation: "100B to 50MB",
        protected: false,
        get: |levels| levels.upload.size.to_string().into(),
        set: |levels, value| {
            levels.upload.size = size(value, "100B", "50MB")?;
            Ok(())
        },
    },
    Spec {
        key: "storage.level.target.import.trigger.count",
        kind: Kind::Int,
        description: "Rows in a file at which it is imported.",
        validation: "1 to 10000000",
        protected: false,
        get: |levels| levels.import.count.into(),
        set: |levels, value| {
            levels.import.count = count(value)?;
            Ok(())
        },
    },
    Spec {
        key: "storage.level.target.import.trigger.interval",
        kind: Kind::String,
        description: "Age of the first record in a file at which it is imported.",
        validation: "1s to 24h",
        protected: false,
        get: |levels| levels.import.interval.to_string().into(),
        set: |levels, value| {
            levels.import.interval = interval(value, "1s", "24h")?;
            Ok(())
        },
    },
    Spec {
        key: "storage.level.target.import.trigger.size",
        kind: Kind::String,
        description: "Compressed size of a file at which it is imported.",
        validation: "100B to 500MB",
        protected: false,
        get: |levels| levels.import.size.to_string().into(),
        set: |levels, value| {
            levels.import.size = size(value, "100B", "500MB")?;
            Ok(())
        },
    },
    Spec {
        key: "storage.level.target.import.trigger.slicesCount",
        kind: Kind::Int,
        description: "Slices in a file at which it is imported.",
        validation: "1 to 200",
        protected: true,
        get: |levels| levels.import.slices_count.into(),
        set: protected,
    },
];

fn protected(_: &mut Levels, _: &Value) -> Result<(), String> {
    Err("cannot be changed".to_owned())
}

fn count(value: &Value) -> Result<u64, String> {
    let count = value.as_u64().filter(|count| COUNT_RANGE.contains(count));
    count.ok_or_else(|| "must be a whole number from 1 to 10000000".to_owned())
}

fn record_rate(value: &Value) -> Result<u64, String> {
    let max = RateLimit::MAX_RECORDS;
    let rate = value.as_u64().filter(|rate| *rate <= max);
    rate.ok_or_else(|| format!("must be a whole number from 0 to {max}; 0 is no limit"))
}

fn byte_rate(value: &Value) -> Result<u64, String> {
    let rate = value.as_str().and_then(|text| text.parse().ok());
    let in_range =
        |ByteSize(rate): &ByteSize| matches!(rate, 0 | RateLimit::MIN_BYTES..=RateLimit::MAX_BYTES);
    let rate = rate.filter(in_range).map(|ByteSize(rate)| rate);
    rate.ok_or_else(|| "must be a size from 1KB to 10GB, or \"0B\" for no limit".to_owned())
}

fn interval(value: &Value, min: &str, max: &str) -> Result<Interval, String> {
    let parse = |text: &str| text.parse::<Interval>();
    let range = parse(min)
        .and_then(|min| Ok((min, parse(max)?)))
        .expect("the limits are written in this file");
    let interval = value.as_str().and_then(|text| parse(text).ok());
    interval
        .filter(|interval| (range.0..=range.1).contains(interval))
        .ok_or_else(|| format!("must be a duration from {min} to {max}, for example \"{min}\""))
}

fn size(value: &Value, min: &str, max: &str) -> Result<ByteSize, String> {
    let parse = |text: &str| text.parse::<ByteSize>();
    let range = parse(min)
        .and_then(|min| Ok((min, parse(max)?)))
        .expect("the limits are written in this file");
    let size = value.as_str().and_then(|text| parse(text).ok());
    size.filter(|size| (range.0..=range.1).contains(size))
        .ok_or_else(|| format!("must be a size from {min} to {max}, for example \"{max}\""))
}

/// Whether only sources have settings with such a key, not their sinks.
#[must_use]
pub fn is_of_sources(key: &str) -> bool {
    key.starts_with("source.") || key == KEY_PATH || key == KEY_MODE
}

fn spec(key: &str) -> Option<&'static Spec> {
    SPECS.iter().find(|spec| spec.key == key)
}

impl Spec {
    /// Whether only sources have the setting, not their sinks.
    #[must_use]
    pub fn is_of_sources(&self) -> bool {
        is_of_sources(self.key)
    }

    /// The value of the setting in these levels.
    #[must_use]
    pub fn value(&self, levels: &Levels) -> Value {
        (self.get)(levels)
    }
}

impl Settings {
    /// Changes a setting after checking it; `null` resets it.
    ///
    /// # Errors
    /// When there is no such setting, it is protected, or the value has the wrong type or is out of range.
    pub fn set(&mut self, levels: &Levels, key: &str, value: Value) -> Result<(), SettingError> {
        let spec = spec(key).ok_or_else(|| SettingError::Unknown {
            key: key.to_owned(),
        })?;
        if spec.protected {
            return Err(SettingError::Protected {
                key: key.to_owned(),
            });
        }
        if value.is_null() {
            self.0.remove(key);
            return Ok(());
        }
        (spec.set)(&mut levels.clone(), &value).map_err(|reason| SettingError::Value {
            key: key.to_owned(),
            reason,
        })?;
        self.0.insert(key.to_owned(), value);
        Ok(())
    }

    /// Whether the setting was changed here.
    #[must_use]
    pub fn overwrites(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The levels with these settings applied. A stored value that is no longer valid is passed over: an old setting must
    /// not keep a sink from working.
    #[must_use]
    pub fn apply(&self, levels: &Levels) -> Levels {
        let mut result = levels.clone();
        for (key, value) in &self.0 {
            if let Some(spec) = spec(key) {
                let mut changed = result.clone();
                if (spec.set)(&mut changed, value).is_ok() {
                    result = changed;
                }
            }
        }
        result
    }

    /// The rate of a source with these settings, where `configured` is that of others. A stored value that is no longer
    /// valid is passed over, as by [`Self::apply`].
    #[must_use]
    pub fn rate(&self, configured: RateLimit) -> RateLimit {
        let records = self.0.get(RECORDS_PER_SECOND).map(record_rate);
        let bytes = self.0.get(BYTES_PER_SECOND).map(byte_rate);
        let or = |own: Option<Result<u64, String>>, configured| {
            own.and_then(Result::ok).unwrap_or(configured)
        };
        RateLimit::new(
            or(records, configured.records_or_zero()),
            or(bytes, configured.bytes_or_zero()),
        )
    }

    /// The path of the idempotency key in each record of the source; none when keys come with requests.
    #[must_use]
    pub fn key_path(&self) -> Option<&str> {
        let path = self.0.get(KEY_PATH)?.as_str()?;
        (!path.is_empty()).then_some(path)
    }

    /// What becomes of the keys of the source whose volume is away.
    #[must_use]
    pub fn key_mode(&self) -> KeyMode {
        let name = self.0.get(KEY_MODE).and_then(Value::as_str);
        name.and_then(KeyMode::named).unwrap_or_default()
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::TableKind;
    use crate::level::Defaults;
    use serde_json::json;

    fn levels() -> Levels {
        Defaults::default().for_table(TableKind::Sqlite)
    }

    #[test]
    fn specs_are_sorted_and_exactly_seven_of_sinks_can_be_changed() {
        assert!(SPECS.is_sorted_by_key(|spec| spec.key));
        let changeable = || SPECS.iter().filter(|spec| !spec.protected);
        assert_eq!(changeable().filter(|spec| !spec.is_of_sources()).count(), 7);
        assert_eq!(changeable().filter(|spec| spec.is_of_sources()).count(), 4);
    }

    #[test]
    fn the_rates_of_a_source_are_set_one_by_one_and_zero_is_no_limit() {
        let mut settings = Settings::default();
        let configured = Levels {
            rate: RateLimit::new(7, 0),
            ..levels()
        };
        let mut set = |key: &str, value| {
            let key = format!("source.http.rateLimit.{key}");
            settings.set(&configured, &key, value).expect("in range");
            let rate = settings.apply(&configured).rate;
            assert_eq!(settings.rate(configured.rate), rate);
            rate
        };
        assert_eq!(
            set("bytesPerSecond", json!("1MB")),
            RateLimit::new(7, 1 << 20)
        );
        assert_eq!(
            set("recordsPerSecond", json!(0)),
            RateLimit::new(0, 1 << 20)
        );
        assert_eq!(
            set("recordsPerSecond", json!(500)),
            RateLimit::new(500, 1 << 20)
        );
        assert_eq!(set("bytesPerSecond", json!("0B")), RateLimit::new(500, 0));
        assert_eq!(set("recordsPerSecond", Value::Null), RateLimit::new(7, 0));
    }

    #[test]
    fn sink_beats_source_beats_defaults() {
        let key = "storage.level.staging.upload.trigger.count";
        let (mut source, mut sink) = (Settings::default(), Settings::default());
        source.set(&levels(), key, json!(500)).expect("in range");
        assert_eq!(sink.apply(&source.apply(&levels())).upload.count, 500);
        sink.set(&levels(), key, json!(7)).expect("in range");
        assert_eq!(sink.apply(&source.apply(&levels())).upload.count, 7);
        sink.set(&levels(), key, Value::Null).expect("null resets");
        assert_eq!(sink.apply(&source.apply(&levels())).upload.count, 500);
    }

    #[test]
    fn every_value_that_is_shown_is_accepted_back() {
        for spec in SPECS.iter().filter(|spec| !spec.protected) {
            let mut settings = Settings::default();
            settings
                .set(&levels(), spec.key, spec.value(&levels()))
                .expect(spec.key);
        }
    }

    #[test]
    fn wrong_keys_types_and_ranges_are_refused() {
        let mut settings = Settings::default();
        let mut set = |key: &str, value| settings.set(&levels(), key, value);
        assert!(matches!(
            set("nope", json!(1)),
            Err(SettingError::Unknown { .. })
        ));
        assert!(matches!(
            set("storage.level.local.encoding.sync.mode", json!("cache")),
            Err(SettingError::Protected { .. })
        ));
        for (key, value) in [
            ("storage.level.staging.upload.trigger.count", json!(0)),
            ("storage.level.staging.upload.trigger.count", json!("5")),
            ("storage.level.staging.upload.trigger.interval", json!("0s")),
            (
                "storage.level.staging.upload.trigger.interval",
                json!("31m"),
            ),
            ("storage.level.staging.upload.trigger.size", json!("1GB")),
            ("storage.level.local.encoding.sync.wait", json!("yes")),
            ("source.http.rateLimit.recordsPerSecond", json!(10_000_001)),
            ("source.http.rateLimit.recordsPerSecond", json!(-1)),
            ("source.http.rateLimit.recordsPerSecond", json!(1.5)),
            ("source.http.rateLimit.bytesPerSecond", json!("1023B")),
            ("source.http.rateLimit.bytesPerSecond", json!("11GB")),
            ("source.http.rateLimit.bytesPerSecond", json!(5000)),
            (KEY_PATH, json!(1)),
            (KEY_MODE, json!("lenient")),
            (KEY_MODE, json!(true)),
            (KEY_PATH, json!("x".repeat(257))),
        ] {
            assert!(
                matches!(set(key, value.clone()), Err(SettingError::Value { .. })),
                "{key} {value}"
            );
        }
        assert!(settings.is_empty());
    }
}
