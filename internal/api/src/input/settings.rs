//! A change of settings.

use serde_json::Value;
use stream_model::definition::settings::{SPECS, SettingError, is_of_sources};
use stream_model::definition::{MAX_DESCRIPTION_LEN, Settings};
use stream_model::level::Levels;

use crate::error::{ApiError, Code, sentence};
use crate::fields::{Fields, quoted_list};

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
        let items = fields.list("settings", 1..=SPECS.len())?;
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
    pub(crate) fn apply(&self, settings: &Settings, levels: &Levels) -> Result<Settings, ApiError> {
        let mut changed = settings.clone();
        let mut protected = Vec::new();
        let mut first_error = None;
        for (key, value) in &self.values {
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
        Changes::read(json.as_bytes())?.apply(&Settings::default(), &levels)
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
    fn each_mistake_has_its_name() {
        for (json, code) in [
            ("{}".to_owned(), Code::MissingField),
            (r#"{"settings":[]}"#.to_owned(), Code::InvalidLength),
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
