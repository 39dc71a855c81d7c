//! A source: one URL that takes records.

use serde::{Deserialize, Serialize};

use super::actor::{Stamp, Version};
use super::settings::Settings;
use super::sink::Switch;
use crate::key::SourceKey;
use crate::secret::Secret;

/// Length of the secret in a source's URL, in alphanumeric characters: 48 × log2(62) ≈ 285 bits.
pub const SECRET_LEN: usize = 48;

/// A source as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Which source.
    pub key: SourceKey,
    /// How records arrive.
    pub kind: SourceKind,
    /// Display name, 1–40 characters.
    pub name: String,
    /// Description, at most 4096 characters.
    pub description: String,
    /// The current version.
    pub version: Version,
    /// When and by whom it was first created.
    pub created: Stamp,
    /// Set while the source is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Switch>,
    /// Set after the source was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Switch>,
    /// Set while it is being purged: deleted for good, with everything that belongs to it. It is deleted then, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purging: Option<Stamp>,
    /// Settings changed from the defaults; they apply to all sinks of the source that do not change them again.
    #[serde(default)]
    pub settings: Settings,
}

impl Source {
    /// Whether it takes records.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.disabled.is_none() && self.deleted.is_none()
    }
}

/// How records arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum SourceKind {
    /// By HTTP POST to a URL that ends in the secret.
    Http {
        /// The last segment of the URL. Whoever knows it may write.
        secret: Secret<String>,
    },
}
