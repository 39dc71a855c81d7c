//! Local API tokens. State holds only their hashes.

use serde::{Deserialize, Serialize};

use super::actor::Actor;
use super::sha256_hex;
use crate::secret::Secret;
use crate::time::Timestamp;

/// An API token as stored: everything but the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Short identifier for lists and for the author of versions.
    pub id: String,
    /// What it is for.
    pub description: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Only requests that change nothing.
    ReadOnly,
}

impl Token {
    /// The holder as the author of a change.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::User {
            token_id: self.id.clone(),
            token_desc: self.description.clone(),
            user_id: String::new(),
            user_name: String::new(),
        }
    }
}

/// The key under which a token is stored: SHA-256 of the token, in hexadecimal.
///
/// A plain hash is enough because tokens are 256 random bits, not passwords: there is nothing to guess from a leaked hash.
/// Looking a token up by its hash also takes no time that depends on how much of it was right.
#[must_use]
pub fn token_hash(token: &Secret<String>) -> String {
    sha256_hex(token.expose())
}
