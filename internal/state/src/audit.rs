//! The whole state at one revision, for people: which rules it breaks, and what it looks like.
//!
//! Every verb of the repository keeps the rules of one change. What is checked here is what must hold between all keys
//! together, whoever wrote them: this version, an older one, a restored backup, or a person with `etcdctl`.
//!
//! Owned by whoever asks for it; the service itself never calls it. Invariants:
//!
//! * It reads and never writes. All entries are of one revision, so a finding is never an effect of reading in the middle
//!   of a change.
//! * What the service does by itself breaks no rule at any revision, also not while a file is being closed or cleaned up.
//!   So a finding is always something that a person should look at.
//! * Neither findings nor pictures quote a value that cannot be read, the secret of a source, or the hash of a token.
//! * [`check`], [`tree`] and [`json_lines`] are pure.
//!
//! It refuses to repair anything, and to judge ages: a file that waits for hours breaks no rule.

mod bounds;
mod definition;
mod file;
mod lines;
mod picture;
mod rule;
mod slice;
mod surroundings;
mod tree;

use std::fmt;

use stream_model::Timestamp;

use crate::error::StateError;
use crate::store::Store;

pub use lines::json_lines;
pub use tree::tree;

use picture::Picture;

/// A key and its value as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key, without the namespace.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// etcd's `mod_revision` of the key.
    pub revision: i64,
}

impl fmt::Debug for Entry {
    /// Leaves out the value: it may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &shown_key(&self.key))
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// Everything under the namespace at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision.
    pub revision: i64,
    /// All entries, sorted by key.
    pub entries: Vec<Entry>,
}

/// A rule that the state breaks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The key that breaks it, or that is missing. The hash in the key of a token is shortened.
    pub key: String,
    /// The rule.
    pub rule: &'static str,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            rule,
            detail,
            advice,
        } = self;
        write!(f, "{}: {rule}: {}; {advice}", escaped(key), escaped(detail))
    }
}

impl Store {
    /// Reads everything under the namespace as of one revision.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn snapshot(&self) -> Result<Snapshot, StateError> {
        let listed = self.scan_all().await?;
        let entries = listed.entries.into_iter().map(|entry| Entry {
            key: entry.key,
            value: entry.value,
            revision: entry.revision,
        });
        Ok(Snapshot {
            revision: listed.revision,
            entries: entries.collect(),
        })
    }
}

/// Checks every rule, and returns what breaks one, sorted by key. `now` is for tasks that never end.
///
/// A key that cannot be read is one finding. Rules for which its value would be needed are not checked then, so that one
/// damaged key does not put others under suspicion.
#[must_use]
pub fn check(entries: &[Entry], now: Timestamp) -> Vec<Finding> {
    let (picture, mut findings) = Picture::read(entries);
    bounds::check_texts(&picture, &mut findings);
    definition::check(&picture, &mut findings);
    file::check(&picture, &mut findings);
    slice::check(&picture, &mut findings);
    surroundings::check(&picture, now, &mut findings);
    findings.sort();
    findings
}

/// The key as it may be shown. Most of the hash of a token is left out; of what is no hash, everything, because it might be
/// the token itself.
fn shown_key(key: &str) -> String {
    match key.strip_prefix("token/") {
        Some(hash) if crate::repository::token::is_hash(hash) => format!("token/{}…", &hash[..8]),
        Some(_) => "token/***".to_owned(),
        None => key.to_owned(),
    }
}

/// The text with everything escaped that would end a line or control a terminal.
fn escaped(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_shows_no_token() {
        let hash = "ab".repeat(32);
        assert_eq!(shown_key(&format!("token/{hash}")), "token/abababab…");
        assert_eq!(shown_key("token/the-token-itself"), "token/***");
        let finding = Finding {
            key: "entity/a\nb\u{1b}[31m".to_owned(),
            rule: "every key is known",
            detail: "nobody knows it".to_owned(),
            advice: "look at it",
        };
        assert_eq!(
            finding.to_string(),
            "entity/a\\nb\\u{1b}[31m: every key is known: nobody knows it; look at it"
        );
        let entry = Entry {
            key: format!("token/{hash}"),
            value: b"hunter2".to_vec(),
            revision: 1,
        };
        let shown = format!("{entry:?}");
        assert!(
            !shown.contains(&hash) && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}
