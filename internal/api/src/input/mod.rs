//! What clients send, checked and turned into the nouns of the model. Nothing here looks at the state.

pub(crate) mod page;
mod schema;
pub(crate) mod settings;
pub(crate) mod sink;
pub(crate) mod source;

use std::str::FromStr;

use serde_json::Value;
use stream_model::definition::{MAX_DESCRIPTION_LEN, MAX_NAME_LEN};
use stream_model::id::{InvalidId, MAX_NAME_ID_LEN, derive_name_id};

use crate::error::{ApiError, sentence};
use crate::fields::{Fields, text};

/// An identifier that would be taken for a list.
const RESERVED: &str = "deleted";

/// Reads the display name.
fn name(fields: &mut Fields) -> Result<String, ApiError> {
    fields.text("name", 1..=MAX_NAME_LEN)
}

/// Reads the description; empty when absent.
fn description(fields: &mut Fields) -> Result<String, ApiError> {
    let description = fields.optional_text("description", 0..=MAX_DESCRIPTION_LEN)?;
    Ok(description.unwrap_or_default())
}

/// A change of the texts of a definition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Texts {
    /// The new display name.
    name: Option<String>,
    /// The new description.
    description: Option<String>,
    /// What the version says of the change.
    pub(crate) version: String,
}

impl Texts {
    fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let version = fields.optional_text("changeDescription", 0..=MAX_DESCRIPTION_LEN)?;
        let version = version.filter(|version| !version.is_empty());
        Ok(Self {
            name: fields.optional_text("name", 1..=MAX_NAME_LEN)?,
            description: fields.optional_text("description", 0..=MAX_DESCRIPTION_LEN)?,
            version: version.unwrap_or_else(|| "Updated.".to_owned()),
        })
    }

    /// Changes what is to be changed.
    pub(crate) fn apply(&self, name: &mut String, description: &mut String) {
        if let Some(new) = &self.name {
            name.clone_from(new);
        }
        if let Some(new) = &self.description {
            description.clone_from(new);
        }
    }
}

/// The identifier: the given one, or one made of the display name. Both are brought into the same form, so that an
/// existing client that sends `My Source` as identifier finds `my-source`.
fn identifier<Id>(
    path: &str,
    given: Option<Value>,
    kind: &'static str,
    name: &str,
) -> Result<Id, ApiError>
where
    Id: FromStr<Err = InvalidId>,
{
    let given = given
        .map(|given| text(path, given, 1..=MAX_NAME_ID_LEN))
        .transpose()?;
    let id = derive_name_id(kind, given.as_deref().unwrap_or(name));
    if id.as_deref() == Ok(RESERVED) {
        return Err(ApiError::bad_request(format!(
            "{path:?} cannot be {RESERVED:?}: a path that ends so lists what was deleted. Choose another identifier."
        )));
    }
    let id = id.and_then(|id| id.parse());
    id.map_err(|error| ApiError::bad_request(sentence(&error)))
}
