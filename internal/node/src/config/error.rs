//! What can be wrong with a configuration, each told with the way out.

use std::io;
use std::path::PathBuf;

use super::layers::Origin;

/// Why the configuration is refused. Never contains the value of a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag nobody knows.
    #[error("unknown flag {flag}; did you mean {nearest}?")]
    UnknownFlag {
        /// As written.
        flag: String,
        /// The known flag most like it.
        nearest: String,
    },
    /// The arguments are not understood for another reason.
    #[error("{0}")]
    Usage(String),
    /// A file sets a key nobody knows.
    #[error("unknown key {key} in {}; did you mean {nearest}?", file.display())]
    UnknownKey {
        /// The whole key.
        key: String,
        /// Where it stands.
        file: PathBuf,
        /// The known key most like it.
        nearest: String,
    },
    /// A file sets a group of keys to a single value.
    #[error("{key} in {} is a group of keys, such as {example}, and cannot have a value of its own", file.display())]
    Group {
        /// The group; `the file` when it is the whole file.
        key: String,
        /// Where it stands.
        file: PathBuf,
        /// A key of the group.
        example: String,
    },
    /// A configuration file that is neither YAML nor JSON by its name.
    #[error("configuration file {} must end with .yml, .yaml or .json", .0.display())]
    Extension(PathBuf),
    /// A configuration file cannot be read.
    #[error("cannot read configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A configuration file is not what its name says.
    #[error("configuration file {} is not valid: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the position.
        reason: String,
    },
    /// A variable that is not text.
    #[error("the value of {0} is not valid UTF-8")]
    NotText(String),
    /// A value that its key does not take.
    #[error("{key} ({origin}): {reason}")]
    Value {
        /// The key.
        key: String,
        /// Which layer gave the value.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
    /// The struct itself cannot be written as JSON. A mistake of the programmer, found by any test.
    #[error("the configuration cannot be serialised: {0}")]
    Struct(String),
}
