//! What users define: sources, sinks, the mapping of records to rows, and settings.

pub mod actor;
pub mod mapping;
pub mod project;
pub mod settings;
pub mod sink;
pub mod source;
pub mod token;

use sha2::{Digest, Sha256};

pub use actor::{Actor, Stamp, Version};
pub use mapping::{Column, ColumnKind, Mapping};
pub use project::Project;
pub use settings::Settings;
pub use sink::{Sink, Table, TableKind, TablePlace};
pub use source::Source;
pub use token::Token;

/// SHA-256 in hexadecimal.
pub(crate) fn sha256_hex(text: &str) -> String {
    use std::fmt::Write;

    let hash = Sha256::digest(text.as_bytes());
    hash.iter()
        .fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
            hex
        })
}

/// The most characters a display name may have.
pub const MAX_NAME_LEN: usize = 40;
/// The most characters a description may have.
pub const MAX_DESCRIPTION_LEN: usize = 4096;
/// The most sources of a branch, and the most sinks of a source.
pub const MAX_CHILDREN: usize = 100;
