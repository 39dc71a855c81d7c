//! Which settings are shown.
//!
//! Existing clients of a Keboola installation expect a list of 27 settings, most of which govern mechanisms that this service
//! does not have. They are shown with the values that such clients know, are protected, and have no effect. Settings of our own
//! appear in that list only once they are changed.

use serde_json::json;

use super::{Kind, SPECS, Settings, Spec, protected};
use crate::level::Compression;

/// Which settings are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Catalogue {
    /// Those of this service.
    #[default]
    Own,
    /// Those that clients of a Keboola installation know.
    Keboola,
}

/// Settings of this service that such clients do not know.
const UNKNOWN_THERE: &str = "storage.level.local.encoding.compression.zstd.level";

impl Catalogue {
    /// What is shown of a definition with these settings, sorted by key.
    #[must_use]
    pub fn specs(self, own: &Settings) -> Vec<&'static Spec> {
        let shown = |spec: &&Spec| match self {
            Self::Own => true,
            Self::Keboola => is_known_there(spec) || own.overwrites(spec.key),
        };
        let mut specs: Vec<_> = SPECS.iter().filter(shown).collect();
        if self == Self::Keboola {
            specs.extend(INERT);
            specs.sort_by_key(|spec| spec.key);
        }
        specs
    }

    /// Whether the setting is one that is shown and nothing else.
    #[must_use]
    pub fn is_inert(self, key: &str) -> bool {
        self == Self::Keboola && INERT.iter().any(|spec| spec.key == key)
    }
}

fn is_known_there(spec: &Spec) -> bool {
    spec.key.starts_with("storage.level.") && spec.key != UNKNOWN_THERE
}

/// A setting without effect.
macro_rules! inert {
    ($key:literal, $kind:ident, $value:expr, $validation:literal, $description:literal) => {
        Spec {
            key: concat!("storage.level.", $key),
            kind: Kind::$kind,
            description: concat!($description, " Without effect in this service."),
            validation: $validation,
            protected: true,
            get: |_| json!($value),
            set: protected,
        }
    };
}

/// Settings of mechanisms that this service does not have, with the values that clients know.
const INERT: &[Spec] = &[
    inert!(
        "local.encoding.compression.gzip.blockSize",
        String,
        "256KB",
        "16KB to 100MB",
        "Bytes that a parallel gzip compresses at a time."
    ),
    inert!(
        "local.encoding.compression.gzip.concurrency",
        Int,
        0,
        "",
        "Threads of a parallel gzip."
    ),
    inert!(
        "local.encoding.compression.gzip.implementation",
        String,
        "parallel",
        "standard, fast or parallel",
        "Which gzip is used."
    ),
    Spec {
        key: "storage.level.local.encoding.compression.gzip.level",
        kind: Kind::Int,
        description: "Effort of the gzip compression: higher is smaller and slower.",
        validation: "1 to 9",
        protected: true,
        get: |levels| match levels.local.compression {
            Compression::Gzip { level } => level.into(),
            Compression::None | Compression::Zstd { .. } => 1.into(),
        },
        set: protected,
    },
    inert!(
        "local.encoding.encoder.concurrency",
        Int,
        0,
        "0 to 256",
        "Threads that make rows."
    ),
    inert!(
        "local.encoding.encoder.type",
        String,
        "csv",
        "csv",
        "The form of rows."
    ),
    inert!(
        "local.encoding.failedChunksThreshold",
        Int,
        3,
        "1 to 100",
        "Failed sendings after which a volume is passed over."
    ),
    inert!(
        "local.encoding.inputBuffer",
        String,
        "2MB",
        "at most 16MB",
        "Bytes gathered before they are compressed."
    ),
    inert!(
        "local.encoding.maxChunkSize",
        String,
        "512KB",
        "64KB to 1MB",
        "Bytes sent to a volume at a time."
    ),
    inert!(
        "local.encoding.sync.checkInterval",
        String,
        "5ms",
        "1ms to 30s",
        "Time between two looks whether to sync."
    ),
    inert!(
        "local.encoding.sync.compressedBytesTrigger",
        String,
        "256KB",
        "100B to 100MB",
        "Compressed bytes that wait for a sync at most."
    ),
    inert!(
        "local.encoding.sync.countTrigger",
        Int,
        10_000,
        "1 to 1000000",
        "Records that wait for a sync at most."
    ),
    inert!(
        "local.encoding.sync.intervalTrigger",
        String,
        "50ms",
        "10ms to 30s",
        "Time that records wait for a sync at most."
    ),
    inert!(
        "local.encoding.sync.uncompressedBytesTrigger",
        String,
        "1MB",
        "100B to 500MB",
        "Bytes before compression that wait for a sync at most."
    ),
    inert!(
        "target.import.trigger.expiration",
        String,
        "30m0s",
        "5m to 45m",
        "Time left to a staging file at which it is imported."
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::TableKind;
    use crate::definition::settings::KEY_PATH;
    use crate::level::Defaults;

    fn keys(catalogue: Catalogue, own: &Settings) -> Vec<&'static str> {
        let specs = catalogue.specs(own);
        specs.iter().map(|spec| spec.key).collect()
    }

    #[test]
    fn existing_clients_see_27_settings_of_which_7_can_be_changed() {
        let none = Settings::default();
        let specs = Catalogue::Keboola.specs(&none);
        assert_eq!(specs.len(), 27);
        assert!(specs.is_sorted_by_key(|spec| spec.key));
        assert_eq!(specs.iter().filter(|spec| !spec.protected).count(), 7);
        assert!(
            specs
                .iter()
                .all(|spec| spec.key.starts_with("storage.level."))
        );
        let levels = Defaults::default().for_table(TableKind::Keboola);
        for (key, value) in [
            ("compression.type", json!("gzip")),
            ("gzip.level", json!(1)),
            ("trigger.expiration", json!("30m0s")),
        ] {
            let spec = specs.iter().find(|spec| spec.key.ends_with(key));
            assert_eq!(spec.map(|spec| spec.value(&levels)), Some(value), "{key}");
        }
    }

    #[test]
    fn a_setting_of_ours_is_shown_to_them_once_it_is_changed() {
        let levels = Defaults::default().for_table(TableKind::Keboola);
        let mut own = Settings::default();
        assert!(!keys(Catalogue::Keboola, &own).contains(&KEY_PATH));
        own.set(&levels, KEY_PATH, json!("id")).expect("a path");
        assert!(keys(Catalogue::Keboola, &own).contains(&KEY_PATH));
        assert_eq!(keys(Catalogue::Own, &own).len(), SPECS.len());
    }

    #[test]
    fn what_has_no_effect_is_unknown_without_them() {
        let key = "storage.level.local.encoding.encoder.type";
        assert!(Catalogue::Keboola.is_inert(key));
        assert!(!Catalogue::Own.is_inert(key));
        assert!(!Catalogue::Keboola.is_inert(KEY_PATH));
    }
}
