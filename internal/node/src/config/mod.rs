//! Layered configuration over any serde struct: defaults < files < environment < flags.
//!
//! The struct is the only place where a key is declared. Its default value, serialised as JSON,
//! yields the set of keys (every leaf, nested names joined by dots), and one rule spells each of
//! them in every layer:
//!
//! | layer | `storage.metadataCleanup.enable` |
//! |---|---|
//! | file (YAML, JSON) | `storage: { metadataCleanup: { enable: … } }` |
//! | environment | `STREAM_STORAGE_METADATA_CLEANUP_ENABLE` |
//! | flag | `--storage-metadata-cleanup-enable` |
//!
//! An unknown key or flag is an error that names the nearest known one; an unknown variable is a
//! warning, because others may use the prefix too. Nothing is ever ignored silently.
//!
//! Requirements on the struct: `Default`, serialises to nested objects in camelCase, without
//! `skip_serializing_if` (what is skipped is no key). An `Option` is a key whose default is `null`.
//! The binary owns the struct and validates what it has extracted; this module knows no key by
//! name.
//!
//! Secrets: values of the keys named in [`Layers::with_secrets`] are shown as `*****` and left out
//! of errors.

mod error;
mod file;
mod flags;
mod keys;
mod layers;
mod value;

pub use error::ConfigError;
pub use flags::{Help, ParsedFlags, parse_flags};
pub use keys::{env_name, flag_name};
pub use layers::{Entry, Layers, Origin, dump};

/// Variables of ours start with this.
pub const ENV_PREFIX: &str = "STREAM_";

/// What a secret is shown as.
pub const MASK: &str = "*****";

/// Format of `--dump-config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpFormat {
    /// JSON, indented.
    Json,
    /// YAML.
    Yaml,
}

#[cfg(test)]
mod tests;
