//! Values: a JSON object with the format version `v` beside the fields of the type.
//!
//! A value of a higher version is refused instead of read, so that an older process never rewrites what it does not
//! understand. Fields that are unknown *within* version 1 are ignored: adding an optional field does not raise the version.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::StateError;

/// The version written, and the newest that is read.
pub(crate) const VERSION: u64 = 1;

#[derive(Serialize)]
struct Enveloped<'a, T> {
    v: u64,
    #[serde(flatten)]
    value: &'a T,
}

#[derive(Deserialize)]
struct Envelope {
    v: u64,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(&Enveloped { v: VERSION, value })
        .expect("stored types are plain structs with text keys, which always serialise")
}

/// Reads a value; `key` is for the error only.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StateError> {
    let corrupt = |error: &serde_json::Error| StateError::Corrupt {
        key: key.to_owned(),
        reason: describe(error),
    };
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|error| corrupt(&error))?;
    if envelope.v > VERSION {
        return Err(StateError::NewerFormat {
            key: key.to_owned(),
            found: envelope.v,
            supported: VERSION,
        });
    }
    serde_json::from_slice(bytes).map_err(|error| corrupt(&error))
}

/// Where and how reading failed. The library's own text is not used because it quotes the value, which may be a secret.
fn describe(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Io => "it cannot be read",
        serde_json::error::Category::Syntax => "it is not JSON",
        serde_json::error::Category::Data => "a field is missing or has the wrong form",
        serde_json::error::Category::Eof => "it ends too early",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stream_model::statistics::Figures;

    #[test]
    fn version_stands_beside_the_fields() {
        let figures = Figures {
            rows: 3,
            ..Figures::default()
        };
        let bytes = encode(&figures);
        assert_eq!(bytes, br#"{"v":1,"rows":3,"rawBytes":0,"bytes":0}"#);
        assert_eq!(decode::<Figures>("k", &bytes).expect("decodes"), figures);
    }

    #[test]
    fn higher_version_is_named_and_not_read() {
        let error = decode::<Figures>("entity/x", br#"{"v":2,"rows":[]}"#).expect_err("newer");
        assert!(
            matches!(error, StateError::NewerFormat { found: 2, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("entity/x"), "{error}");
    }

    #[test]
    fn damaged_values_are_errors_that_do_not_quote_them() {
        for bytes in [
            &b""[..],
            b"{",
            b"[]",
            b"null",
            b"\xff\xfe",
            br#"{"rows":1,"rawBytes":1,"bytes":1}"#,
            br#"{"v":1}"#,
            br#"{"v":1,"rows":"hunter2","rawBytes":1,"bytes":1}"#,
        ] {
            let error = decode::<Figures>("k", bytes).expect_err("damaged");
            assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
