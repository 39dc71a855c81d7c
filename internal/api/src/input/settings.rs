//! A change of settings.

use serde_json::Value;
use stream_model::definition::settings::{Catalogue, SettingError, is_of_sources};
use stream_model::definition::{MAX_DESCRIPTION_LEN, Settings};
use stream_model::level::Levels;

use crate::error::{ApiError, Code, sentence};
use crate::fields::{Fields, list, quoted_list};

/// The most settings of a change; there are not so many.
pub(super) const MAX_CHANGES: usize = 100;

/// A change of settings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    /// For the version.
    pub(crate) description: String,
    /// Keys and new values; `null` resets.
    values: Vec<(String, Value)>,
}

impl Changes {
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body)?;
        let description = fields.optional_text("changeDescription", 0..=MAX_DESCRIPTION_LEN)?;
        let description = description.filter(|description| !description.is_empty());
        let path = fields.path("settings");
        // Without any the definition gets a new version, and nothing else happens.
        let items = match fields.optional("settings") {
            None => Vec::new(),
            Some(items) => list(&path, items, 0..=MAX_CHANGES)?,
        };
        fields.finish()?;
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let mut item = Fields::of_value(format!("{path}[{index}]"), item)?;
            let key = item.text("key", 1..=usize::MAX)?;
            let value = item
                .nullable("value")
                .ok_or_else(|| item.missing("value"))?;
            item.finish()?;
            values.push((key, value));
        }
        let description = description.unwrap_or_else(|| "Updated settings.".to_owned());
        Ok(Self {
            description,
            values,
        })
    }

    /// Refuses settings that a sink does not have.
    pub(crate) fn refuse_settings_of_sources(&self) -> Result<(), ApiError> {
        let mut keys = self.values.iter().map(|(key, _)| key);
        match keys.find(|key| is_of_sources(key)) {
            Some(key) => Err(ApiError::bad_request(format!(
                "Setting {key:?} is one of sources, not of sinks. Change it for the source."
            ))),
            None => Ok(()),
        }
    }

    /// The settings after the change. `levels` are those without any settings.
    ///
    /// Protected keys are named all at once, before anything else: the client has to leave them out in any case.
    pub(crate) fn apply(
        &self,
        settings: &Settings,
        levels: &Levels,
        catalogue: Catalogue,
    ) -> Result<Settings, ApiError> {
        let mut changed = settings.clone();
        let mut protected = Vec::new();
        let mut first_error = None;
        for (key, value) in &self.values {
            if catalogue.is_inert(key) {
                protected.push(key.clone());
                continue;
            }
            match changed.set(levels, key, value.clone()) {
                Ok(()) => {}
                Err(SettingError::Protected { key }) => protected.push(key),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        if !protected.is_empty() {
            let keys = quoted_list(protected.iter().map(String::as_str));
            let message = format!("Cannot modify protected keys: {keys}.");
            return Err(ApiError::new(Code::Forbidden, message));
        }
        match first_error {
            Some(error) => Err(ApiError::bad_request(sentence(&error))),
            None => Ok(changed),
        }
    }
}

#[cfg(test)]
mod tests {
    use stream_model::definition::TableKind;
    use stream_model::level::Defaults;

    use super::*;

    const COUNT: &str = "storage.level.staging.upload.trigger.count";
    const MODE: &str = "storage.level.local.encoding.sync.mode";

    fn changed(json: &str) -> Result<Settings, ApiError> {
        let levels = Defaults::default().for_table(TableKind::Sqlite);
        let changes = Changes::read(json.as_bytes())?;
        changes.apply(&Settings::default(), &levels, Catalogue::Own)
    }

    #[test]
    fn null_resets_and_the_description_has_a_default() {
        let json = format!(
            r#"{{"settings":[{{"key":"{COUNT}","value":5}},{{"key":"{COUNT}","value":null}}]}}"#
        );
        assert!(changed(&json).expect("in range").is_empty());
        let changes = Changes::read(json.as_bytes()).expect("valid");
        assert_eq!(changes.description, "Updated settings.");
    }

    #[test]
    fn protected_keys_are_named_before_other_mistakes() {
        let error = changed(&format!(
            r#"{{"settings":[{{"key":"{COUNT}","value":0}},{{"key":"{MODE}","value":"cache"}}]}}"#
        ))
        .expect_err("protected");
        assert_eq!(error.code, Code::Forbidden);
        assert_eq!(
            error.message,
            format!("Cannot modify protected keys: \"{MODE}\".")
        );
    }

    #[test]
    fn settings_without_effect_are_protected_where_they_are_shown() {
        let key = "storage.level.local.encoding.encoder.type";
        let json = format!(r#"{{"settings":[{{"key":"{key}","value":"csv"}}]}}"#);
        let changes = Changes::read(json.as_bytes()).expect("valid");
        let levels = Defaults::default().for_table(TableKind::Keboola);
        let apply = |catalogue| {
            let applied = changes.apply(&Settings::default(), &levels, catalogue);
            applied.expect_err("refused").code
        };
        assert_eq!(apply(Catalogue::Keboola), Code::Forbidden);
        assert_eq!(apply(Catalogue::Own), Code::BadRequest, "there is none");
    }

    #[test]
    fn each_mistake_has_its_name() {
        for (json, code) in [
            (r#"{"settings":{}}"#.to_owned(), Code::InvalidFieldType),
            (r#"{"settings":[5]}"#.to_owned(), Code::InvalidFieldType),
            (
                format!(r#"{{"settings":[{{"key":"{COUNT}"}}]}}"#),
                Code::MissingField,
            ),
            (
                format!(r#"{{"settings":[{{"key":"{COUNT}","value":0}}]}}"#),
                Code::BadRequest,
            ),
            (
                format!(r#"{{"settings":[{{"key":"{COUNT}","value":"5"}}]}}"#),
                Code::BadRequest,
            ),
            (
                r#"{"settings":[{"key":"nope","value":1}]}"#.to_owned(),
                Code::BadRequest,
            ),
            (
                r#"{"settings":[{"key":"nope","value":1,"x":1}]}"#.to_owned(),
                Code::BadRequest,
            ),
        ] {
            assert_eq!(changed(&json).expect_err(&json).code, code, "{json}");
        }
    }
}
