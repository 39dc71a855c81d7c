//! Who did something, and when.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Actor {
    /// The service itself.
    System,
    /// The holder of an API token.
    #[serde(rename_all = "camelCase")]
    User {
        /// Identifier of the token, not the token.
        token_id: String,
        /// Description of the token.
        token_desc: String,
        /// Identifier of the person, where the token service knows it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        user_id: String,
        /// Name of the person, where the token service knows it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        user_name: String,
    },
}

/// That something happened, when and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: Actor,
}

/// One version of a definition. Numbers are dense from 1 within the entity and never reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The number.
    pub number: u64,
    /// 16 hexadecimal digits over the content, so that equal content is recognised.
    pub hash: String,
    /// What changed, in a sentence.
    pub description: String,
    /// When it was made.
    pub at: Timestamp,
    /// Who made it.
    pub by: Actor,
}

/// The content hash of a version: the first 16 hexadecimal digits of SHA-256 over the JSON of `content`.
#[must_use]
pub fn content_hash(content: &impl Serialize) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write;

    let json = serde_json::to_vec(content).expect("definitions always serialise");
    Sha256::digest(json)
        .iter()
        .take(8)
        .fold(String::with_capacity(16), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
            hex
        })
}
