//! The catalogue of rules: what must hold, and what to do when it does not.

use std::fmt;

use super::{Finding, shown_key};

/// A rule.
pub(super) struct Rule {
    sentence: &'static str,
    advice: &'static str,
}

impl Rule {
    const fn new(sentence: &'static str, advice: &'static str) -> Self {
        Self { sentence, advice }
    }

    /// The finding that a key breaks this rule.
    pub(super) fn broken(&self, key: impl fmt::Display, detail: impl Into<String>) -> Finding {
        Finding {
            key: shown_key(&key.to_string()),
            rule: self.sentence,
            detail: detail.into(),
            advice: self.advice,
        }
    }

    /// The finding that a key breaks a rule that another crate states.
    pub(super) fn broken_as(
        &self,
        sentence: &'static str,
        key: impl fmt::Display,
        detail: impl Into<String>,
    ) -> Finding {
        Finding {
            rule: sentence,
            ..self.broken(key, detail)
        }
    }
}

impl Finding {
    /// Whether it says that this key is unknown, or that its value cannot be read.
    pub(super) fn is_about_reading(&self, key: &str) -> bool {
        let rules = [KNOWN_KEY, READABLE, OWN_VALUE, FORMAT];
        self.key == key && rules.iter().any(|rule| rule.sentence == self.rule)
    }
}

const RESTORE: &str = "restore this key from a backup";
const RESTORE_ALL: &str = "restore the state from a backup that is as old as the volumes and tables, or ask for help with a dump of it";

// What is there at all, and whether it can be read.

pub(super) const SCHEMA: Rule = Rule::new(
    "the state says which format it has",
    "start the service once, which writes it, unless this is no state of the service",
);
pub(super) const KNOWN_KEY: Rule = Rule::new(
    "every key is known to this version of the service",
    "leave it when a newer version has written it, else delete it: the service never reads it",
);
pub(super) const READABLE: Rule = Rule::new("every value can be read", RESTORE);
pub(super) const OWN_VALUE: Rule = Rule::new("every value is about what its key says", RESTORE);
pub(super) const FORMAT: Rule = Rule::new(
    "every value has a format that this version of the service reads",
    "use the version of the service that wrote it, or a newer one",
);
pub(super) const SIZE: Rule = Rule::new(
    "keys and values keep their size bounds",
    "nothing breaks at once; find out what wrote it, because memory and start-up time depend on these bounds",
);

// Definitions.

pub(super) const PARENT: Rule = Rule::new(
    "what others belong to exists",
    "restore this key from a backup; without it nothing of what belongs to it is routed or imported",
);
pub(super) const LIVE_SOURCE: Rule = Rule::new(
    "a live sink belongs to a live source",
    "delete the sink through the API, or restore the source from a backup",
);
pub(super) const SIBLINGS: Rule = Rule::new(
    "at most 100 siblings live",
    "delete those that are not used through the API; until then none can be created",
);
pub(super) const NEWEST_VERSION: Rule = Rule::new(
    "the newest version of a definition has a record",
    "change the definition through the API, which writes a new version",
);
pub(super) const SAME_VERSION: Rule = Rule::new(
    "the record of the newest version is the definition itself",
    "change the definition through the API, which writes a new version; rows may have been mapped with either",
);
pub(super) const NO_LATER_VERSION: Rule = Rule::new(
    "no version is later than its definition",
    "the definition went back: restore it from a backup, because the next change would reuse the number",
);
pub(super) const DENSE_VERSIONS: Rule = Rule::new(
    "the kept versions of a definition have no gaps",
    "nothing is lost but history; files of that version cannot be explained any more",
);

// Files.

