//! Settings as shown.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use stream_model::definition::Settings;
use stream_model::definition::settings::{Catalogue, Spec};
use stream_model::level::Levels;

/// All settings of a source or sink, sorted by key.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SettingsView {
    settings: Vec<SettingView>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SettingView {
    key: &'static str,
    /// The JSON type of the value.
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["int", "float", "string", "bool", "[]string"]))]
    kind: &'static str,
    /// What it means.
    description: &'static str,
    /// What counts now.
    value: Value,
    /// What a reset leads to: for a sink that includes the settings of its source.
    default_value: Value,
    /// Changed here; for a sink, not by its source.
    overwritten: bool,
    /// Cannot be changed through the API.
    protected: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    /// The accepted values in words.
    validation: &'static str,
}

impl SettingsView {
    /// The settings of a source. `inherited` are the levels without its own.
    pub(crate) fn of_source(own: &Settings, inherited: &Levels, catalogue: Catalogue) -> Self {
        Self::new(catalogue.specs(own).into_iter(), own, inherited)
    }

    /// The settings of a sink. `inherited` are the levels without its own.
    pub(crate) fn of_sink(own: &Settings, inherited: &Levels, catalogue: Catalogue) -> Self {
        let specs = catalogue.specs(own).into_iter();
        Self::new(specs.filter(|spec| !spec.is_of_sources()), own, inherited)
    }

    fn new(specs: impl Iterator<Item = &'static Spec>, own: &Settings, inherited: &Levels) -> Self {
        let effective = own.apply(inherited);
        let settings = specs.map(|spec| SettingView {
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
