//! A source to be created.

use stream_model::SourceId;

use super::{Texts, description, identifier, name};
use crate::error::ApiError;
use crate::fields::{Fields, not_one_of};

/// A source to be created.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewSource {
    pub(crate) id: SourceId,
    pub(crate) name: String,
    pub(crate) description: String,
}

impl NewSource {
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body)?;
        let kind = fields.text("type", 0..=usize::MAX)?;
        match kind.as_str() {
            "http" => {}
            "otlp" => {
                return Err(ApiError::bad_request(
                    "Sources of type \"otlp\" are not supported by this version; use \"http\".",
                ));
            }
            other => return Err(not_one_of("body.type", other, ["http"].into_iter())),
        }
        let name = name(&mut fields)?;
        let given = fields.optional("sourceId");
        let id = identifier("body.sourceId", given, "source id", &name)?;
        let description = description(&mut fields)?;
        fields.finish()?;
        Ok(Self {
            id,
            name,
            description,
        })
    }
}

/// A change of a source.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SourceChange {
    pub(crate) texts: Texts,
}

impl SourceChange {
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body)?;
        // May be repeated, but not changed: the URL of the source depends on it.
        if let Some(kind) = fields.optional_text("type", 0..=usize::MAX)?
            && kind != "http"
        {
            return Err(not_one_of("body.type", &kind, ["http"].into_iter()));
        }
        let texts = Texts::read(&mut fields)?;
        fields.finish()?;
        Ok(Self { texts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn read(json: &str) -> Result<String, Code> {
        let read = NewSource::read(json.as_bytes());
        read.map(|new| new.id.to_string())
            .map_err(|error| error.code)
    }

    #[test]
    fn the_identifier_comes_from_the_name_unless_given() {
        let id = |json| read(json).expect(json);
        assert_eq!(id(r#"{"type":"http","name":"My Source"}"#), "my-source");
        assert_eq!(
            id(r#"{"type":"http","name":"X","sourceId":"given"}"#),
            "given"
        );
        assert_eq!(
            id(r#"{"type":"http","name":"X","sourceId":"!!~weird|||id##"}"#),
            "weird-id"
        );
    }

    #[test]
    fn each_mistake_has_its_name() {
        for (json, code) in [
            ("", Code::MissingField),
            ("[]", Code::InvalidFieldType),
            (r#"{"name":"x"}"#, Code::MissingField),
            (r#"{"type":"http"}"#, Code::MissingField),
            (r#"{"type":"foo","name":"x"}"#, Code::InvalidEnumValue),
            (r#"{"type":"otlp","name":"x"}"#, Code::BadRequest),
            (r#"{"type":"http","name":""}"#, Code::InvalidLength),
            (r#"{"type":"http","name":7}"#, Code::InvalidFieldType),
            (
                r#"{"type":"http","name":"x","sourceId":""}"#,
                Code::InvalidLength,
            ),
            (r#"{"type":"http","name":"!!!"}"#, Code::BadRequest),
            (r#"{"type":"http","name":"x","nmae":"y"}"#, Code::BadRequest),
        ] {
            assert_eq!(read(json), Err(code), "{json}");
        }
        let long = |field: &str, len| {
            let text = "é".repeat(len);
            read(&format!(
                r#"{{"type":"http","name":"x","sourceId":"y","{field}":"{text}"}}"#
            ))
        };
        assert_eq!(long("description", 4096).as_deref(), Ok("y"));
        assert_eq!(long("description", 4097), Err(Code::InvalidLength));
        assert_eq!(
            read(&format!(r#"{{"type":"http","name":"{}"}}"#, "a".repeat(41))),
            Err(Code::InvalidLength)
        );
    }
}