pub(super) const ONE_WRITING: Rule = Rule::new("a sink has at most one writing file", RESTORE_ALL);
pub(super) const CURRENT: Rule = Rule::new(
    "current names the writing file of its sink, and exists as long as there is one",
    "write the id of the writing file into it, or delete it when there is none; the coordinator waits for that",
);
pub(super) const NAMED_FILE: Rule = Rule::new(
    "a file that is named exists",
    "restore this key from a backup; slices without a file are never imported",
);
pub(super) const MAPPING_VERSION: Rule = Rule::new(
    "the version of the sink under which a file was opened has a record",
    "the file is imported all the same, it holds its table; find out what removed the version",
);
pub(super) const TABLE: Rule = Rule::new(
    "a file has the table of its mapping version",
    "compare both before the file is imported: its rows were mapped to one of them",
);
pub(super) const WRITING_SLICES: Rule = Rule::new(
    "a writing file has a writing slice on each of its volumes",
    "change a setting of the sink through the API: its file is closed then and the next one is complete",
);
pub(super) const UPLOADED: Rule = Rule::new(
    "a file is imported only when all its slices are uploaded",
    "keep the volumes of these slices and stop the clean-up: their rows may be missing in the table",
);
pub(super) const IMPORTED_ROWS: Rule = Rule::new(
    "an imported file counts at least the rows of its slices",
    "compare the table with the objects in staging before the clean-up removes them",
);
pub(super) const ORDER: Rule = Rule::new(
    "files of a table with a primary key are imported in the order in which they were opened",
    "rows with the same key may have an older value; look whether a clock stepped back",
);

// Slices.

pub(super) const OWN_SINK: Rule = Rule::new("a slice is in a file of its own sink", RESTORE_ALL);
pub(super) const SAME_MAPPING: Rule = Rule::new(
    "a slice has the mapping version of its file",
    "compare the columns of both versions before the file is imported",
);
pub(super) const ONE_SLICE: Rule = Rule::new(
    "a file has at most one writing slice on a volume",
    "change a setting of the sink through the API: its file is closed then, with all its slices",
);
pub(super) const OWN_VOLUME: Rule = Rule::new(
    "a slice that cannot have moved is on a volume of its file",
    "find out which volume holds it; it is sealed and uploaded from there only",
);
pub(super) const SUCCESSOR: Rule = Rule::new(
    "a slice whose rows stay in order has the successor that it names",
    RESTORE,
);
pub(super) const ONE_PREDECESSOR: Rule = Rule::new(
    "a slice is the successor of at most one slice",
    "look for a second writer of the state",
);
pub(super) const CONTENT: Rule = Rule::new(
    "a sealed slice without rows is uploaded",
    "compare it with the object in staging and the slice file on its volume",
);
pub(super) const SEALED_BY: Rule = Rule::new(
    "no slice was sealed by a later incarnation than its volume has",
    "the record of the volume went back: restore it, or two processes could hold the volume",
);
pub(super) const CROSSED: Rule = Rule::new(
    "only a writing slice has reached a limit, on its own volume",
    "delete it: the slice was rotated already",
);

// Volumes and tasks.

pub(super) const INCARNATION: Rule = Rule::new(
    "a volume with slices has an incarnation",
    "restart the process that holds the volume, which writes a new one; restore it from a backup if the volume is gone",
);
pub(super) const REGISTRATION: Rule = Rule::new(
    "an open volume has no later incarnation than is recorded",
    "the record of the volume went back: restart the process that holds it",
);
pub(super) const ENDED: Rule = Rule::new(
    "a task has the time of its end when it has ended, and only then",
    "nothing depends on it; the clean-up removes the task",
);
pub(super) const STUCK: Rule = Rule::new(
    "a task ends within an hour while the API runs",
    "look at what it should have changed, then restart the API, which ends it",
);

// What sinks have elsewhere.

pub(super) const DROPPING: Rule = Rule::new(
    "a table is marked as being dropped only with a sink that is purged, or has a change of its destination",
    "look whether the table is to stay, then delete this key: no sink can be stored with the table before",
);

pub(super) const DESTINATION: Rule = Rule::new(
    "a live sink of type keboola has a destination for its table",
    "change the sink through the API, or delete and undelete it: both make what is missing",
);
pub(super) const NO_DESTINATION: Rule = Rule::new(
    "a destination belongs to a live sink of type keboola",
    "delete the token that it names in the project, then this key",
);
pub(super) const PROVISIONING: Rule = Rule::new(
    "a change of a destination ends within an hour while the API runs",
    "look into the log of the API for why it cannot be ended; if its owner's token is gone, delete what it names in the project, then this key",
);
