//! Idempotency keys: where they come from and which volume decides about them.
//!
//! A source that names a path takes the key of each record from there, and the header is not looked at: what makes a record
//! the same must not depend on who sends it. Otherwise the header `Idempotency-Key` is the key of the request as a whole.

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::HeaderName;
use stream_encoding::{CompileError, CompiledMapping, MAX_ROW_LEN, Record, Rows};
use stream_model::definition::mapping::DataType;
use stream_model::definition::{Column, ColumnKind, Mapping};
use stream_model::idempotency::{self, Assigned, Extent, Origin};
use stream_model::{SourceKey, Timestamp, VolumeId};
use stream_storage::wire::{Claim, KeyHash};

use crate::answer::Refusal;

/// The header with the key of a request.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 255;

/// A key with what it stands for. It becomes a [`Claim`] of a source.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    origin: Origin,
    text: Bytes,
    body: u64,
}

impl Key {
    /// The key of a request, if it has one.
    ///
    /// # Errors
    /// When it is empty or too long, or there are several.
    pub fn of_request(
        headers: &HeaderMap,
        extent: Extent,
        body: &[u8],
    ) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let length = value.as_bytes().len();
        if length == 0 || length > MAX_KEY_BYTES || values.next().is_some() {
            let message = "The header Idempotency-Key must be there once, with 1 to 255 bytes.";
            return Err(Refusal::new(400, "badRequest", message));
        }
        Ok(Some(Self {
            origin: Origin::Request,
            text: Bytes::copy_from_slice(value.as_bytes()),
            body: idempotency::body_hash(extent, body),
        }))
    }

    /// The key of a record, if it has one at the path.
    pub fn of_record(path: &KeyPath, record: &Record) -> Option<Self> {
        Some(Self {
            origin: Origin::Record,
            text: path.find(record)?,
            body: idempotency::body_hash(Extent::Record, &record.body),
        })
    }

    /// What it claims in a source.
    pub fn claim(&self, source: &SourceKey) -> Claim {
        let hash = idempotency::key_hash(source, self.origin, &self.text);
        Claim {
            key: KeyHash::from_bytes(hash),
            body: self.body,
        }
    }
}

/// The place of the key in a record.
#[derive(Debug)]
pub(crate) struct KeyPath(CompiledMapping);

impl KeyPath {
    /// Reads a path, written as in a column.
    ///
    /// # Errors
    /// When it is not one.
    pub fn compile(path: &str) -> Result<Self, CompileError> {
        let kind = ColumnKind::Path {
            path: path.to_owned(),
            default_value: None,
            // With its quotes a text is not the same as a number.
            raw_string: false,
        };
        let column = Column {
            kind,
            name: "key".to_owned(),
            primary_key: false,
            data_type: DataType::String,
        };
        let columns = vec![column];
        CompiledMapping::compile(&Mapping { columns }).map(Self)
    }

    /// The value there, in its canonical form. None when there is none, or nothing in it, or the body is no JSON.
    fn find(&self, record: &Record) -> Option<Bytes> {
        // Neither null nor an empty text says which record it is. Quotes are doubled as in every row.
        const NOTHING: [&[u8]; 2] = [b"\"null\"\n", b"\"\"\"\"\"\"\n"];
        let mut row = Rows::with_row_limit(MAX_ROW_LEN);
        self.0.map(record, &mut row, &mut || [0; 10]).ok()?;
        let value = row.as_bytes();
        (!NOTHING.contains(&value)).then(|| Bytes::copy_from_slice(value))
    }
}

/// Where the keys of a source are, and who remembers them.
#[derive(Debug, Default)]
pub(crate) struct KeyRouting {
    /// The path of the key in each record; none when keys come with requests.
    pub path: Option<KeyPath>,
    /// The volumes that the source is assigned to, live or not.
    pub assigned: Assigned,
}

impl KeyRouting {
    /// The volume that decides about a key.
    pub fn owner(&self, source: &SourceKey, key: KeyHash) -> Option<VolumeId> {
        let owner = self.assigned.owner(source, key.shard());
        owner.map(|owner| owner.volume)
    }

    /// For how many seconds, at a time, it has been that volume. None: it has always been.
    pub fn owned_for(&self, source: &SourceKey, key: KeyHash, at: Timestamp) -> Option<u32> {
        let owner = self.assigned.owner(source, key.shard())?;
        let seconds = at.since(owner.since?).as_secs();
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                IDEMPOTENCY_KEY,
                HeaderValue::from_str(value).expect("valid"),
            );
        }
        headers
    }

    #[test]
    fn a_key_is_one_header_that_is_neither_empty_nor_long() {
        let key = |values: &[&str]| Key::of_request(&headers(values), Extent::Record, b"x");
        assert!(matches!(key(&[]), Ok(None)));
        assert!(matches!(key(&["k"]), Ok(Some(_))));
        let longest = "k".repeat(MAX_KEY_BYTES);
        assert!(matches!(key(&[&longest]), Ok(Some(_))));
        for wrong in [
            &[""][..],
            &["a", "b"],
            &["a", "a"],
            &[&format!("{longest}k")],
        ] {
            assert!(key(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_key_of_a_record_is_a_value_and_not_a_spelling() {
        let path = KeyPath::compile("order.id").expect("valid");
        let key = |body: &str| path.find(&crate::testing::record(body));
        let one = key(r#"{"order":{"id":"1"}}"#);
        assert!(one.is_some());
        assert_eq!(key(r#"{"x":2, "order" : {"id":"\u0031"}}"#), one);
        assert_ne!(key(r#"{"order":{"id":1}}"#), one);
        assert_eq!(key(r#"{"order":{"id":1e0}}"#), key(r#"{"order":{"id":1}}"#));
        for none in [
            r#"{"order":{}}"#,
            r#"{"order":{"id":null}}"#,
            r#"{"order":{"id":""}}"#,
            "no json",
        ] {
            assert_eq!(key(none), None, "{none}");
        }
        assert!(KeyPath::compile("a..b").is_err());
    }
}
