//! What a sink needs in a Keboola project beside its table: a token of its own and a staging file.
//!
//! The state has two records of it. A [`Destination`] is what a live sink works with. A [`Provisioning`] exists while that is
//! being made, changed or given back, and is written before anything is made elsewhere: after a crash it says what may be there.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A text that only the holders of the installation's key can read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl Sealed {
    /// Takes what a key has sealed.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The sealed text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}

/// What a sink works with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The table.
    pub table_id: String,
    /// The token, which may write to the bucket of the table and nothing else.
    pub token: ScopedToken,
    /// The file.
    pub file: StagingFile,
}

/// A token that was made for one sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopedToken {
    /// Its identifier.
    pub id: String,
    /// The token itself.
    pub sealed: Sealed,
}

/// A place for rows that was prepared for one sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagingFile {
    /// Its identifier.
    pub id: u64,
    /// Where it is, and the keys to it.
    pub sealed: Sealed,
}

/// A change of a destination that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provisioning {
    /// When it began.
    pub began_at: Timestamp,
    /// Part of the names of all that is made, so that it is found again.
    pub mark: String,
    /// The token of the person who asked for it, which can undo it.
    pub owner: Sealed,
    /// The table of the destination to be; none when it is only given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_id: Option<String>,
    /// The bucket, once it is known whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Origin>,
    /// The table, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Origin>,
    /// The token, once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<ScopedToken>,
    /// The file, once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<StagingFile>,
    /// What the sink worked with before and is to be given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Destination>,
}

/// Where a bucket or table comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// It was there.
    Found,
    /// It was not there, so it is made; or was about to be when the process ended.
    Made,
    /// It goes with the sink, whoever made it.
    Discarded,
}

impl Provisioning {
    /// The destination, when everything is made.
    #[must_use]
    pub fn destination(&self) -> Option<Destination> {
        self.table?;
        Some(Destination {
            table_id: self.table_id.clone()?,
            token: self.token.clone()?,
            file: self.file.clone()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_there_when_all_its_parts_are() {
        let sealed = || Sealed::new("x".to_owned());
        let mut provisioning = Provisioning {
            began_at: Timestamp::from_millis(0),
            mark: "m".to_owned(),
            owner: sealed(),
            table_id: Some("in.c-a.b".to_owned()),
            bucket: Some(Origin::Found),
            table: Some(Origin::Made),
            token: Some(ScopedToken {
                id: "1".to_owned(),
                sealed: sealed(),
            }),
            file: None,
            replaced: None,
        };
        assert_eq!(provisioning.destination(), None);
        provisioning.file = Some(StagingFile {
            id: 2,
            sealed: sealed(),
        });
        assert!(provisioning.destination().is_some());
        provisioning.table = None;
        assert_eq!(provisioning.destination(), None);
    }

    #[test]
    fn a_sealed_text_is_not_printed() {
        let sealed = Sealed::new("abc".to_owned());
        assert_eq!(format!("{sealed:?}"), "Sealed(…)");
    }
}
