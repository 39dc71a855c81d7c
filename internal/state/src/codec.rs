//! Values: a JSON object with the format version `v` beside the fields of the type.
//!
//! A value of a higher version is refused instead of read, so that an older process never rewrites what it does not
//! understand. Adding an optional field does not raise the version: a process that does not know the field carries it along
//! when it writes a new value over the one it read, see [`Rest`].

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

/// What a value has beside the fields that this version of the service knows: nothing, nearly always.
///
/// Kept wherever the object that holds an unknown field is still there: objects are followed by the names of their fields,
/// elements of arrays as long as what is known of them is unchanged.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Rest(Option<Arc<Stored>>);

impl fmt::Debug for Rest {
    /// Not its content: the whole value is in it, and that may have a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Rest(…)"
        } else {
            "Rest()"
        })
    }
}

#[derive(PartialEq, Eq)]
struct Stored {
    /// Everything.
    all: Value,
    /// What this version would have written.
    known: Value,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(&Enveloped { v: VERSION, value }).expect(ALWAYS)
}

/// Writes a value over one that was read, with what that had and this version does not know.
pub(crate) fn encode_over<T: Serialize>(value: &T, rest: &Rest) -> (Vec<u8>, Rest) {
    let Some(stored) = &rest.0 else {
        return (encode(value), Rest::default());
    };
    let known = serde_json::to_value(Enveloped { v: VERSION, value }).expect(ALWAYS);
    let mut all = known.clone();
    carry(&mut all, &stored.known, &stored.all);
    let bytes = serde_json::to_vec(&all).expect(ALWAYS);
    (bytes, Rest(Some(Arc::new(Stored { all, known }))))
}

const ALWAYS: &str = "stored types are plain structs with text keys, which always serialise";

/// Adds to `new` what `all` has and `known` has not.
fn carry(new: &mut Value, known: &Value, all: &Value) {
    match (new, known, all) {
        (Value::Object(new), Value::Object(known), Value::Object(all)) => {
            for (name, value) in all {
                match (new.get_mut(name), known.get(name)) {
                    (Some(new), Some(known)) => carry(new, known, value),
                    (None, None) => {
                        new.insert(name.clone(), value.clone());
                    }
                    // Set or removed by whoever knows the field.
                    (Some(_), None) | (None, Some(_)) => {}
                }
            }
        }
        (Value::Array(new), Value::Array(known), Value::Array(all)) => {
            for ((new, known), all) in new.iter_mut().zip(known).zip(all) {
                if new == known {
                    carry(new, known, all);
                }
            }
        }
        _ => {}
    }
}

/// Reads a value; `key` is for the error only.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StateError> {
    let envelope: Envelope = parse(key, bytes)?;
    if envelope.v > VERSION {
        return Err(StateError::NewerFormat {
            key: key.to_owned(),
            found: envelope.v,
            supported: VERSION,
        });
    }
    parse(key, bytes)
}

fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(bytes).map_err(|error| StateError::Corrupt {
        key: key.to_owned(),
        reason: describe(&error),
    })
}

/// Reads a value and what it has beside that.
pub(crate) fn decode_all<T: Serialize + DeserializeOwned>(
    key: &str,
    bytes: &[u8],
) -> Result<(T, Rest), StateError> {
    let value: T = decode(key, bytes)?;
    if encode(&value) == bytes {
        return Ok((value, Rest::default()));
    }
    let all = parse(key, bytes)?;
    let known = serde_json::to_value(Enveloped {
        v: VERSION,
        value: &value,
    });
    let known = known.expect(ALWAYS);
    // The same in another spelling has no rest.
    let rest = (all != known).then(|| Arc::new(Stored { all, known }));
    Ok((value, Rest(rest)))
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
    use proptest::prelude::*;
    use serde_json::json;
    use stream_model::statistics::Figures;

    fn read(bytes: &[u8]) -> Result<Figures, StateError> {
        decode("entity/x", bytes)
    }

    #[test]
    fn version_stands_beside_the_fields() {
        let figures = Figures {
            rows: 3,
            ..Figures::default()
        };
        let bytes = encode(&figures);
        assert_eq!(bytes, br#"{"v":1,"rows":3,"rawBytes":0,"bytes":0}"#);
        let (decoded, rest) = decode_all::<Figures>("k", &bytes).expect("decodes");
        assert_eq!((decoded, rest), (figures, Rest::default()));
    }

    #[test]
    fn higher_version_is_named_and_not_read() {
        let error = read(br#"{"v":2,"rows":[]}"#).expect_err("newer");
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
            let error = read(bytes).expect_err("damaged");
            assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    /// A type with everything in which a field can hide.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Known {
        name: String,
        inner: Inner,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
        list: Vec<Inner>,
    }

    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    struct Inner {
        n: u8,
    }

    fn stored() -> Value {
        json!({
            "v": 1, "name": "a", "colour": "red", "note": "old",
            "inner": {"n": 1, "later": [1, 2]},
            "list": [{"n": 1, "x": 1}, {"n": 2, "x": 2}],
        })
    }

    fn rewrite(change: impl FnOnce(&mut Known)) -> Value {
        let bytes = serde_json::to_vec(&stored()).expect("JSON");
        let (mut value, rest) = decode_all::<Known>("k", &bytes).expect("decodes");
        change(&mut value);
        let (bytes, rest) = encode_over(&value, &rest);
        let (again, read_rest) = decode_all::<Known>("k", &bytes).expect("decodes");
        assert_eq!((again, &read_rest), (value, &rest));
        assert!(!format!("{rest:?}").contains("red"), "no content is shown");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn unknown_fields_survive_a_rewrite() {
        assert_eq!(rewrite(|_| {}), stored());
        let mut expected = stored();
        expected["name"] = json!("b");
        expected["inner"]["n"] = json!(9);
        let found = rewrite(|known| {
            known.name = "b".to_owned();
            known.inner.n = 9;
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_removed_field_does_not_come_back() {
        let mut expected = stored();
        expected.as_object_mut().expect("an object").remove("note");
        assert_eq!(rewrite(|known| known.note = None), expected);
    }

    #[test]
    fn an_element_keeps_its_unknown_fields_as_long_as_it_is_the_same() {
        let mut expected = stored();
        expected["list"] = json!([{"n": 1, "x": 1}, {"n": 7}, {"n": 8}]);
        let found = rewrite(|known| {
            known.list[1].n = 7;
            known.list.push(Inner { n: 8 });
        });
        assert_eq!(found, expected);
        let mut expected = stored();
        expected["list"] = json!([]);
        assert_eq!(rewrite(|known| known.list.clear()), expected);
    }

    proptest! {
        #[test]
        fn a_value_of_this_version_has_no_rest(
            name in ".{0,8}", n in any::<u8>(), note in proptest::option::of(".{0,8}"),
            list in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            let list = list.into_iter().map(|n| Inner { n }).collect();
            let known = Known { name, inner: Inner { n }, note, list };
            let (again, rest) = decode_all::<Known>("k", &encode(&known)).expect("decodes");
            prop_assert_eq!(&again, &known);
            prop_assert_eq!(&rest, &Rest::default());
            prop_assert_eq!(encode_over(&again, &rest).0, encode(&known));
        }
    }
}
