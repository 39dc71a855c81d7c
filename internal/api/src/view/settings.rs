//! Settings as shown.

use serde::Serialize;
use serde_json::Value;
use stream_model::definition::Settings;
use stream_model::definition::settings::SPECS;
use stream_model::level::Levels;

/// All settings of a source or sink, sorted by key.
#[derive(Debug, Serialize)]
pub(crate) struct SettingsView {
    settings: Vec<SettingView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SettingView {
    key: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    value: Value,
    /// What a reset leads to: for a sink that includes the settings of its source.
    default_value: Value,
    /// Changed here; for a sink, not by its source.
    overwritten: bool,
    protected: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    validation: &'static str,
}

impl SettingsView {
    /// `inherited` are the levels without the entity's own settings.
    pub(crate) fn new(own: &Settings, inherited: &Levels) -> Self {
        let effective = own.apply(inherited);
        let settings = SPECS.iter().map(|spec| SettingView {
            key: spec.key,
            kind: spec.kind.as_str(),
            description: spec.description,
            value: spec.value(&effective),
            default_value: spec.value(inherited),
            overwritten: own.overwrites(spec.key),
            protected: spec.protected,
            validation: spec.validation,
        });
        Self {
            settings: settings.collect(),
        }
    }
}
